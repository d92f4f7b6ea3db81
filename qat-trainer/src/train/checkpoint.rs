//! Where a training stands, completely: what it needs to go on as if it had never stopped.

use super::{Trained, teacher};
use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::error::{Error, ErrorKind, Result};
use crate::events::Phase;
use crate::export::hex;
use crate::spec::Run;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;

/// A training between two steps: parameters, moments of the optimiser, running averages, ranges, the place in the order
/// of the examples, the best state so far, and of the quantised phase the result of the first.
///
/// Random numbers need no state: each depends on the seed and its purpose alone. On the same machine, with the same
/// number of threads, a training that goes on from a checkpoint ends with the same bits as one that was never stopped.
///
/// In a file it is one [`Checkpoint`]: the network's numbers and state under `network/`, the floating-point result under
/// `float/`, the best state under `best/`, and the rest in the metadata `training`.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingCheckpoint {
    pub(super) text: Text,
    pub(super) network: Checkpoint,
    pub(super) float: Option<Trained>,
    pub(super) best: Option<Best>,
}

/// What is not tensors. Numbers in f64 are kept as their bits, exact in any JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Text {
    pub(super) fingerprint: String,
    pub(super) phase: Phase,
    pub(super) events: u64,
    pub(super) place: Place,
    float_accuracy: Option<u64>,
    best: Option<BestText>,
    /// The bits that were chosen under a budget.
    pub(super) bits: Option<Vec<(String, u8)>>,
}

/// The place in a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// Epochs that are over.
    pub(super) epoch: u32,
    /// Steps of this epoch that are done.
    pub(super) step: usize,
    /// Steps of the phase that are done.
    pub(super) steps: usize,
    /// Sum of the losses of this epoch, as bits of an f64.
    pub(super) losses: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BestText {
    loss: u64,
    accuracy: u64,
    epoch: u32,
}

/// The state with the smallest loss on the examples held back.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Best {
    pub(super) loss: f64,
    /// Of this state, on the test split.
    pub(super) accuracy: f64,
    /// Its epoch, from 0.
    pub(super) epoch: u32,
    pub(super) network: Checkpoint,
}

const METADATA: &str = "training";
const NETWORK: &str = "network/";
const FLOAT: &str = "float/";
const BEST: &str = "best/";

impl TrainingCheckpoint {
    #[allow(clippy::too_many_arguments, reason = "the parts of a state, each of its own kind")]
    pub(super) fn new(
        fingerprint: &str,
        phase: Phase,
        events: u64,
        place: Place,
        network: Checkpoint,
        float: Option<&Trained>,
        best: Option<&Best>,
        bits: Option<&[(String, u8)]>,
    ) -> Self {
        let best_text =
            best.map(|b| BestText { loss: b.loss.to_bits(), accuracy: b.accuracy.to_bits(), epoch: b.epoch });
        let float_accuracy = float.map(|f| f.test_accuracy.to_bits());
        let text = Text {
            fingerprint: fingerprint.into(),
            phase,
            events,
            place,
            float_accuracy,
            best: best_text,
            bits: bits.map(<[_]>::to_vec),
        };
        Self { text, network, float: float.cloned(), best: best.cloned() }
    }

