//! A network with a quantiser per layer and a range per activation.

use super::{Graph, Node, Weights};
use crate::affine::Affine;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::spec::WeightQuant;
use qat_kernels::config::StepRule;
use qat_kernels::pi_step;

/// A quantised network.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantised {
    /// The network with its unquantised weights.
    pub graph: Graph,
    /// The code of the input.
    pub input: Affine,
    /// The steps of each layer's weights, `None` where there are no weights.
    pub steps: Vec<Option<Steps>>,
    /// The code of each layer's output.
    pub outputs: Vec<Affine>,
}

/// The steps of a layer's weights.
#[derive(Clone, Debug, PartialEq)]
pub enum Steps {
    /// Δ of each output channel; of a Pi quantiser already α·π/k.
    PerChannel(Vec<f32>),
    /// α of each output channel and k of each group.
    PiAdaptive {
        /// One per channel.
        alpha: Vec<f32>,
        /// Row by row, in the engine's order.
        divisors: Vec<u8>,
        /// Weights per divisor.
        group: usize,
    },
}

impl Steps {
    /// From what a checkpoint stores: the step or α of each channel, and the divisors of an adaptive quantiser.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] for numbers that are no steps, α or divisors.
    ///
    /// ```
    /// use qat_kernels::{StepRule, pi_step};
    /// use qat_trainer::{ErrorKind, graph::Steps};
    /// let steps = Steps::new(StepRule::Pi { k: 3 }, &[0.5, 2.0], &[])?;
    /// assert_eq!(steps, Steps::PerChannel(vec![pi_step(0.5, 3)?, pi_step(2.0, 3)?]));
    /// let e = Steps::new(StepRule::PiAdaptive { group: 8 }, &[0.5], &[2, 6]).unwrap_err(); // k is 2 to 5
    /// assert_eq!(e.kind(), ErrorKind::Checkpoint);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn new(rule: StepRule, alpha: &[f32], divisors: &[u8]) -> Result<Self> {
        let wrong = |e: qat_kernels::Error| Error::new(ErrorKind::Checkpoint, e.to_string());
        match rule {
            StepRule::Uniform => match alpha.iter().position(|s| !(*s > 0.0 && s.is_normal())) {
                None => Ok(Steps::PerChannel(alpha.to_vec())),
                Some(i) => {
                    Err(Error::new(ErrorKind::Checkpoint, format!("the step of channel {i} is {}", alpha[i])))
                }
            },
            StepRule::Pi { k } => {
                let steps = alpha.iter().map(|&a| pi_step(a, k)).collect::<Result<_, _>>();
                Ok(Steps::PerChannel(steps.map_err(wrong)?))
            }
            StepRule::PiAdaptive { group } => {
                for &a in alpha {
                    for k in 2..=5 {
                        pi_step(a, k).map_err(wrong)?;
                    }
                }
                if let Some(&k) = divisors.iter().find(|k| !(2..=5).contains(*k)) {
                    return Err(wrong(qat_kernels::Error::Divisor { k }));
                }
                Ok(Steps::PiAdaptive { alpha: alpha.to_vec(), divisors: divisors.to_vec(), group })
            }
        }
    }

    fn from_checkpoint(name: &str, quant: WeightQuant, weights: &Weights, from: &Checkpoint) -> Result<Self> {
        let alpha = from.get(&format!("{name}.alpha"), &[weights.channels])?;
        let divisors: Vec<u8> = match quant.step {
            StepRule::PiAdaptive { group } => {
                let count = weights.rows.len() / group;
                from.get(&format!("{name}.divisors"), &[count])?.iter().map(|&k| k as u8).collect()
            }
            _ => Vec::new(),
        };
        Self::new(quant.step, alpha, &divisors)
            .map_err(|e| e.place(format!("layer `{name}`")).remedy("train again, with a lower learning rate"))
    }

    /// The step of weight `index` of channel `channel`.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] for a step, α or divisor that is missing or that [`Steps::new`] would have refused.
    pub(crate) fn at(&self, channel: usize, index: usize, fan_in: usize) -> Result<f32> {
        match self {
            Steps::PerChannel(steps) => {
                steps.get(channel).copied().filter(|step| *step > 0.0 && step.is_normal()).ok_or_else(|| {
                    Error::new(ErrorKind::Model, format!("channel {channel} has no positive step"))
                })
            }
            Steps::PiAdaptive { alpha, divisors, group } => {
                let at = (channel * fan_in + index).checked_div(*group);
                let divisor = at.and_then(|at| divisors.get(at));
                let (Some(&alpha), Some(&divisor)) = (alpha.get(channel), divisor) else {
                    return Err(Error::new(
                        ErrorKind::Model,
                        format!("channel {channel} has no α or divisor"),
                    ));
                };
                Ok(pi_step(alpha, divisor)?)
            }
        }
    }
}

