//! Second-order quantisation of a decoder, block after block: each block's inputs are those that the quantised blocks before it
//! give, so that it makes good what they lost.

use super::compensate::{Curvature, compensate};
use super::{Tally, dense, to_slices};
use crate::error::{Error, ErrorKind, Result};
use crate::llm::decoder::Decoder;
use crate::llm::linear::Linear;
use crate::llm::perplexity::Windows;
use crate::llm::ptq::Quantisation;
use crate::llm::quantised::{BlockQuant, QuantisedMatrix};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Device, Kind, Tensor};

/// How a decoder is quantised with the help of a text.
///
/// ```
/// # use qat_kernels::{Grid, Levels, config::StepRule};
/// # use qat_trainer::{llm::{BlockQuant, Decoder, Windows, config::LlmConfig}, spec::WeightQuant};
/// use qat_trainer::llm::{Compensation, quantise_compensated};
/// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
/// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
/// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
/// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
/// # let text: Vec<u32> = (0..80).map(|i| i * i % 20).collect();
/// # let windows = Windows { size: 20, count: 4 };
/// let blocks = BlockQuant { quant, block: Some(32) }; // 2 bits
/// let eight_bits = WeightQuant { levels: Levels::new(8, Grid::MidTread)?, ..quant };
/// let tables = Some(BlockQuant { quant: eight_bits, ..blocks });
/// let how = Compensation { blocks, tables, damping: 0.01 };
/// let (done, _) = quantise_compensated(&mut Decoder::generated(&config, 1)?, &text, windows, &how, |_| ())?;
/// // 10240 weights in the block, 20·32 in the embedding; a step of 16 bits for each 32.
/// assert_eq!(done.bits, (10240.0 * 2.5 + 640.0 * 8.5) / 10880.0);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compensation {
    /// The matrices of all blocks.
    pub blocks: BlockQuant,
    /// Embedding and head, to the nearest levels; `None` leaves them as they are.
    pub tables: Option<BlockQuant>,
    /// What is added to the diagonal of the inputs' second moments, as a share of its mean; 0.01 in GPTQ.
    pub damping: f64,
}

/// Sums of x·xᵀ by the matrix that first sees these inputs.
type Grams = Arc<Mutex<BTreeMap<String, Tensor>>>;

/// A matrix that also sums up its inputs' second moments.
#[derive(Debug)]
struct Recorder {
    name: String,
    matrix: Box<dyn Linear>,
    grams: Grams,
}

impl Linear for Recorder {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let inputs = x.f_flatten(0, -2)?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?;
        let more = inputs.f_tr()?.f_matmul(&inputs)?;
        let mut grams = self.grams.lock().unwrap_or_else(PoisonError::into_inner);
        match grams.get_mut(&self.name) {
            Some(sum) => drop(sum.f_add_(&more)?),
            None => drop(grams.insert(self.name.clone(), more)),
        }
        self.matrix.forward(x)
    }

    fn weight(&self) -> Result<Tensor> {
        self.matrix.weight()
    }

    fn bias(&self) -> Option<&Tensor> {
        self.matrix.bias()
    }

    fn leaves(&self) -> Vec<&Tensor> {
        self.matrix.leaves()
    }

    fn share(&self) -> Box<dyn Linear> {
        let grams = Arc::clone(&self.grams);
        Box::new(Self { name: self.name.clone(), matrix: self.matrix.share(), grams })
    }
}

/// The matrix that sees the same inputs as this one and comes first in its block.
fn first_with_these_inputs(name: &str) -> String {
    name.replace("k_proj", "q_proj").replace("v_proj", "q_proj").replace("up_proj", "gate_proj")
}

