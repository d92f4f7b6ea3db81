//! The training loop.

use super::Trained;
use super::batches::{Batch, Batches, Examples};
use super::checkpoint::{Best, Place, TrainingCheckpoint};
use super::loader::{Work, with_batches};
use super::loss::Objective;
use super::schedule::Rate;
use super::session::Session;
use crate::autograd::slice;
use crate::error::{Error, ErrorKind, Result};
use crate::events::{Phase, QatEvent};
use crate::nn::{Network, Rates, Rule, Sgd, UNIT, in_units};
use crate::random::{Purpose, Random};
use crate::spec::{Keep, Optimizer, TrainSpec};
use qat_kernels::ste_simd::AdamW;
use tch::{Device, Kind, Tensor};

/// Examples that are judged at once.
const TEST_BATCH: usize = 500;

/// What distinguishes the phases.
pub(super) struct Plan<'a> {
    pub(super) phase: Phase,
    pub(super) epochs: u32,
    /// Epochs before this phase, so that every epoch has distortions of its own.
    pub(super) epochs_before: u32,
    pub(super) peak_rate: f32,
    /// The peak of what moves steps and ranges.
    pub(super) peak_scale_rate: f32,
    /// Epochs of warm-up.
    pub(super) warm_up: f32,
    pub(super) spec: &'a TrainSpec,
}

/// Trains a network, from its start or, with `from`, from the place of a checkpoint whose state the network has.
pub(super) fn fit(
    net: &mut dyn Network,
    examples: &Examples<'_>,
    objective: &Objective,
    plan: &Plan<'_>,
    from: Option<&TrainingCheckpoint>,
    session: &mut Session<'_>,
) -> Result<Trained> {
    Fit::new(net, examples, objective, plan, from).run(from.is_some(), session)
}

struct Fit<'a> {
    net: &'a mut dyn Network,
    examples: &'a Examples<'a>,
    objective: &'a Objective,
    plan: &'a Plan<'a>,
    /// Examples of a batch, and batches of a step.
    batch: usize,
    accumulate: usize,
    steps_per_epoch: usize,
    rate: Rate,
    place: Place,
    best: Option<Best>,
}

impl<'a> Fit<'a> {
    fn new(
        net: &'a mut dyn Network,
        examples: &'a Examples<'a>,
        objective: &'a Objective,
        plan: &'a Plan<'a>,
        from: Option<&TrainingCheckpoint>,
    ) -> Self {
        let (spec, count) = (plan.spec, examples.learn.len());
        let batch = spec.batch.min(count).max(1);
        let accumulate = spec.accumulate.clamp(1, (count / batch).max(1));
        // What is left over when the order is cut into batches comes again in another epoch's order.
        let steps_per_epoch = count / (batch * accumulate);
        let rate = Rate {
            peak: plan.peak_rate,
            schedule: spec.schedule,
            warm_up: (f64::from(plan.warm_up) * steps_per_epoch as f64) as usize,
            steps: plan.epochs as usize * steps_per_epoch,
        };
        let (place, best) = from.map_or_else(Default::default, |c| (c.text.place, c.best.clone()));
        Self { net, examples, objective, plan, batch, accumulate, steps_per_epoch, rate, place, best }
    }

    fn run(mut self, resumed: bool, session: &mut Session<'_>) -> Result<Trained> {
        let (phase, epochs, steps_per_epoch) = (self.plan.phase, self.plan.epochs, self.steps_per_epoch);
        if resumed {
            let steps = self.place.steps;
            session.tell_resumed(&QatEvent::Resumed { phase, epochs, steps_per_epoch, steps });
        } else {
            let parameters = self.net.leaves().iter().map(|l| l.numel()).sum();
            session.tell(&QatEvent::PhaseStarted { phase, epochs, steps_per_epoch, parameters });
        }
        let mut accuracy = 0.0;
        while self.place.epoch < epochs {
            if self.place.step == 0 && self.net.start_epoch(self.place.epoch, epochs)? {
                self.best = None;
            }
            self.epoch(session)?;
            let more = self.finish_epoch(&mut accuracy, session)?;
            if !more {
                break;
            }
        }
        let mut trained = Trained { checkpoint: self.net.save()?, test_accuracy: accuracy };
        if let (Keep::Best, Some(best)) = (self.plan.spec.keep, self.best) {
            trained = Trained { checkpoint: best.network, test_accuracy: best.accuracy };
        }
        session.tell(&QatEvent::PhaseDone { phase, test_accuracy: trained.test_accuracy });
        Ok(trained)
    }

