//! Training: in floating point, calibration, then with quantisation in the loop.

mod augment;
mod batches;
mod checkpoint;
mod fisher;
mod fit;
mod loader;
mod loss;
mod schedule;
mod session;
mod teacher;
mod threads;

pub use checkpoint::TrainingCheckpoint;
pub(crate) use fit::clip_factor;
pub(crate) use schedule::Rate;
pub use session::Listener;

use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::error::{Error, ErrorKind, Result};
use crate::events::{Phase, QatEvent};
use crate::graph::Graph;
use crate::nn::{FloatNet, Learning, Network, QuantNet, fold};
use crate::spec::{ActivationQuant, Importance, Run, Task, TeacherSource};
use crate::{mixed, ptq};
use batches::{Batches, Examples};
use checkpoint::fingerprint;
use fisher::fisher;
use fit::{Plan, evaluate, fit};
use loss::Objective;
use session::Session;
use teacher::Teacher;
use threads::Threads;

/// The result of a phase.
///
/// ```
/// # use qat_trainer::{affine::Affine, data::{Dataset, Split, Standardisation}, spec::{Run, Shape}};
/// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 1] }
/// # model = { layers = [{ op = "linear", name = "fc", out = 2 }] }
/// # train = { epochs = 40, batch = 4, lr = 0.2 }
/// # qat = { epochs = 5 }"#, "run.toml".as_ref())?;
/// # let half = Split { features: vec![-1.0, -0.5, 0.5, 1.0], labels: vec![0, 0, 1, 1] };
/// # let data = Dataset {
/// #     train: half.clone(), test: half, classes: ["below", "above"].map(String::from).to_vec(),
/// #     shape: Shape::flat(1), standardisation: Standardisation::none(),
/// #     input: Affine::from_range(-1.0, 1.0), sha256: [0; 32],
/// # };
/// use qat_trainer::{events::QatEvent, train::{QatTrainer, Trained}};
/// // Numbers, to be told apart by their sign.
/// let trainer = QatTrainer::new(&run, &data)?;
/// let Trained { checkpoint, test_accuracy } = trainer.train_float(&mut |_: &QatEvent| ())?;
/// assert_eq!(test_accuracy, 1.0);
/// assert!(checkpoint.has("fc.weight") && !checkpoint.has("fc.alpha")); // not quantised yet
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// All numbers, under the names of [`crate::checkpoint`].
    pub checkpoint: Checkpoint,
    /// Share of the test split classified correctly, 0 to 1.
    pub test_accuracy: f64,
}

/// The result of both phases.
///
/// ```
/// # use qat_trainer::{affine::Affine, data::{Dataset, Split, Standardisation}, spec::{Run, Shape}};
/// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 1] }
/// # model = { layers = [{ op = "linear", name = "fc", out = 2 }] }
/// # train = { epochs = 40, batch = 4, lr = 0.2 }
/// # qat = { epochs = 5 }"#, "run.toml".as_ref())?;
/// # let half = Split { features: vec![-1.0, -0.5, 0.5, 1.0], labels: vec![0, 0, 1, 1] };
/// # let data = Dataset {
/// #     train: half.clone(), test: half, classes: ["below", "above"].map(String::from).to_vec(),
/// #     shape: Shape::flat(1), standardisation: Standardisation::none(),
/// #     input: Affine::from_range(-1.0, 1.0), sha256: [0; 32],
/// # };
/// use qat_trainer::{events::QatEvent, train::{Outcome, QatTrainer}};
/// // A layer `fc` with two outputs, and no budget of bytes.
/// let Outcome { float, quantised, bits } = QatTrainer::new(&run, &data)?.train(&mut |_: &QatEvent| ())?;
/// assert!(!float.checkpoint.has("fc.alpha"));
/// assert!(quantised.checkpoint.get("fc.alpha", &[2])?.iter().all(|step| *step > 0.0));
/// assert_eq!(bits, None); // those of the run description
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The floating-point network.
    pub float: Trained,
    /// The quantised network, judged with every rounding of the integer engine in place.
    pub quantised: Trained,
    /// The bits of every layer with weights, if they were chosen under a budget: the quantised network is one of the run
    /// description with them, [`Run::with_bits`].
    pub bits: Option<Vec<(String, u8)>>,
}

