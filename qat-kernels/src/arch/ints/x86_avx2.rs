//! x86-64 with AVX2: `VPMADDUBSW` multiplies unsigned by signed bytes and adds neighbours in int16.
//!
//! It saturates, but two products of at most 127·128 never get that far, nor do four times two of at most 15·128, or two times
//! two of at most 30·128.
#![allow(unsafe_code)]

use super::{GROUP_FACTORS, HALF_SCALE, IntKernel, Ints};
use crate::arch::{Backend, Isa};
use core::arch::x86_64::{
    __m128i, __m256, __m256i, _MM_HINT_T0, _mm_add_epi32, _mm_cvtsi32_si128, _mm_cvtsi128_si32, _mm_prefetch,
    _mm_shuffle_epi32, _mm256_add_epi8, _mm256_add_epi16, _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256,
    _mm256_blend_epi16, _mm256_broadcastsi128_si256, _mm256_castsi256_ps, _mm256_castsi256_si128,
    _mm256_cvtepi8_epi16, _mm256_cvtepi32_ps, _mm256_extracti128_si256, _mm256_hadd_epi32, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_mullo_epi16,
    _mm256_or_si256, _mm256_permute4x64_epi64, _mm256_permutevar8x32_epi32, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi8, _mm256_setr_epi32,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_sll_epi32, _mm256_slli_epi16, _mm256_slli_epi32,
    _mm256_srl_epi16, _mm256_srli_epi16, _mm256_srlv_epi32, _mm256_storeu_ps, _mm256_storeu_si256,
    _mm256_xor_si256,
};

/// The proof that the machine has AVX2.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Runs `kernel`; `backend` is the proof that the machine has the instructions.
#[inline]
pub(super) fn run<K: IntKernel>(backend: Backend, kernel: K) -> K::Output {
    debug_assert!(matches!(backend.isa(), Isa::Avx2 | Isa::Avx512));
    // SAFETY: a `Backend` of these instruction sets is only constructed where the machine has them; both include AVX2.
    unsafe { compiled(kernel) }
}

/// # Safety
/// The machine must have the instructions named here.
#[target_feature(enable = "avx2")]
unsafe fn compiled<K: IntKernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// For every dword of fields: by how much it is shifted down, and its upper word back up.
#[derive(Clone, Copy)]
pub(super) struct Spread {
    down: __m256i,
    up: __m128i,
}

impl Ints<32> for Avx2 {
    type Bytes = __m256i;
    type Words = __m256i;
    type Sums = __m256i;
    type Spread = Spread;
    /// Shifts to the right.
    type SumSpread = __m256i;
    type Reals = __m256;
    /// Where the lower half of every number comes from, byte by byte; a set top bit is a zero.
    type HalfSpread = __m256i;
    const SIGNED_OFFSET: i32 = 0;

    #[inline(always)]
    fn bytes(self, from: &[u8; 32]) -> __m256i {
        // SAFETY: `self` is the proof of AVX2; the array has 32 bytes.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8], at: usize) {
        // SAFETY: SSE is part of x86-64; a prefetch of any address whatever reads nothing that the program could see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(at).cast()) }
    }

    #[inline(always)]
    fn flip(self, bytes: __m256i, pattern: u8) -> __m256i {
        // SAFETY: `self` is the proof of AVX2.
        unsafe { _mm256_xor_si256(bytes, _mm256_set1_epi8(pattern.cast_signed())) }
    }

    #[inline(always)]
    fn field<const SHIFT: u32>(self, bytes: __m256i, mask: u8) -> __m256i {
        // SAFETY: `self` is the proof of AVX2.
        unsafe {
            let shifted = _mm256_srl_epi16(bytes, _mm_cvtsi32_si128(SHIFT.cast_signed()));
            _mm256_and_si256(shifted, _mm256_set1_epi8(mask.cast_signed()))
        }
    }

    #[inline(always)]
    fn double(self, bytes: __m256i) -> __m256i {
        // SAFETY: `self` is the proof of AVX2.
        unsafe { _mm256_add_epi8(bytes, bytes) }
    }

