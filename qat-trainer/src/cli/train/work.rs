//! From a run description to a complete run folder.

use super::super::export::export_ptq;
use super::super::output::{doubt, json, say};
use super::Arguments;
use super::curves::Curves;
use super::folder::{FILES, Folder, STATE};
use super::metrics::Metrics;
use super::watch::Watch;
use qat_kernels::infer::Model;
use qat_trainer::data::Dataset;
use qat_trainer::eval::evaluate;
use qat_trainer::export::{About, Options, export_checkpoint};
use qat_trainer::spec::{ActivationQuant, LayerSpec, Run};
use qat_trainer::train::{QatTrainer, Trained, TrainingCheckpoint};
use qat_trainer::{Error, ErrorKind, Result};
use serde::Serialize;
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
    let run = read_run(arguments)?;
    // Everything that can be wrong with configuration and data shows here, before anything is written.
    let data = Dataset::load(&run.data)?;
    let trainer = QatTrainer::new(&run, &data)?;
    doubt(&data);

    let mut folder = Folder::open(&arguments.out, FILES)?;
    if arguments.resume && folder.file("summary.json").exists() {
        return complete_already(&folder, &run, arguments.json);
    }
    let state = match arguments.resume && folder.file(STATE).exists() {
        true => Some(TrainingCheckpoint::load(&folder.file(STATE))?),
        false => None,
    };
    let metrics = match &state {
        Some(state) => Metrics::resume(folder.file("metrics.jsonl"), start, state.events())?,
        None => {
            folder.clear()?;
            folder.write("config.toml", run.text_for(folder.path())?.as_bytes())?;
            Metrics::create(folder.file("metrics.jsonl"), start)?
        }
    };
    let curves = arguments.tensorboard.as_deref().map(|dir| Curves::new(dir, metrics.steps())).transpose()?;
    let mut watch = Watch::new(&folder, metrics, curves, arguments.checkpoints.cadence())?;
    let trained = match &state {
        Some(state) => trainer.resume(state, &mut watch).map_err(|e| match e.kind() {
            ErrorKind::Checkpoint => e.file(folder.file(STATE)),
            _ => e,
        }),
        None => trainer.train(&mut watch),
    };
    let trained = trained.map_err(|e| folder.stopped(e))?;
    let run = match &trained.bits {
        Some(bits) => run.with_bits(bits)?,
        None => run.clone(),
    };
    let seconds = watch.finish()?;

    let calibration = run.qat.calibration.method.name();
    save(&folder, "fp32.safetensors", &trained.float, &About::new(&run, &data, "fp32".into()))?;
    let ranges = match run.qat.activations {
        ActivationQuant::Learned => "learned",
        ActivationQuant::Calibrated => "calibrated",
    };
    let about = About::new(&run, &data, format!("qat, {ranges} ranges, {calibration}"));
    let checkpoint = save(&folder, "checkpoint.safetensors", &trained.quantised, &about)?;
    let file = export_checkpoint(&run, &checkpoint, options)
        .map_err(|e| e.file(folder.file("checkpoint.safetensors")))?;
    folder.write("model.piq", &file)?;
    let ptq = export_ptq(&run, &data, &folder.file("fp32.safetensors"), options)?;
    folder.write("ptq.piq", &ptq)?;

    let model = Model::parse(&file)?;
    let summary = Summary {
        name: &run.name,
        seed: run.train.seed,
        fp32_accuracy: trained.float.test_accuracy,
        ptq_accuracy: evaluate(&Model::parse(&ptq)?, &data.test)?.accuracy(),
        qat_float_accuracy: trained.quantised.test_accuracy,
        int_accuracy: evaluate(&model, &data.test)?.accuracy(),
        file_bytes: file.len(),
        arena_bytes: model.arena_len(),
        macs: model.macs(),
        seconds,
    };
    let line = json(&summary)?;
    folder.write("summary.json", format!("{line}\n").as_bytes())?;
    if trained.bits.is_some() {
        folder.write("config.toml", run.text_for(folder.path())?.as_bytes())?;
    }
    let path = folder.file("model.piq");
    folder.keep()?;
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

/// The run description that the arguments name; without one, a training that goes on has that of its folder.
fn read_run(arguments: &Arguments) -> Result<Run> {
    let own = arguments.out.join("config.toml");
    let file = arguments.config.as_deref();
    let mut overrides = arguments.overrides.clone();
    if let Some(bytes) = arguments.max_bytes {
        overrides.set("qat.max_bytes", bytes);
    }
    let mut run = match arguments.resume && file.is_none() {
        true => overrides.load_beside(None, &own)?,
        false => overrides.load(file)?,
    };
    if let Some(seed) = arguments.seed {
        run.train.seed = seed;
    }
    Ok(run)
}

/// What `--resume` says about a run that has nothing left to do.
fn complete_already(folder: &Folder, run: &Run, as_json: bool) -> Result<()> {
    let read = |name: &str| {
        let path = folder.file(name);
        std::fs::read_to_string(&path).map_err(|e| Error::io("read", path, &e))
    };
    let own = Run::load(folder.file("config.toml"))?;
    // Bits that were chosen under a budget stand in the folder's copy in place of the budget.
    let run = match run.qat.max_bytes {
        Some(_) => run.with_bits(&bits_of(&own))?,
        None => run.clone(),
    };
    if own.text != run.text_for(folder.path())? {
        return Err(Error::new(
            ErrorKind::Spec,
            "this folder holds a complete run of another run description",
        )
        .file(folder.path())
        .remedy("choose another --out, or leave --resume out to replace it"));
    }
    match as_json {
        true => say(read("summary.json")?.trim_end()),
        false => say(&format!("{}: complete already", folder.path().display())),
    }
}

/// The bits of every layer with weights.
fn bits_of(run: &Run) -> Vec<(String, u8)> {
    let bits = |l: &LayerSpec| l.op.quant().map(|q| (l.name.clone(), q.levels.bits()));
    run.model.layers.iter().filter_map(bits).collect()
}

/// Saves a checkpoint with what an export needs to know about it; returns the bytes of its file.
fn save(folder: &Folder, name: &str, trained: &Trained, about: &About) -> Result<Vec<u8>> {
    let mut checkpoint = trained.checkpoint.clone();
    about.store(&mut checkpoint)?;
    let bytes = checkpoint.to_bytes()?;
    folder.write(name, &bytes)?;
    Ok(bytes)
}
