//! Bits for every layer under a budget of bytes, by how much each layer's precision matters.
//!
//! A layer's loss at b bits is the mean `KL(p ‖ p_b)` over examples, p the answers of the floating-point network and p_b
//! those with this one layer quantised, its steps of least squared error. Losses of layers are taken to add up, as in
//! HAWQ-V2 (Dong et al. 2020), whose choice among the combinations is made exactly here: by dynamic programming over the
//! combinations that no other beats in both bytes and loss. Bytes are those of the exported file.

use crate::affine::Affine;
use crate::data::Dataset;
use crate::error::{Error, ErrorKind, Result};
use crate::export::{About, Options, export};
use crate::graph::{Graph, Quantised, Steps, dequantised_rows};
use crate::ptq::{self, fit_weights};
use crate::spec::{Run, WeightQuant};
use qat_kernels::Levels;
use rayon::prelude::*;

/// Bits that a layer may get.
const BITS: [u8; 4] = [2, 3, 4, 8];
/// Training examples that losses are measured on.
const EXAMPLES: usize = 64;

/// A layer at some bits.
#[derive(Clone, Debug)]
struct Choice {
    bits: u8,
    steps: Steps,
    /// Mean divergence of the answers, in nats.
    loss: f64,
    /// Bytes of the file beyond those with the fewest bits.
    bytes: usize,
}

/// The bits of every layer with weights, by name, such that the exported file has at most `max_bytes` and the sum of the
/// layers' losses is least. `float` is the trained network without quantisation; the grid and step rule of each layer are
/// those of `run`.
///
/// # Errors
/// [`ErrorKind::Model`] if no choice is small enough; those of quantising and exporting.
///
/// ```
/// # use qat_trainer::{affine::Affine, checkpoint::Checkpoint, data::{Dataset, Split, Standardisation}};
/// # use qat_trainer::{ErrorKind, graph::Graph, mixed::search, spec::{Run, Shape}};
/// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 2] }
/// # model = { layers = [{ op = "linear", name = "fc", out = 2 }] }"#, "run.toml".as_ref())?;
/// # let split = Split { features: vec![1.0, 0.5, -0.25, 2.0], labels: vec![0, 1] };
/// # let data = Dataset {
/// #     train: split.clone(), test: split, classes: vec!["a".into(), "b".into()],
/// #     shape: Shape::flat(2), standardisation: Standardisation::none(),
/// #     input: Affine::from_range(-1.0, 2.0), sha256: [1; 32],
/// # };
/// # let mut c = Checkpoint::default();
/// # c.insert("fc.weight", &[2, 2], vec![0.9, -0.37, 0.11, 0.71])?;
/// # c.insert("fc.bias", &[2], vec![0.0, 0.1])?;
/// # let float = Graph::from_checkpoint(&run.model, Shape::flat(2), 2, &c)?;
/// // A network of one layer, `fc`.
/// assert_eq!(search(&run, &data, &float, usize::MAX)?, [("fc".into(), 8)]);
/// let e = search(&run, &data, &float, 100).unwrap_err(); // the names and origins alone take more
/// assert_eq!(e.kind(), ErrorKind::Model);
/// assert!(e.to_string().contains("100 are allowed"), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn search(run: &Run, data: &Dataset, float: &Graph, max_bytes: usize) -> Result<Vec<(String, u8)>> {
    let how = run.qat.calibration;
    let ranges = ptq::calibrate(float, data.input, &data.train.features, how)?;
    let sized = Sized { run, data, float, ranges: &ranges };
    let mut choices = sized.choices()?;
    let fewest: Vec<usize> = vec![0; choices.len()];
    let least = sized.bytes(&choices, &fewest)?;
    for layer in 0..choices.len() {
        for at in 1..choices[layer].len() {
            let mut one = fewest.clone();
            one[layer] = at;
            choices[layer][at].bytes = sized.bytes(&choices, &one)?.saturating_sub(least);
        }
    }
    // Sections are aligned, so that sizes add up but for a few bytes: what comes out too large is searched again.
    let mut budget = max_bytes;
    loop {
        let Some(room) = budget.checked_sub(least) else {
            return Err(Error::new(
                ErrorKind::Model,
                format!(
                    "with {} bits everywhere the file has {least} bytes, {max_bytes} are allowed",
                    BITS[0]
                ),
            )
            .place("`max_bytes` of [qat]")
            .remedy("allow more bytes, or make the network smaller"));
        };
        let chosen = best(&choices, room);
        let bytes = sized.bytes(&choices, &chosen)?;
        if bytes <= max_bytes {
            let layers = sized.layers();
            return Ok(layers
                .zip(&choices)
                .zip(chosen)
                .map(|((node, choices), at)| (float.nodes[node].name.clone(), choices[at].bits))
                .collect());
        }
        budget = budget.saturating_sub(bytes - max_bytes);
    }
}

