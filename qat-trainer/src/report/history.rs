//! The course of a training, out of its metrics.jsonl.

use crate::error::{Error, ErrorKind, Result};
use serde_json::Value;
use std::path::Path;

/// Most points of a curve of steps.
const POINTS: usize = 240;

/// One phase of a training.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Phase {
    pub(super) name: String,
    /// Epoch (a fraction within it) and loss of the batches, put together where there are many.
    pub(super) steps: Vec<(f64, f64)>,
    /// Epoch and share of the test split that is right.
    pub(super) accuracy: Vec<(f64, f64)>,
}

/// The phases in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct History {
    pub(super) phases: Vec<Phase>,
}

impl History {
    /// Reads a file of events, one a line; events that mean nothing to a curve are left out.
    pub(super) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, &e))?;
        Self::parse(&text).map_err(|e| e.file(path))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut history = Self::default();
        let (mut per_epoch, mut before) = (1.0, 0.0);
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let event: Value = serde_json::from_str(line).map_err(|e| {
                Error::new(ErrorKind::Checkpoint, format!("this is no event ({e})"))
                    .place(format!("line {}", i + 1))
                    .remedy("name a folder that `qat train` finished")
            })?;
            let number = |key: &str| event[key].as_f64();
            match (event["event"].as_str(), history.phases.last_mut()) {
                (Some("phase-started"), last) => {
                    before = last.map_or(0.0, |p| p.accuracy.last().map_or(before, |(epoch, _)| *epoch));
                    per_epoch = number("steps_per_epoch").unwrap_or(1.0).max(1.0);
                    let name = event["phase"].as_str().unwrap_or_default().to_owned();
                    history.phases.push(Phase { name, ..Phase::default() });
                }
                (Some("step-done"), Some(phase)) => {
                    if let (Some(epoch), Some(step), Some(loss)) =
                        (number("epoch"), number("step"), number("loss"))
                    {
                        phase.steps.push((before + epoch - 1.0 + step / per_epoch, loss));
                    }
                }
                (Some("epoch-done"), Some(phase)) => {
                    if let (Some(epoch), Some(accuracy)) = (number("epoch"), number("test_accuracy")) {
                        phase.accuracy.push((before + epoch, accuracy));
                    }
                }
                _ => {}
            }
        }
        history.phases.iter_mut().for_each(|phase| phase.steps = thin(&phase.steps));
        Ok(history)
    }
}

/// Means of neighbours, so that few points are left.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |part: &[(f64, f64)]| {
        let (x, y) = part.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
        (x / part.len() as f64, y / part.len() as f64)
    };
    points.chunks(points.len().div_ceil(POINTS).max(1)).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_one_another() {
        let step = |epoch, step, loss| {
            format!("{{\"event\":\"step-done\",\"epoch\":{epoch},\"step\":{step},\"loss\":{loss}}}\n")
        };
        let epoch = |n, a| format!("{{\"event\":\"epoch-done\",\"epoch\":{n},\"test_accuracy\":{a}}}\n");
        let phase =
            |name| format!("{{\"event\":\"phase-started\",\"phase\":\"{name}\",\"steps_per_epoch\":2}}\n");
        let text = [
            phase("float"),
            step(1, 1, 2.0),
            step(1, 2, 1.0),
            epoch(1, 0.5),
            "{\"event\":\"news\"}\n".into(),
            phase("quantised"),
            step(1, 1, 0.5),
            epoch(1, 0.75),
        ]
        .concat();
        let h = History::parse(&text).unwrap();
        assert_eq!(h.phases[0].steps, [(0.5, 2.0), (1.0, 1.0)]);
        assert_eq!((h.phases[1].name.as_str(), &h.phases[1].accuracy), ("quantised", &vec![(2.0, 0.75)]));
        assert_eq!(h.phases[1].steps, [(1.5, 0.5)]);
        assert!(History::parse("{\n").unwrap_err().to_string().contains("line 1"));
        assert_eq!(thin(&vec![(1.0, 3.0); 1000]).len(), 200);
    }
}
