//! Rows of some steps of a linear layer, each with a divisor of its own.

use super::Factors;
use super::isa::{GROUPED_STEPS, grouped2, grouped3, grouped4};
use crate::infer::Table;

/// What the loops read, a word a field.
#[repr(C)]
pub(super) struct Grouped<'a> {
    tables: &'a [Table; GROUPED_STEPS],
    rows: [*const u8; GROUPED_STEPS],
    sums: *mut u32,
    end: *const u32,
    factors: &'a Factors,
    divisors: [*const u8; GROUPED_STEPS],
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
    let steps = rows.iter().zip(divisors).map(|(rows, divisors)| rows.len().min(divisors.len() * 4));
    let count = steps.fold(sums.len(), usize::min) / 4 * 4;
    if count > 0 {
        let sums = sums.as_mut_ptr();
        let task = Grouped {
            tables,
            rows: rows.map(|rows| rows.as_ptr().cast()),
            sums,
            // SAFETY: `count` is at most their number.
            end: unsafe { sums.add(count) },
            factors,
            divisors: divisors.map(<[u8]>::as_ptr),
        };
        // SAFETY: reads `count` rows and a divisor for each of them, of all steps, and changes `count` sums; an index of a byte
        // stays inside its table.
        unsafe {
            match BITS {
                2 => grouped2(&task),
                3 => grouped3(&task),
                _ => grouped4(&task),
            }
        }
    }
    count
}
