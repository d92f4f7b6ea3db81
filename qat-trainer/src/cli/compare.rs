//! `qat compare`.

use super::output::{say, say_json};
use qat_trainer::Result;
use qat_trainer::runs::{Row, table};
use std::path::PathBuf;

/// Arguments of `qat compare`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Run folders that `qat train` made.
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Print one line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let rows = self.runs.iter().map(|run| Row::load(run)).collect::<Result<Vec<_>>>()?;
        if self.json { say_json(&rows) } else { say(&table(&rows)) }
    }
}
