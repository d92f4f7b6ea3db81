//! Batched quantisers and estimators on the caller's slices: the scalar definitions of [`crate::ste`] and
//! [`crate::grid`], vectorised, bit for bit.
//!
//! Each of the `n` steps covers `w.len() / n` consecutive weights: a tensor, a channel (row) or a group. Every function
//! is single-threaded; rows may be shared out to threads at will, as no result depends on any other step's weights.
//!
//! # Sums
//! The gradient of a step is a sum, and a sum's bits depend on its order. This one is fixed, the same on every backend:
//! the weights of a step fall into blocks of 1024; within a block weight i belongs to lane i mod 16, each lane adds its
//! terms in order starting from +0, and the lanes meet in a tree, the upper half onto the lower half (8, 4, 2, 1). The
//! blocks' sums are added in order in f64 and rounded to f32 once. No multiply-add is fused anywhere.
//!
//! # Bad numbers
//! Every input is checked before anything that depends on it is written, so that an error leaves everything from the
//! offender on untouched: outputs (and weights, moments and gradients in place) at its index and beyond keep their former
//! values, those before it may be new, and so may the `step_grads` of steps that end before it. Lengths, steps and
//! parameters are checked before anything at all is written. Finite inputs can still overflow a sum, an update or a
//! gradient; the next call that reads the result will say so.
//!
//! # Backends
//! The free functions use the best one of the machine ([`Backend::best`]); [`Kernels`] chooses.
//!
//! ```
//! use qat_kernels::{Grid, Levels, LsqMask, SteVariant, ste_simd};
//! let levels = Levels::new(2, Grid::MidTread)?; // codes −2..=1
//! let (steps, w) = ([0.5, 1.0], [0.3, -0.2, 0.9, 1.7]); // two rows of two
//! let mut w_hat = [0.0; 4];
//! ste_simd::fake_quantize(levels, &steps, &w, &mut w_hat)?;
//! assert_eq!(w_hat, [0.5, 0.0, 1.0, 1.0]);
//! let (mut grad_w, mut step_grads) = ([0.0; 4], [0.0; 2]);
//! let (ste, mask) = (SteVariant::LearnedStepSize, LsqMask::Exact);
//! ste_simd::backward(ste, levels, mask, &steps, &w, &[1.0; 4], &mut grad_w, &mut step_grads)?;
//! assert_eq!(grad_w, [1.0, 1.0, 1.0, 0.0]); // 1.7 is beyond the largest level
//! # Ok::<(), qat_kernels::Error>(())
//! ```

mod adamw;
mod affine;
mod best;
mod lanes;
mod passes;

pub use crate::arch::{Backend, Isa};
pub use adamw::AdamW;
pub use affine::AffineGrid;
pub use best::{
    backward, backward_adamw, backward_in_place, dequantize, fake_quantize, fused_adamw, quantize,
    step_gradient,
};

use crate::arch::Output;
use crate::error::{Error, Result, What};
use crate::grid::Levels;
use crate::ste::{LsqMask, SteVariant};
use lanes::{Bounds, Clipped, Ewgs, Lsq, Standard};
use passes::{
    Apart, Backward, Dequantize, FakeQuantize, Fused, Gradients, InPlace, Pass, Quantize, Run, StepGradient,
};

/// The kernels of one backend.
///
/// ```
/// use qat_kernels::{Grid, Levels, ste_simd::{Backend, Kernels}};
/// let levels = Levels::new(4, Grid::MidTread)?;
/// for backend in Backend::available() {
///     let mut codes = [0; 3];
///     Kernels::on(backend).quantize(levels, &[0.1], &[0.25, -0.31, 9.0], &mut codes)?;
///     assert_eq!(codes, [2, -3, 7]);
/// }
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    backend: Backend,
    /// Values of the output of which the caller's is a part; 0 if it is the whole.
    whole: usize,
}

impl Default for Kernels {
    fn default() -> Self {
        Self::on(Backend::best())
    }
}