/// Quantises the matrices of all blocks in place, so that the outputs of each on the first windows of a text change least, and
/// the tables to the nearest levels if asked. Returns every quantised matrix by its name, too. `progress` hears the name of
/// each matrix before it is quantised.
///
/// # Errors
/// [`ErrorKind::Data`] for less text than a window; [`ErrorKind::Spec`] for blocks that do not divide the rows;
/// [`ErrorKind::Model`] for weights that are not finite; the matrix is the place. Matrices before it stay quantised.
///
/// ```
/// # use qat_kernels::{Grid, Levels, config::StepRule};
/// # use qat_trainer::{llm::{BlockQuant, Decoder, Windows, config::LlmConfig}, spec::WeightQuant};
/// use qat_trainer::{ErrorKind, llm::{Compensation, quantise_compensated}};
/// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
/// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
/// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
/// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
/// # let text: Vec<u32> = (0..80).map(|i| i * i % 20).collect();
/// let mut decoder = Decoder::generated(&config, 1)?;
/// let windows = Windows { size: 20, count: 4 };
/// let how = Compensation { blocks: BlockQuant { quant, block: Some(32) }, tables: None, damping: 0.01 };
/// let too_short = quantise_compensated(&mut decoder, &text[..19], windows, &how, |_| ());
/// assert_eq!(too_short.unwrap_err().kind(), ErrorKind::Data);
/// let (_, codes) = quantise_compensated(&mut decoder, &text, windows, &how, |_| ())?;
/// // The codes are for files; the decoder computes with the same weights.
/// let (name, query) = &decoder.linears()[1];
/// assert_eq!(Vec::<f32>::try_from(query.weight()?.reshape(-1))?, codes[name].dequantise()?);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn quantise_compensated(
    decoder: &mut Decoder,
    tokens: &[u32],
    windows: Windows,
    how: &Compensation,
    mut progress: impl FnMut(&str),
) -> Result<(Quantisation, BTreeMap<String, QuantisedMatrix>)> {
    if windows.size == 0 || tokens.len() < windows.size || windows.count == 0 {
        let problem = format!("{} tokens do not fill a window of {}", tokens.len(), windows.size);
        return Err(
            Error::new(ErrorKind::Data, problem).remedy("use more calibration text or smaller windows")
        );
    }
    let (mut all, mut tally) = (BTreeMap::new(), Tally::default());
    if let Some(tables) = how.tables {
        decoder.replace(|name, table| {
            if name.starts_with("model.layers.") {
                return Ok(None);
            }
            progress(name);
            let (weights, columns) = to_slices(table)?;
            let matrix =
                QuantisedMatrix::fit(tables, &Vec::<f32>::try_from(weights.f_reshape(-1)?)?, columns, None)?;
            put(name, table, matrix, &mut tally, &mut all).map(Some)
        })?;
    }
    let mut hidden = Vec::new();
    for window in tokens.chunks_exact(windows.size).take(windows.count) {
        let window: Vec<i64> = window.iter().map(|&token| token.into()).collect();
        let window = Tensor::from_slice(&window).f_to_device(decoder.device())?.f_unsqueeze(0)?;
        hidden.push(tch::no_grad(|| decoder.embed(&window))?);
    }
    for block in 0..decoder.config().layers {
        let grams = record(decoder, block, &hidden)?;
        let mut curvatures: BTreeMap<String, Curvature> = BTreeMap::new();
        decoder.replace(|name, linear| {
            if !Decoder::is_in_block(name, block) {
                return Ok(None);
            }
            progress(name);
            let (weights, columns) = to_slices(linear)?;
            let key = first_with_these_inputs(name);
            if !curvatures.contains_key(&key) {
                let unseen = || Error::new(ErrorKind::Train, "no inputs were recorded");
                let gram = grams.get(&key).ok_or_else(unseen)?;
                let curvature = Curvature::new(gram, how.blocks.block(columns)?, how.damping)?;
                curvatures.insert(key.clone(), curvature);
            }
            let matrix = compensate(&weights, how.blocks, &curvatures[&key])?;
            put(name, linear, matrix, &mut tally, &mut all).map(Some)
        })?;
        for x in &mut hidden {
            *x = tch::no_grad(|| decoder.through(block, x))?;
        }
    }
    Ok((tally.sum(), all))
}

/// The second moments of the inputs of a block's matrices.
fn record(decoder: &mut Decoder, block: usize, hidden: &[Tensor]) -> Result<BTreeMap<String, Tensor>> {
    let grams = Grams::default();
    decoder.replace(|name, linear| {
        let first = Decoder::is_in_block(name, block) && first_with_these_inputs(name) == name;
        let (matrix, grams) = (linear.share(), Arc::clone(&grams));
        Ok(first.then(|| Box::new(Recorder { name: name.into(), matrix, grams }) as Box<dyn Linear>))
    })?;
    for x in hidden {
        drop(tch::no_grad(|| decoder.through(block, x))?);
    }
    Ok(std::mem::take(&mut *grams.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// The layer of a quantised matrix, which is counted and kept.
fn put(
    name: &str,
    linear: &dyn Linear,
    matrix: QuantisedMatrix,
    tally: &mut Tally,
    all: &mut BTreeMap<String, QuantisedMatrix>,
) -> Result<Box<dyn Linear>> {
    let after = matrix.dequantise()?;
    tally.add(linear, &after, matrix.how().bits(matrix.columns())?)?;
    all.insert(name.into(), matrix);
    dense(linear, &after)
}
