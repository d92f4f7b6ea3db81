//! Randomised Hadamard rotation: incoherence processing for low-bit weights (Chee et al. 2023, QuIP; Tseng et al. 2024,
//! QuIP#).
//!
//! With R orthogonal, `W·x = (W·Rᵀ)·(R·x)`. For `R = (1/√n)·H·D`, H the Hadamard matrix (entries ±1, H·Hᵀ = n·I) and D a
//! diagonal of random signs, every rotated weight is a sum over a whole block of the row with random signs: outliers are
//! spread, rows become about Gaussian, and a grid of few levels fits them better. Weights are rotated once, when they
//! are quantised ([`Rotation::rotate_rows`]); activations each time, by n·log₂n additions and no multiplication.
//!
//! **Blocks.** H exists here for powers of two. A vector of another length is cut into the largest powers of two that
//! fit, largest first (384 = 256 + 128, 100 = 64 + 32 + 4), or not larger than a limit; a block of one number gets its
//! sign only. [`Rotation::even`] makes blocks of one size instead, the largest power of two that divides the length
//! (384 = 3·128, 100 = 25·4). That is what an integer engine wants:
//!
//! **Integers.** The integer methods leave out 1/√n, so that they are exact: they compute `H·D·x`, which is √n times the
//! rotation. The factor goes into the layer's multiplier, hence must be the same for all blocks. Numbers grow: from
//! |x| ≤ m to at most n·m, at every stage on the way as well.
//!
//! **Signs.** Number i of a vector is negated if bit i mod 64 of the word `mix(seed + (⌊i/64⌋ + 1)·0x9E3779B97F4A7C15)` is
//! set, mix being the output function of SplitMix64 (Steele et al. 2014). The seed and the block limit are all that has
//! to be stored.

mod butterflies;

use crate::arch::{Backend, Kernel};
use crate::error::{Error, Result, What};
use butterflies::{Halved, Whole, transform, transform_orthonormal};
use core::ops::Range;

/// The largest block for which activations fit i16: |x − z| ≤ 255 grows to at most 255·128 = 32,640.
pub const MAX_I16_BLOCK: usize = 128;

/// A rotation, given by a seed and the largest block.
///
/// ```
/// use qat_kernels::hadamard::Rotation;
/// let rotation = Rotation::new(1);
/// // A layer's output does not change when weights and input are rotated.
/// let (mut weights, mut x) = ([1.0, 2.0, 3.0, 4.0, 0.0, -1.0, 0.5, 2.0], [0.5, -1.0, 2.0, 0.25]);
/// let layer = |weights: &[f32], x: &[f32]| -> Vec<f32> {
///     weights.chunks(4).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
/// };
/// let before = layer(&weights, &x);
/// rotation.rotate_rows(&mut weights, 4)?;
/// rotation.rotate(&mut x)?;
/// assert!(layer(&weights, &x).iter().zip(before).all(|(a, b)| (a - b).abs() < 1e-5));
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rotation {
    seed: u64,
    max_block: usize,
}

