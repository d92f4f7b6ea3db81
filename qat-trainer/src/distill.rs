//! Distillation: a small network learns from the answers of a larger one, the teacher.
//!
//! The teacher is frozen: its answers are computed without a history, it is never handed to an optimiser, and it is
//! evaluated with the statistics that its own training left.

use crate::error::{Error, ErrorKind, Result};
pub use crate::spec::{Divergence, FeatureLoss};
use qat_kernels::QatLossWeights;
use tch::{Kind, Reduction, Tensor};

/// `λ_task·CE + λ_kd·T²·D`, D a [`Divergence`] of the answers at temperature T.
///
/// ```
/// use qat_kernels::QatLossWeights;
/// use qat_trainer::distill::{DistillationLoss, Divergence};
/// use tch::Tensor;
/// let weights = QatLossWeights { task: 0.0, distillation: 1.0, reasoning: 0.0 };
/// let loss = DistillationLoss::new(weights, 2.0, Divergence::Kl)?;
/// let (student, teacher) = (Tensor::from_slice(&[1f32, 2.0]), Tensor::from_slice(&[3f32, 4.0]));
/// let (student, teacher) = (student.view([1, 2]), teacher.view([1, 2]));
/// // The same answer up to a constant is the same distribution.
/// let apart = loss.divergence(&student, &teacher, &Tensor::from_slice(&[0i64]))?;
/// assert!(apart.double_value(&[]).abs() < 1e-6);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DistillationLoss {
    weights: QatLossWeights,
    temperature: f64,
    divergence: Divergence,
}

impl DistillationLoss {
    /// A loss at `temperature` T, positive: logits are divided by it, which brings out what the teacher holds second and
    /// third, and T² keeps the size of the gradients.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] for a temperature that is not positive and finite, or a weight that is negative or not finite.
    ///
    /// ```
    /// use qat_kernels::QatLossWeights;
    /// use qat_trainer::{ErrorKind, distill::{DistillationLoss, Divergence}};
    /// let weights = QatLossWeights { task: 0.5, distillation: 0.5, reasoning: 0.0 };
    /// let at = |temperature| DistillationLoss::new(weights, temperature, Divergence::Kl);
    /// assert!(at(4.0).is_ok());
    /// assert_eq!(at(0.0).map_err(|e| e.kind()), Err(ErrorKind::Spec)); // logits are divided by it
    /// ```
    pub fn new(weights: QatLossWeights, temperature: f32, divergence: Divergence) -> Result<Self> {
        let refuse = |problem: String| Err(Error::new(ErrorKind::Spec, problem));
        if !(temperature > 0.0 && temperature.is_finite()) {
            return refuse(format!("{temperature} is no temperature: it must be positive"));
        }
        for weight in [weights.task, weights.distillation, weights.reasoning] {
            if !(weight >= 0.0 && weight.is_finite()) {
                return refuse(format!("{weight} cannot weight a loss: it must be 0 or more"));
            }
        }
        Ok(Self { weights, temperature: temperature.into(), divergence })
    }

