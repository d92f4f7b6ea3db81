//! Fuzzing: builds the targets of `fuzz/` with the coverage counters that libFuzzer reads, and runs them. The flags are
//! those of `cargo fuzz` without the address sanitiser, so that stable Rust is enough: what is fuzzed here is safe code but
//! for the kernels of `qat-kernels/src/arch`, which `--asan` watches.

use std::fmt::{self, Display, Formatter};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use qat_benches::results::{Figure, record};
use serde_json::Value;

use crate::cmd::{cargo, output, root, run as run_command, show, target_dir};
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

/// What the user asked for.
pub(crate) struct Options {
    /// Only these targets; all if empty.
    pub(crate) only: Vec<String>,
    pub(crate) limit: Limit,
    /// Build with the address sanitiser, which takes a nightly Rust.
    pub(crate) asan: bool,
    /// Put the figures into `benches/results/fuzz.csv`.
    pub(crate) record: bool,
    /// Put inputs that reach code which the committed ones do not into `fuzz/corpus/`.
    pub(crate) minimise: bool,
}

/// Memory that a target may take, its corpus included, in MiB.
const MEMORY: usize = 512;
/// Longest input that is made up, in bytes, and longest one that is worth committing.
const LONGEST: usize = 8192;
const LONGEST_COMMITTED: usize = 2048;

/// Fuzzes the targets; fails on the first finding.
pub(crate) fn run(options: &Options) -> Result<()> {
    let targets = targets()?;
    if let Some(unknown) = options.only.iter().find(|name| !targets.contains(name)) {
        bail!("no fuzz target `{unknown}`; there are: {}", targets.join(", "));
    }
    let target_dir = target_dir()?.join(if options.asan { "fuzz-asan" } else { "fuzz" });
    let profile = match options.limit {
        Limit::Executions(_) => "quick",
        Limit::Seconds(_) => "release",
    };
    let programs = build(&target_dir, profile, options.asan)?;
    let chosen = targets.iter().map(String::as_str);
    let chosen: Vec<&str> = chosen
        .filter(|name| options.only.is_empty() || options.only.iter().any(|only| only == name))
        .collect();
    // As many executions are the same work wherever they are done, and side by side they are done sooner; what a stretch of
    // time is good for would change.
    let together = match options.limit {
        Limit::Executions(_) => std::thread::available_parallelism().map_or(1, usize::from),
        Limit::Seconds(_) => 1,
    };
    for names in chosen.chunks(together) {
        let outcomes: Vec<Result<Outcome>> = std::thread::scope(|scope| {
            let (target_dir, programs) = (&*target_dir, &*programs);
            let start = |name| scope.spawn(move || fuzz(name, options, target_dir, programs));
            // All of them first, so that they run side by side.
            let running: Vec<_> = names.iter().copied().map(start).collect();
            let outcome = |thread: ScopedJoinHandle<'_, Result<Outcome>>| {
                thread.join().unwrap_or_else(|_| bail!("a thread has panicked"))
            };
            running.into_iter().map(outcome).collect()
        });
        for (name, outcome) in names.iter().zip(outcomes) {
            println!("fuzz {name:<18} {}", outcome?);
        }
    }
    Ok(())
}

/// Fuzzes one target, and takes in what it found.
fn fuzz(name: &str, options: &Options, target_dir: &Path, programs: &Path) -> Result<Outcome> {
    let (limit, amount) = match options.limit {
        Limit::Seconds(n) => (format!("-max_total_time={n}"), format!("--seconds {n}")),
        Limit::Executions(n) => (format!("-runs={n}"), format!("{n} executions")),
    };
    let folders = Folders::of(name, target_dir)?;
    seed(name, &folders.found)?;
    let program = programs.join(name);
    let log = target_dir.join(format!("{name}.log"));
    let start = Instant::now();
    let mut command = Command::new(&program);
    command.args(["-seed=1", "-timeout=10", "-print_final_stats=1", &limit]);
    // A packed decoder with every kind of matrix is longer than what other targets need.
    let longest = if name == "packed_decoder" { 4 * LONGEST } else { LONGEST };
    command.args([format!("-max_len={longest}"), format!("-rss_limit_mb={MEMORY}")]);
    command.arg(format!("-artifact_prefix={}/", folders.artifacts.display()));
    let dictionary = root().join("fuzz/dictionaries").join(format!("{name}.dict"));
    if dictionary.exists() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    let text = logged(command.arg(&folders.found).arg(&folders.committed), &log)
        .with_context(|| format!("{name}: the offending input is in {}", folders.artifacts.display()))?;
    let outcome = Outcome::read(&text).with_context(|| log.display().to_string())?;
    let seconds = start.elapsed().as_secs();
    if options.minimise {
        let mut merge = Command::new(&program);
        merge.args(["-merge=1", &format!("-max_len={LONGEST_COMMITTED}")]);
        let log = target_dir.join(format!("{name}.merge.log"));
        logged(merge.arg(&folders.committed).arg(&folders.found), &log)?;
    }
    if options.record {
        let asan = if options.asan { " --asan" } else { "" };
        let command = format!("cargo xtask fuzz {name} {amount}{asan} --record");
        record("fuzz", &command, &outcome.figures(name, seconds))?;
    }
    Ok(outcome)
}

