//! Activations: the affine quantiser of the integer engine on floats, forward and backward.
//!
//! ```text
//! x̂ = round_ties_even(clamp(x/s, lo, hi))·s
//! ```
//!
//! with the codes' bounds lo and hi less the zero point, so that a whole number of steps stands for every x̂.

use super::{Kernels, length};
use crate::arch::Kernel;
use crate::error::{Error, Result, What};

/// Partial sums of the scale's gradient.
const LANES: usize = 16;

/// The grid of an activation: its scale, and the codes' bounds less the zero point.
///
/// Activations are not checked: NaN stays NaN, so that a diverged training shows.
///
/// ```
/// use qat_kernels::ste_simd::{AffineGrid, Kernels};
/// let grid = AffineGrid::new(0.5, 0, 255)?; // 8 bits, zero point −128: the lower bound is a ReLU
/// let (x, mut y) = ([-1.0, 0.3, 0.8, 900.0], [0.0; 4]);
/// Kernels::default().round_activations(grid, &x, &mut y)?;
/// assert_eq!(y, [0.0, 0.5, 1.0, 127.5]);
/// let mut grad_x = [0.0; 4];
/// let grad_scale = Kernels::default().activations_backward(grid, &x, &[1.0; 4], &mut grad_x)?;
/// assert_eq!(grad_x, [0.0, 1.0, 1.0, 0.0]);
/// // Inside the range what rounding adds, in steps; outside the bound.
/// assert!((grad_scale - (0.0 + 0.4 + 0.4 + 255.0)).abs() < 1e-4);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AffineGrid {
    scale: f32,
    lo: f32,
    hi: f32,
}

impl AffineGrid {
    /// A grid of steps of `scale` from `lo` to `hi` steps.
    ///
    /// # Errors
    /// [`Error::NotPositive`] for a scale that is not a positive normal number; [`Error::Range`] if `lo` is above `hi`.
    ///
    /// ```
    /// use qat_kernels::{Error, What, ste_simd::AffineGrid};
    /// let zero_point = 10; // of int8 codes
    /// let grid = AffineGrid::new(0.5, -128 - zero_point, 127 - zero_point)?;
    /// assert_eq!(grid.fake_quantize(1000.0), 58.5); // code 127: (127 − 10)·½
    /// let e = Error::NotPositive { what: What::Scale, index: 0, value: 0.0 };
    /// assert_eq!(AffineGrid::new(0.0, -128, 127), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn new(scale: f32, lo: i16, hi: i16) -> Result<Self> {
        if !(scale > 0.0 && scale.is_normal()) {
            return Err(Error::NotPositive { what: What::Scale, index: 0, value: scale });
        }
        let (lo, hi) = (f32::from(lo), f32::from(hi));
        if lo > hi {
            return Err(Error::Range { what: What::Codes, value: lo, min: f32::from(i16::MIN), max: hi });
        }
        Ok(Self { scale, lo, hi })
    }

    /// x̂ of one number.
    ///
    /// ```
    /// use qat_kernels::ste_simd::AffineGrid;
    /// let grid = AffineGrid::new(0.25, -8, 7)?; // 4 bits
    /// assert_eq!([0.3, 0.375, -99.0].map(|x| grid.fake_quantize(x)), [0.25, 0.5, -2.0]); // 1½ steps: a tie
    /// assert!(grid.fake_quantize(f32::NAN).is_nan());
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn fake_quantize(self, x: f32) -> f32 {
        round(self.clamp(x / self.scale)) * self.scale
    }

    /// The gradient of x, given that of x̂, and the term of the scale's gradient.
    #[inline(always)]
    fn backward(self, x: f32, g: f32) -> (f32, f32) {
        let v = x / self.scale;
        let c = self.clamp(v);
        let inside = c == v;
        let level = round(c);
        (if inside { g } else { 0.0 }, g * if inside { level - v } else { level })
    }

    /// NaN stays NaN, as it would not in `f32::max`.
    #[inline(always)]
    fn clamp(self, v: f32) -> f32 {
        let v = if v < self.lo { self.lo } else { v };
        if v > self.hi { self.hi } else { v }
    }
}

/// Rounds to an integer, ties to even, for |x| ≤ 2²²; see `Levels::round`.
#[inline(always)]
fn round(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC) - MAGIC
}

impl Kernels {
    /// The forward pass: x̂ of every number.
    ///
    /// # Errors
    /// [`Error::Length`] if `out` has not the length of `x`.
    ///
    /// ```
    /// use qat_kernels::ste_simd::{AffineGrid, Kernels};
    /// let grid = AffineGrid::new(2.0, -3, 12)?; // 4 bits, zero point −5
    /// let mut out = [0.0; 4];
    /// Kernels::default().round_activations(grid, &[1.0, 3.0, -100.0, 100.0], &mut out)?;
    /// assert_eq!(out, [0.0, 4.0, -6.0, 24.0]); // ½ and 1½ steps are ties and go to the even number
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn round_activations(self, grid: AffineGrid, x: &[f32], out: &mut [f32]) -> Result<()> {
        length(What::Output, out.len(), x.len())?;
        self.backend.run(Forward { grid, x, out });
        Ok(())
    }

