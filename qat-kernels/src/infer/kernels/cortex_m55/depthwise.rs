//! Convolution of every channel with a kernel of its own.

use super::super::{Requant, WeightView, Windows};
use super::carve;
use crate::arch::bytes::{halves_mut, of_words_mut};
use crate::arch::cortex_m55::{BlockLevels, Scaling, depthwise_sums, requantise};
use crate::arch::tap::Tap;
use crate::artifact::cortex_m55::TAPS;
use crate::infer::cortex_m55::{block, depthwise_sums as sum_words, level_bytes};
use crate::pack::{code_at, packed_len};

/// `scratch` holds the sums of a pixel, the levels of all taps and one pixel of padding.
pub(in crate::infer) fn depthwise_conv2d(
    x: &[i8],
    windows: &Windows,
    weights: &WeightView<'_>,
    requant: &Requant,
    zero_point: i8,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    let (channels, bits) = (windows.input[2], weights.spec.bits);
    let taps = windows.kernel[0].checked_mul(windows.kernel[1])?;
    let sum_words = sum_words(bits, taps, channels)?;
    let words = sum_words.checked_add(level_bytes(bits, taps, channels)? / 4)?;
    let (words, rest) = carve(scratch, words)?;
    let (sums, levels) = words.split_at_mut_checked(sum_words)?;
    let padding = rest.get_mut(..channels)?;
    padding.fill(zero_point);
    let levels = if block(bits, taps) == 16 {
        let blocks = of_words_mut(levels).as_chunks_mut().0;
        spread(weights, taps, blocks, |level| level as i8)?;
        BlockLevels::Narrow(blocks)
    } else {
        let blocks = halves_mut(levels).as_chunks_mut().0;
        spread(weights, taps, blocks, |level| level as i16)?;
        BlockLevels::Wide(blocks)
    };
    let mut list = [Tap::new(padding); TAPS];
    let list = list.get_mut(..taps)?;
    let scaling = Scaling::of_levels(requant.left(), requant.zero_point, requant.limits());
    for (pixel, out) in windows.pixels().zip(out.chunks_exact_mut(channels.max(1))) {
        windows.list(x, pixel, padding, list)?;
        depthwise_sums(list, levels, channels, sums)?;
        requantise::<1>(sums, 1, weights.params, &scaling, [out])?;
    }
    Some(())
}

/// Twice the levels in the order of the loops. Rows are those of the portable order.
fn spread<L: Copy, const BLOCK: usize>(
    weights: &WeightView<'_>,
    taps: usize,
    blocks: &mut [[L; BLOCK]],
    to_level: impl Fn(i32) -> L,
) -> Option<()> {
    let (bits, half, channels) = (weights.spec.bits, i32::from(weights.spec.grid != 0), weights.channels);
    let row_len = packed_len(channels, bits);
    for (block, blocks) in blocks.chunks_exact_mut(taps.max(1)).enumerate() {
        for (tap, levels) in blocks.iter_mut().enumerate() {
            let row = weights.codes.get(tap.checked_mul(row_len)?..)?.get(..row_len)?;
            for (channel, level) in (block * BLOCK..).zip(levels) {
                let twice = if channel < channels { 2 * code_at(bits, row, channel)? + half } else { 0 };
                *level = to_level(twice);
            }
        }
    }
    Some(())
}
