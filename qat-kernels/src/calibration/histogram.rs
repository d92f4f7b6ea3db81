//! A histogram of fixed size over a range that grows by doubling, so that counts are exact whatever the order of the
//! samples.
//!
//! ```text
//! range  [0, 2^e) while no sample is negative, (−2^e, 2^e) from then on
//! width  w = 2^e / bins, or 2^(e+1) / bins
//! bin    trunc(|x| / w) on the side of x's sign
//! ```
//!
//! Bins count in magnitude, away from zero. Every width is a power of two, so
//! `trunc(trunc(|x|/w) / 2) = trunc(|x| / 2w)`: doubling the range merges bins in pairs and yields the very counts that
//! the wider range would have collected from the start. The final range depends only on the largest magnitude and on
//! whether any sample was negative. Hence counting and merging commute and associate: any order, any split over
//! engines, the same bits. Counts saturate at `u32::MAX`, which keeps that law.
//!
//! Exact zeros are not in a bin (the observer counts them): ReLU makes them the commonest value by far, quantisation
//! gives them no error, and spread over a bin they would look as if it did.
//!
//! Binning is integer arithmetic on the bits of the sample, so cores without an FPU are quick at it too.

use crate::arch::{Backend, Kernel};

/// Smallest number of bins of a histogram.
pub(super) const MIN_BINS: usize = 16;
/// Largest number of bins.
const MAX_BINS: usize = 1 << 16;

/// Bits of a magnitude, above which are ∞ and NaN.
pub(super) const LARGEST_FINITE: u32 = 0x7F7F_FFFF;
const MANTISSA_BITS: u32 = 23;
const EXPONENT_BIAS: i32 = 127;

/// The range and side of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    /// Exponent field of the largest magnitude that fits: magnitudes stay below 2^(top − 126).
    top: u32,
    /// Whether the lower half of the bins is for negative samples.
    signed: bool,
}

impl Layout {
    /// The smallest layout that holds both.
    fn union(self, other: Self) -> Self {
        Self { top: self.top.max(other.top), signed: self.signed || other.signed }
    }
}

/// Samples whose bins are found together, before any of them is counted: finding is work for vectors, counting is not.
const TOGETHER: usize = 32;

/// Counts samples in bins of a settled layout.
struct Count<'a> {
    bins: &'a mut [u32],
    chunk: &'a [f32],
    /// First bin of the positive side.
    middle: u32,
    /// |x| = mantissa·2^(exponent − 150), so that trunc(|x|/w) = mantissa >> (base − exponent).
    base: u32,
    /// The largest magnitude to accept.
    limit: u32,
}

impl Kernel for Count<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { bins, chunk, middle, base, limit } = self;
        let (whole, tail) = chunk.as_chunks::<TOGETHER>();
        for samples in whole {
            let mut indices = [0; TOGETHER];
            indices.iter_mut().zip(samples).for_each(|(i, x)| *i = bin_of(*x, middle, base, limit));
            indices.iter().for_each(|i| count_one(bins, *i));
        }
        tail.iter().for_each(|x| count_one(bins, bin_of(*x, middle, base, limit)));
    }
}

/// The bin of a sample; `u32::MAX`, beyond all bins, for one that is 0 or above the limit.
#[inline(always)]
fn bin_of(x: f32, middle: u32, base: u32, limit: u32) -> u32 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7FFF_FFFF;
    let field = magnitude >> MANTISSA_BITS;
    // Subnormals have no hidden bit, and the exponent of the smallest normal numbers.
    let hidden = if field == 0 { 0 } else { 1 << MANTISSA_BITS };
    let exponent = if field == 0 { 1 } else { field };
    let mantissa = (magnitude & 0x007F_FFFF) | hidden;
    let shift = base.wrapping_sub(exponent);
    let bin = if shift < 32 { mantissa.wrapping_shr(shift) } else { 0 };
    // middle + bin, or middle − 1 − bin for a negative sample, without a branch: signs are hard to predict.
    let mirror = (bits.cast_signed() >> 31).cast_unsigned();
    let index = middle.wrapping_add(bin ^ mirror);
    if (magnitude == 0) | (magnitude > limit) { u32::MAX } else { index }
}

#[inline(always)]
fn count_one(bins: &mut [u32], index: u32) {
    if let Some(count) = bins.get_mut(index as usize) {
        *count = count.saturating_add(1);
    }
}

