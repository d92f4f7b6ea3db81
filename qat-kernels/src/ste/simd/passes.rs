//! The passes over the caller's slices: which weights share a step, what is written when, and how sums meet.

use super::adamw::Factors;
use super::lanes::{self, BLOCK, Bounds, Estimator, Lanes, NewState, State, TILE, Tile};
use crate::arch::{Kernel, Output};
use crate::error::{Error, Result, What};
use crate::grid::Levels;
use core::ops::Range;

/// What belongs to a tile's weights: their steps, the terms of the steps' gradients, and results.
pub(super) struct Scratch {
    steps: Tile,
    next_steps: Tile,
    terms: Tile,
    out: Tile,
    state: [Tile; 3],
    codes: [i8; TILE],
}

impl Scratch {
    #[inline(always)]
    fn new() -> Self {
        let zero = [0.0; TILE];
        Self { steps: zero, next_steps: zero, terms: zero, out: zero, state: [zero; 3], codes: [0; TILE] }
    }
}

/// One pass over weights, seen by the driver.
pub(super) trait Pass {
    /// The steps, one for each run of weights.
    fn steps(&self) -> &[f32];
    /// The steps for requantising, where there are any.
    fn next_steps(&self) -> &[f32] {
        &[]
    }
    /// Processes at most [`TILE`] weights; writes nothing and returns false if one of their inputs is not acceptable.
    fn tile<E: Estimator>(&mut self, estimator: E, range: Range<usize>, scratch: &mut Scratch) -> bool;
    /// The error for a range that is not acceptable.
    fn offender(&self, range: Range<usize>) -> Error;
    /// Where the steps' gradients go, for passes that fill the scratch terms.
    fn step_grads(&mut self) -> &mut [f32] {
        &mut []
    }
}

/// A pass with its estimator, for a backend to run.
pub(super) struct Run<P, E> {
    pub(super) pass: P,
    pub(super) estimator: E,
    pub(super) per_step: usize,
}

impl<P: Pass, E: Estimator> Kernel for Run<P, E> {
    type Output = Result<()>;

    /// Runs the pass over runs of `per_step` weights.
    #[inline(always)]
    fn run(self) -> Result<()> {
        let Self { mut pass, estimator, per_step } = self;
        let mut scratch = Scratch::new();
        if per_step > TILE {
            for step in 0..pass.steps().len() {
                long_run(&mut pass, estimator, step, per_step, &mut scratch)?;
            }
            return Ok(());
        }
        let (steps, in_tile) = (pass.steps().len(), lanes::runs_in_tile(per_step));
        let mut first = 0;
        while first < steps {
            let runs = first..(first + in_tile).min(steps);
            spread(&pass.steps()[runs.clone()], per_step, &mut scratch.steps);
            if !pass.next_steps().is_empty() {
                spread(&pass.next_steps()[runs.clone()], per_step, &mut scratch.next_steps);
            }
            let range = runs.start * per_step..runs.end * per_step;
            if !pass.tile(estimator, range.clone(), &mut scratch) {
                return Err(pass.offender(range));
            }
            if !pass.step_grads().is_empty() {
                lanes::sum_runs(&mut scratch.terms, per_step, runs.len());
                pass.step_grads()[runs.clone()].copy_from_slice(&scratch.terms[..runs.len()]);
            }
            first = runs.end;
        }
        Ok(())
    }
}

/// The weights of one step that covers several tiles.
#[inline(always)]
fn long_run<P: Pass, E: Estimator>(
    pass: &mut P,
    estimator: E,
    step: usize,
    per_step: usize,
    scratch: &mut Scratch,
) -> Result<()> {
    scratch.steps = [pass.steps()[step]; TILE];
    if let Some(next) = pass.next_steps().get(step) {
        scratch.next_steps = [*next; TILE];
    }
    let (start, end) = (step * per_step, (step + 1) * per_step);
    // Blocks meet in f64: a step may cover millions of weights.
    let (mut total, mut lanes) = (0.0_f64, Lanes::default());
    let mut at = start;
    while at < end {
        let range = at..(at + TILE).min(end);
        if !pass.tile(estimator, range.clone(), scratch) {
            return Err(pass.offender(range));
        }
        at = range.end;
        if !pass.step_grads().is_empty() {
            lanes.add(&scratch.terms[..range.len()]);
            if (at - start).is_multiple_of(BLOCK) || at == end {
                total += f64::from(lanes.take());
            }
        }
    }
    if let Some(grad) = pass.step_grads().get_mut(step) {
        *grad = total as f32;
    }
    Ok(())
}

