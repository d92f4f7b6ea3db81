//! From a quantised network to the bytes of a `.piq` file.

use crate::affine::Affine;
use crate::checkpoint::Checkpoint;
use crate::data::{Dataset, Standardisation};
use crate::error::{Error, ErrorKind, Result};
use crate::graph::{Graph, Node, Quantised, Steps, codes, rotation};
use crate::spec::{Act, Op, Run, Shape, Value};
use qat_kernels::artifact::{
    self, InputTransform, Metadata, ModelBuilder, Output, Target, TensorId, TensorSpec,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

mod dequantised;
mod rust;

pub use dequantised::dequantised;
pub use rust::rust_module;

/// Test examples whose answers go into the file.
const KNOWN_ANSWERS: usize = 2;
/// Metadata entry of a checkpoint.
const ABOUT: &str = "about";

/// What a model file says about its origin, and what the engine's caller needs around it. Training stores it in its
/// checkpoints, so that exporting one needs no data set.
///
/// ```
/// use qat_trainer::{data::Standardisation, export::About, spec::Shape};
/// let about = About {
///     shape: Shape { h: 2, w: 2, c: 3 },
///     classes: vec!["night".into(), "day".into()],
///     dataset_sha256: [0xA5; 32],
///     standardisation: Standardisation { mean: vec![128.0], std: vec![64.0] },
///     samples: 100,
///     method: "qat, learned ranges, mse".into(),
///     known_inputs: vec![vec![-1.0; 12]],
/// };
/// assert!(about.known_inputs.iter().all(|x| x.len() == about.shape.len()));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct About {
    /// Shape of the input.
    pub shape: Shape,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// SHA-256 of the training files.
    pub dataset_sha256: [u8; 32],
    /// From raw features to the model's input.
    pub standardisation: Standardisation,
    /// Examples that the ranges were calibrated on.
    pub samples: usize,
    /// How the model was quantised, such as `qat, learned ranges, mse`.
    pub method: String,
    /// Standardised examples whose answers the file will hold.
    pub known_inputs: Vec<Vec<f32>>,
}

/// What the caller decides about a file.
///
/// ```
/// use qat_kernels::artifact::Target;
/// use qat_trainer::export::Options;
/// let m4 = Options { target: Target::CortexM4, ..Options::default() };
/// assert_eq!(m4.created, 0); // not stated: equal inputs give equal files
/// assert_eq!(Options::default().target, Target::Portable);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Unix time of the export in seconds, 0 for not stated.
    pub created: u64,
    /// The cores to pack for.
    pub target: Target,
}

/// The part of [`About`] that is not numbers.
#[derive(Serialize, Deserialize)]
struct AboutText {
    shape: [usize; 3],
    classes: Vec<String>,
    dataset_sha256: String,
    samples: usize,
    method: String,
}

impl About {
    /// What is to be said about a model trained by `run` on `data`; `method` in words.
    ///
    /// ```
    /// # use qat_trainer::{affine::Affine, data::{Dataset, Split, Standardisation}, export::About};
    /// # use qat_trainer::spec::{Run, Shape};
    /// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 1] }
    /// # model = { layers = [{ op = "linear", out = 2 }] }"#, "run.toml".as_ref())?;
    /// let data = Dataset {
    ///     train: Split { features: vec![0.0, 1.0, 2.0], labels: vec![0, 1, 1] },
    ///     test: Split { features: vec![0.5, 1.5, 2.5, 3.5], labels: vec![0, 1, 1, 1] },
    ///     # classes: ["no", "yes"].map(String::from).to_vec(), shape: Shape::flat(1),
    ///     # standardisation: Standardisation::none(), input: Affine::from_range(0.0, 4.0), sha256: [1; 32],
    ///     // …
    /// };
    /// let about = About::new(&run, &data, "qat".into());
    /// assert_eq!(about.known_inputs, [[0.5], [1.5]]); // the first two tests
    /// assert_eq!(about.samples, 3); // all there are, though a calibration looks at up to 512
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn new(run: &Run, data: &Dataset, method: String) -> Self {
        Self {
            shape: data.shape,
            classes: data.classes.clone(),
            dataset_sha256: data.sha256,
            standardisation: data.standardisation.clone(),
            samples: run.qat.calibration.samples.min(data.train.len()),
            method,
            known_inputs: data.test.examples().take(KNOWN_ANSWERS).map(<[f32]>::to_vec).collect(),
        }
    }

