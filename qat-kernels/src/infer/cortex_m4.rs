//! What the kernels for Armv7E-M borrow from the arena: activations as halfwords, in the order in which the kernels read
//! them.

use crate::artifact::{OpKind, cortex_m4::STEP};

/// Columns after which the sums of two channels that share a word are taken apart.
pub(crate) const WINDOW: usize = 32;
/// Output pixels that a convolution computes together.
pub(crate) const PIXELS: usize = 4;
/// Words at the head of a window of a linear layer's stream.
pub(crate) const LINEAR_HEAD: usize = 2;

/// Words of the stream of a layer with so many columns: for each window a head, then one word for every two columns and
/// pixel; at the end a head of zeros.
pub(crate) fn stream_words(kind: OpKind, columns: usize) -> Option<usize> {
    let columns = columns.checked_next_multiple_of(STEP)?;
    let heads = columns.div_ceil(WINDOW).checked_add(1)?;
    match kind {
        OpKind::Linear => heads.checked_mul(LINEAR_HEAD)?.checked_add(columns / 2),
        _ => heads.checked_add(columns / 2)?.checked_mul(PIXELS),
    }
}

/// Words of the levels of a depthwise kernel: a halfword for each tap and channel, taps filled up to whole turns of the
/// loop; channels that fill no word are left out.
pub(crate) fn depthwise_words(taps: usize, channels: usize) -> Option<usize> {
    taps.checked_next_multiple_of(3)?.checked_mul(channels / 4 * 2)
}

/// Bytes of scratch memory: room to align it to words, then what the kernel prepares. `columns` meet in one output and
/// `window` bytes are gathered for it.
pub(super) fn scratch_len(kind: OpKind, columns: usize, channels: usize, window: usize) -> Option<usize> {
    match kind {
        OpKind::DepthwiseConv2d => {
            depthwise_words(columns, channels)?.checked_mul(4)?.checked_add(3)?.checked_add(channels)
        }
        _ => stream_words(kind, columns)?.checked_mul(4)?.checked_add(3)?.checked_add(window),
    }
}