/// The codes of a layer's weights, row by row.
///
/// # Errors
/// [`ErrorKind::Model`] if the steps are not those of a [`Steps::new`] for these weights.
///
/// ```
/// use qat_kernels::{Grid, Levels, StepRule};
/// use qat_trainer::{graph::{Steps, Weights, codes}, spec::WeightQuant};
/// let weights = Weights { channels: 1, fan_in: 16, rows: vec![1.0; 16], bias: vec![0.0] };
/// let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::PiAdaptive { group: 8 } };
/// let steps = Steps::new(quant.step, &[1.0], &[2, 4])?; // Δ = π/2 and π/4
/// assert_eq!(codes(&weights, quant, &steps)?, [[0; 8], [1; 8]].concat()); // levels ½·Δ = 0.79 and 1½·Δ = 1.18
/// assert!(codes(&weights, quant, &Steps::PerChannel(vec![])).is_err()); // no step for the channel
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn codes(weights: &Weights, quant: WeightQuant, steps: &Steps) -> Result<Vec<i8>> {
    each(weights, steps, |w, step| quant.levels.quantize(w, step) as i8)
}

/// The values of the codes of a layer's weights, row by row.
///
/// # Errors
/// As [`codes`].
///
/// ```
/// use qat_kernels::{Grid, Levels, StepRule};
/// use qat_trainer::{graph::{Steps, Weights, dequantised_rows}, spec::WeightQuant};
/// let weights = Weights { channels: 2, fan_in: 2, rows: vec![0.3, -3.0, 6.0, 1.0], bias: vec![0.0; 2] };
/// let quant = WeightQuant { levels: Levels::new(2, Grid::MidTread)?, step: StepRule::Uniform };
/// let steps = Steps::PerChannel(vec![0.5, 4.0]); // levels −1, −½, 0, ½ and −8, −4, 0, 4
/// assert_eq!(dequantised_rows(&weights, quant, &steps)?, [0.5, -1.0, 4.0, 0.0]);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn dequantised_rows(weights: &Weights, quant: WeightQuant, steps: &Steps) -> Result<Vec<f32>> {
    each(weights, steps, |w, step| quant.levels.fake_quantize(w, step))
}

fn each<T>(weights: &Weights, steps: &Steps, f: impl Fn(f32, f32) -> T) -> Result<Vec<T>> {
    let mut out = Vec::with_capacity(weights.rows.len());
    for (channel, row) in weights.channel_rows().enumerate() {
        for (i, &w) in row.iter().enumerate() {
            out.push(f(w, steps.at(channel, i, weights.fan_in)?));
        }
    }
    Ok(out)
}

