//! `[model]` of a language model.

use crate::error::Result;
use crate::spec::Source;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The decoder that training begins with.
///
/// ```
/// use qat_trainer::spec::{LlmModelSpec, LlmRun};
/// let toml = r#"
/// # data = { format = "text", train = ["a.txt"] }
/// # train = { steps = 100 }
/// [model]
/// from = "../models/smollm2"
/// "#;
/// let model = LlmRun::parse(toml, "configs/run.toml".as_ref())?.model;
/// assert_eq!(model, LlmModelSpec::Files("configs/../models/smollm2".into()));
/// // What is loaded has a shape.
/// assert!(LlmRun::parse(&format!("{toml}layers = 2"), "configs/run.toml".as_ref()).is_err());
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum LlmModelSpec {
    /// A Hugging Face folder or a GGUF file. TOML: `from`.
    Files(PathBuf),
    /// One that has learned nothing, with a token for every character of the training text.
    Shape(ModelShape),
}

/// The shape of a decoder of the Llama family. Its embedding is its head too.
///
/// ```
/// use qat_trainer::spec::{LlmModelSpec, LlmRun, ModelShape};
/// let toml = r#"
/// # data = { format = "arithmetic" }
/// # train = { steps = 100 }
/// [model]
/// layers = 2
/// hidden = 64
/// heads = 4
/// mlp = 128
/// "#;
/// let shape = ModelShape { layers: 2, hidden: 64, heads: 4, kv_heads: 4, mlp: 128, context: 64 };
/// assert_eq!(LlmRun::parse(toml, "run.toml".as_ref())?.model, LlmModelSpec::Shape(shape));
/// assert!(LlmRun::parse(&toml.replace("heads = 4", "heads = 5"), "run.toml".as_ref()).is_err()); // 64/5
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// Number of blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads; they divide `hidden`.
    pub heads: usize,
    /// Key and value heads; default: as many.
    pub kv_heads: usize,
    /// Width of the feed-forward layer.
    pub mlp: usize,
    /// Longest sequence, tokens; default: 64.
    pub context: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    from: Option<PathBuf>,
    layers: Option<usize>,
    hidden: Option<usize>,
    heads: Option<usize>,
    kv_heads: Option<usize>,
    mlp: Option<usize>,
    context: Option<usize>,
}

impl LlmModelSpec {
    pub(super) fn from_raw(raw: RawModel, base: &Path, source: Source<'_>) -> Result<Self> {
        let error = |key: &str, problem: String| source.error("model", key, problem);
        if let Some(from) = raw.from {
            let shape = [
                ("layers", raw.layers),
                ("hidden", raw.hidden),
                ("heads", raw.heads),
                ("kv_heads", raw.kv_heads),
                ("mlp", raw.mlp),
                ("context", raw.context),
            ];
            return match shape.into_iter().find(|(_, size)| size.is_some()) {
                Some((key, _)) => Err(error(key, format!("`{key}` has no meaning beside `from`"))
                    .remedy("the model that is loaded has a shape")),
                None => Ok(Self::Files(base.join(from))),
            };
        }
        let need = |key: &str, size: Option<usize>| {
            size.ok_or_else(|| {
                error(key, format!("`{key}` is missing")).remedy("write it, or `from` to load a model")
            })
        };
        let (hidden, heads) = (need("hidden", raw.hidden)?, need("heads", raw.heads)?);
        if heads == 0 || !hidden.is_multiple_of(heads) {
            return Err(error("heads", format!("{hidden} is not divided by {heads} heads"))
                .remedy("choose a number that divides `hidden`"));
        }
        Ok(Self::Shape(ModelShape {
            layers: need("layers", raw.layers)?,
            hidden,
            heads,
            kv_heads: raw.kv_heads.unwrap_or(heads),
            mlp: need("mlp", raw.mlp)?,
            context: raw.context.unwrap_or(64),
        }))
    }
}