/// Builds all targets with a profile of theirs; returns the folder that they are in.
fn build(target_dir: &Path, profile: &str, asan: bool) -> Result<PathBuf> {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let (mut command, flags) = if asan {
        let mut rustup = Command::new("rustup");
        rustup.args(["run", "nightly", "cargo"]);
        (rustup, format!("{FLAGS} -Zsanitizer=address"))
    } else {
        (cargo(), FLAGS.to_owned())
    };
    // With an explicit target the flags stay away from build scripts.
    run_command(
        command
            .current_dir(root().join("fuzz"))
            .env("RUSTFLAGS", flags)
            .args(["build", "-q", "--locked", "--bins", "--profile", profile, "--target", &host])
            .arg("--target-dir")
            .arg(target_dir),
    )?;
    Ok(target_dir.join(host).join(profile))
}

/// Where inputs of a target lie.
struct Folders {
    /// Those of the repository.
    committed: PathBuf,
    /// Those that were found on this machine.
    found: PathBuf,
    /// Those that were refused.
    artifacts: PathBuf,
}

impl Folders {
    fn of(target: &str, target_dir: &Path) -> Result<Self> {
        let folders = Self {
            committed: root().join("fuzz/corpus").join(target),
            found: target_dir.join("corpus").join(target),
            artifacts: root().join("fuzz/artifacts").join(target),
        };
        for folder in [&folders.committed, &folders.found, &folders.artifacts] {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        Ok(folders)
    }
}

/// Runs a target, what it says going into a file and, if it fails, the end of that to standard error.
fn logged(command: &mut Command, log: &Path) -> Result<String> {
    let file = File::create(log).with_context(|| log.display().to_string())?;
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).status();
    let status = status.with_context(|| show(command))?;
    let text =
        String::from_utf8_lossy(&fs::read(log).with_context(|| log.display().to_string())?).into_owned();
    if !status.success() {
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        bail!("`{}` failed ({status})", show(command));
    }
    Ok(text)
}

/// What a target did.
#[derive(Debug, PartialEq)]
struct Outcome {
    executions: u64,
    /// Edges of the instrumented code, all crates but the standard library, and those of them that were taken.
    edges: u64,
    covered: u64,
    inputs: u64,
    megabytes: u64,
}

impl Outcome {
    /// Reads what libFuzzer says.
    fn read(log: &str) -> Result<Self> {
        let after = |mark: &str| {
            let rest = log.rfind(mark).map(|at| log[at + mark.len()..].trim_start());
            let digits =
                rest.map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default());
            digits.and_then(|digits| digits.parse().ok()).with_context(|| format!("no number after `{mark}`"))
        };
        Ok(Self {
            executions: after("stat::number_of_executed_units:")?,
            edges: after("Loaded 1 modules   (")?,
            covered: after(" cov: ")?,
            inputs: after(" corp: ")?,
            megabytes: after("stat::peak_rss_mb:")?,
        })
    }

    fn figures(&self, target: &str, seconds: u64) -> Vec<Figure> {
        let figure =
            |metric, value: u64, unit| Figure::new(target.to_owned(), metric, value.to_string(), unit);
        vec![
            figure("seconds", seconds, "s").with_goal(">= 1800".into()),
            figure("executions", self.executions, ""),
            // A finding ends the run: there is no figure then.
            figure("findings", 0, "").with_goal("0".into()),
            figure("edges_covered", self.covered, ""),
            figure("edges", self.edges, ""),
            figure("inputs", self.inputs, ""),
            figure("peak_memory", self.megabytes, "MiB"),
        ]
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { executions, edges, covered, inputs, megabytes } = self;
        write!(
            f,
            "{executions:>10} executions, {covered:>5} of {edges} edges, {inputs:>5} inputs, {megabytes} MiB"
        )
    }
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
        "packed_decoder" => {
            let golden = root().join("qat-trainer/tests/golden/packed-v1.piq");
            write("packed-v1.piq", &fs::read(&golden).with_context(|| golden.display().to_string())?)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `Vec<u8>` would be drawn from libFuzzer's bytes, which then are no longer the file that they look like: seeds would be noise.
    #[test]
    fn files_reach_the_targets_as_they_are() {
        for entry in fs::read_dir(root().join("fuzz/fuzz_targets")).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            assert!(!text.contains("fuzz_target!(|bytes: Vec<u8>|"), "{}", path.display());
        }
    }

    #[test]
    fn the_last_state_and_the_final_counts_are_read() {
        let log = "INFO: Loaded 1 modules   (53021 inline 8-bit counters): 53021 [0x55, 0x56),\n\
            #2\tINITED cov: 100 ft: 101 corp: 1/1b exec/s: 0 rss: 30Mb\n\
            #90\tDONE   cov: 345 ft: 678 corp: 12/34b lim: 8192 exec/s: 9 rss: 41Mb\n\
            stat::number_of_executed_units: 90\nstat::peak_rss_mb:              41\n";
        let outcome = Outcome { executions: 90, edges: 53021, covered: 345, inputs: 12, megabytes: 41 };
        assert_eq!(Outcome::read(log).unwrap(), outcome);
        let e = Outcome::read(&log.replace("stat::peak", "")).unwrap_err().to_string();
        assert!(e.contains("stat::peak_rss_mb"), "{e}");
    }
}
