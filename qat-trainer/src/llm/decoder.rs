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
    #[must_use]
    pub fn config(&self) -> &LlmConfig {
        &self.config
    }

    /// The same network in these numbers and on this device; what learned is frozen in it, unless it is there already.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch refuses, as for too little memory.
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
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the weights lie.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Whether the blocks compute their activations a second time in the backward pass instead of keeping them: a step takes
    /// about a third longer, and memory grows with the number of blocks by one hidden state each. Gradients stay the
    /// same, bit for bit.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.recompute = recompute;
    }

    /// What computes the logits.
    #[must_use]
    pub fn head(&self) -> &dyn Linear {
        self.head.as_ref().unwrap_or(&self.embedding).as_ref()
    }

    /// Logits for every position.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        self.logits(&self.hidden(tokens)?)
    }

    /// Hidden states behind the last norm, which [`Self::logits`] turns into logits.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] for more tokens than the context; [`ErrorKind::Train`] if torch refuses.
    pub fn hidden(&self, tokens: &Tensor) -> Result<Tensor> {
        self.run(tokens, None, &mut |_, _| ())
    }

    /// As [`Self::hidden`], showing the hidden states behind every block on the way, with the block's index.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    pub fn hidden_seen(&self, tokens: &Tensor, see: &mut dyn FnMut(usize, &Tensor)) -> Result<Tensor> {
        self.run(tokens, None, see)
    }

    /// As [`Self::hidden`], for tokens that follow those in the cache, which takes them in. Without gradients.
    ///
    /// # Errors
    /// As [`Self::hidden`], and [`ErrorKind::Train`] if the cache is full; it is left as it was.
    pub fn hidden_cached(&self, tokens: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        tch::no_grad(|| self.run(tokens, Some(cache), &mut |_, _| ()))
    }

    /// An empty cache for `batch` sequences of up to `room` tokens.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch has no memory for it.
    pub fn cache(&self, batch: usize, room: usize) -> Result<KvCache> {
        let room = room.min(self.config.context) as i64;
        KvCache::new(&self.config, batch as i64, room, self.kind, self.device)
    }

    /// Logits of hidden states.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch refuses.
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
    #[must_use]
    pub fn norms(&self) -> Vec<(String, &Tensor)> {
        self.named_norms().into_iter().map(|(name, norm)| (name, norm.weight())).collect()
    }

    /// Everything that training gives gradients to: of the matrices in the order of [`Self::linears`], then of the norms.
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
