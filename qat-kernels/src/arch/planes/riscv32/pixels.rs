//! Rows of a convolution's step: two pixels.

use crate::arch::planes::pixels::Pixels;
use core::arch::naked_asm;

/// The word that a row looks up into t0, its planes at these places behind a1, from the tables at a0. t1 is lost.
macro_rules! word {
    ($top:literal $sign:literal $($at:literal)*) => {
        concat!(
            lookup!("lw" "t0", "a1", $top, "0"), word!(rest $top),
            word!(below "sub t0, t1, t0", $sign), $(word!(below "add t0, t1, t0", $at),)*
        )
    };
    (below $join:literal, $at:literal) => {
        concat!("slli t0, t0, 1\n", lookup!("lw" "t1", "a1", $at, "0"), $join, "\n", word!(rest $at))
    };
    (rest $at:literal) => {
        concat!(lookup!("lw" "t1", "a1", concat!($at, " + 1"), "1024"), "add t0, t0, t1\n")
    };
}

/// A row and its sums at `$row` times eight behind a2.
macro_rules! row {
    ($row:literal: $($at:literal)+) => {
        concat!(
            word!($($at)+),
            "lw t2, 8 * ", $row, "(a2)\n lw t3, 8 * ", $row, " + 4(a2)\n",
            "add t2, t2, t0\n srli t0, t0, 16\n add t3, t3, t0\n",
            "sw t2, 8 * ", $row, "(a2)\n sw t3, 8 * ", $row, " + 4(a2)\n",
        )
    };
}

/// The same, times its factor behind t4; a6 and a7 are taken away from the word and from its upper half.
macro_rules! grouped_row {
    ($row:literal: $($at:literal)+) => {
        concat!(
            word!($($at)+),
            "lbu t5, ", $row, "(t4)\n srli t1, t0, 16\n sub t0, t0, a6\n sub t1, t1, a7\n",
            "lw t2, 8 * ", $row, "(a2)\n lw t3, 8 * ", $row, " + 4(a2)\n",
            "mul t0, t0, t5\n mul t1, t1, t5\n add t2, t2, t0\n add t3, t3, t1\n",
            "sw t2, 8 * ", $row, "(a2)\n sw t3, 8 * ", $row, " + 4(a2)\n",
        )
    };
}

/// Functions over rows of a quarter of `$turn` bytes.
macro_rules! rows {
    ($name:ident, $grouped:ident, $turn:literal: [$($a:literal)+] [$($b:literal)+] [$($c:literal)+] [$($d:literal)+]) => {
        /// # Safety
        /// All pointers must be valid for as many rows as lie between sums and end, a multiple of four and not none.
        #[unsafe(naked)]
        pub(in crate::arch::planes) unsafe extern "C" fn $name(task: &Pixels<'_>) {
            naked_asm!(
                "lw a1, 4(a0)",
                "lw a2, 8(a0)",
                "lw a3, 12(a0)",
                "lw a0, 0(a0)",
                "2:",
                row!("0": $($a)+),
                row!("1": $($b)+),
                row!("2": $($c)+),
                row!("3": $($d)+),
                concat!("addi a1, a1, ", $turn),
                "addi a2, a2, 32",
                "bne a2, a3, 2b",
                "ret",
            )
        }

        /// # Safety
        /// All pointers must be valid for as many rows as lie between sums and end, a multiple of four and not none.
        #[unsafe(naked)]
        pub(in crate::arch::planes) unsafe extern "C" fn $grouped(task: &Pixels<'_>) {
            naked_asm!(
                // Naked functions do not inherit the extension.
                ".option push",
                ".option arch, +m",
                "lw a1, 4(a0)",
                "lw a2, 8(a0)",
                "lw a3, 12(a0)",
                "lw a4, 16(a0)",
                "lw a5, 20(a0)",
                "lw a6, 24(a0)",
                "lw a7, 28(a0)",
                "lw a0, 0(a0)",
                "2:",
                "lbu t4, 0(a4)",
                "addi a4, a4, 1",
                "slli t4, t4, 2",
                "add t4, t4, a5",
                grouped_row!("0": $($a)+),
                grouped_row!("1": $($b)+),
                grouped_row!("2": $($c)+),
                grouped_row!("3": $($d)+),
                concat!("addi a1, a1, ", $turn),
                "addi a2, a2, 32",
                "bne a2, a3, 2b",
                "ret",
                ".option pop",
            )
        }
    };
}

rows!(pixels2, grouped_pixels2, "16": ["0" "2"] ["4" "6"] ["8" "10"] ["12" "14"]);
rows!(pixels3, grouped_pixels3, "24": ["0" "2" "4"] ["6" "8" "10"] ["12" "14" "16"] ["18" "20" "22"]);
rows!(
    pixels4,
    grouped_pixels4,
    "32": ["0" "2" "4" "6"] ["8" "10" "12" "14"] ["16" "18" "20" "22"] ["24" "26" "28" "30"]
);
