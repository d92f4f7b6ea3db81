//! A table of all 256 sums of eight terms. No register is used that a function would have to save.

use crate::infer::Table;
use core::arch::naked_asm;

/// Stores eight sums at the place that the assembler counts.
macro_rules! store {
    () => {
        concat!(
            "sw t0, .Lat + 0(a0)\n sw t1, .Lat + 4(a0)\n sw t2, .Lat + 8(a0)\n sw a3, .Lat + 12(a0)\n",
            "sw a4, .Lat + 16(a0)\n sw a5, .Lat + 20(a0)\n sw a6, .Lat + 24(a0)\n sw a7, .Lat + 28(a0)\n",
            ".set .Lat, .Lat + 32\n",
        )
    };
}

/// The next eight sums.
macro_rules! turn {
    ($d:literal) => {
        concat!(
            "add t0, t0, ",
            $d,
            "\n add t1, t1, ",
            $d,
            "\n add t2, t2, ",
            $d,
            "\n add a3, a3, ",
            $d,
            "\n",
            "add a4, a4, ",
            $d,
            "\n add a5, a5, ",
            $d,
            "\n add a6, a6, ",
            $d,
            "\n add a7, a7, ",
            $d,
            "\n",
            store!(),
        )
    };
}

/// # Safety
/// `table` has 256 words, `terms` eight.
#[unsafe(naked)]
pub(in crate::arch::planes) unsafe extern "C" fn fill_asm(table: &mut Table, empty: u32, terms: &[u32; 8]) {
    naked_asm!(
        ".set .Lat, 0",
        // The first eight sums: t0–t2, a3–a7.
        "lw t3, 0(a2)",
        "lw t4, 4(a2)",
        "lw t5, 8(a2)",
        "mv t0, a1",
        "add t1, t0, t3",
        "add t2, t0, t4",
        "add a3, t1, t4",
        "add a4, t0, t5",
        "add a5, t1, t5",
        "add a6, t2, t5",
        "add a7, a3, t5",
        // Differences: t3–t6, a1.
        "lw t3, 12(a2)",
        "lw t4, 16(a2)",
        "lw t5, 20(a2)",
        "lw t6, 24(a2)",
        "lw a1, 28(a2)",
        "add a2, t3, t4",
        "sub t4, t4, t3",
        "sub a1, a1, a2",
        "sub a1, a1, t5",
        "sub a1, a1, t6",
        "sub t6, t6, a2",
        "sub t6, t6, t5",
        "sub t5, t5, a2",
        store!(),
        count!("a1" "t6" "t5" "t4" "t3"),
        "ret",
    )
}

/// The table of a linear layer's step; see the kernel for what it holds. `offset` is what the sum of no activation is,
/// `mid_rise` takes half the sum of all terms away from it.
#[inline(always)]
pub(crate) fn fill_linear(table: &mut Table, x: &[i8; 16], offset: u32, mid_rise: bool) {
    // SAFETY: writes the 256 words of `table` and reads the 16 bytes of `x`.
    unsafe { fill_linear_asm(table, x, offset, u32::from(mid_rise).wrapping_neg()) }
}

/// Twice columns `$low` and `$high` into `$to`.
macro_rules! term {
    ($to:literal, $low:literal, $high:literal) => {
        concat!(
            "lb ",
            $to,
            ", ",
            $low,
            "(a1)\n lb a4, ",
            $high,
            "(a1)\n slli ",
            $to,
            ", ",
            $to,
            ", 1\n slli a4, a4, 17\n",
            "add ",
            $to,
            ", ",
            $to,
            ", a4\n"
        )
    };
}

/// # Safety
/// `table` has 256 words, `x` 16 bytes.
#[unsafe(naked)]
unsafe extern "C" fn fill_linear_asm(table: &mut Table, x: &[i8; 16], offset: u32, mid_rise: u32) {
    naked_asm!(
        ".set .Lat, 0",
        term!("t0", "0", "2"),
        term!("t1", "1", "3"),
        term!("t2", "4", "6"),
        term!("t3", "5", "7"),
        term!("t4", "8", "10"),
        term!("t5", "9", "11"),
        term!("t6", "12", "14"),
        term!("a5", "13", "15"),
        // Differences: t3–t6, a1; the sum of their terms ends in a7.
        "add a7, t3, t4",
        "sub t4, t4, t3",
        "mv a6, t5",
        "sub t5, t5, a7",
        "add a7, a7, a6",
        "mv a6, t6",
        "sub t6, t6, a7",
        "add a7, a7, a6",
        "sub a1, a5, a7",
        "add a7, a7, a5",
        // The first eight sums: t0–t2, a3–a7.
        "add a7, a7, t0",
        "add a7, a7, t1",
        "add a7, a7, t2",
        "srai a7, a7, 1",
        "and a7, a7, a3",
        "sub a2, a2, a7",
        "add a4, a2, t2",
        "add a5, a4, t0",
        "add a6, a4, t1",
        "add a7, a5, t1",
        "add a3, t0, t1",
        "add a3, a3, a2",
        "add t2, a2, t1",
        "add t1, a2, t0",
        "mv t0, a2",
        store!(),
        count!("a1" "t6" "t5" "t4" "t3"),
        "ret",
    )
}
