//! The file of a decoder.

use super::file::{Layout, first_part};
use super::index::{Chat, Index, KnownAnswer, MatrixEntry, TensorEntry};
use super::network::PackedDecoder;
use crate::error::{Error, ErrorKind, Result};
use crate::export::hex;
use crate::llm::causal::CausalModel;
use crate::llm::config::LlmConfig;
use crate::llm::quantised::QuantisedMatrix;
use crate::spec::WeightQuant;
use qat_kernels::pack as codes;
use qat_kernels::quantizer::{pack_divisors, packed_divisors_len};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Tokens of the known answer.
const KNOWN: usize = 16;

/// What goes into a file.
///
/// ```
/// # use qat_kernels::{Grid, Levels, config::StepRule};
/// # use qat_trainer::{llm::{BlockQuant, QuantisedMatrix, config::LlmConfig}, spec::WeightQuant};
/// use qat_trainer::llm::packed::{Parts, pack};
/// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 8, "hidden_size": 16,
/// #     "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
/// #     "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
/// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
/// # let matrix = QuantisedMatrix::fit(BlockQuant { quant, block: None }, &[0.1; 256], 16, None)?;
/// # let names = "self_attn.q self_attn.k self_attn.v self_attn.o mlp.gate mlp.up mlp.down".split(' ');
/// # let matrices = names.map(|name| (format!("model.layers.0.{name}_proj"), matrix.clone()));
/// # let matrices = matrices.collect::<std::collections::BTreeMap<_, _>>();
/// # let norms = ["layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"];
/// # let norms = norms.map(|name| (format!("model.{name}.weight"), (vec![16], vec![1.0; 16])));
/// # let mut tensors = std::collections::BTreeMap::from(norms);
/// # tensors.insert("model.embed_tokens.weight".into(), (vec![8, 16], vec![1.0; 128]));
/// // All that a decoder of one block needs, but for the last norm.
/// tensors.remove("model.norm.weight");
/// let parts = Parts {
///     tool: "my converter 1.0",
///     config: &config,
///     ends: &[1],
///     chat: None,
///     tokenizer: "{}",
///     matrices: &matrices, // of the block
///     tensors: &tensors, // embedding and norms
/// };
/// let e = pack(&parts).unwrap_err().to_string();
/// assert!(e.starts_with("tensor `model.norm.weight`: it is missing"), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Debug)]
pub struct Parts<'a> {
    /// What writes the file.
    pub tool: &'a str,
    /// The shape of the decoder.
    pub config: &'a LlmConfig,
    /// Tokens that end a text or a turn.
    pub ends: &'a [u32],
    /// How conversations are written.
    pub chat: Option<Chat>,
    /// The text of a `tokenizer.json`.
    pub tokenizer: &'a str,
    /// Quantised matrices by name (`model.layers.0.self_attn.q_proj`).
    pub matrices: &'a BTreeMap<String, QuantisedMatrix>,
    /// All other tensors by name (`model.norm.weight`): shape and numbers.
    pub tensors: &'a BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

