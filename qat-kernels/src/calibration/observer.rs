//! The running statistics of one part (tensor, channel or group): extremes, counts, a histogram, a moving average.

use super::config::{CalibrationConfig, CalibrationMethod};
use super::histogram::{Histogram, LARGEST_FINITE, Segment};
use super::params::ClipRange;
use super::{entropy, mse, percentile};
use crate::arch::{Backend, Kernel};
use crate::error::{Error, Result, What};

/// The largest magnitude to accept, as bits, when every finite sample counts.
pub(super) const ALL_FINITE: u32 = LARGEST_FINITE;

/// Samples scanned and then binned at a time: 16 KiB, which a first-level cache keeps for the second pass.
const CHUNK: usize = 4096;

/// Counts of what an observer, or all observers of an engine, saw.
///
/// ```
/// # use qat_kernels::{QuantGranularity, calibration::{CalibrationConfig, CalibrationEngine, Observer}};
/// # let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerChannel);
/// # let mut engine = CalibrationEngine::with_parts(config, [const { Observer::<0>::new() }; 3])?;
/// // The second channel is stuck, the third has sent nothing of use.
/// engine.observe(&[1.0, 2.0, 5.0, 5.0, f32::NAN, f32::NAN])?;
/// let stats = engine.stats();
/// assert_eq!((stats.samples, stats.constant_parts, stats.empty_parts), (4, 1, 1));
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CalibrationStats {
    /// Samples that count: finite and within the outlier limit.
    pub samples: u64,
    /// Of these, exact zeros.
    pub zeros: u64,
    /// NaN and ±∞, excluded.
    pub non_finite: u64,
    /// Finite samples beyond the outlier limit, excluded.
    pub outliers: u64,
    /// Parts (channels, groups) whose samples all have one value.
    pub constant_parts: u64,
    /// Parts without a single sample that counts.
    pub empty_parts: u64,
    /// Histogram bins that have reached `u32::MAX` and count no further; the shape of the histogram is then distorted.
    pub saturated_bins: u64,
}

impl CalibrationStats {
    /// Adds the counts of `other`.
    pub(super) fn add(&mut self, other: &Self) {
        self.samples = self.samples.saturating_add(other.samples);
        self.zeros = self.zeros.saturating_add(other.zeros);
        self.non_finite = self.non_finite.saturating_add(other.non_finite);
        self.outliers = self.outliers.saturating_add(other.outliers);
        self.constant_parts += other.constant_parts;
        self.empty_parts += other.empty_parts;
        self.saturated_bins += other.saturated_bins;
    }
}

/// Extremes and counts of a chunk, found without a floating-point instruction: the bits of an f32, with the lower 31
/// inverted when negative, order as i32 just as the numbers do. The loop vectorises everywhere, and −0 < +0 makes the
/// extremes the same in any order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    min_key: i32,
    max_key: i32,
    /// Samples beyond the limit, not finite ones included.
    pub(super) rejected: u64,
    non_finite: u64,
    zeros: u64,
}

#[inline(always)]
const fn key(bits: u32) -> i32 {
    let b = bits as i32;
    b ^ (((b >> 31) as u32) >> 1) as i32
}

fn from_key(key: i32) -> f32 {
    // The map is its own inverse. Adding +0 turns −0 into +0.
    f32::from_bits(self::key(key as u32) as u32) + 0.0
}

impl Scan {
    const EMPTY: Self = Self { min_key: i32::MAX, max_key: i32::MIN, rejected: 0, non_finite: 0, zeros: 0 };

    pub(super) fn min(&self) -> f32 {
        from_key(self.min_key)
    }

    pub(super) fn max(&self) -> f32 {
        from_key(self.max_key)
    }

    /// Whether no sample was accepted.
    const fn is_empty(&self) -> bool {
        self.min_key > self.max_key
    }

    /// The larger magnitude of the two extremes, as bits.
    fn largest(&self) -> u32 {
        let (a, b) = (self.min().to_bits() & 0x7FFF_FFFF, self.max().to_bits() & 0x7FFF_FFFF);
        a.max(b)
    }

    fn join(self, other: Self) -> Self {
        Self {
            min_key: self.min_key.min(other.min_key),
            max_key: self.max_key.max(other.max_key),
            rejected: self.rejected + other.rejected,
            non_finite: self.non_finite + other.non_finite,
            zeros: self.zeros + other.zeros,
        }
    }
}

