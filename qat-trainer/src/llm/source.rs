//! Named tensors of model files, under Hugging Face's names and in its orders.

mod gguf;
mod safetensors;

pub use gguf::GgufSource;
pub use safetensors::HfFolder;

use crate::error::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use tch::Tensor;

/// Where a decoder's tensors come from.
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
