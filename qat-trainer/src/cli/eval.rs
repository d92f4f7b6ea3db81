//! `qat eval`.

use super::config::Overrides;
use super::output::{say, say_json};
use super::{parse_model, read_model};
use qat_trainer::checkpoint::write_atomically;
use qat_trainer::data::load_test;
use qat_trainer::eval::{Evaluation, classes, evaluate, standardisation};
use qat_trainer::{Error, ErrorKind, Result};
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `qat eval`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The model.
    #[arg(value_name = "MODEL.piq")]
    model: PathBuf,
    /// The run description whose test split is to be used; default: config.toml beside the model.
    #[arg(long, value_name = "CONFIG.toml")]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    json: bool,
    /// Write the int8 inputs, for running them on a device: `QSMP`, then version 1, count and length as little-endian
    /// u32, then the values.
    #[arg(long, value_name = "FILE")]
    dump_samples: Option<PathBuf>,
    /// Write the int8 logits, example by example, to compare with a device's.
    #[arg(long, value_name = "FILE")]
    dump_logits: Option<PathBuf>,
}

#[derive(Serialize)]
struct Answer<'a> {
    accuracy: f64,
    correct: u32,
    examples: u32,
    classes: &'a [String],
    /// By label, then by answer.
    confusion: &'a [Vec<u32>],
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let bytes = read_model(&self.model)?;
        let run = self.overrides.load_beside(self.config.as_deref(), &self.model)?;
        let model = parse_model(&self.model, &bytes)?;
        let in_model = |e: Error| e.file(&self.model);
        let metadata = model.metadata().map_err(|e| in_model(e.into()))?;
        let names = classes(&model, &metadata).map_err(in_model)?;
        let (split, shape) = load_test(&run.data, model.input_len(), &names, &standardisation(&metadata))?;
        let [h, w, c] = model.input_shape().map(usize::from);
        if [shape.h, shape.w, shape.c] != [h, w, c] {
            return Err(in_model(
                Error::new(ErrorKind::Model, format!("the model reads {h}x{w}x{c}, the data is {shape}"))
                    .remedy("use the run description that the model was trained with"),
            ));
        }
        let result = evaluate(&model, &split).map_err(in_model)?;
        self.dump(&result)?;
        if self.json {
            say_json(&Answer {
                accuracy: result.accuracy(),
                correct: result.correct(),
                examples: result.examples(),
                classes: &names,
                confusion: &result.confusion,
            })
        } else {
            say(&text(&result, &names))
        }
    }

    /// Writes both files or none.
    fn dump(&self, result: &Evaluation) -> Result<()> {
        if let Some(path) = &self.dump_samples {
            write_atomically(path, &result.samples_file())?;
        }
        if let Some(path) = &self.dump_logits {
            write_atomically(path, &result.logits_file()).inspect_err(|_| {
                if let Some(path) = &self.dump_samples {
                    // Best effort: the error worth reporting is the first one.
                    let _ = std::fs::remove_file(path);
                }
            })?;
        }
        Ok(())
    }
}

fn text(result: &Evaluation, names: &[String]) -> String {
    let mut out = format!(
        "accuracy {:.2} % ({} of {})",
        100.0 * result.accuracy(),
        result.correct(),
        result.examples()
    );
    let mut mistakes: Vec<(u32, usize, usize)> = Vec::new();
    for (label, row) in result.confusion.iter().enumerate() {
        mistakes.extend(
            row.iter().enumerate().filter(|&(a, &n)| a != label && n > 0).map(|(a, &n)| (n, label, a)),
        );
    }
    mistakes.sort_by(|a, b| b.cmp(a));
    for (n, label, answer) in mistakes.iter().take(5) {
        out.push_str(&format!("\n{n:>6} times {} taken for {}", names[*label], names[*answer]));
    }
    out
}
