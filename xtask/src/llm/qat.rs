//! SmolLM2-135M trained with quantisation in the loop on State of the Union addresses, with itself as the teacher.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use qat_benches::results::Figure;
use serde_json::Value;

use super::{number, ptq};
use crate::cmd::{cargo, root, run};

/// A training and what it is to reach.
pub(super) struct Training {
    /// The end of the case's name, and the name of its folder.
    pub(super) name: &'static str,
    begin: Begin,
    steps: &'static str,
    lr: &'static str,
    /// What its perplexity is compared with.
    pub(super) against: Against,
}

/// What the training begins with.
enum Begin {
    /// The weights rounded to so many bits, α for each 64 of them, k for each 16.
    Rounded(&'static str),
    /// The codes and steps of a model that was quantised on a text.
    Quantised(ptq::Compensated),
}

/// How the result is judged.
pub(super) enum Against {
    /// Its perplexity over that of the model as shipped, at most 1.15.
    AsShipped,
    /// That of rounding to nearest over its own, at least 20.
    Rounded(&'static [&'static str]),
}

/// All there are.
pub(super) const TRAININGS: [Training; 4] = [
    Training {
        name: "qat_adaptive_k_g16_3bit",
        begin: Begin::Rounded("3"),
        steps: "300",
        lr: "2e-4",
        against: Against::AsShipped,
    },
    Training {
        name: "qat_adaptive_k_g16_2bit",
        begin: Begin::Rounded("2"),
        steps: "600",
        lr: "5e-4",
        against: Against::Rounded(ptq::FINE_2_BITS.rounded),
    },
    Training {
        name: "qat_from_ptq_b32_g16_3bit",
        begin: Begin::Quantised(ptq::FINE_3_BITS),
        steps: "600",
        lr: "2e-4",
        against: Against::AsShipped,
    },
    Training {
        name: "qat_from_ptq_b32_g16_2bit",
        begin: Begin::Quantised(ptq::FINE_2_BITS),
        steps: "600",
        lr: "5e-4",
        against: Against::Rounded(ptq::FINE_2_BITS.rounded),
    },
];

/// Trains unless that was done before; returns the folder of the model.
pub(super) fn ensure(training: &Training, qat: &Path, model: &Path, speeches: &Path) -> Result<PathBuf> {
    let folder = root().join(".cache").join(format!("smollm2-{}", training.name));
    if folder.join(ABOUT).exists() {
        return Ok(folder);
    }
    let mut train = cargo();
    train.args(["run", "--locked", "--release", "-p", "qat-trainer", "--example", "self_distillation", "--"]);
    train.args([model, &folder, Path::new("--text"), speeches]);
    match &training.begin {
        Begin::Rounded(bits) => train.args(["--bits", bits]),
        Begin::Quantised(how) => train.arg("--from").arg(ptq::ensure(how, qat, model, speeches)?.0),
    };
    println!("training {}; one core takes less than an hour", training.name);
    run(train.args(["--steps", training.steps, "--lr", training.lr, "--threads", "1"]))?;
    Ok(folder)
}

/// Written last by the example: what the training was.
const ABOUT: &str = "quantisation.json";

/// Mean bits of a quantised weight, updates and minutes of the training.
pub(super) fn about(folder: &Path, case: &str) -> Result<Vec<Figure>> {
    let file = folder.join(ABOUT);
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let about: Value = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    let get = |key: &str| about[key].as_f64().with_context(|| format!("{}: no `{key}`", file.display()));
    Ok(vec![
        Figure::new(case.into(), "bits_per_weight", format!("{:.3}", get("bits")?), ""),
        Figure::new(case.into(), "training_tokens", format!("{}", get("tokens")?), ""),
        Figure::new(case.into(), "training_time", format!("{:.0}", get("processor_seconds")? / 60.0), "min"),
    ])
}

/// The perplexity `ours` beside that which it is compared with.
pub(super) fn judged(training: &Training, case: &str, ours: f64, other: f64) -> Figure {
    match training.against {
        Against::AsShipped => Figure::new(case.into(), "over_as_shipped", format!("{:.3}", ours / other), "")
            .with_goal("<= 1.15".into())
            .with_rival("as shipped".into(), number(other)),
        Against::Rounded(_) => {
            Figure::new(case.into(), "rounded_over_ours", format!("{:.1}", other / ours), "")
                .with_goal(">= 20".into())
                .with_rival("rounded to nearest".into(), number(other))
        }
    }
}
