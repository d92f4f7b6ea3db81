//! What a `.piq` file holds, for people and for machines.

use crate::error::Result;
use crate::export::hex;
use qat_kernels::infer::Model;
use serde::Serialize;
use std::fmt;

/// Everything that a `.piq` file says about itself.
///
/// ```
/// # use qat_kernels::infer::Model;
/// # use qat_trainer::{export::Options, inspect::Report, seeded::seeded, spec::Run};
/// # let toml = r#"data = { format = "none", shape = [1, 1, 8], classes = ["a", "b"] }
/// # qat = { bits = 2, step = { pi-adaptive = { group = 8 } } }
/// # model = { layers = [{ op = "linear", out = 4, act = "relu" }, { op = "linear", out = 2, step = "uniform" }] }"#;
/// # let run = Run::parse(toml, "run.toml".as_ref())?;
/// // 8 inputs to 4 with a divisor for every 8 weights, then 4 to 2; all weights have 2 bits.
/// let file = seeded(&run, 1, Options::default())?;
/// let report = Report::new(&Model::parse(&file)?, file.len())?;
/// assert_eq!((report.weights, report.macs), (32 + 8, 32 + 8));
/// assert_eq!(report.bits_per_weight, 2.2); // 40 codes and 4 divisors of 2 bits each: 88 bits
/// assert!(report.arena_bytes >= report.arena_lower_bound);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Name of the model.
    pub name: String,
    /// What wrote the file.
    pub tool: String,
    /// Names of the classes.
    pub labels: Vec<String>,
    /// The input.
    pub input: Tensor,
    /// Pairs of mean and standard deviation that raw features are standardised with; 0: none.
    pub standardised_features: usize,
    /// The layers, in order.
    pub layers: Vec<Layer>,
    /// Bytes of the file.
    pub file_bytes: usize,
    /// Bytes of codes, divisors, biases and multipliers.
    pub parameter_bytes: usize,
    /// Number of weights.
    pub weights: usize,
    /// Mean bits per weight, biases and multipliers not counted.
    pub bits_per_weight: f64,
    /// Bytes of scratch memory that a run needs.
    pub arena_bytes: usize,
    /// The most bytes that any layer keeps alive in it: no arena can be smaller.
    pub arena_lower_bound: usize,
    /// The first layer that needs as many.
    pub arena_layer: usize,
    /// Multiply-accumulates of a run.
    pub macs: u64,
    /// Inputs in the file with the outputs that every engine must give.
    pub known_answers: usize,
    /// SHA-256 of the checkpoint that was exported.
    pub source_sha256: String,
    /// SHA-256 of the training files.
    pub dataset_sha256: String,
    /// Examples of the calibration.
    pub samples: u64,
    /// How the model was quantised.
    pub method: String,
    /// Unix time of the export in seconds, 0 if not stated.
    pub created: u64,
    /// The public key that the file claims to be signed with, in hexadecimal; empty if it is not signed. Not checked.
    pub signer: String,
}

/// Shape and code of a tensor.
///
/// ```
/// # use qat_trainer::{affine::Affine, inspect::Tensor};
/// let pixels = Tensor { shape: [28, 28, 1], scale: 0.5, zero_point: -128 };
/// let code = Affine { scale: pixels.scale, zero_point: pixels.zero_point };
/// assert_eq!(code.range(), [0.0, 127.5]); // what its int8 values stand for
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tensor {
    /// Height, width, channels.
    pub shape: [u16; 3],
    /// Real value of one step.
    pub scale: f32,
    /// The code of 0.
    pub zero_point: i8,
}

/// One layer.
///
/// ```
/// # use qat_kernels::infer::Model;
/// # use qat_trainer::{export::Options, inspect::Report, seeded::seeded, spec::Run};
/// # let toml = r#"data = { format = "none", shape = [6, 6, 2], classes = ["a", "b", "c"] }
/// # model = { layers = [{ op = "conv", out = 3, kernel = 3, bits = 4 }, { op = "global-avg-pool" }] }"#;
/// # let run = Run::parse(toml, "run.toml".as_ref())?;
/// // A 3×3 convolution of 6×6×2 to 3 channels, and the mean of each.
/// let file = seeded(&run, 7, Options::default())?;
/// let layers = Report::new(&Model::parse(&file)?, file.len())?.layers;
/// assert_eq!((layers[0].bits, layers[0].weights), (4, 3 * 3 * 2 * 3));
/// assert_eq!((layers[0].output.shape, layers[0].macs), ([4, 4, 3], 4 * 4 * 54));
/// assert_eq!((layers[1].bits, layers[1].weights), (0, 0)); // a pooling has none
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    /// Its operator.
    pub operator: &'static str,
    /// Bits per weight, 0 without weights.
    pub bits: u8,
    /// Weights per divisor of an adaptive Pi quantiser, 0 elsewhere.
    pub group: u8,
    /// Number of weights.
    pub weights: usize,
    /// Bytes of its parameters.
    pub bytes: usize,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Bytes of the arena that hold something while it runs.
    pub live_bytes: usize,
    /// Its output.
    pub output: Tensor,
}

