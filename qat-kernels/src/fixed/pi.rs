//! π/k and the Pi step `Δ = α·π/k` in fixed point.

use super::q::Fixed;
use super::word::{Wide, Word};
use crate::error::{Error, Result, What};

/// π/2, π/3, π/4 and π/5 times 2^62, each rounded to nearest: off by at most 2^−63.
const PI_OVER_Q62: [i64; 4] =
    [0x6487_ED51_10B4_611A, 0x4305_48E0_B5CD_9612, 0x3243_F6A8_885A_308D, 0x2836_5EED_39E1_C071];

fn table(k: u8) -> Result<i64> {
    let index = usize::from(k).wrapping_sub(2);
    PI_OVER_Q62.get(index).copied().ok_or(Error::Divisor { k })
}

/// π/k in the format of the result. `F` leaves at least one integer bit (checked when the program is compiled), because
/// π/2 and π/3 exceed 1.
///
/// Error: at most ½ ulp + 2^−63, so 1.6·10⁻⁵ at most in `Q16<14>` and 4.7·10⁻¹⁰ in `Q32<30>`.
///
/// # Errors
/// [`Error::Divisor`] unless k ∈ {2, 3, 4, 5} (INV-3).
///
/// ```
/// use qat_kernels::fixed::{Q32, pi_over};
/// let third: Q32<30> = pi_over(3)?;
/// assert_eq!(third.to_f32(), core::f32::consts::PI / 3.0);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn pi_over<W: Word, const F: u32>(k: u8) -> Result<Fixed<W, F>> {
    const { assert!(F + 2 <= W::BITS, "pi/2 needs an integer bit") };
    Ok(Fixed::saturating_from_raw(table(k)?.shift_right(62 - F)))
}

