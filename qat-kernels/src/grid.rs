//! Codes, levels and steps: the arithmetic that every quantiser, kernel and backend shares.
//!
//! A real weight `w` becomes a code `q`, and a code becomes a level times a step:
//!
//! ```text
//! v = w / Δ      q = clamp(round_ties_even(v − offset), lo, hi)      ŵ = (q + offset) · Δ
//! ```
//!
//! with `offset` 0 on the mid-tread grid (it has a zero) and ½ on the mid-rise grid (ParetoQ's SEQ grid, Liu et al.
//! 2025: no zero, symmetric). Codes are two's complement: `lo = −2^(b−1)`, `hi = 2^(b−1) − 1`.

use crate::config::{MAX_BITS, MIN_BITS};
use crate::error::{Error, Result, What};
use serde::{Deserialize, Serialize};

/// Which points of the real line the codes stand for.
///
/// ```
/// use qat_kernels::{Grid, Levels};
/// let (tread, rise) = (Levels::new(2, Grid::MidTread)?, Levels::new(2, Grid::MidRise)?);
/// assert_eq!([-2, -1, 0, 1].map(|code| tread.level(code)), [-2.0, -1.0, 0.0, 1.0]);
/// assert_eq!([-2, -1, 0, 1].map(|code| rise.level(code)), [-1.5, -0.5, 0.5, 1.5]);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grid {
    /// level(q) = q: has a zero, one more negative than positive level.
    #[default]
    MidTread,
    /// level(q) = q + ½: no zero, symmetric around it.
    MidRise,
}

impl Grid {
    /// Distance of the levels from the integers: 0 or ½.
    ///
    /// ```
    /// use qat_kernels::Grid;
    /// let weight = |grid: Grid| (0.0 + grid.offset()) * 0.25; // of code 0, the step being ¼
    /// assert_eq!((weight(Grid::MidTread), weight(Grid::MidRise)), (0.0, 0.125));
    /// ```
    #[must_use]
    #[inline]
    pub const fn offset(self) -> f32 {
        match self {
            Grid::MidTread => 0.0,
            Grid::MidRise => 0.5,
        }
    }
}

/// A grid at a bit width: the set of codes and the level of each.
///
/// ```
/// use qat_kernels::{Grid, Levels};
/// let two_bit = Levels::new(2, Grid::MidRise)?;
/// assert_eq!((two_bit.lo(), two_bit.hi()), (-2, 1));
/// assert_eq!(two_bit.quantize(0.9, 0.5), 1); // v = 1.8, v − ½ = 1.3
/// assert_eq!(two_bit.dequantize(1, 0.5), 0.75);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Levels {
    bits: u8,
    grid: Grid,
}

impl Levels {
    /// Levels of `bits` bits.
    ///
    /// # Errors
    /// [`Error::Bits`] outside 2..=8.
    ///
    /// ```
    /// use qat_kernels::{Error, Grid, Levels};
    /// const FOUR_BIT: Result<Levels, Error> = Levels::new(4, Grid::MidTread); // at compile time
    /// assert_eq!(FOUR_BIT?.count(), 16);
    /// assert_eq!(Levels::new(1, Grid::MidRise), Err(Error::Bits { bits: 1 }));
    /// # Ok::<(), Error>(())
    /// ```
    pub const fn new(bits: u8, grid: Grid) -> Result<Self> {
        if bits < MIN_BITS || bits > MAX_BITS {
            return Err(Error::Bits { bits });
        }
        Ok(Self { bits, grid })
    }

