//! Steps per token for activations: made from the data when it is there, nothing to learn.

use super::QuantizerSettings;
use super::runs::{Runs, check_length, run_length};
use super::search::DEAD_STEP;
use super::settings::largest;
use crate::error::{Error, Result, What};
use crate::grid::Levels;
use crate::ste::LsqMask;

/// A symmetric quantiser of activations with one step per token (row of `features` numbers), `Δ = max|x|/top`
/// ([`Levels::top`]), so that the largest number of each token is on the outermost level and nothing is clipped.
///
/// The step follows the data and counts as a constant in the backward pass, as usual for dynamic scales: the estimator
/// passes every gradient on ([`crate::SteVariant::Clipped`] stops its own). A token of zeros gets [`DEAD_STEP`].
///
/// ```
/// use qat_kernels::quantizer::{QuantizerSettings, TokenQuantizer};
/// use qat_kernels::{Grid, Levels};
/// let settings = QuantizerSettings::new(Levels::new(8, Grid::MidTread)?);
/// let quantizer = TokenQuantizer::new(settings, 2)?; // tokens of two features
/// let x = [127.0, -3.2, 0.5, 0.25];
/// let (mut codes, mut steps, mut x_hat) = ([0; 4], [0.0; 2], [0.0; 4]);
/// quantizer.quantize(&x, &mut codes, &mut steps)?;
/// assert_eq!((codes, steps), ([127, -3, 127, 64], [1.0, 0.5 / 127.0]));
/// quantizer.forward(&x, &mut x_hat)?;
/// assert_eq!(x_hat[..2], [127.0, -3.0]);
/// let mut grad_x = [0.0; 4];
/// quantizer.backward(&x, &[1.0, 2.0, 3.0, 4.0], &mut grad_x)?;
/// assert_eq!(grad_x, [1.0, 2.0, 3.0, 4.0]);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenQuantizer {
    settings: QuantizerSettings,
    features: usize,
}

