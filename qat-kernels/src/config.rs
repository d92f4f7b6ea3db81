//! What to train and how: bit widths, grids, granularity, gradient estimator, loss weights. Plain data, checked by
//! [`QatConfig::validate`].

use crate::error::{Error, Result, What};
use crate::grid::{Grid, Levels};
use crate::ste::SteVariant;
use serde::{Deserialize, Serialize};

/// Bit width of [`QatConfig::default`].
pub const DEFAULT_BITS: u8 = 4;
/// Learning rate of [`QatConfig::default`].
pub const DEFAULT_QAT_LR: f32 = 1e-4;
/// Smallest bit width.
pub const MIN_BITS: u8 = 2;
/// Largest bit width.
pub const MAX_BITS: u8 = 8;

/// Which weights share a step.
///
/// ```
/// use qat_kernels::{QatConfig, QuantGranularity, quantizer::scales_needed};
/// // Steps of a layer of 8 outputs and 64 inputs.
/// let steps = |granularity| scales_needed(&QatConfig::default().with_granularity(granularity), 8, 64);
/// assert_eq!(steps(QuantGranularity::PerTensor)?, 1);
/// assert_eq!(steps(QuantGranularity::PerChannel)?, 8);
/// assert_eq!(steps(QuantGranularity::PerGroup(32))?, 16);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuantGranularity {
    /// One step for the whole tensor.
    PerTensor,
    /// One step per output channel (row).
    #[default]
    PerChannel,
    /// One step per group of this many consecutive weights of a row (sub-channel).
    PerGroup(usize),
    /// One step per token (row of activations), computed when the data is there.
    PerToken,
}

/// How the step comes about.
///
/// ```
/// use qat_kernels::{QatConfig, StepRule, quantizer::divisors_needed};
/// // Divisors to store for a layer of 4 outputs and 64 inputs.
/// let divisors = |step| divisors_needed(&QatConfig::default().with_step(step), 4, 64);
/// assert_eq!(divisors(StepRule::Pi { k: 3 })?, 0); // one k for all is part of the configuration
/// assert_eq!(divisors(StepRule::PiAdaptive { group: 16 })?, 16);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepRule {
    /// Δ = s, a free positive number.
    #[default]
    Uniform,
    /// Δ = α·π/k with one k for all.
    Pi {
        /// The divisor, 2 to 5.
        k: u8,
    },
    /// Δ = α·π/k with α per channel and k chosen per group of this many weights, 2 bits a group.
    PiAdaptive {
        /// Weights per group: 8, 16 or 32.
        group: usize,
    },
}

/// Refuses sizes of groups that adaptive steps do not have.
pub(crate) fn check_group(group: usize) -> Result<()> {
    if matches!(group, 8 | 16 | 32) { Ok(()) } else { Err(Error::Group { group }) }
}

/// Weights of the terms of a training loss, `λ_task·CE + λ_kd·T²·KL + λ_reason·L_reason`.
///
/// ```
/// use qat_kernels::{QatConfig, QatLossWeights};
/// let mostly_teacher = QatLossWeights { task: 0.25, distillation: 0.75, ..QatLossWeights::default() };
/// assert_eq!(mostly_teacher.reasoning, 0.0);
/// assert_eq!(QatConfig::default().with_loss(mostly_teacher).validate(), Ok(()));
/// assert_eq!(QatLossWeights::default().distillation, 0.0); // without a teacher, the task alone
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QatLossWeights {
    /// λ of the task's own loss.
    pub task: f32,
    /// λ of distillation from the teacher.
    pub distillation: f32,
    /// λ of the reasoning-fidelity loss.
    pub reasoning: f32,
}

impl Default for QatLossWeights {
    fn default() -> Self {
        Self { task: 1.0, distillation: 0.0, reasoning: 0.0 }
    }
}

