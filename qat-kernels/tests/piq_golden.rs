//! The format is locked by a committed file: whoever changes a byte of it has to say so by a new version.
//!
//! `QAT_REGENERATE=1 cargo test -p qat-kernels --features alloc --test piq_golden` writes it anew.
#![cfg(feature = "alloc")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what cannot be built or read must fail the test"
)]

use qat_kernels::artifact::{
    InputTransform, Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights, Window,
};
use qat_kernels::infer::Model;
use qat_kernels::{Grid, Levels};
use std::path::Path;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq");
/// The same model as a writer wrote it that let no sum take the place of an operand. Such files stay readable.
const APART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1-apart.piq");

/// Codes in a fixed order that visits all of them.
fn codes(levels: Levels, n: usize) -> Vec<i8> {
    (0..n).map(|i| ((i * 5 + i / 7) % levels.count()) as i32 + levels.lo()).map(|q| q as i8).collect()
}

/// Every operator, 2, 3, 4 and 8 bits, both grids, fixed and adaptive k.
fn build() -> Vec<u8> {
    let mut b = ModelBuilder::new(TensorSpec { shape: [6, 6, 1], scale: 0.02, zero_point: -7 });
    let levels = |bits, grid| Levels::new(bits, grid).unwrap();
    let steps = |n: usize| (0..n).map(|i| 0.05 + i as f32 / 64.0).collect::<Vec<_>>();
    let layer = |b: &mut ModelBuilder, kind: &str, x, lv: Levels, n: usize, channels: usize, out: Output| {
        let (codes, steps) = (codes(lv, n), steps(channels));
        let bias: Vec<f32> = (0..channels).map(|c| c as f32 / 10.0 - 0.2).collect();
        let w = Weights { levels: lv, codes: &codes, steps: Steps::PerChannel(&steps) };
        match kind {
            "conv" => b.conv2d(x, Window::square(3, 1, 1), &w, &bias, out),
            "pointwise" => b.conv2d(x, Window::square(1, 1, 0), &w, &bias, out),
            "depthwise" => b.depthwise_conv2d(x, Window::square(3, 1, 1), &w, &bias, out),
            _ => b.linear(x, &w, &bias, out),
        }
        .unwrap()
    };
    let x = b.input();
    let a = layer(&mut b, "conv", x, levels(8, Grid::MidTread), 36, 4, Output::new(0.05, -128).relu());
    let d = layer(&mut b, "depthwise", a, levels(4, Grid::MidTread), 36, 4, Output::new(0.04, -128).relu6());
    let p = layer(&mut b, "pointwise", d, levels(2, Grid::MidRise), 16, 4, Output::new(0.03, 4));
    let s = b.add(a, p, Output::new(0.06, -100)).unwrap();
    let m = b.max_pool(s, Window::square(3, 3, 0), [-90, 127]).unwrap();
    let g = b.avg_pool(m, Window::square(2, 1, 0), Output::new(0.05, -90)).unwrap();
    let h = layer(&mut b, "linear", g, levels(3, Grid::MidRise), 64, 16, Output::new(0.07, 0));
    let lv = levels(2, Grid::MidRise);
    let steps = Steps::PiAdaptive { alpha: &[0.1, 0.2, 0.3], divisors: &[2, 5, 3, 4, 5, 2], group: 8 };
    let weights = Weights { levels: lv, codes: &codes(lv, 48), steps };
    b.linear(h, &weights, &[0.1, -0.1, 0.0], Output::new(0.05, 3)).unwrap();
    let (mean, std) = (0.5f32.to_le_bytes(), 2.0f32.to_le_bytes());
    let metadata = Metadata {
        name: "golden",
        tool: "qat-kernels tests",
        labels: "a\nb\nc",
        source_sha256: [0x11; 32],
        dataset_sha256: [0x22; 32],
        samples: 12,
        method: "mse",
        created: 1_700_000_000,
        input: InputTransform { mean: &mean, std: &std },
    };
    let inputs: Vec<Vec<i8>> =
        (0..2i32).map(|k| (0..36).map(|i| ((i * 37 + k * 11) % 256 - 128) as i8).collect()).collect();
    b.finish(&metadata, &[&inputs[0], &inputs[1]]).unwrap()
}

#[test]
fn the_committed_file_and_its_generator_agree() {
    let bytes = build();
    if std::env::var_os("QAT_REGENERATE").is_some() {
        std::fs::create_dir_all(Path::new(FILE).parent().unwrap()).unwrap();
        std::fs::write(FILE, &bytes).unwrap();
    }
    let golden = std::fs::read(FILE).expect("tests/golden/v1.piq is part of the repository");
    assert!(bytes == golden, "the writer no longer makes version 1 files; give the format a new version");
}

#[test]
fn the_committed_file_runs_and_answers_as_it_did() {
    let golden = std::fs::read(FILE).unwrap();
    let model = Model::parse(&golden).unwrap();
    let (mut output, mut arena) = (vec![0; model.output_len()], vec![0; model.arena_len()]);
    assert_eq!(model.self_test(&mut output, &mut arena), Ok(2));
    // A golden answer that never moves would hide a dead network.
    let answers: Vec<_> = model.known_answers().map(|k| k.output).collect();
    assert_ne!(answers[0], answers[1]);
    let metadata = model.metadata().unwrap();
    assert_eq!((metadata.name, metadata.samples), ("golden", 12));
    assert_eq!(metadata.label_list().collect::<Vec<_>>(), ["a", "b", "c"]);
    let operators: Vec<_> = model.operators().map(|o| (o.name, o.bits)).collect();
    let expected = [
        ("conv2d", 8),
        ("depthwise_conv2d", 4),
        ("conv2d", 2),
        ("add", 0),
        ("max_pool", 0),
        ("avg_pool", 0),
        ("linear", 3),
        ("linear", 2),
    ];
    assert_eq!(operators, expected);
}

#[test]
fn files_of_older_writers_give_the_same_answers() {
    let files = [FILE, APART].map(|file| std::fs::read(file).unwrap());
    let [now, then] = files.each_ref().map(|file| Model::parse(file).unwrap());
    let (mut output, mut arena) = (vec![0; then.output_len()], vec![0; then.arena_len()]);
    assert_eq!(then.self_test(&mut output, &mut arena), Ok(2));
    assert!(then.known_answers().eq(now.known_answers()));
    assert!(then.arena_len() >= now.arena_len());
}

#[test]
fn every_flipped_bit_and_every_truncation_is_detected() {
    let golden = std::fs::read(FILE).unwrap();
    let mut damaged = golden.clone();
    for bit in 0..golden.len() * 8 {
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Model::parse(&damaged).is_err(), "bit {bit}");
        damaged[bit / 8] ^= 1 << (bit % 8);
    }
    for len in 0..golden.len() {
        assert!(Model::parse(&golden[..len]).is_err(), "{len} bytes");
    }
}
