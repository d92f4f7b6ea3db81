//! Kernels for Armv8.1-M with Helium: layers packed for it, with the inner loops of [`crate::arch::cortex_m55`].

mod conv;
mod depthwise;
mod linear;

pub(in crate::infer) use conv::conv2d;
pub(in crate::infer) use depthwise::depthwise_conv2d;
pub(in crate::infer) use linear::linear;

#[cfg(test)]
mod tests;

use super::{Requant, WeightView};
use crate::arch::bytes::words_mut;
use crate::arch::cortex_m55::Scaling;

/// So many words at the beginning of the scratch memory, and the bytes behind them.
fn carve(scratch: &mut [i8], words: usize) -> Option<(&mut [u32], &mut [i8])> {
    let scratch = scratch.get_mut(scratch.as_ptr().align_offset(4)..)?;
    let (head, rest) = scratch.split_at_mut_checked(words.checked_mul(4)?)?;
    Some((words_mut(head).get_mut(..words)?, rest))
}

/// For sums of codes.
fn scaling(weights: &WeightView<'_>, requant: &Requant) -> Scaling {
    Scaling::of_codes(
        weights.spec.bits,
        weights.spec.grid != 0,
        requant.left(),
        requant.zero_point,
        requant.limits(),
    )
}
