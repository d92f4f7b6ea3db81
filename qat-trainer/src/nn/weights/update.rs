//! One step of the optimiser on some channels: the steps' gradients, the next steps, the weights and their quantised
//! values, while they are in the cache.

use super::fit::steps;
use crate::nn::optimiser::{Rule, Sgd, Update};
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
    weights: Vec<f32>,
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
        let Scratch { gradient, weights, steps: now, sums } = scratch;
        now.clear();
        now.extend_from_slice(unit.steps);
        sums.resize(now.len(), 0.0);
        let g = if self.factor == 1.0 {
            unit.g
        } else {
            gradient.clear();
            gradient.extend(unit.g.iter().map(|g| g * self.factor));
            gradient
        };
        // The steps' gradients first, while the weights are on their way into the cache: the next steps have to be known
        // before anything is requantised with them.
        if self.learns_steps() {
            ste_simd::step_gradient(self.levels, LsqMask::Exact, now, unit.w, g, sums)?;
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
        match &self.weights {
            Rule::AdamW(adamw) => ste_simd::fused_adamw(
                self.ste,
                self.levels,
                LsqMask::Exact,
                now,
                unit.steps,
                adamw,
                unit.w,
                g,
                unit.m,
                unit.v,
                unit.w_hat,
                sums,
            ),
            Rule::Sgd(sgd) => self.sgd(*sgd, g, unit.w, unit.m, unit.w_hat, now, unit.steps, weights, sums),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "parts of a unit that is taken apart already")]
    fn sgd(
        &self,
        sgd: Sgd,
        g: &[f32],
        w: &mut [f32],
        m: &mut [f32],
        w_hat: &mut [f32],
        now: &[f32],
        next: &[f32],
        grad_w: &mut Vec<f32>,
        sums: &mut [f32],
    ) -> Result<(), Error> {
        grad_w.resize(w.len(), 0.0);
        ste_simd::backward(self.ste, self.levels, LsqMask::Exact, now, w, g, grad_w, sums)?;
        for ((w, &g), m) in w.iter_mut().zip(&*grad_w).zip(m) {
            sgd.step(w, g, m);
        }
        ste_simd::fake_quantize(self.levels, next, w, w_hat)
    }
}

/// `alpha·exp(−delta)`, kept far from where a step would leave the normal numbers.
fn scaled(alpha: f32, delta: f32) -> f32 {
    (alpha * (-delta).exp()).clamp(1e-20, 1e20)
}
