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
use std::collections::BTreeSet;
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
    /// Not written for f32 on the CPU, as all were once.
    #[serde(default, skip_serializing_if = "Computing::is_default")]
    begun: Computing,
}

/// What a training computes with, and on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Computing {
    /// The numbers.
    pub dtype: Numbers,
    /// The device.
    pub device: Processor,
}

/// Kinds of numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Numbers {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the exponents of f32; what learns is f32.
    Bf16,
}

/// Kinds of devices.
///
/// ```
/// use qat_trainer::llm::{Computing, Numbers, Processor};
/// // As states have it in their metadata.
/// let text = r#"{"dtype":"bf16","device":"cuda"}"#;
/// let begun: Computing = serde_json::from_str(text)?;
/// assert_eq!(begun, Computing { dtype: Numbers::Bf16, device: Processor::Cuda });
/// assert_eq!(serde_json::to_string(&begun)?, text);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Processor {
    /// The cores of the machine.
    #[default]
    Cpu,
    /// A GPU.
    Cuda,
}

impl Computing {
    /// What a decoder computes with, and on.
    ///
    /// ```
    /// # use qat_trainer::llm::config::LlmConfig;
    /// use qat_trainer::llm::{Computing, Decoder, Numbers, Processor};
    /// # use tch::{Device, Kind};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// let decoder = Decoder::generated(&config, 1)?;
    /// assert_eq!(Computing::of(&decoder), Computing::default()); // f32 on the CPU
    /// let halves = decoder.to(Kind::BFloat16, Device::Cpu)?;
    /// let expected = Computing { dtype: Numbers::Bf16, device: Processor::Cpu };
    /// assert_eq!(Computing::of(&halves), expected);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn of(decoder: &Decoder) -> Self {
        Self {
            dtype: if decoder.kind() == Kind::BFloat16 { Numbers::Bf16 } else { Numbers::F32 },
            device: if decoder.device() == Device::Cpu { Processor::Cpu } else { Processor::Cuda },
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Numbers {
    /// The name that the commands have for it.
    ///
    /// ```
    /// use qat_trainer::llm::Numbers;
    /// // `--dtype` takes it, and states have it.
    /// assert_eq!([Numbers::F32, Numbers::Bf16].map(Numbers::name), ["f32", "bf16"]);
    /// let read: Numbers = serde_json::from_str(&format!("\"{}\"", Numbers::Bf16.name()))?;
    /// assert_eq!(read, Numbers::Bf16);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Refuses to go on in others.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if they are others.
    ///
    /// ```
    /// use qat_trainer::{ErrorKind, llm::Numbers};
    /// let begun = Numbers::Bf16;
    /// begun.check(Numbers::Bf16)?;
    /// let e = begun.check(Numbers::F32).unwrap_err();
    /// assert_eq!(e.kind(), ErrorKind::Checkpoint);
    /// assert!(e.to_string().contains("continue with --dtype bf16"), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn check(self, others: Self) -> Result<()> {
        if self == others {
            return Ok(());
        }
        let (begun, now) = (self.name(), others.name());
        Err(Error::new(ErrorKind::Checkpoint, format!("this training was begun in {begun}, not in {now}"))
            .remedy(format!("continue with --dtype {begun}, or train from the start")))
    }
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
    pub(super) fn new(fingerprint: &str, place: Place, begun: Computing, decoder: &Decoder) -> Result<Self> {
        let mut state = Checkpoint::default();
        decoder.save_state(&mut state)?;
        Ok(Self { text: Text { fingerprint: fingerprint.into(), place, begun }, decoder: state })
    }

    /// The same, begun with and on something else.
    #[cfg(test)]
    pub(super) fn on(&self, begun: Computing) -> Self {
        Self { text: Text { begun, ..self.text.clone() }, decoder: self.decoder.clone() }
    }

    /// Adds a number that learns.
    #[cfg(test)]
    pub(super) fn with(&mut self, name: &str) {
        self.decoder
            .tensors
            .insert(name.into(), crate::checkpoint::Array { shape: vec![1], data: vec![0.0] });
    }

    /// What the training was begun with.
    ///
    /// ```
    /// # use qat_trainer::llm::{Computing, Corpus, LlmCheckpoint, LlmTrainer, Numbers, start};
    /// # use qat_trainer::{Result, checkpoint::Checkpoint, events::QatEvent};
    /// # use qat_trainer::{spec::LlmRun, train::Listener};
    /// # use tch::{Device, Kind};
    /// # struct Keeper(Vec<LlmCheckpoint>);
    /// # impl Listener<LlmCheckpoint> for Keeper {
    /// #     fn event(&mut self, _: &QatEvent) {}
    /// #     fn wants_checkpoint(&mut self) -> bool { true }
    /// #     fn checkpoint(&mut self, state: &LlmCheckpoint) -> Result<()> {
    /// #         self.0.push(state.clone());
    /// #         Ok(())
    /// #     }
    /// # }
    /// # let run = LlmRun::parse(r#"
    /// # data = { format = "arithmetic", problems = 64, held_out = 8, operations = 1, window = 24 }
    /// # model = { layers = 1, hidden = 16, heads = 2, mlp = 16, context = 24 }
    /// # train = { steps = 2, batch = 4 }"#, "sums.toml".as_ref())?;
    /// # let corpus = Corpus::load(&run.data)?;
    /// # let mut model = start(&run, &corpus, Kind::Float, Device::Cpu)?;
    /// # let trainer = LlmTrainer::new(&run, &corpus, &model)?;
    /// # trainer.prepare(&mut model.decoder)?;
    /// # let mut keeper = Keeper(Vec::new());
    /// # trainer.train(&mut model, None, &mut keeper)?;
    /// let state = &keeper.0[0];
    /// assert_eq!(state.begun(), Computing::default()); // f32 on the CPU
    /// // In other numbers it would be another training.
    /// assert!(state.begun().dtype.check(Numbers::Bf16).is_err());
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn begun(&self) -> Computing {
        self.text.begun
    }

    /// Steps that are done.
    ///
    /// ```
    /// # use qat_trainer::llm::{Computing, Corpus, LlmCheckpoint, LlmTrainer, Numbers, start};
    /// # use qat_trainer::{Result, checkpoint::Checkpoint, events::QatEvent};
    /// # use qat_trainer::{spec::LlmRun, train::Listener};
    /// # use tch::{Device, Kind};
    /// # struct Keeper(Vec<LlmCheckpoint>);
    /// # impl Listener<LlmCheckpoint> for Keeper {
    /// #     fn event(&mut self, _: &QatEvent) {}
    /// #     fn wants_checkpoint(&mut self) -> bool { true }
    /// #     fn checkpoint(&mut self, state: &LlmCheckpoint) -> Result<()> {
    /// #         self.0.push(state.clone());
    /// #         Ok(())
    /// #     }
    /// # }
    /// # let run = LlmRun::parse(r#"
    /// # data = { format = "arithmetic", problems = 64, held_out = 8, operations = 1, window = 24 }
    /// # model = { layers = 1, hidden = 16, heads = 2, mlp = 16, context = 24 }
    /// # train = { steps = 2, batch = 4 }"#, "sums.toml".as_ref())?;
    /// # let corpus = Corpus::load(&run.data)?;
    /// # let mut model = start(&run, &corpus, Kind::Float, Device::Cpu)?;
    /// # let trainer = LlmTrainer::new(&run, &corpus, &model)?;
    /// # trainer.prepare(&mut model.decoder)?;
    /// # let mut keeper = Keeper(Vec::new());
    /// # trainer.train(&mut model, None, &mut keeper)?;
    /// // A training of two steps, with a state after each.
    /// assert!(keeper.0.iter().map(LlmCheckpoint::steps).eq([1, 2]));
    /// // From the first one it goes on for one more.
    /// let mut model = start(&run, &corpus, Kind::Float, Device::Cpu)?;
    /// trainer.prepare(&mut model.decoder)?;
    /// let mut rest = Keeper(Vec::new());
    /// trainer.train(&mut model, Some(&keeper.0[0]), &mut rest)?;
    /// assert_eq!(rest.0, keeper.0[1..]);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn steps(&self) -> usize {
        self.text.place.steps
    }

