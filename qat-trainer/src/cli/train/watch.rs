//! The listener of `qat train`: shows and records what happens, keeps checkpoints, obeys Ctrl-C.

use super::curves::Curves;
use super::folder::{Folder, STATE};
use super::metrics::Metrics;
use super::progress::Progress;
use qat_trainer::events::QatEvent;
use qat_trainer::llm::LlmCheckpoint;
use qat_trainer::train::{Listener, TrainingCheckpoint};
use qat_trainer::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// When checkpoints are taken.
#[derive(Clone, Copy)]
pub(in crate::cli) struct Cadence {
    /// After this many steps, if given.
    pub(in crate::cli) steps: Option<u64>,
    /// After this time.
    pub(in crate::cli) time: Duration,
}

/// Follows one training.
pub(in crate::cli) struct Watch<'a> {
    folder: &'a Folder,
    metrics: Metrics,
    curves: Option<Curves>,
    progress: Progress,
    cadence: Cadence,
    steps: u64,
    last: Instant,
    stop: Arc<AtomicBool>,
}

impl<'a> Watch<'a> {
    /// A listener that keeps its checkpoints in `folder`. From now on Ctrl-C asks the training to stop; a second one ends
    /// the process at once.
    pub(in crate::cli) fn new(
        folder: &'a Folder,
        metrics: Metrics,
        curves: Option<Curves>,
        cadence: Cadence,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        watch_signals(&stop)?;
        let (progress, last) = (Progress::new(), Instant::now());
        Ok(Self { folder, metrics, curves, progress, cadence, steps: 0, last, stop })
    }

    /// Ends the records; returns the seconds of training, or what failed to be recorded.
    pub(in crate::cli) fn finish(mut self) -> Result<f64> {
        self.sync()?;
        Ok(self.metrics.seconds())
    }

    fn sync(&mut self) -> Result<()> {
        self.metrics.sync()?;
        self.curves.as_ref().map_or(Ok(()), Curves::check)
    }
}

/// A state that a training can go on from.
pub(in crate::cli) trait State {
    fn to_bytes(&self) -> Result<Vec<u8>>;
}

impl State for TrainingCheckpoint {
    fn to_bytes(&self) -> Result<Vec<u8>> {
        self.to_bytes()
    }
}

impl State for LlmCheckpoint {
    fn to_bytes(&self) -> Result<Vec<u8>> {
        self.to_bytes()
    }
}

impl<C: State> Listener<C> for Watch<'_> {
    fn event(&mut self, event: &QatEvent) {
        // What is not the training's own has no place among what it reports.
        if !matches!(event, QatEvent::Resumed { .. }) {
            self.metrics.record(event);
        }
        if let Some(curves) = &mut self.curves {
            curves.record(event);
        }
        self.steps += u64::from(matches!(event, QatEvent::StepDone { .. }));
        self.progress.show(event);
    }

    fn wants_checkpoint(&mut self) -> bool {
        self.cadence.steps.is_some_and(|n| self.steps >= n) || self.last.elapsed() >= self.cadence.time
    }

    fn checkpoint(&mut self, state: &C) -> Result<()> {
        // First the record of what the state has behind it.
        self.sync()?;
        self.folder.write(STATE, &state.to_bytes()?)?;
        (self.steps, self.last) = (0, Instant::now());
        Ok(())
    }

    fn wants_stop(&mut self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// The first SIGINT or SIGTERM raises `stop`, the next one ends the process.
fn watch_signals(stop: &Arc<AtomicBool>) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let failed = |e: std::io::Error| Error::new(ErrorKind::Io, format!("cannot wait for Ctrl-C: {e}"));
    for signal in [SIGINT, SIGTERM] {
        // The order matters: the condition must still be false when the first signal reaches it.
        let code = ErrorKind::Stopped.exit_code().into();
        signal_hook::flag::register_conditional_shutdown(signal, code, stop.clone()).map_err(failed)?;
        signal_hook::flag::register(signal, stop.clone()).map_err(failed)?;
    }
    Ok(())
}
