//! The Walsh–Hadamard transform of one block of 2^m numbers in place, `x ← H·x`, in natural (Hadamard) order:
//!
//! ```text
//! for h in 1, 2, 4, …, n/2:
//!     for every pair (i, i + h) with bit h of i clear:
//!         x[i], x[i + h] = x[i] + x[i + h], x[i] − x[i + h]
//! ```
//!
//! Departures made for speed: three values of h share a pass over memory (radix 8), written such that compilers fill
//! vectors with neighbours; where h is less than a vector, f32 has [`wht64`]. The stages act on different bits of the
//! index, so in exact arithmetic their order is free; in floating point it is fixed.

use crate::arch::{Backend, Kernel, wht64};

/// A kind of butterfly.
pub(super) trait Butterfly {
    /// What flies.
    type Number: Copy;
    /// (a + b, a − b), or the inverse of that.
    fn of(a: Self::Number, b: Self::Number) -> (Self::Number, Self::Number);
}

/// (a + b, a − b) in f32.
struct Float;

impl Butterfly for Float {
    type Number = f32;
    #[inline(always)]
    fn of(a: f32, b: f32) -> (f32, f32) {
        (a + b, a - b)
    }
}

/// (a + b, a − b) in integers that callers have bounded, so that nothing wraps.
pub(super) struct Whole<I>(core::marker::PhantomData<I>);

impl Butterfly for Whole<i32> {
    type Number = i32;
    #[inline(always)]
    fn of(a: i32, b: i32) -> (i32, i32) {
        (a.wrapping_add(b), a.wrapping_sub(b))
    }
}

impl Butterfly for Whole<i16> {
    type Number = i16;
    #[inline(always)]
    fn of(a: i16, b: i16) -> (i16, i16) {
        (a.wrapping_add(b), a.wrapping_sub(b))
    }
}

/// The inverse, ((a + b)/2, (a − b)/2): makes (u, v) of (u + v, u − v) without rounding and without an intermediate that
/// overflows.
pub(super) struct Halved;

impl Butterfly for Halved {
    type Number = i32;
    #[inline(always)]
    fn of(a: i32, b: i32) -> (i32, i32) {
        // The mean: the bits that both have, and half of those that one has.
        let mean = (a & b).wrapping_add((a ^ b) >> 1);
        (mean, a.wrapping_sub(mean))
    }
}

/// `x ← H·x`, or `H⁻¹·x` with [`Halved`]; the length is a power of two.
pub(super) fn transform<B: Butterfly>(x: &mut [B::Number]) {
    Backend::best().run(Passes::<B> { x, from: 1 });
}

/// `x ← H·D·x/√n`; the length n is a power of two. D is given by a word of signs for each 64 numbers: bit i is set where
/// number i is negated.
pub(super) fn transform_orthonormal(x: &mut [f32], signs: impl Fn(usize) -> u64) {
    let scale = 1.0 / crate::math::sqrt(x.len() as f32);
    let backend = Backend::best();
    if x.len() < 64 {
        let word = signs(0);
        for (i, x) in x.iter_mut().enumerate() {
            *x = if word >> i & 1 == 1 { -*x } else { *x } * scale;
        }
        backend.run(Passes::<Float> { x, from: 1 });
    } else {
        wht64(backend, x.as_chunks_mut().0, scale, signs);
        backend.run(Passes::<Float> { x, from: 64 });
    }
}

/// The stages h = `from`, 2·`from`, …
struct Passes<'a, B: Butterfly> {
    x: &'a mut [B::Number],
    from: usize,
}

impl<B: Butterfly> Kernel for Passes<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (x, mut h) = (self.x, self.from);
        while 8 * h <= x.len() {
            radix8::<B>(x, h);
            h *= 8;
        }
        while 2 * h <= x.len() {
            radix2::<B>(x, h);
            h *= 2;
        }
    }
}

#[inline(always)]
fn radix2<B: Butterfly>(x: &mut [B::Number], h: usize) {
    for part in x.chunks_exact_mut(2 * h) {
        let (a, b) = part.split_at_mut(h);
        for (a, b) in a.iter_mut().zip(b) {
            (*a, *b) = B::of(*a, *b);
        }
    }
}

/// h, 2h and 4h in one pass.
#[inline(always)]
fn radix8<B: Butterfly>(x: &mut [B::Number], h: usize) {
    for part in x.chunks_exact_mut(8 * h) {
        let (a, rest) = part.split_at_mut(h);
        let (b, rest) = rest.split_at_mut(h);
        let (c, rest) = rest.split_at_mut(h);
        let (d, rest) = rest.split_at_mut(h);
        let (e, rest) = rest.split_at_mut(h);
        let (f, rest) = rest.split_at_mut(h);
        let (g, i) = rest.split_at_mut(h);
        for j in 0..h {
            let mut x = [a[j], b[j], c[j], d[j], e[j], f[j], g[j], i[j]];
            for h in [1, 2, 4] {
                for i in 0..8 {
                    if i & h == 0 {
                        (x[i], x[i + h]) = B::of(x[i], x[i + h]);
                    }
                }
            }
            [a[j], b[j], c[j], d[j], e[j], f[j], g[j], i[j]] = x;
        }
    }
}
