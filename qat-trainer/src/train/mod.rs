//! Training: in floating point, calibration, then with quantisation in the loop.

mod augment;
mod batches;
mod fit;
mod schedule;
mod threads;

use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::error::{Error, ErrorKind, Result};
use crate::events::{Phase, QatEvent};
use crate::graph::Graph;
use crate::nn::{FloatNet, Learning, Network, QuantNet, fold, weight_shapes};
use crate::ptq;
use crate::spec::{ActivationQuant, Run, Task};
use batches::Batches;
use fit::{Plan, evaluate, fit};
use threads::Threads;

/// The result of a phase.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// All numbers, under the names of [`crate::checkpoint`].
    pub checkpoint: Checkpoint,
    /// Share of the test split classified correctly, 0 to 1.
    pub test_accuracy: f64,
}

/// The result of both phases.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The floating-point network.
    pub float: Trained,
    /// The quantised network, judged with every rounding of the integer engine in place.
    pub quantised: Trained,
}

/// Trains the network of a run description on a data set.
///
/// On the CPU, the same run description, data, machine and number of cores give the same bits. Torch gets as many
/// threads as a step is worth, one for small networks. Nothing is selected by
/// the test split: what counts is the state after the last epoch.
#[derive(Clone, Copy, Debug)]
pub struct QatTrainer<'a> {
    run: &'a Run,
    data: &'a Dataset,
}

impl<'a> QatTrainer<'a> {
    /// A trainer.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] if the network does not fit the data, [`ErrorKind::Data`] if a split is empty.
    pub fn new(run: &'a Run, data: &'a Dataset) -> Result<Self> {
        run.model.check(data.shape, data.classes.len()).map_err(|e| e.file(&run.file))?;
        if run.model.task != Task::Classify {
            return Err(Error::new(
                ErrorKind::Spec,
                "there is no loss yet for a network that reconstructs its input",
            )
            .place("`task` of [model]")
            .file(&run.file)
            .remedy("train a classifier, or export this network untrained with `qat seeded`"));
        }
        if data.train.len() < 2 || data.test.is_empty() {
            return Err(Error::new(ErrorKind::Data, "too few examples to train on or to judge by")
                .remedy("give at least two for training and one for testing"));
        }
        Ok(Self { run, data })
    }

    /// Both phases.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch fails or the training diverges, [`ErrorKind::Unsupported`] for a quantiser that
    /// cannot be trained.
    pub fn train(&self, on_event: &mut dyn FnMut(&QatEvent)) -> Result<Outcome> {
        let float = self.train_float(on_event)?;
        let quantised = self.train_quantised(&float.checkpoint, on_event)?;
        Ok(Outcome { float, quantised })
    }

    /// The first phase: training in floating point.
    ///
    /// # Errors
    /// As [`Self::train`].
    pub fn train_float(&self, on_event: &mut dyn FnMut(&QatEvent)) -> Result<Trained> {
        let spec = &self.run.train;
        let _threads = Threads::worth(&self.run.model, self.data.shape, spec.batch)?;
        let mut net = FloatNet::new(&self.run.model, self.data.shape, spec.seed)?;
        let plan = Plan {
            phase: Phase::Float,
            epochs: spec.epochs,
            epochs_before: 0,
            peak_rate: spec.lr,
            warm_up: spec.warm_up,
            spec,
        };
        let test_accuracy = fit(&mut net, &self.batches(false), &self.test(false), &plan, on_event)?;
        Ok(Trained { checkpoint: net.save()?, test_accuracy })
    }