/// Scans samples; magnitudes above `limit` (bits) are rejected.
pub(super) fn scan(samples: &[f32], limit: u32) -> Scan {
    samples.chunks(CHUNK).fold(Scan::EMPTY, |all, chunk| all.join(scan_chunk(chunk, limit)))
}

fn scan_chunk(chunk: &[f32], limit: u32) -> Scan {
    Backend::best().run(ScanChunk { chunk, limit })
}

struct ScanChunk<'a> {
    chunk: &'a [f32],
    limit: u32,
}

impl Kernel for ScanChunk<'_> {
    type Output = Scan;

    #[inline(always)]
    fn run(self) -> Scan {
        let (mut min_key, mut max_key) = (i32::MAX, i32::MIN);
        let (mut rejected, mut non_finite, mut zeros) = (0u32, 0u32, 0u32);
        for x in self.chunk {
            let bits = x.to_bits();
            let magnitude = bits & 0x7FFF_FFFF;
            let accepted = magnitude <= self.limit;
            let k = key(bits);
            min_key = min_key.min(if accepted { k } else { i32::MAX });
            max_key = max_key.max(if accepted { k } else { i32::MIN });
            rejected += u32::from(!accepted);
            non_finite += u32::from(magnitude > LARGEST_FINITE);
            zeros += u32::from(magnitude == 0);
        }
        Scan {
            min_key,
            max_key,
            rejected: u64::from(rejected),
            non_finite: u64::from(non_finite),
            zeros: u64::from(zeros),
        }
    }
}

/// An exponential moving average that starts at nothing and knows how much weight it has gathered, so that two of them
/// can be put end to end. f64 keeps the weights' sum from drifting over millions of batches.
#[derive(Clone, Copy, Debug, PartialEq)]
struct MovingAverage {
    lo: f64,
    hi: f64,
    /// `1 − momentum^batches`; the average is the sum divided by it.
    weight: f64,
}

impl MovingAverage {
    const EMPTY: Self = Self { lo: 0.0, hi: 0.0, weight: 0.0 };

    /// `self` followed by `later`: what came first fades by `momentum^(batches of later) = 1 − later.weight`.
    fn then(self, later: Self) -> Self {
        let fade = 1.0 - later.weight;
        Self {
            lo: self.lo * fade + later.lo,
            hi: self.hi * fade + later.hi,
            weight: self.weight * fade + later.weight,
        }
    }

    fn batch(lo: f32, hi: f32, momentum: f32) -> Self {
        let weight = 1.0 - f64::from(momentum);
        Self { lo: f64::from(lo) * weight, hi: f64::from(hi) * weight, weight }
    }
}

/// Running statistics of one part, in fixed memory: about 100 bytes and 4 for every bin.
///
/// `BINS` is 0 for the methods without a histogram (min-max, moving average), else a power of two from 16 to 65,536;
/// anything else does not compile. 2048 is the usual choice on a workstation, 512 the least for 8 bits with
/// [`CalibrationMethod::Mse`] or [`CalibrationMethod::Entropy`].
///
/// Observers are the storage of a [`CalibrationEngine`](super::CalibrationEngine), which feeds them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observer<const BINS: usize> {
    min: f32,
    max: f32,
    samples: u64,
    zeros: u64,
    non_finite: u64,
    outliers: u64,
    average: MovingAverage,
    histogram: Histogram<BINS>,
}

