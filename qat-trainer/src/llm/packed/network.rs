//! The decoder on the bytes of its file.

use super::attention::Memory;
use super::index::{Codes, Contents};
use super::numbers::{add, dot, gated, norm, rotate, surprise};
use crate::error::{Error, ErrorKind, Result};
use crate::llm::causal::{CausalModel, Sequence, at_least, fits, unknown};
use crate::llm::config::LlmConfig;
use qat_kernels::pack::unpack;
use qat_kernels::quantizer::{F16, unpack_divisors};
use rayon::prelude::*;
use std::ops::Range;
use std::path::Path;

/// Weights from which on threads share a product: less would not pay for waking them.
const WORTH_SHARING: usize = 1 << 19;
/// Logits of so many tokens at once.
const TOGETHER: usize = 32;

/// A decoder that computes with the codes of a packed file: activations in int8, sums of integers, all else in f32.
///
/// The logits depend on the tokens alone: not on the machine, the number of threads, or how the tokens are cut.
pub struct PackedDecoder {
    file: Vec<u8>,
    contents: Contents,
    embedding: Matrix,
    blocks: Vec<Block>,
    norm: Vec<f32>,
    /// `None`: the embedding itself.
    head: Option<Matrix>,
}

impl std::fmt::Debug for PackedDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedDecoder").field("config", &self.contents.config).finish_non_exhaustive()
    }
}

struct Block {
    /// q, k, v, o; gate, up, down.
    attention: [Matrix; 4],
    mlp: [Matrix; 3],
    norms: [Vec<f32>; 2],
}

struct Matrix {
    rows: usize,
    columns: usize,
    weights: Weights,
    bias: Option<Vec<f32>>,
}

enum Weights {
    Codes(Codes),
    /// Numbers in the file.
    Plain(Range<usize>),
}

