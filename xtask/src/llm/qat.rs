//! SmolLM2-135M trained with quantisation in the loop on State of the Union addresses, and on texts of its own, with itself as the
//! teacher.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use qat_benches::results::Figure;
use serde_json::Value;

use super::{dtype, number, ptq};
use crate::cmd::{cargo, root, run};

/// A training and what it is to reach.
pub(super) struct Training {
    /// The end of the case's name, and the name of its folder.
    pub(super) name: &'static str,
    how: How,
    /// What its perplexity is compared with.
    pub(super) against: Against,
}

/// What trains, and how.
enum How {
    /// The example `self_distillation`, on speeches.
    Example { begin: Begin, steps: &'static str, lr: &'static str },
    /// `qat llm train` by a run description, from codes that were fitted to both kinds of text.
    Described { config: &'static str, codes: ptq::Compensated, learns: Learns },
}

/// What learns.
#[derive(Clone, Copy)]
enum Learns {
    /// All weights.
    Weights,
    /// Adapters, in so many updates; they are merged into the model that is judged.
    Adapters { steps: &'static str },
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

/// As many updates as an older core does in little more than an hour, in f32: 22 seconds each.
const ADAPTERS: Learns = Learns::Adapters { steps: "200" };

/// All there are.
pub(super) const TRAININGS: [Training; 6] = [
    Training {
        name: "qat_adaptive_k_g16_3bit",
        how: How::Example { begin: Begin::Rounded("3"), steps: "300", lr: "2e-4" },
        against: Against::AsShipped,
    },
    Training {
        name: "qat_from_ptq_b32_g16_2bit",
        how: How::Example { begin: Begin::Quantised(ptq::FINE_2_BITS), steps: "600", lr: "5e-4" },
        against: Against::Rounded(ptq::FINE_2_BITS.rounded),
    },
    Training {
        name: "own_texts_3bit",
        how: How::Described { config: "smollm2-3bit", codes: ptq::TWO_TEXTS[0], learns: Learns::Weights },
        against: Against::AsShipped,
    },
    Training {
        name: "own_texts_2bit",
        how: How::Described { config: "smollm2-2bit", codes: ptq::TWO_TEXTS[1], learns: Learns::Weights },
        against: Against::Rounded(ptq::FINE_2_BITS.rounded),
    },
    Training {
        name: "lora_3bit",
        how: How::Described { config: "smollm2-3bit-lora", codes: ptq::TWO_TEXTS[0], learns: ADAPTERS },
        against: Against::AsShipped,
    },
    Training {
        name: "lora_2bit",
        how: How::Described { config: "smollm2-2bit-lora", codes: ptq::TWO_TEXTS[1], learns: ADAPTERS },
        against: Against::Rounded(ptq::FINE_2_BITS.rounded),
    },
];

/// What came of a training.
pub(super) struct Trained {
    /// The folder of the model.
    pub(super) model: PathBuf,
    /// What the training says of itself.
    about: PathBuf,
    /// Whether the parameters that it counts stand beside the quantised weights.
    adapters: bool,
}

/// Trains unless that was done before.
pub(super) fn ensure(training: &Training, qat: &Path, model: &Path, speeches: &Path) -> Result<Trained> {
    let folder = root().join(".cache").join(format!("smollm2-{}", training.name));
    let told = || println!("training {}; two cores take an hour or less", training.name);
    match &training.how {
        How::Example { begin, steps, lr } => {
            let about = folder.join("quantisation.json");
            if !about.exists() {
                let mut train = cargo();
                train.args(["run", "--locked", "--release", "-p", "qat-trainer", "--example"]);
                train.args(["self_distillation", "--"]);
                train.args([model, &folder, Path::new("--text"), speeches]);
                match begin {
                    Begin::Rounded(bits) => train.args(["--bits", bits]),
                    Begin::Quantised(how) => {
                        train.arg("--from").arg(ptq::ensure(how, qat, model, speeches)?.0)
                    }
                };
                told();
                run(train.args(["--steps", steps, "--lr", lr]))?;
            }
            Ok(Trained { model: folder, about, adapters: false })
        }
        How::Described { config, codes, learns } => {
            let about = folder.join("summary.json");
            if !about.exists() {
                ptq::ensure(codes, qat, model, speeches)?;
                told();
                let mut train = Command::new(qat);
                train.current_dir(root()).args(["llm", "train"]);
                train.arg(format!("qat-trainer/configs/{config}.toml")).arg("--out").arg(&folder);
                if let Learns::Adapters { steps } = learns {
                    train.args(["--set", &format!("train.steps={steps}")]);
                }
                run(train.args(["--dtype", dtype(), "--resume"]))?;
            }
            let (learned, merged) = (folder.join("model"), folder.join("merged"));
            let adapters = matches!(learns, Learns::Adapters { .. });
            if adapters && !merged.exists() {
                let mut merge = Command::new(qat);
                merge.args(["llm", "merge"]).arg(&learned).arg(folder.join("adapter"));
                run(merge.arg("--out").arg(&merged))?;
            }
            Ok(Trained { model: if adapters { merged } else { learned }, about, adapters })
        }
    }
}

/// Tokens in an update of the run descriptions.
const WINDOW: f64 = 512.0;
/// Weights of the matrices of all blocks.
const WEIGHTS: f64 = 106_168_320.0;
/// Bits of a number of the adapters, as they are used.
const ADAPTER_BITS: f64 = 16.0;

/// Mean bits of a quantised weight, the adapters beside it shared out, tokens and minutes of the training.
pub(super) fn about(trained: &Trained, case: &str) -> Result<Vec<Figure>> {
    let file = &trained.about;
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let about: Value = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    // The example's key, or that of `qat llm train`.
    let get = |keys: [&str; 2]| {
        let value = keys.iter().find_map(|key| about[*key].as_f64());
        value.with_context(|| format!("{}: no `{}`", file.display(), keys.join("` or `")))
    };
    let tokens = get(["tokens"; 2]).or_else(|_| get(["steps"; 2]).map(|steps| steps * WINDOW))?;
    let mut bits = get(["bits", "bits_per_weight"])?;
    if trained.adapters {
        bits += ADAPTER_BITS * get(["parameters"; 2])? / WEIGHTS;
    }
    let figure = |metric, value, unit| Figure::new(case.into(), metric, value, unit);
    Ok(vec![
        figure("bits_per_weight", format!("{bits:.3}"), ""),
        figure("training_tokens", format!("{tokens}"), ""),
        figure("training_time", format!("{:.0}", get(["processor_seconds", "seconds"])? / 60.0), "min"),
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
