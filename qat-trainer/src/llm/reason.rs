//! Learning from a teacher that reasons: distillation of decoders, and the loss that looks at the reasoning itself.
//!
//! With the student's and the teacher's next-token distributions p_S and p_T at temperature T, D a
//! [`crate::distill::Divergence`] of them at one position, h_b the hidden states behind block b:
//!
//! ```text
//! L        = λ_task·CE + λ_kd·T²·mean(D) + λ_reason·L_reason
//! L_reason = w_steps·L_steps + w_trajectory·L_trajectory + w_answer·L_answer
//! L_steps  = mean over steps of ( mean over the step's tokens of T²·D )
//! L_answer = mean over answers of ( mean over the answer's tokens of T²·D )
//! L_trajectory = mean over blocks b and tokens of steps of 1 − cos(h_b of the student, h_b of the teacher)
//! ```
//!
//! A short step, which may be the one where all is decided, counts as much in L_steps as a long one; the plain mean counts
//! tokens. Divergences are weighted sums over positions, so that all three come from one pass over the logits, chunk by chunk.

#[cfg(test)]
mod tests;

use super::decoder::Decoder;
use super::examples::Span;
use super::loss::{IGNORED, in_chunks, predicted};
use crate::autograd::slice;
use crate::distill::{DistillationLoss, confidence};
use crate::error::{Error, ErrorKind, Result};
use tch::{Kind, Reduction, Tensor};

/// The reasoning-fidelity loss: the weights of its parts, each 0 or more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChainOfThoughtLoss {
    /// w_steps.
    pub steps: f64,
    /// w_trajectory.
    pub trajectory: f64,
    /// w_answer.
    pub answer: f64,
}

impl ChainOfThoughtLoss {
    /// How much T²·D of each position counts in w_steps·L_steps + w_answer·L_answer. `spans` are those of the targets, in rows of
    /// `time`.
    ///
    /// ```
    /// use qat_trainer::llm::{ChainOfThoughtLoss, Span};
    /// let loss = ChainOfThoughtLoss { steps: 1.0, trajectory: 0.0, answer: 0.5 };
    /// let spans = [Span::Question, Span::Step(0), Span::Step(0), Span::Step(1), Span::Answer];
    /// // Two steps share w_steps evenly, however many tokens they have.
    /// assert_eq!(loss.weights(&spans, 5), [0.0, 0.25, 0.25, 0.5, 0.5]);
    /// ```
    #[must_use]
    pub fn weights(&self, spans: &[Span], time: usize) -> Vec<f32> {
        let runs = || spans.chunks(time.max(1)).flat_map(|row| row.chunk_by(|a, b| a == b));
        let count = |is: fn(&Span) -> bool| runs().filter(|run| run.first().is_some_and(is)).count();
        let (steps, answers) = (count(is_step), count(is_answer));
        runs()
            .flat_map(|run| {
                let (weight, among) = match run.first() {
                    Some(Span::Step(_)) => (self.steps, steps),
                    Some(Span::Answer) => (self.answer, answers),
                    _ => (0.0, 1),
                };
                let each = weight / (among.max(1) * run.len()) as f64;
                std::iter::repeat_n(each as f32, run.len())
            })
            .collect()
    }

    /// L_trajectory of hidden states behind the blocks, `[positions, hidden]` each; `tokens` are the positions of the steps.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if the shapes or the numbers of blocks disagree.
    ///
    /// ```
    /// use qat_trainer::llm::ChainOfThoughtLoss;
    /// use tch::Tensor;
    /// let loss = ChainOfThoughtLoss { steps: 0.0, trajectory: 1.0, answer: 0.0 };
    /// let states = Tensor::from_slice(&[3f32, 4.0, 1.0, 0.0]).view([2, 2]); // of two positions
    /// let apart = |teacher: Tensor| -> qat_trainer::Result<f64> {
    ///     let tokens = Tensor::from_slice(&[0i64]); // the first one is of a step
    ///     Ok(loss.trajectory(&[states.shallow_clone()], &[teacher], &tokens)?.double_value(&[]))
    /// };
    /// assert!(apart(&states * 7.0)?.abs() < 1e-6); // the same way, whatever its length
    /// assert!((apart(-&states)? - 2.0).abs() < 1e-6); // the opposite way
    /// assert!(loss.trajectory(&[states], &[], &Tensor::from_slice(&[0i64])).is_err()); // another number of blocks
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn trajectory(&self, student: &[Tensor], teacher: &[Tensor], tokens: &Tensor) -> Result<Tensor> {
        if student.len() != teacher.len() {
            let problem = format!("{} blocks beside the teacher's {}", student.len(), teacher.len());
            return Err(Error::new(ErrorKind::Train, problem));
        }
        let mut sum = Tensor::f_zeros([], (Kind::Float, tokens.device()))?;
        for (ours, theirs) in student.iter().zip(teacher) {
            let at =
                |h: &Tensor| -> Result<Tensor> { Ok(h.f_index_select(0, tokens)?.f_to_kind(Kind::Float)?) };
            let cosine = Tensor::f_cosine_similarity(&at(ours)?, &at(&theirs.detach())?, -1, 1e-8)?;
            sum = sum.f_add(&cosine.f_neg()?.f_add_scalar(1.0)?.f_mean(Kind::Float)?)?;
        }
        Ok(sum.f_div_scalar(student.len().max(1) as f64)?)
    }
}

