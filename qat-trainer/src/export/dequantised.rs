//! A quantised network as plain weights: for programs that know no quantisation.

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::graph::{Quantised, bases, row_order};
use crate::spec::ModelSpec;

/// The weights of `network`, each replaced by the value of its code, with batch normalisation folded: tensors
/// `L.weight` and `L.bias` in torch's layouts (see [`crate::checkpoint`]). Weights of layers with incoherence are rotated back.
///
/// # Errors
/// [`crate::ErrorKind::Model`] for steps that are none, [`crate::ErrorKind::Spec`] if `model` is not the network's.
///
/// ```
/// # use qat_trainer::{affine::Affine, checkpoint::Checkpoint, export::dequantised};
/// # use qat_trainer::graph::{Graph, Quantised, Steps};
/// # use qat_trainer::spec::{Run, Shape};
/// # let run = Run::parse(r#"data = { format = "none", shape = [1, 2, 2] }
/// # model = { layers = [{ op = "flatten" }, { op = "linear", name = "fc", out = 1, bits = 3 }] }
/// # "#, "run.toml".as_ref())?;
/// // A `flatten` and a `linear` of 3 bits, which has the codes −4 to 3.
/// let mut c = Checkpoint::default();
/// c.insert("fc.weight", &[1, 4], vec![1.2, 2.0, -0.6, 9.0])?;
/// c.insert("fc.bias", &[1], vec![0.5])?;
/// let graph = Graph::from_checkpoint(&run.model, Shape { h: 1, w: 2, c: 2 }, 1, &c)?;
/// # let code = Affine::from_range(-1.0, 1.0);
/// let steps = vec![None, Some(Steps::PerChannel(vec![1.0]))];
/// let network = Quantised::new(graph, code, steps, &[None, Some(code)]);
/// let plain = dequantised(&run.model, &network)?;
/// assert_eq!(plain.get("fc.weight", &[1, 4])?, [1.0, 2.0, -1.0, 3.0]); // torch's order again
/// assert_eq!(plain.get("fc.bias", &[1])?, [0.5]); // biases have no codes
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn dequantised(model: &ModelSpec, network: &Quantised) -> Result<Checkpoint> {
    let graph = network.dequantised()?;
    let shapes = model.shapes(graph.input)?;
    let bases = bases(model, graph.input, &shapes)?;
    let mut checkpoint = Checkpoint::default();
    for (i, node) in graph.nodes.iter().enumerate() {
        let (Some(weights), Some(shape)) = (&node.weights, node.op.weight_shape(node.input_shape)) else {
            continue;
        };
        let order = row_order(model, i, graph.input, &shapes);
        let mut values = vec![0.0; weights.rows.len()];
        for (to, from) in values.chunks_exact_mut(order.len().max(1)).zip(weights.channel_rows()) {
            for (&at, &value) in order.iter().zip(from) {
                to[at] = value;
            }
        }
        if let Some(basis) = model.rotation_before(i).and_then(|at| bases[at].as_ref()) {
            values = basis.leave(&values)?;
        }
        checkpoint.insert(&format!("{}.weight", node.name), &shape, values)?;
        checkpoint.insert(&format!("{}.bias", node.name), &[weights.channels], weights.bias.clone())?;
    }
    Ok(checkpoint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Graph, tests as nets};
    use crate::ptq;
    use crate::spec::Calibration;

    #[test]
    fn the_file_computes_what_the_quantised_network_computes() {
        let (run, data) = nets::run_and_data();
        let how = Calibration { samples: 5, ..Calibration::default() };
        let network = ptq::quantise(nets::small_cnn(), data.input, &data.train.features, how).unwrap();
        let checkpoint = dequantised(&run.model, &network).unwrap();
        let graph = Graph::from_checkpoint(&run.model, data.shape, 3, &checkpoint).unwrap();
        assert_eq!(graph, network.dequantised().unwrap());
        assert_ne!(graph, network.graph);
    }

    #[test]
    fn rotated_weights_come_out_in_their_own_basis() {
        let layers =
            r#"{ op = "flatten" }, { op = "linear", name = "l", out = 3, bits = 2, incoherence = INC }"#;
        let [plain, rotated] = ["false", "true"].map(|inc| nets::model(&layers.replace("INC", inc)));
        let from = nets::checkpoint(&plain, nets::SMALL_INPUT);
        let graph = Graph::from_checkpoint(&rotated, nets::SMALL_INPUT, 3, &from).unwrap();
        let (_, data) = nets::run_and_data();
        let how = Calibration { samples: 5, ..Calibration::default() };
        let network = ptq::quantise(graph, data.input, &data.train.features, how).unwrap();
        let checkpoint = dequantised(&rotated, &network).unwrap();
        let graph = Graph::from_checkpoint(&plain, nets::SMALL_INPUT, 3, &checkpoint).unwrap();
        let quantised = network.dequantised().unwrap();
        for x in data.test.examples() {
            let [got, want] = [&graph, &quantised].map(|g| g.forward(x, |_, _| ()).unwrap());
            assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-4), "{got:?} {want:?}");
        }
    }
}
