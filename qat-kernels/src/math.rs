//! Float functions behind one name: `libm` by default, `micromath` (approximate, smaller, faster without an FPU) with
//! the feature of that name.
//!
//! **A model's codes, steps, levels and logits do not change with the feature.** Quantisers, gradients, export and
//! inference use additions, multiplications, divisions and [`sqrt`] only, and [`sqrt`] and [`floor`] are libm's, exact,
//! in both builds. [`ln`] and [`exp`] are for statistics. The one choice that rests on them is entropy calibration's
//! threshold: a calibration run on a device built with `micromath` may settle on another of two almost equal ranges.
//! What it settles on is recorded in its artifact, and every build computes the same from that.
//!
//! Maximum errors, measured by this module's tests over floats spread evenly through all binades of the interval:
//!
//! | function | interval | error of | libm | micromath |
//! |---|---|---|---|---|
//! | [`sqrt`] | all | – | ½ ulp | ½ ulp (libm's) |
//! | [`floor`] | all | – | 0 | 0 (libm's) |
//! | [`ln`] | normal floats | abs(Δ) / max(1, abs(ln x)) | 7.8·10⁻⁸ | 6.2·10⁻⁵ |
//! | [`exp`] | −87 ..= 88 | abs(Δ) / exp x | 6.9·10⁻⁸ | 2.4·10⁻³ |

/// Square root, correctly rounded on every core and with every feature.
///
/// ```
/// use qat_kernels::math::sqrt;
/// assert_eq!(sqrt(2.0), core::f32::consts::SQRT_2); // the nearest f32, as with the standard library
/// assert!(sqrt(-1.0).is_nan());
/// ```
#[must_use]
#[inline]
pub fn sqrt(x: f32) -> f32 {
    libm::sqrtf(x)
}

/// Natural logarithm of a positive normal number. For statistics only: see the [module](self) for its error.
///
/// ```
/// use core::f32::consts::{E, LN_2};
/// use qat_kernels::math::ln;
/// assert_eq!(ln(1.0), 0.0);
/// assert!((ln(4.0 * E) / (1.0 + 2.0 * LN_2) - 1.0).abs() <= 6.2e-5); // the larger of the table's errors
/// assert_eq!(ln(0.0), f32::NEG_INFINITY);
/// ```
#[must_use]
#[inline]
pub fn ln(x: f32) -> f32 {
    #[cfg(not(feature = "micromath"))]
    {
        libm::logf(x)
    }
    #[cfg(feature = "micromath")]
    {
        // micromath takes numbers below 1 through an approximate reciprocal, and ln is then off by 0.12. It gets the
        // significand alone, in [1, 2), where its polynomial is good; what has no exponent is libm's.
        if !(x.is_normal() && x > 0.0) {
            return libm::logf(x);
        }
        let bits = x.to_bits();
        let significand = f32::from_bits((bits & 0x7f_ffff) | 1.0_f32.to_bits());
        ((bits >> 23) as i32 - 127) as f32 * core::f32::consts::LN_2 + micromath::F32Ext::ln(significand)
    }
}

/// Natural exponential. For statistics only: see the [module](self) for its error.
///
/// ```
/// use qat_kernels::math::exp;
/// assert_eq!(exp(0.0), 1.0);
/// assert!((exp(-10.0) / 4.539_993e-5 - 1.0).abs() <= 2.4e-3); // the larger of the table's errors
/// ```
#[must_use]
#[inline]
pub fn exp(x: f32) -> f32 {
    #[cfg(not(feature = "micromath"))]
    {
        libm::expf(x)
    }
    #[cfg(feature = "micromath")]
    {
        micromath::F32Ext::exp(x)
    }
}

/// Largest integer not above `x`, exact with every feature.
///
/// ```
/// use qat_kernels::math::floor;
/// assert_eq!([2.75, -0.5, -3.0].map(floor), [2.0, -1.0, -3.0]); // a cast to i32 would make −0.5 a 0
/// ```
#[must_use]
#[inline]
pub fn floor(x: f32) -> f32 {
    libm::floorf(x)
}

