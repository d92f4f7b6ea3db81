//! The options of every command that reads a run description.

use qat_trainer::spec::{Layers, Run};
use qat_trainer::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// Layers around the TOML file: defaults, then the preset, then the file, then single values.
#[derive(clap::Args, Clone)]
pub(super) struct Overrides {
    /// A run description that comes with the program, to start from; `qat presets` lists them. Its paths start at the
    /// working directory.
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Change one value of the run description, such as train.epochs=5 or model.layers.conv3.bits=4. May be repeated;
    /// paths start at the working directory.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Overrides {
    /// Adds a value that another option stands for.
    #[cfg(feature = "tch")]
    pub(super) fn set(&mut self, key: &str, value: impl std::fmt::Display) {
        self.set.push(format!("{key}={value}"));
    }

    /// The run description of all layers.
    pub(super) fn load(&self, file: Option<&Path>) -> Result<Run> {
        Run::layered(Layers { preset: self.preset.as_deref(), file, set: &self.set })
    }

    /// The same for a command about a file of a run folder: without another source, the folder's own copy.
    pub(super) fn load_beside(&self, file: Option<&Path>, beside: &Path) -> Result<Run> {
        let own: PathBuf = beside.with_file_name("config.toml");
        let own = (self.preset.is_none() && own.exists()).then_some(own);
        self.load(file.or(own.as_deref()))
    }
}

/// The run description of a run folder.
pub(super) fn description_of(run: &Path) -> Result<PathBuf> {
    let file = run.join("config.toml");
    if file.exists() {
        return Ok(file);
    }
    Err(Error::new(ErrorKind::Io, "this is no run folder: it has no config.toml")
        .file(run)
        .remedy("name a folder that `qat train` has made"))
}
