//! Adapted decoders against their definitions, and their files.

use super::*;
use crate::llm::config::{Architecture, tiny};
use crate::llm::qat::leaves::product;
use crate::llm::{Backend, DecoderQuant, Rates, Rule};
use crate::random::normal;
use crate::spec::WeightQuant;
use qat_kernels::config::StepRule;
use qat_kernels::ste_simd::AdamW;
use qat_kernels::{Grid, Levels, SteVariant};
use tch::{Device, Kind, Tensor};

fn quant(bits: u8, step: StepRule) -> MatrixQuant {
    let levels = Levels::new(bits, Grid::MidRise).unwrap();
    MatrixQuant { block: Some(16), ..MatrixQuant::new(WeightQuant { levels, step }) }
}

const ADAPTIVE: StepRule = StepRule::PiAdaptive { group: 8 };
const MODES: [LoraMode; 3] = [LoraMode::Packed, LoraMode::Merged, LoraMode::Scales];

fn settings(mode: LoraMode) -> LoraSettings {
    LoraSettings { rank: 4, alpha: 8.0, ..LoraSettings::new(mode, quant(2, ADAPTIVE)) }
}

fn rates(step: u32) -> Rates {
    let adamw = AdamW { lr: 1e-2, weight_decay: 0.0, step, ..AdamW::default() };
    Rates { weights: Rule::AdamW(adamw), scales: adamw, factor: 1.0 }
}

fn made() -> Decoder {
    Decoder::generated(&tiny(Architecture::Qwen2), 3).unwrap()
}

fn adapted(settings: &LoraSettings) -> Decoder {
    let mut decoder = made();
    decoder.adapt(settings, None).unwrap();
    decoder
}

fn gradients(decoder: &Decoder) -> (f64, Vec<Tensor>) {
    let ids = (normal(7, &[2, 10]) * 1000.0).to_kind(Kind::Int64).remainder(262);
    let loss = decoder.forward(&ids).unwrap().reshape([20, -1]).cross_entropy_for_logits(&ids.reshape(-1));
    (loss.double_value(&[]), Tensor::f_run_backward(&[&loss], &decoder.leaves(), false, false).unwrap())
}

fn train(decoder: &mut Decoder, steps: std::ops::RangeInclusive<u32>) -> f64 {
    let mut last = f64::NAN;
    for t in steps {
        let (loss, grads) = gradients(decoder);
        decoder.update(&grads, &rates(t)).unwrap();
        last = loss;
    }
    last
}

fn same(a: &Decoder, b: &Decoder) -> bool {
    let (a, b) = (a.tensors().unwrap(), b.tensors().unwrap());
    a.iter().zip(&b).all(|((_, a), (_, b))| a.equal(b))
}

#[test]
fn unpacking_by_operators_is_unpacking_by_the_kernels_and_rounding() {
    for bits in 2..=7 {
        for (step, row) in [(StepRule::Uniform, 48), (StepRule::Pi { k: 3 }, 80), (ADAPTIVE, 48)] {
            let quant = quant(bits, step);
            let w = normal(u64::from(bits), &[5, row]);
            let matrix = PackedMatrix::fitted(&w, quant).unwrap();
            let [ours, halves] = [Kind::Float, Kind::BFloat16].map(|kind| matrix.weights(kind).unwrap());
            assert!(halves.equal(&ours.to_kind(Kind::BFloat16)));
            let matrix = matrix.on(Backend::Operators);
            assert!(matrix.weights(Kind::Float).unwrap().equal(&ours), "{bits} {step:?}");
            assert!(matrix.weights(Kind::BFloat16).unwrap().equal(&halves), "{bits} {step:?}");
            let rounded = crate::llm::FakeQuantised::new(&w, None, quant, None).unwrap();
            assert!(rounded.weight().unwrap().equal(&ours));
            let groups = if step == ADAPTIVE { 5 * row as usize / 8 } else { 0 };
            let blocks = 5 * row as usize / 16;
            assert_eq!(
                matrix.bytes(),
                5 * row as usize * usize::from(bits) / 8 + 4 * blocks + groups.div_ceil(4)
            );
        }
    }
    // Rows that do not end on a byte.
    let odd = MatrixQuant { block: None, ..quant(3, StepRule::Uniform) };
    let matrix = PackedMatrix::fitted(&normal(1, &[4, 13]), odd).unwrap();
    let ours = matrix.weights(Kind::Float).unwrap();
    let matrix = matrix.on(Backend::Operators);
    assert!(matrix.weights(Kind::Float).unwrap().equal(&ours));
    let e = matrix.on(Backend::Fused).weights(Kind::Float).unwrap_err().to_string();
    assert!(e.contains("no fused kernels"), "{e}");
    assert!(PackedMatrix::new(odd, [4, 13], &[0; 51], vec![1.0; 4], vec![], Device::Cpu).is_err());
    assert!(PackedMatrix::new(odd, [1, 2], &[0, 9], vec![1.0], vec![], Device::Cpu).is_err());
}