/// The combination with the least loss whose bytes do not exceed `room`; one index for each layer. The first choice of
/// every layer costs no bytes.
fn best(choices: &[Vec<Choice>], room: usize) -> Vec<usize> {
    // Combinations of the layers so far, by rising bytes and falling loss.
    let mut front: Vec<(usize, f64, Vec<usize>)> = vec![(0, 0.0, Vec::new())];
    for layer in choices {
        let mut next: Vec<(usize, f64, Vec<usize>)> = Vec::new();
        for (bytes, loss, chosen) in &front {
            for (at, choice) in layer.iter().enumerate() {
                let bytes = bytes + choice.bytes;
                if bytes <= room {
                    next.push((bytes, loss + choice.loss, [chosen.as_slice(), &[at]].concat()));
                }
            }
        }
        next.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut least = f64::INFINITY;
        next.retain(|(_, loss, _)| {
            let better = *loss < least;
            least = least.min(*loss);
            better
        });
        front = next;
    }
    front.pop().map(|(_, _, chosen)| chosen).unwrap_or_default()
}

/// What sizes and losses are measured with.
struct Sized<'a> {
    run: &'a Run,
    data: &'a Dataset,
    float: &'a Graph,
    ranges: &'a [Option<Affine>],
}

impl Sized<'_> {
    /// Indices of the layers with weights.
    fn layers(&self) -> impl Iterator<Item = usize> {
        (0..self.float.nodes.len()).filter(|&i| self.float.nodes[i].weights.is_some())
    }

    /// Every layer at every number of bits, without sizes.
    fn choices(&self) -> Result<Vec<Vec<Choice>>> {
        let width = self.float.input.len();
        let examples: Vec<Vec<f32>> = self
            .data
            .train
            .features
            .chunks_exact(width)
            .take(EXAMPLES)
            .map(|x| x.iter().map(|&x| self.data.input.fake_quantize(x)).collect())
            .collect();
        let answers = |graph: &Graph| -> Result<Vec<Vec<f64>>> {
            examples.par_iter().map(|x| Ok(log_softmax(&graph.forward(x, |_, _| {})?))).collect()
        };
        let wanted = answers(self.float)?;
        let mut all = Vec::new();
        for node in self.layers() {
            let mut of_layer = Vec::new();
            for bits in BITS {
                let (Some(weights), Some(quant)) = (&self.float.nodes[node].weights, self.quant(node, bits)?)
                else {
                    continue;
                };
                let steps = fit_weights(weights, quant)?;
                let mut graph = self.float.clone();
                if let Some(w) = &mut graph.nodes[node].weights {
                    w.rows = dequantised_rows(weights, quant, &steps)?;
                }
                let apart = answers(&graph)?.iter().zip(&wanted).map(|(q, p)| divergence(p, q)).sum::<f64>();
                let loss = apart / examples.len().max(1) as f64;
                of_layer.push(Choice { bits, steps, loss, bytes: 0 });
            }
            all.push(of_layer);
        }
        Ok(all)
    }

    /// The quantiser of a layer at some bits.
    fn quant(&self, node: usize, bits: u8) -> Result<Option<WeightQuant>> {
        let Some(quant) = self.float.nodes[node].op.quant() else { return Ok(None) };
        Ok(Some(WeightQuant { levels: Levels::new(bits, quant.levels.grid())?, ..quant }))
    }

    /// Bytes of the file of a combination.
    fn bytes(&self, choices: &[Vec<Choice>], chosen: &[usize]) -> Result<usize> {
        let mut graph = self.float.clone();
        let mut steps: Vec<Option<Steps>> = vec![None; graph.nodes.len()];
        for ((node, choices), &at) in self.layers().zip(choices).zip(chosen) {
            let choice = &choices[at];
            if let Some(quant) = self.quant(node, choice.bits)? {
                graph.nodes[node].op.set_quant(quant);
                steps[node] = Some(choice.steps.clone());
            }
        }
        bytes_of(&Quantised::new(graph, self.data.input, steps, self.ranges), self.run, self.data)
    }
}