impl PackedDecoder {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; those of [`Self::new`].
    ///
    /// ```
    /// # use std::path::Path;
    /// use qat_trainer::llm::{CausalModel, packed::PackedDecoder};
    /// # let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packed-v1.piq"));
    /// let decoder = PackedDecoder::load(path)?;
    /// let mut text = decoder.begin(8)?; // room for eight tokens
    /// let logits = text.feed(&[3, 1, 4])?;
    /// assert_eq!((text.len(), logits.len()), (3, decoder.config().vocabulary)); // a logit for every token
    /// let e = PackedDecoder::load(Path::new("none.piq")).unwrap_err();
    /// assert!(e.to_string().starts_with("none.piq: cannot read this file"), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn load(path: &Path) -> Result<Self> {
        let file = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
        Self::new(file).map_err(|e| e.file(path))
    }

    /// The decoder of a file's bytes, which stay as they are.
    ///
    /// # Errors
    /// Those of [`Contents::parse`].
    ///
    /// ```
    /// # use std::path::Path;
    /// use qat_trainer::llm::{CausalModel, packed::PackedDecoder};
    /// # let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packed-v1.piq"));
    /// let decoder = PackedDecoder::new(std::fs::read(path)?)?;
    /// // The same logits, bit for bit, however the tokens are cut.
    /// let at_once = decoder.begin(8)?.feed(&[3, 1, 4])?;
    /// let mut text = decoder.begin(8)?;
    /// text.feed(&[3, 1])?;
    /// assert_eq!(text.feed(&[4])?, at_once);
    /// assert!(PackedDecoder::new(b"GGUF".to_vec()).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(file: Vec<u8>) -> Result<Self> {
        let contents = Contents::parse(&file)?;
        let config = &contents.config;
        let vector = |name: &str| -> Result<Vec<f32>> {
            let range = contents.tensors.get(name).ok_or_else(|| lost(name))?;
            Ok(floats(file.get(range.clone()).unwrap_or_default()).collect())
        };
        let matrix = |name: &str, rows: usize, columns: usize, bias: bool| -> Result<Matrix> {
            let weights = match contents.matrices.get(name) {
                Some(codes) => Weights::Codes(codes.clone()),
                None => {
                    let name = format!("{name}.weight");
                    Weights::Plain(contents.tensors.get(&name).ok_or_else(|| lost(&name))?.clone())
                }
            };
            let bias = if bias { Some(vector(&format!("{name}.bias"))?) } else { None };
            Ok(Matrix { rows, columns, weights, bias })
        };
        let LlmConfig { vocabulary, hidden, mlp, .. } = *config;
        let [query, value] = [config.heads, config.kv_heads].map(|n| n * config.head_dim);
        let block = |i: usize| -> Result<Block> {
            let name = |rest: &str| format!("model.layers.{i}.{rest}");
            Ok(Block {
                attention: [
                    matrix(&name("self_attn.q_proj"), query, hidden, config.qkv_bias)?,
                    matrix(&name("self_attn.k_proj"), value, hidden, config.qkv_bias)?,
                    matrix(&name("self_attn.v_proj"), value, hidden, config.qkv_bias)?,
                    matrix(&name("self_attn.o_proj"), hidden, query, config.output_bias)?,
                ],
                mlp: [
                    matrix(&name("mlp.gate_proj"), mlp, hidden, false)?,
                    matrix(&name("mlp.up_proj"), mlp, hidden, false)?,
                    matrix(&name("mlp.down_proj"), hidden, mlp, false)?,
                ],
                norms: [
                    vector(&name("input_layernorm.weight"))?,
                    vector(&name("post_attention_layernorm.weight"))?,
                ],
            })
        };
        let embedding = matrix("model.embed_tokens", vocabulary, hidden, false)?;
        let blocks = (0..config.layers).map(block).collect::<Result<_>>()?;
        let norm = vector("model.norm.weight")?;
        let head = if config.tied { None } else { Some(matrix("lm_head", vocabulary, hidden, false)?) };
        Ok(Self { embedding, blocks, norm, head, contents, file })
    }

    /// What the file holds beside the weights.
    ///
    /// ```
    /// # use std::path::Path;
    /// # use qat_trainer::llm::{CausalModel, packed::PackedDecoder};
    /// # let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packed-v1.piq"));
    /// let decoder = PackedDecoder::load(path)?;
    /// let contents = decoder.contents();
    /// assert_eq!(contents.config, *decoder.config());
    /// // Which tokens end a text, and how a turn of a conversation ends.
    /// assert_eq!(contents.ends, [1, 2]);
    /// assert_eq!(contents.chat.as_ref().map(|chat| chat.eos.as_str()), Some("</s>"));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The file's bytes.
    ///
    /// ```
    /// # use std::path::Path;
    /// # use qat_trainer::llm::packed::PackedDecoder;
    /// # let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packed-v1.piq"));
    /// let file = std::fs::read(path)?;
    /// // The decoder computes on the bytes as they are; nothing has been changed or left out.
    /// assert!(PackedDecoder::new(file.clone())?.into_bytes() == file);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.file
    }

    /// The bytes of `tokenizer.json`.
    ///
    /// ```
    /// # use std::path::Path;
    /// # use qat_trainer::llm::packed::PackedDecoder;
    /// # let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packed-v1.piq"));
    /// let decoder = PackedDecoder::load(path)?; // with a made-up tokenizer
    /// let json: serde_json::Value = serde_json::from_slice(decoder.tokenizer())?;
    /// assert_eq!(json["generated"], true);
    /// assert_eq!(decoder.tokenizer().len(), decoder.contents().tokenizer.len());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn tokenizer(&self) -> &[u8] {
        self.file.get(self.contents.tokenizer.clone()).unwrap_or_default()
    }

    /// Logits behind each of the tokens, which follow those in the memory.
    fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>> {
        self.head.as_ref().unwrap_or(&self.embedding).times(&self.file, hidden)
    }

    /// Hidden states behind the last norm, `[token, hidden]`, of tokens that the memory takes in.
    fn hidden(&self, memory: &mut Memory, tokens: &[u32]) -> Result<Vec<f32>> {
        let config = &self.contents.config;
        let end = memory.len + tokens.len();
        fits(end, memory.room)?;
        let (hidden, dim) = (config.hidden, config.head_dim);
        let eps = config.norm_eps as f32;
        let mut x = vec![0.0; tokens.len() * hidden];
        for (&token, x) in tokens.iter().zip(x.chunks_mut(hidden)) {
            self.embedding.row(&self.file, token as usize, x)?;
        }
        memory.prepare(tokens.len());
        for (layer, block) in self.blocks.iter().enumerate() {
            let [q, k, v, o] = &block.attention;
            let normed = norm(&x, &block.norms[0], eps);
            let mut queries = q.times(&self.file, &normed)?;
            let mut keys = k.times(&self.file, &normed)?;
            let values = v.times(&self.file, &normed)?;
            for (heads, width) in [(&mut queries, config.heads * dim), (&mut keys, config.kv_heads * dim)] {
                for (heads, angles) in heads.chunks_mut(width).zip(memory.angles()) {
                    rotate(heads, dim, angles);
                }
            }
            memory.store(layer, &keys, &values);
            add(&mut x, &o.times(&self.file, &memory.attend(layer, &queries))?);
            let [gate, up, down] = &block.mlp;
            let normed = norm(&x, &block.norms[1], eps);
            let mut gate = gate.times(&self.file, &normed)?;
            gated(&mut gate, &up.times(&self.file, &normed)?);
            add(&mut x, &down.times(&self.file, &gate)?);
        }
        memory.len = end;
        Ok(norm(&x, &self.norm, eps))
    }
}

