//! Packed decoders: the format, locked by a committed file; every way of being wrong; and an engine whose logits depend on the
//! tokens alone.
//!
//! `QAT_REGENERATE=1 cargo test -p qat-trainer --no-default-features --test packed` writes the file anew.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use common::packed::{reworded, sealed};
use qat_kernels::config::StepRule;
use qat_kernels::{Grid, Levels};
use qat_trainer::llm::config::{Architecture, LlmConfig, RopeScaling};
use qat_trainer::llm::packed::{Chat, Contents, PackedDecoder, Parts, pack};
use qat_trainer::llm::{BlockQuant, CausalModel, QuantisedMatrix};
use qat_trainer::spec::WeightQuant;
use std::collections::BTreeMap;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packed-v1.piq");

/// Two query heads for one of keys and values, biases, a head of its own.
fn config(vocabulary: usize) -> LlmConfig {
    LlmConfig {
        architecture: Architecture::Qwen2,
        vocabulary,
        hidden: 32,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        mlp: 64,
        context: 40,
        rope_base: 10_000.0,
        rope_scaling: RopeScaling::None,
        norm_eps: 1e-6,
        tied: false,
        qkv_bias: true,
        output_bias: false,
    }
}

/// Generated numbers about 0.
fn numbers(name: &str, count: usize) -> Vec<f32> {
    let mut state = name.bytes().fold(7u32, |s, b| s.wrapping_mul(31).wrapping_add(b.into()));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| 0.3 * next()).collect()
}

/// A generated decoder: every step rule, several widths, a table of 8 bits and one of plain numbers.
fn build(config: &LlmConfig) -> Vec<u8> {
    let LlmConfig { vocabulary, hidden, mlp, .. } = *config;
    let (mut matrices, mut tensors) = (BTreeMap::new(), BTreeMap::new());
    let mut matrix = |name: String, columns: usize, rows: usize, bits, grid, step, block| {
        let how = BlockQuant {
            quant: WeightQuant { levels: Levels::new(bits, grid).unwrap(), step },
            block: Some(block),
        };
        let weights = numbers(&name, rows * columns);
        matrices.insert(name, QuantisedMatrix::fit(how, &weights, columns, None).unwrap());
    };
    let mut tensor = |name: String, shape: &[usize], about: f32| {
        let all = numbers(&name, shape.iter().product()).into_iter().map(|x| x + about).collect();
        tensors.insert(name, (shape.to_vec(), all));
    };
    let (uniform, pi) = (StepRule::Uniform, StepRule::Pi { k: 4 });
    let adaptive = |group| StepRule::PiAdaptive { group };
    matrix("model.embed_tokens".into(), hidden, vocabulary, 8, Grid::MidTread, uniform, 32);
    tensor("lm_head.weight".into(), &[vocabulary, hidden], 0.0);
    tensor("model.norm.weight".into(), &[hidden], 1.0);
    for i in 0..config.layers {
        let name = |rest: &str| format!("model.layers.{i}.{rest}");
        matrix(name("self_attn.q_proj"), hidden, 32, 2, Grid::MidRise, adaptive(16), 32);
        matrix(name("self_attn.k_proj"), hidden, 16, 3, Grid::MidRise, adaptive(8), 16);
        matrix(name("self_attn.v_proj"), hidden, 16, 4, Grid::MidTread, pi, 32);
        matrix(name("self_attn.o_proj"), hidden, hidden, 3, Grid::MidTread, uniform, 16);
        matrix(name("mlp.gate_proj"), hidden, mlp, 2, Grid::MidRise, uniform, 16);
        matrix(name("mlp.up_proj"), hidden, mlp, 5, Grid::MidRise, adaptive(32), 32);
        matrix(name("mlp.down_proj"), mlp, hidden, 2, Grid::MidRise, adaptive(16), 64);
        for (bias, rows) in [("q", 32), ("k", 16), ("v", 16)] {
            tensor(name(&format!("self_attn.{bias}_proj.bias")), &[rows], 0.0);
        }
        tensor(name("input_layernorm.weight"), &[hidden], 1.0);
        tensor(name("post_attention_layernorm.weight"), &[hidden], 1.0);
    }
    let chat = Chat { template: "{{ messages }}".into(), bos: String::new(), eos: "</s>".into() };
    let tokenizer = "{\"generated\": true}";
    let parts = Parts {
        tool: "qat 0.1.0",
        config,
        ends: &[1, 2],
        chat: Some(chat),
        tokenizer,
        matrices: &matrices,
        tensors: &tensors,
    };
    pack(&parts).unwrap()
}