/// Counts of samples in bins. `BINS` is 0 (no histogram) or a power of two from 16 to 65,536.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Histogram<const BINS: usize> {
    layout: Layout,
    bins: [u32; BINS],
}

/// A stretch of the real line with the number of samples in it, taken to be spread evenly; a point if `lo = hi`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Segment {
    pub(super) lo: f64,
    pub(super) hi: f64,
    pub(super) count: u64,
}

impl<const BINS: usize> Histogram<BINS> {
    const LOG2_BINS: u32 = {
        assert!(
            BINS == 0 || (BINS.is_power_of_two() && BINS >= MIN_BINS && BINS <= MAX_BINS),
            "a histogram has no bins at all, or a power of two of them from 16 to 65536"
        );
        if BINS == 0 { 0 } else { BINS.ilog2() }
    };

    pub(super) const fn new() -> Self {
        // Named here so that a bad number of bins fails to compile wherever a histogram is made.
        let _ = Self::LOG2_BINS;
        Self { layout: Layout { top: 0, signed: false }, bins: [0; BINS] }
    }

    /// First bin of the positive side; as many bins are negative.
    const fn middle(&self) -> usize {
        if self.layout.signed { BINS / 2 } else { 0 }
    }

    /// Bins on the positive side.
    const fn side(&self) -> usize {
        BINS - self.middle()
    }

    /// Bin width, a power of two.
    pub(super) fn width(&self) -> f64 {
        let exponent = self.layout.top as i32 + 1 - EXPONENT_BIAS + i32::from(self.layout.signed)
            - Self::LOG2_BINS as i32;
        // In reach of f64's normal numbers: −126 − 16 ≤ exponent ≤ 129.
        f64::from_bits(((exponent + 1023) as u64) << 52)
    }

    /// Counts a chunk of samples. `largest` is the largest magnitude among the accepted ones (as bits), `limit` the
    /// largest magnitude to accept, and `signed` tells whether one of the accepted is negative.
    pub(super) fn count(&mut self, chunk: &[f32], largest: u32, limit: u32, signed: bool) {
        if BINS == 0 {
            return;
        }
        self.widen(self.layout.union(Layout { top: largest >> MANTISSA_BITS, signed }));
        let middle = self.middle();
        let base = self.layout.top + 24 - Self::LOG2_BINS + u32::from(self.layout.signed);
        Backend::best().run(Count { bins: &mut self.bins, chunk, middle: middle as u32, base, limit });
    }

    /// Adds the counts of `other`.
    pub(super) fn merge(&mut self, other: &Self) {
        if BINS == 0 {
            return;
        }
        self.widen(self.layout.union(other.layout));
        let shift = other.shift_to(self.layout);
        let (mine, theirs) = (self.middle(), other.middle());
        for (index, &count) in other.bins.iter().enumerate() {
            let to = if index >= theirs {
                mine + ((index - theirs) >> shift)
            } else {
                mine.wrapping_sub(((theirs - 1 - index) >> shift) + 1)
            };
            if let Some(sum) = self.bins.get_mut(to) {
                *sum = sum.saturating_add(count);
            }
        }
    }

    /// By how many bits bin numbers shrink on the way to a wider layout.
    fn shift_to(&self, to: Layout) -> u32 {
        let shift = to.top - self.layout.top + u32::from(to.signed) - u32::from(self.layout.signed);
        // A bin number has at most 16 bits; more than that shifts all of them out.
        shift.min(usize::BITS - 1)
    }

    /// Moves the counts to a layout that is at least as wide, merging bins.
    fn widen(&mut self, to: Layout) {
        let shift = self.shift_to(to);
        let middle = self.middle();
        let (negative, positive) = self.bins.split_at_mut(middle);
        if shift > 0 {
            collapse(positive, shift, false);
            collapse(negative, shift, true);
        }
        if to.signed && !self.layout.signed {
            // All counts lie in the lower half now, because the shift was at least 1: that half becomes the upper one.
            let (low, high) = self.bins.split_at_mut(BINS / 2);
            low.swap_with_slice(high);
        }
        self.layout = to;
    }