impl<const BINS: usize> Default for Observer<BINS> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const BINS: usize> Observer<BINS> {
    /// An observer that has seen nothing.
    ///
    /// ```
    /// use qat_kernels::calibration::Observer;
    /// static FRESH: [Observer<512>; 2] = [const { Observer::new() }; 2]; // no heap, no start-up code
    /// assert_eq!(FRESH[0].extremes(), None);
    /// assert_eq!(size_of::<Observer<512>>() - size_of::<Observer<0>>(), 512 * 4);
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self {
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            samples: 0,
            zeros: 0,
            non_finite: 0,
            outliers: 0,
            average: MovingAverage::EMPTY,
            histogram: Histogram::new(),
        }
    }

    /// Starts a batch whose samples come in pieces.
    pub(super) fn batch(&mut self, config: &CalibrationConfig) -> Batch<'_, BINS> {
        let momentum = match config.method {
            CalibrationMethod::MovingAverage { momentum } => Some(momentum),
            _ => None,
        };
        let limit = config.outlier_limit.map_or(ALL_FINITE, f32::to_bits);
        Batch { observer: self, seen: Scan::EMPTY, limit, momentum }
    }

    /// Appends what `other` saw, as if it had come after this observer's samples.
    pub(super) fn merge(&mut self, other: &Self) {
        self.extend(other.min, other.max);
        self.samples = self.samples.saturating_add(other.samples);
        self.zeros = self.zeros.saturating_add(other.zeros);
        self.non_finite = self.non_finite.saturating_add(other.non_finite);
        self.outliers = self.outliers.saturating_add(other.outliers);
        self.average = self.average.then(other.average);
        self.histogram.merge(&other.histogram);
    }

    fn extend(&mut self, min: f32, max: f32) {
        if min < self.min {
            self.min = min;
        }
        if max > self.max {
            self.max = max;
        }
    }

    /// Smallest and largest sample, `None` before the first.
    ///
    /// ```
    /// use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine, CalibrationMethod, ClipRange};
    /// let half = CalibrationMethod::MovingAverage { momentum: 0.5 };
    /// let mut engine = CalibrationEngine::<0>::new(CalibrationConfig::default().with_method(half))?;
    /// engine.observe(&[0.0, 3.0])?;
    /// engine.observe(&[0.0, 6.0])?;
    /// assert_eq!(engine.parts()[0].extremes().map(ClipRange::hi), Some(6.0)); // what was there
    /// assert_eq!(engine.range(0)?.hi(), 5.0); // what the method keeps of it
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn extremes(&self) -> Option<ClipRange> {
        (self.samples > 0).then(|| ClipRange::trusted(self.min, self.max))
    }

    /// The counts.
    ///
    /// ```
    /// # use qat_kernels::{QuantGranularity, calibration::{CalibrationConfig, CalibrationEngine, Observer}};
    /// # let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerChannel);
    /// # let mut engine = CalibrationEngine::with_parts(config, [const { Observer::<0>::new() }; 2])?;
    /// engine.observe(&[0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 0.0, 1.0])?; // two channels after a ReLU
    /// let zeros = engine.parts().iter().map(|part| part.stats().zeros);
    /// assert!(zeros.eq([3, 1]));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> CalibrationStats {
        CalibrationStats {
            samples: self.samples,
            zeros: self.zeros,
            non_finite: self.non_finite,
            outliers: self.outliers,
            constant_parts: u64::from(self.samples > 0 && self.min >= self.max),
            empty_parts: u64::from(self.samples == 0),
            saturated_bins: self.histogram.saturated() as u64,
        }
    }

    /// The range that the configuration's method chooses; `None` before the first sample. The caller has checked the
    /// configuration and that the bins suffice.
    pub(super) fn range(&self, config: &CalibrationConfig) -> Result<Option<ClipRange>> {
        let Some(all) = self.extremes() else { return Ok(None) };
        let levels = config.levels()?;
        let range = match config.method {
            CalibrationMethod::MinMax => all,
            CalibrationMethod::MovingAverage { .. } => self.averaged(all)?,
            CalibrationMethod::Percentile { share } => percentile::range(self, share, config.scheme),
            CalibrationMethod::Mse => mse::range(self, levels, config.scheme),
            CalibrationMethod::Entropy => entropy::range(self, config.bits, config.scheme),
        };
        Ok(Some(range))
    }

    fn averaged(&self, all: ClipRange) -> Result<ClipRange> {
        let MovingAverage { lo, hi, weight } = self.average;
        if weight > 0.0 {
            // Rounding must not carry an average of equal numbers past them.
            let within = |x: f64| ((x / weight) as f32).max(all.lo()).min(all.hi());
            Ok(ClipRange::trusted(within(lo), within(hi)))
        } else {
            // The samples were observed for another method, so there was no momentum to average with.
            Err(Error::Mismatch { what: What::Config })
        }
    }

    /// The share of the samples, 0 to 1, that a range would clip, read off the histogram.
    ///
    /// # Errors
    /// [`Error::Capacity`] without a histogram, [`Error::NoSamples`] before the first sample.
    ///
    /// ```
    /// # use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine, ClipRange};
    /// # let mut engine = CalibrationEngine::<16>::new(CalibrationConfig::default())?;
    /// engine.observe(&[0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5])?;
    /// let share = engine.parts()[0].clipped_share(ClipRange::new(0.0, 6.0)?)?;
    /// assert_eq!(share, 0.25); // two of eight
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn clipped_share(&self, range: ClipRange) -> Result<f32> {
        if BINS == 0 {
            return Err(Error::Capacity { what: What::Histogram, capacity: 0 });
        }
        if self.samples == 0 {
            return Err(Error::NoSamples { part: 0 });
        }
        let (lo, hi) = (f64::from(range.lo()), f64::from(range.hi()));
        let (mut clipped, mut total) = (0.0, 0.0);
        for s in self.segments() {
            let kept = if s.hi > s.lo {
                ((s.hi.min(hi) - s.lo.max(lo)) / (s.hi - s.lo)).max(0.0)
            } else {
                f64::from(u8::from(lo <= s.lo && s.lo <= hi))
            };
            clipped += s.count as f64 * (1.0 - kept);
            total += s.count as f64;
        }
        Ok((clipped / total) as f32)
    }

    /// The distribution of the samples over `range`, for a picture: `out[i]` gets how many lie in the i-th of `out.len()`
    /// stretches of equal width, samples within a bin taken to be spread evenly. Exact zeros are left out (see
    /// [`CalibrationStats::zeros`]): after a ReLU they would dwarf everything else. So are samples outside the range.
    ///
    /// # Errors
    /// [`Error::Capacity`] without a histogram, [`Error::NoSamples`] before the first sample.
    ///
    /// ```
    /// # use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine, ClipRange};
    /// # let mut engine = CalibrationEngine::<16>::new(CalibrationConfig::default())?;
    /// engine.observe(&[0.0, 0.0, 0.5, 1.5, 2.5, 6.5])?;
    /// let mut counts = [0.0; 4];
    /// engine.parts()[0].distribution(ClipRange::new(0.0, 8.0)?, &mut counts)?;
    /// assert_eq!(counts, [2.0, 1.0, 0.0, 1.0]); // 0 to 2, without the zeros, 2 to 4, 4 to 6, 6 to 8
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn distribution(&self, range: ClipRange, out: &mut [f32]) -> Result<()> {
        if BINS == 0 {
            return Err(Error::Capacity { what: What::Histogram, capacity: 0 });
        }
        if self.samples == 0 {
            return Err(Error::NoSamples { part: 0 });
        }
        let (lo, hi) = (f64::from(range.lo()), f64::from(range.hi()));
        let (stretches, width) = (out.len(), (hi - lo) / out.len() as f64);
        let mut start = lo;
        for (i, out) in out.iter_mut().enumerate() {
            let last = i + 1 == stretches;
            let end = if last { hi } else { lo + (i + 1) as f64 * width };
            let mut sum = 0.0;
            for s in self.segments() {
                if s.hi > s.lo {
                    sum += s.count as f64 * ((s.hi.min(end) - s.lo.max(start)) / (s.hi - s.lo)).max(0.0);
                } else if s.lo != 0.0 && start <= s.lo && (s.lo < end || last && s.lo <= hi) {
                    sum += s.count as f64;
                }
            }
            *out = sum as f32;
            start = end;
        }
        Ok(())
    }

    pub(super) const fn histogram(&self) -> &Histogram<BINS> {
        &self.histogram
    }

    /// The samples in ascending order, with their counts; only after the first sample.
    pub(super) fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        self.histogram.segments(self.zeros, self.min, self.max)
    }

    /// The samples' magnitudes in ascending order; only after the first sample.
    pub(super) fn magnitude_segments(&self) -> impl Iterator<Item = Segment> + '_ {
        self.histogram.magnitude_segments(self.zeros, self.min, self.max)
    }

    /// The samples' extent with magnitudes above `threshold` cut off.
    pub(super) fn clipped_to(&self, threshold: f32) -> ClipRange {
        let lo = if self.min < -threshold { -threshold } else { self.min };
        let hi = if self.max > threshold { threshold } else { self.max };
        // All samples may lie beyond the threshold on one side; the range then starts at it.
        ClipRange::trusted(
            if lo < threshold { lo } else { threshold },
            if hi > -threshold { hi } else { -threshold },
        )
    }
}

