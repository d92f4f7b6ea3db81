//! Low-rank adapters on quantised matrices (LoRA, Hu et al. 2021; QLoRA, Dettmers et al. 2023), and tuning of scales alone.
//!
//! A matrix W, `[out, in]`, becomes `W + s·U·D` with `D`, `[r, in]`, and `U`, `[out, r]`, learned and `s = alpha/r`; PEFT's files
//! call D `lora_A` and U `lora_B`. What is quantised then is the mode's matter, and the modes do not lead to the same model:
//!
//! | mode | computes with | learns | leads to |
//! |---|---|---|---|
//! | [`LoraMode::Packed`] | `Q(W) + s·U·D` | D, U | a packed matrix with adapters beside it that stay in floating point |
//! | [`LoraMode::Merged`] | `Q(W + s·U·D)` | D, U, α | one quantised matrix |
//! | [`LoraMode::Scales`] | `level·Δ(α)` | α | a packed matrix |
//!
//! In `packed` and `scales` W exists as packed codes alone, which are unpacked whenever a product needs them, forward and
//! backward, and forgotten again. Matrices of the blocks that get no adapter are packed in every mode; everything
//! else stays as it is and frozen.

mod adapter;
mod merged;
mod packed;
mod peft;
#[cfg(test)]
mod tests;

pub use packed::PackedMatrix;
pub use peft::Adapters;

use super::decoder::Decoder;
use super::linear::Linear;
use super::qat::MatrixQuant;
use super::quantised::QuantisedMatrix;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::spec::BLOCK_MATRICES;
pub use crate::spec::LoraMode;
use adapter::Adapter;
use merged::Merged;
use packed::Packed;
use std::collections::BTreeMap;

/// How the matrices of a decoder's blocks are adapted.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSettings {
    /// What is quantised, and what is learned.
    pub mode: LoraMode,
    /// How.
    pub quant: MatrixQuant,
    /// r, at least 1 and at most the smaller side of each adapted matrix (INV-6). Without meaning for [`LoraMode::Scales`].
    pub rank: usize,
    /// `s·r`, positive.
    pub alpha: f32,
    /// Last names of the matrices that are adapted (`q_proj`).
    pub targets: Vec<String>,
    /// Seed of D; U begins at zero.
    pub seed: u64,
}

impl LoraSettings {
    /// Adapters of rank 16 and alpha 32 on every matrix of the blocks.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::MatrixQuant, spec::WeightQuant};
    /// use qat_trainer::llm::{LoraMode, LoraSettings};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = MatrixQuant { block: Some(32), ..MatrixQuant::new(quant) };
    /// let usual = LoraSettings::new(LoraMode::Merged, how);
    /// assert_eq!((usual.alpha / usual.rank as f32, usual.targets.len()), (2.0, 7)); // s; all matrices
    /// // As small as LoRA's authors had it: queries and values alone.
    /// let targets = vec!["q_proj".into(), "v_proj".into()];
    /// let small = LoraSettings { rank: 4, alpha: 8.0, targets, ..usual.clone() };
    /// assert_eq!(small.alpha / small.rank as f32, 2.0);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn new(mode: LoraMode, quant: MatrixQuant) -> Self {
        Self { mode, quant, rank: 16, alpha: 32.0, targets: BLOCK_MATRICES.map(String::from).into(), seed: 1 }
    }

    fn check(&self) -> Result<()> {
        let refuse =
            |problem: String, remedy: String| Err(Error::new(ErrorKind::Spec, problem).remedy(remedy));
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return refuse(format!("alpha is {}", self.alpha), "use a positive number".into());
        }
        match self.targets.iter().find(|target| !BLOCK_MATRICES.contains(&target.as_str())) {
            Some(target) => refuse(
                format!("no matrix of a block is called `{target}`"),
                format!("choose among {}", BLOCK_MATRICES.join(", ")),
            ),
            None => Ok(()),
        }
    }
}

/// What became of a decoder.
///
/// ```
/// # use qat_kernels::{Grid, Levels, config::StepRule};
/// # use qat_trainer::{llm::{Decoder, MatrixQuant, config::LlmConfig}, spec::WeightQuant};
/// use qat_trainer::llm::{Adapted, LoraMode, LoraSettings};
/// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
/// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
/// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
/// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
/// # let how = MatrixQuant { block: Some(32), ..MatrixQuant::new(quant) };
/// let usual = LoraSettings::new(LoraMode::Packed, how);
/// let settings = LoraSettings { rank: 4, targets: vec!["q_proj".into()], ..usual };
/// let adapted = Decoder::generated(&config, 1)?.adapt(&settings, None)?;
/// // D and U of a matrix of 32 by 32; 10240 weights in 2 bits, and an α of 4 bytes for each 32 of them.
/// assert_eq!(adapted, Adapted { learned: 4 * (32 + 32), packed_bytes: 10240 / 4 + 10240 / 32 * 4 });
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adapted {
    /// Numbers that are learned.
    pub learned: usize,
    /// Bytes of packed matrices, scales included.
    pub packed_bytes: usize,
}

