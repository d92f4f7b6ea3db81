//! One block: `x ← x + attention(norm(x))`, then `x ← x + mlp(norm(x))`.

use super::{Norm, nodes, prefix};
use crate::autograd::closure_node;
use crate::autograd::fused::decoder as fused;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::attention::{Attention, Heads, attend};
use crate::llm::cache::KvCache;
use crate::llm::config::LlmConfig;
use crate::llm::linear::{Dense, Linear, Plain};
use crate::llm::rope::Rope;
use tch::Tensor;

/// A block.
#[derive(Debug)]
pub(super) struct Block {
    attention: Attention,
    mlp: Mlp,
    input_layernorm: Norm,
    post_attention_layernorm: Norm,
}

/// A gated feed-forward layer (Shazeer 2020, equation 6): `down(silu(gate(x)) ⊙ up(x))`.
#[derive(Debug)]
struct Mlp {
    gate_proj: Box<dyn Linear>,
    up_proj: Box<dyn Linear>,
    down_proj: Box<dyn Linear>,
}

impl Mlp {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (gate, up) = (self.gate_proj.forward(x)?, self.up_proj.forward(x)?);
        self.down_proj.forward(&gated(&gate, &up)?)
    }
}

/// `silu(gate) ⊙ up`.
fn gated(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if !fused::takes(gate.device(), gate.f_kind()?) {
        return Ok(gate.f_silu()?.f_mul(up)?);
    }
    let (gate, up) = (gate.f_contiguous()?, up.f_contiguous()?);
    let product = tch::no_grad(|| fused::gated(&gate, &up))?;
    closure_node(product, &[&gate, &up], &[&gate, &up], |grad, saved| {
        let [gate, up] = saved else {
            return Err(Error::new(ErrorKind::Train, "the gate is lost"));
        };
        Ok(fused::gated_gradients(gate, up, &grad.f_contiguous()?)?.map(Some).into())
    })
}

impl Block {
    /// Block `index`, of what `take` gives for each tensor's name and shape.
    pub(super) fn new(
        config: &LlmConfig,
        index: usize,
        take: &mut dyn FnMut(&str, &[i64]) -> Result<Tensor>,
    ) -> Result<Self> {
        let [hidden, mlp] = [config.hidden, config.mlp].map(|n| n as i64);
        let [query, value] = [config.heads, config.kv_heads].map(|n| (n * config.head_dim) as i64);
        let prefix = prefix(index);
        let mut linear = |name: &str, shape: [i64; 2], bias: bool| -> Result<Box<dyn Linear>> {
            let weight = take(&format!("{prefix}.{name}.weight"), &shape)?;
            let bias = if bias { Some(take(&format!("{prefix}.{name}.bias"), &shape[..1])?) } else { None };
            Ok(Box::new(Dense::new(weight, bias)))
        };
        let attention = Attention {
            q_proj: linear("self_attn.q_proj", [query, hidden], config.qkv_bias)?,
            k_proj: linear("self_attn.k_proj", [value, hidden], config.qkv_bias)?,
            v_proj: linear("self_attn.v_proj", [value, hidden], config.qkv_bias)?,
            o_proj: linear("self_attn.o_proj", [hidden, query], config.output_bias)?,
            shape: Heads::new(config),
        };
        let mlp = Mlp {
            gate_proj: linear("mlp.gate_proj", [mlp, hidden], false)?,
            up_proj: linear("mlp.up_proj", [mlp, hidden], false)?,
            down_proj: linear("mlp.down_proj", [hidden, mlp], false)?,
        };
        let mut norm = |name: &str| -> Result<Norm> {
            Ok(Norm::new(take(&format!("{prefix}.{name}.weight"), &[hidden])?, config.norm_eps))
        };
        Ok(Self {
            attention,
            mlp,
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
        })
    }

    pub(super) fn forward(
        &self,
        x: &Tensor,
        rope: &Rope,
        cache: Option<(&mut KvCache, usize)>,
    ) -> Result<Tensor> {
        if cache.is_none()
            && x.device().is_cuda()
            && let Some(y) = self.as_nodes(x, rope)?
        {
            return Ok(y);
        }
        let x = x.f_add(&self.attention.forward(&self.input_layernorm.forward(x)?, rope, cache)?)?;
        Ok(x.f_add(&self.mlp.forward(&self.post_attention_layernorm.forward(&x)?)?)?)
    }

