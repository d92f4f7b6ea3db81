//! From a range of reals to scale and zero point, and the per-token calibration that needs no state.

use super::config::QuantScheme;
use crate::error::{Error, Result, What};
use crate::grid::{Grid, Levels};

/// A range of reals that quantisation keeps; what lies outside is clipped to its ends. Finite, `lo ≤ hi`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipRange {
    lo: f32,
    hi: f32,
}

impl ClipRange {
    /// The range from `lo` to `hi`.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for NaN or ∞ (index 0: `lo`, 1: `hi`); [`Error::Range`] if `lo > hi`.
    ///
    /// ```
    /// use qat_kernels::{Error, What, calibration::ClipRange};
    /// assert!(ClipRange::new(-1.0, 3.0).is_ok());
    /// assert!(ClipRange::new(0.5, 0.5).is_ok()); // a constant
    /// assert!(ClipRange::new(3.0, -1.0).is_err());
    /// let e = Error::NotFinite { what: What::Samples, index: 1 };
    /// assert_eq!(ClipRange::new(0.0, f32::INFINITY), Err(e));
    /// ```
    pub fn new(lo: f32, hi: f32) -> Result<Self> {
        for (index, end) in [lo, hi].into_iter().enumerate() {
            if !end.is_finite() {
                return Err(Error::NotFinite { what: What::Samples, index });
            }
        }
        if lo > hi {
            return Err(Error::Range { what: What::Samples, value: lo, min: f32::MIN, max: hi });
        }
        Ok(Self { lo, hi })
    }

    /// For ends that are known to be finite and in order.
    pub(super) const fn trusted(lo: f32, hi: f32) -> Self {
        Self { lo, hi }
    }

    /// Lower end.
    ///
    /// ```
    /// use qat_kernels::calibration::{AffineParams, ClipRange, QuantScheme};
    /// let after_relu = ClipRange::new(0.0, 6.0)?;
    /// assert!(after_relu.lo() >= 0.0); // so the smallest code stands for zero
    /// assert_eq!(AffineParams::from_range(after_relu, 8, QuantScheme::Affine)?.zero_point, -128);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn lo(self) -> f32 {
        self.lo
    }

    /// Upper end.
    ///
    /// ```
    /// # use qat_kernels::calibration::ClipRange;
    /// let range = ClipRange::new(-1.0, 3.0)?;
    /// let kept = [-9.0, 0.5, 9.0].map(|x: f32| x.clamp(range.lo(), range.hi()));
    /// assert_eq!(kept, [-1.0, 0.5, 3.0]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn hi(self) -> f32 {
        self.hi
    }

    /// The larger magnitude of the two ends.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels, calibration::{AffineParams, ClipRange, QuantScheme}};
    /// let range = ClipRange::new(-3.5, 0.5)?;
    /// assert_eq!(range.magnitude(), 3.5);
    /// // It is what a symmetric step has to reach with its largest level.
    /// let params = AffineParams::from_range(range, 4, QuantScheme::Symmetric(Grid::MidTread))?;
    /// assert_eq!(params.scale, range.magnitude() / Levels::new(4, Grid::MidTread)?.top());
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn magnitude(self) -> f32 {
        if -self.lo > self.hi { -self.lo } else { self.hi }
    }
}

/// Scale and zero point: `x ≈ (level(q − z))·scale`.
///
/// The scale is always positive and normal, the zero point a code of the bit width that it was made for (0 in symmetric
/// schemes).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AffineParams {
    /// Real units per code; positive and normal.
    pub scale: f32,
    /// The code of real zero.
    pub zero_point: i8,
}

