//! Quantisation-aware training of a decoder's matrices.
//!
//! | module | is |
//! |---|---|
//! | `blocks` | α of blocks of a row, k of groups, and the steps they make: the start of the training |
//! | `leaves` | [`FakeQuantised`]: ŵ is a leaf, w stays outside of torch; f32 on the CPU |
//! | `node` | the quantiser as an autograd node, by qat-kernels on the CPU and by torch's operators elsewhere |
//! | `device` | [`DeviceQuantised`]: the same with w on a GPU, where one kernel makes an update |
//! | `parameters` | [`NodeQuantised`]: w and α are leaves of torch, on any device |

mod blocks;
mod device;
pub(super) mod leaves;
pub(super) mod node;
pub(super) mod parameters;
#[cfg(test)]
mod tests;

pub(super) use blocks::Blocks;
pub use device::DeviceQuantised;
pub use leaves::FakeQuantised;
pub use node::Backend;
pub use parameters::NodeQuantised;

use super::decoder::Decoder;
use super::linear::Linear;
use super::optimiser::MomentBits;
use super::quantised::{BlockQuant, QuantisedMatrix};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::WeightQuant;
use qat_kernels::SteVariant;
use qat_kernels::quantizer::StepInit;
use std::collections::{BTreeMap, BTreeSet};
use tch::Kind;

/// How a matrix is quantised while it is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatrixQuant {
    /// Bits, grid and step rule.
    pub quant: WeightQuant,
    /// Weights of a row that share one α (s of uniform steps); it divides the row. `None`: the whole row.
    pub block: Option<usize>,
    /// The gradient estimator.
    pub ste: SteVariant,
    /// How α is found before it is learned; α and k of adaptive steps are found together, whatever this says.
    pub init: StepInit,
    /// Updates after which adaptive steps choose their k anew; 0: never.
    pub choose_every: u32,
    /// How the optimiser keeps its moments.
    pub moments: MomentBits,
    /// What products are computed in; `None`: what comes in. Processors with bf16 units are several times faster in bf16.
    pub compute: Option<Kind>,
}

impl MatrixQuant {
    /// LSQ on the step of least squared error, α per row, moments in f32, k chosen every 50 updates.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_kernels::quantizer::StepInit;
    /// # use qat_trainer::spec::WeightQuant;
    /// use qat_trainer::llm::{MatrixQuant, MomentBits};
    /// let step = StepRule::PiAdaptive { group: 16 };
    /// let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step };
    /// // An α for each 64 weights, moments in a quarter of the memory; all else as it usually is.
    /// let how = MatrixQuant { block: Some(64), moments: MomentBits::Eight, ..MatrixQuant::new(quant) };
    /// assert_eq!((how.init, how.choose_every, how.compute), (StepInit::Mse, 50, None));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn new(quant: WeightQuant) -> Self {
        Self {
            quant,
            block: None,
            ste: SteVariant::LearnedStepSize,
            init: StepInit::Mse,
            choose_every: 50,
            moments: MomentBits::ThirtyTwo,
            compute: None,
        }
    }

    /// The part of it that files of codes have, too: where α and k are, and what they cost.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::MatrixQuant, spec::WeightQuant};
    /// # let step = StepRule::PiAdaptive { group: 16 };
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step };
    /// let how = MatrixQuant { block: Some(64), ..MatrixQuant::new(quant) };
    /// // What the trained matrix will take in a file, whatever trained it.
    /// assert_eq!(how.blocks().bits(576), Ok(2.0 + 2.0 / 16.0 + 16.0 / 64.0));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub const fn blocks(&self) -> BlockQuant {
        BlockQuant { quant: self.quant, block: self.block }
    }
}

/// How the matrices of a decoder are quantised while they are trained.
///
/// ```
/// # use qat_kernels::{Grid, Levels, config::StepRule};
/// # use qat_trainer::{llm::{Decoder, MatrixQuant, config::LlmConfig}, spec::WeightQuant};
/// use qat_trainer::llm::DecoderQuant;
/// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
/// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
/// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
/// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
/// # let how = MatrixQuant { block: Some(32), ..MatrixQuant::new(quant) };
/// // The block's 10240 weights in 2 bits, the 20·32 of the embedding in 8; a step of 16 bits for each 32.
/// let eight_bits = WeightQuant { levels: Levels::new(8, Grid::MidTread)?, ..quant };
/// let tables = Some(MatrixQuant { quant: eight_bits, ..how });
/// let bits = Decoder::generated(&config, 1)?.quantise_in_training(&DecoderQuant { blocks: how, tables })?;
/// assert_eq!(bits, (10240.0 * 2.5 + 640.0 * 8.5) / 10880.0);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecoderQuant {
    /// Those of all blocks.
    pub blocks: MatrixQuant,
    /// Embedding and head, as at 4 to 8 bits; `None` leaves them as they are.
    pub tables: Option<MatrixQuant>,
}

