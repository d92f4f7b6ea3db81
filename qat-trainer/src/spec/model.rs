//! `[model]`: the layers, and the shape of every value between them.

mod act;

pub use act::Act;

use super::geometry::{MAX_DIM, Shape, Window};
use crate::affine::Affine;
use crate::error::{Error, ErrorKind, Result};
use qat_kernels::config::StepRule;
use qat_kernels::{Levels, QatConfig};
use serde::Deserialize;

/// The network: layers in the order in which they run.
///
/// TOML: `layers = [ { op = "conv", out = 16, kernel = 3, pad = 1, bn = true, act = "relu" }, … ]`. Each layer reads the
/// layer before it unless `input` names another.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The layers; at least one.
    pub layers: Vec<LayerSpec>,
    /// Whether the exported file ends with a softmax over the classes, so that it gives probabilities. TOML: `{ op =
    /// "softmax" }` behind the last layer. Everything before the export works on the logits, as if it was not there:
    /// losses, calibration, checkpoints. Probabilities have steps of 1/256, so that two classes can tie whose logits
    /// differ; the first then counts as the answer.
    pub softmax: bool,
    /// What its output stands for. TOML: `task`, default `"classify"`.
    pub task: Task,
}

/// What the output of a network stands for.
///
/// ```
/// use qat_trainer::spec::{Run, Shape, Task};
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// [model]
/// task = "reconstruct"
/// layers = [{ op = "linear", out = 2, act = "relu" }, { op = "linear", out = 4 }]
/// "#;
/// let model = Run::parse(toml, "run.toml".as_ref())?.model;
/// assert_eq!(model.task, Task::Reconstruct);
/// assert!(model.check(Shape::flat(4), 0).is_ok() && model.check(Shape::flat(5), 0).is_err()); // 4 come back
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One logit per class.
    #[default]
    Classify,
    /// The input, as an autoencoder gives it back: one value per feature, no classes.
    Reconstruct,
}

/// One layer.
///
/// ```
/// use qat_trainer::spec::Run;
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// [model]
/// layers = [
///   { op = "linear", out = 8, act = "relu" },
///   { op = "linear", name = "last", out = 2, incoherence = true },
/// ]
/// "#;
/// let layers = Run::parse(toml, "run.toml".as_ref())?.model.layers;
/// let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
/// assert_eq!(names, ["linear0", "last.rotation", "last"]);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Unique name; the prefix of the layer's tensors in a checkpoint. TOML: `name`; default: the operator and the index
    /// of the layer, as in `conv0`. The rotation before a linear layer `l` is called `l.rotation`.
    pub name: String,
    /// What it reads. TOML: `input`, the name of an earlier layer or `"input"`; default: the layer before.
    pub input: Value,
    /// What it does.
    pub op: Op,
    /// Bits of its output's code, 2 to 8, where it has a range of its own ([`Op::has_range`]); elsewhere the output keeps
    /// the code of the input. TOML: `act_bits`; default: `activation_bits` of `[qat]`, in the last layer 8.
    pub act_bits: u8,
    /// Line of the run description, for errors.
    pub line: String,
}

/// A value that flows through the network.
///
/// ```
/// use qat_trainer::spec::{Run, Value};
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// [model]
/// layers = [
///   { op = "linear", name = "left", out = 8, act = "relu" },
///   { op = "linear", out = 8, act = "relu", input = "input" },
///   { op = "add", from = "left" },
///   { op = "linear", out = 2 },
/// ]
/// "#;
/// let layers = Run::parse(toml, "run.toml".as_ref())?.model.layers;
/// let reads = [Value::Input, Value::Input, Value::Layer(1), Value::Layer(2)];
/// assert!(layers.iter().map(|layer| layer.input).eq(reads));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// The input of the model.
    Input,
    /// The output of the layer of this index.
    Layer(usize),
}

impl Value {
    /// What belongs to this value, out of what belongs to the input and to each layer.
    ///
    /// # Panics
    /// Never for a value of the [`ModelSpec`] that `layers` covers: a layer reads earlier ones only.
    pub(crate) fn of<T: Copy>(self, input: T, layers: &[T]) -> T {
        match self {
            Value::Input => input,
            Value::Layer(i) => layers[i],
        }
    }
}

