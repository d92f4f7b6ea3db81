//! From a run description to a complete run folder.

use super::super::export::export_ptq;
use super::super::output::{json, say};
use super::Arguments;
use super::folder::Folder;
use super::progress::Progress;
use qat_kernels::config::StepRule;
use qat_kernels::infer::Model;
use qat_trainer::data::Dataset;
use qat_trainer::eval::evaluate;
use qat_trainer::events::QatEvent;
use qat_trainer::export::{About, Options, export_checkpoint};
use qat_trainer::spec::{ActivationQuant, Run, WeightQuant};
use qat_trainer::train::{QatTrainer, Trained};
use qat_trainer::{Error, ErrorKind, Result};
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Instant;

/// summary.json: accuracies as shares of the test split, 0 to 1.
#[derive(Serialize)]
struct Summary<'a> {
    name: &'a str,
    seed: u64,
    /// The floating-point network.
    fp32_accuracy: f64,
    /// The same, quantised without training, on the integer engine.
    ptq_accuracy: f64,
    /// The network trained with quantisation in the loop, in floating point.
    qat_float_accuracy: f64,
    /// The same, on the integer engine: what runs on the device.
    int_accuracy: f64,
    file_bytes: usize,
    arena_bytes: usize,
    macs: u64,
    seconds: f64,
}

pub(super) fn train(arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    let options = Options { created: arguments.timestamp.resolve()?, ..Options::default() };
    let mut run = arguments.overrides.load(arguments.config.as_deref())?;
    if let Some(seed) = arguments.seed {
        run.train.seed = seed;
    }
    // Everything that can be wrong with configuration and data shows here, before anything is written.
    let data = Dataset::load(&run.data)?;
    let trainer = QatTrainer::new(&run, &data)?;
    trainable(&run)?;

    let folder = Folder::create(&arguments.out)?;
    folder.write("config.toml", run.text_for(folder.path())?.as_bytes())?;
    let mut metrics = Metrics::create(folder.file("metrics.jsonl"), start)?;
    let progress = Progress::new();
    let mut on_event = |event: &QatEvent| {
        metrics.record(event);
        progress.show(event);
    };
    let float = trainer.train_float(&mut on_event)?;
    let calibration = run.qat.calibration.method.name();
    save(&folder, "fp32.safetensors", &float, &About::new(&run, &data, "fp32".into()))?;
    let quantised = trainer.train_quantised(&float.checkpoint, &mut on_event)?;
    let ranges = match run.qat.activations {
        ActivationQuant::Learned => "learned",
        ActivationQuant::Calibrated => "calibrated",
    };
    let about = About::new(&run, &data, format!("qat, {ranges} ranges, {calibration}"));
    let checkpoint = save(&folder, "checkpoint.safetensors", &quantised, &about)?;
    drop(progress);
    metrics.finish()?;

    let file = export_checkpoint(&run, &checkpoint, options)
        .map_err(|e| e.file(folder.file("checkpoint.safetensors")))?;
    folder.write("model.piq", &file)?;
    let ptq = export_ptq(&run, &data, &folder.file("fp32.safetensors"), options)?;
    folder.write("ptq.piq", &ptq)?;

    let model = Model::parse(&file)?;
    let summary = Summary {
        name: &run.name,
        seed: run.train.seed,
        fp32_accuracy: float.test_accuracy,
        ptq_accuracy: evaluate(&Model::parse(&ptq)?, &data.test)?.accuracy(),
        qat_float_accuracy: quantised.test_accuracy,
        int_accuracy: evaluate(&model, &data.test)?.accuracy(),
        file_bytes: file.len(),
        arena_bytes: model.arena_len(),
        macs: model.macs(),
        seconds: (start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
    };
    let line = json(&summary)?;
    folder.write("summary.json", format!("{line}\n").as_bytes())?;
    let path = folder.file("model.piq");
    folder.keep();
    if arguments.json {
        say(&line)
    } else {
        say(&format!(
            "{}: {} bytes, arena {} bytes, {} MACs\n\
             test accuracy  float {:.2} %, quantised without training {:.2} %, quantised in training {:.2} %, \
             on the integer engine {:.2} %",
            path.display(),
            summary.file_bytes,
            summary.arena_bytes,
            summary.macs,
            100.0 * summary.fp32_accuracy,
            100.0 * summary.ptq_accuracy,
            100.0 * summary.qat_float_accuracy,
            100.0 * summary.int_accuracy,
        ))
    }
}

/// Adaptive quantisers are for quantisation without training; better to hear it now than after the first phase.
fn trainable(run: &Run) -> Result<()> {
    for layer in &run.model.layers {
        if matches!(layer.op.quant(), Some(WeightQuant { step: StepRule::PiAdaptive { .. }, .. })) {
            return Err(Error::new(ErrorKind::Spec, "a k per group of weights cannot be trained")
                .file(&run.file)
                .place(format!("{}, layer `{}`", layer.line, layer.name))
                .remedy(
                    "use step = { pi = { k = 3 } }, or `qat export --ptq` on a run that was trained so",
                ));
        }
    }
    Ok(())
}

/// Saves a checkpoint with what an export needs to know about it; returns the bytes of its file.
fn save(folder: &Folder, name: &str, trained: &Trained, about: &About) -> Result<Vec<u8>> {
    let mut checkpoint = trained.checkpoint.clone();
    about.store(&mut checkpoint)?;
    let bytes = checkpoint.to_bytes()?;
    folder.write(name, &bytes)?;
    Ok(bytes)
}

/// metrics.jsonl: one event a line, with the seconds since the start.
struct Metrics {
    path: PathBuf,
    file: BufWriter<File>,
    start: Instant,
    /// The first failure; events come from deep inside the training, where nothing can be returned.
    failed: Option<Error>,
}

#[derive(Serialize)]
struct Line<'a> {
    seconds: f64,
    #[serde(flatten)]
    event: &'a QatEvent,
}

impl Metrics {
    fn create(path: PathBuf, start: Instant) -> Result<Self> {
        let file = File::create(&path).map_err(|e| Error::io("write", &path, &e))?;
        Ok(Self { path, file: BufWriter::new(file), start, failed: None })
    }

    fn record(&mut self, event: &QatEvent) {
        let seconds = (self.start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        let written = json(&Line { seconds, event }).and_then(|line| {
            let flush = !matches!(event, QatEvent::StepDone { .. });
            writeln!(self.file, "{line}")
                .and_then(|()| if flush { self.file.flush() } else { Ok(()) })
                .map_err(|e| Error::io("write", &self.path, &e))
        });
        if let Err(e) = written {
            self.failed.get_or_insert(e);
        }
    }

    fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(|e| Error::io("write", &self.path, &e))?;
        self.failed.map_or(Ok(()), Err)
    }
}