    /// Puts it into a checkpoint: tensors `input.mean`, `input.std` and `input.known`, and one entry of the metadata.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if an example has not the shape of the input.
    ///
    /// ```
    /// # use qat_trainer::{checkpoint::Checkpoint, data::Standardisation, export::About, spec::Shape};
    /// # let mut about = About {
    /// #     shape: Shape::flat(2), classes: vec!["a".into()], dataset_sha256: [0; 32], samples: 1,
    /// #     standardisation: Standardisation { mean: vec![3.0], std: vec![2.0] },
    /// #     method: "qat".into(), known_inputs: vec![],
    /// # };
    /// about.known_inputs = vec![vec![0.5, 1.5], vec![2.5, 3.5]];
    /// let mut c = Checkpoint::default();
    /// about.store(&mut c)?;
    /// assert_eq!(c.get("input.known", &[2, 2])?, [0.5, 1.5, 2.5, 3.5]);
    /// assert!(c.has("input.mean") && c.metadata.contains_key("about"));
    /// about.known_inputs[1].pop();
    /// assert!(about.store(&mut c).is_err()); // three numbers are not two examples
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn store(&self, into: &mut Checkpoint) -> Result<()> {
        let width = self.shape.len();
        if let Some((i, input)) = self.known_inputs.iter().enumerate().find(|(_, x)| x.len() != width) {
            let problem = format!("example {i} has {} numbers, the input {width}", input.len());
            return Err(Error::new(ErrorKind::Checkpoint, problem).place("tensor `input.known`"));
        }
        let Standardisation { mean, std } = &self.standardisation;
        into.insert("input.mean", &[mean.len()], mean.clone())?;
        into.insert("input.std", &[std.len()], std.clone())?;
        into.insert("input.known", &[self.known_inputs.len(), width], self.known_inputs.concat())?;
        let text = AboutText {
            shape: [self.shape.h, self.shape.w, self.shape.c],
            classes: self.classes.clone(),
            dataset_sha256: hex(&self.dataset_sha256),
            samples: self.samples,
            method: self.method.clone(),
        };
        let json = serde_json::to_string(&text)
            .map_err(|e| Error::new(ErrorKind::Checkpoint, format!("the metadata cannot be written: {e}")))?;
        into.metadata.insert(ABOUT.into(), json);
        Ok(())
    }

