//! The network that will be shipped, without torch: batch normalisation folded away, weights and activations in the
//! integer engine's order (height, width, channels).
//!
//! [`Graph`] is the floating-point network, [`Quantised`] adds a quantiser to every layer and a range to every
//! activation. Both have a plain forward pass that serves as reference.

mod fold;
mod forward;
mod order;
mod quantised;
mod rotation;

pub use fold::{BN_EPS, BatchNorm, fold_batch_norm};
pub use order::row_order;
pub use quantised::{Quantised, Steps, codes, dequantised_rows};
pub(crate) use rotation::{Basis, bases, rotation};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::spec::{ModelSpec, Op, Shape, Value};

/// A floating-point network with folded batch normalisation.
///
/// ```
/// # use qat_trainer::{checkpoint::Checkpoint, graph::Graph, spec::{Run, Shape}};
/// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 2] }
/// # model = { layers = [{ op = "linear", name = "fc", out = 2 }, { op = "softmax" }] }"#, "run.toml".as_ref())?;
/// # let mut c = Checkpoint::default();
/// # c.insert("fc.weight", &[2, 2], vec![1.0, 0.0, 0.0, 1.0])?;
/// # c.insert("fc.bias", &[2], vec![0.0, 0.0])?;
/// // A run description whose layers are a `linear` and a `softmax`.
/// let graph = Graph::from_checkpoint(&run.model, Shape::flat(2), 2, &c)?;
/// assert_eq!((graph.nodes.len(), graph.softmax), (1, true)); // the softmax is no layer,
/// assert_eq!(graph.forward(&[0.5, 2.0], |_, _| {})?, [0.5, 2.0]); // and these are logits
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// Shape of the input.
    pub input: Shape,
    /// The layers, in order.
    pub nodes: Vec<Node>,
    /// Whether an exported file ends with a softmax; nothing here applies it.
    pub softmax: bool,
}

/// One layer.
///
/// ```
/// # use qat_trainer::{checkpoint::Checkpoint, graph::Graph};
/// use qat_trainer::spec::{Run, Shape, Value};
/// # let run = Run::parse(r#"data = { format = "none", shape = [4, 6, 1] }
/// # [model]
/// # layers = [{ op = "max-pool", kernel = 2 }, { op = "flatten" }, { op = "linear", name = "fc", out = 1 }]
/// # "#, "run.toml".as_ref())?;
/// # let mut c = Checkpoint::default();
/// # c.insert("fc.weight", &[1, 6], vec![1.0; 6])?;
/// # c.insert("fc.bias", &[1], vec![0.0])?;
/// // A run description whose layers are a `max-pool` over 2×2, a `flatten` and a `linear`.
/// let graph = Graph::from_checkpoint(&run.model, Shape { h: 4, w: 6, c: 1 }, 1, &c)?;
/// let flatten = &graph.nodes[1];
/// assert_eq!((flatten.input, flatten.input_shape), (Value::Layer(0), Shape { h: 2, w: 3, c: 1 }));
/// assert_eq!((flatten.shape, &flatten.weights), (Shape::flat(6), &None));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name in the run description.
    pub name: String,
    /// What it reads.
    pub input: Value,
    /// The shape of what it reads.
    pub input_shape: Shape,
    /// What it does.
    pub op: Op,
    /// The shape of its output.
    pub shape: Shape,
    /// Bits of its output's code, where it has a range of its own.
    pub act_bits: u8,
    /// Its weights, where it has some.
    pub weights: Option<Weights>,
}

/// The weights of a layer, one row per output channel.
///
/// ```
/// use qat_kernels::{Grid, Levels, config::StepRule};
/// use qat_trainer::{graph::{Steps, Weights, codes}, spec::WeightQuant};
/// let weights = Weights { channels: 2, fan_in: 3, rows: vec![0.5, 1.0, 1.5, -3.0, 0.0, 9.0], bias: vec![0.0; 2] };
/// let quant = WeightQuant { levels: Levels::new(3, Grid::MidTread)?, step: StepRule::Uniform };
/// let steps = Steps::PerChannel(vec![0.5, 2.0]);
/// assert_eq!(codes(&weights, quant, &steps)?, [1, 2, 3, -2, 0, 3]); // −1.5 to the even code, 4.5 is clamped
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Output channels.
    pub channels: usize,
    /// Weights of a channel.
    pub fan_in: usize,
    /// `channels × fan_in` numbers; a row runs over kernel height, kernel width, input channels, of a linear layer over
    /// the height, width and channels of its input.
    pub rows: Vec<f32>,
    /// One number per channel.
    pub bias: Vec<f32>,
}

