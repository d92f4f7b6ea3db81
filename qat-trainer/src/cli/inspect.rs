//! `qat inspect`.

use super::output::{say, say_json};
use super::{parse_model, read_model};
use qat_trainer::Result;
use qat_trainer::inspect::Report;
use std::path::PathBuf;

/// Arguments of `qat inspect`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The model.
    #[arg(value_name = "MODEL.piq")]
    model: PathBuf,
    /// Print one line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let bytes = read_model(&self.model)?;
        let model = parse_model(&self.model, &bytes)?;
        let report = Report::new(&model, bytes.len()).map_err(|e| e.file(&self.model))?;
        if self.json { say_json(&report) } else { say(&report.to_string()) }
    }
}
