//! What quantisation leaves of a small model's reasoning: generated multi-step arithmetic, exact answers counted.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use qat_benches::results::{Figure, record};
use serde_json::Value;

use crate::cmd::{output, qat, root};
use crate::libtorch;
use crate::tools::{Tool, ensure};

/// What cases are called.
pub(super) const CASE: &str = "reasoning";

/// The model before quantisation, with its run description.
const FLOAT: &str = "arithmetic";
const CONFIG: &str = "qat-trainer/configs/arithmetic.toml";

/// Rounding without training: the case's name, the options, the bits.
const ROUNDINGS: [(&str, &[&str], u8); 4] = [
    ("ptq", &["--group", "16"], 2),
    ("ptq", &["--group", "16"], 3),
    ("rtn", &["--scheme", "rtn", "--group", "32"], 2),
    ("rtn", &["--scheme", "rtn", "--group", "32"], 3),
];

/// A training: the case's name, its run description, what is changed in it.
struct Training {
    name: &'static str,
    config: &'static str,
    set: &'static [&'static str],
}

const REASONING: &str = "arithmetic-2bit-reasoning";
const WITHOUT_REASONING_LOSS: &str = "distill.reasoning.weight=0.0";
const SHORT: &str = "train.steps=300";
const SHORTEST: &str = "train.steps=100";

/// The first is the one that goals are for; the others show what its parts bring: the cross-entropy alone, with the teacher's
/// answers, and with its reasoning, each also with less than a third, and with a tenth, of the steps.
const TRAININGS: [Training; 9] = [
    Training { name: "qat", config: REASONING, set: &[] },
    Training { name: "kd", config: REASONING, set: &[WITHOUT_REASONING_LOSS] },
    Training { name: "ce", config: "arithmetic-2bit", set: &[] },
    Training { name: "300_steps_kd_reasoning", config: REASONING, set: &[SHORT] },
    Training { name: "300_steps_kd", config: REASONING, set: &[SHORT, WITHOUT_REASONING_LOSS] },
    Training { name: "300_steps_ce", config: "arithmetic-2bit", set: &[SHORT] },
    Training { name: "100_steps_kd_reasoning", config: REASONING, set: &[SHORTEST] },
    Training { name: "100_steps_kd", config: REASONING, set: &[SHORTEST, WITHOUT_REASONING_LOSS] },
    Training { name: "100_steps_ce", config: "arithmetic-2bit", set: &[SHORTEST] },
];

/// Percent of the float model's exact answers that quantised models are to keep, by bits.
const GOALS: [(u8, &str); 2] = [(2, "90"), (3, "97")];

/// Measures the cases whose names contain one of `only`. What was trained before is used again.
pub(super) fn run(only: &[&str], seeds: usize, yes: bool) -> Result<()> {
    ensure(&[Tool::Cxx], yes)?;
    libtorch::ensure(yes)?;
    let qat = qat()?;
    let chosen = |case: &str| only.iter().any(|part| case.contains(part));
    let float = train(&qat, &format!("runs/{FLOAT}"), CONFIG, &[])?;
    let float = float.percent()?;
    println!("{:<40} {float:.1} %", format!("{CASE}_float"));
    let figure = Figure::new(format!("{CASE}_float"), "exact_percent", format!("{float:.1}"), "%");
    record("llm", &format!("cargo xtask llm {CASE}"), &[figure.with_goal("95".into())])?;
    for (name, options, bits) in ROUNDINGS {
        let case = format!("{CASE}_{bits}bit_{name}");
        if chosen(&case) {
            let mut command = Command::new(&qat);
            command.current_dir(root()).args([
                "llm",
                "exact",
                &format!("runs/{FLOAT}/model"),
                "--config",
                CONFIG,
            ]);
            command.args(["--json", "--threads", "1", "--bits", &bits.to_string()]).args(options);
            let answer: Value =
                serde_json::from_str(&output(&mut command)?).context("qat llm exact --json")?;
            let exact = 100.0 * number(&answer, "share")?;
            let width = number(&answer["quantisation"], "bits")?;
            keep(&case, &[exact], float, width, None, &format!("cargo xtask llm {case}"))?;
        }
    }
    for (bits, goal) in GOALS {
        for (i, Training { name, config, set }) in TRAININGS.iter().enumerate() {
            let case = format!("{CASE}_{bits}bit_{name}");
            if !chosen(&case) {
                continue;
            }
            let config = format!("qat-trainer/configs/{config}.toml");
            let (mut exact, mut width) = (Vec::new(), 0.0);
            for seed in 1..=seeds {
                let settings = [format!("train.seed={seed}"), format!("qat.bits={bits}")];
                let set: Vec<&str> = settings.iter().map(String::as_str).chain(set.iter().copied()).collect();
                let trained = train(&qat, &format!("runs/{CASE}/{bits}bit_{name}-{seed}"), &config, &set)?;
                exact.push(trained.percent()?);
                width = number(&trained.0, "bits_per_weight")?;
            }
            let goal = (i == 0).then_some(goal);
            keep(&case, &exact, float, width, goal, &format!("cargo xtask llm {case} --seeds {seeds}"))?;
        }
    }
    Ok(())
}

/// summary.json of a training.
struct Trained(Value);

impl Trained {
    /// Percent of the held-out problems that are solved.
    fn percent(&self) -> Result<f64> {
        Ok(100.0 * number(&self.0, "exact")? / number(&self.0, "problems")?)
    }
}

/// Trains, or goes on with a training that was interrupted, on one core.
fn train(qat: &Path, out: &str, config: &str, set: &[&str]) -> Result<Trained> {
    let mut command = Command::new(qat);
    command.current_dir(root()).args([
        "llm",
        "train",
        config,
        "--out",
        out,
        "--resume",
        "--json",
        "--threads",
        "1",
    ]);
    set.iter().for_each(|set| {
        command.args(["--set", set]);
    });
    Ok(Trained(serde_json::from_str(&output(&mut command)?).context("qat llm train --json")?))
}

/// Prints and records a case, given the percentages of its seeds.
fn keep(case: &str, exact: &[f64], float: f64, width: f64, goal: Option<&str>, command: &str) -> Result<()> {
    let mean = exact.iter().sum::<f64>() / exact.len().max(1) as f64;
    let retention = 100.0 * mean / float;
    let (least, most) = exact
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), &x| (least.min(x), most.max(x)));
    let seeds: Vec<String> = exact.iter().map(|x| format!("{x:.1}")).collect();
    println!(
        "{case:<40} {mean:.1} % exact ({}), {retention:.1} % of float, {width:.3} bits",
        seeds.join(", ")
    );
    let figure = |metric, value: String, unit| Figure::new(case.into(), metric, value, unit);
    let kept = figure("retention_percent", format!("{retention:.1}"), "%");
    let figures = [
        figure("exact_percent", format!("{mean:.1}"), "%"),
        figure("exact_spread", format!("{:.1}", most - least), "%"),
        goal.map_or(kept.clone(), |goal| kept.with_goal(goal.into())),
        figure("bits_per_weight", format!("{width:.3}"), ""),
        figure("seeds", exact.len().to_string(), ""),
    ];
    record("llm", command, &figures)
}

fn number(value: &Value, key: &str) -> Result<f64> {
    value[key].as_f64().with_context(|| format!("no number `{key}` in the answer"))
}