/// Cosine and sine of an angle in radians, in f64: libm's with every feature, so that tables made of them are the same on
/// every machine.
///
/// ```
/// use core::f64::consts::FRAC_PI_2;
/// use qat_kernels::math::cos_sin;
/// assert_eq!(cos_sin(0.0), [1.0, 0.0]);
/// let [cos, sin] = cos_sin(FRAC_PI_2);
/// assert_eq!(sin, 1.0);
/// assert!(cos > 0.0 && cos < 1e-16); // the nearest f64 to π/2 lies below it
/// ```
#[must_use]
pub fn cos_sin(angle: f64) -> [f64; 2] {
    let (sin, cos) = libm::sincos(angle);
    [cos, sin]
}

/// `base` to the power of `exponent`, in f64: libm's with every feature, see [`cos_sin`].
///
/// ```
/// use qat_kernels::math::power;
/// // Frequencies of a rotary embedding with four pairs and base 10,000.
/// assert_eq!([0.0, 1.0, 2.0, 3.0].map(|i| power(1e4, -i / 4.0)), [1.0, 0.1, 0.01, 0.001]);
/// ```
#[must_use]
pub fn power(base: f64, exponent: f64) -> f64 {
    libm::pow(base, exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maximum errors of the table above: [`ln`], [`exp`].
    #[cfg(not(feature = "micromath"))]
    const LIMITS: [f64; 2] = [7.8e-8, 6.9e-8];
    #[cfg(feature = "micromath")]
    const LIMITS: [f64; 2] = [6.2e-5, 2.4e-3];

    /// Positive normal floats, every 997th: in even steps through each binade.
    fn normals() -> impl Iterator<Item = f32> {
        (f32::MIN_POSITIVE.to_bits()..=f32::MAX.to_bits()).step_by(997).map(f32::from_bits)
    }

    /// The documented limit is not exceeded, and is not idle either.
    fn check(name: &str, errors: impl Iterator<Item = (f32, f64)>, limit: f64) {
        let (at, worst) = errors.fold((0.0, 0.0), |m: (f32, f64), e| if e.1 > m.1 { e } else { m });
        assert!(worst <= limit && worst >= 0.9 * limit, "{name}: {worst:e} at {at}, documented {limit:e}");
    }

    #[test]
    fn ln_has_its_documented_error() {
        let errors = normals().map(|x| {
            let exact = f64::from(x).ln();
            (x, (f64::from(ln(x)) - exact).abs() / exact.abs().max(1.0))
        });
        check("ln", errors, LIMITS[0]);
    }

    #[test]
    fn exp_has_its_documented_error() {
        let both = normals().filter(|&x| x <= 88.0).flat_map(|x| [x, -x]).filter(|&x| x >= -87.0);
        let errors = both.map(|x| {
            let exact = f64::from(x).exp();
            (x, (f64::from(exp(x)) - exact).abs() / exact)
        });
        check("exp", errors, LIMITS[1]);
    }

    #[test]
    fn ln_of_what_is_not_a_positive_normal_number_is_libms() {
        for x in [0.0, -0.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-45, 1e-40] {
            assert_eq!(ln(x).to_bits(), libm::logf(x).to_bits(), "{x}");
        }
    }

    #[test]
    fn powers_and_angles_are_those_of_the_standard_library_but_for_the_last_bit() {
        for i in 0..2000 {
            let x = f64::from(i) * 0.37;
            let [cos, sin] = cos_sin(x);
            assert!((cos - x.cos()).abs() < 3e-16 && (sin - x.sin()).abs() < 3e-16, "{x}");
            let exact = 1e5f64.powf(-x / 100.0);
            assert!((power(1e5, -x / 100.0) - exact).abs() <= 3e-16 * exact, "{x}");
        }
    }

    #[test]
    fn sqrt_and_floor_are_exact_with_every_feature() {
        for x in normals() {
            // The square root of 24 bits in f64, rounded to f32, is the correctly rounded one.
            assert_eq!(sqrt(x), f64::from(x).sqrt() as f32);
            assert_eq!((floor(x), floor(-x)), (x.floor(), (-x).floor()));
        }
    }
}
