//! Rounding the matrices of a decoder without training.

use super::decoder::Decoder;
use super::linear::{Dense, Linear};
use crate::autograd::slice;
use crate::by_weight::{decibels, energy};
use crate::error::{Error, ErrorKind, Result};
use crate::graph::{Weights, dequantised_rows};
use crate::ptq::fit_weights;
use crate::spec::WeightQuant;
use qat_kernels::config::StepRule;
use rayon::prelude::*;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

/// How the weights are rounded.
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
    /// A quantiser of this crate, its steps fitted to the least squared error row by row.
    Fitted(WeightQuant),
}

/// What became of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantisation {
    /// Weights that were rounded.
    pub weights: usize,
    /// Their mean bits, steps counted.
    pub bits: f64,
    /// Signal-to-quantisation-noise ratio over all of them; `None` if nothing was lost.
    pub sqnr_db: Option<f64>,
}

/// Bits of a step, a minimum, or an α beside the codes.
const SCALE_BITS: f64 = 16.0;
const ALPHA_BITS: f64 = 32.0;
/// Bits of the divisor of a group.
const DIVISOR_BITS: f64 = 2.0;

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
    fn bits(self, row: usize) -> f64 {
        match self {
            Self::RoundToNearest { bits, group } => f64::from(bits) + 2.0 * SCALE_BITS / group as f64,
            Self::Fitted(quant) => {
                let divisors = match quant.step {
                    StepRule::PiAdaptive { group } => DIVISOR_BITS / group as f64,
                    StepRule::Uniform | StepRule::Pi { .. } => 0.0,
                };
                f64::from(quant.levels.bits()) + divisors + ALPHA_BITS / row as f64
            }
        }
    }

    /// The weights, `[rows, row]`, as the codes give them back.
    fn round(self, weights: &[f32], row: usize) -> Result<Vec<f32>> {
        let divides = |group: usize| {
            if row.is_multiple_of(group) {
                return Ok(());
            }
            Err(Error::new(ErrorKind::Spec, format!("groups of {group} do not divide rows of {row}"))
                .remedy("use another group"))
        };
        if let Some(i) = weights.iter().position(|w| !w.is_finite()) {
            return Err(Error::new(ErrorKind::Model, format!("weight {i} is {}", weights[i])));
        }
        match self {
            Self::RoundToNearest { bits, group } => {
                divides(group)?;
                let mut rounded = weights.to_vec();
                rounded.par_chunks_mut(group).for_each(|group| round_to_nearest(group, bits));
                Ok(rounded)
            }
            Self::Fitted(quant) => {
                if let StepRule::PiAdaptive { group } = quant.step {
                    divides(group)?;
                }
                let rows = Weights {
                    channels: weights.len() / row,
                    fan_in: row,
                    rows: weights.to_vec(),
                    bias: Vec::new(),
                };
                let steps = fit_weights(&rows, quant)?;
                dequantised_rows(&rows, quant, &steps)
            }
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
pub fn quantise(
    decoder: &mut Decoder,
    scheme: Scheme,
    mut progress: impl FnMut(&str),
) -> Result<Quantisation> {
    scheme.check()?;
    let (kind, device) = (decoder.kind(), decoder.device());
    let (mut weights, mut bits, mut lost) = (0usize, 0.0, [0.0; 2]);
    decoder.replace(|name, linear| {
        if !name.starts_with("model.layers.") {
            return Ok(None);
        }
        progress(name);
        let matrix =
            linear.weight()?.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
        let (before, shape) = (slice(&matrix)?, matrix.size());
        let row = matrix.size2()?.1.max(1) as usize;
        let after = scheme.round(before, row)?;
        weights += after.len();
        bits += after.len() as f64 * scheme.bits(row);
        let [signal, noise] = energy(before, &after);
        lost = [lost[0] + signal, lost[1] + noise];
        let rounded = Tensor::from_slice(&after).f_reshape(shape)?.f_to_kind(kind)?.f_to_device(device)?;
        let bias = linear.bias().map(Tensor::shallow_clone);
        Ok(Some(Box::new(Dense::new(rounded, bias)) as Box<dyn Linear>))
    })?;
    Ok(Quantisation { weights, bits: bits / weights.max(1) as f64, sqnr_db: decibels(lost) })
}
