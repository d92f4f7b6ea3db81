//! x86-64 with AVX-512 VNNI and VBMI: `VPDPBUSD` multiplies unsigned by signed bytes and adds four products to an int32,
//! without saturation; `VPMULTISHIFTQB` cuts bytes out of quadwords at any bit.
#![allow(unsafe_code)]

use super::{GROUP_FACTORS, HALF_SCALE, IntKernel, Ints};
use crate::arch::{Backend, Isa};
use core::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_add_epi8, _mm512_add_epi16, _mm512_add_ps,
    _mm512_and_si512, _mm512_castsi512_ps, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_dpwssd_epi32,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_maddubs_epi16, _mm512_maskz_permutexvar_epi8, _mm512_mul_ps,
    _mm512_multishift_epi64_epi8, _mm512_permutexvar_epi8, _mm512_permutexvar_epi16,
    _mm512_permutexvar_epi32, _mm512_reduce_add_epi32, _mm512_set1_epi8, _mm512_set1_epi32,
    _mm512_set1_epi64, _mm512_set1_ps, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srlv_epi16,
    _mm512_srlv_epi32, _mm512_storeu_ps, _mm512_storeu_si512, _mm512_xor_si512,
};

/// The proof that the machine has AVX-512 F, BW, DQ, VL, VNNI and VBMI.
#[derive(Clone, Copy)]
pub(super) struct Vnni(());

/// Whether this machine has it.
pub(in crate::arch) fn is_present() -> bool {
    #[cfg(any(feature = "std", test))]
    {
        std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("avx512vnni")
            && std::arch::is_x86_feature_detected!("avx512vbmi")
    }
    #[cfg(not(any(feature = "std", test)))]
    {
        cfg!(all(
            target_feature = "avx512f",
            target_feature = "avx512bw",
            target_feature = "avx512dq",
            target_feature = "avx512vl",
            target_feature = "avx512vnni",
            target_feature = "avx512vbmi"
        ))
    }
}

/// Runs `kernel`; `backend` is the proof that the machine has the instructions.
#[inline]
pub(super) fn run<K: IntKernel>(backend: Backend, kernel: K) -> K::Output {
    debug_assert_eq!(backend.isa(), Isa::Avx512Vnni);
    // SAFETY: a `Backend` of this instruction set is only constructed where the machine has it.
    unsafe { compiled(kernel) }
}

/// # Safety
/// The machine must have the instructions named here.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
unsafe fn compiled<K: IntKernel>(kernel: K) -> K::Output {
    kernel.run(Vnni(()))
}

/// For every word: which word of the fields it looks at, by how much it shifts it, and all factors again and again.
#[derive(Clone, Copy)]
pub(super) struct Spread {
    from: __m512i,
    down: __m512i,
    table: __m512i,
}

/// For every sum: by how much it shifts the fields, and all factors again and again.
#[derive(Clone, Copy)]
pub(super) struct SumSpread {
    down: __m512i,
    table: __m512i,
}

/// The bytes that come to the first 48: six for two times eight fields, to the beginning of each quadword.
const TWO_THREES: [u8; 64] = {
    let mut order = [0; 64];
    let mut at = 0;
    while at < 64 {
        if at % 8 < 6 {
            order[at] = (at / 8 * 6 + at % 8) as u8;
        }
        at += 1;
    }
    order
};

/// The bits of a quadword at which the fields `of` of each eight begin.
const fn thirds_at(of: [u8; 4]) -> i64 {
    let mut bits = 0u64;
    let mut at = 0;
    while at < 8 {
        bits |= ((of[at % 4] as u64 + at as u64 / 4 * 8) * 3) << (8 * at);
        at += 1;
    }
    bits.cast_signed()
}

/// The bits of a quadword at which its bytes begin, so far up.
const fn bytes_at(shift: u32) -> i64 {
    0x3830_2820_1810_0800 + 0x0101_0101_0101_0101 * shift as i64
}

const FIRST: i64 = thirds_at([0, 1, 4, 5]);
const SECOND: i64 = thirds_at([2, 3, 6, 7]);