    /// The whole loss, given that of the task.
    ///
    /// `student` and `teacher` are logits `[batch, classes]`, `labels` `[batch]`.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if the shapes disagree.
    ///
    /// ```
    /// use qat_kernels::QatLossWeights;
    /// use qat_trainer::distill::{DistillationLoss, Divergence};
    /// use tch::Tensor;
    /// let weights = QatLossWeights { task: 0.25, distillation: 0.75, reasoning: 0.0 };
    /// let loss = DistillationLoss::new(weights, 2.0, Divergence::Kl)?;
    /// let logits = Tensor::from_slice2(&[[1f32, 2.0], [0.0, -1.0]]);
    /// let (task, labels) = (Tensor::from(8f32), Tensor::from_slice(&[1i64, 0]));
    /// // A student that answers as its teacher does has the loss of the task alone.
    /// assert_eq!(loss.total(&task, &logits, &logits, &labels)?.double_value(&[]), 0.25 * 8.0);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn total(
        &self,
        task: &Tensor,
        student: &Tensor,
        teacher: &Tensor,
        labels: &Tensor,
    ) -> Result<Tensor> {
        let apart = self.divergence(student, teacher, labels)?;
        let (task_weight, weight) = (f64::from(self.weights.task), f64::from(self.weights.distillation));
        Ok(task.f_mul_scalar(task_weight)?.f_add(&apart.f_mul_scalar(weight)?)?)
    }

    /// T²·D, the mean over the examples.
    ///
    /// # Errors
    /// As [`Self::total`].
    ///
    /// ```
    /// use qat_kernels::QatLossWeights;
    /// use qat_trainer::distill::{DistillationLoss, Divergence};
    /// use tch::Tensor;
    /// let loss = DistillationLoss::new(QatLossWeights::default(), 1.0, Divergence::Kl)?;
    /// // The teacher holds both for equally likely, the student the first for three times as likely.
    /// let (student, teacher) = (Tensor::from_slice2(&[[3f32.ln(), 0.0]]), Tensor::from_slice2(&[[0f32, 0.0]]));
    /// let apart = loss.divergence(&student, &teacher, &Tensor::from_slice(&[0i64]))?;
    /// let kl = 0.5 * (0.5f64 / 0.75).ln() + 0.5 * (0.5f64 / 0.25).ln();
    /// assert!((apart.double_value(&[]) - kl).abs() < 1e-6);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn divergence(&self, student: &Tensor, teacher: &Tensor, labels: &Tensor) -> Result<Tensor> {
        let teacher = teacher.detach();
        let confidence = match self.divergence {
            Divergence::Kl => 0.0,
            Divergence::ConfidenceAware => {
                confidence(&teacher, labels)?.f_mean(Kind::Float)?.f_double_value(&[])?
            }
        };
        Ok(self.each(student, &teacher, confidence)?.f_mean(Kind::Float)?)
    }

    /// T²·D of every example, `[batch]`, given the teacher's mean probability of the labels, which [`Divergence::Kl`] has no use
    /// for.
    ///
    /// # Errors
    /// As [`Self::total`].
    ///
    /// ```
    /// use qat_kernels::QatLossWeights;
    /// use qat_trainer::distill::{DistillationLoss, Divergence};
    /// use tch::Tensor;
    /// let loss = DistillationLoss::new(QatLossWeights::default(), 1.0, Divergence::ConfidenceAware)?;
    /// let student = Tensor::from_slice2(&[[0f32, 0.0], [3f32.ln(), 0.0]]); // ½ and ½, ¾ and ¼
    /// let teacher = student.zeros_like();
    /// let apart = loss.each(&student, &teacher, 1.0)?; // a teacher that is sure: KL(student ‖ teacher)
    /// let reverse = 0.75 * (0.75f64 / 0.5).ln() + 0.25 * (0.25f64 / 0.5).ln();
    /// assert_eq!(apart.double_value(&[0]), 0.0);
    /// assert!((apart.double_value(&[1]) - reverse).abs() < 1e-6);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn each(&self, student: &Tensor, teacher: &Tensor, confidence: f64) -> Result<Tensor> {
        let log_softmax = |logits: &Tensor| -> Result<Tensor> {
            Ok(logits.f_div_scalar(self.temperature)?.f_log_softmax(-1, Kind::Float)?)
        };
        let (ours, theirs) = (log_softmax(student)?, log_softmax(&teacher.detach())?);
        let forward = kl(&theirs, &ours)?;
        let apart = match self.divergence {
            Divergence::Kl => forward,
            Divergence::ConfidenceAware => {
                let reverse = kl(&ours, &theirs)?;
                reverse.f_mul_scalar(confidence)?.f_add(&forward.f_mul_scalar(1.0 - confidence)?)?
            }
        };
        Ok(apart.f_mul_scalar(self.temperature * self.temperature)?)
    }

    /// The weights of the parts of the loss.
    ///
    /// ```
    /// use qat_kernels::QatLossWeights;
    /// use qat_trainer::distill::{DistillationLoss, Divergence};
    /// let loss = DistillationLoss::new(QatLossWeights::default(), 2.0, Divergence::Kl)?;
    /// assert_eq!(loss.weights().distillation, 0.0); // the teacher need not be asked
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn weights(&self) -> QatLossWeights {
        self.weights
    }

    /// Whether [`Self::each`] looks at the confidence.
    ///
    /// ```
    /// use qat_kernels::QatLossWeights;
    /// use qat_trainer::distill::{DistillationLoss, Divergence};
    /// use tch::Tensor;
    /// let loss = DistillationLoss::new(QatLossWeights::default(), 2.0, Divergence::Kl)?;
    /// assert!(!loss.is_confidence_aware()); // so that any number does for it
    /// let (student, teacher) = (Tensor::from_slice2(&[[1f32, 0.0]]), Tensor::from_slice2(&[[0f32, 1.0]]));
    /// assert_eq!(loss.each(&student, &teacher, 0.1)?, loss.each(&student, &teacher, 0.9)?);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn is_confidence_aware(&self) -> bool {
        self.divergence == Divergence::ConfidenceAware
    }
}

