//! Where the bits of a code lie: the pure arithmetic of every packed order, so that any file can be read anywhere.
//!
//! `docs/format.md` describes the orders; this is the one place that computes them. Kernels for a core family read whole
//! words of its order; everything else reads one code at a time through [`Layout::code`].

pub(crate) mod cortex_m4;
pub(crate) mod cortex_m55;
pub(crate) mod planes;

use super::record::{OpKind, WeightSpec};
use super::target::Target;
use crate::pack::packed_len;

/// The order of one layer's codes and divisors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    target: Target,
    kind: OpKind,
    bits: u8,
    group: u8,
    /// Rows of the matrix: output channels, or taps of a depthwise kernel.
    rows: usize,
    /// Codes of a row.
    columns: usize,
}

impl Layout {
    /// The family's order for such a layer, `None` if it has none of its own: the layer is then packed portably.
    pub(crate) fn new(
        target: Target,
        kind: OpKind,
        spec: WeightSpec,
        rows: usize,
        columns: usize,
    ) -> Option<Self> {
        let exists = match target {
            Target::Portable => true,
            Target::CortexM4 => cortex_m4::exists(kind, spec, rows, columns),
            Target::CortexM55 => cortex_m55::exists(kind, spec.bits, spec.group, [rows, columns]),
            Target::CortexM0 | Target::RiscV32 => planes::exists(kind, spec.bits, spec.group, rows),
            Target::Host => false,
        };
        exists.then_some(Self { target, kind, bits: spec.bits, group: spec.group, rows, columns })
    }

    pub(crate) const fn target(&self) -> Target {
        self.target
    }

    /// Bytes of all codes.
    pub(crate) fn code_bytes(&self) -> Option<usize> {
        match self.target {
            Target::CortexM4 => cortex_m4::code_bytes(self),
            Target::CortexM55 => cortex_m55::code_bytes(self),
            Target::CortexM0 | Target::RiscV32 => planes::code_bytes(self),
            _ => self.portable_code_bytes(),
        }
    }

    /// Bytes of all divisors, 0 where k is fixed.
    pub(crate) fn divisor_bytes(&self) -> Option<usize> {
        if self.group == 0 {
            return Some(0);
        }
        let groups = self.columns / usize::from(self.group);
        match self.target {
            Target::CortexM4 => cortex_m4::divisor_bytes(self, groups),
            Target::CortexM55 => cortex_m55::divisor_bytes(self, groups),
            Target::CortexM0 | Target::RiscV32 => planes::divisor_bytes(self, groups),
            _ => self.rows.checked_mul(packed_len(groups, 2)),
        }
    }

    /// The place of bit `bit` of a code among the bits of all codes; bit 0 of byte 0 is the first.
    fn bit_of(&self, row: usize, column: usize, bit: usize) -> usize {
        match self.target {
            Target::CortexM4 => cortex_m4::bit_of(self, row, column, bit),
            Target::CortexM55 => cortex_m55::bit_of(self, row, column, bit),
            Target::CortexM0 | Target::RiscV32 => planes::bit_of(self, row, column, bit),
            _ => self.portable_bit_of(row, column, bit),
        }
    }

    fn portable_code_bytes(&self) -> Option<usize> {
        self.rows.checked_mul(packed_len(self.columns, self.bits))
    }

    fn portable_bit_of(&self, row: usize, column: usize, bit: usize) -> usize {
        let row_bits = packed_len(self.columns, self.bits) * 8;
        row * row_bits + column * usize::from(self.bits) + bit
    }

    /// Whether a row's codes are stored as `q + 2^(b−1)`, so that they have no sign.
    fn is_unsigned(&self, row: usize) -> bool {
        match self.target {
            Target::CortexM4 => cortex_m4::is_unsigned(self, row),
            Target::CortexM55 => cortex_m55::is_offset(self, row),
            _ => false,
        }
    }

    /// Whether a row's codes are stored as `−1 − q`.
    fn is_complemented(&self, row: usize) -> bool {
        match self.target {
            Target::CortexM4 => cortex_m4::is_complemented(self, row),
            _ => false,
        }
    }

    /// The code of a weight; `None` outside the matrix or the bytes.
    pub(crate) fn code(&self, codes: &[u8], row: usize, column: usize) -> Option<i32> {
        if row >= self.rows || column >= self.columns {
            return None;
        }
        let bits = usize::from(self.bits);
        let mut field = 0u32;
        for bit in 0..bits {
            let at = self.bit_of(row, column, bit);
            let one = u32::from(*codes.get(at / 8)?) >> (at % 8) & 1;
            field |= one.wrapping_shl(bit as u32);
        }
        let half = 1i32.wrapping_shl(u32::from(self.bits).wrapping_sub(1));
        let field = field.cast_signed();
        let code = if self.is_unsigned(row) { field - half } else { (field ^ half) - half };
        Some(if self.is_complemented(row) { !code } else { code })
    }

    /// The field `k − 2` of a group's divisor.
    pub(crate) fn divisor_field(&self, divisors: &[u8], row: usize, group: usize) -> Option<u8> {
        let groups = self.columns.checked_div(self.group.into())?;
        if row >= self.rows || group >= groups {
            return None;
        }
        let field = self.divisor_of(row, group, groups);
        Some(divisors.get(field / 4)? >> (field % 4 * 2) & 3)
    }

