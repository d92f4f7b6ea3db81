//! Quantising the matrices of a decoder without training.
//!
//! | module | is |
//! |---|---|
//! | here | rounding: each matrix by itself |
//! | `compensate` | a matrix by its inputs: errors of columns made good by later ones |
//! | `sequential` | a decoder, block after block, on a text |

mod compensate;
mod sequential;

pub use sequential::{Compensation, quantise_compensated};

use super::decoder::Decoder;
use super::linear::{Dense, Linear};
use super::quantised::{BlockQuant, QuantisedMatrix, check_finite};
use crate::autograd::slice;
use crate::by_weight::{decibels, energy};
use crate::error::{Error, ErrorKind, Result};
use rayon::prelude::*;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

/// How the weights are rounded.
///
/// ```
/// # use qat_kernels::{Grid, Levels, config::StepRule};
/// # use qat_trainer::{llm::{BlockQuant, Decoder, config::LlmConfig}, spec::WeightQuant};
/// use qat_trainer::llm::{Scheme, quantise};
/// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
/// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
/// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
/// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
/// let bits = |scheme| -> qat_trainer::Result<f64> {
///     Ok(quantise(&mut Decoder::generated(&config, 1)?, scheme, |_| ())?.bits)
/// };
/// // Step and minimum for each 32 weights, or the step alone.
/// assert_eq!(bits(Scheme::RoundToNearest { bits: 2, group: 32 })?, 2.0 + (16.0 + 16.0) / 32.0);
/// assert_eq!(bits(Scheme::Fitted(BlockQuant { quant, block: Some(32) }))?, 2.0 + 16.0 / 32.0);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Scheme {
    /// Of each group of consecutive weights, the 2^bits levels evenly from the least to the greatest: the common baseline. A
    /// step and a minimum of 16 bits each per group.
    RoundToNearest {
        /// Bits of a code.
        bits: u8,
        /// Weights in a group.
        group: usize,
    },
    /// A quantiser of qat-kernels, its steps fitted to the least squared error block by block.
    Fitted(BlockQuant),
}

/// What became of the weights.
///
/// ```
/// # use qat_trainer::llm::{Decoder, config::LlmConfig};
/// use qat_trainer::llm::{Quantisation, Scheme, quantise};
/// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
/// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
/// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
/// // A group of one weight is its own minimum: nothing is lost, at a price.
/// let alone = Scheme::RoundToNearest { bits: 2, group: 1 };
/// let done = quantise(&mut Decoder::generated(&config, 1)?, alone, |_| ())?;
/// assert_eq!(done, Quantisation { weights: 10240, bits: 2.0 + 32.0, sqnr_db: None });
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantisation {
    /// Weights that were rounded.
    pub weights: usize,
    /// Their mean bits, steps counted.
    pub bits: f64,
    /// Signal-to-quantisation-noise ratio over all of them; `None` if nothing was lost.
    pub sqnr_db: Option<f64>,
}

/// Bits of the step and of the minimum of a group that is rounded to nearest.
const STEP_BITS: f64 = 16.0;

impl Scheme {
    fn check(self) -> Result<()> {
        match self {
            Self::RoundToNearest { bits, group } if !(2..=8).contains(&bits) || group == 0 => {
                Err(Error::new(ErrorKind::Spec, format!("{bits} bits in groups of {group}"))
                    .remedy("use 2 to 8 bits and groups of at least 1"))
            }
            _ => Ok(()),
        }
    }

    /// Mean bits of a weight in rows of `row`.
    fn bits(self, row: usize) -> Result<f64> {
        match self {
            Self::RoundToNearest { bits, group } => Ok(f64::from(bits) + 2.0 * STEP_BITS / group as f64),
            Self::Fitted(how) => how.bits(row),
        }
    }

    /// The weights, `[rows, row]`, as the codes give them back.
    fn round(self, weights: &[f32], row: usize) -> Result<Vec<f32>> {
        match self {
            Self::RoundToNearest { bits, group } => {
                check_finite(weights)?;
                if !row.is_multiple_of(group) {
                    let problem = format!("groups of {group} do not divide rows of {row}");
                    return Err(Error::new(ErrorKind::Spec, problem).remedy("use another group"));
                }
                let mut rounded = weights.to_vec();
                rounded.par_chunks_mut(group).for_each(|group| round_to_nearest(group, bits));
                Ok(rounded)
            }
            Self::Fitted(how) => QuantisedMatrix::fit(how, weights, row, None)?.dequantise(),
        }
    }
}

