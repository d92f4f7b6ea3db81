//! One step of the optimiser on some channels: the step's gradient, the next step, the weights and their quantised
//! values, while a row is in the cache.

use super::fit::steps;
use crate::nn::optimiser::{Rule, Sgd, Update};
use qat_kernels::config::StepRule;
use qat_kernels::ste_simd;
use qat_kernels::{Error, Levels, LsqMask, SteVariant};

/// What the channels of a layer share in one update.
#[derive(Clone, Copy)]
pub(super) struct Shared {
    pub(super) levels: Levels,
    pub(super) rule: StepRule,
    pub(super) ste: SteVariant,
    /// How the weights move.
    pub(super) weights: Rule,
    /// How log α moves.
    pub(super) scales: Update,
    /// LSQ's balance between the gradients of steps and weights.
    pub(super) lsq_scale: f32,
    /// Factor of all gradients (clipping).
    pub(super) factor: f32,
}

/// One channel: its weights and all that belongs to them.
pub(super) struct Row<'a> {
    pub(super) w: &'a mut [f32],
    pub(super) w_hat: &'a mut [f32],
    pub(super) g: &'a [f32],
    pub(super) m: &'a mut [f32],
    pub(super) v: &'a mut [f32],
    pub(super) alpha: &'a mut f32,
    pub(super) alpha_m: &'a mut f32,
    pub(super) alpha_v: &'a mut f32,
    pub(super) steps: &'a mut [f32],
    pub(super) divisors: &'a [u8],
}

/// Memory that the rows of a unit use in turn.
#[derive(Default)]
pub(super) struct Scratch {
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

    /// One step of everything in a row.
    pub(super) fn update(&self, row: Row<'_>, scratch: &mut Scratch) -> Result<(), Error> {
        let Scratch { gradient, weights, steps: now, sums } = scratch;
        now.clear();
        now.extend_from_slice(row.steps);
        sums.resize(now.len(), 0.0);
        let g = if self.factor == 1.0 {
            row.g
        } else {
            gradient.clear();
            gradient.extend(row.g.iter().map(|g| g * self.factor));
            gradient
        };
        // The step's gradient first, while the row is on its way into the cache: the next step has to be known before
        // anything is requantised with it.
        if self.learns_steps() {
            ste_simd::step_gradient(self.levels, LsqMask::Exact, now, row.w, g, sums)?;
            // ∂L/∂log α = Σ α·(∂L/∂Δ·∂Δ/∂α) = Σ Δ·∂L/∂Δ under every rule, over the groups that share α.
            let g = sums.iter().zip(&*now).map(|(g, step)| g * self.lsq_scale * step).sum();
            *row.alpha = scaled(*row.alpha, self.scales.step(g, row.alpha_m, row.alpha_v));
            steps(self.rule, *row.alpha, row.divisors, row.steps)?;
        }
        match &self.weights {
            Rule::AdamW(adamw) => ste_simd::fused_adamw(
                self.ste,
                self.levels,
                LsqMask::Exact,
                now,
                row.steps,
                adamw,
                row.w,
                g,
                row.m,
                row.v,
                row.w_hat,
                sums,
            ),
            Rule::Sgd(sgd) => self.sgd(*sgd, g, row.w, row.m, row.w_hat, now, row.steps, weights, sums),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "parts of a row that is taken apart already")]
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
