//! The arithmetic of the kernels on tiles of at most [`TILE`] weights: the one body that every backend compiles for
//! itself.
//!
//! Each function is a counted loop over slices without calls, branches or carried float operations, which is what a
//! compiler turns into whole vectors at any width. Three departures from the obvious make that so. Results go to
//! scratch tiles, which cannot overlap the inputs, and from there to the caller once the whole tile is known to be
//! finite. The terms of a sum go to a scratch tile as well and meet in a second loop, because a float sum must not be
//! reordered and would tie the first loop down. And every weight finds its step in a tile of steps, so that groups of 8
//! weights run like rows of 4096. The tiles stay in the first-level cache; the division takes longer than they do.

use super::adamw::Factors;
use crate::grid::Levels;
use crate::ste::LsqMask;

/// Lanes of the reduction, whatever the width of the registers: one AVX-512, two AVX2 or four NEON registers.
const LANES: usize = 16;

/// Weights per partial sum of a step that covers more than that.
pub(super) const BLOCK: usize = 1024;

/// Weights that are processed together. It divides [`BLOCK`] and changes no result. On a host a tile of work should
/// take a core no longer than it can look ahead, so that the next tile's loads are under way meanwhile (measured: 512
/// to 1024 weights cost up to a third more on tensors larger than the caches); a microcontroller has little stack.
pub(super) const TILE: usize = if cfg!(target_pointer_width = "64") { 128 } else { 64 };

/// A value for each weight of a tile.
pub(super) type Tile = [f32; TILE];

/// The grid and the mask as plain numbers.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    offset: f32,
    lo: f32,
    hi: f32,
    mask_lo: f32,
    mask_hi: f32,
}

/// 1.5·2²³, see [`Levels::round`].
const MAGIC: f32 = 12_582_912.0;

impl Bounds {
    pub(super) fn new(levels: Levels, mask: LsqMask) -> Self {
        let (lo, hi) = (levels.lo() as f32, levels.hi() as f32);
        // `x < hi + ½` is `x ≤ the float before hi + ½`: one shape of comparison for both masks.
        let (mask_lo, mask_hi) = match mask {
            LsqMask::Exact => (lo, hi),
            LsqMask::Rounded => (lo - 0.5, (hi + 0.5).next_down()),
        };
        Self { offset: levels.grid().offset(), lo, hi, mask_lo, mask_hi }
    }

    /// [`Levels::round`] as the sum before the constant is taken away again: its low byte is the code.
    #[inline(always)]
    fn biased(self, v: f32) -> f32 {
        let x = v - self.offset;
        let x = if x > self.lo { x } else { self.lo };
        let x = if x < self.hi { x } else { self.hi };
        x + MAGIC
    }

    /// The level that `v` rounds to, in units of the step.
    #[inline(always)]
    fn level(self, v: f32) -> f32 {
        (self.biased(v) - MAGIC) + self.offset
    }

    /// [`LsqMask::passes`].
    #[inline(always)]
    fn inside(self, v: f32) -> bool {
        let x = v - self.offset;
        (x >= self.mask_lo) & (x <= self.mask_hi)
    }

    /// The gradient to pass on and the term of the step's gradient (LSQ equation 3).
    #[inline(always)]
    fn backward<E: Estimator>(self, e: E, step: f32, w: f32, g: f32) -> (f32, f32) {
        let v = w / step;
        let (level, inside) = (self.level(v), self.inside(v));
        (e.gradient(w, g, v, level, inside), g * (level - if inside { v } else { 0.0 }))
    }
}

/// An estimator as a type, so that each gets a loop of its own.
pub(super) trait Estimator: Copy {
    /// The gradient to pass on.
    fn gradient(self, w: f32, g: f32, v: f32, level: f32, inside: bool) -> f32;
}

/// [`SteVariant::Standard`](crate::SteVariant::Standard).
#[derive(Clone, Copy)]
pub(super) struct Standard;

/// [`SteVariant::Clipped`](crate::SteVariant::Clipped).
#[derive(Clone, Copy)]
pub(super) struct Clipped(pub(super) f32);

/// [`SteVariant::LearnedStepSize`](crate::SteVariant::LearnedStepSize).
#[derive(Clone, Copy)]
pub(super) struct Lsq;

/// [`SteVariant::Ewgs`](crate::SteVariant::Ewgs).
#[derive(Clone, Copy)]
pub(super) struct Ewgs(pub(super) f32);

impl Estimator for Standard {
    #[inline(always)]
    fn gradient(self, _: f32, g: f32, _: f32, _: f32, _: bool) -> f32 {
        g
    }
}

