//! Rows of a convolution's step: two pixels.

use super::Factors;
use super::isa::{grouped_pixels2, grouped_pixels3, grouped_pixels4, pixels2, pixels3, pixels4};
use crate::infer::Table;

/// What the loops read, a word a field; those without divisors read the first four.
#[repr(C)]
pub(super) struct Pixels<'a> {
    tables: &'a [Table; 2],
    rows: *const u8,
    sums: *mut [u32; 2],
    end: *const [u32; 2],
    divisors: *const u8,
    factors: *const Factors,
    /// What is taken away from the word of a row, and from its upper half.
    offsets: [u32; 2],
}

impl<'a> Pixels<'a> {
    fn new<const BITS: usize>(
        tables: &'a [Table; 2],
        rows: &[[[u8; 2]; BITS]],
        divisors: &[u8],
        factors: *const Factors,
        offsets: [u32; 2],
        sums: &mut [[u32; 2]],
    ) -> Self {
        let sums = sums.as_mut_ptr_range();
        let (rows, divisors) = (rows.as_ptr().cast(), divisors.as_ptr());
        Self { tables, rows, sums: sums.start, end: sums.end, divisors, factors, offsets }
    }
}

/// Adds to each of the first `sums` the word that its row of `BITS` planes of two blocks, 2 to 4, looks up, and the upper half
/// of that; four rows a turn; returns how many there were.
#[inline(always)]
pub(crate) fn pixels<const BITS: usize>(
    tables: &[Table; 2],
    rows: &[[[u8; 2]; BITS]],
    sums: &mut [[u32; 2]],
) -> usize {
    const { assert!(BITS >= 2 && BITS <= 4) };
    let count = rows.len().min(sums.len()) / 4 * 4;
    if let Some(sums) = sums.get_mut(..count).filter(|sums| !sums.is_empty()) {
        let task = Pixels::new(tables, rows, &[], core::ptr::null(), [0; 2], sums);
        // SAFETY: reads `count` rows and changes as many sums, a multiple of four and not none; an index of a byte stays inside its
        // table.
        unsafe {
            match BITS {
                2 => pixels2(&task),
                3 => pixels3(&task),
                _ => pixels4(&task),
            }
        }
    }
    count
}

/// The same with words and halves, less their `offsets`, times the factor that the row's divisor stands for.
#[inline(always)]
pub(crate) fn grouped_pixels<const BITS: usize>(
    tables: &[Table; 2],
    rows: &[[[u8; 2]; BITS]],
    divisors: &[u8],
    factors: &Factors,
    offsets: [u32; 2],
    sums: &mut [[u32; 2]],
) -> usize {
    const { assert!(BITS >= 2 && BITS <= 4) };
    let count = rows.len().min(divisors.len().wrapping_mul(4)).min(sums.len()) / 4 * 4;
    if let Some(sums) = sums.get_mut(..count).filter(|sums| !sums.is_empty()) {
        let task = Pixels::new(tables, rows, divisors, factors, offsets, sums);
        // SAFETY: reads `count` rows and a divisor for each, and changes as many sums, a multiple of four and not none; an index
        // of a byte stays inside its table.
        unsafe {
            match BITS {
                2 => grouped_pixels2(&task),
                3 => grouped_pixels3(&task),
                _ => grouped_pixels4(&task),
            }
        }
    }
    count
}
