//! Gradients when less is kept in memory.

use super::*;
use crate::checkpoint::Checkpoint;
use crate::distill::{DistillationLoss, Divergence};
use qat_kernels::QatLossWeights;
use qat_kernels::ste_simd::AdamW;

/// A decoder whose every number is learned.
fn learning(config: &LlmConfig) -> Decoder {
    let leaf = |t: &Tensor| t.copy().set_requires_grad(true);
    let mut decoder = decoder(config);
    decoder
        .replace(|_, linear| {
            let dense = Dense::new(leaf(&linear.weight()?), linear.bias().map(leaf));
            Ok(Some(Box::new(dense) as Box<dyn Linear>))
        })
        .unwrap();
    for (_, norm) in decoder.norms() {
        let _ = norm.set_requires_grad(true);
    }
    decoder
}

fn rates(step: u32) -> Rates {
    let adamw = AdamW { lr: 1e-2, step, ..AdamW::default() };
    Rates { weights: Rule::AdamW(adamw), scales: adamw, factor: 1.0 }
}

fn gradients(loss: &Tensor, leaves: &[&Tensor]) -> Vec<Tensor> {
    let grads = Tensor::f_run_backward(&[loss], leaves, false, false).unwrap();
    assert!(grads.iter().all(|g| g.abs().max().double_value(&[]) > 0.0));
    grads
}

#[test]
fn recomputed_activations_change_no_bit_of_any_gradient() {
    for architecture in BOTH {
        let mut decoder = learning(&tiny(architecture));
        let ids = tokens(3, 2, 10);
        let mut run = |recompute| {
            decoder.set_recompute(recompute);
            let logits = decoder.forward(&ids).unwrap();
            let targets = ids.reshape(-1);
            let loss = logits.reshape([20, -1]).cross_entropy_for_logits(&targets);
            (logits.detach(), gradients(&loss, &decoder.leaves()))
        };
        let ((plain, wanted), (again, got)) = (run(false), run(true));
        assert!(plain.equal(&again));
        // Embedding (and head), seven matrices with three biases in Qwen2, two norms in each block, the last norm.
        let expected = if architecture == Architecture::Llama { 1 + 2 * 9 + 1 } else { 2 + 2 * 12 + 1 };
        assert_eq!(wanted.len(), expected);
        assert!(wanted.iter().zip(&got).all(|(a, b)| a.equal(b)));
    }
}

#[test]
fn frozen_inputs_and_frozen_blocks_are_recomputed_too() {
    let mut decoder = decoder(&tiny(Architecture::Llama));
    // One matrix of the second block learns, as adapters do.
    decoder
        .replace(|name, linear| {
            let learns = name == "model.layers.1.mlp.up_proj";
            let weight = linear.weight()?.copy().set_requires_grad(true);
            Ok(learns.then(|| Box::new(Dense::new(weight, None)) as Box<dyn Linear>))
        })
        .unwrap();
    let ids = tokens(3, 1, 10);
    let mut run = |recompute| {
        decoder.set_recompute(recompute);
        let loss = decoder.hidden(&ids).unwrap().square().sum(Kind::Float);
        assert_eq!(decoder.leaves().len(), 1);
        gradients(&loss, &decoder.leaves()).remove(0)
    };
    assert!(run(false).equal(&run(true)));
}

#[test]
fn divergence_in_chunks_is_that_of_all_logits() {
    let (student, mut teacher) = (learning(&tiny(Architecture::Llama)), decoder(&tiny(Architecture::Llama)));
    // Another head than the student's.
    teacher
        .replace(|name, linear| {
            let head = name == "model.embed_tokens";
            Ok(head.then(|| Box::new(Dense::new(linear.weight().unwrap() * 1.5, None)) as Box<dyn Linear>))
        })
        .unwrap();
    let weights = QatLossWeights { task: 0.0, distillation: 1.0, reasoning: 0.0 };
    let loss = |divergence| DistillationLoss::new(weights, 1.5, divergence).unwrap();
    let ids = tokens(3, 1, 10);
    let hidden = |decoder: &Decoder| decoder.hidden(&ids).unwrap().squeeze_dim(0);
    let kl = loss(Divergence::Kl);
    let [ours, theirs] = [&student, &teacher].map(|d| d.forward(&ids).unwrap().squeeze_dim(0));
    let whole = kl.divergence(&ours, &theirs, &ids.squeeze_dim(0)).unwrap();
    let wanted = gradients(&whole, &student.leaves());
    for chunk in [1, 3, 10, 64] {
        let (ours, theirs) = (hidden(&student), tch::no_grad(|| hidden(&teacher)));
        let got = chunked_divergence(&kl, (&student, &ours), (&teacher, &theirs), chunk).unwrap();
        assert!(got.double_value(&[]) > 0.01 && got.allclose(&whole, 1e-5, 1e-6, false));
        for (a, b) in gradients(&got, &student.leaves()).iter().zip(&wanted) {
            assert!(a.allclose(b, 1e-4, 1e-6, false));
        }
    }
    let (ours, theirs) = (hidden(&student), hidden(&teacher));
    let both = ((&student, &ours), (&teacher, &theirs));
    assert!(chunked_divergence(&loss(Divergence::ConfidenceAware), both.0, both.1, 4).is_err());
    assert!(chunked_divergence(&kl, both.0, both.1, 0).is_err());
}