#[test]
fn adapters_begin_as_the_rounded_model() {
    let mut rounded = made();
    let how = DecoderQuant { blocks: quant(2, ADAPTIVE), tables: None };
    rounded.quantise_in_training(&how).unwrap();
    for mode in MODES {
        let decoder = adapted(&settings(mode));
        assert!(same(&decoder, &rounded), "{mode:?}");
    }
}

/// The gradients of a packed matrix against those of torch's graph on its parts.
#[test]
fn gradients_through_packed_codes_are_those_of_the_dequantised_matrix() {
    let (w, x, g) = (normal(1, &[6, 32]), normal(2, &[3, 5, 32]), normal(3, &[3, 5, 6]));
    // As on the CPU, and as on other devices.
    for (rank, learns_scales, thin) in
        [(Some(2), false, false), (Some(2), false, true), (None, true, false), (Some(2), true, true)]
    {
        let settings = LoraSettings { rank: rank.unwrap_or(1), ..settings(LoraMode::Packed) };
        let bias = normal(4, &[6]);
        let packed = || {
            let adapter = rank.map(|_| {
                let mut adapter = Adapter::new("w", (6, 32), Device::Cpu, &settings, None, 1).unwrap();
                adapter.scale.thin = thin;
                adapter
            });
            let matrix = PackedMatrix::fitted(&w, settings.quant).unwrap();
            Packed::new(matrix, Some(&bias), Kind::Float, adapter, learns_scales).unwrap()
        };
        let mut packed = packed();
        // U is zero at first, and with it the gradient of D.
        let some: Vec<Tensor> = packed.leaves().iter().map(|leaf| normal(9, &leaf.size())).collect();
        packed.update(&some, &rates(1)).unwrap();
        let run = |y: &dyn Fn(&Tensor) -> Tensor| {
            let x = x.copy().set_requires_grad(true);
            let wanted: Vec<&Tensor> = [&x].into_iter().chain(packed.leaves()).collect();
            let y = y(&x);
            let grads = Tensor::f_run_backward(&[(&y * &g).sum(Kind::Float)], &wanted, false, false).unwrap();
            (y.detach(), grads)
        };
        let (ours, a) = run(&|x| packed.forward(x).unwrap());
        let (theirs, b) = run(&|x| product(x, &packed.weight().unwrap(), packed.bias(), None).unwrap());
        assert!(ours.allclose(&theirs, 1e-4, 1e-5, false));
        for (a, b) in a.iter().zip(&b) {
            assert!(a.allclose(b, 1e-4, 1e-5, false) && a.abs().max().double_value(&[]) > 1e-3);
        }
    }
}

/// The gradients of a merged matrix against those of torch's graph of the sum, which keeps the sum.
#[test]
fn a_sum_that_is_made_again_has_the_gradients_of_one_that_is_kept() {
    let (w, x, g) = (normal(1, &[6, 32]), normal(2, &[5, 32]), normal(3, &[5, 6]));
    for (kind, thin) in [(Kind::Float, false), (Kind::Float, true), (Kind::BFloat16, false)] {
        // An s that is no power of two.
        let settings = LoraSettings { rank: 3, alpha: 5.0, ..settings(LoraMode::Merged) };
        let (w, x, g) = (w.to_kind(kind), x.to_kind(kind), g.to_kind(kind));
        let mut adapter = Adapter::new("w", (6, 32), Device::Cpu, &settings, None, 1).unwrap();
        adapter.scale.thin = thin;
        adapter.update([&normal(4, &[3, 32]), &normal(5, &[6, 3])], &rates(1)).unwrap();
        let merged = Merged::new(&w, None, settings.quant, adapter).unwrap();
        let run = |y: Tensor| {
            let loss = (&y * &g).sum(Kind::Float);
            let grads = Tensor::f_run_backward(&[&loss], &merged.leaves(), false, false).unwrap();
            (y.detach(), grads)
        };
        let (ours, a) = run(merged.forward(&x).unwrap());
        let kept = w.to_kind(Kind::Float) + merged.adapter.matrix().unwrap();
        let w_hat = merged.quantiser.of(&kept, kind).unwrap();
        let (theirs, b) = run(product(&x, &w_hat, None, None).unwrap());
        let same = |a: &Tensor, b: &Tensor| a.equal(b) || thin && a.allclose(b, 1e-4, 1e-5, false);
        assert!(same(&ours, &theirs), "{kind:?} {thin}");
        for (a, b) in a.iter().zip(&b) {
            assert!(same(a, b) && a.abs().max().double_value(&[]) > 1e-3, "{kind:?} {thin}");
        }
        assert_eq!(merged.base.kind(), kind);
    }
}

