//! Tables of all 256 sums of eight terms.

use crate::infer::Table;
use core::arch::naked_asm;

/// The next four sums.
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
            "\n stmia r0!, {{r4-r7}}\n"
        )
    };
}

/// A difference into `$to`; r5 is the sum of the terms of lower places.
macro_rules! difference {
    ($to:literal) => {
        concat!("ldmia r2!, {{r6}}\n subs r7, r6, r5\n adds r5, r5, r6\n mov ", $to, ", r7\n")
    };
}

/// # Safety
/// `table` has 256 words, `terms` eight.
#[unsafe(naked)]
pub(in crate::arch::planes) unsafe extern "C" fn fill_asm(table: &mut Table, empty: u32, terms: &[u32; 8]) {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "mov r4, r8",
        "mov r5, r9",
        "mov r6, r10",
        "mov r7, r11",
        "push {{r4-r7}}",
        "ldmia r2!, {{r3, r4, r5}}",
        "mov r8, r5",
        difference!("r9"),
        difference!("r10"),
        difference!("r11"),
        difference!("r12"),
        difference!("lr"),
        "adds r5, r1, r3",
        "adds r6, r1, r4",
        "adds r7, r5, r4",
        "mov r4, r1",
        "stmia r0!, {{r4-r7}}",
        count!("lr" "r12" "r11" "r10" "r9" "r8"),
        "pop {{r4-r7}}",
        "mov r8, r4",
        "mov r9, r5",
        "mov r10, r6",
        "mov r11, r7",
        "pop {{r4-r7, pc}}",
    )
}

/// As many tables of a linear layer as there are columns, 16 for each, on a word boundary; see the kernel for what they hold.
/// `offset` is what the sum of no activation is, `mid_rise` takes half the sum of all terms away from it.
#[inline(always)]
pub(crate) fn fill_linear(tables: &mut [Table], x: &[[i8; 16]], offset: u32, mid_rise: bool) {
    debug_assert!(x.as_ptr().addr().is_multiple_of(4) && x.len() <= tables.len());
    let count = x.len().min(tables.len());
    if let Some(x) = x.get(..count).filter(|x| !x.is_empty()) {
        let task = [0x8080_8080, 0x01FE_01FE, 0x0100_0100, offset, u32::from(mid_rise).wrapping_neg()];
        let x = x.as_ptr_range();
        // SAFETY: writes the words of `count` tables, reads as many times 16 bytes of `x`, not none and aligned, and the words of
        // `task`.
        unsafe { fill_linear_asm(tables.as_mut_ptr(), x.start, &task, x.end) }
    }
}

/// Twice columns 0 and 2 of the next four into r3, twice columns 1 and 3 into r4: made unsigned, so that a mask takes them out
/// of their word, and signed again.
macro_rules! terms {
    () => {
        concat!(
            "ldmia r1!, {{r4}}\n eors r4, r5\n lsls r3, r4, #1\n ands r3, r6\n subs r3, r3, r7\n",
            "lsrs r4, r4, #7\n ands r4, r6\n subs r4, r4, r7\n",
        )
    };
}

/// The difference of a term in `$term` into `$to`; r2 is the sum of the terms of lower places.
macro_rules! next_difference {
    ($term:literal, $to:literal) => {
        concat!(
            "adds r2, r2, ",
            $term,
            "\n lsls ",
            $term,
            ", ",
            $term,
            ", #1\n subs ",
            $term,
            ", ",
            $term,
            ", r2\n",
            "mov ",
            $to,
            ", ",
            $term,
            "\n"
        )
    };
}

/// # Safety
/// A table for each 16 bytes from `x` to `end`, which are on word boundaries and not the same.
#[unsafe(naked)]
unsafe extern "C" fn fill_linear_asm(
    tables: *mut Table,
    x: *const [i8; 16],
    task: &[u32; 5],
    end: *const [i8; 16],
) {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "mov r4, r8",
        "mov r5, r9",
        "mov r6, r10",
        "mov r7, r11",
        "push {{r4-r7}}",
        "push {{r2, r3}}",
        "2:",
        "ldr r2, [sp]",
        "ldmia r2!, {{r5, r6, r7}}",
        terms!(),
        "push {{r2, r3, r4}}",
        terms!(),
        "mov r8, r3",
        "adds r2, r3, r4",
        "subs r4, r4, r3",
        "mov r9, r4",
        terms!(),
        next_difference!("r3", "r10"),
        next_difference!("r4", "r11"),
        terms!(),
        next_difference!("r3", "r12"),
        next_difference!("r4", "lr"),
        // The first four sums.
        "pop {{r3, r4, r5}}",
        "ldmia r3!, {{r6, r7}}",
        "adds r2, r2, r4",
        "adds r2, r2, r5",
        "asrs r2, r2, #1",
        "ands r2, r7",
        "subs r6, r6, r2",
        "mov r3, r5",
        "adds r5, r6, r4",
        "mov r4, r6",
        "adds r6, r4, r3",
        "adds r7, r5, r3",
        "stmia r0!, {{r4-r7}}",
        count!("lr" "r12" "r11" "r10" "r9" "r8"),
        "ldr r2, [sp, #4]",
        "cmp r1, r2",
        "beq 3f",
        // Too far for a conditional branch.
        "b 2b",
        "3:",
        "pop {{r2, r3}}",
        "pop {{r4-r7}}",
        "mov r8, r4",
        "mov r9, r5",
        "mov r10, r6",
        "mov r11, r7",
        "pop {{r4-r7, pc}}",
    )
}
