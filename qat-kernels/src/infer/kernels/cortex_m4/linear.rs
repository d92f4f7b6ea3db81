//! Fully connected layer.

use super::super::{Requant, WeightView};
use super::stream::filler;
use crate::arch::bytes::words_mut;
use crate::arch::cortex_m4::{Kernel, Layer};
use crate::artifact::OpKind;

pub(in crate::infer) fn linear(
    x: &[i8],
    weights: &WeightView<'_>,
    requant: &Requant,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    let spec = weights.spec;
    let kernel = Kernel::of(OpKind::Linear, spec.bits, spec.group)?;
    let words = words_mut(scratch).get_mut(..kernel.stream.words(x.len())?)?;
    let missing = filler(&kernel.stream, spec.group)(&kernel.stream, spec, words, 0, x)?;
    let layer = Layer {
        words,
        weights: weights.codes,
        divisors: weights.divisors,
        params: weights.params,
        missing: [[missing.low, 0, 0, 0], [missing.high, 0, 0, 0]],
        rounding: requant.rounding(),
    };
    kernel.run(x.len(), &layer, out)?;
    requant.clamp_all(out);
    Some(())
}