    /// Takes it out of a checkpoint.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if it is not there or damaged.
    ///
    /// ```
    /// # use qat_trainer::{checkpoint::Checkpoint, data::Standardisation, export::About, spec::Shape};
    /// # let about = About {
    /// #     shape: Shape { h: 4, w: 4, c: 1 }, classes: vec!["a".into(), "b".into()], dataset_sha256: [9; 32],
    /// #     samples: 7, method: "ptq".into(), standardisation: Standardisation::none(), known_inputs: vec![],
    /// # };
    /// let mut c = Checkpoint::default();
    /// let e = About::load(&c).unwrap_err();
    /// assert!(e.to_string().starts_with("metadata `about`: this entry is missing"), "{e}");
    /// about.store(&mut c)?;
    /// assert_eq!(About::load(&c)?, about);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn load(from: &Checkpoint) -> Result<Self> {
        let broken = |problem: String| {
            Error::new(ErrorKind::Checkpoint, problem)
                .place(format!("metadata `{ABOUT}`"))
                .remedy("take a checkpoint that `qat train` finished")
        };
        let json = from.metadata.get(ABOUT).ok_or_else(|| broken("this entry is missing".into()))?;
        let text: AboutText = serde_json::from_str(json).map_err(|e| broken(e.to_string()))?;
        let [h, w, c] = text.shape;
        let features = h.checked_mul(w).and_then(|n| n.checked_mul(c)).filter(|&n| n > 0);
        let features = features.ok_or_else(|| broken("the shape of the input is impossible".into()))?;
        let len = |name: &str| from.tensors.get(name).map_or(0, |a| a.data.len());
        let pairs = len("input.mean");
        let mean = from.get("input.mean", &[pairs])?.to_vec();
        let std = from.get("input.std", &[pairs])?.to_vec();
        if std.iter().any(|s| *s <= 0.0) {
            return Err(broken("a standard deviation is not positive".into()));
        }
        let known = from.get("input.known", &[len("input.known") / features, features])?;
        Ok(Self {
            shape: Shape { h, w, c },
            classes: text.classes,
            dataset_sha256: unhex(&text.dataset_sha256)
                .ok_or_else(|| broken("a SHA-256 is no SHA-256".into()))?,
            standardisation: Standardisation { mean, std },
            samples: text.samples,
            method: text.method,
            known_inputs: known.chunks_exact(features).map(<[f32]>::to_vec).collect(),
        })
    }
}

/// The network in a checkpoint of the quantised training, and what is to be said about it.
///
/// # Errors
/// [`ErrorKind::Checkpoint`] for what is wrong with the checkpoint.
///
/// ```
/// # use qat_trainer::{affine::Affine, checkpoint::Checkpoint, data::Standardisation, export::{About, load_network}};
/// # use qat_trainer::spec::{Run, Shape};
/// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 3] }
/// # model = { layers = [{ op = "linear", name = "fc", out = 2 }] }"#, "run.toml".as_ref())?;
/// # let about = About {
/// #     shape: Shape::flat(3), classes: vec!["a".into(), "b".into()], dataset_sha256: [0; 32], samples: 7,
/// #     method: "qat".into(), standardisation: Standardisation::none(), known_inputs: vec![],
/// # };
/// let mut c = Checkpoint::default();
/// c.insert("fc.weight", &[2, 3], vec![0.5, 1.0, -1.5, 0.0, 2.0, -0.5])?;
/// c.insert("fc.bias", &[2], vec![0.0, 1.0])?;
/// c.insert("fc.alpha", &[2], vec![0.5, 0.25])?; // the steps of the two rows
/// for (name, value) in [("scale", 0.125), ("zero_point", -128.0)] {
///     c.insert(&format!("fc.act.{name}"), &[1], vec![value])?;
///     c.insert(&format!("input.{name}"), &[1], vec![value])?;
/// }
/// about.store(&mut c)?;
/// let (network, said) = load_network(&run, &c.to_bytes()?)?;
/// assert_eq!(network.outputs, [Affine { scale: 0.125, zero_point: -128 }]);
/// assert_eq!((network.graph.parameters(), said), (6 + 2, about));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn load_network(run: &Run, bytes: &[u8]) -> Result<(Quantised, About)> {
    let checkpoint = Checkpoint::from_bytes(bytes)?;
    let about = About::load(&checkpoint)?;
    let graph = Graph::from_checkpoint(&run.model, about.shape, about.classes.len(), &checkpoint)?;
    Ok((Quantised::from_checkpoint(graph, &checkpoint)?, about))
}