impl Report {
    /// Reads a model; `file_bytes` is the length of its file.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Model`] if the metadata does not decode.
    ///
    /// ```
    /// # use qat_kernels::infer::Model;
    /// # use qat_trainer::{export::Options, inspect::Report, seeded::seeded, spec::Run};
    /// # let toml = r#"name = "tiny"
    /// # data = { format = "none", shape = [1, 1, 3], classes = ["no", "yes"] }
    /// # model = { layers = [{ op = "linear", out = 2 }] }"#;
    /// # let run = Run::parse(toml, "run.toml".as_ref())?;
    /// let file = seeded(&run, 1, Options { created: 1_700_000_000, ..Options::default() })?;
    /// let report = Report::new(&Model::parse(&file)?, file.len())?;
    /// assert_eq!((report.name.as_str(), report.created), ("tiny (untrained)", 1_700_000_000));
    /// assert_eq!(report.labels, ["no", "yes"]);
    /// assert_eq!((report.known_answers, report.signer.as_str()), (1, "")); // not signed
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn new(model: &Model<'_>, file_bytes: usize) -> Result<Self> {
        let meta = model.metadata()?;
        let arena = model.arena_use();
        let layers: Vec<Layer> = model
            .operators()
            .zip(&arena.live_bytes)
            .map(|(op, &live_bytes)| Layer {
                operator: op.name,
                bits: op.bits,
                group: op.group,
                weights: op.weights,
                bytes: op.parameter_bytes,
                macs: op.macs,
                live_bytes,
                output: Tensor {
                    shape: op.output_shape,
                    scale: op.output_scale,
                    zero_point: op.output_zero_point,
                },
            })
            .collect();
        let weights: usize = layers.iter().map(|l| l.weights).sum();
        let divisor_bits = |l: &Layer| if l.group == 0 { 0.0 } else { 2.0 / f64::from(l.group) };
        let bits: f64 = layers.iter().map(|l| l.weights as f64 * (f64::from(l.bits) + divisor_bits(l))).sum();
        Ok(Self {
            name: meta.name.into(),
            tool: meta.tool.into(),
            labels: meta.label_list().map(String::from).collect(),
            input: Tensor {
                shape: model.input_shape(),
                scale: model.input_scale(),
                zero_point: model.input_zero_point(),
            },
            standardised_features: meta.input.mean.len() / 4,
            file_bytes,
            parameter_bytes: layers.iter().map(|l| l.bytes).sum(),
            weights,
            bits_per_weight: bits / weights.max(1) as f64,
            arena_bytes: arena.arena_bytes,
            arena_lower_bound: arena.largest_live_set(),
            arena_layer: arena.largest_operator(),
            macs: model.macs(),
            known_answers: model.known_answers().count(),
            source_sha256: hex(&meta.source_sha256),
            dataset_sha256: hex(&meta.dataset_sha256),
            samples: meta.samples,
            method: meta.method.into(),
            created: meta.created,
            signer: model.signature().map(|s| hex(s.signer)).unwrap_or_default(),
            layers,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape =
            |[h, w, c]: [u16; 3]| if (h, w) == (1, 1) { format!("{c}") } else { format!("{h}x{w}x{c}") };
        writeln!(f, "{} ({} classes)", self.name, self.labels.len())?;
        writeln!(
            f,
            "  file {} bytes, arena {} bytes, {} MACs",
            self.file_bytes, self.arena_bytes, self.macs
        )?;
        writeln!(
            f,
            "  layer {} needs the most memory: {} bytes, the arena's lower bound",
            self.arena_layer, self.arena_lower_bound
        )?;
        writeln!(f, "  {} weights at {:.2} bits on average", self.weights, self.bits_per_weight)?;
        writeln!(
            f,
            "{:>4}  {:<16} {:>4} {:>10} {:>9} {:>9} {:>10} {:>9} {:>12} {:>5}",
            "", "operator", "bits", "output", "weights", "bytes", "MACs", "memory", "scale", "zero"
        )?;
        let Tensor { shape: s, scale, zero_point } = self.input;
        writeln!(
            f,
            "{:>4}  {:<16} {:>4} {:>10} {:>40} {scale:>12.4e} {zero_point:>5}",
            "",
            "input",
            "",
            shape(s),
            ""
        )?;
        for (i, l) in self.layers.iter().enumerate() {
            let bits = match (l.bits, l.group) {
                (0, _) => String::new(),
                (bits, 0) => bits.to_string(),
                (bits, group) => format!("{bits}/{group}"),
            };
            writeln!(
                f,
                "{i:>4}  {:<16} {bits:>4} {:>10} {:>9} {:>9} {:>10} {:>9} {:>12.4e} {:>5}",
                l.operator,
                shape(l.output.shape),
                l.weights,
                l.bytes,
                l.macs,
                l.live_bytes,
                l.output.scale,
                l.output.zero_point
            )?;
        }
        writeln!(f, "written by     {}", self.tool)?;
        writeln!(f, "quantised by   {} on {} examples", self.method, self.samples)?;
        writeln!(f, "checkpoint     sha256 {}", self.source_sha256)?;
        writeln!(f, "training data  sha256 {}", self.dataset_sha256)?;
        match self.created {
            0 => writeln!(f, "exported       time not stated")?,
            t => writeln!(f, "exported       {t} seconds after 1970-01-01 00:00 UTC")?,
        }
        if !self.signer.is_empty() {
            writeln!(f, "signed by      {}, not checked: `qat verify --key` does", self.signer)?;
        }
        write!(f, "known answers  {}", self.known_answers)
    }
}
