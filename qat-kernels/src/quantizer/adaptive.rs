//! Pi steps with α per channel and k per group: 2 bits a group instead of a scale.

use super::adaptive_search::{check_alpha, choose_divisors, fit_adaptive};
use super::divisors::check_divisors;
use super::runs::{Runs, check_length, init_runs, run_length};
use super::search::check;
use super::{DifferentiableQuantizer, QuantizerSettings};
use crate::config::check_group;
use crate::error::{Error, Result, What};
use crate::grid::{Levels, pi_step};
use crate::ste::lsq_gradient_scale;
use core::f32::consts::PI;

/// Divisors that an [`AdaptivePiQuantizer`] holds when it is given no storage: 4096 weights in groups of 16.
pub const INLINE_GROUPS: usize = 256;

/// A quantiser with steps `α·π/k`, α per channel and learned, k ∈ {2, 3, 4, 5} per group of 8, 16 or 32 consecutive
/// weights and chosen.
///
/// `S` holds α, one per channel; `K` holds k, one per group, row after row. Both are found together
/// ([`fit_adaptive`]) by `init_scale_from_weights`, whatever the settings' `init`. Gradients move α with k fixed;
/// [`Self::rechoose_divisors`] chooses k anew, at intervals. How an integer engine uses k is told at
/// [`super::group_factor`].
///
/// ```
/// use core::f32::consts::PI;
/// use qat_kernels::quantizer::{AdaptivePiQuantizer, DifferentiableQuantizer, QuantizerSettings};
/// use qat_kernels::{Grid, Levels};
/// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidRise)?); // levels ±½, ±1½
/// let mut quantizer = AdaptivePiQuantizer::new(settings, 8, [1.0], [3; 2])?; // a channel of two groups
/// let mut weights = [0.5; 16];
/// weights[8..].fill(0.2); // the second group is 2½ times smaller
/// quantizer.init_scale_from_weights(&weights)?;
/// let mut w_hat = [0.0; 16];
/// quantizer.forward(&weights, &mut w_hat)?;
/// assert!(weights.iter().zip(&w_hat).all(|(w, w_hat)| (w - w_hat).abs() < 1e-6));
///
/// // One gradient reaches α from each group: g·(level − v)·π/k, here with α = 1, k = 2 and 4.
/// let quantizer = AdaptivePiQuantizer::new(settings, 8, [1.0], [2, 4])?;
/// let (mut g, mut grad_weights, mut grad_alpha) = ([0.0; 16], [0.0; 16], [0.0]);
/// (g[0], g[8]) = (1.0, 1.0);
/// quantizer.backward(&weights, &g, &mut grad_weights, &mut grad_alpha)?;
/// assert_eq!(grad_weights, g);
/// let first = (0.5 - 0.5 / (PI / 2.0)) * PI / 2.0;
/// let second = (0.5 - 0.2 / (PI / 4.0)) * PI / 4.0;
/// assert!((grad_alpha[0] - (first + second) / (16f32 * 1.5).sqrt()).abs() < 1e-6);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptivePiQuantizer<S = [f32; 1], K = [u8; INLINE_GROUPS]> {
    settings: QuantizerSettings,
    group: usize,
    /// Divisors in use: all that the storage holds until an initialisation counts the groups.
    groups: usize,
    alphas: S,
    divisors: K,
}

