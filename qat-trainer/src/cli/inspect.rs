//! `qat inspect`.

use super::output::{say, say_json};
use super::{parse_model, read_model};
use qat_trainer::analysis::{LayerAnalysis, analyse, table};
use qat_trainer::export::load_network;
use qat_trainer::inspect::Report;
use qat_trainer::spec::Run;
use qat_trainer::{Error, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Arguments of `qat inspect`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The model; or a run folder, whose checkpoint tells the steps of each layer, the k of its groups and the SQNR of
    /// its weights besides.
    #[arg(value_name = "MODEL.piq")]
    model: PathBuf,
    /// Print one line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    report: Report,
    /// What quantisation did to each layer, where the checkpoint is at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    analysis: Option<Vec<LayerAnalysis>>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let folder = self.model.is_dir();
        let path = if folder { self.model.join("model.piq") } else { self.model.clone() };
        let bytes = read_model(&path)?;
        let model = parse_model(&path, &bytes)?;
        let report = Report::new(&model, bytes.len()).map_err(|e| e.file(&path))?;
        let analysis = if folder { Some(analysis(&self.model)?) } else { None };
        if self.json {
            return say_json(&Answer { report, analysis });
        }
        match analysis {
            Some(layers) => say(&format!("{report}\n\n{}", table(&layers))),
            None => say(&report.to_string()),
        }
    }
}

fn analysis(folder: &Path) -> Result<Vec<LayerAnalysis>> {
    let run = Run::load(folder.join("config.toml"))?;
    let path = folder.join("checkpoint.safetensors");
    let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, &e))?;
    load_network(&run, &bytes).and_then(|(network, _)| analyse(&network)).map_err(|e| e.file(&path))
}
