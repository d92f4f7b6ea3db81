//! What quantisation did to each layer of a network whose unquantised weights are at hand.

use crate::by_weight::{decibels, energy};
use crate::error::{Error, ErrorKind, Result};
use crate::graph::{Quantised, Steps, Weights, codes, dequantised_rows};
use crate::spec::WeightQuant;
use qat_kernels::Grid;
use serde::Serialize;

/// Bins of the histogram over one step of the grid, and over several that are put together.
const BINS_PER_STEP: [usize; 2] = [8, 2];
/// Steps of the histogram beyond the outermost levels.
const MARGIN: i32 = 2;
/// Most steps that a histogram spans in full: beyond it, steps are put together.
const MAX_SPAN: i32 = 40;

/// One layer with weights.
///
/// ```
/// # use qat_trainer::{affine::Affine, analysis::analyse, checkpoint::Checkpoint, spec::{Run, Shape}};
/// # use qat_trainer::graph::{Graph, Quantised, Steps};
/// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 4] }
/// # model = { layers = [{ op = "linear", name = "fc", out = 1, bits = 2 }] }"#, "run.toml".as_ref())?;
/// # let mut c = Checkpoint::default();
/// # c.insert("fc.weight", &[1, 4], vec![-1.0, 0.0, 0.5, 0.5])?;
/// # c.insert("fc.bias", &[1], vec![0.0])?;
/// # let graph = Graph::from_checkpoint(&run.model, Shape::flat(4), 1, &c)?;
/// # let code = Affine { scale: 1.0, zero_point: 0 };
/// // The weights −1, 0, ½ and ½ with codes of two bits.
/// let network = Quantised::new(graph, code, vec![Some(Steps::PerChannel(vec![0.5]))], &[Some(code)]);
/// let layer = analyse(&network)?.remove(0);
/// assert_eq!(layer.codes, [1, 0, 1, 2]); // how many are −2, −1, 0 and 1
/// assert_eq!((layer.steps, layer.sqnr_db), ([0.5, 0.5], None)); // nothing was rounded
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerAnalysis {
    /// Its name.
    pub name: String,
    /// Its operator, as in a run description.
    pub operator: &'static str,
    /// Bits per code.
    pub bits: u8,
    /// Whether 0 is a level.
    pub grid: Grid,
    /// Output channels.
    pub channels: usize,
    /// Number of weights.
    pub weights: usize,
    /// Smallest and largest step Δ of its weights.
    pub steps: [f32; 2],
    /// How many groups chose k = 2, 3, 4, 5; all 0 where k is fixed.
    pub divisors: [usize; 4],
    /// How many weights have each code, from the lowest.
    pub codes: Vec<usize>,
    /// Signal-to-quantisation-noise ratio in dB; `None` where nothing is lost.
    pub sqnr_db: Option<f64>,
    /// The weights in units of their own steps.
    #[serde(skip)]
    pub histogram: Histogram,
}

/// A histogram over the quantisation grid.
///
/// ```
/// # use qat_trainer::{affine::Affine, analysis::analyse, checkpoint::Checkpoint, spec::{Run, Shape}};
/// # use qat_trainer::graph::{Graph, Quantised, Steps};
/// # let toml = r#"data = { format = "none", shape = [1, 1, 3] }
/// # model = { layers = [{ op = "linear", name = "fc", out = 1, bits = 2, grid = "mid-rise" }] }"#;
/// # let run = Run::parse(toml, "run.toml".as_ref())?;
/// # let mut c = Checkpoint::default();
/// # c.insert("fc.weight", &[1, 3], vec![0.1, 0.2, 50.0])?;
/// # c.insert("fc.bias", &[1], vec![0.0])?;
/// # let graph = Graph::from_checkpoint(&run.model, Shape::flat(3), 1, &c)?;
/// # let code = Affine { scale: 1.0, zero_point: 0 };
/// // The weights 0.1, 0.2 and 50 with codes of two bits and no level at 0.
/// let network = Quantised::new(graph, code, vec![Some(Steps::PerChannel(vec![1.0]))], &[Some(code)]);
/// let h = analyse(&network)?.remove(0).histogram;
/// assert_eq!(h.levels, [-1.5, -0.5, 0.5, 1.5]);
/// assert_eq!((h.from, h.to), (-3.5, 3.5)); // two steps more on both sides
/// assert_eq!(h.counts.last(), Some(&1)); // the 50, far outside
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Where it begins and ends, in steps.
    pub from: f64,
    /// Its end.
    pub to: f64,
    /// The counts of equal stretches; what lies outside is in the outermost.
    pub counts: Vec<usize>,
    /// The levels of the grid, in steps.
    pub levels: Vec<f64>,
}

