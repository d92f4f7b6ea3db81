//! The second process of `cargo xtask test`, and the file through which it tells how its steps went.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use super::{Outcome, Tally};
use crate::cmd::target_dir;

/// This program once more; killed if dropped before its end.
pub(super) struct Second {
    child: Child,
    /// What it says: two programs that write to one terminal cannot be read.
    log: PathBuf,
    outcomes: PathBuf,
}

impl Second {
    /// Starts it with the `count` steps that have folders of their own and whose names contain one of `only`.
    pub(super) fn start(count: usize, only: &[String]) -> Result<Self> {
        let folder = target_dir()?.join("test");
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let (log, outcomes) = (folder.join("beside.log"), folder.join("beside.txt"));
        File::create(&outcomes).with_context(|| outcomes.display().to_string())?;
        let said = File::create(&log).with_context(|| log.display().to_string())?;
        println!(
            "{count} steps are done beside the others and shown after them; they write to {}",
            log.display()
        );
        let child = Command::new(std::env::current_exe()?)
            .args(["test", "--beside"])
            .arg(&outcomes)
            .args(only)
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()
            .context("starting a second process")?;
        Ok(Self { child, log, outcomes })
    }

    /// Waits for its end, and shows what it said. A step that it has not come to counts as failed.
    pub(super) fn finish<'a>(mut self, names: impl Iterator<Item = &'a str>) -> Result<Vec<Outcome>> {
        self.child.wait()?;
        println!("{}", fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())?);
        let told = fs::read_to_string(&self.outcomes).with_context(|| self.outcomes.display().to_string())?;
        Ok(outcomes(&told, names))
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        // Does nothing to a process that has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells how a step went, at once: what is done counts even if a later step ends the process.
pub(super) fn write(file: &Path, outcome: &Outcome) -> Result<()> {
    let mut file = OpenOptions::new().append(true).open(file).with_context(|| file.display().to_string())?;
    Ok(file.write_all(line(outcome).as_bytes())?)
}

fn line(Outcome { name, tally, seconds, processor_seconds }: &Outcome) -> String {
    format!("{} {} {seconds:.3} {processor_seconds:.3} {name}\n", tally.passed, tally.failed)
}

/// The outcomes of the steps with these names.
fn outcomes<'a>(told: &str, names: impl Iterator<Item = &'a str>) -> Vec<Outcome> {
    let read = |name: &str| {
        let mut lines = told.lines().map(|line| line.splitn(5, ' '));
        let mut words = lines.find(|words| words.clone().nth(4) == Some(name))?;
        let tally = Tally { passed: words.next()?.parse().ok()?, failed: words.next()?.parse().ok()? };
        let mut number = || words.next()?.parse::<f64>().ok();
        Some(Outcome { name: name.to_owned(), tally, seconds: number()?, processor_seconds: number()? })
    };
    names
        .map(|name| {
            read(name).unwrap_or_else(|| Outcome {
                name: name.to_owned(),
                tally: Tally { passed: 0, failed: 1 },
                ..Outcome::default()
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read_and_what_is_not_has_failed() {
        let done = Outcome {
            name: "fuzz: 10 executions".into(),
            tally: Tally { passed: 3, failed: 1 },
            seconds: 1.25,
            processor_seconds: 2.5,
        };
        let lost =
            Outcome { name: "fuzz".into(), tally: Tally { passed: 0, failed: 1 }, ..Outcome::default() };
        let names = [&done, &lost].map(|outcome| &*outcome.name);
        assert_eq!(outcomes(&line(&done), names.into_iter()), [done, lost]);
    }
}
