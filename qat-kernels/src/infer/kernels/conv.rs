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
    // What a core family's kernels would need on top stays unused here.
    let [kernel_h, kernel_w] = windows.kernel;
    let gathered = windows.kernel != [1, 1] || windows.pad != [0, 0];
    let len = if gathered { kernel_h.checked_mul(kernel_w)?.checked_mul(windows.input[2])? } else { 0 };
    let scratch = scratch.get_mut(..len)?;
    let pixels = windows.pixels().zip(out.chunks_exact_mut(windows.output[2].max(1)));
    for (pixel, out) in pixels {
        if scratch.is_empty() {
            let (_, window) = windows.taps(x, pixel).next()?;
            linear(window?, weights, requant, out)?;
            continue;
        }
        windows.gather(x, pixel, zero_point, scratch)?;
        linear(scratch, weights, requant, out)?;
    }
    Some(())
}
