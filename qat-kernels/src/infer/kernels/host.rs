//! Layers on workstations: the vectors of the machine, any family's file.
//!
//! Rows of the portable order are multiplied as they lie. Those of other orders are first taken apart code by code, a block
//! of rows at a time and then for all pixels of a convolution. All memory beyond the arena is on the stack, and bounded:
//! the scratch memory that a file plans is a matter of its own family.

mod depthwise;
#[cfg(all(test, feature = "alloc"))]
mod tests;

pub(in crate::infer) use depthwise::depthwise_conv2d;

use super::{Requant, WeightView, Windows};
use crate::arch::Backend;
use crate::artifact::{ChannelParams, Target};
use crate::matrix::{Order, Product, Rows};
use crate::pack::packed_len;

/// Codes that are taken apart at once.
const BLOCK: usize = 8 << 10;

/// Whether there is a way here at all: eight-bit codes whose groups have factors, and rows that fill no block, are left to
/// the portable kernels.
fn is_covered(weights: &WeightView<'_>) -> bool {
    let portable = weights.layout.target() == Target::Portable;
    (weights.spec.bits < 8 || weights.spec.group == 0) && (portable || weights.fan_in <= BLOCK)
}

/// Calls `f` for all channels, in one or more blocks: the first channel, how many, and their rows.
fn each_block(
    weights: &WeightView<'_>,
    mut f: impl FnMut(usize, usize, &Rows<'_>) -> Option<()>,
) -> Option<()> {
    let (bits, mid_rise) = (weights.spec.bits, weights.spec.grid != 0);
    let (group, columns) = (usize::from(weights.spec.group), weights.fan_in);
    if weights.layout.target() == Target::Portable {
        let rows = Rows::packed(bits, mid_rise, columns, weights.codes);
        let rows = if group > 0 { rows.with_divisors(group, weights.divisors)? } else { rows };
        return f(0, weights.channels, &rows);
    }
    let (mut codes, mut divisors) = ([0; BLOCK], [0; BLOCK / 8]);
    let rows = Rows {
        order: if bits < 8 { Order::Unpacked } else { Order::Packed },
        bits,
        mid_rise,
        group,
        columns,
        code_stride: columns,
        codes: &[],
        divisor_stride: packed_len(columns.checked_div(group).unwrap_or(0), 2),
        divisors: &[],
    };
    let offset = if bits < 8 { 1i32.wrapping_shl(u32::from(bits).wrapping_sub(1)) } else { 0 };
    let block = BLOCK.checked_div(columns)?.max(1);
    for first in (0..weights.channels).step_by(block) {
        let count = weights.channels.wrapping_sub(first).min(block);
        for (row, codes) in (first..).zip(codes.chunks_exact_mut(columns)).take(count) {
            for (column, code) in codes.iter_mut().enumerate() {
                *code = (weights.layout.code(weights.codes, row, column)? + offset) as u8;
            }
        }
        if group > 0 {
            for (row, divisors) in (first..).zip(divisors.chunks_exact_mut(rows.divisor_stride)).take(count) {
                for (group, fields) in (0_usize..).step_by(4).zip(divisors) {
                    let field = |at| weights.layout.divisor_field(weights.divisors, row, group + at);
                    // Behind the last group there is none.
                    let [a, b, c, d] = [0, 1, 2, 3].map(|at| field(at).unwrap_or(0));
                    *fields = a | b << 2 | c << 4 | d << 6;
                }
            }
        }
        f(first, count, &Rows { codes: &codes, divisors: &divisors, ..rows })?;
    }
    Some(())
}

/// The result of a channel.
#[inline(always)]
fn finish(weights: &WeightView<'_>, requant: &Requant, channel: usize, sum: i32) -> Option<i8> {
    let p = ChannelParams::read(weights.params.get(channel)?);
    Some(requant.apply(sum.wrapping_add(p.bias), p.multiplier))
}

/// Fully connected layer.
pub(in crate::infer) fn linear(
    backend: Backend,
    x: &[i8],
    weights: &WeightView<'_>,
    requant: &Requant,
    _scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    if !is_covered(weights) {
        return super::linear(x, weights, requant, out);
    }
    let mut product = Product::new(backend);
    each_block(weights, |first, count, rows| {
        product.each_long_row(rows, count, [x], |row, &[sum]| {
            *out.get_mut(first + row)? = finish(weights, requant, first + row, sum)?;
            Some(())
        })
    })
}

/// Convolution over all channels, up to eight pixels at a time; `scratch` as for the portable kernel.
#[allow(clippy::too_many_arguments, reason = "those of the portable kernel, and where to run")]
pub(in crate::infer) fn conv2d(
    backend: Backend,
    x: &[i8],
    windows: &Windows,
    weights: &WeightView<'_>,
    requant: &Requant,
    zero_point: i8,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    if !is_covered(weights) {
        return super::conv2d(x, windows, weights, requant, zero_point, scratch, out);
    }
    let gathered = windows.kernel != [1, 1] || windows.pad != [0, 0];
    let scratch = scratch.get_mut(..if gathered { weights.fan_in } else { 0 })?;
    let mut conv = Conv { x, windows, weights, requant, zero_point, scratch, out };
    let mut product = Product::new(backend);
    let pixels = windows.output[0].checked_mul(windows.output[1])?;
    each_block(weights, |first, count, rows| match Product::lanes(rows, pixels) {
        8 => conv.block::<8>(&mut product, first, count, rows),
        4 => conv.block::<4>(&mut product, first, count, rows),
        1 => conv.block::<1>(&mut product, first, count, rows),
        _ => conv.long_block(&mut product, first, count, rows),
    })
}

struct Conv<'a> {
    x: &'a [i8],
    windows: &'a Windows,
    weights: &'a WeightView<'a>,
    requant: &'a Requant,
    zero_point: i8,
    /// One window; empty if windows are pixels.
    scratch: &'a mut [i8],
    out: &'a mut [i8],
}

