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
/// The factors in parentheses are formed once per call in f64 and rounded to f32. `lr` already contains the schedule.
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
    /// One update; returns the new weight.
    #[inline(always)]
    pub(super) fn update(self, w: f32, g: f32, m: &mut f32, v: &mut f32) -> f32 {
        *m = self.beta1 * *m + self.rest1 * g;
        *v = self.beta2 * *v + (self.rest2 * g) * g;
        w * self.decay - self.rate * *m / (sqrt(*v) * self.scale + self.eps)
    }
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
