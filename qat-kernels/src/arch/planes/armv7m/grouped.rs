//! Rows of two steps of a linear layer, each with a divisor of its own.

use crate::arch::planes::Factors;
use crate::infer::Table;
use core::arch::naked_asm;

/// Steps that are taken at once.
pub(crate) const GROUPED_STEPS: usize = 2;

/// What the loop reads, a word a field.
#[repr(C)]
struct Task<'a> {
    tables: &'a [Table; GROUPED_STEPS],
    rows: [*const u8; GROUPED_STEPS],
    sums: *mut u32,
    end: *const u32,
    divisors: [*const u8; GROUPED_STEPS],
    factors: &'a Factors,
}

/// Adds to each of the first `sums` what its rows of `BITS` planes of two blocks, 2 to 4, look up, times the factor that its
/// divisor stands for, four rows a turn; returns how many there were.
#[inline(always)]
pub(crate) fn grouped<const BITS: usize>(
    tables: &[Table; GROUPED_STEPS],
    rows: [&[[[u8; 2]; BITS]]; GROUPED_STEPS],
    divisors: [&[u8]; GROUPED_STEPS],
    factors: &Factors,
    sums: &mut [u32],
) -> usize {
    let [first, second] = divisors.map(|divisors| divisors.len() * 4);
    let count = rows[0].len().min(rows[1].len()).min(first).min(second).min(sums.len()) / 4 * 4;
    if count > 0 {
        let sums = sums.as_mut_ptr();
        let task = Task {
            tables,
            rows: rows.map(|rows| rows.as_ptr().cast()),
            sums,
            // SAFETY: `count` is at most their number.
            end: unsafe { sums.add(count) },
            divisors: divisors.map(<[u8]>::as_ptr),
            factors,
        };
        // SAFETY: reads `count` rows and a divisor for each of them, of both steps, and changes `count` sums; an index of a
        // byte stays inside its table.
        unsafe {
            match BITS {
                2 => planes2(&task),
                3 => planes3(&task),
                _ => planes4(&task),
            }
        }
    }
    count
}

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
        unsafe extern "C" fn $name(task: &Task<'_>) {
            naked_asm!(
                "push {{r4-r11, lr}}",
                "ldrd lr, r8, [r0, #24]",
                "ldr r12, [r0, #20]",
                "ldr r7, [r0, #16]",
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
    planes2,
    concat!(row!("0": "0", "2" ""), row!("1": "4", "6" ""), row!("2": "8", "10" ""), row!("3": "12", "14" "!"))
);
rows!(
    planes3,
    concat!(
        row!("0": "0", "2" "", "4" ""),
        row!("1": "6", "8" "", "10" ""),
        row!("2": "12", "14" "", "16" ""),
        row!("3": "18", "20" "", "22" "!")
    )
);
rows!(
    planes4,
    concat!(
        row!("0": "0", "2" "", "4" "", "6" ""),
        row!("1": "8", "10" "", "12" "", "14" ""),
        row!("2": "16", "18" "", "20" "", "22" ""),
        row!("3": "24", "26" "", "28" "", "30" "!")
    )
);
