//! Softmax of fixed-point logits through a small table, for the gradient of a cross-entropy.

use super::q::Q32;
use super::quantize::same_length;
use super::word::Wide;
use crate::error::{Error, Result, What};

/// Sub-intervals of the table: 2^−x on [0, 1].
const PARTS: u32 = 6;

/// 2^(−1/64) in Q62.
const ROOT: u128 = 0x3F4F_8303_3D21_B05D;

/// 2^(−i/64) in Q31, i = 0 ..= 64.
const TABLE: [u32; 65] = {
    let mut table = [0; 65];
    let (mut power, mut i) = (1_u128 << 62, 0);
    while i <= 64 {
        table[i] = ((power + (1 << 30)) >> 31) as u32;
        power = (power * ROOT) >> 62;
        i += 1;
    }
    table
};

/// log2(e) in Q30.
const LOG2_E: i64 = 1_549_082_005;

/// e^(−x) in Q30 for x ≥ 0; at most 2.0·10⁻⁵ off.
fn exp_negative(x: Q32<16>) -> i64 {
    // x·log2(e) in Q16, split into whole powers of two and a place in the table.
    let t = (i64::from(x.raw()) * LOG2_E).shift_right(30);
    let whole = (t >> 16) as u32;
    if t < 0 || whole > 31 {
        return 0;
    }
    let place = (t & 0xffff) as u32;
    let index = (place >> (16 - PARTS)) as usize;
    let part = i64::from(place & ((1 << (16 - PARTS)) - 1));
    let (Some(&a), Some(&b)) = (TABLE.get(index), TABLE.get(index + 1)) else { return 0 };
    let value = i64::from(a) - (((i64::from(a) - i64::from(b)) * part) >> (16 - PARTS));
    value.shift_right(whole + 1)
}

/// The gradient of the cross-entropy `−ln softmax(logits)[label]` with respect to the logits, `softmax − onehot(label)`,
/// in place of the logits' own numbers: `gradient` gets one value in [−1, 1] per class.
///
/// Error: at most 3·10⁻⁵, for up to 2^16 classes. Equal logits get equal gradients; a class more than 22 below the best
/// gets 0.
///
/// # Errors
/// [`Error::Empty`] without classes, [`Error::Length`] unless both slices are as long, [`Error::Code`] for a
/// label that is no class.
///
/// ```
/// use qat_kernels::fixed::{Q32, cross_entropy_gradient};
/// let logits = [Q32::from_ratio(1, 2); 4];
/// let mut gradient = [Q32::default(); 4];
/// cross_entropy_gradient(&logits, 1, &mut gradient)?;
/// assert_eq!(gradient.map(Q32::to_f32), [0.25, -0.75, 0.25, 0.25]);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn cross_entropy_gradient(logits: &[Q32<16>], label: usize, gradient: &mut [Q32<30>]) -> Result<()> {
    same_length(What::Gradient, logits.len(), gradient.len())?;
    let Some(&best) = logits.iter().max() else { return Err(Error::Empty { what: What::Input }) };
    if label >= logits.len() {
        return Err(Error::Code { index: 0, code: i32::try_from(label).unwrap_or(i32::MAX) });
    }
    let mut sum = 0;
    for (g, &logit) in gradient.iter_mut().zip(logits) {
        let e = exp_negative(best.saturating_sub(logit));
        *g = Q32::saturating_from_raw(e);
        sum += e;
    }
    // One division, in Q32, and a product for each class: the best class adds 2^30 to the sum, so the quotient is at most 1.
    let inverse = (1_i64 << 62).divide(sum);
    for (class, g) in gradient.iter_mut().enumerate() {
        let p = (i64::from(g.raw()) * inverse).shift_right(32);
        *g = Q32::saturating_from_raw(p - (i64::from(class == label) << 30));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table_is_a_power_of_two_apart() {
        for (i, &entry) in TABLE.iter().enumerate() {
            let exact = 2_f64.powf(-(i as f64) / 64.0) * 2_f64.powi(31);
            assert!((f64::from(entry) - exact).abs() <= 0.501, "{i}");
        }
    }

    #[test]
    fn the_exponential_has_its_documented_error() {
        let worst = (0..32 << 16)
            .map(|raw| {
                let exact = (-f64::from(raw) / 65536.0).exp();
                (exp_negative(Q32::from_raw(raw)) as f64 / 2_f64.powi(30) - exact).abs()
            })
            .fold(0.0, f64::max);
        assert!(worst <= 2.0e-5 && worst > 1.8e-5, "{worst:e}");
        assert_eq!(exp_negative(Q32::MAX), 0);
        assert_eq!(exp_negative(Q32::default()), 1 << 30);
    }

    #[test]
    fn bad_input_is_a_typed_error() {
        let mut one = [Q32::default()];
        assert_eq!(cross_entropy_gradient(&[], 0, &mut []), Err(Error::Empty { what: What::Input }));
        let e = Error::Code { index: 0, code: 1 };
        assert_eq!(cross_entropy_gradient(&[Q32::default()], 1, &mut one), Err(e));
        let e = Error::Length { what: What::Gradient, expected: 0, got: 1 };
        assert_eq!(cross_entropy_gradient(&[], 0, &mut one), Err(e));
    }

    #[test]
    fn the_farthest_logits_saturate() {
        let mut g = [Q32::default(); 2];
        cross_entropy_gradient(&[Q32::MIN, Q32::MAX], 0, &mut g).unwrap();
        assert_eq!(g.map(Q32::to_f32), [-1.0, 1.0]);
    }

    proptest! {
        #[test]
        fn the_gradient_is_that_of_the_real_softmax(
            logits in prop::collection::vec(-20.0_f32..20.0, 1..200), label: prop::sample::Index,
        ) {
            let label = label.index(logits.len());
            let fixed: Vec<Q32<16>> = logits.iter().map(|&l| Q32::from_f32(l).unwrap()).collect();
            let mut g = vec![Q32::default(); logits.len()];
            cross_entropy_gradient(&fixed, label, &mut g).unwrap();
            let real = |l: &Q32<16>| (f64::from(l.raw()) / 65536.0).exp();
            let sum: f64 = fixed.iter().map(real).sum();
            for (i, (l, g)) in fixed.iter().zip(&g).enumerate() {
                let exact = real(l) / sum - f64::from(i == label);
                prop_assert!((f64::from(g.raw()) / 2_f64.powi(30) - exact).abs() <= 3e-5);
            }
        }
    }
}