/// An operator with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `conv`: 2-D convolution to `out` channels.
    Conv {
        /// Output channels.
        out: usize,
        /// Kernel, stride, padding.
        window: Window,
        /// Batch normalisation after it (`bn`, default false); without it the layer has a bias of its own.
        bn: bool,
        /// Activation after it (`act`, default none).
        act: Act,
        /// How its weights are quantised.
        quant: WeightQuant,
    },
    /// `depthwise`: one filter per channel.
    Depthwise {
        /// Kernel, stride, padding.
        window: Window,
        /// As for `conv`.
        bn: bool,
        /// As for `conv`.
        act: Act,
        /// As for `conv`.
        quant: WeightQuant,
    },
    /// `linear`: fully connected layer to `out` features; its input must be flat. With `incoherence = true` its weights are
    /// quantised in the basis of a randomised Hadamard rotation, and the engine rotates its input ([`Op::Rotate`]).
    Linear {
        /// Output features.
        out: usize,
        /// As for `conv`.
        bn: bool,
        /// As for `conv`.
        act: Act,
        /// As for `conv`.
        quant: WeightQuant,
    },
    /// `max-pool`: largest value of each window.
    MaxPool(Window),
    /// `avg-pool`: mean of each window.
    AvgPool(Window),
    /// `global-avg-pool`: mean of each channel; the output is flat.
    GlobalAvgPool,
    /// `add`: residual; adds the output of the layer that `from` names to its input.
    Add {
        /// The other summand.
        from: Value,
        /// Activation after the sum.
        act: Act,
    },
    /// `sigmoid`: the logistic function 1/(1 + e^(−x)) of every value. TOML also: `act = "sigmoid"`, which is a layer of
    /// its own behind the one that says so, called `NAME-sigmoid`; what reads `NAME` then reads that.
    Sigmoid,
    /// Rotates its input, which must be flat, for a linear layer with `incoherence = true`, before which it is put. In
    /// floating-point training it does nothing; see [`crate::graph`].
    Rotate,
    /// `flatten`: makes a map flat, channel by channel (the order of a C×H×W tensor).
    Flatten,
}

