//! Vectors as arrays: the definition of every operation, for machines without a backend of their own.

use super::{GROUP_FACTORS, HALF_SCALE, Ints};

#[derive(Clone, Copy)]
pub(super) struct Portable;

#[inline(always)]
fn map2<T: Copy + Default, const N: usize>(a: [T; N], b: [T; N], f: impl Fn(T, T) -> T) -> [T; N] {
    let mut to = [T::default(); N];
    for i in 0..N {
        to[i] = f(a[i], b[i]);
    }
    to
}

/// The product of the bytes at `i`.
#[inline(always)]
fn product(w: [u8; 16], x: [u8; 16], i: usize, weight: impl Fn(u8) -> i32) -> i32 {
    weight(w[i]) * i32::from(x[i].cast_signed())
}

/// Of numbers of which groups have `2^log`.
#[inline(always)]
fn factors<const N: usize>(log: u32, fields: u64) -> [u8; N] {
    let mut to = [0; N];
    for (i, to) in to.iter_mut().enumerate() {
        *to = GROUP_FACTORS[(fields >> (2 * (i >> log)) & 3) as usize];
    }
    to
}

impl Portable {
    #[inline(always)]
    fn dot_of(sums: [i32; 4], w: [u8; 16], x: [u8; 16], weight: impl Fn(u8) -> i32) -> [i32; 4] {
        let mut sums = sums;
        for (i, sum) in sums.iter_mut().enumerate() {
            for j in 4 * i..4 * i + 4 {
                *sum = sum.wrapping_add(product(w, x, j, &weight));
            }
        }
        sums
    }
}

impl Ints<16> for Portable {
    type Bytes = [u8; 16];
    type Words = [i16; 8];
    type Sums = [i32; 4];
    type Spread = u32;
    type SumSpread = u32;
    type Reals = [f32; 4];
    type HalfSpread = u32;
    const SIGNED_OFFSET: i32 = 0;
    const SIDE_BY_SIDE: bool = false;

    #[inline(always)]
    fn bytes(self, from: &[u8; 16]) -> [u8; 16] {
        *from
    }

    #[inline(always)]
    fn flip(self, bytes: [u8; 16], pattern: u8) -> [u8; 16] {
        bytes.map(|b| b ^ pattern)
    }

    #[inline(always)]
    fn field<const SHIFT: u32>(self, bytes: [u8; 16], mask: u8) -> [u8; 16] {
        bytes.map(|b| b >> SHIFT & mask)
    }

    #[inline(always)]
    fn double(self, bytes: [u8; 16]) -> [u8; 16] {
        bytes.map(|b| b << 1)
    }

    #[inline(always)]
    fn thirds(self, bytes: [u8; 16]) -> [[u8; 16]; 2] {
        let mut to = [[0; 16]; 2];
        for g in 0..4 {
            let eight = u32::from_le_bytes([bytes[3 * g], bytes[3 * g + 1], bytes[3 * g + 2], 0]);
            for i in 0..8 {
                to[i / 2 % 2][4 * g + i / 4 * 2 + i % 2] = (eight >> (3 * i) & 7) as u8;
            }
        }
        to
    }

    #[inline(always)]
    fn zero(self) -> [i32; 4] {
        [0; 4]
    }

    #[inline(always)]
    fn dot(self, sums: [i32; 4], w: [u8; 16], x: [u8; 16]) -> [i32; 4] {
        Self::dot_of(sums, w, x, i32::from)
    }

    #[inline(always)]
    fn dot_signed(self, sums: [i32; 4], w: [u8; 16], x: [u8; 16]) -> [i32; 4] {
        Self::dot_of(sums, w, x, |w| w.cast_signed().into())
    }

    #[inline(always)]
    fn sums(self, from: &[u8; 16]) -> [i32; 4] {
        let mut to = [0; 4];
        for (to, from) in to.iter_mut().zip(from.as_chunks::<4>().0) {
            *to = i32::from_le_bytes(*from);
        }
        to
    }

