//! A table of all 256 sums of eight terms.

use crate::infer::Table;
use core::arch::naked_asm;

/// The next eight sums.
macro_rules! turn {
    ($d:literal) => {
        concat!(
            "add r4, ",
            $d,
            "\n add r5, ",
            $d,
            "\n add r6, ",
            $d,
            "\n add r7, ",
            $d,
            "\n",
            "add r8, ",
            $d,
            "\n add r9, ",
            $d,
            "\n add r10, ",
            $d,
            "\n add r11, ",
            $d,
            "\n stmia r0!, {{r4-r11}}\n"
        )
    };
}

/// # Safety
/// `table` has 256 words, `terms` eight.
#[unsafe(naked)]
pub(in crate::arch::planes) unsafe extern "C" fn fill_asm(table: &mut Table, empty: u32, terms: &[u32; 8]) {
    naked_asm!(
        "push {{r4-r11, lr}}",
        "ldm r2, {{r3-r10}}",
        // Differences: r2, r12, lr, r8, r9.
        "mov r2, r6",
        "sub r12, r7, r6",
        "add r11, r6, r7",
        "sub lr, r8, r11",
        "add r11, r8",
        "sub r8, r9, r11",
        "add r11, r9",
        "sub r9, r10, r11",
        // The first eight sums into r4–r11, the last two differences into r1 and r3.
        "add r6, r1, r4",
        "add r10, r6, r5",
        "add r11, r3, r4",
        "add r7, r1, r11",
        "add r11, r7, r5",
        "mov r4, r1",
        "mov r1, r8",
        "add r8, r4, r5",
        "add r3, r4",
        "add r5, r3",
        "push {{r9}}",
        "mov r9, r5",
        "mov r5, r3",
        "pop {{r3}}",
        "stmia r0!, {{r4-r11}}",
        count!("r3" "r1" "lr" "r12" "r2"),
        "pop {{r4-r11, pc}}",
    )
}
