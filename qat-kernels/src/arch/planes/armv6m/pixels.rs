//! Rows of a convolution's step: two pixels.

use crate::arch::planes::pixels::Pixels;
use core::arch::naked_asm;

/// The word that a row looks up into r0, its planes at these places behind r1: r4 and r5 are the tables. r3 is lost.
macro_rules! word {
    ($top:literal $sign:literal $($at:literal)*) => {
        concat!(
            word!(lookup "r0", "r4", $top), word!(rest $top),
            word!(below "subs r0, r3, r0", $sign), $(word!(below "adds r0, r3, r0", $at),)*
        )
    };
    (lookup $to:literal, $table:literal, $at:expr) => {
        concat!(
            "ldrb ", $to, ", [r1, #", $at, "]\n lsls ", $to, ", ", $to, ", #2\n",
            "ldr ", $to, ", [", $table, ", ", $to, "]\n",
        )
    };
    (below $join:literal, $at:literal) => {
        concat!("lsls r0, r0, #1\n", word!(lookup "r3", "r4", $at), $join, "\n", word!(rest $at))
    };
    (rest $at:literal) => {
        concat!(word!(lookup "r3", "r5", concat!($at, " + 1")), "adds r0, r0, r3\n")
    };
}

/// A row and its sums at r2.
macro_rules! row {
    ($($at:literal)+) => {
        concat!(
            word!($($at)+),
            "ldr r3, [r2]\n adds r3, r3, r0\n lsrs r0, r0, #16\n",
            "ldr r7, [r2, #4]\n adds r7, r7, r0\n stmia r2!, {{r3, r7}}\n",
        )
    };
}

/// The same, times its factor behind r6; r8 and r9 are added to the word and to its upper half.
macro_rules! grouped_row {
    ($row:literal: $($at:literal)+) => {
        concat!(
            word!($($at)+),
            "ldrb r7, [r6, #", $row, "]\n",
            "lsrs r3, r0, #16\n add r3, r9\n muls r3, r7, r3\n add r0, r8\n muls r0, r7, r0\n",
            "ldr r7, [r2]\n adds r0, r0, r7\n ldr r7, [r2, #4]\n adds r3, r3, r7\n stmia r2!, {{r0, r3}}\n",
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
                "push {{r4-r7, lr}}",
                "ldmia r0!, {{r4}}",
                "ldmia r0!, {{r1, r2, r3}}",
                "mov r12, r3",
                "movs r5, #1",
                "lsls r5, r5, #10",
                "adds r5, r5, r4",
                "2:",
                row!($($a)+),
                row!($($b)+),
                row!($($c)+),
                row!($($d)+),
                concat!("adds r1, #", $turn),
                "cmp r2, r12",
                "beq 3f",
                // Too far for a conditional branch, maybe.
                "b 2b",
                "3:",
                "pop {{r4-r7, pc}}",
            )
        }

        /// # Safety
        /// All pointers must be valid for as many rows as lie between sums and end, a multiple of four and not none.
        #[unsafe(naked)]
        pub(in crate::arch::planes) unsafe extern "C" fn $grouped(task: &Pixels<'_>) {
            naked_asm!(
                "push {{r4-r7, lr}}",
                "mov r4, r8",
                "mov r5, r9",
                "mov r6, r10",
                "push {{r4-r6}}",
                "ldmia r0!, {{r4}}",
                "ldmia r0!, {{r1, r2, r3}}",
                "mov r12, r3",
                // Divisors, factors, offsets.
                "ldmia r0!, {{r3, r5, r6, r7}}",
                "mov lr, r3",
                "mov r10, r5",
                "rsbs r6, r6, #0",
                "rsbs r7, r7, #0",
                "mov r8, r6",
                "mov r9, r7",
                "movs r5, #1",
                "lsls r5, r5, #10",
                "adds r5, r5, r4",
                "2:",
                "mov r7, lr",
                "ldrb r6, [r7]",
                "adds r7, #1",
                "mov lr, r7",
                "lsls r6, r6, #2",
                "add r6, r10",
                grouped_row!("0": $($a)+),
                grouped_row!("1": $($b)+),
                grouped_row!("2": $($c)+),
                grouped_row!("3": $($d)+),
                concat!("adds r1, #", $turn),
                "cmp r2, r12",
                "beq 3f",
                "b 2b",
                "3:",
                "pop {{r4-r6}}",
                "mov r8, r4",
                "mov r9, r5",
                "mov r10, r6",
                "pop {{r4-r7, pc}}",
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
