//! A table of all 256 sums of eight terms.

use super::isa::fill_asm;
use crate::infer::Table;

/// `table[b] = empty + Σ_(bits j of b) terms[j]`, modulo 2^32.
#[inline(always)]
pub(crate) fn fill(table: &mut Table, empty: u32, terms: &[u32; 8]) {
    // SAFETY: writes the 256 words of `table` and reads the eight of `terms`.
    unsafe { fill_asm(table, empty, terms) }
}
