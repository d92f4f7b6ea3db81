//! The forward pass: codes, levels and the fake-quantised weight, on a uniform or a Pi step.

use super::pi::pi_step;
use super::q::Fixed;
use super::word::{Wide, Word};
use crate::error::{Error, Result, What};
use crate::grid::{Grid, Levels};
use crate::ste::LsqMask;

/// A grid and one step, both fixed: what a channel (or group) of weights is quantised with.
///
/// For the weight and the step as they stand in the format, **the code is exact**: it is
/// `clamp(round_ties_even(w/Δ − offset), lo, hi)` of the real numbers, found by comparing integers, not by an approximate
/// quotient. Against the f32 formula of [`Levels`] on the same two numbers that means: equal for every 16-bit weight and
/// step; for 32-bit ones different only where f32 rounds `w/Δ` across a tie (|v − tie| ≤ 2⁻²²·max(1, |v|)).
///
/// The step itself is off by at most 0.51 ulp from α·π/k (see [`pi_step`]), so a level is off by `|level|·0.51` ulp.
///
/// ```
/// use qat_kernels::fixed::{FixedQuantizer, Q16};
/// use qat_kernels::{Grid, Levels};
/// let two_bit = FixedQuantizer::new(Levels::new(2, Grid::MidRise)?, Q16::<12>::from_ratio(1, 2))?;
/// let w = Q16::from_ratio(9, 10);
/// assert_eq!(two_bit.quantize(w), 1); // v = 1.8, v − ½ = 1.3
/// assert_eq!(two_bit.fake_quantize(w).to_f32(), 0.75);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedQuantizer<W: Word, const F: u32> {
    levels: Levels,
    step: Fixed<W, F>,
}