/// ∂ log α by a difference quotient: scales alone are a smooth function.
#[test]
fn the_gradient_of_scales_is_a_difference_quotient() {
    let (w, x) = (normal(1, &[2, 16]), normal(2, &[3, 16]));
    let matrix = PackedMatrix::fitted(&w, quant(3, ADAPTIVE)).unwrap();
    let packed = Packed::new(matrix, None, Kind::Float, None, true).unwrap();
    let y = packed.forward(&x).unwrap().sum(Kind::Float);
    let g = Tensor::f_run_backward(&[&y], &packed.leaves(), false, false).unwrap();
    for block in 0..2 {
        let moved = |by: f64| {
            let alpha = packed.alpha().detach().copy();
            let _ = alpha.get(block).g_mul_scalar_(by.exp());
            x.matmul(&locked_matrix(&packed, &alpha).tr()).sum(Kind::Double).double_value(&[])
        };
        let quotient = (moved(1e-2) - moved(-1e-2)) / 2e-2;
        let got = g[0].double_value(&[block]);
        assert!((got - quotient).abs() < 1e-3 * quotient.abs().max(1.0), "{got} {quotient}");
    }
}

fn locked_matrix(packed: &Packed, alpha: &Tensor) -> Tensor {
    packed::locked(&packed.matrix).unwrap().dequantised(alpha, Kind::Float).unwrap()
}

#[test]
fn every_mode_learns_recomputes_exactly_and_goes_on_from_its_state_bit_for_bit() {
    for mode in MODES {
        let settings = settings(mode);
        let mut one = adapted(&settings);
        let (first, wanted) = gradients(&one);
        one.set_recompute(true);
        let (again, got) = gradients(&one);
        assert_eq!(first, again);
        assert!(wanted.iter().zip(&got).all(|(a, b)| a.equal(b)), "{mode:?}");
        one.set_recompute(false);
        train(&mut one, 1..=20);
        let mut state = Checkpoint::default();
        one.save_state(&mut state).unwrap();
        let mut other = adapted(&settings);
        other.load_state(&state).unwrap();
        let (a, b) = (train(&mut one, 21..=60), train(&mut other, 21..=60));
        assert_eq!(a, b, "{mode:?}");
        assert!(same(&one, &other));
        // Scales have far fewer numbers than adapters.
        let wanted = if mode == LoraMode::Scales { 0.98 } else { 0.6 };
        assert!(a < wanted * first, "{mode:?}: {first} {a}");
    }
}

#[test]
fn merged_adapters_are_one_quantised_matrix_and_packed_ones_are_not() {
    let levels = |decoder: &Decoder| {
        let w = decoder.linears().into_iter().find(|(name, _)| name.ends_with("1.mlp.up_proj")).unwrap();
        let w = w.1.weight().unwrap().detach();
        // Of 8 weights in a group of 2 bits there are at most 4 different ones.
        let groups = Vec::<f32>::try_from(w.reshape(-1)).unwrap();
        groups.chunks(8).all(|group| {
            let mut bits: Vec<u32> = group.iter().map(|w| w.to_bits()).collect();
            bits.sort_unstable();
            bits.dedup();
            bits.len() <= 4
        })
    };
    for (mode, on_grid) in [(LoraMode::Packed, false), (LoraMode::Merged, true), (LoraMode::Scales, true)] {
        let mut decoder = adapted(&settings(mode));
        train(&mut decoder, 1..=5);
        assert_eq!(levels(&decoder), on_grid, "{mode:?}");
    }
}

