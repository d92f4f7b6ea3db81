//! AdamW and SGD on numbers that are trained as they are, and what both remember between steps.

use super::state;
use crate::autograd::fused::Factors;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use qat_kernels::ste_simd::AdamW;

/// How one step moves a parameter.
///
/// ```
/// use qat_kernels::ste_simd::AdamW;
/// use qat_trainer::llm::{Learned, Linear, Rates, Rule};
/// use tch::Tensor;
/// let adamw = AdamW { lr: 0.5, weight_decay: 0.0, ..AdamW::default() };
/// let rates = Rates { weights: Rule::AdamW(adamw), scales: adamw, factor: 1.0 };
/// let mut w = Learned::new(&Tensor::from_slice2(&[[1f32, 1.0]]), None)?;
/// w.update(&[Tensor::from_slice2(&[[1e-3f32, -1e3]])], &rates)?;
/// // The first step is as long as the rate, however long the gradient is.
/// assert!(w.weight()?.allclose(&Tensor::from_slice2(&[[0.5f32, 1.5]]), 1e-4, 0.0, false));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// [`AdamW`].
    AdamW(AdamW),
    /// [`Sgd`].
    Sgd(Sgd),
}

impl Rule {
    /// The same without weight decay, unless the parameter `decays`.
    pub(crate) fn decaying(self, decays: bool) -> Self {
        match self {
            _ if decays => self,
            Rule::AdamW(a) => Rule::AdamW(AdamW { weight_decay: 0.0, ..a }),
            Rule::Sgd(s) => Rule::Sgd(Sgd { weight_decay: 0.0, ..s }),
        }
    }
}

/// Stochastic gradient descent with momentum, as torch defines it: the velocity is `m ← μ·m + g'` with
/// `g' = g + decay·p`, and `p ← p − lr·m`, with Nesterov's momentum `p ← p − lr·(g' + μ·m)`.
///
/// ```
/// use qat_kernels::ste_simd::AdamW;
/// use qat_trainer::llm::{Learned, Linear, Rates, Rule, Sgd};
/// use tch::Tensor;
/// let sgd = Sgd { lr: 0.5, momentum: 0.5, nesterov: false, weight_decay: 0.0 };
/// let rates = Rates { weights: Rule::Sgd(sgd), scales: AdamW::default(), factor: 1.0 };
/// let mut w = Learned::new(&Tensor::from_slice2(&[[4f32]]), None)?;
/// for _ in 0..2 {
///     w.update(&[Tensor::from_slice2(&[[2f32]])], &rates)?; // velocities of 2 and ½·2 + 2 = 3
/// }
/// assert_eq!(w.weight()?.double_value(&[0, 0]), 4.0 - 0.5 * 2.0 - 0.5 * 3.0);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f32,
    /// μ.
    pub momentum: f32,
    /// Nesterov's form.
    pub nesterov: bool,
    /// Weight decay, part of the gradient.
    pub weight_decay: f32,
}

impl Sgd {
    /// One step of one number.
    #[inline(always)]
    pub(crate) fn step(self, p: &mut f32, g: f32, m: &mut f32) {
        let g = g + self.weight_decay * *p;
        *m = self.momentum * *m + g;
        *p -= self.lr * if self.nesterov { g + self.momentum * *m } else { *m };
    }
}

/// What an optimiser remembers of each number: the first and second moments of AdamW, the velocity of SGD in place of
/// the first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moments {
    m: Vec<f32>,
    v: Vec<f32>,
}

impl Moments {
    /// Zero moments of `n` numbers.
    pub(crate) fn new(n: usize) -> Self {
        Self { m: vec![0.0; n], v: vec![0.0; n] }
    }

    /// Both moments, to write to.
    pub(crate) fn split(&mut self) -> (&mut [f32], &mut [f32]) {
        (&mut self.m, &mut self.v)
    }

    /// One step of `p`, with the gradient times `factor`. AdamW is the formula of the fused kernel of qat-kernels.
    pub(crate) fn step(&mut self, p: &mut [f32], grad: &[f32], factor: f32, rule: &Rule) -> Result<()> {
        if grad.len() != p.len() || self.m.len() != p.len() {
            let (got, want) = (grad.len(), p.len());
            return Err(Error::new(ErrorKind::Train, format!("{got} gradients for {want} parameters")));
        }
        let numbers = p.iter_mut().zip(grad).zip(&mut self.m).zip(&mut self.v);
        match rule {
            Rule::AdamW(adamw) => {
                adamw.validate().map_err(|e| {
                    Error::new(ErrorKind::Train, e.to_string()).remedy("lower the learning rate")
                })?;
                let f = Update::new(adamw);
                for (((p, &g), m), v) in numbers {
                    *p = *p * f.decay - f.step(g * factor, m, v);
                }
            }
            Rule::Sgd(sgd) => numbers.for_each(|(((p, &g), m), _)| sgd.step(p, g * factor, m)),
        }
        Ok(())
    }

    /// Puts the moments into the state of a training, beside the parameter `name`.
    pub(crate) fn save(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        state::put(to, name, state::FIRST_MOMENT, &self.m)?;
        state::put(to, name, state::SECOND_MOMENT, &self.v)
    }

    /// Takes them out again.
    pub(crate) fn load(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        let n = self.m.len();
        self.m = state::get(from, name, state::FIRST_MOMENT, n)?;
        self.v = state::get(from, name, state::SECOND_MOMENT, n)?;
        Ok(())
    }
}

/// The factors of AdamW's formula, formed in f64 and rounded once.
#[derive(Clone, Copy)]
pub(crate) struct Update {
    decay: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    rate: f32,
    scale: f32,
    eps: f32,
}

impl Update {
    /// The factors of this update.
    pub(crate) fn new(a: &AdamW) -> Self {
        let (lr, b1, b2) = (f64::from(a.lr), f64::from(a.beta1), f64::from(a.beta2));
        let power = |b: f64| b.powi(i32::try_from(a.step).unwrap_or(i32::MAX));
        Self {
            decay: (1.0 - lr * f64::from(a.weight_decay)) as f32,
            beta1: a.beta1,
            rest1: (1.0 - b1) as f32,
            beta2: a.beta2,
            rest2: (1.0 - b2) as f32,
            rate: (lr / (1.0 - power(b1))) as f32,
            scale: (1.0 / (1.0 - power(b2)).sqrt()) as f32,
            eps: a.eps,
        }
    }

    /// The same for kernels of a GPU, which multiply the gradient by `factor`.
    pub(crate) fn fused(self, factor: f32) -> Factors {
        let Self { decay, beta1, rest1, beta2, rest2, rate, scale, eps } = self;
        Factors { decay, beta1, rest1, beta2, rest2, rate, scale, eps, factor }
    }

    /// What to subtract from a parameter with gradient `g`, without the decay.
    #[inline(always)]
    pub(crate) fn step(self, g: f32, m: &mut f32, v: &mut f32) -> f32 {
        *m = self.beta1 * *m + self.rest1 * g;
        *v = self.beta2 * *v + (self.rest2 * g) * g;
        self.rate * *m / (v.sqrt() * self.scale + self.eps)
    }
}
