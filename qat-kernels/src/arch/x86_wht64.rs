//! The 64-point Walsh–Hadamard transform with AVX2's shuffles. The block is eight vectors; h = 8, 16, 32 pair vectors,
//! h = 4, 2, 1 pair lanes: the vector with its halves (quarters, eighths) exchanged, plus the vector with the signs of
//! the upper ones flipped.
#![allow(unsafe_code)]

use super::{Backend, Isa};
use core::arch::x86_64::{
    __m256, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_permute_ps,
    _mm256_permute2f128_ps, _mm256_set1_ps, _mm256_setr_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    _mm256_sub_ps, _mm256_xor_ps,
};

/// On AVX2; `backend` is the proof that the machine has it.
pub(super) fn avx2(backend: Backend, blocks: &mut [[f32; 64]], scale: f32) {
    debug_assert_eq!(backend.isa(), Isa::Avx2);
    // SAFETY: a `Backend` of this instruction set is only constructed where the machine has it.
    unsafe { compiled_avx2(blocks, scale) }
}

/// On AVX-512, which includes fused multiply-add: flipping signs is then a multiplication by ±1 on the way into an
/// addition, and still rounds once.
pub(super) fn avx512(backend: Backend, blocks: &mut [[f32; 64]], scale: f32) {
    debug_assert!(matches!(backend.isa(), Isa::Avx512 | Isa::Avx512Vnni));
    // SAFETY: a `Backend` of these instruction sets is only constructed where the machine has them.
    unsafe { compiled_avx512(blocks, scale) }
}

#[target_feature(enable = "avx2")]
fn compiled_avx2(blocks: &mut [[f32; 64]], scale: f32) {
    // −0 flips a sign, +0 does not.
    let flips = signs(0.0);
    for block in blocks {
        transform(block, scale, |x, other, stage| _mm256_add_ps(_mm256_xor_ps(x, flips[stage]), other));
    }
}

#[target_feature(enable = "avx512f,avx512vl")]
fn compiled_avx512(blocks: &mut [[f32; 64]], scale: f32) {
    let ones = signs(1.0);
    for block in blocks {
        transform(block, scale, |x, other, stage| _mm256_fmadd_ps(x, ones[stage], other));
    }
}

/// `one` with the sign of each lane in the stages h = 4, 2, 1.
#[inline]
#[target_feature(enable = "avx2")]
fn signs(one: f32) -> [__m256; 3] {
    let (p, n) = (one, -one);
    [
        _mm256_setr_ps(p, p, p, p, n, n, n, n),
        _mm256_setr_ps(p, p, n, n, p, p, n, n),
        _mm256_setr_ps(p, n, p, n, p, n, p, n),
    ]
}

/// `plus(x, other, stage)` is `other ± x`, with the signs of that stage.
#[inline]
#[target_feature(enable = "avx2")]
fn transform(block: &mut [f32; 64], scale: f32, plus: impl Fn(__m256, __m256, usize) -> __m256) {
    let scale = _mm256_set1_ps(scale);
    let rows = block.as_chunks_mut::<8>().0;
    let mut x = [_mm256_setzero_ps(); 8];
    for (x, row) in x.iter_mut().zip(rows.iter()) {
        // SAFETY: a row is eight f32.
        *x = _mm256_mul_ps(unsafe { _mm256_loadu_ps(row.as_ptr()) }, scale);
    }
    for h in [1, 2, 4] {
        for i in 0..8 {
            if i & h == 0 {
                (x[i], x[i + h]) = (_mm256_add_ps(x[i], x[i + h]), _mm256_sub_ps(x[i], x[i + h]));
            }
        }
    }
    for (x, row) in x.into_iter().zip(rows) {
        let x = plus(x, _mm256_permute2f128_ps::<1>(x, x), 0);
        let x = plus(x, _mm256_permute_ps::<0b01_00_11_10>(x), 1);
        let x = plus(x, _mm256_permute_ps::<0b10_11_00_01>(x), 2);
        // SAFETY: a row is eight f32.
        unsafe { _mm256_storeu_ps(row.as_mut_ptr(), x) };
    }
}
