//! The quantised network during training: what the integer engine computes, on floats.
//!
//! Batch normalisation is folded before anything is quantised and does not come back. Every value between two layers
//! passes an affine quantiser of at most 8 bits where the engine rounds: after each layer with weights and each sum (there the
//! quantiser's lower bound is the ReLU), after each average, on the range of its input, and after each sigmoid. Biases stay in floating
//! point: the engine's 32-bit biases are finer than f32 sums of this size.

use super::float::weight_shapes;
use super::graph::{activate, reads, shared_bases, unweighted, walk, weighted};
use super::param::Param;
use super::range::Range;
use super::weights::{Kind, QuantWeights, Rates};
use super::{Network, See, one_gradient};
use crate::affine::Affine;
use crate::autograd::slice;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::graph::{Basis, row_order};
use crate::spec::{Act, LayerSpec, ModelSpec, Op, Shape, Value};
use qat_kernels::SteVariant;
use qat_kernels::config::StepRule;
use qat_kernels::quantizer::StepInit;
use std::sync::Arc;
use tch::Tensor;

/// A quantised network in training.
#[derive(Debug)]
pub(crate) struct QuantNet {
    spec: ModelSpec,
    weights: Vec<Option<(Vec<usize>, QuantWeights, Param)>>,
    input: Range,
    /// Of the layers that have ranges of their own or fixed codes.
    ranges: Vec<Option<Range>>,
    /// Whose range the output of each layer is rounded to.
    rounds_to: Vec<Option<Value>>,
    /// Those of the rotations.
    bases: Vec<Option<Arc<Basis>>>,
    learning: Learning,
}

/// How the network is to learn.
#[derive(Clone, Debug)]
pub(crate) struct Learning {
    /// The estimator of the weights.
    pub(crate) ste: SteVariant,
    /// How the weights' steps are found before they are learned.
    pub(crate) init: StepInit,
    /// Whether the scales of activations are learned.
    pub(crate) ranges: bool,
    /// Bits of the weights in the stages of the phase before the last, in which every layer has its own. Each stage has
    /// an equal share of the epochs; layers that have more bits keep theirs.
    pub(crate) stages: Vec<u8>,
    /// Steps after which adaptive quantisers choose their k anew.
    pub(crate) choose_every: usize,
}

impl QuantNet {
    /// The quantised form of a folded floating-point checkpoint. `ranges` holds the code of the output of every layer
    /// that has one of its own. Where `importance` has a tensor under the name of a layer's weights, it weights the
    /// errors of the steps' fit.
    pub(crate) fn new(
        spec: &ModelSpec,
        shape: Shape,
        folded: &Checkpoint,
        input: Affine,
        ranges: &[Option<Affine>],
        importance: &Checkpoint,
        learning: Learning,
    ) -> Result<Self> {
        Self::build(
            spec,
            shape,
            input,
            ranges,
            learning,
            |l, kind| {
                let name = format!("{}.weight", l.name);
                let weight = importance.has(&name).then(|| importance.get(&name, kind.shape)).transpose()?;
                QuantWeights::new(folded.get(&name, kind.shape)?, kind, weight)
            },
            folded,
        )
    }

