//! Pi steps with one k for all: Δ = α·π/k.
//!
//! With α free this is a uniform quantiser whose step is written as a multiple of π: the same codes and the same error
//! for the same step. What differs is the parameter that is trained, α, whose gradient is π/k times the step's.

use super::runs::{Runs, check_length, init_runs};
use super::search::DEAD_STEP;
use super::{DifferentiableQuantizer, QuantizerSettings};
use crate::error::{Error, Result, What};
use crate::grid::{Levels, pi_step};
use crate::ste::lsq_gradient_scale;
use core::f32::consts::PI;

/// A quantiser with steps `α·π/k`, k ∈ {2, 3, 4, 5} fixed, α learned.
///
/// `S` holds α, n of them, each for an n-th of the weights: as the steps of [`super::UniformQuantizer`].
///
/// ```
/// use core::f32::consts::PI;
/// use qat_kernels::quantizer::{DifferentiableQuantizer, PiQuantDifferentiable, QuantizerSettings};
/// use qat_kernels::{Grid, Levels};
/// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidTread)?); // codes −2..=1
/// let quantizer = PiQuantDifferentiable::new(settings, 4, [4.0 / PI])?; // a step of 1
/// let weights = [0.4, 0.9, 3.0];
///
/// let mut w_hat = [0.0; 3];
/// quantizer.forward(&weights, &mut w_hat)?;
/// assert_eq!(w_hat, [0.0, 1.0, 1.0]);
///
/// let (mut grad_weights, mut grad_alpha) = ([0.0; 3], [0.0]);
/// quantizer.backward(&weights, &[1.0, 1.0, 2.0], &mut grad_weights, &mut grad_alpha)?;
/// assert_eq!(grad_weights, [1.0, 1.0, 0.0]); // 3.0 is beyond the largest level
/// // Step: (0 − 0.4) + (1 − 0.9) + 2·1 = 1.7, times 1/√(3·1); then α: times π/4.
/// assert!((grad_alpha[0] - 1.7 / 3f32.sqrt() * PI / 4.0).abs() < 1e-6);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PiQuantDifferentiable<S = [f32; 1]> {
    settings: QuantizerSettings,
    k: u8,
    alphas: S,
}

impl PiQuantDifferentiable {
    /// α = 1 for everything; `k` must be one of the divisors.
    pub(super) fn preset(levels: Levels, k: u8) -> Self {
        Self { settings: QuantizerSettings::new(levels), k, alphas: [1.0] }
    }
}

impl<S: AsRef<[f32]> + AsMut<[f32]>> PiQuantDifferentiable<S> {
    /// A quantiser with these α.
    ///
    /// # Errors
    /// [`Error::Divisor`] unless k ∈ {2, 3, 4, 5}; [`Error::Empty`] without an α; [`Error::NotPositive`] for an α that
    /// gives no positive normal step; [`Error::Range`] for a bad parameter of the estimator.
    ///
    /// ```
    /// use core::f32::consts::{FRAC_PI_2, FRAC_PI_4};
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, PiQuantDifferentiable, QuantizerSettings};
    /// use qat_kernels::{Error, Grid, Levels};
    /// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidTread)?);
    /// let quantizer = PiQuantDifferentiable::new(settings, 2, [1.0, 0.5])?; // two channels, k = 2
    /// let mut w_hat = [0.0; 2];
    /// quantizer.forward(&[1.0, 1.0], &mut w_hat)?;
    /// assert_eq!(w_hat, [FRAC_PI_2, FRAC_PI_4]); // level 1 of each
    /// assert_eq!(PiQuantDifferentiable::new(settings, 6, [1.0]), Err(Error::Divisor { k: 6 }));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn new(settings: QuantizerSettings, k: u8, alphas: S) -> Result<Self> {
        settings.ste.validate()?;
        if !super::DIVISORS.contains(&k) {
            return Err(Error::Divisor { k });
        }
        check_alphas(alphas.as_ref(), k)?;
        Ok(Self { settings, k, alphas })
    }

    /// α, one per tensor, channel or group.
    ///
    /// ```
    /// use core::f32::consts::FRAC_PI_8;
    /// use qat_kernels::pi_step;
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, piq3_quantizer};
    /// let mut quantizer = piq3_quantizer(); // k = 4
    /// quantizer.set_scales(&[0.5])?;
    /// assert_eq!(pi_step(quantizer.alphas()[0], quantizer.k())?, FRAC_PI_8); // the step, ½·π/4
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn alphas(&self) -> &[f32] {
        self.alphas.as_ref()
    }

    /// The divisor.
    ///
    /// ```
    /// use qat_kernels::quantizer::{group_factor, piq2_quantizer, piq3_quantizer};
    /// assert_eq!((piq2_quantizer().k(), piq3_quantizer().k()), (3, 4));
    /// assert_eq!(group_factor(piq3_quantizer().k())?, 15); // a step of π/4 is 15 of π/60
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn k(&self) -> u8 {
        self.k
    }

    /// The settings.
    ///
    /// ```
    /// use core::f32::consts::FRAC_1_PI;
    /// use qat_kernels::quantizer::{
    ///     DifferentiableQuantizer, PiQuantDifferentiable, StepInit, piq3_quantizer,
    /// };
    /// // PiQ3, but α from the largest weight instead of a search.
    /// let settings = piq3_quantizer().settings().with_init(StepInit::Max);
    /// let mut quantizer = PiQuantDifferentiable::new(settings, 4, [1.0])?;
    /// quantizer.init_scale_from_weights(&[0.75, -0.3])?; // a step of 0.75/3
    /// assert!((quantizer.alphas()[0] - FRAC_1_PI).abs() < 1e-6); // ¼·4/π
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn settings(&self) -> &QuantizerSettings {
        &self.settings
    }

    /// Takes the storage back.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, PiQuantDifferentiable, QuantizerSettings};
    /// # use qat_kernels::{Grid, Levels};
    /// # let settings = QuantizerSettings::new(Levels::new(3, Grid::MidTread)?);
    /// let mut parameters = [1.0; 3]; // of a network; the last two are this layer's α
    /// let mut quantizer = PiQuantDifferentiable::new(settings, 4, &mut parameters[1..])?;
    /// quantizer.set_scales(&[2.0, 0.5])?;
    /// let alphas: &mut [f32] = quantizer.into_alphas();
    /// alphas[0] *= 2.0;
    /// assert_eq!(parameters, [1.0, 4.0, 0.5]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn into_alphas(self) -> S {
        self.alphas
    }

    fn runs(&self) -> Runs<impl Fn(usize) -> Result<f32>> {
        let alphas = self.alphas.as_ref();
        let step_at = |i: usize| pi_step(alphas[i], self.k);
        Runs { levels: self.settings.levels, count: alphas.len(), what: What::Alpha, step_at }
    }
}

