//! What a person sees while a training runs: a bar on a terminal, a line per epoch elsewhere.

use super::super::output::complain;
use indicatif::{ProgressBar, ProgressStyle};
use qat_trainer::events::{Phase, QatEvent};
use std::io::IsTerminal;

/// The bar, where there is a terminal.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Looks at standard error, where progress goes.
    pub(super) fn new() -> Self {
        Self { bar: std::io::stderr().is_terminal().then(ProgressBar::no_length) }
    }

    /// Shows an event.
    pub(super) fn show(&self, event: &QatEvent) {
        match event {
            QatEvent::PhaseStarted { phase, epochs, steps_per_epoch, parameters } => {
                self.line(&format!(
                    "{phase}: {parameters} parameters, {epochs} epochs of {steps_per_epoch} steps"
                ));
                if let Some(bar) = &self.bar {
                    bar.reset();
                    bar.set_length(u64::from(*epochs) * *steps_per_epoch as u64);
                    bar.set_style(style(*phase));
                }
            }
            QatEvent::BitsChosen { layer, bits } => self.line(&format!("layer {layer}: {bits} bits")),
            QatEvent::Resumed { phase, epochs, steps_per_epoch, steps } => {
                self.line(&format!(
                    "{phase}: goes on after {steps} of {} steps",
                    *epochs as usize * steps_per_epoch
                ));
                if let Some(bar) = &self.bar {
                    bar.set_length(u64::from(*epochs) * *steps_per_epoch as u64);
                    bar.set_style(style(*phase));
                    bar.set_position(*steps as u64);
                }
            }
            QatEvent::StepDone { loss, .. } => {
                if let Some(bar) = &self.bar {
                    bar.inc(1);
                    bar.set_message(format!("loss {loss:.4}"));
                }
            }
            QatEvent::EpochDone { phase, epoch, epochs, loss, validation_loss, test_accuracy } => {
                let held_back =
                    validation_loss.map_or(String::new(), |l| format!(" ({l:.4} on those held back)"));
                self.line(&format!(
                    "{phase} {epoch:>3}/{epochs}: loss {loss:.4}{held_back}, test accuracy {:.2} %",
                    100.0 * test_accuracy
                ));
            }
            QatEvent::Judged { phase, steps, loss, exact } => {
                let exact =
                    exact.map_or(String::new(), |x| format!(", {:.1} % of the answers exact", 100.0 * x));
                self.line(&format!("{phase} {steps:>6}: loss {loss:.4} on what is held out{exact}"));
            }
            _ => {}
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => complain(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(phase: Phase) -> ProgressStyle {
    let template = format!("{phase} [{{bar:32}}] {{pos}}/{{len}} steps, {{eta}} left, {{msg}}");
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
