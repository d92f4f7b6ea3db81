//! The Walsh–Hadamard transform of one block of 2^m numbers in place, `x ← H·x`, in natural (Hadamard) order:
//!
//! ```text
//! for h in 1, 2, 4, …, n/2:
//!     for every pair (i, i + h) with bit h of i clear:
//!         x[i], x[i + h] = x[i] + x[i + h], x[i] − x[i + h]
//! ```
//!
//! Departures made for speed: two or three values of h share a pass over memory (radix 4 and 8), written such that
//! compilers fill vectors with neighbours; where h is less than a vector, f32 has [`crate::arch::wht64`]. The stages
//! act on different bits of the index, so in exact arithmetic their order is free; in floating point it is fixed.

use crate::arch::{Backend, Kernel, wht64};

/// What butterflies need of a number. Integers wrap; callers have bounded them so that they do not.
pub(super) trait Number: Copy {
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }
    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        self - other
    }
}

impl Number for i32 {
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        self.wrapping_sub(other)
    }
}

impl Number for i16 {
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        self.wrapping_sub(other)
    }
}

/// Butterflies that undo butterflies: (a + b)/2 and (a − b)/2 make (u, v) of (u + v, u − v), without rounding and without
/// an intermediate that overflows.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Halved(i32);

impl Number for Halved {
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        // The mean: bits that both have, and half of those that one has.
        Self((self.0 & other.0) + ((self.0 ^ other.0) >> 1))
    }
    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(self.plus(other).0))
    }
}

/// `x ← H·x`; the length is a power of two.
pub(super) fn transform<N: Number>(x: &mut [N]) {
    Backend::best().run(Whole(x));
}

struct Whole<'a, N>(&'a mut [N]);

impl<N: Number> Kernel for Whole<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        passes(self.0, 1);
    }
}

/// `x ← H·x/√n`; the length n is a power of two.
pub(super) fn transform_orthonormal(x: &mut [f32]) {
    let scale = 1.0 / crate::math::sqrt(x.len() as f32);
    let backend = Backend::best();
    if x.len() < 64 {
        backend.run(Whole(x));
        x.iter_mut().for_each(|x| *x *= scale);
    } else {
        wht64(backend, x.as_chunks_mut().0, scale);
        backend.run(From64(x));
    }
}

struct From64<'a>(&'a mut [f32]);

impl Kernel for From64<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        passes(self.0, 64);
    }
}

/// All values of h from `h` on: as many as possible three at a time.
#[inline(always)]
fn passes<N: Number>(x: &mut [N], mut h: usize) {
    while 8 * h <= x.len() {
        radix8(x, h);
        h *= 8;
    }
    if 4 * h <= x.len() {
        radix2(x, h);
        h *= 2;
    }
    if 2 * h <= x.len() {
        radix2(x, h);
    }
}

#[inline(always)]
fn radix2<N: Number>(x: &mut [N], h: usize) {
    for part in x.chunks_exact_mut(2 * h) {
        let (a, b) = part.split_at_mut(h);
        for (a, b) in a.iter_mut().zip(b) {
            (*a, *b) = (a.plus(*b), a.minus(*b));
        }
    }
}

/// h, 2h and 4h in one pass.
#[inline(always)]
pub(super) fn radix8<N: Number>(x: &mut [N], h: usize) {
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
                        (x[i], x[i + h]) = (x[i].plus(x[i + h]), x[i].minus(x[i + h]));
                    }
                }
            }
            [a[j], b[j], c[j], d[j], e[j], f[j], g[j], i[j]] = x;
        }
    }
}
