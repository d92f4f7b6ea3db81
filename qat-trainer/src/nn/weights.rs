//! Quantised weights as leaves of the graph.
//!
//! The network sees ŵ, a persistent leaf tensor; the weights w themselves never enter torch. After the backward pass
//! torch holds ∂L/∂ŵ, and one pass over each row makes of it the estimator's gradient of w, the step of AdamW, and the
//! next ŵ. Compared with a fake-quantiser node, this saves a node in both directions, two tensors of the weights' size
//! and three passes over memory.
//!
//! Every output channel has a step of its own, learned as in LSQ (Esser et al. 2020): Δ = s, or Δ = α·π/k for Pi. The
//! optimiser of α (or s) works on its logarithm, α ← α·exp(−δ): its steps are relative, as LSQ's balance of step and
//! weight updates asks for, and α > 0 holds by construction (INV-2).

use super::parallel::{UNIT, in_units};
use super::param::{Moments, Update, average, leaf};
use crate::autograd::slice_mut;
use crate::error::{Error, ErrorKind, Result};
use crate::spec::WeightQuant;
use qat_kernels::config::StepRule;
use qat_kernels::quantizer::fit_step;
use qat_kernels::ste::lsq_gradient_scale;
use qat_kernels::ste_simd::{self, AdamW};
use qat_kernels::{Levels, LsqMask, SteVariant, What, pi_step};
use rayon::prelude::*;
use tch::Tensor;

/// Weights with one learned step per output channel.
#[derive(Debug)]
pub(crate) struct QuantWeights {
    levels: Levels,
    rule: FixedRule,
    ste: SteVariant,
    w_hat: Tensor,
    w: Vec<f32>,
    moments: Moments,
    alpha: Vec<f32>,
    alpha_moments: Moments,
    steps: Vec<f32>,
    average: Option<Vec<f32>>,
    average_alpha: Option<Vec<f32>>,
}

/// The step rules with one step per channel.
#[derive(Clone, Copy, Debug)]
enum FixedRule {
    Uniform,
    Pi { k: u8 },
}

impl FixedRule {
    fn of(rule: StepRule) -> Result<Self> {
        match rule {
            StepRule::Uniform => Ok(Self::Uniform),
            StepRule::Pi { k } => Ok(Self::Pi { k }),
            StepRule::PiAdaptive { .. } => Err(Error::new(
                ErrorKind::Unsupported,
                "training with one k per group of weights is not possible",
            )
            .remedy("use step = \"uniform\" or step = { pi = { k = 3 } }")),
        }
    }
}

/// Hyperparameters of one update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    /// For the weights.
    pub(crate) weights: AdamW,
    /// For log α and the logarithms of the activations' scales.
    pub(crate) scales: AdamW,
    /// Factor of all gradients (clipping).
    pub(crate) factor: f32,
}

impl QuantWeights {
    /// Weights `w` of this shape, the first dimension being the channels, with the steps of least squared error.
    pub(crate) fn new(w: &[f32], shape: &[usize], quant: WeightQuant, ste: SteVariant) -> Result<Self> {
        let channels = shape.first().copied().unwrap_or(0).max(1);
        let unit = step(FixedRule::of(quant.step)?, 1.0)?;
        let per_channel = (w.len() / channels).max(1);
        let alpha = |row| fit_step(quant.levels, row, None).map(|step| step / unit);
        let alpha: Vec<f32> = w.par_chunks(per_channel).map(alpha).collect::<Result<_, _>>()?;
        Self::with_alpha(w, shape, quant, ste, &alpha)
    }

