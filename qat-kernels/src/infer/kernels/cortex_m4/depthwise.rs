//! Convolution of every channel with a kernel of its own.

use super::super::{Requant, WeightView, Windows};
use crate::arch::bytes::words_mut;
use crate::arch::cortex_m4::{DEPTHWISE_QUAD as QUAD, DEPTHWISE_TURN as TURN, Taps, depthwise_pixel};
use crate::artifact::ChannelParams;
use crate::infer::cortex_m4::depthwise_words;
use crate::pack::{code_at, packed_len};

/// `scratch` holds the levels as halfwords, and behind them one pixel of padding.
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
    let words = depthwise_words(taps, channels)?;
    let scratch = scratch.get_mut(scratch.as_ptr().align_offset(4)..)?;
    let (levels, padding) = scratch.split_at_mut_checked(words.checked_mul(4)?)?;
    let (levels, padding) = (words_mut(levels).get_mut(..words)?, padding.get_mut(..channels)?);
    spread(weights, taps, levels)?;
    padding.fill(zero_point);
    let quads = channels / QUAD * QUAD;
    let mut window = Taps::new(x, windows.input, windows.kernel, padding)?;
    let rounding = requant.rounding();
    for ((row, column), pixel) in windows.pixels().zip(out.chunks_exact_mut(channels.max(1))) {
        let (top, left) = (row * windows.stride[0], column * windows.stride[1]);
        window.place(top.wrapping_sub(windows.pad[0]), left.wrapping_sub(windows.pad[1]));
        let (whole, _) = pixel.split_at_mut_checked(quads)?;
        depthwise_pixel(&window, levels, weights.params, rounding, whole)?;
        // Channels that fill no word.
        for (c, y) in pixel.iter_mut().enumerate().skip(quads) {
            let p = ChannelParams::read(weights.params.get(c)?);
            let mut acc = p.bias;
            for (tap, values) in windows.taps(x, (row, column)) {
                let x = values.map_or(Some(&zero_point), |v| v.get(c))?;
                acc = acc.wrapping_add(twice_level(weights, channels, tap, c)?.wrapping_mul((*x).into()));
            }
            *y = requant.apply(acc, p.multiplier);
        }
    }
    requant.clamp_all(out);
    Some(())
}

/// Rows are those of the portable order.
fn twice_level(weights: &WeightView<'_>, channels: usize, tap: usize, channel: usize) -> Option<i32> {
    let row_len = packed_len(channels, weights.spec.bits);
    let row = weights.codes.get(tap.checked_mul(row_len)?..)?.get(..row_len)?;
    Some(2 * code_at(weights.spec.bits, row, channel)? + i32::from(weights.spec.grid != 0))
}

/// Twice the levels of whole words of channels, as the loop reads them; those of taps that only fill a turn are zero.
fn spread(weights: &WeightView<'_>, taps: usize, levels: &mut [u32]) -> Option<()> {
    let (bits, half) = (u32::from(weights.spec.bits), i32::from(weights.spec.grid != 0));
    let row_len = packed_len(weights.channels, weights.spec.bits);
    let turns = taps.next_multiple_of(TURN);
    for (quad, words) in levels.chunks_exact_mut((2 * turns).max(1)).enumerate() {
        // Four codes take no more than 32 bits, and begin with a byte or in its middle where they take less.
        let bit = quad.checked_mul(QUAD)?.checked_mul(bits as usize)?;
        let mut from = bit / 8;
        let (whole, rest) = words.as_chunks_mut::<2>().0.split_at_mut_checked(taps)?;
        for pair in whole {
            let bytes = weights.codes.get(from..)?;
            let word = match bytes.first_chunk() {
                Some(&word) => u32::from_le_bytes(word),
                None => bytes.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte)),
            };
            let mut word = word.wrapping_shr(bit as u32 % 8);
            let mut level = || {
                let unused = 32u32.wrapping_sub(bits);
                let code = word.wrapping_shl(unused).cast_signed().wrapping_shr(unused);
                // The last of four 8-bit codes is followed by nothing.
                word = word.wrapping_shr(bits);
                u32::from((2 * code + half) as u16)
            };
            let (a, b, c, d) = (level(), level(), level(), level());
            *pair = [a | c << 16, b | d << 16];
            from += row_len;
        }
        rest.as_flattened_mut().fill(0);
    }
    Some(())
}