    #[inline(always)]
    fn store_sums(self, sums: [i32; 4], to: &mut [u8; 16]) {
        for (to, sum) in to.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
            *to = sum.to_le_bytes();
        }
    }

    #[inline(always)]
    fn add_scaled(self, to: [i32; 4], sums: [i32; 4], factors: [i32; 4]) -> [i32; 4] {
        map2(to, map2(sums, factors, i32::wrapping_mul), i32::wrapping_add)
    }

    #[inline(always)]
    fn sum_spread(self, log: u32) -> u32 {
        log
    }

    #[inline(always)]
    fn sum_factors(self, log: u32, fields: u32) -> [i32; 4] {
        factors(log, fields.into()).map(i32::from)
    }

    #[inline(always)]
    fn total(self, sums: [i32; 4]) -> i32 {
        sums.into_iter().fold(0, i32::wrapping_add)
    }

    #[inline(always)]
    fn reals(self, from: &[u8; 16]) -> [f32; 4] {
        let mut to = [0.0; 4];
        for (to, from) in to.iter_mut().zip(from.as_chunks::<4>().0) {
            *to = f32::from_le_bytes(*from);
        }
        to
    }

    #[inline(always)]
    fn store_reals(self, reals: [f32; 4], to: &mut [u8; 16]) {
        for (to, x) in to.as_chunks_mut::<4>().0.iter_mut().zip(reals) {
            *to = x.to_le_bytes();
        }
    }

    #[inline(always)]
    fn to_reals(self, sums: [i32; 4]) -> [f32; 4] {
        sums.map(|sum| sum as f32)
    }

    #[inline(always)]
    fn times(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        map2(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn plus(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        map2(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn half_spread(self, log: u32) -> u32 {
        log
    }

    #[inline(always)]
    fn halves(self, log: u32, from: &[u8; 16]) -> [f32; 4] {
        let mut to = [0.0; 4];
        for (i, to) in to.iter_mut().enumerate() {
            let bits = u16::from_le_bytes([from[2 * (i >> log)], from[2 * (i >> log) + 1]]);
            *to = f32::from_bits(u32::from(bits) << 13) * HALF_SCALE;
        }
        to
    }

    #[inline(always)]
    fn pairs(self, w: [u8; 16], x: [u8; 16]) -> [i16; 8] {
        let mut to = [0; 8];
        for (i, to) in to.iter_mut().enumerate() {
            *to = (product(w, x, 2 * i, i32::from) + product(w, x, 2 * i + 1, i32::from)) as i16;
        }
        to
    }

    #[inline(always)]
    fn add(self, a: [i16; 8], b: [i16; 8]) -> [i16; 8] {
        map2(a, b, i16::wrapping_add)
    }

    #[inline(always)]
    fn words(self, from: &[u8; 16]) -> [i16; 8] {
        let mut to = [0; 8];
        for (to, from) in to.iter_mut().zip(from.as_chunks::<2>().0) {
            *to = i16::from_le_bytes(*from);
        }
        to
    }

    #[inline(always)]
    fn store(self, words: [i16; 8], to: &mut [u8; 16]) {
        for (to, word) in to.as_chunks_mut::<2>().0.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
    }

    #[inline(always)]
    fn scaled(self, sums: [i32; 4], a: [i16; 8], b: [i16; 8]) -> [i32; 4] {
        let mut sums = sums;
        for (i, sum) in sums.iter_mut().enumerate() {
            for j in [2 * i, 2 * i + 1] {
                *sum = sum.wrapping_add(i32::from(a[j]) * i32::from(b[j]));
            }
        }
        sums
    }

    #[inline(always)]
    fn spread(self, log: u32) -> u32 {
        log
    }

    #[inline(always)]
    fn factors(self, log: u32, fields: u64) -> [i16; 8] {
        factors(log, fields).map(i16::from)
    }
}
