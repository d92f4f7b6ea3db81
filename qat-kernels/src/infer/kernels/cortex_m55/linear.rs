//! Fully connected layer.

use super::super::{Requant, WeightView};
use super::{carve, scaling};
use crate::arch::cortex_m55::{Rectangle, gather, linear_sums, pixel_sums, requantise};
use crate::artifact::cortex_m55::{QUAD, STEP, vectors};
use crate::infer::cortex_m55::{linear_sums as sum_words, row_bytes};

/// `scratch` holds the sums and the activations, filled up to whole steps.
pub(in crate::infer) fn linear(
    x: &[i8],
    weights: &WeightView<'_>,
    requant: &Requant,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    let bits = weights.spec.bits;
    let (sums, rest) = carve(scratch, sum_words(weights.channels)?)?;
    let row = rest.get_mut(..row_bytes(x.len())?)?;
    row.get_mut(x.len()..)?.fill(0);
    let mut scaling = scaling(weights, requant);
    scaling.activations[0] = gather(row, x, &Rectangle::new(1, x.len(), 0, 0)?)?;
    // Pairs of quads, then the last quad of an odd number.
    let of_quad = vectors(bits, row.len() / STEP).checked_mul(STEP)?;
    let paired = weights.channels.div_ceil(QUAD) / 2 * 2;
    let (even, odd) = weights.codes.split_at_checked(paired.checked_mul(of_quad)?)?;
    let (even_sums, odd_sums) = sums.split_at_mut_checked(paired.checked_mul(QUAD)?)?;
    linear_sums(bits, row, even, even_sums)?;
    pixel_sums(bits, [row, row], odd, odd_sums)?;
    requantise::<1>(sums, 1, weights.params, &scaling, [out])
}
