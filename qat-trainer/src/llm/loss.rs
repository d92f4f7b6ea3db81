//! Cross-entropy in pieces: the logits of all positions of a batch, `positions × vocabulary`, are the largest tensor of a
//! training step, and are needed for nothing but this one number and its gradient.

use super::decoder::Decoder;
use crate::autograd::closure_node;
use crate::autograd::fused::decoder as fused;
use crate::distill::DistillationLoss;
use crate::error::{Error, ErrorKind, Result};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::{Kind, Reduction, Tensor};

/// Targets of this value are not predicted.
pub const IGNORED: i64 = -100;

/// The mean of −ln p(target) over the positions of `hidden`, `[positions, hidden]`, whose target, `[positions]`, is not
/// [`IGNORED`], with the logits of at most `chunk` positions in memory at a time.
///
/// The gradients with respect to `hidden` and the head are computed on the way, chunk by chunk, while the logits are there; the
/// backward pass only scales them. Without gradients (inside `tch::no_grad`) nothing of the kind is done.
///
/// # Errors
/// [`ErrorKind::Spec`] for a chunk of 0; [`ErrorKind::Data`] if there is nothing to predict; [`ErrorKind::Train`] if torch refuses.
///
/// ```
/// # use qat_trainer::llm::config::LlmConfig;
/// use qat_trainer::{ErrorKind, llm::{Decoder, IGNORED, chunked_cross_entropy}};
/// use tch::Tensor;
/// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
/// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
/// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
/// # let decoder = Decoder::generated(&config, 1)?;
/// let tokens = Tensor::from_slice(&[2i64, 7, 1, 8, 2, 8]).view([1, 6]);
/// let hidden = decoder.hidden(&tokens)?.view([6, -1]);
/// let targets = Tensor::from_slice(&[7i64, 1, 8, 2, 8, IGNORED]); // nothing follows the last token
/// let loss = chunked_cross_entropy(&decoder, &hidden, &targets, 2)?; // logits of two at a time
/// let logits = decoder.logits(&hidden)?.narrow(0, 0, 5);
/// let at_once = logits.cross_entropy_for_logits(&targets.narrow(0, 0, 5));
/// assert!((loss - at_once).abs().double_value(&[]) < 1e-5);
/// let none = chunked_cross_entropy(&decoder, &hidden, &targets.full_like(IGNORED), 2);
/// assert_eq!(none.unwrap_err().kind(), ErrorKind::Data);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn chunked_cross_entropy(
    decoder: &Decoder,
    hidden: &Tensor,
    targets: &Tensor,
    chunk: usize,
) -> Result<Tensor> {
    let count = predicted(targets)?;
    in_chunks(decoder, hidden, chunk, &|logits, start, len| {
        let targets = targets.f_narrow(0, start, len)?;
        Ok(cross_entropy(logits, &targets)?.f_div_scalar(count)?)
    })
}

/// The sum of −ln p(target). On a GPU the gradient takes the place of the logits: they must be of no other use, and there is one
/// backward pass.
fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    if !fused::takes(logits.device(), logits.f_kind()?) {
        let logits = logits.f_to_kind(Kind::Float)?;
        return Ok(logits.f_cross_entropy_loss(targets, None::<Tensor>, Reduction::Sum, IGNORED, 0.0)?);
    }
    let (logits, targets) = (logits.f_contiguous()?, targets.f_contiguous()?);
    let [losses, log_sums] = tch::no_grad(|| fused::cross_entropy(&logits, &targets))?;
    let sum = losses.f_sum(Kind::Float)?;
    let overwritten = AtomicBool::new(false);
    closure_node(sum, &[&logits], &[&logits, &targets, &log_sums], move |grad, saved| {
        let [logits, targets, log_sums] = saved else {
            return Err(Error::new(ErrorKind::Train, "the logits are lost"));
        };
        if overwritten.swap(true, Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Train, "a second backward pass through a cross-entropy"));
        }
        fused::cross_entropy_gradients(logits, targets, log_sums, &grad.f_contiguous()?)?;
        Ok(vec![Some(logits.f_detach()?)])
    })
}