/// A quantisation-aware training, in numbers.
///
/// ```
/// use qat_kernels::{QatConfig, QuantGranularity, SteVariant};
///
/// let config = QatConfig::piq2()
///     .with_ste(SteVariant::Ewgs { lambda: 0.2 })
///     .with_granularity(QuantGranularity::PerChannel)
///     .with_epochs(20)
///     .with_learning_rate(2e-4);
/// config.validate()?;
/// assert_eq!(config.bits, 2);
/// assert!(config.incoherence);
/// assert_eq!(QatConfig::default().bits, qat_kernels::DEFAULT_BITS);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QatConfig {
    /// Bits per weight, 2..=8.
    pub bits: u8,
    /// The grid of the codes.
    pub grid: Grid,
    /// Uniform or Pi steps.
    pub step: StepRule,
    /// Which weights share a step.
    pub granularity: QuantGranularity,
    /// The gradient estimator.
    pub ste: SteVariant,
    /// Epochs of quantisation-aware training, at least 1.
    pub epochs: u32,
    /// Peak learning rate, positive.
    pub learning_rate: f32,
    /// Rotate weights by a randomised Hadamard matrix before quantising (incoherence processing).
    pub incoherence: bool,
    /// Weights of the loss terms.
    pub loss: QatLossWeights,
}

impl Default for QatConfig {
    /// 4 bits, uniform, mid-tread, per channel, LSQ, 10 epochs at 1e-4.
    fn default() -> Self {
        Self {
            bits: DEFAULT_BITS,
            grid: Grid::MidTread,
            step: StepRule::Uniform,
            granularity: QuantGranularity::PerChannel,
            ste: SteVariant::LearnedStepSize,
            epochs: 10,
            learning_rate: DEFAULT_QAT_LR,
            incoherence: false,
            loss: QatLossWeights::default(),
        }
    }
}

