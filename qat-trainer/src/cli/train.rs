//! `qat train`.

use super::config::Overrides;
use super::export::Timestamp;
use qat_trainer::Result;
use std::path::PathBuf;

#[cfg(feature = "tch")]
mod curves;
#[cfg(feature = "tch")]
pub(super) mod folder;
#[cfg(feature = "tch")]
pub(super) mod metrics;
#[cfg(feature = "tch")]
mod progress;
#[cfg(feature = "tch")]
pub(super) mod watch;
#[cfg(feature = "tch")]
mod work;

/// Arguments of `qat train`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The run description; may be left out with --preset or --resume.
    #[arg(value_name = "CONFIG.toml")]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// The run folder to make: config.toml, metrics.jsonl, fp32.safetensors, checkpoint.safetensors, model.piq,
    /// ptq.piq (the same network quantised without training), summary.json. Files of an earlier run are replaced.
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// Go on with the training that was interrupted in the run folder; start it if it has not begun, do nothing if it is
    /// complete. The result is the same, byte for byte, as without an interruption.
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    checkpoints: Checkpoints,
    /// Choose the bits of every layer so that the exported file has at most this many bytes; short for --set
    /// qat.max_bytes=BYTES.
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// Write the curves of losses, accuracies and learning rate into this folder, for TensorBoard.
    #[arg(long, value_name = "DIR")]
    tensorboard: Option<PathBuf>,
    /// Seed of everything random, instead of the one in the run description.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,
    /// Print one line of JSON instead of a summary.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    timestamp: Timestamp,
}

/// When to take checkpoints.
#[derive(clap::Args)]
pub(super) struct Checkpoints {
    /// Take a checkpoint, to resume from, after this many steps.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_steps: Option<u64>,
    /// Take a checkpoint, to resume from, after this many minutes.
    #[arg(long, value_name = "M", default_value_t = 5.0, value_parser = positive)]
    checkpoint_minutes: f64,
}

/// A positive number.
fn positive(text: &str) -> std::result::Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    // A year, so that it stays a time that a computer can wait for.
    if number > 0.0 && number <= 525_600.0 { Ok(number) } else { Err("not between 0 and 525600".into()) }
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

#[cfg(feature = "tch")]
impl Checkpoints {
    /// When checkpoints are due.
    pub(super) fn cadence(&self) -> watch::Cadence {
        let time = std::time::Duration::from_secs_f64(60.0 * self.checkpoint_minutes);
        watch::Cadence { steps: self.checkpoint_steps, time }
    }
}
