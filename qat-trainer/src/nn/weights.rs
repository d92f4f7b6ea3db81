//! Quantised weights as leaves of the graph.
//!
//! The network sees ŵ, a persistent leaf tensor; the weights w themselves never enter torch. After the backward pass
//! torch holds ∂L/∂ŵ, and one pass over each row makes of it the estimator's gradient of w, the step of the optimiser,
//! and the next ŵ. Compared with a fake-quantiser node, this saves a node in both directions, two tensors of the
//! weights' size and three passes over memory.
//!
//! Every output channel has a step of its own, learned as in LSQ (Esser et al. 2020): Δ = s, or Δ = α·π/k for Pi, with
//! one k or with a k for each group of weights. The optimiser of α (or s) works on its logarithm, α ← α·exp(−δ): its
//! steps are relative, as LSQ's balance of step and weight updates asks for, and α > 0 holds by construction (INV-2). No
//! gradient can move k: it is chosen anew at intervals, for the least squared error ([`QuantWeights::choose_divisors`]).

mod fit;
mod order;
mod update;

use super::optimiser::{Moments, Rule, Update};
use super::parallel::{UNIT, in_units};
use super::param::{average, leaf};
use super::state;
use crate::autograd::slice_mut;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::spec::WeightQuant;
pub(crate) use fit::{fit, steps, steps_per_channel};
use order::Order;
use qat_kernels::config::StepRule;
use qat_kernels::quantizer::{StepInit, choose_divisors};
use qat_kernels::ste::lsq_gradient_scale;
use qat_kernels::ste_simd::{self, AdamW};
use qat_kernels::{Levels, SteVariant};
use rayon::prelude::*;
use tch::Tensor;
pub(crate) use update::{Scratch, Shared, Unit};

/// Parts of the state of a training, beside those of [`state`].
const BITS: &str = "bits";
const IMPORTANCE: &str = "importance";

/// Weights with one learned step per output channel.
#[derive(Debug)]
pub(crate) struct QuantWeights {
    quant: WeightQuant,
    ste: SteVariant,
    init: StepInit,
    w_hat: Tensor,
    /// How `w` and all that goes with it lies, if not as torch has it.
    order: Option<Order>,
    w: Vec<f32>,
    moments: Moments,
    alpha: Vec<f32>,
    alpha_moments: Moments,
    /// k of each group; empty unless there are groups.
    divisors: Vec<u8>,
    /// Δ of each channel, or of each group.
    steps: Vec<f32>,
    importance: Option<Vec<f32>>,
    average: Option<Vec<f32>>,
    average_alpha: Option<Vec<f32>>,
}

/// What [`QuantWeights`] are made of, beside the weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind<'a> {
    /// Shape of the weights, the first dimension being the channels.
    pub(crate) shape: &'a [usize],
    /// Bits, grid and step rule.
    pub(crate) quant: WeightQuant,
    /// The estimator of the gradients.
    pub(crate) ste: SteVariant,
    /// How steps are found before they are learned.
    pub(crate) init: StepInit,
    /// The engine's order of a row, see [`crate::graph::row_order`].
    pub(crate) order: &'a [usize],
}

/// Hyperparameters of one update.
///
/// ```
/// use qat_kernels::ste_simd::AdamW;
/// use qat_trainer::llm::{Learned, Linear, Rates, Rule, Sgd};
/// use tch::Tensor;
/// let plain = Sgd { lr: 1.0, momentum: 0.0, nesterov: false, weight_decay: 0.0 };
/// let rates = Rates { weights: Rule::Sgd(plain), scales: AdamW::default(), factor: 0.25 };
/// let mut w = Learned::new(&Tensor::from_slice2(&[[2f32, 0.0]]), None)?;
/// w.update(&[Tensor::from_slice2(&[[4f32, -8.0]])], &rates)?; // a quarter of it, to clip its norm
/// assert_eq!(w.weight()?, Tensor::from_slice2(&[[1f32, 2.0]]));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// For the weights.
    pub weights: Rule,
    /// For log α and the logarithms of the activations' scales.
    pub scales: AdamW,
    /// Factor of all gradients (clipping).
    pub factor: f32,
}