    /// Bits per code, 2..=8.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels};
    /// let levels = Levels::new(3, Grid::MidTread)?;
    /// assert_eq!((1000 * usize::from(levels.bits())).div_ceil(8), 375); // bytes of a thousand packed codes
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// The grid.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels};
    /// let has_zero = |levels: Levels| levels.grid() == Grid::MidTread;
    /// assert!(has_zero(Levels::new(8, Grid::MidTread)?) && !has_zero(Levels::new(2, Grid::MidRise)?));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub const fn grid(self) -> Grid {
        self.grid
    }

    /// Smallest code, −2^(b−1).
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels};
    /// let levels = Levels::new(3, Grid::MidTread)?;
    /// assert_eq!(levels.lo(), -4);
    /// assert_eq!(levels.quantize(-100.0, 1.0), levels.lo()); // clamped
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub const fn lo(self) -> i32 {
        -(1 << (self.bits - 1))
    }

    /// Largest code, 2^(b−1) − 1.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels};
    /// assert_eq!(Levels::new(8, Grid::MidTread)?.hi(), i32::from(i8::MAX));
    /// assert_eq!(Levels::new(2, Grid::MidRise)?.hi(), 1); // a code, not its level, which is 1½
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub const fn hi(self) -> i32 {
        (1 << (self.bits - 1)) - 1
    }

    /// Number of codes, 2^b.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels};
    /// let levels = Levels::new(5, Grid::MidRise)?;
    /// assert_eq!(levels.count(), 32);
    /// assert_eq!((levels.lo()..=levels.hi()).count(), levels.count());
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub const fn count(self) -> usize {
        1 << self.bits
    }

    /// The level of the largest code in units of the step: Qp of the LSQ paper (Esser et al. 2020), which its initial
    /// step and gradient scale use. On the mid-rise grid this is `hi + ½`.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels};
    /// assert_eq!(Levels::new(2, Grid::MidTread)?.top(), 1.0);
    /// assert_eq!(Levels::new(2, Grid::MidRise)?.top(), 1.5);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub fn top(self) -> f32 {
        self.hi() as f32 + self.grid.offset()
    }

    /// Twice the level of `code`: an integer on both grids, which is what the integer engine multiplies with.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels};
    /// let levels = Levels::new(2, Grid::MidRise)?;
    /// assert_eq!([-2, -1, 0, 1].map(|code| levels.twice_level(code)), [-3, -1, 1, 3]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub const fn twice_level(self, code: i32) -> i32 {
        match self.grid {
            Grid::MidTread => 2 * code,
            Grid::MidRise => 2 * code + 1,
        }
    }

    /// Largest |2·level| of the grid, for overflow bounds.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels};
    /// assert_eq!(Levels::new(4, Grid::MidTread)?.max_twice_level(), 16); // of code −8
    /// assert_eq!(Levels::new(4, Grid::MidRise)?.max_twice_level(), 15); // of codes −8 and 7
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub const fn max_twice_level(self) -> i32 {
        let (a, b) = (self.twice_level(self.lo()), self.twice_level(self.hi()));
        if -a > b { -a } else { b }
    }

    /// The level of `code` in units of the step.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels};
    /// assert_eq!(Levels::new(3, Grid::MidTread)?.level(-4), -4.0);
    /// assert_eq!(Levels::new(3, Grid::MidRise)?.level(-4), -3.5);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub fn level(self, code: i32) -> f32 {
        code as f32 + self.grid.offset()
    }

    /// Rounds a value in units of the step, `v = w/Δ`, to the code as a float: ties to even, then clamped.
    ///
    /// Clamping first is the same (the bounds are integers and rounding is monotone) and lets rounding be two
    /// additions on any core: for |x| ≤ 2^22, `(x + 1.5·2^23) − 1.5·2^23` is x rounded to an integer, ties to even.
    /// NaN becomes `lo`; callers that must not lose a NaN check for it first.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels};
    /// let levels = Levels::new(3, Grid::MidTread)?; // codes −4..=3
    /// assert_eq!([0.5, 1.5, 2.5].map(|v| levels.round(v)), [0.0, 2.0, 2.0]); // ties to even
    /// assert_eq!([3.5, -4.5, f32::NAN].map(|v| levels.round(v)), [3.0, -4.0, -4.0]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn round(self, v: f32) -> f32 {
        const MAGIC: f32 = 12_582_912.0;
        let (lo, hi) = (self.lo() as f32, self.hi() as f32);
        let x = v - self.grid.offset();
        // Comparisons, not f32::max/min: those are libm calls on cores without an FPU, and NaN must end at `lo`.
        let x = if x > lo { x } else { lo };
        let x = if x < hi { x } else { hi };
        (x + MAGIC) - MAGIC
    }

    /// Quantises one weight: `clamp(round_ties_even(w/Δ − offset), lo, hi)`. `step` must be positive and finite.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels};
    /// let levels = Levels::new(4, Grid::MidTread)?; // codes −8..=7
    /// assert_eq!([0.75, 1.25, 9.0].map(|w| levels.quantize(w, 0.5)), [2, 2, 7]); // v = 1.5, 2.5 and 18
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn quantize(self, w: f32, step: f32) -> i32 {
        self.round(w / step) as i32
    }

    /// The real value of a code: `level(q)·Δ`.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels};
    /// let levels = Levels::new(4, Grid::MidRise)?;
    /// assert_eq!([-8, 0, 7].map(|code| levels.dequantize(code, 0.25)), [-1.875, 0.125, 1.875]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn dequantize(self, code: i32, step: f32) -> f32 {
        self.level(code) * step
    }

    /// Quantise and dequantise in one go: the value that the network sees during training.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels};
    /// let levels = Levels::new(2, Grid::MidTread)?; // codes −2..=1
    /// assert_eq!([0.6, -0.1, 2.0].map(|w| levels.fake_quantize(w, 0.5)), [0.5, 0.0, 0.5]);
    /// assert_eq!(levels.fake_quantize(0.6, 0.5), levels.dequantize(levels.quantize(0.6, 0.5), 0.5));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn fake_quantize(self, w: f32, step: f32) -> f32 {
        (self.round(w / step) + self.grid.offset()) * step
    }

    /// Whether `v = w/Δ` lies where the quantiser is not saturated, judged on v itself as the LSQ paper does:
    /// `lo ≤ v − offset ≤ hi`.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels};
    /// let levels = Levels::new(2, Grid::MidTread)?; // codes −2..=1
    /// assert_eq!([-2.0, 1.0, 1.2].map(|v| levels.inside(v)), [true, true, false]); // though 1.2 rounds to code 1
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn inside(self, v: f32) -> bool {
        let x = v - self.grid.offset();
        x >= self.lo() as f32 && x <= self.hi() as f32
    }
}

