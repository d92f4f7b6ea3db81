//! Uniform steps stored as binary16, one per group: the common scheme that adaptive Pi is measured against.

use super::half::F16;
use super::runs::{Runs, check_length, init_runs};
use super::{DifferentiableQuantizer, QuantizerSettings};
use crate::error::{Error, Result, What};
use crate::grid::Levels;
use crate::ste::lsq_gradient_scale;

/// A quantiser with a free step per group, stored in 16 bits.
///
/// `S` holds the steps; each covers an equal run of consecutive weights. Steps are rounded to binary16 when they are
/// set, and every pass uses the rounded ones, so that what is trained is what is stored. An optimiser that moves steps by
/// less than their rounding keeps its own f32 copy and calls [`DifferentiableQuantizer::set_scales`] with it.
///
/// ```
/// use qat_kernels::quantizer::{DifferentiableQuantizer, F16, GroupQuantizer, QuantizerSettings};
/// use qat_kernels::{Grid, Levels};
/// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidRise)?);
/// let mut quantizer = GroupQuantizer::new(settings, [F16::ONE; 2])?; // two groups
/// let weights = [0.25, -0.75, 0.75, 0.25, 2.0, -6.0, -2.0, 6.0];
/// quantizer.init_scale_from_weights(&weights)?;
/// assert_eq!(quantizer.steps(), [F16::from_f32(0.5), F16::from_f32(4.0)]);
/// let mut w_hat = [0.0; 8];
/// quantizer.forward(&weights, &mut w_hat)?;
/// assert_eq!(w_hat, weights);
///
/// let (mut grad_weights, mut grad_steps) = ([0.0; 8], [0.0; 2]);
/// quantizer.backward(&weights, &[1.0; 8], &mut grad_weights, &mut grad_steps)?;
/// assert_eq!(grad_weights, [1.0; 8]);
/// assert_eq!(grad_steps, [0.0; 2]); // every weight is on its level
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupQuantizer<S = [F16; 1]> {
    settings: QuantizerSettings,
    steps: S,
}

impl<S: AsRef<[F16]> + AsMut<[F16]>> GroupQuantizer<S> {
    /// A quantiser with these steps.
    ///
    /// # Errors
    /// [`Error::Empty`] without a step; [`Error::NotPositive`] for a step that is not positive and finite;
    /// [`Error::Range`] for a bad parameter of the estimator.
    ///
    /// ```
    /// use qat_kernels::quantizer::{F16, GroupQuantizer, QuantizerSettings};
    /// use qat_kernels::{Error, Grid, Levels, What};
    /// let settings = QuantizerSettings::new(Levels::new(4, Grid::MidTread)?);
    /// let steps = [0.1, 1e6];
    /// assert!(GroupQuantizer::new(settings, steps.map(F16::from_scale)).is_ok()); // 65,504 in place of 10^6
    /// let e = Error::NotPositive { what: What::Steps, index: 1, value: f32::INFINITY };
    /// assert_eq!(GroupQuantizer::new(settings, steps.map(F16::from_f32)), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn new(settings: QuantizerSettings, steps: S) -> Result<Self> {
        settings.ste.validate()?;
        let all = steps.as_ref();
        if all.is_empty() {
            return Err(Error::Empty { what: What::Steps });
        }
        if let Some(index) = all.iter().position(|step| !step.is_positive()) {
            return Err(Error::NotPositive { what: What::Steps, index, value: all[index].to_f32() });
        }
        Ok(Self { settings, steps })
    }

    /// The steps.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, F16, GroupQuantizer, QuantizerSettings};
    /// # use qat_kernels::{Grid, Levels};
    /// # let settings = QuantizerSettings::new(Levels::new(4, Grid::MidTread)?);
    /// let mut quantizer = GroupQuantizer::new(settings, [F16::ONE; 2])?;
    /// quantizer.set_scales(&[0.1, 0.25])?; // 0.1 is rounded to binary16
    /// let stored: Vec<u8> = quantizer.steps().iter().flat_map(|step| step.to_bits().to_le_bytes()).collect();
    /// assert_eq!(stored, [0x66, 0x2E, 0x00, 0x34]); // 0x2E66 is 0.0999756, 0x3400 is ¼
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn steps(&self) -> &[F16] {
        self.steps.as_ref()
    }

    /// The settings.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DifferentiableQuantizer, F16, GroupQuantizer, QuantizerSettings};
    /// use qat_kernels::{Grid, Levels, SteVariant};
    /// let ewgs = SteVariant::Ewgs { lambda: 0.1 };
    /// let settings = QuantizerSettings::new(Levels::new(3, Grid::MidRise)?).with_ste(ewgs);
    /// let quantizer = GroupQuantizer::new(settings, [F16::ONE; 4])?;
    /// // The same for a layer with more groups.
    /// let larger = GroupQuantizer::new(*quantizer.settings(), [F16::ONE; 9])?;
    /// assert_eq!((larger.scale_count(), larger.settings().ste), (9, ewgs));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn settings(&self) -> &QuantizerSettings {
        &self.settings
    }

    /// Takes the storage back.
    ///
    /// ```
    /// use qat_kernels::quantizer::{
    ///     DifferentiableQuantizer, F16, GroupQuantizer, QuantizerSettings, StepInit,
    /// };
    /// use qat_kernels::{Grid, Levels};
    /// let settings = QuantizerSettings::new(Levels::new(8, Grid::MidTread)?).with_init(StepInit::Max);
    /// let mut quantizer = GroupQuantizer::new(settings, [F16::ONE; 2])?;
    /// quantizer.init_scale_from_weights(&[127.0, 3.0, 5.0, -254.0])?;
    /// let [first, second] = quantizer.into_steps();
    /// assert_eq!((first.to_f32(), second.to_f32()), (1.0, 2.0)); // the maxima over 127
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn into_steps(self) -> S {
        self.steps
    }

    fn runs(&self) -> Runs<impl Fn(usize) -> Result<f32>> {
        let steps = self.steps.as_ref();
        let step_at = |i: usize| Ok(steps[i].to_f32());
        Runs { levels: self.settings.levels, count: steps.len(), what: What::Steps, step_at }
    }
}

