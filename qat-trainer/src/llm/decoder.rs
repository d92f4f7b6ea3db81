//! The decoder: embedding, blocks of attention and feed-forward with residual connections, norm, head.

mod block;
mod causal;
mod learning;
mod nodes;
mod norm;
mod pieces;
mod recompute;

use super::cache::KvCache;
use super::config::LlmConfig;
use super::linear::{Dense, Linear};
use super::rope::Rope;
use super::source::TensorSource;
use crate::error::{Error, ErrorKind, Result};
use crate::random::{Purpose, Random};
use block::Block;
use norm::Norm;
use std::collections::{BTreeMap, BTreeSet};
use tch::{Device, Kind, Tensor};

/// Name of the embedding and of a head of its own.
const EMBEDDING: &str = "model.embed_tokens";
const HEAD: &str = "lm_head";

/// A decoder of the Llama or Qwen2 family.
///
/// Tokens are `[batch, time]` of int64, hidden states `[batch, time, hidden]`, logits `[batch, time, vocabulary]`, in the kind
/// of the weights (f32 or bf16).
#[derive(Debug)]
pub struct Decoder {
    config: LlmConfig,
    embedding: Box<dyn Linear>,
    blocks: Vec<Block>,
    norm: Norm,
    /// `None`: the embedding itself.
    head: Option<Box<dyn Linear>>,
    rope: Rope,
    recompute: bool,
    kind: Kind,
    device: Device,
}