#[inline(always)]
fn words(word: impl Fn(u16) -> u16) -> [u16; 32] {
    core::array::from_fn(|i| word(i as u16))
}

#[inline(always)]
fn dwords(dword: impl Fn(u32) -> u32) -> [u32; 16] {
    core::array::from_fn(|i| dword(i as u32))
}

impl Vnni {
    #[inline(always)]
    fn load_words(self, words: &[u16; 32]) -> __m512i {
        // SAFETY: `self` is the proof of AVX-512F; the array has 64 bytes.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_dwords(self, dwords: &[u32; 16]) -> __m512i {
        // SAFETY: `self` is the proof of AVX-512F; the array has 64 bytes.
        unsafe { _mm512_loadu_si512(dwords.as_ptr().cast()) }
    }
}

impl Ints<64> for Vnni {
    type Bytes = __m512i;
    type Words = __m512i;
    type Sums = __m512i;
    type Spread = Spread;
    type SumSpread = SumSpread;
    type Reals = __m512;
    /// Where the lower half of every number comes from, byte by byte.
    type HalfSpread = __m512i;
    const SIGNED_OFFSET: i32 = 128;

    #[inline(always)]
    fn bytes(self, from: &[u8; 64]) -> __m512i {
        // SAFETY: `self` is the proof of AVX-512F; the array has 64 bytes.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8], at: usize) {
        // SAFETY: SSE is part of x86-64; a prefetch of any address whatever reads nothing that the program could see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(at).cast()) }
    }

    #[inline(always)]
    fn flip(self, bytes: __m512i, pattern: u8) -> __m512i {
        // SAFETY: `self` is the proof of AVX-512F.
        unsafe { _mm512_xor_si512(bytes, _mm512_set1_epi8(pattern.cast_signed())) }
    }

