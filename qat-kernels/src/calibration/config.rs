//! What a calibration does: method, bit width, scheme, granularity. Plain data, checked by
//! [`CalibrationConfig::validate`].

use crate::config::QuantGranularity;
use crate::error::{Error, Result, What};
use crate::grid::{Grid, Levels};
use serde::{Deserialize, Serialize};

/// How a range is chosen from the samples seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CalibrationMethod {
    /// From the smallest to the largest sample: nothing is clipped.
    #[default]
    MinMax,
    /// The exponential moving average of the smallest and of the largest sample of each batch (Jacob et al. 2018, §3.1);
    /// a batch is one call of `observe`.
    MovingAverage {
        /// Weight of the past, `0 ≤ momentum < 1`.
        momentum: f32,
    },
    /// The range that keeps this share of the samples. Affine: `(1 − share)/2` of them lie below and as many above.
    /// Symmetric: `share` of them have a magnitude within it.
    Percentile {
        /// The share kept, `½ < share ≤ 1`; 0.999 to 0.99999 are usual.
        share: f32,
    },
    /// The range with the smallest expected squared error of quantisation, found by a search over clip thresholds.
    Mse,
    /// The threshold with the smallest Kullback-Leibler divergence between the distribution before and after
    /// quantisation (Migacz 2017).
    Entropy,
}

impl CalibrationMethod {
    /// The method's name, as configuration files write it.
    ///
    /// ```
    /// use qat_kernels::calibration::CalibrationMethod as Method;
    /// let methods = [Method::MinMax, Method::Percentile { share: 0.999 }, Method::MovingAverage { momentum: 0.9 }];
    /// assert_eq!(methods.map(Method::name), ["min-max", "percentile", "moving-average"]);
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MinMax => "min-max",
            Self::MovingAverage { .. } => "moving-average",
            Self::Percentile { .. } => "percentile",
            Self::Mse => "mse",
            Self::Entropy => "entropy",
        }
    }

    /// Checks the parameters.
    ///
    /// # Errors
    /// [`Error::Range`] for a momentum outside `0 ≤ m < 1` or a share outside `½ < s ≤ 1`, NaN included.
    ///
    /// ```
    /// use qat_kernels::calibration::CalibrationMethod;
    /// assert!(CalibrationMethod::Percentile { share: 0.999 }.validate().is_ok());
    /// assert!(CalibrationMethod::Percentile { share: 99.9 }.validate().is_err()); // a share, not per cent
    /// assert!(CalibrationMethod::MovingAverage { momentum: 1.0 }.validate().is_err()); // would learn nothing
    /// ```
    pub fn validate(self) -> Result<()> {
        match self {
            Self::MovingAverage { momentum } if !(0.0..1.0).contains(&momentum) => {
                Err(Error::Range { what: What::Share, value: momentum, min: 0.0, max: 1.0f32.next_down() })
            }
            Self::Percentile { share } if !(share > 0.5 && share <= 1.0) => {
                Err(Error::Range { what: What::Share, value: share, min: 0.5f32.next_up(), max: 1.0 })
            }
            _ => Ok(()),
        }
    }

    /// Histogram bins that the method needs at a bit width: none, a few, or two for every code, so that a threshold in
    /// the upper half of the histogram still has at least one bin to each code.
    ///
    /// ```
    /// use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine, CalibrationMethod};
    /// assert_eq!(CalibrationMethod::Mse.min_bins(8), 512); // two for each of 256 codes
    /// assert_eq!(CalibrationMethod::MinMax.min_bins(8), 0);
    /// // The smallest engine that serves the method:
    /// const BINS: usize = CalibrationMethod::Entropy.min_bins(4);
    /// let config = CalibrationConfig::default().with_bits(4).with_method(CalibrationMethod::Entropy);
    /// assert!(CalibrationEngine::<BINS>::new(config).is_ok());
    /// ```
    #[must_use]
    pub const fn min_bins(self, bits: u8) -> usize {
        match self {
            Self::MinMax | Self::MovingAverage { .. } => 0,
            Self::Percentile { .. } => super::histogram::MIN_BINS,
            Self::Mse | Self::Entropy => {
                let two_per_code = 2usize << bits;
                if two_per_code > super::histogram::MIN_BINS {
                    two_per_code
                } else {
                    super::histogram::MIN_BINS
                }
            }
        }
    }
}

