//! AdamW (Loshchilov & Hutter 2019, algorithm 2) as the fused kernel applies it.

use crate::error::{Error, Result, What};

/// Hyperparameters of one AdamW update.
///
/// With the gradient g, the update number t and everything rounded to f32 operation by operation, no multiply-add fused:
///
/// ```text
/// m ← β₁·m + (1−β₁)·g
/// v ← β₂·v + ((1−β₂)·g)·g
/// w ← w·(1 − lr·decay) − (lr/(1−β₁ᵗ))·m / (√v·(1/√(1−β₂ᵗ)) + ε)
/// ```
///
/// The factors in parentheses are formed once per call in f64 and rounded to f32. Moments below the smallest
/// normal number in magnitude become +0: those of a weight that gets no gradient decay for ever, and arithmetic on
/// subnormal numbers is slow. `lr` already contains the schedule.
///
/// ```
/// use qat_kernels::{Grid, Levels, LsqMask, SteVariant, ste_simd::{self, AdamW}};
/// let first = AdamW { lr: 0.125, weight_decay: 0.0, ..AdamW::default() };
/// let (mut w, g) = ([0.5, 0.5], [0.001, -50.0]);
/// let (mut m, mut v, mut step_grad) = ([0.0; 2], [0.0; 2], [0.0]);
/// let (ste, mask, levels) = (SteVariant::Standard, LsqMask::Exact, Levels::new(4, Grid::MidTread)?);
/// ste_simd::backward_adamw(ste, levels, mask, &[0.1], &first, &mut w, &g, &mut m, &mut v, &mut step_grad)?;
/// // m/√v is the gradient's sign: the first update is the learning rate, however large the gradient.
/// assert!((w[0] - 0.375).abs() < 1e-5 && (w[1] - 0.625).abs() < 1e-5);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate, positive.
    pub lr: f32,
    /// Decay of the first moment, in 0..1.
    pub beta1: f32,
    /// Decay of the second moment, in 0..1.
    pub beta2: f32,
    /// ε, positive: keeps the division finite.
    pub eps: f32,
    /// Decoupled weight decay, at least 0.
    pub weight_decay: f32,
    /// Number of this update, counted from 1.
    pub step: u32,
}

impl Default for AdamW {
    /// The values that the paper and torch use, first update.
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step: 1 }
    }
}

impl AdamW {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::NotPositive`] (learning rate), [`Error::Range`] with [`What::Share`] (the betas), [`What::Epsilon`],
    /// [`What::WeightDecay`] (its product with the learning rate must not exceed 1) or [`What::Update`] (step 0).
    ///
    /// ```
    /// use qat_kernels::{Error, What, ste_simd::AdamW};
    /// assert_eq!(AdamW::default().validate(), Ok(()));
    /// let e = Error::Range { what: What::Update, value: 0.0, min: 1.0, max: u32::MAX as f32 };
    /// assert_eq!(AdamW { step: 0, ..AdamW::default() }.validate(), Err(e)); // counted from 1
    /// let shrinks_past_zero = AdamW { lr: 0.5, weight_decay: 2.5, ..AdamW::default() };
    /// assert!(matches!(shrinks_past_zero.validate(), Err(Error::Range { what: What::WeightDecay, .. })));
    /// ```
    pub fn validate(&self) -> Result<()> {
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return Err(Error::NotPositive { what: What::LearningRate, index: 0, value: self.lr });
        }
        for beta in [self.beta1, self.beta2] {
            // The largest f32 below 1.
            range(What::Share, beta, 0.0, 1.0_f32.next_down())?;
        }
        range(What::Epsilon, self.eps, f32::MIN_POSITIVE, f32::MAX)?;
        range(What::WeightDecay, self.weight_decay, 0.0, 1.0 / self.lr)?;
        range(What::Update, self.step as f32, 1.0, u32::MAX as f32)
    }

    pub(super) fn factors(&self) -> Factors {
        let (lr, b1, b2) = (f64::from(self.lr), f64::from(self.beta1), f64::from(self.beta2));
        Factors {
            decay: (1.0 - lr * f64::from(self.weight_decay)) as f32,
            beta1: self.beta1,
            rest1: (1.0 - b1) as f32,
            beta2: self.beta2,
            rest2: (1.0 - b2) as f32,
            rate: (lr / (1.0 - power(b1, self.step))) as f32,
            scale: (1.0 / libm::sqrt(1.0 - power(b2, self.step))) as f32,
            eps: self.eps,
        }
    }
}

fn range(what: What, value: f32, min: f32, max: f32) -> Result<()> {
    if value >= min && value <= max { Ok(()) } else { Err(Error::Range { what, value, min, max }) }
}

