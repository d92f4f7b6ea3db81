//! `cargo xtask presets`: trains the presets of `qat` with several seeds and writes `benches/results/presets.csv`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use qat_benches::results::{Figure, record};
use serde_json::Value;

use crate::cmd::{cargo, output, root, run as run_command, target_dir};
use crate::tools::{Tool, ensure};
use crate::{imu, libtorch};

/// What the user asked for.
pub(crate) struct Options {
    pub(crate) yes: bool,
    pub(crate) seeds: usize,
    /// Go on with an interrupted sweep: complete trainings of the same run description are kept.
    pub(crate) resume: bool,
    /// Only these presets; all if empty.
    pub(crate) only: Vec<String>,
}

/// The presets whose data is at hand have one of these in their names.
const FAMILIES: [&str; 3] = ["digits", "letter", "imu"];

/// Presets that learn from another preset's floating-point network, trained with seed 1, and that preset. Their
/// descriptions name its run folder.
const TEACHERS: [(&str, &str); 1] = [("digits-small", "digits-teacher")];

/// What the seeds of one preset came to.
struct Outcome {
    case: String,
    /// Shares of the test split, seed by seed: float, without training, integer engine.
    fp32: Vec<f64>,
    ptq: Vec<f64>,
    int: Vec<f64>,
    file_bytes: u64,
    arena_bytes: u64,
    macs: u64,
    seconds: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.seeds == 0 {
        bail!("--seeds 0 trains nothing");
    }
    ensure(&[Tool::Cxx], options.yes)?;
    libtorch::ensure(options.yes)?;
    run_command(cargo().args(["build", "--release", "--locked", "-p", "qat-trainer"]))?;
    let qat = target_dir()?.join("release/qat");
    let list: Value = serde_json::from_str(&output(Command::new(&qat).args(["presets", "--json"]))?)?;
    let names: Vec<&str> = list.as_array().into_iter().flatten().filter_map(|p| p["name"].as_str()).collect();
    let names: Vec<&str> =
        names.into_iter().filter(|name| FAMILIES.iter().any(|family| name.contains(family))).collect();
    if let Some(unknown) = options.only.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("no preset `{unknown}` with data at hand; there are: {}", names.join(", "));
    }
    let is_teacher = |name: &str| TEACHERS.iter().any(|(_, teacher)| *teacher == name);
    let chosen = |name: &&str| match options.only.as_slice() {
        [] => !is_teacher(name),
        only => only.iter().any(|only| only == name),
    };
    println!(
        "{:<18} {:>9} {:>9} {:>9} {:>8} {:>9}",
        "preset", "FP32 %", "PTQ %", "integer %", "spread", "bytes"
    );
    for name in names.into_iter().filter(chosen) {
        if name.contains("imu") {
            imu::ensure(options.yes)?;
        }
        if let Some((_, teacher)) = TEACHERS.iter().find(|(student, _)| *student == name) {
            train(&qat, teacher, 1, options.resume)?;
        }
        let outcome = train(&qat, name, options.seeds, options.resume)?;
        let [fp32, ptq, int] = [&outcome.fp32, &outcome.ptq, &outcome.int].map(|shares| 100.0 * mean(shares));
        let spread = 100.0 * spread(&outcome.int);
        println!("{name:<18} {fp32:>9.2} {ptq:>9.2} {int:>9.2} {spread:>8.2} {:>9}", outcome.file_bytes);
        // After each preset: an interruption loses one, not all.
        let command = format!("cargo xtask presets {name} --seeds {}", options.seeds);
        record("presets", &command, &figures(&outcome, options.seeds))?;
    }
    Ok(())
}

fn train(qat: &Path, name: &str, seeds: usize, resume: bool) -> Result<Outcome> {
    let mut outcome = Outcome {
        case: case(name),
        fp32: Vec::new(),
        ptq: Vec::new(),
        int: Vec::new(),
        file_bytes: 0,
        arena_bytes: 0,
        macs: 0,
        seconds: 0.0,
    };
    for seed in 1..=seeds {
        let folder = root().join("runs/presets").join(format!("{name}-{seed}"));
        if folder.exists() && !resume {
            fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        let mut command = Command::new(qat);
        let seed = seed.to_string();
        command
            .current_dir(root())
            .args(["train", "--preset", name, "--json", "--resume", "--seed", &seed, "--out"]);
        let summary: Value =
            serde_json::from_str(&output(command.arg(&folder))?).context("qat train --json")?;
        let number =
            |key: &str| summary[key].as_f64().with_context(|| format!("no number `{key}` in the summary"));
        outcome.fp32.push(number("fp32_accuracy")?);
        outcome.ptq.push(number("ptq_accuracy")?);
        outcome.int.push(number("int_accuracy")?);
        outcome.file_bytes = number("file_bytes")? as u64;
        outcome.arena_bytes = number("arena_bytes")? as u64;
        outcome.macs = number("macs")? as u64;
        outcome.seconds += number("seconds")?;
    }
    Ok(outcome)
}

/// The case in the results: every preset's name says its bits there.
fn case(name: &str) -> String {
    let named = ["3bit", "mixed"].iter().any(|bits| name.ends_with(bits));
    if named { name.replace('-', "_") } else { format!("{}_2bit", name.replace('-', "_")) }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// From the least to the greatest.
fn spread(values: &[f64]) -> f64 {
    let (lo, hi) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)));
    hi - lo
}

fn figures(o: &Outcome, seeds: usize) -> Vec<Figure> {
    let percent = |x: f64| format!("{:.2}", 100.0 * x);
    [
        ("accuracy_mean", percent(mean(&o.int)), "%"),
        ("accuracy_spread", percent(spread(&o.int)), "%"),
        ("fp32_accuracy_mean", percent(mean(&o.fp32)), "%"),
        ("ptq_accuracy_mean", percent(mean(&o.ptq)), "%"),
        ("retention_percent", percent(mean(&o.int) / mean(&o.fp32).max(f64::MIN_POSITIVE)), "%"),
        ("file_bytes", o.file_bytes.to_string(), "B"),
        ("arena_bytes", o.arena_bytes.to_string(), "B"),
        ("macs", o.macs.to_string(), ""),
        ("seeds", seeds.to_string(), ""),
        ("seconds", format!("{:.1}", o.seconds / seeds as f64), "s"),
    ]
    .map(|(metric, value, unit)| {
        let figure = Figure::new(o.case.clone(), metric, value, unit);
        match goal(&o.case, metric) {
            Some(goal) => figure.with_goal(goal.to_owned()),
            None => figure,
        }
    })
    .into()
}

/// What a figure is to reach.
fn goal(case: &str, metric: &str) -> Option<&'static str> {
    match (metric, case) {
        ("accuracy_mean", "digits_small_2bit") => Some(">= 99.3"),
        ("file_bytes", "digits_small_2bit") => Some("<= 12288"),
        ("retention_percent", case) if case.ends_with("_3bit") => Some(">= 99.5"),
        ("retention_percent", case) if case.starts_with("digits") => Some(">= 99"),
        ("retention_percent", _) => Some(">= 98"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_say_their_bits() {
        assert_eq!(
            ["digits", "digits-mlp", "imu-3bit", "letter-mixed"].map(case),
            ["digits_2bit", "digits_mlp_2bit", "imu_3bit", "letter_mixed"]
        );
    }

    #[test]
    fn means_and_spreads() {
        assert_eq!(mean(&[0.5, 1.0]), 0.75);
        assert_eq!(spread(&[0.5, 1.0, 0.75]), 0.5);
        assert_eq!(spread(&[0.5]), 0.0);
    }
}