/// Where the codes lie around zero.
///
/// ```
/// use qat_kernels::Grid;
/// use qat_kernels::calibration::{AffineParams, ClipRange, QuantScheme};
/// // Two bits for −3 to 3: three steps from end to end, or the largest level at 3.
/// let step = |scheme| AffineParams::from_range(ClipRange::new(-3.0, 3.0)?, 2, scheme).map(|p| p.scale);
/// assert_eq!(step(QuantScheme::Affine)?, 2.0);
/// assert_eq!(step(QuantScheme::Symmetric(Grid::MidTread))?, 3.0); // levels −2 to 1
/// assert_eq!(step(QuantScheme::Symmetric(Grid::MidRise))?, 2.0); // levels −1½ to 1½
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuantScheme {
    /// Scale and zero point; real zero is always a code. For activations.
    #[default]
    Affine,
    /// A step alone, zero point 0, on this grid. For weights, and for activations that are symmetric.
    Symmetric(Grid),
}

impl QuantScheme {
    /// The grid of the codes; affine codes count from the zero point in whole steps.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels, calibration::QuantScheme};
    /// let levels = Levels::new(2, QuantScheme::Symmetric(Grid::MidRise).grid())?;
    /// assert_eq!(levels.level(0), 0.5); // there is no zero
    /// assert_eq!(QuantScheme::Affine.grid(), Grid::MidTread); // there always is
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn grid(self) -> Grid {
        match self {
            Self::Affine => Grid::MidTread,
            Self::Symmetric(grid) => grid,
        }
    }
}

/// A calibration, in numbers.
///
/// ```
/// use qat_kernels::calibration::{CalibrationConfig, CalibrationMethod, QuantScheme};
/// use qat_kernels::{Grid, QuantGranularity};
///
/// let config = CalibrationConfig::default()
///     .with_method(CalibrationMethod::Percentile { share: 0.9999 })
///     .with_bits(4)
///     .with_scheme(QuantScheme::Symmetric(Grid::MidTread))
///     .with_granularity(QuantGranularity::PerChannel);
/// config.validate()?;
/// assert_eq!(CalibrationConfig::default().bits, 8);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CalibrationConfig {
    /// How the range is chosen.
    pub method: CalibrationMethod,
    /// Bits per code, 2..=8.
    pub bits: u8,
    /// Affine or symmetric.
    pub scheme: QuantScheme,
    /// What shares a range.
    pub granularity: QuantGranularity,
    /// Samples with a larger magnitude are counted as outliers and otherwise ignored; positive and finite. Say how large
    /// a sane sample can be, and one broken reading cannot coarsen the histogram of all others.
    pub outlier_limit: Option<f32>,
}

impl Default for CalibrationConfig {
    /// Min-max, 8 bits, affine, per tensor, no limit: the usual calibration of activations.
    fn default() -> Self {
        Self {
            method: CalibrationMethod::MinMax,
            bits: 8,
            scheme: QuantScheme::Affine,
            granularity: QuantGranularity::PerTensor,
            outlier_limit: None,
        }
    }
}

impl CalibrationConfig {
    /// Sets the method.
    ///
    /// ```
    /// use qat_kernels::calibration::{CalibrationConfig, CalibrationMethod};
    /// let four_bit = CalibrationConfig::default().with_bits(4);
    /// // The same in all but the method.
    /// let tries = [CalibrationMethod::Mse, CalibrationMethod::Entropy].map(|method| four_bit.with_method(method));
    /// assert_eq!(tries.map(|config| (config.method.name(), config.bits)), [("mse", 4), ("entropy", 4)]);
    /// ```
    #[must_use]
    pub fn with_method(self, method: CalibrationMethod) -> Self {
        Self { method, ..self }
    }

    /// Sets the bit width.
    ///
    /// ```
    /// use qat_kernels::{Error, calibration::CalibrationConfig};
    /// assert_eq!(CalibrationConfig::default().with_bits(4).levels()?.count(), 16);
    /// // Anything can be set; what can be used is another matter.
    /// assert_eq!(CalibrationConfig::default().with_bits(16).validate(), Err(Error::Bits { bits: 16 }));
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn with_bits(self, bits: u8) -> Self {
        Self { bits, ..self }
    }

    /// Sets the scheme.
    ///
    /// ```
    /// # use qat_kernels::{Grid, calibration::{CalibrationConfig, CalibrationEngine, QuantScheme}};
    /// let zero_point = |scheme| {
    ///     let mut engine = CalibrationEngine::<0>::new(CalibrationConfig::default().with_scheme(scheme))?;
    ///     engine.observe(&[0.0, 1.0])?;
    ///     engine.params(0).map(|params| params.zero_point)
    /// };
    /// assert_eq!(zero_point(QuantScheme::Affine)?, -128); // all 256 codes from 0 to 1
    /// assert_eq!(zero_point(QuantScheme::Symmetric(Grid::MidTread))?, 0); // the upper 128
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn with_scheme(self, scheme: QuantScheme) -> Self {
        Self { scheme, ..self }
    }