#[test]
fn cross_entropy_in_chunks_is_that_of_all_logits() {
    for architecture in BOTH {
        let decoder = learning(&tiny(architecture));
        let ids = tokens(3, 2, 10);
        let mut targets = ids.roll([-1], [1]);
        let _ = targets.narrow(1, 9, 1).fill_(IGNORED);
        targets = targets.reshape(-1);
        let hidden = decoder.hidden(&ids).unwrap().reshape([20, -1]);
        let whole = decoder.logits(&hidden).unwrap();
        let whole =
            whole.cross_entropy_loss(&targets, None::<Tensor>, tch::Reduction::Mean, IGNORED, 0.0) * 3.0;
        let wanted = gradients(&whole, &decoder.leaves());
        for chunk in [1, 7, 20, 1000] {
            let hidden = decoder.hidden(&ids).unwrap().reshape([20, -1]);
            let loss = chunked_cross_entropy(&decoder, &hidden, &targets, chunk).unwrap() * 3.0;
            assert!(difference(&loss.detach(), &whole.detach()) < 1e-5);
            for (a, b) in gradients(&loss, &decoder.leaves()).iter().zip(&wanted) {
                assert!(a.allclose(b, 1e-4, 1e-6, false), "{architecture:?} {chunk}: {}", difference(a, b));
            }
            let quiet = tch::no_grad(|| chunked_cross_entropy(&decoder, &hidden, &targets, chunk)).unwrap();
            assert!(!quiet.requires_grad() && difference(&(quiet * 3.0), &whole.detach()) < 1e-5);
        }
        let hidden = decoder.hidden(&ids).unwrap().reshape([20, -1]);
        assert!(chunked_cross_entropy(&decoder, &hidden, &targets, 0).is_err());
        let none = targets.full_like(IGNORED);
        let e = chunked_cross_entropy(&decoder, &hidden, &none, 4).unwrap_err().to_string();
        assert!(e.contains("no position has a target"), "{e}");
    }
}

#[test]
fn what_learns_moves_against_its_gradient_and_goes_on_from_a_saved_state_bit_for_bit() {
    for architecture in BOTH {
        let made = || {
            let mut decoder = Decoder::generated(&tiny(architecture), 1).unwrap();
            decoder.learn().unwrap();
            decoder
        };
        let ids = tokens(3, 2, 10);
        let step = |decoder: &mut Decoder, t| {
            let loss = {
                let logits = decoder.forward(&ids).unwrap().reshape([20, -1]);
                logits.cross_entropy_for_logits(&ids.reshape(-1))
            };
            let grads = gradients(&loss, &decoder.leaves());
            let value = loss.double_value(&[]);
            drop(loss);
            decoder.update(&grads, &rates(t)).unwrap();
            value
        };
        let mut one = made();
        let before = step(&mut one, 1);
        step(&mut one, 2);
        let mut state = Checkpoint::default();
        one.save_state(&mut state).unwrap();
        let mut other = made();
        other.load_state(&state).unwrap();
        let after = step(&mut one, 3);
        assert!(after < before - 0.5 && after == step(&mut other, 3));
        for ((name, a), (_, b)) in one.tensors().unwrap().iter().zip(&other.tensors().unwrap()) {
            assert!(a.equal(b), "{name}");
        }
        // Norms and all: nothing stays what it was, and nothing is left out.
        for ((name, a), (_, b)) in one.tensors().unwrap().iter().zip(&made().tensors().unwrap()) {
            assert!(!a.equal(b), "{name}");
        }
        state.tensors.remove("model.norm.weight.v");
        assert!(other.load_state(&state).unwrap_err().to_string().contains("model.norm.weight.v"));
        assert!(one.update(&[], &rates(4)).is_err());
    }
}

#[test]
fn a_decoder_in_bf16_learns_in_f32() {
    let mut half = Decoder::load(&tiny(Architecture::Qwen2), &Generated, Kind::BFloat16, CPU).unwrap();
    half.learn().unwrap();
    assert!(half.leaves().iter().all(|leaf| leaf.kind() == Kind::Float));
    let ids = tokens(3, 2, 10);
    let mut losses = Vec::new();
    for t in 1..=10 {
        let logits = half.forward(&ids).unwrap().reshape([20, -1]);
        assert_eq!(logits.kind(), Kind::BFloat16);
        let loss = logits.to_kind(Kind::Float).cross_entropy_for_logits(&ids.reshape(-1));
        losses.push(loss.double_value(&[]));
        let grads = gradients(&loss, &half.leaves());
        half.update(&grads, &rates(t)).unwrap();
    }
    assert!(losses[9] < losses[0] - 0.5, "{losses:?}");
    assert!(half.tensors().unwrap().iter().all(|(_, t)| t.kind() == Kind::BFloat16));
}
