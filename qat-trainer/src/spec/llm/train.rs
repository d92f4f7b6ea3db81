//! `[train]` of a language model.

use crate::error::Result;
use crate::spec::{Schedule, Source};
use serde::Deserialize;

/// How a language model is trained.
///
/// ```
/// use qat_trainer::spec::{LlmRun, Schedule};
/// let toml = r#"
/// # data = { format = "arithmetic" }
/// # model = { layers = 1, hidden = 16, heads = 2, mlp = 32 }
/// [train]
/// steps = 2000
/// batch = 8
/// accumulate = 4
/// "#;
/// let train = LlmRun::parse(toml, "run.toml".as_ref())?.train;
/// assert_eq!(train.steps * train.accumulate * train.batch, 64_000); // examples, seen once or more often
/// assert_eq!((train.lr, train.schedule, train.clip_norm), (1e-3, Schedule::Cosine, 1.0)); // as nothing is said
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmTrainSpec {
    /// Steps of the optimiser, at least 1.
    pub steps: usize,
    /// Examples per batch, at least 1; default 16.
    #[serde(default = "sixteen")]
    pub batch: usize,
    /// Batches per step, whose gradients are averaged; at least 1, the default.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Peak learning rate, positive; default 1e-3.
    #[serde(default = "rate")]
    pub lr: f32,
    /// Learning rate of the logarithms of quantisers' steps over that of the weights, positive; default 1.
    #[serde(default = "unit")]
    pub scale_rate: f32,
    /// How the learning rate moves; default `cosine`.
    #[serde(default)]
    pub schedule: Schedule,
    /// Steps over which it rises from 0; default 0.
    #[serde(default)]
    pub warm_up: usize,
    /// Weight decay of matrices, decoupled from the gradient; default 0.
    #[serde(default)]
    pub weight_decay: f32,
    /// Decay of the second moment, 0 ≤ β₂ < 1; default 0.999.
    #[serde(default = "beta2")]
    pub beta2: f32,
    /// Largest norm of all gradients together, beyond which they are scaled down; 0 for no limit, default 1.
    #[serde(default = "unit")]
    pub clip_norm: f32,
    /// Positions whose logits are in memory at a time, at least 1; default 1024.
    #[serde(default = "chunk")]
    pub chunk: usize,
    /// Whether blocks compute their activations a second time instead of keeping them; default false.
    #[serde(default)]
    pub recompute: bool,
    /// Steps after which the model is judged by what is held out; 0, the default, for at the end alone.
    #[serde(default)]
    pub judge_every: usize,
    /// Seed of everything random: initial weights and order; default 1.
    #[serde(default = "seed")]
    pub seed: u64,
}

fn one() -> usize {
    1
}

fn sixteen() -> usize {
    16
}

fn rate() -> f32 {
    1e-3
}

fn unit() -> f32 {
    1.0
}

fn beta2() -> f32 {
    0.999
}

fn chunk() -> usize {
    1024
}

fn seed() -> u64 {
    1
}

impl LlmTrainSpec {
    pub(super) fn validate(&self, source: Source<'_>) -> Result<()> {
        for (key, value) in [
            ("steps", self.steps),
            ("batch", self.batch),
            ("accumulate", self.accumulate),
            ("chunk", self.chunk),
        ] {
            if value == 0 {
                return Err(source.error("train", key, "0 is too small").remedy("at least 1"));
            }
        }
        for (key, value, ok, allowed) in [
            ("lr", self.lr, self.lr > 0.0, "a positive number"),
            ("scale_rate", self.scale_rate, self.scale_rate > 0.0, "a positive number"),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0.0, "0 or more"),
            ("beta2", self.beta2, (0.0..1.0).contains(&self.beta2), "0 up to, not including, 1"),
            ("clip_norm", self.clip_norm, self.clip_norm >= 0.0, "0 or more"),
        ] {
            if !ok || !value.is_finite() {
                let problem = format!("{value} is out of range");
                return Err(source.error("train", key, problem).remedy(format!("allowed: {allowed}")));
            }
        }
        Ok(())
    }
}