    /// As [`Self::new`], with α (or s) given.
    pub(crate) fn with_alpha(
        w: &[f32],
        shape: &[usize],
        quant: WeightQuant,
        ste: SteVariant,
        alpha: &[f32],
    ) -> Result<Self> {
        let rule = FixedRule::of(quant.step)?;
        let mut this = Self {
            levels: quant.levels,
            rule,
            ste,
            w_hat: leaf(w, shape)?,
            w: w.to_vec(),
            moments: Moments::new(w.len()),
            alpha_moments: Moments::new(alpha.len()),
            steps: alpha.iter().map(|&a| step(rule, a)).collect::<Result<_, _>>()?,
            alpha: alpha.to_vec(),
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

    /// w.
    pub(crate) fn weights(&self) -> &[f32] {
        &self.w
    }

    /// α of each channel (s for uniform steps).
    pub(crate) fn alpha(&self) -> &[f32] {
        &self.alpha
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
        let per_channel = self.w.len() / self.steps.len();
        let (ste, levels, rule) = (self.ste, self.levels, self.rule);
        let alpha_update = Update::new(&rates.scales);
        let learned = matches!(ste, SteVariant::LearnedStepSize | SteVariant::Ewgs { .. });
        let lsq_scale = lsq_gradient_scale(per_channel, levels);
        let ((m, v), (alpha_m, alpha_v)) = (self.moments.split(), self.alpha_moments.split());
        let moments = m.chunks_mut(per_channel).zip(v.chunks_mut(per_channel));
        let scales = self.alpha.iter_mut().zip(&mut self.steps).zip(alpha_m.iter_mut().zip(alpha_v));
        let rows = self.w.chunks_mut(per_channel).zip(slice_mut(&mut self.w_hat)?.chunks_mut(per_channel));
        let rows: Vec<_> = rows.zip(moments).zip(grad.chunks(per_channel)).zip(scales).collect();
        // Several channels to a unit: small ones are not worth a unit each.
        let mut units: Vec<Vec<_>> = Vec::new();
        for (i, row) in rows.into_iter().enumerate() {
            if i % UNIT.div_ceil(per_channel) == 0 {
                units.push(Vec::new());
            }
            if let Some(unit) = units.last_mut() {
                unit.push(row);
            }
        }
        in_units(units, |rows| -> Result<(), qat_kernels::Error> {
            for ((((w, w_hat), (m, v)), g), ((alpha, step_now), (alpha_m, alpha_v))) in rows {
                let now = [*step_now];
                let mut sum = [0.0];
                let clipped: Vec<f32>;
                let g = if rates.factor == 1.0 {
                    g
                } else {
                    clipped = g.iter().map(|g| g * rates.factor).collect();
                    &clipped
                };
                // The step's gradient first, while the row is on its way into the cache: the next step has to be known
                // before anything is requantised with it.
                if learned {
                    ste_simd::step_gradient(levels, LsqMask::Exact, &now, w, g, &mut sum)?;
                    // ∂L/∂log α = α·(∂L/∂Δ·∂Δ/∂α) = Δ·∂L/∂Δ on both rules.
                    let g = sum[0] * lsq_scale * now[0];
                    *alpha = scaled(*alpha, alpha_update.step(g, alpha_m, alpha_v));
                    *step_now = step(rule, *alpha)?;
                }
                let next = [*step_now];
                let a = &rates.weights;
                ste_simd::fused_adamw(
                    ste,
                    levels,
                    LsqMask::Exact,
                    &now,
                    &next,
                    a,
                    w,
                    g,
                    m,
                    v,
                    w_hat,
                    &mut sum,
                )?;
            }
            Ok(())
        })
        .into_iter()
        .collect::<Result<(), _>>()
        .map_err(|e| diverged(&e))
    }

    /// Moves the running averages of w and α.
    pub(crate) fn average(&mut self, decay: f32) {
        average(&mut self.average, &self.w, decay);
        average(&mut self.average_alpha, &self.alpha, decay);
    }

    /// Replaces w and α by their averages, if there are any, and requantises.
    pub(crate) fn take_average(&mut self) -> Result<()> {
        if let (Some(w), Some(alpha)) = (self.average.take(), self.average_alpha.take()) {
            self.w = w;
            for (s, &a) in self.steps.iter_mut().zip(&alpha) {
                *s = step(self.rule, a)?;
            }
            self.alpha = alpha;
            self.requantise()?;
        }
        Ok(())
    }

    fn requantise(&mut self) -> Result<()> {
        let w_hat = slice_mut(&mut self.w_hat)?;
        ste_simd::fake_quantize(self.levels, &self.steps, &self.w, w_hat).map_err(|e| diverged(&e))
    }
}

/// `alpha·exp(−delta)`, kept far from where a step would leave the normal numbers.
fn scaled(alpha: f32, delta: f32) -> f32 {
    (alpha * (-delta).exp()).clamp(1e-20, 1e20)
}

fn diverged(e: &qat_kernels::Error) -> Error {
    Error::new(ErrorKind::Train, format!("the training diverged: {e}")).remedy("lower the learning rate")
}

/// The step for α (or s).
fn step(rule: FixedRule, alpha: f32) -> Result<f32, qat_kernels::Error> {
    match rule {
        FixedRule::Pi { k } => pi_step(alpha, k),
        FixedRule::Uniform if alpha > 0.0 && alpha.is_normal() => Ok(alpha),
        FixedRule::Uniform => {
            Err(qat_kernels::Error::NotPositive { what: What::Steps, index: 0, value: alpha })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::slice;
    use crate::nn::param::Param;
    use crate::random::normal;
    use qat_kernels::Grid;

    fn quant(bits: u8, grid: Grid, step: StepRule) -> WeightQuant {
        WeightQuant { levels: Levels::new(bits, grid).unwrap(), step }
    }

    /// Q(w) by torch's operators: the detach trick for w, LSQ's gradient for α by autograd.
    fn reference(w: &Tensor, alpha: &Tensor, q: WeightQuant, scale: f64) -> Tensor {
        let (lo, hi) = (f64::from(q.levels.lo()), f64::from(q.levels.hi()));
        let offset = f64::from(q.levels.grid().offset());
        // The value of α with its gradient times `scale`.
        let alpha = (alpha.detach() + (alpha - alpha.detach()) * scale).unsqueeze(1);
        // The same operations in the same order as `pi_step`: a step that differs in its last bit rounds differently.
        let step = match q.step {
            StepRule::Pi { k } => alpha * std::f64::consts::PI / i64::from(k),
            _ => alpha,
        };
        let v = (w / &step - offset).clamp(lo, hi);
        ((v.round() - &v).detach() + &v + offset) * step
    }

    /// The fused pass against torch's autograd through the detach trick and AdamW, over 20 updates of a linear
    /// regression: w and α within 1e-5, relative to values of the order of 1. The difference is that of f32 sums in
    /// another order.
    #[test]
    fn equals_the_detach_trick_with_adamw() {
        for (bits, grid, rule) in [
            (2, Grid::MidRise, StepRule::Pi { k: 3 }),
            (3, Grid::MidTread, StepRule::Uniform),
            (8, Grid::MidTread, StepRule::Pi { k: 4 }),
        ] {
            let q = quant(bits, grid, rule);
            let (x, target) = (normal(11, &[64, 24]), normal(12, &[64, 6]));
            let start = normal(13, &[6, 24]);
            let ste = SteVariant::LearnedStepSize;
            let fitted = QuantWeights::new(slice(&start).unwrap(), &[6, 24], q, ste).unwrap();
            // Off the fit, which likes to put a weight exactly on the end of the grid: there the last bit of a division
            // decides about its gradient.
            let off: Vec<f32> = fitted.alpha().iter().map(|a| a * 0.97).collect();
            let mut ours = QuantWeights::with_alpha(slice(&start).unwrap(), &[6, 24], q, ste, &off).unwrap();
            let mut w = Param::new(slice(&start).unwrap(), &[6, 24], true).unwrap();
            let mut alpha = ours.alpha().to_vec();
            let mut moments = Moments::new(6);
            let scale = f64::from(lsq_gradient_scale(24, q.levels));
            let loss =
                |w_hat: &Tensor| x.linear(w_hat, None::<&Tensor>).mse_loss(&target, tch::Reduction::Mean);
            for t in 1..=20 {
                let weights = AdamW { lr: 0.02, weight_decay: 0.05, step: t, ..AdamW::default() };
                let scales = AdamW { lr: 0.01, weight_decay: 0.0, ..weights };

                let g = Tensor::f_run_backward(&[loss(ours.leaf())], &[ours.leaf()], false, false).unwrap();
                ours.update(slice(&g[0]).unwrap(), &Rates { weights, scales, factor: 1.0 }).unwrap();

                let a = leaf(&alpha, &[6]).unwrap();
                let l = loss(&reference(w.leaf(), &a, q, scale));
                let g = Tensor::f_run_backward(&[l], &[w.leaf(), &a], false, false).unwrap();
                w.update(slice(&g[0]).unwrap(), 1.0, &weights).unwrap();
                let log_grad: Vec<f32> =
                    slice(&g[1]).unwrap().iter().zip(&alpha).map(|(g, a)| g * a).collect();
                let mut log_alpha: Vec<f32> = alpha.iter().map(|a| a.ln()).collect();
                moments.step(&mut log_alpha, &log_grad, 1.0, &scales).unwrap();
                alpha = log_alpha.iter().map(|a| a.exp()).collect();
            }
            let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(near(ours.alpha(), &alpha), "{bits}: {:?} {alpha:?}", ours.alpha());
            assert!(near(ours.weights(), w.values().unwrap()), "{bits}");
            assert!(!near(ours.weights(), slice(&start).unwrap()));
        }
    }

    #[test]
    fn w_hat_is_the_quantised_weight_after_every_update() {
        let q = quant(2, Grid::MidRise, StepRule::Pi { k: 3 });
        let start = normal(5, &[3, 50]);
        let mut w =
            QuantWeights::new(slice(&start).unwrap(), &[3, 50], q, SteVariant::LearnedStepSize).unwrap();
        for t in 1..5_u32 {
            let weights = AdamW { lr: 0.05, step: t, ..AdamW::default() };
            let rates = Rates { weights, scales: AdamW { weight_decay: 0.0, ..weights }, factor: 0.5 };
            w.update(slice(&normal(t.into(), &[3, 50])).unwrap(), &rates).unwrap();
            for (c, &alpha) in w.alpha().iter().enumerate() {
                let s = pi_step(alpha, 3).unwrap();
                for i in c * 50..(c + 1) * 50 {
                    assert_eq!(slice(w.leaf()).unwrap()[i], q.levels.fake_quantize(w.weights()[i], s));
                }
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let q = quant(3, Grid::MidTread, StepRule::Uniform);
                let start = normal(5, &[140, 900]);
                let shape = [140, 900];
                let mut w = QuantWeights::new(slice(&start).unwrap(), &shape, q, SteVariant::LearnedStepSize)
                    .unwrap();
                let rates = Rates { weights: AdamW::default(), scales: AdamW::default(), factor: 1.0 };
                w.update(slice(&normal(6, &[140, 900])).unwrap(), &rates).unwrap();
                (w.weights().to_vec(), w.alpha().to_vec())
            })
        };
        assert_eq!(run(1), run(7));
    }

    #[test]
    fn a_gradient_that_is_not_a_number_is_an_error() {
        let q = quant(2, Grid::MidRise, StepRule::Uniform);
        let mut w = QuantWeights::new(&[0.5; 8], &[2, 4], q, SteVariant::LearnedStepSize).unwrap();
        let rates = Rates { weights: AdamW::default(), scales: AdamW::default(), factor: 1.0 };
        assert!(w.update(&[f32::NAN; 8], &rates).unwrap_err().to_string().contains("diverged"));
        assert!(w.update(&[0.0; 7], &rates).unwrap_err().to_string().contains("7 gradients"));
        let adaptive = quant(2, Grid::MidRise, StepRule::PiAdaptive { group: 16 });
        assert!(QuantWeights::new(&[0.5; 8], &[2, 4], adaptive, SteVariant::Standard).is_err());
    }
}