#[test]
fn adapters_survive_their_files_under_pefts_names() {
    for mode in MODES {
        let settings = LoraSettings { targets: vec!["q_proj".into(), "down_proj".into()], ..settings(mode) };
        let mut decoder = adapted(&settings);
        train(&mut decoder, 1..=5);
        let dir = tempfile::tempdir().unwrap();
        let saved = decoder.adapters(&settings).unwrap();
        saved.save(dir.path()).unwrap();
        let loaded = Adapters::load(dir.path()).unwrap();
        assert_eq!(loaded, saved);
        let mut again = made();
        again.adapt(&settings, Some(&loaded)).unwrap();
        assert!(same(&again, &decoder), "{mode:?}");

        if mode == LoraMode::Scales {
            assert!(!dir.path().join("adapter_model.safetensors").exists());
            continue;
        }
        let bytes = std::fs::read(dir.path().join("adapter_model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut names: Vec<_> =
            file.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec())).collect();
        names.sort();
        let key = |i: usize, rest: &str| format!("base_model.model.model.layers.{i}.{rest}.weight");
        let wanted = (0..2).flat_map(|i| {
            [
                (key(i, "mlp.down_proj.lora_A"), vec![4, 64]),
                (key(i, "mlp.down_proj.lora_B"), vec![32, 4]),
                (key(i, "self_attn.q_proj.lora_A"), vec![4, 32]),
                (key(i, "self_attn.q_proj.lora_B"), vec![32, 4]),
            ]
        });
        assert_eq!(names, wanted.collect::<Vec<_>>());
        let config = std::fs::read_to_string(dir.path().join("adapter_config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(
            (&config["peft_type"], &config["r"], &config["lora_alpha"]),
            (&"LORA".into(), &4.into(), &8.0.into())
        );
    }
}

#[test]
fn what_does_not_fit_is_refused_where_it_stands() {
    let refused = |settings: &LoraSettings, start: Option<&Adapters>, wants: &[&str]| {
        let e = made().adapt(settings, start).unwrap_err().to_string();
        assert!(wants.iter().all(|want| e.contains(want)), "{e}");
    };
    let good = settings(LoraMode::Merged);
    // The key projection has 16 rows.
    refused(&LoraSettings { rank: 17, ..good.clone() }, None, &["k_proj", "17", "16", "smaller rank"]);
    refused(&LoraSettings { rank: 0, ..good.clone() }, None, &["q_proj", "rank"]);
    refused(&LoraSettings { alpha: f32::NAN, ..good.clone() }, None, &["alpha is NaN"]);
    refused(
        &LoraSettings { targets: vec!["lm_head".into()], ..good.clone() },
        None,
        &["`lm_head`", "q_proj, k_proj"],
    );
    let start = adapted(&good).adapters(&good).unwrap();
    refused(
        &LoraSettings { rank: 3, ..good.clone() },
        Some(&start),
        &["rank 4 and alpha 8", "not with rank 3"],
    );
    // Learned scales have no place beside packed codes.
    let packed = LoraSettings { mode: LoraMode::Packed, ..good.clone() };
    refused(&packed, Some(&start), &["no quantiser learns this", "alpha"]);

    let dir = tempfile::tempdir().unwrap();
    start.save(dir.path()).unwrap();
    let file = dir.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&file).unwrap();
    for (from, to, wants) in [
        ("\"LORA\"", "\"IA3\"", "`peft_type` is IA3"),
        ("\"use_dora\": false", "\"use_dora\": true", "`use_dora`"),
        ("\"use_rslora\": false", "\"use_rslora\": true", "`use_rslora`"),
        ("\"bias\": \"none\"", "\"bias\": \"all\"", "`bias` is all"),
        ("\"r\": 4", "\"r\": \"four\"", "not the configuration of an adapter"),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        std::fs::write(&file, changed).unwrap();
        let e = Adapters::load(dir.path()).unwrap_err().to_string();
        assert!(e.contains(wants) && e.contains("adapter_config.json"), "{e}");
    }
    std::fs::write(&file, &text).unwrap();
    let weights = dir.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    assert!(Adapters::load(dir.path()).unwrap_err().to_string().contains("adapter_model.safetensors"));
    // An estimator without a gradient for scales leaves them alone.
    let still = LoraSettings { quant: MatrixQuant { ste: SteVariant::Standard, ..good.quant }, ..good };
    let mut decoder = adapted(&still);
    let before = decoder.adapters(&still).unwrap();
    train(&mut decoder, 1..=2);
    assert_ne!(decoder.adapters(&still).unwrap(), before);
}
