//! `cargo xtask test`: all that can be checked on one machine, step by step, with times and one sum at the end.
//!
//! Steps that have folders of their own are run by a second process beside the others: what they build waits for one core
//! where another is idle.

mod beside;
mod devices;
mod steps;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};

use self::beside::Second;
use crate::bare_metal::{self, TARGETS, Toolchain};
use crate::libtorch;
use crate::tools::{Tool, ensure};

/// What the user asked for.
pub(crate) struct Options {
    pub(crate) yes: bool,
    pub(crate) list: bool,
    /// This is the second process: it does the steps that have folders of their own, and writes how they went to this file.
    pub(crate) beside: Option<PathBuf>,
    /// Only the steps whose names contain one of these; all if empty.
    pub(crate) only: Vec<String>,
}

/// Tests that passed and failed within a step. A step that is one check counts as one test.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Tally {
    passed: u64,
    failed: u64,
}

const PASSED: Tally = Tally { passed: 1, failed: 0 };

type Check = Box<dyn Fn(&Context) -> Result<Tally>>;

/// Where a step builds, and so what may run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the workspace's own folder.
    Host,
    /// In folders of its own.
    Beside,
    /// In all of them, when the others are done.
    Both,
}

struct Step {
    name: String,
    place: Place,
    check: Check,
}

/// What steps share.
struct Context {
    toolchain: Toolchain,
}

/// How a step went.
#[derive(Clone, Debug, Default, PartialEq)]
struct Outcome {
    name: String,
    tally: Tally,
    seconds: f64,
    /// Of the processors, in all that it started.
    processor_seconds: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let chosen =
        |step: &Step| options.only.is_empty() || options.only.iter().any(|part| step.name.contains(part));
    let mut steps = steps::all()?;
    steps.retain(chosen);
    if options.list {
        steps.iter().for_each(|step| println!("{}", step.name));
        return Ok(());
    }
    if steps.is_empty() {
        bail!("no step's name contains any of {:?}; --list prints them", options.only);
    }
    let began = Instant::now();
    let tools = [Tool::Cxx, Tool::QemuArm, Tool::QemuRiscV, Tool::Aarch64, Tool::Chromium];
    ensure(&tools, options.yes)?;
    let context = Context { toolchain: bare_metal::find(&TARGETS, options.yes)? };
    println!("bare-metal Rust: {}", context.toolchain);
    let at = |place: Place| steps.iter().filter(move |step| step.place == place);
    if let Some(file) = &options.beside {
        return at(Place::Beside).try_for_each(|step| beside::write(file, &step.run(&context)));
    }

    let others = steps.iter().any(|step| step.place != Place::Beside);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let second = (cores > 1 && at(Place::Host).next().is_some() && at(Place::Beside).next().is_some())
        .then(|| Second::start(at(Place::Beside).count(), &options.only))
        .transpose()?;
    if others {
        libtorch::ensure(options.yes)?;
    }
    let mut outcomes: Vec<Outcome> = at(Place::Host).map(|step| step.run(&context)).collect();
    match second {
        Some(second) => outcomes.extend(second.finish(at(Place::Beside).map(|step| &*step.name))?),
        None => outcomes.extend(at(Place::Beside).map(|step| step.run(&context))),
    }
    outcomes.extend(at(Place::Both).map(|step| step.run(&context)));
    report(&outcomes)?;
    println!("{:.1} minutes", began.elapsed().as_secs_f64() / 60.0);
    Ok(())
}

impl Step {
    /// Does it; an error counts as a test that failed.
    fn run(&self, context: &Context) -> Outcome {
        println!("\n== {}", self.name);
        let (began, used) = (Instant::now(), processor_seconds());
        let tally = (self.check)(context).unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            Tally { passed: 0, failed: 1 }
        });
        Outcome {
            name: self.name.clone(),
            tally,
            seconds: began.elapsed().as_secs_f64(),
            processor_seconds: processor_seconds() - used,
        }
    }
}

/// Processor time of the processes that this one has started and waited for, with theirs: proc(5), fields 16 and 17 of `stat`,
/// in hundredths of a second. 0 where there is no such file.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is a name in brackets, which may have spaces.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks = fields.skip(13).take(2).filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

/// Prints the table; fails if a test has.
fn report(outcomes: &[Outcome]) -> Result<()> {
    println!("\n{:<58} {:>8} {:>8} {:>8} {:>8}", "step", "passed", "failed", "seconds", "cpu");
    let (mut sum, mut sum_of_processors) = (Tally::default(), 0.0);
    for Outcome { name, tally, seconds, processor_seconds } in outcomes {
        let Tally { passed, failed } = tally;
        println!("{name:<58} {passed:>8} {failed:>8} {seconds:>8.1} {processor_seconds:>8.1}");
        sum.passed += passed;
        sum.failed += failed;
        sum_of_processors += processor_seconds;
    }
    println!("{} passed, {} failed", sum.passed, sum.failed);
    println!("{:.1} minutes of processor time", sum_of_processors / 60.0);
    let failed = outcomes.iter().filter(|outcome| outcome.tally.failed > 0);
    let failed: Vec<&str> = failed.map(|outcome| &*outcome.name).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join("; "));
    }
    Ok(())
}
