//! What a training makes smaller.

use super::batches::Batch;
use super::teacher::Teacher;
use crate::data::Split;
use crate::error::{Error, ErrorKind, Result};
use crate::nn::Network;
use crate::spec::{ClassWeights, TrainSpec};
use tch::{Reduction, Tensor};

/// The loss of a batch: cross entropy, with smoothed labels and weighted classes where asked for, and what a teacher adds.
pub(super) struct Objective {
    class_weights: Option<Tensor>,
    smoothing: f64,
    /// The teacher, if there is one.
    pub(super) teacher: Option<Teacher>,
}

impl Objective {
    /// The loss that `spec` asks for, for examples of `classes` classes.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] for weights that do not fit the classes.
    pub(super) fn new(spec: &TrainSpec, classes: usize, train: &Split) -> Result<Self> {
        let class_weights = match &spec.class_weights {
            None => None,
            Some(ClassWeights::Given(weights)) if weights.len() == classes => Some(weights.clone()),
            Some(ClassWeights::Given(weights)) => {
                return Err(Error::new(
                    ErrorKind::Spec,
                    format!("{} numbers for {classes} classes", weights.len()),
                )
                .place("`class_weights` of [train]")
                .remedy("give one per class, or \"balanced\""));
            }
            Some(ClassWeights::Named(_)) => Some(balanced(classes, &train.labels)),
        };
        let class_weights = class_weights.map(|w| Tensor::f_from_slice(&w)).transpose()?;
        Ok(Self { class_weights, smoothing: f64::from(spec.label_smoothing), teacher: None })
    }

    /// The loss of a training batch, with a history for the backward pass.
    pub(super) fn of(&self, net: &dyn Network, batch: &Batch) -> Result<Tensor> {
        match &self.teacher {
            Some(teacher) => teacher.loss(net, batch, |logits| self.task(logits, batch)),
            None => self.task(&net.forward(&batch.x, true)?, batch),
        }
    }

    /// The loss of the task alone: the mean over the examples, each weighted by its class.
    pub(super) fn task(&self, logits: &Tensor, batch: &Batch) -> Result<Tensor> {
        Ok(logits.f_cross_entropy_loss(
            &batch.labels,
            self.class_weights.as_ref(),
            Reduction::Mean,
            -100,
            self.smoothing,
        )?)
    }
}

/// Weights with which every class counts the same, 1 on average over the examples; a class without examples gets 1.
fn balanced(classes: usize, labels: &[u32]) -> Vec<f32> {
    let mut counts = vec![0_usize; classes];
    for &label in labels {
        if let Some(count) = counts.get_mut(label as usize) {
            *count += 1;
        }
    }
    let present = counts.iter().filter(|&&n| n > 0).count().max(1);
    let share = labels.len() as f64 / present as f64;
    counts.iter().map(|&n| if n == 0 { 1.0 } else { (share / n as f64) as f32 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balanced_classes_count_the_same() {
        let weights = balanced(3, &[0, 0, 0, 1, 0, 0]);
        assert_eq!(weights, [0.6, 3.0, 1.0]);
    }
}
