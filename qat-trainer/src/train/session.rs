//! Who listens to a training, keeps its checkpoints, and may end it.

use super::Trained;
use super::checkpoint::{Best, Place, TrainingCheckpoint};
use crate::error::{Error, ErrorKind, Result};
use crate::events::{Phase, QatEvent};
use crate::nn::Network;

/// Follows a training whose states are `C`. A closure that takes a `&QatEvent` is one that only listens.
///
/// ```
/// # use qat_trainer::{affine::Affine, data::{Dataset, Split, Standardisation}, spec::{Run, Shape}};
/// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 1] }
/// # model = { layers = [{ op = "linear", name = "fc", out = 2 }] }
/// # train = { epochs = 40, batch = 4, lr = 0.2 }
/// # qat = { epochs = 5 }"#, "run.toml".as_ref())?;
/// # let half = Split { features: vec![-1.0, -0.5, 0.5, 1.0], labels: vec![0, 0, 1, 1] };
/// # let data = Dataset {
/// #     train: half.clone(), test: half, classes: ["below", "above"].map(String::from).to_vec(),
/// #     shape: Shape::flat(1), standardisation: Standardisation::none(),
/// #     input: Affine::from_range(-1.0, 1.0), sha256: [0; 32],
/// # };
/// use qat_trainer::{ErrorKind, Result, events::QatEvent};
/// use qat_trainer::train::{Listener, QatTrainer, TrainingCheckpoint};
/// #[derive(Default)]
/// struct Patience {
///     steps: usize,
///     kept: Option<TrainingCheckpoint>,
/// }
/// impl Listener for Patience {
///     fn event(&mut self, event: &QatEvent) {
///         self.steps += usize::from(matches!(event, QatEvent::StepDone { .. }));
///     }
///     fn checkpoint(&mut self, state: &TrainingCheckpoint) -> Result<()> {
///         self.kept = Some(state.clone());
///         Ok(())
///     }
///     fn wants_stop(&mut self) -> bool {
///         self.steps == 3
///     }
/// }
/// let mut listener = Patience::default();
/// let e = QatTrainer::new(&run, &data)?.train(&mut listener).unwrap_err();
/// assert_eq!(e.kind(), ErrorKind::Stopped);
/// assert_eq!(listener.kept.map(|state| state.steps()), Some(3)); // to resume from
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub trait Listener<C = TrainingCheckpoint> {
    /// Something happened.
    fn event(&mut self, event: &QatEvent);

    /// Whether a checkpoint is due. Asked after every step; taking one does not change the training.
    fn wants_checkpoint(&mut self) -> bool {
        false
    }

    /// Keeps a checkpoint.
    ///
    /// # Errors
    /// The listener's; the training ends with it.
    fn checkpoint(&mut self, _state: &C) -> Result<()> {
        Ok(())
    }

    /// Whether the training is to stop. Asked after every step; a checkpoint is taken before it does.
    fn wants_stop(&mut self) -> bool {
        false
    }
}

impl<C, F: FnMut(&QatEvent)> Listener<C> for F {
    fn event(&mut self, event: &QatEvent) {
        self(event);
    }
}

/// A training in progress, as its listener sees it.
pub(super) struct Session<'a> {
    listener: &'a mut dyn Listener,
    fingerprint: String,
    events: u64,
    /// The result of the floating-point phase, once there is one.
    pub(super) float: Option<Trained>,
    /// The bits that were chosen under a budget, once they are.
    pub(super) bits: Option<Vec<(String, u8)>>,
}

impl<'a> Session<'a> {
    /// A session after `events` events.
    pub(super) fn new(listener: &'a mut dyn Listener, fingerprint: String, events: u64) -> Self {
        Self { listener, fingerprint, events, float: None, bits: None }
    }

    /// Reports an event.
    pub(super) fn tell(&mut self, event: &QatEvent) {
        self.events += 1;
        self.listener.event(event);
    }

    /// Says where a resumed training stands. It is not one of the training's own events: those are the same whether it
    /// was interrupted or not.
    pub(super) fn tell_resumed(&mut self, event: &QatEvent) {
        self.listener.event(event);
    }

    /// Keeps a checkpoint if one is due, and ends the training if somebody asks for it.
    ///
    /// # Errors
    /// [`ErrorKind::Stopped`] if it is to end; what fails in keeping.
    pub(super) fn between_steps(
        &mut self,
        phase: Phase,
        place: Place,
        net: &dyn Network,
        best: Option<&Best>,
    ) -> Result<()> {
        let stop = self.listener.wants_stop();
        if stop || self.listener.wants_checkpoint() {
            let mut network = net.save()?;
            net.save_state(&mut network)?;
            let float = self.float.as_ref();
            let (fingerprint, events) = (&self.fingerprint, self.events);
            let bits = self.bits.as_deref();
            let state =
                TrainingCheckpoint::new(fingerprint, phase, events, place, network, float, best, bits);
            self.listener.checkpoint(&state)?;
        }
        if stop {
            return Err(Error::new(ErrorKind::Stopped, "stopped on request").place(format!(
                "{phase} phase, epoch {}, step {}",
                place.epoch + 1,
                place.step
            )));
        }
        Ok(())
    }
}
