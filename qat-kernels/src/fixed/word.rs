//! The two machine words of the fixed-point path and the three roundings that everything else is built from.
//!
//! One rule everywhere: **to nearest, ties to even**. It is the rule of the quantiser (`Levels::round`, as torch rounds),
//! and it has no drift: a long series of small SGD updates rounded half up would creep towards +∞ by half an ulp on
//! every tie.

use core::fmt::Debug;
use core::hash::Hash;
use core::num::NonZero;
use core::ops::{Add, Mul, Sub};

mod sealed {
    /// Keeps the words to those of this crate, whose bounds were proven for them.
    ///
    /// ```compile_fail
    /// # #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    /// struct Nibble(i16);
    /// # impl From<Nibble> for i32 { fn from(nibble: Nibble) -> i32 { nibble.0.into() } }
    /// impl qat_kernels::fixed::Word for Nibble {
    ///     const BITS: u32 = 4;
    ///     // All that the trait asks for, and yet: "`Nibble: Sealed` is not satisfied".
    /// #   const MIN: Self = Nibble(-8);
    /// #   const MAX: Self = Nibble(7);
    /// #   type Wide = i32;
    /// #   fn to_i64(self) -> i64 { self.0.into() }
    /// #   fn saturate(x: i64) -> Self { Nibble(x.clamp(-8, 7) as i16) }
    /// #   fn narrow(x: i32) -> Self { Nibble(x.clamp(-8, 7) as i16) }
    /// }
    /// ```
    pub trait Sealed {}
    impl Sealed for i16 {}
    impl Sealed for i32 {}
    impl Sealed for i64 {}
}

/// A word that holds a fixed-point number: `i16` or `i32`. Sealed.
///
/// ```
/// use qat_kernels::fixed::{Fixed, Q16, Q32, Word};
/// assert_eq!((i16::saturate(40_000), i32::saturate(40_000)), (32_767, 40_000));
/// // For code that serves both widths:
/// fn ulps<W: Word, const F: u32>(a: Fixed<W, F>, b: Fixed<W, F>) -> u64 {
///     a.raw().to_i64().abs_diff(b.raw().to_i64())
/// }
/// assert_eq!(ulps(Q16::<12>::MIN, Q16::MAX), (1 << 16) - 1);
/// assert_eq!(ulps(Q32::<20>::from_ratio(1, 1), Q32::from_ratio(1, 2)), 1 << 19);
/// ```
pub trait Word: sealed::Sealed + Copy + Ord + Default + Debug + Hash + 'static {
    /// Bits of the word, sign included.
    const BITS: u32;
    /// The smallest word.
    const MIN: Self;
    /// The largest word.
    const MAX: Self;
    /// A word of twice the width, in which one product or one shifted dividend is exact: `i32` for `i16`, so that cores
    /// without 64-bit registers stay in one; `i64` for `i32`.
    type Wide: Wide + From<Self>;

    /// Sign extension.
    #[must_use]
    fn to_i64(self) -> i64;
    /// The nearest word: clamps to `MIN..=MAX`.
    #[must_use]
    fn saturate(x: i64) -> Self;
    /// The nearest word: clamps to `MIN..=MAX`.
    #[must_use]
    fn narrow(x: Self::Wide) -> Self;
}

/// The double-width companion of a [`Word`]: `i32` or `i64`. Sealed.
///
/// ```
/// use qat_kernels::fixed::Wide;
/// assert_eq!([5, 6, 7, -5].map(|x: i32| x.shift_right(1)), [2, 3, 4, -2]); // 2½, 3, 3½, −2½
/// assert_eq!([5, 6, 7, -5].map(|x: i64| x.divide(4)), [1, 2, 2, -1]); // 1¼, 1½, 1¾, −1¼
/// assert_eq!([5, 0, -5].map(|x: i32| x.divide(0)), [i32::MAX, 0, i32::MIN]);
/// ```
pub trait Wide:
    sealed::Sealed
    + Copy
    + Ord
    + Debug
    + From<i16>
    + Into<i64>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + 'static
{
    /// `x / 2^shift` to nearest, ties to even; exact for shift 0. `shift` is at most the width less two.
    #[must_use]
    fn shift_right(self, shift: u32) -> Self;
    /// `x · 2^shift`; the caller knows that it fits.
    #[must_use]
    fn shift_left(self, shift: u32) -> Self;
    /// `x / d` to nearest, ties to even. `x / 0` is the largest or smallest word by the sign of x, and `0 / 0` is 0.
    #[must_use]
    fn divide(self, d: Self) -> Self;
}

