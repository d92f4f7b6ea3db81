//! `cargo xtask demo`: trains the two examples with quantisation in the loop, exports them, and runs the same file on the
//! host and on an emulated Cortex-M4F; ends with a table.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use qat_kernels::infer::Model;
use serde_json::Value;

use crate::bare_metal::{self, Toolchain};
use crate::cmd::{cargo, output, root, run as run_command, target_dir};
use crate::emulator::M4;
use crate::libtorch;
use crate::mcu::{Report, mismatches, run_model};
use crate::results::{Figure, record};
use crate::samples::Samples;
use crate::tools::{Tool, ensure};

/// What the user asked for.
pub(crate) struct Options {
    pub(crate) yes: bool,
    pub(crate) check_repeat: bool,
    /// Only these cases; all if empty.
    pub(crate) only: Vec<String>,
}

const CASES: [&str; 2] = ["digits", "letter"];

/// The outcome of one case.
struct Row {
    case: &'static str,
    /// In percent: float, quantised after training, trained with quantisation (float graph), integer engine.
    accuracy: [f64; 4],
    file_bytes: u64,
    arena_bytes: u64,
    macs: u64,
    instructions: u64,
    samples: usize,
    mismatches: usize,
    seconds: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(unknown) = options.only.iter().find(|case| !CASES.contains(&case.as_str())) {
        bail!("no example `{unknown}`; there are: {}", CASES.join(", "));
    }
    let began = Instant::now();
    ensure(&[Tool::Cxx, Tool::QemuArm], options.yes)?;
    let libtorch = libtorch::ensure(options.yes)?;
    let toolchain = bare_metal::find(&[M4.target], options.yes)?;
    println!("libtorch: {}\nbare-metal Rust: {toolchain}", libtorch.display());
    run_command(cargo().args(["build", "--release", "--locked", "-p", "qat-trainer"]))?;
    let qat = target_dir()?.join("release/qat");

    let mut rows = Vec::new();
    for case in
        CASES.into_iter().filter(|case| options.only.is_empty() || options.only.iter().any(|c| c == case))
    {
        println!("\n== {case}");
        let folder = root().join("runs").join(case);
        rows.push(example(&qat, &toolchain, case, &folder)?);
        if options.check_repeat {
            check_repeat(&qat, case, &folder)?;
        }
    }
    let figures: Vec<Figure> = rows.iter().flat_map(figures).collect();
    record("demo", "cargo xtask demo", &figures)?;
    print_table(&rows);
    println!("{:.1} minutes; figures in benches/results/demo.csv", began.elapsed().as_secs_f64() / 60.0);
    let differing: usize = rows.iter().map(|row| row.mismatches).sum();
    if differing > 0 {
        bail!("{differing} samples give different logits on host and device");
    }
    Ok(())
}

