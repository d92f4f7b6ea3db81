//! AArch64 with the dot product instructions: `SDOT` multiplies signed bytes and adds four products to an int32. Weights of
//! at most 127 are signed bytes, too.
#![allow(unsafe_code)]

use super::{GROUP_FACTORS, HALF_SCALE, IntKernel, Ints};
use crate::arch::{Backend, Isa};
use core::arch::aarch64::{
    float32x4_t, int8x16_t, int16x8_t, int32x4_t, uint8x16_t, uint16x8_t, vaddq_f32, vaddq_s16, vaddq_u8,
    vaddvq_s32, vandq_u8, vandq_u16, vandq_u32, vcvtq_f32_s32, vdupq_n_s8, vdupq_n_s32, vdupq_n_u8,
    vdupq_n_u16, vdupq_n_u32, veorq_u8, vget_low_s8, vget_low_s16, vld1q_s16, vld1q_s32, vld1q_u8,
    vmlal_high_s16, vmlal_s16, vmlaq_s32, vmull_high_s8, vmull_s8, vmulq_f32, vmulq_n_f32, vorrq_u16,
    vorrq_u32, vpaddq_s16, vqtbl1q_u8, vreinterpretq_f32_u8, vreinterpretq_f32_u32, vreinterpretq_s8_u8,
    vreinterpretq_s16_u8, vreinterpretq_s32_u8, vreinterpretq_u8_f32, vreinterpretq_u8_s16,
    vreinterpretq_u8_s32, vreinterpretq_u8_u16, vreinterpretq_u8_u32, vreinterpretq_u16_u8,
    vreinterpretq_u32_u8, vshlq_n_u32, vshlq_u8, vshlq_u16, vshlq_u32, vst1q_u8,
};
use core::arch::asm;

/// The proof that the machine has Advanced SIMD with dot products.
#[derive(Clone, Copy)]
pub(super) struct NeonDot(());

/// Whether this machine has it.
pub(in crate::arch) fn is_present() -> bool {
    #[cfg(any(feature = "std", test))]
    {
        std::arch::is_aarch64_feature_detected!("neon") && std::arch::is_aarch64_feature_detected!("dotprod")
    }
    #[cfg(not(any(feature = "std", test)))]
    {
        cfg!(all(target_feature = "neon", target_feature = "dotprod"))
    }
}

/// Runs `kernel`; `backend` is the proof that the machine has the instructions.
#[inline]
pub(super) fn run<K: IntKernel>(backend: Backend, kernel: K) -> K::Output {
    debug_assert_eq!(backend.isa(), Isa::NeonDot);
    // SAFETY: a `Backend` of this instruction set is only constructed where the machine has it.
    unsafe { compiled(kernel) }
}

/// # Safety
/// The machine must have the instructions named here.
#[target_feature(enable = "neon,dotprod")]
unsafe fn compiled<K: IntKernel>(kernel: K) -> K::Output {
    kernel.run(NeonDot(()))
}

/// A table for `TBL`.
const FACTORS: [u8; 16] = {
    let ([a, b, c, d], mut table) = (GROUP_FACTORS, [0; 16]);
    [table[0], table[1], table[2], table[3]] = [a, b, c, d];
    table
};