/// Rounds a group to the nearest of 2^bits levels from its least to its greatest weight.
fn round_to_nearest(group: &mut [f32], bits: u8) {
    let (lo, hi) = group.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &w| (a.min(w), b.max(w)));
    let step = (hi - lo) / f32::from((1u16 << bits) - 1);
    if step > 0.0 {
        group.iter_mut().for_each(|w| *w = ((*w - lo) / step).round_ties_even() * step + lo);
    }
}

/// Rounds the matrices of all blocks in place; embedding, head and norms stay. `progress` hears the name of each matrix before
/// it is rounded.
///
/// # Errors
/// [`ErrorKind::Spec`] for groups that do not divide the rows; [`ErrorKind::Model`] for weights that are not finite; the matrix is
/// the place.
///
/// ```
/// # use qat_trainer::llm::{Decoder, config::LlmConfig};
/// use qat_trainer::llm::{Scheme, quantise};
/// use std::collections::BTreeSet;
/// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
/// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
/// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
/// let mut decoder = Decoder::generated(&config, 1)?;
/// let mut names = Vec::new();
/// let scheme = Scheme::RoundToNearest { bits: 2, group: 32 };
/// quantise(&mut decoder, scheme, |name| names.push(name.to_owned()))?;
/// assert_eq!((names.len(), names[6].as_str()), (7, "model.layers.0.mlp.down_proj")); // not the embedding
/// let row = Vec::<f32>::try_from(decoder.linears()[7].1.weight()?.get(0).narrow(0, 0, 32))?;
/// assert_eq!(row.into_iter().map(f32::to_bits).collect::<BTreeSet<_>>().len(), 4); // 2² levels
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn quantise(
    decoder: &mut Decoder,
    scheme: Scheme,
    mut progress: impl FnMut(&str),
) -> Result<Quantisation> {
    scheme.check()?;
    let mut tally = Tally::default();
    decoder.replace(|name, linear| {
        if !name.starts_with("model.layers.") {
            return Ok(None);
        }
        progress(name);
        let (matrix, row) = to_slices(linear)?;
        let after = scheme.round(slice(&matrix)?, row)?;
        tally.add(linear, &after, scheme.bits(row)?)?;
        dense(linear, &after).map(Some)
    })?;
    Ok(tally.sum())
}

/// A matrix in f32 on the CPU, and the length of its rows.
fn to_slices(linear: &dyn Linear) -> Result<(Tensor, usize)> {
    let matrix = linear.weight()?.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
    let row = matrix.size2()?.1.max(1) as usize;
    Ok((matrix.f_contiguous()?, row))
}

/// A plain layer with these weights in the place of another: of its kind, on its device, with its bias.
pub(super) fn dense(linear: &dyn Linear, weights: &[f32]) -> Result<Box<dyn Linear>> {
    let old = linear.weight()?;
    let new = Tensor::from_slice(weights).f_reshape(old.size())?;
    let new = new.f_to_kind(old.f_kind()?)?.f_to_device(old.device())?;
    Ok(Box::new(Dense::new(new, linear.bias().map(Tensor::shallow_clone))))
}

/// Sums over matrices.
#[derive(Default)]
struct Tally {
    weights: usize,
    bits: f64,
    energy: [f64; 2],
}

impl Tally {
    /// Adds a matrix, with what it becomes and the mean bits of that.
    fn add(&mut self, before: &dyn Linear, after: &[f32], bits: f64) -> Result<()> {
        let [signal, noise] = energy(slice(&to_slices(before)?.0)?, after);
        self.energy = [self.energy[0] + signal, self.energy[1] + noise];
        self.weights += after.len();
        self.bits += after.len() as f64 * bits;
        Ok(())
    }

    fn sum(&self) -> Quantisation {
        let Self { weights, bits, energy } = *self;
        Quantisation { weights, bits: bits / weights.max(1) as f64, sqnr_db: decibels(energy) }
    }
}
