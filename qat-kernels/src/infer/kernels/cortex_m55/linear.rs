//! Fully connected layer.

use super::super::{Requant, WeightView};
use super::{carve, grouped, scaling};
use crate::arch::cortex_m55::{
    gather, group_sums, linear_grouped, linear_sums, pixel_grouped, pixel_sums, requantise,
};
use crate::arch::rectangle::Rectangle;
use crate::artifact::cortex_m55::{QUAD, STEP, vectors};
use crate::infer::cortex_m55::{group_words, linear_sums as sum_words, row_bytes};

/// `scratch` holds the sums, what groups need, and the activations, filled up to whole steps.
pub(in crate::infer) fn linear(
    x: &[i8],
    weights: &WeightView<'_>,
    requant: &Requant,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    let (bits, channels) = (weights.spec.bits, weights.channels);
    let (sum_words, group_words) = (sum_words(channels)?, group_words(weights.spec, channels, x.len())?);
    let (words, rest) = carve(scratch, sum_words.checked_add(group_words)?)?;
    let (sums, group_words) = words.split_at_mut_checked(sum_words)?;
    let row = rest.get_mut(..row_bytes(x.len())?)?;
    row.get_mut(x.len()..)?.fill(0);
    let mut scaling = scaling(weights, requant);
    scaling.activations[0] = gather(row, x, &Rectangle::new(1, x.len(), 0, 0)?)?;
    // Pairs of quads, then the last quad of an odd number.
    let of_quad = vectors(bits, row.len() / STEP).checked_mul(STEP)?;
    let paired = channels.div_ceil(QUAD) / 2 * 2;
    let (even, odd) = weights.codes.split_at_checked(paired.checked_mul(of_quad)?)?;
    let (even_sums, odd_sums) = sums.split_at_mut_checked(paired.checked_mul(QUAD)?)?;
    match grouped(weights, group_words)? {
        Some((mut groups, factors)) => {
            let (even_factors, odd_factors) =
                factors.split_at_checked(paired.checked_mul(groups.activations.len())?)?;
            // A lone quad is computed as for two pixels.
            for pixel in 0..if odd.is_empty() { 1 } else { 2 } {
                group_sums(row, groups.steps, groups.activations, pixel)?;
            }
            linear_grouped(&mut groups, even_factors, row, even, even_sums)?;
            pixel_grouped(&mut groups, odd_factors, [row, row], odd, odd_sums)?;
        }
        None => {
            linear_sums(bits, row, even, even_sums)?;
            pixel_sums(bits, [row, row], odd, odd_sums)?;
        }
    }
    requantise::<1>(sums, 1, weights.params, &scaling, [out])
}