impl Rotation {
    /// Blocks as large as they fit.
    ///
    /// ```
    /// use qat_kernels::hadamard::Rotation;
    /// assert_eq!(Rotation::new(3).blocks(100).collect::<Vec<_>>(), [0..64, 64..96, 96..100]);
    /// ```
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, max_block: 1 << (usize::BITS - 1) }
    }

    /// Blocks of one size for vectors of `len`: the largest power of two that divides it.
    ///
    /// # Errors
    /// [`Error::Empty`] for a length of 0.
    ///
    /// ```
    /// use qat_kernels::{Error, What, hadamard::Rotation};
    /// assert_eq!(Rotation::even(7, 100)?.max_block(), 4); // 25·4
    /// assert_eq!(Rotation::even(7, 768)?.max_block(), 256); // 3·256
    /// assert_eq!(Rotation::even(7, 0), Err(Error::Empty { what: What::Input }));
    /// # Ok::<(), Error>(())
    /// ```
    pub const fn even(seed: u64, len: usize) -> Result<Self> {
        if len == 0 {
            return Err(Error::Empty { what: What::Input });
        }
        Ok(Self { seed, max_block: 1 << len.trailing_zeros() })
    }

    /// Blocks no larger than `max_block`, or than they were if that is less.
    ///
    /// # Errors
    /// [`Error::Range`] unless `max_block` is a power of two.
    ///
    /// ```
    /// use qat_kernels::hadamard::Rotation;
    /// let rotation = Rotation::new(0).with_max_block(64)?;
    /// assert_eq!(rotation.max_block(), 64);
    /// assert_eq!(rotation.with_max_block(256)?.max_block(), 64); // a limit is never raised
    /// assert!(rotation.with_max_block(48).is_err());
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub const fn with_max_block(self, max_block: usize) -> Result<Self> {
        if !max_block.is_power_of_two() {
            let value = max_block as f32;
            return Err(Error::Range { what: What::Group, value, min: 1.0, max: self.max_block as f32 });
        }
        Ok(if max_block < self.max_block { Self { max_block, ..self } } else { self })
    }

    /// The seed of the signs.
    ///
    /// ```
    /// use qat_kernels::hadamard::Rotation;
    /// let rotation = Rotation::even(42, 640)?;
    /// let stored = (rotation.seed(), rotation.max_block());
    /// assert_eq!(stored, (42, 128));
    /// assert_eq!(Rotation::new(stored.0).with_max_block(stored.1)?, rotation);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn seed(self) -> u64 {
        self.seed
    }

    /// The limit of the block size.
    ///
    /// ```
    /// use qat_kernels::hadamard::{MAX_I16_BLOCK, Rotation};
    /// assert!(Rotation::even(5, 896)?.max_block() <= MAX_I16_BLOCK); // 7·128: activations fit i16
    /// assert!(Rotation::even(5, 1024)?.max_block() > MAX_I16_BLOCK);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn max_block(self) -> usize {
        self.max_block
    }

    /// The blocks of a vector of `len`.
    ///
    /// ```
    /// use qat_kernels::hadamard::Rotation;
    /// let sizes = |rotation: Rotation, len| rotation.blocks(len).map(|block| block.len()).collect::<Vec<_>>();
    /// assert_eq!(sizes(Rotation::new(0), 384), [256, 128]);
    /// assert_eq!(sizes(Rotation::even(0, 384)?, 384), [128, 128, 128]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn blocks(self, len: usize) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        core::iter::from_fn(move || {
            let left = len - start;
            if left == 0 {
                return None;
            }
            let fits = 1 << left.ilog2();
            let block = start..start + if fits < self.max_block { fits } else { self.max_block };
            start = block.end;
            Some(block)
        })
    }

    /// `x ← R·x`, each block by `(1/√n)·H·D`: keeps lengths and angles, up to rounding.
    ///
    /// # Errors
    /// [`Error::Empty`].
    ///
    /// ```
    /// use qat_kernels::hadamard::Rotation;
    /// let mut x = [8.0, 0.0, 0.0, 0.0];
    /// Rotation::new(5).rotate(&mut x)?;
    /// assert_eq!(x.map(f32::abs), [4.0; 4]); // the outlier is spread, the length is kept: 8² = 4·4²
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn rotate(self, x: &mut [f32]) -> Result<()> {
        not_empty(x, What::Input)?;
        self.rotate_one(x);
        Ok(())
    }

    /// `x ← Rᵀ·x`, which undoes [`Self::rotate`] up to rounding.
    ///
    /// # Errors
    /// [`Error::Empty`].
    ///
    /// ```
    /// use qat_kernels::hadamard::Rotation;
    /// let rotation = Rotation::new(11);
    /// let mut x = [1.5, -2.0, 0.25, 3.0];
    /// rotation.rotate(&mut x)?;
    /// rotation.rotate_back(&mut x)?;
    /// assert_eq!(x, [1.5, -2.0, 0.25, 3.0]); // exact here: √4 = 2
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn rotate_back(self, x: &mut [f32]) -> Result<()> {
        not_empty(x, What::Input)?;
        self.rotate_one_back(x);
        Ok(())
    }

    /// `W ← W·Rᵀ`: rotates each row of a matrix with rows of `columns`, as the rows of a linear layer's weights before
    /// they are quantised; the layer then takes rotated inputs.
    ///
    /// # Errors
    /// [`Error::Empty`] for no weights or no columns; [`Error::NotDivisible`] if the rows are not whole.
    ///
    /// ```
    /// use qat_kernels::{Error, What, hadamard::Rotation};
    /// let rotation = Rotation::new(2);
    /// let (mut weights, mut second) = ([0.5, -1.0, 2.0, 0.0, 3.0, 1.0], [0.0, 3.0, 1.0]);
    /// rotation.rotate_rows(&mut weights, 3)?;
    /// rotation.rotate(&mut second)?;
    /// assert_eq!(weights[3..], second);
    /// assert_eq!(
    ///     rotation.rotate_rows(&mut weights, 4),
    ///     Err(Error::NotDivisible { what: What::Weights, len: 6, by: 4 })
    /// );
    /// # Ok::<(), Error>(())
    /// ```
    pub fn rotate_rows(self, weights: &mut [f32], columns: usize) -> Result<()> {
        rows(weights, columns)?.for_each(|row| self.rotate_one(row));
        Ok(())
    }

    /// `W ← W·R`, which undoes [`Self::rotate_rows`] up to rounding. For the gradient: if ŵ was made of rotated rows and
    /// rotated back, so are gradients rotated forth and back.
    ///
    /// # Errors
    /// As [`Self::rotate_rows`].
    ///
    /// ```
    /// use qat_kernels::hadamard::Rotation;
    /// let rotation = Rotation::even(8, 4)?;
    /// let mut gradient = [1.0, 0.0, -3.0, 0.5, 2.0, 2.0, -1.0, 4.0]; // of two rows
    /// rotation.rotate_rows(&mut gradient, 4)?;
    /// rotation.rotate_rows_back(&mut gradient, 4)?;
    /// assert_eq!(gradient, [1.0, 0.0, -3.0, 0.5, 2.0, 2.0, -1.0, 4.0]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn rotate_rows_back(self, weights: &mut [f32], columns: usize) -> Result<()> {
        rows(weights, columns)?.for_each(|row| self.rotate_one_back(row));
        Ok(())
    }

    /// `x ← H·D·x` in integers: √n times the rotation of each block, exactly.
    ///
    /// # Errors
    /// [`Error::Empty`]; [`Error::Range`] if the largest |x| times the largest block could exceed an i32, in which case
    /// `x` is untouched.
    ///
    /// ```
    /// use qat_kernels::hadamard::Rotation;
    /// let rotation = Rotation::new(9);
    /// let mut x = [5, -3, 0, 7, 1, 2];
    /// rotation.rotate_i32(&mut x)?;
    /// rotation.rotate_back_i32(&mut x)?;
    /// assert_eq!(x, [5, -3, 0, 7, 1, 2]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn rotate_i32(self, x: &mut [i32]) -> Result<()> {
        let largest = x.iter().map(|x| x.unsigned_abs()).max().ok_or(Error::Empty { what: What::Input })?;
        let block = self.largest_block(x.len());
        let limit = i32::MAX as usize / block;
        if largest as usize > limit {
            let max = limit as f32;
            return Err(Error::Range { what: What::Input, value: largest as f32, min: -max, max });
        }
        self.negate(x);
        self.blocks(x.len()).for_each(|block| transform::<Whole<i32>>(&mut x[block]));
        Ok(())
    }

    /// `x ← D·H⁻¹·x`, the exact inverse of [`Self::rotate_i32`]. Integers that did not come from there are rounded on
    /// the way.
    ///
    /// # Errors
    /// [`Error::Empty`].
    ///
    /// ```
    /// use qat_kernels::hadamard::Rotation;
    /// let mut x = [12, -4, -6, 2]; // H·(1, 2, 3, 6)
    /// Rotation::new(0).rotate_back_i32(&mut x)?;
    /// assert_eq!(x, [-1, -2, -3, -6]); // this seed negates the first four
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn rotate_back_i32(self, x: &mut [i32]) -> Result<()> {
        not_empty(x, What::Input)?;
        self.blocks(x.len()).for_each(|block| transform::<Halved>(&mut x[block]));
        self.negate(x);
        Ok(())
    }

    /// `out = H·D·(x − z)` for int8 activations with zero point z, exactly: |x − z| ≤ 255, so that |out| ≤ 255·n.
    ///
    /// # Errors
    /// [`Error::Empty`]; [`Error::Length`]; [`Error::Range`] for a block larger than [`MAX_I16_BLOCK`] (set a limit with
    /// [`Self::with_max_block`]).
    ///
    /// ```
    /// use qat_kernels::hadamard::Rotation;
    /// let mut out = [0; 4];
    /// Rotation::new(0).rotate_i8_to_i16(&[3, 3, 3, 3], 3, &mut out)?;
    /// assert_eq!(out, [0; 4]); // the zero point is 0 and stays 0
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn rotate_i8_to_i16(self, x: &[i8], zero_point: i8, out: &mut [i16]) -> Result<()> {
        check_i8(x, out.len())?;
        let block = self.largest_block(x.len());
        if block > MAX_I16_BLOCK {
            let max = MAX_I16_BLOCK as f32;
            return Err(Error::Range { what: What::Group, value: block as f32, min: 1.0, max });
        }
        for (out, &x) in out.iter_mut().zip(x) {
            *out = i16::from(x) - i16::from(zero_point);
        }
        self.negate(out);
        self.blocks(x.len()).for_each(|block| transform::<Whole<i16>>(&mut out[block]));
        Ok(())
    }

    /// As [`Self::rotate_i8_to_i16`] in i32, for blocks up to 2^23 = 8,388,608.
    ///
    /// # Errors
    /// [`Error::Empty`]; [`Error::Length`]; [`Error::Range`] for a larger block.
    ///
    /// ```
    /// use qat_kernels::hadamard::Rotation;
    /// let (mut x, mut out) = ([-128; 256], [0; 256]);
    /// x[9] = 127; // 255 above the zero point
    /// Rotation::new(1).rotate_i8_to_i32(&x, -128, &mut out)?;
    /// assert!(out.iter().all(|y| y.abs() == 255));
    /// assert!(Rotation::new(1).rotate_i8_to_i16(&x, -128, &mut [0; 256]).is_err()); // could exceed an i16
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn rotate_i8_to_i32(self, x: &[i8], zero_point: i8, out: &mut [i32]) -> Result<()> {
        const MAX_I32_BLOCK: usize = 1 << 23;
        check_i8(x, out.len())?;
        let block = self.largest_block(x.len());
        if block > MAX_I32_BLOCK {
            let max = MAX_I32_BLOCK as f32;
            return Err(Error::Range { what: What::Group, value: block as f32, min: 1.0, max });
        }
        for (out, &x) in out.iter_mut().zip(x) {
            *out = i32::from(x) - i32::from(zero_point);
        }
        self.negate(out);
        self.blocks(x.len()).for_each(|block| transform::<Whole<i32>>(&mut out[block]));
        Ok(())
    }

    /// Whether number `i` of a vector is negated.
    ///
    /// ```
    /// let rotation = qat_kernels::hadamard::Rotation::new(0);
    /// // SplitMix64's first number for seed 0 is 0xE220_A839_7B1D_CDAF: its lowest byte is 1010_1111.
    /// assert_eq!([0, 1, 2, 3].map(|i| rotation.negates(i)), [true; 4]);
    /// assert_eq!([4, 5, 6, 7].map(|i| rotation.negates(i)), [false, true, false, true]);
    /// ```
    #[must_use]
    #[inline]
    pub const fn negates(self, i: usize) -> bool {
        self.sign_word(i / 64) >> (i % 64) & 1 == 1
    }

    #[inline]
    pub(crate) const fn sign_word(self, index: usize) -> u64 {
        let z = self.seed.wrapping_add((index as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn largest_block(self, len: usize) -> usize {
        self.blocks(len).next().map_or(1, |block| block.len())
    }

    fn rotate_one(self, x: &mut [f32]) {
        for block in self.blocks(x.len()) {
            // Blocks start at multiples of their size, so one of 64 or more begins with a word of signs, and a smaller
            // one lies within a word.
            let (first, shift) = (block.start / 64, block.start % 64);
            transform_orthonormal(&mut x[block], |i| self.sign_word(first + i) >> shift);
        }
    }

    fn rotate_one_back(self, x: &mut [f32]) {
        self.blocks(x.len()).for_each(|block| transform_orthonormal(&mut x[block], |_| 0));
        Backend::best().run(Flip { rotation: self, x, by: |x: f32, top| f32::from_bits(x.to_bits() ^ top) });
    }

    /// `x ← D·x` in integers.
    fn negate<I: Signed>(self, x: &mut [I]) {
        Backend::best().run(Flip { rotation: self, x, by: I::negated_if });
    }
}

/// Integers that can be negated without a branch.
trait Signed: Copy {
    /// −x if the top bit is set.
    fn negated_if(self, top: u32) -> Self;
}

impl Signed for i32 {
    #[inline(always)]
    fn negated_if(self, top: u32) -> Self {
        let all = top as i32 >> 31; // all bits or none: −x = !x + 1
        (self ^ all).wrapping_sub(all)
    }
}

impl Signed for i16 {
    #[inline(always)]
    fn negated_if(self, top: u32) -> Self {
        let all = (top >> 16) as i16 >> 15;
        (self ^ all).wrapping_sub(all)
    }
}

/// Applies `by` to every number and its sign, which is the top bit of a word that is otherwise 0.
struct Flip<'a, T, F> {
    rotation: Rotation,
    x: &'a mut [T],
    by: F,
}

impl<T: Copy, F: Fn(T, u32) -> T> Kernel for Flip<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (index, x) in self.x.chunks_mut(64).enumerate() {
            let word = self.rotation.sign_word(index);
            for (x, signs) in x.chunks_mut(32).zip([word as u32, (word >> 32) as u32]) {
                // Whole chunks have a length that compilers know.
                if let Ok(whole) = <&mut [T; 32]>::try_from(&mut *x) {
                    flip(whole, signs, &self.by);
                } else {
                    flip(x, signs, &self.by);
                }
            }
        }
    }
}