impl QuantWeights {
    /// Weights `w`, as torch has them, with fitted steps. `importance` weights the errors of the fit, one number ≥ 0
    /// per weight.
    pub(crate) fn new(w: &[f32], kind: Kind<'_>, importance: Option<&[f32]>) -> Result<Self> {
        // Steps of 1 until they are fitted.
        let channels = kind.shape.first().copied().unwrap_or(0);
        let per_channel = w.len() / channels.max(1);
        let groups = match kind.quant.step {
            StepRule::PiAdaptive { .. } => channels * steps_per_channel(kind.quant.step, per_channel),
            StepRule::Uniform | StepRule::Pi { .. } => 0,
        };
        let mut this = Self::with_steps(w, kind, &vec![1.0; channels], &vec![2; groups])?;
        this.importance = importance.map(|i| this.order.as_ref().map_or_else(|| i.to_vec(), |o| o.gather(i)));
        this.fit_steps()?;
        Ok(this)
    }

    /// As [`Self::new`], with α (or s) of each channel and k of each group given.
    pub(crate) fn with_steps(w: &[f32], kind: Kind<'_>, alpha: &[f32], divisors: &[u8]) -> Result<Self> {
        let adaptive = matches!(kind.quant.step, StepRule::PiAdaptive { .. });
        let order = Order::new(kind.order).filter(|_| adaptive);
        let per_channel = w.len() / alpha.len().max(1);
        let mut this = Self {
            quant: kind.quant,
            ste: kind.ste,
            init: kind.init,
            w_hat: leaf(w, kind.shape)?,
            w: order.as_ref().map_or_else(|| w.to_vec(), |o| o.gather(w)),
            order,
            moments: Moments::new(w.len()),
            alpha_moments: Moments::new(alpha.len()),
            steps: vec![0.0; alpha.len() * steps_per_channel(kind.quant.step, per_channel)],
            alpha: alpha.to_vec(),
            divisors: divisors.to_vec(),
            importance: None,
            average: None,
            average_alpha: None,
        };
        this.requantise()?;
        Ok(this)
    }

    /// ŵ, for the forward pass.
    pub(crate) fn leaf(&self) -> &Tensor {
        &self.w_hat
    }

    /// w, as torch has it.
    pub(crate) fn weights(&self) -> Vec<f32> {
        self.as_torch_has_it(&self.w)
    }

    /// α of each channel (s for uniform steps).
    pub(crate) fn alpha(&self) -> &[f32] {
        &self.alpha
    }

    /// k of each group, row by row in the engine's order; none without groups.
    pub(crate) fn divisors(&self) -> &[u8] {
        &self.divisors
    }

    /// Bits of the codes now.
    pub(crate) fn bits(&self) -> u8 {
        self.quant.levels.bits()
    }

