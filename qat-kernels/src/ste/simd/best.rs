//! The kernels on the fastest backend of the machine, as functions.

use super::{AdamW, Kernels};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::grid::Levels;
use crate::ste::{LsqMask, SteVariant};

/// Quantises and dequantises, the forward pass: `out[i] = level(q)·Δ`, see [`Levels::fake_quantize`].
///
/// `out` has the length of `w`. The loss sees these values; [`backward`] is the matching derivative.
///
/// # Errors
/// [`Error::Empty`], [`Error::NotDivisible`] and [`Error::Length`] for slices that do not fit together;
/// [`Error::NotPositive`] for a step that is not a positive normal number; [`Error::NotFinite`] for a weight that is NaN
/// or infinite, see [Bad numbers](super#bad-numbers).
///
/// ```
/// use qat_kernels::{Grid, Levels, ste_simd};
/// let (w, mut w_hat) = ([0.25, 0.75, 1.25, 9.0, -9.0], [0.0; 5]);
/// ste_simd::fake_quantize(Levels::new(3, Grid::MidTread)?, &[0.5], &w, &mut w_hat)?;
/// assert_eq!(w_hat, [0.0, 1.0, 1.0, 1.5, -2.0]); // three ties to even, then both ends
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn fake_quantize(levels: Levels, steps: &[f32], w: &[f32], out: &mut [f32]) -> Result<()> {
    Kernels::default().fake_quantize(levels, steps, w, out)
}

/// Weights to codes, one per byte: see [`Levels::quantize`].
///
/// # Errors
/// As [`fake_quantize`].
///
/// ```
/// use qat_kernels::{Error, Grid, Levels, What, ste_simd};
/// let (two_bit, mut codes) = (Levels::new(2, Grid::MidRise)?, [0; 3]);
/// ste_simd::quantize(two_bit, &[1.0], &[0.1, -0.1, 1.2], &mut codes)?;
/// assert_eq!(codes, [0, -1, 1]); // levels ½, −½ and 1½
/// let e = Error::NotDivisible { what: What::Weights, len: 3, by: 2 };
/// assert_eq!(ste_simd::quantize(two_bit, &[1.0, 2.0], &[0.1, -0.1, 1.2], &mut codes), Err(e));
/// # Ok::<(), Error>(())
/// ```
pub fn quantize(levels: Levels, steps: &[f32], w: &[f32], codes: &mut [i8]) -> Result<()> {
    Kernels::default().quantize(levels, steps, w, codes)
}

/// Codes to real weights, `level(q)·Δ`: see [`Levels::dequantize`].
///
/// # Errors
/// As [`fake_quantize`], and [`Error::Code`] for a code outside the grid, under the same terms as a bad weight.
///
/// ```
/// use qat_kernels::{Grid, Levels, ste_simd};
/// let mut w_hat = [0.0; 4];
/// ste_simd::dequantize(Levels::new(4, Grid::MidRise)?, &[2.0, 0.25], &[-8, 0, -8, 0], &mut w_hat)?;
/// assert_eq!(w_hat, [-15.0, 1.0, -1.875, 0.125]); // −7½ and ½ of each step
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn dequantize(levels: Levels, steps: &[f32], codes: &[i8], out: &mut [f32]) -> Result<()> {
    Kernels::default().dequantize(levels, steps, codes, out)
}