#[inline(always)]
fn sdot(sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let mut sums = sums;
    // SAFETY: reads and writes registers only. The caller holds a `NeonDot`, the proof that the machine has the instruction,
    // which the assembler is told as well, wherever this is inlined.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sums, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

impl Ints<16> for NeonDot {
    type Bytes = uint8x16_t;
    type Words = int16x8_t;
    type Sums = int32x4_t;
    /// Shifts to the left, negative.
    type Spread = int16x8_t;
    /// Likewise.
    type SumSpread = int32x4_t;
    type Reals = float32x4_t;
    /// Where the lower half of every number comes from, byte by byte; beyond the table is a zero.
    type HalfSpread = uint8x16_t;
    const SIGNED_OFFSET: i32 = 0;

    #[inline(always)]
    fn bytes(self, from: &[u8; 16]) -> uint8x16_t {
        // SAFETY: `self` is the proof of Advanced SIMD; the array has 16 bytes.
        unsafe { vld1q_u8(from.as_ptr()) }
    }

    #[inline(always)]
    fn flip(self, bytes: uint8x16_t, pattern: u8) -> uint8x16_t {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe { veorq_u8(bytes, vdupq_n_u8(pattern)) }
    }

    #[inline(always)]
    fn field<const SHIFT: u32>(self, bytes: uint8x16_t, mask: u8) -> uint8x16_t {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe { vandq_u8(vshlq_u8(bytes, vdupq_n_s8(-(SHIFT as i8))), vdupq_n_u8(mask)) }
    }

    #[inline(always)]
    fn double(self, bytes: uint8x16_t) -> uint8x16_t {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe { vaddq_u8(bytes, bytes) }
    }

    #[inline(always)]
    fn thirds(self, bytes: uint8x16_t) -> [uint8x16_t; 2] {
        // Of every three bytes, each field is cut out of the word that holds it whole: its low byte is one of them, and two
        // shifts bring the field to its place in that byte.
        const ORDER: [u8; 16] = [0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11];
        // Words (0, 1) hold four fields from bit 0 on, words (1, 2) from bit 4 on.
        const FIRST: [[i16; 8]; 2] = [[0, -4, 0, -4, 0, -4, 0, -4], [5, 1, 5, 1, 5, 1, 5, 1]];
        const SECOND: [[i16; 8]; 2] =
            [[-6, -10, -6, -10, -6, -10, -6, -10], [-1, -5, -1, -5, -1, -5, -1, -5]];
        // SAFETY: `self` is the proof of Advanced SIMD; the arrays have 16 bytes.
        unsafe {
            let words: uint16x8_t = vreinterpretq_u16_u8(vqtbl1q_u8(bytes, vld1q_u8(ORDER.as_ptr())));
            let (low, high) = (vdupq_n_u16(0x0007), vdupq_n_u16(0x0700));
            let a = vandq_u16(vshlq_u16(words, vld1q_s16(FIRST[0].as_ptr())), low);
            let b = vandq_u16(vshlq_u16(words, vld1q_s16(FIRST[1].as_ptr())), high);
            let c = vandq_u16(vshlq_u16(words, vld1q_s16(SECOND[0].as_ptr())), low);
            let d = vandq_u16(vshlq_u16(words, vld1q_s16(SECOND[1].as_ptr())), high);
            [vreinterpretq_u8_u16(vorrq_u16(a, b)), vreinterpretq_u8_u16(vorrq_u16(c, d))]
        }
    }

    #[inline(always)]
    fn zero(self) -> int32x4_t {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe { vdupq_n_s32(0) }
    }

    #[inline(always)]
    fn dot(self, sums: int32x4_t, w: uint8x16_t, x: uint8x16_t) -> int32x4_t {
        self.dot_signed(sums, w, x)
    }

    #[inline(always)]
    fn dot_signed(self, sums: int32x4_t, w: uint8x16_t, x: uint8x16_t) -> int32x4_t {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe { sdot(sums, vreinterpretq_s8_u8(w), vreinterpretq_s8_u8(x)) }
    }

    #[inline(always)]
    fn sums(self, from: &[u8; 16]) -> int32x4_t {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe { vreinterpretq_s32_u8(self.bytes(from)) }
    }

    #[inline(always)]
    fn store_sums(self, sums: int32x4_t, to: &mut [u8; 16]) {
        // SAFETY: `self` is the proof of Advanced SIMD; the array has 16 bytes.
        unsafe { vst1q_u8(to.as_mut_ptr(), vreinterpretq_u8_s32(sums)) }
    }

    #[inline(always)]
    fn add_scaled(self, to: int32x4_t, sums: int32x4_t, factors: int32x4_t) -> int32x4_t {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe { vmlaq_s32(to, sums, factors) }
    }

    #[inline(always)]
    fn sum_spread(self, log: u32) -> int32x4_t {
        let shifts: [i32; 4] = core::array::from_fn(|i| -2 * (i >> log) as i32);
        // SAFETY: `self` is the proof of Advanced SIMD; the array has 16 bytes.
        unsafe { vld1q_s32(shifts.as_ptr()) }
    }

    #[inline(always)]
    fn sum_factors(self, spread: int32x4_t, fields: u32) -> int32x4_t {
        // SAFETY: `self` is the proof of Advanced SIMD; the array has 16 bytes.
        unsafe {
            let fields = vandq_u32(vshlq_u32(vdupq_n_u32(fields), spread), vdupq_n_u32(3));
            // As in `factors`.
            let chosen = vreinterpretq_u8_u32(vorrq_u32(fields, vdupq_n_u32(0xFFFF_FF00)));
            vreinterpretq_s32_u8(vqtbl1q_u8(vld1q_u8(FACTORS.as_ptr()), chosen))
        }
    }

    #[inline(always)]
    fn total(self, sums: int32x4_t) -> i32 {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe { vaddvq_s32(sums) }
    }

    #[inline(always)]
    fn reals(self, from: &[u8; 16]) -> float32x4_t {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe { vreinterpretq_f32_u8(self.bytes(from)) }
    }

    #[inline(always)]
    fn store_reals(self, reals: float32x4_t, to: &mut [u8; 16]) {
        // SAFETY: `self` is the proof of Advanced SIMD; the array has 16 bytes.
        unsafe { vst1q_u8(to.as_mut_ptr(), vreinterpretq_u8_f32(reals)) }
    }

    #[inline(always)]
    fn to_reals(self, sums: int32x4_t) -> float32x4_t {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe { vcvtq_f32_s32(sums) }
    }

    #[inline(always)]
    fn times(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    fn plus(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    fn half_spread(self, log: u32) -> uint8x16_t {
        let at = |i: usize| if i % 4 < 2 { (i / 4 >> log) as u8 * 2 + (i % 4) as u8 } else { 0xFF };
        self.bytes(&core::array::from_fn(at))
    }

    #[inline(always)]
    fn halves(self, spread: uint8x16_t, from: &[u8; 16]) -> float32x4_t {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe {
            let halves = vreinterpretq_u32_u8(vqtbl1q_u8(self.bytes(from), spread));
            vmulq_n_f32(vreinterpretq_f32_u32(vshlq_n_u32::<13>(halves)), HALF_SCALE)
        }
    }

    #[inline(always)]
    fn pairs(self, w: uint8x16_t, x: uint8x16_t) -> int16x8_t {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe {
            let (w, x) = (vreinterpretq_s8_u8(w), vreinterpretq_s8_u8(x));
            vpaddq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x))
        }
    }

    #[inline(always)]
    fn add(self, a: int16x8_t, b: int16x8_t) -> int16x8_t {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe { vaddq_s16(a, b) }
    }

    #[inline(always)]
    fn words(self, from: &[u8; 16]) -> int16x8_t {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe { vreinterpretq_s16_u8(self.bytes(from)) }
    }

    #[inline(always)]
    fn store(self, words: int16x8_t, to: &mut [u8; 16]) {
        // SAFETY: `self` is the proof of Advanced SIMD; the array has 16 bytes.
        unsafe { vst1q_u8(to.as_mut_ptr(), vreinterpretq_u8_s16(words)) }
    }

    #[inline(always)]
    fn scaled(self, sums: int32x4_t, a: int16x8_t, b: int16x8_t) -> int32x4_t {
        // SAFETY: `self` is the proof of Advanced SIMD.
        unsafe { vmlal_high_s16(vmlal_s16(sums, vget_low_s16(a), vget_low_s16(b)), a, b) }
    }

    #[inline(always)]
    fn spread(self, log: u32) -> int16x8_t {
        let shifts: [i16; 8] = core::array::from_fn(|i| -2 * (i >> log) as i16);
        // SAFETY: `self` is the proof of Advanced SIMD; the array has 16 bytes.
        unsafe { vld1q_s16(shifts.as_ptr()) }
    }

    #[inline(always)]
    fn factors(self, spread: int16x8_t, fields: u64) -> int16x8_t {
        // SAFETY: `self` is the proof of Advanced SIMD; the array has 16 bytes.
        unsafe {
            let fields = vandq_u16(vshlq_u16(vdupq_n_u16(fields as u16), spread), vdupq_n_u16(3));
            // An index beyond the table chooses zero: the upper byte of every factor.
            let chosen = vreinterpretq_u8_u16(vorrq_u16(fields, vdupq_n_u16(0xFF00)));
            vreinterpretq_s16_u8(vqtbl1q_u8(vld1q_u8(FACTORS.as_ptr()), chosen))
        }
    }
}