impl Matrix {
    /// `x·Wᵀ + b` of each row of x.
    fn times(&self, file: &[u8], x: &[f32]) -> Result<Vec<f32>> {
        let vectors = x.len() / self.columns;
        let mut y = vec![0.0; vectors * self.rows];
        match &self.weights {
            Weights::Codes(codes) => {
                let matrix = codes.matrix(file)?;
                // From a multiple of 64 bytes on, as the loads like it.
                let mut buffer = vec![0; matrix.loaded_len(vectors) + 63];
                let start = buffer.as_ptr().align_offset(64).min(63);
                let buffer = &mut buffer[start..start + matrix.loaded_len(vectors)];
                let x = matrix.load(x, buffer)?;
                self.share(&mut y, vectors, |rows, y| Ok(matrix.multiply(&x, rows, y)?))?;
            }
            Weights::Plain(range) => {
                let weights = file.get(range.clone()).unwrap_or_default();
                self.share(&mut y, vectors, |rows, y| {
                    let mut row = Vec::with_capacity(self.columns);
                    for (r, y) in rows.zip(y.chunks_mut(vectors)) {
                        row.clear();
                        row.extend(floats(weights).skip(r * self.columns).take(self.columns));
                        y.iter_mut().zip(x.chunks(self.columns)).for_each(|(y, x)| *y = dot(&row, x));
                    }
                    Ok(())
                })?;
            }
        }
        // Rows of the matrix to rows of the result.
        let mut out = vec![0.0; y.len()];
        for (v, out) in out.chunks_mut(self.rows).enumerate() {
            out.iter_mut().zip(y.iter().skip(v).step_by(vectors)).for_each(|(out, y)| *out = *y);
            if let Some(bias) = &self.bias {
                add(out, bias);
            }
        }
        Ok(out)
    }

    /// Computes the products of all rows with `vectors` vectors, by threads if that pays.
    fn share(
        &self,
        y: &mut [f32],
        vectors: usize,
        product: impl Fn(Range<usize>, &mut [f32]) -> Result<()> + Sync,
    ) -> Result<()> {
        let threads = rayon::current_num_threads();
        if vectors == 0 || threads == 1 || self.rows * self.columns * vectors < WORTH_SHARING {
            return product(0..self.rows, y);
        }
        // Whole fours of rows, which are multiplied together.
        let rows = self.rows.div_ceil(threads * 4).next_multiple_of(4);
        let parts = y.par_chunks_mut(rows * vectors).enumerate();
        parts.try_for_each(|(i, y)| product(i * rows..i * rows + y.len() / vectors, y))
    }

