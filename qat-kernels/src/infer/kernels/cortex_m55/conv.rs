//! Convolution over all channels, two pixels at a time.

use super::super::{Requant, WeightView, Windows};
use super::{carve, scaling};
use crate::arch::cortex_m55::{Rectangle, gather, pixel_sums, requantise};
use crate::infer::cortex_m55::{PIXELS, pixel_sums as sum_words, row_bytes};

/// `scratch` holds the sums and the windows of two pixels, filled up to whole steps.
pub(in crate::infer) fn conv2d(
    x: &[i8],
    windows: &Windows,
    weights: &WeightView<'_>,
    requant: &Requant,
    zero_point: i8,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    let (sums, rest) = carve(scratch, sum_words(weights.channels)?)?;
    let row = row_bytes(weights.fan_in)?;
    let rest = rest.get_mut(..row.checked_mul(PIXELS)?)?;
    rest.fill(0);
    let (first, second) = rest.split_at_mut_checked(row)?;
    let mut rows = [first, second];
    let channels = weights.channels;
    let mut scaling = scaling(weights, requant);
    let gather = Gather::new(x, windows, zero_point)?;
    let mut pixels = windows.pixels();
    for out in out.chunks_mut(channels.checked_mul(PIXELS)?.max(1)) {
        // The last pixel may be alone; its neighbour's row is then that of an earlier one.
        for (row, sum) in rows.iter_mut().zip(&mut scaling.activations) {
            let Some(pixel) = pixels.next() else { break };
            *sum = gather.window(pixel, row.get_mut(..weights.fan_in)?)?;
        }
        pixel_sums(weights.spec.bits, rows.each_ref().map(|row| &**row), weights.codes, sums)?;
        match out.split_at_mut_checked(channels) {
            Some((first, second)) if second.len() == channels => {
                requantise::<2>(sums, PIXELS, weights.params, &scaling, [first, second])?;
            }
            _ => requantise::<1>(sums, PIXELS, weights.params, &scaling, [out])?,
        }
    }
    Some(())
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

    /// Copies the window at an output pixel and returns its sum.
    #[inline(always)]
    fn window(&self, (row, column): (usize, usize), to: &mut [i8]) -> Option<i32> {
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
        to.fill(self.zero_point);
        let outside = to.len().wrapping_sub(lines * len) as i32;
        let to = to.get_mut((top * kernel[1] + left) * channels..)?;
        let rectangle = Rectangle::new(lines, len, kernel[1] * channels, width * channels)?;
        let sum = gather(to, self.x.get(from..)?, &rectangle)?;
        Some(sum.wrapping_add(i32::from(self.zero_point).wrapping_mul(outside)))
    }
}