impl AffineParams {
    /// Scale and zero point of a range.
    ///
    /// Affine (Jacob et al. 2018, §3; the range first grows to include 0, so that zero, and with it padding and ReLU,
    /// is exact):
    ///
    /// ```text
    /// scale = (hi − lo) / (2^b − 1)      z = clamp(round_ties_even(−2^(b−1) − lo/scale))
    /// ```
    ///
    /// Symmetric: `scale = max(|lo|, |hi|) / top`, `z = 0`, with top the level of the largest code: `2^(b−1) − 1`
    /// mid-tread, `2^(b−1) − ½` mid-rise.
    ///
    /// A range too small for a normal scale (that of a constant zero, above all) gets scale 1 and zero point 0: every
    /// sample of it is nearer to 0 than any f32 that survives a core without subnormal numbers.
    ///
    /// # Errors
    /// [`Error::Bits`].
    ///
    /// ```
    /// use qat_kernels::calibration::{AffineParams, ClipRange, QuantScheme};
    /// let p = AffineParams::from_range(ClipRange::new(0.0, 2.55)?, 8, QuantScheme::Affine)?;
    /// assert_eq!((p.scale, p.zero_point), (0.01, -128));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn from_range(range: ClipRange, bits: u8, scheme: QuantScheme) -> Result<Self> {
        Ok(Self::of(range, Levels::new(bits, scheme.grid())?, scheme))
    }

    pub(super) fn of(range: ClipRange, levels: Levels, scheme: QuantScheme) -> Self {
        let (scale, lo) = match scheme {
            QuantScheme::Affine => {
                let lo = if range.lo < 0.0 { range.lo } else { 0.0 };
                let hi = if range.hi > 0.0 { range.hi } else { 0.0 };
                // Halves, so that the width of a range up to ±f32::MAX does not overflow; halving is exact.
                ((hi * 0.5 - lo * 0.5) / ((levels.count() - 1) as f32 * 0.5), lo)
            }
            QuantScheme::Symmetric(_) => (range.magnitude() / levels.top(), 0.0),
        };
        if !scale.is_normal() {
            return Self { scale: 1.0, zero_point: 0 };
        }
        let zero_point = match scheme {
            // A MidTread grid rounds to even and clamps to the codes: just what the formula asks for.
            QuantScheme::Affine => levels.round(levels.lo() as f32 - lo / scale) as i8,
            QuantScheme::Symmetric(_) => 0,
        };
        Self { scale, zero_point }
    }

    /// `q = clamp(round_ties_even(x/scale − offset) + z)`; NaN becomes the smallest code.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels, calibration::AffineParams};
    /// let (params, levels) = (AffineParams { scale: 0.5, zero_point: -100 }, Levels::new(8, Grid::MidTread)?);
    /// assert_eq!([0.0, 0.25, 0.75].map(|x| params.quantize(x, levels)), [-100, -100, -98]); // ½ and 1½: to even
    /// assert_eq!([1e30, -1e30].map(|x| params.quantize(x, levels)), [127, -128]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub fn quantize(self, x: f32, levels: Levels) -> i32 {
        // 1.5·2^23: adding and taking it away rounds |v| ≤ 2^22 to an integer, ties to even.
        const MAGIC: f32 = 12_582_912.0;
        let z = i32::from(self.zero_point);
        let (lo, hi) = ((levels.lo() - z) as f32, (levels.hi() - z) as f32);
        let v = x / self.scale - levels.grid().offset();
        let v = if v > lo { v } else { lo };
        let v = if v < hi { v } else { hi };
        ((v + MAGIC) - MAGIC) as i32 + z
    }

    /// The real value of a code: `level(q − z)·scale`.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels, calibration::AffineParams};
    /// let (params, levels) = (AffineParams { scale: 0.5, zero_point: -100 }, Levels::new(8, Grid::MidTread)?);
    /// assert_eq!([-100, -98, 127].map(|code| params.dequantize(code, levels)), [0.0, 1.0, 113.5]);
    /// let back = params.dequantize(params.quantize(3.3, levels), levels);
    /// assert!((back - 3.3).abs() <= params.scale / 2.0);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub fn dequantize(self, code: i32, levels: Levels) -> f32 {
        levels.level(code.saturating_sub(self.zero_point.into())) * self.scale
    }
}

/// What a calibration finds for a tensor, channel or group.
///
/// ```
/// use qat_kernels::{Grid, Levels, calibration::{AffineParams, Calibrated, ClipRange, QuantScheme}};
/// let range = ClipRange::new(-1.0, 2.0)?;
/// let found = Calibrated { range, params: AffineParams::from_range(range, 2, QuantScheme::Affine)? };
/// // Three steps of 1 and zero at code −1: both ends of the range are codes.
/// let levels = Levels::new(2, Grid::MidTread)?;
/// let ends = [found.range.lo(), found.range.hi()].map(|x| found.params.quantize(x, levels));
/// assert_eq!(ends, [-2, 1]);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibrated {
    /// The range chosen.
    pub range: ClipRange,
    /// Scale and zero point of that range.
    pub params: AffineParams,
}

