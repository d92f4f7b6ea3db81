//! Rows of a linear layer's step with fixed k.
//!
//! A lookup is four instructions: load a byte, scale it, load the sum, add. The four blocks of a step have a register each
//! for where their halves of the tables begin: r4–r7.

use crate::infer::Table;
use core::arch::naked_asm;

/// Adds to each of `sums` what its row of `BITS` planes of four blocks, 2 to 4, looks up.
#[inline(always)]
pub(crate) fn linear<const BITS: usize>(tables: &[Table; 2], rows: &[[[u8; 4]; BITS]], sums: &mut [u32]) {
    let count = if rows.len() < sums.len() { rows.len() } else { sums.len() };
    // Rows of a turn of the long loop.
    let turn = if BITS == 2 { 8 } else { 4 };
    let (rows, sums) = (rows.as_ptr().cast(), sums.as_mut_ptr());
    // SAFETY: reads `count` rows and changes `count` sums; an index of a byte stays inside its table.
    unsafe {
        let ends = [sums.add(count / turn * turn).cast_const(), sums.add(count).cast_const()];
        match BITS {
            2 => planes2(tables, rows, sums, &ends),
            3 => planes3(tables, rows, sums, &ends),
            _ => planes4(tables, rows, sums, &ends),
        }
    }
}

/// A plane at `$at` behind r1 into r0. Below the sign, its first lookup takes in twice the sum of the planes above: `$join`.
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
        concat!(
            "ldrb r3, [r1, #",
            $at,
            " + 1]\n lsls r3, r3, #2\n ldrsh r3, [r5, r3]\n adds r0, r0, r3\n",
            "ldrb r3, [r1, #",
            $at,
            " + 2]\n lsls r3, r3, #2\n ldrh r3, [r6, r3]\n adds r0, r0, r3\n",
            "ldrb r3, [r1, #",
            $at,
            " + 3]\n lsls r3, r3, #2\n ldrsh r3, [r7, r3]\n adds r0, r0, r3\n",
        )
    };
}

/// A row, its planes at these places behind r1, and its sum at r2.
macro_rules! row {
    ($top:literal $sign:literal $($at:literal)*) => {
        concat!(
            plane!(top, $top), plane!("subs r0, r3, r0", $sign), $(plane!("adds r0, r3, r0", $at),)*
            "ldr r3, [r2]\n adds r0, r0, r3\n stmia r2!, {{r0}}\n"
        )
    };
}

/// A function over rows of `$len` bytes; twice `$half` bytes a turn, because offsets of bytes end at 31.
macro_rules! rows {
    ($name:ident, $half:literal: $unrolled:expr, $len:literal: $single:expr) => {
        /// # Safety
        /// `sums` up to the second end, a row for each of them; whole turns up to the first end.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(
            tables: &[Table; 2],
            rows: *const u8,
            sums: *mut u32,
            ends: &[*const u32; 2],
        ) {
            naked_asm!(
                "push {{r4-r7, lr}}",
                "mov r4, r0",
                "adds r5, r4, #2",
                "movs r6, #1",
                "lsls r6, r6, #10",
                "adds r6, r6, r4",
                "adds r7, r6, #2",
                "ldr r0, [r3]",
                "ldr r3, [r3, #4]",
                "mov r12, r0",
                "mov lr, r3",
                "cmp r2, r12",
                "bne 2f",
                // Too far for a conditional branch.
                "b 4f",
                "2:",
                $unrolled,
                concat!("adds r1, #", $half),
                $unrolled,
                concat!("adds r1, #", $half),
                "cmp r2, r12",
                "beq 4f",
                "b 2b",
                "4:",
                "cmp r2, lr",
                "beq 5f",
                $single,
                concat!("adds r1, #", $len),
                "b 4b",
                "5:",
                "pop {{r4-r7, pc}}",
            )
        }
    };
}

rows!(planes2, "32": concat!(row!("0" "4"), row!("8" "12"), row!("16" "20"), row!("24" "28")), "8": row!("0" "4"));
rows!(planes3, "24": concat!(row!("0" "4" "8"), row!("12" "16" "20")), "12": row!("0" "4" "8"));
rows!(planes4, "32": concat!(row!("0" "4" "8" "12"), row!("16" "20" "24" "28")), "16": row!("0" "4" "8" "12"));
