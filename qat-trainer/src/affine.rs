//! The affine code of activations: `x ≈ scale·(q − zero_point)`, with 8 bits q ∈ [−128, 127].
//!
//! Codes of fewer bits are 8-bit codes that use the middle of the range alone: the integer engine runs them by clamping.

use qat_kernels::calibration::{AffineParams, ClipRange, QuantScheme};

/// Scale and zero point of an activation.
///
/// ```
/// use qat_trainer::affine::Affine;
/// let celsius = Affine { scale: 0.5, zero_point: -48 };
/// assert_eq!(celsius.quantize(21.0), -6); // 42 steps above the code of 0
/// assert_eq!(celsius.quantize(0.0), celsius.zero_point);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// Real value of one step, positive and normal.
    pub scale: f32,
    /// The code of the real number 0.
    pub zero_point: i8,
}

impl Affine {
    /// The code whose 256 values span `min..=max`, widened to contain 0 so that 0 is exact (Jacob et al. 2018, §2.1).
    /// The zero point is rounded to the nearest code; NaN counts as 0. Made by [`AffineParams::from_range`], which also
    /// says what a range without width becomes.
    ///
    /// ```
    /// use qat_trainer::affine::Affine;
    /// let relu = Affine::from_range(0.0, 2.55);
    /// assert_eq!((relu.scale, relu.zero_point), (0.01, -128));
    /// assert_eq!(relu.quantize(1.0), -28);
    /// assert_eq!(relu.dequantize(-28), 1.0);
    /// ```
    #[must_use]
    pub fn from_range(min: f32, max: f32) -> Self {
        let finite = |x: f32| if x.is_nan() { 0.0 } else { x.clamp(f32::MIN, f32::MAX) };
        let (min, max) = (finite(min).min(0.0), finite(max).max(0.0));
        ClipRange::new(min, max)
            .and_then(|range| AffineParams::from_range(range, 8, QuantScheme::Affine))
            .map_or(Self { scale: 1.0, zero_point: 0 }, Self::from)
    }

    /// `clamp(round_ties_even(x/scale) + zero_point, −128, 127)`; NaN gives −128.
    ///
    /// ```
    /// use qat_trainer::affine::Affine;
    /// let code = Affine { scale: 2.0, zero_point: 1 };
    /// assert_eq!([1.0, 3.0, -3.0].map(|x| code.quantize(x)), [1, 3, -1]); // half steps go to the even number of steps
    /// assert_eq!([f32::INFINITY, f32::NAN].map(|x| code.quantize(x)), [127, -128]);
    /// ```
    #[must_use]
    #[inline]
    pub fn quantize(self, x: f32) -> i8 {
        let z = f32::from(self.zero_point);
        let q = (x / self.scale).round_ties_even() + z;
        if q.is_nan() { i8::MIN } else { q.clamp(-128.0, 127.0) as i8 }
    }

    /// `scale·(q − zero_point)`.
    ///
    /// ```
    /// use qat_trainer::affine::Affine;
    /// let code = Affine { scale: 0.125, zero_point: 100 };
    /// assert_eq!([100, 108, -128].map(|q| code.dequantize(q)), [0.0, 1.0, -28.5]);
    /// ```
    #[must_use]
    #[inline]
    pub fn dequantize(self, q: i8) -> f32 {
        self.scale * (f32::from(q) - f32::from(self.zero_point))
    }

    /// Quantise and dequantise in one go.
    ///
    /// ```
    /// use qat_trainer::affine::Affine;
    /// let code = Affine { scale: 0.25, zero_point: 0 };
    /// assert_eq!([0.3, 0.25, 100.0].map(|x| code.fake_quantize(x)), [0.25, 0.25, 31.75]); // the last one is clamped
    /// ```
    #[must_use]
    #[inline]
    pub fn fake_quantize(self, x: f32) -> f32 {
        self.dequantize(self.quantize(x))
    }

    /// Smallest and largest code of `bits`, `[−2^(b−1), 2^(b−1) − 1]`; less than 2 bits count as 2, more than 8 as 8.
    ///
    /// ```
    /// use qat_trainer::affine::Affine;
    /// let [lo, hi] = Affine::codes(3);
    /// assert_eq!((lo, hi, hi - lo + 1), (-4, 3, 8)); // 2³ codes, one more below 0 than above
    /// ```
    #[must_use]
    pub const fn codes(bits: u8) -> [i8; 2] {
        let spare = if bits < 2 { 6 } else { 8_u8.saturating_sub(bits) };
        [i8::MIN >> spare, i8::MAX >> spare]
    }

    /// [`Self::fake_quantize`] with codes of `bits`.
    ///
    /// ```
    /// use qat_trainer::affine::Affine;
    /// let code = Affine { scale: 0.5, zero_point: -2 };
    /// assert_eq!([-1.0, 0.3, 0.7, 9.0].map(|x| code.fake_quantize_to(2, x)), [0.0, 0.5, 0.5, 1.5]);
    /// ```
    #[must_use]
    #[inline]
    pub fn fake_quantize_to(self, bits: u8, x: f32) -> f32 {
        let [lo, hi] = Self::codes(bits);
        self.dequantize(self.quantize(x).clamp(lo, hi))
    }

    /// Smallest and largest real value of the code.
    ///
    /// ```
    /// use qat_trainer::affine::Affine;
    /// let centred = Affine { scale: 0.5, zero_point: 0 };
    /// assert_eq!(centred.range(), [-64.0, 63.5]); // a step less above 0 than below
    /// ```
    #[must_use]
    pub fn range(self) -> [f32; 2] {
        [self.dequantize(i8::MIN), self.dequantize(i8::MAX)]
    }
}

impl From<AffineParams> for Affine {
    fn from(p: AffineParams) -> Self {
        Self { scale: p.scale, zero_point: p.zero_point }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_exact_and_the_ends_are_reached() {
        for (min, max) in [(-1.0, 1.0), (0.0, 6.0), (0.5, 2.0), (-3.0, -1.0), (-0.3, 17.0)] {
            let a = Affine::from_range(min, max);
            assert_eq!(a.fake_quantize(0.0), 0.0);
            for x in [min, max] {
                assert!((a.fake_quantize(x) - x).abs() <= a.scale, "{x} {a:?}");
            }
        }
    }

    #[test]
    fn degenerate_ranges_give_a_usable_code() {
        for (min, max) in [(0.0, 0.0), (f32::NAN, f32::NAN), (f32::MIN, f32::MAX), (0.0, 1e-40)] {
            let a = Affine::from_range(min, max);
            assert!(a.scale.is_normal() && a.scale > 0.0, "{a:?}");
            assert_eq!(a.quantize(0.0), a.zero_point);
        }
        let a = Affine::from_range(-1.0, 1.0);
        assert_eq!((a.quantize(f32::INFINITY), a.quantize(f32::NEG_INFINITY)), (127, -128));
        assert_eq!(a.quantize(f32::NAN), -128);
    }

    #[test]
    fn codes_of_every_width() {
        assert_eq!([2, 3, 4, 8].map(Affine::codes), [[-2, 1], [-4, 3], [-8, 7], [-128, 127]]);
        assert_eq!([0, 1, 9, 255].map(Affine::codes), [2, 2, 8, 8].map(Affine::codes));
    }

    #[test]
    fn ties_go_to_the_even_code() {
        let a = Affine { scale: 0.5, zero_point: 0 };
        assert_eq!([0.25, 0.75, 1.25].map(|x| a.quantize(x)), [0, 2, 2]);
    }
}
