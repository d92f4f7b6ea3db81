//! A saturating SGD step on slices, with or without momentum.

use super::q::{Fixed, Q32};
use super::quantize::same_length;
use super::word::{Word, scale};
use crate::error::{Error, Result, What};

/// Stochastic gradient descent, `v ← μ·v + g`, `w ← w − η·v` (without momentum `v = g`).
///
/// Each of the two lines rounds once and saturates: a weight is at most ½ ulp of its format from `w − η·v`, a velocity at
/// most ½ ulp of its own from `μ·v + g`, hence at most `½/(1 − μ)` ulp from the exact sum over all steps.
///
/// A weight stays where it is while `|η·v|` is at most half its ulp. That is what momentum, or 32-bit shadow weights
/// (`Q32<24>`: 3·10⁻⁸), are for.
///
/// ```
/// use qat_kernels::fixed::{Q16, Q32, Sgd};
/// let sgd = Sgd::new(Q32::from_ratio(1, 10), Q32::default())?;
/// let mut w = [Q16::<12>::from_ratio(1, 2), Q16::MAX];
/// sgd.step(&mut w, &[Q32::<20>::from_ratio(1, 1), Q32::MIN])?;
/// assert_eq!(w, [Q16::from_ratio(4, 10), Q16::MAX]);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sgd {
    rate: Q32<30>,
    momentum: Q32<30>,
}

impl Sgd {
    /// η in (0, 2) in steps of 2^−30, μ in [0, 1).
    ///
    /// # Errors
    /// [`Error::NotPositive`] for the rate, [`Error::Range`] (of [`What::Share`]) for the momentum.
    pub fn new(rate: Q32<30>, momentum: Q32<30>) -> Result<Self> {
        if rate <= Q32::default() {
            return Err(Error::NotPositive { what: What::LearningRate, index: 0, value: rate.to_f32() });
        }
        if momentum < Q32::default() || momentum.raw() >= 1 << 30 {
            return Err(Error::Range { what: What::Share, value: momentum.to_f32(), min: 0.0, max: 1.0 });
        }
        Ok(Self { rate, momentum })
    }

    /// The learning rate η.
    #[must_use]
    pub const fn rate(self) -> Q32<30> {
        self.rate
    }

    /// One weight's new value, `w − η·v`.
    #[must_use]
    #[inline(always)]
    pub fn updated<W: Word, V: Word, const F: u32, const G: u32>(
        self,
        w: Fixed<W, F>,
        v: Fixed<V, G>,
    ) -> Fixed<W, F> {
        // η·v has 30 + G places and less than 2^62 units. Rounding −η·v, not w − η·v, is the same: w is a whole number of
        // ulps, and adding it moves a tie from even to odd only together with both its neighbours… which would be another
        // rounding for odd w, so the weight joins before the rounding wherever the places allow.
        let product = i64::from(self.rate.raw()) * v.raw().to_i64();
        let change = scale(product, F as i32 - 30 - G as i32);
        Fixed::saturating_from_raw(w.raw().to_i64().saturating_sub(change))
    }

    /// `w ← w − η·g`.
    ///
    /// # Errors
    /// [`Error::Length`] unless `gradients` is as long as `weights`.
    pub fn step<W: Word, V: Word, const F: u32, const G: u32>(
        self,
        weights: &mut [Fixed<W, F>],
        gradients: &[Fixed<V, G>],
    ) -> Result<()> {
        same_length(What::Gradient, weights.len(), gradients.len())?;
        for (w, &g) in weights.iter_mut().zip(gradients) {
            *w = self.updated(*w, g);
        }
        Ok(())
    }
}
