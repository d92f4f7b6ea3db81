//! A run as one HTML file with pictures: nothing in it is fetched from elsewhere, and it needs no script.

mod charts;
mod history;
mod page;
mod svg;

use crate::analysis::{LayerAnalysis, analyse};
use crate::calibrate::{self, Engines};
use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::eval::evaluate;
use crate::export::load_network;
use crate::graph::Graph;
use crate::inspect;
use crate::runs::{Row, Summary, model};
use crate::spec::{Op, Run};
use history::History;
use qat_kernels::calibration::{Calibrated, ClipRange};
use qat_kernels::infer::Model;
use std::path::{Path, PathBuf};

/// Stretches of a histogram of activations.
const BINS: usize = 96;

/// Everything that the report of a run shows.
///
/// ```
/// # use qat_trainer::{checkpoint::Checkpoint, data::Standardisation, export::{About, Options, export_checkpoint}};
/// # use qat_trainer::{report::Report, spec::{Run, Shape}};
/// # let dir = tempfile::tempdir()?;
/// # let folder = dir.path().join("door");
/// # std::fs::create_dir(&folder)?;
/// # let run = Run::parse(r#"name = "knocks"
/// # data = { format = "none", shape = [1, 1, 2] }
/// # model = { layers = [{ op = "linear", name = "fc", out = 2 }] }"#, "run.toml".as_ref())?;
/// # let about = About {
/// #     shape: Shape::flat(2), classes: vec!["no".into(), "yes".into()], dataset_sha256: [1; 32], samples: 5,
/// #     method: "qat".into(), standardisation: Standardisation::none(), known_inputs: vec![vec![1.0, 2.0]],
/// # };
/// # let mut c = Checkpoint::default();
/// # c.insert("fc.weight", &[2, 2], vec![1.0, -1.0, 0.5, 1.5])?;
/// # c.insert("fc.bias", &[2], vec![0.0, 1.0])?;
/// # c.insert("fc.alpha", &[2], vec![1.0, 0.5])?;
/// # for tensor in ["fc.act", "input"] {
/// #     c.insert(&format!("{tensor}.scale"), &[1], vec![0.5])?;
/// #     c.insert(&format!("{tensor}.zero_point"), &[1], vec![0.0])?;
/// # }
/// # about.store(&mut c)?;
/// # let file = export_checkpoint(&run, &c.to_bytes()?, Options::default())?;
/// # for (name, bytes) in [("checkpoint.safetensors", &c.to_bytes()?), ("model.piq", &file), ("ptq.piq", &file)] {
/// #     std::fs::write(folder.join(name), bytes)?;
/// # }
/// # std::fs::write(folder.join("metrics.jsonl"), "")?;
/// # std::fs::write(folder.join("summary.json"), r#"{ "name": "knocks", "seed": 1, "fp32_accuracy": 0.95,
/// #     "ptq_accuracy": 0.5, "qat_float_accuracy": 0.9, "int_accuracy": 0.875, "file_bytes": 2000,
/// #     "arena_bytes": 64, "macs": 4, "seconds": 1.0 }"#)?;
/// // The folder of a run, which names 87.5 % on the integer engine.
/// let page = Report::new(&run, &folder, None, &[])?.html();
/// assert!(page.contains("<h1>knocks</h1>") && page.contains("87.5"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Report {
    summary: Summary,
    model: inspect::Report,
    history: History,
    layers: Vec<Layer>,
    /// What only the data shows.
    measured: Option<Measured>,
    /// This run and those it is compared with.
    runs: Vec<Point>,
    config: String,
}