/// The committed file's bytes are those of today's writer, and its known answer is today's engine's, on whatever machine the
/// tests run.
#[test]
fn the_format_and_the_logits_are_locked() {
    let config = config(20);
    let made = build(&config);
    if std::env::var_os("QAT_REGENERATE").is_some() {
        std::fs::write(FILE, &made).unwrap();
    }
    let committed = std::fs::read(FILE).unwrap();
    assert!(made == committed, "the format has changed: give it another version");
    let decoder = PackedDecoder::new(committed).unwrap();
    assert_eq!(decoder.self_test(), Ok(Some(true)));
    let contents = decoder.contents();
    assert_eq!((&contents.config, contents.ends.as_slice()), (&config, &[1, 2][..]));
    assert_eq!(contents.chat.as_ref().map(|c| c.eos.as_str()), Some("</s>"));
    assert_eq!(decoder.tokenizer(), b"{\"generated\": true}");
    assert_eq!(contents.codes().0, 15);
}

#[test]
fn logits_do_not_depend_on_how_the_tokens_are_cut_or_on_threads() {
    // Tables large enough for threads to share them.
    let decoder = PackedDecoder::new(build(&config(17_000))).unwrap();
    let tokens: Vec<u32> = (0..21).map(|i| i * i * 37 % 17_000).collect();
    let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let by = |parts: &[usize], threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut text = decoder.begin(100).unwrap();
            assert_eq!((text.room(), text.is_empty()), (40, true));
            let mut rest = tokens.as_slice();
            let mut last = Vec::new();
            for &part in parts {
                let (now, later) = rest.split_at(part);
                last = text.feed(now).unwrap();
                rest = later;
            }
            assert_eq!((text.len(), rest.len()), (21, 0));
            bits(last)
        })
    };
    let expected = by(&[21], 1);
    assert!(expected.iter().collect::<std::collections::BTreeSet<_>>().len() > 10_000);
    for (parts, threads) in [(&[21][..], 3), (&[1; 21], 2), (&[8, 1, 4, 8], 1), (&[13, 8], 2)] {
        assert!(by(parts, threads) == expected, "{parts:?} by {threads} threads");
    }
    // A text that was cut back goes on as if the rest had never been.
    let mut text = decoder.begin(40).unwrap();
    text.feed(&tokens[..9]).unwrap();
    text.feed(&[5, 6, 7]).unwrap();
    text.truncate(9);
    assert_eq!(bits(text.feed(&tokens[9..]).unwrap()), expected);
}

#[test]
fn the_loss_is_that_of_the_logits() {
    let decoder = PackedDecoder::new(build(&config(20))).unwrap();
    let window: Vec<u32> = (0..39).map(|i| (i * 7 + i / 3) % 20).collect();
    let mut text = decoder.begin(40).unwrap();
    let mut sum = 0.0;
    for pair in window.windows(2) {
        let logits = text.feed(&pair[..1]).unwrap();
        let all: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        sum += all.ln() - f64::from(logits[pair[1] as usize]);
    }
    let loss = decoder.loss(&window).unwrap();
    assert!((loss - sum / 38.0).abs() < 1e-6, "{loss}, {}", sum / 38.0);
    let e = decoder.loss(&[3; 42]).unwrap_err().to_string();
    assert!(e.contains("41 tokens are more than the 40"), "{e}");
    for few in [&[][..], &[3]] {
        let e = decoder.loss(few).unwrap_err().to_string();
        assert!(e.contains("at least 2 are needed"), "{e}");
    }
    assert!(decoder.answer(&[]).unwrap_err().to_string().contains("at least 1"));
    for window in [[1, 20], [20, 1]] {
        let e = decoder.loss(&window).unwrap_err().to_string();
        assert!(e.contains("token 20 is none of the model's"), "{e}");
    }
}

