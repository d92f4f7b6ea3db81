//! Convolution of every channel with a kernel of its own.

use super::{Requant, WeightView, Windows};
use crate::artifact::ChannelParams;
use crate::pack::{code_at, packed_len};

pub(in crate::infer) fn depthwise_conv2d(
    x: &[i8],
    windows: &Windows,
    weights: &WeightView<'_>,
    requant: &Requant,
    zero_point: i8,
    out: &mut [i8],
) -> Option<()> {
    let channels = windows.input[2];
    let (bits, half) = (weights.spec.bits, i32::from(weights.spec.grid != 0));
    let row_len = packed_len(channels, bits);
    for (pixel, out) in windows.pixels().zip(out.chunks_exact_mut(channels.max(1))) {
        for (c, (y, p)) in out.iter_mut().zip(weights.params).enumerate() {
            let p = ChannelParams::read(p);
            let mut acc = p.bias;
            for (tap, values) in windows.taps(x, pixel) {
                let row = weights.codes.get(tap.checked_mul(row_len)?..)?.get(..row_len)?;
                let x = match values {
                    Some(v) => *v.get(c)?,
                    None => zero_point,
                };
                let twice_level = 2 * code_at(bits, row, c)? + half;
                acc = acc.wrapping_add(twice_level.wrapping_mul(x.into()));
            }
            *y = requant.apply(acc, p.multiplier);
        }
    }
    Some(())
}