/// A layer with weights.
#[derive(Clone, Debug)]
struct Layer {
    analysis: LayerAnalysis,
    /// Bytes of its codes, biases and multipliers in the file.
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Measured {
    /// `confusion[label][answer]`.
    confusion: Vec<Vec<u32>>,
    activations: Vec<Activation>,
}

/// The outputs of a layer of the floating-point network, as calibration saw them.
#[derive(Clone, Debug)]
struct Activation {
    layer: String,
    /// From the smallest to the largest value.
    seen: [f64; 2],
    chosen: [f64; 2],
    /// How many values lie in each of equal stretches of `seen`; exact zeros are not among them.
    counts: Vec<f32>,
    zeros: u64,
}

/// A file of a run.
#[derive(Clone, Debug)]
struct Point {
    name: String,
    bytes: usize,
    accuracy: f64,
    /// Whether quantisation was in the loop.
    trained: bool,
    /// Whether it belongs to the run that the report is about.
    own: bool,
}

impl Report {
    /// Gathers what the folder of a finished run holds; with `data`, what the data shows too: the confusion matrix and
    /// the calibration. `others`: folders of runs to compare with.
    ///
    /// # Errors
    /// Those of reading the files, which are named.
    ///
    /// ```
    /// # use qat_trainer::{checkpoint::Checkpoint, data::Standardisation, export::{About, Options, export_checkpoint}};
    /// # use qat_trainer::{report::Report, spec::{Run, Shape}};
    /// # let dir = tempfile::tempdir()?;
    /// # let folder = dir.path().join("a");
    /// # std::fs::create_dir(&folder)?;
    /// # let run = Run::parse(r#"name = "steps"
    /// # data = { format = "none", shape = [1, 1, 2] }
    /// # model = { layers = [{ op = "linear", name = "fc", out = 2 }] }"#, "run.toml".as_ref())?;
    /// # let about = About {
    /// #     shape: Shape::flat(2), classes: vec!["no".into(), "yes".into()], dataset_sha256: [1; 32], samples: 5,
    /// #     method: "qat".into(), standardisation: Standardisation::none(), known_inputs: vec![vec![1.0, 2.0]],
    /// # };
    /// # let mut c = Checkpoint::default();
    /// # c.insert("fc.weight", &[2, 2], vec![1.0, -1.0, 0.5, 1.5])?;
    /// # c.insert("fc.bias", &[2], vec![0.0, 1.0])?;
    /// # c.insert("fc.alpha", &[2], vec![1.0, 0.5])?;
    /// # for tensor in ["fc.act", "input"] {
    /// #     c.insert(&format!("{tensor}.scale"), &[1], vec![0.5])?;
    /// #     c.insert(&format!("{tensor}.zero_point"), &[1], vec![0.0])?;
    /// # }
    /// # about.store(&mut c)?;
    /// # let file = export_checkpoint(&run, &c.to_bytes()?, Options::default())?;
    /// # for (name, bytes) in [("checkpoint.safetensors", &c.to_bytes()?), ("model.piq", &file), ("ptq.piq", &file)] {
    /// #     std::fs::write(folder.join(name), bytes)?;
    /// # }
    /// # std::fs::write(folder.join("metrics.jsonl"), "")?;
    /// # std::fs::write(folder.join("summary.json"), r#"{ "name": "steps", "seed": 1, "fp32_accuracy": 0.95,
    /// #     "ptq_accuracy": 0.5, "qat_float_accuracy": 0.9, "int_accuracy": 0.875, "file_bytes": 2000,
    /// #     "arena_bytes": 64, "macs": 4, "seconds": 1.0 }"#)?;
    /// // The folder of a finished run, without its data, beside itself and beside one that is not there.
    /// assert!(Report::new(&run, &folder, None, &[folder.clone()]).is_ok());
    /// let e = Report::new(&run, &folder, None, &[dir.path().join("b")]).unwrap_err();
    /// assert!(e.to_string().contains("summary.json: cannot read this file"), "{e}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(run: &Run, folder: &Path, data: Option<&Dataset>, others: &[PathBuf]) -> Result<Self> {
        let own = Row::load(folder)?;
        let file = model(folder, "model.piq")?;
        let parsed = Model::parse(&file).map_err(|e| Error::from(e).file(folder.join("model.piq")))?;
        let of_file = |name: &str| folder.join(name);
        let bytes = model(folder, "checkpoint.safetensors")?;
        let (network, _) =
            load_network(run, &bytes).map_err(|e| e.file(of_file("checkpoint.safetensors")))?;
        let inspected = inspect::Report::new(&parsed, file.len())?;
        // The file has an operator for every layer but those that only reshape.
        let operators = inspected.layers.iter();
        let nodes = network.graph.nodes.iter().filter(|node| !matches!(node.op, Op::Flatten));
        let of_layer: Vec<_> = nodes.zip(operators).filter(|(node, _)| node.weights.is_some()).collect();
        let layers = analyse(&network)?
            .into_iter()
            .zip(of_layer)
            .map(|(analysis, (_, op))| Layer { analysis, bytes: op.bytes })
            .collect();
        let measured = data.map(|data| measure(run, folder, data, &parsed)).transpose()?;
        let mut runs = points(folder, &own.summary, true)?;
        for other in others {
            runs.extend(points(other, &Summary::load(other)?, false)?);
        }
        Ok(Self {
            summary: own.summary,
            model: inspected,
            history: History::load(&of_file("metrics.jsonl"))?,
            layers,
            measured,
            runs,
            config: run.text.clone(),
        })
    }

