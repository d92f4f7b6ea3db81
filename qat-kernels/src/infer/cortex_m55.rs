//! What the kernels for Armv8.1-M with Helium borrow from the arena.

use crate::artifact::cortex_m55::{QUAD, STEP};
use crate::artifact::{OpKind, WeightSpec};

/// Output pixels that a convolution computes together.
pub(crate) const PIXELS: usize = 2;

/// Bytes of a row of activations, filled up to whole steps.
pub(crate) fn row_bytes(columns: usize) -> Option<usize> {
    columns.checked_next_multiple_of(STEP)
}

/// Words of the sums of a linear layer; the last quad of an odd number takes twice the room, because a loop for two pixels
/// computes it.
pub(crate) fn linear_sums(channels: usize) -> Option<usize> {
    channels.div_ceil(QUAD).checked_next_multiple_of(2)?.checked_mul(QUAD)
}

/// Words of the sums of a convolution.
pub(crate) fn pixel_sums(channels: usize) -> Option<usize> {
    channels.div_ceil(QUAD).checked_mul(PIXELS * QUAD)
}

/// Words of the sums of activations of each group, two pixels of them.
pub(crate) const ACTIVATION_WORDS: usize = 2;
/// Words of the sums of each group.
pub(crate) const ROOM_WORDS: usize = 8;

/// Number of groups of a layer, 0 where k is fixed.
pub(crate) fn groups(spec: WeightSpec, columns: usize) -> usize {
    columns.checked_div(spec.group.into()).unwrap_or(0)
}

/// Pairs of output pixels that a convolution with groups computes with a quad that it has multiplied out: the more, the less
/// that costs. Their windows and sums take up to 16 KiB, or as much as two pairs need.
pub(crate) fn block_pairs(channels: usize, columns: usize) -> Option<usize> {
    let windows = row_bytes(columns)?.checked_mul(PIXELS)?;
    Some(match pixel_sums(channels)?.checked_mul(4)?.checked_add(windows)? {
        0..=1024 => 16,
        1025..=2048 => 8,
        2049..=4096 => 4,
        _ => 2,
    })
}

/// Words that a convolution with groups needs: sums of all pairs, factors of each quad.
pub(crate) fn block_words(spec: WeightSpec, channels: usize, columns: usize) -> Option<[usize; 2]> {
    let sums = pixel_sums(channels)?.checked_mul(block_pairs(channels, columns)?)?;
    Some([sums, groups(spec, columns).checked_mul(channels.div_ceil(QUAD))?])
}

/// Bytes besides: a multiplied quad and the windows of a block.
pub(crate) fn block_bytes(channels: usize, columns: usize) -> Option<[usize; 2]> {
    let (row, pairs) = (row_bytes(columns)?, block_pairs(channels, columns)?);
    Some([row.checked_mul(QUAD)?, row.checked_mul(PIXELS)?.checked_mul(pairs)?])
}

/// Words that a linear layer with groups needs besides: sums of activations, room for a group's sums, factors of each quad.
pub(crate) fn group_words(spec: WeightSpec, channels: usize, columns: usize) -> Option<usize> {
    let of_group = channels.div_ceil(QUAD).checked_add(ACTIVATION_WORDS + ROOM_WORDS)?;
    groups(spec, columns).checked_mul(of_group)
}

/// Channels of a block of a depthwise kernel: sixteen as long as the sums of all taps fit sixteen bits, else eight.
pub(crate) fn block(bits: u8, taps: usize) -> usize {
    let widest = taps.saturating_mul(128).saturating_mul(1usize.wrapping_shl(bits.into()));
    if widest <= 0x7FFF { 16 } else { 8 }
}

/// Bytes of the levels of a depthwise kernel, sixteen for each block and tap.
pub(crate) fn level_bytes(bits: u8, taps: usize, channels: usize) -> Option<usize> {
    channels.div_ceil(block(bits, taps)).checked_mul(taps)?.checked_mul(16)
}

/// Words of the sums of a pixel of a depthwise convolution, whole blocks.
pub(crate) fn depthwise_sums(bits: u8, taps: usize, channels: usize) -> Option<usize> {
    channels.checked_next_multiple_of(block(bits, taps))
}

/// Bytes of scratch memory: room to align it to words, then what the kernels prepare. `columns` meet in one output.
pub(super) fn scratch_len(spec: WeightSpec, kind: OpKind, [channels, columns]: [usize; 2]) -> Option<usize> {
    let (words, bytes) = match kind {
        OpKind::Linear => {
            (linear_sums(channels)?.checked_add(group_words(spec, channels, columns)?)?, row_bytes(columns)?)
        }
        OpKind::Conv2d if spec.group > 0 => {
            let ([sums, factors], [quad, rows]) =
                (block_words(spec, channels, columns)?, block_bytes(channels, columns)?);
            (sums.checked_add(factors)?, quad.checked_add(rows)?)
        }
        OpKind::Conv2d => (pixel_sums(channels)?, row_bytes(columns)?.checked_mul(PIXELS)?),
        OpKind::DepthwiseConv2d => {
            let sums = depthwise_sums(spec.bits, columns, channels)?;
            (sums, level_bytes(spec.bits, columns, channels)?.checked_add(channels)?)
        }
        _ => return Some(0),
    };
    words.checked_mul(4)?.checked_add(bytes)?.checked_add(3)
}