    fn build(
        spec: &ModelSpec,
        shape: Shape,
        input: Affine,
        ranges: &[Option<Affine>],
        learning: Learning,
        weights_of: impl Fn(&LayerSpec, Kind<'_>) -> Result<QuantWeights>,
        biases: &Checkpoint,
    ) -> Result<Self> {
        let shapes = spec.shapes(shape)?;
        let mut weights = Vec::new();
        for (i, (l, of_weights)) in spec.layers.iter().zip(weight_shapes(spec, shape)?).enumerate() {
            weights.push(match (of_weights, l.op.quant()) {
                (Some(of_weights), Some(quant)) => {
                    let order = row_order(spec, i, shape, &shapes);
                    let (ste, init) = (learning.ste, learning.init);
                    let kind = Kind { shape: &of_weights, quant, ste, init, order: &order };
                    let w = weights_of(l, kind).map_err(|e| e.place(format!("layer `{}`", l.name)))?;
                    let out = &of_weights[..1];
                    let bias = Param::new(biases.get(&format!("{}.bias", l.name), out)?, out, false)?;
                    Some((of_weights, w, bias))
                }
                _ => None,
            });
        }
        let mut own = Vec::new();
        for ((l, shape), affine) in spec.layers.iter().zip(&shapes).zip(ranges) {
            own.push(match (l.op.has_range(), affine) {
                (true, Some(affine)) => Some(Range::new(*affine, l.act_bits, shape.len(), learning.ranges)?),
                (true, None) => return Err(l.error("its output has no range")),
                (false, _) => {
                    l.op.fixed_code().map(|code| Range::new(code, 8, shape.len(), false)).transpose()?
                }
            });
        }
        let input = Range::new(input, 8, shape.len(), false)?;
        let (rounds_to, bases) = (rounds_to(spec), shared_bases(spec, shape)?);
        Ok(Self { spec: spec.clone(), weights, input, ranges: own, rounds_to, bases, learning })
    }

    /// The network of a quantised checkpoint.
    pub(crate) fn load(
        spec: &ModelSpec,
        shape: Shape,
        from: &Checkpoint,
        learning: Learning,
    ) -> Result<Self> {
        let affine = |prefix: &str| -> Result<Affine> {
            let (scale, zero_point) = (format!("{prefix}.scale"), format!("{prefix}.zero_point"));
            let (s, z) = (from.get(&scale, &[1])?[0], from.get(&zero_point, &[1])?[0]);
            let fits = s > 0.0 && s.is_normal() && (-128.0..=127.0).contains(&z) && z.fract() == 0.0;
            if !fits {
                return Err(Error::new(
                    ErrorKind::Checkpoint,
                    format!("{s} and {z} are no scale and zero point"),
                )
                .place(format!("tensors `{scale}` and `{zero_point}`")));
            }
            Ok(Affine { scale: s, zero_point: z as i8 })
        };
        let range = |l: &crate::spec::LayerSpec| match l.op.has_range() {
            true => affine(&format!("{}.act", l.name)).map(Some),
            false => Ok(None),
        };
        let ranges = spec.layers.iter().map(range).collect::<Result<Vec<_>>>()?;
        let weights_of = |l: &LayerSpec, kind: Kind<'_>| {
            let name = |part: &str| format!("{}.{part}", l.name);
            let (w, channels) = (from.get(&name("weight"), kind.shape)?, kind.shape[0]);
            let alpha = from.get(&name("alpha"), &[channels])?;
            let divisors: Vec<u8> = match kind.quant.step {
                StepRule::PiAdaptive { group } => {
                    let divisors = from.get(&name("divisors"), &[w.len() / group])?;
                    divisors.iter().map(|&k| k as u8).collect()
                }
                StepRule::Uniform | StepRule::Pi { .. } => Vec::new(),
            };
            QuantWeights::with_steps(w, kind, alpha, &divisors)
        };
        Self::build(spec, shape, affine("input")?, &ranges, learning, weights_of, from)
    }

    fn range(&self, of: Value) -> Option<&Range> {
        match of {
            Value::Input => Some(&self.input),
            Value::Layer(i) => self.ranges[i].as_ref(),
        }
    }
}

