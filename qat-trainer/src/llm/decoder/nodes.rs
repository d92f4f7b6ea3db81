//! A block as two nodes of the graph, and torch's attention between them: what a GPU is told takes a processor longer than the GPU
//! takes to do it where every operator is a node. The forward pass is that of [`super::Block`]; the backward pass is written out, with
//! the sums of gradients made by the products themselves.

use super::{Norm, pieces};
use crate::autograd::{closure_node, closure_nodes};
use crate::error::{Error, ErrorKind, Result};
use crate::llm::attention::Heads;
use crate::llm::linear::Plain;
use tch::{Kind, Tensor};

/// q, k and v, `[batch, time, heads, head_dim]`, of x, `[batch, time, hidden]`: normed, multiplied, and but for v rotated by the angles
/// whose cosines and sines are given.
pub(super) fn before_attention(
    x: &Tensor,
    norm: &Norm,
    matrices: &[Plain; 3],
    heads: Heads,
    [cos, sin]: &[Tensor; 2],
) -> Result<[Tensor; 3]> {
    let (batch, time, hidden) = x.size3()?;
    let weight = norm.weight().f_to_kind(pieces::wide(x.f_kind()?))?;
    let counts = [heads.query, heads.key_value, heads.key_value];
    let (rows, normed, scales, outputs) = tch::no_grad(|| -> Result<_> {
        let rows = x.f_contiguous()?.f_view([batch * time, hidden])?;
        let (normed, scales) = pieces::norm(&rows, &weight, norm.eps)?;
        let mut outputs = Vec::new();
        for (i, (matrix, count)) in matrices.iter().zip(counts).enumerate() {
            let y = times(&normed, matrix)?;
            let y = if i == 2 { y } else { turned(&y, [batch, time, count, heads.dim], [cos, sin], false)? };
            outputs.push(y);
        }
        Ok((rows, normed, scales, outputs))
    })?;
    let Ok(outputs) = <[Tensor; 3]>::try_from(outputs) else {
        return Err(Error::new(ErrorKind::Train, "three projections make three tensors"));
    };
    let learns: Vec<Learns> = matrices.iter().map(Learns::of).collect();
    let norm_learns = weight.requires_grad();
    let mut inputs = vec![x, &weight];
    inputs.extend(matrices.iter().flat_map(operands));
    let mut saved = vec![&rows, &weight, &scales, &normed, cos, sin];
    saved.extend(matrices.iter().map(|matrix| &matrix.weight));
    let shape = [batch, time, hidden];
    let [q, k, v] = closure_nodes(outputs, &inputs, &saved, move |grads, saved| {
        let [rows, weight, scales, normed, cos, sin, matrices @ ..] = saved else {
            return Err(lost());
        };
        let (mut of_normed, mut of_matrices) = (None, Vec::new());
        for (i, ((grad, matrix), learns)) in grads.iter().zip(matrices).zip(&learns).enumerate() {
            let Some(grad) = grad else {
                of_matrices.extend(learns.none());
                continue;
            };
            let grad = grad.f_contiguous()?;
            let count = counts.get(i).copied().unwrap_or_default();
            let heads = [batch, time, count, heads.dim];
            let grad = if i == 2 { grad } else { turned(&grad, heads, [cos, sin], true)? };
            let grad = grad.f_view([batch * time, -1])?;
            of_matrices.extend(learns.gradients(&grad, normed)?);
            of_normed = Some(plus_product(of_normed, &grad, matrix)?);
        }
        let of_normed = of_normed.ok_or_else(lost)?;
        let (of_x, of_weight) = pieces::norm_gradients([rows, weight, scales], &of_normed, norm_learns)?;
        Ok([Some(of_x.f_view(shape)?), of_weight].into_iter().chain(of_matrices).collect())
    })?;
    Ok([q, k, v.f_view([batch, time, heads.key_value, heads.dim])?])
}

/// What follows the attention's result y, `[batch·time, heads·head_dim]`: its product, to which x is added, the norm, the gated layer,
/// and its sum with what came before the norm. `matrices` are those of the product, the gate, its other half, and the way back.
pub(super) fn behind_attention(x: &Tensor, y: &Tensor, norm: &Norm, matrices: &[Plain; 4]) -> Result<Tensor> {
    let (batch, time, hidden) = x.size3()?;
    let weight = norm.weight().f_to_kind(pieces::wide(x.f_kind()?))?;
    let [out, gate, up, down] = matrices;
    let (middle, scales, normed, gated, other, product, output) = tch::no_grad(|| -> Result<_> {
        let rows = x.f_contiguous()?.f_view([batch * time, hidden])?;
        let middle = times(y, out)?.f_add_(&rows)?;
        let (normed, scales) = pieces::norm(&middle, &weight, norm.eps)?;
        let (gated, other) = (times(&normed, gate)?, times(&normed, up)?);
        let product = pieces::gated(&gated, &other)?;
        let output = times(&product, down)?.f_add_(&middle)?;
        Ok((middle, scales, normed, gated, other, product, output))
    })?;
    let [of_out, of_gate, of_up, of_down] = matrices.each_ref().map(Learns::of);
    let norm_learns = weight.requires_grad();
    let mut inputs = vec![x, y, &weight];
    inputs.extend(matrices.iter().flat_map(operands));
    let mut saved = vec![y, &middle, &weight, &scales, &normed, &gated, &other, &product];
    saved.extend(matrices.iter().map(|matrix| &matrix.weight));
    let output = closure_node(output, &inputs, &saved, move |grad, saved| {
        let [y, middle, weight, scales, normed, gated, other, product, out, gate, up, down] = saved else {
            return Err(lost());
        };
        let grad = grad.f_contiguous()?;
        let of_product = grad.f_mm(down)?;
        let of_down = of_down.gradients(&grad, product)?;
        let [of_gated, of_other] = pieces::gated_gradients(gated, other, &of_product)?;
        let of_gate = of_gate.gradients(&of_gated, normed)?;
        let of_up = of_up.gradients(&of_other, normed)?;
        let of_normed = plus_product(Some(of_gated.f_mm(gate)?), &of_other, up)?;
        let (mut of_middle, of_weight) =
            pieces::norm_gradients([middle, weight, scales], &of_normed, norm_learns)?;
        let of_middle = of_middle.f_add_(&grad)?;
        let of_out = of_out.gradients(&of_middle, y)?;
        let of_y = of_middle.f_mm(out)?;
        let of_x = of_middle.f_view([batch, time, hidden])?;
        let first = [Some(of_x), Some(of_y), of_weight];
        Ok(first.into_iter().chain(of_out).chain(of_gate).chain(of_up).chain(of_down).collect())
    })?;
    Ok(output.f_view([batch, time, hidden])?)
}