/// Spreads steps over the weights they cover.
#[inline(always)]
fn spread(steps: &[f32], per_step: usize, tile: &mut Tile) {
    if per_step >= 8 && per_step.is_power_of_two() {
        // The usual groups: whole registers, no loop within a loop.
        let eights = per_step.trailing_zeros() - 3;
        for (i, run) in tile.as_chunks_mut::<8>().0[..steps.len() << eights].iter_mut().enumerate() {
            *run = [steps[i >> eights]; 8];
        }
    } else {
        for (run, step) in tile.chunks_mut(per_step).zip(steps) {
            run.fill(*step);
        }
    }
}

pub(super) struct FakeQuantize<'a> {
    pub(super) bounds: Bounds,
    pub(super) steps: &'a [f32],
    pub(super) w: &'a [f32],
    pub(super) out: &'a mut [f32],
    pub(super) output: Output,
}

impl Pass for FakeQuantize<'_> {
    #[inline(always)]
    fn steps(&self) -> &[f32] {
        self.steps
    }

    #[inline(always)]
    fn tile<E: Estimator>(&mut self, _: E, range: Range<usize>, scratch: &mut Scratch) -> bool {
        let Scratch { steps, out, .. } = scratch;
        let fine = lanes::fake_quantize(self.bounds, steps, &self.w[range.clone()], out);
        if fine {
            self.output.write(&mut self.out[range.clone()], &out[..range.len()]);
        }
        fine
    }

    fn offender(&self, range: Range<usize>) -> Error {
        not_finite(range, &[(What::Weights, self.w)])
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
    fn steps(&self) -> &[f32] {
        self.steps
    }

    #[inline(always)]
    fn tile<E: Estimator>(&mut self, _: E, range: Range<usize>, scratch: &mut Scratch) -> bool {
        let Scratch { steps, codes, .. } = scratch;
        let fine = lanes::quantize(self.bounds, steps, &self.w[range.clone()], codes);
        if fine {
            self.codes[range.clone()].copy_from_slice(&codes[..range.len()]);
        }
        fine
    }

    fn offender(&self, range: Range<usize>) -> Error {
        not_finite(range, &[(What::Weights, self.w)])
    }
}

pub(super) struct Dequantize<'a> {
    pub(super) levels: Levels,
    pub(super) steps: &'a [f32],
    pub(super) codes: &'a [i8],
    pub(super) out: &'a mut [f32],
    pub(super) output: Output,
}

impl Pass for Dequantize<'_> {
    #[inline(always)]
    fn steps(&self) -> &[f32] {
        self.steps
    }

    #[inline(always)]
    fn tile<E: Estimator>(&mut self, _: E, range: Range<usize>, scratch: &mut Scratch) -> bool {
        let Scratch { steps, out, .. } = scratch;
        let fine = lanes::dequantize(self.levels, steps, &self.codes[range.clone()], out);
        if fine {
            self.output.write(&mut self.out[range.clone()], &out[..range.len()]);
        }
        fine
    }

    fn offender(&self, range: Range<usize>) -> Error {
        let grid = self.levels.lo() as i8..=self.levels.hi() as i8;
        let first = self.codes[range.clone()].iter().position(|q| !grid.contains(q));
        let index = range.start + first.unwrap_or(0);
        Error::Code { index, code: self.codes[index].into() }
    }
}

/// Where gradients come from and go to.
pub(super) trait Gradients {
    /// The gradients that arrive.
    fn arriving(&self) -> &[f32];
    /// Passes them on.
    fn pass_on(&mut self, range: Range<usize>, grad_w: &[f32]);
}

/// Gradients from one slice to another.
pub(super) struct Apart<'a> {
    pub(super) g: &'a [f32],
    pub(super) grad_w: &'a mut [f32],
    pub(super) output: Output,
}

impl Gradients for Apart<'_> {
    #[inline(always)]
    fn arriving(&self) -> &[f32] {
        self.g
    }

    #[inline(always)]
    fn pass_on(&mut self, range: Range<usize>, grad_w: &[f32]) {
        self.output.write(&mut self.grad_w[range], grad_w);
    }
}