/// Whose range each layer's output is rounded to, where the engine rounds at all.
///
/// A rounding that only a max-pooling would see happens after it: rounding keeps order, so that the result is the same,
/// and there are fewer numbers to round.
fn rounds_to(spec: &ModelSpec) -> Vec<Option<Value>> {
    let mut owner: Vec<Value> = Vec::new();
    let mut rounds: Vec<Option<Value>> = Vec::new();
    for (i, l) in spec.layers.iter().enumerate() {
        let source = l.input.of(Value::Input, &owner);
        let owns = l.op.has_range() || l.op.fixed_code().is_some();
        owner.push(if owns { Value::Layer(i) } else { source });
        let averages = matches!(l.op, Op::AvgPool(_) | Op::GlobalAvgPool);
        rounds.push((owns || averages).then_some(owner[i]));
    }
    for (j, l) in spec.layers.iter().enumerate() {
        if let (Op::MaxPool(_), Value::Layer(i)) = (&l.op, l.input) {
            let readers = spec.layers.iter().filter(|l| reads(l).contains(&Some(Value::Layer(i)))).count();
            if readers == 1 {
                rounds[j] = rounds[i].take();
            }
        }
    }
    rounds
}

impl Network for QuantNet {
    /// `x` must be rounded to the code of the input already. There is nothing that depends on `train`.
    fn forward_seen(&self, x: &Tensor, _train: bool, see: See<'_>) -> Result<Tensor> {
        walk(&self.spec, x, |i, l, inputs| {
            let y = match &self.weights[i] {
                Some((_, w, bias)) => weighted(&l.op, inputs.x, w.leaf(), Some(bias.leaf()))?,
                None => unweighted(l, &inputs, self.bases[i].as_ref())?,
            };
            let range = self.rounds_to[i].and_then(|of| self.range(of));
            // Where the code starts at 0, its lower bound is the ReLU.
            let own = self.ranges[i].as_ref();
            let clamps = l.op.act() == Act::Relu && own.is_some_and(Range::starts_at_zero);
            let y = if clamps { y } else { activate(l.op.act(), y)? };
            let y = match range {
                Some(range) => range.forward(&y)?,
                None => y,
            };
            see(i, &y);
            Ok(y)
        })
    }

    fn start_epoch(&mut self, epoch: u32, epochs: u32) -> Result<bool> {
        let stage = epoch as usize * (self.learning.stages.len() + 1) / epochs.max(1) as usize;
        let least = self.learning.stages.get(stage).copied().unwrap_or(0);
        let mut changed = false;
        for (l, w) in self.spec.layers.iter().zip(&mut self.weights) {
            if let (Some(own), Some((_, w, _))) = (l.op.quant(), w) {
                changed |= w.set_bits(own.levels.bits().max(least))?;
            }
        }
        Ok(changed)
    }

    fn finish_step(&mut self, step: usize) -> Result<()> {
        if step.is_multiple_of(self.learning.choose_every.max(1)) {
            self.weights.iter_mut().flatten().try_for_each(|(_, w, _)| w.choose_divisors())?;
        }
        Ok(())
    }

    fn leaves(&self) -> Vec<&Tensor> {
        let weights = self.weights.iter().flatten().flat_map(|(_, w, bias)| [w.leaf(), bias.leaf()]);
        weights.chain(self.ranges.iter().flatten().filter_map(Range::leaf)).collect()
    }

    fn update(&mut self, grads: &[Tensor], rates: &Rates) -> Result<()> {
        let mut grads = grads.iter();
        for (_, w, bias) in self.weights.iter_mut().flatten() {
            let g = one_gradient(grads.next())?.f_contiguous()?;
            w.update(slice(&g)?, rates)?;
            bias.update(slice(one_gradient(grads.next())?)?, rates.factor, rates.weights)?;
        }
        for range in self.ranges.iter_mut().flatten().filter(|r| r.leaf().is_some()) {
            range.update(slice(one_gradient(grads.next())?)?[0] * rates.factor, &rates.scales)?;
        }
        Ok(())
    }

    fn average(&mut self, decay: f32) -> Result<()> {
        for (_, w, bias) in self.weights.iter_mut().flatten() {
            w.average(decay);
            bias.average(decay)?;
        }
        self.ranges.iter_mut().flatten().for_each(|r| r.average(decay));
        Ok(())
    }

    fn swap_average(&mut self) -> Result<()> {
        for (_, w, bias) in self.weights.iter_mut().flatten() {
            w.swap_average()?;
            bias.swap_average()?;
        }
        self.ranges.iter_mut().flatten().try_for_each(Range::swap_average)
    }

