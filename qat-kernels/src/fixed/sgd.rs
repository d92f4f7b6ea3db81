//! A saturating SGD step on slices, with or without momentum.

use super::q::{Fixed, Q32};
use super::quantize::same_length;
use super::word::{Word, scale};
use crate::error::{Error, Result, What};

/// Stochastic gradient descent, `v ← μ·v + g`, `w ← w − η·v` (without momentum `v = g`).
///
/// Each of the two lines rounds once and saturates: a weight is at most ½ ulp of its format from `w − η·v`, a velocity at
/// most ½ ulp of its own from `μ·v + g`, hence at most `½/(1 − μ)` ulp from the exact sum over all steps.
///
/// A weight stays where it is while `|η·v|` is at most half its ulp. That is what momentum, or 32-bit shadow weights
/// (`Q32<24>`: 3·10⁻⁸), are for.
///
/// ```
/// use qat_kernels::fixed::{Q16, Q32, Sgd};
/// let sgd = Sgd::new(Q32::from_ratio(1, 10), Q32::default())?;
/// let mut w = [Q16::<12>::from_ratio(1, 2), Q16::MAX];
/// sgd.step(&mut w, &[Q32::<20>::from_ratio(1, 1), Q32::MIN])?;
/// assert_eq!(w, [Q16::from_ratio(4, 10), Q16::MAX]);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sgd {
    rate: Q32<30>,
    momentum: Q32<30>,
}

impl Sgd {
    /// η in (0, 2) in steps of 2^−30, μ in [0, 1).
    ///
    /// # Errors
    /// [`Error::NotPositive`] for the rate, [`Error::Range`] (of [`What::Share`]) for the momentum.
    ///
    /// ```
    /// use qat_kernels::fixed::{Q32, Sgd};
    /// let sgd = |rate, momentum| Sgd::new(Q32::from_ratio(rate, 100), Q32::from_ratio(momentum, 100));
    /// assert!(sgd(1, 90).is_ok());
    /// assert!(sgd(0, 90).is_err()); // would change nothing
    /// assert!(sgd(1, 100).is_err()); // a velocity without end
    /// ```
    pub fn new(rate: Q32<30>, momentum: Q32<30>) -> Result<Self> {
        if rate <= Q32::default() {
            return Err(Error::NotPositive { what: What::LearningRate, index: 0, value: rate.to_f32() });
        }
        if momentum < Q32::default() || momentum.raw() >= 1 << 30 {
            return Err(Error::Range { what: What::Share, value: momentum.to_f32(), min: 0.0, max: 1.0 });
        }
        Ok(Self { rate, momentum })
    }

