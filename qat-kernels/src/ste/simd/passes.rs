//! The passes over the caller's slices: which weights share a step, what is checked when, and how sums meet.

use super::adamw::Factors;
use super::lanes::{self, BLOCK, Bounds, Estimator, Lanes, TILE, Update};
use crate::arch::Kernel;
use crate::error::{Error, Result, What};
use core::ops::Range;

/// What a pass may use while it processes a tile: a step and a term for each weight.
pub(super) struct Scratch {
    steps: [f32; TILE],
    next_steps: [f32; TILE],
    terms: [f32; TILE],
}

/// One pass over weights, seen by the driver.
pub(super) trait Pass {
    /// The steps, one for each run of weights.
    fn steps(&self) -> &[f32];
    /// The steps for requantising, where there are any.
    fn next_steps(&self) -> &[f32] {
        &[]
    }
    /// Whether every input in the range is acceptable.
    fn check(&self, range: Range<usize>) -> bool;
    /// The error for a range that is not.
    fn offender(&self, range: Range<usize>) -> Error;
    /// Processes at most [`TILE`] weights.
    fn tile<E: Estimator>(&mut self, estimator: E, range: Range<usize>, scratch: &mut Scratch);
    /// Where the steps' gradients go, for passes that fill the scratch terms.
    fn step_grads(&mut self) -> &mut [f32] {
        &mut []
    }
}

