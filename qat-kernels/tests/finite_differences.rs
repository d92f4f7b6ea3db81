//! The gradients against central differences, in f64, of the smooth functions that the estimators differentiate.
//!
//! LSQ's surrogate holds the rounding error constant: with `x = w/Δ − offset` and `e = round(x₀) − x₀` taken once where
//! the derivative is wanted (x₀ clamped to the range first),
//!
//! ```text
//! ŵ(w, Δ) = (clamp(w/Δ − offset, lo, hi) + e + offset) · Δ
//! ```
//!
//! which equals the quantised weight at that point. EWGS is not a derivative of the quantiser but of a loss: with slope
//! g at the quantised weight and curvature λ·|g| per squared step, its slope at the weight itself is EWGS's gradient.
#![allow(clippy::unwrap_used, reason = "a configuration that this test chose is valid")]

use qat_kernels::ste::lsq_step_gradient;
use qat_kernels::{Grid, Levels, LsqMask, SteVariant, pi_step, ste_simd};

/// What f32 arithmetic may cost at 8 bits, where w/Δ reaches 128 and half its last bit is 4e-6 steps, plus what the
/// differences cost in f64 (below 1e-8).
const TOLERANCE: f64 = 1e-5;

/// Weights per grid. 97 is no multiple of a vector's width.
const WEIGHTS: usize = 97;

/// The surrogate around one weight: rounding error and grid are fixed, weight and step are free.
struct Surrogate {
    lo: f64,
    hi: f64,
    offset: f64,
    error: f64,
}

impl Surrogate {
    fn around(levels: Levels, w: f32, step: f32) -> Self {
        let (lo, hi, offset) =
            (f64::from(levels.lo()), f64::from(levels.hi()), f64::from(levels.grid().offset()));
        let x = (f64::from(w) / f64::from(step) - offset).clamp(lo, hi);
        Self { lo, hi, offset, error: x.round_ties_even() - x }
    }

    fn w_hat(&self, w: f64, step: f64) -> f64 {
        ((w / step - self.offset).clamp(self.lo, self.hi) + self.error + self.offset) * step
    }
}

/// Central difference of `f` at `x`. `h` is small against the distance of every weight from a kink (1e-3 steps).
fn derivative(x: f64, scale: f64, f: impl Fn(f64) -> f64) -> f64 {
    let h = 1e-6 * scale;
    (f(x + h) - f(x - h)) / (2.0 * h)
}

/// Every grid, each with a step of its own and its weights.
fn grids() -> Vec<(Levels, f32, Vec<f32>)> {
    let mut grids = Vec::new();
    for bits in 2..=8 {
        for grid in [Grid::MidTread, Grid::MidRise] {
            let levels = Levels::new(bits, grid).unwrap();
            let step = pi_step(0.37 / f32::from(bits), 2 + bits % 4).unwrap();
            grids.push((levels, step, weights(levels, step)));
        }
    }
    grids
}

/// Weights from two steps below the range to two above it, clear of ties and bounds so that f32 and f64 round alike.
fn weights(levels: Levels, step: f32) -> Vec<f32> {
    let (lo, hi) = (f64::from(levels.lo()), f64::from(levels.hi()));
    let mut state = u32::from(levels.bits());
    let mut w = Vec::new();
    while w.len() < WEIGHTS {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let x = lo - 2.0 + f64::from(state >> 8) / f64::from(1 << 24) * (hi - lo + 4.0);
        let tie = (x.fract().abs() - 0.5).abs();
        if tie > 1e-3 && (x - lo).abs() > 1e-3 && (x - hi).abs() > 1e-3 {
            w.push(((x + f64::from(levels.grid().offset())) * f64::from(step)) as f32);
        }
    }
    let outside = w.iter().filter(|&&w| !levels.inside(w / step)).count();
    assert!(outside > 0 && outside < WEIGHTS, "{levels:?}: weights on both sides of the bounds");
    w
}

/// A loss with a gradient of its own for every weight: `½·Σ (ŵ − target)²`, targets a few steps away.
fn targets(levels: Levels, step: f32, w: &[f32]) -> Vec<f32> {
    let distance = |i: usize| (1.0 + (i % 7) as f32) * if i.is_multiple_of(3) { -step } else { step };
    w.iter().enumerate().map(|(i, &w)| levels.fake_quantize(w, step) + distance(i)).collect()
}

fn loss_gradient(levels: Levels, step: f32, w: &[f32], targets: &[f32]) -> Vec<f32> {
    w.iter().zip(targets).map(|(&w, t)| levels.fake_quantize(w, step) - t).collect()
}

fn assert_close(got: f32, want: f64, scale: f64, what: &str) {
    assert!(
        (f64::from(got) - want).abs() <= TOLERANCE * scale,
        "{what}: {got}, the difference quotient is {want}"
    );
}

#[test]
fn surrogate_is_the_quantiser() {
    for (levels, step, w) in grids() {
        for w in w {
            let surrogate = Surrogate::around(levels, w, step).w_hat(w.into(), step.into());
            assert_close(levels.fake_quantize(w, step), surrogate, surrogate.abs(), "the value itself");
        }
    }
}