impl Quantised {
    /// The quantisers and ranges that training left in a checkpoint.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if a tensor is missing, of another shape, or holds what it cannot hold.
    ///
    /// ```
    /// # use qat_trainer::{checkpoint::Checkpoint, graph::{Graph, Quantised, Steps}, spec::{Run, Shape}};
    /// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 1] }
    /// # model = { layers = [{ op = "linear", name = "fc", out = 1 }] }"#, "run.toml".as_ref())?;
    /// # let mut c = Checkpoint::default();
    /// # c.insert("fc.weight", &[1, 1], vec![0.7])?;
    /// # c.insert("fc.bias", &[1], vec![0.0])?;
    /// # let graph = Graph::from_checkpoint(&run.model, Shape::flat(1), 1, &c)?;
    /// // One layer, `fc`, with one output.
    /// for (tensor, value) in [("fc.alpha", 0.25), ("fc.act.scale", 0.5), ("fc.act.zero_point", 3.0)] {
    ///     c.insert(tensor, &[1], vec![value])?;
    /// }
    /// let e = Quantised::from_checkpoint(graph.clone(), &c).unwrap_err();
    /// assert!(e.to_string().starts_with("tensor `input.scale`: this tensor is missing"), "{e}");
    /// c.insert("input.scale", &[1], vec![0.125])?;
    /// c.insert("input.zero_point", &[1], vec![-128.0])?;
    /// let network = Quantised::from_checkpoint(graph, &c)?;
    /// assert_eq!(network.steps, [Some(Steps::PerChannel(vec![0.25]))]);
    /// assert_eq!((network.input.dequantize(-120), network.outputs[0].dequantize(4)), (1.0, 0.5));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn from_checkpoint(graph: Graph, from: &Checkpoint) -> Result<Self> {
        let affine = |prefix: &str| -> Result<Affine> {
            let scale = from.get(&format!("{prefix}.scale"), &[1])?[0];
            let zero_point = from.get(&format!("{prefix}.zero_point"), &[1])?[0];
            let whole = zero_point.fract() == 0.0 && (-128.0..=127.0).contains(&zero_point);
            if !(scale > 0.0 && scale.is_normal() && whole) {
                return Err(Error::new(
                    ErrorKind::Checkpoint,
                    format!("scale {scale} and zero point {zero_point} are no 8-bit code"),
                )
                .place(format!("tensor `{prefix}.scale`"))
                .remedy("train again with this run description"));
            }
            Ok(Affine { scale, zero_point: zero_point as i8 })
        };
        let mut steps = Vec::with_capacity(graph.nodes.len());
        let mut ranges = Vec::with_capacity(graph.nodes.len());
        for node in &graph.nodes {
            steps.push(match (&node.weights, node.op.quant()) {
                (Some(weights), Some(quant)) => {
                    Some(Steps::from_checkpoint(&node.name, quant, weights, from)?)
                }
                _ => None,
            });
            ranges.push(match node.op.has_range() {
                true => Some(affine(&format!("{}.act", node.name))?),
                false => None,
            });
        }
        let input = affine("input")?;
        Ok(Self { outputs: resolve(&graph.nodes, input, &ranges), graph, input, steps })
    }

    /// A network with the given steps, and ranges for the layers that have one of their own.
    ///
    /// ```
    /// # use qat_trainer::{affine::Affine, checkpoint::Checkpoint, spec::{Run, Shape}};
    /// # use qat_trainer::graph::{Graph, Quantised, Steps};
    /// # let run = Run::parse(r#"data = { format = "none", shape = [1, 2, 1] }
    /// # [model]
    /// # layers = [
    /// #   { op = "max-pool", kernel = [1, 2] }, { op = "flatten" }, { op = "linear", name = "fc", out = 1 }
    /// # ]"#, "run.toml".as_ref())?;
    /// # let mut c = Checkpoint::default();
    /// # c.insert("fc.weight", &[1, 1], vec![1.0])?;
    /// # c.insert("fc.bias", &[1], vec![0.0])?;
    /// # let graph = Graph::from_checkpoint(&run.model, Shape { h: 1, w: 2, c: 1 }, 1, &c)?;
    /// // A `max-pool`, a `flatten` and a `linear`, which alone has steps and a range.
    /// let [input, logit] = [Affine::from_range(0.0, 1.0), Affine::from_range(-8.0, 8.0)];
    /// let steps = vec![None, None, Some(Steps::PerChannel(vec![0.5]))];
    /// let network = Quantised::new(graph, input, steps, &[None, None, Some(logit)]);
    /// assert_eq!(network.outputs, [input, input, logit]); // the others keep the code of what they read
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn new(graph: Graph, input: Affine, steps: Vec<Option<Steps>>, ranges: &[Option<Affine>]) -> Self {
        Self { outputs: resolve(&graph.nodes, input, ranges), graph, input, steps }
    }

    /// The same network with every weight replaced by the value of its code.
    ///
    /// # Errors
    /// As [`codes`].
    ///
    /// ```
    /// # use qat_trainer::{affine::Affine, checkpoint::Checkpoint, spec::{Run, Shape}};
    /// # use qat_trainer::graph::{Graph, Quantised, Steps};
    /// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 2] }
    /// # model = { layers = [{ op = "linear", name = "fc", out = 1, bits = 2 }] }"#, "run.toml".as_ref())?;
    /// # let mut c = Checkpoint::default();
    /// # c.insert("fc.weight", &[1, 2], vec![0.3, -0.9])?;
    /// # c.insert("fc.bias", &[1], vec![0.0])?;
    /// # let graph = Graph::from_checkpoint(&run.model, Shape::flat(2), 1, &c)?;
    /// # let code = Affine::from_range(-1.0, 1.0);
    /// // A `linear` of 2 bits with the weights 0.3 and −0.9.
    /// let network = Quantised::new(graph, code, vec![Some(Steps::PerChannel(vec![0.5]))], &[Some(code)]);
    /// let outputs = |graph: &Graph| graph.forward(&[1.0, 10.0], |_, _| {});
    /// assert_eq!(outputs(&network.dequantised()?)?, [0.5 - 10.0]); // ½ and −1
    /// assert_eq!(outputs(&network.graph)?, [0.3 - 9.0]);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn dequantised(&self) -> Result<Graph> {
        let mut graph = self.graph.clone();
        for (node, steps) in graph.nodes.iter_mut().zip(&self.steps) {
            let quant = node.op.quant();
            if let (Some(weights), Some(quant), Some(steps)) = (&mut node.weights, quant, steps) {
                weights.rows = dequantised_rows(weights, quant, steps)?;
            }
        }
        Ok(graph)
    }

    /// The logits of one example with activations rounded to their codes; `dequantised` comes from
    /// [`Self::dequantised`]. It differs from the integer engine in the last bit of an activation now and then: biases
    /// and multipliers are rounded there, sums in floating point here.
    ///
    /// # Errors
    /// As [`Graph::forward`]; [`ErrorKind::Model`] if `dequantised` has not as many layers.
    ///
    /// ```
    /// # use qat_trainer::{affine::Affine, checkpoint::Checkpoint, spec::{Run, Shape}};
    /// # use qat_trainer::graph::{Graph, Quantised, Steps};
    /// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 1] }
    /// # model = { layers = [{ op = "linear", name = "fc", out = 1, bits = 2 }] }"#, "run.toml".as_ref())?;
    /// # let mut c = Checkpoint::default();
    /// # c.insert("fc.weight", &[1, 1], vec![1.0])?;
    /// # c.insert("fc.bias", &[1], vec![0.2])?;
    /// # let graph = Graph::from_checkpoint(&run.model, Shape::flat(1), 1, &c)?;
    /// // x + 0.2, with a step of ½ before it and one of ¼ behind it.
    /// let [input, output] = [0.5, 0.25].map(|scale| Affine { scale, zero_point: 0 });
    /// let network = Quantised::new(graph, input, vec![Some(Steps::PerChannel(vec![1.0]))], &[Some(output)]);
    /// let dequantised = network.dequantised()?;
    /// assert_eq!(network.forward(&dequantised, &[1.3])?, [1.75]); // 1.3 counts as 1.5, and 1.7 as 1.75
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn forward(&self, dequantised: &Graph, example: &[f32]) -> Result<Vec<f32>> {
        if dequantised.nodes.len() != self.outputs.len() {
            return Err(Error::new(ErrorKind::Model, "the dequantised network is another one's"));
        }
        let x: Vec<f32> = example.iter().map(|&x| self.input.fake_quantize(x)).collect();
        dequantised.forward(&x, |i, out| {
            // The other operators have 8 bits, or cannot leave the range that their input was clamped to.
            let bits = if self.graph.nodes[i].op.has_range() { self.graph.nodes[i].act_bits } else { 8 };
            let code = self.outputs[i];
            out.iter_mut().for_each(|y| *y = code.fake_quantize_to(bits, *y));
        })
    }
}

/// The code of every output: its own range, the one that its operator always has, or that of what it reads.
fn resolve(nodes: &[Node], input: Affine, ranges: &[Option<Affine>]) -> Vec<Affine> {
    let mut outputs: Vec<Affine> = Vec::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate() {
        let inherited = node.input.of(input, &outputs);
        let own = ranges.get(i).copied().flatten().or(node.op.fixed_code());
        outputs.push(own.unwrap_or(inherited));
    }
    outputs
}
