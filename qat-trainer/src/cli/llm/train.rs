//! `qat llm train`.

use super::Train;
use crate::cli::output::{json, say};
use crate::cli::train::folder::{Folder, STATE};
use crate::cli::train::metrics::Metrics;
use crate::cli::train::watch::Watch;
use qat_trainer::llm::{Computing, Corpus, LanguageModel, LlmCheckpoint, LlmTrainer, start, write_codes};
use qat_trainer::spec::{Layers, LlmRun, LoraMode};
use qat_trainer::{Error, ErrorKind, Result};
use serde::Serialize;
use std::time::Instant;

const MODEL: &str = "model";
const ADAPTER: &str = "adapter";

/// Everything that the training writes into its folder.
const FILES: &[&str] = &[
    "config.toml",
    "metrics.jsonl",
    "summary.json",
    "model/config.json",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/tokenizer_config.json",
    "model/codes.safetensors",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "adapter/quantisers.safetensors",
    STATE,
];

/// summary.json.
#[derive(Serialize)]
struct Summary<'a> {
    name: &'a str,
    seed: u64,
    /// What the training was begun with: `dtype` and `device`.
    #[serde(flatten)]
    begun: Computing,
    steps: usize,
    /// Numbers that were learned.
    parameters: usize,
    /// Mean bits of a quantised weight, steps counted.
    bits_per_weight: Option<f64>,
    /// On what is held out, nats; nothing if nothing is.
    held_out_loss: Option<f64>,
    /// Problems held out, and those solved.
    problems: usize,
    exact: usize,
    seconds: f64,
}

impl Train {
    pub(super) fn run(self) -> Result<()> {
        let start_time = Instant::now();
        let (kind, device) = self.compute.begin()?;
        let run = LlmRun::layered(Layers { file: Some(&self.config), set: &self.set, ..Layers::default() })?;
        // Everything that can be wrong with configuration, data and model shows here, before anything is written.
        let corpus = Corpus::load(&run.data)?;
        let mut model = start(&run, &corpus, kind, device)?;
        let now = Computing::of(&model.decoder);
        let trainer = LlmTrainer::new(&run, &corpus, &model)?;
        let bits_per_weight = trainer.prepare(&mut model.decoder)?;

        let mut folder = Folder::open(&self.out, FILES)?;
        if self.resume && folder.file("summary.json").exists() {
            return self.complete_already(&folder, &run, now);
        }
        let state = match self.resume && folder.file(STATE).exists() {
            true => Some(LlmCheckpoint::load(&folder.file(STATE))?),
            false => None,
        };
        let metrics = match &state {
            Some(state) => Metrics::resume(folder.file("metrics.jsonl"), start_time, state.events())?,
            None => {
                folder.clear()?;
                folder.write("config.toml", run.text_for(folder.path())?.as_bytes())?;
                Metrics::create(folder.file("metrics.jsonl"), start_time)?
            }
        };
        let mut watch = Watch::new(&folder, metrics, None, self.checkpoints.cadence())?;
        trainer.train(&mut model, state.as_ref(), &mut watch).map_err(|e| match e.kind() {
            ErrorKind::Checkpoint => e.file(folder.file(STATE)),
            _ => folder.stopped(e),
        })?;
        let seconds = watch.finish()?;
        let parameters = model.decoder.leaves().iter().map(|leaf| leaf.numel()).sum();
        let judge = |model: &LanguageModel| match trainer.held_out() {
            0 => Ok(None),
            all => trainer.judge(model, all).map(Some),
        };
        let lora = trainer.lora();
        // Adapters that stay beside packed matrices are not in the model's folder: it is judged with them.
        let beside = lora.as_ref().is_some_and(|settings| settings.mode == LoraMode::Packed);
        let with_adapters = if beside { judge(&model)? } else { None };
        if let Some(settings) = &lora {
            model.decoder.adapters(settings)?.save(&folder.file(ADAPTER))?;
        }
        let matrices = model.decoder.freeze_quantised()?;
        model.save(&folder.file(MODEL))?;
        if !matrices.is_empty() {
            write_codes(&folder.file(MODEL).join("codes.safetensors"), &matrices)?;
        }
        let judged = if beside { with_adapters } else { judge(&model)? };
        let exact = judged.map(|(_, exact)| exact).unwrap_or_default();
        let summary = Summary {
            name: &run.name,
            seed: run.train.seed,
            begun: state.as_ref().map_or(now, LlmCheckpoint::begun),
            steps: run.train.steps,
            parameters,
            bits_per_weight,
            held_out_loss: judged.map(|(loss, _)| loss),
            problems: exact.problems,
            exact: exact.exact,
            seconds,
        };
        let line = json(&summary)?;
        folder.write("summary.json", format!("{line}\n").as_bytes())?;
        let path = folder.file(MODEL);
        folder.keep()?;
        if self.json {
            return say(&line);
        }
        let held_out = judged.map_or_else(String::new, |(loss, exact)| {
            let solved = exact.share().map_or_else(String::new, |share| {
                format!(", {} of {} answers exact, {:.1} %", exact.exact, exact.problems, 100.0 * share)
            });
            format!("; held out: loss {loss:.4} nats{solved}")
        });
        say(&format!("{}: {} steps in {seconds:.0} s{held_out}", path.display(), summary.steps))
    }

    /// Says what a complete run folder holds, if it is this run's.
    fn complete_already(&self, folder: &Folder, run: &LlmRun, now: Computing) -> Result<()> {
        let read = |name: &str| {
            let path = folder.file(name);
            std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, &e))
        };
        if read("config.toml")? != run.text_for(folder.path())? {
            return Err(Error::new(
                ErrorKind::Spec,
                "this folder holds a complete run of another run description",
            )
            .file(folder.path())
            .remedy("choose another --out, or leave --resume out to replace it"));
        }
        let summary = read("summary.json")?;
        let begun: Computing = serde_json::from_str(&summary).map_err(|e| {
            Error::new(ErrorKind::Checkpoint, e.to_string()).file(folder.file("summary.json"))
        })?;
        begun.dtype.check(now.dtype).map_err(|e| e.file(folder.path()))?;
        match self.json {
            true => say(summary.trim_end()),
            false => say(&format!("{}: complete already", folder.path().display())),
        }
    }
}