#[test]
fn lsq_weight_gradient_is_the_slope_of_the_surrogate() {
    for (levels, step, w) in grids() {
        let targets = targets(levels, step, &w);
        let g = loss_gradient(levels, step, &w, &targets);
        for ((&w, &g), &target) in w.iter().zip(&g).zip(&targets) {
            let surrogate = Surrogate::around(levels, w, step);
            let loss = |w| 0.5 * (surrogate.w_hat(w, step.into()) - f64::from(target)).powi(2);
            let want = derivative(w.into(), step.into(), loss);
            let got = SteVariant::LearnedStepSize.backward_in_range(w, step, levels, LsqMask::Exact, g);
            assert_close(got, want, f64::from(g).abs(), &format!("{levels:?} w = {w}"));
        }
    }
}

#[test]
fn lsq_step_gradient_is_the_slope_of_the_surrogate() {
    for (levels, step, w) in grids() {
        let targets = targets(levels, step, &w);
        let g = loss_gradient(levels, step, &w, &targets);
        for ((&w, &g), &target) in w.iter().zip(&g).zip(&targets) {
            let surrogate = Surrogate::around(levels, w, step);
            let loss = |step| 0.5 * (surrogate.w_hat(w.into(), step) - f64::from(target)).powi(2);
            let want = derivative(step.into(), step.into(), loss);
            let got = lsq_step_gradient(w, step, levels, LsqMask::Exact, g);
            // Outside the range the gradient is g times the level of the bound.
            assert_close(got, want, want.abs().max(f64::from(g).abs()), &format!("{levels:?} w = {w}"));
        }
    }
}

/// The loss of a whole row as a function of its step; also what the batched kernel must sum to.
fn row_loss(levels: Levels, at: f32, w: &[f32], targets: &[f32], step: f64) -> f64 {
    let term = |(&w, &t): (&f32, &f32)| {
        0.5 * (Surrogate::around(levels, w, at).w_hat(w.into(), step) - f64::from(t)).powi(2)
    };
    w.iter().zip(targets).map(term).sum()
}

#[test]
fn batched_step_gradient_is_the_slope_of_the_rows_loss() {
    for (levels, step, w) in grids() {
        let targets = targets(levels, step, &w);
        let g = loss_gradient(levels, step, &w, &targets);
        let (mut grad_w, mut got) = ([0.0; WEIGHTS], [0.0]);
        let ste = SteVariant::LearnedStepSize;
        ste_simd::backward(ste, levels, LsqMask::Exact, &[step], &w, &g, &mut grad_w, &mut got).unwrap();
        let want = derivative(step.into(), step.into(), |s| row_loss(levels, step, &w, &targets, s));
        let scale: f64 = w
            .iter()
            .zip(&g)
            .map(|(&w, &g)| f64::from(lsq_step_gradient(w, step, levels, LsqMask::Exact, g)).abs())
            .sum();
        assert_close(got[0], want, scale, &format!("{levels:?}"));
    }
}

#[test]
fn alpha_gradient_is_the_step_gradient_times_pi_over_k() {
    for (levels, _, _) in grids() {
        for k in 2..=5_u8 {
            let alpha = 0.3 + 0.1 * f32::from(k);
            let step = pi_step(alpha, k).unwrap();
            let w = weights(levels, step);
            let targets = targets(levels, step, &w);
            let g = loss_gradient(levels, step, &w, &targets);
            let terms: Vec<f32> = w
                .iter()
                .zip(&g)
                .map(|(&w, &g)| lsq_step_gradient(w, step, levels, LsqMask::Exact, g))
                .collect();
            let pi_over_k = core::f32::consts::PI / f32::from(k);
            let got = terms.iter().sum::<f32>() * pi_over_k;
            let loss = |alpha: f64| {
                let step_of_alpha = alpha * core::f64::consts::PI / f64::from(k);
                row_loss(levels, step, &w, &targets, step_of_alpha)
            };
            let want = derivative(alpha.into(), alpha.into(), loss);
            let scale = terms.iter().map(|t| f64::from(t.abs())).sum::<f64>() * f64::from(pi_over_k);
            assert_close(got, want, scale, &format!("{levels:?} k = {k}"));
        }
    }
}

#[test]
fn ewgs_is_the_slope_of_a_loss_with_curvature() {
    for (levels, step, w) in grids() {
        let targets = targets(levels, step, &w);
        let g = loss_gradient(levels, step, &w, &targets);
        for lambda in [0.0_f32, 0.02, 0.2, 1.0] {
            let ste = SteVariant::Ewgs { lambda };
            for (&w, &g) in w.iter().zip(&g) {
                let what = format!("{levels:?} w = {w}, λ = {lambda}");
                let got = ste.backward_in_range(w, step, levels, LsqMask::Exact, g);
                if !levels.inside(w / step) {
                    assert_eq!(got, 0.0, "{what}");
                    continue;
                }
                let level = f64::from(levels.level(levels.quantize(w, step)));
                let (slope, curvature) = (f64::from(g), f64::from(lambda) * f64::from(g).abs());
                // The loss as a function of w/Δ, so that its slope is Δ times the one with respect to the weight.
                let loss = |v: f64| slope * (v - level) + 0.5 * curvature * (v - level).powi(2);
                let want = derivative(f64::from(w) / f64::from(step), 1.0, loss);
                assert_close(got, want, slope.abs(), &what);

                // Without a grid the units are the caller's: the same numbers as weights instead of steps.
                let (v, level) = (w / step, level as f32);
                assert_close(ste.backward(v, level, g), want, slope.abs(), &what);
            }
        }
    }
}
