//! The shape of a decoder.

mod frequencies;
mod gguf;
mod hf;

use crate::error::{Error, ErrorKind, Result};
use crate::spec::ModelShape;

/// The families of decoders. They differ in the biases of the projections to queries, keys and values, and in the order
/// of the rows of those matrices in GGUF files.
///
/// ```
/// use qat_trainer::llm::config::{Architecture, LlmConfig};
/// let json = r#"{ "model_type": "llama", "vocab_size": 100, "hidden_size": 16, "intermediate_size": 32,
///     "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-5 }"#;
/// let (llama, qwen2) = (LlmConfig::from_json(json)?, LlmConfig::from_json(&json.replace("llama", "qwen2"))?);
/// assert_eq!((llama.architecture, qwen2.architecture), (Architecture::Llama, Architecture::Qwen2));
/// assert_eq!((llama.qkv_bias, qwen2.qkv_bias), (false, true)); // the file says nothing of biases
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// Llama and what kept its shape: SmolLM2, TinyLlama, …
    Llama,
    /// Qwen2 and Qwen2.5.
    Qwen2,
}

/// Change of the rotary frequencies for contexts longer than those of pretraining.
///
/// ```
/// use qat_trainer::llm::config::{LlmConfig, RopeScaling};
/// let with = |scaling: &str| {
///     let json = r#"{ "model_type": "llama", "vocab_size": 100, "hidden_size": 16, "intermediate_size": 32,
///         "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
///         "rope_scaling": SCALING }"#;
///     LlmConfig::from_json(&json.replace("SCALING", scaling)).map(|config| config.rope_scaling)
/// };
/// assert_eq!(with("null")?, RopeScaling::None);
/// assert_eq!(with(r#"{ "type": "linear", "factor": 2.5 }"#)?, RopeScaling::Linear { factor: 2.5 });
/// assert!(with(r#"{ "type": "yarn", "factor": 2.5 }"#).is_err());
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// None.
    #[default]
    None,
    /// Every frequency divided by the factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1's: frequencies of wavelengths beyond `original / low` are divided by `factor`, those below
    /// `original / high` stay, and between them the two are mixed linearly in `original / wavelength`.
    Llama3 {
        /// The factor.
        factor: f64,
        /// `low_freq_factor`.
        low: f64,
        /// `high_freq_factor`.
        high: f64,
        /// Context length of pretraining, tokens.
        original: f64,
    },
}

/// Everything about a decoder but its weights.
///
/// ```
/// use qat_trainer::llm::config::{Architecture, LlmConfig, RopeScaling};
/// let smollm2_135m = LlmConfig {
///     architecture: Architecture::Llama,
///     vocabulary: 49_152, hidden: 576, layers: 30, heads: 9, kv_heads: 3, head_dim: 64, mlp: 1536, context: 8192,
///     rope_base: 100_000.0, rope_scaling: RopeScaling::None,
///     norm_eps: 1e-5, tied: true, qkv_bias: false, output_bias: false,
/// };
/// smollm2_135m.validate()?;
/// assert_eq!(smollm2_135m.parameters(), 134_515_008);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LlmConfig {
    /// The family.
    pub architecture: Architecture,
    /// Rows of the embedding: tokens, and perhaps padding.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, each shared by `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of a head, even.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub mlp: usize,
    /// Longest sequence, tokens.
    pub context: usize,
    /// Base of the rotary frequencies.
    pub rope_base: f64,
    /// Change of those frequencies.
    pub rope_scaling: RopeScaling,
    /// ε of the root mean square norms.
    pub norm_eps: f64,
    /// Whether the logits are computed with the embedding itself.
    pub tied: bool,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the projection of the attention's output has one.
    pub output_bias: bool,
}

/// No dimension of a model in use comes near it; products of three stay within 64 bits.
const MAX_DIMENSION: usize = 1 << 20;

/// Base of the rotary frequencies and ε of the norms of models that begin with nothing.
const ROPE_BASE: f64 = 10_000.0;
const NORM_EPS: f64 = 1e-5;

