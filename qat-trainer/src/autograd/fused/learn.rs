//! The kernel of `cuda/learn.cu`: one update of a quantised matrix.
#![allow(unsafe_code)]

use super::{Factors, Kernel, Quantiser, THREADS, Weights, addresses, check, kernels, place, pointer};
use crate::error::{Error, ErrorKind, Result};
use std::ffi::c_int;
use tch::{Kind, Tensor};

/// The moments that AdamW keeps: of each weight, and of log α of each block.
#[derive(Clone, Copy)]
pub(crate) struct Moments<'a> {
    pub(crate) of_w: [&'a Tensor; 2],
    pub(crate) of_alpha: [&'a Tensor; 2],
}

/// Steps w and, with `of_steps`, α in place, given the gradient of ŵ in the kind of ŵ, f32 or bf16, and puts the next ŵ in the
/// place of the old one. Numbers whose gradient is not finite stay, see [`super::gradient_was_not_finite`].
pub(crate) fn learn(
    q: &Quantiser,
    weights: Weights<'_>,
    moments: Moments<'_>,
    factors: &Factors,
    of_steps: Option<&Factors>,
    grad: &Tensor,
    w_hat: &Tensor,
) -> Result<()> {
    let (device, kind) = (weights.w.device(), w_hat.f_kind()?);
    let [mut w, mut alpha, mut divisors] = addresses(q, weights)?;
    let ([m, v], [alpha_m, alpha_v]) = (moments.of_w, moments.of_alpha);
    for (t, kind, like) in [
        (m, Kind::Float, weights.w),
        (v, Kind::Float, weights.w),
        (alpha_m, Kind::Float, weights.alpha),
        (alpha_v, Kind::Float, weights.alpha),
        (grad, kind, weights.w),
        (w_hat, kind, weights.w),
    ] {
        check(t, kind, device, like.numel())?;
    }
    let loaded = kernels(device)?;
    let flag = loaded.flag.lock().map_err(|_| Error::new(ErrorKind::Train, "an earlier step failed"))?;
    let wide = q.width(&[weights.w, m, v, grad, w_hat]) == 4;
    let kernel = Kernel::Learn as usize + place(kind)? + usize::from(wide);
    let blocks = (q.blocks as u64 * q.lanes as u64).div_ceil(u64::from(THREADS));
    let (mut q, mut steps_learn) = (*q, c_int::from(of_steps.is_some()));
    let (mut factors, mut of_steps) = (*factors, *of_steps.unwrap_or(factors));
    let [mut m, mut v, mut alpha_m, mut alpha_v] = [m, v, alpha_m, alpha_v].map(Tensor::data_ptr);
    let [mut g, mut to, mut flag] = [grad, w_hat, &*flag].map(Tensor::data_ptr);
    let mut arguments = [
        pointer(&mut q),
        pointer(&mut factors),
        pointer(&mut of_steps),
        pointer(&mut steps_learn),
        pointer(&mut w),
        pointer(&mut m),
        pointer(&mut v),
        pointer(&mut alpha),
        pointer(&mut alpha_m),
        pointer(&mut alpha_v),
        pointer(&mut divisors),
        pointer(&mut g),
        pointer(&mut to),
        pointer(&mut flag),
    ];
    // SAFETY: the kernel takes these; all tensors are as large as w or α, but for the flag, one int.
    unsafe { loaded.launch(device, kernel, blocks, &mut arguments) }
}
