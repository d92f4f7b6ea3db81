//! The 64-point Walsh–Hadamard transform with the shuffles of AVX2 and AVX-512. The block is eight vectors of eight, or four
//! of sixteen; large h pair vectors, the others lanes: the vector with its halves (quarters, …) exchanged, plus the
//! vector with the signs of the upper ones flipped.
#![allow(unsafe_code)]

use super::{Backend, Isa};
use core::arch::x86_64::{
    __m512, _mm256_add_ps, _mm256_and_ps, _mm256_castsi256_ps, _mm256_loadu_ps, _mm256_mul_ps,
    _mm256_permute_ps, _mm256_permute2f128_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32,
    _mm256_setr_ps, _mm256_setzero_ps, _mm256_sllv_epi32, _mm256_storeu_ps, _mm256_sub_ps, _mm256_xor_ps,
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_blend_ps, _mm512_mul_ps, _mm512_permute_ps,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_sub_ps,
};

/// On AVX2; `backend` is the proof that the machine has it.
pub(super) fn avx2(backend: Backend, blocks: &mut [[f32; 64]], scale: f32, signs: impl Fn(usize) -> u64) {
    debug_assert_eq!(backend.isa(), Isa::Avx2);
    // SAFETY: a `Backend` of this instruction set is only constructed where the machine has it.
    unsafe { compiled_avx2(blocks, scale, signs) }
}

/// On AVX-512.
pub(super) fn avx512(backend: Backend, blocks: &mut [[f32; 64]], scale: f32, signs: impl Fn(usize) -> u64) {
    debug_assert!(matches!(backend.isa(), Isa::Avx512 | Isa::Avx512Vnni));
    // SAFETY: a `Backend` of these instruction sets is only constructed where the machine has them.
    unsafe { compiled_avx512(blocks, scale, signs) }
}

#[target_feature(enable = "avx2")]
fn compiled_avx2(blocks: &mut [[f32; 64]], scale: f32, signs: impl Fn(usize) -> u64) {
    // −0 flips a sign, +0 does not.
    const P: f32 = 0.0;
    const N: f32 = -0.0;
    let flips = [
        _mm256_setr_ps(P, P, P, P, N, N, N, N),
        _mm256_setr_ps(P, P, N, N, P, P, N, N),
        _mm256_setr_ps(P, N, P, N, P, N, P, N),
    ];
    let (scale, flip) = (_mm256_set1_ps(scale), _mm256_set1_ps(N));
    let to_top = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
    let plus = |x, other, flips| _mm256_add_ps(_mm256_xor_ps(x, flips), other);
    for (i, block) in blocks.iter_mut().enumerate() {
        let rows = block.as_chunks_mut::<8>().0;
        let mut x = [_mm256_setzero_ps(); 8];
        for ((x, row), signs) in x.iter_mut().zip(rows.iter()).zip(signs(i).to_le_bytes()) {
            let tops = _mm256_castsi256_ps(_mm256_sllv_epi32(_mm256_set1_epi32(signs.into()), to_top));
            // SAFETY: a row is eight f32.
            let scaled = _mm256_mul_ps(unsafe { _mm256_loadu_ps(row.as_ptr()) }, scale);
            *x = _mm256_xor_ps(scaled, _mm256_and_ps(tops, flip));
        }
        for h in [2, 4, 1] {
            for i in (0..8).filter(|i| i & h == 0) {
                (x[i], x[i + h]) = (_mm256_add_ps(x[i], x[i + h]), _mm256_sub_ps(x[i], x[i + h]));
            }
        }
        for (x, row) in x.into_iter().zip(rows) {
            let x = plus(x, _mm256_permute2f128_ps::<1>(x, x), flips[0]);
            let x = plus(x, _mm256_permute_ps::<0b01_00_11_10>(x), flips[1]);
            let x = plus(x, _mm256_permute_ps::<0b10_11_00_01>(x), flips[2]);
            // SAFETY: a row is eight f32.
            unsafe { _mm256_storeu_ps(row.as_mut_ptr(), x) };
        }
    }
}

/// AVX-512 includes fused multiply-add: flipping signs is then a multiplication by ±1 on the way into an addition, and
/// still rounds once.
#[target_feature(enable = "avx512f")]
fn compiled_avx512(blocks: &mut [[f32; 64]], scale: f32, signs: impl Fn(usize) -> u64) {
    /// Lanes whose number has this bit are subtracted.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn ones(lanes: u16) -> __m512 {
        _mm512_mask_blend_ps(lanes, _mm512_set1_ps(1.0), _mm512_set1_ps(-1.0))
    }
    let ones = [ones(0xFF00), ones(0xF0F0), ones(0xCCCC), ones(0xAAAA)];
    let scales = [_mm512_set1_ps(scale), _mm512_set1_ps(-scale)];
    for (i, block) in blocks.iter_mut().enumerate() {
        let rows = block.as_chunks_mut::<16>().0;
        let word = signs(i);
        let mut x = [_mm512_setzero_ps(); 4];
        for (i, (x, row)) in x.iter_mut().zip(rows.iter()).enumerate() {
            let scale = _mm512_mask_blend_ps((word >> (16 * i)) as u16, scales[0], scales[1]);
            // SAFETY: a row is sixteen f32.
            *x = _mm512_mul_ps(unsafe { _mm512_loadu_ps(row.as_ptr()) }, scale);
        }
        for h in [1, 2] {
            for i in (0..4).filter(|i| i & h == 0) {
                (x[i], x[i + h]) = (_mm512_add_ps(x[i], x[i + h]), _mm512_sub_ps(x[i], x[i + h]));
            }
        }
        for (x, row) in x.into_iter().zip(rows) {
            let x = _mm512_fmadd_ps(x, ones[0], _mm512_shuffle_f32x4::<0b01_00_11_10>(x, x));
            let x = _mm512_fmadd_ps(x, ones[1], _mm512_shuffle_f32x4::<0b10_11_00_01>(x, x));
            let x = _mm512_fmadd_ps(x, ones[2], _mm512_permute_ps::<0b01_00_11_10>(x));
            let x = _mm512_fmadd_ps(x, ones[3], _mm512_permute_ps::<0b10_11_00_01>(x));
            // SAFETY: a row is sixteen f32.
            unsafe { _mm512_storeu_ps(row.as_mut_ptr(), x) };
        }
    }
}
