//! Uniform steps, Δ = s: one free positive number per tensor, channel or group.

use super::runs::{check_length, init_runs, run_length};
use super::{DifferentiableQuantizer, QuantizerSettings};
use crate::error::{Error, Result, What};
use crate::grid::Levels;
use crate::ste::{lsq_gradient_scale, simd};

/// A quantiser with free steps.
///
/// `S` holds the steps, n of them: an array, a `&mut [f32]`, a `Vec`. Each covers an n-th of the weights, in order. So
/// one step is per tensor, one per row is per channel, and one per run of g weights is per group.
///
/// ```
/// use qat_kernels::quantizer::{DifferentiableQuantizer, QuantizerSettings, UniformQuantizer};
/// use qat_kernels::{Grid, Levels};
/// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidTread)?); // codes −2..=1
/// let quantizer = UniformQuantizer::new(settings, [1.0, 0.5])?; // two channels
/// let weights = [0.4, 0.9, 0.4, 0.9];
///
/// let mut w_hat = [0.0; 4];
/// quantizer.forward(&weights, &mut w_hat)?;
/// assert_eq!(w_hat, [0.0, 1.0, 0.5, 0.5]); // 0.9 is beyond the range of the second channel
///
/// let (mut grad_weights, mut grad_steps) = ([0.0; 4], [0.0; 2]);
/// quantizer.backward(&weights, &[1.0; 4], &mut grad_weights, &mut grad_steps)?;
/// assert_eq!(grad_weights, [1.0, 1.0, 1.0, 0.0]);
/// // Inside: level − v, that is (0 − 0.4) + (1 − 0.9) and (1 − 0.8); outside: level, 1. Times 1/√(2·1).
/// let scale = 0.5f32.sqrt();
/// assert!((grad_steps[0] - scale * -0.3).abs() < 1e-6);
/// assert!((grad_steps[1] - scale * 1.2).abs() < 1e-6);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UniformQuantizer<S = [f32; 1]> {
    settings: QuantizerSettings,
    steps: S,
}

impl<S: AsRef<[f32]> + AsMut<[f32]>> UniformQuantizer<S> {
    /// A quantiser with these steps.
    ///
    /// # Errors
    /// [`Error::Empty`] without a step; [`Error::NotPositive`] for a step that is not a positive normal number;
    /// [`Error::Range`] for a bad parameter of the estimator.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, QuantizerSettings, UniformQuantizer};
    /// use qat_kernels::{Error, Grid, Levels, What};
    /// let settings = QuantizerSettings::new(Levels::new(4, Grid::MidTread)?);
    /// let mut parameters = [0.5, 0.25, 2.0]; // somebody else's storage
    /// let mut codes = [0; 3];
    /// UniformQuantizer::new(settings, &mut parameters[..])?.quantize(&[1.0; 3], &mut codes)?;
    /// assert_eq!(codes, [2, 4, 0]); // ½ is a tie and goes to the even code
    /// let e = Error::NotPositive { what: What::Steps, index: 1, value: 0.0 };
    /// assert_eq!(UniformQuantizer::new(settings, [1.0, 0.0]), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn new(settings: QuantizerSettings, steps: S) -> Result<Self> {
        settings.ste.validate()?;
        check_steps(steps.as_ref())?;
        Ok(Self { settings, steps })
    }

    /// The steps.
    ///
    /// ```
    /// # use qat_kernels::quantizer::{DifferentiableQuantizer, QuantizerSettings, UniformQuantizer};
    /// # use qat_kernels::{Grid, Levels};
    /// let settings = QuantizerSettings::new(Levels::new(4, Grid::MidTread)?);
    /// let quantizer = UniformQuantizer::new(settings, [0.5, 0.125])?;
    /// let top = quantizer.levels().top();
    /// let largest: Vec<f32> = quantizer.steps().iter().map(|step| top * step).collect();
    /// assert_eq!(largest, [3.5, 0.875]); // what each channel can hold: 7 steps
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn steps(&self) -> &[f32] {
        self.steps.as_ref()
    }

    /// The settings.
    ///
    /// ```
    /// use qat_kernels::quantizer::{QuantizerSettings, StepInit, UniformQuantizer};
    /// # use qat_kernels::{Grid, Levels};
    /// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidRise)?).with_init(StepInit::Max);
    /// let quantizer = UniformQuantizer::new(settings, [1.0])?;
    /// // The step that other weights would get; the quantiser keeps its own.
    /// assert_eq!(quantizer.settings().initial_step(&[0.1, -0.75], None)?, 0.375); // 0.75/2
    /// assert_eq!(quantizer.steps(), [1.0]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn settings(&self) -> &QuantizerSettings {
        &self.settings
    }

    /// Takes the storage back.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, QuantizerSettings, UniformQuantizer};
    /// # use qat_kernels::{Grid, Levels};
    /// # let settings = QuantizerSettings::new(Levels::new(8, Grid::MidTread)?);
    /// let mut quantizer = UniformQuantizer::new(settings, vec![1.0; 2])?;
    /// quantizer.set_scales(&[0.5, 0.25])?;
    /// let trained: Vec<f32> = quantizer.into_steps(); // the vector that went in
    /// assert_eq!(trained, [0.5, 0.25]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn into_steps(self) -> S {
        self.steps
    }
}

