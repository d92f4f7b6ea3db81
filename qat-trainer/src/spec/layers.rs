//! `[model]` as TOML has it: one flat table per layer, checked key by key.

use super::geometry::{MAX_DIM, Padding, Window};
use super::model::{Act, Defaults, LayerSpec, ModelSpec, Op, Task, Value, WeightQuant};
use super::{Source, qat::check_layer_config};
use crate::error::{Error, ErrorKind, Result};
use qat_kernels::config::StepRule;
use qat_kernels::{Grid, MAX_BITS, MIN_BITS, QatConfig};
use serde::Deserialize;

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "expected one number, or two: [vertical, horizontal]")]
enum Pair {
    Both(usize),
    Each([usize; 2]),
}

impl From<Pair> for [usize; 2] {
    fn from(p: Pair) -> Self {
        match p {
            Pair::Both(n) => [n, n],
            Pair::Each(p) => p,
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"same\", one number, [vertical, horizontal], or [top, left, bottom, right]"
)]
enum Pad {
    Word(PadWord),
    All(usize),
    Axes([usize; 2]),
    Sides([usize; 4]),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PadWord {
    Same,
}

impl From<Pad> for Padding {
    fn from(pad: Pad) -> Self {
        match pad {
            Pad::Word(PadWord::Same) => Padding::Same,
            Pad::All(n) => Padding::Sides([n; 4]),
            Pad::Axes([v, h]) => Padding::Sides([v, h, v, h]),
            Pad::Sides(sides) => Padding::Sides(sides),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OpName {
    Conv,
    Depthwise,
    Linear,
    MaxPool,
    AvgPool,
    GlobalAvgPool,
    Add,
    Sigmoid,
    Flatten,
    Softmax,
}

/// [`Act`] as TOML has it, and a sigmoid, which is a layer of its own.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawAct {
    #[default]
    None,
    Relu,
    Relu6,
    Sigmoid,
}

impl From<RawAct> for Act {
    fn from(act: RawAct) -> Self {
        match act {
            RawAct::None | RawAct::Sigmoid => Act::None,
            RawAct::Relu => Act::Relu,
            RawAct::Relu6 => Act::Relu6,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    layers: Vec<toml::Spanned<RawLayer>>,
    #[serde(default)]
    task: Task,
}

/// One flat table for all operators, so that the parser reports unknown keys with their line; which key belongs to
/// which operator is checked afterwards.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLayer {
    op: OpName,
    name: Option<String>,
    input: Option<String>,
    out: Option<usize>,
    kernel: Option<Pair>,
    stride: Option<Pair>,
    pad: Option<Pad>,
    bn: Option<bool>,
    act: Option<RawAct>,
    bits: Option<u8>,
    grid: Option<Grid>,
    step: Option<StepRule>,
    act_bits: Option<u8>,
    from: Option<String>,
    incoherence: Option<bool>,
}

impl ModelSpec {
    pub(super) fn from_raw(raw: RawModel, defaults: Defaults, source: Source<'_>) -> Result<Self> {
        let RawModel { layers: mut list, task } = raw;
        let softmax = list.pop_if(|last| last.get_ref().op == OpName::Softmax);
        if let Some(softmax) = &softmax {
            let line = source.place(softmax.span().start);
            softmax.get_ref().refuse_foreign_keys("softmax").map_err(|e| e.place(line))?;
        }
        if list.is_empty() {
            return Err(source.error("model", "layers", "the network has no layer").remedy("add layers"));
        }
        let count = list.len();
        let mut before = Before::default();
        for (i, raw) in list.into_iter().enumerate() {
            let line = source.place(raw.span().start);
            // Logits are compared with each other: few codes would make ties.
            let rotated_bits = defaults.activation_bits;
            let activation_bits = if i + 1 == count { MAX_BITS } else { defaults.activation_bits };
            let defaults = Defaults { activation_bits, ..defaults };
            let raw = raw.into_inner();
            let sigmoid = raw.act == Some(RawAct::Sigmoid);
            let incoherent = raw.incoherence == Some(true);
            let resolved = raw.resolve(i, &before, &defaults, &line).and_then(|mut layer| {
                let name = layer.name.clone();
                if incoherent {
                    before.push_rotation(&mut layer, rotated_bits);
                }
                before.push(layer)?;
                if sigmoid { before.push_sigmoid(name, &line) } else { Ok(()) }
            });
            resolved.map_err(|e| e.place(line))?;
        }
        Ok(Self { layers: before.layers, softmax: softmax.is_some(), task })
    }
}

/// The layers so far.
#[derive(Default)]
struct Before {
    layers: Vec<LayerSpec>,
    /// What a name stands for: the layer of this index.
    names: Vec<(String, usize)>,
}

impl Before {
    fn find(&self, wanted: &str) -> Option<Value> {
        self.names.iter().find(|(name, _)| name == wanted).map(|&(_, i)| Value::Layer(i))
    }

    /// The value that a layer reads if it does not say what.
    fn last(&self) -> Value {
        self.layers.len().checked_sub(1).map_or(Value::Input, Value::Layer)
    }

    fn push(&mut self, layer: LayerSpec) -> Result<()> {
        if self.find(&layer.name).is_some() {
            return Err(spec(format!("two layers are called `{}`", layer.name)).remedy("rename one"));
        }
        self.names.push((layer.name.clone(), self.layers.len()));
        self.layers.push(layer);
        Ok(())
    }

    /// Puts a rotation before a layer that is still to be pushed. Its name cannot be written in a run description.
    fn push_rotation(&mut self, before: &mut LayerSpec, act_bits: u8) {
        let input = std::mem::replace(&mut before.input, Value::Layer(self.layers.len()));
        self.layers.push(LayerSpec {
            name: format!("{}.rotation", before.name),
            input,
            op: Op::Rotate,
            act_bits,
            line: before.line.clone(),
        });
    }

    /// Puts a sigmoid behind the last layer, called `name`; from now on that name stands for the sigmoid.
    fn push_sigmoid(&mut self, name: String, line: &str) -> Result<()> {
        let input = self.last();
        if let Some((_, stands_for)) = self.names.last_mut() {
            *stands_for = self.layers.len();
        }
        self.push(LayerSpec {
            name: format!("{name}-sigmoid"),
            input,
            op: Op::Sigmoid,
            act_bits: MAX_BITS,
            line: line.into(),
        })
    }
}

impl RawLayer {
    fn resolve(self, index: usize, before: &Before, defaults: &Defaults, line: &str) -> Result<LayerSpec> {
        let kind = match self.op {
            OpName::Conv => "conv",
            OpName::Depthwise => "depthwise",
            OpName::Linear => "linear",
            OpName::MaxPool => "max-pool",
            OpName::AvgPool => "avg-pool",
            OpName::GlobalAvgPool => "global-avg-pool",
            OpName::Add => "add",
            OpName::Sigmoid => "sigmoid",
            OpName::Flatten => "flatten",
            OpName::Softmax => "softmax",
        };
        self.refuse_foreign_keys(kind)?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => format!("{kind}{index}"),
        };
        let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if name.is_empty() || name == "input" || name.len() > 64 || !name.chars().all(usable) {
            return Err(spec(format!("`{name}` cannot be the name of a layer"))
                .remedy("use letters, digits, - and _, at most 64, and not `input`"));
        }
        let find = |wanted: &str| {
            if wanted == "input" {
                return Ok(Value::Input);
            }
            before.find(wanted).ok_or_else(|| {
                spec(format!("no earlier layer is called `{wanted}`"))
                    .remedy("give that layer a `name`, or correct this one")
            })
        };
        let input = match &self.input {
            Some(wanted) => find(wanted)?,
            None => before.last(),
        };
        let (bn, act) = (self.bn.unwrap_or(false), self.act.unwrap_or_default().into());
        let op = match self.op {
            OpName::Conv => Op::Conv {
                out: self.out()?,
                window: self.window(false)?,
                bn,
                act,
                quant: self.quant(&defaults.config)?,
            },
            OpName::Depthwise => {
                Op::Depthwise { window: self.window(false)?, bn, act, quant: self.quant(&defaults.config)? }
            }
            OpName::Linear => Op::Linear { out: self.out()?, bn, act, quant: self.quant(&defaults.config)? },
            OpName::MaxPool => Op::MaxPool(self.window(true)?),
            OpName::AvgPool => Op::AvgPool(self.window(true)?),
            OpName::GlobalAvgPool => Op::GlobalAvgPool,
            OpName::Sigmoid => Op::Sigmoid,
            OpName::Flatten => Op::Flatten,
            OpName::Softmax => {
                return Err(spec("a softmax can only be the last layer").remedy(
                    "move it to the end, or remove it: training reads logits, exported files get the softmax",
                ));
            }
            OpName::Add => {
                let from = self.from.as_deref().ok_or_else(|| {
                    spec("`from` is missing").remedy("name the layer whose output is to be added")
                })?;
                Op::Add { from: find(from)?, act }
            }
        };
        let act_bits = self.act_bits.unwrap_or(defaults.activation_bits);
        if !(MIN_BITS..=MAX_BITS).contains(&act_bits) {
            return Err(spec(format!("`act_bits` is {act_bits}")).remedy("2 to 8 are possible"));
        }
        Ok(LayerSpec { name, input, op, act_bits, line: line.into() })
    }

    fn refuse_foreign_keys(&self, kind: &str) -> Result<()> {
        use OpName as O;
        let weighted = matches!(self.op, O::Conv | O::Depthwise | O::Linear);
        let windowed = matches!(self.op, O::Conv | O::Depthwise | O::MaxPool | O::AvgPool);
        let padded = matches!(self.op, O::Conv | O::Depthwise);
        let keys = [
            ("out", self.out.is_some(), matches!(self.op, O::Conv | O::Linear)),
            ("kernel", self.kernel.is_some(), windowed),
            ("stride", self.stride.is_some(), windowed),
            ("pad", self.pad.is_some(), padded),
            ("bn", self.bn.is_some(), weighted),
            ("act", self.act.is_some(), weighted || matches!(self.op, O::Add)),
            ("bits", self.bits.is_some(), weighted),
            ("grid", self.grid.is_some(), weighted),
            ("step", self.step.is_some(), weighted),
            ("act_bits", self.act_bits.is_some(), weighted || matches!(self.op, O::Add)),
            ("from", self.from.is_some(), matches!(self.op, O::Add)),
            ("input", self.input.is_some(), !matches!(self.op, O::Softmax)),
            ("incoherence", self.incoherence.is_some(), matches!(self.op, O::Linear)),
        ];
        for (key, given, meant) in keys {
            if given && !meant {
                return Err(spec(format!("`{key}` has no meaning for op = \"{kind}\"")).remedy("remove it"));
            }
        }
        Ok(())
    }

    fn out(&self) -> Result<usize> {
        match self.out {
            Some(n) if (1..=MAX_DIM).contains(&n) => Ok(n),
            Some(n) => Err(spec(format!("`out` is {n}")).remedy(format!("choose 1..={MAX_DIM}"))),
            None => Err(spec("`out` is missing").remedy("give the number of output channels")),
        }
    }

    fn window(&self, pooling: bool) -> Result<Window> {
        let kernel: [usize; 2] =
            self.kernel.ok_or_else(|| spec("`kernel` is missing").remedy("give its size"))?.into();
        let stride = self.stride.map_or(if pooling { kernel } else { [1, 1] }, Into::into);
        let pad = self.pad.map_or(Padding::Sides([0; 4]), Into::into);
        for i in 0..2 {
            for (key, n) in [("kernel", kernel[i]), ("stride", stride[i])] {
                if !(1..=255).contains(&n) {
                    return Err(spec(format!("`{key}` is {n}")).remedy("choose 1..=255"));
                }
            }
            if let Padding::Sides(sides) = pad
                && let Some(wide) = sides.iter().skip(i).step_by(2).find(|&&n| n >= kernel[i])
            {
                return Err(spec(format!("`pad` of {wide} is not smaller than the kernel"))
                    .remedy("pad less than the kernel's size"));
            }
        }
        Ok(Window { kernel, stride, pad })
    }

    fn quant(&self, defaults: &QatConfig) -> Result<WeightQuant> {
        let config = defaults
            .with_bits(self.bits.unwrap_or(defaults.bits))
            .with_grid(self.grid.unwrap_or(defaults.grid))
            .with_step(self.step.unwrap_or(defaults.step));
        check_layer_config(&config)?;
        Ok(WeightQuant { levels: config.levels()?, step: config.step })
    }
}

fn spec(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::Spec, problem)
}

#[cfg(test)]
mod tests {
    use crate::spec::Value;
    use crate::spec::model::tests::model;

