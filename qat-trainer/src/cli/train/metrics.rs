//! metrics.jsonl: one event a line, with the seconds of training until then.

use super::super::output::json;
use qat_trainer::atomic::write_atomically;
use qat_trainer::events::QatEvent;
use qat_trainer::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Instant;

/// The file, open at its end.
pub(in crate::cli) struct Metrics {
    path: PathBuf,
    file: BufWriter<File>,
    start: Instant,
    /// Seconds of training before this process, and its steps.
    before: f64,
    steps: u64,
    /// The first failure; events come from deep inside the training, where nothing can be returned.
    failed: Option<Error>,
}

#[derive(Serialize)]
struct Line<'a> {
    seconds: f64,
    #[serde(flatten)]
    event: &'a QatEvent,
}

/// What is read of a line when a training goes on.
#[derive(Deserialize)]
struct Known {
    seconds: f64,
    event: String,
}

impl Metrics {
    /// Starts an empty file.
    pub(in crate::cli) fn create(path: PathBuf, start: Instant) -> Result<Self> {
        let file = File::create(&path).map_err(|e| Error::io("write", &path, &e))?;
        Ok(Self { path, file: BufWriter::new(file), start, before: 0.0, steps: 0, failed: None })
    }

    /// Goes on after the first `events` lines of the file: what was reported after the checkpoint comes again.
    pub(in crate::cli) fn resume(path: PathBuf, start: Instant, events: u64) -> Result<Self> {
        let damaged = |problem: String| {
            Error::new(ErrorKind::Checkpoint, problem).file(&path).remedy("train again without --resume")
        };
        let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, &e))?;
        let count = usize::try_from(events).unwrap_or(usize::MAX);
        let kept: Vec<&str> = text.split_inclusive('\n').take(count).filter(|l| l.ends_with('\n')).collect();
        if kept.len() < count {
            return Err(damaged(format!(
                "{} of the {count} events before the checkpoint are there",
                kept.len()
            )));
        }
        let (mut before, mut steps) = (0.0, 0);
        for line in &kept {
            let known: Known = serde_json::from_str(line).map_err(|e| damaged(e.to_string()))?;
            before = known.seconds;
            steps += u64::from(known.event == "step-done");
        }
        write_atomically(&path, kept.concat().as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| Error::io("write", &path, &e))?;
        Ok(Self { path, file: BufWriter::new(file), start, before, steps, failed: None })
    }

    /// Steps of training before this process.
    pub(in crate::cli) fn steps(&self) -> u64 {
        self.steps
    }

    /// Seconds of training so far, in whole milliseconds.
    pub(in crate::cli) fn seconds(&self) -> f64 {
        ((self.before + self.start.elapsed().as_secs_f64()) * 1000.0).round() / 1000.0
    }

    /// Writes an event.
    pub(in crate::cli) fn record(&mut self, event: &QatEvent) {
        let written = json(&Line { seconds: self.seconds(), event }).and_then(|line| {
            let flush = !matches!(event, QatEvent::StepDone { .. });
            writeln!(self.file, "{line}")
                .and_then(|()| if flush { self.file.flush() } else { Ok(()) })
                .map_err(|e| Error::io("write", &self.path, &e))
        });
        if let Err(e) = written {
            self.failed.get_or_insert(e);
        }
    }

    /// Brings everything to the disk, or says what failed since the start.
    pub(in crate::cli) fn sync(&mut self) -> Result<()> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_data());
        synced.map_err(|e| Error::io("write", &self.path, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qat_trainer::events::Phase;

    fn event(step: usize) -> QatEvent {
        QatEvent::StepDone { phase: Phase::Float, epoch: 1, step, loss: 0.5, learning_rate: 0.1 }
    }

    #[test]
    fn what_came_after_the_checkpoint_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut metrics = Metrics::create(path.clone(), Instant::now()).unwrap();
        (1..=5).for_each(|step| metrics.record(&event(step)));
        metrics.sync().unwrap();
        drop(metrics);
        // The last line is torn.
        let mut text = fs::read_to_string(&path).unwrap();
        text.truncate(text.len() - 4);
        fs::write(&path, text).unwrap();

        let mut metrics = Metrics::resume(path.clone(), Instant::now(), 3).unwrap();
        assert_eq!(metrics.steps(), 3);
        (4..=6).for_each(|step| metrics.record(&event(step)));
        metrics.sync().unwrap();
        let steps: Vec<u64> = fs::read_to_string(&path)
            .unwrap()
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["step"].as_u64().unwrap())
            .collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
        let e = Metrics::resume(path, Instant::now(), 7).err().unwrap();
        assert!(e.to_string().contains("6 of the 7 events"), "{e}");
    }
}
