//! Cores without a fast multiplier: bit `j` of eight codes makes a byte, the index into a table of what eight activations
//! add up to.

use super::{Layout, OpKind};

/// Columns whose bits of one place fill a byte.
const BLOCK: usize = 8;
/// Columns of a pair of blocks; rows are filled up to whole pairs, and divisors belong to pairs.
pub(crate) const PAIR: usize = 2 * BLOCK;
/// Columns that a linear layer with fixed k takes in one step.
pub(crate) const LINEAR_STEP: usize = 2 * PAIR;
/// Rows whose divisors share a byte.
pub(crate) const QUAD: usize = 4;
/// Taps that a depthwise kernel may have.
pub(crate) const TAPS: usize = super::cortex_m4::TAPS;
/// Codes of more bits are cheaper to multiply than to look up plane by plane.
const MAX_PLANES: u8 = 4;

pub(super) fn exists(kind: OpKind, bits: u8, group: u8, rows: usize) -> bool {
    match kind {
        OpKind::Linear | OpKind::Conv2d if bits <= MAX_PLANES => matches!(group, 0 | 16 | 32),
        // In the portable order; their kernels differ in nothing else.
        OpKind::Linear | OpKind::Conv2d => bits == 8 && group == 0,
        OpKind::DepthwiseConv2d => group == 0 && rows <= TAPS,
        _ => false,
    }
}

/// Whether the codes lie in plain rows.
fn is_plain(layout: &Layout) -> bool {
    matches!(layout.kind, OpKind::DepthwiseConv2d) || layout.bits > MAX_PLANES
}

/// Columns whose planes lie side by side.
fn step(layout: &Layout) -> usize {
    if matches!(layout.kind, OpKind::Linear) && layout.group == 0 { LINEAR_STEP } else { PAIR }
}

pub(super) fn code_bytes(layout: &Layout) -> Option<usize> {
    if is_plain(layout) {
        return layout.portable_code_bytes();
    }
    let columns = layout.columns.checked_next_multiple_of(step(layout))?;
    layout.rows.checked_mul(columns / BLOCK)?.checked_mul(layout.bits.into())
}

/// Steps follow one another; in a step the rows, in a row the planes from the sign down, in a plane its blocks.
///
/// Of sixteen columns, those at 0, 1, 4, 5, 8, … make the first block: what a mask leaves of words of four activations.
pub(super) fn bit_of(layout: &Layout, row: usize, column: usize, bit: usize) -> usize {
    if is_plain(layout) {
        return layout.portable_bit_of(row, column, bit);
    }
    let (step, planes) = (step(layout), usize::from(layout.bits));
    let block = column % step / PAIR * 2 + column / 2 % 2;
    let place = column % PAIR / 4 * 2 + column % 2;
    let row = column / step * layout.rows + row;
    let plane = row * planes + planes - 1 - bit;
    (plane * (step / BLOCK) + block) * BLOCK + place
}

pub(super) fn divisor_bytes(layout: &Layout, groups: usize) -> Option<usize> {
    layout.rows.div_ceil(QUAD).checked_mul(groups)
}

/// Group after group, so that a step reads the divisors of all rows in one run.
pub(super) fn divisor_of(layout: &Layout, row: usize, group: usize) -> usize {
    group * layout.rows.next_multiple_of(QUAD) + row
}
