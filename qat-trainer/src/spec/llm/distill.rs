//! `[distill]` of a language model.

use crate::error::Result;
use crate::spec::{Divergence, Source};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A teacher, and what is learned from it. Without `[distill]` there is none. The equations are in [`crate::llm`]'s `reason`.
///
/// ```
/// use qat_trainer::spec::{Divergence, LlmDistillSpec, LlmRun, ReasoningSpec};
/// let toml = r#"
/// # data = { format = "arithmetic" }
/// # model = { layers = 1, hidden = 16, heads = 2, mlp = 32 }
/// # train = { steps = 100 }
/// [distill]
/// teacher = "runs/large"
/// task_weight = 0.0
/// divergence = "confidence-aware"
/// "#;
/// let distill = LlmDistillSpec {
///     teacher: "runs/large".into(),
///     task_weight: 0.0, // the teacher alone
///     weight: 1.0,
///     temperature: 2.0,
///     divergence: Divergence::ConfidenceAware,
///     reasoning: ReasoningSpec { weight: 0.0, steps: 0.0, trajectory: 0.0, answer: 0.0 },
/// };
/// assert_eq!(LlmRun::parse(toml, "run.toml".as_ref())?.distill, Some(distill));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LlmDistillSpec {
    /// A Hugging Face folder or a GGUF file with the same tokens. TOML: `teacher`.
    pub teacher: PathBuf,
    /// λ_task, 0 or more. TOML: `task_weight`, default 1.
    pub task_weight: f32,
    /// λ_kd, 0 or more. TOML: `weight`, default 1.
    pub weight: f32,
    /// T, positive. TOML: `temperature`, default 2.
    pub temperature: f32,
    /// How answers are held against each other. TOML: `divergence = "kl"` (default) or `"confidence-aware"`.
    pub divergence: Divergence,
    /// TOML: `reasoning = { weight = 1.0, … }`; default: none of it.
    pub reasoning: ReasoningSpec,
}

/// The reasoning-fidelity loss.
///
/// ```
/// use qat_trainer::spec::{LlmRun, ReasoningSpec};
/// let toml = r#"
/// # data = { format = "arithmetic" }
/// # model = { layers = 1, hidden = 16, heads = 2, mlp = 32 }
/// # train = { steps = 100 }
/// [distill]
/// teacher = "runs/large"
/// reasoning = { steps = 2.0, trajectory = 0.0 }
/// "#;
/// let reasoning = ReasoningSpec { weight: 1.0, steps: 2.0, trajectory: 0.0, answer: 1.0 };
/// let distill = LlmRun::parse(toml, "run.toml".as_ref())?.distill;
/// assert_eq!(distill.map(|distill| distill.reasoning), Some(reasoning));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReasoningSpec {
    /// λ_reason, 0 or more; default 1.
    #[serde(default = "one")]
    pub weight: f32,
    /// Weight of the divergence on steps, each counting alike; 0 or more, default 1.
    #[serde(default = "one")]
    pub steps: f32,
    /// Weight of the agreement of hidden states on the tokens of steps; 0 or more, default 1.
    #[serde(default = "one")]
    pub trajectory: f32,
    /// Weight of the divergence on answers; 0 or more, default 1.
    #[serde(default = "one")]
    pub answer: f32,
}

fn one() -> f32 {
    1.0
}

fn two() -> f32 {
    2.0
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDistill {
    teacher: PathBuf,
    #[serde(default = "one")]
    task_weight: f32,
    #[serde(default = "one")]
    weight: f32,
    #[serde(default = "two")]
    temperature: f32,
    #[serde(default)]
    divergence: Divergence,
    reasoning: Option<ReasoningSpec>,
}

impl LlmDistillSpec {
    pub(super) fn from_raw(raw: RawDistill, base: &Path, source: Source<'_>) -> Result<Self> {
        if !(raw.temperature > 0.0 && raw.temperature.is_finite()) {
            let problem = format!("{} is out of range", raw.temperature);
            return Err(source.error("distill", "temperature", problem).remedy("allowed: above 0"));
        }
        let none = ReasoningSpec { weight: 0.0, steps: 0.0, trajectory: 0.0, answer: 0.0 };
        let reasoning = raw.reasoning.unwrap_or(none);
        for (key, weight) in [
            ("task_weight", raw.task_weight),
            ("weight", raw.weight),
            ("reasoning", reasoning.weight),
            ("reasoning", reasoning.steps),
            ("reasoning", reasoning.trajectory),
            ("reasoning", reasoning.answer),
        ] {
            if !(weight >= 0.0 && weight.is_finite()) {
                let problem = format!("a weight of {weight} is out of range");
                return Err(source.error("distill", key, problem).remedy("allowed: 0 or more"));
            }
        }
        let RawDistill { teacher, task_weight, weight, temperature, divergence, .. } = raw;
        Ok(Self { teacher: base.join(teacher), task_weight, weight, temperature, divergence, reasoning })
    }
}
