//! Rows of a convolution's step: two pixels.

use crate::arch::planes::pixels::Pixels;
use core::arch::naked_asm;

/// The word that a row looks up into r7, its planes at these places behind r1: r0 and r4 are the tables. r8 is lost.
macro_rules! word {
    ($top:literal $sign:literal $($at:literal)*) => {
        concat!(
            "ldrb r7, [r1, #", $top, "]\n ldr r7, [r0, r7, lsl #2]\n", word!(rest $top),
            word!(below "sub r7, r8, r7, lsl #1", $sign), $(word!(below "add r7, r8, r7, lsl #1", $at),)*
        )
    };
    (below $join:literal, $at:literal) => {
        concat!("ldrb r8, [r1, #", $at, "]\n ldr r8, [r0, r8, lsl #2]\n", $join, "\n", word!(rest $at))
    };
    (rest $at:literal) => {
        concat!("ldrb r8, [r1, #", $at, " + 1]\n ldr r8, [r4, r8, lsl #2]\n add r7, r8\n")
    };
}

/// A row and its sums at r2.
macro_rules! row {
    ($($at:literal)+) => {
        concat!(
            word!($($at)+),
            "ldrd r8, r9, [r2]\n add r8, r7\n add r9, r9, r7, lsr #16\n strd r8, r9, [r2], #8\n",
        )
    };
}

/// The same, times its factor behind r5; r11 and r12 are taken away from the word and from its upper half.
macro_rules! grouped_row {
    ($row:literal: $($at:literal)+) => {
        concat!(
            word!($($at)+),
            "ldrb r10, [r5, #", $row, "]\n ldrd r8, r9, [r2]\n",
            "mla r8, r7, r10, r8\n mls r8, r11, r10, r8\n",
            "rsb r7, r12, r7, lsr #16\n mla r9, r7, r10, r9\n strd r8, r9, [r2], #8\n",
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
                "push {{r4, r7-r9, lr}}",
                "ldm r0, {{r0, r1, r2, r3}}",
                "add r4, r0, #1024",
                "2:",
                row!($($a)+),
                row!($($b)+),
                row!($($c)+),
                row!($($d)+),
                concat!("add r1, #", $turn),
                "cmp r2, r3",
                "bne.w 2b",
                "pop {{r4, r7-r9, pc}}",
            )
        }

        /// # Safety
        /// All pointers must be valid for as many rows as lie between sums and end, a multiple of four and not none.
        #[unsafe(naked)]
        pub(in crate::arch::planes) unsafe extern "C" fn $grouped(task: &Pixels<'_>) {
            naked_asm!(
                "push {{r4-r11, lr}}",
                "ldrd r11, r12, [r0, #24]",
                "ldrd r3, lr, [r0, #16]",
                "ldr r6, [r0, #12]",
                "ldm r0, {{r0, r1, r2}}",
                "add r4, r0, #1024",
                "2:",
                "ldrb r5, [r3], #1",
                "add r5, lr, r5, lsl #2",
                grouped_row!("0": $($a)+),
                grouped_row!("1": $($b)+),
                grouped_row!("2": $($c)+),
                grouped_row!("3": $($d)+),
                concat!("add r1, #", $turn),
                "cmp r2, r6",
                "bne.w 2b",
                "pop {{r4-r11, pc}}",
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
