//! What every quantiser has besides its steps: levels, gradient estimator, initial step.

use super::search::{DEAD_STEP, fit_step};
use crate::error::Result;
use crate::grid::{Grid, Levels};
use crate::math::sqrt;
use crate::ste::{LsqMask, SteVariant};
use serde::{Deserialize, Serialize};

/// How the first step is found from the weights.
///
/// ```
/// use qat_kernels::quantizer::{QuantizerSettings, StepInit};
/// use qat_kernels::{Grid, Levels, Result};
/// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidRise)?); // levels ±½ and ±1½
/// let step = |init| -> Result<f32> { settings.with_init(init).initial_step(&[3.0, -1.0], None) };
/// assert!((step(StepInit::Mse)? - 2.0).abs() < 1e-6); // no error at all
/// assert!((step(StepInit::Octav)? - 3.0 / (1.0 + 1.0 / 48.0) / 2.0).abs() < 1e-6); // clips the 3 a little
/// assert!((step(StepInit::Lsq)? - 2.0 * 2.0 / 1.5f32.sqrt()).abs() < 1e-6); // mean 2, Qp = 1½
/// assert_eq!(step(StepInit::Max)?, 1.5); // 3/2
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepInit {
    /// The step with the smallest squared error ([`fit_step`]), which is right at every bit width and on both grids.
    #[default]
    Mse,
    /// OCTAV's clipping point s over the levels' reach, s/2^(b−1) (Sakr et al. 2022, equation 8): the fixed point of
    /// `s = Σ|w|·1{|w|>s} / (4⁻ᵇ/3·Σ1{|w|≤s} + Σ1{|w|>s})`, which balances clipping against rounding noise of uniform
    /// density. A few sums in place of a search, within a decibel of it.
    Octav,
    /// LSQ's `2·mean|w|/√Qp` (Esser et al. 2020, §2.1), Qp = [`Levels::top`]. Made for 2 to 4 bits; at 8 it spans
    /// several times the range of the weights.
    Lsq,
    /// The largest weight at the end of the range: `max|w|/2^(b−1)` on the mid-rise grid, the initial step of SEQ
    /// (Liu et al. 2025: at 2 bits the levels are ±¼ and ±¾ of the maximum), and `max|w|/(2^(b−1) − 1)` on the
    /// mid-tread grid, where the maximum is a level.
    Max,
}

/// Levels, gradient estimator and initial step of a quantiser.
///
/// ```
/// use qat_kernels::quantizer::{QuantizerSettings, StepInit};
/// use qat_kernels::{Grid, Levels, LsqMask, SteVariant};
/// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidRise)?)
///     .with_ste(SteVariant::Ewgs { lambda: 0.2 })
///     .with_mask(LsqMask::Exact)
///     .with_init(StepInit::Max);
/// assert_eq!(settings.init, StepInit::Max);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantizerSettings {
    /// Codes and what they stand for.
    pub levels: Levels,
    /// The gradient estimator; LSQ unless set.
    pub ste: SteVariant,
    /// Where LSQ and EWGS look for the range; the paper's mask unless set.
    pub mask: LsqMask,
    /// The initial step.
    pub init: StepInit,
}

