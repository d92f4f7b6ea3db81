//! Convolution over all channels, two or four pixels at a time.

use super::super::{Requant, WeightView, Windows};
use super::stream::filler;
use crate::arch::bytes::words_mut;
use crate::arch::cortex_m4::{Kernel, Layer};
use crate::artifact::OpKind;

/// `scratch` holds the stream and, behind it, the bytes of one window unless the kernel is 1×1 without padding.
pub(in crate::infer) fn conv2d(
    x: &[i8],
    windows: &Windows,
    weights: &WeightView<'_>,
    requant: &Requant,
    zero_point: i8,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    let (columns, spec) = (weights.fan_in, weights.spec);
    let kernel = Kernel::of(OpKind::Conv2d, spec.bits, spec.group)?;
    let fill = filler(&kernel.stream, spec.group);
    let gathered = windows.kernel != [1, 1] || windows.pad != [0, 0];
    let len = kernel.stream.words(columns)?;
    // Both on a word boundary, so that whole words are copied.
    let scratch = scratch.get_mut(scratch.as_ptr().align_offset(4)..)?;
    let (stream, window) = scratch.split_at_mut_checked(len.checked_mul(4)?)?;
    let window = window.get_mut(..if gathered { columns } else { 0 })?;
    let words = words_mut(stream).get_mut(..len)?;
    let channels = windows.output[2];
    // A group of too few pixels leaves the other lanes as they are; their results are dropped.
    words.fill(1);
    let mut pixels = windows.pixels();
    for out in out.chunks_mut(kernel.stream.pixels.checked_mul(channels)?.max(1)) {
        let mut missing = [[0; 4]; 2];
        let [low, high] = &mut missing;
        for (lane, (low, high)) in low.iter_mut().zip(high).enumerate().take(out.len().checked_div(channels)?)
        {
            let pixel = pixels.next()?;
            let x = if gathered {
                windows.gather(x, pixel, zero_point, window)?;
                &*window
            } else {
                windows.taps(x, pixel).next()?.1?
            };
            let lacking = fill(&kernel.stream, spec, words, lane, x)?;
            (*low, *high) = (lacking.low, lacking.high);
        }
        let layer = Layer {
            words,
            weights: weights.codes,
            divisors: weights.divisors,
            params: weights.params,
            missing,
            rounding: requant.rounding(),
        };
        kernel.run(columns, &layer, out)?;
    }
    requant.clamp_all(out);
    Some(())
}
