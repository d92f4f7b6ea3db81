//! The passes over the caller's slices: which weights share a step, what is checked when, and how sums meet.

use super::adamw::Factors;
use super::lanes::{self, BLOCK, Bounds, Estimator, F, LANES, pad, tree_sum};
use crate::arch::Kernel;
use crate::error::{Error, Result, What};
use core::ops::Range;

/// One pass over `len` weights, seen by the driver.
pub(super) trait Pass {
    /// Whether every input in the range is acceptable.
    fn check(&self, range: Range<usize>) -> bool;
    /// The error for a range that is not.
    fn offender(&self, range: Range<usize>) -> Error;
    /// Processes at most [`BLOCK`] weights of step number `step`; returns the lanes' sum.
    fn block<E: Estimator>(&mut self, estimator: E, step: usize, range: Range<usize>) -> f32;
    /// Takes the sum over all blocks of step number `step`.
    fn finish(&mut self, _step: usize, _sum: f32) {}
}

/// Runs `pass` over `steps` runs of `per_step` weights. A tile (at most [`BLOCK`] weights) whose check fails is not
/// touched, nor is anything behind it.
#[inline(always)]
fn drive<P: Pass, E: Estimator>(pass: &mut P, estimator: E, steps: usize, per_step: usize) -> Result<()> {
    if per_step <= BLOCK {
        let tile = BLOCK / per_step;
        let mut step = 0;
        while step < steps {
            let end = (step + tile).min(steps);
            let range = step * per_step..end * per_step;
            if !pass.check(range.clone()) {
                return Err(pass.offender(range));
            }
            while step < end {
                let sum = pass.block(estimator, step, step * per_step..(step + 1) * per_step);
                pass.finish(step, sum);
                step += 1;
            }
        }
    } else {
        for step in 0..steps {
            // Partial sums meet in f64: a step may cover millions of weights.
            let mut sum = 0.0_f64;
            let (mut at, end) = (step * per_step, (step + 1) * per_step);
            while at < end {
                let to = (at + BLOCK).min(end);
                if !pass.check(at..to) {
                    return Err(pass.offender(at..to));
                }
                sum += f64::from(pass.block(estimator, step, at..to));
                at = to;
            }
            pass.finish(step, sum as f32);
        }
    }
    Ok(())
}

pub(super) struct FakeQuantize<'a> {
    pub(super) bounds: Bounds,
    pub(super) steps: &'a [f32],
    pub(super) w: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Pass for FakeQuantize<'_> {
    #[inline(always)]
    fn check(&self, range: Range<usize>) -> bool {
        lanes::all_finite(&self.w[range])
    }

    fn offender(&self, range: Range<usize>) -> Error {
        not_finite(range, &[(What::Weights, self.w)])
    }

    #[inline(always)]
    fn block<E: Estimator>(&mut self, _: E, step: usize, range: Range<usize>) -> f32 {
        let step = self.steps[step];
        let (w, w_tail) = self.w[range.clone()].as_chunks::<LANES>();
        let (out, out_tail) = self.out[range].as_chunks_mut::<LANES>();
        for (w, out) in w.iter().zip(out) {
            *out = lanes::fake_quantize(self.bounds, step, w);
        }
        if !w_tail.is_empty() {
            let last = lanes::fake_quantize(self.bounds, step, &pad(w_tail));
            out_tail.copy_from_slice(&last[..w_tail.len()]);
        }
        0.0
    }
}

pub(super) struct Quantize<'a> {
    pub(super) bounds: Bounds,
    pub(super) steps: &'a [f32],
    pub(super) w: &'a [f32],
    pub(super) codes: &'a mut [i8],
}

impl Pass for Quantize<'_> {
    #[inline(always)]
    fn check(&self, range: Range<usize>) -> bool {
        lanes::all_finite(&self.w[range])
    }

    fn offender(&self, range: Range<usize>) -> Error {
        not_finite(range, &[(What::Weights, self.w)])
    }

    #[inline(always)]
    fn block<E: Estimator>(&mut self, _: E, step: usize, range: Range<usize>) -> f32 {
        let step = self.steps[step];
        let (w, w_tail) = self.w[range.clone()].as_chunks::<LANES>();
        let (out, out_tail) = self.codes[range].as_chunks_mut::<LANES>();
        for (w, out) in w.iter().zip(out) {
            *out = lanes::quantize(self.bounds, step, w);
        }
        if !w_tail.is_empty() {
            let last = lanes::quantize(self.bounds, step, &pad(w_tail));
            out_tail.copy_from_slice(&last[..w_tail.len()]);
        }
        0.0
    }
}

