//! Floating-point checkpoints as arguments: of a run folder, or of another program.

use super::config::Overrides;
use qat_trainer::checkpoint::Checkpoint;
use qat_trainer::spec::Run;
use qat_trainer::{Error, Result};
use std::path::{Path, PathBuf};

/// A checkpoint, and how its tensors are called.
#[derive(clap::Args)]
pub(super) struct Source {
    /// A run folder (its fp32.safetensors is taken) or any safetensors file of floating-point weights.
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// The run description of the network; default: config.toml beside the checkpoint. Layer L takes the tensors
    /// L.weight and L.bias, or L.bn.weight, L.bn.bias, L.bn.running_mean and L.bn.running_var, in torch's layouts.
    #[arg(long, value_name = "CONFIG.toml")]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// Give tensors whose names begin with OLD the prefix NEW, such as bn1=conv1.bn. May be repeated.
    #[arg(long, value_name = "OLD=NEW", value_parser = parse_rename)]
    rename: Vec<(String, String)>,
}

fn parse_rename(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.into(), new.into())),
        _ => Err("write OLD=NEW, such as bn1=conv1.bn".into()),
    }
}

impl Source {
    /// The file of the checkpoint.
    pub(super) fn file(&self) -> PathBuf {
        if self.checkpoint.is_dir() {
            self.checkpoint.join("fp32.safetensors")
        } else {
            self.checkpoint.clone()
        }
    }

    /// Its bytes.
    pub(super) fn read(&self) -> Result<Vec<u8>> {
        let file = self.file();
        std::fs::read(&file).map_err(|e| Error::io("read", &file, &e))
    }

    /// Its tensors under the names that the run description uses.
    pub(super) fn tensors(&self, bytes: &[u8]) -> Result<Checkpoint> {
        let read = || {
            let mut checkpoint = Checkpoint::import(bytes)?;
            for (old, new) in &self.rename {
                checkpoint.rename(old, new)?;
            }
            Ok(checkpoint)
        };
        read().map_err(|e: Error| e.file(self.file()))
    }

    /// The run description.
    pub(super) fn run(&self) -> Result<Run> {
        self.overrides.load_beside(self.config.as_deref(), &self.file())
    }

    /// A file beside the checkpoint.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.file().parent().unwrap_or(Path::new("")).join(name)
    }
}