impl<S: AsRef<[f32]> + AsMut<[f32]>, K: AsRef<[u8]> + AsMut<[u8]>> AdaptivePiQuantizer<S, K> {
    /// A quantiser with these α and k, for weights of `divisors.len() · group` in all. An initialisation from fewer
    /// weights is possible: it uses the first of the divisors and sets the size.
    ///
    /// # Errors
    /// [`Error::Group`] for a group that is not 8, 16 or 32; [`Error::Range`] for a bad parameter of the estimator; [`Error::Empty`]
    /// without α or k; [`Error::NotPositive`] for an α that gives no positive normal step with every k;
    /// [`Error::Divisor`] for a k outside 2..=5.
    ///
    /// ```
    /// use core::f32::consts::{FRAC_PI_4, PI};
    /// use qat_kernels::quantizer::{AdaptivePiQuantizer, DifferentiableQuantizer, QuantizerSettings};
    /// use qat_kernels::{Error, Grid, Levels};
    /// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidRise)?);
    /// // Two channels, each of two groups of 16: α = 1 with k = 2 and 3, α = ½ with k = 4 and 5.
    /// let quantizer = AdaptivePiQuantizer::new(settings, 16, [1.0, 0.5], [2, 3, 4, 5])?;
    /// let mut w_hat = [0.0; 64];
    /// quantizer.forward(&[0.1; 64], &mut w_hat)?;
    /// assert_eq!((w_hat[0], w_hat[32]), (FRAC_PI_4, PI / 16.0)); // level ½ of π/2, and of ½·π/4
    /// let tens = AdaptivePiQuantizer::new(settings, 10, [1.0], [3; 4]);
    /// assert_eq!(tens, Err(Error::Group { group: 10 }));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn new(settings: QuantizerSettings, group: usize, alphas: S, divisors: K) -> Result<Self> {
        settings.ste.validate()?;
        check_group(group)?;
        check_alphas(alphas.as_ref())?;
        check_divisors(divisors.as_ref())?;
        let groups = divisors.as_ref().len();
        if groups == 0 {
            return Err(Error::Empty { what: What::Divisors });
        }
        Ok(Self { settings, group, groups, alphas, divisors })
    }

    /// α, one per channel.
    ///
    /// ```
    /// use qat_kernels::quantizer::{AdaptivePiQuantizer, DifferentiableQuantizer, QuantizerSettings};
    /// # use qat_kernels::{Grid, Levels};
    /// # let settings = QuantizerSettings::new(Levels::new(2, Grid::MidRise)?);
    /// let mut quantizer = AdaptivePiQuantizer::new(settings, 8, [1.0, 2.0], [2, 5])?;
    /// let (gradient, rate) = ([0.5, -1.0], 0.5);
    /// let moved: Vec<f32> = quantizer.alphas().iter().zip(gradient).map(|(a, g)| a - rate * g).collect();
    /// quantizer.set_scales(&moved)?;
    /// assert_eq!(quantizer.alphas(), [0.75, 2.5]);
    /// assert_eq!(quantizer.divisors(), [2, 5]); // no gradient moves k
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn alphas(&self) -> &[f32] {
        self.alphas.as_ref()
    }

    /// k, one per group, row after row.
    ///
    /// ```
    /// use qat_kernels::quantizer::{AdaptivePiQuantizer, QuantizerSettings, pack_divisors};
    /// # use qat_kernels::quantizer::{DifferentiableQuantizer, INLINE_GROUPS};
    /// # use qat_kernels::{Grid, Levels};
    /// # let settings = QuantizerSettings::new(Levels::new(2, Grid::MidRise)?);
    /// let quantizer = AdaptivePiQuantizer::new(settings, 8, [1.0], [2, 3, 4, 5])?;
    /// let mut packed = [0];
    /// pack_divisors(quantizer.divisors(), 4, &mut packed)?; // a row of four groups
    /// assert_eq!(packed, [0b11_10_01_00]);
    ///
    /// let mut roomy = AdaptivePiQuantizer::new(settings, 8, [1.0], [3; INLINE_GROUPS])?;
    /// roomy.init_scale_from_weights(&[0.5; 24])?;
    /// assert_eq!(roomy.divisors().len(), 3); // those in use
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn divisors(&self) -> &[u8] {
        &self.divisors.as_ref()[..self.groups]
    }

    /// Weights per group.
    ///
    /// ```
    /// use core::f32::consts::FRAC_PI_4;
    /// use qat_kernels::{pi_step, quantizer::{AdaptivePiQuantizer, QuantizerSettings}};
    /// # use qat_kernels::{Grid, Levels};
    /// # let settings = QuantizerSettings::new(Levels::new(2, Grid::MidRise)?);
    /// let quantizer = AdaptivePiQuantizer::new(settings, 16, [1.0], [2, 4])?;
    /// let k = quantizer.divisors()[20 / quantizer.group()]; // of weight 20
    /// assert_eq!(pi_step(quantizer.alphas()[0], k)?, FRAC_PI_4);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn group(&self) -> usize {
        self.group
    }

    /// The settings.
    ///
    /// ```
    /// use qat_kernels::quantizer::{AdaptivePiQuantizer, QuantizerSettings};
    /// # use qat_kernels::{Grid, Levels};
    /// let settings = QuantizerSettings::new(Levels::new(3, Grid::MidRise)?);
    /// let quantizer = AdaptivePiQuantizer::new(settings, 16, [1.0], [3; 2])?;
    /// let bits = f32::from(quantizer.settings().levels.bits()) + 2.0 / quantizer.group() as f32;
    /// assert_eq!(bits, 3.125); // per weight, besides α: a code, and a sixteenth of a divisor
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn settings(&self) -> &QuantizerSettings {
        &self.settings
    }

    /// Takes the storage of α and k back.
    ///
    /// ```
    /// use qat_kernels::quantizer::{AdaptivePiQuantizer, QuantizerSettings};
    /// use qat_kernels::{Grid, Levels, SteVariant};
    /// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidRise)?);
    /// let quantizer = AdaptivePiQuantizer::new(settings, 8, [0.5], [2, 5])?;
    /// // Another estimator for the rest of a training, with the same α and k.
    /// let ewgs = settings.with_ste(SteVariant::Ewgs { lambda: 0.1 });
    /// let (alphas, divisors) = quantizer.into_parts();
    /// let quantizer = AdaptivePiQuantizer::new(ewgs, 8, alphas, divisors)?;
    /// assert_eq!((quantizer.alphas(), quantizer.divisors()), (&[0.5][..], &[2, 5][..]));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn into_parts(self) -> (S, K) {
        (self.alphas, self.divisors)
    }

    /// Chooses k of every group anew, with α as it is: for use at intervals in training, since gradients cannot move k.
    /// The importance is that of [`super::fit_step`].
    ///
    /// # Errors
    /// As `forward`, and those of an importance.
    ///
    /// ```
    /// use core::f32::consts::PI;
    /// use qat_kernels::quantizer::{AdaptivePiQuantizer, QuantizerSettings};
    /// use qat_kernels::{Grid, Levels};
    /// let settings = QuantizerSettings::new(Levels::new(2, Grid::MidRise)?); // levels ±½, ±1½
    /// let mut quantizer = AdaptivePiQuantizer::new(settings, 8, [1.0], [3; 2])?;
    /// let mut weights = [PI / 4.0; 16]; // half a step of k = 2
    /// weights[8..].fill(PI / 10.0); // half a step of k = 5
    /// quantizer.rechoose_divisors(&weights, None)?;
    /// assert_eq!((quantizer.alphas(), quantizer.divisors()), (&[1.0][..], &[2, 5][..]));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn rechoose_divisors(&mut self, weights: &[f32], importance: Option<&[f32]>) -> Result<()> {
        self.per_channel(weights.len(), What::Weights)?;
        let (levels, group, alphas) = (self.settings.levels, self.group, self.alphas.as_ref());
        let divisors = &mut self.divisors.as_mut()[..self.groups];
        let groups = divisors.len() / alphas.len();
        init_runs(weights, importance, alphas.len(), What::Alpha, |i, row, importance| {
            let divisors = &mut divisors[i * groups..(i + 1) * groups];
            choose_divisors(levels, group, alphas[i], row, importance, divisors)
        })
    }

    /// The step of every group.
    fn runs(&self) -> Result<Runs<impl Fn(usize) -> Result<f32>>> {
        let (alphas, divisors) = (self.alphas.as_ref(), self.divisors());
        let groups = run_length(divisors.len(), What::Divisors, alphas.len(), What::Alpha)?;
        let step_at = move |i: usize| pi_step(alphas[i / groups], divisors[i]);
        Ok(Runs { levels: self.settings.levels, count: divisors.len(), what: What::Divisors, step_at })
    }

    /// Weights per channel, if `len` is what α and k describe.
    fn per_channel(&self, len: usize, what: What) -> Result<usize> {
        check_length(what, len, self.groups * self.group)?;
        let groups = run_length(self.groups, What::Divisors, self.alphas.as_ref().len(), What::Alpha)?;
        Ok(groups * self.group)
    }
}