/// Exports a checkpoint of the quantised training.
///
/// # Errors
/// [`ErrorKind::Checkpoint`] for what is wrong with the checkpoint, [`ErrorKind::Model`] for what the integer engine
/// cannot do.
///
/// ```
/// # use qat_kernels::infer::Model;
/// # use qat_trainer::{checkpoint::Checkpoint, data::Standardisation, export::{About, Options, export_checkpoint}};
/// # use qat_trainer::spec::{Run, Shape};
/// # let run = Run::parse(r#"name = "sign"
/// # data = { format = "none", shape = [1, 1, 1] }
/// # model = { layers = [{ op = "linear", name = "fc", out = 2 }] }"#, "run.toml".as_ref())?;
/// # let about = About {
/// #     shape: Shape::flat(1), classes: vec!["−".into(), "+".into()], dataset_sha256: [0; 32], samples: 7,
/// #     method: "qat".into(), standardisation: Standardisation::none(), known_inputs: vec![],
/// # };
/// # let mut c = Checkpoint::default();
/// # for tensor in ["fc.act", "input"] {
/// #     c.insert(&format!("{tensor}.scale"), &[1], vec![1.0])?;
/// #     c.insert(&format!("{tensor}.zero_point"), &[1], vec![0.0])?;
/// # }
/// # c.insert("fc.bias", &[2], vec![0.0; 2])?;
/// # c.insert("fc.alpha", &[2], vec![1.0; 2])?;
/// # about.store(&mut c)?;
/// let e = export_checkpoint(&run, &c.to_bytes()?, Options::default()).unwrap_err();
/// assert!(e.to_string().starts_with("tensor `fc.weight`: this tensor is missing"), "{e}");
/// c.insert("fc.weight", &[2, 1], vec![-2.0, 2.0])?;
/// let file = export_checkpoint(&run, &c.to_bytes()?, Options::default())?;
/// let (model, mut logits) = (Model::parse(&file)?, [0; 2]);
/// model.run(&[30], &mut logits, &mut vec![0; model.arena_len()])?;
/// assert_eq!(logits, [-60, 60]);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn export_checkpoint(run: &Run, bytes: &[u8], options: Options) -> Result<Vec<u8>> {
    let (network, about) = load_network(run, bytes)?;
    export(&network, &run.name, &about, Sha256::digest(bytes).into(), options)
}

/// Writes a quantised network as a `.piq` file. `source_sha256` identifies the checkpoint it was made from.
///
/// # Errors
/// [`ErrorKind::Model`] naming the layer that the integer engine cannot run: an accumulator that could overflow, scales
/// too far apart, a dimension beyond 16 bits.
///
/// ```
/// # use qat_kernels::infer::Model;
/// # use qat_trainer::{affine::Affine, checkpoint::Checkpoint, data::Standardisation};
/// # use qat_trainer::export::{About, Options, export};
/// # use qat_trainer::graph::{Graph, Quantised, Steps};
/// # use qat_trainer::spec::{Run, Shape};
/// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 2] }
/// # model = { layers = [{ op = "linear", name = "fc", out = 2, bits = 2 }] }"#, "run.toml".as_ref())?;
/// # let about = About {
/// #     shape: Shape::flat(2), classes: vec!["a".into(), "b".into()], dataset_sha256: [5; 32], samples: 7,
/// #     method: "ptq".into(), standardisation: Standardisation::none(), known_inputs: vec![vec![3.0, -4.0]],
/// # };
/// # let mut c = Checkpoint::default();
/// # c.insert("fc.weight", &[2, 2], vec![1.0, 0.0, 1.0, 2.0])?;
/// # c.insert("fc.bias", &[2], vec![10.0, 0.0])?;
/// # let graph = Graph::from_checkpoint(&run.model, about.shape, 2, &c)?;
/// let code = Affine { scale: 1.0, zero_point: 0 };
/// let network = Quantised::new(graph, code, vec![Some(Steps::PerChannel(vec![1.0, 1.0]))], &[Some(code)]);
/// let file = export(&network, "pair", &about, [3; 32], Options::default())?;
/// let model = Model::parse(&file)?;
/// assert_eq!((model.metadata()?.name, model.metadata()?.source_sha256), ("pair", [3; 32]));
/// let known: Vec<_> = model.known_answers().map(|known| (known.input, known.output)).collect();
/// assert_eq!(known, [(&[3, -4][..], &[13, -1][..])]); // x + 10, and x + y as 2 is no level of two bits
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn export(
    network: &Quantised,
    name: &str,
    about: &About,
    source_sha256: [u8; 32],
    options: Options,
) -> Result<Vec<u8>> {
    let labels = about.classes.join("\n");
    let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let (mean, std) = (bytes(&about.standardisation.mean), bytes(&about.standardisation.std));
    let metadata = Metadata {
        name,
        tool: concat!("qat ", env!("CARGO_PKG_VERSION")),
        labels: &labels,
        source_sha256,
        dataset_sha256: about.dataset_sha256,
        samples: about.samples as u64,
        method: &about.method,
        created: options.created,
        input: InputTransform { mean: &mean, std: &std },
    };
    let (builder, layers) = build(network, options.target)?;
    let known: Vec<Vec<i8>> =
        about.known_inputs.iter().map(|x| x.iter().map(|&x| network.input.quantize(x)).collect()).collect();
    let known: Vec<&[i8]> = known.iter().map(Vec::as_slice).collect();
    builder.finish(&metadata, &known).map_err(|e| {
        let layer = match e {
            qat_kernels::Error::Op { op, .. } => layers.get(op),
            _ => None,
        };
        refused(e, layer.map_or(name, String::as_str))
    })
}