    /// The place of a divisor's two bits among those of all divisors, in units of two bits.
    fn divisor_of(&self, row: usize, group: usize, groups: usize) -> usize {
        match self.target {
            Target::CortexM4 => cortex_m4::divisor_of(self, row, group, groups),
            Target::CortexM55 => cortex_m55::divisor_of(row, group, groups),
            Target::CortexM0 | Target::RiscV32 => planes::divisor_of(self, row, group),
            _ => row * packed_len(groups, 2) * 4 + group,
        }
    }

    /// Puts a code in place; its bits must still be zero.
    #[cfg(feature = "alloc")]
    pub(crate) fn put_code(&self, codes: &mut [u8], row: usize, column: usize, code: i8) {
        let code = if self.is_complemented(row) { !code } else { code };
        let offset = if self.is_unsigned(row) { 1u32 << (self.bits - 1) } else { 0 };
        let field = (i32::from(code).cast_unsigned()).wrapping_add(offset);
        for bit in 0..usize::from(self.bits) {
            let at = self.bit_of(row, column, bit);
            if let Some(byte) = codes.get_mut(at / 8) {
                *byte |= ((field >> bit & 1) as u8) << (at % 8);
            }
        }
    }

    /// Puts a divisor in place; its bits must still be zero.
    #[cfg(feature = "alloc")]
    pub(crate) fn put_divisor(&self, divisors: &mut [u8], row: usize, group: usize, k: u8) {
        let groups = self.columns / usize::from(self.group);
        let field = self.divisor_of(row, group, groups);
        if let Some(byte) = divisors.get_mut(field / 4) {
            *byte |= (k - 2) << (field % 4 * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layouts() -> impl Iterator<Item = Layout> {
        let kinds = [OpKind::Linear, OpKind::Conv2d, OpKind::DepthwiseConv2d];
        Target::ALL.into_iter().flat_map(move |target| {
            kinds.into_iter().flat_map(move |kind| {
                (2..=8u8).flat_map(move |bits| {
                    [0u8, 8, 16, 32].into_iter().flat_map(move |group| {
                        let spec = WeightSpec { bits, grid: 0, layout: target.id(), group };
                        (1..10).flat_map(move |rows| {
                            (1..70).filter_map(move |columns| {
                                let fits = group == 0 || columns % usize::from(group) == 0;
                                Layout::new(target, kind, spec, rows, columns).filter(|_| fits)
                            })
                        })
                    })
                })
            })
        })
    }

    /// No two bits share a place, all places lie inside the stated length.
    #[test]
    fn every_bit_has_a_place_of_its_own() {
        for layout in layouts() {
            let mut taken = vec![false; layout.code_bytes().unwrap() * 8];
            for row in 0..layout.rows {
                for column in 0..layout.columns {
                    for bit in 0..usize::from(layout.bits) {
                        let at = layout.bit_of(row, column, bit);
                        assert!(!core::mem::replace(&mut taken[at], true), "{layout:?} {row} {column} {bit}");
                    }
                }
            }
        }
    }

    /// Every code at every place comes back, and leaves its neighbours alone.
    #[test]
    #[cfg(feature = "alloc")]
    fn codes_and_divisors_come_back() {
        for layout in layouts().filter(|l| l.rows < 6) {
            let mut codes = vec![0; layout.code_bytes().unwrap()];
            let count = 1usize << layout.bits;
            let code = |row: usize, column: usize| {
                ((row * 37 + column * 11 + column / 7) % count) as i32 - count as i32 / 2
            };
            for row in 0..layout.rows {
                for column in 0..layout.columns {
                    layout.put_code(&mut codes, row, column, code(row, column) as i8);
                }
            }
            for row in 0..layout.rows {
                for column in 0..layout.columns {
                    assert_eq!(layout.code(&codes, row, column), Some(code(row, column)), "{layout:?}");
                }
            }
            assert_eq!(layout.code(&codes, layout.rows, 0), None);
            assert_eq!(layout.code(&codes, 0, layout.columns), None);
            if layout.group == 0 {
                continue;
            }
            let groups = layout.columns / usize::from(layout.group);
            let mut divisors = vec![0; layout.divisor_bytes().unwrap()];
            let k = |row: usize, group: usize| ((row * 3 + group * 5 + group / 3) % 4) as u8;
            for (row, group) in (0..layout.rows).flat_map(|r| (0..groups).map(move |g| (r, g))) {
                layout.put_divisor(&mut divisors, row, group, k(row, group) + 2);
            }
            for (row, group) in (0..layout.rows).flat_map(|r| (0..groups).map(move |g| (r, g))) {
                assert_eq!(layout.divisor_field(&divisors, row, group), Some(k(row, group)), "{layout:?}");
            }
        }
    }

    /// The portable order is the one of `pack`.
    #[test]
    fn portable_rows_are_packed_rows() {
        for bits in 2..=8u8 {
            let spec = WeightSpec { bits, grid: 0, layout: 0, group: 0 };
            let layout = Layout::new(Target::Portable, OpKind::Linear, spec, 3, 13).unwrap();
            let row: Vec<i8> =
                (0..13).map(|i| (i * 5) % (1 << bits) - (1 << (bits - 1))).map(|q: i32| q as i8).collect();
            let mut bytes = vec![0; packed_len(13, bits)];
            crate::pack::pack(bits, &row, &mut bytes).unwrap();
            let all = [bytes.clone(), bytes.clone(), bytes].concat();
            assert_eq!(layout.code_bytes(), Some(all.len()));
            for (column, &q) in row.iter().enumerate() {
                assert_eq!(layout.code(&all, 2, column), Some(q.into()));
            }
        }
    }
}
