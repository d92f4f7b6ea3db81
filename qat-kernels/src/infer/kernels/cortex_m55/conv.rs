//! Convolution over all channels, two pixels at a time.

use super::super::{Requant, WeightView, Windows};
use super::{carve, scaling};
use crate::arch::cortex_m55::{
    Levels, Scaling, block_sums, expand, gather, multiply_out, pixel_sums, requantise,
};
use crate::arch::rectangle::Rectangle;
use crate::artifact::cortex_m55::{QUAD, STEP};
use crate::infer::cortex_m55::{
    PIXELS, block_bytes, block_pairs, block_words, groups, pixel_sums as sum_words, row_bytes,
};

/// `scratch` holds the sums and the windows of two pixels, filled up to whole steps; for groups see [`blocks`].
pub(in crate::infer) fn conv2d(
    x: &[i8],
    windows: &Windows,
    weights: &WeightView<'_>,
    requant: &Requant,
    zero_point: i8,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    let gather = Gather::new(x, windows, zero_point)?;
    let scaling = scaling(weights, requant);
    if weights.spec.group > 0 {
        return blocks(gather, weights, &scaling, scratch, out);
    }
    let (sums, rest) = carve(scratch, sum_words(weights.channels)?)?;
    let row = row_bytes(weights.fan_in)?;
    let rest = rest.get_mut(..row.checked_mul(PIXELS)?)?;
    rest.fill(0);
    let (first, second) = rest.split_at_mut_checked(row)?;
    gather.pairs([first, second], sums, weights, scaling, out)
}

/// A convolution with groups, in blocks of pixels: gathers the windows of a block, then multiplies quad by quad out and adds up
/// all pixels of the block. `scratch` holds sums, factors, a multiplied quad and the windows.
#[inline(never)]
fn blocks(
    mut gather: Gather<'_>,
    weights: &WeightView<'_>,
    scaling: &Scaling,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    let (spec, channels, columns) = (weights.spec, weights.channels, weights.fan_in);
    let levels = Levels { steps: usize::from(spec.group) / STEP, mid_rise: spec.grid != 0 };
    let (groups, row, stride) = (groups(spec, columns), row_bytes(columns)?, sum_words(channels)?);
    let ([sums, factors], [quad, rows]) =
        (block_words(spec, channels, columns)?, block_bytes(channels, columns)?);
    let (words, rest) = carve(scratch, sums.checked_add(factors)?)?;
    let (sums, factors) = words.split_at_mut_checked(sums)?;
    expand(weights.divisors, factors)?;
    let (quad, rest) = rest.split_at_mut_checked(quad)?;
    let rows = rest.get_mut(..rows)?;
    // The last pixel may be alone; its neighbour's row is then that of an earlier one, or this.
    rows.fill(0);
    let of_block = channels.checked_mul(PIXELS)?.checked_mul(block_pairs(channels, columns)?)?;
    for mut out in out.chunks_mut(of_block.max(1)) {
        // Taken piece by piece: iterators over two kinds of chunks would divide by lengths.
        let (mut free, mut pixels, mut left) = (&mut *rows, 0, out.len());
        while left > 0 {
            gather.next(free.split_off_mut(..row)?)?;
            (pixels, left) = (pixels + 1, left.checked_sub(channels)?);
        }
        let pairs = usize::div_ceil(pixels, PIXELS);
        let x = rows.get(..row.checked_mul(PIXELS * pairs)?)?;
        let (mut codes, mut factors, mut sums_of_quad) = (weights.codes, &*factors, &mut *sums);
        while !codes.is_empty() {
            multiply_out(levels, factors.split_off(..groups)?, codes.split_off(..row)?, quad)?;
            block_sums(x, quad, pairs, stride, sums_of_quad)?;
            sums_of_quad.split_off_mut(..PIXELS * QUAD)?;
        }
        let mut sums = &*sums;
        while !out.is_empty() {
            let (sums, first) = (sums.split_off(..stride)?, out.split_off_mut(..channels)?);
            match out.split_off_mut(..channels) {
                Some(second) => requantise::<2>(sums, PIXELS, weights.params, scaling, [first, second])?,
                None => requantise::<1>(sums, PIXELS, weights.params, scaling, [first])?,
            }
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
    /// The next pixel, row and column.
    pixel: [usize; 2],
}

impl<'a> Gather<'a> {
    fn new(x: &'a [i8], windows: &'a Windows, zero_point: i8) -> Option<Self> {
        let ([height, width, channels], [kernel_h, kernel_w]) = (windows.input, windows.kernel);
        let line = kernel_w.checked_mul(channels)?;
        let whole = Rectangle::new(kernel_h, line, line, width.checked_mul(channels)?)?;
        let last = [height.checked_sub(kernel_h), width.checked_sub(kernel_w)];
        Some(Self { x, windows, zero_point, whole, last, pixel: [0, 0] })
    }

    /// Computes all pixels, two at a time: gathers their windows in `rows`, adds up all channels of them, and requantises the
    /// sums.
    #[inline(never)]
    fn pairs(
        mut self,
        [first, second]: [&mut [i8]; PIXELS],
        sums: &mut [u32],
        weights: &WeightView<'_>,
        mut scaling: Scaling,
        out: &mut [i8],
    ) -> Option<()> {
        let (channels, bits) = (weights.channels, weights.spec.bits);
        for out in out.chunks_mut(channels.checked_mul(PIXELS)?.max(1)) {
            scaling.activations[0] = self.next(first)?;
            // The last pixel may be alone; its neighbour's row is then that of an earlier one.
            let whole = out.len() > channels;
            if whole {
                scaling.activations[1] = self.next(second)?;
            }
            pixel_sums(bits, [first, second], weights.codes, sums)?;
            if whole {
                let (first, second) = out.split_at_mut_checked(channels)?;
                requantise::<2>(sums, PIXELS, weights.params, &scaling, [first, second])?;
            } else {
                requantise::<1>(sums, PIXELS, weights.params, &scaling, [out])?;
            }
        }
        Some(())
    }

    /// Copies the window at the next pixel and returns its sum.
    #[inline(always)]
    fn next(&mut self, row: &mut [i8]) -> Option<i32> {
        let sum = self.window(self.pixel, row)?;
        self.pixel[1] += 1;
        if self.pixel[1] == self.windows.output[1] {
            self.pixel = [self.pixel[0] + 1, 0];
        }
        Some(sum)
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
