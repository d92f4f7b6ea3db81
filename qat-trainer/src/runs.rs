//! Finished runs: what their folders say, side by side.

use crate::error::{Error, ErrorKind, Result};
use crate::inspect;
use qat_kernels::infer::Model;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// summary.json: accuracies as shares of the test split, 0 to 1.
///
/// ```
/// use qat_trainer::runs::Summary;
/// let text = r#"{ "name": "imu", "seed": 3, "fp32_accuracy": 0.96, "ptq_accuracy": 0.5, "qat_float_accuracy": 0.94,
///     "int_accuracy": 0.93, "file_bytes": 3072, "arena_bytes": 640, "macs": 90000, "seconds": 12.5 }"#;
/// let summary: Summary = serde_json::from_str(text)?;
/// assert!(summary.ptq_accuracy < summary.int_accuracy && summary.int_accuracy < summary.fp32_accuracy);
/// assert_eq!(serde_json::from_str::<Summary>(&serde_json::to_string(&summary)?)?, summary);
/// # Ok::<(), serde_json::Error>(())
/// ```
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
    ///
    /// ```
    /// use qat_trainer::{ErrorKind, runs::Summary};
    /// # let dir = tempfile::tempdir()?;
    /// # let folder = dir.path();
    /// assert_eq!(Summary::load(folder).unwrap_err().kind(), ErrorKind::Io); // nothing has run there
    /// std::fs::write(folder.join("summary.json"), r#"{ "name": "imu" }"#)?;
    /// let e = Summary::load(folder).unwrap_err();
    /// assert_eq!(e.kind(), ErrorKind::Checkpoint);
    /// assert!(e.to_string().contains("this is no summary of a run (missing field `seed`"), "{e}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
///
/// ```
/// use qat_trainer::{ErrorKind, runs::model};
/// # let dir = tempfile::tempdir()?;
/// # let folder = dir.path();
/// std::fs::write(folder.join("ptq.piq"), [1, 2, 3])?;
/// assert_eq!(model(folder, "ptq.piq")?, [1, 2, 3]); // not parsed
/// assert_eq!(model(folder, "model.piq").unwrap_err().kind(), ErrorKind::Io);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn model(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let path = folder.join(name);
    std::fs::read(&path).map_err(|e| Error::io("read", &path, &e))
}

/// A run beside others.
///
/// ```
/// # use qat_trainer::runs::{Row, Summary};
/// # let summary: Summary = serde_json::from_str(r#"{ "name": "m", "seed": 1, "fp32_accuracy": 0.8,
/// #     "ptq_accuracy": 0.2, "qat_float_accuracy": 0.6, "int_accuracy": 0.6, "file_bytes": 1024,
/// #     "arena_bytes": 64, "macs": 9, "seconds": 1.0 }"#)?;
/// let row = Row { folder: "runs/a".into(), bits_per_weight: 2.0, retention: 0.75, summary };
/// let json = serde_json::to_value(&row)?; // a line of `qat compare --json`
/// assert_eq!((&json["folder"], &json["retention"]), (&"runs/a".into(), &0.75.into()));
/// assert_eq!(json["file_bytes"], 1024); // the summary's fields stand beside the row's own
/// # Ok::<(), serde_json::Error>(())
/// ```
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
    ///
    /// ```
    /// # use qat_trainer::{ErrorKind, export::Options, runs::Row, seeded::seeded, spec::Run};
    /// # let dir = tempfile::tempdir()?;
    /// # let folder = dir.path();
    /// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 2], classes = ["a", "b"] }
    /// # model = { layers = [{ op = "linear", out = 30, bits = 2 }, { op = "linear", out = 2, bits = 8 }] }
    /// # "#, "run.toml".as_ref())?;
    /// # let file = seeded(&run, 1, Options::default())?;
    /// # std::fs::write(folder.join("summary.json"), r#"{ "name": "m", "seed": 1, "fp32_accuracy": 0.8,
    /// #     "ptq_accuracy": 0.2, "qat_float_accuracy": 0.6, "int_accuracy": 0.4, "file_bytes": 1024,
    /// #     "arena_bytes": 64, "macs": 9, "seconds": 1.0 }"#)?;
    /// // A run that kept 40 % of 80 %, with 60 weights of 2 bits and 60 of 8.
    /// std::fs::write(folder.join("model.piq"), &file)?;
    /// let row = Row::load(folder)?;
    /// assert_eq!((row.bits_per_weight, row.retention), (5.0, 0.5));
    /// std::fs::write(folder.join("model.piq"), &file[..100])?;
    /// assert_eq!(Row::load(folder).unwrap_err().kind(), ErrorKind::Model);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
///
/// ```
/// # use qat_trainer::runs::{Row, Summary, table};
/// # let summary: Summary = serde_json::from_str(r#"{ "name": "m", "seed": 1, "fp32_accuracy": 0.95,
/// #     "ptq_accuracy": 0.5, "qat_float_accuracy": 0.9, "int_accuracy": 0.9, "file_bytes": 2000,
/// #     "arena_bytes": 64, "macs": 9, "seconds": 1.0 }"#)?;
/// let row = |folder: &str, int_accuracy, file_bytes| Row {
///     folder: folder.into(), bits_per_weight: 3.0, retention: int_accuracy / summary.fp32_accuracy,
///     summary: Summary { int_accuracy, file_bytes, ..summary.clone() },
/// };
/// let text = table(&[row("worse", 0.85, 900), row("large", 0.9, 4000), row("small", 0.9, 2000)]);
/// let order: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
/// assert_eq!(order, ["run", "small", "large", "worse"]); // of equals the smaller file first
/// # Ok::<(), serde_json::Error>(())
/// ```
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