    /// The page.
    ///
    /// ```
    /// # use qat_trainer::{checkpoint::Checkpoint, data::Standardisation, export::{About, Options, export_checkpoint}};
    /// # use qat_trainer::{report::Report, spec::{Run, Shape}};
    /// # let dir = tempfile::tempdir()?;
    /// # let folder = dir.path().join("x");
    /// # std::fs::create_dir(&folder)?;
    /// # let run = Run::parse(r#"name = "R&D"
    /// # data = { format = "none", shape = [1, 1, 2] }
    /// # model = { layers = [{ op = "linear", name = "fc", out = 2 }] }"#, "run.toml".as_ref())?;
    /// # let about = About {
    /// #     shape: Shape::flat(2), classes: vec!["no".into(), "yes".into()], dataset_sha256: [1; 32], samples: 5,
    /// #     method: "qat".into(), standardisation: Standardisation::none(), known_inputs: vec![vec![1.0, 2.0]],
    /// # };
    /// # let mut c = Checkpoint::default();
    /// # c.insert("fc.weight", &[2, 2], vec![1.0, -1.0, 0.5, 1.5])?;
    /// # c.insert("fc.bias", &[2], vec![0.0, 1.0])?;
    /// # c.insert("fc.alpha", &[2], vec![1.0, 0.5])?;
    /// # for tensor in ["fc.act", "input"] {
    /// #     c.insert(&format!("{tensor}.scale"), &[1], vec![0.5])?;
    /// #     c.insert(&format!("{tensor}.zero_point"), &[1], vec![0.0])?;
    /// # }
    /// # about.store(&mut c)?;
    /// # let file = export_checkpoint(&run, &c.to_bytes()?, Options::default())?;
    /// # for (name, bytes) in [("checkpoint.safetensors", &c.to_bytes()?), ("model.piq", &file), ("ptq.piq", &file)] {
    /// #     std::fs::write(folder.join(name), bytes)?;
    /// # }
    /// # std::fs::write(folder.join("metrics.jsonl"), "")?;
    /// # std::fs::write(folder.join("summary.json"), r#"{ "name": "R&D", "seed": 1, "fp32_accuracy": 0.95,
    /// #     "ptq_accuracy": 0.5, "qat_float_accuracy": 0.9, "int_accuracy": 0.875, "file_bytes": 2000,
    /// #     "arena_bytes": 64, "macs": 4, "seconds": 1.0 }"#)?;
    /// // A run whose name is `R&D`.
    /// let page = Report::new(&run, &folder, None, &[])?.html();
    /// assert!(page.contains("R&amp;D") && !page.contains("R&D"));
    /// assert!(!page.contains("<script") && !page.contains("src=\"http")); // it stands alone
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn html(&self) -> String {
        page::html(self)
    }
}

fn points(folder: &Path, summary: &Summary, own: bool) -> Result<Vec<Point>> {
    let name =
        folder.file_name().map_or_else(|| summary.name.clone(), |name| name.to_string_lossy().into_owned());
    let ptq = model(folder, "ptq.piq")?.len();
    Ok(vec![
        Point {
            name: name.clone(),
            bytes: summary.file_bytes,
            accuracy: summary.int_accuracy,
            trained: true,
            own,
        },
        Point { name, bytes: ptq, accuracy: summary.ptq_accuracy, trained: false, own },
    ])
}

fn measure(run: &Run, folder: &Path, data: &Dataset, model: &Model<'_>) -> Result<Measured> {
    let confusion = evaluate(model, &data.test)?.confusion;
    let path = folder.join("fp32.safetensors");
    let float = Checkpoint::load(&path)?;
    let graph = Graph::from_checkpoint(&run.model, data.shape, data.classes.len(), &float)
        .map_err(|e| e.file(&path))?;
    let engines = calibrate::observe(&graph, data.input, &data.train.features, run.qat.calibration)
        .map_err(|e| e.file(&path))?;
    let ranges = calibrate::ranges(&engines)?;
    Ok(Measured { confusion, activations: activations(&graph, &engines, &ranges)? })
}

fn activations(graph: &Graph, engines: &Engines, ranges: &[Option<Calibrated>]) -> Result<Vec<Activation>> {
    let mut activations = Vec::new();
    for ((node, engine), range) in graph.nodes.iter().zip(engines).zip(ranges) {
        let (Some(engine), Some(range)) = (engine, range) else { continue };
        let [observer] = engine.parts() else { continue };
        let [lo, hi] = calibrate::extremes(observer);
        let mut counts = vec![0.0; BINS];
        if hi > lo {
            observer.distribution(ClipRange::new(lo, hi)?, &mut counts)?;
        }
        activations.push(Activation {
            layer: node.name.clone(),
            seen: [lo.into(), hi.into()],
            chosen: [range.range.lo().into(), range.range.hi().into()],
            counts,
            zeros: observer.stats().zeros,
        });
    }
    Ok(activations)
}
