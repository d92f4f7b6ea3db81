//! The order of a channel's weights: torch's against the integer engine's.

use crate::spec::{ModelSpec, Op, Shape, Value};

/// For each position of a channel's row in the engine's order, its position in torch's row.
///
/// Torch keeps a convolution's row as input channels × kernel height × kernel width, the engine as kernel height ×
/// kernel width × input channels. A linear layer that reads a flattened map has the same difference with the map's
/// dimensions. Everywhere else the orders agree: rotated values have the engine's order already. Adaptive Pi quantisers
/// group weights in the engine's order.
///
/// `layer` is the index of a layer of `model` and `shapes` the result of [`ModelSpec::shapes`] for `input`; a layer
/// without weights has an empty order.
#[must_use]
pub fn row_order(model: &ModelSpec, layer: usize, input: Shape, shapes: &[Shape]) -> Vec<usize> {
    let Some(spec) = model.layers.get(layer) else { return Vec::new() };
    let x = spec.input.of(input, shapes);
    match &spec.op {
        Op::Conv { window, .. } => channels_last(x.c, window.kernel[0] * window.kernel[1]),
        Op::Depthwise { window, .. } => (0..window.kernel[0] * window.kernel[1]).collect(),
        Op::Linear { .. } => flat_order(model, spec.input, input, shapes),
        _ => Vec::new(),
    }
}

/// For each position of a flat value in the engine's order, its position in torch's.
pub(super) fn flat_order(model: &ModelSpec, value: Value, input: Shape, shapes: &[Shape]) -> Vec<usize> {
    match model.flattened(value, input, shapes) {
        Some(map) => channels_last(map.c, map.h * map.w),
        None => (0..value.of(input, shapes).len()).collect(),
    }
}

/// Positions of `[places][channels]` in `[channels][places]`.
fn channels_last(channels: usize, places: usize) -> Vec<usize> {
    (0..places).flat_map(|place| (0..channels).map(move |c| c * places + place)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_move_to_the_end() {
        assert_eq!(channels_last(2, 3), [0, 3, 1, 4, 2, 5]);
    }
}