/// Gradients replaced where they are.
pub(super) struct InPlace<'a>(pub(super) &'a mut [f32]);

impl Gradients for InPlace<'_> {
    #[inline(always)]
    fn arriving(&self) -> &[f32] {
        self.0
    }

    #[inline(always)]
    fn pass_on(&mut self, range: Range<usize>, grad_w: &[f32]) {
        self.0[range].copy_from_slice(grad_w);
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
    fn steps(&self) -> &[f32] {
        self.steps
    }

    #[inline(always)]
    fn tile<E: Estimator>(&mut self, estimator: E, range: Range<usize>, scratch: &mut Scratch) -> bool {
        let (w, g) = (&self.w[range.clone()], &self.gradients.arriving()[range.clone()]);
        let Scratch { steps, out, terms, .. } = scratch;
        let fine = lanes::backward((estimator, self.bounds), steps, w, g, out, terms);
        if fine {
            self.gradients.pass_on(range.clone(), &out[..range.len()]);
        }
        fine
    }

    fn offender(&self, range: Range<usize>) -> Error {
        not_finite(range, &[(What::Weights, self.w), (What::Gradient, self.gradients.arriving())])
    }

    #[inline(always)]
    fn step_grads(&mut self) -> &mut [f32] {
        self.step_grads
    }
}

pub(super) struct StepGradient<'a> {
    pub(super) bounds: Bounds,
    pub(super) steps: &'a [f32],
    pub(super) w: &'a [f32],
    pub(super) g: &'a [f32],
    pub(super) step_grads: &'a mut [f32],
}

impl Pass for StepGradient<'_> {
    #[inline(always)]
    fn steps(&self) -> &[f32] {
        self.steps
    }

    #[inline(always)]
    fn tile<E: Estimator>(&mut self, _: E, range: Range<usize>, scratch: &mut Scratch) -> bool {
        let (w, g) = (&self.w[range.clone()], &self.g[range]);
        lanes::step_gradient(self.bounds, &scratch.steps, w, g, &mut scratch.terms)
    }

    fn offender(&self, range: Range<usize>) -> Error {
        not_finite(range, &[(What::Weights, self.w), (What::Gradient, self.g)])
    }

    #[inline(always)]
    fn step_grads(&mut self) -> &mut [f32] {
        self.step_grads
    }
}

/// `TERMS`: whether the terms of the steps' gradients are formed. `QUANTISED`: whether the new quantised values are.
pub(super) struct Fused<'a, const TERMS: bool, const QUANTISED: bool> {
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
    pub(super) output: Output,
}

impl<const TERMS: bool, const QUANTISED: bool> Pass for Fused<'_, TERMS, QUANTISED> {
    #[inline(always)]
    fn steps(&self) -> &[f32] {
        self.steps
    }

    #[inline(always)]
    fn next_steps(&self) -> &[f32] {
        self.next_steps
    }

    #[inline(always)]
    fn tile<E: Estimator>(&mut self, estimator: E, range: Range<usize>, scratch: &mut Scratch) -> bool {
        let r = || range.clone();
        let old = State { w: &self.w[r()], g: &self.g[r()], m: &self.m[r()], v: &self.v[r()] };
        let Scratch { steps, next_steps, terms, out, state: [w, m, v], .. } = scratch;
        let new = NewState { w: &mut *w, m: &mut *m, v: &mut *v, w_hat: &mut *out };
        let how = (estimator, self.bounds);
        let of_step = (&*steps, &*next_steps);
        let fine = lanes::fused::<_, TERMS, QUANTISED>(how, self.factors, of_step, old, new, terms);
        if fine {
            let n = range.len();
            self.w[r()].copy_from_slice(&w[..n]);
            self.m[r()].copy_from_slice(&m[..n]);
            self.v[r()].copy_from_slice(&v[..n]);
            if QUANTISED {
                self.output.write(&mut self.w_hat[r()], &out[..n]);
            }
        }
        fine
    }

    fn offender(&self, range: Range<usize>) -> Error {
        let moments = [(What::Moments, &*self.m), (What::Moments, &*self.v)];
        not_finite(range, &[(What::Weights, &*self.w), (What::Gradient, self.g), moments[0], moments[1]])
    }

    #[inline(always)]
    fn step_grads(&mut self) -> &mut [f32] {
        self.step_grads
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
