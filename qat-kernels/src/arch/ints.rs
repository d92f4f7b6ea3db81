//! Vectors of small integers, for products of packed codes and int8 activations.
//!
//! The kernels are written once, in safe Rust over [`Ints`]; a backend gives the few operations that compilers do not find
//! by themselves. All of it is exact, so the backends agree bit for bit.

use super::Backend;
use super::factors::GROUP_FACTORS;

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
pub(super) mod aarch64_neon_dot;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86_avx512_vnni;

/// 2¹¹²: what the biases of the exponents of f32 and binary16 differ by.
const HALF_SCALE: f32 = f32::from_bits(239 << 23);

/// Operations on vectors of `LEN` bytes. A value of an implementing type is the proof that the machine has the
/// instructions.
pub(crate) trait Ints<const LEN: usize>: Copy {
    /// `LEN` bytes.
    type Bytes: Copy;
    /// `LEN/2` int16.
    type Words: Copy;
    /// `LEN/4` int32; additions wrap.
    type Sums: Copy;
    /// What [`Self::factors`] needs to know of a group size.
    type Spread: Copy;
    /// What [`Self::sum_factors`] needs to know of a group size.
    type SumSpread: Copy;
    /// `LEN/4` numbers in f32.
    type Reals: Copy;
    /// What [`Self::halves`] needs to know of a block size.
    type HalfSpread: Copy;
    /// What [`Self::dot_signed`] adds to every weight.
    const SIGNED_OFFSET: i32;
    /// Whether there are registers for the sums of several rows side by side.
    const SIDE_BY_SIDE: bool = true;

    fn bytes(self, from: &[u8; LEN]) -> Self::Bytes;
    /// Asks for the cache line at `at`, which need not be inside, ahead of its use.
    #[inline(always)]
    fn prefetch(self, _bytes: &[u8], _at: usize) {}
    /// Every byte with the bits of `pattern` flipped.
    fn flip(self, bytes: Self::Bytes, pattern: u8) -> Self::Bytes;
    /// `byte >> SHIFT & mask`; the mask has no bit that the shift brings in from another byte.
    fn field<const SHIFT: u32>(self, bytes: Self::Bytes, mask: u8) -> Self::Bytes;
    /// Every byte twice as large; the result must fit.
    fn double(self, bytes: Self::Bytes) -> Self::Bytes;
    /// Fields of three bits out of the first 3/4 of the bytes, eight fields in three bytes: of every eight, numbers 0, 1, 4
    /// and 5 are four bytes of the first vector, numbers 2, 3, 6 and 7 of the second one.
    fn thirds(self, bytes: Self::Bytes) -> [Self::Bytes; 2];

    /// Sums of nothing.
    fn zero(self) -> Self::Sums;
    /// Adds the products of unsigned weights, at most 127, and int8 activations, four neighbours to a sum.
    fn dot(self, sums: Self::Sums, w: Self::Bytes, x: Self::Bytes) -> Self::Sums;
    /// As [`Self::dot`] for int8 weights, each of which counts [`Self::SIGNED_OFFSET`] more than it is.
    fn dot_signed(self, sums: Self::Sums, w: Self::Bytes, x: Self::Bytes) -> Self::Sums;
    /// As [`Self::dot_signed`], with the products of four neighbours in the sum that is theirs.
    #[inline(always)]
    fn dot_signed_neighbours(self, sums: Self::Sums, w: Self::Bytes, x: Self::Bytes) -> Self::Sums {
        self.dot_signed(sums, w, x)
    }
    /// As [`Self::dot`] for up to four vectors of weights that are at most 15, or two of weights that are at most 30.
    #[inline(always)]
    fn dot_small<const N: usize>(
        self,
        sums: Self::Sums,
        w: [Self::Bytes; N],
        x: [Self::Bytes; N],
    ) -> Self::Sums {
        let mut sums = sums;
        for i in 0..N {
            sums = self.dot(sums, w[i], x[i]);
        }
        sums
    }
    /// Little-endian sums.
    fn sums(self, from: &[u8; LEN]) -> Self::Sums;
    /// The opposite of [`Self::sums`].
    fn store_sums(self, sums: Self::Sums, to: &mut [u8; LEN]);
    /// Adds every sum, which must fit an int16, times a factor of [`Self::sum_factors`].
    fn add_scaled(self, to: Self::Sums, sums: Self::Sums, factors: Self::Sums) -> Self::Sums;
    /// For groups of `2^log` sums, log ≤ 3.
    fn sum_spread(self, log: u32) -> Self::SumSpread;
    /// The group factors 60/k of all sums, from the fields k − 2 of two bits each, the first one lowest.
    fn sum_factors(self, spread: Self::SumSpread, fields: u32) -> Self::Sums;
    /// The sum of all sums.
    fn total(self, sums: Self::Sums) -> i32;

