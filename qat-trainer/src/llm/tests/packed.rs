//! The engine on packed codes against the same decoder in torch's operators.

use super::*;
use crate::llm::packed::{Contents, PackedDecoder};
use crate::spec::WeightQuant;
use qat_kernels::config::StepRule;
use qat_kernels::{Grid, Levels};
use std::collections::BTreeMap;

fn uniform(bits: u8, block: usize) -> BlockQuant {
    let levels = Levels::new(bits, Grid::MidTread).unwrap();
    BlockQuant { quant: WeightQuant { levels, step: StepRule::Uniform }, block: Some(block) }
}

/// A model whose blocks are quantised, dequantised, and its codes.
fn quantised(config: &LlmConfig) -> (LanguageModel, BTreeMap<String, QuantisedMatrix>) {
    let (_dir, file, _) = files(config);
    let mut model = LanguageModel::load(&file, Kind::Float, CPU).unwrap();
    let levels = Levels::new(3, Grid::MidRise).unwrap();
    let quant = WeightQuant { levels, step: StepRule::PiAdaptive { group: 16 } };
    let blocks = BlockQuant { quant, block: Some(32) };
    let how = Compensation { blocks, tables: None, damping: 0.01 };
    let text: Vec<u32> = (0..600).map(|i| (i * i + i / 5) % 256).collect();
    let windows = Windows { size: 60, count: 10 };
    let (_, codes) = quantise_compensated(&mut model.decoder, &text, windows, &how, |_| ()).unwrap();
    (model, codes)
}

#[test]
fn the_logits_are_those_of_the_dequantised_decoder_but_for_rounded_activations() {
    for architecture in BOTH {
        let (model, codes) = quantised(&tiny(architecture));
        let file = model.pack(codes.clone(), None).unwrap();
        let (matrices, bits) = Contents::parse(&file).unwrap().codes();
        assert_eq!(matrices, 14);
        // Divisors end on whole bytes: of rows of 32 weights half of them is empty.
        assert!(bits > 3.0 + 2.0 / 16.0 + 16.0 / 32.0 && bits < 3.0 + 4.0 / 16.0 + 16.0 / 32.0, "{bits}");
        let packed = PackedDecoder::new(file).unwrap();
        assert_eq!(packed.self_test(), Ok(Some(true)));
        let text: Vec<u32> = (0..50).map(|i| i * 31 % 262).collect();
        let (mut ours, mut torch) = (packed.begin(64).unwrap(), model.decoder.begin(64).unwrap());
        let (mut error, mut energy) = (0.0, 0.0);
        for token in text.chunks(7) {
            for (a, b) in ours.feed(token).unwrap().into_iter().zip(torch.feed(token).unwrap()) {
                error += f64::from(a - b).powi(2);
                energy += f64::from(b).powi(2);
            }
        }
        // int8 in blocks of 32: some 45 dB a product.
        assert!(error < 1e-3 * energy, "{architecture:?}: {error} of {energy}");
        let losses = [packed.loss(&text).unwrap(), model.decoder.loss(&text).unwrap()];
        assert!((losses[0] - losses[1]).abs() < 0.02, "{losses:?}");

        // With rounded tables the file is smaller, and nearly the same model.
        let smaller = PackedDecoder::new(model.pack(codes, Some(uniform(8, 32))).unwrap()).unwrap();
        let loss = smaller.loss(&text).unwrap();
        assert!(loss != losses[0] && (loss - losses[0]).abs() < 0.02, "{loss}, {losses:?}");
    }
}

#[test]
fn a_packed_file_loads_as_a_model_that_makes_text() {
    let (model, codes) = quantised(&tiny(Architecture::Llama));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.piq");
    std::fs::write(&path, model.pack(codes, None).unwrap()).unwrap();
    let loaded = TextModel::load_packed(&path).unwrap();
    assert_eq!(loaded.ends, model.ends);
    assert_eq!(loaded.chat, model.chat);
    assert_eq!(loaded.tokenizer.encode(" the<|im_end|>").unwrap(), [258, 261]);
    let mut text = loaded.network.begin(20).unwrap();
    let mut written = Vec::new();
    let stop = Stop { tokens: 6, ends: &[] };
    let end = generate(text.as_mut(), &[3, 77, 200], Sampling::default(), stop, |token| {
        written.push(token);
        Ok(true)
    });
    assert_eq!((end, written.len(), text.len()), (Ok(Generation::Tokens), 6, 8));
}

#[test]
fn a_model_in_bf16_is_packed_by_the_same_codes() {
    let (model, codes) = quantised(&tiny(Architecture::Llama));
    let in_codes =
        |model: &LanguageModel| Contents::parse(&model.pack(codes.clone(), None).unwrap()).unwrap().codes();
    let exact = in_codes(&model);
    for matrix in codes.values() {
        let weights = matrix.dequantise().unwrap();
        let torch = Tensor::from_slice(&weights).to_kind(Kind::BFloat16).to_kind(Kind::Float);
        let rounded = matrix.dequantise_bf16().unwrap();
        assert!(rounded == Vec::<f32>::try_from(&torch).unwrap() && rounded != weights);
    }
    let model = LanguageModel { decoder: model.decoder.to(Kind::BFloat16, CPU).unwrap(), ..model };
    assert_eq!(in_codes(&model), exact);
}

#[test]
fn codes_of_other_weights_are_refused() {
    let (model, codes) = quantised(&tiny(Architecture::Llama));
    let refused = |codes: BTreeMap<String, QuantisedMatrix>, why: &str| {
        let e = model.pack(codes, None).unwrap_err().to_string();
        assert!(e.contains(why), "{why}: {e}");
    };
    let name = "model.layers.1.mlp.up_proj";
    let mut other = codes.clone();
    other.insert(name.into(), codes["model.layers.0.mlp.up_proj"].clone());
    refused(other, "matrix `model.layers.1.mlp.up_proj`: the codes are those of other weights");
    let mut other = codes.clone();
    other.insert("model.layers.2.mlp.up_proj".into(), codes[name].clone());
    refused(other, "codes of 15 matrices, of which the model has 14");
}
