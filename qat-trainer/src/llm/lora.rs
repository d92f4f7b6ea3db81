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
    pub fn adapt(&mut self, settings: &LoraSettings, start: Option<&Adapters>) -> Result<Adapted> {
        self.adapt_quantised(settings, &BTreeMap::new(), start)
    }

    /// As [`Self::adapt`], but what is packed and in `codes`, by name, has these codes and steps, as of a quantiser that looked at
    /// more than the weights. Merged adapters have no use for them.
    ///
    /// # Errors
    /// As [`Self::adapt`], and [`ErrorKind::Model`] for codes of another shape, and of matrices there are not.
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
    pub fn adapters(&self, settings: &LoraSettings) -> Result<Adapters> {
        let mut state = Checkpoint::default();
        self.save_state(&mut state)?;
        Ok(Adapters::from_state(settings, &state))
    }
}
