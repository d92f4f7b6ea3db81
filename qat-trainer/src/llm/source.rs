//! Named tensors of model files, under Hugging Face's names and in its orders.

mod gguf;
mod safetensors;

pub use gguf::GgufSource;
pub use safetensors::HfFolder;

use crate::error::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use tch::Tensor;

/// Where a decoder's tensors come from.
///
/// ```
/// # use qat_trainer::llm::config::LlmConfig;
/// # use std::{collections::BTreeMap, path::PathBuf};
/// # use tch::{Device, Kind, Tensor};
/// use qat_trainer::{Error, ErrorKind, Result, llm::{Decoder, TensorSource}};
/// /// Tensors in memory.
/// struct InMemory(BTreeMap<String, Tensor>);
/// impl TensorSource for InMemory {
///     fn names(&self) -> Vec<String> { self.0.keys().cloned().collect() }
///     fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
///         let found = self.0.get(name).filter(|tensor| tensor.size() == shape);
///         let missing = || Error::new(ErrorKind::Model, format!("no tensor `{name}` of {shape:?}"));
///         found.map(Tensor::shallow_clone).ok_or_else(missing)
///     }
///     fn file_of(&self, _: &str) -> PathBuf { "memory".into() }
/// }
/// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
/// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
/// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
/// let mut source = InMemory(Decoder::generated(&config, 1)?.tensors()?.into_iter().collect());
/// assert!(Decoder::load(&config, &source, Kind::Float, Device::Cpu).is_ok());
/// source.0.remove("model.norm.weight");
/// assert!(Decoder::load(&config, &source, Kind::Float, Device::Cpu).is_err());
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub trait TensorSource {
    /// The names of all tensors there are.
    fn names(&self) -> Vec<String>;

    /// The tensor of this name, which must have this shape, in the kind that the file has it in (blocks as f32).
    ///
    /// # Errors
    /// [`ErrorKind::Model`] naming file and tensor if it is missing or has another shape; [`ErrorKind::Io`] if it cannot be
    /// read.
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor>;

    /// The file that a tensor lies in, for messages.
    fn file_of(&self, name: &str) -> PathBuf;
}

fn missing(file: &Path, name: &str) -> Error {
    Error::new(ErrorKind::Model, "this tensor is missing")
        .file(file)
        .place(format!("tensor `{name}`"))
        .remedy("fetch the model again; its configuration asks for this tensor")
}

fn check_shape(file: &Path, name: &str, got: &[usize], wanted: &[i64]) -> Result<()> {
    if got.len() == wanted.len() && got.iter().zip(wanted).all(|(&got, &wanted)| got as i64 == wanted) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Model, format!("its shape is {got:?}, the configuration asks for {wanted:?}"))
        .file(file)
        .place(format!("tensor `{name}`"))
        .remedy("the weights belong to another configuration; fetch both again"))
}
