//! The three ways of computing the same quantiser against each other, and what a training needs of them.

use super::node::{Operands, fake_quantise};
use super::*;
use crate::autograd::slice;
use crate::checkpoint::Checkpoint;
use crate::llm::config::{Architecture, LlmConfig, tiny};
use crate::llm::{Rates, Rule};
use crate::random::normal;
use qat_kernels::config::StepRule;
use qat_kernels::ste_simd::AdamW;
use qat_kernels::{Grid, Levels};
use tch::{Device, Tensor};

fn quant(bits: u8, grid: Grid, step: StepRule) -> MatrixQuant {
    MatrixQuant::new(WeightQuant { levels: Levels::new(bits, grid).unwrap(), step })
}

fn adaptive(bits: u8) -> MatrixQuant {
    MatrixQuant { block: Some(16), ..quant(bits, Grid::MidRise, StepRule::PiAdaptive { group: 8 }) }
}

fn all() -> Vec<MatrixQuant> {
    let estimators = [
        SteVariant::LearnedStepSize,
        SteVariant::Ewgs { lambda: 0.2 },
        SteVariant::Standard,
        SteVariant::Clipped { clip_val: 0.4 },
    ];
    let rules = [StepRule::Uniform, StepRule::Pi { k: 3 }, StepRule::PiAdaptive { group: 8 }];
    let mut all = Vec::new();
    for bits in [2, 3, 4, 8] {
        for grid in [Grid::MidTread, Grid::MidRise] {
            for rule in rules {
                for block in [None, Some(16)] {
                    all.extend(estimators.map(|ste| MatrixQuant { ste, block, ..quant(bits, grid, rule) }));
                }
            }
        }
    }
    all
}

fn rates(step: u32, lr: f32) -> Rates {
    let adamw = AdamW { lr, weight_decay: 0.0, step, ..AdamW::default() };
    Rates { weights: Rule::AdamW(adamw), scales: adamw, factor: 0.7 }
}

#[test]
fn torchs_operators_compute_what_the_kernels_compute() {
    let (w, g) = (normal(1, &[6, 48]), normal(2, &[6, 48]));
    for quant in all() {
        let blocks = Blocks::fitted(quant, slice(&w).unwrap(), 48, None).unwrap();
        // Off the fit, so that weights lie outside of the range too.
        let alpha: Vec<f32> = blocks.alpha.iter().map(|a| a * 0.8).collect();
        let k: Vec<f32> = blocks.divisors.iter().map(|&k| k.into()).collect();
        let run = |backend| {
            let w = w.copy().set_requires_grad(true);
            let alpha = Tensor::from_slice(&alpha).set_requires_grad(true);
            let operands = Operands { w: &w, alpha: &alpha, divisors: &Tensor::from_slice(&k) };
            let w_hat = fake_quantise(quant, backend, &operands, Kind::Float).unwrap();
            let loss = (&w_hat * &g).sum(Kind::Float);
            let grads = Tensor::f_run_backward(&[&loss], &[&w, &alpha], false, false).unwrap();
            (w_hat.detach(), grads)
        };
        let ((ours, a), (theirs, b)) = (run(Backend::Kernels), run(Backend::Operators));
        assert!(ours.equal(&theirs) && !ours.equal(&w), "{quant:?}");
        assert!(a[0].equal(&b[0]), "{quant:?}");
        assert!(a[1].allclose(&b[1], 1e-5, 1e-6, false), "{quant:?}");
        assert!(a[1].abs().max().double_value(&[]) > 1e-3);
    }
}

/// A decoder that is quantised as said, on weights that are not too small for their gradients.
fn decoder(config: &LlmConfig, quant: MatrixQuant, tables: bool, nodes: Option<Backend>) -> Decoder {
    let mut decoder = Decoder::generated(config, 3).unwrap();
    let how = DecoderQuant { blocks: quant, tables: tables.then_some(quant) };
    match nodes {
        None => {
            decoder.quantise_in_training(&how).unwrap();
        }
        Some(backend) => decoder
            .replace(|name, linear| {
                let chosen = tables || name.starts_with("model.layers.");
                let node = NodeQuantised::on(backend, &linear.weight()?, linear.bias(), quant, None)?;
                Ok(chosen.then(|| Box::new(node) as Box<dyn Linear>))
            })
            .unwrap(),
    }
    decoder
}

fn ids() -> Tensor {
    (normal(7, &[2, 10]) * 1000.0).to_kind(Kind::Int64).remainder(262)
}

/// The loss and the gradients of all leaves.
fn gradients(decoder: &Decoder) -> (f64, Vec<Tensor>) {
    let ids = ids();
    let loss = decoder.forward(&ids).unwrap().reshape([20, -1]).cross_entropy_for_logits(&ids.reshape(-1));
    (loss.double_value(&[]), Tensor::f_run_backward(&[&loss], &decoder.leaves(), false, false).unwrap())
}