fn check_alphas(alphas: &[f32], k: u8) -> Result<()> {
    if alphas.is_empty() {
        return Err(Error::Empty { what: What::Alpha });
    }
    match alphas.iter().position(|&alpha| pi_step(alpha, k).is_err()) {
        Some(index) => Err(Error::NotPositive { what: What::Alpha, index, value: alphas[index] }),
        None => Ok(()),
    }
}

impl<S: AsRef<[f32]> + AsMut<[f32]>> DifferentiableQuantizer for PiQuantDifferentiable<S> {
    fn levels(&self) -> Levels {
        self.settings.levels
    }

    fn scale_count(&self) -> usize {
        self.alphas.as_ref().len()
    }

    fn scales(&self, out: &mut [f32]) -> Result<()> {
        check_length(What::Alpha, out.len(), self.scale_count())?;
        out.copy_from_slice(self.alphas.as_ref());
        Ok(())
    }

    fn set_scales(&mut self, scales: &[f32]) -> Result<()> {
        check_length(What::Alpha, scales.len(), self.scale_count())?;
        check_alphas(scales, self.k)?;
        self.alphas.as_mut().copy_from_slice(scales);
        Ok(())
    }

    fn init_scale_weighted(&mut self, weights: &[f32], importance: Option<&[f32]>) -> Result<()> {
        let (settings, k, alphas) = (self.settings, self.k, self.alphas.as_mut());
        init_runs(weights, importance, alphas.len(), What::Alpha, |i, weights, importance| {
            let alpha = settings.initial_step(weights, importance)? * (f32::from(k) / PI);
            alphas[i] = if pi_step(alpha, k).is_ok() { alpha } else { DEAD_STEP };
            Ok(())
        })
    }

    fn forward(&self, weights: &[f32], out: &mut [f32]) -> Result<()> {
        self.runs().forward(weights, out)
    }

    fn backward(
        &self,
        weights: &[f32],
        grad_output: &[f32],
        grad_weights: &mut [f32],
        grad_scales: &mut [f32],
    ) -> Result<()> {
        let runs = self.runs();
        check_length(What::Alpha, grad_scales.len(), runs.count)?;
        let scale = lsq_gradient_scale(weights.len() / runs.count, runs.levels) * (PI / f32::from(self.k));
        runs.backward(&self.settings, weights, grad_output, grad_weights, |i, sum| {
            grad_scales[i] = sum * scale
        })
    }

    fn quantize(&self, weights: &[f32], codes: &mut [i8]) -> Result<()> {
        self.runs().quantize(weights, codes)
    }

    fn dequantize(&self, codes: &[i8], out: &mut [f32]) -> Result<()> {
        self.runs().dequantize(codes, out)
    }
}