fn check_steps(steps: &[f32]) -> Result<()> {
    if steps.is_empty() {
        return Err(Error::Empty { what: What::Steps });
    }
    match steps.iter().position(|step| !(*step > 0.0 && step.is_normal())) {
        Some(index) => Err(Error::NotPositive { what: What::Steps, index, value: steps[index] }),
        None => Ok(()),
    }
}

impl<S: AsRef<[f32]> + AsMut<[f32]>> DifferentiableQuantizer for UniformQuantizer<S> {
    fn levels(&self) -> Levels {
        self.settings.levels
    }

    fn scale_count(&self) -> usize {
        self.steps.as_ref().len()
    }

    fn scales(&self, out: &mut [f32]) -> Result<()> {
        check_length(What::Steps, out.len(), self.scale_count())?;
        out.copy_from_slice(self.steps.as_ref());
        Ok(())
    }

    fn set_scales(&mut self, scales: &[f32]) -> Result<()> {
        check_length(What::Steps, scales.len(), self.scale_count())?;
        check_steps(scales)?;
        self.steps.as_mut().copy_from_slice(scales);
        Ok(())
    }

    fn init_scale_weighted(&mut self, weights: &[f32], importance: Option<&[f32]>) -> Result<()> {
        let (settings, steps) = (self.settings, self.steps.as_mut());
        init_runs(weights, importance, steps.len(), What::Steps, |i, weights, importance| {
            steps[i] = settings.initial_step(weights, importance)?;
            Ok(())
        })
    }

    fn forward(&self, weights: &[f32], out: &mut [f32]) -> Result<()> {
        simd::fake_quantize(self.levels(), self.steps.as_ref(), weights, out)
    }

    fn backward(
        &self,
        weights: &[f32],
        grad_output: &[f32],
        grad_weights: &mut [f32],
        grad_scales: &mut [f32],
    ) -> Result<()> {
        let QuantizerSettings { levels, ste, mask, .. } = self.settings;
        let steps = self.steps.as_ref();
        let per_step = run_length(weights.len(), What::Weights, steps.len(), What::Steps)?;
        simd::backward(ste, levels, mask, steps, weights, grad_output, grad_weights, grad_scales)?;
        let scale = lsq_gradient_scale(per_step, levels);
        grad_scales.iter_mut().for_each(|gradient| *gradient *= scale);
        Ok(())
    }

    fn quantize(&self, weights: &[f32], codes: &mut [i8]) -> Result<()> {
        simd::quantize(self.levels(), self.steps.as_ref(), weights, codes)
    }

    fn dequantize(&self, codes: &[i8], out: &mut [f32]) -> Result<()> {
        simd::dequantize(self.levels(), self.steps.as_ref(), codes, out)
    }
}