/// Spreads steps over the weights they cover.
#[inline(always)]
fn spread(steps: &[f32], per_step: usize, tile: &mut [f32; TILE]) {
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

/// Runs `pass` over runs of `per_step` weights. A tile whose check fails is not touched, nor is anything behind it.
#[inline(always)]
fn drive<P: Pass, E: Estimator>(pass: &mut P, estimator: E, per_step: usize) -> Result<()> {
    let mut scratch = Scratch { steps: [0.0; TILE], next_steps: [0.0; TILE], terms: [0.0; TILE] };
    if per_step > TILE {
        for step in 0..pass.steps().len() {
            let sum = long_run(pass, estimator, step, per_step, &mut scratch)?;
            if let Some(grad) = pass.step_grads().get_mut(step) {
                *grad = sum;
            }
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
        checked_tile(pass, estimator, runs.start * per_step..runs.end * per_step, &mut scratch)?;
        first = runs.end;
        if !pass.step_grads().is_empty() {
            lanes::sum_runs(&mut scratch.terms, per_step, runs.len());
            let sums = &scratch.terms[..runs.len()];
            pass.step_grads()[runs].copy_from_slice(sums);
        }
    }
    Ok(())
}

/// The weights of one step that covers several tiles; returns the sum of its terms.
#[inline(always)]
fn long_run<P: Pass, E: Estimator>(
    pass: &mut P,
    estimator: E,
    step: usize,
    per_step: usize,
    scratch: &mut Scratch,
) -> Result<f32> {
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
        checked_tile(pass, estimator, range.clone(), scratch)?;
        at = range.end;
        if !pass.step_grads().is_empty() {
            lanes.add(&scratch.terms[..range.len()]);
            if (at - start).is_multiple_of(BLOCK) || at == end {
                total += f64::from(lanes.take());
            }
        }
    }
    Ok(total as f32)
}

#[inline(always)]
fn checked_tile<P: Pass, E: Estimator>(
    pass: &mut P,
    estimator: E,
    range: Range<usize>,
    scratch: &mut Scratch,
) -> Result<()> {
    if !pass.check(range.clone()) {
        return Err(pass.offender(range));
    }
    pass.tile(estimator, range, scratch);
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
    fn steps(&self) -> &[f32] {
        self.steps
    }

    #[inline(always)]
    fn check(&self, range: Range<usize>) -> bool {
        lanes::all_finite(&self.w[range])
    }

    fn offender(&self, range: Range<usize>) -> Error {
        not_finite(range, &[(What::Weights, self.w)])
    }

    #[inline(always)]
    fn tile<E: Estimator>(&mut self, _: E, range: Range<usize>, scratch: &mut Scratch) {
        lanes::fake_quantize(self.bounds, &scratch.steps, &self.w[range.clone()], &mut self.out[range]);
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
    fn check(&self, range: Range<usize>) -> bool {
        lanes::all_finite(&self.w[range])
    }

    fn offender(&self, range: Range<usize>) -> Error {
        not_finite(range, &[(What::Weights, self.w)])
    }

    #[inline(always)]
    fn tile<E: Estimator>(&mut self, _: E, range: Range<usize>, scratch: &mut Scratch) {
        lanes::quantize(self.bounds, &scratch.steps, &self.w[range.clone()], &mut self.codes[range]);
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
    fn steps(&self) -> &[f32] {
        self.steps
    }

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
    fn tile<E: Estimator>(&mut self, _: E, range: Range<usize>, scratch: &mut Scratch) {
        lanes::dequantize(self.offset, &scratch.steps, &self.codes[range.clone()], &mut self.out[range]);
    }
}

/// Where gradients come from and go to.
pub(super) trait Gradients {
    /// The gradients that arrive.
    fn arriving(&self) -> &[f32];
    /// Passes them on, and fills `terms`.
    fn pass_on<E: Estimator>(
        &mut self,
        range: Range<usize>,
        eb: (E, Bounds),
        steps: &[f32],
        w: &[f32],
        terms: &mut [f32],
    );
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
    fn pass_on<E: Estimator>(
        &mut self,
        range: Range<usize>,
        eb: (E, Bounds),
        steps: &[f32],
        w: &[f32],
        terms: &mut [f32],
    ) {
        lanes::backward(eb, steps, w, &self.g[range.clone()], &mut self.grad_w[range], terms);
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
    fn pass_on<E: Estimator>(
        &mut self,
        range: Range<usize>,
        eb: (E, Bounds),
        steps: &[f32],
        w: &[f32],
        terms: &mut [f32],
    ) {
        lanes::backward_in_place(eb, steps, w, &mut self.0[range], terms);
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
    fn pass_on<E: Estimator>(
        &mut self,
        range: Range<usize>,
        (_, b): (E, Bounds),
        steps: &[f32],
        w: &[f32],
        terms: &mut [f32],
    ) {
        lanes::step_gradient(b, steps, w, &self.0[range], terms);
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
    fn check(&self, range: Range<usize>) -> bool {
        lanes::all_finite(&self.w[range.clone()]) & lanes::all_finite(&self.gradients.arriving()[range])
    }

    fn offender(&self, range: Range<usize>) -> Error {
        not_finite(range, &[(What::Weights, self.w), (What::Gradient, self.gradients.arriving())])
    }

    #[inline(always)]
    fn tile<E: Estimator>(&mut self, estimator: E, range: Range<usize>, scratch: &mut Scratch) {
        let (w, eb) = (&self.w[range.clone()], (estimator, self.bounds));
        self.gradients.pass_on(range, eb, &scratch.steps, w, &mut scratch.terms);
    }

    #[inline(always)]
    fn step_grads(&mut self) -> &mut [f32] {
        self.step_grads
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
    fn steps(&self) -> &[f32] {
        self.steps
    }

    #[inline(always)]
    fn next_steps(&self) -> &[f32] {
        self.next_steps
    }

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
    fn tile<E: Estimator>(&mut self, estimator: E, range: Range<usize>, scratch: &mut Scratch) {
        let update = Update {
            w: &mut self.w[range.clone()],
            g: &self.g[range.clone()],
            m: &mut self.m[range.clone()],
            v: &mut self.v[range.clone()],
            w_hat: &mut self.w_hat[range],
        };
        let Scratch { steps, next_steps, terms } = scratch;
        lanes::fused((estimator, self.bounds), self.factors, steps, next_steps, update, terms);
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

/// A pass with its estimator, for a backend to run.
pub(super) struct Run<P, E> {
    pub(super) pass: P,
    pub(super) estimator: E,
    pub(super) per_step: usize,
}

impl<P: Pass, E: Estimator> Kernel for Run<P, E> {
    type Output = Result<()>;

    #[inline(always)]
    fn run(mut self) -> Self::Output {
        drive(&mut self.pass, self.estimator, self.per_step)
    }
}
