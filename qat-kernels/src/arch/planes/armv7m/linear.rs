//! Rows of a linear layer's step with fixed k.
//!
//! A lookup is three instructions: load a byte, load the sum, add. The four blocks of a step have a register each for where
//! their halves of the tables begin: r0, r4–r6.

use crate::infer::Table;
use core::arch::naked_asm;

/// Adds to each of `sums` what its row of `BITS` planes of four blocks, 2 to 4, looks up.
#[inline(always)]
pub(crate) fn linear<const BITS: usize>(tables: &[Table; 2], rows: &[[[u8; 4]; BITS]], sums: &mut [u32]) {
    let count = if rows.len() < sums.len() { rows.len() } else { sums.len() };
    let (rows, sums) = (rows.as_ptr().cast(), sums.as_mut_ptr());
    // SAFETY: reads `count` rows and changes `count` sums; an index of a byte stays inside its table.
    unsafe {
        let ends = [sums.add(count / 4 * 4).cast_const(), sums.add(count).cast_const()];
        match BITS {
            2 => planes2(tables, rows, sums, &ends),
            3 => planes3(tables, rows, sums, &ends),
            _ => planes4(tables, rows, sums, &ends),
        }
    }
}

/// A plane at `$at` behind r1, which points to the byte before the row, into r7; if it is the last one of a turn, `$next` is
/// `!` and its last load moves r1 on. Below the sign, its first lookup takes in twice the sum of the planes above: `$join`.
macro_rules! plane {
    (top, $at:literal $next:literal) => {
        concat!("ldrb r7, [r1, #", $at, " + 1]\n ldrh r7, [r0, r7, lsl #2]\n", plane!(rest, $at $next))
    };
    ($join:literal, $at:literal $next:literal) => {
        concat!(
            "ldrb r8, [r1, #", $at, " + 1]\n ldrh r8, [r0, r8, lsl #2]\n", $join, "\n", plane!(rest, $at $next)
        )
    };
    (rest, $at:literal $next:literal) => {
        concat!(
            "ldrb r8, [r1, #", $at, " + 2]\n ldrsh r8, [r4, r8, lsl #2]\n add r7, r8\n",
            "ldrb r8, [r1, #", $at, " + 3]\n ldrh r8, [r5, r8, lsl #2]\n add r7, r8\n",
            "ldrb r8, [r1, #", $at, " + 4]", $next, "\n ldrsh r8, [r6, r8, lsl #2]\n add r7, r8\n",
        )
    };
}

/// A row, its planes at these places, and its sum at r2.
macro_rules! row {
    ($top:literal, $sign:literal $next:literal $(, $at:literal $next_at:literal)*) => {
        concat!(
            plane!(top, $top ""),
            plane!("sub r7, r8, r7, lsl #1", $sign $next),
            $(plane!("add r7, r8, r7, lsl #1", $at $next_at),)*
            "ldr r8, [r2]\n add r7, r8\n str r7, [r2], #4\n"
        )
    };
}

/// A function over rows, four a turn.
macro_rules! rows {
    ($name:ident, $turn:expr, $single:expr) => {
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
                "push {{r4-r9, lr}}",
                "add r4, r0, #2",
                "add r5, r0, #1024",
                "add r6, r5, #2",
                "sub r1, #1",
                "ldrd r9, r3, [r3]",
                "cmp r2, r9",
                "beq.w 4f",
                "3:",
                $turn,
                "cmp r2, r9",
                "bne.w 3b",
                "4:",
                "cmp r2, r3",
                "beq.w 5f",
                $single,
                "b.w 4b",
                "5:",
                "pop {{r4-r9, pc}}",
            )
        }
    };
}

rows!(
    planes2,
    concat!(row!("0", "4" ""), row!("8", "12" ""), row!("16", "20" ""), row!("24", "28" "!")),
    row!("0", "4" "!")
);
rows!(
    planes3,
    concat!(
        row!("0", "4" "", "8" ""),
        row!("12", "16" "", "20" ""),
        row!("24", "28" "", "32" ""),
        row!("36", "40" "", "44" "!")
    ),
    row!("0", "4" "", "8" "!")
);
rows!(
    planes4,
    concat!(
        row!("0", "4" "", "8" "", "12" ""),
        row!("16", "20" "", "24" "", "28" ""),
        row!("32", "36" "", "40" "", "44" ""),
        row!("48", "52" "", "56" "", "60" "!")
    ),
    row!("0", "4" "", "8" "", "12" "!")
);