impl LlmConfig {
    /// A decoder of the Llama family for so many tokens, as Touvron et al. 2023 ("LLaMA") have it, but with one matrix as embedding and
    /// head. Whether the numbers make a network tells [`Self::validate`].
    ///
    /// ```
    /// use qat_trainer::{llm::config::LlmConfig, spec::ModelShape};
    /// let shape = ModelShape { layers: 1, hidden: 32, heads: 4, kv_heads: 2, mlp: 64, context: 40 };
    /// let config = LlmConfig::llama(shape, 20);
    /// assert_eq!((config.head_dim, config.tied, config.validate()), (8, true, Ok(())));
    /// let uneven = LlmConfig::llama(ModelShape { kv_heads: 3, ..shape }, 20);
    /// assert!(uneven.validate().is_err()); // 4 heads cannot share 3
    /// ```
    #[must_use]
    pub const fn llama(shape: ModelShape, vocabulary: usize) -> Self {
        let ModelShape { layers, hidden, heads, kv_heads, mlp, context } = shape;
        let head_dim = match hidden.checked_div(heads) {
            Some(width) => width,
            None => 0,
        };
        Self {
            architecture: Architecture::Llama,
            vocabulary,
            hidden,
            layers,
            heads,
            kv_heads,
            head_dim,
            mlp,
            context,
            rope_base: ROPE_BASE,
            rope_scaling: RopeScaling::None,
            norm_eps: NORM_EPS,
            tied: true,
            qkv_bias: false,
            output_bias: false,
        }
    }

    /// Checks that the numbers make a network.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] naming the number.
    ///
    /// ```
    /// # use qat_trainer::llm::config::{Architecture, LlmConfig, RopeScaling};
    /// # let mut config = LlmConfig {
    /// #     architecture: Architecture::Llama,
    /// #     vocabulary: 100, hidden: 36, layers: 1, heads: 9, kv_heads: 3, head_dim: 4, mlp: 64, context: 32,
    /// #     rope_base: 1e4, rope_scaling: RopeScaling::None, norm_eps: 1e-5,
    /// #     tied: true, qkv_bias: false, output_bias: false,
    /// # };
    /// assert_eq!((config.heads, config.kv_heads, config.validate()), (9, 3, Ok(())));
    /// config.kv_heads = 2;
    /// let e = config.validate().unwrap_err();
    /// assert!(e.to_string().starts_with("9 heads cannot share 2 key-value heads evenly; "), "{e}");
    /// ```
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("the vocabulary", self.vocabulary),
            ("the hidden size", self.hidden),
            ("the number of layers", self.layers),
            ("the number of heads", self.heads),
            ("the number of key-value heads", self.kv_heads),
            ("the size of a head", self.head_dim),
            ("the feed-forward size", self.mlp),
            ("the context length", self.context),
        ];
        if let Some((what, size)) = sizes.into_iter().find(|(_, size)| !(1..=MAX_DIMENSION).contains(size)) {
            return Err(bad(format!("{what} is {size}, not between 1 and {MAX_DIMENSION}")));
        }
        let Self { heads, kv_heads, head_dim, .. } = *self;
        if !heads.is_multiple_of(kv_heads) {
            return Err(bad(format!("{heads} heads cannot share {kv_heads} key-value heads evenly")));
        }
        if !head_dim.is_multiple_of(2) {
            return Err(bad(format!("heads of odd size {head_dim} cannot be rotated in pairs")));
        }
        let mut reals = vec![("the rotary base", self.rope_base), ("the norms' epsilon", self.norm_eps)];
        match self.rope_scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => reals.push(("the rotary scaling factor", factor)),
            RopeScaling::Llama3 { factor, low, high, original } => {
                reals.extend([("the rotary scaling factor", factor), ("low_freq_factor", low)]);
                reals.push(("original_max_position_embeddings", original));
                reals.push(("high_freq_factor - low_freq_factor", high - low));
            }
        }
        match reals.into_iter().find(|(_, x)| !(x.is_finite() && *x > 0.0)) {
            Some((what, x)) => Err(bad(format!("{what} is {x}, not a positive number"))),
            None => Ok(()),
        }
    }

    /// Number of weights, biases and norms included; a tied head counts once.
    ///
    /// ```
    /// # use qat_trainer::llm::config::{Architecture, LlmConfig, RopeScaling};
    /// let tied = LlmConfig {
    ///     vocabulary: 10, hidden: 4, layers: 1, heads: 2, kv_heads: 1, head_dim: 2, mlp: 8, tied: true,
    /// #   architecture: Architecture::Qwen2, context: 32, rope_base: 1e4, rope_scaling: RopeScaling::None,
    /// #   norm_eps: 1e-5, qkv_bias: true, output_bias: false,
    ///     // …, with biases of queries, keys and values
    /// };
    /// // Embedding; queries and output, keys and values, their biases; the feed-forward layer; three norms.
    /// assert_eq!(tied.parameters(), 10 * 4 + (2 * 4 * 4 + 2 * 4 * 2 + 4 + 2 + 2) + 3 * 4 * 8 + 3 * 4);
    /// assert_eq!(LlmConfig { tied: false, ..tied.clone() }.parameters(), tied.parameters() + 10 * 4);
    /// ```
    #[must_use]
    pub fn parameters(&self) -> usize {
        let (query, value) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let attention = self.hidden * (2 * query + 2 * value);
        let biases =
            usize::from(self.qkv_bias) * (query + 2 * value) + usize::from(self.output_bias) * self.hidden;
        let block = attention + biases + 3 * self.hidden * self.mlp + 2 * self.hidden;
        let tables = if self.tied { 1 } else { 2 };
        tables * self.vocabulary * self.hidden + self.layers * block + self.hidden
    }
}

