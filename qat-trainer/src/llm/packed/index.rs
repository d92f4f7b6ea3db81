//! The index of a packed decoder: what lies where, and that it is all a decoder of this configuration needs.

use super::file::{check_places, damaged, first_part, open};
use crate::error::{Error, ErrorKind, Result};
use crate::llm::config::LlmConfig;
use crate::llm::quantised::BlockQuant;
use crate::spec::WeightQuant;
use qat_kernels::config::StepRule;
use qat_kernels::matrix::BlockMatrix;
use qat_kernels::pack::packed_len;
use qat_kernels::quantizer::{F16, packed_divisors_len};
use qat_kernels::{Grid, Levels};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

/// How conversations are written.
///
/// ```
/// # use qat_trainer::llm::packed::Chat;
/// let chat: Chat = serde_json::from_str(r#"{ "eos": "</s>", "bos": "",
///     "template": "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}" }"#)?;
/// assert_eq!((chat.bos.as_str(), chat.eos.as_str()), ("", "</s>")); // it has no token to begin with
/// // As in an index of a file: all of it is there, and nothing else.
/// assert!(serde_json::from_str::<Chat>(r#"{ "template": "" }"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chat {
    /// The Jinja template.
    pub template: String,
    /// What it may write at the beginning of a text.
    pub bos: String,
    /// What it may write at the end of a text.
    pub eos: String,
}

/// What the engine computed when the file was written.
///
/// ```
/// # use std::path::Path;
/// use qat_trainer::llm::packed::{KnownAnswer, PackedDecoder};
/// # let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packed-v1.piq"));
/// let decoder = PackedDecoder::load(path)?;
/// if let Some(KnownAnswer { tokens, sha256 }) = &decoder.contents().known {
///     assert_eq!(decoder.answer(tokens)?, *sha256); // on whatever machine
///     assert_ne!(decoder.answer(&tokens[1..])?, *sha256);
/// }
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownAnswer {
    /// A text.
    pub tokens: Vec<u32>,
    /// SHA-256 of the logits behind its last token, f32 little-endian, in hexadecimal.
    pub sha256: String,
}

/// The index as it is written. Places count from the first part.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    pub(super) tool: String,
    /// As in Hugging Face's `config.json`.
    pub(super) config: serde_json::Value,
    pub(super) ends: Vec<u32>,
    pub(super) chat: Option<Chat>,
    pub(super) known: Option<KnownAnswer>,
    /// Place and length of a `tokenizer.json`.
    pub(super) tokenizer: [u64; 2],
    pub(super) matrices: BTreeMap<String, MatrixEntry>,
    pub(super) tensors: BTreeMap<String, TensorEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MatrixEntry {
    pub(super) bits: u8,
    pub(super) grid: Grid,
    pub(super) step: StepRule,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) block: usize,
    pub(super) codes: u64,
    pub(super) scales: u64,
    pub(super) divisors: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TensorEntry {
    pub(super) shape: Vec<usize>,
    pub(super) at: u64,
}

/// What a file holds, and where.
#[derive(Debug)]
pub struct Contents {
    /// The shape of the decoder.
    pub config: LlmConfig,
    /// What wrote the file.
    pub tool: String,
    /// Tokens that end a text or a turn.
    pub ends: Vec<u32>,
    /// How conversations are written, if the model knows them.
    pub chat: Option<Chat>,
    /// What the engine has to compute.
    pub known: Option<KnownAnswer>,
    /// Where the bytes of `tokenizer.json` lie.
    pub tokenizer: Range<usize>,
    pub(super) matrices: BTreeMap<String, Codes>,
    /// Numbers in f32, little-endian.
    pub(super) tensors: BTreeMap<String, Range<usize>>,
}

/// A matrix of codes in the file.
#[derive(Clone, Debug)]
pub(super) struct Codes {
    pub(super) how: BlockQuant,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) block: usize,
    pub(super) codes: Range<usize>,
    pub(super) scales: Range<usize>,
    pub(super) divisors: Range<usize>,
}

impl Codes {
    /// The matrix, borrowed from the file.
    pub(super) fn matrix<'a>(&self, file: &'a [u8]) -> Result<BlockMatrix<'a>> {
        let WeightQuant { levels, step } = self.how.quant;
        let part = |range: &Range<usize>| file.get(range.clone()).unwrap_or_default();
        let [codes, scales, divisors] = [&self.codes, &self.scales, &self.divisors].map(part);
        Ok(BlockMatrix::new(levels, step, self.columns, self.block, codes, scales, divisors)?)
    }
}