/// The probability of each label in the answers as they are, not at the temperature.
pub(crate) fn confidence(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    Ok(logits.f_softmax(-1, Kind::Float)?.f_gather(1, &labels.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?)
}

/// `KL(p ‖ q)` of every row, from the logarithms of both.
fn kl(p: &Tensor, q: &Tensor) -> Result<Tensor> {
    let each = p.f_exp()?.f_mul(&p.f_sub(q)?)?;
    Ok(each.f_sum_dim_intlist([-1i64].as_slice(), false, Kind::Float)?)
}

impl FeatureLoss {
    /// The loss of outputs `[batch, …]`; the teacher's get no gradient.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if the shapes disagree.
    ///
    /// ```
    /// use qat_trainer::distill::FeatureLoss;
    /// use tch::Tensor;
    /// let (student, teacher) = (Tensor::from_slice2(&[[1f32, 2.0]]), Tensor::from_slice2(&[[2f32, 2.0]]));
    /// let mse = FeatureLoss::Mse.of(&student, &teacher)?; // (1² + 0²)/2 over (2² + 2²)/2
    /// assert_eq!(mse.double_value(&[]), 0.125);
    /// // Similarities of the examples to each other do not mind a factor.
    /// let outputs = Tensor::from_slice2(&[[1f32, 0.0], [1.0, 1.0]]);
    /// assert!(FeatureLoss::Similarity.of(&outputs, &(&outputs * 2.0))?.double_value(&[]) < 1e-12);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn of(self, student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
        let teacher = teacher.detach();
        match self {
            FeatureLoss::Mse => {
                let size = teacher.f_square()?.f_mean(Kind::Float)?.f_double_value(&[])?;
                let apart = student.f_mse_loss(&teacher.f_view_as(student)?, Reduction::Mean)?;
                Ok(apart.f_div_scalar(size.max(f64::from(f32::MIN_POSITIVE)))?)
            }
            FeatureLoss::Similarity => {
                let apart = similarity(student)?.f_sub(&similarity(&teacher)?)?;
                // The mean over b² entries.
                Ok(apart.f_square()?.f_mean(Kind::Float)?)
            }
        }
    }
}