/// A batch in progress.
pub(super) struct Batch<'o, const BINS: usize> {
    observer: &'o mut Observer<BINS>,
    seen: Scan,
    limit: u32,
    momentum: Option<f32>,
}

impl<const BINS: usize> Batch<'_, BINS> {
    /// Takes a piece of any length.
    pub(super) fn observe(&mut self, samples: &[f32]) {
        for chunk in samples.chunks(CHUNK) {
            let seen = scan_chunk(chunk, self.limit);
            if !seen.is_empty() {
                self.observer.histogram.count(chunk, seen.largest(), self.limit, seen.min() < 0.0);
            }
            let o = &mut *self.observer;
            o.samples = o.samples.saturating_add(chunk.len() as u64 - seen.rejected);
            o.zeros = o.zeros.saturating_add(seen.zeros);
            o.non_finite = o.non_finite.saturating_add(seen.non_finite);
            o.outliers = o.outliers.saturating_add(seen.rejected - seen.non_finite);
            self.seen = self.seen.join(seen);
        }
    }

    /// Ends the batch.
    pub(super) fn finish(self) {
        if self.seen.is_empty() {
            return;
        }
        let (min, max) = (self.seen.min(), self.seen.max());
        self.observer.extend(min, max);
        if let Some(momentum) = self.momentum {
            self.observer.average = self.observer.average.then(MovingAverage::batch(min, max, momentum));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_the_numbers_do() {
        let sorted =
            [f32::MIN, -1.0, -f32::MIN_POSITIVE, -1e-45, -0.0, 0.0, 1e-45, f32::MIN_POSITIVE, 1.0, f32::MAX];
        for pair in sorted.windows(2) {
            assert!(key(pair[0].to_bits()) < key(pair[1].to_bits()), "{pair:?}");
        }
        for x in sorted {
            assert_eq!(from_key(key(x.to_bits())).to_bits(), (x + 0.0).to_bits());
        }
    }

    #[test]
    fn scan_counts_and_excludes() {
        let samples = [1.0, -0.0, f32::NAN, -2.0, f32::INFINITY, 0.0, 50.0, -60.0, f32::NEG_INFINITY];
        let s = scan(&samples, 10.0f32.to_bits());
        assert_eq!((s.min(), s.max()), (-2.0, 1.0));
        assert_eq!((s.rejected, s.non_finite, s.zeros), (5, 3, 2));
        assert!(scan(&[f32::NAN], ALL_FINITE).is_empty());
        assert!(scan(&[], ALL_FINITE).is_empty());
    }

    #[test]
    fn averages_put_end_to_end_equal_one_average() {
        let batches = [(-1.0, 3.0), (-2.0, 2.0), (0.5, 0.75), (-9.0, 8.0), (-1.5, 1.0)];
        let of = |part: &[(f32, f32)]| {
            part.iter().fold(MovingAverage::EMPTY, |a, &(lo, hi)| a.then(MovingAverage::batch(lo, hi, 0.9)))
        };
        let whole = of(&batches);
        for cut in 0..=batches.len() {
            let joined = of(&batches[..cut]).then(of(&batches[cut..]));
            for (a, b) in [(joined.lo, whole.lo), (joined.hi, whole.hi), (joined.weight, whole.weight)] {
                assert!((a - b).abs() <= 1e-15 * b.abs(), "{a} {b}");
            }
        }
    }

    #[test]
    fn a_distribution_holds_the_largest_sample_too() {
        let mut o = Observer::<16>::new();
        let config = CalibrationConfig::default();
        let mut b = o.batch(&config);
        b.observe(&[1.0, 2.0, 4.0]); // bins of ½: each sample at the lower end of one
        b.finish();
        let mut counts = [0.0; 3];
        o.distribution(ClipRange::new(0.5, 4.0).unwrap(), &mut counts).unwrap();
        assert_eq!(counts, [1.0; 3]);
    }

    #[test]
    fn clipping_never_swaps_the_ends() {
        let mut o = Observer::<16>::new();
        let config = CalibrationConfig::default();
        let mut b = o.batch(&config);
        b.observe(&[5.0, 6.0]);
        b.finish();
        assert_eq!(o.clipped_to(5.5), ClipRange::new(5.0, 5.5).unwrap());
        assert_eq!(o.clipped_to(2.0), ClipRange::new(2.0, 2.0).unwrap());
    }
}