impl Op {
    /// The name in TOML. Rotations have none there.
    ///
    /// ```
    /// use qat_trainer::spec::Run;
    /// let toml = r#"
    /// # data = { format = "none", shape = [8, 8, 1] }
    /// [model]
    /// layers = [
    ///   { op = "conv", out = 4, kernel = 3, act = "sigmoid" },
    ///   { op = "global-avg-pool" },
    ///   { op = "linear", out = 2, incoherence = true },
    /// ]
    /// "#;
    /// let layers = Run::parse(toml, "run.toml".as_ref())?.model.layers;
    /// let names: Vec<&str> = layers.iter().map(|layer| layer.op.name()).collect();
    /// assert_eq!(names, ["conv", "sigmoid", "global-avg-pool", "rotate", "linear"]);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Op::Conv { .. } => "conv",
            Op::Depthwise { .. } => "depthwise",
            Op::Linear { .. } => "linear",
            Op::MaxPool(_) => "max-pool",
            Op::AvgPool(_) => "avg-pool",
            Op::GlobalAvgPool => "global-avg-pool",
            Op::Add { .. } => "add",
            Op::Sigmoid => "sigmoid",
            Op::Rotate => "rotate",
            Op::Flatten => "flatten",
        }
    }

    /// The activation, [`Act::None`] for operators that cannot have one.
    ///
    /// ```
    /// use qat_trainer::spec::{Act, Op, Value};
    /// let sum = Op::Add { from: Value::Input, act: Act::Relu6 };
    /// assert_eq!((sum.act(), Op::GlobalAvgPool.act()), (Act::Relu6, Act::None));
    /// ```
    #[must_use]
    pub const fn act(&self) -> Act {
        match self {
            Op::Conv { act, .. }
            | Op::Depthwise { act, .. }
            | Op::Linear { act, .. }
            | Op::Add { act, .. } => *act,
            _ => Act::None,
        }
    }

    /// The quantiser of the weights, where there are weights.
    ///
    /// ```
    /// use qat_trainer::spec::Run;
    /// let toml = r#"
    /// # data = { format = "none", shape = [4, 4, 1] }
    /// [model]
    /// layers = [
    ///   { op = "flatten" },
    ///   { op = "linear", out = 8, act = "relu" },
    ///   { op = "linear", out = 2, bits = 8 },
    /// ]
    /// [qat]
    /// bits = 2
    /// "#;
    /// let layers = Run::parse(toml, "run.toml".as_ref())?.model.layers;
    /// let bits = layers.iter().map(|layer| layer.op.quant().map(|quant| quant.levels.bits()));
    /// assert!(bits.eq([None, Some(2), Some(8)]));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub const fn quant(&self) -> Option<WeightQuant> {
        match self {
            Op::Conv { quant, .. } | Op::Depthwise { quant, .. } | Op::Linear { quant, .. } => Some(*quant),
            _ => None,
        }
    }

    /// Changes the quantiser of the weights, where there are weights.
    pub(crate) fn set_quant(&mut self, to: WeightQuant) {
        if let Op::Conv { quant, .. } | Op::Depthwise { quant, .. } | Op::Linear { quant, .. } = self {
            *quant = to;
        }
    }

    /// The shape of the weights in torch's layout, for an input of this shape; see [`crate::checkpoint`].
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels, StepRule};
    /// use qat_trainer::spec::{Act, Op, Padding, Shape, WeightQuant, Window};
    /// let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// let window = Window { kernel: [3, 1], stride: [1, 1], pad: Padding::Same };
    /// let map = Shape { h: 9, w: 7, c: 8 };
    /// let conv = Op::Conv { out: 16, window, bn: false, act: Act::None, quant };
    /// let depthwise = Op::Depthwise { window, bn: false, act: Act::None, quant };
    /// assert_eq!(conv.weight_shape(map), Some(vec![16, 8, 3, 1]));
    /// assert_eq!(depthwise.weight_shape(map), Some(vec![8, 1, 3, 1])); // one filter a channel
    /// assert_eq!(Op::Flatten.weight_shape(map), None);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn weight_shape(&self, input: Shape) -> Option<Vec<usize>> {
        match self {
            Op::Conv { out, window, .. } => Some(vec![*out, input.c, window.kernel[0], window.kernel[1]]),
            Op::Depthwise { window, .. } => Some(vec![input.c, 1, window.kernel[0], window.kernel[1]]),
            Op::Linear { out, .. } => Some(vec![*out, input.len()]),
            _ => None,
        }
    }

    /// Whether batch normalisation follows the weights.
    ///
    /// ```
    /// use qat_trainer::spec::Run;
    /// let toml = r#"
    /// # data = { format = "none", shape = [1, 1, 4] }
    /// [model]
    /// layers = [{ op = "linear", out = 8, bn = true, act = "relu" }, { op = "linear", out = 2 }]
    /// "#;
    /// let layers = Run::parse(toml, "run.toml".as_ref())?.model.layers;
    /// let normalised: Vec<&str> = layers.iter().filter(|l| l.op.bn()).map(|l| l.name.as_str()).collect();
    /// assert_eq!(normalised, ["linear0"]); // only the other one has a bias of its own
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub const fn bn(&self) -> bool {
        matches!(
            self,
            Op::Conv { bn: true, .. } | Op::Depthwise { bn: true, .. } | Op::Linear { bn: true, .. }
        )
    }

    /// The code of the output where it is always the same: steps of 1/256 from 0 for what lies between 0 and 1. The largest
    /// code stands for 255/256.
    ///
    /// ```
    /// use qat_trainer::spec::Op;
    /// let codes = Op::Sigmoid.fixed_code().map(|code| [0.0, 0.5, 1.0].map(|x| code.quantize(x)));
    /// assert_eq!(codes, Some([-128, 0, 127])); // 1 itself is out of reach
    /// assert_eq!(Op::GlobalAvgPool.fixed_code(), None);
    /// ```
    #[must_use]
    pub const fn fixed_code(&self) -> Option<Affine> {
        match self {
            Op::Sigmoid => Some(Affine { scale: 1.0 / 256.0, zero_point: i8::MIN }),
            _ => None,
        }
    }

    /// Whether the output gets a range of its own (weights, sums, rotations). The others have a fixed code or keep that of
    /// their input.
    ///
    /// ```
    /// use qat_trainer::spec::{Act, Op, Value};
    /// let sum = Op::Add { from: Value::Input, act: Act::Relu };
    /// assert!(sum.has_range() && Op::Rotate.has_range()); // to be calibrated
    /// assert!(!Op::GlobalAvgPool.has_range() && !Op::Sigmoid.has_range()); // the input's code, a fixed one
    /// ```
    #[must_use]
    pub const fn has_range(&self) -> bool {
        matches!(
            self,
            Op::Conv { .. } | Op::Depthwise { .. } | Op::Linear { .. } | Op::Add { .. } | Op::Rotate
        )
    }
}