fn similarity(outputs: &Tensor) -> Result<Tensor> {
    let rows = if outputs.dim() > 2 { outputs.f_flatten(1, -1)? } else { outputs.shallow_clone() };
    let products = rows.f_matmul(&rows.f_tr()?)?;
    let length = products.f_square()?.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Float)?.f_sqrt()?;
    Ok(products.f_div(&length.f_clamp_min(1e-12)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::normal;

    fn weights(task: f32, distillation: f32) -> QatLossWeights {
        QatLossWeights { task, distillation, reasoning: 0.0 }
    }

    fn softmax(logits: &[f64], t: f64) -> Vec<f64> {
        let all: Vec<f64> = logits.iter().map(|l| (l / t).exp()).collect();
        all.iter().map(|e| e / all.iter().sum::<f64>()).collect()
    }

    #[test]
    fn values_are_those_of_the_formulae() {
        let (student, teacher) = ([[0.3, -1.2, 0.9], [1.0, 0.0, -0.5]], [[2.0, -0.5, 0.1], [0.2, 1.4, -1.0]]);
        let labels = [0usize, 1];
        let flat = |l: [[f64; 3]; 2]| {
            Tensor::from_slice(&l.concat().iter().map(|&x| x as f32).collect::<Vec<_>>()).view([2, 3])
        };
        let kl = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
        for t in [1.0, 4.0] {
            let pairs: Vec<_> = (0..2).map(|i| (softmax(&student[i], t), softmax(&teacher[i], t))).collect();
            let forward = pairs.iter().map(|(s, z)| kl(z, s)).sum::<f64>() / 2.0;
            let reverse = pairs.iter().map(|(s, z)| kl(s, z)).sum::<f64>() / 2.0;
            let sure = (0..2).map(|i| softmax(&teacher[i], 1.0)[labels[i]]).sum::<f64>() / 2.0;
            let wanted = [
                (Divergence::Kl, forward),
                (Divergence::ConfidenceAware, sure * reverse + (1.0 - sure) * forward),
            ];
            for (divergence, wanted) in wanted {
                let loss = DistillationLoss::new(weights(0.5, 2.0), t as f32, divergence).unwrap();
                let task = Tensor::from_slice(&[3.0f32]).sum(Kind::Float);
                let labels = Tensor::from_slice(&[0i64, 1]);
                let total = loss.total(&task, &flat(student), &flat(teacher), &labels).unwrap();
                let wanted = 1.5 + 2.0 * t * t * wanted;
                assert!((total.double_value(&[]) - wanted).abs() < 1e-5, "{divergence:?} {t}");
            }
        }
    }

    #[test]
    fn the_gradient_of_kl_is_the_difference_of_the_answers() {
        let (batch, t) = (5, 3.0);
        let student = normal(1, &[batch, 4]).set_requires_grad(true);
        let teacher = normal(2, &[batch, 4]).set_requires_grad(true);
        let loss = DistillationLoss::new(weights(0.0, 1.0), t, Divergence::Kl).unwrap();
        let l = loss.divergence(&student, &teacher, &Tensor::zeros([batch], (Kind::Int64, tch::Device::Cpu)));
        let g = Tensor::f_run_backward(&[l.unwrap()], &[&student], false, false).unwrap();
        // T²·(1/T)·(softmax(s/T) − softmax(z/T))/batch.
        let soft = |x: &Tensor| (x.detach() / f64::from(t)).softmax(-1, Kind::Float);
        let wanted = (soft(&student) - soft(&teacher)) * f64::from(t) / batch;
        assert!(g[0].allclose(&wanted, 1e-5, 1e-6, false));
    }

    #[test]
    fn features_of_one_shape_are_compared_one_by_one_and_of_any_by_similarity() {
        let (a, b) = (normal(3, &[6, 4, 2, 2]), normal(4, &[6, 4, 2, 2]));
        let mse = FeatureLoss::Mse.of(&a, &b).unwrap().double_value(&[]);
        let wanted = (&a - &b).square().mean(Kind::Float) / b.square().mean(Kind::Float);
        assert!((mse - wanted.double_value(&[])).abs() < 1e-5);
        assert_eq!(FeatureLoss::Mse.of(&a, &a).unwrap().double_value(&[]), 0.0);

        let wide = normal(5, &[6, 40]);
        assert!(FeatureLoss::Similarity.of(&a, &wide).unwrap().double_value(&[]) > 1e-3);
        // Scaling and rotating all outputs changes no similarity.
        let turned = a.flatten(1, -1).flip([1]) * 7.0;
        assert!(FeatureLoss::Similarity.of(&a, &turned).unwrap().double_value(&[]) < 1e-10);
        assert!(FeatureLoss::Mse.of(&a, &wide).is_err());
    }

    #[test]
    fn impossible_parameters_are_refused() {
        for t in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(DistillationLoss::new(weights(1.0, 1.0), t, Divergence::Kl).is_err());
        }
        assert!(DistillationLoss::new(weights(-1.0, 1.0), 1.0, Divergence::Kl).is_err());
        assert!(DistillationLoss::new(weights(1.0, f32::NAN), 1.0, Divergence::Kl).is_err());
    }
}
