//! IEEE 754 binary16 for stored scales. Integer arithmetic and one exact f32 operation, so that every core, with or
//! without an FPU, stores and reads the same bits.

/// A number in IEEE 754 binary16: 11 significant bits, normal from 2^−14 to 65,504.
///
/// ```
/// use qat_kernels::quantizer::F16;
/// assert_eq!(F16::from_f32(0.1).to_f32(), 0.099_975_586);
/// assert_eq!(F16::from_f32(1.0).to_bits(), 0x3C00);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct F16(u16);

impl F16 {
    /// 1.
    pub const ONE: Self = Self(0x3C00);
    /// The smallest number above 0, 2^−24.
    pub const TINY: Self = Self(1);
    /// The largest finite number, 65,504.
    pub const MAX: Self = Self(0x7BFF);

    /// The number with these bits.
    ///
    /// ```
    /// use qat_kernels::quantizer::F16;
    /// let in_file = [0x00, 0x38]; // little-endian: sign 0, exponent 14, fraction 0
    /// assert_eq!(F16::from_bits(u16::from_le_bytes(in_file)).to_f32(), 0.5); // 2^(14 − 15)
    /// ```
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The bits, sign first.
    ///
    /// ```
    /// use qat_kernels::quantizer::F16;
    /// let bits = [1.0, -2.0].map(|x| F16::from_f32(x).to_bits());
    /// assert_eq!(bits, [0b0_01111_0000000000, 0b1_10000_0000000000]); // exponents 0 and 1, biased by 15
    /// ```
    #[must_use]
    pub const fn to_bits(self) -> u16 {
        self.0
    }