/// The operators, and for each the name of its layer.
fn build(network: &Quantised, target: Target) -> Result<(ModelBuilder, Vec<String>)> {
    let Affine { scale, zero_point } = network.input;
    let shape = shape16(network.graph.input, "input")?;
    let mut builder = ModelBuilder::new(TensorSpec { shape, scale, zero_point }).with_target(target);
    let mut layers = Vec::new();
    let mut values: Vec<TensorId> = Vec::with_capacity(network.graph.nodes.len());
    for (i, node) in network.graph.nodes.iter().enumerate() {
        let (input, from) = match node.op {
            Op::Add { from, .. } => (node.input, Some(from)),
            _ => (node.input, None),
        };
        let start = builder.input();
        let tensor = |v: Value| match v {
            Value::Input => start,
            Value::Layer(i) => values[i],
        };
        let (x, other) = (tensor(input), from.map(tensor));
        let value = if matches!(node.op, Op::Flatten) {
            x // the engine reads any tensor as a vector
        } else {
            layers.push(node.name.clone());
            operator(&mut builder, node, network.steps[i].as_ref(), network.outputs[i], x, other)?
        };
        values.push(value);
    }
    if let (true, Some(logits)) = (network.graph.softmax, values.last()) {
        layers.push("softmax".into());
        builder.softmax(*logits).map_err(|e| refused(e, "softmax"))?;
    }
    Ok((builder, layers))
}

fn operator(
    builder: &mut ModelBuilder,
    node: &Node,
    steps: Option<&Steps>,
    code: Affine,
    x: TensorId,
    other: Option<TensorId>,
) -> Result<TensorId> {
    shape16(node.shape, &node.name)?;
    let output = Output::new(code.scale, code.zero_point);
    let output = match node.op.act() {
        Act::None => output,
        Act::Relu => output.relu(),
        Act::Relu6 => output.relu6(),
    };
    let output = if node.op.has_range() { narrowed(output, node.act_bits) } else { output };
    let done = match (&node.op, &node.weights, node.op.quant(), steps) {
        (op, Some(weights), Some(quant), Some(steps)) => {
            let mut codes = codes(weights, quant, steps)?;
            let steps = match steps {
                Steps::PerChannel(steps) => artifact::Steps::PerChannel(steps),
                Steps::PiAdaptive { alpha, divisors, group } => {
                    artifact::Steps::PiAdaptive { alpha, divisors, group: *group }
                }
            };
            if matches!(op, Op::Depthwise { .. }) {
                codes = transpose(&codes, weights.channels, weights.fan_in);
            }
            let packed = artifact::Weights { levels: quant.levels, codes: &codes, steps };
            match op {
                Op::Conv { window, .. } => {
                    builder.conv2d(x, window16(*window, node)?, &packed, &weights.bias, output)
                }
                Op::Depthwise { window, .. } => {
                    builder.depthwise_conv2d(x, window16(*window, node)?, &packed, &weights.bias, output)
                }
                _ => builder.linear(x, &packed, &weights.bias, output),
            }
        }
        (Op::MaxPool(window), ..) => builder.max_pool(x, window16(*window, node)?, output.clamp),
        (Op::AvgPool(window), ..) => builder.avg_pool(x, window16(*window, node)?, output),
        (Op::GlobalAvgPool, ..) => {
            builder.avg_pool(x, window16(crate::spec::Window::whole(node.input_shape), node)?, output)
        }
        (Op::Sigmoid, ..) => builder.sigmoid(x),
        (Op::Rotate, ..) => builder.hadamard(x, rotation(node.shape.len())?, output),
        (Op::Add { .. }, ..) if other.is_some() => builder.add(x, other.unwrap_or(x), output),
        _ => {
            return Err(Error::new(ErrorKind::Model, "the layer has no quantiser")
                .place(format!("layer `{}`", node.name))
                .remedy("this is a mistake in the caller"));
        }
    };
    done.map_err(|e| refused(e, &node.name))
}