    fn save(&self) -> Result<Checkpoint> {
        let mut c = Checkpoint::default();
        let mut put_range = |prefix: &str, range: &Range| -> Result<()> {
            let a = range.affine();
            c.insert(&format!("{prefix}.scale"), &[1], vec![a.scale])?;
            c.insert(&format!("{prefix}.zero_point"), &[1], vec![a.zero_point.into()])
        };
        put_range("input", &self.input)?;
        for (l, range) in self.spec.layers.iter().zip(&self.ranges) {
            if let (true, Some(range)) = (l.op.has_range(), range) {
                put_range(&format!("{}.act", l.name), range)?;
            }
        }
        for (l, weights) in self.spec.layers.iter().zip(&self.weights) {
            if let Some((shape, w, bias)) = weights {
                c.insert(&format!("{}.weight", l.name), shape, w.weights())?;
                c.insert(&format!("{}.alpha", l.name), &shape[..1], w.alpha().to_vec())?;
                c.insert(&format!("{}.bias", l.name), &shape[..1], bias.values()?.to_vec())?;
                if !w.divisors().is_empty() {
                    let k: Vec<f32> = w.divisors().iter().map(|&k| k.into()).collect();
                    c.insert(&format!("{}.divisors", l.name), &[k.len()], k)?;
                }
            }
        }
        Ok(c)
    }

    fn save_state(&self, to: &mut Checkpoint) -> Result<()> {
        for (l, (weights, range)) in self.spec.layers.iter().zip(self.weights.iter().zip(&self.ranges)) {
            if let Some((_, w, bias)) = weights {
                w.save_state(&l.name, to)?;
                bias.save_state(&format!("{}.bias", l.name), to)?;
            }
            if let Some(range) = range {
                range.save_state(&format!("{}.act.scale", l.name), to)?;
            }
        }
        Ok(())
    }