impl Estimator for Clipped {
    #[inline(always)]
    fn gradient(self, w: f32, g: f32, _: f32, _: f32, _: bool) -> f32 {
        if w.abs() <= self.0 { g } else { 0.0 }
    }
}

impl Estimator for Lsq {
    #[inline(always)]
    fn gradient(self, _: f32, g: f32, _: f32, _: f32, inside: bool) -> f32 {
        if inside { g } else { 0.0 }
    }
}

impl Estimator for Ewgs {
    #[inline(always)]
    fn gradient(self, _: f32, g: f32, v: f32, level: f32, inside: bool) -> f32 {
        // λ·sign(g), as two selections.
        let scale = if g > 0.0 { self.0 } else { 0.0 };
        let scale = if g < 0.0 { -self.0 } else { scale };
        let scaled = g * (1.0 + scale * (v - level));
        if inside { scaled } else { 0.0 }
    }
}

/// The magnitude as bits, which order as the numbers do with infinity and NaN on top. A maximum of integers vectorises,
/// where a float sum or an early exit would not.
#[inline(always)]
fn magnitude(x: f32) -> i32 {
    (x.to_bits() & 0x7fff_ffff) as i32
}

/// Whether numbers of at most this magnitude are finite.
#[inline(always)]
fn is_finite(magnitude: i32) -> bool {
    magnitude < f32::INFINITY.to_bits() as i32
}

/// [`Levels::fake_quantize`]. This and the following functions return whether all inputs are acceptable.
#[inline(always)]
pub(super) fn fake_quantize(b: Bounds, steps: &Tile, w: &[f32], out: &mut Tile) -> bool {
    let mut top = 0;
    for ((out, w), step) in out.iter_mut().zip(w).zip(steps) {
        top = top.max(magnitude(*w));
        *out = b.level(w / step) * step;
    }
    is_finite(top)
}

/// [`Levels::quantize`].
#[inline(always)]
pub(super) fn quantize(b: Bounds, steps: &Tile, w: &[f32], codes: &mut [i8; TILE]) -> bool {
    let mut top = 0;
    for ((code, w), step) in codes.iter_mut().zip(w).zip(steps) {
        top = top.max(magnitude(*w));
        *code = b.biased(w / step).to_bits() as i8;
    }
    is_finite(top)
}

/// [`Levels::dequantize`].
#[inline(always)]
pub(super) fn dequantize(levels: Levels, steps: &Tile, codes: &[i8], out: &mut Tile) -> bool {
    let (lo, hi, offset) = (levels.lo() as i8, levels.hi() as i8, levels.grid().offset());
    for ((out, code), step) in out.iter_mut().zip(codes).zip(steps) {
        *out = (f32::from(*code) + offset) * step;
    }
    codes.iter().fold(true, |ok, &code| ok & (code >= lo) & (code <= hi))
}

/// The gradients to pass on and the terms of the steps' gradients.
#[inline(always)]
pub(super) fn backward<E: Estimator>(
    (e, b): (E, Bounds),
    steps: &Tile,
    w: &[f32],
    g: &[f32],
    grad_w: &mut Tile,
    terms: &mut Tile,
) -> bool {
    let mut top = 0;
    for ((((out, term), w), g), step) in grad_w.iter_mut().zip(terms).zip(w).zip(g).zip(steps) {
        top = top.max(magnitude(*w).max(magnitude(*g)));
        (*out, *term) = b.backward(e, *step, *w, *g);
    }
    is_finite(top)
}

/// The terms of the steps' gradients alone.
#[inline(always)]
pub(super) fn step_gradient(b: Bounds, steps: &Tile, w: &[f32], g: &[f32], terms: &mut Tile) -> bool {
    let mut top = 0;
    for (((term, w), g), step) in terms.iter_mut().zip(w).zip(g).zip(steps) {
        top = top.max(magnitude(*w).max(magnitude(*g)));
        (_, *term) = b.backward(Standard, *step, *w, *g);
    }
    is_finite(top)
}

/// A weight with its gradient and moments, by slice.
pub(super) struct State<'a> {
    pub(super) w: &'a [f32],
    pub(super) g: &'a [f32],
    pub(super) m: &'a [f32],
    pub(super) v: &'a [f32],
}

/// What becomes of a tile of them, and its quantised values.
pub(super) struct NewState<'a> {
    pub(super) w: &'a mut Tile,
    pub(super) m: &'a mut Tile,
    pub(super) v: &'a mut Tile,
    pub(super) w_hat: &'a mut Tile,
}

