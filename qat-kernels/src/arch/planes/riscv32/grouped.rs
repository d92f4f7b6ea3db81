//! Rows of four steps of a linear layer, each with a divisor of its own.

use crate::arch::planes::grouped::Grouped;
use core::arch::naked_asm;

/// Steps that are taken at once.
pub(crate) const GROUPED_STEPS: usize = 4;

/// A plane into t0, from `$low` and `$high` behind the middle of the tables. Below the sign, its first lookup takes in twice the sum of the planes above: `$join`.
macro_rules! plane {
    (top, $rows:literal, $at:literal, $low:literal, $high:literal) => {
        concat!(lookup!("lh" "t0", $rows, $at, $low), plane!($rows, $at, $high))
    };
    ($join:literal, $rows:literal, $at:literal, $low:literal, $high:literal) => {
        concat!("slli t0, t0, 1\n", lookup!("lh" "t1", $rows, $at, $low), $join, "\n", plane!($rows, $at, $high))
    };
    ($rows:literal, $at:literal, $high:literal) => {
        concat!(lookup!("lh" "t1", $rows, concat!($at, " + 1"), $high), "add t0, t0, t1\n")
    };
}

/// A row of one step, times its factor, added to t2.
macro_rules! step {
    ($rows:literal $factors:literal $low:literal $high:literal, $row:literal: $top:literal $sign:literal $($at:literal)*) => {
        concat!(
            plane!(top, $rows, $top, $low, $high),
            plane!("sub t0, t1, t0", $rows, $sign, $low, $high),
            $(plane!("add t0, t1, t0", $rows, $at, $low, $high),)*
            "lbu t1, ", $row, "(", $factors, ")\n mul t0, t0, t1\n add t2, t2, t0\n"
        )
    };
}

/// A row, its planes at these places behind a1–a4.
macro_rules! row {
    ($row:literal: $($at:literal)+) => {
        concat!(
            "lw t2, 4 * ", $row, "(a5)\n",
            step!("a1" "t3" "-2048" "-2046", $row: $($at)+),
            step!("a2" "t4" "-1024" "-1022", $row: $($at)+),
            step!("a3" "t5" "0" "2", $row: $($at)+),
            step!("a4" "t6" "1024" "1026", $row: $($at)+),
            "sw t2, 4 * ", $row, "(a5)\n"
        )
    };
}

/// Where the factors of the next four rows of a step are.
macro_rules! factors {
    ($to:literal, $divisors:literal) => {
        concat!(
            "lbu ",
            $to,
            ", 0(",
            $divisors,
            ")\n addi ",
            $divisors,
            ", ",
            $divisors,
            ", 1\n",
            "slli ",
            $to,
            ", ",
            $to,
            ", 2\n add ",
            $to,
            ", ",
            $to,
            ", a7\n",
        )
    };
}

/// A function over rows of a quarter of `$turn` bytes.
///
/// a0 middle of the tables, a1–a4 rows, a5 sums, a6 their end, a7 factors; s0–s3 divisors, t3–t6 their factors, t2 sum.
macro_rules! rows {
    ($name:ident, $turn:literal: $rows:expr) => {
        /// # Safety
        /// All pointers must be valid for as many rows as lie between sums and end, a multiple of four and not none.
        #[unsafe(naked)]
        pub(in crate::arch::planes) unsafe extern "C" fn $name(task: &Grouped<'_>) {
            naked_asm!(
                // Naked functions do not inherit the extension.
                ".option push",
                ".option arch, +m",
                "addi sp, sp, -16",
                "sw s0, 0(sp)",
                "sw s1, 4(sp)",
                "sw s2, 8(sp)",
                "sw s3, 12(sp)",
                "lw a1, 4(a0)",
                "lw a2, 8(a0)",
                "lw a3, 12(a0)",
                "lw a4, 16(a0)",
                "lw a5, 20(a0)",
                "lw a6, 24(a0)",
                "lw a7, 28(a0)",
                "lw s0, 32(a0)",
                "lw s1, 36(a0)",
                "lw s2, 40(a0)",
                "lw s3, 44(a0)",
                "lw a0, 0(a0)",
                "li t0, 2048",
                "add a0, a0, t0",
                "2:",
                factors!("t3", "s0"),
                factors!("t4", "s1"),
                factors!("t5", "s2"),
                factors!("t6", "s3"),
                $rows,
                concat!("addi a1, a1, ", $turn),
                concat!("addi a2, a2, ", $turn),
                concat!("addi a3, a3, ", $turn),
                concat!("addi a4, a4, ", $turn),
                "addi a5, a5, 16",
                "bne a5, a6, 2b",
                "lw s0, 0(sp)",
                "lw s1, 4(sp)",
                "lw s2, 8(sp)",
                "lw s3, 12(sp)",
                "addi sp, sp, 16",
                "ret",
                ".option pop",
            )
        }
    };
}

rows!(grouped2, "16": concat!(row!("0": "0" "2"), row!("1": "4" "6"), row!("2": "8" "10"), row!("3": "12" "14")));
rows!(
    grouped3,
    "24": concat!(row!("0": "0" "2" "4"), row!("1": "6" "8" "10"), row!("2": "12" "14" "16"), row!("3": "18" "20" "22"))
);
rows!(
    grouped4,
    "32": concat!(
        row!("0": "0" "2" "4" "6"),
        row!("1": "8" "10" "12" "14"),
        row!("2": "16" "18" "20" "22"),
        row!("3": "24" "26" "28" "30")
    )
);
