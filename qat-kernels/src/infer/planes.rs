//! What the bit-plane kernels borrow from the arena: tables of sums, one accumulator for each channel, gathered windows.

use crate::artifact::planes::{LINEAR_STEP, PAIR};
use crate::artifact::{OpKind, Target, WeightSpec};

/// Sums of eight activations, two sets in the halves of a word: 1 KiB.
pub(crate) type Table = [u32; TABLE_WORDS];

/// Its words.
pub(crate) const TABLE_WORDS: usize = 256;

/// Tables of one step: a linear layer's four blocks of columns, a convolution's two blocks of two pixels.
pub(crate) const STEP_TABLES: usize = 2;

/// Steps of a linear layer that are taken at once. More of them load and store the accumulators less often, and need
/// more memory: Cortex-M0s have 2 KiB to spare, and no registers to address more tables anyway.
pub(crate) const fn linear_steps(target: Target) -> usize {
    if matches!(target, Target::RiscV32) { 2 } else { 1 }
}

/// Whether a convolution copies its windows: they are read sixteen columns at a time.
pub(crate) fn is_gathered(columns: usize, always_inside: bool) -> bool {
    !always_inside || !columns.is_multiple_of(PAIR)
}

/// Bytes of a gathered window, filled up to whole steps.
pub(crate) fn window_len(columns: usize) -> Option<usize> {
    columns.checked_next_multiple_of(PAIR)
}

/// Halfwords between the levels of a depthwise kernel's taps.
pub(crate) fn depthwise_row(channels: usize) -> Option<usize> {
    channels.checked_next_multiple_of(4)
}

/// Halfwords of the levels of a depthwise kernel.
pub(crate) fn depthwise_levels(taps: usize, channels: usize) -> Option<usize> {
    taps.checked_mul(depthwise_row(channels)?)
}

/// Bytes of scratch memory: room to align it to words, then what the kernel prepares. `columns` meet in one output and
/// `window` bytes are gathered for it by engines without these kernels.
pub(crate) fn scratch_len(
    target: Target,
    spec: WeightSpec,
    kind: OpKind,
    [rows, columns]: [usize; 2],
    window: usize,
) -> Option<usize> {
    let bytes = match kind {
        OpKind::DepthwiseConv2d => {
            let levels = depthwise_levels(columns, rows)?.checked_mul(size_of::<i16>())?;
            levels.checked_add(rows.checked_next_multiple_of(4)?)?
        }
        _ if spec.bits == 8 => return Some(window),
        OpKind::Linear => {
            let tables = linear_steps(target) * STEP_TABLES * size_of::<Table>();
            rows.checked_mul(size_of::<i32>())?.checked_add(tables)?
        }
        _ => {
            let gathered = is_gathered(columns, window == 0);
            let windows = if gathered { window_len(columns)?.checked_mul(2)? } else { 0 };
            let sums = rows.checked_mul(2 * size_of::<i32>())?;
            sums.checked_add(STEP_TABLES * size_of::<Table>())?.checked_add(windows)?
        }
    };
    bytes.checked_add(3)
}

const _: () = assert!(LINEAR_STEP == STEP_TABLES * PAIR);