impl Contents {
    /// Reads and checks a file: header, checksum, index, the place of every part, that every matrix and tensor that the
    /// configuration asks for is there with its shape and nothing else, and that every number is finite and every step positive.
    /// Nothing is copied, and nothing is allocated by a count that the file alone states.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] saying what is wrong, and where.
    ///
    /// ```
    /// # use std::path::Path;
    /// use qat_trainer::llm::packed::Contents;
    /// # let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packed-v1.piq"));
    /// let mut file = std::fs::read(path)?; // a small decoder
    /// let contents = Contents::parse(&file)?;
    /// assert_eq!((contents.config.vocabulary, contents.ends), (20, vec![1, 2]));
    /// let e = Contents::parse(&file[..100]).unwrap_err().to_string();
    /// assert!(e.contains(&format!("the header states {} bytes but there are 100", file.len())), "{e}");
    /// file[1000] ^= 1;
    /// let e = Contents::parse(&file).unwrap_err().to_string();
    /// assert!(e.contains("the checksum does not hold"), "{e}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn parse(file: &[u8]) -> Result<Self> {
        let index = open(file)?;
        let first = first_part(index.len());
        let end = index.end;
        let text = file.get(index).unwrap_or_default();
        let index: Index = serde_json::from_slice(text)
            .map_err(|e| damaged(format!("not an index of a packed decoder: {e}")).place("index"))?;
        let config =
            LlmConfig::from_json(&index.config.to_string()).map_err(|e| e.place("index, `config`"))?;
        let places = Places { first, file: file.len() };
        let mut parts = Vec::new();
        let [at, len] = index.tokenizer;
        let tokenizer = places.part(at, usize::try_from(len).ok()).map_err(|e| e.place("the tokenizer"))?;
        parts.push(tokenizer.clone());
        let mut matrices = BTreeMap::new();
        for (name, entry) in index.matrices {
            let codes = matrix(file, &places, entry).map_err(|e| e.place(format!("matrix `{name}`")))?;
            parts.extend([codes.codes.clone(), codes.scales.clone()]);
            parts.extend(codes.how.group().map(|_| codes.divisors.clone()));
            matrices.insert(name, codes);
        }
        let mut tensors = BTreeMap::new();
        for (name, TensorEntry { shape, at }) in index.tensors {
            let numbers = shape.iter().try_fold(4usize, |len, &d| len.checked_mul(d));
            let place = || format!("tensor `{name}`");
            let range = places.part(at, numbers).map_err(|e| e.place(place()))?;
            let mut numbers = file.get(range.clone()).unwrap_or_default().as_chunks::<4>().0.iter();
            if let Some(i) = numbers.position(|&x| !f32::from_le_bytes(x).is_finite()) {
                return Err(damaged(format!("number {i} is not finite")).place(place()));
            }
            parts.push(range.clone());
            tensors.insert(name, (shape, range));
        }
        check_places(end, parts, file.len())?;
        check_shapes(&config, &matrices, &tensors)?;
        if let Some(token) =
            index.known.iter().flat_map(|k| &k.tokens).find(|&&t| t as usize >= config.vocabulary)
        {
            return Err(damaged(format!("token {token} is none of the model's")).place("index, `known`"));
        }
        let Index { tool, ends, chat, known, .. } = index;
        let tensors = tensors.into_iter().map(|(name, (_, range))| (name, range)).collect();
        Ok(Self { config, tool, ends, chat, known, tokenizer, matrices, tensors })
    }

    /// Number of matrices of codes, and the mean bits of their weights, steps counted.
    ///
    /// ```
    /// # use std::path::Path;
    /// # use qat_trainer::llm::packed::PackedDecoder;
    /// # let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packed-v1.piq"));
    /// let decoder = PackedDecoder::load(path)?;
    /// // Embedding and seven matrices in each of two blocks: 2 to 8 bits, 3.9 in the mean.
    /// let (matrices, bits) = decoder.contents().codes();
    /// assert_eq!((matrices, bits), (1 + 2 * 7, 73_792.0 / 19_072.0));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn codes(&self) -> (usize, f64) {
        let weights = self.matrices.values().map(|m| m.rows as f64 * m.columns as f64).sum::<f64>();
        let bytes = |m: &Codes| (m.codes.len() + m.scales.len() + m.divisors.len()) as f64;
        let bits = 8.0 * self.matrices.values().map(bytes).sum::<f64>();
        (self.matrices.len(), bits / weights.max(1.0))
    }
}

/// Where parts may lie.
struct Places {
    first: usize,
    file: usize,
}

impl Places {
    /// The part of `len` bytes (`None`: more than can be) that begins at `at`.
    fn part(&self, at: u64, len: Option<usize>) -> Result<Range<usize>> {
        let start = usize::try_from(at).ok().and_then(|at| at.checked_add(self.first));
        let range = start.zip(len).and_then(|(start, len)| Some(start..start.checked_add(len)?));
        range.filter(|range| range.end <= self.file).ok_or_else(|| {
            let len = len.map_or_else(|| "too many".into(), |len| len.to_string());
            damaged(format!("{len} bytes from place {at} on do not fit into the file"))
        })
    }
}