    fn load_state(&mut self, from: &Checkpoint) -> Result<()> {
        for (i, l) in self.spec.layers.iter().enumerate() {
            if let Some((_, w, bias)) = &mut self.weights[i] {
                w.load_state(&l.name, from)?;
                bias.load_state(&format!("{}.bias", l.name), from)?;
            }
            if let Some(range) = &mut self.ranges[i] {
                range.load_state(&format!("{}.act.scale", l.name), from)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Graph, Quantised};
    use crate::nn::{FloatNet, fake_quantize_slice, fold};
    use crate::ptq;
    use crate::spec::Calibration;
    use crate::train::tests::{quarters, small_cnn};

    fn learning() -> Learning {
        let (ste, init) = (SteVariant::LearnedStepSize, StepInit::Mse);
        Learning { ste, init, ranges: true, stages: Vec::new(), choose_every: 100 }
    }

    fn batch(data: &[f32]) -> Tensor {
        Tensor::from_slice(data).view([-1, 8, 8, 1]).permute([0, 3, 1, 2])
    }

    /// A trained-looking checkpoint: batch normalisation with statistics of its own.
    fn float() -> (crate::spec::Run, Checkpoint) {
        let run = small_cnn(4);
        let data = quarters();
        let trainer = crate::train::QatTrainer::new(&run, &data).unwrap();
        let trained = trainer.train_float(&mut |_: &crate::events::QatEvent| ()).unwrap();
        (run, trained.checkpoint)
    }

    #[test]
    fn a_folded_network_computes_the_same() {
        let (run, float) = float();
        let data = quarters();
        let net = FloatNet::load(&run.model, data.shape, &float).unwrap();
        let folded = fold(&run.model, data.shape, &float).unwrap();
        let folded = FloatNet::load_folded(&run.model, data.shape, &folded).unwrap();
        let x = batch(&data.test.features);
        let (a, b) = tch::no_grad(|| (net.forward(&x, false).unwrap(), folded.forward(&x, false).unwrap()));
        let difference = (&a - &b).abs().max().double_value(&[]);
        assert!(difference < 1e-5 * a.abs().max().double_value(&[]).max(1.0), "{difference}");
    }

    /// The graph that is trained is the graph that is exported, down to the code of nearly every activation: sums in
    /// another order may round to the neighbour.
    #[test]
    fn computes_what_the_exported_graph_computes() {
        let (run, float) = float();
        agrees_with_its_export(&run, &float);
        // The same with sigmoids, and numbers instead of a training.
        let text = run.text.replace("act = \"relu\"", "act = \"sigmoid\"").replace("bn = true", "bn = false");
        let run = crate::spec::Run::parse(&text, "run.toml".as_ref()).unwrap();
        assert_eq!(run.model.layers.iter().filter(|l| l.op == Op::Sigmoid).count(), 2);
        let float = crate::graph::tests::checkpoint(&run.model, quarters().shape);
        agrees_with_its_export(&run, &float);
    }

    fn agrees_with_its_export(run: &crate::spec::Run, float: &Checkpoint) {
        let data = quarters();
        let classes = data.classes.len();
        let graph = Graph::from_checkpoint(&run.model, data.shape, classes, float).unwrap();
        let ranges =
            ptq::calibrate(&graph, data.input, &data.train.features, Calibration::default()).unwrap();
        let folded = fold(&run.model, data.shape, float).unwrap();
        let net = QuantNet::new(
            &run.model,
            data.shape,
            &folded,
            data.input,
            &ranges,
            &Checkpoint::default(),
            learning(),
        )
        .unwrap();
        let saved = net.save().unwrap();
        let exported = Graph::from_checkpoint(&run.model, data.shape, classes, &saved).unwrap();
        let exported = Quantised::from_checkpoint(exported, &saved).unwrap();
        let dequantised = exported.dequantised().unwrap();

        let mut x = data.test.features.clone();
        fake_quantize_slice(data.input, &mut x).unwrap();
        let y = tch::no_grad(|| net.forward(&batch(&x), false)).unwrap();
        let step = ranges.last().unwrap().unwrap().scale;
        let mut equal = 0;
        let y = y.contiguous();
        for (ours, example) in slice(&y).unwrap().chunks(3).zip(data.test.examples()) {
            for (a, b) in ours.iter().zip(exported.forward(&dequantised, example).unwrap()) {
                assert!((a - b).abs() < 2.5 * step, "{a} {b} {step}");
                equal += usize::from((a - b).abs() < 1e-6);
            }
        }
        assert!(equal > 280, "{equal} of 300 logits agree");
    }

    #[test]
    fn a_saved_network_loads_bit_for_bit() {
        let (run, float) = float();
        let data = quarters();
        let folded = fold(&run.model, data.shape, &float).unwrap();
        let range = Affine::from_range(-3.0, 5.0);
        let ranges: Vec<_> = run.model.layers.iter().map(|l| l.op.has_range().then_some(range)).collect();
        let net = QuantNet::new(
            &run.model,
            data.shape,
            &folded,
            data.input,
            &ranges,
            &Checkpoint::default(),
            learning(),
        )
        .unwrap();
        let saved = net.save().unwrap();
        let again = QuantNet::load(&run.model, data.shape, &saved, learning()).unwrap();
        assert_eq!(again.save().unwrap(), saved);
        let x = batch(&data.test.features);
        assert!(net.forward(&x, false).unwrap().equal(&again.forward(&x, false).unwrap()));
    }

    #[test]
    fn rounding_waits_for_a_max_pool_and_averages_keep_their_range() {
        let run = small_cnn(1);
        let l = Value::Layer;
        // pool, depthwise, conv, add, avg-pool, global-avg-pool, rotation, linear; before them the stem
        let rounded = [0, 2, 3, 4, 4, 4, 7, 8].map(|i| Some(l(i)));
        let wanted = [None].into_iter().chain(rounded).collect::<Vec<_>>();
        assert_eq!(rounds_to(&run.model), wanted);
    }
}
