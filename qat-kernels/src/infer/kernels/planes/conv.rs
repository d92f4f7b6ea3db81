//! Convolution over all channels, two pixels at a time.

use super::super::{Requant, WeightView, Windows};
use super::{begin, finish, rows, step_divisors, step_rows, table, wide};
use crate::arch::bytes::words_mut;
use crate::artifact::planes::PAIR;
use crate::infer::planes::{STEP_TABLES, TABLE_WORDS, Table, is_gathered, window_len};

/// Pixels that are computed together.
const PIXELS: usize = 2;

/// `scratch` holds the tables, two accumulators for each channel and, where windows are gathered, two of them.
#[inline(never)]
pub(in crate::infer) fn conv2d(
    x: &[i8],
    windows: &Windows,
    weights: &WeightView<'_>,
    requant: &Requant,
    zero_point: i8,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    if weights.spec.bits == 8 {
        return wide::conv2d(x, windows, weights, requant, zero_point, scratch, out);
    }
    let (columns, channels) = (weights.fan_in, windows.output[2]);
    let (tables, rest) = words_mut(scratch).split_at_mut_checked(STEP_TABLES * TABLE_WORDS)?;
    let tables = tables.as_chunks_mut().0.first_chunk_mut()?;
    let (sums, rest) = rest.split_at_mut_checked(channels.checked_mul(PIXELS)?)?;
    let sums = sums.as_chunks_mut().0;
    let gathered = is_gathered(columns, windows.kernel == [1, 1] && windows.pad == [0, 0]);
    let len = if gathered { window_len(columns)? } else { 0 };
    let (first, rest) = crate::arch::bytes::of_words_mut(rest).split_at_mut_checked(len)?;
    let mut gathered = [first, rest.get_mut(..len)?];
    // What fills up a step.
    for window in &mut gathered {
        window.fill(0);
    }
    let mut pixels = windows.pixels();
    for out in out.chunks_mut(channels.checked_mul(PIXELS)?.max(1)) {
        let first = pixels.next()?;
        // A single last pixel is computed twice.
        let pair = [first, if out.len() > channels { pixels.next()? } else { first }];
        let mut x_of = [&[][..]; PIXELS];
        for ((x_of, window), pixel) in x_of.iter_mut().zip(&mut gathered).zip(pair) {
            *x_of = if window.is_empty() {
                windows.taps(x, pixel).next()?.1?
            } else {
                windows.gather(x, pixel, zero_point, window.get_mut(..columns)?)?;
                &**window
            };
        }
        let steps = if weights.spec.group == 0 { columns.div_ceil(PAIR) as u32 } else { 0 };
        begin(weights, sums, |bias| rows::joined(bias, steps))?;
        match weights.spec.bits {
            2 => accumulate::<2>(x_of, weights, tables, sums),
            3 => accumulate::<3>(x_of, weights, tables, sums),
            4 => accumulate::<4>(x_of, weights, tables, sums),
            _ => None,
        }?;
        let (first, second) = out.split_at_mut_checked(channels)?;
        finish(sums, 0, weights, requant, first)?;
        finish(sums, 1, weights, requant, second)?;
    }
    Some(())
}

/// Adds up two pixels; the accumulators hold the biases before.
fn accumulate<const BITS: usize>(
    x: [&[i8]; PIXELS],
    weights: &WeightView<'_>,
    tables: &mut [Table; STEP_TABLES],
    sums: &mut [rows::Sums],
) -> Option<()> {
    let mid_rise = weights.spec.grid != 0;
    let [low, high] = x.map(|x| x.as_chunks::<PAIR>().0);
    for (step, (low, high)) in low.iter().zip(high).enumerate() {
        table::pixels([low, high], mid_rise, tables);
        let rows = step_rows::<2, BITS>(weights, step)?;
        if weights.spec.group == 0 {
            rows::pixels(tables, rows, sums);
        } else {
            rows::grouped_pixels(tables, rows, step_divisors(weights, step)?, sums);
        }
    }
    sums.iter_mut().for_each(|sums| *sums = rows::split(*sums));
    Some(())
}