pub(super) struct Dequantize<'a> {
    pub(super) offset: f32,
    pub(super) lo: i8,
    pub(super) hi: i8,
    pub(super) steps: &'a [f32],
    pub(super) codes: &'a [i8],
    pub(super) out: &'a mut [f32],
}

impl Pass for Dequantize<'_> {
    #[inline(always)]
    fn check(&self, range: Range<usize>) -> bool {
        lanes::all_codes(&self.codes[range], self.lo, self.hi)
    }

    fn offender(&self, range: Range<usize>) -> Error {
        let first = self.codes[range.clone()].iter().position(|q| !(self.lo..=self.hi).contains(q));
        let index = range.start + first.unwrap_or(0);
        Error::Code { index, code: self.codes[index].into() }
    }

    #[inline(always)]
    fn block<E: Estimator>(&mut self, _: E, step: usize, range: Range<usize>) -> f32 {
        let step = self.steps[step];
        let (codes, codes_tail) = self.codes[range.clone()].as_chunks::<LANES>();
        let (out, out_tail) = self.out[range].as_chunks_mut::<LANES>();
        for (codes, out) in codes.iter().zip(out) {
            *out = lanes::dequantize(self.offset, step, codes);
        }
        if !codes_tail.is_empty() {
            let last = lanes::dequantize(self.offset, step, &pad(codes_tail));
            out_tail.copy_from_slice(&last[..codes_tail.len()]);
        }
        0.0
    }
}

/// Where gradients come from and go to.
pub(super) trait Gradients {
    /// The gradients that arrive.
    fn arriving(&self) -> &[f32];
    /// Replaces them, sixteen and fewer at a time.
    fn transform(&mut self, range: Range<usize>, w: &[f32], f: impl FnMut(&F, &F) -> F);
}

/// Gradients from one slice to another.
pub(super) struct Apart<'a> {
    pub(super) g: &'a [f32],
    pub(super) grad_w: &'a mut [f32],
}

impl Gradients for Apart<'_> {
    #[inline(always)]
    fn arriving(&self) -> &[f32] {
        self.g
    }

    #[inline(always)]
    fn transform(&mut self, range: Range<usize>, w: &[f32], mut f: impl FnMut(&F, &F) -> F) {
        let (w, w_tail) = w.as_chunks::<LANES>();
        let (g, g_tail) = self.g[range.clone()].as_chunks::<LANES>();
        let (out, out_tail) = self.grad_w[range].as_chunks_mut::<LANES>();
        for ((w, g), out) in w.iter().zip(g).zip(out) {
            *out = f(w, g);
        }
        if !w_tail.is_empty() {
            out_tail.copy_from_slice(&f(&pad(w_tail), &pad(g_tail))[..w_tail.len()]);
        }
    }
}

/// Gradients overwritten where they are.
pub(super) struct InPlace<'a>(pub(super) &'a mut [f32]);

impl Gradients for InPlace<'_> {
    #[inline(always)]
    fn arriving(&self) -> &[f32] {
        self.0
    }

    #[inline(always)]
    fn transform(&mut self, range: Range<usize>, w: &[f32], mut f: impl FnMut(&F, &F) -> F) {
        let (w, w_tail) = w.as_chunks::<LANES>();
        let (g, g_tail) = self.0[range].as_chunks_mut::<LANES>();
        for (w, g) in w.iter().zip(g) {
            *g = f(w, g);
        }
        if !w_tail.is_empty() {
            let last = f(&pad(w_tail), &pad(g_tail));
            g_tail.copy_from_slice(&last[..w_tail.len()]);
        }
    }
}

/// Gradients that are only read.
pub(super) struct ReadOnly<'a>(pub(super) &'a [f32]);

impl Gradients for ReadOnly<'_> {
    #[inline(always)]
    fn arriving(&self) -> &[f32] {
        self.0
    }

    #[inline(always)]
    fn transform(&mut self, range: Range<usize>, w: &[f32], mut f: impl FnMut(&F, &F) -> F) {
        let (w, w_tail) = w.as_chunks::<LANES>();
        let (g, g_tail) = self.0[range].as_chunks::<LANES>();
        for (w, g) in w.iter().zip(g) {
            f(w, g);
        }
        if !w_tail.is_empty() {
            f(&pad(w_tail), &pad(g_tail));
        }
    }
}

pub(super) struct Backward<'a, G> {
    pub(super) bounds: Bounds,
    pub(super) steps: &'a [f32],
    pub(super) w: &'a [f32],
    pub(super) gradients: G,
    pub(super) step_grads: &'a mut [f32],
}