#[test]
fn weights_as_leaves_learn_what_parameters_of_torch_learn() {
    let config = tiny(Architecture::Llama);
    for base in [adaptive(2), adaptive(3), quant(4, Grid::MidTread, StepRule::Uniform)] {
        for ste in [SteVariant::LearnedStepSize, SteVariant::Ewgs { lambda: 0.2 }] {
            let quant = MatrixQuant { ste, ..base };
            let mut leaves = decoder(&config, quant, true, None);
            let mut kernels = decoder(&config, quant, true, Some(Backend::Kernels));
            let mut operators = decoder(&config, quant, true, Some(Backend::Operators));
            for t in 1..=3 {
                let mut losses = Vec::new();
                for decoder in [&mut leaves, &mut kernels, &mut operators] {
                    let (loss, grads) = gradients(decoder);
                    decoder.update(&grads, &rates(t, 1e-3)).unwrap();
                    losses.push(loss);
                }
                // A weight at the border of two levels may fall to either side, by the last bit of a sum.
                assert!(losses.iter().all(|l| (l - losses[0]).abs() < 2e-3), "{quant:?} {losses:?}");
            }
            let mut states = [Checkpoint::default(), Checkpoint::default(), Checkpoint::default()];
            for (decoder, state) in [&leaves, &kernels, &operators].into_iter().zip(&mut states) {
                decoder.save_state(state).unwrap();
            }
            let name = "model.layers.1.mlp.down_proj";
            for part in ["weight", "alpha"] {
                let of = |i: usize| Tensor::from_slice(&states[i].tensors[&format!("{name}.{part}")].data);
                for i in [1, 2] {
                    let off = (of(0) - of(i)).abs().mean(Kind::Float).double_value(&[]);
                    assert!(off < 1e-5, "{quant:?} {part} {i}: {off}");
                }
            }
        }
    }
}

#[test]
fn recomputed_activations_change_no_bit_of_any_gradient_of_quantised_matrices() {
    for architecture in [Architecture::Llama, Architecture::Qwen2] {
        for nodes in [None, Some(Backend::Kernels), Some(Backend::Operators)] {
            let mut decoder = decoder(&tiny(architecture), adaptive(2), true, nodes);
            decoder.learn().unwrap();
            let mut run = |recompute| {
                decoder.set_recompute(recompute);
                gradients(&decoder)
            };
            let ((plain, wanted), (again, got)) = (run(false), run(true));
            assert_eq!(plain, again);
            assert!(wanted.len() == got.len() && wanted.iter().zip(&got).all(|(a, b)| a.equal(b)));
            assert!(wanted.iter().all(|g| g.abs().max().double_value(&[]) > 0.0));
        }
    }
}

#[test]
fn a_training_learns_and_goes_on_from_its_state_bit_for_bit() {
    for (moments, nodes) in [
        (MomentBits::ThirtyTwo, None),
        (MomentBits::Eight, None),
        (MomentBits::ThirtyTwo, Some(Backend::Operators)),
    ] {
        let quant = MatrixQuant { moments, choose_every: 4, ..adaptive(2) };
        let made = || {
            let mut decoder = decoder(&tiny(Architecture::Qwen2), quant, false, nodes);
            decoder.learn().unwrap();
            decoder
        };
        let step = |decoder: &mut Decoder, t| {
            let (loss, grads) = gradients(decoder);
            decoder.update(&grads, &rates(t, 5e-3)).unwrap();
            loss
        };
        let mut one = made();
        let first = step(&mut one, 1);
        (2..=10).for_each(|t| {
            step(&mut one, t);
        });
        let mut state = Checkpoint::default();
        one.save_state(&mut state).unwrap();
        let mut other = made();
        other.load_state(&Checkpoint::from_bytes(&state.to_bytes().unwrap()).unwrap()).unwrap();
        let last = (11..=20).map(|t| (step(&mut one, t), step(&mut other, t))).last().unwrap();
        assert_eq!(last.0, last.1);
        assert!(last.0 < 0.3 * first, "{moments:?} {nodes:?}: {first} {}", last.0);
        for ((name, a), (_, b)) in one.tensors().unwrap().iter().zip(&other.tensors().unwrap()) {
            assert!(a.equal(b), "{name}");
        }
        state.tensors.remove("model.layers.0.mlp.up_proj.alpha");
        assert!(other.load_state(&state).unwrap_err().to_string().contains("up_proj.alpha"));
    }
}

