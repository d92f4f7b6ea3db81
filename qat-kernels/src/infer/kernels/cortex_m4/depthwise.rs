//! Convolution of every channel with a kernel of its own.

use super::super::{Requant, WeightView, Windows};
use crate::arch::bytes::words_mut;
use crate::arch::cortex_m4::{DEPTHWISE_QUAD as QUAD, DEPTHWISE_TURN as TURN, depthwise_pixel};
use crate::arch::tap::Tap;
use crate::artifact::ChannelParams;
use crate::artifact::cortex_m4::TAPS;
use crate::infer::cortex_m4::depthwise_words;
use crate::pack::{code_at, packed_len};

/// `scratch` holds the levels as halfwords, and behind them one pixel of padding.
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
    let words = depthwise_words(taps, channels)?;
    let scratch = scratch.get_mut(scratch.as_ptr().align_offset(4)..)?;
    let (levels, padding) = scratch.split_at_mut_checked(words.checked_mul(4)?)?;
    let (levels, padding) = (words_mut(levels).get_mut(..words)?, padding.get_mut(..channels)?);
    spread(weights, taps, levels)?;
    padding.fill(zero_point);
    let quads = channels / QUAD * QUAD;
    let mut list = [Tap::new(padding); TAPS];
    let list = list.get_mut(..taps.next_multiple_of(TURN))?;
    let rounding = requant.rounding();
    for (at, pixel) in windows.pixels().zip(out.chunks_exact_mut(channels.max(1))) {
        windows.list(x, at, padding, list)?;
        let (whole, _) = pixel.split_at_mut_checked(quads)?;
        depthwise_pixel(list, levels, weights.params, rounding, whole)?;
        // Channels that fill no word.
        for (c, y) in pixel.iter_mut().enumerate().skip(quads) {
            let p = ChannelParams::read(weights.params.get(c)?);
            let mut acc = p.bias;
            for (tap, values) in windows.taps(x, at) {
                let x = values.map_or(Some(&zero_point), |v| v.get(c))?;
                acc = acc.wrapping_add(twice_level(weights, channels, tap, c)?.wrapping_mul((*x).into()));
            }
            *y = requant.apply(acc, p.multiplier);
        }
    }
    requant.clamp_all(out);
    Some(())
}

/// Rows are those of the portable order.
fn twice_level(weights: &WeightView<'_>, channels: usize, tap: usize, channel: usize) -> Option<i32> {
    let row_len = packed_len(channels, weights.spec.bits);
    let row = weights.codes.get(tap.checked_mul(row_len)?..)?.get(..row_len)?;
    Some(2 * code_at(weights.spec.bits, row, channel)? + i32::from(weights.spec.grid != 0))
}

/// Twice the levels of whole words of channels, as the loop reads them; those of taps that only fill a turn are zero.
fn spread(weights: &WeightView<'_>, taps: usize, levels: &mut [u32]) -> Option<()> {
    let turns = taps.next_multiple_of(TURN);
    for (quad, words) in levels.chunks_exact_mut((2 * turns).max(1)).enumerate() {
        for (tap, pair) in words.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            *pair = [0; 2];
            if tap < taps {
                for (word, channel) in pair.iter_mut().zip(quad * QUAD..) {
                    let half = |c| Some(twice_level(weights, weights.channels, tap, c)? as u16);
                    *word = u32::from(half(channel)?) | u32::from(half(channel + 2)?) << 16;
                }
            }
        }
    }
    Some(())
}