    /// The second phase: calibration on the floating-point network, then training with quantisation in the loop.
    ///
    /// # Errors
    /// As [`Self::train`]; besides [`ErrorKind::Checkpoint`] if `float` is not a checkpoint of this network.
    pub fn train_quantised(
        &self,
        float: &Checkpoint,
        on_event: &mut dyn FnMut(&QatEvent),
    ) -> Result<Trained> {
        let (model, shape, qat) = (&self.run.model, self.data.shape, &self.run.qat);
        let _threads = Threads::worth(model, shape, self.run.train.batch)?;
        let graph = Graph::from_checkpoint(model, shape, self.data.classes.len(), float)?;
        let ranges = ptq::calibrate(&graph, self.data.input, &self.data.train.features, qat.calibration)?;
        for (layer, range) in model.layers.iter().zip(&ranges) {
            if let Some(a) = range {
                let (layer, scale, zero_point) = (layer.name.clone(), a.scale, a.zero_point);
                on_event(&QatEvent::Calibrated { layer, scale, zero_point });
            }
        }
        let folded = fold(model, &weight_shapes(model, shape)?, float)?;
        let mut net = QuantNet::new(model, shape, &folded, self.data.input, &ranges, self.learning())?;
        let plan = Plan {
            phase: Phase::Quantised,
            epochs: qat.config.epochs,
            epochs_before: self.run.train.epochs,
            peak_rate: qat.config.learning_rate,
            warm_up: 0.0,
            spec: &self.run.train,
        };
        let test_accuracy = fit(&mut net, &self.batches(true), &self.test(true), &plan, on_event)?;
        Ok(Trained { checkpoint: net.save()?, test_accuracy })
    }

    /// Share of the test split that a floating-point checkpoint classifies correctly, 0 to 1.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if it is not one of this network.
    pub fn evaluate_float(&self, checkpoint: &Checkpoint) -> Result<f64> {
        evaluate(&FloatNet::load(&self.run.model, self.data.shape, checkpoint)?, &self.test(false))
    }

    /// Share of the test split that a quantised checkpoint classifies correctly, 0 to 1, with every rounding of the
    /// integer engine in place.
    ///
    /// # Errors
    /// As [`Self::evaluate_float`].
    pub fn evaluate_quantised(&self, checkpoint: &Checkpoint) -> Result<f64> {
        let net = QuantNet::load(&self.run.model, self.data.shape, checkpoint, self.learning())?;
        evaluate(&net, &self.test(true))
    }

    fn learning(&self) -> Learning {
        let qat = &self.run.qat;
        Learning { ste: qat.config.ste, ranges: qat.activations == ActivationQuant::Learned }
    }

