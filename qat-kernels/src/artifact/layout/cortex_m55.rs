//! Armv8.1-M with Helium: a vector holds one byte for each of sixteen columns, `VAND` with a mask leaves one of the codes in
//! every byte, `VMLADAVA` multiplies them with sixteen activations.
//!
//! Four rows, a quad, are packed together, sixteen columns, a step, at a time. Where the rows of a quad lie in a byte:
//!
//! | bits | vectors of a step | rows 0, 1, 2, 3 at bits |
//! |---|---|---|
//! | 2 | 1 | 0–1, 2–3, 4–5, 6–7 |
//! | 3 | 1½ | 0–2, 3–5, shared 4–6, shared 7 (lowest bit) and 6–7 |
//! | 4 | 2 | 0–3 and 4–7 of the first, of the second |
//! | 8 | 4 | a vector for each row |
//!
//! At three bits two steps share a vector, which comes before theirs; the second step has its fields four bits lower. If the
//! number of steps is odd, the first step has a shared vector of its own.

use super::{Layout, OpKind};

/// Columns of a vector; rows of the matrix are filled up to whole steps.
pub(crate) const STEP: usize = 16;
/// Rows that share vectors.
pub(crate) const QUAD: usize = 4;
/// Quads that a linear layer computes together.
const LINEAR_QUADS: usize = 2;
/// Taps that a depthwise kernel may have.
pub(crate) const TAPS: usize = 27;
/// Columns that a matrix may have: the sums of the topmost codes of a byte, 64 times too large, still fit 32 bits.
const COLUMNS: usize = 1 << 16;

/// The same where the sums are up to 30 times larger.
const GROUPED_COLUMNS: usize = 1 << 12;

pub(super) fn exists(kind: OpKind, bits: u8, group: u8, [rows, columns]: [usize; 2]) -> bool {
    match kind {
        OpKind::Linear | OpKind::Conv2d => match group {
            0 => matches!(bits, 2 | 3 | 4 | 8) && columns <= COLUMNS,
            _ => bits == 2 && matches!(group, 16 | 32) && columns <= GROUPED_COLUMNS,
        },
        // In the portable order; its kernel is a matter of scratch memory only.
        OpKind::DepthwiseConv2d => group == 0 && rows <= TAPS,
        _ => false,
    }
}

/// Whether the codes lie in plain rows.
const fn is_plain(kind: OpKind) -> bool {
    matches!(kind, OpKind::DepthwiseConv2d)
}

/// Vectors of a quad over its first `steps` steps.
pub(crate) fn vectors(bits: u8, steps: usize) -> usize {
    match bits {
        3 => steps.wrapping_add(steps.div_ceil(2)),
        _ => steps.wrapping_mul((bits / 2).into()),
    }
}

pub(super) fn code_bytes(layout: &Layout) -> Option<usize> {
    if is_plain(layout.kind) {
        return layout.portable_code_bytes();
    }
    let quad = vectors(layout.bits, layout.columns.div_ceil(STEP)).checked_mul(STEP)?;
    layout.rows.div_ceil(QUAD).checked_mul(quad)
}

/// A byte for each group of a quad, rows from the lowest bits on.
pub(super) fn divisor_bytes(layout: &Layout, groups: usize) -> Option<usize> {
    layout.rows.div_ceil(QUAD).checked_mul(groups)
}

pub(super) fn divisor_of(row: usize, group: usize, groups: usize) -> usize {
    (row / QUAD * groups + group) * QUAD + row % QUAD
}

/// The last row of those that share a byte lies at its top, where its sign is the byte's: it is stored as two's complement,
/// the others without sign.
pub(crate) fn is_unsigned(bits: u8, row: usize) -> bool {
    let sharing = match bits {
        2 | 3 => 4,
        4 => 2,
        _ => 1,
    };
    row % sharing != sharing - 1
}

pub(super) fn is_offset(layout: &Layout, row: usize) -> bool {
    !is_plain(layout.kind) && is_unsigned(layout.bits, row)
}

pub(super) fn bit_of(layout: &Layout, row: usize, column: usize, bit: usize) -> usize {
    if is_plain(layout.kind) {
        return layout.portable_bit_of(row, column, bit);
    }
    let (steps, step) = (layout.columns.div_ceil(STEP), column / STEP);
    // The first of the steps whose vectors lie side by side, and how many they are.
    let odd = steps % 2;
    let (unit, of_unit) = match layout.bits {
        3 if odd == 1 && step == 0 => (0, 1),
        3 => ((step + odd) / 2 * 2 - odd, 2),
        _ => (step, 1),
    };
    let second = step - unit;
    let (vector, at) = match (layout.bits, row % QUAD) {
        (2, row) => (0, 2 * row + bit),
        (3, row @ 0..2) => (1 + second, 3 * row + bit),
        (3, 2) => (0, 4 - 4 * second + bit),
        (3, _) if bit == 0 => (0, 7 - 4 * second),
        (3, _) => (1 + second, 5 + bit),
        (4, row) => (row / 2, row % 2 * 4 + bit),
        (_, row) => (row, bit),
    };
    let quad = row / QUAD;
    let of_quad = vectors(layout.bits, steps);
    // The first of the quads that alternate unit by unit, and how many they are.
    let (first, together) = match layout.kind {
        OpKind::Linear => {
            let first = quad / LINEAR_QUADS * LINEAR_QUADS;
            (first, (layout.rows.div_ceil(QUAD) - first).min(LINEAR_QUADS))
        }
        _ => (quad, 1),
    };
    let before = first * of_quad + together * vectors(layout.bits, unit);
    let vector = before + (quad - first) * vectors(layout.bits, of_unit) + vector;
    (vector * STEP + column % STEP) * 8 + at
}
