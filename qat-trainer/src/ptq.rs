//! Quantisation after training: ranges of activations from a calibration, steps of weights by search. It also gives the
//! quantised training its start.

use crate::affine::Affine;
use crate::calibrate;
use crate::error::Result;
use crate::graph::{Graph, Quantised, Steps, Weights};
use crate::spec::{Calibration, WeightQuant};
use qat_kernels::config::StepRule;
use qat_kernels::quantizer::{fit_adaptive, fit_step};
use rayon::prelude::*;

/// How a network quantised without training says so in its provenance.
///
/// ```
/// use qat_trainer::{ptq::method, spec::CalibrationMethod};
/// assert_eq!(method(CalibrationMethod::Entropy.name()), "ptq, calibrated ranges, entropy");
/// ```
#[must_use]
pub fn method(calibration: &str) -> String {
    format!("ptq, calibrated ranges, {calibration}")
}

/// Measures the range of every layer that has one of its own; see [`calibrate::observe`].
///
/// # Errors
/// Those of [`calibrate::observe`].
///
/// ```
/// # use qat_trainer::{affine::Affine, checkpoint::Checkpoint, graph::Graph, ptq::calibrate};
/// # use qat_trainer::spec::{Calibration, CalibrationMethod, Run, Shape};
/// # let run = Run::parse(r#"data = { format = "none", shape = [1, 2, 1] }
/// # [model]
/// # layers = [{ op = "max-pool", kernel = [1, 2] }, { op = "flatten" }, { op = "linear", name = "fc", out = 2 }]
/// # "#, "run.toml".as_ref())?;
/// # let mut c = Checkpoint::default();
/// # c.insert("fc.weight", &[2, 1], vec![1.0, -2.0])?;
/// # c.insert("fc.bias", &[2], vec![0.0, 0.5])?;
/// # let graph = Graph::from_checkpoint(&run.model, Shape { h: 1, w: 2, c: 1 }, 2, &c)?;
/// // A `max-pool` over two numbers, a `flatten`, and a `linear` with the outputs x and ½ − 2x; two examples.
/// let code = Affine { scale: 0.25, zero_point: 0 };
/// let how = Calibration { method: CalibrationMethod::MinMax, samples: 2 };
/// let ranges = calibrate(&graph, code, &[1.0, 3.0, -0.5, -4.0], how)?;
/// assert_eq!(ranges, [None, None, Some(Affine::from_range(-5.5, 3.0))]); // of x = 3 and x = −½
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn calibrate(
    graph: &Graph,
    input: Affine,
    features: &[f32],
    how: Calibration,
) -> Result<Vec<Option<Affine>>> {
    let ranges = calibrate::ranges(&calibrate::observe(graph, input, features, how)?)?;
    Ok(ranges.into_iter().map(|range| range.map(|range| range.params.into())).collect())
}