impl Decoder {
    /// Takes the weights out of `source`, as `kind` and on `device`; without a copy where the source maps its file and has
    /// them so.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] for a tensor that is missing, has another shape, or does not belong to such a decoder.
    ///
    /// ```
    /// use qat_trainer::llm::{Decoder, HfFolder, LanguageModel, Tokenizer, config::LlmConfig};
    /// use tch::{Device, Kind};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let folder = tempfile::tempdir()?;
    /// # let tokenizer = Tokenizer::characters(&['a'].into())?;
    /// # let (decoder, ends) = (Decoder::generated(&config, 1)?, vec![1]);
    /// # LanguageModel { decoder, tokenizer, chat: None, ends }.save(folder.path())?;
    /// let weights = HfFolder::open(folder.path())?; // of two layers
    /// let decoder = Decoder::load(&config, &weights, Kind::Float, Device::Cpu)?;
    /// assert_eq!(decoder.config().layers, 2);
    /// let shallow = LlmConfig { layers: 1, ..config };
    /// let e = Decoder::load(&shallow, &weights, Kind::Float, Device::Cpu).unwrap_err();
    /// assert!(e.to_string().contains("the network has no place for this tensor"), "{e}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(config: &LlmConfig, source: &dyn TensorSource, kind: Kind, device: Device) -> Result<Self> {
        config.validate()?;
        let mut used = BTreeSet::new();
        let decoder = Self::assemble(config, kind, device, &mut |name, shape| {
            used.insert(name.to_owned());
            let tensor = source.tensor(name, shape)?;
            Ok(tensor.f_to_kind(kind)?.f_to_device(device)?)
        })?;
        let ignored = |name: &str| {
            // Tables that old files keep beside the weights, and a copy of the embedding.
            name.ends_with("rotary_emb.inv_freq") || (config.tied && name == format!("{HEAD}.weight"))
        };
        match source.names().into_iter().find(|name| !used.contains(name) && !ignored(name)) {
            Some(name) => Err(Error::new(ErrorKind::Model, "the network has no place for this tensor")
                .file(source.file_of(&name))
                .place(format!("tensor `{name}`"))
                .remedy("the file holds another kind of model than its configuration says")),
            None => Ok(decoder),
        }
    }

    /// A decoder that has learned nothing: norms of 1, biases of 0, matrices of normal numbers with the variance 1/inputs
    /// (those that write to the residual stream, 1/(2·layers·inputs), as GPT-2 has it), the embedding with 1/hidden.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] for a configuration that makes no network.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig}; use tch::Tensor;
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// let tokens = Tensor::from_slice(&[1i64, 2, 3]).unsqueeze(0);
    /// let logits = |seed| Decoder::generated(&config, seed)?.forward(&tokens);
    /// assert!(logits(1)?.equal(&logits(1)?));
    /// assert!(!logits(1)?.equal(&logits(2)?));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn generated(config: &LlmConfig, seed: u64) -> Result<Self> {
        config.validate()?;
        let mut count = 0;
        Self::assemble(config, Kind::Float, Device::Cpu, &mut |name, shape| {
            let numbers: i64 = shape.iter().product();
            let values: Vec<f32> = match shape {
                [_, inputs] => {
                    count += 1;
                    let mut random = Random::new(seed, Purpose::Weights(count));
                    let writes = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
                    let depth = if writes { 2.0 * config.layers as f32 } else { 1.0 };
                    let deviation = 1.0 / (*inputs as f32 * depth).sqrt();
                    (0..numbers).map(|_| deviation * random.normal()).collect()
                }
                _ => vec![if name.ends_with(".bias") { 0.0 } else { 1.0 }; numbers as usize],
            };
            Ok(Tensor::from_slice(&values).f_reshape(shape)?)
        })
    }

    /// Builds the network of what `take` gives for each tensor's name and shape.
    fn assemble(
        config: &LlmConfig,
        kind: Kind,
        device: Device,
        take: &mut dyn FnMut(&str, &[i64]) -> Result<Tensor>,
    ) -> Result<Self> {
        let (vocabulary, hidden) = (config.vocabulary as i64, config.hidden as i64);
        let mut table = |name: &str| -> Result<Box<dyn Linear>> {
            Ok(Box::new(Dense::new(take(&format!("{name}.weight"), &[vocabulary, hidden])?, None)))
        };
        let embedding = table(EMBEDDING)?;
        let head = if config.tied { None } else { Some(table(HEAD)?) };
        let blocks = (0..config.layers).map(|i| Block::new(config, i, take)).collect::<Result<_>>()?;
        let norm = Norm::new(take("model.norm.weight", &[hidden])?, config.norm_eps);
        let rope = Rope::new(config, device)?;
        Ok(Self {
            config: config.clone(),
            embedding,
            blocks,
            norm,
            head,
            rope,
            recompute: false,
            kind,
            device,
        })
    }

    /// The shape.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let decoder = Decoder::generated(&config, 1)?;
    /// let numbers: usize = decoder.tensors()?.iter().map(|(_, tensor)| tensor.numel()).sum();
    /// assert_eq!(decoder.config().parameters(), numbers);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn config(&self) -> &LlmConfig {
        &self.config
    }

    /// The same network in these numbers and on this device; what learned is frozen in it, unless it is there already.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch refuses, as for too little memory.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig}; use tch::{Device, Kind};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let mut decoder = Decoder::generated(&config, 1)?;
    /// decoder.learn()?;
    /// let halves = decoder.to(Kind::BFloat16, Device::Cpu)?;
    /// assert!(halves.tensors()?.iter().all(|(_, tensor)| tensor.kind() == Kind::BFloat16));
    /// assert!(halves.leaves().is_empty()); // it learns no more
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn to(self, kind: Kind, device: Device) -> Result<Self> {
        if (kind, device) == (self.kind, self.device) {
            return Ok(self);
        }
        let mut tensors: BTreeMap<String, Tensor> = self.tensors()?.into_iter().collect();
        let moved = Self::assemble(&self.config, kind, device, &mut |name, _| {
            let missing = || Error::new(ErrorKind::Model, format!("no tensor `{name}`"));
            Ok(tensors.remove(name).ok_or_else(missing)?.f_detach()?.f_to_kind(kind)?.f_to_device(device)?)
        })?;
        Ok(Self { recompute: self.recompute, ..moved })
    }

    /// The kind of weights and hidden states.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig}; use tch::{Device, Kind};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let decoder = Decoder::generated(&config, 1)?;
    /// let bytes = |d: &Decoder| d.config().parameters() * d.kind().elt_size_in_bytes();
    /// let of_floats = bytes(&decoder);
    /// assert_eq!(bytes(&decoder.to(Kind::BFloat16, Device::Cpu)?), of_floats / 2);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the weights lie.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig}; use tch::Tensor;
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let decoder = Decoder::generated(&config, 1)?;
    /// // Tokens go where the weights are, and the logits come from there.
    /// let tokens = Tensor::from_slice(&[1i64, 2]).unsqueeze(0).to_device(decoder.device());
    /// assert_eq!(decoder.forward(&tokens)?.device(), decoder.device());
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Whether the blocks compute their activations a second time in the backward pass instead of keeping them: a step takes
    /// about a third longer, and memory grows with the number of blocks by one hidden state each. Gradients stay the
    /// same, bit for bit.
    ///
    /// ```
    /// # use qat_trainer::{Result, llm::{Decoder, config::LlmConfig}}; use tch::{Kind, Tensor};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let mut decoder = Decoder::generated(&config, 1)?;
    /// # let tokens = Tensor::from_slice(&[1i64, 2, 3]).unsqueeze(0);
    /// let gradients = |decoder: &Decoder| -> Result<Vec<Tensor>> {
    ///     let loss = decoder.forward(&tokens)?.square().sum(Kind::Float);
    ///     Ok(Tensor::f_run_backward(&[&loss], &decoder.leaves(), false, false)?)
    /// };
    /// decoder.learn()?;
    /// let kept = gradients(&decoder)?;
    /// decoder.set_recompute(true);
    /// assert!(kept.iter().zip(gradients(&decoder)?).all(|(a, b)| a.equal(&b)));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn set_recompute(&mut self, recompute: bool) {
        self.recompute = recompute;
    }

    /// What computes the logits.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// for tied in [true, false] {
    ///     let decoder = Decoder::generated(&LlmConfig { tied, ..config.clone() }, 1)?;
    ///     let (_, embedding) = decoder.linears().remove(0);
    ///     assert_eq!(decoder.head().weight()?.equal(&embedding.weight()?), tied);
    /// }
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn head(&self) -> &dyn Linear {
        self.head.as_ref().unwrap_or(&self.embedding).as_ref()
    }

    /// Logits for every position.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig}; use tch::Tensor;
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let decoder = Decoder::generated(&config, 1)?;
    /// let three = Tensor::from_slice(&[1i64, 2, 3]).unsqueeze(0);
    /// let logits = decoder.forward(&three)?;
    /// assert_eq!(logits.size(), [1, 3, 9]); // of each of nine tokens to come next
    /// // No position sees what follows it.
    /// let two = decoder.forward(&three.narrow(1, 0, 2))?;
    /// assert!(two.allclose(&logits.narrow(1, 0, 2), 1e-4, 1e-5, false));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        self.logits(&self.hidden(tokens)?)
    }

    /// Hidden states behind the last norm, which [`Self::logits`] turns into logits.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] for more tokens than the context; [`ErrorKind::Train`] if torch refuses.
    ///
    /// ```
    /// # use qat_trainer::{ErrorKind, llm::{Decoder, config::LlmConfig}};
    /// # use tch::{Device, Kind, Tensor};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let decoder = Decoder::generated(&config, 1)?;
    /// let tokens = |time| Tensor::ones([1, time], (Kind::Int64, Device::Cpu));
    /// assert_eq!(decoder.hidden(&tokens(16))?.size(), [1, 16, 8]); // as long as the context
    /// assert_eq!(decoder.hidden(&tokens(17)).unwrap_err().kind(), ErrorKind::Data);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn hidden(&self, tokens: &Tensor) -> Result<Tensor> {
        self.run(tokens, None, &mut |_, _| ())
    }

    /// As [`Self::hidden`], showing the hidden states behind every block on the way, with the block's index.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig}; use tch::Tensor;
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let decoder = Decoder::generated(&config, 1)?;
    /// # let tokens = Tensor::from_slice(&[1i64, 2, 3]).unsqueeze(0);
    /// let mut seen = Vec::new();
    /// let hidden = decoder.hidden_seen(&tokens, &mut |block, h| seen.push((block, h.size())))?;
    /// assert_eq!(seen, [(0, vec![1, 3, 8]), (1, vec![1, 3, 8])]);
    /// assert!(hidden.equal(&decoder.hidden(&tokens)?));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn hidden_seen(&self, tokens: &Tensor, see: &mut dyn FnMut(usize, &Tensor)) -> Result<Tensor> {
        self.run(tokens, None, see)
    }

    /// As [`Self::hidden`], for tokens that follow those in the cache, which takes them in. Without gradients.
    ///
    /// # Errors
    /// As [`Self::hidden`], and [`ErrorKind::Train`] if the cache is full; it is left as it was.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig}; use tch::Tensor;
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let decoder = Decoder::generated(&config, 1)?;
    /// let tokens = Tensor::from_slice(&[1i64, 2, 3, 4]).unsqueeze(0);
    /// let mut cache = decoder.cache(1, 16)?;
    /// let _ = decoder.hidden_cached(&tokens.narrow(1, 0, 3), &mut cache)?; // the prompt
    /// let next = decoder.hidden_cached(&tokens.narrow(1, 3, 1), &mut cache)?; // one more position
    /// assert!(next.allclose(&decoder.hidden(&tokens)?.narrow(1, 3, 1), 1e-4, 1e-5, false));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn hidden_cached(&self, tokens: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        tch::no_grad(|| self.run(tokens, Some(cache), &mut |_, _| ()))
    }

    /// An empty cache for `batch` sequences of up to `room` tokens, or of the context if that is shorter.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch has no memory for it.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let decoder = Decoder::generated(&config, 1)?;
    /// let cache = decoder.cache(2, 1000)?;
    /// assert_eq!(cache.room(), decoder.config().context); // more is of no use
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn cache(&self, batch: usize, room: usize) -> Result<KvCache> {
        let room = room.min(self.config.context) as i64;
        KvCache::new(&self.config, batch as i64, room, self.kind, self.device)
    }

    /// Logits of hidden states.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch refuses.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig}; use tch::Tensor;
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let decoder = Decoder::generated(&config, 1)?;
    /// # let tokens = Tensor::from_slice(&[1i64, 2, 3]).unsqueeze(0);
    /// // To write text, those of the last position are enough.
    /// let last = decoder.logits(&decoder.hidden(&tokens)?.narrow(1, 2, 1))?;
    /// assert!(last.allclose(&decoder.forward(&tokens)?.narrow(1, 2, 1), 1e-4, 1e-5, false));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.head().forward(hidden)
    }

    fn run(
        &self,
        tokens: &Tensor,
        mut cache: Option<&mut KvCache>,
        see: &mut dyn FnMut(usize, &Tensor),
    ) -> Result<Tensor> {
        let (_, time) = tokens.size2()?;
        let end = cache.as_ref().map_or(0, |cache| cache.position()) + time;
        if end > self.config.context as i64 {
            let problem =
                format!("{end} tokens are more than the model's context of {}", self.config.context);
            return Err(Error::new(ErrorKind::Data, problem).remedy("use shorter text"));
        }
        let mut x = self.embed(tokens)?;
        for (i, block) in self.blocks.iter().enumerate() {
            x = match cache.as_deref_mut() {
                None if self.recompute => recompute::forward(block, &x, &self.rope)?,
                cache => block.forward(&x, &self.rope, cache.map(|cache| (cache, i)))?,
            };
            see(i, &x);
        }
        if let Some(cache) = cache {
            cache.advance(time);
        }
        self.norm.forward(&x)
    }

    /// The hidden states that enter the first block.
    pub(super) fn embed(&self, tokens: &Tensor) -> Result<Tensor> {
        Ok(Tensor::f_embedding(&self.embedding.weight()?, tokens, -1, false, false)?)
    }

    /// What one block makes of hidden states; nothing if there is no such block.
    pub(super) fn through(&self, block: usize, x: &Tensor) -> Result<Tensor> {
        match self.blocks.get(block) {
            Some(block) => block.forward(x, &self.rope, None),
            None => Ok(x.shallow_clone()),
        }
    }

    /// Whether the matrix of this name belongs to a block.
    pub(super) fn is_in_block(name: &str, block: usize) -> bool {
        name.strip_prefix(&prefix(block)).is_some_and(|rest| rest.starts_with('.'))
    }

    /// Shows every matrix with its name (`model.layers.0.self_attn.q_proj`), in the order of the network: the embedding, those
    /// of the blocks, the head if it is not the embedding.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let decoder = Decoder::generated(&config, 1)?;
    /// let names: Vec<String> = decoder.linears().into_iter().map(|(name, _)| name).collect();
    /// assert_eq!(names.len(), 1 + 2 * 7 + 1); // two blocks of seven
    /// assert_eq!(names[..2], ["model.embed_tokens", "model.layers.0.self_attn.q_proj"]);
    /// assert_eq!(names[14..], ["model.layers.1.mlp.down_proj", "lm_head"]);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn linears(&self) -> Vec<(String, &dyn Linear)> {
        let mut all: Vec<(String, &dyn Linear)> = vec![(EMBEDDING.into(), self.embedding.as_ref())];
        for (i, block) in self.blocks.iter().enumerate() {
            all.extend(block.linears().map(|(name, linear)| (format!("{}.{name}", prefix(i)), linear)));
        }
        all.extend(self.head.as_ref().map(|head| (HEAD.into(), head.as_ref())));
        all
    }

    /// Shows every norm's weights with their name (`model.layers.0.input_layernorm`).
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let decoder = Decoder::generated(&config, 1)?;
    /// let norms = decoder.norms();
    /// assert_eq!((norms.len(), norms[4].0.as_str()), (2 * 2 + 1, "model.norm")); // two a block
    /// // Those of a decoder that has learned nothing change nothing.
    /// assert!(norms.iter().all(|(_, weight)| weight.equal(&weight.ones_like())));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn norms(&self) -> Vec<(String, &Tensor)> {
        self.named_norms().into_iter().map(|(name, norm)| (name, norm.weight())).collect()
    }

    /// Everything that training gives gradients to: of the matrices in the order of [`Self::linears`], then of the norms.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let mut decoder = Decoder::generated(&config, 1)?;
    /// assert!(decoder.leaves().is_empty()); // frozen, as it was made
    /// decoder.learn()?;
    /// let numbers: usize = decoder.leaves().into_iter().map(|leaf| leaf.numel()).sum();
    /// assert_eq!(numbers, decoder.config().parameters());
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn leaves(&self) -> Vec<&Tensor> {
        let norms =
            self.norms().into_iter().map(|(_, weight)| weight).filter(|weight| weight.requires_grad());
        self.linears().into_iter().flat_map(|(_, linear)| linear.leaves()).chain(norms).collect()
    }

    /// Puts others in the place of matrices: `change` gets each with its name, in the order of [`Self::linears`], and returns
    /// what shall stand there, `None` to leave it.
    ///
    /// # Errors
    /// The first one of `change`, with the name as its place; what was replaced before stays replaced.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig};
    /// use qat_trainer::llm::{Dense, Linear};
    /// # use tch::Tensor;
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let mut decoder = Decoder::generated(&config, 1)?;
    /// decoder.replace(|name, linear| {
    ///     let zeros = Dense::new(linear.weight()?.zeros_like(), None);
    ///     Ok(name.ends_with("o_proj").then(|| Box::new(zeros) as Box<dyn Linear>))
    /// })?;
    /// // Attention writes nothing any more: a position depends on its own token alone.
    /// let tokens = Tensor::from_slice(&[1i64, 5, 2, 5]).view([2, 2]);
    /// let last = decoder.forward(&tokens)?.narrow(1, 1, 1);
    /// assert!(last.get(0).allclose(&last.get(1), 1e-4, 1e-5, false));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn replace(
        &mut self,
        mut change: impl FnMut(&str, &dyn Linear) -> Result<Option<Box<dyn Linear>>>,
    ) -> Result<()> {
        let mut one = |name: &str, slot: &mut Box<dyn Linear>| -> Result<()> {
            if let Some(new) = change(name, slot.as_ref()).map_err(|e| e.place(format!("matrix `{name}`")))? {
                *slot = new;
            }
            Ok(())
        };
        one(EMBEDDING, &mut self.embedding)?;
        for (i, block) in self.blocks.iter_mut().enumerate() {
            for (name, slot) in block.linears_mut() {
                one(&format!("{}.{name}", prefix(i)), slot)?;
            }
        }
        self.head.as_mut().map_or(Ok(()), |head| one(HEAD, head))
    }

    /// Every tensor under Hugging Face's name: what [`Self::load`] would take.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch refuses.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let decoder = Decoder::generated(&config, 1)?;
    /// let tensors: std::collections::BTreeMap<_, _> = decoder.tensors()?.into_iter().collect();
    /// assert_eq!(tensors["model.embed_tokens.weight"].size(), [9, 8]);
    /// assert_eq!(tensors.len(), (2 + 2 * 7) + (1 + 2 * 2)); // matrices and norms, no biases
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::new();
        for (name, linear) in self.linears() {
            all.push((format!("{name}.weight"), linear.weight()?));
            if let Some(bias) = linear.bias() {
                all.push((format!("{name}.bias"), bias.f_to_kind(self.kind)?));
            }
        }
        for (name, weight) in self.norms() {
            all.push((format!("{name}.weight"), weight.f_to_kind(self.kind)?));
        }
        Ok(all)
    }
}

/// The name of a block.
fn prefix(block: usize) -> String {
    format!("model.layers.{block}")
}