impl<S: AsRef<[F16]> + AsMut<[F16]>> DifferentiableQuantizer for GroupQuantizer<S> {
    fn levels(&self) -> Levels {
        self.settings.levels
    }

    fn scale_count(&self) -> usize {
        self.steps.as_ref().len()
    }

    fn scales(&self, out: &mut [f32]) -> Result<()> {
        check_length(What::Steps, out.len(), self.scale_count())?;
        for (out, step) in out.iter_mut().zip(self.steps.as_ref()) {
            *out = step.to_f32();
        }
        Ok(())
    }

    /// Rounds to binary16; see [`F16::from_scale`] for steps outside its range.
    fn set_scales(&mut self, scales: &[f32]) -> Result<()> {
        check_length(What::Steps, scales.len(), self.scale_count())?;
        if let Some(index) = scales.iter().position(|step| !(*step > 0.0 && step.is_finite())) {
            return Err(Error::NotPositive { what: What::Steps, index, value: scales[index] });
        }
        for (step, &scale) in self.steps.as_mut().iter_mut().zip(scales) {
            *step = F16::from_scale(scale);
        }
        Ok(())
    }

    fn init_scale_weighted(&mut self, weights: &[f32], importance: Option<&[f32]>) -> Result<()> {
        let (settings, steps) = (self.settings, self.steps.as_mut());
        init_runs(weights, importance, steps.len(), What::Steps, |i, weights, importance| {
            steps[i] = F16::from_scale(settings.initial_step(weights, importance)?);
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
        check_length(What::Steps, grad_scales.len(), runs.count)?;
        let scale = lsq_gradient_scale(weights.len() / runs.count, runs.levels);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::Grid;

    #[test]
    fn steps_outside_binary16_are_refused_or_brought_to_its_range() {
        let settings = QuantizerSettings::new(Levels::new(2, Grid::MidRise).unwrap());
        for bits in [0, 0x8000, 0x7C00, 0x7E00, 0xBC00] {
            let refused = GroupQuantizer::new(settings, [F16::ONE, F16::from_bits(bits)]);
            assert!(matches!(refused, Err(Error::NotPositive { what: What::Steps, index: 1, .. })));
        }
        let mut q = GroupQuantizer::new(settings, [F16::ONE; 2]).unwrap();
        q.set_scales(&[1e-30, 1e30]).unwrap();
        assert_eq!(q.steps(), [F16::TINY, F16::MAX]);
        for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(matches!(q.set_scales(&[1.0, bad]), Err(Error::NotPositive { index: 1, .. })));
            assert_eq!(q.steps(), [F16::TINY, F16::MAX], "a refused update changes nothing");
        }
    }
}