    /// Events that the training had reported by then.
    ///
    /// ```
    /// # use qat_trainer::llm::{Computing, Corpus, LlmCheckpoint, LlmTrainer, Numbers, start};
    /// # use qat_trainer::{Result, checkpoint::Checkpoint, events::QatEvent};
    /// # use qat_trainer::{spec::LlmRun, train::Listener};
    /// # use tch::{Device, Kind};
    /// # struct Keeper(Vec<LlmCheckpoint>);
    /// # impl Listener<LlmCheckpoint> for Keeper {
    /// #     fn event(&mut self, _: &QatEvent) {}
    /// #     fn wants_checkpoint(&mut self) -> bool { true }
    /// #     fn checkpoint(&mut self, state: &LlmCheckpoint) -> Result<()> {
    /// #         self.0.push(state.clone());
    /// #         Ok(())
    /// #     }
    /// # }
    /// # let run = LlmRun::parse(r#"
    /// # data = { format = "arithmetic", problems = 64, held_out = 8, operations = 1, window = 24 }
    /// # model = { layers = 1, hidden = 16, heads = 2, mlp = 16, context = 24 }
    /// # train = { steps = 2, batch = 4 }"#, "sums.toml".as_ref())?;
    /// # let corpus = Corpus::load(&run.data)?;
    /// # let mut model = start(&run, &corpus, Kind::Float, Device::Cpu)?;
    /// # let trainer = LlmTrainer::new(&run, &corpus, &model)?;
    /// # trainer.prepare(&mut model.decoder)?;
    /// # let mut keeper = Keeper(Vec::new());
    /// # trainer.train(&mut model, None, &mut keeper)?;
    /// // The start and the first step; the second step, and what is held out is judged.
    /// assert!(keeper.0.iter().map(LlmCheckpoint::events).eq([2, 4]));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn events(&self) -> u64 {
        self.text.place.events
    }

    /// Brings the decoder to where the training was.
    pub(super) fn restore(&self, fingerprint: &str, decoder: &mut Decoder) -> Result<Place> {
        let now = Computing::of(decoder);
        self.text.begun.dtype.check(now.dtype)?;
        if self.text.fingerprint != fingerprint {
            let problem =
                "this is the state of a training with another run description, other data or another model";
            return Err(Error::new(ErrorKind::Checkpoint, problem)
                .remedy("continue with those that it was started with, or train from the start"));
        }
        if now.device != Processor::Cpu || self.text.begun.device != Processor::Cpu {
            self.check_names(decoder)?;
        }
        decoder.load_state(&self.decoder)?;
        Ok(self.text.place)
    }

    /// Not all that learns on one device does on another, as biases of quantised matrices in f32: nothing that was learned may be
    /// left out in silence.
    fn check_names(&self, decoder: &Decoder) -> Result<()> {
        let mut own = Checkpoint::default();
        decoder.save_state(&mut own)?;
        let [theirs, own] = [&self.decoder, &own].map(|c| c.tensors.keys().collect::<BTreeSet<_>>());
        match theirs.symmetric_difference(&own).next() {
            Some(name) => Err(Error::new(
                ErrorKind::Checkpoint,
                format!(
                    "`{name}` learns on one of the devices that this training was on, and not on the other"
                ),
            )
            .remedy("continue on the device that it was begun on, or train from the start")),
            None => Ok(()),
        }
    }

    /// The bytes of a file; equal states give equal bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if the format cannot hold it.
    ///
    /// ```
    /// # use qat_trainer::llm::{Computing, Corpus, LlmCheckpoint, LlmTrainer, Numbers, start};
    /// # use qat_trainer::{Result, checkpoint::Checkpoint, events::QatEvent};
    /// # use qat_trainer::{spec::LlmRun, train::Listener};
    /// # use tch::{Device, Kind};
    /// # struct Keeper(Vec<LlmCheckpoint>);
    /// # impl Listener<LlmCheckpoint> for Keeper {
    /// #     fn event(&mut self, _: &QatEvent) {}
    /// #     fn wants_checkpoint(&mut self) -> bool { true }
    /// #     fn checkpoint(&mut self, state: &LlmCheckpoint) -> Result<()> {
    /// #         self.0.push(state.clone());
    /// #         Ok(())
    /// #     }
    /// # }
    /// # let run = LlmRun::parse(r#"
    /// # data = { format = "arithmetic", problems = 64, held_out = 8, operations = 1, window = 24 }
    /// # model = { layers = 1, hidden = 16, heads = 2, mlp = 16, context = 24 }
    /// # train = { steps = 2, batch = 4 }"#, "sums.toml".as_ref())?;
    /// # let corpus = Corpus::load(&run.data)?;
    /// # let mut model = start(&run, &corpus, Kind::Float, Device::Cpu)?;
    /// # let trainer = LlmTrainer::new(&run, &corpus, &model)?;
    /// # trainer.prepare(&mut model.decoder)?;
    /// # let mut keeper = Keeper(Vec::new());
    /// # trainer.train(&mut model, None, &mut keeper)?;
    /// let [first, second] = [keeper.0[0].to_bytes()?, keeper.0[1].to_bytes()?];
    /// assert!(first != second && first == keeper.0[0].to_bytes()?);
    /// // It is a file that other programs read, too.
    /// let file = Checkpoint::from_bytes(&first)?;
    /// assert_eq!(file.tensors["model.norm.weight"].shape, [16]);
    /// assert!(file.metadata.contains_key("llm-training"));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use qat_trainer::llm::{Computing, Corpus, LlmCheckpoint, LlmTrainer, Numbers, start};
    /// # use qat_trainer::{Result, checkpoint::Checkpoint, events::QatEvent};
    /// # use qat_trainer::{spec::LlmRun, train::Listener};
    /// # use tch::{Device, Kind};
    /// # struct Keeper(Vec<LlmCheckpoint>);
    /// # impl Listener<LlmCheckpoint> for Keeper {
    /// #     fn event(&mut self, _: &QatEvent) {}
    /// #     fn wants_checkpoint(&mut self) -> bool { true }
    /// #     fn checkpoint(&mut self, state: &LlmCheckpoint) -> Result<()> {
    /// #         self.0.push(state.clone());
    /// #         Ok(())
    /// #     }
    /// # }
    /// # let run = LlmRun::parse(r#"
    /// # data = { format = "arithmetic", problems = 64, held_out = 8, operations = 1, window = 24 }
    /// # model = { layers = 1, hidden = 16, heads = 2, mlp = 16, context = 24 }
    /// # train = { steps = 2, batch = 4 }"#, "sums.toml".as_ref())?;
    /// # let corpus = Corpus::load(&run.data)?;
    /// # let mut model = start(&run, &corpus, Kind::Float, Device::Cpu)?;
    /// # let trainer = LlmTrainer::new(&run, &corpus, &model)?;
    /// # trainer.prepare(&mut model.decoder)?;
    /// # let mut keeper = Keeper(Vec::new());
    /// # trainer.train(&mut model, None, &mut keeper)?;
    /// let bytes = keeper.0[1].to_bytes()?;
    /// assert_eq!(LlmCheckpoint::from_bytes(&bytes)?, keeper.0[1]);
    /// // Weights alone are not the state of a training.
    /// let e = LlmCheckpoint::from_bytes(&Checkpoint::default().to_bytes()?).unwrap_err();
    /// assert!(e.to_string().starts_with("metadata `llm-training`: "), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use qat_trainer::llm::{Computing, Corpus, LlmCheckpoint, LlmTrainer, Numbers, start};
    /// # use qat_trainer::{Result, checkpoint::Checkpoint, events::QatEvent};
    /// # use qat_trainer::{spec::LlmRun, train::Listener};
    /// # use tch::{Device, Kind};
    /// # struct Keeper(Vec<LlmCheckpoint>);
    /// # impl Listener<LlmCheckpoint> for Keeper {
    /// #     fn event(&mut self, _: &QatEvent) {}
    /// #     fn wants_checkpoint(&mut self) -> bool { true }
    /// #     fn checkpoint(&mut self, state: &LlmCheckpoint) -> Result<()> {
    /// #         self.0.push(state.clone());
    /// #         Ok(())
    /// #     }
    /// # }
    /// # let run = LlmRun::parse(r#"
    /// # data = { format = "arithmetic", problems = 64, held_out = 8, operations = 1, window = 24 }
    /// # model = { layers = 1, hidden = 16, heads = 2, mlp = 16, context = 24 }
    /// # train = { steps = 2, batch = 4 }"#, "sums.toml".as_ref())?;
    /// # let corpus = Corpus::load(&run.data)?;
    /// # let mut model = start(&run, &corpus, Kind::Float, Device::Cpu)?;
    /// # let trainer = LlmTrainer::new(&run, &corpus, &model)?;
    /// # trainer.prepare(&mut model.decoder)?;
    /// # let mut keeper = Keeper(Vec::new());
    /// # trainer.train(&mut model, None, &mut keeper)?;
    /// # let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("state.safetensors");
    /// std::fs::write(&path, keeper.0[0].to_bytes()?)?;
    /// assert_eq!(LlmCheckpoint::load(&path)?.steps(), 1);
    /// std::fs::write(&path, "cut off")?;
    /// let e = LlmCheckpoint::load(&path).unwrap_err().to_string();
    /// assert!(e.starts_with(&format!("{}: ", path.display())), "{e}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
        Self::from_bytes(&bytes).map_err(|e| e.file(path))
    }
}

/// What decides every bit of a training on a device: what it computes in, the run description but for its name and data, the examples, the weights that it
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