    /// The steps of an epoch that are still to do.
    fn epoch(&mut self, session: &mut Session<'_>) -> Result<()> {
        let (plan, spec) = (self.plan, self.plan.spec);
        let random_epoch = plan.epochs_before + self.place.epoch;
        let order = Random::new(spec.seed, Purpose::Order(random_epoch)).order(self.examples.learn.len());
        let order: Vec<usize> = order.into_iter().map(|i| self.examples.learn[i]).collect();
        let per_step = self.batch * self.accumulate;
        let done = self.place.step.saturating_mul(per_step);
        let Some(order) = order.get(done..self.steps_per_epoch * per_step) else {
            let problem = format!("step {} of epochs of {}", self.place.step, self.steps_per_epoch);
            return Err(Error::new(ErrorKind::Checkpoint, problem));
        };
        let source = &self.examples.train;
        let work = Work { source, order, batch: self.batch, spec, epoch: random_epoch };
        with_batches(&work, |next| {
            while self.place.step < self.steps_per_epoch {
                self.step(next, session)?;
            }
            Ok(())
        })
    }

    fn step(&mut self, next: &mut dyn FnMut() -> Result<Batch>, session: &mut Session<'_>) -> Result<()> {
        let (plan, epoch, step) = (self.plan, self.place.epoch + 1, self.place.step + 1);
        let (phase, learning_rate) = (plan.phase, self.rate.at(self.place.steps));
        let at = |e: Error| e.place(format!("{phase} phase, epoch {epoch}, step {step}"));
        let loss = self.descend(next, learning_rate).map_err(at)?;
        self.place.step = step;
        self.place.steps += 1;
        self.place.losses = (f64::from_bits(self.place.losses) + loss).to_bits();
        self.net.finish_step(self.place.steps).map_err(at)?;
        session.tell(&QatEvent::StepDone { phase, epoch, step, loss, learning_rate });
        session.between_steps(phase, self.place, self.net, self.best.as_ref())
    }

    /// One step of the optimiser; returns the mean loss of its batches.
    fn descend(&mut self, next: &mut dyn FnMut() -> Result<Batch>, learning_rate: f32) -> Result<f64> {
        let spec = self.plan.spec;
        let mut total = 0.0;
        let mut grads: Vec<Tensor> = Vec::new();
        for _ in 0..self.accumulate {
            let loss = self.objective.of(self.net, &next()?)?;
            let value = loss.f_double_value(&[])?;
            if !value.is_finite() {
                return Err(Error::new(ErrorKind::Train, format!("the loss is {value}"))
                    .remedy("lower the learning rate or clip the gradients"));
            }
            total += value;
            let new = Tensor::f_run_backward(&[&loss], &self.net.leaves(), false, false)?;
            if grads.is_empty() {
                grads = new;
            } else {
                for (sum, new) in grads.iter_mut().zip(&new) {
                    *sum = sum.f_add(new)?;
                }
            }
            // The graph still holds the leaves; they cannot be written before it is gone, here.
        }
        let share = 1.0 / self.accumulate as f32;
        let factor = share * clip_factor(&grads, spec.clip_norm / share)?;
        self.net.update(&grads, &self.rates(learning_rate, factor))?;
        if spec.ema > 0.0 {
            self.net.average(spec.ema)?;
        }
        Ok(total / self.accumulate as f64)
    }

    fn rates(&self, lr: f32, factor: f32) -> Rates {
        let (plan, weight_decay) = (self.plan, self.plan.spec.weight_decay);
        let step = u32::try_from(self.place.steps + 1).unwrap_or(u32::MAX);
        let adamw = AdamW { lr, weight_decay, step, ..AdamW::default() };
        let weights = match plan.spec.optimizer {
            Optimizer::AdamW => Rule::AdamW(adamw),
            Optimizer::Sgd(s) => {
                Rule::Sgd(Sgd { lr, momentum: s.momentum, nesterov: s.nesterov, weight_decay })
            }
        };
        let scales = AdamW { lr: lr * (plan.peak_scale_rate / plan.peak_rate), weight_decay: 0.0, ..adamw };
        Rates { weights, scales, factor }
    }