    /// The phase it is in.
    ///
    /// ```
    /// # use qat_trainer::{checkpoint::Checkpoint, train::TrainingCheckpoint};
    /// # let place = r#"{"epoch": 4, "step": 2, "steps": 50, "losses": 0}"#;
    /// # let text = format!(r#"{{"fingerprint": "", "phase": "float", "events": 55, "place": {place}}}"#);
    /// # let mut c = Checkpoint::default();
    /// # c.metadata.insert("training".into(), text);
    /// # let file = c.to_bytes()?;
    /// use qat_trainer::events::Phase;
    /// let state = TrainingCheckpoint::from_bytes(&file)?; // of a training that was stopped early
    /// assert_eq!(state.phase(), Phase::Float); // so that both phases are still to be finished
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.text.phase
    }

    /// The epoch of the phase it is in, from 1.
    ///
    /// ```
    /// # use qat_trainer::{checkpoint::Checkpoint, train::TrainingCheckpoint};
    /// # let place = r#"{"epoch": 4, "step": 2, "steps": 50, "losses": 0}"#;
    /// # let text = format!(r#"{{"fingerprint": "", "phase": "float", "events": 55, "place": {place}}}"#);
    /// # let mut c = Checkpoint::default();
    /// # c.metadata.insert("training".into(), text);
    /// # let file = c.to_bytes()?;
    /// // Stopped when four epochs were over.
    /// let state = TrainingCheckpoint::from_bytes(&file)?;
    /// assert_eq!(state.epoch(), 5);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.text.place.epoch + 1
    }

    /// Steps of the phase that are done.
    ///
    /// ```
    /// # use qat_trainer::{checkpoint::Checkpoint, train::TrainingCheckpoint};
    /// # let place = r#"{"epoch": 4, "step": 2, "steps": 50, "losses": 0}"#;
    /// # let text = format!(r#"{{"fingerprint": "", "phase": "float", "events": 55, "place": {place}}}"#);
    /// # let mut c = Checkpoint::default();
    /// # c.metadata.insert("training".into(), text);
    /// # let file = c.to_bytes()?;
    /// // Stopped after two steps of the fifth epoch; an epoch has 12.
    /// let state = TrainingCheckpoint::from_bytes(&file)?;
    /// assert_eq!(state.steps(), 4 * 12 + 2);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn steps(&self) -> usize {
        self.text.place.steps
    }

    /// Events that the training had reported by then.
    ///
    /// ```
    /// # use qat_trainer::{checkpoint::Checkpoint, train::TrainingCheckpoint};
    /// # let place = r#"{"epoch": 4, "step": 2, "steps": 50, "losses": 0}"#;
    /// # let text = format!(r#"{{"fingerprint": "", "phase": "float", "events": 55, "place": {place}}}"#);
    /// # let mut c = Checkpoint::default();
    /// # c.metadata.insert("training".into(), text);
    /// # let file = c.to_bytes()?;
    /// // Stopped after two steps of the fifth epoch; an epoch has 12.
    /// let state = TrainingCheckpoint::from_bytes(&file)?;
    /// assert_eq!(state.events(), 1 + (4 * 12 + 2) + 4); // the phase began, steps were done, epochs were done
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn events(&self) -> u64 {
        self.text.events
    }

    /// The bytes of a file; equal states give equal bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if the format cannot hold it.
    ///
    /// ```
    /// # use qat_trainer::{checkpoint::Checkpoint, train::TrainingCheckpoint};
    /// # let place = r#"{"epoch": 4, "step": 2, "steps": 50, "losses": 0}"#;
    /// # let text = format!(r#"{{"fingerprint": "", "phase": "float", "events": 55, "place": {place}}}"#);
    /// # let mut c = Checkpoint::default();
    /// # c.metadata.insert("training".into(), text);
    /// # let file = c.to_bytes()?;
    /// let state = TrainingCheckpoint::from_bytes(&file)?;
    /// let bytes = state.to_bytes()?;
    /// assert_eq!(TrainingCheckpoint::from_bytes(&bytes)?, state);
    /// assert!(Checkpoint::from_bytes(&bytes)?.metadata.contains_key("training")); // it is a safetensors file
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut all = Checkpoint::default();
        let parts = [
            (NETWORK, Some(&self.network)),
            (FLOAT, self.float.as_ref().map(|f| &f.checkpoint)),
            (BEST, self.best.as_ref().map(|b| &b.network)),
        ];
        for (prefix, part) in parts {
            part.iter().for_each(|part| all.put_part(prefix, part));
        }
        let text = serde_json::to_string(&self.text)
            .map_err(|e| Error::new(ErrorKind::Checkpoint, format!("cannot be written: {e}")))?;
        all.metadata.insert(METADATA.into(), text);
        all.to_bytes()
    }

    /// Reads what [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] for anything else.
    ///
    /// ```
    /// use qat_trainer::{checkpoint::Checkpoint, train::TrainingCheckpoint};
    /// let mut weights = Checkpoint::default();
    /// weights.insert("fc.weight", &[1, 1], vec![0.5])?;
    /// // What a training ends with is no state to go on from.
    /// let e = TrainingCheckpoint::from_bytes(&weights.to_bytes()?).unwrap_err();
    /// assert!(e.to_string().starts_with("metadata `training`: this entry is missing"), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut all = Checkpoint::from_bytes(bytes)?;
        let broken = |problem: String| {
            Error::new(ErrorKind::Checkpoint, problem)
                .place(format!("metadata `{METADATA}`"))
                .remedy("this is not the state of a training: remove the file, and train from the start")
        };
        let text = all.metadata.get(METADATA).ok_or_else(|| broken("this entry is missing".into()))?;
        let text: Text = serde_json::from_str(text).map_err(|e| broken(e.to_string()))?;
        let mut take = |prefix: &str| all.take_part(prefix);
        let network = take(NETWORK);
        let float = text
            .float_accuracy
            .map(|accuracy| Trained { checkpoint: take(FLOAT), test_accuracy: f64::from_bits(accuracy) });
        let best = text.best.map(|b| Best {
            loss: f64::from_bits(b.loss),
            accuracy: f64::from_bits(b.accuracy),
            epoch: b.epoch,
            network: take(BEST),
        });
        if text.place.epoch == u32::MAX || text.place.steps == usize::MAX {
            return Err(broken("more epochs or steps than can be counted are over".into()));
        }
        if text.phase == Phase::Quantised && float.is_none() {
            return Err(broken("the result of the floating-point phase is missing".into()));
        }
        Ok(Self { text, network, float, best })
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::Checkpoint`].
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
    /// # use qat_trainer::{Result, atomic::write_atomically, events::{Phase, QatEvent}};
    /// # use qat_trainer::train::{Listener, QatTrainer, TrainingCheckpoint};
    /// # use std::path::Path;
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("training.safetensors");
    /// struct Keep<'a>(&'a Path);
    /// impl Listener for Keep<'_> {
    ///     fn event(&mut self, _: &QatEvent) {}
    ///     fn wants_stop(&mut self) -> bool {
    ///         true
    ///     }
    ///     fn checkpoint(&mut self, state: &TrainingCheckpoint) -> Result<()> {
    ///         write_atomically(self.0, &state.to_bytes()?)
    ///     }
    /// }
    /// assert!(QatTrainer::new(&run, &data)?.train(&mut Keep(&path)).is_err()); // stopped after a step
    /// let state = TrainingCheckpoint::load(&path)?;
    /// assert_eq!((state.phase(), state.steps()), (Phase::Float, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
        Self::from_bytes(&bytes).map_err(|e| e.file(path))
    }

    /// Checks that this is a state of the training with this fingerprint.
    pub(super) fn belongs_to(&self, fingerprint: &str) -> Result<()> {
        if self.text.fingerprint == fingerprint {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Checkpoint,
            "this is the state of a training with another run description or other data",
        )
        .remedy(
            "continue with the run description and data that it was started with, or train from the start",
        ))
    }
}

/// What decides every bit of a training: the run description (but for its name and data) with the seed that holds, the
/// training examples, and the teacher.
pub(super) fn fingerprint(run: &Run, data: &Dataset) -> Result<String> {
    let mut hash = Sha256::new();
    for part in [run.text_of_training()?.into_bytes(), teacher::identity(run.distill.as_ref())?] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    for x in &data.train.features {
        hash.update(x.to_le_bytes());
    }
    for label in &data.train.labels {
        hash.update(label.to_le_bytes());
    }
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> TrainingCheckpoint {
        let c = |name: &str, x: f32| {
            let mut c = Checkpoint::default();
            c.insert(name, &[2], vec![x, -x]).unwrap();
            c
        };
        let place = Place { epoch: 3, step: 2, steps: 17, losses: 0.1_f64.to_bits() };
        let float = Trained { checkpoint: c("a.weight", 1.0), test_accuracy: 0.1 + 0.2 };
        let best = Best { loss: 1.0 / 3.0, accuracy: 2.0 / 3.0, epoch: 2, network: c("a.alpha", 4.0) };
        let network = c("a.weight.m", 3.0);
        let bits = [("a".to_owned(), 3)];
        TrainingCheckpoint::new(
            "f",
            Phase::Quantised,
            99,
            place,
            network,
            Some(&float),
            Some(&best),
            Some(&bits),
        )
    }

    #[test]
    fn bytes_round_trip_exactly() {
        let s = sample();
        let bytes = s.to_bytes().unwrap();
        assert_eq!(TrainingCheckpoint::from_bytes(&bytes).unwrap(), s);
        assert_eq!((s.phase(), s.epoch(), s.steps(), s.events()), (Phase::Quantised, 4, 17, 99));
        for n in 0..bytes.len() {
            assert!(TrainingCheckpoint::from_bytes(&bytes[..n]).is_err(), "{n}");
        }
    }

    #[test]
    fn other_checkpoints_are_refused() {
        let e = TrainingCheckpoint::from_bytes(&Checkpoint::default().to_bytes().unwrap()).unwrap_err();
        assert!(e.to_string().contains("metadata `training`"), "{e}");
        let mut s = sample();
        (s.float, s.text.float_accuracy) = (None, None);
        let e = TrainingCheckpoint::from_bytes(&s.to_bytes().unwrap()).unwrap_err();
        assert!(e.to_string().contains("floating-point phase is missing"), "{e}");
        let mut s = sample();
        s.text.place.epoch = u32::MAX;
        let e = TrainingCheckpoint::from_bytes(&s.to_bytes().unwrap()).unwrap_err();
        assert!(e.to_string().contains("more epochs or steps than can be counted"), "{e}");
        assert!(sample().belongs_to("f").is_ok() && sample().belongs_to("g").is_err());
    }
}
