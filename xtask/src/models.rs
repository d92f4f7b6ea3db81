//! `cargo xtask models`: the four architectures of MLPerf Tiny, with generated weights, on every emulated core that has room
//! for them. What a model costs is exact and does not depend on its weights, so the committed table is a gate.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use qat_kernels::infer::Model;

use crate::bare_metal::{self, Toolchain};
use crate::cmd::{cargo, output, run as run_command, target_dir};
use crate::emulator::{BOARDS, Board, emulate};
use crate::firmware::build_with;
use crate::mcu::{Report, host_logits, mismatches, run_model};
use crate::panic_free::panic_paths;
use crate::probe::Numbers;
use crate::results::{Figure, record, value};
use crate::samples::Samples;
use crate::tools::ensure;

const SUITE: &str = "models";
const COMMAND: &str = "cargo xtask models";
const METRIC: &str = "insns_per_mac";
/// A count may grow by this share before the gate closes.
const TOLERANCE: f64 = 0.01;
/// Generated inputs for each model.
const SAMPLES: usize = 2;
/// Bytes of RAM that a model has to leave for the stack and the program's other statics.
const REST: usize = 4 << 10;

/// An architecture.
#[derive(Clone, Copy)]
struct Architecture {
    /// Name of the preset.
    preset: &'static str,
    /// Bytes of the int8 reference model's file: MLPerf Tiny v1.2, TensorFlow Lite.
    int8_file: u64,
    /// Most instructions for each multiply-accumulate on a Cortex-M4 that we want to see.
    goal: Option<f64>,
}

const ARCHITECTURES: [Architecture; 4] = [
    Architecture { preset: "ds-cnn", int8_file: 53_936, goal: None },
    Architecture { preset: "resnet8", int8_file: 98_496, goal: Some(1.1) },
    Architecture { preset: "mobilenet", int8_file: 333_288, goal: None },
    Architecture { preset: "autoencoder", int8_file: 276_976, goal: Some(1.1) },
];

/// A model on a core.
pub(crate) struct Case {
    /// Model and core.
    pub(crate) name: String,
    architecture: Architecture,
    board: &'static Board,
}

/// All cases, those that do not fit their board included: that shows when the file is there.
pub(crate) fn cases() -> Vec<Case> {
    let cases = ARCHITECTURES.iter().flat_map(|&architecture| BOARDS.map(|board| (architecture, board)));
    cases
        .map(|(architecture, board)| {
            let name = format!("{}_{}", architecture.preset.replace('-', "_"), board.core);
            Case { name, architecture, board }
        })
        .collect()
}

/// What was found out about a case.
struct Measured {
    file: Vec<u8>,
    report: Report,
    mismatches: usize,
}

impl Case {
    /// Writes the file and runs it on the board; `None` if there is no room for it.
    fn measure(&self, qat: &Path, toolchain: &Toolchain) -> Result<Option<Measured>> {
        let path = untrained(qat, self.architecture.preset, self.board)?;
        let file = fs::read(&path).with_context(|| path.display().to_string())?;
        let model = Model::parse(&file)?;
        let statics = model.arena_len() + model.input_len() + model.output_len();
        let [flash, ram] = self.board.memory;
        if file.len() > flash || statics + REST > ram {
            return Ok(None);
        }
        let samples = samples(&model)?;
        let report = run_model(toolchain, self.board, &path, &samples)?;
        let host = host_logits(&file, &path, &samples)?;
        let mismatches = mismatches(&report.logits, &host, samples.count());
        if mismatches > 0 {
            bail!("{}: {} computes something else than the host", self.name, self.board.name);
        }
        if !report.panic_paths.is_empty() {
            bail!("{}: panic paths {}", self.name, report.panic_paths.join(", "));
        }
        Ok(Some(Measured { file, report, mismatches }))
    }

    /// Measures again and compares with the committed table. Returns whether there was room for the model.
    pub(crate) fn check(&self, qat: &Path, toolchain: &Toolchain) -> Result<bool> {
        let Some(measured) = self.measure(qat, toolchain).with_context(|| self.name.clone())? else {
            println!("{:<20} no room on {}", self.name, self.board.name);
            return Ok(false);
        };
        let committed: f64 = value(SUITE, &self.name, METRIC)?.parse().with_context(|| self.name.clone())?;
        let now = measured.insns_per_mac()?;
        println!("{:<20} {now:.4} instructions per MAC, {committed:.4} committed", self.name);
        if now > committed * (1.0 + TOLERANCE) {
            bail!("{}: {now:.4} instructions per MAC, {committed:.4} were committed", self.name);
        }
        Ok(true)
    }

