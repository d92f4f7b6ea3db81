//! Hugging Face's `config.json`.

use super::{Architecture, LlmConfig, RopeScaling, bad};
use crate::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// The keys that matter. Keys of training and of other programs are ignored; those that would change the network and are
/// not known here are refused.
#[derive(Deserialize)]
struct Json {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    /// Where newer files keep base and scaling.
    rope_parameters: Option<Rope>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    hidden_act: Option<String>,
    use_sliding_window: Option<bool>,
    quantization_config: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

/// Rotary base of files that do not give one.
const DEFAULT_BASE: f64 = 10_000.0;

impl LlmConfig {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] for text that is not such a file, an architecture or a feature of it that is not supported, and
    /// numbers that make no network.
    ///
    /// ```
    /// use qat_trainer::llm::config::LlmConfig;
    /// let json = r#"{ "model_type": "llama", "vocab_size": 32000, "hidden_size": 48, "intermediate_size": 128,
    ///     "num_hidden_layers": 2, "num_attention_heads": 6, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
    ///     "hidden_act": "silu", "use_cache": true }"#;
    /// let config = LlmConfig::from_json(json)?;
    /// assert_eq!((config.head_dim, config.kv_heads, config.rope_base), (48 / 6, 6, 1e4)); // what the file leaves out
    /// let e = LlmConfig::from_json(&json.replace("silu", "gelu")).unwrap_err();
    /// assert!(e.to_string().starts_with("key `hidden_act`: `hidden_act` is gelu, which is not supported"), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn from_json(text: &str) -> Result<Self> {
        let json: Json = serde_json::from_str(text)
            .map_err(|e| Error::new(ErrorKind::Model, format!("not the configuration of a decoder: {e}")))?;
        let architecture = match json.model_type.as_str() {
            "llama" => Architecture::Llama,
            "qwen2" => Architecture::Qwen2,
            other => return Err(unsupported("model_type", other, "llama or qwen2")),
        };
        for (key, set) in [("mlp_bias", json.mlp_bias), ("use_sliding_window", json.use_sliding_window)] {
            if set == Some(true) {
                return Err(unsupported(key, "true", "false"));
            }
        }
        if let Some(act) = json.hidden_act.filter(|act| act != "silu") {
            return Err(unsupported("hidden_act", &act, "silu"));
        }
        if json.quantization_config.is_some_and(|q| !q.is_null()) {
            return Err(unsupported("quantization_config", "set", "weights in floating point"));
        }
        let base = json.rope_parameters.as_ref().and_then(|rope| rope.rope_theta).or(json.rope_theta);
        let bias = json.attention_bias == Some(true);
        let heads = json.num_attention_heads;
        let config = Self {
            architecture,
            vocabulary: json.vocab_size,
            hidden: json.hidden_size,
            layers: json.num_hidden_layers,
            heads,
            kv_heads: json.num_key_value_heads.unwrap_or(heads),
            head_dim: json.head_dim.unwrap_or(json.hidden_size.checked_div(heads).unwrap_or(0)),
            mlp: json.intermediate_size,
            context: json.max_position_embeddings,
            rope_base: base.unwrap_or(DEFAULT_BASE),
            rope_scaling: scaling(json.rope_parameters.as_ref().or(json.rope_scaling.as_ref()))?,
            norm_eps: json.rms_norm_eps,
            tied: json.tie_word_embeddings == Some(true),
            qkv_bias: bias || architecture == Architecture::Qwen2,
            output_bias: bias && architecture == Architecture::Llama,
        };
        config.validate()?;
        Ok(config)
    }

    /// The text of a `config.json` from which Hugging Face's `transformers` and [`Self::from_json`] make this network.
    /// `kind` is torch's name of the weights' type, such as `float32`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the text cannot be made.
    ///
    /// ```
    /// # use qat_trainer::llm::config::{Architecture, LlmConfig, RopeScaling};
    /// # let config = LlmConfig {
    /// #     architecture: Architecture::Qwen2,
    /// #     vocabulary: 100, hidden: 16, layers: 1, heads: 2, kv_heads: 1, head_dim: 8, mlp: 64, context: 32,
    /// #     rope_base: 1e6, rope_scaling: RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 },
    /// #     norm_eps: 1e-6, tied: true, qkv_bias: true, output_bias: false,
    /// # };
    /// let text = config.to_json("bfloat16")?;
    /// assert!(text.contains(r#""torch_dtype": "bfloat16""#));
    /// assert!(!text.contains("8192.0")); // a length is written as a whole number
    /// assert_eq!(LlmConfig::from_json(&text)?, config);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn to_json(&self, kind: &str) -> Result<String> {
        let (model_type, class) = match self.architecture {
            Architecture::Llama => ("llama", "LlamaForCausalLM"),
            Architecture::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
        };
        let scaling = match self.rope_scaling {
            RopeScaling::None => None,
            RopeScaling::Linear { factor } => {
                Some(serde_json::json!({ "rope_type": "linear", "factor": factor }))
            }
            RopeScaling::Llama3 { factor, low, high, original } => Some(serde_json::json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": whole(original),
            })),
        };
        let out = Out {
            architectures: [class],
            model_type,
            vocab_size: self.vocabulary,
            hidden_size: self.hidden,
            intermediate_size: self.mlp,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.kv_heads,
            head_dim: self.head_dim,
            max_position_embeddings: self.context,
            rms_norm_eps: self.norm_eps,
            rope_theta: self.rope_base,
            rope_scaling: scaling,
            tie_word_embeddings: self.tied,
            attention_bias: self.qkv_bias && self.architecture == Architecture::Llama,
            hidden_act: "silu",
            torch_dtype: kind,
        };
        serde_json::to_string_pretty(&out)
            .map_err(|e| Error::new(ErrorKind::Io, format!("the configuration cannot be written: {e}")))
    }
}

