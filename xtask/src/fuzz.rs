//! Fuzzing: builds the targets of `fuzz/` with the coverage counters that libFuzzer reads, and runs them. The flags are
//! those of `cargo fuzz` without the address sanitiser, so that stable Rust is enough: what is fuzzed here is safe code.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cmd::{cargo, output, root, run as run_command, target_dir};
use crate::probe::probes;

/// When to stop.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// After this time.
    Seconds(usize),
    /// After this many executions: the same work on every machine.
    Executions(usize),
}

const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1";

/// Fuzzes `only`, or all targets; fails on the first finding.
pub(crate) fn run(only: &[String], limit: Limit) -> Result<()> {
    let targets = targets()?;
    if let Some(unknown) = only.iter().find(|name| !targets.contains(name)) {
        bail!("no fuzz target `{unknown}`; there are: {}", targets.join(", "));
    }
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let target_dir = target_dir()?.join("fuzz");
    // With an explicit target the flags stay away from build scripts.
    run_command(
        cargo()
            .current_dir(root().join("fuzz"))
            .env("RUSTFLAGS", FLAGS)
            .args(["build", "-q", "--release", "--locked", "--bins", "--target", &host, "--target-dir"])
            .arg(&target_dir),
    )?;
    for name in targets.iter().filter(|name| only.is_empty() || only.contains(name)) {
        println!("fuzzing {name}");
        let corpus = target_dir.join("corpus").join(name);
        seed(name, &corpus)?;
        let artifacts = root().join("fuzz/artifacts").join(name);
        fs::create_dir_all(&artifacts)?;
        let limit = match limit {
            Limit::Seconds(n) => format!("-max_total_time={n}"),
            Limit::Executions(n) => format!("-runs={n}"),
        };
        let program = target_dir.join(&host).join("release").join(name);
        run_command(
            Command::new(program)
                .args([
                    "-seed=1",
                    "-max_len=8192",
                    "-timeout=10",
                    "-verbosity=0",
                    "-print_final_stats=1",
                    &limit,
                ])
                .arg(format!("-artifact_prefix={}/", artifacts.display()))
                .arg(&corpus),
        )
        .with_context(|| format!("{name}: the offending input is in {}", artifacts.display()))?;
    }
    Ok(())
}

/// Names of the binaries in `fuzz/`.
fn targets() -> Result<Vec<String>> {
    let text = output(cargo().current_dir(root().join("fuzz")).args([
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
    ]))?;
    let metadata: Value = serde_json::from_str(&text)?;
    let targets = metadata["packages"][0]["targets"].as_array().context("no targets in fuzz/")?;
    let bins = targets.iter().filter(|target| target["kind"][0] == "bin");
    Ok(bins.filter_map(|target| target["name"].as_str().map(str::to_owned)).collect())
}

/// Puts valid files into the corpus of a parser: mutations of something valid get further than noise. Targets that make
/// their input of a stream of bytes need none.
fn seed(target: &str, corpus: &Path) -> Result<()> {
    fs::create_dir_all(corpus)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = corpus.join(name);
        fs::write(&path, bytes).with_context(|| path.display().to_string())
    };
    match target {
        "piq_parse" => {
            for probe in probes()? {
                write(&format!("{}.piq", probe.name), &probe.file)?;
            }
        }
        "cal_parse" => {
            let golden = root().join("qat-kernels/tests/golden");
            for entry in fs::read_dir(&golden).with_context(|| golden.display().to_string())? {
                let path = entry?.path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if name.ends_with("-v1.cal") {
                    write(name, &fs::read(&path).with_context(|| path.display().to_string())?)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}
