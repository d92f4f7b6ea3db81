//! What the kernels for Armv7E-M borrow from the arena: activations as halfwords, in the order in which the kernels read
//! them.

use crate::artifact::cortex_m4::{STEP, Stream};
use crate::artifact::{OpKind, WeightSpec};

/// Words of the levels of a depthwise kernel: a halfword for each tap and channel, taps filled up to whole turns of the
/// loop; channels that fill no word are left out.
pub(crate) fn depthwise_words(taps: usize, channels: usize) -> Option<usize> {
    taps.checked_next_multiple_of(3)?.checked_mul(channels / 4 * 2)
}

/// Bytes of scratch memory: room to align it to words, then what the kernel prepares. `columns` meet in one output and
/// `window` bytes are gathered for it, with zeros up to a whole step.
pub(super) fn scratch_len(
    kind: OpKind,
    spec: WeightSpec,
    columns: usize,
    channels: usize,
    window: usize,
) -> Option<usize> {
    let (words, rest) = match kind {
        OpKind::DepthwiseConv2d => (depthwise_words(columns, channels)?, channels),
        _ => {
            (Stream::of(kind, spec.bits, spec.group).words(columns)?, window.checked_next_multiple_of(STEP)?)
        }
    };
    words.checked_mul(4)?.checked_add(3)?.checked_add(rest)
}