fn is_step(span: &Span) -> bool {
    matches!(span, Span::Step(_))
}

fn is_answer(span: &Span) -> bool {
    *span == Span::Answer
}

/// What a student is taught with.
///
/// ```
/// # use qat_kernels::QatLossWeights;
/// # use qat_trainer::distill::{DistillationLoss, Divergence};
/// # use qat_trainer::llm::{ChainOfThoughtLoss, config::LlmConfig};
/// use qat_trainer::llm::{CausalModel, Decoder, DecoderTeacher, IGNORED, Lesson, Span};
/// # use tch::Tensor;
/// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
/// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
/// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
/// # let student = Decoder::generated(&config, 1)?;
/// # let weights = QatLossWeights { task: 1.0, distillation: 0.0, reasoning: 0.0 };
/// # let loss = DistillationLoss::new(weights, 2.0, Divergence::Kl)?;
/// # let reasoning = ChainOfThoughtLoss { steps: 0.0, trajectory: 0.0, answer: 0.0 };
/// # let other = Decoder::generated(&config, 2)?;
/// # let teacher = DecoderTeacher::new(other, &student, loss, reasoning)?;
/// // Two rows: `1 2 3 4`, and `5 6` filled up with what is not predicted.
/// let tokens = Tensor::from_slice(&[1i64, 2, 3, 5, 0, 0]).view([2, 3]);
/// let targets = Tensor::from_slice(&[2, 3, 4, 6, IGNORED, IGNORED]);
/// let lesson = Lesson { tokens: &tokens, targets: &targets, spans: &[Span::Plain; 6], chunk: 4 };
/// // With the weight of the task alone: the mean of −ln p over the four targets.
/// let mean = (3.0 * student.loss(&[1, 2, 3, 4])? + student.loss(&[5, 6])?) / 4.0;
/// assert!((teacher.loss(&student, &lesson)?.double_value(&[]) - mean).abs() < 1e-4);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Lesson<'a> {
    /// `[batch, time]`.
    pub tokens: &'a Tensor,
    /// `[batch · time]`.
    pub targets: &'a Tensor,
    /// What each target is part of.
    pub spans: &'a [Span],
    /// Positions whose logits are in memory at a time.
    pub chunk: usize,
}

/// A frozen decoder, and how it is learned from.
#[derive(Debug)]
pub struct DecoderTeacher {
    decoder: Decoder,
    loss: DistillationLoss,
    reasoning: ChainOfThoughtLoss,
}