/// Bytes of the exported file of a network, with the longest provenance that it can get.
fn bytes_of(network: &Quantised, run: &Run, data: &Dataset) -> Result<usize> {
    let about =
        About::new(run, data, format!("qat, calibrated ranges, {}", run.qat.calibration.method.name()));
    let options = Options { created: u64::MAX, ..Options::default() };
    Ok(export(network, &run.name, &about, [0; 32], options)?.len())
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().fold(f32::NEG_INFINITY, |m, &l| m.max(l));
    let sum: f64 = logits.iter().map(|l| f64::from(l - top).exp()).sum();
    logits.iter().map(|l| f64::from(l - top) - sum.ln()).collect()
}

/// `KL(p ‖ q)` from logarithms.
fn divergence(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tests as nets;

    fn choices(table: &[&[(f64, usize)]]) -> Vec<Vec<Choice>> {
        let steps = Steps::PerChannel(vec![1.0]);
        let choice = |(i, &(loss, bytes)): (usize, &(f64, usize))| Choice {
            bits: BITS[i],
            steps: steps.clone(),
            loss,
            bytes,
        };
        table.iter().map(|layer| layer.iter().enumerate().map(choice).collect()).collect()
    }

    #[test]
    fn the_best_combination_is_found_and_nothing_cheaper_is_better() {
        let table = choices(&[
            &[(9.0, 0), (4.0, 10), (2.0, 20), (0.0, 60)],
            &[(1.0, 0), (0.5, 5), (0.2, 10), (0.0, 30)],
            &[(5.0, 0), (0.1, 40), (0.05, 80), (0.0, 240)],
        ]);
        let total = |chosen: &[usize]| -> (usize, f64) {
            chosen.iter().zip(&table).fold((0, 0.0), |(b, l), (&at, c)| (b + c[at].bytes, l + c[at].loss))
        };
        for room in [0, 7, 20, 33, 64, 100, 1000] {
            let mut least = f64::INFINITY;
            for a in 0..4 {
                for b in 0..4 {
                    for c in 0..4 {
                        let (bytes, loss) = total(&[a, b, c]);
                        if bytes <= room {
                            least = least.min(loss);
                        }
                    }
                }
            }
            let (bytes, loss) = total(&best(&table, room));
            assert!(bytes <= room && (loss - least).abs() < 1e-12, "{room}: {loss} {least}");
        }
    }

    #[test]
    fn budgets_are_kept_by_the_exported_file_and_more_bytes_never_hurt() {
        let (run, data) = nets::run_and_data();
        let float = nets::small_cnn();
        let bytes = |bits: &[(String, u8)]| {
            let run = run.with_bits(bits).unwrap();
            let mut graph = float.clone();
            for (node, layer) in graph.nodes.iter_mut().zip(&run.model.layers) {
                node.op = layer.op.clone();
            }
            let network =
                ptq::quantise(graph, data.input, &data.train.features, run.qat.calibration).unwrap();
            bytes_of(&network, &run, &data).unwrap()
        };
        let all = |bits: u8| -> Vec<(String, u8)> {
            let weighted = float.nodes.iter().filter(|n| n.weights.is_some());
            weighted.map(|n| (n.name.clone(), bits)).collect()
        };
        let (least, most) = (bytes(&all(2)), bytes(&all(8)));
        assert_eq!(search(&run, &data, &float, most).unwrap(), all(8));
        // What alignment leaves free may be used, but no byte more.
        assert!(bytes(&search(&run, &data, &float, least).unwrap()) <= least);
        for budget in [least + 40, (least + most) / 2, most - 40] {
            let chosen = search(&run, &data, &float, budget).unwrap();
            let bytes = bytes(&chosen);
            assert!(bytes <= budget && bytes + 120 > budget, "{bytes} of {budget}: {chosen:?}");
        }
        let e = search(&run, &data, &float, least - 1).unwrap_err().to_string();
        assert!(e.contains("`max_bytes` of [qat]") && e.contains(&format!("{least} bytes")), "{e}");
    }
}