fn matrix(file: &[u8], places: &Places, entry: MatrixEntry) -> Result<Codes> {
    let MatrixEntry { bits, grid, step, rows, columns, block, codes, scales, divisors } = entry;
    let levels = Levels::new(bits, grid)?;
    let how = BlockQuant { quant: WeightQuant { levels, step }, block: Some(block) };
    how.block(columns)?;
    if rows == 0 || columns.checked_mul(8).is_none() {
        return Err(damaged(format!("{rows} rows of {columns} weights")));
    }
    let codes = places.part(codes, rows.checked_mul(packed_len(columns, bits)))?;
    let blocks = columns.checked_div(block).unwrap_or(0);
    let scales = places.part(scales, rows.checked_mul(blocks).and_then(|n| n.checked_mul(2)))?;
    let divisors = match (how.group(), divisors) {
        (None, None) => 0..0,
        (Some(group), Some(at)) => {
            let groups = columns.checked_div(group).unwrap_or(0);
            places.part(at, Some(packed_divisors_len(rows, groups)))?
        }
        _ => return Err(damaged("divisors belong to steps that vary by group, and to no others")),
    };
    let halves = file.get(scales.clone()).unwrap_or_default().as_chunks::<2>().0;
    let bad = |&half: &[u8; 2]| !F16::from_bits(u16::from_le_bytes(half)).is_positive();
    if let Some(i) = halves.iter().position(bad) {
        return Err(damaged(format!("step {i} is not positive and finite")));
    }
    let codes = Codes { how, rows, columns, block, codes, scales, divisors };
    codes.matrix(file)?;
    Ok(codes)
}

/// The name and shape of every tensor of a decoder; matrices have two dimensions.
pub(super) fn shapes(config: &LlmConfig) -> Vec<(String, Vec<usize>)> {
    let LlmConfig { vocabulary, hidden, mlp, .. } = *config;
    let [query, value] = [config.heads, config.kv_heads].map(|n| n * config.head_dim);
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden])];
    for i in 0..config.layers {
        let mut add = |name: &str, shape: &[usize]| {
            all.push((format!("model.layers.{i}.{name}"), shape.to_vec()));
        };
        for (name, rows, columns, bias) in [
            ("self_attn.q_proj", query, hidden, config.qkv_bias),
            ("self_attn.k_proj", value, hidden, config.qkv_bias),
            ("self_attn.v_proj", value, hidden, config.qkv_bias),
            ("self_attn.o_proj", hidden, query, config.output_bias),
            ("mlp.gate_proj", mlp, hidden, false),
            ("mlp.up_proj", mlp, hidden, false),
            ("mlp.down_proj", hidden, mlp, false),
        ] {
            add(&format!("{name}.weight"), &[rows, columns]);
            if bias {
                add(&format!("{name}.bias"), &[rows]);
            }
        }
        add("input_layernorm.weight", &[hidden]);
        add("post_attention_layernorm.weight", &[hidden]);
    }
    all.push(("model.norm.weight".into(), vec![hidden]));
    if !config.tied {
        all.push(("lm_head.weight".into(), vec![vocabulary, hidden]));
    }
    all
}

fn check_shapes(
    config: &LlmConfig,
    matrices: &BTreeMap<String, Codes>,
    tensors: &BTreeMap<String, (Vec<usize>, Range<usize>)>,
) -> Result<()> {
    // Every one of them is in the file, so their number is bounded by it before the list is made.
    let there = matrices.len() + tensors.len();
    if config.layers > there {
        return Err(damaged(format!("{} layers of {there} tensors", config.layers)).place("index"));
    }
    let wanted = shapes(config);
    let count = wanted.len();
    for (name, shape) in wanted {
        let matrix = name.strip_suffix(".weight").and_then(|name| matrices.get(name));
        let got = match (matrix, tensors.get(&name)) {
            (Some(m), None) => vec![m.rows, m.columns],
            (None, Some((shape, _))) => shape.clone(),
            (None, None) => return Err(damaged("it is missing").place(format!("tensor `{name}`"))),
            (Some(_), Some(_)) => {
                return Err(damaged("it is there twice").place(format!("tensor `{name}`")));
            }
        };
        if got != shape {
            let problem = format!("its shape is {got:?}, the configuration asks for {shape:?}");
            return Err(damaged(problem).place(format!("tensor `{name}`")));
        }
    }
    if there != count {
        let problem = format!("{there} tensors, of which the configuration has a place for {count}");
        return Err(Error::new(ErrorKind::Model, problem).place("index"));
    }
    Ok(())
}
