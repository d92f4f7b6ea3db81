//! The backward pass: the four straight-through estimators and LSQ's gradient of the step, in integers.

use super::q::{Fixed, Q32};
use super::quantize::{FixedQuantizer, same_length};
use super::word::{Wide, Word, divide_i128};
use crate::error::{Error, Result, What};
use crate::grid::{Grid, Levels};
use crate::ste::{LsqMask, SteVariant};

/// The estimator, as [`SteVariant`], with its parameter in fixed point.
///
/// | estimator | gradient of a weight | error |
/// |---|---|---|
/// | `Standard` | g | 0 |
/// | `Clipped` | g·1{abs(w) ≤ clip_val} | 0 |
/// | `LearnedStepSize` | g·1{inside} | 0 |
/// | `Ewgs` | g·(1 + λ·sign(g)·(v − level))·1{inside} | ½ ulp + abs(g)·2⁻³¹; 1 ulp where INV-1 lifts a result |
///
/// INV-1 holds to the last bit: an EWGS gradient that would round to zero stays one ulp of its sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FixedSte<W: Word, const F: u32> {
    /// Pass the gradient on unchanged.
    Standard,
    /// Pass it on while |w| ≤ clip_val, else stop it.
    Clipped {
        /// Largest |w| that still gets a gradient; positive.
        clip_val: Fixed<W, F>,
    },
    /// Pass it on inside the grid's range, stop it outside.
    LearnedStepSize,
    /// Scale it by the rounding error inside the range, stop it outside.
    Ewgs {
        /// λ in `[0, 2)`: below 2 the factor cannot change the gradient's sign.
        lambda: Q32<30>,
    },
}

impl<W: Word, const F: u32> FixedSte<W, F> {
    /// The estimator with the nearest parameter of the format.
    ///
    /// # Errors
    /// As [`Self::validate`] for the rounded parameter; [`Error::Range`] for λ ≥ 2.
    ///
    /// ```
    /// use qat_kernels::SteVariant::{Clipped, Ewgs};
    /// use qat_kernels::fixed::{FixedSte, Q16};
    /// let clipped = FixedSte::<i16, 12>::from_variant(Clipped { clip_val: 1.5 })?;
    /// assert_eq!(clipped, FixedSte::Clipped { clip_val: Q16::from_ratio(3, 2) });
    /// // Fine in f32, but nothing in steps of 2^−12.
    /// assert!(FixedSte::<i16, 12>::from_variant(Clipped { clip_val: 1e-6 }).is_err());
    /// assert!(FixedSte::<i16, 12>::from_variant(Ewgs { lambda: 2.0 }).is_err()); // could turn a gradient round
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn from_variant(variant: SteVariant) -> Result<Self> {
        variant.validate()?;
        let ste = match variant {
            SteVariant::Standard => Self::Standard,
            SteVariant::LearnedStepSize => Self::LearnedStepSize,
            SteVariant::Clipped { clip_val } => Self::Clipped { clip_val: Fixed::from_f32(clip_val)? },
            // Positive floats are ordered as their bits are: no float comparison on the device.
            SteVariant::Ewgs { lambda } if lambda.to_bits() & 0x7fff_ffff >= 2.0_f32.to_bits() => {
                return Err(Error::Range {
                    what: What::Lambda,
                    value: lambda,
                    min: 0.0,
                    max: Q32::<30>::MAX.to_f32(),
                });
            }
            SteVariant::Ewgs { lambda } => Self::Ewgs { lambda: Fixed::from_f32(lambda)? },
        };
        ste.validate()?;
        Ok(ste)
    }