fn bad(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::Model, problem).remedy("the file is damaged or describes another kind of model")
}

/// A decoder small enough for tests: two blocks, two query heads for each of two key-value heads.
#[cfg(test)]
pub(crate) fn tiny(architecture: Architecture) -> LlmConfig {
    LlmConfig {
        architecture,
        vocabulary: 270,
        hidden: 32,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        mlp: 64,
        context: 64,
        rope_base: 10_000.0,
        rope_scaling: RopeScaling::None,
        norm_eps: 1e-5,
        tied: architecture == Architecture::Llama,
        qkv_bias: architecture == Architecture::Qwen2,
        output_bias: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_make_no_network_are_named() {
        type Change = fn(&mut LlmConfig);
        let cases: [(Change, &str); 9] = [
            (|c| c.layers = 0, "layers is 0"),
            (|c| c.hidden = usize::MAX, "hidden size"),
            (|c| c.kv_heads = 3, "4 heads cannot share 3"),
            (|c| c.head_dim = 7, "odd size 7"),
            (|c| c.rope_base = f64::NAN, "rotary base is NaN"),
            (|c| c.norm_eps = 0.0, "epsilon is 0"),
            (|c| c.rope_scaling = RopeScaling::Linear { factor: -1.0 }, "factor is -1"),
            (
                |c| c.rope_scaling = RopeScaling::Llama3 { factor: 8.0, low: 4.0, high: 4.0, original: 1.0 },
                "high_freq_factor",
            ),
            (|c| c.mlp = 0, "feed-forward"),
        ];
        for (change, expected) in cases {
            let mut config = tiny(Architecture::Llama);
            config.validate().unwrap();
            change(&mut config);
            let e = config.validate().unwrap_err().to_string();
            assert!(e.contains(expected), "{e}");
        }
    }

    #[test]
    fn parameters_of_known_models() {
        let smollm2 = LlmConfig {
            vocabulary: 49_152,
            hidden: 576,
            layers: 30,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            mlp: 1536,
            ..tiny(Architecture::Llama)
        };
        assert_eq!(smollm2.parameters(), 134_515_008);
        let qwen = LlmConfig {
            vocabulary: 151_936,
            hidden: 896,
            layers: 24,
            heads: 14,
            kv_heads: 2,
            head_dim: 64,
            mlp: 4864,
            tied: true,
            ..tiny(Architecture::Qwen2)
        };
        assert_eq!(qwen.parameters(), 494_032_768);
    }
}