    /// The weights of one row: `level·Δ`, Δ as training has it.
    fn row(&self, file: &[u8], row: usize, to: &mut [f32]) -> Result<()> {
        if row >= self.rows {
            return Err(unknown(row));
        }
        let codes = match &self.weights {
            Weights::Codes(codes) => codes,
            Weights::Plain(range) => {
                let from = floats(file.get(range.clone()).unwrap_or_default()).skip(row * self.columns);
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from);
                return Ok(());
            }
        };
        let part = |range: &Range<usize>| {
            let stride = range.len() / codes.rows;
            file.get(range.start + row * stride..range.start + (row + 1) * stride).ok_or_else(|| unknown(row))
        };
        let levels = codes.how.quant.levels;
        let mut q = vec![0; codes.columns];
        unpack(levels.bits(), part(&codes.codes)?, &mut q)?;
        let scales = part(&codes.scales)?.as_chunks::<2>().0;
        let group = codes.how.group().unwrap_or(codes.block);
        let mut divisors = vec![0; if codes.divisors.is_empty() { 0 } else { codes.columns / group }];
        if !divisors.is_empty() {
            unpack_divisors(part(&codes.divisors)?, divisors.len(), &mut divisors)?;
        }
        for (g, (q, to)) in q.chunks(group).zip(to.chunks_mut(group)).enumerate() {
            let scale = scales.get(g * group / codes.block).copied().ok_or_else(|| unknown(row))?;
            let step = codes.how.step(F16::from_bits(u16::from_le_bytes(scale)), divisors.get(g).copied())?;
            q.iter().zip(to).for_each(|(&q, to)| *to = levels.dequantize(q.into(), step));
        }
        Ok(())
    }
}

impl CausalModel for PackedDecoder {
    fn config(&self) -> &LlmConfig {
        &self.contents.config
    }

    fn begin(&self, room: usize) -> Result<Box<dyn Sequence + '_>> {
        let config = &self.contents.config;
        Ok(Box::new(Text { model: self, memory: Memory::new(config, room.min(config.context)) }))
    }

    fn loss(&self, window: &[u32]) -> Result<f64> {
        at_least(2, window)?;
        let given = window.split_last().map_or(window, |(_, given)| given);
        let mut memory = Memory::new(&self.contents.config, given.len().min(self.contents.config.context));
        let hidden = self.hidden(&mut memory, given)?;
        let Contents { config: LlmConfig { hidden: width, vocabulary, .. }, .. } = self.contents;
        let (mut sum, mut predicted) = (0.0, window.iter().skip(1));
        for hidden in hidden.chunks(width * TOGETHER) {
            for (logits, &token) in self.logits(hidden)?.chunks(vocabulary).zip(&mut predicted) {
                let token = token as usize;
                sum += surprise(logits, token).ok_or_else(|| unknown(token))?;
            }
        }
        Ok(sum / given.len() as f64)
    }
}

/// A text in progress.
struct Text<'a> {
    model: &'a PackedDecoder,
    memory: Memory,
}

impl Sequence for Text<'_> {
    fn len(&self) -> usize {
        self.memory.len
    }

    fn room(&self) -> usize {
        self.memory.room
    }

    fn truncate(&mut self, len: usize) {
        self.memory.len = self.memory.len.min(len);
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        at_least(1, tokens)?;
        let hidden = self.model.hidden(&mut self.memory, tokens)?;
        let width = self.model.contents.config.hidden;
        self.model.logits(hidden.get(hidden.len().saturating_sub(width)..).unwrap_or_default())
    }
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x))
}

fn lost(name: &str) -> Error {
    Error::new(ErrorKind::Model, format!("tensor `{name}` is missing"))
}
