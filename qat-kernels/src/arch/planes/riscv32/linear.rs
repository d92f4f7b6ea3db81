//! Rows of two steps of a linear layer with fixed k.
//!
//! A lookup is five instructions: load a byte, scale it, add the tables' address, load the sum, add. The halves of the four
//! tables are told apart by the offsets of the loads, seen from the middle of the tables.

use crate::infer::Table;
use core::arch::naked_asm;

/// Adds to each of the first `sums` what its rows of `BITS` planes of four blocks, 2 to 4, look up, four rows a turn;
/// returns how many there were.
#[inline(always)]
pub(crate) fn linear<const BITS: usize>(
    tables: &[[Table; 2]; 2],
    rows: [&[[[u8; 4]; BITS]]; 2],
    sums: &mut [u32],
) -> usize {
    let [first, second] = rows;
    let count = first.len().min(second.len()).min(sums.len()) / 4 * 4;
    if count > 0 {
        let (first, second, sums) = (first.as_ptr().cast(), second.as_ptr().cast(), sums.as_mut_ptr());
        // SAFETY: reads `count` rows of both steps and changes `count` sums; an index of a byte stays inside its table.
        unsafe {
            let end = sums.add(count);
            match BITS {
                2 => planes2(tables, first, second, sums, end),
                3 => planes3(tables, first, second, sums, end),
                _ => planes4(tables, first, second, sums, end),
            }
        }
    }
    count
}

/// A lookup from `$table` behind the middle of the tables, added to t0.
macro_rules! add {
    ($rows:literal, $at:expr, $table:literal) => {
        concat!(lookup!("lh" "t1", $rows, $at, $table), "add t0, t0, t1\n")
    };
}

/// A plane at `$at` behind both steps' rows into t0. Below the sign, its first lookup takes in twice the planes above.
macro_rules! plane {
    (top, $at:literal) => {
        concat!(lookup!("lh" "t0", "a1", $at, "-2048"), plane!(rest, $at))
    };
    ($join:literal, $at:literal) => {
        concat!("slli t0, t0, 1\n", lookup!("lh" "t1", "a1", $at, "-2048"), $join, "\n", plane!(rest, $at))
    };
    (rest, $at:literal) => {
        concat!(
            add!("a1", concat!($at, " + 1"), "-2046"),
            add!("a1", concat!($at, " + 2"), "-1024"),
            add!("a1", concat!($at, " + 3"), "-1022"),
            add!("a2", concat!($at, " + 0"), "0"),
            add!("a2", concat!($at, " + 1"), "2"),
            add!("a2", concat!($at, " + 2"), "1024"),
            add!("a2", concat!($at, " + 3"), "1026"),
        )
    };
}

/// A row, its planes at these places behind a1 and a2, and its sum at `$sum` behind a3.
macro_rules! row {
    ($sum:literal: $top:literal $sign:literal $($at:literal)*) => {
        concat!(
            plane!(top, $top), plane!("sub t0, t1, t0", $sign), $(plane!("add t0, t1, t0", $at),)*
            "lw t1, ", $sum, "(a3)\n add t0, t0, t1\n sw t0, ", $sum, "(a3)\n"
        )
    };
}

/// A function over rows of a quarter of `$turn` bytes.
macro_rules! rows {
    ($name:ident, $turn:literal: $rows:expr) => {
        /// # Safety
        /// `sums` up to the end, a multiple of four and not none, and rows of both steps for each of them.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(
            tables: &[[Table; 2]; 2],
            first: *const u8,
            second: *const u8,
            sums: *mut u32,
            end: *const u32,
        ) {
            naked_asm!(
                "li t0, 2048",
                "add a0, a0, t0",
                "2:",
                $rows,
                concat!("addi a1, a1, ", $turn),
                concat!("addi a2, a2, ", $turn),
                "addi a3, a3, 16",
                "bne a3, a4, 2b",
                "ret",
            )
        }
    };
}

rows!(planes2, "32": concat!(row!("0": "0" "4"), row!("4": "8" "12"), row!("8": "16" "20"), row!("12": "24" "28")));
rows!(
    planes3,
    "48": concat!(
        row!("0": "0" "4" "8"),
        row!("4": "12" "16" "20"),
        row!("8": "24" "28" "32"),
        row!("12": "36" "40" "44")
    )
);
rows!(
    planes4,
    "64": concat!(
        row!("0": "0" "4" "8" "12"),
        row!("4": "16" "20" "24" "28"),
        row!("8": "32" "36" "40" "44"),
        row!("12": "48" "52" "56" "60")
    )
);