/// The backward pass: the estimator's gradient for each weight ([`SteVariant::backward_in_range`]) and, for every
/// estimator, the gradient of each step in the same pass.
///
/// `g` is the gradient that arrives at the quantised weights; `grad_w` gets the gradient of the weights. Both have the
/// length of `w`. `step_grads`, one per step, gets the plain sum of [`lsq_step_gradient`](crate::ste::lsq_step_gradient)
/// over the step's weights, LSQ's equation 3 (Esser et al. 2020), in the order given in [Sums](super#sums). Multiply by
/// [`lsq_gradient_scale`](crate::ste::lsq_gradient_scale), and by π/k for the gradient of a Pi quantiser's α.
///
/// # Errors
/// As [`fake_quantize`]; [`Error::NotFinite`] for gradients too; [`Error::Range`] for a bad parameter of the estimator.
///
/// ```
/// use qat_kernels::{Grid, Levels, LsqMask, SteVariant, ste::lsq_gradient_scale, ste_simd};
/// let (ste, levels) = (SteVariant::LearnedStepSize, Levels::new(2, Grid::MidTread)?); // codes −2..=1
/// let (w, g) = ([0.25, -1.5, 0.5, 9.0], [1.0; 4]);
/// let (mut grad_w, mut step_grad) = ([0.0; 4], [0.0]);
/// ste_simd::backward(ste, levels, LsqMask::Exact, &[1.0], &w, &g, &mut grad_w, &mut step_grad)?;
/// assert_eq!(grad_w, [1.0, 1.0, 1.0, 0.0]);
/// assert_eq!(step_grad, [-0.25 - 0.5 - 0.5 + 1.0]); // level − v, and the level alone for 9.0
/// assert_eq!(step_grad[0] * lsq_gradient_scale(w.len(), levels), -0.125); // 1/√(4·1)
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[allow(
    clippy::too_many_arguments,
    reason = "slices in, slices out: a struct of them would only be taken apart"
)]
pub fn backward(
    ste: SteVariant,
    levels: Levels,
    mask: LsqMask,
    steps: &[f32],
    w: &[f32],
    g: &[f32],
    grad_w: &mut [f32],
    step_grads: &mut [f32],
) -> Result<()> {
    Kernels::default().backward(ste, levels, mask, steps, w, g, grad_w, step_grads)
}

/// [`backward`] that replaces the gradients where they are: a fifth less memory traffic over forward and backward.
///
/// # Errors
/// As [`backward`].
///
/// ```
/// use qat_kernels::{Grid, Levels, LsqMask, SteVariant, ste_simd};
/// let (ste, levels) = (SteVariant::LearnedStepSize, Levels::new(2, Grid::MidTread)?); // codes −2..=1
/// let (w, mut g, mut step_grad) = ([-2.25, -0.5, 1.25], [0.5, 0.5, 0.5], [0.0]);
/// ste_simd::backward_in_place(ste, levels, LsqMask::Rounded, &[1.0], &w, &mut g, &mut step_grad)?;
/// assert_eq!(g, [0.5, 0.5, 0.5]); // all of them round to a code; the exact mask would stop two
/// assert_eq!(step_grad, [0.5 * (0.25 + 0.5 - 0.25)]);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn backward_in_place(
    ste: SteVariant,
    levels: Levels,
    mask: LsqMask,
    steps: &[f32],
    w: &[f32],
    g: &mut [f32],
    step_grads: &mut [f32],
) -> Result<()> {
    Kernels::default().backward_in_place(ste, levels, mask, steps, w, g, step_grads)
}

/// The steps' gradients alone: what [`backward`] puts into `step_grads`.
///
/// # Errors
/// As [`backward`].
///
/// ```
/// use qat_kernels::{Grid, Levels, LsqMask, ste_simd};
/// let (steps, w, g) = ([0.5, 2.0], [0.125, 0.5, 0.5, 8.0], [1.0, -3.0, 1.0, -3.0]);
/// let mut step_grads = [0.0; 2];
/// let levels = Levels::new(3, Grid::MidTread)?; // codes −4..=3
/// ste_simd::step_gradient(levels, LsqMask::Exact, &steps, &w, &g, &mut step_grads)?;
/// assert_eq!(step_grads, [0.0 - 0.25, -0.25 - 9.0]); // 0.5 is a level of the first, 8.0 beyond the second
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn step_gradient(
    levels: Levels,
    mask: LsqMask,
    steps: &[f32],
    w: &[f32],
    g: &[f32],
    step_grads: &mut [f32],
) -> Result<()> {
    Kernels::default().step_gradient(levels, mask, steps, w, g, step_grads)
}