fn check_alphas(alphas: &[f32]) -> Result<()> {
    if alphas.is_empty() {
        return Err(Error::Empty { what: What::Alpha });
    }
    match alphas.iter().position(|&alpha| check_alpha(alpha).is_err()) {
        Some(index) => Err(Error::NotPositive { what: What::Alpha, index, value: alphas[index] }),
        None => Ok(()),
    }
}

impl<S: AsRef<[f32]> + AsMut<[f32]>, K: AsRef<[u8]> + AsMut<[u8]>> DifferentiableQuantizer
    for AdaptivePiQuantizer<S, K>
{
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
        check_alphas(scales)?;
        self.alphas.as_mut().copy_from_slice(scales);
        Ok(())
    }

    fn init_scale_weighted(&mut self, weights: &[f32], importance: Option<&[f32]>) -> Result<()> {
        let (levels, group, alphas) = (self.settings.levels, self.group, self.alphas.as_mut());
        let per_channel = run_length(weights.len(), What::Weights, alphas.len(), What::Alpha)?;
        if !per_channel.is_multiple_of(group) {
            return Err(Error::NotDivisible { what: What::Weights, len: per_channel, by: group });
        }
        check(weights, importance)?;
        let groups = per_channel / group;
        let divisors = self.divisors.as_mut();
        if divisors.len() < weights.len() / group {
            return Err(Error::Capacity { what: What::Divisors, capacity: divisors.len() });
        }
        self.groups = weights.len() / group;
        init_runs(weights, importance, alphas.len(), What::Alpha, |i, row, importance| {
            let divisors = &mut divisors[i * groups..(i + 1) * groups];
            alphas[i] = fit_adaptive(levels, group, row, importance, divisors)?;
            Ok(())
        })
    }

    fn forward(&self, weights: &[f32], out: &mut [f32]) -> Result<()> {
        self.per_channel(weights.len(), What::Weights)?;
        self.runs()?.forward(weights, out)
    }

    fn backward(
        &self,
        weights: &[f32],
        grad_output: &[f32],
        grad_weights: &mut [f32],
        grad_scales: &mut [f32],
    ) -> Result<()> {
        let per_channel = self.per_channel(weights.len(), What::Weights)?;
        check_length(What::Alpha, grad_scales.len(), self.scale_count())?;
        let groups = per_channel / self.group;
        let scale = lsq_gradient_scale(per_channel, self.settings.levels);
        let divisors = self.divisors();
        // Groups arrive in order; the sum of a channel is kept in f64 until its last group.
        let mut sum = 0.0f64;
        self.runs()?.backward(&self.settings, weights, grad_output, grad_weights, |i, of_group| {
            sum += f64::from(of_group * (PI / f32::from(divisors[i])));
            if (i + 1) % groups == 0 {
                grad_scales[i / groups] = sum as f32 * scale;
                sum = 0.0;
            }
        })
    }

    fn quantize(&self, weights: &[f32], codes: &mut [i8]) -> Result<()> {
        self.per_channel(weights.len(), What::Weights)?;
        self.runs()?.quantize(weights, codes)
    }

    fn dequantize(&self, codes: &[i8], out: &mut [f32]) -> Result<()> {
        self.per_channel(codes.len(), What::Codes)?;
        self.runs()?.dequantize(codes, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::Grid;
    use crate::quantizer::samples;

    fn settings(bits: u8) -> QuantizerSettings {
        QuantizerSettings::new(Levels::new(bits, Grid::MidRise).unwrap())
    }

    #[test]
    fn channels_are_searched_one_by_one() {
        let weights = samples(1, 3 * 64, true);
        let mut q = AdaptivePiQuantizer::new(settings(2), 16, [1.0; 3], [3; 12]).unwrap();
        q.init_scale_from_weights(&weights).unwrap();
        for (channel, row) in weights.chunks(64).enumerate() {
            let mut ks = [0; 4];
            let alpha = fit_adaptive(settings(2).levels, 16, row, None, &mut ks).unwrap();
            assert_eq!((q.alphas()[channel], &q.divisors()[4 * channel..][..4]), (alpha, &ks[..]));
        }
    }

    #[test]
    fn storage_may_be_larger_than_the_weights_but_sizes_are_then_held_to() {
        let mut q = AdaptivePiQuantizer::new(settings(2), 8, [1.0], [3; INLINE_GROUPS]).unwrap();
        let weights = samples(2, 40, false);
        let mut out = [0.0; 48];
        q.init_scale_from_weights(&weights).unwrap();
        assert_eq!(q.divisors().len(), 5);
        q.forward(&weights, &mut out[..40]).unwrap();
        let longer = Error::Length { what: What::Weights, expected: 40, got: 48 };
        assert_eq!(q.forward(&[0.1; 48], &mut out), Err(longer));
        let full = Error::Capacity { what: What::Divisors, capacity: INLINE_GROUPS };
        assert_eq!(q.init_scale_from_weights(&vec![0.1; 8 * INLINE_GROUPS + 8]), Err(full));
    }

    #[test]
    fn rechoosing_follows_the_weights_and_leaves_alpha() {
        let mut weights = samples(3, 64, false);
        let mut q = AdaptivePiQuantizer::new(settings(2), 16, [1.0], [3; 4]).unwrap();
        q.init_scale_from_weights(&weights).unwrap();
        let alpha = q.alphas()[0];
        weights[..16].iter_mut().for_each(|w| *w *= 10.0);
        weights[16..32].iter_mut().for_each(|w| *w *= 0.1);
        q.rechoose_divisors(&weights, None).unwrap();
        assert_eq!((q.divisors()[0], q.divisors()[1]), (2, 5));
        assert_eq!(q.alphas(), [alpha]);
    }

    #[test]
    fn bad_input_is_named() {
        let new = |group, alpha, k| AdaptivePiQuantizer::new(settings(2), group, [alpha], [k; 4]).map(|_| ());
        assert_eq!(new(8, 1.0, 6), Err(Error::Divisor { k: 6 }));
        assert_eq!(new(9, 1.0, 3), Err(Error::Group { group: 9 }));
        for alpha in [0.0, -2.0, f32::NAN, f32::INFINITY] {
            assert!(matches!(new(8, alpha, 3), Err(Error::NotPositive { what: What::Alpha, index: 0, .. })));
        }
        let none = AdaptivePiQuantizer::new(settings(2), 8, [1.0], [0u8; 0]).map(|_| ());
        assert_eq!(none, Err(Error::Empty { what: What::Divisors }));
        let mut q = AdaptivePiQuantizer::new(settings(2), 8, [1.0; 2], [3; 4]).unwrap();
        let not_divisible = Error::NotDivisible { what: What::Weights, len: 12, by: 8 };
        assert_eq!(q.init_scale_from_weights(&[1.0; 24]), Err(not_divisible));
        let before = q;
        let mut weights = [1.0; 32];
        weights[20] = f32::NAN;
        let not_finite = Err(Error::NotFinite { what: What::Weights, index: 20 });
        assert_eq!(q.init_scale_from_weights(&weights), not_finite);
        assert_eq!(q, before, "a failed initialisation changes nothing");
        assert_eq!(q.rechoose_divisors(&weights, None), not_finite);
        let odd = AdaptivePiQuantizer::new(settings(2), 8, [1.0; 3], [3; 4]).unwrap();
        let not_divisible = Error::NotDivisible { what: What::Divisors, len: 4, by: 3 };
        assert_eq!(odd.forward(&[0.1; 32], &mut [0.0; 32]), Err(not_divisible));
    }
}
