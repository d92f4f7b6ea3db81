//! Convolution over all channels: gather the window, then it is a fully connected layer per pixel.

use super::{Requant, WeightView, Windows, linear};

/// `scratch` holds one window, except for 1×1 kernels without padding, whose window already is contiguous.
pub(in crate::infer) fn conv2d(
    x: &[i8],
    windows: &Windows,
    weights: &WeightView<'_>,
    requant: &Requant,
    zero_point: i8,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    let [_, _, channels] = windows.input;
    let pixels = windows.pixels().zip(out.chunks_exact_mut(windows.output[2].max(1)));
    for (pixel, out) in pixels {
        if scratch.is_empty() {
            let (_, window) = windows.taps(x, pixel).next()?;
            linear(window?, weights, requant, out)?;
            continue;
        }
        for ((_, tap), slot) in windows.taps(x, pixel).zip(scratch.chunks_exact_mut(channels.max(1))) {
            match tap {
                Some(tap) => slot.iter_mut().zip(tap).for_each(|(s, &t)| *s = t),
                None => slot.fill(zero_point), // the real number 0
            }
        }
        linear(scratch, weights, requant, out)?;
    }
    Some(())
}
