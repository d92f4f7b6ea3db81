//! Quantisation-aware training of a decoder's matrices.
//!
//! | module | is |
//! |---|---|
//! | `blocks` | α of blocks of a row, k of groups, and the steps they make: the start of the training |
//! | `leaves` | [`FakeQuantised`]: ŵ is a leaf, w stays outside of torch; f32 on the CPU |
//! | `node` | the quantiser as an autograd node, by qat-kernels on the CPU and by torch's operators elsewhere |
//! | `parameters` | [`NodeQuantised`]: w and α are leaves of torch, on any device |

mod blocks;
pub(super) mod leaves;
pub(super) mod node;
pub(super) mod parameters;
#[cfg(test)]
mod tests;

pub(super) use blocks::Blocks;
pub use leaves::FakeQuantised;
pub use parameters::NodeQuantised;

use super::decoder::Decoder;
use super::linear::Linear;
use super::optimiser::MomentBits;
use crate::error::{Error, ErrorKind, Result};
use crate::spec::WeightQuant;
use qat_kernels::SteVariant;
use qat_kernels::config::StepRule;
use qat_kernels::quantizer::StepInit;
use tch::{Device, Kind};

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

    /// The length of a block in rows of `row` weights.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] for blocks that do not divide the row, or groups that do not divide a block.
    pub fn block(&self, row: usize) -> Result<usize> {
        let refuse = |problem: String| {
            Err(Error::new(ErrorKind::Spec, problem).remedy("choose sizes that divide each other"))
        };
        let block = self.block.unwrap_or(row);
        if block == 0 || !row.is_multiple_of(block) {
            return refuse(format!("blocks of {block} do not divide rows of {row}"));
        }
        match self.quant.step {
            StepRule::PiAdaptive { group } if group == 0 || !block.is_multiple_of(group) => {
                refuse(format!("groups of {group} do not divide blocks of {block}"))
            }
            _ => Ok(block),
        }
    }

    /// Mean bits of a weight in rows of `row`, α in 16 bits and k in 2 counted.
    ///
    /// # Errors
    /// As [`Self::block`].
    pub fn bits(&self, row: usize) -> Result<f64> {
        let divisors = match self.quant.step {
            StepRule::PiAdaptive { group } => 2.0 / group as f64,
            StepRule::Uniform | StepRule::Pi { .. } => 0.0,
        };
        Ok(f64::from(self.quant.levels.bits()) + divisors + 16.0 / self.block(row)? as f64)
    }
}

/// How the matrices of a decoder are quantised while they are trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecoderQuant {
    /// Those of all blocks.
    pub blocks: MatrixQuant,
    /// Embedding and head, as at 4 to 8 bits; `None` leaves them as they are.
    pub tables: Option<MatrixQuant>,
}

impl Decoder {
    /// Puts fake-quantised matrices in the place of dense ones: [`FakeQuantised`] on the CPU, [`NodeQuantised`] on other devices.
    /// What they learn begins at the matrices as they are, their steps at a fit. Returns the mean bits of a quantised weight.
    /// Everything else stays frozen, unless [`Self::learn`] is called.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] for blocks or groups that do not divide the rows, [`ErrorKind::Model`] for weights that are not finite;
    /// the matrix is the place.
    pub fn quantise_in_training(&mut self, how: &DecoderQuant) -> Result<f64> {
        let (device, mut weights, mut bits) = (self.device(), 0.0, 0.0);
        self.replace(|name, linear| {
            let in_block = name.starts_with("model.layers.");
            let Some(quant) = (if in_block { Some(how.blocks) } else { how.tables }) else { return Ok(None) };
            let matrix = linear.weight()?.f_detach()?;
            let (rows, row) = matrix.size2()?;
            weights += (rows * row) as f64;
            bits += (rows * row) as f64 * quant.bits(row as usize)?;
            Ok(Some(if device == Device::Cpu {
                Box::new(FakeQuantised::new(&matrix, linear.bias(), quant, None)?) as Box<dyn Linear>
            } else {
                Box::new(NodeQuantised::new(&matrix, linear.bias(), quant, None)?)
            }))
        })?;
        Ok(bits / f64::max(weights, 1.0))
    }
}