/// A whole training step of a quantised weight in one pass over memory: estimator and step gradients with `steps`, the
/// [`AdamW`] update of `w`, `m` and `v`, and `w_hat`, the new weights quantised with `next_steps`.
///
/// `g` is the gradient that arrived at the quantised weights of the last forward pass. `steps` and `next_steps` are equal
/// unless the steps were updated in between. All slices have the length of `w`; `next_steps` and `step_grads` have one
/// entry per step. An empty `step_grads` saves the work of forming them. Moments start at zero.
///
/// Where the next steps follow from the steps' gradients of the same update, take [`backward_adamw`] instead.
///
/// # Errors
/// As [`backward`]; [`AdamW::validate`]'s; [`Error::NotFinite`] for moments that are NaN or infinite.
///
/// ```
/// use qat_kernels::ste_simd::{AdamW, fused_adamw};
/// use qat_kernels::{Grid, Levels, LsqMask, SteVariant};
/// let (ste, levels) = (SteVariant::LearnedStepSize, Levels::new(2, Grid::MidTread)?);
/// let adamw = AdamW { lr: 0.25, beta1: 0.0, beta2: 0.0, weight_decay: 0.0, ..AdamW::default() };
/// let (mask, step, mut w, g) = (LsqMask::Exact, [0.5], [0.375, 2.0], [1.0, 1.0]);
/// let (mut m, mut v, mut w_hat, mut step_grad) = ([0.0; 2], [0.0; 2], [0.0; 2], [0.0]);
/// fused_adamw(
///     ste, levels, mask, &step, &step, &adamw, &mut w, &g, &mut m, &mut v, &mut w_hat, &mut step_grad,
/// )?;
/// assert_eq!(step_grad, [0.25 + 1.0]); // of the weights before the update: 1 − 0.75, and the largest level
/// assert_eq!(w, [0.125, 2.0]); // down by the learning rate; 2.0 is clipped and stays
/// assert_eq!(w_hat, [0.0, 0.5]);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[allow(
    clippy::too_many_arguments,
    reason = "slices in, slices out: a struct of them would only be taken apart"
)]
pub fn fused_adamw(
    ste: SteVariant,
    levels: Levels,
    mask: LsqMask,
    steps: &[f32],
    next_steps: &[f32],
    adamw: &AdamW,
    w: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    w_hat: &mut [f32],
    step_grads: &mut [f32],
) -> Result<()> {
    Kernels::default().fused_adamw(ste, levels, mask, steps, next_steps, adamw, w, g, m, v, w_hat, step_grads)
}

/// [`fused_adamw`] up to the new quantised values: estimator, step gradients, and the update of `w`, `m` and `v`. With the steps
/// that follow from `step_grads`, [`fake_quantize`] makes those values, best while the weights are in the cache.
///
/// # Errors
/// As [`fused_adamw`].
///
/// ```
/// use qat_kernels::ste_simd::{AdamW, backward_adamw, fake_quantize};
/// use qat_kernels::{Grid, Levels, LsqMask, SteVariant};
/// let (ste, levels) = (SteVariant::LearnedStepSize, Levels::new(4, Grid::MidTread)?);
/// let adamw = AdamW { lr: 0.5, beta1: 0.0, beta2: 0.0, weight_decay: 0.0, ..AdamW::default() };
/// let (mut step, mut w, g, mut w_hat) = ([1.0], [2.25, -1.25], [2.0, -2.0], [0.0; 2]);
/// let (mut m, mut v, mut step_grad) = ([0.0; 2], [0.0; 2], [0.0]);
/// backward_adamw(ste, levels, LsqMask::Exact, &step, &adamw, &mut w, &g, &mut m, &mut v, &mut step_grad)?;
/// assert_eq!((w, step_grad), ([1.75, -0.75], [-1.0])); // 2·(2 − 2¼) − 2·(−1 + 1¼)
/// step[0] -= 0.25 * step_grad[0]; // plain descent
/// fake_quantize(levels, &step, &w, &mut w_hat)?;
/// assert_eq!(w_hat, [1.25, -1.25]);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[allow(
    clippy::too_many_arguments,
    reason = "slices in, slices out: a struct of them would only be taken apart"
)]
pub fn backward_adamw(
    ste: SteVariant,
    levels: Levels,
    mask: LsqMask,
    steps: &[f32],
    adamw: &AdamW,
    w: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    step_grads: &mut [f32],
) -> Result<()> {
    Kernels::default().backward_adamw(ste, levels, mask, steps, adamw, w, g, m, v, step_grads)
}
