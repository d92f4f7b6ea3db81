//! A decoder's tensors out of a GGUF file.

use super::{TensorSource, check_shape, missing};
use crate::error::{Error, Result};
use crate::llm::config::{Architecture, LlmConfig};
use crate::llm::gguf::Gguf;
use std::fs::File;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// A GGUF file with a decoder.
#[derive(Debug)]
pub struct GgufSource {
    path: PathBuf,
    file: Gguf,
    config: LlmConfig,
}

/// Names of a block's parts, here and there.
const PARTS: [(&str, &str); 9] = [
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
];

/// Names outside the blocks, here and there.
const OTHERS: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

impl GgufSource {
    /// Reads the header of the file.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] if it cannot be read; [`crate::ErrorKind::Model`] if it is damaged or holds something else.
    ///
    /// ```
    /// use qat_trainer::llm::{GgufSource, TensorSource};
    /// # let text = |s: &str| [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat();
    /// # let mut bytes = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0".to_vec();
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
    /// # bytes.resize(bytes.len().next_multiple_of(32), 0);
    /// # bytes.extend((0..40).flat_map(|i| (i as f32).to_le_bytes()));
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("small.gguf");
    /// # std::fs::write(&path, &bytes)?;
    /// // A file with `token_embd.weight`, five rows of eight numbers, 0 to 39.
    /// let source = GgufSource::open(&path)?;
    /// assert_eq!(source.names(), ["model.embed_tokens.weight"]); // Hugging Face's name
    /// let embedding = source.tensor("model.embed_tokens.weight", &[5, 8])?;
    /// assert_eq!(embedding.double_value(&[2, 1]), 17.0);
    /// let e = source.tensor("model.norm.weight", &[8]).unwrap_err();
    /// assert!(e.to_string().contains("tensor `model.norm.weight`: this tensor is missing"), "{e}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("read", path, &e))?;
        let len = file.metadata().map_err(|e| Error::io("read", path, &e))?.len();
        let file = Gguf::parse(std::io::BufReader::new(file), len).map_err(|e| e.file(path))?;
        let config = LlmConfig::from_gguf(&file).map_err(|e| e.file(path))?;
        Ok(Self { path: path.into(), file, config })
    }

    /// The shape of the decoder.
    ///
    /// ```
    /// # use qat_trainer::llm::GgufSource;
    /// # let text = |s: &str| [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat();
    /// # let mut bytes = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0".to_vec();
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
    /// # bytes.resize(bytes.len().next_multiple_of(32), 0);
    /// # bytes.extend((0..40).flat_map(|i| (i as f32).to_le_bytes()));
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("small.gguf");
    /// # std::fs::write(&path, &bytes)?;
    /// // A file of three blocks, with the rows of five tokens and no head.
    /// let source = GgufSource::open(&path)?;
    /// assert_eq!((source.config().layers, source.config().vocabulary, source.config().tied), (3, 5, true));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn config(&self) -> &LlmConfig {
        &self.config
    }

    /// Metadata and table of tensors.
    ///
    /// ```
    /// # use qat_trainer::llm::GgufSource;
    /// # let text = |s: &str| [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat();
    /// # let mut bytes = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0".to_vec();
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
    /// # bytes.resize(bytes.len().next_multiple_of(32), 0);
    /// # bytes.extend((0..40).flat_map(|i| (i as f32).to_le_bytes()));
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("small.gguf");
    /// # std::fs::write(&path, &bytes)?;
    /// let source = GgufSource::open(&path)?;
    /// // What the configuration does not need: how the file stores a tensor, by the file's own name.
    /// let stored = source.file().tensor("token_embd.weight").map(|info| (info.format, info.bytes));
    /// assert_eq!(stored, Some((qat_trainer::llm::gguf::Format::F32, 4 * 5 * 8)));
    /// assert!(!source.file().has("general.name"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn file(&self) -> &Gguf {
        &self.file
    }

    /// Rows per rotated head of a tensor whose rows lie in another order here: llama.cpp's converter puts the rows of
    /// queries and keys of Llama models so that those that are rotated together are neighbours.
    fn interleaved(&self, name: &str) -> bool {
        let rotated = ["q_proj", "k_proj"].iter().any(|part| name.contains(part));
        self.config.architecture == Architecture::Llama && rotated
    }
}

impl TensorSource for GgufSource {
    fn names(&self) -> Vec<String> {
        self.file.names().map(|name| hf_name(name).unwrap_or_else(|| name.to_owned())).collect()
    }

    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let there = gguf_name(name).filter(|there| self.file.tensor(there).is_some());
        let there = there.ok_or_else(|| missing(&self.path, name))?;
        check_shape(&self.path, &there, self.file.dimensions(&there)?, shape)?;
        let file = File::open(&self.path).map_err(|e| Error::io("read", &self.path, &e))?;
        let values = self.file.read_tensor(file, &there).map_err(|e| e.file(&self.path))?;
        let tensor = Tensor::from_slice(&values).f_reshape(shape)?;
        if !self.interleaved(name) {
            return Ok(tensor);
        }
        // Row (head, pair, half) goes to (head, half, pair).
        let half = self.config.head_dim as i64 / 2;
        Ok(tensor
            .f_reshape([-1, half, 2, shape.get(1).copied().unwrap_or(1)])?
            .f_transpose(1, 2)?
            .f_reshape(shape)?)
    }

    fn file_of(&self, _name: &str) -> PathBuf {
        self.path.clone()
    }
}

/// Hugging Face's name of a tensor.
fn hf_name(gguf: &str) -> Option<String> {
    let (name, kind) = gguf.rsplit_once('.')?;
    if let Some((_, other)) = OTHERS.iter().find(|(here, _)| *here == name) {
        return Some(format!("{other}.{kind}"));
    }
    let (block, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let (_, part) = PARTS.iter().find(|(here, _)| *here == part)?;
    Some(format!("model.layers.{block}.{part}.{kind}"))
}

/// The name here of Hugging Face's tensor.
fn gguf_name(hf: &str) -> Option<String> {
    let (name, kind) = hf.rsplit_once('.')?;
    if let Some((here, _)) = OTHERS.iter().find(|(_, there)| *there == name) {
        return Some(format!("{here}.{kind}"));
    }
    let (block, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, _) = PARTS.iter().find(|(_, there)| *there == part)?;
    Some(format!("blk.{block}.{part}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for (gguf, hf) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("blk.17.attn_q.bias", "model.layers.17.self_attn.q_proj.bias"),
            ("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
        ] {
            assert_eq!(hf_name(gguf).as_deref(), Some(hf));
            assert_eq!(gguf_name(hf).as_deref(), Some(gguf));
        }
        for unknown in ["rope_freqs.weight", "blk.0.attn_qkv.weight", "x", ""] {
            assert_eq!(hf_name(unknown), None);
        }
    }
}