impl TokenQuantizer {
    /// A quantiser for tokens of `features` numbers. The settings' mask and initial step have no meaning here.
    ///
    /// # Errors
    /// [`Error::Empty`] for tokens of nothing; [`Error::Range`] for a bad parameter of the estimator.
    ///
    /// ```
    /// use qat_kernels::quantizer::{QuantizerSettings, TokenQuantizer};
    /// use qat_kernels::{Error, Grid, Levels, What};
    /// let settings = QuantizerSettings::new(Levels::new(8, Grid::MidTread)?);
    /// let quantizer = TokenQuantizer::new(settings, 64)?;
    /// let e = Error::NotDivisible { what: What::Weights, len: 100, by: 64 }; // no whole tokens
    /// assert_eq!(quantizer.forward(&[0.0; 100], &mut [0.0; 100]), Err(e));
    /// assert_eq!(TokenQuantizer::new(settings, 0), Err(Error::Empty { what: What::Input }));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn new(settings: QuantizerSettings, features: usize) -> Result<Self> {
        settings.ste.validate()?;
        if features == 0 {
            return Err(Error::Empty { what: What::Input });
        }
        // The division that makes the step may put the maximum a rounding beyond the outermost level, where the exact
        // mask would stop its gradient; the rounded one lets half a step through.
        Ok(Self { settings: settings.with_mask(LsqMask::Rounded), features })
    }

    /// The codes and what they stand for.
    ///
    /// ```
    /// use qat_kernels::quantizer::{QuantizerSettings, TokenQuantizer};
    /// # use qat_kernels::{Grid, Levels};
    /// let settings = QuantizerSettings::new(Levels::new(4, Grid::MidTread)?);
    /// let quantizer = TokenQuantizer::new(settings, 2)?;
    /// let (mut codes, mut steps) = ([0; 2], [0.0]);
    /// quantizer.quantize(&[21.0, -21.0], &mut codes, &mut steps)?;
    /// assert_eq!((codes, steps), ([7, -7], [3.0]));
    /// assert_eq!(quantizer.levels().lo(), -8); // exists, but the largest |x| is at 7 steps
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn levels(&self) -> Levels {
        self.settings.levels
    }

    /// Numbers per token.
    ///
    /// ```
    /// use qat_kernels::quantizer::{DEAD_STEP, QuantizerSettings, TokenQuantizer};
    /// # use qat_kernels::{Grid, Levels};
    /// # let settings = QuantizerSettings::new(Levels::new(8, Grid::MidTread)?);
    /// let quantizer = TokenQuantizer::new(settings, 16)?;
    /// let (x, mut codes) = ([0.0; 48], [0; 48]);
    /// let mut steps = vec![0.0; x.len() / quantizer.features()]; // one per token
    /// quantizer.quantize(&x, &mut codes, &mut steps)?;
    /// assert_eq!(steps, [DEAD_STEP; 3]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn features(&self) -> usize {
        self.features
    }

    /// Quantises and dequantises: `out = level(q)·Δ`, with each token's own Δ.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::NotDivisible`] or [`Error::Length`] for slices that are not whole tokens or do not fit
    /// together; [`Error::NotFinite`] for NaN or ∞.
    ///
    /// ```
    /// use qat_kernels::quantizer::{QuantizerSettings, TokenQuantizer};
    /// use qat_kernels::{Grid, Levels};
    /// let settings = QuantizerSettings::new(Levels::new(4, Grid::MidTread)?);
    /// let quantizer = TokenQuantizer::new(settings, 2)?;
    /// let mut x_hat = [0.0; 4];
    /// quantizer.forward(&[7.0, 1.25, 0.4375, -0.1], &mut x_hat)?;
    /// assert_eq!(x_hat, [7.0, 1.0, 0.4375, -0.125]); // steps of 1 and of 1/16
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn forward(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        self.runs(x)?.forward(x, out)
    }

    /// The gradient of the activations. `grad_x` has the length of `x`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    ///
    /// ```
    /// use qat_kernels::quantizer::{QuantizerSettings, TokenQuantizer};
    /// use qat_kernels::{Grid, Levels, SteVariant};
    /// let clipped = SteVariant::Clipped { clip_val: 2.0 };
    /// let settings = QuantizerSettings::new(Levels::new(8, Grid::MidTread)?).with_ste(clipped);
    /// let mut grad_x = [0.0; 3];
    /// let (x, grad_output) = ([0.5, -3.0, 2.0], [1.0, 1.0, -4.0]);
    /// TokenQuantizer::new(settings, 3)?.backward(&x, &grad_output, &mut grad_x)?;
    /// assert_eq!(grad_x, [1.0, 0.0, -4.0]); // −3 is beyond the clip value
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn backward(&self, x: &[f32], grad_output: &[f32], grad_x: &mut [f32]) -> Result<()> {
        self.runs(x)?.backward(&self.settings, x, grad_output, grad_x, |_, _| ())
    }

    /// Codes, and the step of each token.
    ///
    /// # Errors
    /// As [`Self::forward`].
    ///
    /// ```
    /// use qat_kernels::quantizer::{DEAD_STEP, QuantizerSettings, TokenQuantizer};
    /// use qat_kernels::{Grid, Levels};
    /// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidRise)?); // levels ±½ and ±1½
    /// let (mut codes, mut steps) = ([0; 4], [0.0; 2]);
    /// TokenQuantizer::new(settings, 2)?.quantize(&[-3.0, 0.5, 0.0, 0.0], &mut codes, &mut steps)?;
    /// assert_eq!(codes, [-2, 0, 0, 0]);
    /// assert_eq!(steps, [2.0, DEAD_STEP]); // 3 is 1½ steps; zeros say nothing
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn quantize(&self, x: &[f32], codes: &mut [i8], steps: &mut [f32]) -> Result<()> {
        let runs = self.runs(x)?;
        check_length(What::Steps, steps.len(), runs.count)?;
        runs.quantize(x, codes)?;
        for (i, step) in steps.iter_mut().enumerate() {
            *step = (runs.step_at)(i)?;
        }
        Ok(())
    }

    /// The numbers that codes and steps stand for.
    ///
    /// # Errors
    /// As [`Self::forward`]; [`Error::Code`] for a code outside the grid; [`Error::NotPositive`] for a step that is not a
    /// positive normal number.
    ///
    /// ```
    /// use qat_kernels::quantizer::{QuantizerSettings, TokenQuantizer};
    /// use qat_kernels::{Error, Grid, Levels, What};
    /// let settings = QuantizerSettings::new(Levels::new(4, Grid::MidTread)?);
    /// let quantizer = TokenQuantizer::new(settings, 2)?;
    /// let (codes, mut x_hat) = ([7, -1, 7, 2], [0.0; 4]);
    /// quantizer.dequantize(&codes, &[0.5, 0.25], &mut x_hat)?;
    /// assert_eq!(x_hat, [3.5, -0.5, 1.75, 0.5]);
    /// let e = Error::NotPositive { what: What::Steps, index: 1, value: 0.0 };
    /// assert_eq!(quantizer.dequantize(&codes, &[0.5, 0.0], &mut x_hat), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn dequantize(&self, codes: &[i8], steps: &[f32], out: &mut [f32]) -> Result<()> {
        let tokens = self.tokens(codes.len(), What::Codes)?;
        check_length(What::Steps, steps.len(), tokens)?;
        crate::ste::simd::dequantize(self.levels(), steps, codes, out)
    }

    fn tokens(&self, len: usize, what: What) -> Result<usize> {
        run_length(len, what, self.features, What::Input)
    }

    fn runs<'a>(&self, x: &'a [f32]) -> Result<Runs<impl Fn(usize) -> Result<f32> + use<'a>>> {
        let count = self.tokens(x.len(), What::Weights)?;
        let (levels, features) = (self.settings.levels, self.features);
        let step_at = move |i: usize| {
            let token = &x[i * features..(i + 1) * features];
            if let Some(at) = token.iter().position(|x| !x.is_finite()) {
                return Err(Error::NotFinite { what: What::Weights, index: i * features + at });
            }
            let step = largest(token) / levels.top();
            Ok(if step.is_normal() { step } else { DEAD_STEP })
        };
        Ok(Runs { levels, count, what: What::Input, step_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::Grid;
    use crate::quantizer::samples;
    use crate::ste::SteVariant;

    #[test]
    fn nothing_is_clipped_and_no_gradient_is_lost() {
        for bits in 2..=8 {
            for grid in [Grid::MidTread, Grid::MidRise] {
                let settings = QuantizerSettings::new(Levels::new(bits, grid).unwrap());
                for ste in
                    [SteVariant::Standard, SteVariant::LearnedStepSize, SteVariant::Ewgs { lambda: 0.1 }]
                {
                    let quantizer = TokenQuantizer::new(settings.with_ste(ste), 10).unwrap();
                    let x = samples(bits.into(), 70 * 10, true);
                    let (mut x_hat, mut grad) = (vec![0.0; 700], vec![0.0; 700]);
                    quantizer.forward(&x, &mut x_hat).unwrap();
                    quantizer.backward(&x, &[1.0; 700], &mut grad).unwrap();
                    assert!(grad.iter().all(|g| *g > 0.0), "{bits} {grid:?} {ste:?}");
                    for (token, hat) in x.chunks(10).zip(x_hat.chunks(10)) {
                        let step = largest(token) / settings.levels.top();
                        assert!(token.iter().zip(hat).all(|(x, hat)| (x - hat).abs() <= step * 0.501));
                    }
                }
            }
        }
    }

    #[test]
    fn codes_and_steps_say_what_forward_says() {
        let settings = QuantizerSettings::new(Levels::new(4, Grid::MidTread).unwrap());
        let quantizer = TokenQuantizer::new(settings, 5).unwrap();
        let mut x = samples(1, 65 * 5, false);
        x[..5].fill(0.0);
        let (mut codes, mut steps) = (vec![0; 325], vec![0.0; 65]);
        let (mut from_codes, mut direct) = (vec![1.0; 325], vec![0.0; 325]);
        quantizer.quantize(&x, &mut codes, &mut steps).unwrap();
        quantizer.dequantize(&codes, &steps, &mut from_codes).unwrap();
        quantizer.forward(&x, &mut direct).unwrap();
        assert_eq!(from_codes, direct);
        assert_eq!((direct[0], steps[0]), (0.0, DEAD_STEP));
    }

    #[test]
    fn bad_input_is_named() {
        let settings = QuantizerSettings::new(Levels::new(8, Grid::MidTread).unwrap());
        assert_eq!(TokenQuantizer::new(settings, 0), Err(Error::Empty { what: What::Input }));
        let quantizer = TokenQuantizer::new(settings, 4).unwrap();
        let mut out = [0.0; 8];
        let not_divisible = Err(Error::NotDivisible { what: What::Weights, len: 6, by: 4 });
        assert_eq!(quantizer.forward(&[0.0; 6], &mut out[..6]), not_divisible);
        let x = [0.0, 0.0, 0.0, 0.0, 0.0, f32::NEG_INFINITY, 0.0, 0.0];
        assert_eq!(quantizer.forward(&x, &mut out), Err(Error::NotFinite { what: What::Weights, index: 5 }));
        assert_eq!(quantizer.forward(&[], &mut []), Err(Error::Empty { what: What::Weights }));
    }
}