    /// [`Self::round_activations`] that replaces the numbers where they are.
    ///
    /// ```
    /// use qat_kernels::ste_simd::{AffineGrid, Kernels};
    /// let mut x = [0.6, -0.6, f32::NAN];
    /// Kernels::default().round_activations_in_place(AffineGrid::new(0.25, 0, 15)?, &mut x);
    /// assert_eq!(x[..2], [0.5, 0.0]);
    /// assert!(x[2].is_nan()); // stays, where weights would be refused
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn round_activations_in_place(self, grid: AffineGrid, x: &mut [f32]) {
        self.backend.run(ForwardInPlace { grid, x });
    }

    /// The backward pass: `grad_x` gets the gradients of `x`, given those of x̂, `g`; returns the gradient of the scale, the
    /// sum of LSQ's terms (Esser et al. 2020, equation 3).
    ///
    /// Term i belongs to lane i mod 16, as far as there are 16 more terms; each lane adds its terms in order, the lanes
    /// meet in order, and the rest is added in order. All in f32: callers add up the sums of pieces of some thousand.
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    ///
    /// ```
    /// use qat_kernels::ste_simd::{AffineGrid, Kernels};
    /// let (x, g, mut grad_x) = ([0.375, 9.0, -9.0], [2.0, 1.0, 0.5], [0.0; 3]);
    /// let grid = AffineGrid::new(0.5, -8, 7)?;
    /// let grad_scale = Kernels::default().activations_backward(grid, &x, &g, &mut grad_x)?;
    /// assert_eq!(grad_x, [2.0, 0.0, 0.0]);
    /// assert_eq!(grad_scale, 2.0 * (1.0 - 0.75) + 1.0 * 7.0 + 0.5 * -8.0);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn activations_backward(
        self,
        grid: AffineGrid,
        x: &[f32],
        g: &[f32],
        grad_x: &mut [f32],
    ) -> Result<f32> {
        length(What::Gradient, g.len(), x.len())?;
        length(What::Output, grad_x.len(), x.len())?;
        Ok(self.backend.run(Backward { grid, x, g, grad_x }))
    }

    /// [`Self::activations_backward`] that replaces the gradients where they are.
    ///
    /// # Errors
    /// The same.
    ///
    /// ```
    /// use qat_kernels::ste_simd::{AffineGrid, Kernels};
    /// let (x, mut g) = ([-1.0, 0.25, 3.0], [5.0, 4.0, 3.0]);
    /// let grid = AffineGrid::new(1.0, 0, 3)?; // 2 bits after a ReLU
    /// let grad_scale = Kernels::default().activations_backward_in_place(grid, &x, &mut g)?;
    /// assert_eq!(g, [0.0, 4.0, 3.0]); // 3.0, the upper bound itself, is inside
    /// assert_eq!(grad_scale, 4.0 * (0.0 - 0.25));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn activations_backward_in_place(self, grid: AffineGrid, x: &[f32], g: &mut [f32]) -> Result<f32> {
        length(What::Gradient, g.len(), x.len())?;
        Ok(self.backend.run(BackwardInPlace { grid, x, g }))
    }
}

struct Forward<'a> {
    grid: AffineGrid,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for (out, &x) in self.out.iter_mut().zip(self.x) {
            *out = self.grid.fake_quantize(x);
        }
    }
}

struct ForwardInPlace<'a> {
    grid: AffineGrid,
    x: &'a mut [f32],
}

impl Kernel for ForwardInPlace<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for x in self.x {
            *x = self.grid.fake_quantize(*x);
        }
    }
}

struct Backward<'a> {
    grid: AffineGrid,
    x: &'a [f32],
    g: &'a [f32],
    grad_x: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = f32;
    #[inline(always)]
    fn run(self) -> f32 {
        let Self { grid, x, g, grad_x } = self;
        let mut lanes = [0.0; LANES];
        let ((outs, rest), (xs, x_rest), (gs, g_rest)) =
            (grad_x.as_chunks_mut::<LANES>(), x.as_chunks::<LANES>(), g.as_chunks::<LANES>());
        for ((out, x), g) in outs.iter_mut().zip(xs).zip(gs) {
            add(grid, x, g, out, &mut lanes);
        }
        let mut sum: f32 = lanes.iter().sum();
        for ((out, &x), &g) in rest.iter_mut().zip(x_rest).zip(g_rest) {
            let (grad, term) = grid.backward(x, g);
            *out = grad;
            sum += term;
        }
        sum
    }
}

struct BackwardInPlace<'a> {
    grid: AffineGrid,
    x: &'a [f32],
    g: &'a mut [f32],
}

