//! The quantiser as an autograd node: `ŵ = Q(w, α)` with the estimator's gradient of w and LSQ's of log α.
//!
//! On the CPU qat-kernels computes both passes on the tensors' memory, on a GPU fused kernels do where they can be compiled;
//! elsewhere torch's operators do. All go through the same order of operations, so that ŵ and the gradient of w are the same
//! bit for bit. Only the sums over a step's weights are added up in another order. Divisors and steps are tensors and never numbers to torch: some of its devices multiply by the
//! reciprocal of a number instead of dividing by it.

use super::MatrixQuant;
use crate::autograd::{closure_node, fused, fused_kernels, slice, slice_mut};
use crate::error::{Error, ErrorKind, Result};
use crate::nn::weights::steps as block_steps;
use qat_kernels::config::StepRule;
use qat_kernels::ste::lsq_gradient_scale;
use qat_kernels::{Levels, LsqMask, SteVariant, ste_simd};
use std::f32::consts::PI;
use tch::{Device, Kind, Tensor};

/// Who computes a quantiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// qat-kernels, for f32 on the CPU.
    Kernels,
    /// Torch's operators, anywhere.
    Operators,
    /// The fused kernels, on a GPU.
    Fused,
}

impl Backend {
    /// The fastest one for tensors on `device`.
    ///
    /// ```
    /// use qat_trainer::llm::Backend;
    /// use tch::Device;
    /// assert_eq!(Backend::on(Device::Cpu), Backend::Kernels);
    /// // With or without a GPU: the kernels of the CPU are not what computes there.
    /// assert_ne!(Backend::on(Device::Cuda(0)), Backend::Kernels);
    /// ```
    #[must_use]
    pub fn on(device: Device) -> Self {
        match device {
            Device::Cpu => Self::Kernels,
            _ if fused_kernels(device).is_ok() => Self::Fused,
            _ => Self::Operators,
        }
    }

    /// All that can compute on `device`.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::MatrixQuant, spec::WeightQuant};
    /// use qat_trainer::llm::{Backend, PackedMatrix};
    /// use tch::{Device, Kind, Tensor};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant::new(quant);
    /// let w = Tensor::from_slice(&[0.3f32, -0.1, 0.7, -1.2]).view([2, 2]);
    /// let fastest = PackedMatrix::fitted(&w, quant)?.weights(Kind::Float)?;
    /// for backend in Backend::all(Device::Cpu) {
    ///     // All of them compute the same numbers, bit for bit.
    ///     assert!(PackedMatrix::fitted(&w, quant)?.on(backend).weights(Kind::Float)?.equal(&fastest));
    /// }
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn all(device: Device) -> Vec<Self> {
        match Self::on(device) {
            Self::Operators => vec![Self::Operators],
            fastest => vec![Self::Operators, fastest],
        }
    }
}

/// Weights with the steps of their quantiser: w, f32 `[out, in]`, α of each block, `[blocks]`, and k of each group, `[groups]`
/// of f32 (empty without groups).
pub(in crate::llm) struct Operands<'a> {
    pub(in crate::llm) w: &'a Tensor,
    pub(in crate::llm) alpha: &'a Tensor,
    pub(in crate::llm) divisors: &'a Tensor,
}

/// ŵ, with a history; the fused kernels make it in the kind that is wanted, the others in f32. The gradient that arrives at α
/// is that of its logarithm.
pub(in crate::llm) fn fake_quantise(
    quant: MatrixQuant,
    backend: Backend,
    operands: &Operands<'_>,
    wanted: Kind,
) -> Result<Tensor> {
    let &Operands { w, alpha, divisors } = operands;
    let itself = |parts: &[Tensor]| Ok(parts[0].shallow_clone());
    let of_itself = |of_w: Tensor, _: &[Tensor]| Ok(vec![Some(of_w)]);
    let made = Made { parts: &[w], make: itself, split: of_itself, alpha, divisors };
    fake_quantise_made(quant, backend, made, wanted)
}

/// Weights that are made of others in every pass, and the steps of their quantiser.
pub(in crate::llm) struct Made<'a, M, S> {
    pub(in crate::llm) parts: &'a [&'a Tensor],
    /// Makes w, f32 `[out, in]`, of the parts.
    pub(in crate::llm) make: M,
    /// Makes the gradients of the parts of that of w and the parts.
    pub(in crate::llm) split: S,
    pub(in crate::llm) alpha: &'a Tensor,
    pub(in crate::llm) divisors: &'a Tensor,
}