    /// The same as two nodes, if its matrices are no more than matrices.
    pub(super) fn as_nodes(&self, x: &Tensor, rope: &Rope) -> Result<Option<Tensor>> {
        let mut matrices = Vec::new();
        for (_, linear) in self.linears() {
            let Some(matrix) = linear.plain(x.f_kind()?)? else { return Ok(None) };
            matrices.push(matrix);
        }
        let Ok([q, k, v, out, gate, up, down]) = <[Plain; 7]>::try_from(matrices) else { return Ok(None) };
        let (batch, time, _) = x.size3()?;
        let (heads, angles) = (self.attention.shape, rope.angles(0, time)?);
        let heads_of = nodes::before_attention(x, &self.input_layernorm, &[q, k, v], heads, &angles)?;
        let [q, k, v] = heads_of.each_ref().map(|t| t.f_transpose(1, 2));
        let y = attend([&q?, &k?, &v?], heads, None, time > 1)?;
        let y = y.f_transpose(1, 2)?.f_reshape([batch * time, heads.query * heads.dim])?;
        let matrices = [out, gate, up, down];
        nodes::behind_attention(x, &y, &self.post_attention_layernorm, &matrices).map(Some)
    }

    /// The matrices with their names within the block.
    pub(super) fn linears(&self) -> [(&'static str, &dyn Linear); 7] {
        let Self { attention, mlp, .. } = self;
        [
            ("self_attn.q_proj", attention.q_proj.as_ref()),
            ("self_attn.k_proj", attention.k_proj.as_ref()),
            ("self_attn.v_proj", attention.v_proj.as_ref()),
            ("self_attn.o_proj", attention.o_proj.as_ref()),
            ("mlp.gate_proj", mlp.gate_proj.as_ref()),
            ("mlp.up_proj", mlp.up_proj.as_ref()),
            ("mlp.down_proj", mlp.down_proj.as_ref()),
        ]
    }

    /// As [`Self::linears`], to change.
    pub(super) fn linears_mut(&mut self) -> [(&'static str, &mut Box<dyn Linear>); 7] {
        let Self { attention, mlp, .. } = self;
        [
            ("self_attn.q_proj", &mut attention.q_proj),
            ("self_attn.k_proj", &mut attention.k_proj),
            ("self_attn.v_proj", &mut attention.v_proj),
            ("self_attn.o_proj", &mut attention.o_proj),
            ("mlp.gate_proj", &mut mlp.gate_proj),
            ("mlp.up_proj", &mut mlp.up_proj),
            ("mlp.down_proj", &mut mlp.down_proj),
        ]
    }

    /// The norms with their names within the block.
    pub(super) fn norms(&self) -> [(&'static str, &Norm); 2] {
        [
            ("input_layernorm", &self.input_layernorm),
            ("post_attention_layernorm", &self.post_attention_layernorm),
        ]
    }

    /// As [`Self::norms`], to change.
    pub(super) fn norms_mut(&mut self) -> [(&'static str, &mut Norm); 2] {
        [
            ("input_layernorm", &mut self.input_layernorm),
            ("post_attention_layernorm", &mut self.post_attention_layernorm),
        ]
    }

    /// Everything that training gives gradients to, in a fixed order.
    pub(super) fn leaves(&self) -> Vec<&Tensor> {
        let norms = self.norms().map(|(_, norm)| norm.weight()).into_iter().filter(|w| w.requires_grad());
        self.linears().into_iter().flat_map(|(_, linear)| linear.leaves()).chain(norms).collect()
    }

    /// The same block on the same tensors.
    pub(super) fn share(&self) -> Self {
        let mlp = &self.mlp;
        Self {
            attention: self.attention.share(),
            mlp: Mlp {
                gate_proj: mlp.gate_proj.share(),
                up_proj: mlp.up_proj.share(),
                down_proj: mlp.down_proj.share(),
            },
            input_layernorm: self.input_layernorm.share(),
            post_attention_layernorm: self.post_attention_layernorm.share(),
        }
    }
}