    #[inline(always)]
    fn field<const SHIFT: u32>(self, bytes: __m512i, mask: u8) -> __m512i {
        // Not a shift: those would wait for the port that multiplies.
        // SAFETY: `self` is the proof of AVX-512BW and VBMI.
        unsafe {
            let shifted = match SHIFT {
                0 => bytes,
                _ => _mm512_multishift_epi64_epi8(_mm512_set1_epi64(bytes_at(SHIFT)), bytes),
            };
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask.cast_signed()))
        }
    }

    #[inline(always)]
    fn double(self, bytes: __m512i) -> __m512i {
        // SAFETY: `self` is the proof of AVX-512BW.
        unsafe { _mm512_add_epi8(bytes, bytes) }
    }

    #[inline(always)]
    fn thirds(self, bytes: __m512i) -> [__m512i; 2] {
        let order = self.bytes(&TWO_THREES);
        // SAFETY: `self` is the proof of AVX-512 VBMI.
        unsafe {
            let pairs = _mm512_permutexvar_epi8(order, bytes);
            let (first, second) = (_mm512_set1_epi64(FIRST), _mm512_set1_epi64(SECOND));
            let mask = _mm512_set1_epi8(7);
            [
                _mm512_and_si512(_mm512_multishift_epi64_epi8(first, pairs), mask),
                _mm512_and_si512(_mm512_multishift_epi64_epi8(second, pairs), mask),
            ]
        }
    }

    #[inline(always)]
    fn zero(self) -> __m512i {
        // SAFETY: `self` is the proof of AVX-512F.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn dot(self, sums: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: `self` is the proof of AVX-512 VNNI.
        unsafe { _mm512_dpbusd_epi32(sums, w, x) }
    }

    #[inline(always)]
    fn dot_signed(self, sums: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // A flipped top bit adds 128: unsigned from then on.
        self.dot(sums, self.flip(w, 0x80), x)
    }

    #[inline(always)]
    fn sums(self, from: &[u8; 64]) -> __m512i {
        self.bytes(from)
    }

    #[inline(always)]
    fn store_sums(self, sums: __m512i, to: &mut [u8; 64]) {
        self.store(sums, to);
    }

    #[inline(always)]
    fn add_scaled(self, to: __m512i, sums: __m512i, factors: __m512i) -> __m512i {
        // The upper halves of factors are zero.
        self.scaled(to, sums, factors)
    }

    #[inline(always)]
    fn sum_spread(self, log: u32) -> SumSpread {
        SumSpread {
            down: self.load_dwords(&dwords(|i| (i >> log) * 2)),
            table: self.load_dwords(&dwords(|i| GROUP_FACTORS[i as usize % 4].into())),
        }
    }

    #[inline(always)]
    fn sum_factors(self, spread: SumSpread, fields: u32) -> __m512i {
        // SAFETY: `self` is the proof of AVX-512F.
        unsafe {
            let fields = _mm512_srlv_epi32(_mm512_set1_epi32(fields.cast_signed()), spread.down);
            // The bits above a field choose among equal entries, or do not count.
            _mm512_permutexvar_epi32(fields, spread.table)
        }
    }

    #[inline(always)]
    fn total(self, sums: __m512i) -> i32 {
        // SAFETY: `self` is the proof of AVX-512F.
        unsafe { _mm512_reduce_add_epi32(sums) }
    }

    #[inline(always)]
    fn reals(self, from: &[u8; 64]) -> __m512 {
        // SAFETY: `self` is the proof of AVX-512F; the array has 64 bytes.
        unsafe { _mm512_loadu_ps(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_reals(self, reals: __m512, to: &mut [u8; 64]) {
        // SAFETY: `self` is the proof of AVX-512F; the array has 64 bytes.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr().cast(), reals) }
    }

    #[inline(always)]
    fn to_reals(self, sums: __m512i) -> __m512 {
        // SAFETY: `self` is the proof of AVX-512F.
        unsafe { _mm512_cvtepi32_ps(sums) }
    }

    #[inline(always)]
    fn times(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` is the proof of AVX-512F.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn plus(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` is the proof of AVX-512F.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn half_spread(self, log: u32) -> __m512i {
        self.load_dwords(&dwords(|i| (i >> log) * 0x0202 + 0x0100))
    }

    #[inline(always)]
    fn halves(self, spread: __m512i, from: &[u8; 64]) -> __m512 {
        const LOWER: u64 = 0x3333_3333_3333_3333;
        // SAFETY: `self` is the proof of AVX-512F and VBMI.
        unsafe {
            let halves = _mm512_maskz_permutexvar_epi8(LOWER, spread, self.bytes(from));
            let shifted = _mm512_castsi512_ps(_mm512_slli_epi32::<13>(halves));
            _mm512_mul_ps(shifted, _mm512_set1_ps(HALF_SCALE))
        }
    }

    #[inline(always)]
    fn pairs(self, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: `self` is the proof of AVX-512BW.
        unsafe { _mm512_maddubs_epi16(w, x) }
    }

    #[inline(always)]
    fn add(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` is the proof of AVX-512BW.
        unsafe { _mm512_add_epi16(a, b) }
    }

    #[inline(always)]
    fn words(self, from: &[u8; 64]) -> __m512i {
        self.bytes(from)
    }

    #[inline(always)]
    fn store(self, words: __m512i, to: &mut [u8; 64]) {
        // SAFETY: `self` is the proof of AVX-512F; the array has 64 bytes.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), words) }
    }

    #[inline(always)]
    fn scaled(self, sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` is the proof of AVX-512 VNNI.
        unsafe { _mm512_dpwssd_epi32(sums, a, b) }
    }

    #[inline(always)]
    fn spread(self, log: u32) -> Spread {
        Spread {
            from: self.load_words(&words(|i| (i >> log) / 8)),
            down: self.load_words(&words(|i| (i >> log) % 8 * 2)),
            table: self.load_words(&words(|i| GROUP_FACTORS[usize::from(i % 4)].into())),
        }
    }

    #[inline(always)]
    fn factors(self, spread: Spread, fields: u64) -> __m512i {
        // SAFETY: `self` is the proof of AVX-512BW.
        unsafe {
            let fields = _mm512_set1_epi64(fields.cast_signed());
            let fields = _mm512_srlv_epi16(_mm512_permutexvar_epi16(spread.from, fields), spread.down);
            // The bits above a field choose among equal entries.
            _mm512_permutexvar_epi16(fields, spread.table)
        }
    }
}