/// The bytes of the file, with what the engine makes of a generated text as its known answer.
///
/// # Errors
/// [`ErrorKind::Model`] for parts that do not make a decoder of the configuration, numbers that are not finite, and matrices
/// whose blocks the engine does not multiply: they are whole rows or powers of two, a multiple of 16 weights (2 bits), 8 (3 and
/// 4 bits) or 4, and groups are no smaller than that.
///
/// ```
/// # use qat_kernels::{Grid, Levels, config::StepRule};
/// # use qat_trainer::{llm::{BlockQuant, QuantisedMatrix, config::LlmConfig}, spec::WeightQuant};
/// use qat_trainer::llm::packed::{PackedDecoder, Parts, pack};
/// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 8, "hidden_size": 16,
/// #     "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
/// #     "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
/// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
/// # let matrix = QuantisedMatrix::fit(BlockQuant { quant, block: None }, &[0.1; 256], 16, None)?;
/// # let names = "self_attn.q self_attn.k self_attn.v self_attn.o mlp.gate mlp.up mlp.down".split(' ');
/// # let matrices = names.map(|name| (format!("model.layers.0.{name}_proj"), matrix.clone()));
/// # let matrices = matrices.collect::<std::collections::BTreeMap<_, _>>();
/// # let norms = ["layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"];
/// # let norms = norms.map(|name| (format!("model.{name}.weight"), (vec![16], vec![1.0; 16])));
/// # let mut tensors = std::collections::BTreeMap::from(norms);
/// # tensors.insert("model.embed_tokens.weight".into(), (vec![8, 16], vec![1.0; 128]));
/// # let parts = Parts {
/// #     tool: "my converter 1.0", config: &config, ends: &[1], chat: None, tokenizer: "{}",
/// #     matrices: &matrices, tensors: &tensors,
/// # };
/// // The parts of a decoder of one block, its seven matrices of 16 by 16 in 2 bits, with a step a row.
/// let decoder = PackedDecoder::new(pack(&parts)?)?;
/// let contents = decoder.contents();
/// assert_eq!((contents.tool.as_str(), contents.codes()), ("my converter 1.0", (7, 2.0 + 16.0 / 16.0)));
/// assert_eq!(contents.known.as_ref().map(|known| known.tokens.len()), Some(16));
/// assert_eq!(decoder.self_test(), Ok(Some(true)));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn pack(parts: &Parts<'_>) -> Result<Vec<u8>> {
    let mut layout = Layout::default();
    let tokenizer = [layout.add(parts.tokenizer.as_bytes()), parts.tokenizer.len() as u64];
    let mut matrices = BTreeMap::new();
    for (name, matrix) in parts.matrices {
        let entry = add_matrix(&mut layout, matrix).map_err(|e| e.place(format!("matrix `{name}`")))?;
        matrices.insert(name.clone(), entry);
    }
    let mut tensors = BTreeMap::new();
    for (name, (shape, numbers)) in parts.tensors {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        tensors.insert(name.clone(), TensorEntry { shape: shape.clone(), at: layout.add(&bytes) });
    }
    let unwritable =
        |e: serde_json::Error| Error::new(ErrorKind::Io, format!("the index cannot be written: {e}"));
    let mut index = Index {
        tool: parts.tool.into(),
        config: serde_json::from_str(&parts.config.to_json("float32")?).map_err(unwritable)?,
        ends: parts.ends.to_vec(),
        chat: parts.chat.clone(),
        known: None,
        tokenizer,
        matrices,
        tensors,
    };
    // A file without a known answer first: the engine reads it and gives one.
    let file = layout.finish(&serde_json::to_vec(&index).map_err(unwritable)?)?;
    let decoder = PackedDecoder::new(file)?;
    let vocabulary = parts.config.vocabulary as u32;
    let generated = (1..).map(|i: u32| i.wrapping_mul(2_654_435_761) % vocabulary);
    let tokens: Vec<u32> = generated.take(KNOWN.min(parts.config.context)).collect();
    index.known = Some(KnownAnswer { sha256: decoder.answer(&tokens)?, tokens });
    let index_len =
        |file: &[u8]| file.get(12..16).and_then(|b| b.first_chunk()).map(|b| u32::from_le_bytes(*b));
    let file = decoder.into_bytes();
    let first = first_part(index_len(&file).unwrap_or(0) as usize);
    let body = file.get(first..file.len().saturating_sub(4)).unwrap_or_default();
    Layout::of(body).finish(&serde_json::to_vec(&index).map_err(unwritable)?)
}

fn add_matrix(layout: &mut Layout, matrix: &QuantisedMatrix) -> Result<MatrixEntry> {
    let (how, rows, columns) = (matrix.how(), matrix.rows(), matrix.columns());
    let WeightQuant { levels, step } = how.quant;
    let (bits, block) = (levels.bits(), how.block(columns)?);
    let stride = codes::packed_len(columns, bits);
    let mut packed = vec![0; rows * stride];
    for (row, packed) in matrix.codes().chunks(columns).zip(packed.chunks_mut(stride)) {
        codes::pack(bits, row, packed)?;
    }
    let scales: Vec<u8> = matrix.scales().iter().flat_map(|scale| scale.to_bits().to_le_bytes()).collect();
    let (codes, scales) = (layout.add(&packed), layout.add(&scales));
    let divisors = match how.group() {
        None => None,
        Some(group) => {
            let mut packed = vec![0; packed_divisors_len(rows, columns / group)];
            pack_divisors(matrix.divisors(), columns / group, &mut packed)?;
            Some(layout.add(&packed))
        }
    };
    Ok(MatrixEntry { bits, grid: levels.grid(), step, rows, columns, block, codes, scales, divisors })
}

impl PackedDecoder {
    /// SHA-256 of the logits behind the last of these tokens, f32 little-endian, in hexadecimal: equal on every machine.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] for more tokens than the context, or tokens that the model does not have.
    ///
    /// ```
    /// # use std::path::Path;
    /// use qat_trainer::{ErrorKind, llm::packed::PackedDecoder};
    /// # let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packed-v1.piq"));
    /// let decoder = PackedDecoder::load(path)?; // of 20 tokens
    /// let answer = decoder.answer(&[3, 1, 4])?;
    /// assert_eq!(answer.len(), 256 / 4); // hexadecimal digits
    /// assert_ne!(decoder.answer(&[1, 3, 4])?, answer); // the order matters
    /// assert_eq!(decoder.answer(&[20]).unwrap_err().kind(), ErrorKind::Data);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn answer(&self, tokens: &[u32]) -> Result<String> {
        let logits = self.begin(tokens.len())?.feed(tokens)?;
        let mut sha = Sha256::new();
        logits.iter().for_each(|x| sha.update(x.to_le_bytes()));
        Ok(hex(&sha.finalize()))
    }

    /// Whether this machine computes the file's known answer: `None` if it has none.
    ///
    /// # Errors
    /// As [`Self::answer`].
    ///
    /// ```
    /// # use std::path::Path;
    /// # use qat_trainer::llm::packed::PackedDecoder;
    /// # let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packed-v1.piq"));
    /// // A file that another machine may have written: does this one compute the same?
    /// assert_eq!(PackedDecoder::load(path)?.self_test()?, Some(true));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn self_test(&self) -> Result<Option<bool>> {
        let known = self.contents().known.as_ref();
        known.map(|known| Ok(self.answer(&known.tokens)? == known.sha256)).transpose()
    }
}
