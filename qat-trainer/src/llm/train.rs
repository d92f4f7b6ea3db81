//! Training of decoders.

mod batches;
mod checkpoint;
#[cfg(test)]
mod tests;

pub use checkpoint::{Computing, LlmCheckpoint, Numbers, Processor};

use super::config::LlmConfig;
use super::decoder::Decoder;
use super::exact::{Exact, exact};
use super::examples::{Corpus, Example, tokenise};
use super::lora::{LoraMode, LoraSettings};
use super::loss::chunked_cross_entropy;
use super::model::LanguageModel;
use super::qat::{DecoderQuant, MatrixQuant};
use super::quantised::{QuantisedMatrix, read_codes};
use super::reason::{ChainOfThoughtLoss, DecoderTeacher, Lesson};
use super::tokenizer::Tokenizer;
use crate::autograd::slice;
use crate::distill::DistillationLoss;
use crate::error::{Error, ErrorKind, Result};
use crate::events::{Phase, QatEvent};
use crate::nn::{Rates, Rule};
use crate::spec::{LlmDistillSpec, LlmModelSpec, LlmQatSpec, LlmRun, WeightQuant};
use crate::train::{Listener, Rate, clip_factor};
use batches::{Batch, batch, indices};
use checkpoint::{Place, fingerprint};
use qat_kernels::ste_simd::AdamW;
use qat_kernels::{Levels, QatLossWeights};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// Problems that are solved when the model is judged on the way; at the end it gets all.
const FEW: usize = 100;

/// The model that a training begins with, in these numbers and on this device: loaded, or one that has learned nothing, with a
/// token for every character of the texts to learn from. What it begins with are the same numbers everywhere, but for their
/// rounding to `kind`.
///
/// # Errors
/// Those of [`LanguageModel::load`], of [`Tokenizer::characters`], and [`ErrorKind::Model`] for a shape that makes no network.
///
/// ```
/// use qat_trainer::llm::{Corpus, Tokenizer, start};
/// # use qat_trainer::spec::LlmRun;
/// # use tch::{Device, Kind};
/// let run = LlmRun::parse(r#"
/// data = { format = "arithmetic", problems = 64, held_out = 8, operations = 1, window = 24 }
/// model = { layers = 1, hidden = 16, heads = 2, mlp = 32, context = 24 }
/// train = { steps = 20 }"#, "sums.toml".as_ref())?;
/// let corpus = Corpus::load(&run.data)?;
/// let model = start(&run, &corpus, Kind::Float, Device::Cpu)?;
/// // A token for every character, one for others, and one that ends a text.
/// assert_eq!(model.decoder.config().vocabulary, corpus.alphabet().len() + 2);
/// assert_eq!(model.ends, [model.tokenizer.encode(Tokenizer::END)?[0]]);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn start(run: &LlmRun, corpus: &Corpus, kind: Kind, device: Device) -> Result<LanguageModel> {
    let shape = match &run.model {
        LlmModelSpec::Files(path) => return LanguageModel::load(path, kind, device),
        LlmModelSpec::Shape(shape) => *shape,
    };
    let tokenizer = Tokenizer::characters(&corpus.alphabet())?;
    let decoder = Decoder::generated(&LlmConfig::llama(shape, tokenizer.len()), run.train.seed)
        .and_then(|decoder| decoder.to(kind, device))
        .map_err(|e| e.file(&run.file))?;
    let ends = tokenizer.id(Tokenizer::END).into_iter().collect();
    Ok(LanguageModel { decoder, tokenizer, chat: None, ends })
}

/// Trains what a decoder's leaves are ([`Decoder::leaves`]) by a run description: everything after [`Decoder::learn`], adapters
/// alone, or what stands behind quantised matrices.
///
/// On the CPU, the same run description, data, model, kind, machine and number of threads give the same bits, whether the training
/// runs through or is stopped and resumed. On a GPU torch's own operators do not promise that.
#[derive(Debug)]
pub struct LlmTrainer<'a> {
    run: &'a LlmRun,
    phase: Phase,
    learned: Vec<Example>,
    held_out: Vec<Example>,
    teacher: Option<DecoderTeacher>,
}