/// As [`fake_quantise`], of a w that is gone when the pass is over: what the history keeps are its parts, of which the backward
/// pass makes it again.
pub(in crate::llm) fn fake_quantise_made<M, S>(
    quant: MatrixQuant,
    backend: Backend,
    made: Made<'_, M, S>,
    wanted: Kind,
) -> Result<Tensor>
where
    M: Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
    S: Fn(Tensor, &[Tensor]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
{
    let Made { parts, make, split, alpha, divisors } = made;
    let inputs: Vec<&Tensor> = parts.iter().copied().chain([alpha]).collect();
    let saved = inputs.iter().copied().chain([divisors]);
    let saved = saved.map(|t| Ok(t.f_detach()?)).collect::<Result<Vec<_>>>()?;
    let w_hat = tch::no_grad(|| {
        let w = make(&saved[..parts.len()])?;
        quantised(quant, backend, &Operands { w: &w, alpha, divisors }, wanted)
    })?;
    let saved: Vec<&Tensor> = saved.iter().collect();
    closure_node(w_hat, &inputs, &saved, move |grad, saved| {
        let [parts @ .., alpha, divisors] = saved else {
            return Err(Error::new(ErrorKind::Train, "the quantiser's operands are lost"));
        };
        let (of_w, of_alpha) = {
            let w = make(parts)?;
            gradients(quant, backend, &Operands { w: &w, alpha, divisors }, grad)?
        };
        let mut all = split(of_w, parts)?;
        all.push(Some(of_alpha));
        Ok(all)
    })
}

impl<'a> Operands<'a> {
    /// As the fused kernels take them.
    pub(super) const fn weights(&self) -> fused::Weights<'a> {
        let Self { w, alpha, divisors } = *self;
        fused::Weights { w, alpha, divisors }
    }

    /// The quantiser of these weights, as the fused kernels take it.
    pub(super) fn fused(&self, quant: MatrixQuant) -> Result<fused::Quantiser> {
        let blocks = self.alpha.numel();
        let plain = fused_steps(quant, self.w.numel() / blocks.max(1), blocks)?;
        let (estimator, parameter) = match quant.ste {
            SteVariant::Standard => (0, 0.0),
            SteVariant::Clipped { clip_val } => (1, clip_val),
            SteVariant::LearnedStepSize => (2, 0.0),
            SteVariant::Ewgs { lambda } => (3, lambda),
        };
        Ok(fused::Quantiser { estimator, parameter, scale: lsq_scale(quant, self), ..plain })
    }
}

/// Levels and steps for `blocks` blocks of `length` weights, as the fused kernels take them.
pub(in crate::llm) fn fused_steps(
    quant: MatrixQuant,
    length: usize,
    blocks: usize,
) -> Result<fused::Quantiser> {
    let levels = quant.quant.levels;
    let plain = fused::Quantiser::new(levels.lo(), levels.hi(), levels.grid().offset(), length, blocks)?;
    let (rule, k, group) = match quant.quant.step {
        StepRule::Uniform => (0, 1.0, plain.group),
        StepRule::Pi { k } => (1, f32::from(k), plain.group),
        StepRule::PiAdaptive { group } => (2, 1.0, group as i32),
    };
    Ok(fused::Quantiser { rule, k, group, ..plain })
}

/// ŵ, `[out, in]`, without a history.
pub(super) fn quantised(
    quant: MatrixQuant,
    backend: Backend,
    operands: &Operands<'_>,
    wanted: Kind,
) -> Result<Tensor> {
    let levels = quant.quant.levels;
    let w = operands.w.f_detach()?.f_contiguous()?;
    match backend {
        Backend::Kernels => {
            let steps = host_steps(quant, operands)?;
            let mut w_hat = w.f_empty_like()?;
            ste_simd::fake_quantize(levels, &steps, slice(&w)?, slice_mut(&mut w_hat)?)?;
            Ok(w_hat)
        }
        Backend::Operators => {
            let steps = steps_of(quant.quant.step, operands.alpha, operands.divisors)?;
            Ok(rounded(levels, &w, &steps)?.1.f_mul(&steps)?.f_reshape(w.size())?)
        }
        Backend::Fused => {
            let kind = if wanted == Kind::BFloat16 { wanted } else { Kind::Float };
            let Operands { alpha, divisors, .. } = operands;
            let weights = fused::Weights { w: &w, alpha, divisors };
            fused::fake_quantise(&operands.fused(quant)?, weights, kind)
        }
    }
}

/// The gradients of w and of log α, given that of ŵ.
pub(in crate::llm) fn gradients(
    quant: MatrixQuant,
    backend: Backend,
    operands: &Operands<'_>,
    of_w_hat: &Tensor,
) -> Result<(Tensor, Tensor)> {
    match backend {
        Backend::Kernels => gradients_by_kernels(quant, operands, of_w_hat),
        Backend::Operators => gradients_by_operators(quant, operands, of_w_hat),
        Backend::Fused => {
            let (w, grad) = (operands.w.f_contiguous()?, of_w_hat.f_contiguous()?);
            let Operands { alpha, divisors, .. } = operands;
            let weights = fused::Weights { w: &w, alpha, divisors };
            fused::gradients(&operands.fused(quant)?, weights, &grad)
        }
    }
}

/// LSQ's scale of the gradient of a step.
fn lsq_scale(quant: MatrixQuant, operands: &Operands<'_>) -> f32 {
    lsq_gradient_scale(operands.w.numel() / operands.alpha.numel().max(1), quant.quant.levels)
}