/// The builder's refusal, with the layer's name and what can be done.
fn refused(e: qat_kernels::Error, layer: &str) -> Error {
    use qat_kernels::{Error as E, OpFault};
    let remedy = match e {
        E::Op { fault: OpFault::Overflow { .. }, .. } => {
            "give the layer fewer inputs, fewer bits or a uniform step"
        }
        E::Op { fault: OpFault::Requantisation, .. } => {
            "its output is constant or its scales are extreme: train again"
        }
        _ => "change the layer in the run description",
    };
    Error::new(ErrorKind::Model, e.to_string()).place(format!("layer `{layer}`")).remedy(remedy)
}

/// Codes of fewer than 8 bits: the middle of the range alone.
fn narrowed(output: Output, bits: u8) -> Output {
    let ([lo, hi], [a, b]) = (Affine::codes(bits), output.clamp);
    Output { clamp: [a.clamp(lo, hi), b.clamp(lo, hi)], ..output }
}

fn transpose(codes: &[i8], rows: usize, columns: usize) -> Vec<i8> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| codes[r * columns + c])).collect()
}

fn shape16(shape: Shape, layer: &str) -> Result<[u16; 3]> {
    let narrow = |n: usize| {
        u16::try_from(n).map_err(|_| {
            Error::new(ErrorKind::Model, format!("a dimension of {n} does not fit the file format's 16 bits"))
                .place(format!("layer `{layer}`"))
                .remedy("make the layer smaller")
        })
    };
    Ok([narrow(shape.h)?, narrow(shape.w)?, narrow(shape.c)?])
}

fn window16(window: crate::spec::Window, node: &Node) -> Result<artifact::Window> {
    let fault = || {
        Error::new(ErrorKind::Model, "its kernel, stride or padding does not fit the file format")
            .place(format!("layer `{}`", node.name))
            .remedy("make the window smaller")
    };
    let wide = |n: usize| u16::try_from(n).map_err(|_| fault());
    let narrow = |n: usize| u8::try_from(n).map_err(|_| fault());
    let [top, left, bottom, right] = window.pads(node.input_shape);
    Ok(artifact::Window {
        kernel: [wide(window.kernel[0])?, wide(window.kernel[1])?],
        stride: [narrow(window.stride[0])?, narrow(window.stride[1])?],
        pad: [narrow(top)?, narrow(left)?, narrow(bottom)?, narrow(right)?],
    })
}

/// Lower-case hexadecimal digits.
///
/// ```
/// use qat_trainer::export::hex;
/// assert_eq!(hex(&[0x00, 0x0F, 0xA5]), "000fa5"); // two digits a byte, always
/// ```
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes().as_chunks::<2>().0;
    let mut out = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests;