    /// Checks the parameter.
    ///
    /// # Errors
    /// [`Error::Range`] for a clip value that is not positive or a negative λ.
    ///
    /// ```
    /// use qat_kernels::fixed::{FixedSte, Q16, Q32};
    /// let ewgs = |numerator| FixedSte::<i16, 12>::Ewgs { lambda: Q32::from_ratio(numerator, 10) };
    /// assert!(ewgs(0).validate().is_ok() && ewgs(-1).validate().is_err());
    /// let nothing = FixedSte::Clipped { clip_val: Q16::<12>::default() };
    /// assert!(nothing.validate().is_err()); // would stop every gradient
    /// ```
    pub fn validate(self) -> Result<()> {
        match self {
            Self::Clipped { clip_val } if clip_val <= Fixed::default() => Err(Error::Range {
                what: What::ClipVal,
                value: clip_val.to_f32(),
                min: Fixed::<W, F>::saturating_from_raw(1).to_f32(),
                max: Fixed::<W, F>::MAX.to_f32(),
            }),
            Self::Ewgs { lambda } if lambda < Q32::default() => Err(Error::Range {
                what: What::Lambda,
                value: lambda.to_f32(),
                min: 0.0,
                max: Q32::<30>::MAX.to_f32(),
            }),
            _ => Ok(()),
        }
    }

    /// The gradient for a weight on its grid; the gradient may have any format of its own.
    ///
    /// ```
    /// use qat_kernels::fixed::{FixedQuantizer, FixedSte, Q16, Q32};
    /// use qat_kernels::{Grid, Levels, LsqMask};
    /// let q = FixedQuantizer::new(Levels::new(2, Grid::MidTread)?, Q16::<12>::from_ratio(1, 1))?; // codes −2..=1
    /// let (w, g) = (Q16::from_ratio(1, 4), Q32::<20>::from_ratio(2, 1));
    /// let ewgs = FixedSte::Ewgs { lambda: Q32::from_ratio(1, 2) };
    /// assert_eq!(ewgs.backward(&q, LsqMask::Exact, w, g).to_f32(), 2.25);
    /// assert_eq!(FixedSte::LearnedStepSize.backward(&q, LsqMask::Exact, Q16::from_ratio(11, 10), g).to_f32(), 0.0);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub fn backward<V: Word, const G: u32>(
        self,
        quantizer: &FixedQuantizer<W, F>,
        mask: LsqMask,
        w: Fixed<W, F>,
        g: Fixed<V, G>,
    ) -> Fixed<V, G> {
        let stopped = Fixed::default();
        match self {
            Self::Standard => g,
            Self::Clipped { clip_val } => {
                // −clip ≤ w ≤ clip, without an absolute value that MIN does not have.
                if w <= clip_val && w >= clip_val.saturating_neg() { g } else { stopped }
            }
            Self::LearnedStepSize => {
                if quantizer.passes(w, mask) {
                    g
                } else {
                    stopped
                }
            }
            Self::Ewgs { lambda } => {
                if !quantizer.passes(w, mask) || g == stopped {
                    return stopped;
                }
                // level − v = e/(2Δ) with |e| ≤ Δ < 2^31, so the product with λ < 2^31 fits, and its quotient,
                // λ·(level − v) in Q30, has been rounded once.
                let e: i64 = quantizer.twice_error(w).into();
                let unit = 2 * quantizer.step().raw().to_i64();
                let bend = (i64::from(lambda.raw()) * e).divide(unit);
                let raw = g.raw().to_i64();
                // |factor| < 2^31 and |g| ≤ 2^31.
                let factor = if raw > 0 { (1 << 30) - bend } else { (1 << 30) + bend };
                match (raw * factor).shift_right(30) {
                    0 => Fixed::saturating_from_raw(raw.signum()),
                    raw => Fixed::saturating_from_raw(raw),
                }
            }
        }
    }

    /// Turns the gradients of the quantised weights into those of the weights, in place.
    ///
    /// # Errors
    /// [`Error::Length`] unless `gradients` is as long as `weights`; as [`Self::validate`].
    ///
    /// ```
    /// use qat_kernels::fixed::{FixedQuantizer, FixedSte, Q16, Q32};
    /// use qat_kernels::{Grid, Levels, LsqMask};
    /// let q = FixedQuantizer::new(Levels::new(2, Grid::MidTread)?, Q16::<12>::from_ratio(1, 1))?; // −2 to 1
    /// let weights = [-12, 1, 4, 6].map(|w| Q16::from_ratio(w, 4));
    /// let mut gradients = [Q32::<20>::from_ratio(1, 3); 4];
    /// FixedSte::LearnedStepSize.backward_slice(&q, LsqMask::Exact, &weights, &mut gradients)?;
    /// let (stopped, passed) = (Q32::default(), Q32::from_ratio(1, 3));
    /// assert_eq!(gradients, [stopped, passed, passed, stopped]); // of −3, ¼, 1 and 1½
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn backward_slice<V: Word, const G: u32>(
        self,
        quantizer: &FixedQuantizer<W, F>,
        mask: LsqMask,
        weights: &[Fixed<W, F>],
        gradients: &mut [Fixed<V, G>],
    ) -> Result<()> {
        self.validate()?;
        same_length(What::Gradient, weights.len(), gradients.len())?;
        for (g, &w) in gradients.iter_mut().zip(weights) {
            *g = self.backward(quantizer, mask, w, *g);
        }
        Ok(())
    }
}

