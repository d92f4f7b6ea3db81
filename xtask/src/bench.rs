//! `cargo xtask bench`: measures one suite after the other, and makes the tables anew. Every suite is a command
//! that also exists by itself; this file only knows their order.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::cmd::{cargo, root, run as run_command};
use crate::tools::{Tool, ensure};
use crate::{demo, faults, libtorch, llm, mcu_bench, models, presets, tamper};

/// What the user asked for.
pub(crate) struct Options {
    pub(crate) yes: bool,
    pub(crate) list: bool,
    /// Those that take hours, too.
    pub(crate) all: bool,
    /// Only these suites, however long they take; if empty, all that `all` says.
    pub(crate) only: Vec<String>,
}

/// Something that is measured in one go.
struct Suite {
    name: &'static str,
    about: &'static str,
    run: fn(yes: bool) -> Result<()>,
}

const SUITES: [Suite; 16] = [
    Suite {
        name: "mcu",
        about: "instructions of every kernel on emulated cores",
        run: |yes| mcu_bench::run(&[], yes),
    },
    Suite {
        name: "mcu-peers",
        about: "instructions of microflow's and embedded-nn's kernels",
        run: |yes| mcu_bench::peers::run(&[], yes),
    },
    Suite { name: "mcu-scaling", about: "instructions by the size of a layer", run: mcu_bench::scaling::run },
    Suite { name: "models", about: "whole networks on emulated cores", run: |yes| models::run(&[], yes) },
    Suite { name: "sqnr", about: "errors of every scheme against its bits", run: |_| binary("sqnr", &[]) },
    Suite { name: "operations", about: "criterion: every operation on every backend", run: operations },
    Suite { name: "quantisers", about: "quantisers beside copies", run: |_| binary("quantisers", &[]) },
    Suite { name: "scaling", about: "quantisers and products by size", run: |_| binary("scaling", &[]) },
    Suite { name: "host", about: "packed matrices beside torch", run: host },
    Suite { name: "training", about: "a quantised training step beside a plain one", run: training },
    Suite {
        name: "peers",
        about: "torch's, torchao's and Brevitas' quantisers; needs Python 3.11",
        run: peers,
    },
    Suite {
        name: "peers-training",
        about: "the same networks trained by others; needs Python 3.11",
        run: peers_training,
    },
    Suite {
        name: "demo",
        about: "the two examples from data to device",
        run: |yes| demo::run(&demo::Options { yes, check_repeat: false, only: Vec::new() }),
    },
    Suite {
        name: "presets",
        about: "every preset with three seeds",
        run: |yes| presets::run(&presets::Options { yes, seeds: 3, resume: false, only: Vec::new() }),
    },
    Suite { name: "llm", about: "perplexities of SmolLM2-135M", run: |yes| llm::run(&[], 1, yes) },
    Suite {
        name: "faults",
        about: "killed trainings, changed files",
        run: |yes| {
            faults::command(faults::MOMENTS, yes)?;
            tamper::command(tamper::COUNT, tamper::DEVICE_COUNT, yes)
        },
    },
];

/// Those that train networks, for hours; they run where they are named or all are wanted.
const HOURS: [&str; 3] = ["peers-training", "presets", "llm"];

/// Measures the suites; what one of them cannot do keeps none of the others from it.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.list {
        for Suite { name, about, .. } in choose(&options.only, true)? {
            println!("{name:<16}{about}{}", if HOURS.contains(name) { " (hours)" } else { "" });
        }
        return Ok(());
    }
    let chosen = choose(&options.only, options.all)?;
    let mut failures = Vec::new();
    for suite in chosen {
        println!("\n== {}: {}", suite.name, suite.about);
        let began = Instant::now();
        match (suite.run)(options.yes) {
            Ok(()) => println!("{}: {:.0} s", suite.name, began.elapsed().as_secs_f64()),
            Err(error) => {
                eprintln!("error: {error:#}");
                failures.push(suite.name);
            }
        }
    }
    qat_benches::tables::renew()?;
    println!("\ntables: README.md, benches/RESULTS.md and others made anew");
    if !failures.is_empty() {
        bail!("not measured: {}", failures.join(", "));
    }
    Ok(())
}

