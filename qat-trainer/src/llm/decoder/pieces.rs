//! What lies between the matrices of a block, without histories, with the gradients written out: by the fused kernels where they
//! compute, and by torch's operators elsewhere.

use crate::autograd::fused::decoder as fused;
use crate::error::Result;
use tch::{Kind, Tensor};

/// What sums over numbers of a kind are computed in.
pub(super) fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

/// `w·x·scale` with `scale = 1/√(mean(x²) + ε)` for every row of x, `[rows, hidden]`; and the scales, `[rows]`. w is in the wide kind.
pub(super) fn norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let kind = x.f_kind()?;
    if fused::takes(x.device(), kind) {
        return fused::norm(x, w, eps);
    }
    let x = x.f_to_kind(wide(kind))?;
    let scales = mean(&x.f_square()?)?.f_add_scalar(eps)?.f_rsqrt()?;
    let normed = x.f_mul(&scales)?.f_to_kind(kind)?;
    Ok((normed.f_mul(&w.f_to_kind(kind)?)?, scales.f_squeeze_dim(1)?))
}

/// The gradients of x and, if it is wanted, of w, given that of the norm.
pub(super) fn norm_gradients(
    [x, w, scales]: [&Tensor; 3],
    grad: &Tensor,
    of_weights: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let kind = x.f_kind()?;
    if fused::takes(x.device(), kind) {
        return fused::norm_gradients([x, w, scales], grad, of_weights);
    }
    let [x, grad] = [x, grad].map(|t| t.f_to_kind(wide(kind)));
    let (normed, grad, scales) = (x?.f_mul(&scales.f_unsqueeze(1)?)?, grad?, scales.f_unsqueeze(1)?);
    let pulled = grad.f_mul(w)?;
    let along = mean(&pulled.f_mul(&normed)?)?;
    let of_x = pulled.f_sub(&normed.f_mul(&along)?)?.f_mul(&scales)?.f_to_kind(kind)?;
    let sum = || grad.f_mul(&normed)?.f_sum_dim_intlist([0i64].as_slice(), false, None::<Kind>);
    Ok((of_x, if of_weights { Some(sum()?) } else { None }))
}

/// Heads, `[batch, time, heads, head_dim]`, rotated by the angles whose cosines and sines are given, `[time, head_dim]` in f32; backwards if
/// `inverse`.
pub(super) fn rotate(x: &Tensor, [cos, sin]: [&Tensor; 2], inverse: bool) -> Result<Tensor> {
    let (kind, half) = (x.f_kind()?, x.size4()?.3 / 2);
    if fused::takes(x.device(), kind) {
        return fused::rotate(x, [cos, sin], inverse);
    }
    let [cos, sin] = [cos, sin].map(|table| table.f_to_kind(kind)?.f_unsqueeze(1));
    let (first, second) = (x.f_narrow(-1, 0, half)?, x.f_narrow(-1, half, half)?);
    let sides = if inverse { [second, first.f_neg()?] } else { [second.f_neg()?, first] };
    Ok(x.f_mul(&cos?)?.f_add(&Tensor::f_cat(&sides, -1)?.f_mul(&sin?)?)?)
}

/// `silu(gate)·up`.
pub(super) fn gated(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if fused::takes(gate.device(), gate.f_kind()?) {
        return fused::gated(gate, up);
    }
    Ok(gate.f_silu()?.f_mul(up)?)
}

/// The gradients of gate and up.
pub(super) fn gated_gradients(gate: &Tensor, up: &Tensor, grad: &Tensor) -> Result<[Tensor; 2]> {
    if fused::takes(gate.device(), gate.f_kind()?) {
        return fused::gated_gradients(gate, up, grad);
    }
    let share = gate.f_sigmoid()?;
    // The derivative of silu: σ·(1 + x·(1 − σ)).
    let slope = gate.f_mul(&share.f_neg()?.f_add_scalar(1.0)?)?.f_add_scalar(1.0)?.f_mul(&share)?;
    Ok([grad.f_mul(up)?.f_mul(&slope)?, grad.f_mul(&gate.f_mul(&share)?)?])
}

/// The mean of each row, `[rows, 1]`.
fn mean(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_mean_dim([-1i64].as_slice(), true, None::<Kind>)?)
}
