//! The calibration engine: one configuration, one observer per part, the domains of the data.

use super::config::{CalibrationConfig, CalibrationMethod};
use super::domains::Domains;
use super::observer::{CalibrationStats, Observer};
use super::params::{AffineParams, Calibrated, ClipRange};
use crate::config::QuantGranularity;
use crate::error::{Error, Result, What};

/// Samples gathered at a time from interleaved channels.
const GATHER: usize = 64;

/// Watches values go by and says which range, scale and zero point suit them, in fixed memory.
///
/// `S` holds one [`Observer`] per part: an array, a `&mut` slice or a `Vec`, whatever dereferences to one by `AsRef` and
/// `AsMut`. Per tensor, one observer inside the engine is enough: [`CalibrationEngine::new`].
///
/// **Merging.** Two engines that watched two streams can be merged, and the result equals, bit for bit, one engine that
/// watched both, in whatever order and however split: counts, extremes, histogram, and with them the ranges of min-max,
/// percentile, MSE and entropy. A moving average depends on the order by its nature: there `a.merge(&b)` means b's
/// batches after a's, and equals the one engine to within the rounding of f64.
///
/// **Cost.** Two passes of integer instructions per sample. The search of MSE evaluates about a hundred thresholds, five
/// hundred for an affine range with both signs, each over all bins in f64; that of entropy takes about `bins²/2` steps,
/// half of that with both signs. They run when a range is asked for.
///
/// ```
/// use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine, CalibrationMethod};
///
/// let config = CalibrationConfig::default().with_method(CalibrationMethod::Percentile { share: 0.99 });
/// let mut engine = CalibrationEngine::<2048>::new(config)?;
/// for batch in 0..10 {
///     let samples: [f32; 100] = core::array::from_fn(|i| (batch * 100 + i) as f32 / 1000.0);
///     engine.observe(&samples)?;
/// }
/// engine.observe(&[f32::NAN])?; // counted, not used
/// let range = engine.range(0)?;
/// assert!((range.hi() - 0.995).abs() < 0.001);
/// assert!(engine.params(0)?.scale > 0.0);
/// assert_eq!(engine.stats().non_finite, 1);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
///
/// Per channel, on the caller's storage: [`CalibrationEngine::with_parts`].
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrationEngine<const BINS: usize, S = [Observer<BINS>; 1]> {
    config: CalibrationConfig,
    parts: S,
    domains: Domains,
}

impl<const BINS: usize> CalibrationEngine<BINS> {
    /// An engine for a whole tensor.
    ///
    /// # Errors
    /// As [`CalibrationEngine::with_parts`]; so the granularity must be `PerTensor`, or something else of which there is
    /// just one.
    ///
    /// ```
    /// use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine, CalibrationMethod};
    /// let config = CalibrationConfig::default().with_bits(4).with_method(CalibrationMethod::Mse);
    /// assert!(CalibrationEngine::<32>::new(config).is_ok()); // two bins for each of the 16 codes
    /// assert!(CalibrationEngine::<16>::new(config).is_err());
    /// ```
    pub fn new(config: CalibrationConfig) -> Result<Self> {
        Self::with_parts(config, [const { Observer::new() }])
    }
}