/// Scale and zero point of every token (row of `row_len` activations) from its own minimum and maximum: dynamic
/// quantisation, no state. Writes one entry per row to the front of `out` and returns that part.
///
/// # Errors
/// [`Error::Bits`]; [`Error::Empty`] for rows of length 0; [`Error::NotDivisible`] if `rows` is not whole rows;
/// [`Error::Length`] if `out` has fewer entries than there are rows; [`Error::NotFinite`] with the index of the first NaN
/// or ∞.
///
/// ```
/// use qat_kernels::calibration::{AffineParams, QuantScheme, per_token};
/// let rows = [0.0, 2.55, -1.275, 1.275];
/// let mut out = [AffineParams { scale: 1.0, zero_point: 0 }; 2];
/// let tokens = per_token(&rows, 2, 8, QuantScheme::Affine, &mut out)?;
/// assert_eq!(tokens[0].zero_point, -128);
/// assert_eq!(tokens[1].zero_point, 0); // −½ is a tie
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn per_token<'o>(
    rows: &[f32],
    row_len: usize,
    bits: u8,
    scheme: QuantScheme,
    out: &'o mut [AffineParams],
) -> Result<&'o mut [AffineParams]> {
    let levels = Levels::new(bits, scheme.grid())?;
    if row_len == 0 {
        return Err(Error::Empty { what: What::Samples });
    }
    if !rows.len().is_multiple_of(row_len) {
        return Err(Error::NotDivisible { what: What::Samples, len: rows.len(), by: row_len });
    }
    let count = rows.len() / row_len;
    let got = out.len();
    let out = out.get_mut(..count).ok_or(Error::Length { what: What::Output, expected: count, got })?;
    for (token, (row, params)) in rows.chunks_exact(row_len).zip(out.iter_mut()).enumerate() {
        let seen = super::observer::scan(row, super::observer::ALL_FINITE);
        if seen.rejected > 0 {
            let column = row.iter().position(|x| !x.is_finite()).unwrap_or(0);
            return Err(Error::NotFinite { what: What::Samples, index: token * row_len + column });
        }
        *params = AffineParams::of(ClipRange::trusted(seen.min(), seen.max()), levels, scheme);
    }
    Ok(out)
}

