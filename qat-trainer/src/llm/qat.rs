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
    #[must_use]
    pub const fn blocks(&self) -> BlockQuant {
        BlockQuant { quant: self.quant, block: self.block }
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
    /// Puts fake-quantised matrices in the place of dense ones: [`FakeQuantised`] on the CPU, [`DeviceQuantised`] where the fused
    /// kernels compute, [`NodeQuantised`] elsewhere.
    /// What they learn begins at the matrices as they are, their steps at a fit. Returns the mean bits of a quantised weight.
    /// Everything else stays frozen, unless [`Self::learn`] is called.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] for blocks or groups that do not divide the rows, [`ErrorKind::Model`] for weights that are not finite;
    /// the matrix is the place. [`ErrorKind::Unsupported`] for moments of 8 bits on a device other than the CPU.
    pub fn quantise_in_training(&mut self, how: &DecoderQuant) -> Result<f64> {
        self.quantise_in_training_from(how, &BTreeMap::new())
    }

    /// As [`Self::quantise_in_training`], but matrices that are in `start`, by name, begin at these codes and steps, see
    /// [`FakeQuantised::from_quantised`].
    ///
    /// # Errors
    /// As [`Self::quantise_in_training`], and [`ErrorKind::Model`] for codes of another shape, and of matrices there are not.
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
