//! Convolution of every channel with a kernel of its own: multiplied, four channels at a time.

use super::super::{Requant, WeightView, Windows};
use super::{params, read};
use crate::arch::bytes::{halves_mut, words_mut};
use crate::artifact::ChannelParams;
use crate::artifact::planes::{QUAD, TAPS};
use crate::infer::planes::depthwise_levels;
use crate::pack::{code_at, packed_len};

/// Levels of four channels.
type Levels = [i16; QUAD];

/// `scratch` holds the levels as halfwords, and behind them one pixel of padding.
#[inline(never)]
pub(in crate::infer) fn depthwise_conv2d(
    x: &[i8],
    windows: &Windows,
    weights: &WeightView<'_>,
    requant: &Requant,
    zero_point: i8,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    let channels = windows.input[2];
    let taps = windows.kernel[0].checked_mul(windows.kernel[1])?;
    let halves = depthwise_levels(taps, channels)?;
    let (levels, padding) = words_mut(scratch).split_at_mut_checked(halves / 2)?;
    let levels = halves_mut(levels).as_chunks_mut().0;
    spread(weights, taps, channels, levels)?;
    let padding = crate::arch::bytes::of_words_mut(padding).get_mut(..channels)?;
    padding.fill(zero_point);
    let mut list = [&*padding; TAPS];
    let list = list.get_mut(..taps)?;
    for (at, out) in windows.pixels().zip(out.chunks_exact_mut(channels.max(1))) {
        for (place, (_, values)) in list.iter_mut().zip(windows.taps(x, at)) {
            *place = values.unwrap_or(padding);
        }
        pixel(list, levels, weights, requant, out)?;
    }
    requant.clamp_all(out);
    Some(())
}

/// All channels of a pixel. A function of its own, so that its loop has all registers.
#[inline(never)]
fn pixel(
    taps: &[&[i8]],
    levels: &[Levels],
    weights: &WeightView<'_>,
    requant: &Requant,
    out: &mut [i8],
) -> Option<()> {
    let int8 = Requant { lo: i8::MIN.into(), hi: i8::MAX.into(), ..*requant };
    let mut params = params(weights)?.iter().map(read);
    let quads = levels.chunks_exact(taps.len().max(1)).zip(out.chunks_mut(QUAD));
    for (first, (levels, out)) in (0..).step_by(QUAD).zip(quads) {
        let mut accs = [0i32; QUAD];
        for (tap, levels) in taps.iter().zip(levels) {
            let values = tap.get(first..)?;
            let values = match values.first_chunk() {
                Some(&whole) => whole,
                // Their levels are zero.
                None => {
                    let mut part = [0; QUAD];
                    part.iter_mut().zip(values).for_each(|(to, &from)| *to = from);
                    part
                }
            };
            for ((acc, &level), x) in accs.iter_mut().zip(levels).zip(values) {
                *acc = acc.wrapping_add(i32::from(level) * i32::from(x));
            }
        }
        for ((y, acc), ChannelParams { bias, multiplier }) in out.iter_mut().zip(accs).zip(&mut params) {
            *y = int8.apply(acc.wrapping_add(bias), multiplier);
        }
    }
    Some(())
}

/// Twice the levels in the order of the loops; those of channels that only fill up four are zero. Rows are those of the
/// portable order.
fn spread(weights: &WeightView<'_>, taps: usize, channels: usize, levels: &mut [Levels]) -> Option<()> {
    let (bits, half) = (weights.spec.bits, i32::from(weights.spec.grid != 0));
    let row_len = packed_len(channels, bits);
    for (quad, levels) in levels.chunks_exact_mut(taps.max(1)).enumerate() {
        for (tap, levels) in levels.iter_mut().enumerate() {
            let row = weights.codes.get(tap.checked_mul(row_len)?..)?.get(..row_len)?;
            for (channel, level) in (quad * QUAD..).zip(levels) {
                *level =
                    if channel < channels { (2 * code_at(bits, row, channel)? + half) as i16 } else { 0 };
            }
        }
    }
    Some(())
}