impl QuantizerSettings {
    /// LSQ with the paper's mask, and the initial step with the smallest squared error.
    ///
    /// ```
    /// use qat_kernels::quantizer::{QuantizerSettings, StepInit};
    /// use qat_kernels::{Grid, Levels, LsqMask, SteVariant};
    /// let settings = QuantizerSettings::new(Levels::new(4, Grid::MidTread)?);
    /// assert_eq!(settings.ste, SteVariant::LearnedStepSize);
    /// assert_eq!((settings.mask, settings.init), (LsqMask::Exact, StepInit::Mse));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn new(levels: Levels) -> Self {
        Self { levels, ste: SteVariant::default(), mask: LsqMask::default(), init: StepInit::default() }
    }

    /// Sets the gradient estimator.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, QuantizerSettings, UniformQuantizer};
    /// use qat_kernels::{Grid, Levels, SteVariant};
    /// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidTread)?).with_ste(SteVariant::Standard);
    /// let quantizer = UniformQuantizer::new(settings, [1.0])?;
    /// let (mut grad_weights, mut grad_step) = ([0.0; 2], [0.0]);
    /// quantizer.backward(&[0.4, 7.0], &[1.0, 3.0], &mut grad_weights, &mut grad_step)?;
    /// assert_eq!(grad_weights, [1.0, 3.0]); // LSQ would stop the second one: 7 is beyond the levels
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn with_ste(self, ste: SteVariant) -> Self {
        Self { ste, ..self }
    }

    /// Sets the mask.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, QuantizerSettings, UniformQuantizer};
    /// use qat_kernels::{Grid, Levels, LsqMask, Result};
    /// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidTread)?); // codes −2..=1
    /// let gradient = |mask| -> Result<f32> {
    ///     let (mut grad_weight, mut grad_step) = ([0.0], [0.0]);
    ///     let quantizer = UniformQuantizer::new(settings.with_mask(mask), [1.0])?;
    ///     quantizer.backward(&[1.25], &[1.0], &mut grad_weight, &mut grad_step)?;
    ///     Ok(grad_weight[0])
    /// };
    /// assert_eq!(gradient(LsqMask::Exact)?, 0.0); // 1.25 is beyond the largest level
    /// assert_eq!(gradient(LsqMask::Rounded)?, 1.0); // and is rounded to it
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn with_mask(self, mask: LsqMask) -> Self {
        Self { mask, ..self }
    }

    /// Sets the initial step.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, GroupQuantizer, F16};
    /// use qat_kernels::quantizer::{QuantizerSettings, StepInit};
    /// use qat_kernels::{Grid, Levels};
    /// let settings = QuantizerSettings::new(Levels::new(4, Grid::MidTread)?).with_init(StepInit::Max);
    /// let mut quantizer = GroupQuantizer::new(settings, [F16::ONE])?;
    /// quantizer.init_scale_from_weights(&[0.25, -1.75])?;
    /// assert_eq!(quantizer.steps(), [F16::from_f32(0.25)]); // 1.75/7
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn with_init(self, init: StepInit) -> Self {
        Self { init, ..self }
    }

    /// The initial step for weights that share one: positive and normal, [`DEAD_STEP`] if the weights are all zero.
    ///
    /// The importance (see [`fit_step`]) matters to [`StepInit::Mse`] only.
    ///
    /// # Errors
    /// As [`fit_step`].
    ///
    /// ```
    /// use qat_kernels::quantizer::{DEAD_STEP, QuantizerSettings, StepInit};
    /// use qat_kernels::{Error, Grid, Levels, What};
    /// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidTread)?).with_init(StepInit::Lsq);
    /// assert_eq!(settings.initial_step(&[0.25, -0.75], None)?, 1.0); // 2·½/√1
    /// assert_eq!(settings.initial_step(&[0.0; 8], None)?, DEAD_STEP);
    /// let e = Error::NotFinite { what: What::Weights, index: 1 };
    /// assert_eq!(settings.initial_step(&[0.0, f32::NAN], None), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn initial_step(&self, weights: &[f32], importance: Option<&[f32]>) -> Result<f32> {
        super::search::check(weights, importance)?;
        let step = match self.init {
            StepInit::Mse => return fit_step(self.levels, weights, importance),
            StepInit::Octav => octav(self.levels.bits(), weights),
            StepInit::Lsq => {
                let sum: f64 = weights.iter().map(|w| f64::from(w.abs())).sum();
                2.0 * ((sum / weights.len() as f64) as f32 / sqrt(self.levels.top()))
            }
            StepInit::Max => largest(weights) / max_at(self.levels),
        };
        Ok(if step.is_normal() { step } else { DEAD_STEP })
    }
}

/// The step of [`StepInit::Octav`]: Newton's iteration from the mean, which the paper finds to settle within ten rounds.
fn octav(bits: u8, weights: &[f32]) -> f32 {
    const ROUNDS: usize = 20;
    let levels = f64::from(1_u32 << bits);
    let noise = 1.0 / (3.0 * levels * levels);
    let mut clip = weights.iter().map(|w| f64::from(w.abs())).sum::<f64>() / weights.len().max(1) as f64;
    for _ in 0..ROUNDS {
        let (mut beyond, mut count) = (0.0, 0.0);
        for w in weights {
            let size = f64::from(w.abs());
            if size > clip {
                beyond += size;
                count += 1.0;
            }
        }
        if count == 0.0 {
            break;
        }
        clip = beyond / (noise * (weights.len() as f64 - count) + count);
    }
    (2.0 * clip / levels) as f32
}