impl Decoder {
    /// Puts fake-quantised matrices in the place of dense ones: [`FakeQuantised`] on the CPU, [`DeviceQuantised`] where the fused
    /// kernels compute, [`NodeQuantised`] elsewhere.
    /// What they learn begins at the matrices as they are, their steps at a fit. Returns the mean bits of a quantised weight.
    /// Everything else stays frozen, unless [`Self::learn`] is called.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] for blocks or groups that do not divide the rows, [`ErrorKind::Model`] for weights that are not finite;
    /// the matrix is the place. [`ErrorKind::Unsupported`] for moments of 8 bits on a device other than the CPU.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{Decoder, DecoderQuant, MatrixQuant, config::LlmConfig}, spec::WeightQuant};
    /// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
    /// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    /// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = MatrixQuant { block: Some(32), ..MatrixQuant::new(quant) };
    /// let mut decoder = Decoder::generated(&config, 1)?; // one block
    /// let how = DecoderQuant { blocks: how, tables: None }; // 2 bits, a step of 16 bits for each 32 weights
    /// assert_eq!(decoder.quantise_in_training(&how)?, 2.0 + 16.0 / 32.0);
    /// assert_eq!(decoder.leaves().len(), 7); // the block's matrices learn; embedding and norms do not
    /// let uneven = DecoderQuant { blocks: MatrixQuant { block: Some(48), ..how.blocks }, ..how };
    /// let e = decoder.quantise_in_training(&uneven).unwrap_err().to_string();
    /// assert!(e.starts_with("matrix `model.layers.0.self_attn.q_proj`: blocks of 48 do not divide"), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn quantise_in_training(&mut self, how: &DecoderQuant) -> Result<f64> {
        self.quantise_in_training_from(how, &BTreeMap::new())
    }

    /// As [`Self::quantise_in_training`], but matrices that are in `start`, by name, begin at these codes and steps, see
    /// [`FakeQuantised::from_quantised`].
    ///
    /// # Errors
    /// As [`Self::quantise_in_training`], and [`ErrorKind::Model`] for codes of another shape, and of matrices there are not.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{Decoder, DecoderQuant, MatrixQuant, config::LlmConfig}, spec::WeightQuant};
    /// # use qat_trainer::llm::{Compensation, Windows, quantise_compensated};
    /// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
    /// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    /// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = MatrixQuant { block: Some(32), ..MatrixQuant::new(quant) };
    /// # let text: Vec<u32> = (0..80).map(|i| i * i % 20).collect();
    /// # let windows = Windows { size: 20, count: 4 };
    /// // The codes of a quantiser that looked at a text, as from `read_codes`.
    /// let by_text = Compensation { blocks: how.blocks(), tables: None, damping: 0.01 };
    /// let mut rounded = Decoder::generated(&config, 1)?;
    /// let (_, codes) = quantise_compensated(&mut rounded, &text, windows, &by_text, |_| ())?;
    /// let mut decoder = Decoder::generated(&config, 1)?;
    /// decoder.quantise_in_training_from(&DecoderQuant { blocks: how, tables: None }, &codes)?;
    /// assert_eq!(decoder.quantised()?, codes); // training begins there
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn quantise_in_training_from(
        &mut self,
        how: &DecoderQuant,
        start: &BTreeMap<String, QuantisedMatrix>,
    ) -> Result<f64> {
        self.check_names(start)?;
        let backend = Backend::on(self.device());
        let moments = [Some(how.blocks), how.tables].map(|quant| quant.map(|quant| quant.moments));
        if backend != Backend::Kernels && moments.contains(&Some(MomentBits::Eight)) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "moments of 8 bits on a device other than the CPU",
            )
            .remedy("keep them in 32 bits there"));
        }
        self.replace(|name, linear| {
            let in_block = name.starts_with("model.layers.");
            let given = start.get(name);
            // Tables with codes are quantised whether or not others would be.
            let quant = if in_block { Some(how.blocks) } else { how.tables.or(given.map(|_| how.blocks)) };
            let Some(quant) = quant else { return Ok(None) };
            let (matrix, bias) = (linear.weight()?.f_detach()?, linear.bias());
            Ok(Some(match (given, backend) {
                (Some(start), Backend::Kernels) => {
                    Box::new(FakeQuantised::from_quantised(&matrix, bias, quant, start)?) as Box<dyn Linear>
                }
                (None, Backend::Kernels) => Box::new(FakeQuantised::new(&matrix, bias, quant, None)?),
                (Some(start), Backend::Fused) => {
                    Box::new(DeviceQuantised::from_quantised(&matrix, bias, quant, start)?)
                }
                (None, Backend::Fused) => Box::new(DeviceQuantised::new(&matrix, bias, quant, None)?),
                (Some(start), Backend::Operators) => {
                    Box::new(NodeQuantised::from_quantised(&matrix, bias, quant, start)?)
                }
                (None, Backend::Operators) => Box::new(NodeQuantised::new(&matrix, bias, quant, None)?),
            }))
        })?;
        self.bits_per_weight()
    }

    /// Refuses matrices that this decoder does not have.
    pub(super) fn check_names(&self, matrices: &BTreeMap<String, QuantisedMatrix>) -> Result<()> {
        let known: BTreeSet<String> = self.linears().into_iter().map(|(name, _)| name).collect();
        match matrices.keys().find(|name| !known.contains(*name)) {
            Some(name) => Err(Error::new(ErrorKind::Model, "there are codes of it, but no such matrix")
                .place(format!("matrix `{name}`"))
                .remedy("use codes that were made of this model")),
            None => Ok(()),
        }
    }

    /// Mean bits of a quantised weight, α and k counted; 0 if there are none.
    ///
    /// # Errors
    /// As [`Self::quantised`].
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{Decoder, DecoderQuant, MatrixQuant, config::LlmConfig}, spec::WeightQuant};
    /// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
    /// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    /// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
    /// let mut decoder = Decoder::generated(&config, 1)?;
    /// assert_eq!(decoder.bits_per_weight()?, 0.0);
    /// let step = StepRule::PiAdaptive { group: 16 };
    /// let quant = WeightQuant { levels: Levels::new(3, Grid::MidRise)?, step };
    /// let blocks = MatrixQuant { block: Some(32), ..MatrixQuant::new(quant) };
    /// decoder.quantise_in_training(&DecoderQuant { blocks, tables: None })?;
    /// assert_eq!(decoder.bits_per_weight()?, 3.0 + 2.0 / 16.0 + 16.0 / 32.0); // code, k, α
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn bits_per_weight(&self) -> Result<f64> {
        let (mut weights, mut bits) = (0.0, 0.0);
        for matrix in self.quantised()?.values() {
            let count = matrix.codes().len() as f64;
            weights += count;
            bits += count * matrix.how().bits(matrix.columns())?;
        }
        Ok(bits / f64::max(weights, 1.0))
    }

    /// The quantised matrices by name, see [`Linear::quantised`].
    ///
    /// # Errors
    /// [`ErrorKind::Model`] for weights that are not finite; the matrix is the place.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{Decoder, DecoderQuant, MatrixQuant, config::LlmConfig}, spec::WeightQuant};
    /// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
    /// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    /// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = MatrixQuant { block: Some(32), ..MatrixQuant::new(quant) };
    /// let mut decoder = Decoder::generated(&config, 1)?; // hidden states of 32, feed-forward layers of 64
    /// assert!(decoder.quantised()?.is_empty());
    /// decoder.quantise_in_training(&DecoderQuant { blocks: how, tables: None })?;
    /// let codes = decoder.quantised()?; // what `write_codes` takes
    /// let down = &codes["model.layers.0.mlp.down_proj"];
    /// assert_eq!((codes.len(), down.rows(), down.columns()), (7, 32, 64));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn quantised(&self) -> Result<BTreeMap<String, QuantisedMatrix>> {
        let mut all = BTreeMap::new();
        for (name, linear) in self.linears() {
            let matrix = linear.quantised().map_err(|e| e.place(format!("matrix `{name}`")))?;
            all.extend(matrix.map(|matrix| (name, matrix)));
        }
        Ok(all)
    }

    /// Ends a training with quantised matrices: what their codes and steps, as files have them, make of weights is put in
    /// their place, and they are returned. Adapters that stay in floating point beside them are gone.
    ///
    /// # Errors
    /// As [`Self::quantised`].
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{Decoder, DecoderQuant, MatrixQuant, config::LlmConfig}, spec::WeightQuant};
    /// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
    /// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    /// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = MatrixQuant { block: Some(32), ..MatrixQuant::new(quant) };
    /// let mut decoder = Decoder::generated(&config, 1)?;
    /// decoder.quantise_in_training(&DecoderQuant { blocks: how, tables: None })?;
    /// let codes = decoder.freeze_quantised()?;
    /// assert!(decoder.leaves().is_empty()); // nothing learns any more …
    /// for (name, linear) in decoder.linears() {
    ///     let weights = Vec::<f32>::try_from(linear.weight()?.reshape(-1))?;
    ///     if let Some(matrix) = codes.get(&name) {
    ///         assert_eq!(matrix.dequantise()?, weights); // … and the codes are what it computes with
    ///     }
    /// }
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn freeze_quantised(&mut self) -> Result<BTreeMap<String, QuantisedMatrix>> {
        let mut all = BTreeMap::new();
        self.replace(|name, linear| {
            let Some(matrix) = linear.quantised()? else { return Ok(None) };
            let frozen = super::ptq::dense(linear, &matrix.dequantise()?)?;
            all.insert(name.into(), matrix);
            Ok(Some(frozen))
        })?;
        Ok(all)
    }
}
