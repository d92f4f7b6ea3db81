//! The loops over channels: what one step adds to the accumulators, modulo 2^32. Rows are as the layout has them.

use super::table::PIXEL_OFFSET;
use crate::arch::factors::BYTE_FACTORS;
use crate::artifact::planes::QUAD;
use crate::infer::planes::Table;

/// A row of a step of a linear layer with fixed k: for each plane the bytes of four blocks.
pub(super) type Wide<const BITS: usize> = [[u8; 4]; BITS];
/// A row of any other step: for each plane the bytes of two blocks.
pub(super) type Narrow<const BITS: usize> = [[u8; 2]; BITS];
/// Accumulators of two pixels of a convolution.
pub(super) type Sums = [u32; 2];

/// The low half of one word and the high half of another one: two blocks of a linear layer.
#[inline(always)]
fn halves(table: &Table, [low, high]: [u8; 2]) -> u32 {
    let (low, high) = (table[usize::from(low)], table[usize::from(high)]);
    (i32::from(low as u16 as i16) + i32::from((high >> 16) as u16 as i16)).cast_unsigned()
}

/// `Σ ±2^j·plane_j` from the sign down.
#[inline(always)]
fn planes<const BITS: usize>(plane: impl Fn(usize) -> u32) -> u32 {
    let mut total = plane(0);
    for below in 1..BITS {
        let twice = total << 1;
        total = if below == 1 { plane(below).wrapping_sub(twice) } else { plane(below).wrapping_add(twice) };
    }
    total
}

/// A step of a linear layer with fixed k.
#[inline(never)]
pub(super) fn linear<const BITS: usize>([first, second]: &[Table; 2], rows: &[Wide<BITS>], sums: &mut [u32]) {
    for (row, sum) in rows.iter().zip(sums) {
        *sum = sum.wrapping_add(planes::<BITS>(|plane| {
            let [a, b, c, d] = row[plane];
            halves(first, [a, b]).wrapping_add(halves(second, [c, d]))
        }));
    }
}

/// A step of a linear layer with a divisor for each row.
#[inline(never)]
pub(super) fn grouped<const BITS: usize>(
    table: &Table,
    rows: &[Narrow<BITS>],
    divisors: &[u8],
    sums: &mut [u32],
) {
    for ((rows, sums), &divisors) in rows.chunks(QUAD).zip(sums.chunks_mut(QUAD)).zip(divisors) {
        let factors = BYTE_FACTORS[usize::from(divisors)];
        for ((row, sum), factor) in rows.iter().zip(sums).zip(factors) {
            let step = planes::<BITS>(|plane| halves(table, row[plane]));
            *sum = sum.wrapping_add(step.wrapping_mul(factor.into()));
        }
    }
}

/// Sums of a row of a convolution over both blocks, `low + 2^16·high`.
#[inline(always)]
fn words<const BITS: usize>([first, second]: &[Table; 2], row: &Narrow<BITS>) -> u32 {
    planes::<BITS>(|plane| {
        let [a, b] = row[plane];
        first[usize::from(a)].wrapping_add(second[usize::from(b)])
    })
}

/// A step of a convolution with fixed k. What the accumulators mean say [`joined`] and [`split`].
#[inline(always)]
pub(super) fn pixels<const BITS: usize>(tables: &[Table; 2], rows: &[Narrow<BITS>], sums: &mut [Sums]) {
    #[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
    let done = crate::arch::planes::pixels(tables, rows, sums);
    #[cfg(not(any(core_family = "cortex-m0", core_family = "riscv32")))]
    let done = 0;
    // What fills no turn of the loop in assembly.
    if let (Some(rows @ [_, ..]), Some(sums)) = (rows.get(done..), sums.get_mut(done..)) {
        pixels_by_row(tables, rows, sums);
    }
}

#[inline(never)]
fn pixels_by_row<const BITS: usize>(tables: &[Table; 2], rows: &[Narrow<BITS>], sums: &mut [Sums]) {
    for (row, [both, high]) in rows.iter().zip(sums) {
        let word = words(tables, row);
        *both = both.wrapping_add(word);
        *high = high.wrapping_add(word >> 16);
    }
}

/// Both pixels' offsets, and that of the second one.
const OFFSETS: [u32; 2] = [PIXEL_OFFSET * 0x0001_0001, PIXEL_OFFSET];

/// A step of a convolution with a divisor for each row: the sums of both pixels, times 60/k.
#[inline(always)]
pub(super) fn grouped_pixels<const BITS: usize>(
    tables: &[Table; 2],
    rows: &[Narrow<BITS>],
    divisors: &[u8],
    sums: &mut [Sums],
) {
    #[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
    let done = crate::arch::planes::grouped_pixels(tables, rows, divisors, &BYTE_FACTORS, OFFSETS, sums);
    #[cfg(not(any(core_family = "cortex-m0", core_family = "riscv32")))]
    let done = 0;
    let rest = (rows.get(done..), divisors.get(done / QUAD..), sums.get_mut(done..));
    if let (Some(rows @ [_, ..]), Some(divisors), Some(sums)) = rest {
        grouped_pixels_by_row(tables, rows, divisors, sums);
    }
}

#[inline(never)]
fn grouped_pixels_by_row<const BITS: usize>(
    tables: &[Table; 2],
    rows: &[Narrow<BITS>],
    divisors: &[u8],
    sums: &mut [Sums],
) {
    for ((rows, sums), &divisors) in rows.chunks(QUAD).zip(sums.chunks_mut(QUAD)).zip(divisors) {
        let factors = BYTE_FACTORS[usize::from(divisors)];
        for ((row, [both, high]), factor) in rows.iter().zip(sums).zip(factors) {
            let word = words(tables, row);
            let times = |sum: u32, offset| sum.wrapping_sub(offset).wrapping_mul(factor.into());
            *both = both.wrapping_add(times(word, OFFSETS[0]));
            *high = high.wrapping_add(times(word >> 16, OFFSETS[1]));
        }
    }
}

/// Accumulators of both pixels: the first one is the first pixel's sum plus 2^16 times the second one's. `steps` of
/// [`pixels`] will leave their offsets there.
#[inline(always)]
pub(super) fn joined(bias: u32, steps: u32) -> Sums {
    let sum = bias.wrapping_sub(PIXEL_OFFSET.wrapping_mul(steps));
    [sum.wrapping_add(sum << 16), sum]
}

/// The sums of two pixels.
#[inline(always)]
pub(super) fn split([both, high]: Sums) -> Sums {
    [both.wrapping_sub(high << 16), high]
}