impl Conv<'_> {
    /// Some channels of all pixels, `N` at a time.
    fn block<const N: usize>(
        &mut self,
        product: &mut Product,
        first: usize,
        count: usize,
        rows: &Rows<'_>,
    ) -> Option<()> {
        let channels = self.windows.output[2];
        let mut pixels = self.windows.pixels();
        for out in self.out.chunks_mut(N.checked_mul(channels)?.max(1)) {
            let here = out.len().checked_div(channels)?;
            for lane in 0..here {
                let window = window(self.x, self.windows, pixels.next()?, self.zero_point, self.scratch)?;
                product.load(rows, window, lane, N)?;
            }
            product.each_row::<N>(rows, count, |row, sums| {
                let channel = first + row;
                for (out, &sum) in out.iter_mut().skip(channel).step_by(channels).zip(sums) {
                    *out = finish(self.weights, self.requant, channel, sum)?;
                }
                Some(())
            })?;
        }
        Some(())
    }

    /// The same, pixel by pixel, for windows of any length.
    fn long_block(
        &mut self,
        product: &mut Product,
        first: usize,
        count: usize,
        rows: &Rows<'_>,
    ) -> Option<()> {
        let channels = self.windows.output[2].max(1);
        for (pixel, out) in self.windows.pixels().zip(self.out.chunks_exact_mut(channels)) {
            let window = window(self.x, self.windows, pixel, self.zero_point, self.scratch)?;
            product.each_long_row(rows, count, [window], |row, &[sum]| {
                *out.get_mut(first + row)? = finish(self.weights, self.requant, first + row, sum)?;
                Some(())
            })?;
        }
        Some(())
    }
}

/// The activations under the kernel at an output pixel; gathered into `scratch` unless that is empty.
fn window<'a>(
    x: &'a [i8],
    windows: &Windows,
    pixel: (usize, usize),
    zero_point: i8,
    scratch: &'a mut [i8],
) -> Option<&'a [i8]> {
    if scratch.is_empty() {
        return windows.taps(x, pixel).next()?.1;
    }
    windows.gather(x, pixel, zero_point, scratch)?;
    Some(scratch)
}