    /// The binary16 nearest to `x`, ties to even. From 65,520 on this is ∞; below 2^−25 it is 0; NaN stays NaN.
    ///
    /// ```
    /// use qat_kernels::quantizer::F16;
    /// // From 2048 on neighbours are 2 apart.
    /// assert_eq!([2049.0, 2051.0].map(|x| F16::from_f32(x).to_f32()), [2048.0, 2052.0]);
    /// assert_eq!(F16::from_f32(65_519.0), F16::MAX);
    /// assert_eq!(F16::from_f32(65_520.0).to_f32(), f32::INFINITY);
    /// ```
    #[must_use]
    pub fn from_f32(x: f32) -> Self {
        const INFINITE_FROM: u32 = 0x477F_F000; // 65,520: half-way from 65,504 to what would be 65,536
        const NORMAL_FROM: u32 = 0x3880_0000; // 2^−14
        let sign = (x.to_bits() >> 16) as u16 & 0x8000;
        let magnitude = x.to_bits() & 0x7FFF_FFFF;
        let half = if magnitude > 0x7F80_0000 {
            0x7E00 | (magnitude >> 13) as u16
        } else if magnitude >= INFINITE_FROM {
            0x7C00
        } else if magnitude >= NORMAL_FROM {
            // Rebias the exponent from 127 to 15, then round 13 bits away; a carry into the exponent is right as it is.
            let rebiased = magnitude - (112 << 23);
            ((rebiased + 0xFFF + (rebiased >> 13 & 1)) >> 13) as u16
        } else {
            // One unit in the last place of 0.5 in f32 is 2^−24, the spacing of binary16's subnormals: the addition
            // rounds for us.
            ((f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()) as u16
        };
        Self(sign | (half & 0x7FFF))
    }

    /// The same number as an f32; exact.
    ///
    /// ```
    /// use qat_kernels::quantizer::F16;
    /// let third = F16::from_f32(1.0 / 3.0).to_f32();
    /// assert!((third - 1.0 / 3.0).abs() <= 1.0 / 8192.0); // neighbours are 2^−12 apart there
    /// assert_eq!(F16::from_f32(third).to_f32(), third); // rounded once
    /// assert_eq!(F16::TINY.to_f32(), 1.0 / 16_777_216.0); // 2^−24
    /// ```
    #[must_use]
    pub fn to_f32(self) -> f32 {
        let sign = u32::from(self.0 & 0x8000) << 16;
        let exponent = u32::from(self.0 >> 10 & 0x1F);
        let fraction = u32::from(self.0 & 0x3FF);
        let magnitude = match exponent {
            0 => (fraction as f32 * (1.0 / 16_777_216.0)).to_bits(),
            0x1F => 0x7F80_0000 | fraction << 13,
            _ => (exponent + 112) << 23 | fraction << 13,
        };
        f32::from_bits(sign | magnitude)
    }

    /// Whether this is a positive finite number, as a scale must be.
    ///
    /// ```
    /// use qat_kernels::quantizer::F16;
    /// let is_scale = |bits| F16::from_bits(bits).is_positive();
    /// assert!(is_scale(0x0001) && is_scale(0x7BFF)); // 2^−24 and 65,504
    /// assert!(!is_scale(0x0000) && !is_scale(0xBC00)); // 0 and −1
    /// assert!(!is_scale(0x7C00) && !is_scale(0x7E00)); // ∞ and NaN
    /// ```
    #[must_use]
    pub const fn is_positive(self) -> bool {
        self.0 > 0 && self.0 < 0x7C00
    }

    /// The positive finite binary16 nearest to a positive `x`: as [`Self::from_f32`], but what would be 0 or ∞ becomes
    /// [`Self::TINY`] or [`Self::MAX`], because a scale of 0 or ∞ decodes nothing.
    ///
    /// ```
    /// use qat_kernels::quantizer::F16;
    /// assert_eq!(F16::from_scale(0.25), F16::from_f32(0.25));
    /// assert_eq!((F16::from_scale(1e-9), F16::from_f32(1e-9).to_f32()), (F16::TINY, 0.0));
    /// assert_eq!((F16::from_scale(1e6), F16::from_f32(1e6).to_f32()), (F16::MAX, f32::INFINITY));
    /// ```
    #[must_use]
    pub fn from_scale(x: f32) -> Self {
        let half = Self::from_f32(x);
        if half.0 == 0 {
            Self::TINY
        } else if half.0 == 0x7C00 {
            Self::MAX
        } else {
            half
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_survives_the_way_through_f32() {
        for bits in 0..=u16::MAX {
            let half = F16::from_bits(bits);
            let back = F16::from_f32(half.to_f32());
            if half.to_f32().is_nan() {
                assert!(back.to_f32().is_nan());
            } else {
                assert_eq!(back, half, "{bits:04x}");
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_ties_to_even_between_all_neighbours() {
        for bits in 0..0x7C00u16 {
            let (low, high) = (F16::from_bits(bits), F16::from_bits(bits + 1));
            let upper = if bits == 0x7BFF { 65_536.0 } else { f64::from(high.to_f32()) };
            let middle = ((f64::from(low.to_f32()) + upper) / 2.0) as f32; // exact: 12 significant bits
            let even = if bits & 1 == 0 { low } else { high };
            assert_eq!(F16::from_f32(middle), even, "{bits:04x}");
            assert_eq!(F16::from_f32(middle.next_down()), low, "{bits:04x}");
            assert_eq!(F16::from_f32(middle.next_up()), high, "{bits:04x}");
            assert_eq!(F16::from_f32(-middle).to_bits(), even.to_bits() | 0x8000);
        }
    }

    #[test]
    fn special_values_keep_their_meaning() {
        assert_eq!(F16::from_f32(f32::INFINITY).to_f32(), f32::INFINITY);
        assert_eq!(F16::from_f32(f32::NEG_INFINITY).to_f32(), f32::NEG_INFINITY);
        assert_eq!(F16::from_f32(f32::MAX).to_f32(), f32::INFINITY);
        assert!(F16::from_f32(f32::from_bits(0x7F80_0001)).to_f32().is_nan());
        assert_eq!(F16::from_f32(-0.0).to_bits(), 0x8000);
        assert_eq!(F16::from_f32(f32::MIN_POSITIVE).to_bits(), 0);
    }

    #[test]
    fn scales_stay_positive_and_finite() {
        for x in [1e-30, 1e-8, 1.0, 65_519.0, 1e9, f32::MAX, f32::INFINITY] {
            assert!(F16::from_scale(x).is_positive(), "{x}");
        }
        for bits in [0, 0x8000, 0x7C00, 0x7E00, 0xBC00] {
            assert!(!F16::from_bits(bits).is_positive());
        }
    }
}
