//! Convolution over all channels, two or four pixels at a time.

use super::super::window::Places;
use super::super::{Requant, WeightView, Windows};
use super::stream::{lanes, missing};
use crate::arch::bytes::words_mut;
use crate::arch::cortex_m4::{Bands, Filled, Filler, copy_rectangle};
use crate::arch::rectangle::Rectangle;
use crate::artifact::OpKind;
use crate::artifact::cortex_m4::STEP;

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
    let len = bands.stream().words(columns)?;
    let source = Source::of(windows);
    // Both on a word boundary, so that whole words are copied.
    let scratch = scratch.get_mut(scratch.as_ptr().align_offset(4)..)?;
    let (stream, window) = scratch.split_at_mut_checked(len.checked_mul(4)?)?;
    let room = if source == Source::Pixel { 0 } else { columns.checked_next_multiple_of(STEP)? };
    let window = window.get_mut(..room)?;
    // Padding for lines; zeros behind a copied window, which fill its last step.
    window.fill(if source == Source::Lines { zero_point } else { 0 });
    let words = words_mut(stream).get_mut(..len)?;
    let (channels, together) = (windows.output[2], bands.stream().pixels);
    // A group of too few pixels leaves the other lanes as they are; their results are dropped.
    words.fill(1);
    lanes.end(words)?;
    let mut places = Places::new(windows, x)?;
    let [line, from_stride] =
        [windows.kernel[1].checked_mul(windows.input[2])?, windows.input[1].checked_mul(windows.input[2])?];
    let rectangle = Rectangle::new(windows.kernel[0], line, line, from_stride)?;
    for out in out.chunks_mut(together.checked_mul(channels)?.max(1)) {
        let mut lacking = [[0; 4]; 2];
        let [low, high] = &mut lacking;
        let count =
            if out.len() == together * channels { together } else { out.len().checked_div(channels)? };
        for (lane, (low, high)) in low.iter_mut().zip(high).enumerate().take(count) {
            let mut lane = lanes.lane(lane, words)?;
            let filled = match (source, places.next()) {
                (Source::Pixel, (_, from)) => lane.finish(from?.get(..columns)?)?,
                (Source::Lines, (_, Some(from))) => {
                    for from in from.chunks(from_stride.max(1)).take(windows.kernel[0]) {
                        lane.steps(from.get(..line)?.as_chunks().0)?;
                    }
                    lane.filled()?
                }
                (Source::Lines, (pixel, None)) => fill_lines(lane, windows, x, pixel, window)?,
                (Source::Window, (pixel, from)) => {
                    match from {
                        Some(from) => copy_rectangle(window, from, &rectangle)?,
                        None => windows.gather(x, pixel, zero_point, window.get_mut(..columns)?)?,
                    }
                    lane.steps(window.as_chunks().0)?;
                    lane.filled()?
                }
            };
            [*low, *high] = missing(spec, &filled);
        }
        bands.run(words, &lacking, out)?;
    }
    requant.clamp_all(out);
    Some(())
}

/// From where a lane is filled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// From the one pixel of the window.
    Pixel,
    /// From the lines of the window, whose parts are whole steps.
    Lines,
    /// From a copy of the window.
    Window,
}

impl Source {
    fn of(windows: &Windows) -> Self {
        if windows.kernel == [1, 1] && windows.pad == [0, 0] {
            Source::Pixel
        } else if windows.input[2].is_multiple_of(STEP) {
            Source::Lines
        } else {
            Source::Window
        }
    }
}

/// `padding` is what lies outside the input, at least a line of the window.
fn fill_lines(
    mut lane: Filler<'_>,
    windows: &Windows,
    x: &[i8],
    pixel: (usize, usize),
    padding: &[i8],
) -> Option<Filled> {
    for parts in windows.lines(x, pixel) {
        let (before, inside, after) = parts?;
        if before > 0 {
            lane.steps(padding.get(..before)?.as_chunks().0)?;
        }
        lane.steps(inside.as_chunks().0)?;
        if after > 0 {
            lane.steps(padding.get(..after)?.as_chunks().0)?;
        }
    }
    lane.filled()
}