/// LSQ's gradient of the step (Esser et al. 2020, equation 3) over the weights that share it:
/// `scale · (Σ_inside g·(level − v) + Σ_outside g·level)`.
///
/// `gradients` are those of the quantised weights, `scale` is [`lsq_gradient_scale`], times π/k for the gradient of α
/// (`scale.saturating_mul(pi_over::<i32, 30>(k)?)`; π/2 < 2 fits). Error: ½ ulp. The sums are kept exactly, as integers
/// over 2Δ, until one division at the end; the result is clamped.
///
/// # Errors
/// [`Error::Length`] unless `gradients` is as long as `weights`.
///
/// ```
/// use qat_kernels::fixed::{FixedQuantizer, Q16, Q32, lsq_gradient_scale, lsq_step_gradient};
/// use qat_kernels::{Grid, Levels, LsqMask};
/// let q = FixedQuantizer::new(Levels::new(2, Grid::MidTread)?, Q16::<12>::from_ratio(1, 1))?; // −2 to 1
/// let weights = [1, 12, 0, -4].map(|w| Q16::from_ratio(w, 4));
/// let gradients = [2, 1, 1, 1].map(|g| Q32::<20>::from_ratio(g, 1));
/// let scale = lsq_gradient_scale(4, q.levels()); // 1/√(4·1)
/// let got = lsq_step_gradient(&q, LsqMask::Exact, &weights, &gradients, scale)?;
/// assert_eq!(got.to_f32(), 0.25); // ½·(2·(0 − ¼) + 1·1), the 1 being the level of 3; 0 and −1 are exact
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn lsq_step_gradient<W: Word, V: Word, const F: u32, const G: u32>(
    quantizer: &FixedQuantizer<W, F>,
    mask: LsqMask,
    weights: &[Fixed<W, F>],
    gradients: &[Fixed<V, G>],
    scale: Q32<30>,
) -> Result<Fixed<V, G>> {
    same_length(What::Gradient, weights.len(), gradients.len())?;
    let levels = quantizer.levels();
    let (mut inside, mut outside) = (0_i128, 0_i128);
    for (&w, &g) in weights.iter().zip(gradients) {
        let g = g.raw().to_i64();
        // Both products fit in 64 bits: 2^31 · 2^31 inside, where the error is at most a step, 2^31 · 2^9 outside.
        if quantizer.passes(w, mask) {
            let e: i64 = quantizer.twice_error(w).into();
            inside += i128::from(g * e);
        } else {
            outside += i128::from(g * i64::from(levels.twice_level(quantizer.quantize(w).into())));
        }
    }
    let step = quantizer.step().raw().to_i64();
    let numerator =
        outside.saturating_mul(step.into()).saturating_add(inside).saturating_mul(i128::from(scale.raw()));
    Ok(Fixed::saturating_from_raw(divide_i128(numerator, i128::from(step) << 31)))
}