impl<W: Word, const F: u32> FixedQuantizer<W, F> {
    /// A quantiser with a uniform step.
    ///
    /// # Errors
    /// [`Error::NotPositive`] unless the step is positive.
    ///
    /// ```
    /// use qat_kernels::{Error, Grid, Levels, What, fixed::{FixedQuantizer, Q16}};
    /// let levels = Levels::new(2, Grid::MidRise)?;
    /// let too_small = Q16::<12>::from_f32(1e-4)?; // less than half of 2^−12
    /// let e = Error::NotPositive { what: What::Steps, index: 0, value: 0.0 };
    /// assert_eq!(FixedQuantizer::new(levels, too_small), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn new(levels: Levels, step: Fixed<W, F>) -> Result<Self> {
        if step > Fixed::default() {
            Ok(Self { levels, step })
        } else {
            Err(Error::NotPositive { what: What::Steps, index: 0, value: step.to_f32() })
        }
    }

    /// A quantiser with the Pi step `α·π/k`.
    ///
    /// # Errors
    /// As [`pi_step`].
    ///
    /// ```
    /// use qat_kernels::{Error, Grid, Levels, fixed::{FixedQuantizer, Q32}};
    /// let (levels, alpha) = (Levels::new(2, Grid::MidRise)?, Q32::<24>::from_ratio(1, 4));
    /// let step = FixedQuantizer::pi(levels, alpha, 3)?.step().to_f32();
    /// assert!((step - core::f32::consts::PI / 12.0).abs() < 1e-7);
    /// assert_eq!(FixedQuantizer::pi(levels, alpha, 6), Err(Error::Divisor { k: 6 }));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn pi(levels: Levels, alpha: Fixed<W, F>, k: u8) -> Result<Self> {
        Self::new(levels, pi_step(alpha, k)?)
    }

    /// The grid.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, fixed::{FixedQuantizer, Q16}, pack::packed_len};
    /// let q = FixedQuantizer::new(Levels::new(3, Grid::MidRise)?, Q16::<12>::from_ratio(1, 2))?;
    /// assert_eq!(packed_len(64, q.levels().bits()), 24); // bytes of 64 weights in a file
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn levels(&self) -> Levels {
        self.levels
    }

    /// The step Δ.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, fixed::{FixedQuantizer, Q16}};
    /// let q = FixedQuantizer::new(Levels::new(2, Grid::MidRise)?, Q16::<12>::from_ratio(1, 2))?;
    /// // From one value to the next.
    /// assert_eq!(q.dequantize(1).saturating_sub(q.dequantize(0)), q.step());
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn step(&self) -> Fixed<W, F> {
        self.step
    }

    /// `2w − (2·offset)·Δ` and `2Δ`: the weight over its step, less the offset, as an exact fraction.
    #[inline(always)]
    fn fraction(&self, w: Fixed<W, F>) -> (W::Wide, W::Wide) {
        let step = W::Wide::from(self.step.raw());
        let w = W::Wide::from(w.raw());
        let numerator = match self.levels.grid() {
            Grid::MidTread => w + w,
            Grid::MidRise => w + w - step,
        };
        (numerator, step + step)
    }

    /// An integer that a grid has (a code or twice a level, so at most 9 bits), in the wide word.
    #[inline(always)]
    fn wide(small: i32) -> W::Wide {
        W::Wide::from(small as i16)
    }

    /// The code of a weight, `clamp(round_ties_even(w/Δ − offset), lo, hi)`: exact.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, fixed::{FixedQuantizer, Q16}};
    /// let q = FixedQuantizer::new(Levels::new(3, Grid::MidTread)?, Q16::<12>::from_ratio(1, 1))?;
    /// let codes = [1, 3, 5, -1, -3].map(|w| q.quantize(Q16::from_ratio(w, 2)));
    /// assert_eq!(codes, [0, 2, 2, 0, -2]); // ½, 1½, 2½, −½, −1½: ties to even
    /// assert_eq!((q.quantize(Q16::MIN), q.quantize(Q16::MAX)), (-4, 3));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub fn quantize(&self, w: Fixed<W, F>) -> i8 {
        let (lo, hi) = (self.levels.lo(), self.levels.hi());
        let (numerator, unit) = self.fraction(w);
        if numerator >= Self::wide(hi) * unit {
            return hi as i8;
        }
        let zero = Self::wide(0);
        let mut rest = numerator - Self::wide(lo) * unit;
        if rest <= zero {
            return lo as i8;
        }
        // The quotient has as many bits as the code, so subtracting shifted units finds it in two to eight steps. A
        // division would be a call into the run-time library on cores without one (and for 64 bits on every core).
        let mut code = 0;
        for bit in (0..u32::from(self.levels.bits())).rev() {
            let part = unit.shift_left(bit);
            if rest >= part {
                rest = rest - part;
                code |= 1 << bit;
            }
        }
        // `lo` is even, so the parity of the sum is the parity of the quotient.
        let twice = rest + rest;
        let up = twice > unit || (twice == unit && code & 1 == 1);
        (lo + code + i32::from(up)) as i8
    }

    /// The value of a code, `level(q)·Δ`: exact on the mid-tread grid; ½ ulp off at most on the mid-rise grid, where an
    /// odd raw step halves to a tie. Clamped to the interval of the format. A code outside the grid is taken as the
    /// nearest one inside.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, fixed::{FixedQuantizer, Q16}};
    /// let q = FixedQuantizer::new(Levels::new(2, Grid::MidRise)?, Q16::<12>::from_ratio(1, 2))?;
    /// assert_eq!([-2, -1, 0, 1].map(|code| q.dequantize(code).to_f32()), [-0.75, -0.25, 0.25, 0.75]);
    /// assert_eq!(q.dequantize(100), q.dequantize(1)); // no such code: the nearest
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub fn dequantize(&self, code: i8) -> Fixed<W, F> {
        let code = i32::from(code).clamp(self.levels.lo(), self.levels.hi());
        let twice = Self::wide(self.levels.twice_level(code)) * W::Wide::from(self.step.raw());
        Fixed::from_raw(W::narrow(twice.shift_right(1)))
    }

    /// The value that the network sees for a weight: its code's value.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, fixed::{FixedQuantizer, Q16}};
    /// let q = FixedQuantizer::new(Levels::new(2, Grid::MidRise)?, Q16::<12>::from_ratio(1, 2))?;
    /// let seen = q.fake_quantize(Q16::from_ratio(2, 5));
    /// assert_eq!(seen.to_f32(), 0.25);
    /// assert_eq!(q.fake_quantize(seen), seen); // a value of the grid stays
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub fn fake_quantize(&self, w: Fixed<W, F>) -> Fixed<W, F> {
        self.dequantize(self.quantize(w))
    }

    /// Whether a weight gets a gradient under a mask: exact.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels, LsqMask, fixed::{FixedQuantizer, Q16}};
    /// let q = FixedQuantizer::new(Levels::new(2, Grid::MidTread)?, Q16::<12>::from_ratio(1, 1))?; // −2 to 1
    /// let passes = |mask| [4, 5, 6].map(|w| q.passes(Q16::from_ratio(w, 4), mask)); // 1, 1¼, 1½
    /// assert_eq!(passes(LsqMask::Exact), [true, false, false]);
    /// assert_eq!(passes(LsqMask::Rounded), [true, true, false]); // 1¼ rounds to 1, 1½ to 2
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub fn passes(&self, w: Fixed<W, F>, mask: LsqMask) -> bool {
        let (numerator, unit) = self.fraction(w);
        let (low, high) = (Self::wide(self.levels.lo()) * unit, Self::wide(self.levels.hi()) * unit);
        match mask {
            LsqMask::Exact => numerator >= low && numerator <= high,
            LsqMask::Rounded => {
                // Half a unit is the step. `lo` is even and `hi` odd: the tie below `lo` rounds to it, the tie above `hi`
                // away from it.
                let half = W::Wide::from(self.step.raw());
                numerator >= low - half && numerator < high + half
            }
        }
    }

    /// `2·(level·Δ − w)` for the level of a weight: the rounding error, doubled so that it is an integer.
    #[inline(always)]
    pub(super) fn twice_error(&self, w: Fixed<W, F>) -> W::Wide {
        let twice_level = Self::wide(self.levels.twice_level(self.quantize(w).into()));
        let w = W::Wide::from(w.raw());
        twice_level * W::Wide::from(self.step.raw()) - (w + w)
    }

    /// Codes of a slice of weights.
    ///
    /// # Errors
    /// [`Error::Length`] unless `codes` is as long as `weights`.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, fixed::{FixedQuantizer, Q16}, pack::pack};
    /// let q = FixedQuantizer::new(Levels::new(2, Grid::MidRise)?, Q16::<12>::from_ratio(1, 2))?;
    /// let (mut codes, mut packed) = ([0; 4], [0; 1]);
    /// q.quantize_slice(&[1, -1, 9, -9].map(|w| Q16::from_ratio(w, 10)), &mut codes)?;
    /// assert_eq!(codes, [0, -1, 1, -2]);
    /// pack(q.levels().bits(), &codes, &mut packed)?; // four weights in a byte
    /// assert_eq!(packed, [0b10_01_11_00]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn quantize_slice(&self, weights: &[Fixed<W, F>], codes: &mut [i8]) -> Result<()> {
        same_length(What::Codes, weights.len(), codes.len())?;
        for (q, &w) in codes.iter_mut().zip(weights) {
            *q = self.quantize(w);
        }
        Ok(())
    }

    /// Values of a slice of codes.
    ///
    /// # Errors
    /// [`Error::Length`] unless `out` is as long as `codes`; [`Error::Code`] for the first code outside the grid, before
    /// anything is written.
    ///
    /// ```
    /// # use qat_kernels::{Error, Grid, Levels, fixed::{FixedQuantizer, Q16}};
    /// let q = FixedQuantizer::new(Levels::new(2, Grid::MidRise)?, Q16::<12>::from_ratio(1, 2))?;
    /// let mut values = [Q16::default(); 3];
    /// q.dequantize_slice(&[0, -2, 1], &mut values)?;
    /// assert_eq!(values.map(Q16::to_f32), [0.25, -0.75, 0.75]);
    /// assert_eq!(q.dequantize_slice(&[0, 1, 2], &mut values), Err(Error::Code { index: 2, code: 2 }));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn dequantize_slice(&self, codes: &[i8], out: &mut [Fixed<W, F>]) -> Result<()> {
        same_length(What::Output, codes.len(), out.len())?;
        let range = self.levels.lo()..=self.levels.hi();
        if let Some(index) = codes.iter().position(|&q| !range.contains(&q.into())) {
            return Err(Error::Code { index, code: codes.get(index).copied().unwrap_or_default().into() });
        }
        for (v, &q) in out.iter_mut().zip(codes) {
            *v = self.dequantize(q);
        }
        Ok(())
    }

    /// Fake-quantised values of a slice of weights.
    ///
    /// # Errors
    /// [`Error::Length`] unless `out` is as long as `weights`.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, fixed::{FixedQuantizer, Q16}};
    /// let q = FixedQuantizer::new(Levels::new(2, Grid::MidRise)?, Q16::<12>::from_ratio(1, 2))?;
    /// let mut forward = [Q16::default(); 3]; // the shadow weights stay as they are
    /// q.fake_quantize_slice(&[1, -4, 60].map(|w| Q16::from_ratio(w, 10)), &mut forward)?;
    /// assert_eq!(forward.map(Q16::to_f32), [0.25, -0.25, 0.75]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn fake_quantize_slice(&self, weights: &[Fixed<W, F>], out: &mut [Fixed<W, F>]) -> Result<()> {
        same_length(What::Output, weights.len(), out.len())?;
        for (v, &w) in out.iter_mut().zip(weights) {
            *v = self.fake_quantize(w);
        }
        Ok(())
    }
}

