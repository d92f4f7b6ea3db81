//! One step of the optimiser on some channels: the steps' gradients, the next steps, the weights and their quantised
//! values, while they are in the cache.

use super::fit::steps;
use crate::nn::optimiser::{Rule, Update};
use qat_kernels::config::StepRule;
use qat_kernels::ste_simd;
use qat_kernels::{Error, Levels, LsqMask, SteVariant};

/// What the channels of a layer share in one update.
#[derive(Clone, Copy)]
pub(crate) struct Shared {
    pub(crate) levels: Levels,
    pub(crate) rule: StepRule,
    pub(crate) ste: SteVariant,
    /// How the weights move.
    pub(crate) weights: Rule,
    /// How log α moves.
    pub(crate) scales: Update,
    /// LSQ's balance between the gradients of steps and weights.
    pub(crate) lsq_scale: f32,
    /// Factor of all gradients (clipping).
    pub(crate) factor: f32,
}

/// Channels that follow each other: their weights and all that belongs to them. Each channel has its own α and an equal
/// share of everything else.
pub(crate) struct Unit<'a> {
    pub(crate) w: &'a mut [f32],
    pub(crate) w_hat: &'a mut [f32],
    pub(crate) g: &'a [f32],
    pub(crate) m: &'a mut [f32],
    pub(crate) v: &'a mut [f32],
    pub(crate) alpha: &'a mut [f32],
    pub(crate) alpha_m: &'a mut [f32],
    pub(crate) alpha_v: &'a mut [f32],
    pub(crate) steps: &'a mut [f32],
    pub(crate) divisors: &'a [u8],
}

/// Memory that units use in turn.
#[derive(Default)]
pub(crate) struct Scratch {
    gradient: Vec<f32>,
    steps: Vec<f32>,
    sums: Vec<f32>,
}

impl Shared {
    /// Whether the estimator gives α a gradient.
    fn learns_steps(&self) -> bool {
        matches!(self.ste, SteVariant::LearnedStepSize | SteVariant::Ewgs { .. })
    }

    /// One step of everything in a unit.
    pub(crate) fn update(&self, unit: Unit<'_>, scratch: &mut Scratch) -> Result<(), Error> {
        let Scratch { gradient, steps: now, sums } = scratch;
        now.clear();
        now.extend_from_slice(unit.steps);
        sums.resize(now.len(), 0.0);
        // The gradients of weights and steps first, while the weights are on their way into the cache: the next steps have to
        // be known before anything is requantised with them.
        gradient.resize(unit.w.len(), 0.0);
        let (ste, levels, mask) = (self.ste, self.levels, LsqMask::Exact);
        if self.factor == 1.0 {
            ste_simd::backward(ste, levels, mask, now, unit.w, unit.g, gradient, sums)?;
        } else {
            gradient.iter_mut().zip(unit.g).for_each(|(scaled, g)| *scaled = g * self.factor);
            ste_simd::backward_in_place(ste, levels, mask, now, unit.w, gradient, sums)?;
        }
        if self.learns_steps() {
            let per_alpha = (now.len() / unit.alpha.len().max(1)).max(1);
            let groups =
                sums.chunks(per_alpha).zip(now.chunks(per_alpha)).zip(unit.steps.chunks_mut(per_alpha));
            let moments = unit.alpha_m.iter_mut().zip(unit.alpha_v);
            let channels = unit.alpha.iter_mut().zip(moments).zip(groups).enumerate();
            for (c, ((alpha, (m, v)), ((sums, now), next))) in channels {
                // ∂L/∂log α = Σ α·(∂L/∂Δ·∂Δ/∂α) = Σ Δ·∂L/∂Δ under every rule, over the groups that share α.
                let g = sums.iter().zip(now).map(|(g, step)| g * self.lsq_scale * step).sum();
                *alpha = scaled(*alpha, self.scales.step(g, m, v));
                let divisors = unit.divisors.get(c * per_alpha..(c + 1) * per_alpha).unwrap_or(&[]);
                steps(self.rule, *alpha, divisors, next)?;
            }
        }
        let (next, w, m) = (&*unit.steps, unit.w, unit.m);
        match &self.weights {
            Rule::AdamW(adamw) => {
                // The estimator has had its say: what is left of it is the identity.
                let ste = SteVariant::Standard;
                ste_simd::fused_adamw(
                    ste,
                    levels,
                    mask,
                    next,
                    next,
                    adamw,
                    w,
                    gradient,
                    m,
                    unit.v,
                    unit.w_hat,
                    &mut [],
                )
            }
            Rule::Sgd(sgd) => {
                for ((w, &g), m) in w.iter_mut().zip(&*gradient).zip(m) {
                    sgd.step(w, g, m);
                }
                ste_simd::fake_quantize(levels, next, w, unit.w_hat)
            }
        }
    }
}

/// `alpha·exp(−delta)`, kept far from where a step would leave the normal numbers.
fn scaled(alpha: f32, delta: f32) -> f32 {
    (alpha * (-delta).exp()).clamp(1e-20, 1e20)
}