/// The step of a Pi quantiser, `Δ = α·π/k`.
///
/// Error: at most ½ ulp + 2^−29 ulp, whatever α.
///
/// # Errors
/// [`Error::Divisor`] unless k ∈ {2, 3, 4, 5} (INV-3); [`Error::NotPositive`] unless α > 0 and the step is at least one
/// ulp (INV-2); [`Error::Range`] where the step exceeds the interval of the format (only k = 2 and 3 can).
///
/// ```
/// use qat_kernels::fixed::{Q32, pi_step};
/// let step = pi_step(Q32::<24>::from_ratio(1, 4), 3)?;
/// assert!((step.to_f32() - core::f32::consts::PI / 12.0).abs() < 1e-7);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn pi_step<W: Word, const F: u32>(alpha: Fixed<W, F>, k: u8) -> Result<Fixed<W, F>> {
    let constant = table(k)?;
    // α·C in Q30, C in two halves: the low half's product is floored, which costs less than one unit of 2^−30 ulp, and
    // all sums stay below 2^62.
    let a = alpha.raw().to_i64();
    let product = a * (constant >> 32) + ((a * (constant & 0xffff_ffff)) >> 32);
    let raw = product.shift_right(30);
    if raw <= 0 {
        return Err(Error::NotPositive { what: What::Alpha, index: 0, value: alpha.to_f32() });
    }
    if raw > W::MAX.to_i64() {
        // A product above MAX means k is 2 or 3, whose constants divide.
        let max = (W::MAX.to_i64() << 30).divide(constant >> 32);
        return Err(Error::Range {
            what: What::Alpha,
            value: alpha.to_f32(),
            min: Fixed::<W, F>::saturating_from_raw(1).to_f32(),
            max: Fixed::<W, F>::saturating_from_raw(max).to_f32(),
        });
    }
    Ok(Fixed::saturating_from_raw(raw))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixed::{Q16, Q32};
    use proptest::prelude::*;

    /// π·2^100 by Machin's formula, 16·atan(1/5) − 4·atan(1/239), in integers: within 200 units.
    fn pi_q100() -> i128 {
        let atan_inverse = |x: i128| {
            let (mut term, mut sum, mut n) = ((1_i128 << 100) / x, 0_i128, 1);
            while term != 0 {
                sum += if n % 4 == 1 { term / n } else { -(term / n) };
                term /= x * x;
                n += 2;
            }
            sum
        };
        16 * atan_inverse(5) - 4 * atan_inverse(239)
    }

    #[test]
    fn the_table_is_pi_to_62_bits() {
        for k in 2..=5_u8 {
            let exact = pi_q100();
            let off = (i128::from(table(k).unwrap()) << 38) * i128::from(k) - exact;
            // Half a unit of 2^−62, and the noise of the series.
            assert!(off.abs() <= (i128::from(k) << 37) + 200, "k {k}: off by {off} · 2^−100 · k");
        }
    }

    #[test]
    fn pi_over_k_is_within_its_bound_in_every_format() {
        fn check<W: Word, const F: u32>() {
            for k in 2..=5 {
                let raw = pi_over::<W, F>(k).unwrap().raw().to_i64();
                let off = (i128::from(raw) << (100 - F)) * i128::from(k) - pi_q100();
                let bound = (i128::from(k) << (99 - F)) + (i128::from(k) << 37) + 200;
                assert!(off.abs() <= bound, "k {k} F {F}");
            }
        }
        check::<i16, 0>();
        check::<i16, 8>();
        check::<i16, 14>();
        check::<i32, 14>();
        check::<i32, 24>();
        check::<i32, 30>();
        assert_eq!(pi_over::<i16, 8>(1), Err(Error::Divisor { k: 1 }));
        assert_eq!(pi_over::<i16, 8>(6), Err(Error::Divisor { k: 6 }));
    }

    /// Whether `raw` is α·π/k within ½ + 2^−29 units.
    fn within(alpha_raw: i64, k: u8, raw: i64) -> bool {
        // In units of 2^−90 ulp/k: below 2^125.
        let exact = i128::from(alpha_raw) * (pi_q100() >> 10);
        let off = ((i128::from(raw) * i128::from(k)) << 90) - exact;
        off.abs() <= i128::from(k) * ((1 << 89) + (1 << 61))
    }

    #[test]
    fn every_16_bit_alpha_has_the_right_step_or_a_typed_error() {
        for k in 2..=5_u8 {
            for raw in i16::MIN..=i16::MAX {
                let alpha = Q16::<10>::from_raw(raw);
                let exact = f64::from(raw) * core::f64::consts::PI / f64::from(k);
                match pi_step(alpha, k) {
                    Ok(step) => {
                        assert!(within(raw.into(), k, step.raw().into()), "{raw} {k}");
                        assert_eq!(f64::from(step.raw()), exact.round_ties_even(), "{raw} {k}");
                    }
                    Err(Error::NotPositive { what: What::Alpha, value, .. }) => {
                        assert_eq!(value, alpha.to_f32());
                        assert!(exact < 0.5, "{raw} {k}");
                    }
                    Err(Error::Range { what: What::Alpha, max, .. }) => {
                        assert!(exact > 32767.0, "{raw} {k}");
                        assert!(
                            (f64::from(max) * 1024.0 * core::f64::consts::PI / f64::from(k) - 32767.0).abs()
                                < 2.0
                        );
                    }
                    Err(e) => panic!("{e}"),
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_32_bit_step_is_within_its_bound(raw in 1..=i32::MAX, k in 2_u8..=5, shift in 0_u32..31) {
            let raw = (raw >> shift).max(1);
            match pi_step(Q32::<20>::from_raw(raw), k) {
                Ok(step) => prop_assert!(within(raw.into(), k, step.raw().into())),
                Err(e) => {
                    let too_large = f64::from(raw) * core::f64::consts::PI / f64::from(k) > f64::from(i32::MAX);
                    prop_assert!(too_large, "{}", e);
                }
            }
        }
    }
}
