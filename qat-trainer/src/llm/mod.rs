//! Language models of the Llama and Qwen2 families: files in, perplexity and text out.
//!
//! | module | is |
//! |---|---|
//! | [`config`] | the shape of a decoder, from `config.json` or the metadata of a GGUF file |
//! | [`gguf`] | the GGUF container: metadata, tensors, block formats |
//! | `source` | named tensors of either kind of file, in one convention |
//! | `linear` | what stands where a weight matrix is used: the seam for quantised and adapted layers |
//! | `learned` | a matrix that is trained as it is |
//! | `rope`, `attention`, `decoder` | the network, in plain torch operators |
//! | `cache` | keys and values of tokens already seen |
//! | `tokenizer`, `chat` | text to tokens and back; turns of a conversation to text |
//! | `causal` | what predicts the next token, whatever computes it |
//! | `model` | decoder, tokenizer and chat template, loaded together |
//! | [`packed`] | quantised decoders in one file, and the engine that runs them |
//! | `perplexity`, `generate` | what the commands measure and write |
//! | `synthesis` | texts that a model writes of itself, to be quantised and trained on |
//! | `loss` | cross-entropy in chunks, for training |
//! | `text` | reading texts |
//! | `qat` | matrices that are quantised while they are trained |
//! | `lora` | adapters on quantised matrices, and tuning of scales alone |
//! | `optimiser` | what AdamW remembers of them |
//! | [`arithmetic`] | generated problems with written-out steps |
//! | `examples`, `train` | what is learned from, and the loop that learns |
//! | `reason` | learning from a teacher that reasons |
//! | `exact` | the share of problems that a model solves |
//! | `quantised` | matrices as codes and steps, and the file of them |
//! | `ptq` | quantisation without training: rounding, and second-order on a text |
//!
//! Tensors carry Hugging Face's names (`model.layers.0.self_attn.q_proj.weight`) and orders throughout; what a GGUF file
//! has otherwise is renamed and put in order when it is read.

pub mod arithmetic;
mod causal;
pub mod config;
pub mod gguf;
pub mod packed;
#[cfg_attr(not(feature = "tch"), allow(dead_code, reason = "training and quantisation use the rest"))]
mod quantised;

#[cfg(feature = "tch")]
mod attention;
#[cfg(feature = "tch")]
mod cache;
#[cfg(feature = "tch")]
mod chat;
#[cfg(feature = "tch")]
mod decoder;
#[cfg(feature = "tch")]
mod exact;
#[cfg(feature = "tch")]
mod examples;
#[cfg(feature = "tch")]
mod generate;
#[cfg(feature = "tch")]
mod learned;
#[cfg(feature = "tch")]
mod linear;
#[cfg(feature = "tch")]
mod lora;
#[cfg(feature = "tch")]
mod loss;
#[cfg(feature = "tch")]
mod model;
#[cfg(feature = "tch")]
mod optimiser;
#[cfg(feature = "tch")]
mod perplexity;
#[cfg(feature = "tch")]
mod ptq;
#[cfg(feature = "tch")]
mod qat;
#[cfg(feature = "tch")]
mod reason;
#[cfg(feature = "tch")]
mod rope;
#[cfg(feature = "tch")]
mod source;
#[cfg(feature = "tch")]
mod synthesis;
#[cfg(feature = "tch")]
#[cfg(test)]
mod tests;
#[cfg(feature = "tch")]
mod text;
#[cfg(feature = "tch")]
mod tokenizer;
#[cfg(feature = "tch")]
mod train;

pub use causal::{CausalModel, Sequence};
pub use quantised::{BlockQuant, QuantisedMatrix, read_codes, write_codes};

#[cfg(feature = "tch")]
pub use crate::nn::{Rates, Rule, Sgd};
#[cfg(feature = "tch")]
pub use {
    cache::KvCache,
    chat::{ChatTemplate, Message},
    decoder::Decoder,
    exact::{Exact, exact},
    examples::{Corpus, Example, Source, Span, tokenise},
    generate::{Generation, Sampling, Stop, generate},
    learned::Learned,
    linear::{Dense, Linear},
    lora::{Adapted, Adapters, LoraMode, LoraSettings, PackedMatrix},
    loss::{IGNORED, chunked_cross_entropy, chunked_divergence},
    model::{LanguageModel, TextModel},
    optimiser::MomentBits,
    perplexity::{Perplexity, Windows, perplexity},
    ptq::{Compensation, Quantisation, Scheme, quantise, quantise_compensated},
    qat::{Backend, DecoderQuant, DeviceQuantised, FakeQuantised, MatrixQuant, NodeQuantised},
    reason::{ChainOfThoughtLoss, DecoderTeacher, Lesson},
    source::{GgufSource, HfFolder, TensorSource},
    synthesis::{Synthesis, synthesise},
    text::{characters, read_text},
    tokenizer::Tokenizer,
    train::{Computing, LlmCheckpoint, LlmTrainer, Numbers, Processor, start},
};