impl Kernels {
    /// The kernels of `backend`.
    ///
    /// ```
    /// use qat_kernels::ste_simd::{Backend, Isa, Kernels};
    /// use qat_kernels::{Grid, Levels};
    /// let portable = Backend::new(Isa::Portable).map(Kernels::on); // every machine has it
    /// let mut out = [0.0; 2];
    /// let levels = Levels::new(2, Grid::MidRise)?;
    /// let done = portable.map(|kernels| kernels.fake_quantize(levels, &[2.0], &[0.5, -7.0], &mut out));
    /// assert_eq!((done, out), (Some(Ok(())), [1.0, -3.0]));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn on(backend: Backend) -> Self {
        Self { backend, whole: 0 }
    }

    /// The same for a call that makes a part of an output of `whole` values: how it is best stored depends on the size of
    /// all of it.
    pub(crate) const fn part_of(self, whole: usize) -> Self {
        Self { whole, ..self }
    }

    fn output(self, len: usize) -> Output {
        Output::of(len.max(self.whole))
    }

    /// [`fake_quantize`] on this backend.
    ///
    /// # Errors
    /// The same.
    ///
    /// ```
    /// use qat_kernels::{Error, Grid, Levels, What, ste_simd::Kernels};
    /// let levels = Levels::new(4, Grid::MidTread)?;
    /// let mut out = [9.0; 3];
    /// let done = Kernels::default().fake_quantize(levels, &[0.5], &[0.3, f32::NAN, 0.2], &mut out);
    /// assert_eq!(done, Err(Error::NotFinite { what: What::Weights, index: 1 }));
    /// assert_eq!(out[1..], [9.0, 9.0]); // untouched from the NaN on
    /// # Ok::<(), Error>(())
    /// ```
    pub fn fake_quantize(self, levels: Levels, steps: &[f32], w: &[f32], out: &mut [f32]) -> Result<()> {
        let per_step = layout(w.len(), What::Weights, steps)?;
        length(What::Output, out.len(), w.len())?;
        let pass = FakeQuantize {
            bounds: Bounds::new(levels, LsqMask::Exact),
            steps,
            w,
            output: self.output(out.len()),
            out,
        };
        self.run(pass, per_step)
    }

    /// [`quantize`] on this backend.
    ///
    /// # Errors
    /// The same.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels, ste_simd::Kernels};
    /// let (steps, w) = ([1.0, 0.25], [1.4, -3.0, 1.4, -3.0]); // two rows of the same weights
    /// let mut codes = [0; 4];
    /// Kernels::default().quantize(Levels::new(3, Grid::MidTread)?, &steps, &w, &mut codes)?;
    /// assert_eq!(codes, [1, -3, 3, -4]); // the second row's step is too small for them
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn quantize(self, levels: Levels, steps: &[f32], w: &[f32], codes: &mut [i8]) -> Result<()> {
        let per_step = layout(w.len(), What::Weights, steps)?;
        length(What::Codes, codes.len(), w.len())?;
        let pass = Quantize { bounds: Bounds::new(levels, LsqMask::Exact), steps, w, codes };
        self.run(pass, per_step)
    }

    /// [`dequantize`] on this backend.
    ///
    /// # Errors
    /// The same.
    ///
    /// ```
    /// use qat_kernels::{Error, Grid, Levels, ste_simd::Kernels};
    /// let (kernels, levels) = (Kernels::default(), Levels::new(3, Grid::MidTread)?); // codes −4..=3
    /// let mut w_hat = [0.0; 2];
    /// kernels.dequantize(levels, &[0.5, 3.0], &[-4, 3], &mut w_hat)?;
    /// assert_eq!(w_hat, [-2.0, 9.0]);
    /// let done = kernels.dequantize(levels, &[0.5], &[-5, 3], &mut w_hat);
    /// assert_eq!(done, Err(Error::Code { index: 0, code: -5 }));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn dequantize(self, levels: Levels, steps: &[f32], codes: &[i8], out: &mut [f32]) -> Result<()> {
        let per_step = layout(codes.len(), What::Codes, steps)?;
        length(What::Output, out.len(), codes.len())?;
        let pass = Dequantize { levels, steps, codes, output: self.output(out.len()), out };
        self.run(pass, per_step)
    }

    /// [`backward`] on this backend.
    ///
    /// # Errors
    /// The same.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels, LsqMask, SteVariant, ste_simd::Kernels};
    /// let (ste, levels) = (SteVariant::Ewgs { lambda: 0.5 }, Levels::new(4, Grid::MidTread)?);
    /// let (w, g, mask) = ([0.5, 3.5], [1.0, -1.0], LsqMask::Exact); // rounded to 0 and 4
    /// let (mut grad_w, mut step_grad) = ([0.0; 2], [0.0]);
    /// Kernels::default().backward(ste, levels, mask, &[1.0], &w, &g, &mut grad_w, &mut step_grad)?;
    /// assert_eq!(grad_w, [1.25, -1.25]); // 1 + ½·(½ − 0) and −(1 − ½·(3½ − 4))
    /// assert_eq!(step_grad, [-0.5 - 0.5]); // 1·(0 − ½) and −1·(4 − 3½)
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[allow(
        clippy::too_many_arguments,
        reason = "slices in, slices out: a struct of them would only be taken apart"
    )]
    pub fn backward(
        self,
        ste: SteVariant,
        levels: Levels,
        mask: LsqMask,
        steps: &[f32],
        w: &[f32],
        g: &[f32],
        grad_w: &mut [f32],
        step_grads: &mut [f32],
    ) -> Result<()> {
        length(What::Output, grad_w.len(), w.len())?;
        self.estimate(
            ste,
            levels,
            mask,
            steps,
            w,
            Apart { g, output: self.output(grad_w.len()), grad_w },
            step_grads,
        )
    }

    /// [`backward_in_place`] on this backend.
    ///
    /// # Errors
    /// The same.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels, LsqMask, SteVariant, ste_simd::Kernels};
    /// let (ste, levels) = (SteVariant::Clipped { clip_val: 2.0 }, Levels::new(2, Grid::MidRise)?);
    /// let (steps, w, mut g, mut step_grads) = ([1.0; 2], [1.5, 2.5], [4.0; 2], [0.0; 2]); // a step each
    /// let kernels = Kernels::default();
    /// kernels.backward_in_place(ste, levels, LsqMask::Exact, &steps, &w, &mut g, &mut step_grads)?;
    /// assert_eq!(g, [4.0, 0.0]);
    /// assert_eq!(step_grads, [0.0, 6.0]); // 1.5 is a level; 2.5 moves with the end of the range, 4·1½
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[allow(
        clippy::too_many_arguments,
        reason = "slices in, slices out: a struct of them would only be taken apart"
    )]
    pub fn backward_in_place(
        self,
        ste: SteVariant,
        levels: Levels,
        mask: LsqMask,
        steps: &[f32],
        w: &[f32],
        g: &mut [f32],
        step_grads: &mut [f32],
    ) -> Result<()> {
        self.estimate(ste, levels, mask, steps, w, InPlace(g), step_grads)
    }

    /// [`step_gradient`] on this backend.
    ///
    /// # Errors
    /// The same.
    ///
    /// ```
    /// use qat_kernels::ste_simd::{Backend, Kernels};
    /// use qat_kernels::{Grid, Levels, LsqMask};
    /// let (levels, w, g) = (Levels::new(8, Grid::MidTread)?, [0.3; 100], [1.0; 100]);
    /// let mut sums = Vec::new();
    /// for backend in Backend::available() {
    ///     let mut sum = [0.0];
    ///     Kernels::on(backend).step_gradient(levels, LsqMask::Exact, &[1.0], &w, &g, &mut sum)?;
    ///     sums.push(sum[0].to_bits());
    /// }
    /// sums.dedup();
    /// assert_eq!(sums.len(), 1); // about −30, with the same last bit on every backend
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn step_gradient(
        self,
        levels: Levels,
        mask: LsqMask,
        steps: &[f32],
        w: &[f32],
        g: &[f32],
        step_grads: &mut [f32],
    ) -> Result<()> {
        let per_step = layout(w.len(), What::Weights, steps)?;
        length(What::Gradient, g.len(), w.len())?;
        length(What::Steps, step_grads.len(), steps.len())?;
        self.run(StepGradient { bounds: Bounds::new(levels, mask), steps, w, g, step_grads }, per_step)
    }

    /// [`fused_adamw`] on this backend.
    ///
    /// # Errors
    /// The same.
    ///
    /// ```
    /// use qat_kernels::ste_simd::{AdamW, Kernels};
    /// use qat_kernels::{Grid, Levels, LsqMask, SteVariant};
    /// let (ste, levels) = (SteVariant::Standard, Levels::new(4, Grid::MidTread)?);
    /// // Without moments and decay, AdamW moves each weight by the learning rate.
    /// let adamw = AdamW { lr: 0.5, beta1: 0.0, beta2: 0.0, weight_decay: 0.0, ..AdamW::default() };
    /// let (mask, step, next, g) = (LsqMask::Exact, [1.0], [0.25], [-8.0]);
    /// let (mut w, mut m, mut v, mut w_hat) = ([1.0], [0.0], [0.0], [0.0]);
    /// Kernels::default().fused_adamw(
    ///     ste, levels, mask, &step, &next, &adamw, &mut w, &g, &mut m, &mut v, &mut w_hat, &mut [],
    /// )?;
    /// assert_eq!((w, m, v), ([1.5], [-8.0], [64.0]));
    /// assert_eq!(w_hat, [1.5]); // with the next step, ¼; with the old one it would be 2
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[allow(
        clippy::too_many_arguments,
        reason = "slices in, slices out: a struct of them would only be taken apart"
    )]
    pub fn fused_adamw(
        self,
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
        ste.validate()?;
        adamw.validate()?;
        let per_step = state_layout(steps, w, g, m, v)?;
        length(What::Steps, next_steps.len(), steps.len())?;
        positive(next_steps)?;
        length(What::Output, w_hat.len(), w.len())?;
        let (bounds, factors) = (Bounds::new(levels, mask), adamw.factors());
        let output = self.output(w_hat.len());
        if step_grads.is_empty() {
            let pass = Fused::<false, true> {
                bounds,
                steps,
                next_steps,
                factors,
                w,
                g,
                m,
                v,
                w_hat,
                step_grads,
                output,
            };
            return self.run_with(ste, pass, per_step);
        }
        length(What::Steps, step_grads.len(), steps.len())?;
        let pass =
            Fused::<true, true> { bounds, steps, next_steps, factors, w, g, m, v, w_hat, step_grads, output };
        self.run_with(ste, pass, per_step)
    }

    /// [`backward_adamw`] on this backend.
    ///
    /// # Errors
    /// The same.
    ///
    /// ```
    /// use qat_kernels::ste_simd::{AdamW, Kernels};
    /// use qat_kernels::{Error, Grid, Levels, LsqMask, SteVariant, What};
    /// let (levels, adamw) = (Levels::new(2, Grid::MidTread)?, AdamW { step: 0, ..AdamW::default() });
    /// let (mut w, mut m, mut v, mut step_grads) = ([1.0], [0.0], [0.0], [0.0]);
    /// let (ste, mask) = (SteVariant::Standard, LsqMask::Exact);
    /// let done = Kernels::default().backward_adamw(
    ///     ste, levels, mask, &[1.0], &adamw, &mut w, &[1.0], &mut m, &mut v, &mut step_grads,
    /// );
    /// assert!(matches!(done, Err(Error::Range { what: What::Update, .. }))); // updates count from 1
    /// assert_eq!(w, [1.0]);
    /// # Ok::<(), Error>(())
    /// ```
    #[allow(
        clippy::too_many_arguments,
        reason = "slices in, slices out: a struct of them would only be taken apart"
    )]
    pub fn backward_adamw(
        self,
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
        ste.validate()?;
        adamw.validate()?;
        let per_step = state_layout(steps, w, g, m, v)?;
        length(What::Steps, step_grads.len(), steps.len())?;
        let (bounds, factors) = (Bounds::new(levels, mask), adamw.factors());
        let (next_steps, w_hat, output) = (&[][..], &mut [][..], self.output(0));
        let pass = Fused::<true, false> {
            bounds,
            steps,
            next_steps,
            factors,
            w,
            g,
            m,
            v,
            w_hat,
            step_grads,
            output,
        };
        self.run_with(ste, pass, per_step)
    }

    /// The two backward passes, which differ in where gradients come from and go to.
    #[allow(
        clippy::too_many_arguments,
        reason = "slices in, slices out: a struct of them would only be taken apart"
    )]
    fn estimate<G: Gradients>(
        self,
        ste: SteVariant,
        levels: Levels,
        mask: LsqMask,
        steps: &[f32],
        w: &[f32],
        gradients: G,
        step_grads: &mut [f32],
    ) -> Result<()> {
        ste.validate()?;
        let per_step = layout(w.len(), What::Weights, steps)?;
        length(What::Gradient, gradients.arriving().len(), w.len())?;
        length(What::Steps, step_grads.len(), steps.len())?;
        let pass = Backward { bounds: Bounds::new(levels, mask), steps, w, gradients, step_grads };
        self.run_with(ste, pass, per_step)
    }

    fn run_with<P: Pass>(self, ste: SteVariant, pass: P, per_step: usize) -> Result<()> {
        let Self { backend, .. } = self;
        match ste {
            // What passes everywhere is clipped nowhere; a loop of its own would only be more code.
            SteVariant::Standard => backend.run(Run { pass, estimator: Clipped(f32::INFINITY), per_step }),
            SteVariant::Clipped { clip_val } => {
                backend.run(Run { pass, estimator: Clipped(clip_val), per_step })
            }
            SteVariant::LearnedStepSize => backend.run(Run { pass, estimator: Lsq, per_step }),
            SteVariant::Ewgs { lambda } => backend.run(Run { pass, estimator: Ewgs(lambda), per_step }),
        }
    }

    /// Runs a pass that asks no estimator.
    fn run<P: Pass>(self, pass: P, per_step: usize) -> Result<()> {
        self.backend.run(Run { pass, estimator: Standard, per_step })
    }
}