impl<const BINS: usize, S: AsRef<[Observer<BINS>]>> CalibrationEngine<BINS, S> {
    /// An engine with one observer per part. Observers that have seen samples go on from there.
    ///
    /// # Errors
    /// What [`CalibrationConfig::validate`] finds; [`Error::Unsupported`] for per-token granularity, which keeps no state
    /// (see [`per_token`](super::per_token)); [`Error::Empty`] without observers; [`Error::Length`] for more than one
    /// observer per tensor; [`Error::Capacity`] if the method needs more bins
    /// ([`CalibrationMethod::min_bins`]).
    ///
    /// ```
    /// use qat_kernels::QuantGranularity;
    /// use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine, Observer};
    /// let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerChannel);
    /// let mut storage = [const { Observer::<0>::new() }; 3]; // min-max needs no histogram
    /// CalibrationEngine::with_parts(config, &mut storage[..])?.observe(&[0.0, 1.0, 0.0, 2.0, 0.0, 4.0])?;
    /// let mut engine = CalibrationEngine::with_parts(config, &mut storage[..])?; // another day
    /// engine.observe(&[0.0, 1.0, 0.0, 1.0, 0.0, 1.0])?;
    /// assert_eq!(engine.range(2)?.hi(), 4.0);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn with_parts(config: CalibrationConfig, parts: S) -> Result<Self> {
        config.validate()?;
        let got = parts.as_ref().len();
        match config.granularity {
            QuantGranularity::PerToken => return Err(Error::Unsupported { what: What::Granularity }),
            _ if got == 0 => return Err(Error::Empty { what: What::Channels }),
            QuantGranularity::PerTensor if got > 1 => {
                return Err(Error::Length { what: What::Channels, expected: 1, got });
            }
            _ => {}
        }
        check_bins::<BINS>(&config)?;
        Ok(Self { config, parts, domains: Domains::new() })
    }

    /// The configuration.
    ///
    /// ```
    /// # use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine};
    /// let engine = CalibrationEngine::<0>::new(CalibrationConfig::default().with_bits(4))?;
    /// // Whoever quantises with the result needs the codes that it was found for.
    /// assert_eq!(engine.config().levels()?.count(), 16);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn config(&self) -> &CalibrationConfig {
        &self.config
    }

    /// The observers, one per part.
    ///
    /// ```
    /// # use qat_kernels::{QuantGranularity, calibration::{CalibrationConfig, CalibrationEngine, Observer}};
    /// # let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerChannel);
    /// # let mut engine = CalibrationEngine::with_parts(config, [const { Observer::<0>::new() }; 2])?;
    /// engine.observe(&[0.0, 1.0, f32::NAN, f32::NAN])?;
    /// let without_samples = engine.parts().iter().position(|part| part.extremes().is_none());
    /// assert_eq!(without_samples, Some(1));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn parts(&self) -> &[Observer<BINS>] {
        self.parts.as_ref()
    }

    /// Examples counted per domain.
    ///
    /// ```
    /// # use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine};
    /// # let mut engine = CalibrationEngine::<0>::new(CalibrationConfig::default())?;
    /// engine.count_examples("speech", 30)?;
    /// engine.count_examples("music", 10)?;
    /// assert!(engine.domains().iter().eq([("music", 10), ("speech", 30)]));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn domains(&self) -> &Domains {
        &self.domains
    }

    /// Counts examples of a domain of the data; bookkeeping for the provenance, with no influence on ranges.
    ///
    /// # Errors
    /// As [`Domains::add`].
    ///
    /// ```
    /// # use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine};
    /// # let mut engine = CalibrationEngine::<0>::new(CalibrationConfig::default())?;
    /// engine.observe(&[0.5; 16_000])?; // a second of sound: one example, however many samples
    /// engine.count_examples("speech", 1)?;
    /// assert_eq!((engine.domains().total(), engine.stats().samples), (1, 16_000));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn count_examples(&mut self, domain: &str, examples: u64) -> Result<()> {
        self.domains.add(domain, examples)
    }

    /// Counts over all parts.
    ///
    /// ```
    /// # use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine};
    /// let mut engine = CalibrationEngine::<0>::new(CalibrationConfig::default().with_outlier_limit(10.0))?;
    /// engine.observe(&[0.0, 3.0, -2.0, 1e6, f32::INFINITY])?;
    /// let stats = engine.stats();
    /// assert_eq!((stats.samples, stats.zeros, stats.outliers, stats.non_finite), (3, 1, 1, 1));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> CalibrationStats {
        self.parts().iter().fold(CalibrationStats::default(), |mut sum, part| {
            sum.add(&part.stats());
            sum
        })
    }

    /// The range that the method chooses for a part.
    ///
    /// # Errors
    /// [`Error::Length`] if there is no such part; [`Error::NoSamples`] if it saw none that counts.
    ///
    /// ```
    /// use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine, CalibrationMethod};
    /// let half = CalibrationMethod::MovingAverage { momentum: 0.5 };
    /// let mut engine = CalibrationEngine::<0>::new(CalibrationConfig::default().with_method(half))?;
    /// assert_eq!(engine.range(0), Err(qat_kernels::Error::NoSamples { part: 0 }));
    /// engine.observe(&[0.0, 3.0])?;
    /// engine.observe(&[0.0, 6.0])?;
    /// assert_eq!(engine.range(0)?.hi(), 5.0); // (½·3 + 6) / (½ + 1)
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn range(&self, part: usize) -> Result<ClipRange> {
        self.range_by(part, &self.config)
    }

    /// The range that another method would choose from the same samples: compare several after one pass.
    ///
    /// # Errors
    /// As [`Self::range`]; what [`CalibrationConfig::validate`] finds; [`Error::Capacity`] if the method needs more bins;
    /// [`Error::Mismatch`] for a moving average that was not asked for when the samples went by.
    ///
    /// ```
    /// # use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine, CalibrationMethod};
    /// let config = CalibrationConfig::default().with_method(CalibrationMethod::Percentile { share: 0.99 });
    /// let mut engine = CalibrationEngine::<2048>::new(config)?;
    /// engine.observe(&core::array::from_fn::<f32, 999, _>(|i| i as f32 / 1000.0))?;
    /// engine.observe(&[64.0])?; // one sample of a thousand
    /// assert!(engine.range(0)?.hi() < 1.0);
    /// assert_eq!(engine.range_with(0, CalibrationMethod::MinMax)?.hi(), 64.0);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn range_with(&self, part: usize, method: CalibrationMethod) -> Result<ClipRange> {
        let config = self.config.with_method(method);
        method.validate()?;
        check_bins::<BINS>(&config)?;
        let averages = |m| matches!(m, CalibrationMethod::MovingAverage { .. });
        if averages(method) && method != self.config.method {
            return Err(Error::Mismatch { what: What::Config });
        }
        self.range_by(part, &config)
    }

    fn range_by(&self, part: usize, config: &CalibrationConfig) -> Result<ClipRange> {
        let got = self.parts().len();
        let observer = self.parts().get(part).ok_or(Error::Length {
            what: What::Channels,
            expected: part.saturating_add(1),
            got,
        })?;
        observer.range(config)?.ok_or(Error::NoSamples { part })
    }

    /// Scale and zero point of a part.
    ///
    /// # Errors
    /// As [`Self::range`].
    ///
    /// ```
    /// # use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine};
    /// # let mut engine = CalibrationEngine::<0>::new(CalibrationConfig::default())?;
    /// engine.observe(&[-0.25, 0.0, 1.7421875])?; // 255/128 wide: 255 steps from code −128 to 127
    /// let params = engine.params(0)?;
    /// assert_eq!((params.scale, params.zero_point), (1.0 / 128.0, -96)); // −128 + 0.25·128
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn params(&self, part: usize) -> Result<AffineParams> {
        Ok(self.calibrated(part)?.params)
    }

    /// Range, scale and zero point of a part.
    ///
    /// # Errors
    /// As [`Self::range`].
    ///
    /// ```
    /// # use qat_kernels::{Grid, calibration::{Calibrated, CalibrationConfig, CalibrationEngine, QuantScheme}};
    /// let config = CalibrationConfig::default().with_scheme(QuantScheme::Symmetric(Grid::MidTread)).with_bits(4);
    /// let mut engine = CalibrationEngine::<0>::new(config)?;
    /// engine.observe(&[-3.5, 0.5])?;
    /// let Calibrated { range, params } = engine.calibrated(0)?;
    /// assert_eq!((range.lo(), range.hi()), (-3.5, 0.5)); // as seen
    /// assert_eq!((params.scale, params.zero_point), (0.5, 0)); // 3.5 over the largest code, 7
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn calibrated(&self, part: usize) -> Result<Calibrated> {
        let range = self.range(part)?;
        Ok(Calibrated { range, params: AffineParams::of(range, self.config.levels()?, self.config.scheme) })
    }

    /// Range, scale and zero point of every part, written to the front of `out`; returns that part of it.
    ///
    /// # Errors
    /// [`Error::Length`] if `out` has fewer entries than there are parts; [`Error::NoSamples`] for the first part that
    /// saw none.
    ///
    /// ```
    /// # use qat_kernels::{Grid, QuantGranularity, calibration::*};
    /// # let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerChannel);
    /// # let config = config.with_bits(4).with_scheme(QuantScheme::Symmetric(Grid::MidTread));
    /// # let mut engine = CalibrationEngine::with_parts(config, [const { Observer::<0>::new() }; 2])?;
    /// engine.observe(&[-7.0, 1.0, 3.5, 0.0])?; // the weights of two channels, for codes up to 7
    /// let mut all = [engine.calibrated(0)?; 8];
    /// let steps = engine.finish(&mut all)?.iter().map(|part| part.params.scale);
    /// assert!(steps.eq([1.0, 0.5]));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn finish<'o>(&self, out: &'o mut [Calibrated]) -> Result<&'o mut [Calibrated]> {
        let (expected, got) = (self.parts().len(), out.len());
        let out = out.get_mut(..expected).ok_or(Error::Length { what: What::Output, expected, got })?;
        for (part, slot) in out.iter_mut().enumerate() {
            *slot = self.calibrated(part)?;
        }
        Ok(out)
    }
}

