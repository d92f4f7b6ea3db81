//! [`Fixed`]: a machine word with a binary point, and its saturating arithmetic.

use super::word::{Wide, Word};
use crate::error::{Error, Result, What};

/// The real number `raw / 2^F` in a word of type `W`.
///
/// The numbers are the multiples of one ulp, `2^−F`, in `[−2^(B−1−F), 2^(B−1−F) − 2^−F]` with `B = W::BITS`:
/// `Fixed<i16, 12>` covers −8 ..= 7.99976 in steps of 0.000244, `Fixed<i32, 24>` −128 ..= 127.99999994 in steps of 6·10⁻⁸.
/// `F < B` is checked when the program is compiled. The layout is that of the word.
///
/// Every operation rounds once, to nearest with ties to even, and saturates: the result is the number of the format
/// nearest to the real result, so the error is at most ½ ulp wherever the real result lies in the interval.
///
/// ```
/// use qat_kernels::fixed::{Q16, Q32};
/// let w = Q16::<12>::from_ratio(5, 4);
/// assert_eq!(w.raw(), 5 << 10);
/// assert_eq!(w.saturating_mul(w).to_f32(), 1.5625);
/// assert_eq!(w.saturating_mul(Q16::<0>::from_raw(7)), Q16::MAX); // 8.75 does not fit, 7.99976 is nearest
/// assert_eq!(w.convert::<i32, 24>(), Q32::from_ratio(5, 4));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Fixed<W: Word, const F: u32>(W);

/// A 16-bit number with `F` bits after the point.
pub type Q16<const F: u32> = Fixed<i16, F>;
/// A 32-bit number with `F` bits after the point.
pub type Q32<const F: u32> = Fixed<i32, F>;

impl<W: Word, const F: u32> Fixed<W, F> {
    /// The smallest number, −2^(B−1−F).
    pub const MIN: Self = Self::from_raw(W::MIN);
    /// The largest number, 2^(B−1−F) − 2^−F.
    pub const MAX: Self = Self::from_raw(W::MAX);

    /// The number `raw / 2^F`.
    ///
    /// ```
    /// use qat_kernels::fixed::Q16;
    /// const RATE: Q16<12> = Q16::from_raw(3 << 10); // at compile time
    /// assert_eq!(RATE.to_f32(), 0.75);
    /// assert_eq!(Q16::<15>::from_raw(3 << 10).to_f32(), 0.09375); // the same word, the point elsewhere
    /// ```
    #[must_use]
    #[inline(always)]
    pub const fn from_raw(raw: W) -> Self {
        const { assert!(F < W::BITS, "more fractional bits than the word holds") };
        Self(raw)
    }

    /// The word that holds it: the number times 2^F.
    ///
    /// ```
    /// use qat_kernels::fixed::Q32;
    /// let w = Q32::<20>::from_ratio(-1, 4);
    /// assert_eq!(w.raw(), -(1 << 18));
    /// // What goes over a wire or into a checksum.
    /// assert_eq!(Q32::from_raw(i32::from_le_bytes(w.raw().to_le_bytes())), w);
    /// ```
    #[must_use]
    #[inline(always)]
    pub const fn raw(self) -> W {
        self.0
    }

    /// `raw / 2^F` for a raw value of any size, clamped to the interval.
    ///
    /// ```
    /// use qat_kernels::fixed::Q16;
    /// let samples = [Q16::<8>::from_ratio(100, 1); 3];
    /// let sum: i64 = samples.iter().map(|x| i64::from(x.raw())).sum(); // exact, in a wider word
    /// assert_eq!(Q16::<8>::saturating_from_raw(sum / 3), samples[0]);
    /// assert_eq!(Q16::<8>::saturating_from_raw(sum), Q16::MAX); // 300 is more than 127.996
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn saturating_from_raw(raw: i64) -> Self {
        Self::from_raw(W::saturate(raw))
    }

