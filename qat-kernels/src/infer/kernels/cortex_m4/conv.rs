//! Convolution over all channels, four pixels at a time.

use super::super::{Requant, WeightView, Windows};
use super::stream::fill;
use crate::arch::bytes::words_mut;
use crate::arch::cortex_m4::PixelStream;
use crate::artifact::OpKind;
use crate::artifact::cortex_m4::STEP;
use crate::infer::cortex_m4::{PIXELS, stream_words};

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
    let columns = weights.fan_in;
    let steps = columns.div_ceil(STEP);
    let gathered = windows.kernel != [1, 1] || windows.pad != [0, 0];
    let len = stream_words(OpKind::Conv2d, columns)?;
    // Both on a word boundary, so that whole words are copied.
    let scratch = scratch.get_mut(scratch.as_ptr().align_offset(4)..)?;
    let (stream, window) = scratch.split_at_mut_checked(len.checked_mul(4)?)?;
    let window = window.get_mut(..if gathered { columns } else { 0 })?;
    let words = words_mut(stream).get_mut(..len)?;
    let channels = windows.output[2];
    let mid_rise = weights.spec.grid != 0;
    // A group of less than four pixels leaves the other lanes as they are; their results are dropped.
    words.fill(1);
    let mut pixels = windows.pixels();
    for out in out.chunks_mut(PIXELS.checked_mul(channels)?.max(1)) {
        let mut missing = [[0; PIXELS]; 2];
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
            let correction = fill::<PIXELS, PIXELS>(words, lane, x, mid_rise)?;
            (*low, *high) = (correction.low, correction.high);
        }
        let stream = PixelStream::new(words, steps)?;
        stream.run(weights.codes, weights.params, missing, requant.rounding(), out)?;
    }
    requant.clamp_all(out);
    Some(())
}
