//! Keys and values of the tokens that a decoder has seen, so that the next token costs one position and not all.

use super::config::LlmConfig;
use crate::error::{Error, ErrorKind, Result};
use tch::{Device, Kind, Tensor};

/// Memory for the keys and values of one sequence, or of a batch of equally long ones.
#[derive(Debug)]
pub struct KvCache {
    /// Keys and values of each block, `[batch, kv_heads, room, head_dim]`.
    blocks: Vec<[Tensor; 2]>,
    len: i64,
    room: i64,
}

impl KvCache {
    /// Room for `room` tokens of each of `batch` sequences.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch has no memory for it.
    pub(super) fn new(config: &LlmConfig, batch: i64, room: i64, kind: Kind, device: Device) -> Result<Self> {
        let shape = [batch, config.kv_heads as i64, room, config.head_dim as i64];
        let empty = || Tensor::f_zeros(shape, (kind, device));
        let blocks = (0..config.layers).map(|_| Ok([empty()?, empty()?])).collect::<Result<_>>()?;
        Ok(Self { blocks, len: 0, room })
    }

    /// Tokens seen so far.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig};
    /// # use tch::Tensor;
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let decoder = Decoder::generated(&config, 1)?;
    /// let mut cache = decoder.cache(2, 10)?;
    /// let prompts = Tensor::from_slice(&[1i64, 2, 3, 4, 5, 6]).view([2, 3]);
    /// let _ = decoder.hidden_cached(&prompts, &mut cache)?;
    /// assert_eq!(cache.len(), 3); // of each of the two texts
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no token has been seen.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig};
    /// # use tch::Tensor;
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let decoder = Decoder::generated(&config, 1)?;
    /// let mut cache = decoder.cache(1, 10)?;
    /// assert!(cache.is_empty());
    /// let _ = decoder.hidden_cached(&Tensor::from_slice(&[1i64, 2]).unsqueeze(0), &mut cache)?;
    /// assert!(!cache.is_empty());
    /// cache.truncate(0); // another text in the same memory
    /// assert!(cache.is_empty());
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that there is room for.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig};
    /// # use tch::{Kind, Device, Tensor};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let decoder = Decoder::generated(&config, 1)?;
    /// let mut cache = decoder.cache(1, 4)?;
    /// let tokens = |time: i64| Tensor::ones([1, time], (Kind::Int64, Device::Cpu));
    /// let _ = decoder.hidden_cached(&tokens(3), &mut cache)?;
    /// assert_eq!(cache.room() - cache.len(), 1); // seen tokens count
    /// assert!(decoder.hidden_cached(&tokens(2), &mut cache).is_err());
    /// assert!(decoder.hidden_cached(&tokens(1), &mut cache).is_ok()); // nothing was taken in
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn room(&self) -> usize {
        self.room as usize
    }

    /// Forgets all tokens but the first `len`.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig};
    /// # use tch::Tensor;
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let decoder = Decoder::generated(&config, 1)?;
    /// let tokens = |ids: &[i64]| Tensor::from_slice(ids).unsqueeze(0);
    /// let mut cache = decoder.cache(1, 10)?;
    /// let _ = decoder.hidden_cached(&tokens(&[1, 2, 7, 8]), &mut cache)?;
    /// cache.truncate(2); // keeps the common beginning of two texts
    /// let next = decoder.hidden_cached(&tokens(&[5]), &mut cache)?;
    /// let whole = decoder.hidden(&tokens(&[1, 2, 5]))?;
    /// assert!(next.allclose(&whole.narrow(1, 2, 1), 1e-4, 1e-5, false));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len as i64);
    }

    pub(super) fn position(&self) -> i64 {
        self.len
    }

    /// Takes in a block's keys and values of new tokens, and returns those of all tokens so far.
    pub(super) fn extend(&mut self, block: usize, new: [&Tensor; 2]) -> Result<[Tensor; 2]> {
        let time = new[0].size()[2];
        let end = self.len + time;
        let Some(pair) = self.blocks.get(block).filter(|_| end <= self.room) else {
            let problem = format!("{end} tokens do not fit into a cache for {}", self.room);
            return Err(Error::new(ErrorKind::Train, problem));
        };
        let [keys, values] = [0, 1].map(|i| -> Result<Tensor> {
            pair[i].f_narrow(2, self.len, time)?.f_copy_(new[i])?;
            Ok(pair[i].f_narrow(2, 0, end)?)
        });
        Ok([keys?, values?])
    }

    /// Counts the new tokens, once every block has taken them in.
    pub(super) fn advance(&mut self, time: i64) {
        self.len += time;
    }
}