impl Graph {
    /// Takes the weights of `model` out of a checkpoint, floating-point or quantised, and folds batch normalisation
    /// where it still is.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] if the layers do not fit `input` and `classes`; [`ErrorKind::Checkpoint`] if a tensor is
    /// missing, of another shape, or not finite.
    ///
    /// ```
    /// # use qat_trainer::{checkpoint::Checkpoint, graph::Graph, spec::{Run, Shape}};
    /// # let run = Run::parse(r#"data = { format = "none", shape = [1, 2, 2] }
    /// # model = { layers = [{ op = "flatten" }, { op = "linear", name = "fc", out = 1 }] }"#, "run.toml".as_ref())?;
    /// let map = Shape { h: 1, w: 2, c: 2 };
    /// let mut c = Checkpoint::default();
    /// c.insert("fc.weight", &[1, 4], vec![1.0, 2.0, 3.0, 4.0])?; // torch's order: the first channel, then the second
    /// c.insert("fc.bias", &[1], vec![0.0])?;
    /// let graph = Graph::from_checkpoint(&run.model, map, 1, &c)?;
    /// let weights = graph.nodes[1].weights.as_ref().map(|w| w.rows.as_slice());
    /// assert_eq!(weights, Some(&[1.0, 3.0, 2.0, 4.0][..])); // the engine's: pixel by pixel
    /// assert!(Graph::from_checkpoint(&run.model, map, 1, &Checkpoint::default()).is_err());
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn from_checkpoint(
        model: &ModelSpec,
        input: Shape,
        classes: usize,
        from: &Checkpoint,
    ) -> Result<Self> {
        let shapes = model.check(input, classes)?;
        let bases = bases(model, input, &shapes)?;
        let mut nodes = Vec::with_capacity(model.layers.len());
        for (i, layer) in model.layers.iter().enumerate() {
            let input_shape = layer.input.of(input, &shapes);
            let weights = match layer.op.weight_shape(input_shape) {
                None => None,
                Some(shape) => {
                    let order = row_order(model, i, input, &shapes);
                    // A rotation has a range in the checkpoints of quantised networks, whose weights are rotated.
                    let unrotated = |at: &usize| !from.has(&format!("{}.act.scale", model.layers[*at].name));
                    let rotation = model.rotation_before(i).filter(unrotated);
                    let basis = rotation.and_then(|at| bases[at].as_ref());
                    Some(Weights::from_checkpoint(&layer.name, &shape, &order, basis, from)?)
                }
            };
            nodes.push(Node {
                name: layer.name.clone(),
                input: layer.input,
                input_shape,
                op: layer.op.clone(),
                shape: shapes[i],
                act_bits: layer.act_bits,
                weights,
            });
        }
        Ok(Self { input, nodes, softmax: model.softmax })
    }

    /// Number of weights and biases.
    ///
    /// ```
    /// # use qat_trainer::{checkpoint::Checkpoint, graph::Graph, spec::{Run, Shape}};
    /// # let toml = r#"data = { format = "none", shape = [5, 5, 1] }
    /// # model = { layers = [{ op = "conv", name = "c", out = 4, kernel = 3 }, { op = "global-avg-pool" }] }"#;
    /// # let run = Run::parse(toml, "run.toml".as_ref())?;
    /// # let mut c = Checkpoint::default();
    /// # c.insert("c.weight", &[4, 1, 3, 3], vec![0.0; 36])?;
    /// # c.insert("c.bias", &[4], vec![0.0; 4])?;
    /// // A run description whose layers are a 3×3 `conv` to 4 channels and a `global-avg-pool`.
    /// let graph = Graph::from_checkpoint(&run.model, Shape { h: 5, w: 5, c: 1 }, 4, &c)?;
    /// assert_eq!(graph.parameters(), 4 * 3 * 3 + 4);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.nodes.iter().filter_map(|n| n.weights.as_ref()).map(|w| w.rows.len() + w.bias.len()).sum()
    }
}

impl Weights {
    /// `basis`: what the weights have to be brought into.
    fn from_checkpoint(
        name: &str,
        shape: &[usize],
        order: &[usize],
        basis: Option<&Basis>,
        from: &Checkpoint,
    ) -> Result<Self> {
        let channels = shape[0];
        let tensor = |part: &str, shape: &[usize]| from.get(&format!("{name}.{part}"), shape);
        let bias = match from.has(&format!("{name}.bias")) {
            true => Some(tensor("bias", &[channels])?),
            false => None,
        };
        let weights = tensor("weight", shape)?;
        let (weights, bias) = if from.has(&format!("{name}.bn.weight")) {
            let bn = BatchNorm {
                weight: tensor("bn.weight", &[channels])?,
                bias: tensor("bn.bias", &[channels])?,
                running_mean: tensor("bn.running_mean", &[channels])?,
                running_var: tensor("bn.running_var", &[channels])?,
            };
            fold_batch_norm(weights, bias, bn).map_err(|e| {
                e.place(format!("layer `{name}`")).remedy("the checkpoint is damaged: train again")
            })?
        } else {
            let bias = bias.ok_or_else(|| {
                Error::new(ErrorKind::Checkpoint, "neither a bias nor batch normalisation is there")
                    .place(format!("tensor `{name}.bias`"))
                    .remedy("train again with this run description")
            })?;
            (weights.to_vec(), bias.to_vec())
        };
        let weights = match basis {
            Some(basis) => basis.enter(&weights)?,
            None => weights,
        };
        let fan_in = order.len();
        let rows = weights.chunks_exact(fan_in).flat_map(|row| order.iter().map(|&i| row[i])).collect();
        Ok(Self { channels, fan_in, rows, bias })
    }

    /// The weights of each channel.
    ///
    /// ```
    /// use qat_trainer::graph::Weights;
    /// let w = Weights { channels: 3, fan_in: 2, rows: vec![3.0, -4.0, 0.0, 1.0, 2.0, 2.0], bias: vec![0.0; 3] };
    /// let sums: Vec<f32> = w.channel_rows().map(|row| row.iter().sum()).collect();
    /// assert_eq!(sums, [-1.0, 1.0, 4.0]);
    /// ```
    pub fn channel_rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.rows.chunks_exact(self.fan_in.max(1))
    }
}

#[cfg(test)]
pub(crate) mod tests;
