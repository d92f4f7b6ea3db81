//! `qat seeded`.

use super::config::Overrides;
use super::export::{Signing, Timestamp, parse_target, write_module};
use super::output::say;
use qat_kernels::artifact::Target;
use qat_trainer::Result;
use qat_trainer::checkpoint::write_atomically;
use qat_trainer::export::Options;
use qat_trainer::seeded::seeded;
use std::path::PathBuf;

/// Arguments of `qat seeded`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The run description; alternatively --preset.
    #[arg(value_name = "CONFIG.toml")]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// Where to write; default: the model's name, in the working directory.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write a Rust module for firmware into this folder instead: mod.rs and model.piq.
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    rust: Option<PathBuf>,
    /// Where the generated weights and inputs start from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The core family to pack the weights for: cortex-m0 (M0, M0+, M3), cortex-m4 (M4, M7), cortex-m55, riscv32, host or
    /// portable. Devices of others refuse the file, hosts run all of them.
    #[arg(long, default_value = "portable", value_parser = parse_target)]
    target: Target,
    #[command(flatten)]
    timestamp: Timestamp,
    #[command(flatten)]
    signing: Signing,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let options = Options { created: self.timestamp.resolve()?, target: self.target };
        let run = self.overrides.load(self.config.as_deref())?;
        let file = seeded(&run, self.seed, options).map_err(|e| e.file(&run.file))?;
        let file = self.signing.apply(file)?;
        if let Some(folder) = &self.rust {
            write_module(folder, &file, &run)?;
            return say(&format!(
                "{}: mod.rs and model.piq, {} bytes, untrained",
                folder.display(),
                file.len()
            ));
        }
        let out = self.out.unwrap_or_else(|| PathBuf::from(format!("{}.piq", run.name)));
        write_atomically(&out, &file)?;
        say(&format!("{}: {} bytes, untrained", out.display(), file.len()))
    }
}
