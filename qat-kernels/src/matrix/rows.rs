//! A matrix as the loops see it.

use super::formats::planes;
use crate::pack::packed_len;

/// How the codes of a row lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// A stream of two's complement fields, see [`pack`](crate::pack).
    Packed,
    /// A byte `q + 2^(b−1)` each, at most seven bits.
    #[cfg_attr(
        target_os = "none",
        allow(dead_code, reason = "workstations take other families' orders apart")
    )]
    Unpacked,
}

/// Rows of codes, or some columns of them. What is missing at the end of the slices counts as zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) order: Order,
    /// Bits of a code, 2..=8.
    pub(crate) bits: u8,
    pub(crate) mid_rise: bool,
    /// Columns that share a divisor k, 8, 16 or 32, at most seven bits a code; 0 where k is fixed.
    pub(crate) group: usize,
    pub(crate) columns: usize,
    /// Bytes from one row to the next one.
    pub(crate) code_stride: usize,
    pub(crate) codes: &'a [u8],
    /// As [`Self::code_stride`], for k − 2 in two bits per group.
    pub(crate) divisor_stride: usize,
    pub(crate) divisors: &'a [u8],
}

impl<'a> Rows<'a> {
    /// Rows of the portable order.
    pub(crate) fn packed(bits: u8, mid_rise: bool, columns: usize, codes: &'a [u8]) -> Self {
        let code_stride = packed_len(columns, bits);
        let (divisor_stride, divisors) = (0, [].as_slice());
        let order = Order::Packed;
        Self { order, bits, mid_rise, group: 0, columns, code_stride, codes, divisor_stride, divisors }
    }

    /// The same with divisors.
    pub(crate) fn with_divisors(self, group: usize, divisors: &'a [u8]) -> Option<Self> {
        let divisor_stride = packed_len(self.columns.checked_div(group)?, 2);
        Some(Self { group, divisor_stride, divisors, ..self })
    }

    /// The rows from `row` on, and `columns` columns from `column` on, which fills whole bytes of codes and divisors.
    pub(crate) fn part(&self, row: usize, column: usize, columns: usize) -> Option<Self> {
        let code = match self.order {
            Order::Packed => packed_len(column, self.bits),
            Order::Unpacked => column,
        };
        let divisor = packed_len(column.checked_div(self.group).unwrap_or(0), 2);
        let codes = self.codes.get(row.checked_mul(self.code_stride)?.checked_add(code)?..)?;
        let divisors = self.divisors.get(row.checked_mul(self.divisor_stride)?.checked_add(divisor)?..)?;
        Some(Self { columns, codes, divisors, ..*self })
    }

    /// Binary logarithms of a group's columns and of how many times `columns` of them it has.
    #[inline(always)]
    pub(super) fn group_logs(&self, columns: usize) -> Option<[u32; 2]> {
        Some([self.group.checked_ilog2()?, self.group.checked_div(columns)?.checked_ilog2()?])
    }

    /// Planes of a step, and vectors of activations to it.
    pub(super) const fn planes(&self) -> (usize, usize) {
        let planes = match self.order {
            Order::Packed => planes(self.bits),
            Order::Unpacked => 1,
        };
        (planes, planes + (self.group > 0) as usize)
    }
}