/// Analyses every layer with weights.
///
/// # Errors
/// [`ErrorKind::Model`] for steps that are none.
///
/// ```
/// # use qat_trainer::{ErrorKind, affine::Affine, analysis::analyse, checkpoint::Checkpoint, spec::{Run, Shape}};
/// # use qat_trainer::graph::{Graph, Quantised, Steps};
/// # let toml = r#"data = { format = "none", shape = [1, 1, 8] }
/// # [model]
/// # layers = [{ op = "linear", name = "fc", out = 2, bits = 8, step = { pi-adaptive = { group = 8 } } }]"#;
/// # let run = Run::parse(toml, "run.toml".as_ref())?;
/// # let mut c = Checkpoint::default();
/// # c.insert("fc.weight", &[2, 8], vec![0.5; 16])?;
/// # c.insert("fc.bias", &[2], vec![0.0; 2])?;
/// # let graph = Graph::from_checkpoint(&run.model, Shape::flat(8), 2, &c)?;
/// # let code = Affine { scale: 1.0, zero_point: 0 };
/// // Two rows of 8 weights, a group each.
/// let steps = |divisors| Steps::PiAdaptive { alpha: vec![0.01; 2], divisors, group: 8 };
/// let mut network = Quantised::new(graph, code, vec![Some(steps(vec![3, 5]))], &[Some(code)]);
/// assert_eq!(analyse(&network)?[0].divisors, [0, 1, 0, 1]); // a group with k = 3, one with k = 5
/// network.steps = vec![Some(steps(vec![3, 6]))];
/// let e = analyse(&network).unwrap_err();
/// assert!(e.kind() == ErrorKind::Model && e.to_string().starts_with("layer `fc`: "), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn analyse(network: &Quantised) -> Result<Vec<LayerAnalysis>> {
    let mut layers = Vec::new();
    for (node, steps) in network.graph.nodes.iter().zip(&network.steps) {
        let (Some(weights), Some(quant), Some(steps)) = (&node.weights, node.op.quant(), steps) else {
            continue;
        };
        let (name, operator) = (node.name.clone(), node.op.name());
        let layer = layer(name, operator, weights, quant, steps);
        layers.push(layer.map_err(|e| e.place(format!("layer `{}`", node.name)))?);
    }
    Ok(layers)
}

fn layer(
    name: String,
    operator: &'static str,
    weights: &Weights,
    quant: WeightQuant,
    steps: &Steps,
) -> Result<LayerAnalysis> {
    let levels = quant.levels;
    let values = dequantised_rows(weights, quant, steps)?;
    let found = codes(weights, quant, steps)?;
    let lowest = i32::from(found.iter().copied().min().unwrap_or(0)).min(levels.lo());
    let mut counts = vec![0; (levels.hi() - lowest + 1).max(1) as usize];
    for &code in &found {
        if let Some(count) = counts.get_mut((i32::from(code) - lowest) as usize) {
            *count += 1;
        }
    }
    let mut divisors = [0; 4];
    if let Steps::PiAdaptive { divisors: chosen, .. } = steps {
        for &k in chosen {
            if let Some(count) = divisors.get_mut(usize::from(k).wrapping_sub(2)) {
                *count += 1;
            }
        }
    }
    // A weight's step is what its value is a whole or half multiple of: level(q)·Δ.
    let offset = f64::from(levels.grid().offset());
    let step_of = |channel: usize, index: usize| steps.at(channel, index, weights.fan_in);
    let mut range = [f32::INFINITY, 0f32];
    let span = (levels.hi() - levels.lo() + 1).min(MAX_SPAN);
    let scale = f64::from(levels.hi() - levels.lo() + 1) / f64::from(span);
    let from = f64::from(levels.lo()) + offset - f64::from(MARGIN) * scale;
    let to = f64::from(levels.hi()) + offset + f64::from(MARGIN) * scale;
    let mut histogram = vec![0; (span + 2 * MARGIN) as usize * BINS_PER_STEP[usize::from(scale > 1.0)]];
    let per_bin = (to - from) / histogram.len() as f64;
    for (channel, row) in weights.channel_rows().enumerate() {
        for (i, &w) in row.iter().enumerate() {
            let step = step_of(channel, i)?;
            range = [range[0].min(step), range[1].max(step)];
            let at = (f64::from(w) / f64::from(step) - from) / per_bin;
            let last = histogram.len() - 1;
            histogram[(at.max(0.0) as usize).min(last)] += 1;
        }
    }
    if weights.rows.is_empty() {
        return Err(Error::new(ErrorKind::Model, "the layer has no weights"));
    }
    Ok(LayerAnalysis {
        name,
        operator,
        bits: levels.bits(),
        grid: levels.grid(),
        channels: weights.channels,
        weights: weights.rows.len(),
        steps: range,
        divisors,
        codes: counts,
        sqnr_db: decibels(energy(&weights.rows, &values)),
        histogram: Histogram {
            from,
            to,
            counts: histogram,
            levels: (levels.lo()..=levels.hi()).map(|q| f64::from(q) + offset).collect(),
        },
    })
}