/// max|w|.
pub(super) fn largest(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |largest, w| if w.abs() > largest { w.abs() } else { largest })
}

/// How many steps [`StepInit::Max`] puts below the maximum.
fn max_at(levels: Levels) -> f32 {
    match levels.grid() {
        Grid::MidTread => levels.hi() as f32,
        Grid::MidRise => levels.hi() as f32 + 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantizer::samples;

    fn settings(bits: u8, grid: Grid, init: StepInit) -> QuantizerSettings {
        QuantizerSettings::new(Levels::new(bits, grid).unwrap()).with_init(init)
    }

    #[test]
    fn initial_steps_are_the_papers() {
        let weights = [0.1, -0.4, 0.3, 0.8];
        let lsq = settings(3, Grid::MidTread, StepInit::Lsq).initial_step(&weights, None).unwrap();
        assert!((lsq - 2.0 * 0.4 / 3f32.sqrt()).abs() < 1e-6);
        let seq = settings(2, Grid::MidRise, StepInit::Max);
        let step = seq.initial_step(&weights, None).unwrap();
        let levels: Vec<f32> = (-2..=1).map(|q| seq.levels.dequantize(q, step)).collect();
        assert_eq!(levels, [-0.6, -0.2, 0.2, 0.6]); // ±¾ and ±¼ of the maximum
        assert_eq!(settings(4, Grid::MidTread, StepInit::Max).initial_step(&[7.0, -3.0], None), Ok(1.0));
    }

    #[test]
    fn every_initial_step_is_positive_and_normal() {
        for init in [StepInit::Mse, StepInit::Octav, StepInit::Lsq, StepInit::Max] {
            for grid in [Grid::MidTread, Grid::MidRise] {
                for bits in 2..=8 {
                    for scale in [0.0, 1e-44, 1e-37, 1e-3, 1.0, 1e37] {
                        let weights: Vec<f32> = samples(7, 40, true).iter().map(|w| w * scale).collect();
                        let step = settings(bits, grid, init).initial_step(&weights, None).unwrap();
                        assert!(step > 0.0 && step.is_normal(), "{init:?} {grid:?} {bits} {scale}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_mse_step_leaves_the_smallest_error() {
        let weights = samples(3, 500, false);
        for (bits, grid) in [(2, Grid::MidTread), (2, Grid::MidRise), (4, Grid::MidTread), (8, Grid::MidRise)]
        {
            let error = |init| -> f64 {
                let settings = settings(bits, grid, init);
                let step = settings.initial_step(&weights, None).unwrap();
                weights.iter().map(|&w| f64::from(w - settings.levels.fake_quantize(w, step)).powi(2)).sum()
            };
            assert!(error(StepInit::Mse) < error(StepInit::Lsq));
            assert!(error(StepInit::Mse) < error(StepInit::Max));
            let octav = error(StepInit::Octav) / error(StepInit::Mse);
            assert!((1.0..1.25).contains(&octav), "{bits} {grid:?}: {octav}");
        }
    }

    #[test]
    fn octav_is_the_fixed_point_of_the_papers_equation() {
        let weights = samples(5, 2000, false);
        for bits in [2, 4, 8] {
            let step = settings(bits, Grid::MidTread, StepInit::Octav).initial_step(&weights, None).unwrap();
            let clip = f64::from(step) * f64::from(1 << (bits - 1));
            let sizes = || weights.iter().map(|w| f64::from(w.abs()));
            let beyond = sizes().filter(|w| *w > clip).count() as f64;
            let noise = 4f64.powi(-i32::from(bits)) / 3.0 * (weights.len() as f64 - beyond);
            let next = sizes().filter(|w| *w > clip).sum::<f64>() / (noise + beyond);
            assert!((next / clip - 1.0).abs() < 1e-5, "{bits}: {clip} {next}");
        }
    }
}