/// Trains the network of a run description on a data set.
///
/// On the CPU, the same run description, data, machine and number of cores give the same bits, whether the training runs
/// through or is stopped and resumed. Torch gets as many threads as a step is worth, one for small networks. Nothing is
/// selected by the test split: what counts is the state after the last epoch, or that with the smallest loss on examples
/// held back from the training split.
#[derive(Clone, Copy, Debug)]
pub struct QatTrainer<'a> {
    run: &'a Run,
    data: &'a Dataset,
}

impl<'a> QatTrainer<'a> {
    /// A trainer.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] if the network or the way of training does not fit the data, [`ErrorKind::Data`] if a split
    /// has too few examples.
    ///
    /// ```
    /// # use qat_trainer::{affine::Affine, data::{Dataset, Split, Standardisation}, spec::{Run, Shape}};
    /// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 1] }
    /// # model = { layers = [{ op = "linear", name = "fc", out = 2 }] }
    /// # train = { epochs = 40, batch = 4, lr = 0.2 }
    /// # qat = { epochs = 5 }"#, "run.toml".as_ref())?;
    /// # let half = Split { features: vec![-1.0, -0.5, 0.5, 1.0], labels: vec![0, 0, 1, 1] };
    /// # let data = Dataset {
    /// #     train: half.clone(), test: half, classes: ["below", "above"].map(String::from).to_vec(),
    /// #     shape: Shape::flat(1), standardisation: Standardisation::none(),
    /// #     input: Affine::from_range(-1.0, 1.0), sha256: [0; 32],
    /// # };
    /// use qat_trainer::{ErrorKind, train::QatTrainer};
    /// // Two classes, and a network with two outputs.
    /// assert!(QatTrainer::new(&run, &data).is_ok());
    /// let three = Dataset { classes: ["below", "at", "above"].map(String::from).to_vec(), ..data };
    /// assert_eq!(QatTrainer::new(&run, &three).map_err(|e| e.kind()).err(), Some(ErrorKind::Spec));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn new(run: &'a Run, data: &'a Dataset) -> Result<Self> {
        let in_run = |e: Error| e.file(&run.file);
        run.model.check(data.shape, data.classes.len()).map_err(in_run)?;
        if run.model.task != Task::Classify {
            return Err(in_run(
                Error::new(ErrorKind::Spec, "there is no loss yet for a network that reconstructs its input")
                    .place("`task` of [model]")
                    .remedy("train a classifier, or export this network untrained with `qat seeded`"),
            ));
        }
        let least = if run.train.validation > 0.0 { 3 } else { 2 };
        if data.train.len() < least || data.test.is_empty() {
            return Err(Error::new(ErrorKind::Data, "too few examples to train on or to judge by")
                .remedy(format!("give at least {least} for training and one for testing")));
        }
        if run.train.augment.needs_a_map() && data.shape.is_flat() {
            return Err(in_run(
                Error::new(
                    ErrorKind::Spec,
                    "the examples are neither images nor series, but rows of features",
                )
                .place("`augment` of [train]")
                .remedy("keep gain and noise alone"),
            ));
        }
        Objective::new(&run.train, data.classes.len(), &data.train).map_err(in_run)?;
        if let Some(spec) = &run.distill
            && spec.teacher != TeacherSource::Own
        {
            // Nobody wants to hear of a missing teacher after the first phase.
            Teacher::new(run, data, spec, &Checkpoint::default())?;
        }
        Ok(Self { run, data })
    }

    /// Both phases.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch fails or the training diverges, [`ErrorKind::Stopped`] if the listener asks for it,
    /// and what the listener fails with.
    ///
    /// ```
    /// # use qat_trainer::{affine::Affine, data::{Dataset, Split, Standardisation}, spec::{Run, Shape}};
    /// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 1] }
    /// # model = { layers = [{ op = "linear", name = "fc", out = 2 }] }
    /// # train = { epochs = 40, batch = 4, lr = 0.2 }
    /// # qat = { epochs = 5 }"#, "run.toml".as_ref())?;
    /// # let half = Split { features: vec![-1.0, -0.5, 0.5, 1.0], labels: vec![0, 0, 1, 1] };
    /// # let data = Dataset {
    /// #     train: half.clone(), test: half, classes: ["below", "above"].map(String::from).to_vec(),
    /// #     shape: Shape::flat(1), standardisation: Standardisation::none(),
    /// #     input: Affine::from_range(-1.0, 1.0), sha256: [0; 32],
    /// # };
    /// use qat_trainer::{events::{Phase, QatEvent}, train::QatTrainer};
    /// // 40 epochs in floating point, then 5.
    /// let mut epochs = Vec::new();
    /// let outcome = QatTrainer::new(&run, &data)?.train(&mut |event: &QatEvent| {
    ///     if let QatEvent::EpochDone { phase, epoch, .. } = event {
    ///         epochs.push((*phase, *epoch));
    ///     }
    /// })?;
    /// assert_eq!((epochs[39], epochs[44]), ((Phase::Float, 40), (Phase::Quantised, 5)));
    /// assert_eq!(outcome.quantised.test_accuracy, 1.0);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn train(&self, listener: &mut dyn Listener) -> Result<Outcome> {
        self.run(None, listener)
    }

    /// The rest of a training, from a checkpoint that a listener got. The result is the same, bit for bit, as if it had
    /// never been interrupted.
    ///
    /// # Errors
    /// As [`Self::train`], and [`ErrorKind::Checkpoint`] if the checkpoint is not one of this training.
    ///
    /// ```
    /// # use qat_trainer::{affine::Affine, data::{Dataset, Split, Standardisation}, spec::{Run, Shape}};
    /// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 1] }
    /// # model = { layers = [{ op = "linear", name = "fc", out = 2 }] }
    /// # train = { epochs = 40, batch = 4, lr = 0.2 }
    /// # qat = { epochs = 5 }"#, "run.toml".as_ref())?;
    /// # let half = Split { features: vec![-1.0, -0.5, 0.5, 1.0], labels: vec![0, 0, 1, 1] };
    /// # let data = Dataset {
    /// #     train: half.clone(), test: half, classes: ["below", "above"].map(String::from).to_vec(),
    /// #     shape: Shape::flat(1), standardisation: Standardisation::none(),
    /// #     input: Affine::from_range(-1.0, 1.0), sha256: [0; 32],
    /// # };
    /// use qat_trainer::events::QatEvent;
    /// use qat_trainer::train::{Listener, QatTrainer, TrainingCheckpoint};
    /// /// Stops at the first opportunity.
    /// struct Impatient(Option<TrainingCheckpoint>);
    /// impl Listener for Impatient {
    ///     fn event(&mut self, _: &QatEvent) {}
    ///     fn wants_stop(&mut self) -> bool {
    ///         true
    ///     }
    ///     fn checkpoint(&mut self, state: &TrainingCheckpoint) -> qat_trainer::Result<()> {
    ///         self.0 = Some(state.clone());
    ///         Ok(())
    ///     }
    /// }
    /// let (trainer, mut listener) = (QatTrainer::new(&run, &data)?, Impatient(None));
    /// assert!(trainer.train(&mut listener).is_err());
    /// let state = listener.0.ok_or("no checkpoint")?;
    /// let resumed = trainer.resume(&state, &mut |_: &QatEvent| ())?;
    /// assert_eq!(resumed, trainer.train(&mut |_: &QatEvent| ())?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resume(&self, from: &TrainingCheckpoint, listener: &mut dyn Listener) -> Result<Outcome> {
        self.run(Some(from), listener)
    }

    fn run(&self, from: Option<&TrainingCheckpoint>, listener: &mut dyn Listener) -> Result<Outcome> {
        let fingerprint = fingerprint(self.run, self.data)?;
        if let Some(from) = from {
            from.belongs_to(&fingerprint)?;
        }
        let mut session = Session::new(listener, fingerprint, from.map_or(0, |c| c.text.events));
        let in_quantised = from.filter(|c| c.text.phase == Phase::Quantised);
        let float = match in_quantised.and_then(|c| c.float.clone()) {
            Some(float) => float,
            None => self.float_phase(from, &mut session)?,
        };
        session.float = Some(float.clone());
        session.bits = match in_quantised {
            Some(state) => state.text.bits.clone(),
            None => self.choose_bits(&float.checkpoint, &mut session)?,
        };
        let quantised =
            match session.bits.clone() {
                None => self.quantised_phase(&float.checkpoint, in_quantised, &mut session)?,
                Some(bits) => QatTrainer { run: &self.run.with_bits(&bits)?, data: self.data }
                    .quantised_phase(&float.checkpoint, in_quantised, &mut session)?,
            };
        Ok(Outcome { float, quantised, bits: session.bits })
    }

    /// The first phase alone: training in floating point.
    ///
    /// # Errors
    /// As [`Self::train`].
    ///
    /// ```
    /// # use qat_trainer::{affine::Affine, data::{Dataset, Split, Standardisation}, spec::{Run, Shape}};
    /// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 1] }
    /// # model = { layers = [{ op = "linear", name = "fc", out = 2 }] }
    /// # train = { epochs = 40, batch = 4, lr = 0.2 }
    /// # qat = { epochs = 5 }"#, "run.toml".as_ref())?;
    /// # let half = Split { features: vec![-1.0, -0.5, 0.5, 1.0], labels: vec![0, 0, 1, 1] };
    /// # let data = Dataset {
    /// #     train: half.clone(), test: half, classes: ["below", "above"].map(String::from).to_vec(),
    /// #     shape: Shape::flat(1), standardisation: Standardisation::none(),
    /// #     input: Affine::from_range(-1.0, 1.0), sha256: [0; 32],
    /// # };
    /// use qat_trainer::{events::{Phase, QatEvent}, train::QatTrainer};
    /// let mut ended = Vec::new();
    /// let float = QatTrainer::new(&run, &data)?.train_float(&mut |event: &QatEvent| {
    ///     if let QatEvent::PhaseDone { phase, test_accuracy } = event {
    ///         ended.push((*phase, *test_accuracy));
    ///     }
    /// })?;
    /// assert_eq!(ended, [(Phase::Float, float.test_accuracy)]);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn train_float(&self, listener: &mut dyn Listener) -> Result<Trained> {
        self.float_phase(None, &mut Session::new(listener, fingerprint(self.run, self.data)?, 0))
    }

    /// The second phase alone: calibration on a floating-point network, then training with quantisation in the loop.
    ///
    /// # Errors
    /// As [`Self::train`]; besides [`ErrorKind::Checkpoint`] if `float` is not a checkpoint of this network.
    ///
    /// ```
    /// # use qat_trainer::{affine::Affine, data::{Dataset, Split, Standardisation}, spec::{Run, Shape}};
    /// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 1] }
    /// # model = { layers = [{ op = "linear", name = "fc", out = 2 }] }
    /// # train = { epochs = 40, batch = 4, lr = 0.2 }
    /// # qat = { epochs = 5 }"#, "run.toml".as_ref())?;
    /// # let half = Split { features: vec![-1.0, -0.5, 0.5, 1.0], labels: vec![0, 0, 1, 1] };
    /// # let data = Dataset {
    /// #     train: half.clone(), test: half, classes: ["below", "above"].map(String::from).to_vec(),
    /// #     shape: Shape::flat(1), standardisation: Standardisation::none(),
    /// #     input: Affine::from_range(-1.0, 1.0), sha256: [0; 32],
    /// # };
    /// use qat_trainer::{events::QatEvent, train::QatTrainer};
    /// let trainer = QatTrainer::new(&run, &data)?;
    /// let float = trainer.train_float(&mut |_: &QatEvent| ())?; // or one from a file
    /// let quantised = trainer.train_quantised(&float, &mut |_: &QatEvent| ())?;
    /// assert_eq!(quantised, trainer.train(&mut |_: &QatEvent| ())?.quantised);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn train_quantised(&self, float: &Trained, listener: &mut dyn Listener) -> Result<Trained> {
        let mut session = Session::new(listener, fingerprint(self.run, self.data)?, 0);
        session.float = Some(float.clone());
        self.quantised_phase(&float.checkpoint, None, &mut session)
    }

    fn float_phase(&self, from: Option<&TrainingCheckpoint>, session: &mut Session<'_>) -> Result<Trained> {
        let (model, shape, spec) = (&self.run.model, self.data.shape, &self.run.train);
        let _threads = Threads::worth(model, shape, spec.batch)?;
        let mut net = match from {
            None => FloatNet::new(model, shape, spec.init, spec.seed)?,
            Some(state) => {
                let mut net = FloatNet::load(model, shape, &state.network)?;
                net.load_state(&state.network)?;
                net
            }
        };
        let plan = Plan {
            phase: Phase::Float,
            epochs: spec.epochs,
            epochs_before: 0,
            peak_rate: spec.lr,
            peak_scale_rate: spec.lr,
            warm_up: spec.warm_up,
            spec,
        };
        fit(&mut net, &self.examples(false), &self.objective()?, &plan, from, session)
    }

    fn quantised_phase(
        &self,
        float: &Checkpoint,
        from: Option<&TrainingCheckpoint>,
        session: &mut Session<'_>,
    ) -> Result<Trained> {
        let (model, shape, qat) = (&self.run.model, self.data.shape, &self.run.qat);
        let _threads = Threads::worth(model, shape, self.run.train.batch)?;
        let mut net = match from {
            None => self.quantise(float, session)?,
            Some(state) => {
                let mut net = QuantNet::load(model, shape, &state.network, self.learning())?;
                net.load_state(&state.network)?;
                net
            }
        };
        let plan = Plan {
            phase: Phase::Quantised,
            epochs: qat.config.epochs,
            epochs_before: self.run.train.epochs,
            peak_rate: qat.config.learning_rate,
            peak_scale_rate: qat.scale_learning_rate,
            warm_up: 0.0,
            spec: &self.run.train,
        };
        let mut objective = self.objective()?;
        if let Some(spec) = &self.run.distill {
            objective.teacher = Some(Teacher::new(self.run, self.data, spec, float)?);
        }
        fit(&mut net, &self.examples(true), &objective, &plan, from, session)
    }

    /// The bits of every layer, if there is a budget to choose them under.
    fn choose_bits(
        &self,
        float: &Checkpoint,
        session: &mut Session<'_>,
    ) -> Result<Option<Vec<(String, u8)>>> {
        let Some(max_bytes) = self.run.qat.max_bytes else { return Ok(None) };
        let (model, data) = (&self.run.model, self.data);
        let graph = Graph::from_checkpoint(model, data.shape, data.classes.len(), float)?;
        let bits = mixed::search(self.run, data, &graph, max_bytes).map_err(|e| e.file(&self.run.file))?;
        for (layer, bits) in &bits {
            session.tell(&QatEvent::BitsChosen { layer: layer.clone(), bits: *bits });
        }
        Ok(Some(bits))
    }

    /// The start of the second phase.
    fn quantise(&self, float: &Checkpoint, session: &mut Session<'_>) -> Result<QuantNet> {
        let (model, shape, qat) = (&self.run.model, self.data.shape, &self.run.qat);
        let graph = Graph::from_checkpoint(model, shape, self.data.classes.len(), float)?;
        let ranges = ptq::calibrate(&graph, self.data.input, &self.data.train.features, qat.calibration)?;
        for (layer, range) in model.layers.iter().zip(&ranges) {
            if let Some(a) = range {
                let (layer, scale, zero_point) = (layer.name.clone(), a.scale, a.zero_point);
                session.tell(&QatEvent::Calibrated { layer, scale, zero_point });
            }
        }
        let folded = fold(model, shape, float)?;
        let importance = match qat.importance {
            Importance::None => Checkpoint::default(),
            Importance::Fisher => fisher(model, self.data, &folded, qat.calibration.samples)?,
        };
        QuantNet::new(model, shape, &folded, self.data.input, &ranges, &importance, self.learning())
    }

    /// Share of the test split that a floating-point checkpoint classifies correctly, 0 to 1.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if it is not one of this network.
    ///
    /// ```
    /// # use qat_trainer::{affine::Affine, data::{Dataset, Split, Standardisation}, spec::{Run, Shape}};
    /// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 1] }
    /// # model = { layers = [{ op = "linear", name = "fc", out = 2 }] }
    /// # train = { epochs = 40, batch = 4, lr = 0.2 }
    /// # qat = { epochs = 5 }"#, "run.toml".as_ref())?;
    /// # let half = Split { features: vec![-1.0, -0.5, 0.5, 1.0], labels: vec![0, 0, 1, 1] };
    /// # let data = Dataset {
    /// #     train: half.clone(), test: half, classes: ["below", "above"].map(String::from).to_vec(),
    /// #     shape: Shape::flat(1), standardisation: Standardisation::none(),
    /// #     input: Affine::from_range(-1.0, 1.0), sha256: [0; 32],
    /// # };
    /// use qat_trainer::{checkpoint::Checkpoint, train::QatTrainer};
    /// // A layer `fc` that gets four numbers, of which half are positive: class 1.
    /// let trainer = QatTrainer::new(&run, &data)?;
    /// let mut c = Checkpoint::default();
    /// c.insert("fc.bias", &[2], vec![0.0, 0.0])?;
    /// for (weights, accuracy) in [([-1.0, 1.0], 1.0), ([1.0, -1.0], 0.0)] {
    ///     c.insert("fc.weight", &[2, 1], weights.to_vec())?;
    ///     assert_eq!(trainer.evaluate_float(&c)?, accuracy);
    /// }
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn evaluate_float(&self, checkpoint: &Checkpoint) -> Result<f64> {
        evaluate(&FloatNet::load(&self.run.model, self.data.shape, checkpoint)?, &self.test(false))
    }

    /// Share of the test split that a quantised checkpoint classifies correctly, 0 to 1, with every rounding of the
    /// integer engine in place.
    ///
    /// # Errors
    /// As [`Self::evaluate_float`].
    ///
    /// ```
    /// # use qat_trainer::{affine::Affine, data::{Dataset, Split, Standardisation}, spec::{Run, Shape}};
    /// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 1] }
    /// # model = { layers = [{ op = "linear", name = "fc", out = 2 }] }
    /// # train = { epochs = 40, batch = 4, lr = 0.2 }
    /// # qat = { epochs = 5 }"#, "run.toml".as_ref())?;
    /// # let half = Split { features: vec![-1.0, -0.5, 0.5, 1.0], labels: vec![0, 0, 1, 1] };
    /// # let data = Dataset {
    /// #     train: half.clone(), test: half, classes: ["below", "above"].map(String::from).to_vec(),
    /// #     shape: Shape::flat(1), standardisation: Standardisation::none(),
    /// #     input: Affine::from_range(-1.0, 1.0), sha256: [0; 32],
    /// # };
    /// use qat_trainer::{checkpoint::Checkpoint, train::QatTrainer};
    /// // A layer `fc` that gets four numbers, of which half are positive: class 1.
    /// let trainer = QatTrainer::new(&run, &data)?;
    /// let mut c = Checkpoint::default();
    /// c.insert("fc.weight", &[2, 1], vec![-1.0, 1.0])?;
    /// c.insert("fc.bias", &[2], vec![0.0, 0.0])?;
    /// c.insert("fc.alpha", &[2], vec![1.0, 1.0])?;
    /// c.insert("input.scale", &[1], vec![1.0 / 64.0])?;
    /// c.insert("fc.act.scale", &[1], vec![0.25])?;
    /// for code in ["input", "fc.act"] {
    ///     c.insert(&format!("{code}.zero_point"), &[1], vec![0.0])?;
    /// }
    /// assert_eq!(trainer.evaluate_quantised(&c)?, 1.0);
    /// c.insert("fc.act.scale", &[1], vec![4.0])?;
    /// assert_eq!(trainer.evaluate_quantised(&c)?, 0.5); // all logits round to 0: a tie, and the first class
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn evaluate_quantised(&self, checkpoint: &Checkpoint) -> Result<f64> {
        let net = QuantNet::load(&self.run.model, self.data.shape, checkpoint, self.learning())?;
        evaluate(&net, &self.test(true))
    }

    fn learning(&self) -> Learning {
        let qat = &self.run.qat;
        Learning {
            ste: qat.config.ste,
            init: qat.init,
            ranges: qat.activations == ActivationQuant::Learned,
            stages: qat.progressive.clone(),
            choose_every: qat.choose_k_every,
        }
    }

    fn objective(&self) -> Result<Objective> {
        Objective::new(&self.run.train, self.data.classes.len(), &self.data.train)
    }

    fn examples(&self, rounded: bool) -> Examples<'_> {
        Examples::new(self.data, self.run.train.validation, self.run.train.seed, rounded)
    }

    fn test(&self, rounded: bool) -> Batches<'_> {
        Batches::new(self.data, &self.data.test, rounded)
    }
}

#[cfg(test)]
pub(crate) mod tests;