    /// The samples in ascending order, zeros among them as a point; empty stretches are left out, and the outer ones cut
    /// down to the samples' true extent.
    pub(super) fn segments(&self, zeros: u64, min: f32, max: f32) -> impl Iterator<Item = Segment> + '_ {
        let (width, middle) = (self.width(), self.middle());
        let (min, max) = (f64::from(min), f64::from(max));
        let (negative, positive) = self.bins.split_at(middle);
        let below = negative.iter().enumerate().map(move |(i, &count)| {
            let from_zero = (middle - i) as f64;
            Segment { lo: -from_zero * width, hi: (1.0 - from_zero) * width, count: u64::from(count) }
        });
        let above = positive.iter().enumerate().map(move |(i, &count)| Segment {
            lo: i as f64 * width,
            hi: (i + 1) as f64 * width,
            count: u64::from(count),
        });
        let zero = Segment { lo: 0.0, hi: 0.0, count: zeros };
        below.chain(core::iter::once(zero)).chain(above).filter(|s| s.count > 0).map(move |s| Segment {
            lo: s.lo.max(min),
            hi: s.hi.min(max),
            count: s.count,
        })
    }

    /// The magnitudes of the samples in ascending order, zeros first; empty stretches are left out.
    pub(super) fn magnitude_segments(
        &self,
        zeros: u64,
        min: f32,
        max: f32,
    ) -> impl Iterator<Item = Segment> + '_ {
        let width = self.width();
        let (min, max) = (f64::from(min), f64::from(max));
        let (least, most) = (min.max(-max).max(0.0), max.max(-min));
        core::iter::once(Segment { lo: 0.0, hi: 0.0, count: zeros })
            .chain(self.magnitudes().enumerate().map(move |(i, count)| Segment {
                lo: (i as f64 * width).max(least),
                hi: ((i + 1) as f64 * width).min(most),
                count,
            }))
            .filter(|s| s.count > 0)
    }

    /// Samples per magnitude bin, both signs together, without the zeros.
    pub(super) fn magnitudes(&self) -> impl Iterator<Item = u64> + '_ {
        let (negative, positive) = self.bins.split_at(self.middle());
        let mut negative = negative.iter().rev();
        positive.iter().map(move |&p| u64::from(p) + negative.next().map_or(0, |&n| u64::from(n)))
    }

    /// Samples with a magnitude in bin `index`.
    pub(super) fn magnitude(&self, index: usize) -> u64 {
        let side = |i: Option<usize>| i.and_then(|i| self.bins.get(i)).map_or(0, |&c| u64::from(c));
        if index >= self.side() {
            return 0;
        }
        side(self.middle().checked_add(index)) + side(self.middle().checked_sub(index + 1))
    }

    /// Whether negative samples were seen.
    pub(super) const fn is_signed(&self) -> bool {
        self.layout.signed
    }

    /// Bins that count no further.
    pub(super) fn saturated(&self) -> usize {
        self.bins.iter().filter(|&&c| c == u32::MAX).count()
    }
}