impl Decoder {
    /// Puts adapted matrices in the place of those of the blocks, with steps fitted to them. Adapters begin at `start`, or at
    /// one that changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] for a rank that a matrix does not have (INV-6), and other settings that do not fit;
    /// [`ErrorKind::Checkpoint`] if `start` lacks a matrix or was made for others; the matrix is the place.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{Decoder, MatrixQuant, config::LlmConfig}, spec::WeightQuant};
    /// use qat_trainer::llm::{LoraMode, LoraSettings};
    /// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
    /// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    /// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = MatrixQuant { block: Some(32), ..MatrixQuant::new(quant) };
    /// let mut decoder = Decoder::generated(&config, 1)?; // hidden states of 32
    /// let settings = LoraSettings { rank: 33, ..LoraSettings::new(LoraMode::Packed, how) };
    /// let e = decoder.adapt(&settings, None).unwrap_err().to_string();
    /// assert!(e.contains("layers.0.self_attn.q_proj`: rank 33 is outside 1..=32; "), "{e}");
    /// let scales = LoraSettings { mode: LoraMode::Scales, ..settings };
    /// let learned = decoder.adapt(&scales, None)?.learned; // no adapters, so that no rank matters
    /// assert_eq!(learned, 10240 / 32); // α of each 32 weights
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn adapt(&mut self, settings: &LoraSettings, start: Option<&Adapters>) -> Result<Adapted> {
        self.adapt_quantised(settings, &BTreeMap::new(), start)
    }

    /// As [`Self::adapt`], but what is packed and in `codes`, by name, has these codes and steps, as of a quantiser that looked at
    /// more than the weights. Merged adapters have no use for them.
    ///
    /// # Errors
    /// As [`Self::adapt`], and [`ErrorKind::Model`] for codes of another shape, and of matrices there are not.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{Decoder, MatrixQuant, config::LlmConfig}, spec::WeightQuant};
    /// # use qat_trainer::llm::{Compensation, Windows, quantise_compensated};
    /// use qat_trainer::llm::{LoraMode, LoraSettings};
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
    /// decoder.adapt_quantised(&LoraSettings::new(LoraMode::Packed, how), &codes, None)?;
    /// assert_eq!(decoder.quantised()?, codes); // under the adapters
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn adapt_quantised(
        &mut self,
        settings: &LoraSettings,
        codes: &BTreeMap<String, QuantisedMatrix>,
        start: Option<&Adapters>,
    ) -> Result<Adapted> {
        settings.check()?;
        self.check_names(codes)?;
        if let Some(start) = start {
            start.check(settings)?;
        }
        let (mut adapted, mut index) = (Adapted::default(), 0);
        self.replace(|name, linear| {
            if !name.starts_with("model.layers.") {
                return Ok(None);
            }
            index += 1;
            let (weight, bias) = (linear.weight()?.f_detach()?, linear.bias());
            let target = settings.targets.iter().any(|target| name.ends_with(&format!(".{target}")));
            let adapter = match settings.mode {
                LoraMode::Packed | LoraMode::Merged if target => {
                    Some(Adapter::new(name, weight.size2()?, weight.device(), settings, start, index)?)
                }
                _ => None,
            };
            let new: Box<dyn Linear> = match (settings.mode, adapter) {
                (LoraMode::Merged, Some(adapter)) => {
                    Box::new(Merged::new(&weight, bias, settings.quant, adapter)?)
                }
                (mode, adapter) => {
                    let learns_scales = target && mode == LoraMode::Scales;
                    let matrix = match codes.get(name) {
                        Some(codes) => PackedMatrix::of(codes, &weight, settings.quant)?,
                        None => PackedMatrix::fitted(&weight, settings.quant)?,
                    };
                    adapted.packed_bytes += matrix.bytes();
                    Box::new(Packed::new(matrix, bias, weight.kind(), adapter, learns_scales)?)
                }
            };
            adapted.learned += new.leaves().iter().map(|leaf| leaf.numel()).sum::<usize>();
            Ok(Some(new))
        })?;
        if let Some(start) = start {
            start.restore_scales(self)?;
        }
        Ok(adapted)
    }

    /// The adapters, and α and k of what is quantised, to save.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch refuses.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{Decoder, MatrixQuant, config::LlmConfig}, spec::WeightQuant};
    /// use qat_trainer::llm::{LoraMode, LoraSettings};
    /// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
    /// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    /// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = MatrixQuant { block: Some(32), ..MatrixQuant::new(quant) };
    /// let settings = LoraSettings { rank: 2, ..LoraSettings::new(LoraMode::Packed, how) };
    /// let mut decoder = Decoder::generated(&config, 1)?;
    /// decoder.adapt(&settings, None)?;
    /// // … and trained. Another decoder goes on where this one is:
    /// let adapters = decoder.adapters(&settings)?;
    /// let mut other = Decoder::generated(&config, 1)?;
    /// other.adapt(&LoraSettings { seed: 7, ..settings.clone() }, Some(&adapters))?;
    /// assert_eq!(other.adapters(&settings)?, adapters);
    /// // Of another rank they are of no use.
    /// assert!(other.adapt(&LoraSettings { rank: 3, ..settings }, Some(&adapters)).is_err());
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn adapters(&self, settings: &LoraSettings) -> Result<Adapters> {
        let mut state = Checkpoint::default();
        self.save_state(&mut state)?;
        Ok(Adapters::from_state(settings, &state))
    }
}