    /// `num / den`, rounded once; a quotient by zero is `MIN`, 0 or `MAX` by the sign of `num`.
    ///
    /// ```
    /// use qat_kernels::fixed::Q16;
    /// assert_eq!(Q16::<12>::from_ratio(1, 3).raw(), 1365); // 4096/3 = 1365⅓
    /// assert_eq!([1, 3, 5].map(|n| Q16::<0>::from_ratio(n, 2).raw()), [0, 2, 2]); // ½, 1½, 2½
    /// assert_eq!(Q16::<12>::from_ratio(-1, 0), Q16::MIN);
    /// ```
    #[must_use]
    pub fn from_ratio(num: i32, den: i32) -> Self {
        // |num|·2^F ≤ 2^62.
        Self::saturating_from_raw(i64::from(num).shift_left(F).divide(den.into()))
    }

    /// The nearest number to a float, computed on its bits with integers alone; beyond the interval, its end.
    ///
    /// # Errors
    /// [`Error::NotFinite`] (of [`What::Input`]) for NaN and infinities.
    ///
    /// ```
    /// use qat_kernels::{Error, What, fixed::Q16};
    /// assert_eq!(Q16::<12>::from_f32(0.3)?.raw(), 1229); // 1228.8
    /// assert_eq!(Q16::<12>::from_f32(-100.0)?, Q16::MIN); // −8
    /// let e = Error::NotFinite { what: What::Input, index: 0 };
    /// assert_eq!(Q16::<12>::from_f32(f32::NAN), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn from_f32(x: f32) -> Result<Self> {
        Self::from_f32_bits(x.to_bits())
    }

    /// [`Self::from_f32`] for the bits of a float, for programs that must not name the type.
    ///
    /// # Errors
    /// [`Error::NotFinite`] (of [`What::Input`]) for NaN and infinities.
    ///
    /// ```
    /// use qat_kernels::fixed::Q16;
    /// // A scale as it stands in a file: sign 0, exponent 127, fraction .5.
    /// let scale = Q16::<12>::from_f32_bits(u32::from_le_bytes([0x00, 0x00, 0xC0, 0x3F]))?;
    /// assert_eq!(scale, Q16::from_ratio(3, 2));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn from_f32_bits(bits: u32) -> Result<Self> {
        let exponent = (bits >> 23 & 0xff) as i32;
        let fraction = i64::from(bits & 0x7f_ffff);
        let magnitude = match exponent {
            0xff => return Err(Error::NotFinite { what: What::Input, index: 0 }),
            0 => super::word::scale(fraction, F as i32 - 149),
            e => super::word::scale(fraction | 0x80_0000, e - 150 + F as i32),
        };
        Ok(Self::saturating_from_raw(if bits >> 31 == 1 { -magnitude } else { magnitude }))
    }

    /// The nearest float, ties to even; exact for 16-bit words and for 32-bit words of at most 24 significant bits.
    ///
    /// ```
    /// use qat_kernels::fixed::{Q16, Q32};
    /// assert_eq!(Q16::<12>::MAX.to_f32(), 8.0 - 1.0 / 4096.0); // exact
    /// assert_eq!(Q32::<0>::from_raw((1 << 24) + 1).to_f32(), 16_777_216.0); // 25 bits: to even
    /// ```
    #[must_use]
    pub fn to_f32(self) -> f32 {
        f32::from_bits(self.to_f32_bits())
    }

    /// The bits of [`Self::to_f32`], computed with integers alone.
    ///
    /// ```
    /// use qat_kernels::fixed::Q16;
    /// let bits = Q16::<12>::from_ratio(-3, 2).to_f32_bits(); // without a float instruction
    /// assert_eq!(bits, 0xBFC0_0000);
    /// assert_eq!(bits, (-1.5_f32).to_bits());
    /// ```
    #[must_use]
    pub fn to_f32_bits(self) -> u32 {
        let raw = self.0.to_i64();
        let sign = u32::from(raw < 0) << 31;
        let magnitude = raw.unsigned_abs();
        if magnitude == 0 {
            return 0;
        }
        // A word below 2^31 and a point at most 31 places in give normal floats only. Rounding 2^24 − ½ up to 2^24 carries
        // into the exponent, which is then the right one.
        let top = 63 - magnitude.leading_zeros();
        let significand = if top > 23 {
            (magnitude as i64).shift_right(top - 23)
        } else {
            (magnitude as i64) << (23 - top)
        };
        sign | (((top + 127 - F) << 23) + (significand as u32 - (1 << 23)))
    }

    /// The sum, clamped.
    ///
    /// ```
    /// use qat_kernels::fixed::Q16;
    /// let five = Q16::<12>::from_ratio(5, 1);
    /// assert_eq!(five.saturating_add(Q16::from_ratio(-7, 2)).to_f32(), 1.5);
    /// assert_eq!(five.saturating_add(five), Q16::MAX); // 10 is beyond 8
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn saturating_add(self, rhs: Self) -> Self {
        Self(W::narrow(W::Wide::from(self.0) + rhs.0.into()))
    }

    /// The difference, clamped.
    ///
    /// ```
    /// use qat_kernels::fixed::Q16;
    /// let (prediction, target) = (Q16::<12>::from_ratio(1, 4), Q16::from_ratio(1, 1));
    /// assert_eq!(prediction.saturating_sub(target).to_f32(), -0.75);
    /// assert_eq!(Q16::<12>::MIN.saturating_sub(target), Q16::MIN);
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn saturating_sub(self, rhs: Self) -> Self {
        Self(W::narrow(W::Wide::from(self.0) - rhs.0.into()))
    }

    /// `−self`; `−MIN` is `MAX`.
    ///
    /// ```
    /// use qat_kernels::fixed::Q16;
    /// assert_eq!(Q16::<15>::from_ratio(1, 2).saturating_neg().to_f32(), -0.5);
    /// assert_eq!(Q16::<15>::MIN.saturating_neg(), Q16::MAX); // 1 is one ulp too much
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn saturating_neg(self) -> Self {
        Self::default().saturating_sub(self)
    }

    /// `|self|`; `|MIN|` is `MAX`.
    ///
    /// ```
    /// use qat_kernels::fixed::Q16;
    /// let errors = [3, -5, 1].map(|e| Q16::<12>::from_ratio(e, 1));
    /// let largest = errors.iter().map(|e| e.saturating_abs()).max();
    /// assert_eq!(largest, Some(Q16::from_ratio(5, 1)));
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn saturating_abs(self) -> Self {
        if self.0 < W::default() { self.saturating_neg() } else { self }
    }

    /// The product with a number of any format, in the format of `self`: rounded once, clamped.
    ///
    /// ```
    /// use qat_kernels::fixed::Q16;
    /// let x = Q16::<12>::from_ratio(3, 1);
    /// assert_eq!(x.saturating_mul(Q16::<15>::from_ratio(3, 4)).to_f32(), 2.25); // the format of x
    /// assert_eq!(x.saturating_mul(x), Q16::MAX); // 9 is beyond 8
    /// let ulp = Q16::<12>::from_raw(1);
    /// assert_eq!(ulp.saturating_mul(ulp), Q16::default()); // 2^−24 is nearest to 0
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn saturating_mul<const G: u32>(self, rhs: Fixed<W, G>) -> Self {
        let product = W::Wide::from(self.0) * rhs.0.into();
        Self(W::narrow(product.shift_right(G)))
    }

    /// The quotient by a number of any format, in the format of `self`: rounded once, clamped. A quotient by zero is
    /// `MIN`, 0 or `MAX` by the sign of `self`.
    ///
    /// ```
    /// use qat_kernels::fixed::Q16;
    /// let x = Q16::<12>::from_ratio(3, 1);
    /// assert_eq!(x.saturating_div(Q16::<8>::from_ratio(4, 1)).to_f32(), 0.75);
    /// assert_eq!(x.saturating_div(Q16::<15>::from_ratio(1, 4)), Q16::MAX); // 12
    /// assert_eq!(x.saturating_neg().saturating_div(Q16::<0>::default()), Q16::MIN);
    /// ```
    #[must_use]
    #[inline]
    pub fn saturating_div<const G: u32>(self, rhs: Fixed<W, G>) -> Self {
        Self(W::narrow(W::Wide::from(self.0).shift_left(G).divide(rhs.0.into())))
    }

    /// The number in another format: rounded once, clamped.
    ///
    /// ```
    /// use qat_kernels::fixed::{Q16, Q32};
    /// let shadow = Q32::<24>::from_ratio(5, 2);
    /// let weight: Q16<12> = shadow.convert();
    /// assert_eq!(weight.to_f32(), 2.5); // fewer places, but enough
    /// assert_eq!(shadow.convert::<i16, 0>().raw(), 2); // a tie, to even
    /// assert_eq!(shadow.convert::<i16, 15>(), Q16::MAX); // below 1
    /// ```
    #[must_use]
    #[inline]
    pub fn convert<V: Word, const G: u32>(self) -> Fixed<V, G> {
        Fixed::saturating_from_raw(super::word::scale(self.0.to_i64(), G as i32 - F as i32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The number of format `F` nearest to `x`, as a raw word, by f64 arithmetic: exact for what 16-bit words produce.
    fn nearest<W: Word>(x: f64, f: u32) -> i64 {
        (x * (1_i64 << f) as f64).round_ties_even().clamp(W::MIN.to_i64() as f64, W::MAX.to_i64() as f64)
            as i64
    }

    fn real<W: Word, const F: u32>(x: Fixed<W, F>) -> f64 {
        x.raw().to_i64() as f64 / (1_i64 << F) as f64
    }

    /// Second operands: every edge, every power of two and its neighbours, and a walk through the rest.
    fn partners() -> Vec<i16> {
        let mut p: Vec<i16> = (0..15).flat_map(|s| [(1 << s) - 1, 1 << s, -(1 << s), 1 - (1 << s)]).collect();
        p.extend([i16::MIN, i16::MIN + 1, i16::MAX, i16::MAX - 1]);
        p.extend((0..64).map(|i: i32| ((i * 40_503) & 0xffff) as u16 as i16));
        p
    }

    fn check_pair<const F: u32, const G: u32>(a: i16, b: i16) {
        let (x, y, same) = (Q16::<F>::from_raw(a), Q16::<G>::from_raw(b), Q16::<F>::from_raw(b));
        let eq = |name, got: Q16<F>, exact: f64| {
            assert_eq!(i64::from(got.raw()), nearest::<i16>(exact, F), "{name} {a} {b} Q{F} Q{G}");
        };
        eq("add", x.saturating_add(same), real(x) + real(same));
        eq("sub", x.saturating_sub(same), real(x) - real(same));
        eq("mul", x.saturating_mul(y), real(x) * real(y));
        if b != 0 {
            // A quotient of 16-bit words is either a tie exactly or at least 2^−17 away from one, relative to 2^15:
            // f64 tells the two apart.
            eq("div", x.saturating_div(y), real(x) / real(y));
        }
    }

    #[test]
    fn sixteen_bit_operations_are_the_nearest_number() {
        let partners = partners();
        for a in i16::MIN..=i16::MAX {
            for &b in &partners {
                check_pair::<12, 12>(a, b);
                check_pair::<15, 0>(a, b);
                check_pair::<0, 15>(a, b);
                check_pair::<8, 13>(a, b);
            }
        }
    }

    #[test]
    #[ignore = "all 2^32 pairs of two formats: minutes; run it in release after touching the arithmetic"]
    fn sixteen_bit_operations_are_the_nearest_number_for_every_pair() {
        for a in i16::MIN..=i16::MAX {
            for b in i16::MIN..=i16::MAX {
                check_pair::<12, 12>(a, b);
                check_pair::<8, 13>(a, b);
            }
        }
    }

    #[test]
    fn sixteen_bit_conversions_are_exhaustively_right() {
        for raw in i16::MIN..=i16::MAX {
            let x = Q16::<12>::from_raw(raw);
            assert_eq!(f64::from(x.to_f32()), real(x));
            assert_eq!(Q16::<12>::from_f32(x.to_f32()), Ok(x));
            assert_eq!(i64::from(x.convert::<i16, 7>().raw()), nearest::<i16>(real(x), 7));
            assert_eq!(i64::from(x.convert::<i16, 15>().raw()), nearest::<i16>(real(x), 15));
            assert_eq!(x.convert::<i32, 28>().convert::<i16, 12>(), x);
            assert_eq!(i64::from(x.saturating_neg().raw()), nearest::<i16>(-real(x), 12));
            assert_eq!(i64::from(x.saturating_abs().raw()), nearest::<i16>(real(x).abs(), 12));
        }
    }

    #[test]
    fn ends_of_the_interval_saturate() {
        assert_eq!(Q32::<8>::MAX.saturating_add(Q32::from_raw(1)), Q32::MAX);
        assert_eq!(Q32::<8>::MIN.saturating_sub(Q32::from_raw(1)), Q32::MIN);
        assert_eq!(Q32::<8>::MIN.saturating_neg(), Q32::MAX);
        assert_eq!(Q32::<31>::MIN.saturating_mul(Q32::<31>::MIN), Q32::MAX); // (−1)·(−1) = 1 is one ulp too much
        assert_eq!(Q32::<0>::MIN.saturating_mul(Q32::<0>::MIN), Q32::MAX);
        assert_eq!(Q32::<8>::MIN.saturating_div(Q32::<31>::from_raw(-1)), Q32::MAX);
        assert_eq!(Q16::<8>::MIN.saturating_div(Q16::<8>::default()), Q16::MIN);
        assert_eq!(Q16::<8>::default().saturating_div(Q16::<8>::default()), Q16::default());
        assert_eq!(Q32::<0>::MAX.convert::<i16, 15>(), Q16::MAX);
    }

    #[test]
    fn floats_without_a_value_are_refused_and_large_ones_clamp() {
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(Q16::<12>::from_f32(x), Err(Error::NotFinite { what: What::Input, index: 0 }));
        }
        assert_eq!(Q32::<31>::from_f32(f32::MAX), Ok(Q32::MAX));
        assert_eq!(Q32::<31>::from_f32(f32::MIN), Ok(Q32::MIN));
        assert_eq!(Q32::<31>::from_f32(1e-45), Ok(Q32::default()));
        assert_eq!(Q32::<31>::from_f32(-0.0), Ok(Q32::default()));
        assert_eq!(Q16::<1>::from_f32(0.25), Ok(Q16::default())); // a tie, to even
        assert_eq!(Q16::<1>::from_f32(0.75), Ok(Q16::from_raw(2)));
    }

    fn nearest_i128(num: i128, den: i128) -> i128 {
        let (num, den) = if den < 0 { (-num, -den) } else { (num, den) };
        let (floor, twice) = (num.div_euclid(den), 2 * num.rem_euclid(den));
        let q = floor + i128::from(twice > den || (twice == den && floor.rem_euclid(2) == 1));
        q.clamp(i32::MIN.into(), i32::MAX.into())
    }

    proptest! {
        #[test]
        fn thirty_two_bit_operations_are_the_nearest_number(a: i32, b: i32, shift in 0_u32..31) {
            let b = b >> shift; // small divisors and factors too
            let (x, y) = (Q32::<20>::from_raw(a), Q32::<27>::from_raw(b));
            let (wa, wb) = (i128::from(a), i128::from(b));
            prop_assert_eq!(i128::from(x.saturating_mul(y).raw()), nearest_i128(wa * wb, 1 << 27));
            prop_assert_eq!(i128::from(x.saturating_add(Q32::from_raw(b)).raw()), nearest_i128(wa + wb, 1));
            prop_assert_eq!(i128::from(x.saturating_sub(Q32::from_raw(b)).raw()), nearest_i128(wa - wb, 1));
            if b != 0 {
                prop_assert_eq!(i128::from(x.saturating_div(y).raw()), nearest_i128(wa << 27, wb));
                prop_assert_eq!(i128::from(Q32::<13>::from_ratio(a, b).raw()), nearest_i128(wa << 13, wb));
            }
            prop_assert_eq!(i128::from(x.convert::<i32, 9>().raw()), nearest_i128(wa, 1 << 11));
            prop_assert_eq!(i128::from(x.convert::<i32, 31>().raw()), nearest_i128(wa << 11, 1));
        }

        #[test]
        fn floats_convert_as_real_numbers_do(bits: u32, raw: i32) {
            let x = f32::from_bits(bits);
            if x.is_finite() {
                prop_assert_eq!(i64::from(Q32::<20>::from_f32(x).unwrap().raw()), nearest::<i32>(x.into(), 20));
                prop_assert_eq!(i64::from(Q16::<15>::from_f32(x).unwrap().raw()), nearest::<i16>(x.into(), 15));
            }
            // f64 holds the number, and the cast rounds to nearest, ties to even.
            prop_assert_eq!(Q32::<20>::from_raw(raw).to_f32(), real(Q32::<20>::from_raw(raw)) as f32);
            prop_assert_eq!(Q32::<31>::from_raw(raw).to_f32(), real(Q32::<31>::from_raw(raw)) as f32);
        }
    }
}
