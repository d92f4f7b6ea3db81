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
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no token has been seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that there is room for.
    #[must_use]
    pub fn room(&self) -> usize {
        self.room as usize
    }

    /// Forgets all tokens but the first `len`.
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
