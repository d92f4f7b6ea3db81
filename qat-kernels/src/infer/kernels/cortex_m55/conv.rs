//! Convolution over all channels, two pixels at a time.

use super::super::{Requant, WeightView, Windows};
use super::{carve, grouped, scaling};
use crate::arch::cortex_m55::{Scaling, gather, group_sums, pixel_grouped, pixel_sums, requantise};
use crate::arch::rectangle::Rectangle;
use crate::infer::cortex_m55::{PIXELS, group_words, pixel_sums as sum_words, row_bytes};

/// `scratch` holds the sums, what groups need, and the windows of two pixels, filled up to whole steps.
pub(in crate::infer) fn conv2d(
    x: &[i8],
    windows: &Windows,
    weights: &WeightView<'_>,
    requant: &Requant,
    zero_point: i8,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    let (sum_words, group_words) =
        (sum_words(weights.channels)?, group_words(weights.spec, weights.channels, weights.fan_in)?);
    let (words, rest) = carve(scratch, sum_words.checked_add(group_words)?)?;
    let (sums, group_words) = words.split_at_mut_checked(sum_words)?;
    let row = row_bytes(weights.fan_in)?;
    let rest = rest.get_mut(..row.checked_mul(PIXELS)?)?;
    rest.fill(0);
    let (first, second) = rest.split_at_mut_checked(row)?;
    let gather = Gather::new(x, windows, zero_point)?;
    let scaling = scaling(weights, requant);
    let (bits, codes) = (weights.spec.bits, weights.codes);
    match grouped(weights, group_words)? {
        None => gather.pairs([first, second], sums, weights, scaling, out, |rows, sums| {
            pixel_sums(bits, rows, codes, sums)
        }),
        Some((mut groups, factors)) => {
            gather.pairs([first, second], sums, weights, scaling, out, |rows, sums| {
                for (pixel, row) in rows.into_iter().enumerate() {
                    group_sums(row, groups.steps, groups.activations, pixel)?;
                }
                pixel_grouped(&mut groups, factors, rows, codes, sums)
            })
        }
    }
}

/// How the windows lie in the input.
struct Gather<'a> {
    x: &'a [i8],
    windows: &'a Windows,
    zero_point: i8,
    /// A whole window, and the last places where one is inside the input.
    whole: Rectangle,
    last: [Option<usize>; 2],
}

impl<'a> Gather<'a> {
    fn new(x: &'a [i8], windows: &'a Windows, zero_point: i8) -> Option<Self> {
        let ([height, width, channels], [kernel_h, kernel_w]) = (windows.input, windows.kernel);
        let line = kernel_w.checked_mul(channels)?;
        let whole = Rectangle::new(kernel_h, line, line, width.checked_mul(channels)?)?;
        let last = [height.checked_sub(kernel_h), width.checked_sub(kernel_w)];
        Some(Self { x, windows, zero_point, whole, last })
    }

    /// Computes all pixels, two at a time: gathers their windows in `rows`, has `sum` make the sums of all channels of them, and
    /// requantises those.
    #[inline(never)]
    fn pairs(
        &self,
        mut rows: [&mut [i8]; PIXELS],
        sums: &mut [u32],
        weights: &WeightView<'_>,
        mut scaling: Scaling,
        out: &mut [i8],
        mut sum: impl FnMut([&[i8]; PIXELS], &mut [u32]) -> Option<()>,
    ) -> Option<()> {
        let channels = weights.channels;
        let mut pixel = [0, 0];
        let mut next = |row: &mut [i8]| {
            let sum = self.window(pixel, row)?;
            pixel[1] += 1;
            if pixel[1] == self.windows.output[1] {
                pixel = [pixel[0] + 1, 0];
            }
            Some(sum)
        };
        for out in out.chunks_mut(channels.checked_mul(PIXELS)?.max(1)) {
            let [first, second] = &mut rows;
            scaling.activations[0] = next(first)?;
            // The last pixel may be alone; its neighbour's row is then that of an earlier one.
            let whole = out.len() > channels;
            if whole {
                scaling.activations[1] = next(second)?;
            }
            sum([first, second], sums)?;
            if whole {
                let (first, second) = out.split_at_mut_checked(channels)?;
                requantise::<2>(sums, PIXELS, weights.params, &scaling, [first, second])?;
            } else {
                requantise::<1>(sums, PIXELS, weights.params, &scaling, [out])?;
            }
        }
        Some(())
    }

    /// Copies the window at an output pixel and returns its sum.
    #[inline(always)]
    fn window(&self, [row, column]: [usize; 2], to: &mut [i8]) -> Option<i32> {
        let Windows { input: [_, width, channels], stride, pad, .. } = *self.windows;
        // Wraps below zero for the padding, which the comparisons then reject.
        let (top, left) = ((row * stride[0]).wrapping_sub(pad[0]), (column * stride[1]).wrapping_sub(pad[1]));
        if Some(top) <= self.last[0] && Some(left) <= self.last[1] {
            return gather(to, self.x.get((top * width + left) * channels..)?, &self.whole);
        }
        self.border([row * stride[0], column * stride[1]], to)
    }

    /// As above; `start` is the window's place with padding counted.
    #[cold]
    fn border(&self, start: [usize; 2], to: &mut [i8]) -> Option<i32> {
        let Windows { input: [height, width, channels], kernel, pad, .. } = *self.windows;
        // Taps before the input, and those inside it.
        let inside = |axis: usize, size: usize| {
            let first = pad[axis].saturating_sub(start[axis]).min(kernel[axis]);
            let end = (size + pad[axis]).saturating_sub(start[axis]).min(kernel[axis]);
            [first, end.saturating_sub(first)]
        };
        let ([top, lines], [left, columns]) = (inside(0, height), inside(1, width));
        let from = ((start[0] + top).checked_sub(pad[0])? * width + (start[1] + left).checked_sub(pad[1])?)
            * channels;
        let len = columns * channels;
        let to = to.get_mut(..kernel[0] * kernel[1] * channels)?;
        to.fill(self.zero_point);
        let outside = to.len().wrapping_sub(lines * len) as i32;
        let to = to.get_mut((top * kernel[1] + left) * channels..)?;
        let rectangle = Rectangle::new(lines, len, kernel[1] * channels, width * channels)?;
        let sum = gather(to, self.x.get(from..)?, &rectangle)?;
        Some(sum.wrapping_add(i32::from(self.zero_point).wrapping_mul(outside)))
    }
}
