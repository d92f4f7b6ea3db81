//! Convolution of every channel with a kernel of its own: multiplied.

use super::super::{Requant, WeightView, Windows};
use super::{params, read};
use crate::arch::bytes::{halves_mut, of_words_mut, words_mut};
use crate::infer::planes::{depthwise_levels, depthwise_row};
use crate::pack::{packed_len, sign_extend};

/// `scratch` holds the levels as halfwords, a row for each tap, and behind them one pixel of padding.
#[inline(never)]
pub(in crate::infer) fn depthwise_conv2d(
    x: &[i8],
    windows: &Windows,
    weights: &WeightView<'_>,
    requant: &Requant,
    zero_point: i8,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    let channels = windows.input[2];
    let taps = windows.kernel[0].checked_mul(windows.kernel[1])?;
    let row = depthwise_row(channels)?.max(1);
    let (levels, padding) = words_mut(scratch).split_at_mut_checked(depthwise_levels(taps, channels)? / 2)?;
    let levels = halves_mut(levels);
    spread(weights, channels, levels.chunks_mut(row))?;
    let levels = &*levels;
    let padding = of_words_mut(padding).get_mut(..channels)?;
    padding.fill(zero_point);
    let padding = &*padding;
    // Narrower bounds are rare and not worth two registers here.
    let int8 = Requant { lo: i8::MIN.into(), hi: i8::MAX.into(), ..*requant };
    let params = params(weights)?;
    #[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
    let mut window =
        crate::arch::planes::Taps::new(x, windows.input, windows.kernel, padding, levels.chunks(row))?;
    for (at, out) in windows.pixels().zip(out.chunks_exact_mut(channels.max(1))) {
        #[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
        let done = match requant.shift {
            // As in all layers but those whose results have a larger scale than their accumulators.
            32 => {
                let (top, left) = (at.0 * windows.stride[0], at.1 * windows.stride[1]);
                window.place(top.wrapping_sub(windows.pad[0]), left.wrapping_sub(windows.pad[1]));
                window.pixel(params, requant.zero_point, out)
            }
            _ => 0,
        };
        #[cfg(not(any(core_family = "cortex-m0", core_family = "riscv32")))]
        let done = 0;
        for (c, (y, p)) in out.iter_mut().zip(params).enumerate().skip(done) {
            let p = read(p);
            let mut acc = p.bias;
            for ((_, values), levels) in windows.taps(x, at).zip(levels.chunks(row)) {
                let values = values.unwrap_or(padding);
                acc = acc.wrapping_add(i32::from(*levels.get(c)?).wrapping_mul((*values.get(c)?).into()));
            }
            *y = int8.apply(acc, p.multiplier);
        }
    }
    requant.clamp_all(out);
    Some(())
}

/// Twice the levels, a row for each tap. Rows of codes are those of the portable order.
fn spread<'a>(
    weights: &WeightView<'_>,
    channels: usize,
    levels: impl Iterator<Item = &'a mut [i16]>,
) -> Option<()> {
    let (bits, half) = (u32::from(weights.spec.bits), i32::from(weights.spec.grid != 0));
    let rows = weights.codes.chunks(packed_len(channels, weights.spec.bits).max(1));
    for (levels, row) in levels.zip(rows) {
        let mut bytes = row.iter();
        // Bits that have been read and not yet used.
        let (mut word, mut len) = (0u32, 0u32);
        for level in levels.get_mut(..channels)? {
            if len < bits {
                word |= u32::from(*bytes.next()?).wrapping_shl(len);
                len = len.wrapping_add(8);
            }
            *level = (2 * sign_extend(word, bits) + half) as i16;
            word = word.wrapping_shr(bits);
            len = len.wrapping_sub(bits);
        }
    }
    Some(())
}