impl QatConfig {
    /// PiQ2: 2 bits, Δ = α·π/3, incoherence on, mid-tread.
    ///
    /// ```
    /// use qat_kernels::{QatConfig, StepRule};
    /// let piq2 = QatConfig::piq2();
    /// assert_eq!((piq2.levels()?.lo(), piq2.levels()?.hi()), (-2, 1));
    /// assert_eq!((piq2.step, piq2.incoherence), (StepRule::Pi { k: 3 }, true));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn piq2() -> Self {
        Self { bits: 2, step: StepRule::Pi { k: 3 }, incoherence: true, ..Self::default() }
    }

    /// PiQ3: 3 bits, Δ = α·π/4, mid-tread.
    ///
    /// ```
    /// use qat_kernels::{QatConfig, StepRule};
    /// let piq3 = QatConfig::piq3();
    /// assert_eq!((piq3.bits, piq3.step), (3, StepRule::Pi { k: 4 }));
    /// assert!(!piq3.incoherence); // unlike PiQ2
    /// ```
    #[must_use]
    pub fn piq3() -> Self {
        Self { bits: 3, step: StepRule::Pi { k: 4 }, ..Self::default() }
    }

    /// PiQ2a: 2 bits, mid-rise, α per channel and k per group of 16.
    ///
    /// ```
    /// use qat_kernels::{QatConfig, quantizer::divisors_needed};
    /// let piq2a = QatConfig::piq2a();
    /// assert_eq!(piq2a.levels()?.top(), 1.5); // levels ±½ and ±1½
    /// assert_eq!(divisors_needed(&piq2a, 1, 64)?, 4); // 64/16
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn piq2a() -> Self {
        Self { bits: 2, grid: Grid::MidRise, step: StepRule::PiAdaptive { group: 16 }, ..Self::default() }
    }

    /// PiQ3a: 3 bits, mid-rise, α per channel and k per group of 16.
    ///
    /// ```
    /// use qat_kernels::{QatConfig, quantizer::packed_divisors_len};
    /// let bits_of_a_row = 256 * usize::from(QatConfig::piq3a().bits) + 8 * packed_divisors_len(1, 256 / 16);
    /// assert_eq!(bits_of_a_row as f32 / 256.0, 3.125); // per weight: 3, and ⅛ for the divisors
    /// ```
    #[must_use]
    pub fn piq3a() -> Self {
        Self { bits: 3, ..Self::piq2a() }
    }

    /// Sets the bit width.
    ///
    /// ```
    /// use qat_kernels::{Error, QatConfig};
    /// assert_eq!(QatConfig::default().with_bits(8).levels()?.count(), 256);
    /// assert_eq!(QatConfig::default().with_bits(16).validate(), Err(Error::Bits { bits: 16 }));
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn with_bits(self, bits: u8) -> Self {
        Self { bits, ..self }
    }

    /// Sets the grid.
    ///
    /// ```
    /// use qat_kernels::{Grid, QatConfig};
    /// let config = QatConfig::piq2().with_grid(Grid::MidRise);
    /// assert_eq!(config.levels()?.level(-2), -1.5); // −2 before
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn with_grid(self, grid: Grid) -> Self {
        Self { grid, ..self }
    }

    /// Sets the step rule.
    ///
    /// ```
    /// use qat_kernels::{Error, QatConfig, StepRule};
    /// let coarse = QatConfig::piq3().with_step(StepRule::Pi { k: 2 });
    /// assert_eq!(coarse.validate(), Ok(()));
    /// assert_eq!(coarse.with_step(StepRule::Pi { k: 6 }).validate(), Err(Error::Divisor { k: 6 }));
    /// ```
    #[must_use]
    pub fn with_step(self, step: StepRule) -> Self {
        Self { step, ..self }
    }

    /// Sets the gradient estimator.
    ///
    /// ```
    /// use qat_kernels::{QatConfig, SteVariant};
    /// let config = QatConfig::default().with_ste(SteVariant::Clipped { clip_val: 1.5 });
    /// assert_eq!(config.validate(), Ok(()));
    /// assert!(config.with_ste(SteVariant::Clipped { clip_val: 0.0 }).validate().is_err());
    /// ```
    #[must_use]
    pub fn with_ste(self, ste: SteVariant) -> Self {
        Self { ste, ..self }
    }

    /// Sets the granularity.
    ///
    /// ```
    /// use qat_kernels::quantizer::create_quantizer;
    /// use qat_kernels::{Error, QatConfig, QuantGranularity, What};
    /// let per_token = QatConfig::default().with_granularity(QuantGranularity::PerToken);
    /// assert_eq!(per_token.validate(), Ok(()));
    /// // Valid, but not for weights, which are there before any token.
    /// assert_eq!(create_quantizer(&per_token), Err(Error::Unsupported { what: What::Granularity }));
    /// ```
    #[must_use]
    pub fn with_granularity(self, granularity: QuantGranularity) -> Self {
        Self { granularity, ..self }
    }

    /// Sets the number of epochs.
    ///
    /// ```
    /// use qat_kernels::{Error, QatConfig, What};
    /// assert_eq!(QatConfig::default().with_epochs(1).validate(), Ok(()));
    /// let none = QatConfig::default().with_epochs(0).validate();
    /// assert!(matches!(none, Err(Error::Range { what: What::Epochs, value: 0.0, min: 1.0, .. })));
    /// ```
    #[must_use]
    pub fn with_epochs(self, epochs: u32) -> Self {
        Self { epochs, ..self }
    }

    /// Sets the peak learning rate.
    ///
    /// ```
    /// use qat_kernels::{DEFAULT_QAT_LR, Error, QatConfig, What};
    /// assert_eq!(QatConfig::default().with_learning_rate(2.0 * DEFAULT_QAT_LR).learning_rate, 2e-4);
    /// assert_eq!(
    ///     QatConfig::default().with_learning_rate(-1e-4).validate(),
    ///     Err(Error::NotPositive { what: What::LearningRate, index: 0, value: -1e-4 })
    /// );
    /// ```
    #[must_use]
    pub fn with_learning_rate(self, learning_rate: f32) -> Self {
        Self { learning_rate, ..self }
    }

    /// Switches incoherence processing.
    ///
    /// ```
    /// use qat_kernels::QatConfig;
    /// let without = QatConfig::piq2().with_incoherence(false); // no rotation of activations on the device
    /// assert_ne!(without, QatConfig::piq2());
    /// assert_eq!(without.with_incoherence(true), QatConfig::piq2());
    /// ```
    #[must_use]
    pub fn with_incoherence(self, incoherence: bool) -> Self {
        Self { incoherence, ..self }
    }

    /// Sets the loss weights.
    ///
    /// ```
    /// use qat_kernels::{Error, QatConfig, QatLossWeights, What};
    /// let loss = QatLossWeights { task: 1.0, distillation: 0.5, reasoning: f32::NAN };
    /// let checked = QatConfig::default().with_loss(loss).validate();
    /// assert_eq!(checked, Err(Error::NotFinite { what: What::Lambda, index: 2 })); // in the order of the fields
    /// ```
    #[must_use]
    pub fn with_loss(self, loss: QatLossWeights) -> Self {
        Self { loss, ..self }
    }

    /// The codes and levels of this configuration.
    ///
    /// # Errors
    /// [`Error::Bits`].
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels, QatConfig};
    /// assert_eq!(QatConfig::piq3a().levels()?, Levels::new(3, Grid::MidRise)?);
    /// assert!(QatConfig::default().with_bits(1).levels().is_err());
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub const fn levels(&self) -> Result<Levels> {
        Levels::new(self.bits, self.grid)
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first field that is out of range: [`Error::Bits`], [`Error::Divisor`], [`Error::Group`], [`Error::Range`] (clip
    /// value, λ, epochs, weights that share a step, loss weights), [`Error::NotPositive`] (learning rate),
    /// [`Error::NotFinite`] (loss weights, by their place).
    ///
    /// ```
    /// use qat_kernels::{Error, QatConfig};
    /// let config = QatConfig::default().with_bits(1).with_epochs(0);
    /// assert_eq!(config.validate(), Err(Error::Bits { bits: 1 })); // the first of two
    /// assert!(config.with_bits(2).validate().is_err()); // the second
    /// assert_eq!(config.with_bits(2).with_epochs(1).validate(), Ok(()));
    /// ```
    pub fn validate(&self) -> Result<()> {
        self.levels()?;
        match self.step {
            StepRule::Pi { k } if !(2..=5).contains(&k) => return Err(Error::Divisor { k }),
            StepRule::PiAdaptive { group } => check_group(group)?,
            _ => {}
        }
        if self.granularity == QuantGranularity::PerGroup(0) {
            return Err(range(What::Group, 0.0, 1.0, f32::INFINITY));
        }
        self.ste.validate()?;
        if self.epochs == 0 {
            return Err(range(What::Epochs, 0.0, 1.0, u32::MAX as f32));
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return Err(Error::NotPositive { what: What::LearningRate, index: 0, value: self.learning_rate });
        }
        for (index, value) in
            [self.loss.task, self.loss.distillation, self.loss.reasoning].into_iter().enumerate()
        {
            if !value.is_finite() {
                return Err(Error::NotFinite { what: What::Lambda, index });
            }
            if value < 0.0 {
                return Err(range(What::Lambda, value, 0.0, f32::MAX));
            }
        }
        Ok(())
    }
}

fn range(what: What, value: f32, min: f32, max: f32) -> Error {
    Error::Range { what, value, min, max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_what_they_are_called() {
        for c in [
            QatConfig::default(),
            QatConfig::piq2(),
            QatConfig::piq3(),
            QatConfig::piq2a(),
            QatConfig::piq3a(),
        ] {
            assert_eq!(c.validate(), Ok(()));
        }
        assert_eq!(QatConfig::piq2().step, StepRule::Pi { k: 3 });
        assert_eq!(QatConfig::piq3().step, StepRule::Pi { k: 4 });
    }

    #[test]
    fn every_bad_field_is_named() {
        let d = QatConfig::default();
        let what = |c: QatConfig| match c.validate().unwrap_err() {
            Error::Range { what, .. } | Error::NotPositive { what, .. } | Error::NotFinite { what, .. } => {
                what
            }
            e => panic!("{e}"),
        };
        assert_eq!(d.with_bits(9).validate(), Err(Error::Bits { bits: 9 }));
        assert_eq!(d.with_step(StepRule::Pi { k: 6 }).validate(), Err(Error::Divisor { k: 6 }));
        let twelve = d.with_step(StepRule::PiAdaptive { group: 12 });
        assert_eq!(twelve.validate(), Err(Error::Group { group: 12 }));
        assert_eq!(what(d.with_granularity(QuantGranularity::PerGroup(0))), What::Group);
        assert_eq!(what(d.with_ste(SteVariant::Clipped { clip_val: -1.0 })), What::ClipVal);
        assert_eq!(what(d.with_ste(SteVariant::Ewgs { lambda: f32::NAN })), What::Lambda);
        assert_eq!(what(d.with_epochs(0)), What::Epochs);
        assert_eq!(what(d.with_learning_rate(0.0)), What::LearningRate);
        assert_eq!(what(d.with_loss(QatLossWeights { task: f32::NAN, ..Default::default() })), What::Lambda);
    }
}