impl<const BINS: usize, S: AsRef<[Observer<BINS>]> + AsMut<[Observer<BINS>]>> CalibrationEngine<BINS, S> {
    /// Observes one batch: parts one after the other, of equal length, as the rows of a weight matrix. NaN, ±∞ and
    /// samples beyond the outlier limit are counted and left out.
    ///
    /// # Errors
    /// [`Error::NotDivisible`] if the samples do not divide into the parts; [`Error::Length`] if the parts are groups and
    /// have another length than the granularity says.
    ///
    /// ```
    /// # use qat_kernels::{QuantGranularity, calibration::{CalibrationConfig, CalibrationEngine, Observer}};
    /// # let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerChannel);
    /// # let mut engine = CalibrationEngine::with_parts(config, [const { Observer::<0>::new() }; 2])?;
    /// engine.observe(&[-1.0, 2.0, -4.0, 0.5])?; // the weights of two channels, row by row
    /// assert_eq!((engine.range(0)?.magnitude(), engine.range(1)?.magnitude()), (2.0, 4.0));
    /// assert!(engine.observe(&[0.0; 3]).is_err()); // not the same number for both
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn observe(&mut self, samples: &[f32]) -> Result<()> {
        let parts = self.parts.as_mut();
        let len = part_len(samples.len(), parts.len())?;
        match self.config.granularity {
            QuantGranularity::PerGroup(group) if len != group && len != 0 => {
                return Err(Error::Length {
                    what: What::Samples,
                    expected: group.saturating_mul(parts.len()),
                    got: samples.len(),
                });
            }
            _ => {}
        }
        // Nothing to cut an empty batch into.
        for (part, samples) in parts.iter_mut().zip(samples.chunks_exact(len.max(1))) {
            let mut batch = part.batch(&self.config);
            batch.observe(samples);
            batch.finish();
        }
        Ok(())
    }