/// The step of a Pi quantiser, `Δ = α·π/k`.
///
/// This is the only place in the project where the product is formed, so that it has the same bits everywhere:
/// `(α · π) / k` in f32, each operation rounded to nearest.
///
/// # Errors
/// [`Error::Divisor`] unless k ∈ {2, 3, 4, 5}; [`Error::NotPositive`] unless α > 0 and the step is a normal number
/// (INV-2, INV-3; subnormal steps would not survive a core that flushes them to zero).
///
/// ```
/// let step = qat_kernels::pi_step(1.0, 3)?;
/// assert_eq!(step, core::f32::consts::PI / 3.0);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn pi_step(alpha: f32, k: u8) -> Result<f32> {
    if !(2..=5).contains(&k) {
        return Err(Error::Divisor { k });
    }
    let step = (alpha * core::f32::consts::PI) / f32::from(k);
    if alpha > 0.0 && step.is_normal() {
        Ok(step)
    } else {
        Err(Error::NotPositive { what: What::Alpha, index: 0, value: alpha })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(lv: Levels, w: f32, step: f32) -> i32 {
        let x = (w / step - lv.grid().offset()).round_ties_even();
        (x as i64).clamp(lv.lo().into(), lv.hi().into()) as i32
    }

    #[test]
    fn quantize_equals_the_textbook_formula() {
        for bits in MIN_BITS..=MAX_BITS {
            for grid in [Grid::MidTread, Grid::MidRise] {
                let lv = Levels::new(bits, grid).unwrap();
                for i in -4000..=4000 {
                    let w = i as f32 / 16.0; // hits every tie
                    for step in [1.0, 0.5, 0.3, 7.0] {
                        assert_eq!(lv.quantize(w, step), naive(lv, w, step), "{bits} {grid:?} {w} {step}");
                    }
                }
                for w in [f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE, -0.0] {
                    assert_eq!(lv.quantize(w, 1.0), naive(lv, w, 1.0));
                }
                assert_eq!(lv.quantize(f32::NAN, 1.0), lv.lo());
            }
        }
    }

    #[test]
    fn ties_go_to_the_even_code() {
        let lv = Levels::new(4, Grid::MidTread).unwrap();
        let codes: Vec<i32> =
            [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5].iter().map(|&w| lv.quantize(w, 1.0)).collect();
        assert_eq!(codes, [-2, -2, 0, 0, 2, 2]);
    }

    #[test]
    fn codes_survive_a_round_trip() {
        for bits in MIN_BITS..=MAX_BITS {
            for grid in [Grid::MidTread, Grid::MidRise] {
                let lv = Levels::new(bits, grid).unwrap();
                for q in lv.lo()..=lv.hi() {
                    assert_eq!(lv.quantize(lv.dequantize(q, 0.37), 0.37), q);
                    assert_eq!(lv.twice_level(q) as f32, 2.0 * lv.level(q));
                }
            }
        }
    }

    #[test]
    fn pi_step_refuses_what_the_invariants_forbid() {
        for k in [0, 1, 6, 255] {
            assert_eq!(pi_step(1.0, k), Err(Error::Divisor { k }));
        }
        for alpha in [0.0, -1.0, f32::NAN, f32::INFINITY, f32::MAX, 1e-45] {
            assert!(matches!(pi_step(alpha, 5), Err(Error::NotPositive { .. })), "{alpha}");
        }
    }

    #[test]
    fn widths_outside_two_to_eight_are_refused() {
        for bits in [0, 1, 9, 255] {
            assert_eq!(Levels::new(bits, Grid::MidTread), Err(Error::Bits { bits }));
        }
    }
}
