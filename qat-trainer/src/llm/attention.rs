//! Causal self-attention with shared key-value heads (Ainslie et al. 2023).

use super::cache::KvCache;
use super::config::LlmConfig;
use super::linear::Linear;
use super::rope::Rope;
use crate::error::Result;
use tch::{Kind, Tensor};

/// The four projections of a block's attention.
#[derive(Debug)]
pub(super) struct Attention {
    pub(super) q_proj: Box<dyn Linear>,
    pub(super) k_proj: Box<dyn Linear>,
    pub(super) v_proj: Box<dyn Linear>,
    pub(super) o_proj: Box<dyn Linear>,
    pub(super) shape: Heads,
}

/// How many heads of what width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub(super) query: i64,
    pub(super) key_value: i64,
    pub(super) dim: i64,
}

impl Heads {
    pub(super) fn new(config: &LlmConfig) -> Self {
        Self { query: config.heads as i64, key_value: config.kv_heads as i64, dim: config.head_dim as i64 }
    }
}

impl Attention {
    /// `[batch, time, hidden]` to the same. With a cache the tokens follow those seen before, and `block` says whose keys and
    /// values to use.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        rope: &Rope,
        cache: Option<(&mut KvCache, usize)>,
    ) -> Result<Tensor> {
        let (batch, time, _) = x.size3()?;
        let Heads { query, key_value, dim } = self.shape;
        let heads = |y: Tensor, count: i64| y.f_view([batch, time, count, dim])?.f_transpose(1, 2);
        let start = cache.as_ref().map_or(0, |(cache, _)| cache.position());
        let q = rope.rotate(&heads(self.q_proj.forward(x)?, query)?, start)?;
        let mut k = rope.rotate(&heads(self.k_proj.forward(x)?, key_value)?, start)?;
        let mut v = heads(self.v_proj.forward(x)?, key_value)?;
        if let Some((cache, block)) = cache {
            [k, v] = cache.extend(block, [&k, &v])?;
        }
        // Torch's own causal mask takes the first query to stand beside the first key. One query sees all keys.
        let mask = if start > 0 && time > 1 { Some(mask(&q, start, time)?) } else { None };
        let causal = start == 0 && time > 1;
        let y = attend([&q, &k, &v], self.shape, mask, causal)?;
        self.o_proj.forward(&y.f_transpose(1, 2)?.f_reshape([batch, time, query * dim])?)
    }

    pub(super) fn share(&self) -> Self {
        Self {
            q_proj: self.q_proj.share(),
            k_proj: self.k_proj.share(),
            v_proj: self.v_proj.share(),
            o_proj: self.o_proj.share(),
            shape: self.shape,
        }
    }
}

/// `softmax(q·kᵀ/√head_dim)·v` of heads, `[batch, heads, time, head_dim]`, with fewer of k and v where they are shared.
pub(super) fn attend(
    [q, k, v]: [&Tensor; 3],
    heads: Heads,
    mask: Option<Tensor>,
    causal: bool,
) -> Result<Tensor> {
    let shared = heads.query != heads.key_value;
    Ok(Tensor::f_scaled_dot_product_attention(q, k, v, mask, 0.0, causal, None, shared)?)
}

/// Whether query i, at position start + i, sees key j: `[time, start + time]`.
fn mask(like: &Tensor, start: i64, time: i64) -> Result<Tensor> {
    Ok(Tensor::f_ones([time, start + time], (Kind::Bool, like.device()))?.f_tril(start)?)
}
