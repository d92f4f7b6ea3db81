//! Armv7E-M: words of weights from which a mask, or nothing at all, leaves what `SMLAD` multiplies with two columns at once.

use super::super::record::{OpKind, WeightSpec};
use super::Layout;

/// Columns of a step of the kernels; rows are filled up to whole steps.
pub(crate) const STEP: usize = 16;
/// Taps that a depthwise kernel may have.
pub(crate) const TAPS: usize = 27;
/// Columns that sums of groups, which are kept four times as large, have room for.
const GROUPED_COLUMNS: usize = 1 << 15;

/// How a layer's kernel reads the activations: the pixels that it computes together side by side, a word for every two
/// columns of each, in windows that begin with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) pixels: usize,
    /// Columns of a window; 0 if there are no windows.
    pub(crate) window: usize,
    /// Words at the head of a window.
    pub(crate) head: usize,
    /// Whether a head of zeros follows the last window.
    pub(crate) has_end: bool,
}

impl Stream {
    /// That of a linear layer or a convolution.
    pub(crate) const fn of(kind: OpKind, bits: u8, group: u8) -> Self {
        let is_linear = matches!(kind, OpKind::Linear);
        let pixels = if is_linear { 1 } else { 8 / band(kind, bits) };
        let (window, head) = match (bits, group) {
            // A head for every two channels that share a word, or one for both.
            (2, 0) => (32, if is_linear { 2 } else { pixels }),
            (2, 8) => (8, pixels),
            (2, _) => (STEP, pixels),
            (3, _) => (48, 3 * pixels),
            _ => (0, 0),
        };
        Self { pixels, window, head, has_end: group == 0 && window > 0 }
    }

    /// Its length for so many columns.
    pub(crate) fn words(&self, columns: usize) -> Option<usize> {
        let columns = columns.checked_next_multiple_of(STEP)?;
        let windows = if self.window == 0 { 0 } else { columns.div_ceil(self.window) };
        let heads = windows.checked_add(usize::from(self.has_end))?.checked_mul(self.head)?;
        (columns / 2).checked_mul(self.pixels)?.checked_add(heads)
    }
}

pub(super) fn exists(kind: OpKind, spec: WeightSpec, rows: usize, columns: usize) -> bool {
    match kind {
        OpKind::Linear | OpKind::Conv2d => match spec.group {
            0 => matches!(spec.bits, 2 | 3 | 4 | 8),
            _ => spec.bits == 2 && columns <= GROUPED_COLUMNS,
        },
        // In the portable order; its kernel is a matter of scratch memory only.
        OpKind::DepthwiseConv2d => spec.group == 0 && rows <= TAPS,
        _ => false,
    }
}

/// Whether the codes lie in plain rows.
const fn is_plain(kind: OpKind) -> bool {
    matches!(kind, OpKind::DepthwiseConv2d)
}

/// Rows that are interleaved step by step.
pub(crate) const fn band(kind: OpKind, bits: u8) -> usize {
    if matches!(kind, OpKind::Conv2d) && bits == 2 { 2 } else { 4 }
}

pub(super) fn code_bytes(layout: &Layout) -> Option<usize> {
    if is_plain(layout.kind) {
        return layout.portable_code_bytes();
    }
    let rows = layout.rows.checked_next_multiple_of(band(layout.kind, layout.bits))?;
    let columns = layout.columns.checked_next_multiple_of(STEP)?;
    rows.checked_mul(columns / 8)?.checked_mul(layout.bits.into())
}

/// Two rows of a convolution share a nibble, in bytes of their own; four rows of a linear layer share a byte.
pub(super) fn divisor_bytes(layout: &Layout, groups: usize) -> Option<usize> {
    let band = band(layout.kind, layout.bits);
    layout.rows.div_ceil(band).checked_mul(band_divisors(layout.kind, layout.group, groups))
}

/// Bytes of the divisors of a band.
pub(crate) fn band_divisors(kind: OpKind, group: u8, groups: usize) -> usize {
    match (kind, group) {
        // The kernel goes through two windows of 16 in a turn, or through two of 8.
        (OpKind::Linear, 8) => groups.next_multiple_of(2),
        (OpKind::Linear, _) | (_, 32) => groups,
        _ => groups.div_ceil(2),
    }
}

pub(super) fn divisor_of(layout: &Layout, row: usize, group: usize, groups: usize) -> usize {
    let band = band(layout.kind, layout.bits);
    let nibble = match layout.group {
        32 => 2 * group,
        // With an odd number of windows the kernel begins with the second one of its turn.
        16 => group + groups % 2,
        _ => group,
    };
    let within = if band == 2 { 2 * nibble } else { 4 * group };
    row / band * band_divisors(layout.kind, layout.group, groups) * 4 + within + row % band
}

/// Whether a row's codes are stored as `q + 2^(b−1)`: all but those at the top of a halfword, where `SMLAD` sees a sign.
pub(super) fn is_unsigned(layout: &Layout, row: usize) -> bool {
    match layout.bits {
        _ if is_plain(layout.kind) => false,
        3 => row % 4 == 3,
        4 => row % 4 != 3,
        _ => row.is_multiple_of(2),
    }
}

/// Whether a row's codes are stored as `−1 − q`: −2 times −128 would be one too many for the low sum of a group of 16.
pub(super) fn is_complemented(layout: &Layout, row: usize) -> bool {
    layout.group > 0 && row.is_multiple_of(2)
}

pub(super) fn bit_of(layout: &Layout, row: usize, column: usize, bit: usize) -> usize {
    if is_plain(layout.kind) {
        return layout.portable_bit_of(row, column, bit);
    }
    let band = band(layout.kind, layout.bits);
    let (steps, step, lane) = (layout.columns.div_ceil(STEP), column / STEP, row % band);
    // A turn takes two columns, one in each halfword: SXTB16 takes bytes 0 and 2 of four activations, then 1 and 3.
    let turn = column / 4 % 4 * 2 + column % 2;
    let high = column / 2 % 2;
    let (word, place) = match layout.bits {
        // Two rows share a halfword; rotating by 4 brings the next turn into the place of the mask.
        2 => (turn / 4 * (band / 2) + lane / 2, turn % 4 * 4 + lane % 2 * 14 + bit),
        // Each of three rows shares a halfword with one bit of the fourth row; rotated likewise.
        3 => {
            let (set, place) = if lane < 3 { (lane, 13 + bit) } else { (bit, 0) };
            let set = 3 * turn + set;
            (set / 4, set % 4 * 4 + place)
        }
        // Four rows share a halfword.
        4 => (turn, 4 * lane + bit),
        // Two rows share a halfword.
        _ => (2 * turn + lane / 2, lane % 2 * 8 + bit),
    };
    let words = usize::from(layout.bits) * band / 2;
    ((row / band * steps + step) * words + word) * 32 + (place + 16 * high) % 32
}
