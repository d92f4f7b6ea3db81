//! Fully connected layer.

use super::super::{Requant, WeightView};
use super::stream::fill;
use crate::arch::bytes::words_mut;
use crate::arch::cortex_m4::LinearStream;
use crate::artifact::OpKind;
use crate::artifact::cortex_m4::STEP;
use crate::infer::cortex_m4::{LINEAR_HEAD, stream_words};

pub(in crate::infer) fn linear(
    x: &[i8],
    weights: &WeightView<'_>,
    requant: &Requant,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    let words = words_mut(scratch).get_mut(..stream_words(OpKind::Linear, x.len())?)?;
    let missing = fill::<1, LINEAR_HEAD>(words, 0, x, weights.spec.grid != 0)?;
    let steps = x.len().div_ceil(STEP);
    let stream = LinearStream::new(words, steps)?;
    stream.run(weights.codes, weights.params, [missing.low, missing.high], requant.rounding(), out)?;
    requant.clamp_all(out);
    Some(())
}