impl DecoderTeacher {
    /// A teacher for students of the shape of `student`. It gets no gradients and is never handed to an optimiser.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] for a weight that is negative or not finite; [`ErrorKind::Model`] for another vocabulary than the
    /// student's, for trajectories also for another width or number of blocks, and for a decoder that learns itself.
    ///
    /// ```
    /// # use qat_kernels::QatLossWeights;
    /// # use qat_trainer::distill::{DistillationLoss, Divergence};
    /// use qat_trainer::llm::{ChainOfThoughtLoss, Decoder, DecoderTeacher, config::LlmConfig};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// let student = Decoder::generated(&config, 1)?; // of two blocks
    /// let deeper = || Decoder::generated(&LlmConfig { layers: 3, ..config.clone() }, 2);
    /// let loss = DistillationLoss::new(QatLossWeights::default(), 2.0, Divergence::Kl)?;
    /// let answers = ChainOfThoughtLoss { steps: 1.0, trajectory: 0.0, answer: 1.0 };
    /// assert!(DecoderTeacher::new(deeper()?, &student, loss, answers).is_ok());
    /// // Trajectories are compared block by block.
    /// let paths = ChainOfThoughtLoss { trajectory: 1.0, ..answers };
    /// let e = DecoderTeacher::new(deeper()?, &student, loss, paths).unwrap_err();
    /// assert!(e.to_string().starts_with("the teacher has 3 blocks, the student 2"), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn new(
        decoder: Decoder,
        student: &Decoder,
        loss: DistillationLoss,
        reasoning: ChainOfThoughtLoss,
    ) -> Result<Self> {
        for weight in [reasoning.steps, reasoning.trajectory, reasoning.answer] {
            if !(weight >= 0.0 && weight.is_finite()) {
                let problem = format!("{weight} cannot weight a loss: it must be 0 or more");
                return Err(Error::new(ErrorKind::Spec, problem));
            }
        }
        let (ours, theirs) = (student.config(), decoder.config());
        let mut sizes = vec![("tokens", ours.vocabulary, theirs.vocabulary)];
        if reasoning.trajectory > 0.0 {
            sizes.extend([
                ("numbers in its hidden states", ours.hidden, theirs.hidden),
                ("blocks", ours.layers, theirs.layers),
            ]);
        }
        if let Some((what, ours, theirs)) = sizes.into_iter().find(|(_, ours, theirs)| ours != theirs) {
            return Err(Error::new(
                ErrorKind::Model,
                format!("the teacher has {theirs} {what}, the student {ours}"),
            )
            .remedy("use a teacher of the same kind, or no `trajectory`"));
        }
        if !decoder.leaves().is_empty() {
            return Err(Error::new(ErrorKind::Model, "the teacher learns itself; it must be frozen"));
        }
        Ok(Self { decoder, loss, reasoning })
    }

    /// The teacher's network.
    ///
    /// ```
    /// # use qat_kernels::QatLossWeights;
    /// # use qat_trainer::distill::{DistillationLoss, Divergence};
    /// # use qat_trainer::llm::{ChainOfThoughtLoss, config::LlmConfig};
    /// use qat_trainer::llm::{CausalModel, Decoder, DecoderTeacher};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let loss = DistillationLoss::new(QatLossWeights::default(), 2.0, Divergence::Kl)?;
    /// # let reasoning = ChainOfThoughtLoss { steps: 0.0, trajectory: 0.0, answer: 0.0 };
    /// let (large, student) = (Decoder::generated(&config, 2)?, Decoder::generated(&config, 1)?);
    /// let before = large.loss(&[1, 2, 3])?;
    /// let teacher = DecoderTeacher::new(large, &student, loss, reasoning)?;
    /// // What the student is measured against.
    /// assert_eq!(teacher.decoder().loss(&[1, 2, 3])?, before);
    /// assert!(teacher.decoder().leaves().is_empty());
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// L of a batch.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] if there is nothing to predict; [`ErrorKind::Spec`] for a chunk of 0; [`ErrorKind::Train`] if torch
    /// refuses.
    ///
    /// ```
    /// # use qat_kernels::QatLossWeights;
    /// # use qat_trainer::llm::{ChainOfThoughtLoss, config::LlmConfig};
    /// use qat_trainer::distill::{DistillationLoss, Divergence};
    /// use qat_trainer::llm::{Decoder, DecoderTeacher, Lesson, Span};
    /// # use tch::Tensor;
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let reasoning = ChainOfThoughtLoss { steps: 0.0, trajectory: 0.0, answer: 0.0 };
    /// # let tokens = Tensor::from_slice(&[1i64, 2, 3]).view([1, 3]);
    /// # let targets = Tensor::from_slice(&[2i64, 3, 4]);
    /// let weights = QatLossWeights { task: 0.0, distillation: 1.0, reasoning: 0.0 };
    /// let loss = DistillationLoss::new(weights, 2.0, Divergence::Kl)?;
    /// let student = Decoder::generated(&config, 1)?;
    /// let spans = &[Span::Plain; 3];
    /// let lesson = Lesson { tokens: &tokens, targets: &targets, spans, chunk: 64 };
    /// let learn_from = |decoder| -> qat_trainer::Result<f64> {
    ///     let teacher = DecoderTeacher::new(decoder, &student, loss, reasoning)?;
    ///     Ok(teacher.loss(&student, &lesson)?.double_value(&[]))
    /// };
    /// assert!(learn_from(Decoder::generated(&config, 1)?)?.abs() < 1e-5); // it knows as much
    /// assert!(learn_from(Decoder::generated(&config, 2)?)? > 0.01);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn loss(&self, student: &Decoder, lesson: &Lesson<'_>) -> Result<Tensor> {
        let &Lesson { tokens, targets, spans, chunk } = lesson;
        let weights = self.loss.weights();
        let [task, kd, reason] = [weights.task, weights.distillation, weights.reasoning].map(f64::from);
        let count = predicted(targets)?;
        let (theirs, their_path) = tch::no_grad(|| self.path(&self.decoder, tokens))?;
        let (ours, our_path) = self.path(student, tokens)?;
        let time = tokens.size2()?.1 as usize;
        let reasoning = self.reasoning.weights(spans, time);
        let is_predicted = targets.f_ne(IGNORED)?.f_to_kind(Kind::Float)?;
        let of_positions = is_predicted
            .f_mul_scalar(kd / count)?
            .f_add(&Tensor::f_from_slice(&reasoning)?.f_to_device(targets.device())?.f_mul_scalar(reason)?)?;
        let confidence = self.confidence(&theirs, targets, count, chunk)?;
        let mut total = in_chunks(student, &ours, chunk, &|logits, start, len| {
            let (logits, targets) = (&logits.f_to_kind(Kind::Float)?, targets.f_narrow(0, start, len)?);
            let ce = logits.f_cross_entropy_loss(&targets, None::<Tensor>, Reduction::Sum, IGNORED, 0.0)?;
            let answer = tch::no_grad(|| self.decoder.logits(&theirs.f_narrow(0, start, len)?))?;
            let each = self.loss.each(logits, &answer, confidence)?;
            let apart = each.f_mul(&of_positions.f_narrow(0, start, len)?)?.f_sum(Kind::Float)?;
            Ok(ce.f_mul_scalar(task / count)?.f_add(&apart)?)
        })?;
        let steps: Vec<i64> = (0..).zip(spans).filter(|(_, span)| is_step(span)).map(|(i, _)| i).collect();
        if self.follows_paths() && !steps.is_empty() {
            let steps = Tensor::f_from_slice(&steps)?.f_to_device(tokens.device())?;
            let apart = self.reasoning.trajectory(&our_path, &their_path, &steps)?;
            total = total.f_add(&apart.f_mul_scalar(reason * self.reasoning.trajectory)?)?;
        }
        Ok(total)
    }

    fn follows_paths(&self) -> bool {
        self.loss.weights().reasoning > 0.0 && self.reasoning.trajectory > 0.0
    }

    /// Hidden states behind the last norm, `[positions, hidden]`, and those behind every block if they are compared.
    fn path(&self, decoder: &Decoder, tokens: &Tensor) -> Result<(Tensor, Vec<Tensor>)> {
        let mut path = Vec::new();
        let last = decoder.hidden_seen(tokens, &mut |_, h| {
            if self.follows_paths() {
                path.push(h.shallow_clone());
            }
        })?;
        let flat = |h: Tensor| h.f_flatten(0, 1);
        Ok((flat(last)?, path.into_iter().map(flat).collect::<Result<_, _>>()?))
    }

    /// The teacher's mean probability of what is predicted, if the divergence asks for it.
    fn confidence(&self, hidden: &Tensor, targets: &Tensor, count: f64, chunk: usize) -> Result<f64> {
        if !self.loss.is_confidence_aware() {
            return Ok(0.0);
        }
        let sum = tch::no_grad(|| {
            in_chunks(&self.decoder, hidden, chunk, &|logits, start, len| {
                let targets = targets.f_narrow(0, start, len)?;
                let of_any = confidence(&logits.f_to_kind(Kind::Float)?, &targets.f_clamp_min(0)?)?;
                Ok(of_any.f_mul(&targets.f_ne(IGNORED)?)?.f_sum(Kind::Float)?)
            })
        })?;
        let sum = sum.f_to_device(tch::Device::Cpu)?;
        Ok(slice(&sum)?.iter().map(|&x| f64::from(x)).sum::<f64>() / count)
    }
}