/// `xⁿ` by squaring: the same bits on every machine, which a library's `pow` does not promise.
fn power(mut x: f64, mut n: u32) -> f64 {
    let mut y = 1.0;
    while n > 0 {
        if n & 1 == 1 {
            y *= x;
        }
        x *= x;
        n >>= 1;
    }
    y
}

/// The factors of [`AdamW`]'s formula.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    decay: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    rate: f32,
    scale: f32,
    eps: f32,
}

impl Factors {
    /// One update: the new weight and moments.
    #[inline(always)]
    pub(super) fn update(self, w: f32, g: f32, m: f32, v: f32) -> (f32, f32, f32) {
        let m = normal(self.beta1 * m + self.rest1 * g);
        let v = normal(self.beta2 * v + (self.rest2 * g) * g);
        (w * self.decay - self.rate * m / (sqrt(v) * self.scale + self.eps), m, v)
    }
}

/// +0 in place of subnormal numbers and −0.
#[inline(always)]
fn normal(x: f32) -> f32 {
    if x.abs() >= f32::MIN_POSITIVE { x } else { 0.0 }
}

/// Square root, correctly rounded either way; the inherent one, which needs `std`, compiles to vector instructions.
#[inline(always)]
fn sqrt(x: f32) -> f32 {
    #[cfg(any(feature = "std", test))]
    {
        x.sqrt()
    }
    #[cfg(not(any(feature = "std", test)))]
    {
        crate::math::sqrt(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_hyperparameter_is_named() {
        let good = AdamW::default();
        assert_eq!(good.validate(), Ok(()));
        for lr in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let got = AdamW { lr, ..good }.validate();
            assert!(matches!(got, Err(Error::NotPositive { what: What::LearningRate, .. })), "{lr}");
        }
        let what = |a: AdamW| match a.validate() {
            Err(Error::Range { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        for beta in [-0.1, 1.0, f32::NAN] {
            assert_eq!(what(AdamW { beta1: beta, ..good }), What::Share);
            assert_eq!(what(AdamW { beta2: beta, ..good }), What::Share);
        }
        for eps in [0.0, 1e-40, f32::NAN, f32::INFINITY] {
            assert_eq!(what(AdamW { eps, ..good }), What::Epsilon);
        }
        for weight_decay in [-0.1, 1001.0, f32::NAN] {
            assert_eq!(what(AdamW { weight_decay, ..good }), What::WeightDecay);
        }
        assert_eq!(what(AdamW { step: 0, ..good }), What::Update);
    }

    #[test]
    fn the_first_update_moves_every_weight_by_the_learning_rate() {
        // Bias correction makes m/√v the gradient's sign, whatever its size.
        let f = AdamW { lr: 0.125, weight_decay: 0.0, ..AdamW::default() }.factors();
        for g in [1e-3_f32, 1.0, 50.0, -7.0] {
            let (w, _, _) = f.update(1.0, g, 0.0, 0.0);
            assert!((w - (1.0 - 0.125 * g.signum())).abs() < 2e-6, "{g}: {w}");
        }
    }

    #[test]
    fn a_constant_gradient_follows_the_textbook_in_f64() {
        let a = AdamW::default();
        let (mut w, mut m, mut v) = (0.5_f32, 0.0, 0.0);
        let (mut w64, mut m64, mut v64) = (0.5_f64, 0.0_f64, 0.0_f64);
        let (lr, b1, b2) = (f64::from(a.lr), f64::from(a.beta1), f64::from(a.beta2));
        for step in 1..=500 {
            let g = (step as f32 * 0.37).sin();
            (w, m, v) = AdamW { step, ..a }.factors().update(w, g, m, v);
            let g = f64::from(g);
            m64 = b1 * m64 + (1.0 - b1) * g;
            v64 = b2 * v64 + (1.0 - b2) * g * g;
            let (mh, vh) = (m64 / (1.0 - b1.powi(step as i32)), v64 / (1.0 - b2.powi(step as i32)));
            w64 = w64 * (1.0 - lr * f64::from(a.weight_decay)) - lr * mh / (vh.sqrt() + f64::from(a.eps));
        }
        assert!((f64::from(w) - w64).abs() < 1e-5, "{w} {w64}");
    }

    #[test]
    fn moments_do_not_linger_as_subnormal_numbers() {
        let f = AdamW::default().factors();
        let (mut m, mut v) = (1e-30, 1e-30);
        for _ in 0..100_000 {
            (_, m, v) = f.update(1.0, 0.0, m, v);
            assert!(!m.is_subnormal() && !v.is_subnormal());
        }
        assert_eq!((m, v), (0.0, 0.0));
    }
}