/// An integer as one, as other programs expect a length.
fn whole(x: f64) -> serde_json::Value {
    let integer = x as u64;
    if integer as f64 == x { integer.into() } else { x.into() }
}

#[derive(Serialize)]
struct Out<'a> {
    architectures: [&'a str; 1],
    model_type: &'a str,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: f64,
    rope_scaling: Option<serde_json::Value>,
    tie_word_embeddings: bool,
    attention_bias: bool,
    hidden_act: &'a str,
    torch_dtype: &'a str,
}

fn scaling(rope: Option<&Rope>) -> Result<RopeScaling> {
    let Some(rope) = rope else { return Ok(RopeScaling::None) };
    let need =
        |key: &str, value: Option<f64>| value.ok_or_else(|| bad(format!("rope_scaling lacks `{key}`")));
    match rope.rope_type.as_deref() {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: need("factor", rope.factor)? }),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: need("factor", rope.factor)?,
            low: need("low_freq_factor", rope.low_freq_factor)?,
            high: need("high_freq_factor", rope.high_freq_factor)?,
            original: need("original_max_position_embeddings", rope.original_max_position_embeddings)?,
        }),
        Some(other) => Err(unsupported("rope_scaling", other, "default, linear or llama3")),
    }
}

fn unsupported(key: &str, value: &str, supported: &str) -> Error {
    Error::new(ErrorKind::Model, format!("`{key}` is {value}, which is not supported"))
        .place(format!("key `{key}`"))
        .remedy(format!("use a model with {supported}"))
}

#[cfg(test)]
mod tests {
    use super::super::tiny;
    use super::*;

    #[test]
    fn what_was_written_reads_back() {
        for architecture in [Architecture::Llama, Architecture::Qwen2] {
            let mut config = tiny(architecture);
            for scaling in [
                RopeScaling::None,
                RopeScaling::Linear { factor: 2.0 },
                RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 },
                RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 0.5 },
            ] {
                config.rope_scaling = scaling;
                assert_eq!(LlmConfig::from_json(&config.to_json("float32").unwrap()).unwrap(), config);
            }
        }
    }

    #[test]
    fn numbers_of_many_digits_are_read_to_the_nearest() {
        let eps = "118446744073709551615e-06";
        let text = tiny(Architecture::Llama).to_json("float32").unwrap().replace("0.00001", eps);
        let config = LlmConfig::from_json(&text).unwrap();
        assert_eq!(config.norm_eps, eps.parse::<f64>().unwrap());
        assert_eq!(LlmConfig::from_json(&config.to_json("float32").unwrap()).unwrap(), config);
    }

    #[test]
    fn defaults_are_those_of_the_family() {
        let text = r#"{"model_type": "llama", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 16,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, "attention_bias": true}"#;
        let c = LlmConfig::from_json(text).unwrap();
        assert_eq!((c.kv_heads, c.head_dim, c.tied, c.rope_base), (2, 4, false, 5e5));
        assert!(c.qkv_bias && c.output_bias);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let text = tiny(Architecture::Llama).to_json("float32").unwrap();
        for (from, to, expected) in [
            ("\"llama\"", "\"mamba\"", "`model_type` is mamba"),
            ("\"silu\"", "\"gelu\"", "`hidden_act` is gelu"),
            ("\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"yarn\"}", "`rope_scaling` is yarn"),
            ("\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\"}", "lacks `factor`"),
            ("\"rope_scaling\": null", "\"mlp_bias\": true", "`mlp_bias` is true"),
            (
                "\"rope_scaling\": null",
                "\"quantization_config\": {\"bits\": 4}",
                "`quantization_config` is set",
            ),
            ("\"hidden_size\"", "\"size\"", "missing field `hidden_size`"),
            ("\"num_attention_heads\": 4", "\"num_attention_heads\": 0", "number of heads is 0"),
        ] {
            assert!(text.contains(from), "{from}");
            let e = LlmConfig::from_json(&text.replace(from, to)).unwrap_err().to_string();
            assert!(e.contains(expected), "{e}");
        }
    }
}