    #[test]
    fn mistakes_name_the_line_and_the_key() {
        let cases = [
            (r#"{ op = "conv", out = 1, kernel = 3, pad = 3 }"#, "`pad`"),
            (r#"{ op = "conv", out = 1, kernel = [3, 2], pad = [2, 1, 2, 2] }"#, "`pad` of 2"),
            (r#"{ op = "conv", out = 1, kernel = 3, pad = "some" }"#, "\"same\""),
            (r#"{ op = "max-pool", kernel = 3, pad = "same" }"#, "`pad` has no meaning"),
            (r#"{ op = "max-pool", kernel = 0 }"#, "`kernel` is 0"),
            (r#"{ op = "add" }"#, "`from` is missing"),
            (r#"{ op = "linear", out = 3, act_bits = 1 }"#, "`act_bits` is 1"),
            (r#"{ op = "flatten", act_bits = 4 }"#, "`act_bits` has no meaning"),
            (r#"{ op = "conv", out = 1, kernel = 3, incoherence = true }"#, "`incoherence` has no meaning"),
            (r#"{ op = "flatten", name = "a b" }"#, "cannot be the name"),
            (r#"{ op = "flatten", name = "a" }, { op = "flatten", name = "a" }"#, "two layers"),
            (r#"{ op = "softmax" }, { op = "linear", out = 3 }"#, "only be the last layer; move it"),
            (
                r#"{ op = "linear", out = 3 }, { op = "softmax" }, { op = "softmax" }"#,
                "only be the last layer",
            ),
            (r#"{ op = "linear", out = 3, act = "softmax" }"#, "`softmax`"),
            (r#"{ op = "linear", out = 3 }, { op = "softmax", input = "input" }"#, "`input` has no meaning"),
            (r#"{ op = "linear", out = 3 }, { op = "softmax", bits = 8 }"#, "`bits` has no meaning"),
            (r#"{ op = "sigmoid", act = "relu" }"#, "`act` has no meaning"),
            (r#"{ op = "max-pool", kernel = 2, act = "sigmoid" }"#, "`act` has no meaning"),
            (
                r#"{ op = "linear", name = "a", out = 3, act = "sigmoid" }, { op = "linear", name = "a-sigmoid", out = 3 }"#,
                "two layers are called `a-sigmoid`",
            ),
            (r#"{ op = "softmax" }"#, "no layer"),
            ("", "no layer"),
        ];
        for (layers, want) in cases {
            let e = model(layers).unwrap_err().to_string();
            assert!(e.contains("line ") && e.contains(want), "{e}");
        }
    }
    #[test]
    fn a_sigmoid_as_activation_is_a_layer_of_its_own() {
        let short = model(
            r#"
            { op = "linear", name = "a", out = 4, act = "sigmoid" },
            { op = "linear", out = 4 },
            { op = "add", from = "a", act = "sigmoid" },
            { op = "linear", out = 3 }"#,
        );
        let long = model(
            r#"
            { op = "linear", name = "a", out = 4 },
            { op = "sigmoid", name = "a-sigmoid" },
            { op = "linear", name = "linear1", out = 4 },
            { op = "add", name = "add2", from = "a-sigmoid" },
            { op = "sigmoid", name = "add2-sigmoid" },
            { op = "linear", name = "linear3", out = 3 }"#,
        );
        let (short, long) = (short.unwrap(), long.unwrap());
        assert_eq!(short.layers.len(), long.layers.len());
        for (short, long) in short.layers.iter().zip(&long.layers) {
            assert_eq!((&short.name, short.input, &short.op), (&long.name, long.input, &long.op));
        }
        assert_eq!(short.layers[5].input, Value::Layer(4));
    }

    #[test]
    fn a_closing_softmax_is_no_layer() {
        let plain = model(r#"{ op = "linear", out = 4 }, { op = "linear", out = 3 }"#).unwrap();
        let with =
            model(r#"{ op = "linear", out = 4 }, { op = "linear", out = 3 }, { op = "softmax" }"#).unwrap();
        assert!(with.softmax && !plain.softmax);
        assert_eq!(with.layers.len(), 2);
        // The layer before it is still the last, and has 8 bits.
        assert_eq!(with.layers[1].act_bits, plain.layers[1].act_bits);
    }
}