/// Merges the counts of every 2^shift neighbours, counting from zero: from the front, or from the back (`mirrored`).
fn collapse(bins: &mut [u32], shift: u32, mirrored: bool) {
    let len = bins.len();
    let at = |from_zero: usize| if mirrored { len - 1 - from_zero } else { from_zero };
    // The first bin stays; every other one moves towards it, so that no count moves twice.
    for from_zero in 1..len {
        let moved = bins.get_mut(at(from_zero)).map_or(0, core::mem::take);
        if let Some(sum) = bins.get_mut(at(from_zero >> shift)) {
            *sum = sum.saturating_add(moved);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = LARGEST_FINITE;

    fn magnitude(x: f32) -> u32 {
        x.abs().to_bits()
    }

    fn counted<const BINS: usize>(samples: &[f32]) -> Histogram<BINS> {
        let mut h = Histogram::new();
        for &x in samples {
            h.count(&[x], magnitude(x), ALL, x < 0.0);
        }
        h
    }

    /// The definition in floating point, on the final layout.
    fn naive(samples: &[f32], width: f64, middle: usize, bins: usize) -> Vec<u32> {
        let mut counts = vec![0; bins];
        for &x in samples.iter().filter(|&&x| x != 0.0) {
            let bin = (f64::from(x.abs()) / width) as usize;
            counts[if x < 0.0 { middle - 1 - bin } else { middle + bin }] += 1;
        }
        counts
    }

    fn noise(n: u32, seed: u32) -> impl Iterator<Item = f32> {
        (0..n).map(move |i| {
            let r = (i.wrapping_mul(2_654_435_761) ^ seed).wrapping_mul(0x9E37_79B1);
            let exponent = (r >> 8) % 40;
            let m = (r & 0xFFFF) as f32 / 65536.0 + 0.5;
            let x = m * f32::from_bits((127 - 20 + exponent) << 23);
            if r & (1 << 31) == 0 { x } else { -x }
        })
    }

    #[test]
    fn counts_are_those_of_the_definition() {
        for seed in 0..20 {
            let samples: Vec<f32> =
                noise(300, seed).map(|x| if seed % 2 == 0 { x.abs() } else { x }).collect();
            let h = counted::<64>(&samples);
            assert_eq!(h.bins.to_vec(), naive(&samples, h.width(), h.middle(), 64), "{seed}");
            assert_eq!(h.is_signed(), samples.iter().any(|&x| x < 0.0));
        }
    }

    #[test]
    fn order_does_not_matter() {
        let mut samples: Vec<f32> = noise(500, 7).collect();
        let forward = counted::<128>(&samples);
        samples.reverse();
        assert_eq!(counted::<128>(&samples), forward);
        samples.sort_by(f32::total_cmp);
        assert_eq!(counted::<128>(&samples), forward);
    }

    #[test]
    fn range_is_the_tightest_power_of_two() {
        for (x, width) in [(1.0f32, 2.0 / 16.0), (1.999, 2.0 / 16.0), (2.0, 4.0 / 16.0), (0.5, 1.0 / 16.0)] {
            assert_eq!(counted::<16>(&[x]).width(), width);
            assert_eq!(counted::<16>(&[-x]).width(), 2.0 * width);
        }
    }

    #[test]
    fn ends_of_f32_have_their_bins() {
        for x in [1e-45, f32::MIN_POSITIVE, f32::MAX, 1.0f32.next_down(), 1.0] {
            for x in [x, -x] {
                for other in [0.0, 1e-45, -1e-45, f32::MAX, -1.0] {
                    let h = counted::<16>(&[x, other]);
                    let expected = 1 + u64::from(other != 0.0);
                    assert_eq!(h.magnitudes().sum::<u64>(), expected, "{x} {other}");
                    assert_eq!((0..20).map(|i| h.magnitude(i)).sum::<u64>(), expected);
                    let (min, max) = (x.min(other), x.max(other));
                    for s in h.segments(1 - u64::from(other != 0.0), min, max) {
                        assert!(s.lo <= s.hi && s.lo >= f64::from(min) && s.hi <= f64::from(max), "{s:?}");
                    }
                }
            }
        }
        assert_eq!(counted::<65536>(&[1e-45]).width(), f64::from(2.0f32.powi(-126)) / 65536.0);
        assert_eq!(counted::<16>(&[-f32::MAX]).width(), 2f64.powi(129 - 4));
    }

    #[test]
    fn samples_lie_in_their_segment() {
        for x in noise(200, 3) {
            let h = counted::<32>(&[x, 1e4, -1e4]);
            let inside = |lo: f64, hi: f64| lo <= f64::from(x) && f64::from(x) <= hi;
            assert!(h.segments(0, x.min(-1e4), x.max(1e4)).any(|s| inside(s.lo, s.hi)), "{x}");
            let mut m = h.magnitude_segments(0, x.min(-1e4), x.max(1e4));
            assert!(m.any(|s| inside(s.lo, s.hi) || inside(-s.hi, -s.lo)), "{x}");
        }
    }

    #[test]
    fn counts_saturate_in_any_order() {
        let full = |value: f32| {
            let mut h = counted::<16>(&[value]);
            h.bins.iter_mut().filter(|c| **c > 0).for_each(|c| *c = u32::MAX - 1);
            h
        };
        let parts = [full(0.3), full(0.31), counted(&[-5.0, 0.3])];
        let sum = |order: [usize; 3]| {
            let mut h = Histogram::<16>::new();
            order.iter().for_each(|&i| h.merge(&parts[i]));
            h
        };
        let expected = sum([0, 1, 2]);
        assert_eq!(expected.saturated(), 1);
        for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            assert_eq!(sum(order), expected);
        }
    }
}
