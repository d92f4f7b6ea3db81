//! Training: in floating point, calibration, then with quantisation in the loop.

mod augment;
mod batches;
mod fit;
mod schedule;

use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::error::{Error, ErrorKind, Result};
use crate::events::{Phase, QatEvent};
use crate::graph::Graph;
use crate::nn::{FloatNet, Learning, Network, QuantNet, fold, weight_shapes};
use crate::ptq;
use crate::spec::{ActivationQuant, Run};
use batches::Batches;
use fit::{Plan, evaluate, fit};

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
/// On the CPU, the same run description, data, machine and number of threads give the same bits. Nothing is selected by
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
    pub fn train_quantised(&self, float: &Checkpoint, on_event: &mut dyn FnMut(&QatEvent)) -> Result<Trained> {
        let (model, shape, qat) = (&self.run.model, self.data.shape, &self.run.qat);
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
