//! Finished runs: what their folders say, side by side.

use crate::error::{Error, ErrorKind, Result};
use crate::inspect;
use qat_kernels::infer::Model;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// summary.json: accuracies as shares of the test split, 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the model.
    pub name: String,
    /// Seed of everything random.
    pub seed: u64,
    /// The floating-point network.
    pub fp32_accuracy: f64,
    /// The same, quantised without training, on the integer engine.
    pub ptq_accuracy: f64,
    /// The network trained with quantisation in the loop, in floating point.
    pub qat_float_accuracy: f64,
    /// The same, on the integer engine: what runs on the device.
    pub int_accuracy: f64,
    /// Bytes of model.piq.
    pub file_bytes: usize,
    /// Bytes of scratch memory that it needs.
    pub arena_bytes: usize,
    /// Multiply-accumulates of one inference.
    pub macs: u64,
    /// Seconds that the training took.
    pub seconds: f64,
}

impl Summary {
    /// That of a run folder.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] without it, [`ErrorKind::Checkpoint`] if it does not read.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("summary.json");
        let text = std::fs::read(&path).map_err(|e| Error::io("read", &path, &e))?;
        serde_json::from_slice(&text).map_err(|e| {
            Error::new(ErrorKind::Checkpoint, format!("this is no summary of a run ({e})"))
                .file(&path)
                .remedy("name a folder that `qat train` finished")
        })
    }
}

/// The bytes of a run's model, `model.piq` or `ptq.piq`.
///
/// # Errors
/// [`ErrorKind::Io`].
pub fn model(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let path = folder.join(name);
    std::fs::read(&path).map_err(|e| Error::io("read", &path, &e))
}

/// A run beside others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its folder.
    pub folder: PathBuf,
    /// Mean bits per weight.
    pub bits_per_weight: f64,
    /// Accuracy on the integer engine relative to that of the floating-point network, 1 if equal.
    pub retention: f64,
    /// What it says of itself.
    #[serde(flatten)]
    pub summary: Summary,
}

impl Row {
    /// That of a run folder.
    ///
    /// # Errors
    /// Those of [`Summary::load`] and [`model`]; [`ErrorKind::Model`] for a damaged model.
    pub fn load(folder: &Path) -> Result<Self> {
        let summary = Summary::load(folder)?;
        let file = model(folder, "model.piq")?;
        let report = || inspect::Report::new(&Model::parse(&file)?, file.len());
        let bits_per_weight = report()
            .map_err(|e: Error| e.file(folder.join("model.piq")).remedy("train again"))?
            .bits_per_weight;
        let retention = summary.int_accuracy / summary.fp32_accuracy.max(f64::MIN_POSITIVE);
        Ok(Self { folder: folder.into(), bits_per_weight, retention, summary })
    }
}

/// Runs as a table, the most accurate first.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by(|a, b| {
        let order = b.summary.int_accuracy.total_cmp(&a.summary.int_accuracy);
        order.then(a.summary.file_bytes.cmp(&b.summary.file_bytes))
    });
    let width = rows.iter().map(|r| r.folder.display().to_string().chars().count()).max().unwrap_or(0).max(3);
    let mut text = format!(
        "{:<width$} {:>4} {:>5} {:>8} {:>8} {:>8} {:>8} {:>7} {:>9} {:>8} {:>12} {:>8}",
        "run",
        "seed",
        "bits",
        "FP32 %",
        "PTQ %",
        "QAT %",
        "integer",
        "kept %",
        "bytes",
        "arena",
        "MACs",
        "seconds"
    );
    for r in rows {
        let s = &r.summary;
        let [fp32, ptq, qat, int, kept] =
            [s.fp32_accuracy, s.ptq_accuracy, s.qat_float_accuracy, s.int_accuracy, r.retention]
                .map(|x| 100.0 * x);
        text.push_str(&format!(
            "\n{:<width$} {:>4} {:>5.2} {fp32:>8.2} {ptq:>8.2} {qat:>8.2} {int:>8.2} {kept:>7.2} {:>9} {:>8} {:>12} {:>8.1}",
            r.folder.display().to_string(),
            s.seed,
            r.bits_per_weight,
            s.file_bytes,
            s.arena_bytes,
            s.macs,
            s.seconds
        ));
    }
    text
}
