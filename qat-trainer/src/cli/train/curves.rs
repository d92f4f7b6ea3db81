//! The curves of a training for TensorBoard.

use qat_trainer::Result;
use qat_trainer::events::QatEvent;
use qat_trainer::tensorboard::EventWriter;
use std::path::Path;

/// The curves, over the steps of both phases.
pub(in crate::cli) struct Curves {
    writer: EventWriter,
    steps: u64,
    /// The first failure; events come from deep inside the training, where nothing can be returned.
    failed: Result<()>,
}

impl Curves {
    /// Curves that go on after `steps` steps.
    pub(in crate::cli) fn new(folder: &Path, steps: u64) -> Result<Self> {
        Ok(Self { writer: EventWriter::create(folder, steps + 1)?, steps, failed: Ok(()) })
    }

    /// Adds what an event says.
    pub(in crate::cli) fn record(&mut self, event: &QatEvent) {
        if let Err(e) = self.add(event) {
            self.failed = self.failed.clone().and(Err(e));
        }
    }

    fn add(&mut self, event: &QatEvent) -> Result<()> {
        match event {
            QatEvent::StepDone { phase, loss, learning_rate, .. } => {
                self.steps += 1;
                self.writer.scalar(self.steps, &format!("{phase}/loss"), *loss as f32)?;
                self.writer.scalar(self.steps, &format!("{phase}/learning rate"), *learning_rate)
            }
            QatEvent::EpochDone { phase, loss, validation_loss, test_accuracy, .. } => {
                let mut scalar = |name: &str, value: f64| {
                    self.writer.scalar(self.steps, &format!("{phase}/epoch/{name}"), value as f32)
                };
                scalar("loss", *loss)?;
                scalar("test accuracy", *test_accuracy)?;
                validation_loss.map_or(Ok(()), |l| scalar("loss of those held back", l))?;
                self.writer.flush()
            }
            _ => Ok(()),
        }
    }

    /// Says what failed since the start.
    pub(in crate::cli) fn check(&self) -> Result<()> {
        self.failed.clone()
    }
}