macro_rules! words {
    ($($word:ty => $wide:ty),*) => {$(
        impl Word for $word {
            const BITS: u32 = <$word>::BITS;
            const MIN: Self = <$word>::MIN;
            const MAX: Self = <$word>::MAX;
            type Wide = $wide;

            #[inline(always)]
            fn to_i64(self) -> i64 {
                i64::from(self)
            }

            #[inline(always)]
            fn saturate(x: i64) -> Self {
                x.clamp(<$word>::MIN as i64, <$word>::MAX as i64) as $word
            }

            #[inline(always)]
            fn narrow(x: $wide) -> Self {
                x.clamp(<$word>::MIN as $wide, <$word>::MAX as $wide) as $word
            }
        }
    )*};
}

words!(i16 => i32, i32 => i64);

macro_rules! wides {
    ($($wide:ty, $unsigned:ty);*) => {$(
        impl Wide for $wide {
            #[inline(always)]
            fn shift_right(self, shift: u32) -> Self {
                if shift == 0 {
                    return self;
                }
                // The floor and what it left. Adding the floor's lowest bit to the remainder turns "more than half, or
                // half and odd" into one comparison, and nothing here can overflow, whatever the input.
                let floor = self >> shift;
                let rest = self & ((1 << shift) - 1);
                floor + <$wide>::from(rest + (floor & 1) > 1 << (shift - 1))
            }

            #[inline(always)]
            fn shift_left(self, shift: u32) -> Self {
                self << shift
            }

            #[inline(always)]
            fn divide(self, d: Self) -> Self {
                // On magnitudes: dividing by a `NonZero` unsigned number is the one division without a panic path.
                let n = self.unsigned_abs();
                let negative = (self < 0) != (d < 0);
                let Some(d) = NonZero::new(d.unsigned_abs()) else {
                    return match self.signum() {
                        0 => 0,
                        1 => <$wide>::MAX,
                        _ => <$wide>::MIN,
                    };
                };
                let (floor, rest) = (n / d, n % d);
                // rest > d − rest is "more than half" without the doubling that could overflow.
                let other = d.get() - rest;
                let up = rest > other || (rest == other && floor & 1 == 1);
                let q = floor + <$unsigned>::from(up);
                let zero: $wide = 0;
                if negative { zero.saturating_sub_unsigned(q) } else { zero.saturating_add_unsigned(q) }
            }
        }
    )*};
}

wides!(i32, u32; i64, u64);

/// `num / den` in 128 bits, to nearest, ties to even, clamped to 64 bits; `den > 0`. For the sums of the step gradient,
/// which are exact until this one rounding.
#[must_use]
pub(crate) fn divide_i128(num: i128, den: i128) -> i64 {
    let Some(d) = NonZero::new(den.unsigned_abs()) else { return 0 };
    let n = num.unsigned_abs();
    let (floor, rest) = (n / d, n % d);
    let other = d.get() - rest;
    let q = floor + u128::from(rest > other || (rest == other && floor & 1 == 1));
    let q = u64::try_from(q).unwrap_or(u64::MAX);
    if (num < 0) != (den < 0) { 0_i64.saturating_sub_unsigned(q) } else { 0_i64.saturating_add_unsigned(q) }
}

/// `x · 2^shift` for a shift of either sign: to nearest, ties to even, and clamped to 64 bits.
#[must_use]
#[inline(always)]
pub(crate) fn scale(x: i64, shift: i32) -> i64 {
    match shift {
        ..=-64 => 0,
        -63 => i64::from(x > 1 << 62) - i64::from(x < -(1 << 62)),
        -62..=-1 => x.shift_right(shift.unsigned_abs()),
        0..=62 => x.saturating_mul(1 << shift),
        _ => match x.signum() {
            0 => 0,
            1 => i64::MAX,
            _ => i64::MIN,
        },
    }
}