impl<G: Gradients> Pass for Backward<'_, G> {
    #[inline(always)]
    fn check(&self, range: Range<usize>) -> bool {
        lanes::all_finite(&self.w[range.clone()]) & lanes::all_finite(&self.gradients.arriving()[range])
    }

    fn offender(&self, range: Range<usize>) -> Error {
        not_finite(range, &[(What::Weights, self.w), (What::Gradient, self.gradients.arriving())])
    }

    #[inline(always)]
    fn block<E: Estimator>(&mut self, e: E, step: usize, range: Range<usize>) -> f32 {
        let (b, step) = (self.bounds, self.steps[step]);
        let mut sums = [0.0; LANES];
        self.gradients
            .transform(range.clone(), &self.w[range], |w, g| lanes::backward(e, b, step, w, g, &mut sums));
        tree_sum(sums)
    }

    #[inline(always)]
    fn finish(&mut self, step: usize, sum: f32) {
        self.step_grads[step] = sum;
    }
}

pub(super) struct Fused<'a> {
    pub(super) bounds: Bounds,
    pub(super) steps: &'a [f32],
    pub(super) next_steps: &'a [f32],
    pub(super) factors: Factors,
    pub(super) w: &'a mut [f32],
    pub(super) g: &'a [f32],
    pub(super) m: &'a mut [f32],
    pub(super) v: &'a mut [f32],
    pub(super) w_hat: &'a mut [f32],
    pub(super) step_grads: &'a mut [f32],
}

impl Pass for Fused<'_> {
    #[inline(always)]
    fn check(&self, range: Range<usize>) -> bool {
        lanes::all_finite(&self.w[range.clone()])
            & lanes::all_finite(&self.g[range.clone()])
            & lanes::all_finite(&self.m[range.clone()])
            & lanes::all_finite(&self.v[range])
    }

    fn offender(&self, range: Range<usize>) -> Error {
        let moments = [(What::Moments, &*self.m), (What::Moments, &*self.v)];
        not_finite(range, &[(What::Weights, &*self.w), (What::Gradient, self.g), moments[0], moments[1]])
    }

    #[inline(always)]
    fn block<E: Estimator>(&mut self, e: E, step: usize, range: Range<usize>) -> f32 {
        let (b, f) = (self.bounds, self.factors);
        let (step, next) = (self.steps[step], self.next_steps[step]);
        let mut sums = [0.0; LANES];
        let mut lanes = |w: &mut F, g: &F, m: &mut F, v: &mut F| -> F {
            let grad = lanes::backward(e, b, step, w, g, &mut sums);
            for i in 0..LANES {
                w[i] = f.update(w[i], grad[i], &mut m[i], &mut v[i]);
            }
            lanes::fake_quantize(b, next, w)
        };
        let (w, w_tail) = self.w[range.clone()].as_chunks_mut::<LANES>();
        let (g, g_tail) = self.g[range.clone()].as_chunks::<LANES>();
        let (m, m_tail) = self.m[range.clone()].as_chunks_mut::<LANES>();
        let (v, v_tail) = self.v[range.clone()].as_chunks_mut::<LANES>();
        let (out, out_tail) = self.w_hat[range].as_chunks_mut::<LANES>();
        for ((((w, g), m), v), out) in w.iter_mut().zip(g).zip(m).zip(v).zip(out) {
            *out = lanes(w, g, m, v);
        }
        let n = w_tail.len();
        if n > 0 {
            let (mut w, mut m, mut v) = (pad(w_tail), pad(m_tail), pad(v_tail));
            out_tail.copy_from_slice(&lanes(&mut w, &pad(g_tail), &mut m, &mut v)[..n]);
            w_tail.copy_from_slice(&w[..n]);
            m_tail.copy_from_slice(&m[..n]);
            v_tail.copy_from_slice(&v[..n]);
        }
        tree_sum(sums)
    }

    #[inline(always)]
    fn finish(&mut self, step: usize, sum: f32) {
        self.step_grads[step] = sum;
    }
}

/// The first number in the range that is NaN or infinite, and whose it is.
#[cold]
fn not_finite(range: Range<usize>, slices: &[(What, &[f32])]) -> Error {
    let first = range.clone().find_map(|index| {
        let (what, _) = slices.iter().find(|(_, x)| !x[index].is_finite())?;
        Some(Error::NotFinite { what: *what, index })
    });
    first.unwrap_or(Error::NotFinite { what: What::Weights, index: range.start })
}

/// A pass with its estimator and extent, for a backend to run.
pub(super) struct Run<P, E> {
    pub(super) pass: P,
    pub(super) estimator: E,
    pub(super) steps: usize,
    pub(super) per_step: usize,
}

impl<P: Pass, E: Estimator> Kernel for Run<P, E> {
    type Output = Result<()>;

    #[inline(always)]
    fn run(mut self) -> Self::Output {
        drive(&mut self.pass, self.estimator, self.steps, self.per_step)
    }
}