    fn figures(&self, measured: &Measured) -> Result<Vec<Figure>> {
        let Measured { file, report, mismatches } = measured;
        let model = Model::parse(file)?;
        let arena = model.arena_use();
        let layers: Vec<_> = model.operators().filter(|layer| layer.weights > 0).collect();
        let weights: usize = layers.iter().map(|layer| layer.weights).sum();
        let code_bytes: usize = layers.iter().map(|layer| layer.code_bytes).sum();
        let figure = |metric, value: String, unit| Figure::new(self.name.clone(), metric, value, unit);
        let [_, instructions, _] = report.spread();
        let per_mac = figure(METRIC, format!("{:.4}", measured.insns_per_mac()?), "");
        let per_mac = match self.architecture.goal {
            Some(goal) if self.board.core == "m4" => per_mac.with_goal(format!("{goal}")),
            _ => per_mac,
        };
        let int8 = "int8 reference of MLPerf Tiny v1.2";
        let int8_file = self.architecture.int8_file;
        let mut figures = vec![
            figure("macs", model.macs().to_string(), ""),
            figure("instructions", instructions.to_string(), ""),
            per_mac,
            figure("weights", weights.to_string(), ""),
            figure("weight_bytes", code_bytes.to_string(), "B").with_rival(int8.into(), weights.to_string()),
            figure("weight_bytes_ratio", format!("{:.4}", code_bytes as f64 / weights as f64), "")
                .with_goal("0.25".into()),
            figure("file_bytes", file.len().to_string(), "B").with_rival(int8.into(), int8_file.to_string()),
            figure("weight_bytes_to_int8_file", format!("{:.4}", code_bytes as f64 / int8_file as f64), "")
                .with_goal("0.25".into()),
            figure("arena_bytes", arena.arena_bytes.to_string(), "B"),
            figure("arena_lower_bound", arena.largest_live_set().to_string(), "B"),
            figure("flash_bytes", report.footprint.flash.to_string(), "B"),
            figure("code_bytes", (report.footprint.flash - file.len() as u64).to_string(), "B"),
            figure("ram_bytes", report.footprint.ram.to_string(), "B"),
            figure("stack_bytes", report.stack.to_string(), "B"),
            figure("mismatches", mismatches.to_string(), ""),
        ];
        for (bits, metric) in
            [(2, "weights_2bit"), (3, "weights_3bit"), (4, "weights_4bit"), (8, "weights_8bit")]
        {
            let count: usize =
                layers.iter().filter(|layer| layer.bits == bits).map(|layer| layer.weights).sum();
            if count > 0 {
                figures.push(figure(metric, count.to_string(), ""));
            }
        }
        Ok(figures)
    }
}

impl Measured {
    fn insns_per_mac(&self) -> Result<f64> {
        let [_, instructions, _] = self.report.spread();
        Ok(instructions as f64 / Model::parse(&self.file)?.macs() as f64)
    }
}

/// `cargo xtask models`: the cases whose names contain one of `only`, all if empty.
pub(crate) fn run(only: &[String], yes: bool) -> Result<()> {
    let chosen = |case: &Case| only.is_empty() || only.iter().any(|part| case.name.contains(part.as_str()));
    let cases: Vec<Case> = cases().into_iter().filter(chosen).collect();
    if cases.is_empty() {
        bail!("no case's name contains any of {only:?}");
    }
    let boards = BOARDS.into_iter().filter(|board| cases.iter().any(|case| case.board.core == board.core));
    let targets =
        boards.map(|board| ensure(&[board.tool], yes).map(|()| board.target)).collect::<Result<Vec<_>>>()?;
    let toolchain = bare_metal::find(&targets, yes)?;
    let qat = program()?;
    for case in &cases {
        match case.measure(&qat, &toolchain).with_context(|| case.name.clone())? {
            None => println!("{:<20} no room on {}", case.name, case.board.name),
            Some(measured) => {
                let arena = Model::parse(&measured.file)?.arena_use();
                println!(
                    "{:<20} {:.4} instructions per MAC, file {} B, arena {} B (lower bound {}), stack {} B",
                    case.name,
                    measured.insns_per_mac()?,
                    measured.file.len(),
                    arena.arena_bytes,
                    arena.largest_live_set(),
                    measured.report.stack,
                );
                // One by one: what is measured is not lost when a later case fails.
                record(SUITE, COMMAND, &case.figures(&measured)?)?;
            }
        }
    }
    Ok(())
}

/// Builds `qat` without training, which needs no libtorch.
pub(crate) fn program() -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "-q", "--locked", "-p", "qat-trainer", "--no-default-features", "--bin", "qat"]);
    run_command(&mut build)?;
    Ok(target_dir()?.join("debug/qat"))
}

/// The file of a preset with generated weights, packed for a board's core.
pub(crate) fn untrained(qat: &Path, preset: &str, board: &Board) -> Result<PathBuf> {
    let folder = target_dir()?.join("models");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let file = folder.join(format!("{preset}-{}.piq", board.core));
    let mut command = Command::new(qat);
    command.args(["seeded", "--preset", preset, "--seed", "1", "--target", board.family.name(), "--out"]);
    output(command.arg(&file))?;
    Ok(file)
}

/// Runs the module of the smallest model in `firmware/exported`, the shortest program around one, on a board.
pub(crate) fn check_module(qat: &Path, toolchain: &Toolchain, board: &Board) -> Result<()> {
    let folder = target_dir()?.join("models").join(format!("module-{}", board.core));
    let mut command = Command::new(qat);
    command.args(["seeded", "--preset", "autoencoder", "--target", board.family.name(), "--rust"]);
    output(command.arg(&folder))?;
    let path = folder.join("model.piq");
    let file = fs::read(&path).with_context(|| path.display().to_string())?;
    let samples = samples(&Model::parse(&file)?)?;
    let program = build_with(toolchain, board, "exported", &[], &[("PIQ_MODULE", &folder)])?;
    let outcome = emulate(board, &program, &samples)?;
    if outcome.logits != host_logits(&file, &path, &samples)? {
        bail!("{} computes something else than the host", board.name);
    }
    let paths = panic_paths(&program)?;
    if !paths.is_empty() {
        bail!("panic paths: {}", paths.join(", "));
    }
    Ok(())
}

/// Generated inputs for a model.
pub(crate) fn samples(model: &Model<'_>) -> Result<Samples> {
    let mut numbers = Numbers(1);
    let values = (0..SAMPLES * model.input_len()).map(|_| numbers.int8().cast_unsigned()).collect();
    Samples::new(model.input_len(), values)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_case_has_its_own_name() {
        let names: HashSet<String> = cases().into_iter().map(|case| case.name).collect();
        assert_eq!(names.len(), ARCHITECTURES.len() * BOARDS.len());
        assert!(names.contains("ds_cnn_m4"));
    }
}