#[test]
fn what_the_network_computes_with_are_levels_times_steps() {
    for quant in all() {
        let w = normal(5, &[4, 32]);
        let mut matrix = FakeQuantised::new(&w, None, quant, None).unwrap();
        matrix.update(&[normal(6, &[4, 32])], &rates(1, 0.05)).unwrap();
        let (levels, codes) = (quant.quant.levels, matrix.codes().unwrap());
        let block = quant.block.unwrap_or(32);
        let w_hat = matrix.weight().unwrap().detach();
        for (i, (&got, &q)) in slice(&w_hat).unwrap().iter().zip(&codes).enumerate() {
            let alpha = matrix.alpha()[i / block];
            let step = match quant.quant.step {
                StepRule::Uniform => alpha,
                StepRule::Pi { k } => qat_kernels::pi_step(alpha, k).unwrap(),
                StepRule::PiAdaptive { group } => {
                    qat_kernels::pi_step(alpha, matrix.divisors()[i / group]).unwrap()
                }
            };
            assert_eq!(got, levels.dequantize(q.into(), step), "{quant:?}");
        }
        assert!(!Tensor::from_slice(matrix.latent()).equal(&w.reshape(-1)));
    }
}

#[test]
fn training_from_codes_begins_at_the_quantised_matrix_bit_for_bit() {
    for quant in all() {
        let w = normal(5, &[4, 32]);
        let fitted = QuantisedMatrix::fit(quant.blocks(), slice(&w).unwrap(), 32, None).unwrap();
        let levels = quant.quant.levels;
        // Every third code is another one, as when errors are fed on to later columns.
        let mut codes = fitted.codes().to_vec();
        for code in codes.iter_mut().step_by(3) {
            *code = if i32::from(*code) < levels.hi() { *code + 1 } else { *code - 1 };
        }
        let (scales, k) = (fitted.scales().to_vec(), fitted.divisors().to_vec());
        let start = QuantisedMatrix::new(quant.blocks(), 32, codes, scales, k).unwrap();
        // What is learned next to the codes is the given quantiser's, the codes' form is their own.
        let other = MatrixQuant { quant: adaptive(5).quant, block: Some(8), ..quant };
        let wanted = Tensor::from_slice(&start.dequantise().unwrap()).reshape([4, 32]);
        let ours = FakeQuantised::from_quantised(&w, None, other, &start).unwrap();
        let node = NodeQuantised::from_quantised(&w, None, other, &start).unwrap();
        for matrix in [&ours as &dyn Linear, &node] {
            assert!(matrix.weight().unwrap().equal(&wanted), "{quant:?}");
            assert_eq!(matrix.quantised().unwrap().unwrap(), start);
        }
        // Weights lie between their level and what they were, never farther than their cell goes.
        for ((&latent, &w), &level) in
            ours.latent().iter().zip(slice(&w).unwrap()).zip(slice(&wanted).unwrap())
        {
            let (moved, whole) = (latent - level, w - level);
            assert!(moved * whole >= 0.0 && moved.abs() <= 0.5 * whole.abs() + 1e-6, "{latent} {w} {level}");
        }
        assert!(ours.latent().iter().zip(slice(&wanted).unwrap()).any(|(a, b)| a != b));
        let e = FakeQuantised::from_quantised(&normal(5, &[8, 16]), None, quant, &start).unwrap_err();
        assert!(e.to_string().contains("codes of 4 by 32 for a matrix of 8 by 16"), "{e}");
    }
}

#[test]
fn a_frozen_decoder_is_what_its_codes_say() {
    let mut decoder = Decoder::generated(&tiny(Architecture::Llama), 3).unwrap();
    let tables = Some(MatrixQuant { block: Some(16), ..quant(6, Grid::MidRise, StepRule::Uniform) });
    let how = DecoderQuant { blocks: adaptive(3), tables };
    decoder.quantise_in_training(&how).unwrap();
    for t in 1..=3 {
        let (_, grads) = gradients(&decoder);
        decoder.update(&grads, &rates(t, 5e-3)).unwrap();
    }
    let learned = decoder.tensors().unwrap();
    let matrices = decoder.freeze_quantised().unwrap();
    assert!(matrices.len() == decoder.linears().len() && decoder.leaves().is_empty());
    assert!(decoder.quantised().unwrap().is_empty());
    for (name, before) in learned {
        let after = decoder.tensors().unwrap().into_iter().find(|(other, _)| *other == name).unwrap().1;
        // Only α is rounded, to 11 bits.
        assert!(after.allclose(&before, 5e-4, 0.0, false), "{name}");
        if let Some(matrix) = matrices.get(name.trim_end_matches(".weight")) {
            assert_eq!(slice(&after.reshape(-1)).unwrap(), matrix.dequantise().unwrap());
        }
    }
    // A decoder trained from these codes begins as this one, whatever its weights are.
    let mut again = Decoder::generated(&tiny(Architecture::Llama), 3).unwrap();
    again.quantise_in_training_from(&DecoderQuant { tables: None, ..how }, &matrices).unwrap();
    let pairs = again.linears().into_iter().zip(decoder.linears());
    assert!(pairs.into_iter().all(|((_, a), (_, b))| a.weight().unwrap().equal(&b.weight().unwrap())));
    let unknown =
        [("model.layers.9.self_attn.q_proj".to_string(), matrices.values().next().unwrap().clone())];
    let e = again.quantise_in_training_from(&how, &unknown.into()).unwrap_err().to_string();
    assert!(e.contains("layers.9") && e.contains("no such matrix"), "{e}");
}