/// Whether scale and zero point are ones that [`AffineParams::from_range`] could have made.
pub(super) fn zero_point_fits(params: AffineParams, levels: Levels, scheme: QuantScheme) -> bool {
    let z = i32::from(params.zero_point);
    match scheme {
        QuantScheme::Affine => (levels.lo()..=levels.hi()).contains(&z),
        QuantScheme::Symmetric(Grid::MidTread | Grid::MidRise) => z == 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{MAX_BITS, MIN_BITS};

    const SCHEMES: [QuantScheme; 3] =
        [QuantScheme::Affine, QuantScheme::Symmetric(Grid::MidTread), QuantScheme::Symmetric(Grid::MidRise)];

    fn range(lo: f32, hi: f32) -> ClipRange {
        ClipRange::new(lo, hi).unwrap()
    }

    #[test]
    fn codes_outside_the_grid_end_at_the_largest_difference() {
        let (params, levels) =
            (AffineParams { scale: 1.0, zero_point: -128 }, Levels::new(8, Grid::MidTread).unwrap());
        assert_eq!(params.dequantize(i32::MAX, levels), 2_147_483_647.0);
        assert_eq!(AffineParams { zero_point: 127, ..params }.dequantize(i32::MIN, levels), -2_147_483_648.0);
    }

    #[test]
    fn affine_zero_is_a_code_and_the_ends_are_within_half_a_step() {
        for bits in MIN_BITS..=MAX_BITS {
            let levels = Levels::new(bits, Grid::MidTread).unwrap();
            for (lo, hi) in
                [(-1.0, 1.0), (0.0, 6.0), (-0.17, 10.0), (-3.0, 0.0), (2.0, 5.0), (-9.0, -8.0), (-1e30, 1e-3)]
            {
                let p = AffineParams::from_range(range(lo, hi), bits, QuantScheme::Affine).unwrap();
                assert_eq!(p.dequantize(i32::from(p.zero_point), levels), 0.0);
                assert_eq!(p.quantize(0.0, levels), i32::from(p.zero_point));
                for end in [lo.min(0.0), hi.max(0.0)] {
                    let back = p.dequantize(p.quantize(end, levels), levels);
                    assert!((back - end).abs() <= 0.501 * p.scale, "{bits} {lo} {hi}: {end} became {back}");
                }
            }
        }
    }

    #[test]
    fn symmetric_top_code_is_the_larger_end() {
        for bits in MIN_BITS..=MAX_BITS {
            for scheme in &SCHEMES[1..] {
                let levels = Levels::new(bits, scheme.grid()).unwrap();
                let p = AffineParams::from_range(range(-3.0, 2.0), bits, *scheme).unwrap();
                assert_eq!(p.zero_point, 0);
                assert!((p.dequantize(levels.hi(), levels) - 3.0).abs() < 1e-6);
                assert_eq!(p.quantize(3.0, levels), levels.hi());
            }
        }
    }

    #[test]
    fn scale_is_positive_and_normal_for_every_range() {
        let ends = [0.0, -0.0, 1e-45, 1e-40, f32::MIN_POSITIVE, 1e-36, 1.0, 3.3e38, f32::MAX]
            .map(|x: f32| [x, -x])
            .concat();
        for &lo in &ends {
            for &hi in ends.iter().filter(|&&hi| hi >= lo) {
                for bits in MIN_BITS..=MAX_BITS {
                    for scheme in SCHEMES {
                        let p = AffineParams::from_range(range(lo, hi), bits, scheme).unwrap();
                        assert!(p.scale > 0.0 && p.scale.is_normal(), "{lo} {hi} {bits} {scheme:?}: {p:?}");
                        let levels = Levels::new(bits, scheme.grid()).unwrap();
                        assert!(zero_point_fits(p, levels, scheme), "{p:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn quantize_saturates_and_swallows_nan() {
        let levels = Levels::new(8, Grid::MidTread).unwrap();
        let p = AffineParams { scale: 0.5, zero_point: -100 };
        assert_eq!([1e30, f32::INFINITY].map(|x| p.quantize(x, levels)), [127; 2]);
        assert_eq!([-1e30, f32::NEG_INFINITY, f32::NAN].map(|x| p.quantize(x, levels)), [-128; 3]);
        assert_eq!([0.25, 0.75, -0.25].map(|x| p.quantize(x, levels)), [-100, -98, -100]);
    }

    #[test]
    fn bad_ranges_are_refused() {
        assert_eq!(ClipRange::new(f32::NAN, 0.0), Err(Error::NotFinite { what: What::Samples, index: 0 }));
        assert_eq!(
            ClipRange::new(0.0, f32::INFINITY),
            Err(Error::NotFinite { what: What::Samples, index: 1 })
        );
        assert!(matches!(ClipRange::new(1.0, 0.0), Err(Error::Range { .. })));
    }

    #[test]
    fn per_token_names_what_is_wrong() {
        let mut out = [AffineParams { scale: 1.0, zero_point: 0 }; 2];
        let s = QuantScheme::Affine;
        assert_eq!(per_token(&[0.0; 4], 2, 9, s, &mut out), Err(Error::Bits { bits: 9 }));
        assert_eq!(per_token(&[0.0; 4], 0, 8, s, &mut out), Err(Error::Empty { what: What::Samples }));
        assert_eq!(
            per_token(&[0.0; 5], 2, 8, s, &mut out),
            Err(Error::NotDivisible { what: What::Samples, len: 5, by: 2 })
        );
        assert_eq!(
            per_token(&[0.0; 6], 2, 8, s, &mut out),
            Err(Error::Length { what: What::Output, expected: 3, got: 2 })
        );
        assert_eq!(
            per_token(&[0.0, 1.0, 2.0, f32::NAN], 2, 8, s, &mut out),
            Err(Error::NotFinite { what: What::Samples, index: 3 })
        );
        assert_eq!(per_token(&[], 2, 8, s, &mut out).unwrap().len(), 0);
    }

    #[test]
    fn per_token_equals_min_max_of_the_row() {
        let rows: Vec<f32> = (0..60).map(|i| ((i * 37 % 61) as f32 - 20.0) / 7.0).collect();
        for scheme in SCHEMES {
            let mut out = [AffineParams { scale: 1.0, zero_point: 0 }; 5];
            let tokens = per_token(&rows, 12, 8, scheme, &mut out).unwrap();
            for (row, params) in rows.chunks(12).zip(tokens) {
                let lo = row.iter().copied().fold(f32::INFINITY, f32::min);
                let hi = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert_eq!(*params, AffineParams::from_range(range(lo, hi), 8, scheme).unwrap());
            }
        }
    }
}
