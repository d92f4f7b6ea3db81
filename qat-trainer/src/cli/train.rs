//! `qat train`.

use super::config::Overrides;
use super::export::Timestamp;
use qat_trainer::Result;
use std::path::PathBuf;

#[cfg(feature = "tch")]
mod folder;
#[cfg(feature = "tch")]
mod progress;
#[cfg(feature = "tch")]
mod work;

/// Arguments of `qat train`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The run description; may be left out with --preset.
    #[arg(value_name = "CONFIG.toml")]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// The run folder to make: config.toml, metrics.jsonl, fp32.safetensors, checkpoint.safetensors, model.piq,
    /// ptq.piq (the same network quantised without training), summary.json. Files of an earlier run are replaced.
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// Seed of everything random, instead of the one in the run description.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,
    /// Print one line of JSON instead of a summary.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    timestamp: Timestamp,
}

#[cfg(not(feature = "tch"))]
impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        use qat_trainer::{Error, ErrorKind};
        Err(Error::new(ErrorKind::Unsupported, "this `qat` was built without libtorch and cannot train")
            .remedy("build it with the feature `tch`: cargo build --release -p qat-trainer"))
    }
}

#[cfg(feature = "tch")]
impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        work::train(&self)
    }
}