#[test]
fn moments_of_8_bits_take_a_quarter_of_the_bytes() {
    let w = normal(5, &[64, 1024]);
    let quant =
        |moments| MatrixQuant { moments, block: Some(128), ..quant(3, Grid::MidRise, StepRule::Uniform) };
    let bytes = |moments| FakeQuantised::new(&w, None, quant(moments), None).unwrap().optimiser_bytes();
    let scales = 8 * 512;
    assert_eq!(bytes(MomentBits::ThirtyTwo), 8 * 65536 + scales);
    assert_eq!(bytes(MomentBits::Eight), 2 * 65536 + 8 * 65536 / 256 + scales);
}

#[test]
fn a_decoder_in_bf16_learns_in_f32_and_products_may_be_in_bf16() {
    let config = tiny(Architecture::Llama);
    let made = |kind: Kind, compute| {
        let mut decoder = Decoder::generated(&config, 3).unwrap();
        decoder = Decoder::load(&config, &InMemory(decoder.tensors().unwrap()), kind, Device::Cpu).unwrap();
        let blocks = MatrixQuant { compute, ..adaptive(4) };
        decoder.quantise_in_training(&DecoderQuant { blocks, tables: None }).unwrap();
        decoder
    };
    let (exact, _) = gradients(&made(Kind::Float, None));
    for mut decoder in [made(Kind::BFloat16, None), made(Kind::Float, Some(Kind::BFloat16))] {
        let kind = decoder.kind();
        let (before, grads) = gradients(&decoder);
        assert!((before - exact).abs() < 0.02 * exact);
        for t in 1..=10 {
            let (_, grads) = gradients(&decoder);
            decoder.update(&grads, &rates(t, 5e-3)).unwrap();
        }
        assert!(gradients(&decoder).0 < before - 1.0);
        assert!(grads.iter().all(|g| g.kind() == Kind::Float));
        assert!(decoder.tensors().unwrap().iter().all(|(_, t)| t.kind() == kind));
    }
}

/// Tensors by name.
struct InMemory(Vec<(String, Tensor)>);

impl crate::llm::TensorSource for InMemory {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn tensor(&self, name: &str, _shape: &[i64]) -> Result<Tensor> {
        Ok(self.0.iter().find(|(known, _)| known == name).unwrap().1.shallow_clone())
    }

    fn file_of(&self, _name: &str) -> std::path::PathBuf {
        "memory".into()
    }
}

#[test]
fn what_does_not_fit_is_refused_where_it_stands() {
    let mut decoder = Decoder::generated(&tiny(Architecture::Llama), 3).unwrap();
    let mut refuse = |blocks: MatrixQuant, wants: &str| {
        let e = decoder.quantise_in_training(&DecoderQuant { blocks, tables: None }).unwrap_err().to_string();
        assert!(e.contains("model.layers.0.self_attn.q_proj") && e.contains(wants), "{e}");
    };
    refuse(MatrixQuant { block: Some(24), ..adaptive(2) }, "blocks of 24 do not divide rows of 32");
    refuse(MatrixQuant { block: Some(4), ..adaptive(2) }, "groups of 8 do not divide blocks of 4");
    let w = normal(5, &[2, 32]);
    let mut matrix = FakeQuantised::new(&w, None, adaptive(2), None).unwrap();
    let e = matrix.update(&[w.full_like(f64::NAN)], &rates(1, 1e-3)).unwrap_err().to_string();
    assert!(e.contains("diverged"), "{e}");
    let e = matrix.update(&[normal(1, &[3])], &rates(1, 1e-3)).unwrap_err().to_string();
    assert!(e.contains("3 gradients for 64 weights"), "{e}");
    let steps = |alpha: usize, k: usize| {
        FakeQuantised::with_steps(&w, None, adaptive(2), vec![1.0; alpha], vec![3; k])
    };
    assert!(steps(4, 8).is_ok());
    assert!(steps(4, 7).unwrap_err().to_string().contains("7 divisors for 4 blocks"));
    assert!(steps(2, 4).unwrap_err().to_string().contains("2 blocks of 16 for 64 weights"));
    let graph = matrix.weight().unwrap() * 2.0;
    let e = matrix.update(&[w.ones_like()], &rates(1, 1e-3)).unwrap_err().to_string();
    assert!(e.contains("shared"), "{e}");
    drop(graph);
}
