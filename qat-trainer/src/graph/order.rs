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
///
/// ```
/// use qat_trainer::graph::row_order;
/// use qat_trainer::spec::{Run, Shape};
/// # let toml = r#"data = { format = "none", shape = [1, 2, 3] }
/// # model = { layers = [{ op = "conv", out = 4, kernel = [1, 2] }, { op = "global-avg-pool" }] }"#;
/// # let run = Run::parse(toml, "run.toml".as_ref())?;
/// // A `conv` of 1×2 on 3 channels, and a `global-avg-pool`.
/// let map = Shape { h: 1, w: 2, c: 3 };
/// let shapes = run.model.shapes(map)?;
/// let torch = ["red 0", "red 1", "green 0", "green 1", "blue 0", "blue 1"];
/// let engine: Vec<&str> = row_order(&run.model, 0, map, &shapes).iter().map(|&at| torch[at]).collect();
/// assert_eq!(engine, ["red 0", "green 0", "blue 0", "red 1", "green 1", "blue 1"]);
/// assert!(row_order(&run.model, 1, map, &shapes).is_empty());
/// # Ok::<(), qat_trainer::Error>(())
/// ```
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
