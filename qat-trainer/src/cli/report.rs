//! `qat report`.

use super::config::{Overrides, description_of};
use super::output::{say, say_json};
use qat_trainer::Result;
use qat_trainer::checkpoint::write_atomically;
use qat_trainer::data::Dataset;
use qat_trainer::report::Report;
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `qat report`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The run folder that `qat train` made.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Where to write; default: report.html in the run folder.
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    /// Other run folders to draw beside this one, accuracy against bytes. May be repeated.
    #[arg(long, value_name = "RUN")]
    against: Vec<PathBuf>,
    /// Leave out what needs the data: the confusion matrix and the calibration.
    #[arg(long)]
    no_data: bool,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Serialize)]
struct Answer {
    file: PathBuf,
    bytes: usize,
    pictures: usize,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let run = self.overrides.load(Some(&description_of(&self.run)?))?;
        let data = if self.no_data { None } else { Some(Dataset::load(&run.data)?) };
        let html = Report::new(&run, &self.run, data.as_ref(), &self.against)?.html();
        let file = self.out.unwrap_or_else(|| self.run.join("report.html"));
        write_atomically(&file, html.as_bytes())?;
        let answer = Answer { file, bytes: html.len(), pictures: html.matches("<svg ").count() };
        match self.json {
            true => say_json(&answer),
            false => say(&format!(
                "{}: {} pictures, {} bytes",
                answer.file.display(),
                answer.pictures,
                answer.bytes
            )),
        }
    }
}
