//! `qat quantize`.

use super::checkpoint::Source;
use super::export::{Timestamp, parse_target};
use super::output::{say, say_json};
use qat_kernels::artifact::Target;
use qat_kernels::config::StepRule;
use qat_kernels::{Grid, Levels};
use qat_trainer::calibrate::{Ranges, read};
use qat_trainer::checkpoint::{Checkpoint, write_atomically};
use qat_trainer::data::Dataset;
use qat_trainer::export::{About, Options, export};
use qat_trainer::graph::Graph;
use qat_trainer::spec::{Run, WeightQuant};
use qat_trainer::{Error, Result, by_weight, ptq};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// Arguments of `qat quantize`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Where to write; default: ptq.piq beside the checkpoint. With --by-weight: a safetensors file of the quantised
    /// weights, none if not given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Take the ranges of activations from this file of `qat calibrate`. With a checkpoint of `qat train` no data is
    /// needed then.
    #[arg(long, value_name = "FILE.cal")]
    calibration: Option<PathBuf>,
    /// The core family to pack the weights for: cortex-m0 (M0, M0+, M3), cortex-m4 (M4, M7), cortex-m55, riscv32, host or
    /// portable. Devices of others refuse the file, hosts run all of them.
    #[arg(long, default_value = "portable", value_parser = parse_target)]
    target: Target,
    /// Need no run description: quantise every matrix of the file by itself, with a step for each row, and show what it
    /// loses.
    #[arg(long, conflicts_with_all = ["config", "preset", "set", "calibration", "target"])]
    by_weight: bool,
    /// With --by-weight: bits per weight.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=8), requires = "by_weight")]
    bits: u8,
    /// With --by-weight: whether 0 is a level.
    #[arg(long, value_enum, default_value_t = GridName::MidRise, requires = "by_weight")]
    grid: GridName,
    /// With --by-weight: how steps are made; uniform, pi (Δ = α·π/k) or pi-adaptive (k per group of weights).
    #[arg(long, value_enum, default_value_t = StepName::PiAdaptive, requires = "by_weight")]
    step: StepName,
    /// With --step pi: the divisor.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=5), requires = "by_weight")]
    k: u8,
    /// With --step pi-adaptive: weights per divisor, 8, 16 or 32.
    #[arg(long, default_value_t = 16, value_parser = parse_group, requires = "by_weight")]
    group: usize,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    timestamp: Timestamp,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum GridName {
    /// Levels 0, ±1, ±2, …
    MidTread,
    /// Levels ±½, ±1½, …
    MidRise,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum StepName {
    Uniform,
    Pi,
    PiAdaptive,
}

fn parse_group(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ (8 | 16 | 32)) => Ok(n),
        _ => Err("8, 16 and 32 are possible".into()),
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    file: &'a std::path::Path,
    bytes: usize,
    method: &'a str,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let bytes = self.source.read()?;
        let checkpoint = self.source.tensors(&bytes)?;
        if self.by_weight {
            return self.weights(checkpoint);
        }
        let run = self.source.run()?;
        let options = Options { created: self.timestamp.resolve()?, target: self.target };
        let (graph, ranges, about) = match self.ranges(&run, &checkpoint)? {
            Some(done) => done,
            None => self.measure(&run, &checkpoint)?,
        };
        let network = ptq::with_ranges(graph, ranges.input, &ranges.layers);
        let file = network
            .and_then(|network| export(&network, &run.name, &about, Sha256::digest(&bytes).into(), options))
            .map_err(|e| e.file(self.source.file()))?;
        let out = self.out.clone().unwrap_or_else(|| self.source.beside("ptq.piq"));
        write_atomically(&out, &file)?;
        let (bytes, method) = (file.len(), about.method.as_str());
        match self.json {
            true => say_json(&Answer { file: &out, bytes, method }),
            false => say(&format!("{}: {bytes} bytes; {method}", out.display())),
        }
    }

    /// From a calibration file, where one is given.
    fn ranges(&self, run: &Run, checkpoint: &Checkpoint) -> Result<Option<(Graph, Ranges, About)>> {
        let Some(path) = &self.calibration else { return Ok(None) };
        let calibration = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
        // What only the data knows, the checkpoints of `qat train` know too.
        let about = match About::load(checkpoint) {
            Ok(about) => about,
            Err(_) => About::new(run, &Dataset::load(&run.data)?, String::new()),
        };
        let graph = Graph::from_checkpoint(&run.model, about.shape, about.classes.len(), checkpoint)
            .map_err(|e| e.file(self.source.file()))?;
        let ranges = read(&calibration, &graph).map_err(|e| e.file(path))?;
        let about = About { samples: ranges.samples, method: ptq::method(ranges.method), ..about };
        Ok(Some((graph, ranges, about)))
    }

    /// From the data.
    fn measure(&self, run: &Run, checkpoint: &Checkpoint) -> Result<(Graph, Ranges, About)> {
        let in_file = |e: Error| e.file(self.source.file());
        let data = Dataset::load(&run.data)?;
        let graph = Graph::from_checkpoint(&run.model, data.shape, data.classes.len(), checkpoint)
            .map_err(in_file)?;
        let how = run.qat.calibration;
        let layers = ptq::calibrate(&graph, data.input, &data.train.features, how).map_err(in_file)?;
        let method = how.method.name();
        let ranges = Ranges { input: data.input, layers, samples: how.samples, method };
        Ok((graph, ranges, About::new(run, &data, ptq::method(method))))
    }

    fn weights(&self, mut checkpoint: Checkpoint) -> Result<()> {
        let grid = match self.grid {
            GridName::MidTread => Grid::MidTread,
            GridName::MidRise => Grid::MidRise,
        };
        let step = match self.step {
            StepName::Uniform => StepRule::Uniform,
            StepName::Pi => StepRule::Pi { k: self.k },
            StepName::PiAdaptive => StepRule::PiAdaptive { group: self.group },
        };
        let quant = WeightQuant { levels: Levels::new(self.bits, grid)?, step };
        let table = by_weight::quantise(&mut checkpoint, quant).map_err(|e| e.file(self.source.file()))?;
        if let Some(path) = &self.out {
            checkpoint.save(path)?;
        }
        if self.json { say_json(&table) } else { say(&table.to_string()) }
    }
}