impl Kernel for BackwardInPlace<'_> {
    type Output = f32;
    #[inline(always)]
    fn run(self) -> f32 {
        let Self { grid, x, g } = self;
        let mut lanes = [0.0; LANES];
        let ((gs, rest), (xs, x_rest)) = (g.as_chunks_mut::<LANES>(), x.as_chunks::<LANES>());
        for (g, x) in gs.iter_mut().zip(xs) {
            add(grid, x, &{ *g }, g, &mut lanes);
        }
        let mut sum: f32 = lanes.iter().sum();
        for (g, &x) in rest.iter_mut().zip(x_rest) {
            let (grad, term) = grid.backward(x, *g);
            *g = grad;
            sum += term;
        }
        sum
    }
}

/// The backward pass of a number for each lane.
#[inline(always)]
fn add(
    grid: AffineGrid,
    x: &[f32; LANES],
    g: &[f32; LANES],
    grad_x: &mut [f32; LANES],
    lanes: &mut [f32; LANES],
) {
    for i in 0..LANES {
        let (grad, term) = grid.backward(x[i], g[i]);
        grad_x[i] = grad;
        lanes[i] += term;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Backend;

    /// Numbers around the grid's levels, ties and ends, and some that are none.
    fn numbers(grid: AffineGrid, n: usize) -> Vec<f32> {
        let special = [0.0, -0.0, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40];
        let mut state = 1_u32;
        (0..n)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let unit = state as f32 / u32::MAX as f32;
                match state >> 29 {
                    0 => special[i % special.len()],
                    1 | 2 => ((unit * 600.0) as i32 - 300) as f32 * 0.5 * grid.scale,
                    _ => (unit * 600.0 - 300.0) * grid.scale,
                }
            })
            .collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
    }

    #[test]
    fn every_backend_equals_the_scalar_definition() {
        for grid in [(0.013, 0, 255), (0.02, -159, 96), (0.25, 0, 15), (0.7, -2, 1)]
            .map(|(scale, lo, hi)| AffineGrid::new(scale, lo, hi).unwrap())
        {
            for n in [0, 1, 15, 16, 17, 1003] {
                let x = numbers(grid, n);
                let g: Vec<f32> = numbers(grid, n + 3)[3..].iter().map(|g| g.clamp(-9.0, 9.0)).collect();
                let wanted: Vec<f32> = x
                    .iter()
                    .map(|x| (x / grid.scale).clamp(grid.lo, grid.hi).round_ties_even() * grid.scale)
                    .collect();
                let (grads, terms): (Vec<f32>, Vec<f32>) =
                    x.iter().zip(&g).map(|(&x, &g)| grid.backward(x, g)).unzip();
                let whole = n / LANES * LANES;
                let mut lanes = [0.0_f32; LANES];
                terms[..whole].iter().enumerate().for_each(|(i, t)| lanes[i % LANES] += t);
                let sum = terms[whole..].iter().fold(lanes.iter().sum::<f32>(), |sum, t| sum + t);
                for backend in Backend::available() {
                    let (k, at) = (Kernels::on(backend), backend.isa().name());
                    let (mut y, mut z) = (vec![7.0; n], x.clone());
                    k.round_activations(grid, &x, &mut y).unwrap();
                    k.round_activations_in_place(grid, &mut z);
                    // Zeros may differ in their sign, as sums do.
                    let plain = |v: &[f32]| bits(&v.iter().map(|v| v + 0.0).collect::<Vec<_>>());
                    assert_eq!(plain(&y), plain(&wanted), "{at}");
                    assert_eq!(bits(&z), bits(&y), "{at}");
                    let (mut grad_x, mut in_place) = (vec![7.0; n], g.clone());
                    let first = k.activations_backward(grid, &x, &g, &mut grad_x).unwrap();
                    let second = k.activations_backward_in_place(grid, &x, &mut in_place).unwrap();
                    assert_eq!(bits(&[first, second]), bits(&[sum, sum]), "{at}");
                    assert_eq!(bits(&grad_x), bits(&grads), "{at}");
                    assert_eq!(bits(&in_place), bits(&grads), "{at}");
                }
            }
        }
    }

    #[test]
    fn impossible_grids_and_lengths_are_refused() {
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
            assert!(matches!(AffineGrid::new(scale, 0, 1), Err(Error::NotPositive { .. })));
        }
        assert!(matches!(AffineGrid::new(1.0, 2, 1), Err(Error::Range { .. })));
        let (grid, k) = (AffineGrid::new(1.0, 0, 1).unwrap(), Kernels::default());
        let mut out = [0.0; 2];
        assert!(matches!(k.round_activations(grid, &[0.0], &mut out), Err(Error::Length { .. })));
        assert!(matches!(k.activations_backward(grid, &[0.0], &[0.0], &mut out), Err(Error::Length { .. })));
        assert!(matches!(
            k.activations_backward(grid, &[0.0; 2], &[0.0], &mut out),
            Err(Error::Length { .. })
        ));
        assert!(matches!(k.activations_backward_in_place(grid, &[0.0], &mut out), Err(Error::Length { .. })));
    }
}