/// Δ of each group, or of each block without groups.
fn host_steps(quant: MatrixQuant, operands: &Operands<'_>) -> Result<Vec<f32>> {
    let alpha = slice(operands.alpha)?;
    let k: Vec<u8> = slice(operands.divisors)?.iter().map(|&k| k as u8).collect();
    let per_block = (k.len() / alpha.len().max(1)).max(1);
    let mut steps = vec![0.0; alpha.len() * per_block];
    for (b, (out, &alpha)) in steps.chunks_mut(per_block).zip(alpha).enumerate() {
        let k = k.get(b * per_block..(b + 1) * per_block).unwrap_or(&[]);
        block_steps(quant.quant.step, alpha, k, out)?;
    }
    Ok(steps)
}

fn gradients_by_kernels(
    quant: MatrixQuant,
    operands: &Operands<'_>,
    of_w_hat: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (levels, ste) = (quant.quant.levels, quant.ste);
    let steps = host_steps(quant, operands)?;
    let (w, grad) = (operands.w.f_contiguous()?, of_w_hat.f_contiguous()?);
    let (mut of_w, mut sums) = (w.f_empty_like()?, vec![0.0; steps.len()]);
    let (w, g) = (slice(&w)?, slice(&grad)?);
    ste_simd::backward(ste, levels, LsqMask::Exact, &steps, w, g, slice_mut(&mut of_w)?, &mut sums)?;
    let per_block = (steps.len() / operands.alpha.numel().max(1)).max(1);
    let scale = lsq_scale(quant, operands);
    let of_log_alpha: Vec<f32> = sums
        .chunks(per_block)
        .zip(steps.chunks(per_block))
        .map(|(sums, steps)| sums.iter().zip(steps).map(|(g, step)| g * scale * step).sum())
        .collect();
    Ok((of_w, Tensor::from_slice(&of_log_alpha)))
}

/// Δ of each step, `[steps, 1]`, as `pi_step` computes it.
pub(in crate::llm) fn steps_of(rule: StepRule, alpha: &Tensor, divisors: &Tensor) -> Result<Tensor> {
    let alpha = alpha.f_detach()?;
    let blocks = alpha.f_reshape([-1, 1])?;
    Ok(match rule {
        StepRule::Uniform => blocks,
        StepRule::Pi { k } => blocks
            .f_mul_scalar(f64::from(PI))?
            .f_div(&alpha.f_full_like(i64::from(k))?.f_reshape([-1, 1])?)?,
        StepRule::PiAdaptive { .. } => {
            let k = divisors.f_reshape([alpha.numel() as i64, -1])?;
            blocks.f_mul_scalar(f64::from(PI))?.f_div(&k)?.f_reshape([-1, 1])?
        }
    })
}

/// v = w/Δ, `[steps, weights of a step]`, and the level that it is rounded to.
fn rounded(levels: Levels, w: &Tensor, steps: &Tensor) -> Result<(Tensor, Tensor)> {
    let (lo, hi, offset) =
        (f64::from(levels.lo()), f64::from(levels.hi()), f64::from(levels.grid().offset()));
    let v = w.f_reshape([steps.size()[0], -1])?.f_div(steps)?;
    let level = v.f_sub_scalar(offset)?.f_clamp(lo, hi)?.f_round()?.f_add_scalar(offset)?;
    Ok((v, level))
}

fn gradients_by_operators(
    quant: MatrixQuant,
    operands: &Operands<'_>,
    of_w_hat: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (levels, w) = (quant.quant.levels, operands.w);
    let (lo, hi, offset) =
        (f64::from(levels.lo()), f64::from(levels.hi()), f64::from(levels.grid().offset()));
    let steps = steps_of(quant.quant.step, operands.alpha, operands.divisors)?;
    let count = steps.size()[0];
    let (v, level) = rounded(levels, w, &steps)?;
    let g = of_w_hat.f_to_kind(Kind::Float)?.f_reshape([count, -1])?;
    let error = v.f_sub(&level)?;
    let x = v.f_sub_scalar(offset)?;
    let inside = x.f_ge(lo)?.f_logical_and(&x.f_le(hi)?)?;
    let zero = g.f_zeros_like()?;
    let of_w = match quant.ste {
        SteVariant::Standard => g.shallow_clone(),
        SteVariant::Clipped { clip_val } => {
            let passes = w.f_reshape([count, -1])?.f_abs()?.f_le(f64::from(clip_val))?;
            g.f_where_self(&passes, &zero)?
        }
        SteVariant::LearnedStepSize => g.f_where_self(&inside, &zero)?,
        SteVariant::Ewgs { lambda } => {
            let scaled = g.f_sign()?.f_mul_scalar(f64::from(lambda))?.f_mul(&error)?;
            g.f_mul(&scaled.f_add_scalar(1.0)?)?.f_where_self(&inside, &zero)?
        }
    };
    let terms = g.f_mul(&error.f_neg()?.f_where_self(&inside, &level)?)?;
    let sums = terms.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Float)?;
    let scale = f64::from(lsq_scale(quant, operands));
    let of_log_alpha =
        sums.f_mul_scalar(scale)?.f_mul(&steps)?.f_reshape([operands.alpha.numel() as i64, -1])?;
    let of_log_alpha = of_log_alpha.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?;
    Ok((of_w.f_reshape(w.size())?, of_log_alpha))
}