#[inline(always)]
fn flip<T: Copy>(x: &mut [T], signs: u32, by: &impl Fn(T, u32) -> T) {
    for (i, x) in x.iter_mut().enumerate() {
        *x = by(*x, signs << (31 - i) & 0x8000_0000);
    }
}

/// `x ← H·x/√n` for a length n that is a power of two, without signs: its own inverse up to rounding.
///
/// # Errors
/// [`Error::Empty`]; [`Error::NotDivisible`] for a length that is not a power of two.
///
/// ```
/// let mut x = [1.0, 2.0, 3.0, 6.0];
/// qat_kernels::hadamard::walsh_hadamard(&mut x)?;
/// assert_eq!(x, [6.0, -2.0, -3.0, 1.0]);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn walsh_hadamard(x: &mut [f32]) -> Result<()> {
    power_of_two(x.len())?;
    transform_orthonormal(x, |_| 0);
    Ok(())
}

/// `x ← H·x` in integers, without signs: twice gives `n·x`, H·Hᵀ = n·I. What exceeds an i32 wraps: |x| ≤ m grows to at
/// most n·m.
///
/// # Errors
/// As [`walsh_hadamard`].
///
/// ```
/// let mut x = [1, 2, 3, 6];
/// qat_kernels::hadamard::walsh_hadamard_i32(&mut x)?;
/// assert_eq!(x, [12, -4, -6, 2]);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn walsh_hadamard_i32(x: &mut [i32]) -> Result<()> {
    power_of_two(x.len())?;
    transform::<Whole<i32>>(x);
    Ok(())
}

fn power_of_two(len: usize) -> Result<()> {
    match len {
        0 => Err(Error::Empty { what: What::Input }),
        len if len.is_power_of_two() => Ok(()),
        len => Err(Error::NotDivisible { what: What::Input, len, by: 1 << len.ilog2() }),
    }
}

fn not_empty<T>(x: &[T], what: What) -> Result<()> {
    if x.is_empty() { Err(Error::Empty { what }) } else { Ok(()) }
}

fn rows(weights: &mut [f32], columns: usize) -> Result<impl Iterator<Item = &mut [f32]>> {
    not_empty(weights, What::Weights)?;
    if columns == 0 {
        return Err(Error::Empty { what: What::Columns });
    }
    if weights.len().is_multiple_of(columns) {
        Ok(weights.chunks_exact_mut(columns))
    } else {
        Err(Error::NotDivisible { what: What::Weights, len: weights.len(), by: columns })
    }
}

fn check_i8(x: &[i8], out: usize) -> Result<()> {
    not_empty(x, What::Input)?;
    if x.len() == out {
        Ok(())
    } else {
        Err(Error::Length { what: What::Output, expected: x.len(), got: out })
    }
}

#[cfg(test)]
mod tests;