/// The length check of every slice function of this module.
pub(super) fn same_length(what: What, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(Error::Length { what, expected, got }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixed::{Q16, Q32};
    use proptest::prelude::*;

    fn grids() -> impl Iterator<Item = Levels> {
        (2..=8).flat_map(|b| [Grid::MidTread, Grid::MidRise].map(|g| Levels::new(b, g).unwrap()))
    }

    /// The textbook formula on the doubled, exact fraction.
    fn textbook(lv: Levels, w: i64, step: i64) -> i64 {
        let offset = i64::from(lv.grid() == Grid::MidRise);
        let (num, den) = (2 * w - offset * step, 2 * step);
        let (floor, twice) = (num.div_euclid(den), 2 * num.rem_euclid(den));
        let q = floor + i64::from(twice > den || (twice == den && floor.rem_euclid(2) == 1));
        q.clamp(lv.lo().into(), lv.hi().into())
    }

    fn check_16(lv: Levels, w: i16, step: i16) {
        let q = FixedQuantizer::new(lv, Q16::<12>::from_raw(step)).unwrap();
        let fixed = Q16::from_raw(w);
        let (wf, sf) = (fixed.to_f32(), q.step().to_f32());
        let code = q.quantize(fixed);
        assert_eq!(i32::from(code), lv.quantize(wf, sf), "{lv:?} {w} {step}");
        // The f32 value is exact here (9 bits times 15), so the fixed one is its rounding.
        let exact = f64::from(lv.dequantize(code.into(), sf)) * 4096.0;
        let nearest = exact.round_ties_even().clamp(-32768.0, 32767.0);
        assert_eq!(f64::from(q.fake_quantize(fixed).raw()), nearest, "{lv:?} {w} {step}");
        for mask in [LsqMask::Exact, LsqMask::Rounded] {
            assert_eq!(q.passes(fixed, mask), mask.passes(wf / sf, lv), "{lv:?} {w} {step} {mask:?}");
        }
    }

    /// Steps: the ends, small ones where the ties are dense, Pi steps, and a walk through the rest.
    fn steps() -> Vec<i16> {
        let mut s = vec![1, 2, 3, 4, 5, 7, 8, 255, 256, 257, 4096, 16384, 32766, 32767];
        s.extend((2..=5).map(|k| pi_step(Q16::<12>::from_ratio(1, 3), k).unwrap().raw()));
        s.extend((1..12).map(|i: i32| (i * 2749) as i16));
        s
    }

    #[test]
    fn every_16_bit_weight_has_the_code_value_and_mask_of_the_f32_formula() {
        for step in steps() {
            for lv in grids() {
                for w in i16::MIN..=i16::MAX {
                    check_16(lv, w, step);
                }
            }
        }
    }

    #[test]
    #[ignore = "all 2^31 pairs of weight and step on two grids: minutes; run it in release after touching the arithmetic"]
    fn every_16_bit_pair_has_the_code_value_and_mask_of_the_f32_formula() {
        for step in 1..=i16::MAX {
            for grid in [Grid::MidTread, Grid::MidRise] {
                let lv = Levels::new(2, grid).unwrap();
                for w in i16::MIN..=i16::MAX {
                    check_16(lv, w, step);
                }
            }
        }
    }

    #[test]
    fn ties_go_to_the_even_code_on_both_grids() {
        let tread =
            FixedQuantizer::new(Levels::new(4, Grid::MidTread).unwrap(), Q16::<12>::from_raw(2)).unwrap();
        let codes = [-5, -3, -1, 1, 3, 5].map(|w| tread.quantize(Q16::from_raw(w)));
        assert_eq!(codes, [-2, -2, 0, 0, 2, 2]);
        let rise =
            FixedQuantizer::new(Levels::new(4, Grid::MidRise).unwrap(), Q16::<12>::from_raw(2)).unwrap();
        let codes = [-4, -2, 0, 2, 4].map(|w| rise.quantize(Q16::from_raw(w)));
        assert_eq!(codes, [-2, -2, 0, 0, 2]); // v − ½ = −2½, −1½, −½, ½, 1½
    }

    #[test]
    fn the_range_ends_saturate_without_wrapping() {
        for lv in grids() {
            let q = FixedQuantizer::new(lv, Q32::<20>::MAX).unwrap();
            assert_eq!(q.dequantize(lv.lo() as i8), Q32::MIN);
            // 0.5, the top of the two-bit mid-rise grid below 1½, is the only level that fits.
            if lv.hi() > 1 {
                assert_eq!(q.dequantize(lv.hi() as i8), Q32::MAX);
            }
            let q = FixedQuantizer::new(lv, Q32::<20>::from_raw(1)).unwrap();
            assert_eq!(i32::from(q.quantize(Q32::MIN)), lv.lo());
            assert_eq!(i32::from(q.quantize(Q32::MAX)), lv.hi());
            assert!(!q.passes(Q32::MIN, LsqMask::Rounded) && !q.passes(Q32::MAX, LsqMask::Rounded));
        }
    }

    #[test]
    fn bad_input_is_a_typed_error() {
        let lv = Levels::new(2, Grid::MidTread).unwrap();
        for raw in [0, -1, i16::MIN] {
            let step = Q16::<12>::from_raw(raw);
            let e = Error::NotPositive { what: What::Steps, index: 0, value: step.to_f32() };
            assert_eq!(FixedQuantizer::new(lv, step), Err(e));
        }
        let q = FixedQuantizer::new(lv, Q16::<12>::from_raw(100)).unwrap();
        let mut out = [Q16::default(); 2];
        assert_eq!(q.dequantize_slice(&[0, 2], &mut out), Err(Error::Code { index: 1, code: 2 }));
        assert_eq!(
            q.quantize_slice(&out, &mut [0; 3]),
            Err(Error::Length { what: What::Codes, expected: 2, got: 3 })
        );
    }

    #[test]
    fn slices_are_the_scalars() {
        let q = FixedQuantizer::pi(Levels::new(3, Grid::MidRise).unwrap(), Q32::<24>::from_ratio(1, 5), 4)
            .unwrap();
        let w: Vec<Q32<24>> = (-40..40).map(|i| Q32::from_ratio(i, 37)).collect();
        let (mut codes, mut values, mut fake) = (vec![0; w.len()], w.clone(), w.clone());
        q.quantize_slice(&w, &mut codes).unwrap();
        q.dequantize_slice(&codes, &mut values).unwrap();
        q.fake_quantize_slice(&w, &mut fake).unwrap();
        for (i, &w) in w.iter().enumerate() {
            assert_eq!((codes[i], values[i]), (q.quantize(w), q.fake_quantize(w)));
        }
        assert_eq!(values, fake);
    }

    proptest! {
        #[test]
        fn every_32_bit_weight_has_the_code_of_the_real_formula(
            w: i32, step in 1..=i32::MAX, shift in 0_u32..31, tie in -300_i64..300, bits in 2_u8..=8, rise: bool,
        ) {
            let lv = Levels::new(bits, if rise { Grid::MidRise } else { Grid::MidTread }).unwrap();
            let step = (step >> shift).max(1);
            let q = FixedQuantizer::new(lv, Q32::<20>::from_raw(step)).unwrap();
            // The weight itself, and three weights around a boundary between two codes.
            let near = (tie * i64::from(step)).div_euclid(2);
            for w in [i64::from(w), near - 1, near, near + 1] {
                let w = Q32::<20>::saturating_from_raw(w);
                let exact = textbook(lv, w.raw().into(), step.into());
                prop_assert_eq!(i64::from(q.quantize(w)), exact);
                let value = i64::from(lv.twice_level(exact as i32)) * i64::from(step);
                let value = (value as f64 / 2.0).round_ties_even().clamp(f64::from(i32::MIN), f64::from(i32::MAX));
                prop_assert_eq!(f64::from(q.fake_quantize(w).raw()), value);
                // Against f32: the same code, or a weight within f32's rounding of a tie.
                let v = f64::from(w.raw()) / f64::from(step);
                let x = v - f64::from(lv.grid().offset());
                let float = lv.quantize(w.to_f32(), q.step().to_f32());
                if i64::from(float) != exact {
                    let from_tie = ((x - 0.5) - (x - 0.5).round()).abs();
                    prop_assert!(from_tie <= 2.0_f64.powi(-22) * v.abs().max(1.0), "{} {}", v, from_tie);
                }
                let inside = x >= f64::from(lv.lo()) && x <= f64::from(lv.hi());
                prop_assert_eq!(q.passes(w, LsqMask::Exact), inside);
            }
        }
    }
}