/// [`layout`] of weights with their gradients and moments.
fn state_layout(steps: &[f32], w: &[f32], g: &[f32], m: &[f32], v: &[f32]) -> Result<usize> {
    let per_step = layout(w.len(), What::Weights, steps)?;
    length(What::Gradient, g.len(), w.len())?;
    length(What::Moments, m.len(), w.len())?;
    length(What::Moments, v.len(), w.len())?;
    Ok(per_step)
}

/// Checks the steps and how many values each of them covers.
fn layout(len: usize, what: What, steps: &[f32]) -> Result<usize> {
    if steps.is_empty() {
        return Err(Error::Empty { what: What::Steps });
    }
    if len == 0 {
        return Err(Error::Empty { what });
    }
    if !len.is_multiple_of(steps.len()) {
        return Err(Error::NotDivisible { what, len, by: steps.len() });
    }
    positive(steps)?;
    Ok(len / steps.len())
}

/// Steps must be positive normal numbers.
fn positive(steps: &[f32]) -> Result<()> {
    match steps.iter().position(|s| !(*s > 0.0 && s.is_normal())) {
        None => Ok(()),
        Some(index) => Err(Error::NotPositive { what: What::Steps, index, value: steps[index] }),
    }
}

fn length(what: What, got: usize, expected: usize) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::Length { what, expected, got }) }
}

#[cfg(test)]
mod tests;
