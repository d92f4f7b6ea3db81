//! Straight-through estimators on scalars: the definitions that the batched kernels are tested against.
//!
//! Rounding has a zero gradient almost everywhere; an estimator says what to pass on instead. `g` is the gradient that
//! arrives at the quantised weight, `v = w/Δ` the weight in units of its step.

pub mod simd;

use crate::error::{Error, Result, What};
use crate::grid::Levels;
use serde::{Deserialize, Serialize};

/// The estimator, by name.
///
/// ```
/// use qat_kernels::SteVariant::{Clipped, Ewgs, LearnedStepSize, Standard};
/// use qat_kernels::{Grid, Levels, LsqMask};
/// let levels = Levels::new(2, Grid::MidTread)?; // levels −1..=½ for a step of ½
/// let variants = [Standard, Clipped { clip_val: 1.0 }, LearnedStepSize, Ewgs { lambda: 0.5 }];
/// let at = |w| variants.map(|ste| ste.backward_in_range(w, 0.5, levels, LsqMask::Exact, 1.0));
/// assert_eq!(at(0.375), [1.0, 1.0, 1.0, 0.875]); // EWGS: 1 + 0.5·(0.75 − 1)
/// assert_eq!(at(0.75), [1.0, 1.0, 0.0, 0.0]); // outside the range
/// assert_eq!(at(2.0), [1.0, 0.0, 0.0, 0.0]); // outside clip_val as well
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SteVariant {
    /// Pass the gradient on unchanged (Bengio et al. 2013).
    Standard,
    /// Pass it on while |w| ≤ clip_val, else stop it.
    Clipped {
        /// Largest |w| that still gets a gradient; positive and finite, in the units of the weights.
        clip_val: f32,
    },
    /// Pass it on inside the grid's range, stop it outside, and learn the step as well (LSQ, Esser et al. 2020).
    #[default]
    LearnedStepSize,
    /// Element-wise gradient scaling (EWGS, Lee et al. 2021): `g·(1 + λ·sign(g)·(v − level))` inside the range.
    Ewgs {
        /// λ ≥ 0, finite; the paper's δ. 0 is the standard estimator with LSQ's mask.
        lambda: f32,
    },
}

/// Where LSQ looks to decide whether a weight is inside the range.
///
/// ```
/// use qat_kernels::{Grid, Levels, LsqMask};
/// let levels = Levels::new(2, Grid::MidTread)?; // codes −2..=1
/// let passing = |mask: LsqMask| [-2.75, -2.5, -2.0, 1.0, 1.25, 1.5].map(|v| mask.passes(v, levels));
/// assert_eq!(passing(LsqMask::Exact), [false, false, true, true, false, false]);
/// assert_eq!(passing(LsqMask::Rounded), [false, true, true, true, true, false]); // ties to even
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LsqMask {
    /// On v itself, as the paper: `lo ≤ v − offset ≤ hi`.
    #[default]
    Exact,
    /// On the rounded value, as torch's `_fake_quantize_learnable_*` operators do; for comparison only. It lets half a
    /// step more through at each end.
    Rounded,
}

impl LsqMask {
    /// Whether `v = w/Δ` gets a gradient.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels, LsqMask};
    /// let levels = Levels::new(2, Grid::MidRise)?; // levels ±½ and ±1½
    /// assert!(LsqMask::Exact.passes(-1.5, levels));
    /// assert!(!LsqMask::Exact.passes(-1.75, levels));
    /// assert!(LsqMask::Rounded.passes(-1.75, levels)); // is rounded to −1½
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn passes(self, v: f32, levels: Levels) -> bool {
        match self {
            LsqMask::Exact => levels.inside(v),
            LsqMask::Rounded => {
                // round_ties_even(x) ∈ [lo, hi]: both bounds' codes are tested against the ties around them. `lo` is
                // even, so the tie below it rounds to it; `hi` is odd, so the tie above it rounds away from it.
                let x = v - levels.grid().offset();
                x >= levels.lo() as f32 - 0.5 && x < levels.hi() as f32 + 0.5
            }
        }
    }
}

impl SteVariant {
    /// Checks the parameters.
    ///
    /// # Errors
    /// [`Error::Range`] for a clip value that is not positive and finite or a λ that is negative or not finite.
    ///
    /// ```
    /// use qat_kernels::{Error, SteVariant, What};
    /// assert_eq!(SteVariant::Ewgs { lambda: 0.0 }.validate(), Ok(())); // scales nothing
    /// let e = Error::Range { what: What::Lambda, value: -0.5, min: 0.0, max: f32::MAX };
    /// assert_eq!(SteVariant::Ewgs { lambda: -0.5 }.validate(), Err(e));
    /// assert!(SteVariant::Clipped { clip_val: 0.0 }.validate().is_err()); // would clip everything
    /// ```
    pub fn validate(self) -> Result<()> {
        match self {
            SteVariant::Clipped { clip_val } if !(clip_val > 0.0 && clip_val.is_finite()) => {
                Err(Error::Range {
                    what: What::ClipVal,
                    value: clip_val,
                    min: f32::MIN_POSITIVE,
                    max: f32::MAX,
                })
            }
            SteVariant::Ewgs { lambda } if !(lambda >= 0.0 && lambda.is_finite()) => {
                Err(Error::Range { what: What::Lambda, value: lambda, min: 0.0, max: f32::MAX })
            }
            _ => Ok(()),
        }
    }

