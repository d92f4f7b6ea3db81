//! `qat llm`.

#[cfg(feature = "tch")]
mod chat;
#[cfg(feature = "tch")]
mod eval;
#[cfg(feature = "tch")]
mod exact;
#[cfg(feature = "tch")]
mod export;
#[cfg(feature = "tch")]
mod generate;
#[cfg(feature = "tch")]
mod merge;
mod options;
#[cfg(feature = "tch")]
mod quantize;
#[cfg(feature = "tch")]
mod synthesize;
#[cfg(feature = "tch")]
mod train;

use super::train::Checkpoints;
use options::{Compute, Model, Rounding, Sample};
use qat_trainer::Result;
use std::ops::Range;
use std::path::PathBuf;

/// Arguments of `qat llm`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Measure the perplexity of a model on a text, also with its matrices rounded.
    Eval(Eval),
    /// Quantise the matrices of a model, without training, so that what each block makes of a text changes least.
    Quantize(Quantize),
    /// Pack a quantised model into one file, which `qat llm eval`, `generate` and `chat` run by its codes.
    Export(Export),
    /// Continue a text.
    Generate(Generate),
    /// Let a model write texts of its own, to be quantised and trained on where there is no other text.
    Synthesize(Synthesize),
    /// Train a model: from nothing, or one that is loaded.
    Train(Train),
    /// Add the adapters of a training, or others in PEFT's layout, to the matrices of the model they were trained on.
    Merge(Merge),
    /// Let a model solve the problems that a run description holds out, and count exact answers.
    Exact(Exact),
    /// Talk with an instruction-tuned model: each line of standard input is answered.
    Chat(Chat),
}