    /// Little-endian numbers.
    fn reals(self, from: &[u8; LEN]) -> Self::Reals;
    /// The opposite of [`Self::reals`].
    fn store_reals(self, reals: Self::Reals, to: &mut [u8; LEN]);
    /// The sums as numbers, rounded to nearest, ties to even.
    fn to_reals(self, sums: Self::Sums) -> Self::Reals;
    /// One rounding each, ties to even.
    fn times(self, a: Self::Reals, b: Self::Reals) -> Self::Reals;
    /// One rounding each, ties to even.
    fn plus(self, a: Self::Reals, b: Self::Reals) -> Self::Reals;
    /// For blocks of `2^log` numbers, log ≤ 4.
    fn half_spread(self, log: u32) -> Self::HalfSpread;
    /// The binary16 of each number's block: `bits·2¹³` as the bits of an f32, times 2¹¹², which is exact for what is positive
    /// and finite. The first block's comes first; at most `LEN/2` bytes count.
    fn halves(self, spread: Self::HalfSpread, from: &[u8; LEN]) -> Self::Reals;

    /// The products of unsigned weights, at most 127, and int8 activations, two neighbours added up.
    fn pairs(self, w: Self::Bytes, x: Self::Bytes) -> Self::Words;
    fn add(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// Little-endian words.
    fn words(self, from: &[u8; LEN]) -> Self::Words;
    /// The opposite of [`Self::words`].
    fn store(self, words: Self::Words, to: &mut [u8; LEN]);
    /// Adds the products of words, neighbours to one sum, in any order.
    fn scaled(self, sums: Self::Sums, a: Self::Words, b: Self::Words) -> Self::Sums;
    /// For groups of `2^log` words, log ≤ 4.
    fn spread(self, log: u32) -> Self::Spread;
    /// The group factors 60/k of all words, from the fields k − 2 of two bits each, the first one lowest.
    fn factors(self, spread: Self::Spread, fields: u64) -> Self::Words;
}

/// A computation over vectors of integers. `run` and all it calls must be `#[inline(always)]`, as for
/// [`Kernel`](super::Kernel).
pub(crate) trait IntKernel {
    /// What it returns.
    type Output;
    /// Does it.
    fn run<V: Ints<LEN>, const LEN: usize>(self, v: V) -> Self::Output;
}

impl Backend {
    /// Runs `kernel` on this backend's vectors of integers.
    #[inline]
    pub(crate) fn run_ints<K: IntKernel>(self, kernel: K) -> K::Output {
        match self.isa() {
            #[cfg(target_arch = "x86_64")]
            super::Isa::Avx512Vnni => x86_avx512_vnni::run(self, kernel),
            #[cfg(target_arch = "x86_64")]
            super::Isa::Avx2 | super::Isa::Avx512 => x86_avx2::run(self, kernel),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            super::Isa::NeonDot => aarch64_neon_dot::run(self, kernel),
            _ => kernel.run(portable::Portable),
        }
    }
}

#[cfg(test)]
mod tests;