    /// The gradient for a weight `w` whose quantised value is `q`, both in the caller's units, without knowledge of the
    /// range (so LSQ passes everything; [`Self::backward_in_range`] knows the range).
    ///
    /// ```
    /// use qat_kernels::SteVariant;
    /// assert_eq!(SteVariant::Standard.backward(0.3, 0.0, 2.0), 2.0);
    /// assert_eq!(SteVariant::Clipped { clip_val: 1.0 }.backward(1.5, 1.0, 2.0), 0.0);
    /// assert_eq!(SteVariant::LearnedStepSize.backward(0.3, 0.0, 2.0), 2.0);
    /// assert_eq!(SteVariant::Ewgs { lambda: 0.5 }.backward(0.25, 0.0, 2.0), 2.25);
    /// ```
    #[must_use]
    #[inline]
    pub fn backward(self, w: f32, q: f32, g: f32) -> f32 {
        match self {
            SteVariant::Standard | SteVariant::LearnedStepSize => g,
            SteVariant::Clipped { clip_val } => {
                if w.abs() <= clip_val {
                    g
                } else {
                    0.0
                }
            }
            SteVariant::Ewgs { lambda } => g * (1.0 + lambda * sign(g) * (w - q)),
        }
    }

    /// The gradient for a weight `w` on a grid with a step: LSQ and EWGS stop it outside the range, EWGS scales by the
    /// rounding error in units of the step.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels, LsqMask, SteVariant};
    /// let lv = Levels::new(2, Grid::MidTread)?; // codes −2..=1
    /// let lsq = SteVariant::LearnedStepSize;
    /// assert_eq!(lsq.backward_in_range(0.9, 1.0, lv, LsqMask::Exact, 3.0), 3.0);
    /// assert_eq!(lsq.backward_in_range(1.1, 1.0, lv, LsqMask::Exact, 3.0), 0.0);
    /// assert_eq!(lsq.backward_in_range(1.1, 1.0, lv, LsqMask::Rounded, 3.0), 3.0);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn backward_in_range(self, w: f32, step: f32, levels: Levels, mask: LsqMask, g: f32) -> f32 {
        match self {
            SteVariant::Standard | SteVariant::Clipped { .. } => self.backward(w, 0.0, g),
            SteVariant::LearnedStepSize => {
                if mask.passes(w / step, levels) {
                    g
                } else {
                    0.0
                }
            }
            SteVariant::Ewgs { lambda } => {
                let v = w / step;
                if mask.passes(v, levels) {
                    let level = levels.round(v) + levels.grid().offset();
                    g * (1.0 + lambda * sign(g) * (v - level))
                } else {
                    0.0
                }
            }
        }
    }
}

/// What one weight contributes to the gradient of its step, LSQ equation 3: `g·(level − v)` inside the range,
/// `g·level(lo|hi)` outside. Sum over the weights that share the step, then multiply by [`lsq_gradient_scale`], and by
/// π/k for the gradient of α.
///
/// ```
/// use qat_kernels::{Grid, Levels, LsqMask, ste::lsq_step_gradient};
/// let levels = Levels::new(2, Grid::MidTread)?; // codes −2..=1
/// let term = |w| lsq_step_gradient(w, 0.5, levels, LsqMask::Exact, 2.0);
/// assert_eq!(term(0.375), 2.0 * (1.0 - 0.75)); // rounded up by a quarter of a step
/// assert_eq!([term(4.0), term(-4.0)], [2.0, -4.0]); // outside: g times the last level
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[must_use]
#[inline(always)]
pub fn lsq_step_gradient(w: f32, step: f32, levels: Levels, mask: LsqMask, g: f32) -> f32 {
    let v = w / step;
    let level = levels.round(v) + levels.grid().offset();
    if mask.passes(v, levels) { g * (level - v) } else { g * level }
}

/// LSQ's gradient scale `1/√(N·Qp)`, N the number of weights that share the step (Esser et al. 2020, §2.2).
///
/// ```
/// use qat_kernels::{Grid, Levels, ste::lsq_gradient_scale};
/// assert_eq!(lsq_gradient_scale(28, Levels::new(4, Grid::MidTread)?), 1.0 / 14.0); // Qp = 7
/// assert_eq!(lsq_gradient_scale(6, Levels::new(2, Grid::MidRise)?), 1.0 / 3.0); // Qp = 1½
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[must_use]
pub fn lsq_gradient_scale(weights: usize, levels: Levels) -> f32 {
    1.0 / crate::math::sqrt(weights as f32 * levels.top())
}

/// −1, 0 or 1; 0 for 0 (unlike `f32::signum`), as torch's `sign`.
#[inline(always)]
pub(crate) fn sign(g: f32) -> f32 {
    f32::from(i8::from(g > 0.0) - i8::from(g < 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::Grid;

    #[test]
    fn rounded_mask_is_torchs_mask() {
        for bits in 2..=8 {
            let lv = Levels::new(bits, Grid::MidTread).unwrap();
            for i in -2000..2000 {
                let v = i as f32 / 8.0;
                let r = v.round_ties_even();
                let torch = r >= lv.lo() as f32 && r <= lv.hi() as f32;
                assert_eq!(LsqMask::Rounded.passes(v, lv), torch, "{bits} {v}");
            }
        }
    }

    #[test]
    fn no_gradient_is_lost_but_by_clipping() {
        // INV-1
        let lv = Levels::new(3, Grid::MidRise).unwrap();
        for ste in [SteVariant::Standard, SteVariant::LearnedStepSize, SteVariant::Ewgs { lambda: 0.3 }] {
            for i in -30..=30 {
                let w = i as f32 / 10.0;
                if lv.inside(w) {
                    assert_ne!(ste.backward_in_range(w, 1.0, lv, LsqMask::Exact, -0.7), 0.0);
                }
            }
        }
    }
}
