//! Activations as the inner loops read them.

use crate::arch::cortex_m4::{Filled, Lanes, Start};
use crate::artifact::WeightSpec;
use crate::artifact::cortex_m4::Stream;

/// How the activations of a layer become its stream.
pub(super) fn lanes(stream: Stream, spec: WeightSpec, columns: usize) -> Option<Lanes> {
    let start = match (spec.group, spec.bits, spec.grid) {
        (0, 2, _) => Start::Two,
        (0, 3, _) => Start::Three,
        (0, ..) => Start::None,
        // See `arch::cortex_m4::two_bits_grouped`.
        (_, _, 0) => Start::Exact(-8),
        _ => Start::Exact((1 << 16) - 12),
    };
    Lanes::new(stream, start, columns)
}

/// What a pixel's accumulators lack after the loops: those of channels that are stored without a sign, then the others.
///
/// Sums of codes as they are stored become those of levels: `2·Σ u·x` to `Σ (2u − 2^b)·x`, `2·Σ q·x` stays, and both take S
/// more on the mid-rise grid. Besides, the low sums still hold what their windows started from; the one of 3 bits is
/// weighted from three.
pub(super) fn missing(spec: WeightSpec, filled: &Filled) -> [i32; 2] {
    if spec.group > 0 {
        return [0; 2];
    }
    let high = if spec.grid != 0 { filled.total } else { 0 };
    let sums = match spec.bits {
        2 => 1,
        3 => 1 + 2 + 4,
        _ => 0,
    };
    let offset = filled.total.wrapping_shl(spec.bits.into());
    [high.wrapping_sub(offset).wrapping_sub(filled.starts.wrapping_mul(2 * sums)), high]
}