    /// The learning rate η.
    ///
    /// ```
    /// # use qat_kernels::fixed::{Q32, Sgd};
    /// let sgd = Sgd::new(Q32::from_ratio(1, 4), Q32::default())?;
    /// // The next epoch at half the rate.
    /// let slower = Sgd::new(sgd.rate().saturating_mul(Q32::<30>::from_ratio(1, 2)), Q32::default())?;
    /// assert_eq!(slower.rate().to_f32(), 0.125);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn rate(self) -> Q32<30> {
        self.rate
    }

    /// One weight's new value, `w − η·v`.
    ///
    /// ```
    /// use qat_kernels::fixed::{Q16, Q32, Sgd};
    /// let sgd = Sgd::new(Q32::from_ratio(1, 2), Q32::default())?;
    /// let w = Q16::<12>::from_ratio(3, 1);
    /// assert_eq!(sgd.updated(w, Q32::<20>::from_ratio(5, 1)).to_f32(), 0.5); // 3 − ½·5
    /// let ulp = Q16::<12>::from_raw(1);
    /// assert_eq!(sgd.updated(w, ulp), w); // half an ulp is lost
    /// assert_eq!(sgd.updated(w, Q16::<12>::from_raw(2)), w.saturating_sub(ulp));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn updated<W: Word, V: Word, const F: u32, const G: u32>(
        self,
        w: Fixed<W, F>,
        v: Fixed<V, G>,
    ) -> Fixed<W, F> {
        // η·v is below 2^62 in units of 2^−(30+G); it is rounded to the weight's format, and the difference is exact.
        let product = i64::from(self.rate.raw()) * v.raw().to_i64();
        let change = scale(product, F as i32 - 30 - G as i32);
        Fixed::saturating_from_raw(w.raw().to_i64().saturating_sub(change))
    }

    /// `w ← w − η·g`.
    ///
    /// # Errors
    /// [`Error::Length`] unless `gradients` is as long as `weights`.
    ///
    /// ```
    /// use qat_kernels::fixed::{Q16, Q32, Sgd};
    /// use qat_kernels::{Error, What};
    /// let sgd = Sgd::new(Q32::from_ratio(1, 2), Q32::default())?;
    /// let mut weights = [1, -1].map(|w| Q16::<12>::from_ratio(w, 1));
    /// let gradients = [1, -3].map(|g| Q32::<20>::from_ratio(g, 2)); // in a format of their own
    /// sgd.step(&mut weights, &gradients)?;
    /// assert_eq!(weights.map(Q16::to_f32), [0.75, -0.25]);
    /// let e = Error::Length { what: What::Gradient, expected: 2, got: 1 };
    /// assert_eq!(sgd.step(&mut weights, &gradients[1..]), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn step<W: Word, V: Word, const F: u32, const G: u32>(
        self,
        weights: &mut [Fixed<W, F>],
        gradients: &[Fixed<V, G>],
    ) -> Result<()> {
        same_length(What::Gradient, weights.len(), gradients.len())?;
        for (w, &g) in weights.iter_mut().zip(gradients) {
            *w = self.updated(*w, g);
        }
        Ok(())
    }

    /// One velocity's new value, `μ·v + g`.
    ///
    /// ```
    /// # use qat_kernels::fixed::{Q32, Sgd};
    /// let sgd = Sgd::new(Q32::from_ratio(1, 4), Q32::from_ratio(1, 2))?;
    /// let (g, mut v) = (Q32::<20>::from_ratio(1, 1), Q32::default());
    /// let velocities = [(); 3].map(|()| {
    ///     v = sgd.velocity(v, g);
    ///     v.to_f32()
    /// });
    /// assert_eq!(velocities, [1.0, 1.5, 1.75]); // towards g/(1 − μ) = 2
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn velocity<V: Word, const G: u32>(self, v: Fixed<V, G>, g: Fixed<V, G>) -> Fixed<V, G> {
        let kept = scale(i64::from(self.momentum.raw()) * v.raw().to_i64(), -30);
        Fixed::saturating_from_raw(kept + g.raw().to_i64())
    }

    /// `v ← μ·v + g`, `w ← w − η·v`; `velocities` start at zero and are the caller's to keep.
    ///
    /// # Errors
    /// [`Error::Length`] unless `gradients` and `velocities` (named [`What::Moments`]) are as long as `weights`.
    ///
    /// ```
    /// # use qat_kernels::fixed::{Q16, Q32, Sgd};
    /// let sgd = Sgd::new(Q32::from_ratio(1, 4), Q32::from_ratio(1, 2))?;
    /// let (mut weights, mut velocities) = ([Q16::<12>::from_ratio(1, 1)], [Q32::<20>::default()]);
    /// let gradients = [Q32::from_ratio(1, 1)];
    /// sgd.step_momentum(&mut weights, &mut velocities, &gradients)?;
    /// assert_eq!(weights[0].to_f32(), 0.75); // 1 − ¼·1
    /// sgd.step_momentum(&mut weights, &mut velocities, &gradients)?;
    /// assert_eq!(weights[0].to_f32(), 0.375); // 0.75 − ¼·(½·1 + 1)
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn step_momentum<W: Word, V: Word, const F: u32, const G: u32>(
        self,
        weights: &mut [Fixed<W, F>],
        velocities: &mut [Fixed<V, G>],
        gradients: &[Fixed<V, G>],
    ) -> Result<()> {
        same_length(What::Gradient, weights.len(), gradients.len())?;
        same_length(What::Moments, weights.len(), velocities.len())?;
        for ((w, v), &g) in weights.iter_mut().zip(velocities).zip(gradients) {
            *v = self.velocity(*v, g);
            *w = self.updated(*w, *v);
        }
        Ok(())
    }

    /// α's new value, `α − η·v`, kept where INV-2 and INV-3 hold for every divisor: at least one ulp (whose smallest step,
    /// ulp·π/5, rounds to an ulp), at most ⅝ of the format's largest number (whose largest step, ·π/2, still fits).
    ///
    /// ```
    /// use qat_kernels::fixed::{Q16, Q32, Sgd, pi_step};
    /// let sgd = Sgd::new(Q32::from_ratio(1, 1), Q32::default())?;
    /// let (alpha, v) = (Q16::<12>::from_ratio(1, 2), Q32::<20>::from_ratio(9, 1));
    /// let (down, up) = (sgd.updated_alpha(alpha, v), sgd.updated_alpha(alpha, v.saturating_neg()));
    /// assert_eq!((down.raw(), up.raw()), (1, 20_475)); // not ½ − 9 and ½ + 9, but an ulp and ⅝ of MAX
    /// assert!(pi_step(down, 5).is_ok() && pi_step(up, 2).is_ok()); // the smallest and the largest step
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn updated_alpha<W: Word, V: Word, const F: u32, const G: u32>(
        self,
        alpha: Fixed<W, F>,
        v: Fixed<V, G>,
    ) -> Fixed<W, F> {
        let (low, high) = (1, W::MAX.to_i64() / 8 * 5);
        Fixed::saturating_from_raw(self.updated(alpha, v).raw().to_i64().clamp(low, high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixed::{Q16, pi_step};
    use proptest::prelude::*;

    fn sgd(rate: i32, momentum: i32) -> Sgd {
        Sgd::new(Q32::from_raw(rate), Q32::from_raw(momentum)).unwrap()
    }

    #[test]
    fn every_16_bit_weight_takes_the_nearest_step() {
        for rate in [1, 1 << 20, 107_374_182, 1 << 30, i32::MAX] {
            let s = sgd(rate, 0);
            for g in [i16::MIN, -4097, -1, 0, 1, 8, 24, 4096, i16::MAX] {
                for w in i16::MIN..=i16::MAX {
                    let got = s.updated(Q16::<12>::from_raw(w), Q16::<9>::from_raw(g)).raw();
                    // Below 2^53 throughout: f64 is exact.
                    let exact = f64::from(w) - f64::from(rate) * f64::from(g) * 2.0_f64.powi(12 - 30 - 9);
                    let exact = exact.clamp(-32768.0, 32767.0);
                    assert!((f64::from(got) - exact).abs() <= 0.5, "{w} {g} {rate}: {got} {exact}");
                }
            }
        }
    }

    #[test]
    fn every_16_bit_gradient_takes_the_nearest_step() {
        let s = sgd(107_374_182, 966_367_641); // 0.1 and 0.9
        for g in i16::MIN..=i16::MAX {
            let got = s.updated(Q16::<12>::from_raw(3), Q16::<9>::from_raw(g)).raw();
            let exact = 3.0 - 107_374_182.0 * f64::from(g) * 2.0_f64.powi(12 - 30 - 9);
            assert!((f64::from(got) - exact.clamp(-32768.0, 32767.0)).abs() <= 0.5);
            let got = s.velocity(Q16::<9>::from_raw(g), Q16::from_raw(20_000)).raw();
            let exact = 966_367_641.0 / 1_073_741_824.0 * f64::from(g) + 20_000.0;
            assert!((f64::from(got) - exact.clamp(-32768.0, 32767.0)).abs() <= 0.5);
        }
    }

    #[test]
    fn steps_saturate_and_never_wrap() {
        let s = sgd(i32::MAX, (1 << 30) - 1);
        let mut w = [Q32::<30>::MAX, Q32::MIN, Q32::MIN, Q32::MAX];
        let g = [Q32::<0>::MIN, Q32::MAX, Q32::MIN, Q32::MAX];
        s.step(&mut w, &g).unwrap();
        assert_eq!(w, [Q32::MAX, Q32::MIN, Q32::MAX, Q32::MIN]);
        let mut v = g;
        s.step_momentum(&mut w, &mut v, &g).unwrap();
        assert_eq!(v, [Q32::MIN, Q32::MAX, Q32::MIN, Q32::MAX]);
        assert_eq!(w, [Q32::MAX, Q32::MIN, Q32::MAX, Q32::MIN]);
    }

    #[test]
    fn small_steps_do_not_drift() {
        // Half an ulp up and half an ulp down, many times: half-up rounding would walk away.
        let s = sgd(1 << 29, 0);
        let mut w = Q16::<8>::from_raw(100);
        for _ in 0..1000 {
            for g in [1, -1, 3, -3] {
                w = s.updated(w, Q16::<8>::from_raw(g));
            }
        }
        assert_eq!(w.raw(), 100);
    }

    #[test]
    fn bad_settings_and_lengths_are_typed_errors() {
        assert!(matches!(
            Sgd::new(Q32::default(), Q32::default()),
            Err(Error::NotPositive { what: What::LearningRate, .. })
        ));
        for raw in [-1, 1 << 30] {
            let r = Sgd::new(Q32::MAX, Q32::from_raw(raw));
            assert!(matches!(r, Err(Error::Range { what: What::Share, .. })), "{r:?}");
        }
        let (s, mut w, g) = (sgd(1, 0), [Q16::<8>::default(); 3], [Q16::<8>::default(); 2]);
        let short = Err(Error::Length { what: What::Gradient, expected: 3, got: 2 });
        assert_eq!(s.step(&mut w, &g), short);
        assert_eq!(s.step_momentum(&mut w, &mut [Q16::<8>::default(); 3], &g), short);
        let moments = s.step_momentum(&mut w, &mut [Q16::<8>::default(); 1], &[Q16::default(); 3]);
        assert_eq!(moments, Err(Error::Length { what: What::Moments, expected: 3, got: 1 }));
    }

    proptest! {
        #[test]
        fn every_32_bit_step_is_the_nearest(w: i32, v: i32, g: i32, rate in 1..=i32::MAX, momentum in 0..1 << 30, shift in 0_u32..31) {
            let s = sgd((rate >> shift).max(1), momentum);
            // In units of 2^−50 ulp, where the product's unit of 2^−50 is 2^−26 ulp of a Q24.
            let exact = (i128::from(w) << 50) - ((i128::from(s.rate().raw()) * i128::from(v)) << 24);
            let got = s.updated(Q32::<24>::from_raw(w), Q32::<20>::from_raw(v)).raw();
            let clamped = exact.clamp(i128::from(i32::MIN) << 50, i128::from(i32::MAX) << 50);
            prop_assert!(((i128::from(got) << 50) - clamped).abs() <= 1 << 49);
            let exact = i128::from(momentum) * i128::from(v) + (i128::from(g) << 30);
            let got = s.velocity(Q32::<24>::from_raw(v), Q32::from_raw(g)).raw();
            let clamped = exact.clamp(i128::from(i32::MIN) << 30, i128::from(i32::MAX) << 30);
            prop_assert!(((i128::from(got) << 30) - clamped).abs() <= 1 << 29);
        }

        #[test]
        fn alpha_stays_positive_and_every_step_exists(alpha: i16, v: i32, rate in 1..=i32::MAX) {
            let a = sgd(rate, 0).updated_alpha(Q16::<10>::from_raw(alpha), Q32::<16>::from_raw(v));
            for k in 2..=5 {
                prop_assert!(pi_step(a, k).is_ok());
            }
        }
    }
}
