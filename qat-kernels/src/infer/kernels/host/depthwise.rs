//! Convolution of every channel with a kernel of its own: channels side by side in vectors.

use super::super::{Requant, WeightView, Windows, depthwise_conv2d as portable};
use crate::arch::{Backend, Kernel};
use crate::artifact::{ChannelParams, Target};
use crate::pack::{code_at, packed_len};

/// Channels that are computed together.
const CHANNELS: usize = 32;
/// Taps of the largest kernel that is computed here.
const TAPS: usize = 64;

#[allow(clippy::too_many_arguments, reason = "those of a core family's kernel, and where to run")]
pub(in crate::infer) fn depthwise_conv2d(
    backend: Backend,
    x: &[i8],
    windows: &Windows,
    weights: &WeightView<'_>,
    requant: &Requant,
    zero_point: i8,
    _scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    let taps = windows.kernel[0].checked_mul(windows.kernel[1])?;
    if taps > TAPS {
        return portable(x, windows, weights, requant, zero_point, out);
    }
    for first in (0..windows.input[2]).step_by(CHANNELS) {
        let block = Block::new(weights, first, taps)?;
        backend.run(Pixels { x, windows, block: &block, requant, zero_point, out })?;
    }
    Some(())
}

/// The parameters of some channels; those behind the last one are zero.
struct Block {
    first: usize,
    /// Levels, doubled where there are halves: a product with an activation fits an int16.
    levels: [[i16; CHANNELS]; TAPS],
    /// What the sums of levels are multiplied by to become those of doubled levels.
    scale: i32,
    bias: [i32; CHANNELS],
    multiplier: [i32; CHANNELS],
}

impl Block {
    fn new(weights: &WeightView<'_>, first: usize, taps: usize) -> Option<Self> {
        let count = weights.channels.checked_sub(first)?.min(CHANNELS);
        let mid_rise = weights.spec.grid != 0;
        let mut block = Self {
            first,
            levels: [[0; CHANNELS]; TAPS],
            scale: if mid_rise { 1 } else { 2 },
            bias: [0; CHANNELS],
            multiplier: [0; CHANNELS],
        };
        let row_len = packed_len(weights.channels, weights.spec.bits);
        for (tap, levels) in block.levels.iter_mut().enumerate().take(taps) {
            for (channel, level) in (first..).zip(levels).take(count) {
                let code = if weights.layout.target() == Target::Portable {
                    code_at(weights.spec.bits, weights.codes.get(tap.checked_mul(row_len)?..)?, channel)
                } else {
                    weights.layout.code(weights.codes, tap, channel)
                }? as i16;
                *level = if mid_rise { 2 * code + 1 } else { code };
            }
        }
        let channels = block.bias.iter_mut().zip(&mut block.multiplier);
        for ((bias, multiplier), p) in channels.zip(weights.params.get(first..)?) {
            let p = ChannelParams::read(p);
            (*bias, *multiplier) = (p.bias, p.multiplier);
        }
        Some(block)
    }
}

/// All pixels of some channels.
struct Pixels<'a> {
    x: &'a [i8],
    windows: &'a Windows,
    block: &'a Block,
    requant: &'a Requant,
    zero_point: i8,
    out: &'a mut [i8],
}

impl Kernel for Pixels<'_> {
    type Output = Option<()>;

    #[inline(always)]
    fn run(self) -> Option<()> {
        let Self { x, windows, block, requant, zero_point, out } = self;
        for (pixel, out) in windows.pixels().zip(out.chunks_exact_mut(windows.input[2].max(1))) {
            let mut sums = [0i32; CHANNELS];
            for ((_, values), levels) in windows.taps(x, pixel).zip(&block.levels) {
                let values = values.map(|values| values.get(block.first..).unwrap_or(&[]));
                let values = match values.map(|values| (values, values.first_chunk())) {
                    None => &[zero_point; CHANNELS],
                    Some((_, Some(whole))) => whole,
                    Some((some, None)) => &padded(some),
                };
                for ((sum, &value), &level) in sums.iter_mut().zip(values).zip(levels) {
                    *sum = sum.wrapping_add(i16::from(value).wrapping_mul(level).into());
                }
            }
            let mut results = [0; CHANNELS];
            for c in 0..CHANNELS {
                let acc = sums[c].wrapping_mul(block.scale).wrapping_add(block.bias[c]);
                results[c] = requant.apply(acc, block.multiplier[c]);
            }
            out.get_mut(block.first..)?.iter_mut().zip(&results).for_each(|(to, &from)| *to = from);
        }
        Some(())
    }
}

#[inline(always)]
fn padded(values: &[i8]) -> [i8; CHANNELS] {
    let mut whole = [0; CHANNELS];
    whole.iter_mut().zip(values).for_each(|(to, &from)| *to = from);
    whole
}