    fn batches(&self, rounded: bool) -> Batches<'_> {
        Batches::new(self.data, &self.data.train, rounded)
    }

    fn test(&self, rounded: bool) -> Batches<'_> {
        Batches::new(self.data, &self.data.test, rounded)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::affine::Affine;
    use crate::data::{Split, Standardisation};
    use crate::random::{Purpose, Random};
    use crate::spec::{Op, Shape};

    /// Every operator, 8×8 grey images, 3 classes.
    pub(crate) fn small_cnn(seed: u64) -> Run {
        let text = format!(
            r#"
[data]
format = "idx"
train_images = "-"
train_labels = "-"
test_images = "-"
test_labels = "-"
[model]
layers = [
  {{ op = "conv", name = "stem", out = 4, kernel = 3, pad = 1, bn = true, act = "relu", bits = 8 }},
  {{ op = "max-pool", name = "pool", kernel = 2 }},
  {{ op = "depthwise", kernel = 3, pad = 1, bn = true, act = "relu6", bits = 4 }},
  {{ op = "conv", out = 4, kernel = 3, pad = 1, bn = true }},
  {{ op = "add", from = "pool", act = "relu" }},
  {{ op = "avg-pool", kernel = 2 }},
  {{ op = "global-avg-pool" }},
  {{ op = "linear", out = 3, bits = 8 }},
]
[train]
epochs = 6
batch = 16
lr = 0.02
clip_norm = 5.0
ema = 0.5
label_smoothing = 0.05
augment = {{ shift = 0.5, rotate = 5, scale = 0.05 }}
seed = {seed}
[qat]
bits = 3
grid = "mid-rise"
step = {{ pi = {{ k = 4 }} }}
epochs = 4
learning_rate = 0.01
"#
        );
        Run::parse(&text, "run.toml".as_ref()).unwrap()
    }

    /// Images whose brightest quarter is the class, with noise.
    pub(crate) fn quarters() -> Dataset {
        let mut random = Random::new(99, Purpose::Order(7));
        let mut split = |n: usize| {
            let mut split = Split::default();
            for _ in 0..n {
                let class = random.below(3);
                for i in 0..64 {
                    let quarter = (i / 32) * 2 + (i % 8) / 4;
                    let signal = if quarter == class { 1.0 } else { 0.0 };
                    split.features.push((signal + 0.4 * random.symmetric()).clamp(-1.0, 1.5));
                }
                split.labels.push(class as u32);
            }
            split
        };
        Dataset {
            train: split(200),
            test: split(100),
            classes: ["a", "b", "c"].map(String::from).to_vec(),
            shape: Shape { h: 8, w: 8, c: 1 },
            standardisation: Standardisation::none(),
            input: Affine::from_range(-1.0, 1.5),
            sha256: [0; 32],
        }
    }

    fn train(seed: u64) -> (Outcome, Vec<QatEvent>) {
        let (run, data) = (small_cnn(seed), quarters());
        let mut events = Vec::new();
        let outcome = QatTrainer::new(&run, &data).unwrap().train(&mut |e| events.push(e.clone())).unwrap();
        (outcome, events)
    }

    #[test]
    fn learns_and_reports() {
        let (outcome, events) = train(3);
        assert!(outcome.float.test_accuracy > 0.95, "{}", outcome.float.test_accuracy);
        assert!(outcome.quantised.test_accuracy > 0.95, "{}", outcome.quantised.test_accuracy);
        let count = |f: fn(&QatEvent) -> bool| events.iter().filter(|e| f(e)).count();
        assert_eq!(count(|e| matches!(e, QatEvent::PhaseStarted { .. })), 2);
        assert_eq!(count(|e| matches!(e, QatEvent::StepDone { .. })), 10 * (200 / 16));
        assert_eq!(count(|e| matches!(e, QatEvent::EpochDone { .. })), 10);
        assert_eq!(count(|e| matches!(e, QatEvent::Calibrated { .. })), 5);
        assert!(matches!(events.last(), Some(QatEvent::PhaseDone { phase: Phase::Quantised, .. })));
    }

    #[test]
    fn one_seed_gives_one_result_bit_for_bit_and_another_another() {
        let (a, events_a) = train(5);
        let (b, events_b) = train(5);
        assert_eq!(a.float.checkpoint.to_bytes().unwrap(), b.float.checkpoint.to_bytes().unwrap());
        assert_eq!(a.quantised.checkpoint.to_bytes().unwrap(), b.quantised.checkpoint.to_bytes().unwrap());
        assert_eq!(events_a, events_b);
        let (c, _) = train(6);
        assert_ne!(a.float.checkpoint, c.float.checkpoint);
    }

    #[test]
    fn checkpoints_bring_their_accuracy_back() {
        let (run, data) = (small_cnn(2), quarters());
        let trainer = QatTrainer::new(&run, &data).unwrap();
        let outcome = trainer.train(&mut |_| ()).unwrap();
        let (float, quantised) = (outcome.float, outcome.quantised);
        assert_eq!(trainer.evaluate_float(&float.checkpoint).unwrap(), float.test_accuracy);
        assert_eq!(trainer.evaluate_quantised(&quantised.checkpoint).unwrap(), quantised.test_accuracy);
        let e = trainer.evaluate_quantised(&float.checkpoint).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Checkpoint);
    }

    #[test]
    fn misfits_are_refused_before_anything_runs() {
        let (run, mut data) = (small_cnn(1), quarters());
        data.classes.push("d".into());
        assert_eq!(QatTrainer::new(&run, &data).unwrap_err().kind(), ErrorKind::Spec);
        let mut data = quarters();
        data.test = Split::default();
        assert_eq!(QatTrainer::new(&run, &data).unwrap_err().kind(), ErrorKind::Data);
    }

    #[test]
    fn divergence_is_an_error_that_says_where() {
        let (mut run, data) = (small_cnn(1), quarters());
        (run.train.lr, run.train.weight_decay) = (1e30, 0.0);
        // Batch normalisation would keep the loss finite.
        for l in &mut run.model.layers {
            if let Op::Conv { bn, .. } | Op::Depthwise { bn, .. } = &mut l.op {
                *bn = false;
            }
        }
        let e = QatTrainer::new(&run, &data).unwrap().train(&mut |_| ()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Train);
        assert!(e.to_string().contains("float phase, epoch"), "{e}");
    }
}
