//! The quantiser as an autograd node: `ŵ = Q(w, α)` with the estimator's gradient of w and LSQ's of log α.
//!
//! On the CPU qat-kernels computes both passes on the tensors' memory; elsewhere torch's operators do, in the same order of
//! operations, so that ŵ and the gradient of w are the same bit for bit. Only the sums over a step's weights are added up in
//! another order. Divisors and steps are tensors and never numbers to torch: some of its devices multiply by the
//! reciprocal of a number instead of dividing by it.

use super::MatrixQuant;
use crate::autograd::{closure_node, slice, slice_mut};
use crate::error::Result;
use crate::nn::weights::steps as block_steps;
use qat_kernels::config::StepRule;
use qat_kernels::ste::lsq_gradient_scale;
use qat_kernels::{LsqMask, SteVariant, ste_simd};
use std::f32::consts::PI;
use tch::{Device, Kind, Tensor};

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::llm) enum Backend {
    /// qat-kernels, for f32 on the CPU.
    Kernels,
    /// Torch's operators, anywhere.
    Operators,
}

impl Backend {
    /// The faster one for tensors on `device`.
    pub(in crate::llm) fn on(device: Device) -> Self {
        if device == Device::Cpu { Self::Kernels } else { Self::Operators }
    }
}

/// ŵ of `w`, f32 `[out, in]`, with α of each block, `[blocks]`, and k of each group, `[groups]` of f32 (empty without groups).
/// The gradient that arrives at `alpha` is that of its logarithm.
pub(in crate::llm) fn fake_quantise(
    quant: MatrixQuant,
    backend: Backend,
    w: &Tensor,
    alpha: &Tensor,
    divisors: &Tensor,
) -> Result<Tensor> {
    match backend {
        Backend::Kernels => by_kernels(quant, w, alpha, divisors),
        Backend::Operators => by_operators(quant, w, alpha, divisors),
    }
}

fn by_kernels(quant: MatrixQuant, w: &Tensor, alpha: &Tensor, divisors: &Tensor) -> Result<Tensor> {
    let (levels, ste) = (quant.quant.levels, quant.ste);
    let (alphas, ks) = (alpha.numel(), divisors.numel());
    let per_block = (ks / alphas.max(1)).max(1);
    let mut steps = vec![0.0; alphas * per_block];
    let k: Vec<u8> = slice(divisors)?.iter().map(|&k| k as u8).collect();
    for (b, (out, &alpha)) in steps.chunks_mut(per_block).zip(slice(alpha)?).enumerate() {
        let k = k.get(b * per_block..(b + 1) * per_block).unwrap_or(&[]);
        block_steps(quant.quant.step, alpha, k, out)?;
    }
    let numbers = w.f_detach()?.f_contiguous()?;
    let mut w_hat = numbers.f_empty_like()?;
    ste_simd::fake_quantize(levels, &steps, slice(&numbers)?, slice_mut(&mut w_hat)?)?;
    let lsq_scale = lsq_gradient_scale(numbers.numel() / alphas.max(1), levels);
    closure_node(w_hat, &[w, alpha], &[&numbers], move |grad, saved| {
        let numbers = &saved[0];
        let grad = grad.f_contiguous()?;
        let (mut of_w, mut sums) = (numbers.f_empty_like()?, vec![0.0; steps.len()]);
        let (w, g) = (slice(numbers)?, slice(&grad)?);
        ste_simd::backward(ste, levels, LsqMask::Exact, &steps, w, g, slice_mut(&mut of_w)?, &mut sums)?;
        let of_log_alpha: Vec<f32> = sums
            .chunks(per_block)
            .zip(steps.chunks(per_block))
            .map(|(sums, steps)| sums.iter().zip(steps).map(|(g, step)| g * lsq_scale * step).sum())
            .collect();
        Ok(vec![Some(of_w), Some(Tensor::from_slice(&of_log_alpha))])
    })
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

fn by_operators(quant: MatrixQuant, w: &Tensor, alpha: &Tensor, divisors: &Tensor) -> Result<Tensor> {
    let (levels, ste) = (quant.quant.levels, quant.ste);
    let (lo, hi, offset) =
        (f64::from(levels.lo()), f64::from(levels.hi()), f64::from(levels.grid().offset()));
    let numbers = w.f_detach()?;
    let steps = steps_of(quant.quant.step, alpha, divisors)?;
    let (count, blocks) = (steps.size()[0], alpha.numel() as i64);
    // v = w/Δ, and the level that it is rounded to.
    let rounded = move |w: &Tensor, steps: &Tensor| -> Result<(Tensor, Tensor)> {
        let v = w.f_reshape([count, -1])?.f_div(steps)?;
        let level = v.f_sub_scalar(offset)?.f_clamp(lo, hi)?.f_round()?.f_add_scalar(offset)?;
        Ok((v, level))
    };
    let w_hat = rounded(&numbers, &steps)?.1.f_mul(&steps)?.f_reshape(numbers.size())?;
    let lsq_scale = f64::from(lsq_gradient_scale(numbers.numel() / alpha.numel().max(1), levels));
    closure_node(w_hat, &[w, alpha], &[&numbers, &steps], move |grad, saved| {
        let (numbers, steps) = (&saved[0], &saved[1]);
        let (v, level) = rounded(numbers, steps)?;
        let g = grad.f_reshape([count, -1])?;
        let error = v.f_sub(&level)?;
        let x = v.f_sub_scalar(offset)?;
        let inside = x.f_ge(lo)?.f_logical_and(&x.f_le(hi)?)?;
        let zero = g.f_zeros_like()?;
        let of_w = match ste {
            SteVariant::Standard => g.shallow_clone(),
            SteVariant::Clipped { clip_val } => {
                let passes = numbers.f_reshape([count, -1])?.f_abs()?.f_le(f64::from(clip_val))?;
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
        let of_log_alpha = sums.f_mul_scalar(lsq_scale)?.f_mul(steps)?.f_reshape([blocks, -1])?;
        let of_log_alpha = of_log_alpha.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?;
        Ok(vec![Some(of_w.f_reshape(numbers.size())?), Some(of_log_alpha)])
    })
}