    /// One step of everything, given ∂L/∂ŵ.
    ///
    /// The channels are independent of each other, so that neither their order nor the number of threads matters.
    pub(crate) fn update(&mut self, grad: &[f32], rates: &Rates) -> Result<()> {
        if grad.len() != self.w.len() {
            let (got, want) = (grad.len(), self.w.len());
            return Err(Error::new(ErrorKind::Train, format!("{got} gradients for {want} weights")));
        }
        rates.scales.validate().map_err(|e| diverged(&e))?;
        let per_channel = self.per_channel();
        let per_step = self.steps.len() / self.alpha.len();
        let shared = Shared {
            levels: self.quant.levels,
            rule: self.quant.step,
            ste: self.ste,
            weights: rates.weights,
            scales: Update::new(&rates.scales),
            lsq_scale: lsq_gradient_scale(per_channel, self.quant.levels),
            factor: rates.factor,
        };
        let gathered = self.order.as_ref().map(|o| o.gather(grad));
        let grad = gathered.as_deref().unwrap_or(grad);
        // Where the orders differ, ŵ is made in the engine's first.
        let mut quantised = vec![0.0; if self.order.is_some() { self.w.len() } else { 0 }];
        let w_hat = match self.order {
            Some(_) => &mut quantised[..],
            None => slice_mut(&mut self.w_hat)?,
        };
        let ((m, v), (alpha_m, alpha_v)) = (self.moments.split(), self.alpha_moments.split());
        // Several channels to a unit: small ones are not worth a unit each.
        let channels = UNIT.div_ceil(per_channel);
        let (len, steps) = (channels * per_channel, channels * per_step);
        let weights = self.w.chunks_mut(len).zip(w_hat.chunks_mut(len)).zip(grad.chunks(len));
        let weights = weights.zip(m.chunks_mut(len).zip(v.chunks_mut(len)));
        let alpha_moments = alpha_m.chunks_mut(channels).zip(alpha_v.chunks_mut(channels));
        let alpha = self.alpha.chunks_mut(channels).zip(alpha_moments);
        let divisors = (0..)
            .map(|u| self.divisors.get(u * steps..((u + 1) * steps).min(self.divisors.len())).unwrap_or(&[]));
        let units = weights.zip(alpha).zip(self.steps.chunks_mut(steps).zip(divisors)).map(|unit| {
            let (((((w, w_hat), g), (m, v)), (alpha, (alpha_m, alpha_v))), (steps, divisors)) = unit;
            Unit { w, w_hat, g, m, v, alpha, alpha_m, alpha_v, steps, divisors }
        });
        in_units(units.collect(), |unit| shared.update(unit, &mut Scratch::default()))
            .into_iter()
            .collect::<Result<(), _>>()
            .map_err(|e| diverged(&e))?;
        match &self.order {
            Some(order) => {
                order.scatter(&quantised, slice_mut(&mut self.w_hat)?);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Chooses k of every group anew, for the least squared error with α as it is. Nothing happens without groups.
    pub(crate) fn choose_divisors(&mut self) -> Result<()> {
        let StepRule::PiAdaptive { group } = self.quant.step else { return Ok(()) };
        let (per_channel, levels) = (self.per_channel(), self.quant.levels);
        let per_step = self.steps.len() / self.alpha.len();
        let importance = self.importance.as_deref();
        self.divisors
            .par_chunks_mut(per_step)
            .zip(self.w.par_chunks(per_channel))
            .zip(&self.alpha)
            .enumerate()
            .try_for_each(|(channel, ((divisors, row), &alpha))| {
                let importance = importance.map(|i| &i[channel * per_channel..][..per_channel]);
                choose_divisors(levels, group, alpha, row, importance, divisors)
            })
            .map_err(|e| diverged(&e))?;
        self.requantise()
    }

    /// Goes on with codes of this many bits, on steps fitted anew. What was averaged so far belonged to other codes, and
    /// is forgotten. Returns whether anything changed.
    pub(crate) fn set_bits(&mut self, bits: u8) -> Result<bool> {
        if bits == self.bits() {
            return Ok(false);
        }
        self.quant.levels = Levels::new(bits, self.quant.levels.grid())?;
        self.fit_steps()?;
        Ok(true)
    }

    fn fit_steps(&mut self) -> Result<()> {
        let importance = self.importance.as_deref();
        let fitted = fit(self.quant, self.init, &self.w, self.per_channel(), importance);
        (self.alpha, self.divisors) = fitted.map_err(|e| diverged(&e))?;
        self.alpha_moments = Moments::new(self.alpha.len());
        (self.average, self.average_alpha) = (None, None);
        self.requantise()
    }

    /// Moves the running averages of w and α.
    pub(crate) fn average(&mut self, decay: f32) {
        average(&mut self.average, &self.w, decay);
        average(&mut self.average_alpha, &self.alpha, decay);
    }

    /// Exchanges w and α and their averages, if there are any, and requantises.
    pub(crate) fn swap_average(&mut self) -> Result<()> {
        if let (Some(w), Some(alpha)) = (&mut self.average, &mut self.average_alpha) {
            std::mem::swap(w, &mut self.w);
            std::mem::swap(alpha, &mut self.alpha);
            self.requantise()?;
        }
        Ok(())
    }

    /// Puts all that the training needs beside weights, α and k into its state; `name` is that of the layer.
    pub(crate) fn save_state(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        let (weight, alpha) = (format!("{name}.weight"), format!("{name}.alpha"));
        self.moments.save(&weight, to)?;
        self.alpha_moments.save(&alpha, to)?;
        state::put_average(to, &weight, self.average.as_deref())?;
        state::put_average(to, &alpha, self.average_alpha.as_deref())?;
        state::put(to, &weight, BITS, &[f32::from(self.bits())])?;
        self.importance.as_deref().map_or(Ok(()), |i| state::put(to, &weight, IMPORTANCE, i))
    }

    /// Takes it out again.
    pub(crate) fn load_state(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        let (weight, alpha) = (format!("{name}.weight"), format!("{name}.alpha"));
        let (n, channels) = (self.w.len(), self.alpha.len());
        self.moments.load(&weight, from)?;
        self.alpha_moments.load(&alpha, from)?;
        self.average = state::get_average(from, &weight, n)?;
        self.average_alpha = state::get_average(from, &alpha, channels)?;
        let bits = state::get(from, &weight, BITS, 1)?;
        self.quant.levels = Levels::new(bits[0] as u8, self.quant.levels.grid()).map_err(|e| {
            Error::new(ErrorKind::Checkpoint, e.to_string()).place(format!("tensor `{weight}.{BITS}`"))
        })?;
        let importance = from.has(&format!("{weight}.{IMPORTANCE}"));
        self.importance = importance.then(|| state::get(from, &weight, IMPORTANCE, n)).transpose()?;
        self.requantise()
    }

    /// Steps and ŵ from w, α and k.
    fn requantise(&mut self) -> Result<()> {
        let per_step = self.steps.len() / self.alpha.len().max(1);
        for (c, (out, &alpha)) in self.steps.chunks_mut(per_step.max(1)).zip(&self.alpha).enumerate() {
            let divisors = self.divisors.get(c * per_step..(c + 1) * per_step).unwrap_or(&[]);
            steps(self.quant.step, alpha, divisors, out).map_err(|e| diverged(&e))?;
        }
        let quantise = |out: &mut [f32]| {
            ste_simd::fake_quantize(self.quant.levels, &self.steps, &self.w, out).map_err(|e| diverged(&e))
        };
        match &self.order {
            None => quantise(slice_mut(&mut self.w_hat)?),
            Some(order) => {
                let mut quantised = vec![0.0; self.w.len()];
                quantise(&mut quantised)?;
                order.scatter(&quantised, slice_mut(&mut self.w_hat)?);
                Ok(())
            }
        }
    }

    fn per_channel(&self) -> usize {
        (self.w.len() / self.alpha.len().max(1)).max(1)
    }

    fn as_torch_has_it(&self, engine: &[f32]) -> Vec<f32> {
        let mut torch = engine.to_vec();
        if let Some(order) = &self.order {
            order.scatter(engine, &mut torch);
        }
        torch
    }
}

/// The error of a step whose numbers are none any more.
pub(crate) fn diverged(e: &qat_kernels::Error) -> Error {
    Error::new(ErrorKind::Train, format!("the training diverged: {e}")).remedy("lower the learning rate")
}

#[cfg(test)]
mod tests;
