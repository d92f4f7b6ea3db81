//! Where the training of a decoder stands, completely.

use crate::autograd::slice;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::events::QatEvent;
use crate::export::hex;
use crate::llm::decoder::Decoder;
use crate::llm::examples::Example;
use crate::llm::reason::DecoderTeacher;
use crate::spec::LlmRun;
use crate::train::Listener;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;
use tch::{Device, Kind};

/// The training of a decoder between two steps. In a file it is one [`Checkpoint`]: what learns and what the optimiser
/// remembers as tensors, the rest in the metadata `llm-training`.
#[derive(Clone, Debug, PartialEq)]
pub struct LlmCheckpoint {
    text: Text,
    decoder: Checkpoint,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    fingerprint: String,
    place: Place,
}

/// How far a training is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// Steps that are done.
    pub(super) steps: usize,
    /// Events that were reported.
    events: u64,
}

impl Place {
    /// Reports one of the training's own events.
    pub(super) fn tell(&mut self, listener: &mut dyn Listener<LlmCheckpoint>, event: &QatEvent) {
        self.events += 1;
        listener.event(event);
    }
}

const METADATA: &str = "llm-training";

impl LlmCheckpoint {
    pub(super) fn new(fingerprint: &str, place: Place, decoder: &Decoder) -> Result<Self> {
        let mut state = Checkpoint::default();
        decoder.save_state(&mut state)?;
        Ok(Self { text: Text { fingerprint: fingerprint.into(), place }, decoder: state })
    }

    /// Steps that are done.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.text.place.steps
    }

    /// Events that the training had reported by then.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.text.place.events
    }

    /// Brings the decoder to where the training was.
    pub(super) fn restore(&self, fingerprint: &str, decoder: &mut Decoder) -> Result<Place> {
        if self.text.fingerprint != fingerprint {
            let problem =
                "this is the state of a training with another run description, dtype, data or model";
            return Err(Error::new(ErrorKind::Checkpoint, problem)
                .remedy("continue with those that it was started with, or train from the start"));
        }
        decoder.load_state(&self.decoder)?;
        Ok(self.text.place)
    }

    /// The bytes of a file; equal states give equal bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if the format cannot hold it.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut all = self.decoder.clone();
        let text = serde_json::to_string(&self.text)
            .map_err(|e| Error::new(ErrorKind::Checkpoint, format!("cannot be written: {e}")))?;
        all.metadata.insert(METADATA.into(), text);
        all.to_bytes()
    }

    /// Reads what [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut decoder = Checkpoint::from_bytes(bytes)?;
        let text = decoder.metadata.remove(METADATA).unwrap_or_default();
        let text = serde_json::from_str(&text).map_err(|e| {
            Error::new(ErrorKind::Checkpoint, e.to_string())
                .place(format!("metadata `{METADATA}`"))
                .remedy("this is not the state of a language model's training: train from the start")
        })?;
        Ok(Self { text, decoder })
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::Checkpoint`].
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
        Self::from_bytes(&bytes).map_err(|e| e.file(path))
    }
}

/// What decides every bit of a training: the run description but for its name and data, the examples, the weights that it
/// begins with, and the teacher's.
pub(super) fn fingerprint(
    run: &LlmRun,
    examples: &[Example],
    start: &Decoder,
    teacher: Option<&DecoderTeacher>,
) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(run.text_of_training()?);
    // The f32 of states that are older than other numbers.
    if start.kind() != Kind::Float {
        hash.update(format!("{:?}", start.kind()));
    }
    for example in examples {
        hash.update((example.tokens.len() as u64).to_le_bytes());
        for (token, span) in example.tokens.iter().zip(&example.spans) {
            hash.update(token.to_le_bytes());
            hash.update(format!("{span:?}"));
        }
    }
    hash_weights(start, &mut hash)?;
    teacher.map_or(Ok(()), |teacher| hash_weights(teacher.decoder(), &mut hash))?;
    Ok(hex(&hash.finalize()))
}

/// Hashes every number of a decoder.
fn hash_weights(decoder: &Decoder, hash: &mut Sha256) -> Result<()> {
    for (name, tensor) in decoder.tensors()? {
        hash.update(name);
        let plain = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
        for x in slice(&plain)? {
            hash.update(x.to_le_bytes());
        }
    }
    Ok(())
}