/// Arguments of `qat llm eval`.
#[derive(clap::Args)]
struct Eval {
    #[command(flatten)]
    model: Model,
    /// The text, UTF-8; all kinds of line ends are read as one character.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Use only these characters of it, from A up to but not including B.
    #[arg(long, value_name = "A..B", value_parser = range)]
    chars: Option<Range<usize>>,
    /// Tokens in a window; the first of each is given, the others are predicted.
    #[arg(long, default_value_t = 512, value_name = "N")]
    window: usize,
    /// Use at most so many windows; all full ones if not given.
    #[arg(long, value_name = "N")]
    windows: Option<usize>,
    #[command(flatten)]
    rounding: Rounding,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Arguments of `qat llm quantize`.
#[derive(clap::Args)]
struct Quantize {
    #[command(flatten)]
    model: Model,
    /// The text to be true to, UTF-8; may be given several times. Some 8,000 tokens like those that the model is for.
    #[arg(long, value_name = "FILE", required = true)]
    text: Vec<PathBuf>,
    /// Tokens in a window of text.
    #[arg(long, default_value_t = 512, value_name = "N")]
    window: usize,
    /// Use at most so many windows, as many of each text, evenly spread over it.
    #[arg(long, default_value_t = 16, value_name = "N")]
    windows: usize,
    /// Bits per weight in the matrices of all blocks.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=8))]
    bits: u8,
    /// Bits per weight in embedding and head; they stay as they are if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=8))]
    table_bits: Option<u8>,
    /// What the steps are.
    #[arg(long, value_enum, default_value_t = StepName::PiAdaptive)]
    step: StepName,
    /// The divisor of the steps of --step pi.
    #[arg(long, value_name = "K", default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=5))]
    k: u8,
    /// Whether 0 is a level.
    #[arg(long, value_enum, default_value_t = GridName::MidRise)]
    grid: GridName,
    /// Weights that share one α, or one uniform step; a multiple of the group that divides every row.
    #[arg(long, value_name = "N", default_value_t = 64)]
    block: usize,
    /// Weights that share a k of --step pi-adaptive: 8, 16 or 32.
    #[arg(long, value_name = "N", default_value_t = 16)]
    group: usize,
    /// Share of the mean of the inputs' squares that is added to each; more for less text.
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    damping: f64,
    /// A new folder: config.json, model.safetensors with the quantised weights as numbers, the tokenizer, and the codes in
    /// codes.safetensors.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Kinds of steps.
#[derive(Clone, Copy, clap::ValueEnum)]
enum StepName {
    /// Δ = α·π/k, α per block and k ∈ {2, 3, 4, 5} per group.
    PiAdaptive,
    /// Δ = α·π/k, α per block and one k.
    Pi,
    /// Δ = s, s per block.
    Uniform,
}

/// Kinds of grids.
#[derive(Clone, Copy, clap::ValueEnum)]
enum GridName {
    /// Levels … −½, ½ …: no zero, symmetric.
    MidRise,
    /// Levels … −1, 0, 1 …
    MidTread,
}

/// Arguments of `qat llm export`.
#[derive(clap::Args)]
struct Export {
    /// The folder of `qat llm quantize`: a Hugging Face folder with codes.safetensors in it.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Round embedding and head, where they have no codes, to so many bits, with a step for each 32 weights; they stay f32 if
    /// not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=8))]
    table_bits: Option<u8>,
    /// The new file.
    #[arg(long, value_name = "FILE.piq")]
    out: PathBuf,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Arguments of `qat llm generate`.
#[derive(clap::Args)]
struct Generate {
    #[command(flatten)]
    model: Model,
    /// The text to continue.
    #[arg(value_name = "PROMPT")]
    prompt: String,
    #[command(flatten)]
    sample: Sample,
    #[command(flatten)]
    rounding: Rounding,
    /// Print one line of JSON at the end instead of the text as it comes.
    #[arg(long)]
    json: bool,
}

/// Arguments of `qat llm synthesize`.
#[derive(clap::Args)]
struct Synthesize {
    #[command(flatten)]
    model: Model,
    /// How many texts.
    #[arg(long, value_name = "N")]
    texts: usize,
    /// Tokens in each; where the model ends a text it goes on with another one.
    #[arg(long, value_name = "N", default_value_t = 512)]
    tokens: usize,
    /// How many are written at a time; more are faster and take more memory.
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch: usize,
    /// What each begins with; `<|endoftext|>`, or else the token that ends a text, if not given.
    #[arg(long, value_name = "TEXT")]
    begin: Option<String>,
    /// How freely tokens are drawn; above 0.
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    temperature: f32,
    /// Draw only from the most likely tokens that together have this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Seed of the drawing.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The new file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Arguments of `qat llm train`.
#[derive(clap::Args)]
struct Train {
    /// The run description.
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Change one value of the run description, such as train.steps=100. May be repeated; paths start at the working
    /// directory.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The run folder to make: config.toml, metrics.jsonl, summary.json, model, a folder that every command of `qat llm`
    /// loads, and adapter, if adapters are learned. Files of an earlier run are replaced.
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// Go on with the training that was interrupted in the run folder; start it if it has not begun, do nothing if it is
    /// complete. On the CPU the result is the same, byte for byte, as without an interruption. It goes on with the --dtype that
    /// it was begun with, and may go on on another device, which gives other bits.
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    checkpoints: Checkpoints,
    #[command(flatten)]
    compute: Compute,
    /// Print one line of JSON instead of a summary.
    #[arg(long)]
    json: bool,
}

/// Arguments of `qat llm merge`.
#[derive(clap::Args)]
struct Merge {
    #[command(flatten)]
    model: Model,
    /// The folder of the adapters: adapter_config.json and adapter_model.safetensors.
    #[arg(value_name = "ADAPTER")]
    adapter: PathBuf,
    /// A new folder for the model with the sums, in floating point.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Arguments of `qat llm exact`.
#[derive(clap::Args)]
struct Exact {
    #[command(flatten)]
    model: Model,
    /// The run description whose held-out problems are solved.
    #[arg(long, value_name = "CONFIG.toml")]
    config: PathBuf,
    #[command(flatten)]
    rounding: Rounding,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Arguments of `qat llm chat`.
#[derive(clap::Args)]
struct Chat {
    #[command(flatten)]
    model: Model,
    /// What the model is told before the conversation begins; the template's own words if not given.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sample: Sample,
    #[command(flatten)]
    rounding: Rounding,
    /// Print each answer as a line of JSON.
    #[arg(long)]
    json: bool,
}

fn range(text: &str) -> Result<Range<usize>, String> {
    let parse = |part: &str| part.parse::<usize>().map_err(|_| format!("`{part}` is no whole number"));
    let (from, to) = text.split_once("..").ok_or("not of the form A..B")?;
    let range = parse(from)?..parse(to)?;
    if range.is_empty() { Err("the end does not come after the beginning".into()) } else { Ok(range) }
}

#[cfg(not(feature = "tch"))]
impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        use qat_trainer::{Error, ErrorKind};
        Err(Error::new(
            ErrorKind::Unsupported,
            "this `qat` was built without libtorch and runs no language models",
        )
        .remedy("build it with the feature `tch`: cargo build --release -p qat-trainer"))
    }
}

#[cfg(feature = "tch")]
impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        match self.command {
            Command::Eval(a) => a.run(),
            Command::Quantize(a) => a.run(),
            Command::Export(a) => a.run(),
            Command::Generate(a) => a.run(),
            Command::Synthesize(a) => a.run(),
            Command::Train(a) => a.run(),
            Command::Merge(a) => a.run(),
            Command::Exact(a) => a.run(),
            Command::Chat(a) => a.run(),
        }
    }
}

/// Refuses to write where there is something.
#[cfg(feature = "tch")]
fn nothing_at(path: &std::path::Path) -> Result<()> {
    use qat_trainer::{Error, ErrorKind};
    if !path.exists() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Io, "there is something already")
        .file(path)
        .remedy("choose another name; nothing is overwritten"))
}
