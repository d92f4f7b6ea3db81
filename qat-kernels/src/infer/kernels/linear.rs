//! Fully connected layer.

use super::{Requant, WeightView};

pub(in crate::infer) fn linear(
    x: &[i8],
    weights: &WeightView<'_>,
    requant: &Requant,
    out: &mut [i8],
) -> Option<()> {
    for (y, (acc, p)) in out.iter_mut().zip(weights.accumulate(x)?) {
        *y = requant.apply(acc.wrapping_add(p.bias), p.multiplier);
    }
    Some(())
}