fn choose(only: &[String], all: bool) -> Result<Vec<&'static Suite>> {
    if let Some(unknown) = only.iter().find(|name| SUITES.iter().all(|suite| suite.name != **name)) {
        let names = SUITES.map(|suite| suite.name);
        bail!("no suite `{unknown}`; there are: {}", names.join(", "));
    }
    let chosen = |suite: &&Suite| match only {
        [] => all || !HOURS.contains(&suite.name),
        names => names.iter().any(|name| name == suite.name),
    };
    Ok(SUITES.iter().filter(chosen).collect())
}

/// A program of `benches`.
fn binary(name: &str, features: &[&str]) -> Result<()> {
    let mut command = cargo();
    command.args(["run", "-q", "--release", "--locked", "-p", "qat-benches", "--bin", name]);
    run_command(command.args(features))
}

fn operations(_: bool) -> Result<()> {
    run_command(cargo().args(["bench", "-q", "--locked", "-p", "qat-benches", "--bench", "operations"]))
}

fn host(yes: bool) -> Result<()> {
    torch(yes)?;
    binary("host", &["--features", "tch"])
}

fn training(yes: bool) -> Result<()> {
    torch(yes)?;
    run_command(cargo().args(["bench", "-q", "--locked", "-p", "qat-trainer", "--bench", "training"]))
}

fn torch(yes: bool) -> Result<()> {
    ensure(&[Tool::Cxx], yes)?;
    libtorch::ensure(yes).map(drop)
}

fn peers(yes: bool) -> Result<()> {
    let python = python(yes)?;
    script(&python, &["golden.py", "--check"])?;
    script(&python, &["compare.py", "--record"])
}

fn peers_training(yes: bool) -> Result<()> {
    let python = python(yes)?;
    torch(yes)?;
    run_command(cargo().args(["build", "-q", "--release", "--locked", "-p", "qat-trainer"]))?;
    script(&python, &["train.py", "letter", "--record"])?;
    script(&python, &["bitnetmcu.py", "--record"])
}

/// Runs a script of `benches/peers`.
fn script(python: &Path, words: &[&str]) -> Result<()> {
    let [name, options @ ..] = words else { bail!("no script") };
    let mut command = Command::new(python);
    run_command(command.current_dir(root()).arg(Path::new("benches/peers").join(name)).args(options))
}

/// The Python environment of the peers; made as `benches/peers/README.md` says if it is not there. A folder of packages that
/// is only half there does not count: the last step of making it is the one that is looked for.
fn python(yes: bool) -> Result<PathBuf> {
    let folder = root().join(".cache/peers");
    let (python, done) = (folder.join("bin/python"), folder.join("complete"));
    if done.exists() {
        return Ok(python);
    }
    ensure(&[Tool::Cxx], yes)?;
    println!("making {} (550 MB, once)", folder.display());
    run_command(Command::new("python3.11").args(["-m", "venv"]).arg(&folder))
        .context("the peers need Python 3.11 with its module venv (on Debian 12: python3.11-venv)")?;
    let requirements = root().join("benches/peers/requirements.txt");
    run_command(
        Command::new(&python)
            .args(["-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "-r"])
            .arg(requirements),
    )?;
    script(&python, &["stub_cuda.py"])?;
    std::fs::write(&done, "").with_context(|| done.display().to_string())?;
    Ok(python)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_chosen_by_name() {
        let names = |only: &[&str], all| {
            let only: Vec<String> = only.iter().map(ToString::to_string).collect();
            choose(&only, all).map(|suites| suites.iter().map(|suite| suite.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[], true).unwrap().len(), SUITES.len());
        let usual = names(&[], false).unwrap();
        assert!(usual.contains(&"peers") && !usual.contains(&"presets"), "{usual:?}");
        assert_eq!(names(&["llm", "mcu"], false).unwrap(), ["mcu", "llm"]);
        let error = names(&["speed"], false).unwrap_err().to_string();
        assert!(error.contains("`speed`") && error.contains("mcu-scaling"), "{error}");
    }

    #[test]
    fn no_two_suites_have_one_name() {
        let mut names = SUITES.map(|suite| suite.name);
        assert!(HOURS.iter().all(|name| names.contains(name)));
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
