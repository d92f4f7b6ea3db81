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
    #[must_use]
    pub fn with_method(self, method: CalibrationMethod) -> Self {
        Self { method, ..self }
    }

    /// Sets the bit width.
    #[must_use]
    pub fn with_bits(self, bits: u8) -> Self {
        Self { bits, ..self }
    }

    /// Sets the scheme.
    #[must_use]
    pub fn with_scheme(self, scheme: QuantScheme) -> Self {
        Self { scheme, ..self }
    }

    /// Sets the granularity.
    #[must_use]
    pub fn with_granularity(self, granularity: QuantGranularity) -> Self {
        Self { granularity, ..self }
    }

    /// Sets the largest magnitude that still counts as a sample.
    #[must_use]
    pub fn with_outlier_limit(self, limit: f32) -> Self {
        Self { outlier_limit: Some(limit), ..self }
    }

    /// The codes and levels of this configuration.
    ///
    /// # Errors
    /// [`Error::Bits`].
    pub const fn levels(&self) -> Result<Levels> {
        Levels::new(self.bits, self.scheme.grid())
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first field that is out of range: [`Error::Bits`], [`Error::Range`] (momentum, share, group size),
    /// [`Error::NotPositive`] (outlier limit).
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