    /// Sets the granularity.
    ///
    /// ```
    /// use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine, Observer};
    /// use qat_kernels::{Error, QuantGranularity, What};
    /// let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerGroup(4));
    /// let mut engine = CalibrationEngine::with_parts(config, [Observer::<0>::new(); 2])?;
    /// let e = Error::Length { what: What::Samples, expected: 8, got: 6 }; // two groups of four
    /// assert_eq!(engine.observe(&[0.0; 6]), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn with_granularity(self, granularity: QuantGranularity) -> Self {
        Self { granularity, ..self }
    }

    /// Sets the largest magnitude that still counts as a sample.
    ///
    /// ```
    /// # use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine};
    /// let mut engine = CalibrationEngine::<0>::new(CalibrationConfig::default().with_outlier_limit(50.0))?;
    /// engine.observe(&[-10.0, 50.0, 3.0e9])?; // the last one is a broken reading
    /// assert_eq!((engine.range(0)?.hi(), engine.stats().outliers), (50.0, 1));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn with_outlier_limit(self, limit: f32) -> Self {
        Self { outlier_limit: Some(limit), ..self }
    }

    /// The codes and levels of this configuration.
    ///
    /// # Errors
    /// [`Error::Bits`].
    ///
    /// ```
    /// use qat_kernels::{Grid, calibration::{CalibrationConfig, QuantScheme}};
    /// let config = CalibrationConfig::default().with_bits(2);
    /// assert_eq!(config.levels()?.top(), 1.0); // affine codes count in whole steps
    /// assert_eq!(config.with_scheme(QuantScheme::Symmetric(Grid::MidRise)).levels()?.top(), 1.5);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub const fn levels(&self) -> Result<Levels> {
        Levels::new(self.bits, self.scheme.grid())
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first field that is out of range: [`Error::Bits`], [`Error::Range`] (momentum, share, group size),
    /// [`Error::NotPositive`] (outlier limit).
    ///
    /// ```
    /// use qat_kernels::{Error, What, calibration::CalibrationConfig};
    /// let config = CalibrationConfig::default().with_outlier_limit(-1.0); // no sample could pass
    /// let e = Error::NotPositive { what: What::Samples, index: 0, value: -1.0 };
    /// assert_eq!(config.validate(), Err(e));
    /// assert_eq!(config.with_bits(1).validate(), Err(Error::Bits { bits: 1 })); // the first fault
    /// ```
    pub fn validate(&self) -> Result<()> {
        self.levels()?;
        self.method.validate()?;
        if self.granularity == QuantGranularity::PerGroup(0) {
            return Err(Error::Range { what: What::Group, value: 0.0, min: 1.0, max: f32::INFINITY });
        }
        match self.outlier_limit {
            Some(value) if !(value > 0.0 && value.is_finite()) => {
                Err(Error::NotPositive { what: What::Samples, index: 0, value })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_field_is_named() {
        let d = CalibrationConfig::default();
        assert_eq!(d.validate(), Ok(()));
        for bits in [0, 1, 9, 255] {
            assert_eq!(d.with_bits(bits).validate(), Err(Error::Bits { bits }));
        }
        for momentum in [-0.1, 1.0, f32::NAN, f32::INFINITY] {
            let c = d.with_method(CalibrationMethod::MovingAverage { momentum });
            assert!(matches!(c.validate(), Err(Error::Range { what: What::Share, .. })), "{momentum}");
        }
        for share in [0.0, 0.5, 1.1, f32::NAN] {
            let c = d.with_method(CalibrationMethod::Percentile { share });
            assert!(matches!(c.validate(), Err(Error::Range { what: What::Share, .. })), "{share}");
        }
        let group = d.with_granularity(QuantGranularity::PerGroup(0));
        assert!(matches!(group.validate(), Err(Error::Range { what: What::Group, .. })));
        for limit in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(
                matches!(d.with_outlier_limit(limit).validate(), Err(Error::NotPositive { .. })),
                "{limit}"
            );
        }
    }

    #[test]
    fn ends_of_the_allowed_ranges_are_allowed() {
        let d = CalibrationConfig::default();
        for method in [
            CalibrationMethod::MovingAverage { momentum: 0.0 },
            CalibrationMethod::MovingAverage { momentum: 1.0f32.next_down() },
            CalibrationMethod::Percentile { share: 0.5f32.next_up() },
            CalibrationMethod::Percentile { share: 1.0 },
        ] {
            assert_eq!(d.with_method(method).validate(), Ok(()));
        }
        assert_eq!(d.with_bits(2).with_outlier_limit(f32::MAX).validate(), Ok(()));
    }
}