/// The analysis as a table.
///
/// ```
/// # use qat_kernels::Grid;
/// use qat_trainer::analysis::{Histogram, LayerAnalysis, table};
/// let layer = LayerAnalysis {
///     name: "conv1".into(),
///     sqnr_db: Some(10.256),
///     divisors: [0, 7, 0, 1],
///     # operator: "conv", bits: 3, grid: Grid::MidTread, channels: 4, weights: 64, steps: [0.5, 0.75], codes: vec![],
///     # histogram: Histogram::default(),
///     // …
/// };
/// let text = table(&[layer]);
/// assert!(text.lines().eq([&table(&[]), text.lines().nth(1).unwrap_or_default()])); // a heading and a line
/// assert!(text.ends_with("    10.26  0, 7, 0, 1"), "{text}");
/// ```
#[must_use]
pub fn table(layers: &[LayerAnalysis]) -> String {
    let mut text = format!(
        "{:<18} {:<10} {:>4} {:>9} {:>9} {:>11} {:>11} {:>9}  {}",
        "layer",
        "operator",
        "bits",
        "channels",
        "weights",
        "step from",
        "step to",
        "SQNR dB",
        "groups with k = 2, 3, 4, 5"
    );
    for l in layers {
        let sqnr = l.sqnr_db.map_or_else(|| "lossless".into(), |db| format!("{db:.2}"));
        let groups = match l.divisors {
            [0, 0, 0, 0] => String::new(),
            divisors => divisors.map(|n| n.to_string()).join(", "),
        };
        let [a, b] = l.steps;
        text.push_str(&format!(
            "\n{:<18} {:<10} {:>4} {:>9} {:>9} {a:>11.4e} {b:>11.4e} {sqnr:>9}  {groups}",
            l.name, l.operator, l.bits, l.channels, l.weights
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tests as nets;
    use crate::ptq;
    use crate::spec::Calibration;

    #[test]
    fn every_weight_is_counted_and_more_bits_lose_less() {
        let (_, data) = nets::run_and_data();
        let how = Calibration { samples: 5, ..Calibration::default() };
        let network = ptq::quantise(nets::small_cnn(), data.input, &data.train.features, how).unwrap();
        let layers = analyse(&network).unwrap();
        assert_eq!(layers.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["c", "d", "p", "s", "l"]);
        for l in &layers {
            assert_eq!(l.codes.iter().sum::<usize>(), l.weights, "{}", l.name);
            assert_eq!(l.histogram.counts.iter().sum::<usize>(), l.weights, "{}", l.name);
            assert_eq!(l.histogram.levels.len(), 1 << l.bits);
            assert!(l.steps[0] > 0.0 && l.steps[0] <= l.steps[1]);
        }
        for steps in [vec![], vec![0.0; 8], vec![f32::NAN; 8], vec![-1.0; 8]] {
            let mut broken = network.clone();
            broken.steps[0] = Some(Steps::PerChannel(steps));
            let error = analyse(&broken).unwrap_err().to_string();
            assert!(error.starts_with("layer `c`: channel 0 has no positive step"), "{error}");
        }
        for (divisors, group) in [(vec![], 8), (vec![3; 64], 0)] {
            let mut broken = network.clone();
            broken.steps[0] = Some(Steps::PiAdaptive { alpha: vec![1.0; 8], divisors, group });
            let error = analyse(&broken).unwrap_err().to_string();
            assert!(error.starts_with("layer `c`: channel 0 has no α or divisor"), "{error}");
        }
        assert!(layers[0].sqnr_db.unwrap() > layers[1].sqnr_db.unwrap() + 15.0); // 8 bits, 3 bits
        assert_eq!(layers[2].divisors.iter().sum::<usize>(), layers[2].weights / 8);
        assert_eq!(layers[3].divisors, [0; 4]);
        assert!(table(&layers).lines().count() == 6);
    }
}