    #[inline(always)]
    fn thirds(self, bytes: __m256i) -> [__m256i; 2] {
        // Each half of the register takes twelve bytes: four times eight fields. Of every three bytes 0, 1, 2 come words
        // (0, 1) and (1, 2) with four fields each, the first one at bit 0 and at bit 4. A shift by 4 makes that bit 4 in both.
        // SAFETY: `self` is the proof of AVX2.
        unsafe {
            let halves = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 1, 2, 0, 3, 4, 5, 0));
            #[rustfmt::skip]
            let order = _mm256_setr_epi8(
                0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11,
                0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11,
            );
            let words = _mm256_shuffle_epi8(halves, order);
            let words = _mm256_mullo_epi16(words, _mm256_set1_epi32(0x0001_0010));
            let (low, high) = (_mm256_set1_epi16(0x0007), _mm256_set1_epi16(0x0700));
            let (a, b) = (_mm256_srli_epi16::<4>(words), _mm256_slli_epi16::<1>(words));
            let (c, d) = (_mm256_srli_epi16::<10>(words), _mm256_srli_epi16::<5>(words));
            [
                _mm256_or_si256(_mm256_and_si256(a, low), _mm256_and_si256(b, high)),
                _mm256_or_si256(_mm256_and_si256(c, low), _mm256_and_si256(d, high)),
            ]
        }
    }

    #[inline(always)]
    fn zero(self) -> __m256i {
        // SAFETY: `self` is the proof of AVX2.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn dot(self, sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: `self` is the proof of AVX2.
        unsafe {
            let pairs = _mm256_maddubs_epi16(w, x);
            _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    fn dot_signed(self, sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // The sums of four neighbours lie elsewhere than those of `dot`; only their total is ever looked at.
        // SAFETY: `self` is the proof of AVX2.
        unsafe {
            let w_low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(w));
            let x_low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(x));
            let w_high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(w));
            let x_high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(x));
            let sums = _mm256_add_epi32(sums, _mm256_madd_epi16(w_low, x_low));
            _mm256_add_epi32(sums, _mm256_madd_epi16(w_high, x_high))
        }
    }

    #[inline(always)]
    fn dot_signed_neighbours(self, sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: `self` is the proof of AVX2.
        unsafe {
            let w_low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(w));
            let x_low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(x));
            let w_high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(w));
            let x_high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(x));
            // Two of the lower and two of the upper half by turns, in each half of the register.
            let fours = _mm256_hadd_epi32(_mm256_madd_epi16(w_low, x_low), _mm256_madd_epi16(w_high, x_high));
            _mm256_add_epi32(sums, _mm256_permute4x64_epi64::<0b11_01_10_00>(fours))
        }
    }

    #[inline(always)]
    fn dot_small<const N: usize>(self, sums: __m256i, w: [__m256i; N], x: [__m256i; N]) -> __m256i {
        const { assert!(N <= 4, "more than four would saturate") };
        // SAFETY: `self` is the proof of AVX2.
        unsafe {
            let mut pairs = _mm256_maddubs_epi16(w[0], x[0]);
            for i in 1..N {
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w[i], x[i]));
            }
            _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    fn sums(self, from: &[u8; 32]) -> __m256i {
        self.bytes(from)
    }

    #[inline(always)]
    fn store_sums(self, sums: __m256i, to: &mut [u8; 32]) {
        self.store(sums, to);
    }

    #[inline(always)]
    fn add_scaled(self, to: __m256i, sums: __m256i, factors: __m256i) -> __m256i {
        // The upper halves of factors are zero.
        self.scaled(to, sums, factors)
    }

    #[inline(always)]
    fn sum_spread(self, log: u32) -> __m256i {
        let [a, b, c, d, e, f, g, h] = [0, 1, 2, 3, 4, 5, 6, 7].map(|i: i32| 2 * (i >> log));
        // SAFETY: `self` is the proof of AVX2.
        unsafe { _mm256_setr_epi32(a, b, c, d, e, f, g, h) }
    }

    #[inline(always)]
    fn sum_factors(self, down: __m256i, fields: u32) -> __m256i {
        let [a, b, c, d] = GROUP_FACTORS.map(i32::from);
        // SAFETY: `self` is the proof of AVX2.
        unsafe {
            let fields = _mm256_srlv_epi32(_mm256_set1_epi32(fields.cast_signed()), down);
            // The bit above a field chooses among equal entries; those above that one do not count.
            _mm256_permutevar8x32_epi32(_mm256_setr_epi32(a, b, c, d, a, b, c, d), fields)
        }
    }

    #[inline(always)]
    fn total(self, sums: __m256i) -> i32 {
        // SAFETY: `self` is the proof of AVX2.
        unsafe {
            let four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b11_10>(four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b01>(two)))
        }
    }

    #[inline(always)]
    fn reals(self, from: &[u8; 32]) -> __m256 {
        // SAFETY: `self` is the proof of AVX2; the array has 32 bytes.
        unsafe { _mm256_loadu_ps(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_reals(self, reals: __m256, to: &mut [u8; 32]) {
        // SAFETY: `self` is the proof of AVX2; the array has 32 bytes.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr().cast(), reals) }
    }

    #[inline(always)]
    fn to_reals(self, sums: __m256i) -> __m256 {
        // SAFETY: `self` is the proof of AVX2.
        unsafe { _mm256_cvtepi32_ps(sums) }
    }

    #[inline(always)]
    fn times(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` is the proof of AVX2.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn plus(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` is the proof of AVX2.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn half_spread(self, log: u32) -> __m256i {
        let at = |i: u32| (0x8080_0100 + (i >> log) * 0x0202).cast_signed();
        // SAFETY: `self` is the proof of AVX2.
        unsafe { _mm256_setr_epi32(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)) }
    }

    #[inline(always)]
    fn halves(self, spread: __m256i, from: &[u8; 32]) -> __m256 {
        // SAFETY: `self` is the proof of AVX2.
        unsafe {
            let both = _mm256_broadcastsi128_si256(_mm256_castsi256_si128(self.bytes(from)));
            let halves = _mm256_shuffle_epi8(both, spread);
            let shifted = _mm256_castsi256_ps(_mm256_slli_epi32::<13>(halves));
            _mm256_mul_ps(shifted, _mm256_set1_ps(HALF_SCALE))
        }
    }

    #[inline(always)]
    fn pairs(self, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: `self` is the proof of AVX2.
        unsafe { _mm256_maddubs_epi16(w, x) }
    }

    #[inline(always)]
    fn add(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` is the proof of AVX2.
        unsafe { _mm256_add_epi16(a, b) }
    }

    #[inline(always)]
    fn words(self, from: &[u8; 32]) -> __m256i {
        self.bytes(from)
    }

    #[inline(always)]
    fn store(self, words: __m256i, to: &mut [u8; 32]) {
        // SAFETY: `self` is the proof of AVX2; the array has 32 bytes.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), words) }
    }

    #[inline(always)]
    fn scaled(self, sums: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` is the proof of AVX2.
        unsafe { _mm256_add_epi32(sums, _mm256_madd_epi16(a, b)) }
    }

    #[inline(always)]
    fn spread(self, log: u32) -> Spread {
        // Two words of a dword have neighbouring fields, or the same one.
        let down = |dword: i32| if log == 0 { 4 * dword } else { 2 * (dword >> (log - 1)) };
        // SAFETY: `self` is the proof of AVX2.
        unsafe {
            Spread {
                down: _mm256_setr_epi32(
                    down(0),
                    down(1),
                    down(2),
                    down(3),
                    down(4),
                    down(5),
                    down(6),
                    down(7),
                ),
                up: _mm_cvtsi32_si128(if log == 0 { 14 } else { 16 }),
            }
        }
    }

    #[inline(always)]
    fn factors(self, spread: Spread, fields: u64) -> __m256i {
        let [a, b, c, d] = GROUP_FACTORS.map(u8::cast_signed);
        // SAFETY: `self` is the proof of AVX2.
        unsafe {
            let fields = _mm256_srlv_epi32(_mm256_set1_epi32((fields as u32).cast_signed()), spread.down);
            let both = _mm256_blend_epi16::<0b1010_1010>(fields, _mm256_sll_epi32(fields, spread.up));
            let both = _mm256_and_si256(both, _mm256_set1_epi16(3));
            // A set top bit chooses zero: the upper byte of every factor.
            let chosen = _mm256_or_si256(both, _mm256_set1_epi16(i16::MIN));
            #[rustfmt::skip]
            let table = _mm256_setr_epi8(
                a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            );
            _mm256_shuffle_epi8(table, chosen)
        }
    }
}
