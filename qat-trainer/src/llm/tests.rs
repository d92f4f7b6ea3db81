//! The decoder against its definition, file formats against each other, and bad files, on generated weights.

mod bad_files;
mod memory;
mod network;
mod packed;
mod reference;

use super::config::{Architecture, LlmConfig, tiny};
use super::gguf::writer::Writer;
use super::*;
use crate::error::{Error, ErrorKind, Result};
use crate::random::normal;
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

const CPU: Device = Device::Cpu;
const BOTH: [Architecture; 2] = [Architecture::Llama, Architecture::Qwen2];

/// Generated tensors for every name: norms near 1, everything else spread about 0.
pub(super) struct Generated;

impl TensorSource for Generated {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let seed = name.bytes().fold(0u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let numbers = normal(seed, shape);
        Ok(if name.ends_with("norm.weight") { numbers * 0.1 + 1.0 } else { numbers * 0.2 })
    }

    fn file_of(&self, _name: &str) -> PathBuf {
        "generated".into()
    }
}

fn decoder(config: &LlmConfig) -> Decoder {
    Decoder::load(config, &Generated, Kind::Float, CPU).unwrap()
}

/// Generated tokens, `[batch, time]`.
fn tokens(seed: u64, batch: i64, time: i64) -> Tensor {
    (normal(seed, &[batch, time]) * 1000.0).to_kind(Kind::Int64).remainder(262)
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

/// A byte-level tokenizer with few merges, in the metadata of a GGUF file.
pub(super) fn vocabulary(w: Writer, pre: &str) -> Writer {
    // Bytes that are printable in Latin-1 stand for themselves, the others for characters from U+0100 on.
    let printable = |b: &u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let hidden = (0..256).filter(|b| !printable(b)).enumerate().map(|(i, _)| 256 + i as u32);
    let mut tokens: Vec<String> = (0..256)
        .filter(printable)
        .chain(hidden)
        .filter_map(|c| char::from_u32(c).map(String::from))
        .collect();
    tokens.extend(["he", "Ġt", "Ġthe", "12", "<|endoftext|>", "<|im_end|>"].map(String::from));
    let types: Vec<i32> = tokens.iter().map(|token| if token.starts_with("<|") { 3 } else { 1 }).collect();
    w.text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", pre)
        .texts("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &types)
        .texts("tokenizer.ggml.merges", &["h e", "Ġ t", "Ġt he", "1 2"])
        .u32("tokenizer.ggml.eos_token_id", 261)
        .text("tokenizer.chat_template", "{% for m in messages %}{{ m['content'] }}{% endfor %}")
}

/// The GGUF file of a decoder, with rows where llama.cpp's converter puts them.
fn gguf(decoder: &Decoder) -> Writer {
    let c = decoder.config();
    let name = if c.architecture == Architecture::Llama { "llama" } else { "qwen2" };
    let key = |rest: &str| format!("{name}.{rest}");
    let mut w = vocabulary(Writer::default(), "smollm")
        .text("general.architecture", name)
        .u32(&key("block_count"), c.layers as u32)
        .u32(&key("context_length"), c.context as u32)
        .u32(&key("embedding_length"), c.hidden as u32)
        .u32(&key("feed_forward_length"), c.mlp as u32)
        .u32(&key("attention.head_count"), c.heads as u32)
        .u32(&key("attention.head_count_kv"), c.kv_heads as u32)
        .f32(&key("rope.freq_base"), c.rope_base as f32)
        .f32(&key("attention.layer_norm_rms_epsilon"), c.norm_eps as f32);
    for (name, tensor) in decoder.tensors().unwrap() {
        let mut there = name.clone();
        for (hf, gguf) in [
            ("model.layers", "blk"),
            ("model.embed_tokens", "token_embd"),
            ("model.norm", "output_norm"),
            ("lm_head", "output"),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
        ] {
            there = there.replace(hf, gguf);
        }
        let rotated = name.contains("q_proj") || name.contains("k_proj");
        let shape: Vec<usize> = tensor.size().iter().map(|&d| d as usize).collect();
        let tensor = if rotated && c.architecture == Architecture::Llama {
            let pairs = c.head_dim as i64 / 2;
            tensor.reshape([-1, 2, pairs, c.hidden as i64]).transpose(1, 2).reshape(tensor.size())
        } else {
            tensor
        };
        w = w.tensor(&there, &shape, &Vec::<f32>::try_from(tensor.reshape(-1)).unwrap());
    }
    w
}

/// A decoder written as a GGUF file, and from that as a folder.
fn files(config: &LlmConfig) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (file, folder) = (dir.path().join("model.gguf"), dir.path().join("folder"));
    std::fs::write(&file, gguf(&decoder(config)).bytes()).unwrap();
    LanguageModel::load(&file, Kind::Float, CPU).unwrap().save(&folder).unwrap();
    (dir, file, folder)
}