    /// Judges the epoch; returns whether there is to be another.
    fn finish_epoch(&mut self, accuracy: &mut f64, session: &mut Session<'_>) -> Result<bool> {
        let (plan, spec, examples) = (self.plan, self.plan.spec, self.examples);
        // What counts is the average, where there is one: it is what the phase ends with.
        self.net.swap_average()?;
        let validation_loss = match examples.held_back.is_empty() {
            true => None,
            false => Some(self.validate()?),
        };
        *accuracy = evaluate(self.net, &examples.test)?;
        let loss = f64::from_bits(self.place.losses) / self.steps_per_epoch.max(1) as f64;
        let (phase, epochs, epoch) = (plan.phase, plan.epochs, self.place.epoch + 1);
        let test_accuracy = *accuracy;
        session.tell(&QatEvent::EpochDone { phase, epoch, epochs, loss, validation_loss, test_accuracy });
        if let Some(loss) = validation_loss
            && self.best.as_ref().is_none_or(|b| loss < b.loss)
        {
            let network = self.net.save()?;
            self.best = Some(Best { loss, accuracy: test_accuracy, epoch: self.place.epoch, network });
        }
        let since = self.best.as_ref().map_or(0, |b| self.place.epoch - b.epoch);
        let early = spec.patience > 0 && since >= spec.patience;
        let more = epoch < epochs && !early;
        if more {
            self.net.swap_average()?;
        }
        self.place = Place { epoch, step: 0, losses: 0.0_f64.to_bits(), ..self.place };
        Ok(more)
    }

    /// Mean loss of the task on the examples held back.
    fn validate(&self) -> Result<f64> {
        let (mut sum, held_back) = (0.0, &self.examples.held_back);
        for indices in held_back.chunks(TEST_BATCH) {
            let batch = self.examples.train.plain(indices)?;
            let loss = tch::no_grad(|| self.objective.task(&self.net.forward(&batch.x, false)?, &batch))?;
            sum += loss.f_double_value(&[])? * indices.len() as f64;
        }
        Ok(sum / held_back.len() as f64)
    }
}

/// The factor that brings the norm of all gradients together down to `limit`; 1 if it is not above it, or if the limit
/// is 0.
pub(crate) fn clip_factor(grads: &[Tensor], limit: f32) -> Result<f32> {
    if limit == 0.0 {
        return Ok(1.0);
    }
    let mut sum = 0.0;
    // Those of a GPU are summed there, and asked for once.
    let mut elsewhere: Option<Tensor> = None;
    for g in grads {
        if g.device() != Device::Cpu {
            let square = squares(g)?;
            elsewhere = Some(match elsewhere {
                Some(sum) => sum.f_add(&square)?,
                None => square,
            });
            continue;
        }
        let g = g.f_contiguous()?;
        let square = |u: &[f32]| u.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
        sum += in_units(slice(&g)?.chunks(UNIT).collect(), square).into_iter().sum::<f64>();
    }
    if let Some(elsewhere) = elsewhere {
        sum += elsewhere.f_double_value(&[])?;
    }
    let norm = sum.sqrt();
    Ok(if norm > f64::from(limit) { (f64::from(limit) / norm) as f32 } else { 1.0 })
}

/// Σ g², f64, by torch.
fn squares(g: &Tensor) -> Result<Tensor> {
    Ok(g.f_to_kind(Kind::Float)?.f_norm()?.f_to_kind(Kind::Double)?.f_square()?)
}

/// Share of the examples whose largest logit is that of their label.
pub(super) fn evaluate(net: &dyn Network, examples: &Batches<'_>) -> Result<f64> {
    let indices = examples.all();
    let mut correct = 0;
    for indices in indices.chunks(TEST_BATCH) {
        let batch = examples.plain(indices)?;
        let hits = tch::no_grad(|| -> Result<i64> {
            let best = net.forward(&batch.x, false)?.f_argmax(-1, false)?;
            Ok(best.f_eq_tensor(&batch.labels)?.f_sum(Kind::Int64)?.f_int64_value(&[])?)
        })?;
        correct += hits;
    }
    Ok(correct as f64 / indices.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_clipped_by_their_common_norm() {
        let grads = [Tensor::from_slice(&[3f32, 0.0]), Tensor::from_slice(&[0f32, 4.0])];
        assert_eq!(clip_factor(&grads, 0.0).unwrap(), 1.0);
        assert_eq!(clip_factor(&grads, 5.0).unwrap(), 1.0);
        assert_eq!(clip_factor(&grads, 2.5).unwrap(), 0.5);
        // As other devices sum.
        let by_torch: f64 = grads.iter().map(|g| squares(g).unwrap().double_value(&[])).sum();
        assert_eq!(by_torch, 25.0);
    }
}
