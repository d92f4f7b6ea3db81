//! What a training reports while it runs.

use serde::{Deserialize, Serialize};

/// The two phases of a training.
///
/// ```
/// use qat_trainer::events::Phase;
/// assert_eq!(Phase::Quantised.to_string(), "quantised"); // in messages and in JSON
/// assert_eq!(serde_json::from_str::<Phase>(r#""quantised""#)?, Phase::Quantised);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// In floating point.
    Float,
    /// With quantisation in the loop.
    Quantised,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Phase::Float => "float",
            Phase::Quantised => "quantised",
        })
    }
}

/// Something that happened in a training. Events carry no clock, so that two runs of one seed report the same; whoever
/// listens adds the time.
///
/// As JSON each is one object with the field `event`:
///
/// ```
/// use qat_trainer::events::{Phase, QatEvent};
/// let (loss, test_accuracy, validation_loss) = (0.25, 0.975, None);
/// let e = QatEvent::EpochDone { phase: Phase::Float, epoch: 3, epochs: 30, loss, validation_loss, test_accuracy };
/// let json = serde_json::to_string(&e)?;
/// assert_eq!(
///     json,
///     r#"{"event":"epoch-done","phase":"float","epoch":3,"epochs":30,"loss":0.25,"test_accuracy":0.975}"#
/// );
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum QatEvent {
    /// A phase begins.
    PhaseStarted {
        /// Which.
        phase: Phase,
        /// Its passes over the training split.
        epochs: u32,
        /// Steps of the optimiser per epoch.
        steps_per_epoch: usize,
        /// Numbers that are learned.
        parameters: usize,
    },
    /// The range of an activation was measured.
    Calibrated {
        /// The layer whose output it is.
        layer: String,
        /// Real value of one 8-bit step.
        scale: f32,
        /// Code of the real number 0.
        zero_point: i8,
    },
    /// The bits of a layer were chosen under a budget of bytes.
    BitsChosen {
        /// The layer.
        layer: String,
        /// Bits of its weights.
        bits: u8,
    },
    /// The optimiser made a step.
    StepDone {
        /// In which phase.
        phase: Phase,
        /// The epoch, from 1.
        epoch: u32,
        /// The step in this epoch, from 1.
        step: usize,
        /// Loss of the batch.
        loss: f64,
        /// Learning rate of the step.
        learning_rate: f32,
    },
    /// An epoch is over.
    EpochDone {
        /// In which phase.
        phase: Phase,
        /// The epoch, from 1.
        epoch: u32,
        /// The number of epochs of the phase.
        epochs: u32,
        /// Mean loss over its batches.
        loss: f64,
        /// Mean loss of the examples held back, if there are any; left out of JSON if not.
        #[serde(skip_serializing_if = "Option::is_none")]
        validation_loss: Option<f64>,
        /// Share of the test split classified correctly, 0 to 1. For information: nothing is selected by it.
        test_accuracy: f64,
    },
    /// A training goes on from a checkpoint. Not an event of the training itself, which reports the same events whether
    /// it was interrupted or not.
    Resumed {
        /// The phase it is in.
        phase: Phase,
        /// Its passes over the training split.
        epochs: u32,
        /// Steps of the optimiser per epoch.
        steps_per_epoch: usize,
        /// Steps of the phase that are done.
        steps: usize,
    },
    /// A language model was judged by examples that it does not learn from.
    Judged {
        /// In which phase.
        phase: Phase,
        /// Steps of the phase that are done.
        steps: usize,
        /// Mean of −ln p(token) over what is predicted, nats.
        loss: f64,
        /// Share of the problems that it solves, 0 to 1, if there are problems with answers; left out of JSON if not.
        #[serde(skip_serializing_if = "Option::is_none")]
        exact: Option<f64>,
    },
    /// A phase is over.
    PhaseDone {
        /// Which.
        phase: Phase,
        /// Share of the test split classified correctly, 0 to 1.
        test_accuracy: f64,
    },
}
