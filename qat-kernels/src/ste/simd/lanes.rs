//! Sixteen weights at a time, in safe Rust over arrays: the one body that every backend compiles for itself.
//!
//! Arrays and counted loops without calls, branches or carried dependencies are what the compiler turns into whole
//! vectors at any width. That is also why bounds and masks are hoisted into [`Bounds`] and selections are written on
//! values: one early exit here and the code is scalar again.

use crate::grid::Levels;
use crate::ste::{LsqMask, sign};

/// Lanes of the reduction, whatever the width of the registers: one AVX-512, two AVX2 or four NEON registers.
pub(super) const LANES: usize = 16;

/// Weights per partial sum, and at most so many are checked before they are processed: 4 KiB of each operand, which
/// stay in the first-level cache between the check and the work.
pub(super) const BLOCK: usize = 1024;

/// A set of lanes.
pub(super) type F = [f32; LANES];

/// The grid and the mask as plain numbers.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    offset: f32,
    lo: f32,
    hi: f32,
    mask_lo: f32,
    mask_hi: f32,
}

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

    /// [`Levels::round`], as the sum before the constant is taken away again: its low byte is the code.
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
        x >= self.mask_lo && x <= self.mask_hi
    }
}

/// 1.5·2²³, see [`Levels::round`].
const MAGIC: f32 = 12_582_912.0;

/// An estimator as a type, so that each gets a loop of its own.
pub(super) trait Estimator: Copy {
    /// The gradient to pass on.
    fn gradient(self, w: f32, g: f32, v: f32, level: f32, inside: bool) -> f32;
}

#[derive(Clone, Copy)]
pub(super) struct Standard;
#[derive(Clone, Copy)]
pub(super) struct Clipped(pub(super) f32);
#[derive(Clone, Copy)]
pub(super) struct Lsq;
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
        let scaled = g * (1.0 + self.0 * sign(g) * (v - level));
        if inside { scaled } else { 0.0 }
    }
}

/// What one weight yields: the gradient to pass on and its share of the step's gradient (LSQ equation 3).
#[inline(always)]
pub(super) fn backward<E: Estimator>(e: E, b: Bounds, step: f32, w: &F, g: &F, sums: &mut F) -> F {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        let v = w[i] / step;
        let (level, inside) = (b.level(v), b.inside(v));
        out[i] = e.gradient(w[i], g[i], v, level, inside);
        sums[i] += g[i] * (level - if inside { v } else { 0.0 });
    }
    out
}

/// [`Levels::fake_quantize`].
#[inline(always)]
pub(super) fn fake_quantize(b: Bounds, step: f32, w: &F) -> F {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        out[i] = b.level(w[i] / step) * step;
    }
    out
}

/// [`Levels::quantize`].
#[inline(always)]
pub(super) fn quantize(b: Bounds, step: f32, w: &F) -> [i8; LANES] {
    let mut out = [0; LANES];
    for i in 0..LANES {
        out[i] = b.biased(w[i] / step).to_bits() as i8;
    }
    out
}

/// [`Levels::dequantize`].
#[inline(always)]
pub(super) fn dequantize(offset: f32, step: f32, codes: &[i8; LANES]) -> F {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        out[i] = (f32::from(codes[i]) + offset) * step;
    }
    out
}

/// Sums the lanes in a fixed tree: the upper half onto the lower half, four times.
#[inline(always)]
pub(super) fn tree_sum(mut a: F) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            a[i] += a[i + half];
        }
    }
    a[0]
}

/// A shorter run of values as a full set of lanes. The zeros behind them change no sum: a weight of 0 with a gradient
/// of 0 adds ±0 to a lane that is never −0.
#[inline(always)]
pub(super) fn pad<T: Copy + Default>(tail: &[T]) -> [T; LANES] {
    let mut a = [T::default(); LANES];
    a[..tail.len()].copy_from_slice(tail);
    a
}

/// Whether no value is NaN or infinite.
#[inline(always)]
pub(super) fn all_finite(x: &[f32]) -> bool {
    // The largest magnitude as bits: an integer maximum, which vectorises, where a sum or an early exit would not.
    let mut top = [0i32; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for c in chunks {
        for i in 0..LANES {
            top[i] = top[i].max((c[i].to_bits() & 0x7fff_ffff) as i32);
        }
    }
    for (t, v) in top.iter_mut().zip(tail) {
        *t = (*t).max((v.to_bits() & 0x7fff_ffff) as i32);
    }
    top.into_iter().fold(0, i32::max) < f32::INFINITY.to_bits() as i32
}

/// Whether every code lies in `lo..=hi`.
#[inline(always)]
pub(super) fn all_codes(codes: &[i8], lo: i8, hi: i8) -> bool {
    codes.iter().fold(true, |ok, &q| ok & (q >= lo) & (q <= hi))
}
