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

use crate::arch::cortex_m55::{Groups, Scaling, expand};
use crate::artifact::cortex_m55::STEP;
use crate::infer::cortex_m55::{ACTIVATION_WORDS, ROOM_WORDS, groups};

/// So many words at the beginning of the scratch memory, and the bytes behind them.
fn carve(scratch: &mut [i8], words: usize) -> Option<(&mut [u32], &mut [i8])> {
    let scratch = scratch.get_mut(scratch.as_ptr().align_offset(4)..)?;
    let (head, rest) = scratch.split_at_mut_checked(words.checked_mul(4)?)?;
    Some((words_mut(head).get_mut(..words)?, rest))
}

/// For what the loops leave: sums of codes, or of twice the levels where groups have factors.
fn scaling(weights: &WeightView<'_>, requant: &Requant) -> Scaling {
    let (spec, left) = (weights.spec, requant.left());
    match spec.group {
        0 => Scaling::of_codes(spec.bits, spec.grid != 0, left, requant.zero_point, requant.limits()),
        _ => Scaling::of_levels(left, requant.zero_point, requant.limits()),
    }
}

/// A layer's groups and the factors of its quads.
type Grouped<'a> = (Groups<'a>, &'a [u32]);

/// Those of a layer, made in `words`, if it has groups; `None` if something has another length.
fn grouped<'a>(weights: &WeightView<'_>, words: &'a mut [u32]) -> Option<Option<Grouped<'a>>> {
    let count = groups(weights.spec, weights.fan_in);
    let (activations, words) = words.split_at_mut_checked(count.checked_mul(ACTIVATION_WORDS)?)?;
    let (room, factors) = words.split_at_mut_checked(count.checked_mul(ROOM_WORDS)?)?;
    if count == 0 {
        return Some(None);
    }
    expand(weights.divisors, factors)?;
    let groups = Groups {
        steps: usize::from(weights.spec.group) / STEP,
        mid_rise: weights.spec.grid != 0,
        activations: activations.as_chunks_mut().0,
        room: room.as_chunks_mut().0,
    };
    Some(Some((groups, factors)))
}