#[test]
fn no_flipped_bit_and_no_truncation_goes_unnoticed() {
    let good = build(&config(20));
    for at in 0..good.len() {
        assert!(Contents::parse(&good[..at]).is_err(), "cut at {at}");
        let mut bad = good.clone();
        for bit in 0..8 {
            bad[at] = good[at] ^ (1 << bit);
            assert!(Contents::parse(&bad).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn every_fault_is_named() {
    let good = build(&config(20));
    let refused = |file: &[u8], why: &str| {
        let e = Contents::parse(file).map(|_| ()).unwrap_err().to_string();
        assert!(e.contains(why), "{why}: {e}");
    };
    let patched = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        sealed(bad)
    };
    refused(&[], "0 bytes are no header");
    refused(&patched(0, b"\x89PIQ"[..].repeat(2).as_slice()), "not a packed decoder");
    refused(&patched(8, &[2]), "the format's version is 2");
    refused(&patched(16, &[0xFF; 8]), "the header states 18446744073709551615 bytes");
    refused(&patched(12, &[0xFF; 4]), "an index of 4294967295 bytes");
    refused(&patched(40, &[1]), "the rest of the header");
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    refused(&flipped, "the checksum does not hold");

    let layer = |rest: &str| format!("model.layers.0.{rest}");
    let q = format!("\"{}\":{{\"bits\":2", layer("self_attn.q_proj"));
    for (from, to, why) in [
        ("\"tool\"", "\"tools\"", "not an index of a packed decoder"),
        ("{\"tool\"", &"[".repeat(10_000), "not an index"),
        ("\"hidden_size\":32", "\"hidden_size\":0", "the hidden size is 0"),
        ("\"num_hidden_layers\":2", "\"num_hidden_layers\":1000000", "1000000 layers of"),
        (
            "\"num_hidden_layers\":2",
            "\"num_hidden_layers\":1",
            "tensors, of which the configuration has a place",
        ),
        (
            "\"num_hidden_layers\":2",
            "\"num_hidden_layers\":3",
            "tensor `model.layers.2.self_attn.q_proj.weight`: it is missing",
        ),
        (
            "\"intermediate_size\":64",
            "\"intermediate_size\":32",
            "its shape is [64, 32], the configuration asks for [32, 32]",
        ),
        ("\"model.norm.weight\"", "\"model.embed_tokens.weight\"", "it is there twice"),
        (&q, &q.replace(":2", ":9"), "9 bits"),
        ("\"rows\":20,", "\"rows\":0,", "0 rows of 32 weights"),
        ("\"rows\":20,", "\"rows\":18446744073709551615,", "too many bytes"),
        ("\"rows\":20,", "\"rows\":200000,", "bytes from place"),
        ("\"block\":32", "\"block\":31", "blocks of 31 do not divide rows of 32"),
        ("{\"pi\":{\"k\":4}}", "{\"pi\":{\"k\":6}}", "k = 6"),
        (
            "{\"pi-adaptive\":{\"group\":16}}",
            "{\"pi-adaptive\":{\"group\":8}}",
            "does not divide into parts of 16",
        ),
        ("{\"pi-adaptive\":{\"group\":16}}", "\"uniform\"", "divisors belong to steps that vary"),
        ("\"shape\":[32]", "\"shape\":[4294967296,4294967296,4294967296]", "too many bytes"),
        ("\"tokenizer\":[0,", "\"tokenizer\":[64,", "a part begins at byte"),
        ("\"tokens\":[", "\"tokens\":[20,", "token 20 is none of the model's"),
    ] {
        refused(&reworded(&good, from, to), why);
    }
    // A step of 0 and a number that is none, each the first of its kind; the places count from the first part.
    let text = String::from_utf8_lossy(&good);
    let place = |after: &str, key: &str| -> usize {
        let rest = &text[text.find(after).unwrap()..];
        let rest = &rest[rest.find(key).unwrap() + key.len()..];
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    let length = u32::from_le_bytes(good[12..16].try_into().unwrap()) as usize;
    let first = (64 + length).next_multiple_of(64);
    let scales = first + place("\"model.embed_tokens\"", "\"scales\":");
    refused(&patched(scales, &[0, 0]), "matrix `model.embed_tokens`: step 0 is not positive and finite");
    let norm = first + place("\"model.norm.weight\"", "\"at\":");
    refused(
        &patched(norm + 4, &f32::NAN.to_le_bytes()),
        "tensor `model.norm.weight`: number 1 is not finite",
    );
    // Something between the last part and the checksum.
    let mut longer = good.clone();
    longer.splice(good.len() - 4..good.len() - 4, [0; 64]);
    let len = longer.len() as u64;
    longer[16..24].copy_from_slice(&len.to_le_bytes());
    refused(&sealed(longer), "the parts end at byte");
}

#[test]
fn what_the_engine_does_not_multiply_is_not_packed() {
    let config = config(20);
    let how = BlockQuant {
        quant: WeightQuant {
            levels: Levels::new(2, Grid::MidRise).unwrap(),
            step: StepRule::PiAdaptive { group: 8 },
        },
        block: Some(32),
    };
    let matrix = QuantisedMatrix::fit(how, &numbers("x", 20 * 32), 32, None).unwrap();
    let matrices = BTreeMap::from([("model.embed_tokens".to_owned(), matrix)]);
    let tensors = BTreeMap::new();
    let parts = Parts {
        tool: "qat 0.1.0",
        config: &config,
        ends: &[],
        chat: None,
        tokenizer: "",
        matrices: &matrices,
        tensors: &tensors,
    };
    let e = pack(&parts).unwrap_err().to_string();
    assert!(e.contains("matrix `model.embed_tokens`") && e.contains("Group"), "{e}");
}