fn lost() -> Error {
    Error::new(ErrorKind::Train, "what a block's backward pass needs is lost")
}

/// `x·Wᵀ + b`, `[rows, out]`.
fn times(x: &Tensor, matrix: &Plain) -> Result<Tensor> {
    Ok(x.f_linear(&matrix.weight, matrix.bias.as_ref())?)
}

/// Heads, turned or turned back.
fn turned(x: &Tensor, shape: [i64; 4], angles: [&Tensor; 2], inverse: bool) -> Result<Tensor> {
    pieces::rotate(&x.f_view(shape)?, angles, inverse)
}

/// `sum + grad·W`, or the product alone.
fn plus_product(sum: Option<Tensor>, grad: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    match sum {
        Some(mut sum) => Ok(sum.f_addmm_(grad, matrix)?),
        None => Ok(grad.f_mm(matrix)?),
    }
}

/// The tensors of a matrix that are inputs of a node.
fn operands(matrix: &Plain) -> impl Iterator<Item = &Tensor> {
    [Some(&matrix.weight), matrix.bias.as_ref()].into_iter().flatten()
}

/// What of a matrix wants a gradient.
#[derive(Clone, Copy, Debug)]
struct Learns {
    weight: bool,
    /// Nothing if there is no bias.
    bias: Option<bool>,
}

impl Learns {
    fn of(matrix: &Plain) -> Self {
        Self { weight: matrix.weight.requires_grad(), bias: matrix.bias.as_ref().map(Tensor::requires_grad) }
    }

    /// The gradients of W and b, in the order of [`operands`], given that of the product with x.
    fn gradients(self, grad: &Tensor, x: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let of_weight = if self.weight { Some(grad.f_tr()?.f_mm(x)?) } else { None };
        let sum = || grad.f_sum_dim_intlist([0i64].as_slice(), false, None::<Kind>);
        let of_bias = self.bias.map(|learns| if learns { sum().map(Some) } else { Ok(None) }).transpose()?;
        Ok([Some(of_weight), of_bias].into_iter().flatten().collect())
    }

    /// As many as [`Self::gradients`] has, and none.
    fn none(self) -> Vec<Option<Tensor>> {
        [Some(None), self.bias.map(|_| None)].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::llm::Decoder;
    use crate::llm::config::{Architecture, tiny};
    use crate::llm::tests::Generated;
    use tch::{Device, Kind, Tensor};

    /// In f64, the nodes of a block give what torch's operators give, forwards and backwards, with and without biases, and whatever
    /// learns.
    #[test]
    fn nodes_are_the_operators() {
        for architecture in [Architecture::Llama, Architecture::Qwen2] {
            for learns in [false, true] {
                let config = tiny(architecture);
                let mut decoder = Decoder::load(&config, &Generated, Kind::Double, Device::Cpu).unwrap();
                if learns {
                    decoder.learn().unwrap();
                }
                let hidden = decoder.config().hidden as i64;
                tch::manual_seed(5);
                let x = Tensor::randn([2, 7, hidden], (Kind::Double, Device::Cpu)).set_requires_grad(true);
                let towards = Tensor::randn([2, 7, hidden], (Kind::Double, Device::Cpu));
                let (block, rope) = (&decoder.blocks[1], &decoder.rope);
                let mut leaves = block.leaves();
                leaves.push(&x);
                let [operators, nodes] =
                    [block.forward(&x, rope, None), block.as_nodes(&x, rope).map(Option::unwrap)].map(|y| {
                        let y = y.unwrap();
                        let loss = (&y * &towards).sum(Kind::Double);
                        (y, Tensor::run_backward(&[&loss], &leaves, false, false))
                    });
                let off = |a: &Tensor, b: &Tensor| {
                    f64::try_from((a - b).norm()).unwrap() / f64::try_from(a.norm()).unwrap()
                };
                assert!(off(&operators.0, &nodes.0) < 1e-6, "the angles are f32");
                assert_eq!(nodes.1.len(), leaves.len());
                for (i, (a, b)) in operators.1.iter().zip(&nodes.1).enumerate() {
                    assert!(
                        off(a, b) < 1e-6,
                        "{architecture:?}, {learns}: gradient {i} is off by {}",
                        off(a, b)
                    );
                }
            }
        }
    }
}