/// The mean divergence of a student from a teacher over all positions, given the hidden states of both, `[positions, hidden]`, with
/// the logits of at most `chunk` positions in memory at a time; gradients are made on the way, as in [`chunked_cross_entropy`].
///
/// # Errors
/// [`ErrorKind::Spec`] for a chunk of 0, and for a divergence that asks for labels; [`ErrorKind::Train`] if torch refuses.
///
/// ```
/// # use qat_kernels::QatLossWeights;
/// # use qat_trainer::llm::{Decoder, config::LlmConfig};
/// use qat_trainer::distill::{DistillationLoss, Divergence};
/// use qat_trainer::llm::chunked_divergence;
/// # use tch::Tensor;
/// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
/// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
/// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
/// # let (student, teacher) = (Decoder::generated(&config, 1)?, Decoder::generated(&config, 2)?);
/// # let tokens = Tensor::from_slice(&[2i64, 7, 1, 8, 2, 8]).view([1, 6]);
/// let weights = QatLossWeights { task: 0.0, distillation: 1.0, reasoning: 0.0 };
/// let loss = DistillationLoss::new(weights, 2.0, Divergence::Kl)?;
/// let ours = student.hidden(&tokens)?.view([6, -1]);
/// let theirs = teacher.hidden(&tokens)?.view([6, -1]);
/// let apart = chunked_divergence(&loss, (&student, &ours), (&teacher, &theirs), 4)?;
/// let (a, b) = (student.logits(&ours)?, teacher.logits(&theirs)?);
/// let at_once = loss.divergence(&a, &b, &tokens.view(-1))?;
/// assert!((apart - at_once).abs().double_value(&[]) < 1e-5);
/// let from_itself = chunked_divergence(&loss, (&teacher, &theirs), (&teacher, &theirs), 4)?;
/// assert!(from_itself.abs().double_value(&[]) < 1e-6);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn chunked_divergence(
    loss: &DistillationLoss,
    (student, ours): (&Decoder, &Tensor),
    (teacher, theirs): (&Decoder, &Tensor),
    chunk: usize,
) -> Result<Tensor> {
    if loss.is_confidence_aware() {
        return Err(Error::new(ErrorKind::Spec, "there are no labels whose confidence could be asked for"));
    }
    let positions = ours.size2()?.0 as f64;
    in_chunks(student, ours, chunk, &|logits, start, len| {
        let answer = tch::no_grad(|| teacher.logits(&theirs.f_narrow(0, start, len)?))?;
        let each = loss.each(&logits.f_to_kind(Kind::Float)?, &answer.f_to_kind(Kind::Float)?, 0.0)?;
        Ok(each.f_sum(Kind::Float)?.f_div_scalar(positions)?)
    })
}

/// How many targets are predicted.
pub(super) fn predicted(targets: &Tensor) -> Result<f64> {
    match targets.f_ne(IGNORED)?.f_sum(Kind::Int64)?.f_int64_value(&[])? {
        0 => Err(Error::new(ErrorKind::Data, "no position has a target").remedy("use longer sequences")),
        count => Ok(count as f64),
    }
}

/// The sum of `piece` over chunks of positions: it gets the logits of a chunk, `[len, vocabulary]` in the head's kind, with where it
/// starts and its length, and returns a number. Gradients are made on the way, as [`chunked_cross_entropy`] says.
pub(super) fn in_chunks(
    decoder: &Decoder,
    hidden: &Tensor,
    chunk: usize,
    piece: &dyn Fn(&Tensor, i64, i64) -> Result<Tensor>,
) -> Result<Tensor> {
    if chunk == 0 {
        return Err(Error::new(ErrorKind::Spec, "chunks of 0 positions").remedy("use at least 1"));
    }
    let head = decoder.head();
    let piece = |x: &Tensor, start, len| piece(&head.forward(x)?, start, len);
    let leaves = head.leaves();
    // What is computed inside `no_grad` has no history, whatever it is computed from. (A mere view would claim its base's.)
    let mut learning = false;
    for t in leaves.iter().copied().chain([hidden]) {
        learning |= t.f_narrow(0, 0, 0)?.f_neg()?.requires_grad();
    }
    let (positions, _) = hidden.size2()?;
    let mut loss = Tensor::f_zeros([], (Kind::Float, hidden.device()))?;
    let mut of_hidden = Vec::new();
    let mut of_leaves: Vec<Tensor> = Vec::new();
    let mut next = 0;
    while next < positions {
        let (start, len) = (next, (chunk as i64).min(positions - next));
        next += len;
        let x = hidden.f_narrow(0, start, len)?;
        if !learning {
            loss = loss.f_add(&tch::no_grad(|| piece(&x, start, len))?)?;
            continue;
        }
        let x = x.f_detach()?.f_set_requires_grad(true)?;
        let part = piece(&x, start, len)?;
        let wanted: Vec<&Tensor> = [&x].into_iter().chain(leaves.iter().copied()).collect();
        let mut grads = Tensor::f_run_backward(&[&part], &wanted, false, false)?.into_iter();
        of_hidden.extend(grads.next());
        if of_leaves.is_empty() {
            of_leaves = grads.collect();
        } else {
            for (sum, grad) in of_leaves.iter_mut().zip(grads) {
                *sum = sum.f_add(&grad)?;
            }
        }
        loss = loss.f_add(&part.f_detach()?)?;
    }
    if !learning {
        return Ok(loss);
    }
    let mut grads = vec![Tensor::f_cat(&of_hidden, 0)?];
    grads.append(&mut of_leaves);
    let inputs: Vec<&Tensor> = [hidden].into_iter().chain(leaves).collect();
    let grads = Mutex::new(grads);
    closure_node(loss, &inputs, &[], move |grad, _| {
        let grads =
            grads.lock().map_err(|_| Error::new(ErrorKind::Train, "an earlier backward pass failed"))?;
        grads.iter().map(|g| Ok(Some(g.f_mul(&grad.f_to_kind(g.f_kind()?)?)?))).collect()
    })
}
