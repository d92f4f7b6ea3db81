//! The metadata of a GGUF file.

use super::{Architecture, LlmConfig, RopeScaling};
use crate::error::{Error, ErrorKind, Result};
use crate::llm::gguf::Gguf;

/// Rotary base of files that do not give one.
const DEFAULT_BASE: f64 = 10_000.0;

impl LlmConfig {
    /// Reads the configuration out of a file's metadata.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] naming the key that is missing, of another type, or not supported.
    ///
    /// ```
    /// use qat_trainer::llm::{config::LlmConfig, gguf::Gguf};
    /// # let text = |s: &str| [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat();
    /// # let mut bytes = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0".to_vec(); // one tensor, seven entries
    /// # bytes.extend([&text("general.architecture")[..], &8u32.to_le_bytes(), &text("llama")].concat());
    /// # for (key, n) in [("embedding_length", 8_u32), ("attention.head_count", 2), ("block_count", 3)]
    /// #     .into_iter().chain([("feed_forward_length", 16), ("context_length", 64)])
    /// # {
    /// #     bytes.extend([&text(&format!("llama.{key}"))[..], &4u32.to_le_bytes(), &n.to_le_bytes()].concat());
    /// # }
    /// # bytes.extend(text("llama.attention.layer_norm_rms_epsilon"));
    /// # bytes.extend([6u32.to_le_bytes(), 1e-5f32.to_le_bytes()].concat());
    /// # bytes.extend([&text("token_embd.weight")[..], &2u32.to_le_bytes()].concat());
    /// # bytes.extend([8u64, 5].map(u64::to_le_bytes).concat());
    /// # bytes.extend([0; 4 + 8]); // F32, at the start of the data
    /// # bytes.resize(bytes.len().next_multiple_of(32) + 4 * 8 * 5, 0);
    /// // A file with the keys of a small Llama and its embedding, five rows of eight numbers.
    /// let config = LlmConfig::from_gguf(&Gguf::parse(&bytes[..], bytes.len() as u64)?)?;
    /// assert_eq!((config.vocabulary, config.hidden, config.layers), (5, 8, 3));
    /// assert_eq!((config.head_dim, config.kv_heads, config.tied), (8 / 2, 2, true)); // what no key says
    /// bytes[24 + 8 + 20 + 4 + 8] = b'L'; // the architecture `Llama`
    /// let e = LlmConfig::from_gguf(&Gguf::parse(&bytes[..], bytes.len() as u64)?).unwrap_err();
    /// assert!(e.to_string().starts_with("key `general.architecture`: the architecture `Llama` is not"), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn from_gguf(file: &Gguf) -> Result<Self> {
        let name = file.text("general.architecture")?;
        let architecture = match name {
            "llama" => Architecture::Llama,
            "qwen2" => Architecture::Qwen2,
            other => {
                return Err(Error::new(
                    ErrorKind::Model,
                    format!("the architecture `{other}` is not supported"),
                )
                .place("key `general.architecture`")
                .remedy("use a model of the architectures llama or qwen2"));
            }
        };
        let key = |rest: &str| format!("{name}.{rest}");
        let size = |rest: &str| file.size(&key(rest));
        let scaling = key("rope.scaling.type");
        if file.has(&scaling) && file.text(&scaling)? != "none" {
            let problem = format!("the rotary scaling `{}` is not supported", file.text(&scaling)?);
            return Err(Error::new(ErrorKind::Model, problem)
                .place(format!("key `{scaling}`"))
                .remedy("use the model's Hugging Face folder"));
        }
        let (hidden, heads) = (size("embedding_length")?, size("attention.head_count")?);
        let or = |rest: &str, default: usize| if file.has(&key(rest)) { size(rest) } else { Ok(default) };
        let head_dim = or("attention.key_length", hidden.checked_div(heads).unwrap_or(0))?;
        for rest in ["attention.value_length", "rope.dimension_count"] {
            let got = or(rest, head_dim)?;
            if got != head_dim {
                return Err(Error::new(ErrorKind::Model, format!("it is {got} for heads of {head_dim}"))
                    .place(format!("key `{}`", key(rest)))
                    .remedy("use a model whose heads are rotated whole"));
            }
        }
        let base = key("rope.freq_base");
        let bias = |tensor: &str| file.tensor(&format!("blk.0.{tensor}.bias")).is_some();
        let config = Self {
            architecture,
            vocabulary: file.dimensions("token_embd.weight")?.first().copied().unwrap_or(0),
            hidden,
            layers: size("block_count")?,
            heads,
            kv_heads: or("attention.head_count_kv", heads)?,
            head_dim,
            mlp: size("feed_forward_length")?,
            context: size("context_length")?,
            rope_base: if file.has(&base) { file.real(&base)? } else { DEFAULT_BASE },
            rope_scaling: RopeScaling::None,
            norm_eps: file.real(&key("attention.layer_norm_rms_epsilon"))?,
            tied: file.tensor("output.weight").is_none(),
            qkv_bias: bias("attn_q"),
            output_bias: bias("attn_output"),
        };
        config.validate()?;
        Ok(config)
    }
}
