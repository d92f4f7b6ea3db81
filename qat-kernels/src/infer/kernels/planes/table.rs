//! Tables of all 256 sums of eight activations.

use crate::artifact::planes::PAIR;
use crate::infer::planes::Table;

/// Activations of the columns of a step.
pub(super) type Columns = [i8; PAIR];

/// What the low half of an entry of a linear layer is above its sum, and the high one below: enough to keep the low half
/// from becoming negative.
const LINEAR_OFFSET: u32 = 1 << 11;

/// What the sums of a step of a convolution are above the true ones, so that they lie within 0..2^16: sixteen levels of at
/// most 16 in magnitude times −128..=127 are within −2^15 + 1..=2^15.
pub(super) const PIXEL_OFFSET: u32 = (1 << 15) - 1;

/// The sums of two blocks of a linear layer, a table for each of `x`.
#[inline]
pub(super) fn linear(x: &[Columns], mid_rise: bool, tables: &mut [Table]) {
    let offset = LINEAR_OFFSET.wrapping_sub(LINEAR_OFFSET << 16);
    #[cfg(thumb1)]
    {
        // Words of four activations are loaded at once.
        if x.as_ptr().addr().is_multiple_of(4) {
            return crate::arch::planes::fill_linear(tables, x, offset, mid_rise);
        }
        for (table, x) in tables.iter_mut().zip(x) {
            let aligned = Aligned([*x]);
            crate::arch::planes::fill_linear(core::slice::from_mut(table), &aligned.0, offset, mid_rise);
        }
    }
    #[cfg(not(thumb1))]
    for (table, x) in tables.iter_mut().zip(x) {
        #[cfg(core_family = "riscv32")]
        crate::arch::planes::fill_linear(table, x, offset, mid_rise);
        #[cfg(not(core_family = "riscv32"))]
        {
            let mut terms = [0; 8];
            for (terms, &[a, b, c, d]) in terms.as_chunks_mut::<2>().0.iter_mut().zip(x.as_chunks::<4>().0) {
                *terms = [term(a, c), term(b, d)];
            }
            fill(table, offset, mid_rise, &terms);
        }
    }
}

#[cfg(thumb1)]
#[repr(align(4))]
struct Aligned([Columns; 1]);

/// Tables of both blocks of a convolution, for two pixels.
pub(super) fn pixels(x: [&Columns; 2], mid_rise: bool, tables: &mut [Table; 2]) {
    let [low, high] = x.map(|x| x.as_chunks::<4>().0);
    // The planes of a step weigh −1 together: the offsets of its two tables are what the sums will be above.
    let offset = PIXEL_OFFSET.wrapping_neg().wrapping_mul(0x0001_0001);
    for (table, (at, empty)) in tables.iter_mut().zip([(0, offset), (2, 0)]) {
        let mut terms = [0; 8];
        let columns = low.iter().zip(high);
        for (terms, (low, high)) in terms.as_chunks_mut::<2>().0.iter_mut().zip(columns) {
            *terms = [term(low[at], high[at]), term(low[at + 1], high[at + 1])];
        }
        fill(table, empty, mid_rise, &terms);
    }
}

/// Twice two activations.
#[inline(always)]
fn term(low: i8, high: i8) -> u32 {
    (i32::from(low) + (i32::from(high) << 16)).cast_unsigned() << 1
}

/// `table[b]` becomes `offset + Σ_(bits j of b) terms[j]`, less half the sum of all terms on the mid-rise grid.
fn fill(table: &mut Table, offset: u32, mid_rise: bool, terms: &[u32; 8]) {
    let mut empty = offset;
    if mid_rise {
        let all = terms.iter().fold(0u32, |sum, &term| sum.wrapping_add(term));
        // Twice an integer that fits 31 bits, whatever the signs of its halves.
        empty = empty.wrapping_sub((all.cast_signed() >> 1).cast_unsigned());
    }
    #[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
    crate::arch::planes::fill(table, empty, terms);
    #[cfg(not(any(core_family = "cortex-m0", core_family = "riscv32")))]
    expand(table, empty, terms);
}

/// `table[b] = empty + Σ_(bits j of b) terms[j]`.
#[cfg(not(any(core_family = "cortex-m0", core_family = "riscv32")))]
fn expand(table: &mut Table, empty: u32, terms: &[u32; 8]) {
    let [t0, t1, t2, t3, upper @ ..] = *terms;
    let (low, high) = (doubled(empty, [t0, t1, t2, t3]), doubled(0, upper));
    for (chunk, high) in table.as_chunks_mut::<16>().0.iter_mut().zip(high) {
        for (entry, low) in chunk.iter_mut().zip(low) {
            *entry = low.wrapping_add(high);
        }
    }
}

#[cfg(not(any(core_family = "cortex-m0", core_family = "riscv32")))]
fn doubled(empty: u32, terms: [u32; 4]) -> [u32; 16] {
    let mut sums = [empty; 16];
    for (b, sum) in sums.iter_mut().enumerate() {
        for (j, &term) in terms.iter().enumerate() {
            *sum = sum.wrapping_add(if b >> j & 1 == 1 { term } else { 0 });
        }
    }
    sums
}
