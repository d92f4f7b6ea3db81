//! A Fourier transform of real numbers in place, in 32-bit integers.

use super::tables::{TURN, cos_sin};

/// Largest length: a table of a turn has no finer steps.
pub(super) const MAX_LEN: usize = TURN as usize;

/// `z ← FFT(z)/n` for n complex numbers that lie in bit-reversed order: radix 2, decimation in time, every stage halved.
/// Components up to 2^29 stay below 2^30: the modulus of a sum is at most twice the larger one.
pub(super) fn transform(z: &mut [[i32; 2]]) -> Option<()> {
    let mut half = 1usize;
    let mut step = TURN >> 1;
    while half < z.len() {
        for block in z.chunks_exact_mut(half.wrapping_mul(2).max(1)) {
            let (a, b) = block.split_at_mut_checked(half)?;
            let mut angle = 0u32;
            for (a, b) in a.iter_mut().zip(b) {
                let [re, im] = turned(*b, angle);
                let [a_re, a_im] = *a;
                *a = [halved(a_re.wrapping_add(re)), halved(a_im.wrapping_add(im))];
                *b = [halved(a_re.wrapping_sub(re)), halved(a_im.wrapping_sub(im))];
                angle = angle.wrapping_add(step);
            }
        }
        half = half.wrapping_mul(2);
        step >>= 1;
    }
    Some(())
}

/// `|X_k|²` for k = 0..=n, where `z` is the transform of the pairs of 2n real numbers: with Z_k for `z` read in a circle,
/// `X_k = (Z_k + Z*_(n−k))/2 − i/2·e^(−2πik/2n)·(Z_k − Z*_(n−k))`. X carries the factor 1/n that `z` has.
#[inline]
pub(super) fn power(z: &[[i32; 2]], k: usize) -> u64 {
    let mask = z.len().wrapping_sub(1);
    let at = |i: usize| z.get(i & mask).copied().unwrap_or_default();
    let ([a_re, a_im], [b_re, b_im]) = (at(k), at(z.len().wrapping_sub(k)));
    let even = [halved(a_re.wrapping_add(b_re)), halved(a_im.wrapping_sub(b_im))];
    let odd = [halved(a_im.wrapping_add(b_im)), halved(b_re.wrapping_sub(a_re))];
    // One step of k is 1/2n of a turn. n is a power of two.
    let [re, im] =
        turned(odd, (k as u32) << (TURN >> 1).trailing_zeros().wrapping_sub(z.len().trailing_zeros()));
    let square = |x: i32| u64::from(x.unsigned_abs()) * u64::from(x.unsigned_abs());
    square(even[0].wrapping_add(re)) + square(even[1].wrapping_add(im))
}

/// `b·e^(−2πi·angle/2048)`, rounded.
#[inline]
fn turned([re, im]: [i32; 2], angle: u32) -> [i32; 2] {
    let [cos, sin] = cos_sin(angle).map(i64::from);
    let (re, im) = (i64::from(re), i64::from(im));
    let rounded = |x: i64| (x.wrapping_add(1 << 30) >> 31) as i32;
    [rounded(re * cos + im * sin), rounded(im * cos - re * sin)]
}

#[inline]
fn halved(x: i32) -> i32 {
    x.wrapping_add(1) >> 1
}