impl<'a> LlmTrainer<'a> {
    /// A trainer for a model as [`start`] gives it.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] for a window that does not fit into the model's context; [`ErrorKind::Data`] for texts that the model's
    /// tokenizer cannot encode, for examples longer than the window, and if there are fewer examples than a batch has; those of
    /// loading a teacher and of [`DecoderTeacher::new`].
    ///
    /// ```
    /// # use qat_trainer::{llm::{Corpus, LlmTrainer, start}, spec::LlmRun};
    /// # use tch::{Device, Kind};
    /// # let mut run = LlmRun::parse(r#"
    /// # data = { format = "arithmetic", problems = 64, held_out = 8, operations = 1, window = 24 }
    /// # model = { layers = 1, hidden = 16, heads = 2, mlp = 16, context = 24 }
    /// # train = { steps = 20 }"#, "sums.toml".as_ref())?;
    /// # let corpus = Corpus::load(&run.data)?;
    /// // A model with a context of 24 tokens: of a window the last one is only predicted.
    /// let model = start(&run, &corpus, Kind::Float, Device::Cpu)?;
    /// run.data.window = 25;
    /// assert!(LlmTrainer::new(&run, &corpus, &model).is_ok());
    /// run.data.window = 26;
    /// let e = LlmTrainer::new(&run, &corpus, &model).unwrap_err().to_string();
    /// assert!(e.starts_with("sums.toml: `window` of [data]: a window of 26 tokens"), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn new(run: &'a LlmRun, corpus: &Corpus, model: &LanguageModel) -> Result<Self> {
        let (window, context) = (run.data.window, model.decoder.config().context);
        // The last token of an example is only predicted.
        if window > context + 1 {
            let problem =
                format!("a window of {window} tokens does not fit into the model's context of {context}");
            return Err(Error::new(ErrorKind::Spec, problem)
                .file(&run.file)
                .place("`window` of [data]")
                .remedy("choose a smaller window, or a larger `context` of [model]"));
        }
        let end = model.ends.first().copied();
        let of = |what: &'static str| move |e: Error| e.file(format!("{} ({what})", run.file.display()));
        let learned = corpus.learned(&model.tokenizer, end, window).map_err(of("train"))?;
        let held_out = tokenise(&corpus.held_out, &model.tokenizer, end, window).map_err(of("held_out"))?;
        let least = run.train.batch;
        if learned.len() < least {
            let problem = format!("{} examples do not fill a batch of {least}", learned.len());
            return Err(Error::new(ErrorKind::Data, problem)
                .file(&run.file)
                .remedy("give more text, or lower `batch`"));
        }
        let phase = if run.qat.is_some() { Phase::Quantised } else { Phase::Float };
        let teacher = run.distill.as_ref().map(|spec| teacher(spec, &model.decoder)).transpose()?;
        Ok(Self { run, phase, learned, held_out, teacher })
    }

    /// Makes what is to be trained of the decoder that a training begins with: every number, matrices behind the quantisers that
    /// the run description asks for, or adapters on quantised matrices, with everything else frozen. Returns the mean bits of a
    /// quantised weight.
    ///
    /// # Errors
    /// Those of [`Decoder::quantise_in_training_from`], [`Decoder::adapt_quantised`], [`Decoder::learn`] and of reading codes;
    /// [`ErrorKind::Spec`] for codes that were made otherwise than `[qat]` says.
    ///
    /// ```
    /// # use qat_trainer::{llm::{Corpus, LlmTrainer, start}, spec::LlmRun};
    /// # use tch::{Device, Kind};
    /// let run = LlmRun::parse(r#"
    /// data = { format = "arithmetic", problems = 64, held_out = 8, operations = 1, window = 24 }
    /// model = { layers = 1, hidden = 16, heads = 2, mlp = 16, context = 24 }
    /// train = { steps = 20 }
    /// qat = { bits = 2, step = { pi-adaptive = { group = 8 } } }"#, "sums.toml".as_ref())?;
    /// # let corpus = Corpus::load(&run.data)?;
    /// # let mut model = start(&run, &corpus, Kind::Float, Device::Cpu)?;
    /// let bits = LlmTrainer::new(&run, &corpus, &model)?.prepare(&mut model.decoder)?;
    /// // A weight's code, its share of the divisor of a group of 8, and of the α of a row of 16.
    /// assert_eq!(bits, Some(2.0 + 2.0 / 8.0 + 16.0 / 16.0));
    /// assert!(!model.decoder.leaves().is_empty()); // now there is something to train
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn prepare(&self, decoder: &mut Decoder) -> Result<Option<f64>> {
        let Some(qat) = &self.run.qat else {
            decoder.learn()?;
            return Ok(None);
        };
        let codes = self.codes(qat, decoder)?;
        let quantised = match self.lora() {
            Some(settings) => decoder.adapt_quantised(&settings, &codes, None).map(|_| ()),
            None => {
                let how = DecoderQuant {
                    blocks: matrix_quant(qat, qat.levels),
                    tables: qat.tables.map(|tables| matrix_quant(qat, tables)),
                };
                decoder.quantise_in_training_from(&how, &codes).and_then(|_| decoder.learn())
            }
        };
        quantised.map_err(|e| e.file(&self.run.file))?;
        decoder.bits_per_weight().map(Some)
    }

    /// The adapters that the run description asks for.
    ///
    /// ```
    /// # use qat_trainer::{llm::{Corpus, LlmTrainer, start}, spec::LlmRun};
    /// # use tch::{Device, Kind};
    /// # let mut run = LlmRun::parse(r#"
    /// # data = { format = "arithmetic", problems = 64, held_out = 8, operations = 1, window = 24 }
    /// # model = { layers = 1, hidden = 16, heads = 2, mlp = 16, context = 24 }
    /// # train = { steps = 20 }
    /// # qat = { bits = 2 }
    /// # lora = { rank = 4 }"#, "sums.toml".as_ref())?;
    /// # let corpus = Corpus::load(&run.data)?;
    /// # let model = start(&run, &corpus, Kind::Float, Device::Cpu)?;
    /// // By a run description with `lora = { rank = 4 }`:
    /// let lora = LlmTrainer::new(&run, &corpus, &model)?.lora();
    /// assert_eq!(lora.map(|lora| (lora.rank, lora.alpha)), Some((4, 2.0 * 4.0)));
    /// run.lora = None;
    /// assert_eq!(LlmTrainer::new(&run, &corpus, &model)?.lora(), None);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn lora(&self) -> Option<LoraSettings> {
        let (lora, qat) = (self.run.lora.as_ref()?, self.run.qat.as_ref()?);
        Some(LoraSettings {
            mode: lora.mode,
            quant: matrix_quant(qat, qat.levels),
            rank: lora.rank,
            alpha: lora.alpha,
            targets: lora.targets.clone(),
            seed: self.run.train.seed,
        })
    }

    /// The codes to begin with: those of a file, or, where they stay as they are, those of rounding.
    fn codes(&self, qat: &LlmQatSpec, decoder: &Decoder) -> Result<BTreeMap<String, QuantisedMatrix>> {
        let how = matrix_quant(qat, qat.levels).blocks();
        if let Some(path) = &qat.codes {
            let codes = read_codes(path)?;
            for (name, matrix) in &codes {
                let (got, columns) = (matrix.how(), matrix.columns());
                let wanted = how.block(columns).map_err(|e| e.file(&self.run.file))?;
                let (quant, block) = (got.quant, got.block(columns)?);
                if quant != how.quant || block != wanted {
                    let bits = quant.levels.bits();
                    let problem =
                        format!("codes of {bits} bits in blocks of {block}, steps {:?}", quant.step);
                    return Err(Error::new(ErrorKind::Spec, problem)
                        .file(path)
                        .place(format!("matrix `{name}`"))
                        .remedy("write the same bits, grid, step and block into [qat]"));
                }
            }
            return Ok(codes);
        }
        let mut codes = BTreeMap::new();
        if self.run.lora.as_ref().is_some_and(|lora| lora.mode != LoraMode::Merged) {
            for (name, linear) in decoder.linears() {
                if name.starts_with("model.layers.") {
                    let weight = linear.weight()?.f_detach()?.f_to_device(Device::Cpu)?;
                    let weight = weight.f_to_kind(Kind::Float)?.f_contiguous()?;
                    let row = weight.size2()?.1 as usize;
                    let matrix = QuantisedMatrix::fit(how, slice(&weight)?, row, None)
                        .map_err(|e| e.file(&self.run.file).place(format!("matrix `{name}`")))?;
                    codes.insert(name, matrix);
                }
            }
        }
        Ok(codes)
    }

    /// Trains the model's decoder, from its start or from a checkpoint that a listener got; the model must be the one that the
    /// training began with then.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch fails or the training diverges, [`ErrorKind::Stopped`] if the listener asks for it,
    /// [`ErrorKind::Checkpoint`] if the checkpoint is not one of this training, of another kind of decoder, or if what it
    /// learned on its device does not learn on this one; and what the listener fails with.
    ///
    /// ```
    /// # use qat_trainer::{llm::{Corpus, LlmTrainer, start}, spec::LlmRun};
    /// use qat_trainer::events::QatEvent;
    /// # use tch::{Device, Kind};
    /// # let run = LlmRun::parse(r#"
    /// # data = { format = "arithmetic", problems = 64, held_out = 8, operations = 1, window = 24 }
    /// # model = { layers = 1, hidden = 16, heads = 2, mlp = 16, context = 24 }
    /// # train = { steps = 20, batch = 4, lr = 1e-2 }"#, "sums.toml".as_ref())?;
    /// # let corpus = Corpus::load(&run.data)?;
    /// # let mut model = start(&run, &corpus, Kind::Float, Device::Cpu)?;
    /// let trainer = LlmTrainer::new(&run, &corpus, &model)?;
    /// trainer.prepare(&mut model.decoder)?;
    /// let ((before, _), mut losses) = (trainer.judge(&model, 1)?, Vec::new());
    /// trainer.train(&mut model, None, &mut |event: &QatEvent| {
    ///     if let QatEvent::StepDone { loss, .. } = event { losses.push(*loss); }
    /// })?;
    /// assert_eq!(losses.len(), run.train.steps);
    /// assert!(trainer.judge(&model, 1)?.0 < before);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn train(
        &self,
        model: &mut LanguageModel,
        from: Option<&LlmCheckpoint>,
        listener: &mut dyn Listener<LlmCheckpoint>,
    ) -> Result<()> {
        let fingerprint = fingerprint(self.run, &self.learned, &model.decoder, self.teacher.as_ref())?;
        model.decoder.set_recompute(self.run.train.recompute);
        let (mut place, mut begun) = (Place::default(), Computing::of(&model.decoder));
        if let Some(from) = from {
            place = from.restore(&fingerprint, &mut model.decoder)?;
            begun = from.begun();
        }
        let leaves = model.decoder.leaves();
        if leaves.is_empty() {
            return Err(Error::new(ErrorKind::Train, "nothing of this model learns"));
        }
        let (phase, steps_per_epoch) = (self.phase, self.run.train.steps);
        if from.is_some() {
            listener.event(&QatEvent::Resumed { phase, epochs: 1, steps_per_epoch, steps: place.steps });
        } else {
            let parameters = leaves.iter().map(|leaf| leaf.numel()).sum();
            place.tell(listener, &QatEvent::PhaseStarted { phase, epochs: 1, steps_per_epoch, parameters });
            if phase == Phase::Quantised && !self.held_out.is_empty() {
                // What rounding alone leaves.
                self.tell_judged(model, self.held_out.len(), &mut place, listener)?;
            }
        }
        while place.steps < steps_per_epoch {
            self.step(model, &mut place, listener)
                .map_err(|e| e.place(format!("{phase} phase, step {}", place.steps)))?;
            let stop = listener.wants_stop();
            if stop || listener.wants_checkpoint() {
                listener.checkpoint(&LlmCheckpoint::new(&fingerprint, place, begun, &model.decoder)?)?;
            }
            if stop {
                let at = format!("{phase} phase, step {}", place.steps);
                return Err(Error::new(ErrorKind::Stopped, "stopped on request").place(at));
            }
        }
        Ok(())
    }

    /// One step of the optimiser, and what follows it.
    fn step(
        &self,
        model: &mut LanguageModel,
        place: &mut Place,
        listener: &mut dyn Listener<LlmCheckpoint>,
    ) -> Result<()> {
        let spec = &self.run.train;
        let rate = Rate { peak: spec.lr, schedule: spec.schedule, warm_up: spec.warm_up, steps: spec.steps };
        let learning_rate = rate.at(place.steps);
        let mut total = 0.0;
        let mut grads: Vec<Tensor> = Vec::new();
        for i in 0..spec.accumulate {
            let number = place.steps * spec.accumulate + i;
            let examples = indices(spec.seed, self.learned.len(), spec.batch, number);
            let batch = batch(examples.into_iter().map(|i| &self.learned[i]), model.decoder.device())?;
            let loss = self.loss(&model.decoder, &batch)?;
            let new = Tensor::f_run_backward(&[&loss], &model.decoder.leaves(), false, false)?;
            // Asked for as late as possible: a GPU is waited for here.
            let value = loss.f_double_value(&[])?;
            if !value.is_finite() {
                return Err(Error::new(ErrorKind::Train, format!("the loss is {value}"))
                    .remedy("lower the learning rate or clip the gradients"));
            }
            total += value;
            if grads.is_empty() {
                grads = new;
            } else {
                for (sum, new) in grads.iter_mut().zip(&new) {
                    // Gradients of bf16, as on a GPU, are added in f32.
                    *sum = sum.f_to_kind(Kind::Float)?.f_add(new)?;
                }
            }
            // The graph still holds the leaves; they cannot be written before it is gone, here.
        }
        let share = 1.0 / spec.accumulate as f32;
        let factor = share * clip_factor(&grads, spec.clip_norm / share)?;
        model.decoder.update(&grads, &self.rates(place.steps, learning_rate, factor))?;
        place.steps += 1;
        let (phase, loss) = (self.phase, total / spec.accumulate as f64);
        place.tell(listener, &QatEvent::StepDone { phase, epoch: 1, step: place.steps, loss, learning_rate });
        let due = spec.judge_every > 0 && place.steps.is_multiple_of(spec.judge_every);
        if (due || place.steps == spec.steps) && !self.held_out.is_empty() {
            let few = if place.steps == spec.steps { self.held_out.len() } else { FEW };
            self.tell_judged(model, few, place, listener)?;
        }
        Ok(())
    }

    /// Judges the model and reports it.
    fn tell_judged(
        &self,
        model: &LanguageModel,
        few: usize,
        place: &mut Place,
        listener: &mut dyn Listener<LlmCheckpoint>,
    ) -> Result<()> {
        let (loss, exact) = self.judge(model, few)?;
        let (phase, steps, exact) = (self.phase, place.steps, exact.share());
        place.tell(listener, &QatEvent::Judged { phase, steps, loss, exact });
        Ok(())
    }

    fn rates(&self, steps: usize, lr: f32, factor: f32) -> Rates {
        let spec = &self.run.train;
        let step = u32::try_from(steps + 1).unwrap_or(u32::MAX);
        let adamw =
            AdamW { lr, beta2: spec.beta2, weight_decay: spec.weight_decay, step, ..AdamW::default() };
        let scales = AdamW { lr: lr * spec.scale_rate, weight_decay: 0.0, ..adamw };
        Rates { weights: Rule::AdamW(adamw), scales, factor }
    }

    /// What is minimised, of a batch.
    fn loss(&self, decoder: &Decoder, batch: &Batch) -> Result<Tensor> {
        let Some(teacher) = &self.teacher else { return self.task(decoder, batch) };
        let Batch { tokens, targets, spans, .. } = batch;
        teacher.loss(decoder, &Lesson { tokens, targets, spans, chunk: self.run.train.chunk })
    }

    /// The cross-entropy of a batch.
    fn task(&self, decoder: &Decoder, batch: &Batch) -> Result<Tensor> {
        let hidden = decoder.hidden(&batch.tokens)?.f_flatten(0, 1)?;
        chunked_cross_entropy(decoder, &hidden, &batch.targets, self.run.train.chunk)
    }

    /// Mean loss of the examples held out, nats, and how many of the first `few` problems among them are solved.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] if nothing is held out; [`ErrorKind::Train`] if torch refuses.
    ///
    /// ```
    /// # use qat_trainer::{llm::{Corpus, LlmTrainer, start}, spec::LlmRun};
    /// # use tch::{Device, Kind};
    /// # let run = LlmRun::parse(r#"
    /// # data = { format = "arithmetic", problems = 64, held_out = 8, operations = 1, window = 24 }
    /// # model = { layers = 1, hidden = 16, heads = 2, mlp = 16, context = 24 }
    /// # train = { steps = 20 }"#, "sums.toml".as_ref())?;
    /// # let corpus = Corpus::load(&run.data)?;
    /// # let model = start(&run, &corpus, Kind::Float, Device::Cpu)?;
    /// let trainer = LlmTrainer::new(&run, &corpus, &model)?;
    /// let (loss, two) = trainer.judge(&model, 2)?;
    /// let (again, all) = trainer.judge(&model, usize::MAX)?;
    /// // Solving problems takes longer: there may be fewer of them, but the loss is that of all.
    /// assert_eq!((two.problems, all.problems), (2, trainer.held_out()));
    /// assert!((loss - again).abs() < 1e-6);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn judge(&self, model: &LanguageModel, few: usize) -> Result<(f64, Exact)> {
        let (mut sum, mut count) = (0.0, 0.0);
        for examples in self.held_out.chunks(self.run.train.batch) {
            let batch = batch(examples.iter(), model.decoder.device())?;
            let predicted = batch.predicted;
            let loss = tch::no_grad(|| self.task(&model.decoder, &batch))?;
            sum += loss.f_double_value(&[])? * predicted;
            count += predicted;
        }
        if count == 0.0 {
            return Err(Error::new(ErrorKind::Data, "nothing is held out to judge by").file(&self.run.file));
        }
        Ok((sum / count, exact(model, &self.held_out[..few.min(self.held_out.len())])?))
    }

    /// The teacher, if there is one.
    ///
    /// ```
    /// # use qat_trainer::{llm::{Corpus, LlmTrainer, start}, spec::LlmRun};
    /// # use tch::{Device, Kind};
    /// # let toml = r#"
    /// # data = { format = "arithmetic", problems = 64, held_out = 8, operations = 1, window = 24 }
    /// # model = { layers = 1, hidden = 16, heads = 2, mlp = 16, context = 24 }
    /// # train = { steps = 20 }"#;
    /// # let run = LlmRun::parse(toml, "sums.toml".as_ref())?;
    /// # let corpus = Corpus::load(&run.data)?;
    /// # let model = start(&run, &corpus, Kind::Float, Device::Cpu)?;
    /// # let folder = tempfile::tempdir()?;
    /// assert!(LlmTrainer::new(&run, &corpus, &model)?.teacher().is_none());
    /// model.save(folder.path())?;
    /// let with = format!("{toml}\ndistill = {{ teacher = {:?} }}", folder.path());
    /// let run = LlmRun::parse(&with, "sums.toml".as_ref())?;
    /// let trainer = LlmTrainer::new(&run, &corpus, &model)?;
    /// let config = trainer.teacher().map(|teacher| teacher.decoder().config());
    /// assert_eq!(config, Some(model.decoder.config()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn teacher(&self) -> Option<&DecoderTeacher> {
        self.teacher.as_ref()
    }

    /// How many examples are held out.
    ///
    /// ```
    /// # use qat_trainer::{llm::{Corpus, LlmTrainer, Source, start}, spec::LlmRun};
    /// # use tch::{Device, Kind};
    /// # let run = LlmRun::parse(r#"
    /// # data = { format = "text", train = ["from.txt"], window = 10 }
    /// # model = { layers = 1, hidden = 16, heads = 2, mlp = 16, context = 10 }
    /// # train = { steps = 20, batch = 4 }"#, "text.toml".as_ref())?;
    /// let train = vec![Source::Text("ab".repeat(50))];
    /// let corpus = Corpus { train, held_out: vec![Source::Text("a".repeat(35))], equal: false };
    /// # let model = start(&run, &corpus, Kind::Float, Device::Cpu)?;
    /// // 35 characters in windows of 10.
    /// assert_eq!(LlmTrainer::new(&run, &corpus, &model)?.held_out(), 4);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn held_out(&self) -> usize {
        self.held_out.len()
    }
}

/// How `[qat]` quantises a matrix.
fn matrix_quant(qat: &LlmQatSpec, levels: Levels) -> MatrixQuant {
    MatrixQuant { block: qat.block, ..MatrixQuant::new(WeightQuant { levels, step: qat.step }) }
}

/// The teacher that a run description names, for this student.
fn teacher(spec: &LlmDistillSpec, student: &Decoder) -> Result<DecoderTeacher> {
    let decoder = LanguageModel::load(&spec.teacher, student.kind(), student.device())?.decoder;
    let reasoning = spec.reasoning;
    let weights =
        QatLossWeights { task: spec.task_weight, distillation: spec.weight, reasoning: reasoning.weight };
    let loss = DistillationLoss::new(weights, spec.temperature, spec.divergence)?;
    let [steps, trajectory, answer] =
        [reasoning.steps, reasoning.trajectory, reasoning.answer].map(f64::from);
    DecoderTeacher::new(decoder, student, loss, ChainOfThoughtLoss { steps, trajectory, answer })
        .map_err(|e| e.file(&spec.teacher))
}