/// The steps of a layer's weights with the least squared error, channel by channel.
///
/// # Errors
/// [`Model`](crate::ErrorKind::Model) for weights that are not finite.
///
/// ```
/// use qat_kernels::{Grid, Levels, config::StepRule};
/// use qat_trainer::graph::{Weights, codes};
/// use qat_trainer::{ErrorKind, ptq::fit_weights, spec::WeightQuant};
/// let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
/// let rows = vec![-0.75, -0.25, 0.25, 0.75, 9.0, 3.0, -3.0, -9.0];
/// let mut weights = Weights { channels: 2, fan_in: 4, rows, bias: vec![0.0; 2] };
/// let steps = fit_weights(&weights, quant)?; // ½ and 6, which lose nothing
/// assert_eq!(codes(&weights, quant, &steps)?, [-2, -1, 0, 1, 1, 0, -1, -2]);
/// weights.rows[5] = f32::NAN;
/// assert_eq!(fit_weights(&weights, quant).unwrap_err().kind(), ErrorKind::Model);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn fit_weights(weights: &Weights, quant: WeightQuant) -> Result<Steps> {
    let rows: Vec<&[f32]> = weights.channel_rows().collect();
    let fit = |row: &&[f32]| Ok(fit_step(quant.levels, row, None)?);
    match quant.step {
        StepRule::Uniform => {
            Steps::new(quant.step, &rows.par_iter().map(fit).collect::<Result<Vec<_>>>()?, &[])
        }
        StepRule::Pi { k } => {
            let alpha = |step: f32| step * f32::from(k) / std::f32::consts::PI;
            let alphas = rows.par_iter().map(|row| fit(row).map(alpha)).collect::<Result<Vec<_>>>()?;
            Steps::new(quant.step, &alphas, &[])
        }
        StepRule::PiAdaptive { group } => {
            let fitted = rows
                .par_iter()
                .map(|row| {
                    let mut divisors = vec![0; row.len() / group.max(1)];
                    let alpha = fit_adaptive(quant.levels, group, row, None, &mut divisors)?;
                    Ok((alpha, divisors))
                })
                .collect::<Result<Vec<_>>>()?;
            let (alphas, divisors): (Vec<f32>, Vec<Vec<u8>>) = fitted.into_iter().unzip();
            Steps::new(quant.step, &alphas, &divisors.concat())
        }
    }
}

/// Quantises a trained network without training it further.
///
/// # Errors
/// Those of [`calibrate()`] and [`fit_weights`].
///
/// ```
/// # use qat_trainer::{affine::Affine, checkpoint::Checkpoint, graph::Graph, ptq::quantise};
/// # use qat_trainer::spec::{Calibration, CalibrationMethod, Run, Shape};
/// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 2] }
/// # model = { layers = [{ op = "linear", name = "fc", out = 1, bits = 2, grid = "mid-tread" }] }
/// # "#, "run.toml".as_ref())?;
/// # let mut c = Checkpoint::default();
/// # c.insert("fc.weight", &[1, 2], vec![0.5, -0.5])?;
/// # c.insert("fc.bias", &[1], vec![0.0])?;
/// # let graph = Graph::from_checkpoint(&run.model, Shape::flat(2), 1, &c)?;
/// // Half the difference of two numbers, which is −1 and then 2.
/// let code = Affine { scale: 1.0, zero_point: 0 };
/// let how = Calibration { method: CalibrationMethod::MinMax, samples: 2 };
/// let network = quantise(graph, code, &[1.0, 3.0, 9.0, 5.0], how)?;
/// assert_eq!(network.outputs, [Affine::from_range(-1.0, 2.0)]);
/// assert_eq!(network.dequantised()?, network.graph); // these two weights are levels
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn quantise(graph: Graph, input: Affine, features: &[f32], how: Calibration) -> Result<Quantised> {
    let ranges = calibrate(&graph, input, features, how)?;
    with_ranges(graph, input, &ranges)
}

