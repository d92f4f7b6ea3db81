//! Incoherence: linear layers that work in a rotated basis.
//!
//! With R orthogonal, `W·x = (W·Rᵀ)·(R·x)` ([`qat_kernels::hadamard`]). In the run description `incoherence = true` puts a
//! layer [`Op::Rotate`] before a linear one. In the first phase of training that layer does nothing: the checkpoints of
//! the floating-point network hold W in its own basis, as those of other programs do. Folding changes the basis, and
//! from there on, in [`super::Graph`], in quantised checkpoints and in the exported file, weights are W·Rᵀ and values are
//! rotated on the way.

use super::order::flat_order;
use crate::error::Result;
use crate::spec::{ModelSpec, Op, Shape};
use qat_kernels::hadamard::Rotation;

/// The seed of the signs. One for all layers: each sees other values, and any signs are as good as any others.
const SEED: u64 = 1;

/// The rotation of a vector of `len` values, in blocks of one size, as the integer engine has it.
///
/// # Errors
/// [`crate::ErrorKind::Model`] for a length of 0.
pub(crate) fn rotation(len: usize) -> Result<Rotation> {
    Ok(Rotation::even(SEED, len)?)
}

/// The change of basis that an [`Op::Rotate`] stands for.
#[derive(Debug)]
pub(crate) struct Basis {
    /// For each position of a row in the engine's order, its position in torch's.
    order: Vec<usize>,
    rotation: Rotation,
}

impl Basis {
    /// Rows of torch's order, such as weights or examples, as rows of the engine's order in the rotated basis.
    pub(crate) fn enter(&self, rows: &[f32]) -> Result<Vec<f32>> {
        let n = self.order.len().max(1);
        let mut out: Vec<f32> =
            rows.chunks_exact(n).flat_map(|row| self.order.iter().map(|&at| row[at])).collect();
        self.rotation.rotate_rows(&mut out, n)?;
        Ok(out)
    }

    /// Undoes [`Self::enter`] up to rounding. R being orthogonal, this is also what gradients do on their way back.
    pub(crate) fn leave(&self, rows: &[f32]) -> Result<Vec<f32>> {
        let n = self.order.len().max(1);
        let mut rotated = rows.to_vec();
        self.rotation.rotate_rows_back(&mut rotated, n)?;
        let mut out = vec![0.0; rows.len()];
        for (row, out) in rotated.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            self.order.iter().zip(row).for_each(|(&at, &x)| out[at] = x);
        }
        Ok(out)
    }
}

/// The change of basis of every rotation; `None` for the other layers. `shapes` is the result of [`ModelSpec::shapes`] for
/// `input`.
///
/// # Errors
/// As [`rotation`].
pub(crate) fn bases(model: &ModelSpec, input: Shape, shapes: &[Shape]) -> Result<Vec<Option<Basis>>> {
    let basis = |layer: &crate::spec::LayerSpec| {
        if !matches!(layer.op, Op::Rotate) {
            return Ok(None);
        }
        let order = flat_order(model, layer.input, input, shapes);
        Ok(Some(Basis { rotation: rotation(order.len())?, order }))
    };
    model.layers.iter().map(basis).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;
    use crate::graph::tests as nets;

    /// A flattened map, a layer behind it, and one that is not rotated.
    fn layers(incoherence: bool) -> String {
        format!(
            r#"{{ op = "conv", out = 4, kernel = 3, pad = 1, act = "relu" }},
            {{ op = "flatten" }},
            {{ op = "linear", name = "a", out = 24, bn = true, act = "relu", incoherence = {incoherence} }},
            {{ op = "linear", name = "b", out = 8, incoherence = {incoherence} }},
            {{ op = "linear", name = "c", out = 3 }}"#
        )
    }

    #[test]
    fn rotated_layers_compute_the_same_from_the_same_checkpoint() {
        let [plain, rotated] = [false, true].map(|on| nets::model(&layers(on)));
        assert_eq!(rotated.layers.len(), plain.layers.len() + 2);
        let c = nets::checkpoint(&plain, nets::SMALL_INPUT);
        let graphs = [plain, rotated].map(|m| Graph::from_checkpoint(&m, nets::SMALL_INPUT, 3, &c).unwrap());
        for x in nets::examples(5, nets::SMALL_INPUT.len()).chunks_exact(nets::SMALL_INPUT.len()) {
            let [want, got] = [&graphs[0], &graphs[1]].map(|g| g.forward(x, |_, _| {}).unwrap());
            for (g, w) in got.iter().zip(&want) {
                assert!((g - w).abs() < 1e-4 * w.abs().max(1.0), "{got:?} {want:?}");
            }
        }
        let weights = |g: &Graph, name: &str| {
            let node = g.nodes.iter().find(|n| n.name == name).unwrap();
            node.weights.clone().unwrap()
        };
        assert_ne!(weights(&graphs[0], "a"), weights(&graphs[1], "a"));
        assert_eq!(weights(&graphs[0], "c"), weights(&graphs[1], "c"));
    }

    #[test]
    fn leaving_undoes_entering() {
        let model = nets::model(&layers(true));
        let shapes = model.shapes(nets::SMALL_INPUT).unwrap();
        let bases = bases(&model, nets::SMALL_INPUT, &shapes).unwrap();
        let basis = bases[2].as_ref().unwrap();
        assert_eq!(basis.order[..3], [0, 30, 60]); // 30 pixels of 4 channels
        let rows = nets::examples(3, 120);
        let there = basis.enter(&rows).unwrap();
        let back = basis.leave(&there).unwrap();
        assert!(rows.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-5));
        let energy = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
        assert!((energy(&there) / energy(&rows) - 1.0).abs() < 1e-5);
    }
}
