//! `qat export`.

use super::config::description_of;
use super::output::{say, say_json};
use qat_kernels::artifact::{Target, signature};
use qat_trainer::checkpoint::{Checkpoint, write_atomically};
use qat_trainer::data::Dataset;
use qat_trainer::export::{
    About, Options, dequantised, export, export_checkpoint, load_network, rust_module,
};
use qat_trainer::graph::{Graph, Quantised};
use qat_trainer::keys::PrivateKey;
use qat_trainer::ptq;
use qat_trainer::spec::Run;
use qat_trainer::{Error, ErrorKind, Result};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Arguments of `qat export`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The run folder that `qat train` made.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Where to write; default: model.piq (with --ptq: ptq.piq) in the run folder.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Quantise the floating-point checkpoint of the run without training, for comparison. Needs the training data.
    #[arg(long)]
    ptq: bool,
    /// The core family to pack the weights for: cortex-m0 (M0, M0+, M3), cortex-m4 (M4, M7), cortex-m55, riscv32, host or
    /// portable. Devices of others refuse the file, hosts run all of them.
    #[arg(long, default_value = "portable", value_parser = parse_target)]
    target: Target,
    /// Write a Rust module for firmware into this folder instead: mod.rs and model.piq.
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    rust: Option<PathBuf>,
    /// Write the weights instead, each replaced by the value of its code, as a safetensors file for other programs:
    /// L.weight and L.bias of every layer L in torch's layouts, batch normalisation folded.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["out", "rust", "sign"])]
    safetensors: Option<PathBuf>,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    timestamp: Timestamp,
    #[command(flatten)]
    signing: Signing,
}

#[derive(Serialize)]
struct Answer<'a> {
    file: &'a Path,
    bytes: usize,
}

pub(super) fn parse_target(name: &str) -> std::result::Result<Target, String> {
    Target::from_name(name).ok_or_else(|| {
        let names = Target::ALL.map(Target::name);
        format!("no such core family; there are: {}", names.join(", "))
    })
}

/// The time in a file's provenance.
#[derive(clap::Args, Clone, Copy)]
pub(super) struct Timestamp {
    /// Time of making the file for its provenance, in seconds since 1970; default: SOURCE_DATE_EPOCH if set, else not
    /// stated, so that equal input gives equal bytes, or now in a file that has to state it, .cal.
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<u64>,
}

impl Timestamp {
    /// The time to state in a file that has to state one.
    pub(super) fn or_now(self) -> Result<u64> {
        match self.resolve()? {
            0 => Ok(std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_secs())),
            time => Ok(time),
        }
    }

    /// The time to state, 0 for none.
    pub(super) fn resolve(self) -> Result<u64> {
        if let Some(time) = self.timestamp {
            return Ok(time);
        }
        match std::env::var("SOURCE_DATE_EPOCH") {
            Err(_) => Ok(0),
            Ok(text) => text.trim().parse().map_err(|_| {
                Error::new(ErrorKind::Spec, format!("the environment's SOURCE_DATE_EPOCH is `{text}`"))
                    .remedy("set it to whole seconds since 1970, or unset it")
            }),
        }
    }
}

/// Who vouches for the file.
#[derive(clap::Args)]
pub(super) struct Signing {
    /// Sign the file with this private key, such as `qat keygen` writes. A Rust module then accepts what this key has
    /// signed, and nothing else.
    #[arg(long, value_name = "KEY.pem")]
    sign: Option<PathBuf>,
}

impl Signing {
    /// The file, signed if the user has asked for it.
    pub(super) fn apply(&self, file: Vec<u8>) -> Result<Vec<u8>> {
        match &self.sign {
            None => Ok(file),
            Some(key) => Ok(signature::sign(&file, PrivateKey::read(key)?.as_bytes())?),
        }
    }
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let options = Options { created: self.timestamp.resolve()?, target: self.target };
        let run = Run::load(description_of(&self.run)?)?;
        let (from, name) =
            if self.ptq { ("fp32.safetensors", "ptq.piq") } else { ("checkpoint.safetensors", "model.piq") };
        let from = self.run.join(from);
        let bytes = std::fs::read(&from).map_err(|e| Error::io("read", &from, &e))?;
        if let Some(path) = &self.safetensors {
            let network = match self.ptq {
                true => post_training(&run, &Dataset::load(&run.data)?, &bytes).map(|(network, _)| network),
                false => load_network(&run, &bytes).map(|(network, _)| network),
            };
            let network = network.map_err(|e| e.file(&from))?;
            let file =
                dequantised(&run.model, &network).and_then(|c| c.to_bytes()).map_err(|e| e.file(&from))?;
            write_atomically(path, &file)?;
            return self.answer(path, file.len());
        }
        let file = if self.ptq {
            let data = Dataset::load(&run.data)?;
            export_ptq(&run, &data, &from, options)?
        } else {
            export_checkpoint(&run, &bytes, options).map_err(|e| e.file(&from))?
        };
        let file = self.signing.apply(file)?;
        if let Some(folder) = &self.rust {
            write_module(folder, &file, &run)?;
            let text = format!("{}: mod.rs and model.piq, {} bytes", folder.display(), file.len());
            return if self.json { self.answer(folder, file.len()) } else { say(&text) };
        }
        let out = self.out.clone().unwrap_or_else(|| self.run.join(name));
        write_atomically(&out, &file)?;
        self.answer(&out, file.len())
    }

    fn answer(&self, file: &Path, bytes: usize) -> Result<()> {
        match self.json {
            true => say_json(&Answer { file, bytes }),
            false => say(&format!("{}: {bytes} bytes", file.display())),
        }
    }
}

/// The module in one folder: the model first, so that a module never stands beside another model than its own.
pub(super) fn write_module(folder: &Path, file: &[u8], run: &Run) -> Result<()> {
    let module = rust_module(file, run.data.files.front_end())?;
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, &e))?;
    write_atomically(&folder.join("model.piq"), file)?;
    write_atomically(&folder.join("mod.rs"), module.as_bytes())
}

/// Quantises the floating-point checkpoint at `from` without training.
pub(super) fn export_ptq(run: &Run, data: &Dataset, from: &Path, options: Options) -> Result<Vec<u8>> {
    let bytes = std::fs::read(from).map_err(|e| Error::io("read", from, &e))?;
    let (network, about) = post_training(run, data, &bytes).map_err(|e| e.file(from))?;
    export(&network, &run.name, &about, Sha256::digest(&bytes).into(), options).map_err(|e| e.file(from))
}

fn post_training(run: &Run, data: &Dataset, bytes: &[u8]) -> Result<(Quantised, About)> {
    let checkpoint = Checkpoint::from_bytes(bytes)?;
    let graph = Graph::from_checkpoint(&run.model, data.shape, data.classes.len(), &checkpoint)?;
    let calibration = run.qat.calibration;
    let network = ptq::quantise(graph, data.input, &data.train.features, calibration)?;
    let method = ptq::method(calibration.method.name());
    Ok((network, About::new(run, data, method)))
}