/// Quantises a trained network whose ranges are known.
///
/// # Errors
/// Those of [`fit_weights`].
///
/// ```
/// # use qat_trainer::{affine::Affine, checkpoint::Checkpoint, graph::Graph, ptq::with_ranges, spec::{Run, Shape}};
/// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 1] }
/// # model = { layers = [{ op = "linear", name = "fc", out = 1 }] }"#, "run.toml".as_ref())?;
/// # let mut c = Checkpoint::default();
/// # c.insert("fc.weight", &[1, 1], vec![3.0])?;
/// # c.insert("fc.bias", &[1], vec![1.0])?;
/// # let mut graph = Graph::from_checkpoint(&run.model, Shape::flat(1), 1, &c)?;
/// // One layer, `fc`. Its range comes from a `.cal` file, say.
/// let code = Affine { scale: 0.5, zero_point: 3 };
/// let network = with_ranges(graph.clone(), code, &[Some(Affine::from_range(-1.0, 8.0))])?;
/// assert_eq!((network.input, network.outputs), (code, vec![Affine::from_range(-1.0, 8.0)]));
/// graph.nodes[0].weights.iter_mut().for_each(|w| w.rows[0] = f32::INFINITY);
/// let e = with_ranges(graph, code, &[None]).unwrap_err();
/// assert!(e.to_string().starts_with("layer `fc`: "), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn with_ranges(graph: Graph, input: Affine, ranges: &[Option<Affine>]) -> Result<Quantised> {
    let steps = graph
        .nodes
        .iter()
        .map(|node| match (&node.weights, node.op.quant()) {
            (Some(weights), Some(quant)) => {
                fit_weights(weights, quant).map(Some).map_err(|e| e.place(format!("layer `{}`", node.name)))
            }
            _ => Ok(None),
        })
        .collect::<Result<_>>()?;
    Ok(Quantised::new(graph, input, steps, ranges))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{codes, tests as nets};
    use crate::spec::CalibrationMethod;
    use qat_kernels::{Grid, Levels};

    #[test]
    fn ranges_cover_what_the_layers_give() {
        let (graph, examples) = (nets::small_cnn(), nets::examples(70, nets::small_cnn().input.len()));
        let input = Affine::from_range(-2.0, 2.0);
        let how = Calibration { method: CalibrationMethod::MinMax, samples: 65 };
        let ranges = calibrate(&graph, input, &examples, how).unwrap();
        let width = graph.input.len();
        let mut seen = vec![(0f32, 0f32); graph.nodes.len()];
        for x in examples.chunks_exact(width).take(65) {
            let x: Vec<f32> = x.iter().map(|&x| input.fake_quantize(x)).collect();
            let all = graph.forward(&x, |i, out| {
                seen[i] = out.iter().fold(seen[i], |(a, b), &y| (a.min(y), b.max(y)));
            });
            all.unwrap();
        }
        for ((node, range), (min, max)) in graph.nodes.iter().zip(&ranges).zip(seen) {
            assert_eq!(range.is_some(), node.op.has_range(), "{}", node.name);
            if let Some(range) = range {
                assert_eq!(*range, Affine::from_range(min, max), "{}", node.name);
            }
        }
    }

    #[test]
    fn non_finite_outputs_name_the_layer() {
        let mut graph = nets::small_cnn();
        graph.nodes[0].weights.as_mut().unwrap().bias[1] = f32::INFINITY;
        let examples = nets::examples(4, graph.input.len());
        let how = Calibration { samples: 4, ..Calibration::default() };
        let e = calibrate(&graph, Affine::from_range(-2.0, 2.0), &examples, how).unwrap_err();
        assert!(e.to_string().contains("layer `c`"), "{e}");
        assert!(calibrate(&nets::small_cnn(), Affine::from_range(-2.0, 2.0), &[], how).is_err());
    }

    #[test]
    fn fitted_steps_beat_the_full_range() {
        let rows = nets::examples(4, 48);
        let weights = Weights { channels: 4, fan_in: 48, rows, bias: vec![0.0; 4] };
        for step in [StepRule::Uniform, StepRule::Pi { k: 3 }, StepRule::PiAdaptive { group: 16 }] {
            let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise).unwrap(), step };
            let steps = fit_weights(&weights, quant).unwrap();
            let error = |steps: &Steps| -> f32 {
                let g = nets::linear_graph(weights.clone(), quant);
                let input = Affine::from_range(-1.0, 1.0);
                let q = Quantised::new(g, input, vec![Some(steps.clone())], &[None]);
                let g = q.dequantised().unwrap();
                let values = &g.nodes[0].weights.as_ref().unwrap().rows;
                values.iter().zip(&weights.rows).map(|(a, b)| (a - b).powi(2)).sum()
            };
            let full: Vec<f32> = weights
                .channel_rows()
                .map(|r| r.iter().fold(0f32, |m, x| m.max(x.abs())) / quant.levels.top())
                .collect();
            assert!(error(&steps) < 0.95 * error(&Steps::PerChannel(full)), "{step:?}");
            let found = codes(&weights, quant, &steps).unwrap();
            assert!((-2..=1).all(|q| found.contains(&q)), "{step:?}");
        }
    }
}
