//! SmolLM2-135M packed into one file: bytes, perplexity on the engine that runs the codes, and tokens a second beside the
//! dequantised decoder in torch's operators, by turns, on one thread.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use qat_benches::results::{Figure, record};
use serde_json::Value;

use super::ptq::{self, Compensated};
use super::{PARTS, eval, number, perplexity};
use crate::cmd::{cargo, output, root, run as run_command, target_dir};

/// The text whose perplexity is measured: the first one.
const TEXT: usize = 0;
/// How often everything is timed; the medians count.
const ROUNDS: usize = 5;
const PROMPT: &str = "The State of the Union is";
/// Tokens that are written to be timed.
const TOKENS: &str = "64";

/// The case of a quantisation.
fn case(how: &Compensated) -> String {
    format!("smollm2_{}", how.name.replacen("ptq_compensated", "packed", 1))
}

/// Measures the quantisations whose cases are chosen.
pub(super) fn run(chosen: impl Fn(&str) -> bool, model: &Path, text: &Path, speeches: &Path) -> Result<()> {
    let wanted: Vec<&Compensated> = ptq::COMPENSATED.iter().filter(|how| chosen(&case(how))).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    // The engine's loops are ours: timed as they are shipped.
    run_command(cargo().args(["build", "--release", "--locked", "-p", "qat-trainer"]))?;
    let qat = target_dir()?.join("release/qat");
    for how in wanted {
        measure(how, &qat, model, text, speeches)?;
    }
    Ok(())
}

fn measure(how: &Compensated, qat: &Path, model: &Path, text: &Path, speeches: &Path) -> Result<()> {
    let case = case(how);
    let (folder, _) = ptq::ensure(how, qat, model, speeches)?;
    let file = packed(&case, qat, &folder)?;
    let part = &PARTS[TEXT];
    let ours = eval(qat, &file, text, part, &[])?;
    let theirs = perplexity(&eval(qat, &folder, text, part, &[])?)?;
    let parameters = ours["parameters"].as_u64().context("no parameters in the answer")?;
    let ours = perplexity(&ours)?;
    let bytes = fs::metadata(&file).with_context(|| file.display().to_string())?.len();
    let (mut packed, mut f32s, mut bf16s) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        packed.push(speed(qat, &file, "f32")?);
        f32s.push(speed(qat, &folder, "f32")?);
        bf16s.push(speed(qat, &folder, "bf16")?);
    }
    let [packed, f32s, bf16s] = [packed, f32s, bf16s].map(median);
    println!("{case:<42} {packed:.1} tokens/s beside {f32s:.1} (f32) and {bf16s:.1} (bf16)");
    println!("{case:<42} {} beside {}; {bytes} bytes", number(ours), number(theirs));
    let figure = |metric, value: String, unit| Figure::new(case.clone(), metric, value, unit);
    let figures = [
        figure("perplexity", number(ours), "").with_rival("dequantised, f32".into(), number(theirs)),
        figure("file_bytes", bytes.to_string(), "B")
            .with_rival("bf16 weights".into(), (2 * parameters).to_string()),
        figure("tokens_per_second", format!("{packed:.1}"), "1/s")
            .with_rival("torch, f32".into(), format!("{f32s:.1}")),
        figure("tokens_per_second_over_bf16", format!("{:.2}", packed / bf16s), "")
            .with_rival("torch, bf16, tokens/s".into(), format!("{bf16s:.1}")),
    ];
    record("llm", &format!("cargo xtask llm {case}"), &figures)
}

/// The file of a folder, with tables of 8 bits; made unless it is there.
fn packed(case: &str, qat: &Path, folder: &Path) -> Result<PathBuf> {
    let file = root().join(".cache").join(format!("{case}.piq"));
    if !file.exists() {
        let mut export = Command::new(qat);
        export.args(["llm", "export"]).arg(folder).args(["--table-bits", "8", "--out"]).arg(&file);
        output(&mut export)?;
    }
    Ok(file)
}

/// Tokens a second of text that follows a prompt, on one thread.
fn speed(qat: &Path, model: &Path, dtype: &str) -> Result<f64> {
    let mut command = Command::new(qat);
    command.args(["llm", "generate"]).arg(model).args([PROMPT, "--tokens", TOKENS, "--dtype", dtype]);
    command.args(["--threads", "1", "--json"]);
    let answer: Value = serde_json::from_str(&output(&mut command)?).context("qat llm generate --json")?;
    answer["tokens_per_second"].as_f64().context("no speed in the answer")
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}
