//! Quantisers with a gradient: real weights in, the weights of an ultra-low-bit model out, and the way back.
//!
//! | quantiser | step | stored beside the codes |
//! |---|---|---|
//! | [`UniformQuantizer`] | s | an f32 per tensor, channel or group |
//! | [`GroupQuantizer`] | s | a binary16 per group |
//! | [`PiQuantDifferentiable`] | α·π/k, one k | an f32 per tensor, channel or group |
//! | [`AdaptivePiQuantizer`] | α·π/k, k per group | an f32 per channel and 2 bits per group |
//! | [`TokenQuantizer`] | max\|x\|/top | nothing: for activations |
//!
//! All but the last implement [`DifferentiableQuantizer`], work at 2 to 8 bits on both grids and keep their steps in
//! whatever holds a slice, so that nothing needs a heap. [`create_quantizer`] makes one from a [`crate::QatConfig`].
//!
//! ```
//! use qat_kernels::quantizer::{DifferentiableQuantizer, create_quantizer};
//! use qat_kernels::{QatConfig, SteVariant};
//!
//! let config = QatConfig::piq3().with_ste(SteVariant::Ewgs { lambda: 0.1 });
//! let mut quantizer = create_quantizer(&config)?;
//! let weights = [0.31, -0.12, 0.05, -0.27, 0.18, 0.02];
//! quantizer.init_scale_from_weights(&weights)?; // α such that α·π/4 is the best step
//!
//! let mut w_hat = [0.0; 6]; // what the network computes with
//! quantizer.forward(&weights, &mut w_hat)?;
//! let error: f32 = weights.iter().zip(&w_hat).map(|(w, w_hat)| (w - w_hat).powi(2)).sum();
//! assert!(error < 0.005);
//!
//! let grad_output = [1.0; 6]; // what comes back from the loss
//! let (mut grad_weights, mut grad_alpha) = ([0.0; 6], [0.0]);
//! quantizer.backward(&weights, &grad_output, &mut grad_weights, &mut grad_alpha)?;
//! assert_eq!(grad_weights[0], 0.0); // 0.31 is beyond the largest level
//! assert!(grad_weights[1..].iter().all(|g| (g - 1.0).abs() <= 0.05 + 1e-6)); // 1 + λ·(v − level)
//! # Ok::<(), qat_kernels::Error>(())
//! ```

mod adaptive;
mod adaptive_search;
mod create;
mod divisors;
mod group;
mod half;
mod pi;
mod runs;
mod search;
mod settings;
mod token;
mod uniform;

pub use adaptive::{AdaptivePiQuantizer, INLINE_GROUPS};
pub use adaptive_search::{DEAD_ALPHA, choose_divisors, fit_adaptive};
#[cfg(feature = "alloc")]
pub use create::create_quantizer_boxed;
pub use create::{
    Quantizer, create_quantizer, create_quantizer_in, divisors_needed, piq2_quantizer, piq3_quantizer,
    scales_needed, uniform_quantizer,
};
pub use divisors::{DIVISORS, group_factor, pack_divisors, packed_divisors_len, unpack_divisors};
pub use group::GroupQuantizer;
pub use half::F16;
pub use pi::PiQuantDifferentiable;
pub use search::{DEAD_STEP, fit_step};
pub use settings::{QuantizerSettings, StepInit};
pub use token::TokenQuantizer;
pub use uniform::UniformQuantizer;

use crate::error::Result;
use crate::grid::Levels;
#[cfg(feature = "alloc")]
use alloc::{vec, vec::Vec};

