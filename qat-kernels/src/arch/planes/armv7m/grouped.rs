//! Rows of two steps of a linear layer, each with a divisor of its own.

use crate::arch::planes::grouped::Grouped;
use core::arch::naked_asm;

/// Steps that are taken at once.
pub(crate) const GROUPED_STEPS: usize = 2;

/// A plane into r7, its bytes `$at` behind `$rows`, which points to the byte before them, its halves of the table from `$low`
/// and `$high`; if it is the last one of a turn, `$next` is `!` and its last load moves `$rows` on. Below the sign, its first
/// lookup takes in twice the sum of the planes above: `$join`.
macro_rules! plane {
    (top, $rows:literal, $at:literal $next:literal, $low:literal, $high:literal) => {
        concat!(
            "ldrb r7, [", $rows, ", #", $at, " + 1]\n ldrh r7, [", $low, ", r7, lsl #2]\n",
            plane!(rest, $rows, $at $next, $high)
        )
    };
    ($join:literal, $rows:literal, $at:literal $next:literal, $low:literal, $high:literal) => {
        concat!(
            "ldrb r8, [", $rows, ", #", $at, " + 1]\n ldrh r8, [", $low, ", r8, lsl #2]\n", $join, "\n",
            plane!(rest, $rows, $at $next, $high)
        )
    };
    (rest, $rows:literal, $at:literal $next:literal, $high:literal) => {
        concat!(
            "ldrb r8, [", $rows, ", #", $at, " + 2]", $next, "\n ldrsh r8, [", $high, ", r8, lsl #2]\n add r7, r8\n",
        )
    };
}

/// A row of one step, times its factor, added to r11.
macro_rules! step {
    (
        $rows:literal $factors:literal $low:literal $high:literal,
        $row:literal: $top:literal, $sign:literal $next:literal $(, $at:literal $next_at:literal)*
    ) => {
        concat!(
            plane!(top, $rows, $top "", $low, $high),
            plane!("sub r7, r8, r7, lsl #1", $rows, $sign $next, $low, $high),
            $(plane!("add r7, r8, r7, lsl #1", $rows, $at $next_at, $low, $high),)*
            "ldrb r8, [", $factors, ", #", $row, "]\n mla r11, r7, r8, r11\n"
        )
    };
}

/// A row, its planes at these places.
macro_rules! row {
    ($row:literal: $($places:tt)+) => {
        concat!(
            "ldr r11, [r3]\n",
            step!("r1" "r9" "r0" "r4", $row: $($places)+),
            step!("r2" "r10" "r5" "r6", $row: $($places)+),
            "str r11, [r3], #4\n"
        )
    };
}

/// A function over rows, four a turn.
macro_rules! rows {
    ($name:ident, $rows:expr) => {
        /// # Safety
        /// All pointers must be valid for as many rows as lie between sums and end, a multiple of four and not none.
        #[unsafe(naked)]
        pub(in crate::arch::planes) unsafe extern "C" fn $name(task: &Grouped<'_>) {
            naked_asm!(
                "push {{r4-r11, lr}}",
                "ldrd r7, r8, [r0, #16]",
                "ldrd r12, lr, [r0, #24]",
                // End and factors, for which no register is left in the rows.
                "push {{r7, r8}}",
                "ldm r0, {{r0, r1, r2, r3}}",
                "add r4, r0, #2",
                "add r5, r0, #1024",
                "add r6, r5, #2",
                "sub r1, #1",
                "sub r2, #1",
                "2:",
                "ldrb r9, [r12], #1",
                "ldrb r10, [lr], #1",
                "add r9, r8, r9, lsl #2",
                "add r10, r8, r10, lsl #2",
                $rows,
                "ldrd r7, r8, [sp]",
                "cmp r3, r7",
                "bne.w 2b",
                "pop {{r7, r8}}",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

rows!(
    grouped2,
    concat!(
        row!("0": "0", "2" ""),
        row!("1": "4", "6" ""),
        row!("2": "8", "10" ""),
        row!("3": "12", "14" "!")
    )
);
rows!(
    grouped3,
    concat!(
        row!("0": "0", "2" "", "4" ""),
        row!("1": "6", "8" "", "10" ""),
        row!("2": "12", "14" "", "16" ""),
        row!("3": "18", "20" "", "22" "!")
    )
);
rows!(
    grouped4,
    concat!(
        row!("0": "0", "2" "", "4" "", "6" ""),
        row!("1": "8", "10" "", "12" "", "14" ""),
        row!("2": "16", "18" "", "20" "", "22" ""),
        row!("3": "24", "26" "", "28" "", "30" "!")
    )
);