/// LSQ's gradient scale `1/√(N·Qp)`, N the number of weights that share the step (§2.2 of the paper), to nearest: at most
/// 2^−31 off. 0 for N = 0.
///
/// ```
/// use qat_kernels::{Grid, Levels};
/// let scale = qat_kernels::fixed::lsq_gradient_scale(64, Levels::new(2, Grid::MidTread)?);
/// assert_eq!(scale.to_f32(), 0.125);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[must_use]
pub fn lsq_gradient_scale(weights: usize, levels: Levels) -> Q32<30> {
    let twice_top = match levels.grid() {
        Grid::MidTread => 2 * levels.hi(),
        Grid::MidRise => 2 * levels.hi() + 1,
    };
    // N·Qp = N·T/2, so 2^31/√(N·Qp) = √(2^63/(N·T)): twice the result, whose last bit says how to round. Flooring the
    // quotient does not change the floor of its root.
    let product = (weights as u64).saturating_mul(twice_top.unsigned_abs().into());
    let twice = (1_u64 << 63).checked_div(product).unwrap_or(0).isqrt();
    Q32::saturating_from_raw(((twice + 1) >> 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixed::{Q16, pi_over};
    use crate::ste;
    use proptest::prelude::*;

    fn quantizer(bits: u8, grid: Grid, step: i16) -> FixedQuantizer<i16, 12> {
        FixedQuantizer::new(Levels::new(bits, grid).unwrap(), Q16::from_raw(step)).unwrap()
    }

    /// EWGS of the real numbers, in units of the gradient's ulp.
    fn ewgs_exact(q: &FixedQuantizer<i16, 12>, lambda: f64, w: i16, g: f64) -> f64 {
        let v = f64::from(w) / f64::from(q.step().raw());
        let level = f64::from(q.levels().twice_level(q.quantize(Q16::from_raw(w)).into())) / 2.0;
        g * (1.0 + lambda * g.signum() * (v - level))
    }

    #[test]
    fn every_16_bit_weight_gets_the_f32_estimators_gradient() {
        let lambda = 0.25;
        let variants = [
            SteVariant::Standard,
            SteVariant::Clipped { clip_val: 1.5 },
            SteVariant::LearnedStepSize,
            SteVariant::Ewgs { lambda },
        ];
        for (bits, grid, step) in
            [(2, Grid::MidTread, 4096), (2, Grid::MidRise, 1000), (3, Grid::MidRise, 777)]
        {
            let q = quantizer(bits, grid, step);
            for mask in [LsqMask::Exact, LsqMask::Rounded] {
                for variant in variants {
                    let fixed = FixedSte::from_variant(variant).unwrap();
                    for raw in i16::MIN..=i16::MAX {
                        let w = Q16::<12>::from_raw(raw);
                        for g in [1, -1, 5, -320, 32767, i16::MIN] {
                            let got = fixed.backward(&q, mask, w, Q16::<8>::from_raw(g)).to_f32();
                            let g = f32::from(g) / 256.0;
                            let want =
                                variant.backward_in_range(w.to_f32(), q.step().to_f32(), q.levels(), mask, g);
                            if let SteVariant::Ewgs { .. } = variant {
                                let bound = 0.502 / 256.0 + 1e-6 * g.abs();
                                let clamped = want.clamp(Q16::<8>::MIN.to_f32(), Q16::<8>::MAX.to_f32());
                                assert!((got - clamped).abs() <= bound, "{raw} {g} {got} {want}");
                            } else {
                                assert_eq!(got, want, "{variant:?} {raw} {g}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_16_bit_gradient_is_within_the_documented_bound() {
        let q = quantizer(3, Grid::MidTread, 900);
        for (num, den) in [(0, 1), (1, 1000), (1, 5), (1, 1), (19, 10)] {
            let lambda = Q32::from_ratio(num, den);
            let ste = FixedSte::Ewgs { lambda };
            for w in [-3600, -3599, -451, -450, -449, -1, 0, 1, 449, 450, 451, 1350, 2699, 2700] {
                for g in i16::MIN..=i16::MAX {
                    let got = ste.backward(&q, LsqMask::Exact, Q16::from_raw(w), Q16::<9>::from_raw(g)).raw();
                    let lambda = f64::from(lambda.raw()) / f64::from(1 << 30);
                    let exact = ewgs_exact(&q, lambda, w, g.into()).clamp(-32768.0, 32767.0);
                    let lifted = got.unsigned_abs() == 1 && exact.abs() < 1.0;
                    let bound =
                        if lifted { 1.0 } else { 0.5 + f64::from(g).abs() * 2.0_f64.powi(-31) + 1e-9 };
                    assert!((f64::from(got) - exact).abs() <= bound, "{w} {g} {got} {exact}");
                    assert_eq!(i16::signum(got), g.signum(), "INV-1: {w} {g}");
                }
            }
        }
    }

    #[test]
    fn clip_bounds_are_inclusive_and_min_has_no_absolute_value() {
        let q = quantizer(4, Grid::MidTread, 4096);
        let g = Q16::<8>::from_raw(77);
        let at = |clip, w| {
            FixedSte::Clipped { clip_val: Q16::from_raw(clip) }.backward(
                &q,
                LsqMask::Exact,
                Q16::from_raw(w),
                g,
            )
        };
        assert_eq!((at(100, 100), at(100, -100)), (g, g));
        assert_eq!((at(100, 101), at(100, -101)), (Q16::default(), Q16::default()));
        assert_eq!(at(i16::MAX, i16::MIN), Q16::default());
    }

    #[test]
    fn parameters_are_checked() {
        let range = |what, r: Result<FixedSte<i16, 12>>| {
            assert!(matches!(r, Err(Error::Range { what: w, .. }) if w == what), "{r:?}");
        };
        range(What::ClipVal, FixedSte::from_variant(SteVariant::Clipped { clip_val: 0.0 }));
        range(What::ClipVal, FixedSte::from_variant(SteVariant::Clipped { clip_val: 1e-9 }));
        range(What::Lambda, FixedSte::from_variant(SteVariant::Ewgs { lambda: -0.1 }));
        range(What::Lambda, FixedSte::from_variant(SteVariant::Ewgs { lambda: 2.0 }));
        let ste = FixedSte::<i16, 12>::Ewgs { lambda: Q32::from_raw(-1) };
        let q = quantizer(4, Grid::MidTread, 4096);
        assert!(ste.backward_slice::<i16, 8>(&q, LsqMask::Exact, &[], &mut []).is_err());
        let long =
            FixedSte::Standard.backward_slice::<i16, 8>(&q, LsqMask::Exact, &[], &mut [Q16::default()]);
        assert_eq!(long, Err(Error::Length { what: What::Gradient, expected: 0, got: 1 }));
    }

    #[test]
    fn the_gradient_scale_is_the_nearest() {
        for bits in 2..=8 {
            for grid in [Grid::MidTread, Grid::MidRise] {
                let lv = Levels::new(bits, grid).unwrap();
                for n in (1..3000).chain([1 << 20, 4_358_144, u32::MAX as usize]) {
                    let exact = 1.0 / (n as f64 * f64::from(lv.top())).sqrt();
                    let got = f64::from(lsq_gradient_scale(n, lv).raw()) / f64::from(1 << 30);
                    assert!((got - exact).abs() <= 2.0_f64.powi(-31) * 1.000_001, "{n} {lv:?}");
                }
                assert_eq!(lsq_gradient_scale(0, lv), Q32::default());
            }
        }
    }

    #[test]
    fn a_huge_step_gradient_saturates() {
        let q = FixedQuantizer::new(Levels::new(8, Grid::MidTread).unwrap(), Q32::<8>::from_raw(1)).unwrap();
        let w = [Q32::<8>::MIN; 64];
        let (low, high) = ([Q32::<8>::MIN; 64], [Q32::<8>::MAX; 64]);
        let sum = |g| lsq_step_gradient(&q, LsqMask::Exact, &w, g, Q32::MAX).unwrap();
        assert_eq!((sum(&low), sum(&high)), (Q32::MAX, Q32::MIN)); // level −128
    }

    proptest! {
        /// Of the real formula, in f64: what is added there is below 2^53, so f64's own error stays under a thousandth ulp.
        #[test]
        fn the_step_gradient_is_the_nearest(
            pairs in prop::collection::vec((-9000_i16..9000, any::<i16>()), 1..200),
            step in 1_i16..5000, bits in 2_u8..=8, rise: bool, k in 2_u8..=5, rounded: bool,
        ) {
            let grid = if rise { Grid::MidRise } else { Grid::MidTread };
            let mask = if rounded { LsqMask::Rounded } else { LsqMask::Exact };
            let q = quantizer(bits, grid, step);
            let scale = lsq_gradient_scale(pairs.len(), q.levels()).saturating_mul(pi_over::<i32, 30>(k).unwrap());
            let w: Vec<_> = pairs.iter().map(|p| Q16::<12>::from_raw(p.0)).collect();
            let g: Vec<_> = pairs.iter().map(|p| Q32::<16>::from_raw(p.1.into())).collect();
            let exact: f64 = pairs.iter().map(|&(w, g)| {
                let v = f64::from(w) / f64::from(step);
                let level = f64::from(q.levels().twice_level(q.quantize(Q16::from_raw(w)).into())) / 2.0;
                let passes = q.passes(Q16::from_raw(w), mask);
                f64::from(g) * if passes { level - v } else { level }
            }).sum::<f64>() * f64::from(scale.raw()) / f64::from(1 << 30);
            let got = lsq_step_gradient(&q, mask, &w, &g, scale).unwrap();
            prop_assert!((f64::from(got.raw()) - exact).abs() <= 0.501, "{} {}", got.raw(), exact);
            // And beside the f32 contract, within f32's own rounding.
            let float: f32 = w.iter().zip(&g).map(|(w, g)| {
                ste::lsq_step_gradient(w.to_f32(), q.step().to_f32(), q.levels(), mask, g.to_f32())
            }).sum::<f32>() * scale.to_f32();
            let size: f32 = g.iter().map(|g| g.to_f32().abs() * 128.0).sum();
            prop_assert!((got.to_f32() - float).abs() <= 1e-5 + 1e-5 * size, "{} {}", got.to_f32(), float);
        }

        #[test]
        fn a_32_bit_ewgs_gradient_is_within_its_bound(w: i32, step in 1..=i32::MAX, shift in 0_u32..12, g: i32, lambda in 0..i32::MAX) {
            let lv = Levels::new(4, Grid::MidRise).unwrap();
            let q = FixedQuantizer::new(lv, Q32::<20>::from_raw((step >> shift).max(1))).unwrap();
            let (lambda, w) = (Q32::<30>::from_raw(lambda), Q32::<20>::from_raw(w));
            let got = FixedSte::Ewgs { lambda }.backward(&q, LsqMask::Exact, w, Q32::<20>::from_raw(g)).raw();
            if q.passes(w, LsqMask::Exact) {
                let v = f64::from(w.raw()) / f64::from(q.step().raw());
                let level = f64::from(lv.twice_level(q.quantize(w).into())) / 2.0;
                let lambda = f64::from(lambda.raw()) / f64::from(1 << 30);
                let exact = f64::from(g) * (1.0 + lambda * f64::from(g.signum()) * (v - level));
                let exact = exact.clamp(f64::from(i32::MIN), f64::from(i32::MAX));
                let bound = (0.5 + f64::from(g).abs() * 2.0_f64.powi(-31) + 1e-4).max(1.0);
                prop_assert!((f64::from(got) - exact).abs() <= bound, "{} {}", got, exact);
                prop_assert_eq!(got.signum(), g.signum());
            } else {
                prop_assert_eq!(got, 0);
            }
        }
    }
}