fn qat(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

fn config(case: &str) -> String {
    format!("qat-trainer/configs/{case}.toml")
}

/// Trains into `folder`, which is replaced.
pub(crate) fn train(program: &Path, case: &str, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    run_command(qat(program).args(["train", &config(case), "--seed", "1", "--out"]).arg(folder))
}

/// Trains, exports, verifies, and runs on host and board.
fn example(program: &Path, toolchain: &Toolchain, case: &'static str, folder: &Path) -> Result<Row> {
    train(program, case, folder)?;
    // The same codes once more, in the order that the board's kernels read.
    let model = folder.join(format!("model-{}.piq", M4.family));
    let mut export = qat(program);
    export.arg("export").arg(folder).args(["--target", M4.family.name(), "--out"]).arg(&model);
    run_command(&mut export)?;
    run_command(qat(program).arg("verify").arg(&model))?;

    let [samples_file, logits_file] = ["test-samples.bin", "test-logits.bin"].map(|name| folder.join(name));
    let mut eval = qat(program);
    eval.arg("eval").arg(&model).args(["--config", &config(case), "--json", "--dump-samples"]);
    eval.arg(&samples_file).arg("--dump-logits").arg(&logits_file);
    let evaluated: Value = serde_json::from_str(&output(&mut eval)?).context("qat eval --json")?;
    let summary_file = folder.join("summary.json");
    let summary: Value = serde_json::from_str(&read_text(&summary_file)?).context("summary.json")?;
    let number =
        |key: &str| summary[key].as_f64().with_context(|| format!("no number `{key}` in summary.json"));

    // Training and evaluation must agree on what the file does, to the last sample.
    let int_accuracy = number("int_accuracy")?;
    if evaluated["accuracy"].as_f64().is_none_or(|accuracy| (accuracy - int_accuracy).abs() > 1e-9) {
        bail!("`qat eval` finds accuracy {}, training wrote {int_accuracy}", evaluated["accuracy"]);
    }

    println!("running the test split on {}", M4.name);
    let samples = Samples::parse(&fs::read(&samples_file)?).context("test samples")?;
    let bytes = fs::read(&model).with_context(|| model.display().to_string())?;
    let parsed = Model::parse(&bytes).with_context(|| model.display().to_string())?;
    let report = run_model(toolchain, &M4, &model, &samples)?;
    let host = fs::read(&logits_file).context("test logits")?;
    let percent = |key: &str| number(key).map(|share| 100.0 * share);
    Ok(Row {
        case,
        accuracy: [
            percent("fp32_accuracy")?,
            percent("ptq_accuracy")?,
            percent("qat_float_accuracy")?,
            100.0 * int_accuracy,
        ],
        file_bytes: bytes.len() as u64,
        arena_bytes: parsed.arena_len() as u64,
        macs: parsed.macs(),
        instructions: instructions(&report)?,
        samples: samples.count(),
        mismatches: mismatches(&report.logits, &host, samples.count()),
        seconds: number("seconds")?,
    })
}

/// Instructions of the first sample's inference, after a look at what else the board reported.
fn instructions(report: &Report) -> Result<u64> {
    if !report.panic_paths.is_empty() {
        bail!("the firmware can panic: {}", report.panic_paths.join(", "));
    }
    let [least, median, most] = report.spread();
    println!("instructions: least {least}, median {median}, most {most}");
    report.instructions.first().copied().context("no inference was counted")
}

/// The whole way of Letter, which takes seconds, with what it has to reach; returns its model.
pub(crate) fn check_letter(program: &Path, toolchain: &Toolchain, folder: &Path) -> Result<PathBuf> {
    let row = example(program, toolchain, "letter", folder)?;
    check_repeat(program, "letter", folder)?;
    let [fp32, _, qat, int] = row.accuracy;
    if fp32 < 96.0 || int < 94.8 || (qat - int).abs() > 0.3 || row.mismatches > 0 {
        bail!("float {fp32} %, fake-quantised {qat} %, integer {int} %, {} mismatches", row.mismatches);
    }
    println!("float {fp32:.2} %, fake-quantised {qat:.2} %, integer {int:.2} %, no mismatches");
    Ok(folder.join("model.piq"))
}

/// Trains once more and compares the two files.
fn check_repeat(program: &Path, case: &str, first: &Path) -> Result<()> {
    let second = first.with_file_name(format!("{case}-again"));
    train(program, case, &second)?;
    for file in ["model.piq", "ptq.piq"] {
        if fs::read(first.join(file))? != fs::read(second.join(file))? {
            bail!("two runs with one seed differ: {} in {} and {}", file, first.display(), second.display());
        }
    }
    println!("{case}: trained twice, the files are the same");
    fs::remove_dir_all(&second).with_context(|| second.display().to_string())
}

fn read_text(path: &PathBuf) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn figures(row: &Row) -> Vec<Figure> {
    let [fp32, ptq, qat, int] = row.accuracy.map(|percent| format!("{percent:.2}"));
    [
        ("fp32_accuracy", fp32, "%"),
        ("ptq_accuracy", ptq, "%"),
        ("qat_float_accuracy", qat, "%"),
        ("int_accuracy", int, "%"),
        ("file_bytes", row.file_bytes.to_string(), "B"),
        ("arena_bytes", row.arena_bytes.to_string(), "B"),
        ("macs", row.macs.to_string(), ""),
        ("instructions", row.instructions.to_string(), ""),
        ("device_samples", row.samples.to_string(), ""),
        ("mismatches", row.mismatches.to_string(), ""),
        ("seconds", format!("{:.1}", row.seconds), "s"),
    ]
    .map(|(metric, value, unit)| Figure::new(row.case.to_owned(), metric, value, unit))
    .into()
}

fn print_table(rows: &[Row]) {
    let lines = [
        "example",
        "FP32",
        "PTQ 2-bit",
        "QAT 2-bit",
        "integer",
        "file",
        "arena",
        "MACs",
        "instructions",
        "mismatches",
    ];
    let mut table = vec![lines.map(str::to_owned)];
    table.extend(rows.iter().map(|row| {
        let [fp32, ptq, qat, int] = row.accuracy.map(|percent| format!("{percent:.2} %"));
        [
            row.case.to_owned(),
            fp32,
            ptq,
            qat,
            int,
            format!("{} B", row.file_bytes),
            format!("{} B", row.arena_bytes),
            row.macs.to_string(),
            row.instructions.to_string(),
            format!("{} of {}", row.mismatches, row.samples),
        ]
    }));
    println!();
    for line in &table {
        let cells = line.iter().enumerate().map(|(column, cell)| {
            let width = table.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        println!("{}", cells.collect::<Vec<_>>().join("  "));
    }
    println!(
        "Accuracy on the test split: float, quantised without training, trained with quantisation (float graph), \
         integer engine. Instructions (not cycles) of one inference on a {}; mismatches: test samples whose logits \
         differ between host and device.",
        M4.name
    );
}
