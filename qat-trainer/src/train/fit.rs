//! The training loop.

use super::batches::Batches;
use super::schedule::Rate;
use crate::autograd::slice;
use crate::error::{Error, ErrorKind, Result};
use crate::events::{Phase, QatEvent};
use crate::nn::{Network, Rates, UNIT, in_units};
use crate::random::{Purpose, Random};
use crate::spec::TrainSpec;
use qat_kernels::ste_simd::AdamW;
use tch::{Kind, Reduction, Tensor};

/// Examples that are judged at once.
const TEST_BATCH: usize = 500;

/// What distinguishes the phases.
pub(super) struct Plan<'a> {
    pub(super) phase: Phase,
    pub(super) epochs: u32,
    /// Epochs before this phase, so that every epoch has distortions of its own.
    pub(super) epochs_before: u32,
    pub(super) peak_rate: f32,
    /// Epochs of warm-up.
    pub(super) warm_up: f32,
    pub(super) spec: &'a TrainSpec,
}

/// Trains a network. Returns its accuracy on the test split.
pub(super) fn fit(
    net: &mut dyn Network,
    train: &Batches<'_>,
    test: &Batches<'_>,
    plan: &Plan<'_>,
    on_event: &mut dyn FnMut(&QatEvent),
) -> Result<f64> {
    let spec = plan.spec;
    let batch = spec.batch.min(train.len()).max(1);
    // What is left over when the order is cut into batches comes again in another epoch's order.
    let steps_per_epoch = train.len() / batch;
    let (phase, epochs) = (plan.phase, plan.epochs);
    let rate = Rate {
        peak: plan.peak_rate,
        schedule: spec.schedule,
        warm_up: (f64::from(plan.warm_up) * steps_per_epoch as f64) as usize,
        steps: epochs as usize * steps_per_epoch,
    };
    let parameters = net.leaves().iter().map(|l| l.numel()).sum();
    on_event(&QatEvent::PhaseStarted { phase, epochs, steps_per_epoch, parameters });
    let mut t = 0;
    let mut accuracy = 0.0;
    for epoch in 0..epochs {
        let random_epoch = plan.epochs_before + epoch;
        let order = Random::new(spec.seed, Purpose::Order(random_epoch)).order(train.len());
        let mut losses = 0.0;
        for (step, indices) in order.chunks_exact(batch).enumerate() {
            let batch = train.distorted(indices, spec.augment, spec.seed, random_epoch)?;
            let learning_rate = rate.at(t);
            t += 1;
            let loss = one_step(net, &batch.x, &batch.labels, spec, learning_rate, t)
                .map_err(|e| e.place(format!("{phase} phase, epoch {}, step {}", epoch + 1, step + 1)))?;
            losses += loss;
            let (epoch, step) = (epoch + 1, step + 1);
            on_event(&QatEvent::StepDone { phase, epoch, step, loss, learning_rate });
        }
        if epoch + 1 == epochs {
            net.take_average()?;
        }
        accuracy = evaluate(net, test)?;
        let (epoch, loss) = (epoch + 1, losses / steps_per_epoch.max(1) as f64);
        on_event(&QatEvent::EpochDone { phase, epoch, epochs, loss, test_accuracy: accuracy });
    }
    on_event(&QatEvent::PhaseDone { phase, test_accuracy: accuracy });
    Ok(accuracy)
}

/// One step of the optimiser; returns the loss of the batch.
fn one_step(
    net: &mut dyn Network,
    x: &Tensor,
    labels: &Tensor,
    spec: &TrainSpec,
    learning_rate: f32,
    step: usize,
) -> Result<f64> {
    let loss = net.forward(x, true)?.f_cross_entropy_loss(
        labels,
        None::<Tensor>,
        Reduction::Mean,
        -100,
        f64::from(spec.label_smoothing),
    )?;
    let value = loss.f_double_value(&[])?;
    if !value.is_finite() {
        return Err(Error::new(ErrorKind::Train, format!("the loss is {value}"))
            .remedy("lower the learning rate or clip the gradients"));
    }
    let grads = Tensor::f_run_backward(&[&loss], &net.leaves(), false, false)?;
    // The graph still holds the leaves; they cannot be written before it is gone.
    drop(loss);
    let step = u32::try_from(step).unwrap_or(u32::MAX);
    let weights = AdamW { lr: learning_rate, weight_decay: spec.weight_decay, step, ..AdamW::default() };
    let scales = AdamW { weight_decay: 0.0, ..weights };
    let factor = clip_factor(&grads, spec.clip_norm)?;
    net.update(&grads, &Rates { weights, scales, factor })?;
    if spec.ema > 0.0 {
        net.average(spec.ema)?;
    }
    Ok(value)
}

/// The factor that brings the norm of all gradients together down to `limit`; 1 if it is not above it, or if the limit
/// is 0.
fn clip_factor(grads: &[Tensor], limit: f32) -> Result<f32> {
    if limit == 0.0 {
        return Ok(1.0);
    }
    let mut sum = 0.0;
    for g in grads {
        let g = g.f_contiguous()?;
        let square = |u: &[f32]| u.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
        sum += in_units(slice(&g)?.chunks(UNIT).collect(), square).into_iter().sum::<f64>();
    }
    let norm = sum.sqrt();
    Ok(if norm > f64::from(limit) { (f64::from(limit) / norm) as f32 } else { 1.0 })
}

/// Share of the examples whose largest logit is that of their label.
pub(super) fn evaluate(net: &dyn Network, examples: &Batches<'_>) -> Result<f64> {
    let indices: Vec<usize> = (0..examples.len()).collect();
    let mut correct = 0;
    for indices in indices.chunks(TEST_BATCH) {
        let batch = examples.plain(indices)?;
        let hits = tch::no_grad(|| -> Result<i64> {
            let best = net.forward(&batch.x, false)?.f_argmax(-1, false)?;
            Ok(best.f_eq_tensor(&batch.labels)?.f_sum(Kind::Int64)?.f_int64_value(&[])?)
        })?;
        correct += hits;
    }
    Ok(correct as f64 / examples.len().max(1) as f64)
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
    }
}