/// `x · 2^shift` from 128 bits, `|x| < 2^126`: to nearest, ties to even, and clamped to 64 bits.
#[must_use]
pub(crate) fn scale_i128(x: i128, shift: i32) -> i64 {
    match shift {
        ..=-127 => 0,
        -126..=-1 => divide_i128(x, 1 << shift.unsigned_abs()),
        0..=126 => x.saturating_mul(1 << shift).clamp(i64::MIN.into(), i64::MAX.into()) as i64,
        _ => x.saturating_mul(i128::MAX).clamp(i64::MIN.into(), i64::MAX.into()) as i64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rule in the plainest words: look at the doubled distance to the floor.
    fn nearest(num: i128, den: i128) -> i128 {
        let floor = num.div_euclid(den);
        let twice = 2 * num.rem_euclid(den);
        floor + i128::from(twice > den || (twice == den && floor.rem_euclid(2) == 1))
    }

    const EDGES: [i64; 15] = [
        i64::MIN,
        i64::MIN + 1,
        -(1 << 62) - 1,
        -(1 << 62),
        -3,
        -2,
        -1,
        0,
        1,
        2,
        3,
        1 << 62,
        (1 << 62) + 1,
        i64::MAX - 1,
        i64::MAX,
    ];

    #[test]
    fn a_shift_rounds_ties_to_even() {
        for (x, y) in
            [(6, 2), (10, 2), (2, 0), (-2, 0), (-6, -2), (-10, -2), (5, 1), (-5, -1), (7, 2), (-7, -2)]
        {
            assert_eq!(x.shift_right(2), y, "{x}");
            assert_eq!(i64::from(x).shift_right(2), i64::from(y), "{x}");
        }
    }

    #[test]
    fn edges_round_right_at_every_shift() {
        for x in EDGES {
            for shift in 0..=62 {
                assert_eq!(i128::from(x.shift_right(shift)), nearest(x.into(), 1 << shift), "{x} >> {shift}");
            }
            for d in EDGES {
                if d > 0 {
                    assert_eq!(i128::from(x.divide(d)), nearest(x.into(), d.into()), "{x} / {d}");
                }
                if d < -1 {
                    // Ties to even is symmetric, so the sign may move from the divisor to the dividend.
                    assert_eq!(i128::from(x.divide(d)), nearest(-i128::from(x), -i128::from(d)), "{x} / {d}");
                }
            }
            for shift in -70..=70 {
                let exact =
                    if shift < 0 { nearest(x.into(), 1 << -shift) } else { i128::from(x) << shift.min(63) };
                let exact = exact.clamp(i64::MIN.into(), i64::MAX.into());
                assert_eq!(i128::from(scale(x, shift)), exact, "{x} · 2^{shift}");
            }
        }
    }

    #[test]
    fn division_by_zero_and_overflow_saturate() {
        assert_eq!(5_i32.divide(0), i32::MAX);
        assert_eq!((-5_i64).divide(0), i64::MIN);
        assert_eq!(0_i32.divide(0), 0);
        assert_eq!(i32::MIN.divide(-1), i32::MAX);
        assert_eq!(i64::MIN.divide(-1), i64::MAX);
        assert_eq!(i64::MIN.divide(1), i64::MIN);
        assert_eq!(divide_i128(i128::MAX, 1), i64::MAX);
        assert_eq!(divide_i128(i128::MIN, 1), i64::MIN);
    }

    proptest! {
        #[test]
        fn shifts_and_quotients_are_the_nearest(x: i64, d in 1..=i64::MAX, shift in 0_u32..=62) {
            prop_assert_eq!(i128::from(x.shift_right(shift)), nearest(x.into(), 1 << shift));
            prop_assert_eq!(i128::from(x.divide(d)), nearest(x.into(), d.into()));
            prop_assert_eq!(i128::from(divide_i128(x.into(), d.into())), nearest(x.into(), d.into()));
        }

        #[test]
        fn wide_scaling_is_the_nearest(x: i128, drop in 2_u32..127, shift in -140_i32..140) {
            let x = x >> drop;
            let exact = match shift {
                ..=-127 => 0, // |x| < 2^126: below a half
                -126..=-1 => nearest(x, 1 << -shift),
                _ => 1_i128.checked_shl(shift.unsigned_abs()).and_then(|f| x.checked_mul(f)).unwrap_or(x.signum() << 100),
            };
            prop_assert_eq!(i128::from(scale_i128(x, shift)), exact.clamp(i64::MIN.into(), i64::MAX.into()));
        }

        #[test]
        fn halves_go_to_the_even_side(q in -1_000_000_000_i64..1_000_000_000, shift in 1_u32..=32) {
            let tie = (2 * q + 1) << (shift - 1);
            let even = if q & 1 == 0 { q } else { q + 1 };
            prop_assert_eq!(tie.shift_right(shift), even);
            prop_assert_eq!(tie.divide(1 << shift), even);
        }

        #[test]
        fn both_widths_agree(x: i32, d: i32, shift in 0_u32..=30) {
            prop_assert_eq!(i64::from(x.shift_right(shift)), i64::from(x).shift_right(shift));
            if d != 0 && (x, d) != (i32::MIN, -1) {
                prop_assert_eq!(i64::from(x.divide(d)), i64::from(x).divide(d.into()));
            }
        }
    }
}