/// Gradients, updated weights and moments; with `TERMS` also the terms of the steps' gradients, with `QUANTISED` also the new
/// quantised values.
#[inline(always)]
pub(super) fn fused<E: Estimator, const TERMS: bool, const QUANTISED: bool>(
    (e, b): (E, Bounds),
    f: Factors,
    (steps, next_steps): (&Tile, &Tile),
    old: State<'_>,
    new: NewState<'_>,
    terms: &mut Tile,
) -> bool {
    let mut top = 0;
    let old = old.w.iter().zip(old.g).zip(old.m).zip(old.v);
    let new = new.w.iter_mut().zip(new.m).zip(new.v).zip(new.w_hat);
    let steps = steps.iter().zip(next_steps);
    for ((((((w, g), m), v), (((w1, m1), v1), w_hat)), (step, next)), term) in
        old.zip(new).zip(steps).zip(terms)
    {
        let moments = magnitude(*m).max(magnitude(*v));
        top = top.max(magnitude(*w).max(magnitude(*g)).max(moments));
        let (grad, of_step) = b.backward(e, *step, *w, *g);
        if TERMS {
            *term = of_step;
        }
        (*w1, *m1, *v1) = f.update(*w, grad, *m, *v);
        if QUANTISED {
            *w_hat = b.level(*w1 / next) * next;
        }
    }
    is_finite(top)
}

/// How many runs of `per_step` terms [`sum_runs`] can take at once.
pub(super) const fn runs_in_tile(per_step: usize) -> usize {
    // Runs shorter than the lanes are padded to them, except half a set of lanes.
    TILE / if per_step < LANES && per_step != 8 { LANES } else { per_step }
}

/// Sums the terms of each run of `per_step`, at most [`TILE`] altogether: sixteen lanes in order, then a tree, the upper
/// half onto the lower half until one value is left. Run number i's sum lands in `terms[i]`.
///
/// All runs of a tile take each turn of the tree together; one after the other they would be all shuffling.
#[inline(always)]
pub(super) fn sum_runs(terms: &mut Tile, per_step: usize, runs: usize) {
    if per_step == 8 {
        // The first turn would add nothing.
        halve::<8, 4>(terms, runs);
    } else {
        if per_step > LANES {
            for run in 0..runs {
                lanes_of_run(terms, per_step, run);
            }
        } else if per_step < LANES {
            // From the last run to the first: they grow.
            for run in (0..runs).rev() {
                lanes_of_run(terms, per_step, run);
            }
        }
        halve::<16, 8>(terms, runs);
        halve::<8, 4>(terms, runs);
    }
    halve::<4, 2>(terms, runs);
    halve::<2, 1>(terms, runs);
    // Lanes start from +0, so no sum is −0; the turns above started from the terms themselves.
    for t in &mut terms[..runs] {
        *t += 0.0;
    }
}

/// Replaces a run of terms by its lanes, packed to the front.
#[inline(always)]
fn lanes_of_run(terms: &mut Tile, per_step: usize, run: usize) {
    let mut lanes = Lanes::default();
    lanes.add(&terms[run * per_step..(run + 1) * per_step]);
    terms[run * LANES..(run + 1) * LANES].copy_from_slice(&lanes.0);
}

/// The lanes of a sum that goes over several tiles.
#[derive(Clone, Copy, Default)]
pub(super) struct Lanes([f32; LANES]);

impl Lanes {
    /// Adds terms; all but the last call of a sum bring a multiple of [`LANES`].
    #[inline(always)]
    pub(super) fn add(&mut self, terms: &[f32]) {
        let (chunks, tail) = terms.as_chunks::<LANES>();
        let mut a = self.0;
        for c in chunks {
            for i in 0..LANES {
                a[i] += c[i];
            }
        }
        for (a, t) in a.iter_mut().zip(tail) {
            *a += t;
        }
        self.0 = a;
    }

    /// The sum so far; the lanes start anew.
    #[inline(always)]
    pub(super) fn take(&mut self) -> f32 {
        let mut a = core::mem::take(&mut self.0);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] += a[i + half];
            }
        }
        a[0]
    }
}

/// One turn of the tree: `FROM` lanes of each run become `TO`, half as many, packed to the front.
#[inline(always)]
fn halve<const FROM: usize, const TO: usize>(terms: &mut Tile, runs: usize) {
    for run in 0..runs {
        let mut half = [0.0; TO];
        for i in 0..TO {
            half[i] = terms[run * FROM + i] + terms[run * FROM + TO + i];
        }
        terms[run * TO..(run + 1) * TO].copy_from_slice(&half);
    }
}