    /// Observes one batch with the parts interleaved, the channel being the last dimension: activations in NHWC order,
    /// or `[tokens, features]`.
    ///
    /// # Errors
    /// [`Error::NotDivisible`] if the samples do not divide into the parts.
    ///
    /// ```
    /// # use qat_kernels::{QuantGranularity, calibration::{CalibrationConfig, CalibrationEngine, Observer}};
    /// # let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerChannel);
    /// # let mut engine = CalibrationEngine::with_parts(config, [const { Observer::<0>::new() }; 2])?;
    /// engine.observe_channels_last(&[1.0, 10.0, 2.0, 20.0, 3.0, 30.0])?; // three pixels of two channels
    /// assert_eq!((engine.range(0)?.hi(), engine.range(1)?.lo()), (3.0, 10.0));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn observe_channels_last(&mut self, samples: &[f32]) -> Result<()> {
        let parts = self.parts.as_mut();
        part_len(samples.len(), parts.len())?;
        if let [only] = parts {
            let mut batch = only.batch(&self.config);
            batch.observe(samples);
            batch.finish();
            return Ok(());
        }
        let channels = parts.len();
        let mut gathered = [0.0; GATHER];
        for (channel, part) in parts.iter_mut().enumerate() {
            let mut batch = part.batch(&self.config);
            let mut rest = samples.iter().skip(channel).step_by(channels);
            loop {
                let mut n = 0;
                for (slot, &x) in gathered.iter_mut().zip(&mut rest) {
                    *slot = x;
                    n += 1;
                }
                batch.observe(gathered.get(..n).unwrap_or(&[]));
                if n < GATHER {
                    break;
                }
            }
            batch.finish();
        }
        Ok(())
    }

    /// Observes one batch of a single part.
    ///
    /// # Errors
    /// [`Error::Length`] if there is no such part.
    ///
    /// ```
    /// # use qat_kernels::{QuantGranularity, calibration::{CalibrationConfig, CalibrationEngine, Observer}};
    /// # let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerChannel);
    /// # let mut engine = CalibrationEngine::with_parts(config, [const { Observer::<0>::new() }; 2])?;
    /// engine.observe_part(0, &[20.5, 21.0])?; // °C
    /// engine.observe_part(1, &[990.0, 1013.0, 1001.0])?; // hPa, more often
    /// assert_eq!((engine.range(0)?.hi(), engine.range(1)?.lo()), (21.0, 990.0));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn observe_part(&mut self, part: usize, samples: &[f32]) -> Result<()> {
        let parts = self.parts.as_mut();
        let got = parts.len();
        let observer = parts.get_mut(part).ok_or(Error::Length {
            what: What::Channels,
            expected: part.saturating_add(1),
            got,
        })?;
        let mut batch = observer.batch(&self.config);
        batch.observe(samples);
        batch.finish();
        Ok(())
    }

    /// Adds what another engine saw, as if this one had seen it next.
    ///
    /// # Errors
    /// Nothing is changed on [`Error::Mismatch`] (configurations differ), [`Error::Length`] (numbers of parts differ) and
    /// [`Error::Capacity`] (more domains than fit).
    ///
    /// ```
    /// # use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine};
    /// # let new = || CalibrationEngine::<512>::new(CalibrationConfig::default());
    /// let (mut one, mut left, mut right) = (new()?, new()?, new()?);
    /// one.observe(&[-1.0, 0.25, 8.0, 3.0])?;
    /// left.observe(&[-1.0, 0.25])?;
    /// right.observe(&[8.0, 3.0])?;
    /// left.merge(&right)?;
    /// assert_eq!(left, one); // histograms included
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn merge<T: AsRef<[Observer<BINS>]>>(&mut self, other: &CalibrationEngine<BINS, T>) -> Result<()> {
        if self.config != other.config {
            return Err(Error::Mismatch { what: What::Config });
        }
        let (mine, theirs) = (self.parts.as_mut(), other.parts());
        if mine.len() != theirs.len() {
            return Err(Error::Length { what: What::Channels, expected: mine.len(), got: theirs.len() });
        }
        self.domains.merge(&other.domains)?;
        for (mine, theirs) in mine.iter_mut().zip(theirs) {
            mine.merge(theirs);
        }
        Ok(())
    }
}

fn check_bins<const BINS: usize>(config: &CalibrationConfig) -> Result<()> {
    if BINS < config.method.min_bins(config.bits) {
        return Err(Error::Capacity { what: What::Histogram, capacity: BINS });
    }
    Ok(())
}

/// Samples of each part.
fn part_len(len: usize, parts: usize) -> Result<usize> {
    match len.checked_rem(parts) {
        Some(0) => Ok(len / parts),
        _ => Err(Error::NotDivisible { what: What::Samples, len, by: parts }),
    }
}

#[cfg(test)]
mod tests;
