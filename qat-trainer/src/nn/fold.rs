//! The start of the quantised phase: the floating-point network with batch normalisation folded into the weights.

use super::float::weight_shapes;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::graph::{BatchNorm, bases, fold_batch_norm};
use crate::spec::{ModelSpec, Shape};

/// The checkpoint of the same network, for `input`, with weights and a bias for every layer, and nothing else. Layers with
/// incoherence get their rotated weights.
///
/// # Errors
/// [`crate::ErrorKind::Checkpoint`] if a tensor is missing, has another shape, or is not finite.
pub(crate) fn fold(spec: &ModelSpec, input: Shape, from: &Checkpoint) -> Result<Checkpoint> {
    let bases = bases(spec, input, &spec.shapes(input)?)?;
    let mut folded = Checkpoint::default();
    for (i, (l, shape)) in spec.layers.iter().zip(weight_shapes(spec, input)?).enumerate() {
        let Some(shape) = shape else { continue };
        let name = |part: &str| format!("{}.{part}", l.name);
        let (weights, out) = (from.get(&name("weight"), &shape)?, &shape[..1]);
        let (weights, bias) = if l.op.bn() {
            let bn = BatchNorm {
                weight: from.get(&name("bn.weight"), out)?,
                bias: from.get(&name("bn.bias"), out)?,
                running_mean: from.get(&name("bn.running_mean"), out)?,
                running_var: from.get(&name("bn.running_var"), out)?,
            };
            fold_batch_norm(weights, None, bn).map_err(|e| e.place(format!("layer `{}`", l.name)))?
        } else {
            (weights.to_vec(), from.get(&name("bias"), out)?.to_vec())
        };
        let weights = match spec.rotation_before(i).and_then(|at| bases[at].as_ref()) {
            Some(basis) => basis.enter(&weights)?,
            None => weights,
        };
        folded.insert(&name("weight"), &shape, weights)?;
        folded.insert(&name("bias"), out, bias)?;
    }
    Ok(folded)
}
