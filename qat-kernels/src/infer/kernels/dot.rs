//! Packed codes times int8 activations.

use crate::arch::factors::GROUP_FACTORS;
use crate::artifact::{ChannelParams, Layout, Target, WeightSpec};

/// A layer's parameters, as they lie in the file.
#[derive(Clone, Copy, Debug)]
pub(in crate::infer) struct WeightView<'a> {
    pub(in crate::infer) spec: WeightSpec,
    pub(in crate::infer) layout: Layout,
    /// Weights that meet in one output.
    pub(in crate::infer) fan_in: usize,
    pub(in crate::infer) channels: usize,
    /// Packed rows.
    pub(in crate::infer) codes: &'a [u8],
    /// Packed k − 2, two bits per group, one row per channel; empty where k is fixed.
    pub(in crate::infer) divisors: &'a [u8],
    pub(in crate::infer) params: &'a [[u8; ChannelParams::LEN]],
}

/// 60/k for a field k − 2.
fn group_factor(field: u8) -> Option<i32> {
    GROUP_FACTORS.get(usize::from(field)).map(|&factor| factor.into())
}

impl WeightView<'_> {
    /// The accumulators of all channels for one vector of activations: (Σ m_g Σ 2·level·x, parameters).
    pub(super) fn accumulate(&self, x: &[i8]) -> Option<impl Iterator<Item = (i32, ChannelParams)>> {
        if x.len() != self.fan_in || self.channels == 0 {
            return None;
        }
        let portable = self.layout.target() == Target::Portable;
        let row_len = self.codes.len() / self.channels;
        let divisor_len = self.divisors.len() / self.channels;
        let (bits, mid_rise, group) = (self.spec.bits, self.spec.grid != 0, usize::from(self.spec.group));
        let sum = if mid_rise { sum(x) } else { 0 };
        let mut rows = self.codes.chunks_exact(row_len.max(1));
        let mut divisor_rows = self.divisors.chunks_exact(divisor_len.max(1));
        Some(self.params.iter().enumerate().map(move |(channel, params)| {
            let acc = if !portable {
                self.code_by_code(channel, x).unwrap_or(0)
            } else if group == 0 {
                2 * dot(bits, rows.next().unwrap_or(&[]), x) + sum
            } else {
                let (row, divisors) = (rows.next().unwrap_or(&[]), divisor_rows.next().unwrap_or(&[]));
                grouped(bits, mid_rise, group, row, divisors, x)
            };
            (acc, ChannelParams::read(params))
        }))
    }

    /// One channel in any layout: the definition, for engines that have no kernel for it.
    fn code_by_code(&self, channel: usize, x: &[i8]) -> Option<i32> {
        let (half, group) = (i32::from(self.spec.grid != 0), usize::from(self.spec.group));
        let mut acc = 0i32;
        for (column, &x) in x.iter().enumerate() {
            let factor = match column.checked_div(group) {
                None => 1,
                Some(g) => self.factor(channel, g)?,
            };
            let twice_level = 2 * self.layout.code(self.codes, channel, column)? + half;
            acc = acc.wrapping_add(factor.wrapping_mul(twice_level).wrapping_mul(x.into()));
        }
        Some(acc)
    }

    /// 60/k of a group.
    fn factor(&self, channel: usize, group: usize) -> Option<i32> {
        let field = self.layout.divisor_field(self.divisors, channel, group)?;
        group_factor(field)
    }
}

fn sum(x: &[i8]) -> i32 {
    x.iter().map(|&x| i32::from(x)).sum()
}

/// Groups of 8, 16 or 32 codes fill whole bytes at every width, so they are rows of their own.
fn grouped(bits: u8, mid_rise: bool, group: usize, row: &[u8], divisors: &[u8], x: &[i8]) -> i32 {
    let bytes = (group / 8 * usize::from(bits)).max(1);
    let fields = divisors.iter().flat_map(|&b| [b & 3, b >> 2 & 3, b >> 4 & 3, b >> 6]);
    let parts = row.chunks_exact(bytes).zip(x.chunks_exact(group.max(1)));
    parts.zip(fields).fold(0, |acc: i32, ((row, x), field)| {
        let factor = group_factor(field).unwrap_or(0);
        let offset = if mid_rise { sum(x) } else { 0 };
        acc.wrapping_add(factor.wrapping_mul(2 * dot(bits, row, x) + offset))
    })
}

/// Σ q·x over one packed row. The sum cannot overflow: `parse` has bounded it.
#[inline]
fn dot(bits: u8, row: &[u8], x: &[i8]) -> i32 {
    match bits {
        2 => per_byte::<4>(row, x, |b| [b << 30 >> 30, b << 28 >> 30, b << 26 >> 30, b << 24 >> 30]),
        4 => per_byte::<2>(row, x, |b| [b << 28 >> 28, b << 24 >> 28]),
        8 => per_byte::<1>(row, x, |b| [b << 24 >> 24]),
        _ => stream(bits, row, x),
    }
}

/// Widths that divide 8: N codes to a byte.
#[inline(always)]
fn per_byte<const N: usize>(row: &[u8], x: &[i8], codes: impl Fn(i32) -> [i32; N]) -> i32 {
    let (whole, tail) = x.as_chunks::<N>();
    let mut acc = 0i32;
    for (&b, x) in row.iter().zip(whole) {
        for (q, &x) in codes(b.into()).into_iter().zip(x) {
            acc = acc.wrapping_add(q.wrapping_mul(x.into()));
        }
    }
    if let (Some(&b), false) = (row.last(), tail.is_empty()) {
        for (q, &x) in codes(b.into()).into_iter().zip(tail) {
            acc = acc.wrapping_add(q.wrapping_mul(x.into()));
        }
    }
    acc
}

/// Any width: eight codes are `bits` whole bytes.
fn stream(bits: u8, row: &[u8], x: &[i8]) -> i32 {
    let unused = 64u32.wrapping_sub(bits.into());
    let mut acc = 0i32;
    for (bytes, x) in row.chunks(usize::from(bits).max(1)).zip(x.chunks(8)) {
        let mut word = bytes.iter().rev().fold(0u64, |w, &b| w << 8 | u64::from(b));
        for &x in x {
            let q = word.wrapping_shl(unused).cast_signed().wrapping_shr(unused) as i32;
            acc = acc.wrapping_add(q.wrapping_mul(x.into()));
            word = word.wrapping_shr(bits.into());
        }
    }
    acc
}