/// A quantiser that training can go through: `forward` is what the network computes with, `backward` the gradient that
/// an estimator passes on in place of the true one, which is zero almost everywhere.
///
/// *Scales* are the numbers that are learned: steps, or α of Pi quantisers. There is one per tensor, channel or group,
/// and each covers an equal number of consecutive weights. Every method checks its slices and returns an error instead
/// of panicking; after an error, outputs hold no particular values, and scales are as they were.
///
/// ```
/// use core::f32::consts::PI;
/// use qat_kernels::quantizer::{
///     DifferentiableQuantizer, PiQuantDifferentiable, QuantizerSettings, UniformQuantizer,
/// };
/// use qat_kernels::{Grid, Levels, Result};
/// fn rounding_error(quantizer: &impl DifferentiableQuantizer, w: f32) -> Result<f32> {
///     let mut w_hat = [0.0];
///     quantizer.forward(&[w], &mut w_hat)?;
///     Ok(w_hat[0] - w)
/// }
/// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidTread)?); // codes −2..=1
/// assert_eq!(rounding_error(&UniformQuantizer::new(settings, [1.0])?, 0.75)?, 0.25);
/// let pi = PiQuantDifferentiable::new(settings, 4, [2.0 / PI])?; // a step of ½
/// assert_eq!(rounding_error(&pi, 0.75)?, -0.25); // clipped at ½
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub trait DifferentiableQuantizer {
    /// The codes and what they stand for.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, piq3_quantizer};
    /// let levels = piq3_quantizer().levels();
    /// assert_eq!((levels.lo(), levels.hi()), (-4, 3));
    /// ```
    fn levels(&self) -> Levels;

    /// Number of learned scales.
    ///
    /// ```
    /// use qat_kernels::QatConfig;
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, create_quantizer_in};
    /// // An α for each of two channels. The 16 divisors are not learned and do not count.
    /// let quantizer = create_quantizer_in(&QatConfig::piq2a(), 2, 128, [0.0; 2], [0; 16])?;
    /// assert_eq!(quantizer.scale_count(), 2);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    fn scale_count(&self) -> usize;

    /// Copies the scales out.
    ///
    /// # Errors
    /// [`crate::Error::Length`] unless `out` has room for exactly [`Self::scale_count`].
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, QuantizerSettings, UniformQuantizer};
    /// use qat_kernels::{Error, Grid, Levels, What};
    /// let settings = QuantizerSettings::new(Levels::new(4, Grid::MidTread)?);
    /// let quantizer = UniformQuantizer::new(settings, [0.25, 2.0])?;
    /// let mut steps = [0.0; 2];
    /// quantizer.scales(&mut steps)?;
    /// assert_eq!(steps, [0.25, 2.0]);
    /// let e = Error::Length { what: What::Steps, expected: 2, got: 1 };
    /// assert_eq!(quantizer.scales(&mut steps[..1]), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    fn scales(&self, out: &mut [f32]) -> Result<()>;

    /// Replaces the scales, as after an optimiser's step.
    ///
    /// # Errors
    /// [`crate::Error::Length`]; [`crate::Error::NotPositive`] for a scale that is not positive and finite or gives no
    /// normal step (INV-2).
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, QuantizerSettings, UniformQuantizer};
    /// use qat_kernels::{Error, Grid, Levels, What};
    /// let settings = QuantizerSettings::new(Levels::new(8, Grid::MidTread)?);
    /// let mut quantizer = UniformQuantizer::new(settings, [0.1, 0.1])?;
    /// quantizer.set_scales(&[0.2, 0.3])?;
    /// let e = Error::NotPositive { what: What::Steps, index: 1, value: -0.1 }; // overshot
    /// assert_eq!(quantizer.set_scales(&[0.4, -0.1]), Err(e));
    /// assert_eq!(quantizer.steps(), [0.2, 0.3]); // as they were
    /// # Ok::<(), Error>(())
    /// ```
    fn set_scales(&mut self, scales: &[f32]) -> Result<()>;

    /// Finds scales for these weights. Weights that are all zero get a small positive scale.
    ///
    /// # Errors
    /// [`crate::Error::Empty`] or [`crate::Error::NotDivisible`] for weights that do not fall into equal runs of one
    /// scale; [`crate::Error::NotFinite`] for NaN or ∞.
    ///
    /// ```
    /// use qat_kernels::quantizer::{
    ///     DEAD_STEP, DifferentiableQuantizer, QuantizerSettings, StepInit, UniformQuantizer,
    /// };
    /// use qat_kernels::{Grid, Levels};
    /// let settings = QuantizerSettings::new(Levels::new(4, Grid::MidTread)?).with_init(StepInit::Max);
    /// let mut quantizer = UniformQuantizer::new(settings, [1.0, 1.0])?;
    /// quantizer.init_scale_from_weights(&[0.2, -3.5, 0.0, 0.0])?; // two channels
    /// assert_eq!(quantizer.steps(), [0.5, DEAD_STEP]); // 3.5/7, and nothing to go by
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    fn init_scale_from_weights(&mut self, weights: &[f32]) -> Result<()> {
        self.init_scale_weighted(weights, None)
    }

    /// Finds scales with an importance per weight, see [`fit_step`]; `None` counts all weights the same.
    ///
    /// # Errors
    /// As [`Self::init_scale_from_weights`], and those of an importance.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, uniform_quantizer};
    /// let mut quantizer = uniform_quantizer(2)?; // levels −2..=1
    /// let weights = [1.0, 0.5];
    /// quantizer.init_scale_weighted(&weights, None)?;
    /// assert_eq!(quantizer.steps(), [0.75]); // level 1 for both, ¼ too small and ¼ too large
    /// quantizer.init_scale_weighted(&weights, Some(&[0.0, 2.0]))?;
    /// assert_eq!(quantizer.steps(), [0.5]); // the first weight does not matter
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    fn init_scale_weighted(&mut self, weights: &[f32], importance: Option<&[f32]>) -> Result<()>;

    /// Quantises and dequantises: `out[i] = level(q)·Δ`.
    ///
    /// # Errors
    /// [`crate::Error::Empty`], [`crate::Error::NotDivisible`] or [`crate::Error::Length`] for slices that do not fit;
    /// [`crate::Error::NotFinite`] for NaN or ∞.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, QuantizerSettings, UniformQuantizer};
    /// use qat_kernels::{Error, Grid, Levels, What};
    /// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidRise)?); // levels ±½ and ±1½
    /// let quantizer = UniformQuantizer::new(settings, [1.0])?;
    /// let mut w_hat = [0.0; 3];
    /// quantizer.forward(&[0.2, -0.2, 9.0], &mut w_hat)?;
    /// assert_eq!(w_hat, [0.5, -0.5, 1.5]);
    /// let e = Error::NotFinite { what: What::Weights, index: 2 };
    /// assert_eq!(quantizer.forward(&[0.2, -0.2, f32::NAN], &mut w_hat), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    fn forward(&self, weights: &[f32], out: &mut [f32]) -> Result<()>;

    /// The gradients of the weights and of the scales, given the gradient of the loss with respect to `forward`'s
    /// output.
    ///
    /// A scale's gradient is LSQ's (Esser et al. 2020, equation 3): the sum of `g·(level − v)` inside the range and
    /// `g·level` outside, times the gradient scale `1/√(N·Qp)`, N the number of weights that the scale covers and
    /// Qp = [`Levels::top`]; for α, each weight's term also times its own π/k. It is computed for every estimator.
    ///
    /// # Errors
    /// As [`Self::forward`], for the gradients too; [`crate::Error::Length`] unless there are
    /// [`Self::scale_count`] scale gradients.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, uniform_quantizer};
    /// let quantizer = uniform_quantizer(2)?; // levels −2..=1, a step of 1
    /// let (mut grad_weights, mut grad_step) = ([0.0; 4], [0.0]);
    /// let (weights, grad_output) = ([0.25, 0.75, -0.5, 5.0], [1.0, 2.0, 3.0, 4.0]);
    /// quantizer.backward(&weights, &grad_output, &mut grad_weights, &mut grad_step)?;
    /// assert_eq!(grad_weights, [1.0, 2.0, 3.0, 0.0]); // 5.0 is outside
    /// // 1·(0 − 0.25) + 2·(1 − 0.75) + 3·(0 + 0.5) + 4·1, times 1/√(4·1)
    /// assert_eq!(grad_step, [5.75 / 2.0]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    fn backward(
        &self,
        weights: &[f32],
        grad_output: &[f32],
        grad_weights: &mut [f32],
        grad_scales: &mut [f32],
    ) -> Result<()>;

    /// The code of each weight.
    ///
    /// # Errors
    /// As [`Self::forward`].
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, uniform_quantizer};
    /// let mut quantizer = uniform_quantizer(3)?;
    /// quantizer.set_scales(&[0.5])?;
    /// let mut codes = [0; 4];
    /// quantizer.quantize(&[0.75, 0.25, -0.8, -9.0], &mut codes)?;
    /// assert_eq!(codes, [2, 0, -2, -4]); // 1½ and ½ are ties and go to the even code
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    fn quantize(&self, weights: &[f32], codes: &mut [i8]) -> Result<()>;

    /// The weight of each code.
    ///
    /// # Errors
    /// As [`Self::forward`]; [`crate::Error::Code`] for a code outside the grid.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, QuantizerSettings, UniformQuantizer};
    /// use qat_kernels::{Error, Grid, Levels};
    /// let settings = QuantizerSettings::new(Levels::new(3, Grid::MidRise)?); // level(q) = q + ½
    /// let quantizer = UniformQuantizer::new(settings, [0.5])?;
    /// let mut w_hat = [0.0; 3];
    /// quantizer.dequantize(&[-4, 0, 3], &mut w_hat)?;
    /// assert_eq!(w_hat, [-1.75, 0.25, 1.75]);
    /// assert_eq!(quantizer.dequantize(&[0, 4, 0], &mut w_hat), Err(Error::Code { index: 1, code: 4 }));
    /// # Ok::<(), Error>(())
    /// ```
    fn dequantize(&self, codes: &[i8], out: &mut [f32]) -> Result<()>;

    /// [`Self::forward`] into a new `Vec`.
    ///
    /// # Errors
    /// The same.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, QuantizerSettings, UniformQuantizer};
    /// use qat_kernels::{Grid, Levels};
    /// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidTread)?);
    /// let quantizer = UniformQuantizer::new(settings, vec![0.5, 4.0])?; // two channels
    /// assert_eq!(quantizer.forward_vec(&[0.4, -2.5, 0.4, -2.5])?, [0.5, -1.0, 0.0, -4.0]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[cfg(feature = "alloc")]
    fn forward_vec(&self, weights: &[f32]) -> Result<Vec<f32>> {
        let mut out = vec![0.0; weights.len()];
        self.forward(weights, &mut out)?;
        Ok(out)
    }

    /// [`Self::backward`] into new `Vec`s: the gradients of the weights and of the scales.
    ///
    /// # Errors
    /// The same.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, QuantizerSettings, UniformQuantizer};
    /// use qat_kernels::{Grid, Levels, SteVariant};
    /// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidTread)?)
    ///     .with_ste(SteVariant::Clipped { clip_val: 4.0 });
    /// let quantizer = UniformQuantizer::new(settings, [1.0, 1.0])?; // two channels of one weight each
    /// let (grad_weights, grad_steps) = quantizer.backward_vec(&[0.25, 3.0], &[2.0, 3.0])?;
    /// assert_eq!(grad_weights, [2.0, 3.0]); // 3.0 is beyond the levels, but not clipped
    /// assert_eq!(grad_steps, [2.0 * (0.0 - 0.25), 3.0 * 1.0]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[cfg(feature = "alloc")]
    fn backward_vec(&self, weights: &[f32], grad_output: &[f32]) -> Result<(Vec<f32>, Vec<f32>)> {
        let (mut grad_weights, mut grad_scales) = (vec![0.0; weights.len()], vec![0.0; self.scale_count()]);
        self.backward(weights, grad_output, &mut grad_weights, &mut grad_scales)?;
        Ok((grad_weights, grad_scales))
    }

    /// [`Self::quantize`] into a new `Vec`.
    ///
    /// # Errors
    /// The same.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, piq2_quantizer};
    /// let quantizer = piq2_quantizer(); // a step of π/3, about 1.05
    /// assert_eq!(quantizer.quantize_vec(&[0.5, 0.6, -1.5, -7.0])?, [0, 1, -1, -2]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[cfg(feature = "alloc")]
    fn quantize_vec(&self, weights: &[f32]) -> Result<Vec<i8>> {
        let mut codes = vec![0; weights.len()];
        self.quantize(weights, &mut codes)?;
        Ok(codes)
    }

    /// [`Self::dequantize`] into a new `Vec`.
    ///
    /// # Errors
    /// The same.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, uniform_quantizer};
    /// let mut quantizer = uniform_quantizer(8)?;
    /// quantizer.set_scales(&[0.125])?;
    /// let weights = quantizer.dequantize_vec(&[-128, 1, 127])?;
    /// assert_eq!(weights, [-16.0, 0.125, 15.875]);
    /// assert_eq!(quantizer.quantize_vec(&weights)?, [-128, 1, 127]); // and back
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[cfg(feature = "alloc")]
    fn dequantize_vec(&self, codes: &[i8]) -> Result<Vec<f32>> {
        let mut out = vec![0.0; codes.len()];
        self.dequantize(codes, &mut out)?;
        Ok(out)
    }
}

/// Reproducible numbers for tests: about normal, or their cubes, which have heavy tails.
#[cfg(test)]
pub(crate) fn samples(seed: u64, len: usize, heavy: bool) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let mut normal = || -> f32 { (0..12).map(|_| uniform()).sum() };
    (0..len).map(|_| normal()).map(|x| if heavy { x * x * x } else { x }).collect()
}
