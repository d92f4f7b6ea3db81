//! Quantisation after training: ranges of activations from a calibration, steps of weights by search. It also gives the
//! quantised training its start.

use crate::affine::Affine;
use crate::error::{Error, ErrorKind, Result};
use crate::graph::{Graph, Quantised, Steps, Weights};
use crate::spec::{Calibration, CalibrationMethod, WeightQuant};
use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine, CalibrationMethod as Method};
use qat_kernels::config::StepRule;
use qat_kernels::quantizer::{fit_adaptive, fit_step};
use rayon::prelude::*;

/// Bins of a calibration's histogram.
const BINS: usize = 2048;
/// Examples per unit of parallel work. Histograms merge exactly, so the split does not show in the result.
const UNIT: usize = 32;

/// Measures the range of every layer that has one of its own, on the first examples of `features` (as
/// [`crate::data::Split::features`]), with the input rounded to `input`.
///
/// # Errors
/// [`ErrorKind::Data`] without examples; [`ErrorKind::Checkpoint`] naming the layer whose output is not finite.
pub fn calibrate(
    graph: &Graph,
    input: Affine,
    features: &[f32],
    how: Calibration,
) -> Result<Vec<Option<Affine>>> {
    let method = match how.method {
        CalibrationMethod::MinMax => Method::MinMax,
        CalibrationMethod::Mse => Method::Mse,
    };
    let config = CalibrationConfig::default().with_method(method).with_bits(8);
    let start = || {
        let engine = |has_range: bool| has_range.then(|| CalibrationEngine::<BINS>::new(config)).transpose();
        graph.nodes.iter().map(|n| engine(n.op.has_range())).collect::<Result<Vec<_>, _>>()
    };
    let width = graph.input.len();
    let examples = &features[..features.len().min(how.samples.saturating_mul(width))];
    if examples.len() < width {
        return Err(Error::new(ErrorKind::Data, "there is no example to calibrate on"));
    }
    let units: Vec<_> = examples
        .par_chunks(UNIT * width)
        .map(|unit| -> Result<_> {
            let mut engines = start()?;
            let mut failed = None;
            for example in unit.chunks_exact(width) {
                let x: Vec<f32> = example.iter().map(|&x| input.fake_quantize(x)).collect();
                let _ = graph.forward(&x, |i, out| {
                    if let Some(engine) = &mut engines[i]
                        && let Err(e) = engine.observe(out)
                    {
                        failed = Some(e);
                    }
                });
            }
            failed.map_or(Ok(engines), |e| Err(e.into()))
        })
        .collect::<Result<_>>()?;
    let mut total = start()?;
    for unit in &units {
        for (sum, part) in total.iter_mut().zip(unit) {
            if let (Some(sum), Some(part)) = (sum, part) {
                sum.merge(part)?;
            }
        }
    }
    total
        .par_iter()
        .zip(&graph.nodes)
        .map(|(engine, node)| {
            let Some(engine) = engine else { return Ok(None) };
            let lost = engine.stats().non_finite;
            if lost > 0 {
                return Err(Error::new(
                    ErrorKind::Checkpoint,
                    format!("{lost} of its outputs are NaN or infinite"),
                )
                .place(format!("layer `{}`", node.name))
                .remedy("the training diverged: lower the learning rate"));
            }
            Ok(Some(engine.params(0)?.into()))
        })
        .collect()
}

/// The steps of a layer's weights with the least squared error, channel by channel.
///
/// # Errors
/// [`ErrorKind::Model`] for weights that are not finite.
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
/// Those of [`calibrate`] and [`fit_weights`].
pub fn quantise(graph: Graph, input: Affine, features: &[f32], how: Calibration) -> Result<Quantised> {
    let ranges = calibrate(&graph, input, features, how)?;
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
    Ok(Quantised::new(graph, input, steps, &ranges))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{codes, tests as nets};
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
            let _ = graph.forward(&x, |i, out| {
                seen[i] = out.iter().fold(seen[i], |(a, b), &y| (a.min(y), b.max(y)));
            });
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
