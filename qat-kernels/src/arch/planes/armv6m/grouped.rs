//! Rows of a step of a linear layer with a divisor for each row. There are no registers for a second step.

use crate::arch::planes::grouped::Grouped;
use core::arch::naked_asm;

/// Steps that are taken at once.
pub(crate) const GROUPED_STEPS: usize = 1;

/// A plane at `$at` behind r1 into r0, from r4 and r5. Below the sign, its first lookup takes in twice the sum of the planes
/// above: `$join`.
macro_rules! plane {
    (top, $at:literal) => {
        concat!("ldrb r0, [r1, #", $at, "]\n lsls r0, r0, #2\n ldrh r0, [r4, r0]\n", plane!(rest, $at))
    };
    ($join:literal, $at:literal) => {
        concat!(
            "lsls r0, r0, #1\n ldrb r3, [r1, #",
            $at,
            "]\n lsls r3, r3, #2\n ldrh r3, [r4, r3]\n",
            $join,
            "\n",
            plane!(rest, $at)
        )
    };
    (rest, $at:literal) => {
        concat!("ldrb r3, [r1, #", $at, " + 1]\n lsls r3, r3, #2\n ldrsh r3, [r5, r3]\n adds r0, r0, r3\n")
    };
}

/// A row, its planes at these places behind r1, times its factor behind r6, and its sum at r2.
macro_rules! row {
    ($row:literal: $top:literal $sign:literal $($at:literal)*) => {
        concat!(
            plane!(top, $top), plane!("subs r0, r3, r0", $sign), $(plane!("adds r0, r3, r0", $at),)*
            "ldrb r3, [r6, #", $row, "]\n muls r0, r3, r0\n ldr r3, [r2]\n adds r0, r0, r3\n stmia r2!, {{r0}}\n"
        )
    };
}

/// Four rows, their divisors at `$at` behind r7.
macro_rules! quad {
    ($at:literal, $rows:expr) => {
        concat!("ldrb r6, [r7, #", $at, "]\n lsls r6, r6, #2\n add r6, r8\n", $rows)
    };
}

/// A function over rows, eight a turn: `$first` and `$last` four of them, after which `$between` and `$after` move r1 on;
/// `$skip` moves it to where `$last` ones are the first.
macro_rules! rows {
    ($name:ident, $skip:literal, $first:expr, $between:literal, $last:expr, $after:literal) => {
        /// # Safety
        /// All pointers must be valid for as many rows as lie between sums and end, a multiple of four and not none.
        #[unsafe(naked)]
        pub(in crate::arch::planes) unsafe extern "C" fn $name(task: &Grouped<'_>) {
            naked_asm!(
                "push {{r4-r7, lr}}",
                "mov r4, r8",
                "push {{r4}}",
                "ldmia r0!, {{r4}}",
                "ldmia r0!, {{r1, r2, r3}}",
                "mov r12, r3",
                "ldr r3, [r0]",
                "ldr r7, [r0, #4]",
                "mov r8, r3",
                "adds r5, r4, #2",
                // An odd number of fours begins with the second half of a turn.
                "mov r3, r12",
                "subs r3, r3, r2",
                "lsrs r3, r3, #5",
                "bcc 2f",
                "subs r7, #1",
                $skip,
                "b 4f",
                "2:",
                quad!("0", $first),
                $between,
                "4:",
                quad!("1", $last),
                "adds r7, #2",
                $after,
                "cmp r2, r12",
                "beq 3f",
                // Too far for a conditional branch.
                "b 2b",
                "3:",
                "pop {{r4}}",
                "mov r8, r4",
                "pop {{r4-r7, pc}}",
            )
        }
    };
}

/// Four rows of three planes.
macro_rules! threes {
    () => {
        concat!(row!("0": "0" "2" "4"), row!("1": "6" "8" "10"), row!("2": "12" "14" "16"), row!("3": "18" "20" "22"))
    };
}

/// Four rows of four planes.
macro_rules! fours {
    () => {
        concat!(
            row!("0": "0" "2" "4" "6"),
            row!("1": "8" "10" "12" "14"),
            row!("2": "16" "18" "20" "22"),
            row!("3": "24" "26" "28" "30")
        )
    };
}

// Offsets of bytes end at 31.
rows!(
    grouped2,
    "subs r1, #16",
    concat!(row!("0": "0" "2"), row!("1": "4" "6"), row!("2": "8" "10"), row!("3": "12" "14")),
    "",
    concat!(row!("0": "16" "18"), row!("1": "20" "22"), row!("2": "24" "26"), row!("3": "28" "30")),
    "adds r1, #32"
);
rows!(grouped3, "", threes!(), "adds r1, #24", threes!(), "adds r1, #24");
rows!(grouped4, "", fours!(), "adds r1, #32", fours!(), "adds r1, #32");
