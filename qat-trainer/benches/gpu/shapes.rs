//! The decoders that are measured, and their generated weights.

use anyhow::{Result, bail};
use qat_trainer::llm::config::{Architecture, LlmConfig, RopeScaling};
use qat_trainer::llm::{Decoder, TensorSource};
use qat_trainer::{Error, ErrorKind};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

/// A decoder, a batch, and the matrix whose steps' gradient is timed.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// What its cases are called by.
    pub(crate) case: &'static str,
    pub(crate) config: LlmConfig,
    pub(crate) batch: i64,
    pub(crate) time: i64,
    /// Positions whose logits are in memory at a time where memory is what matters.
    pub(crate) chunk: usize,
    /// Rank of adapters.
    pub(crate) rank: usize,
    pub(crate) matrix: [i64; 2],
}

impl Shape {
    /// `qwen-0.5b` is Qwen2.5-0.5B's: 494 million parameters.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let config = |layers, hidden, heads, kv_heads, mlp, vocabulary, context| LlmConfig {
            architecture: Architecture::Qwen2,
            vocabulary,
            hidden,
            layers,
            heads,
            kv_heads,
            head_dim: hidden / heads,
            mlp,
            context,
            rope_base: 1e6,
            rope_scaling: RopeScaling::None,
            norm_eps: 1e-6,
            tied: true,
            qkv_bias: true,
            output_bias: false,
        };
        Ok(match name {
            "qwen-0.5b" => Self {
                name: "qwen-0.5b",
                case: "qwen_0_5b",
                config: config(24, 896, 14, 2, 4864, 151_936, 512),
                batch: 8,
                time: 512,
                chunk: 256,
                rank: 16,
                matrix: [4864, 896],
            },
            "tiny" => Self {
                name: "tiny",
                case: "tiny",
                config: config(2, 32, 4, 2, 64, 300, 16),
                batch: 2,
                time: 12,
                chunk: 5,
                rank: 4,
                matrix: [48, 32],
            },
            // No multiple of what a GPU reads at once.
            "odd" => Self {
                name: "odd",
                case: "odd",
                config: config(2, 18, 3, 1, 35, 301, 16),
                batch: 2,
                time: 11,
                chunk: 7,
                rank: 2,
                matrix: [35, 18],
            },
            _ => bail!("no shape `{name}`; there are tiny, odd and qwen-0.5b"),
        })
    }

    /// Tokens that are learned again and again: a loss that does not fall is a step that does not learn.
    pub(crate) fn tokens(&self, device: Device) -> Result<(Tensor, Tensor)> {
        let count = self.batch * self.time + 1;
        let ids: Vec<i64> = (0..count).map(|i| i * 7919 % self.config.vocabulary as i64).collect();
        let ids = Tensor::from_slice(&ids).f_to_device(device)?;
        let tokens = ids.f_narrow(0, 0, count - 1)?.f_reshape([self.batch, self.time])?;
        Ok((tokens, ids.f_narrow(0, 1, count - 1)?.f_contiguous()?))
    }
}

/// Generated weights, drawn once for all decoders of a shape.
pub(crate) struct Weights(BTreeMap<String, Tensor>);

impl Weights {
    pub(crate) fn generated(config: &LlmConfig, seed: u64) -> Result<Self> {
        Ok(Self(Decoder::generated(config, seed)?.tensors()?.into_iter().collect()))
    }

    /// A decoder that begins with them.
    pub(crate) fn decoder(&self, config: &LlmConfig, kind: Kind, device: Device) -> Result<Decoder> {
        Ok(Decoder::load(config, self, kind, device)?)
    }
}

impl TensorSource for Weights {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn tensor(&self, name: &str, _shape: &[i64]) -> qat_trainer::Result<Tensor> {
        let found = self.0.get(name).map(Tensor::shallow_clone);
        found.ok_or_else(|| Error::new(ErrorKind::Model, format!("no tensor `{name}`")))
    }

    fn file_of(&self, _name: &str) -> PathBuf {
        "generated weights".into()
    }
}
