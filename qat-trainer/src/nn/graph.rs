//! What the floating-point and the quantised network have in common: the walk through the layers, and the operators.
//!
//! Values are tensors of shape `[batch, channels, height, width]`, flat ones `[batch, features]`.

use crate::autograd::{closure_node, slice, slice_mut};
use crate::error::Result;
use crate::graph::{Basis, bases};
use crate::spec::{Act, LayerSpec, ModelSpec, Op, Shape, Value, Window};
use std::sync::Arc;
use tch::Tensor;

/// The inputs of a layer: one, for a sum two.
pub(crate) struct Inputs<'a> {
    pub(crate) x: &'a Tensor,
    pub(crate) other: Option<&'a Tensor>,
}

/// Runs the layers in order, and returns the output of the last. Each value is dropped after its last use.
pub(crate) fn walk(
    spec: &ModelSpec,
    x: &Tensor,
    mut layer: impl FnMut(usize, &LayerSpec, Inputs<'_>) -> Result<Tensor>,
) -> Result<Tensor> {
    let last_use = |i: usize| spec.layers.iter().rposition(|l| reads(l).contains(&Some(Value::Layer(i))));
    let last_uses: Vec<Option<usize>> = (0..spec.layers.len()).map(last_use).collect();
    let mut values: Vec<Option<Tensor>> = Vec::with_capacity(spec.layers.len());
    for (i, l) in spec.layers.iter().enumerate() {
        let get = |v: Value| match v {
            Value::Input => Some(x),
            Value::Layer(j) => values[j].as_ref(),
        };
        let other = match l.op {
            Op::Add { from, .. } => get(from),
            _ => None,
        };
        let Some(input) = get(l.input) else { return Err(l.error("it reads a layer that does not exist")) };
        let y = layer(i, l, Inputs { x: input, other })?;
        for (value, last) in values.iter_mut().zip(&last_uses) {
            if *last == Some(i) {
                *value = None;
            }
        }
        values.push(Some(y));
    }
    values.pop().flatten().map_or_else(|| Ok(x.shallow_clone()), Ok)
}

/// The values that a layer reads.
pub(crate) fn reads(l: &LayerSpec) -> [Option<Value>; 2] {
    match l.op {
        Op::Add { from, .. } => [Some(l.input), Some(from)],
        _ => [Some(l.input), None],
    }
}

/// Convolution, depthwise convolution or linear layer.
pub(crate) fn weighted(op: &Op, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let conv = |window: &Window, groups: i64| -> Result<Tensor> {
        let (x, pad) = padded(as_map(x)?, window)?;
        Ok(x.f_conv2d(weight, bias, pair(window.stride), pad, [1, 1], groups)?)
    };
    match op {
        Op::Conv { window, .. } => conv(window, 1),
        Op::Depthwise { window, .. } => conv(window, as_map(x)?.size()[1]),
        _ => Ok(flat(x)?.f_linear(weight, bias)?),
    }
}

/// Every other operator, without its activation. `basis`: that of a rotation, without which it does nothing.
pub(crate) fn unweighted(l: &LayerSpec, inputs: &Inputs<'_>, basis: Option<&Arc<Basis>>) -> Result<Tensor> {
    let x = inputs.x;
    match &l.op {
        Op::Rotate => basis.map_or_else(|| flat(x), |basis| rotated(basis, x)),
        Op::MaxPool(w) => {
            Ok(as_map(x)?.f_max_pool2d(pair(w.kernel), pair(w.stride), [0, 0], [1, 1], false)?)
        }
        Op::AvgPool(w) => {
            let divisor = (w.kernel[0] * w.kernel[1]) as i64;
            Ok(as_map(x)?.f_avg_pool2d(pair(w.kernel), pair(w.stride), [0, 0], false, true, divisor)?)
        }
        Op::GlobalAvgPool => Ok(as_map(x)?.f_mean_dim([2i64, 3].as_slice(), false, tch::Kind::Float)?),
        Op::Sigmoid => Ok(x.f_sigmoid()?),
        Op::Flatten => flat(x),
        Op::Add { .. } => {
            let Some(other) = inputs.other else { return Err(l.error("a sum needs two inputs")) };
            Ok(x.f_add(&other.f_view_as(x)?)?)
        }
        Op::Conv { .. } | Op::Depthwise { .. } | Op::Linear { .. } => {
            Err(l.error("it has weights, but none were given"))
        }
    }
}

/// Every example in another basis.
fn rotated(basis: &Arc<Basis>, x: &Tensor) -> Result<Tensor> {
    let x = flat(x)?.f_contiguous()?;
    let mut y = tch::no_grad(|| x.f_empty_like())?;
    slice_mut(&mut y)?.copy_from_slice(&basis.enter(slice(&x)?)?);
    let basis = Arc::clone(basis);
    closure_node(y, &[&x], &[], move |grad, _| {
        let grad = grad.f_contiguous()?;
        let mut grad_x = grad.f_empty_like()?;
        slice_mut(&mut grad_x)?.copy_from_slice(&basis.leave(slice(&grad)?)?);
        Ok(vec![Some(grad_x)])
    })
}

/// The bases of all rotations.
pub(crate) fn shared_bases(spec: &ModelSpec, input: Shape) -> Result<Vec<Option<Arc<Basis>>>> {
    let bases = bases(spec, input, &spec.shapes(input)?)?;
    Ok(bases.into_iter().map(|basis| basis.map(Arc::new)).collect())
}

/// The activation function.
pub(crate) fn activate(act: Act, x: Tensor) -> Result<Tensor> {
    Ok(match act {
        Act::None => x,
        Act::Relu => x.f_relu()?,
        Act::Relu6 => x.f_clamp(0.0, 6.0)?,
    })
}

fn as_map(x: &Tensor) -> Result<Tensor> {
    let size = x.size();
    Ok(if size.len() == 2 { x.f_view([size[0], size[1], 1, 1])? } else { x.shallow_clone() })
}

/// What torch's convolution is to read, and the padding that it is to add: the same on both sides of an axis. Where it is
/// not the same, the zeros are there already.
fn padded(x: Tensor, window: &Window) -> Result<(Tensor, [i64; 2])> {
    let size = x.size();
    let shape = Shape { h: size[2] as usize, w: size[3] as usize, c: size[1] as usize };
    let [top, left, bottom, right] = window.pads(shape).map(|n| n as i64);
    if (top, left) == (bottom, right) {
        return Ok((x, [top, left]));
    }
    Ok((x.f_constant_pad_nd([left, right, top, bottom])?, [0, 0]))
}

fn flat(x: &Tensor) -> Result<Tensor> {
    Ok(if x.dim() == 2 { x.shallow_clone() } else { x.f_flatten(1, -1)? })
}

fn pair(p: [usize; 2]) -> [i64; 2] {
    p.map(|n| n as i64)
}
