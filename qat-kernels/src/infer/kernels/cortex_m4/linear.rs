//! Fully connected layer.

use super::super::{Requant, WeightView};
use super::stream::{lanes, missing};
use crate::arch::bytes::words_mut;
use crate::arch::cortex_m4::Bands;
use crate::artifact::OpKind;

pub(in crate::infer) fn linear(
    x: &[i8],
    weights: &WeightView<'_>,
    requant: &Requant,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    let (spec, columns) = (weights.spec, x.len());
    let kind = (OpKind::Linear, spec.bits, spec.group);
    let packed = (weights.codes, weights.divisors);
    let bands = Bands::new(kind, columns, packed, weights.params, requant.rounding())?;
    let words = words_mut(scratch).get_mut(..bands.stream().words(columns)?)?;
    let lanes = lanes(bands.stream(), spec, columns)?;
    lanes.end(words)?;
    let [low, high] = missing(spec, &lanes.lane(0, words)?.finish(x)?);
    bands.run(words, &[[low, 0, 0, 0], [high, 0, 0, 0]], out)?;
    requant.clamp_all(out);
    Some(())
}
