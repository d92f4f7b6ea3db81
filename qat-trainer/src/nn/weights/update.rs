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
    pub(crate) fn update(&self, mut unit: Unit<'_>, scratch: &mut Scratch) -> Result<(), Error> {
        let Scratch { gradient, steps: now, sums } = scratch;
        now.clear();
        now.extend_from_slice(unit.steps);
        sums.resize(now.len(), 0.0);
        let (ste, levels, mask) = (self.ste, self.levels, LsqMask::Exact);
        match &self.weights {
            Rule::AdamW(adamw) => {
                let g = if self.factor == 1.0 {
                    unit.g
                } else {
                    gradient.clear();
                    gradient.extend(unit.g.iter().map(|g| g * self.factor));
                    gradient
                };
                ste_simd::backward_adamw(ste, levels, mask, now, adamw, unit.w, g, unit.m, unit.v, sums)?;
            }
            Rule::Sgd(sgd) => {
                gradient.clear();
                gradient.extend(unit.g.iter().map(|g| g * self.factor));
                ste_simd::backward_in_place(ste, levels, mask, now, unit.w, gradient, sums)?;
                for ((w, &g), m) in unit.w.iter_mut().zip(&*gradient).zip(&mut *unit.m) {
                    sgd.step(w, g, m);
                }
            }
        }
        if self.learns_steps() {
            self.next_steps(&mut unit, now, sums)?;
        }
        // The weights are in the cache still.
        ste_simd::fake_quantize(levels, unit.steps, unit.w, unit.w_hat)
    }

    /// One step of every α, given the steps as they were and the sums of their gradients.
    fn next_steps(&self, unit: &mut Unit<'_>, now: &[f32], sums: &[f32]) -> Result<(), Error> {
        let per_alpha = (now.len() / unit.alpha.len().max(1)).max(1);
        let groups = sums.chunks(per_alpha).zip(now.chunks(per_alpha)).zip(unit.steps.chunks_mut(per_alpha));
        let moments = unit.alpha_m.iter_mut().zip(&mut *unit.alpha_v);
        let channels = unit.alpha.iter_mut().zip(moments).zip(groups).enumerate();
        for (c, ((alpha, (m, v)), ((sums, now), next))) in channels {
            // ∂L/∂log α = Σ α·(∂L/∂Δ·∂Δ/∂α) = Σ Δ·∂L/∂Δ under every rule, over the groups that share α.
            let g = sums.iter().zip(now).map(|(g, step)| g * self.lsq_scale * step).sum();
            *alpha = scaled(*alpha, self.scales.step(g, m, v));
            let divisors = unit.divisors.get(c * per_alpha..(c + 1) * per_alpha).unwrap_or(&[]);
            steps(self.rule, *alpha, divisors, next)?;
        }
        Ok(())
    }
}

/// `alpha·exp(−delta)`, kept far from where a step would leave the normal numbers.
fn scaled(alpha: f32, delta: f32) -> f32 {
    (alpha * (-delta).exp()).clamp(1e-20, 1e20)
}
