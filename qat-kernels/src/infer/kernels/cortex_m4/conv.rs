//! Convolution over all channels, two or four pixels at a time.

use super::super::{Requant, WeightView, Windows};
use super::stream::{lanes, missing};
use crate::arch::bytes::words_mut;
use crate::arch::cortex_m4::Bands;
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
    let kind = (OpKind::Conv2d, spec.bits, spec.group);
    let packed = (weights.codes, weights.divisors);
    let bands = Bands::new(kind, columns, packed, weights.params, requant.rounding())?;
    let lanes = lanes(bands.stream(), spec, columns)?;
    let gathered = windows.kernel != [1, 1] || windows.pad != [0, 0];
    let len = bands.stream().words(columns)?;
    // Both on a word boundary, so that whole words are copied.
    let scratch = scratch.get_mut(scratch.as_ptr().align_offset(4)..)?;
    let (stream, window) = scratch.split_at_mut_checked(len.checked_mul(4)?)?;
    let window = window.get_mut(..if gathered { columns } else { 0 })?;
    let words = words_mut(stream).get_mut(..len)?;
    let (channels, together) = (windows.output[2], bands.stream().pixels);
    // A group of too few pixels leaves the other lanes as they are; their results are dropped.
    words.fill(1);
    lanes.end(words)?;
    let mut pixels = windows.pixels();
    for out in out.chunks_mut(together.checked_mul(channels)?.max(1)) {
        let mut lacking = [[0; 4]; 2];
        let [low, high] = &mut lacking;
        let count =
            if out.len() == together * channels { together } else { out.len().checked_div(channels)? };
        for (lane, (low, high)) in low.iter_mut().zip(high).enumerate().take(count) {
            let pixel = pixels.next()?;
            let x = if gathered {
                windows.gather(x, pixel, zero_point, window)?;
                &*window
            } else {
                windows.taps(x, pixel).next()?.1?
            };
            [*low, *high] = missing(spec, &lanes.lane(lane, words)?.finish(x)?);
        }
        bands.run(words, &lacking, out)?;
    }
    requant.clamp_all(out);
    Some(())
}