/// How the weights of one layer are quantised, one step per output channel. TOML: `bits`, `grid`, `step` of the layer;
/// default: those of `[qat]`.
///
/// ```
/// use qat_kernels::{Grid, Levels, StepRule};
/// use qat_trainer::spec::{Run, WeightQuant};
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// model = { layers = [{ op = "linear", out = 2, step = { pi = { k = 3 } } }] }
/// qat = { bits = 2, grid = "mid-rise" }
/// "#;
/// let run = Run::parse(toml, "run.toml".as_ref())?;
/// let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Pi { k: 3 } };
/// assert_eq!(run.model.layers[0].op.quant(), Some(quant));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightQuant {
    /// Bits and grid.
    pub levels: Levels,
    /// Uniform or Pi steps.
    pub step: StepRule,
}

/// What layers have that do not say otherwise.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    /// Bits, grid and step.
    pub(super) config: QatConfig,
    /// Bits of activations.
    pub(super) activation_bits: u8,
}

/// Largest number of elements of a value.
const MAX_LEN: usize = 1 << 28;

impl ModelSpec {
    /// The shape of each layer's output, given that of the model's input.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] naming the layer: a window larger than its input, a linear layer on a map, a sum of different
    /// shapes.
    ///
    /// ```
    /// use qat_trainer::spec::{Run, Shape};
    /// # let toml = r#"
    /// # [data]
    /// # format = "csv"
    /// # train = "train.csv"
    /// # test = "test.csv"
    /// # [model]
    /// # layers = [{ op = "linear", out = 8, act = "relu" }, { op = "linear", out = 3 }]
    /// # "#;
    /// # let run = Run::parse(toml, "run.toml".as_ref())?;
    /// assert_eq!(run.model.shapes(Shape::flat(16))?, [Shape::flat(8), Shape::flat(3)]);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn shapes(&self, input: Shape) -> Result<Vec<Shape>> {
        let mut shapes: Vec<Shape> = Vec::with_capacity(self.layers.len());
        let shape_of = |shapes: &[Shape], value: Value| value.of(input, shapes);
        for (i, layer) in self.layers.iter().enumerate() {
            let x = shape_of(&shapes, layer.input);
            let fail = |problem: String, remedy: &str| layer.error(problem).remedy(remedy);
            let windowed = |w: &Window, c: usize| -> Result<Shape> {
                match w.output(x) {
                    Some([h, w]) => Ok(Shape { h, w, c }),
                    None => Err(fail(
                        format!(
                            "its kernel of {}x{} is larger than its input of {x}",
                            w.kernel[0], w.kernel[1]
                        ),
                        "make the kernel smaller, pad, or pool less before it",
                    )),
                }
            };
            let out = match &layer.op {
                Op::Conv { out, window, .. } => windowed(window, *out)?,
                Op::Depthwise { window, .. } => windowed(window, x.c)?,
                Op::MaxPool(window) | Op::AvgPool(window) => windowed(window, x.c)?,
                Op::Linear { .. } | Op::Rotate if !x.is_flat() => {
                    return Err(fail(
                        format!("a linear layer cannot read a map of {x}"),
                        "put { op = \"flatten\" } or a global-avg-pool before it",
                    ));
                }
                Op::Linear { out, .. } => Shape::flat(*out),
                Op::Rotate if x.c.is_multiple_of(2) => x,
                Op::Rotate => {
                    return Err(fail(
                        format!("no rotation mixes an odd number of inputs, {x}"),
                        "remove `incoherence`, or give the layer before an even number of outputs",
                    ));
                }
                Op::GlobalAvgPool => Shape::flat(x.c),
                Op::Sigmoid => x,
                Op::Flatten => Shape::flat(x.len()),
                Op::Add { from, .. } => {
                    let other = shape_of(&shapes, *from);
                    if other != x {
                        return Err(fail(format!("it adds {other} to {x}"), "bring both to one shape"));
                    }
                    x
                }
            };
            // A flattened map lies in C×H×W order in training and in H×W×C order on the integer engine. A linear layer
            // makes up for it with the order of its weights; nothing else can.
            if self.flattened(layer.input, input, &shapes).is_some()
                && !matches!(layer.op, Op::Linear { .. } | Op::Rotate | Op::Flatten)
            {
                return Err(fail(
                    format!("a {} cannot follow a flatten", layer.op.name()),
                    "flatten right before the linear layer",
                ));
            }
            if let (Some(quant), Some(shape)) = (layer.op.quant(), layer.op.weight_shape(x))
                && let StepRule::PiAdaptive { group } = quant.step
            {
                let fan_in: usize = shape.iter().skip(1).product();
                if matches!(layer.op, Op::Depthwise { .. }) || !fan_in.is_multiple_of(group) {
                    return Err(fail(
                        format!("groups of {group} do not divide its {fan_in} weights per channel"),
                        "give this layer step = { pi = { k = 3 } }",
                    ));
                }
            }
            if out.len() > MAX_LEN || out.h > MAX_DIM || out.w > MAX_DIM || out.c > MAX_DIM {
                return Err(fail(
                    format!("its output of {out} is too large"),
                    "use a larger stride or fewer channels",
                ));
            }
            shapes.push(out);
            if i + 1 == self.layers.len() && self.flattened(Value::Layer(i), input, &shapes).is_some() {
                return Err(fail("the last layer is a flatten".into(), "end with a linear layer"));
            }
        }
        Ok(shapes)
    }

    /// If `value` is a flattened map, the map's shape.
    pub(crate) fn flattened(&self, value: Value, input: Shape, shapes: &[Shape]) -> Option<Shape> {
        let Value::Layer(i) = value else { return None };
        let layer = self.layers.get(i).filter(|l| matches!(l.op, Op::Flatten))?;
        let map = layer.input.of(input, shapes);
        if map.is_flat() { self.flattened(layer.input, input, shapes) } else { Some(map) }
    }

    /// If the layer of this index reads a rotation, the index of that.
    pub(crate) fn rotation_before(&self, layer: usize) -> Option<usize> {
        match self.layers.get(layer)?.input {
            Value::Layer(i) if matches!(self.layers.get(i)?.op, Op::Rotate) => Some(i),
            _ => None,
        }
    }

    /// Checks that the network turns `input` into one number per class, or, with [`Task::Reconstruct`], per feature.
    ///
    /// # Errors
    /// Those of [`Self::shapes`], and [`ErrorKind::Spec`] if the last layer has another width or an activation.
    ///
    /// ```
    /// use qat_trainer::spec::{Run, Shape};
    /// let toml = r#"
    /// # data = { format = "none", shape = [1, 1, 4] }
    /// [model]
    /// layers = [{ op = "linear", out = 8, act = "relu" }, { op = "linear", out = 3 }]
    /// "#;
    /// let model = Run::parse(toml, "run.toml".as_ref())?.model;
    /// assert_eq!(model.check(Shape::flat(4), 3)?, [Shape::flat(8), Shape::flat(3)]);
    /// let e = model.check(Shape::flat(4), 5).unwrap_err();
    /// assert!(e.to_string().contains("gives 3, but the data has 5 classes"), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn check(&self, input: Shape, classes: usize) -> Result<Vec<Shape>> {
        let shapes = self.shapes(input)?;
        if let (Some(layer), Some(out)) = (self.layers.last(), shapes.last()) {
            if self.task == Task::Reconstruct {
                if self.softmax {
                    return Err(Error::new(
                        ErrorKind::Spec,
                        "a softmax is for classes, and `task` is \"reconstruct\"",
                    )
                    .place("`layers` of [model]")
                    .remedy("remove { op = \"softmax\" }; a sigmoid is possible"));
                }
                let features = input.len();
                return match *out == Shape::flat(features) {
                    true => Ok(shapes),
                    false => Err(layer
                        .error(format!("the last layer gives {out}, but the input has {features} features"))
                        .remedy(format!("end with {{ op = \"linear\", out = {features} }}"))),
                };
            }
            if *out != Shape::flat(classes) {
                return Err(layer
                    .error(format!("the last layer gives {out}, but the data has {classes} classes"))
                    .remedy(format!("end with {{ op = \"linear\", out = {classes} }}")));
            }
            if layer.op.act() != Act::None {
                return Err(layer
                    .error("the last layer has an activation, but its output is read as logits")
                    .remedy("remove `act`"));
            }
            if layer.op == Op::Sigmoid {
                return Err(layer
                    .error("the last layer is a sigmoid, but its output is read as logits")
                    .remedy("remove it; { op = \"softmax\" } makes the exported file give probabilities"));
            }
        }
        Ok(shapes)
    }
}

impl LayerSpec {
    /// An error about this layer.
    pub(crate) fn error(&self, problem: impl Into<String>) -> Error {
        Error::new(ErrorKind::Spec, problem).place(format!("{}, layer `{}`", self.line, self.name))
    }
}

#[cfg(test)]
pub(super) mod tests;
