//! Exported networks against the floating-point reference.

use super::*;
use crate::graph::tests as nets;
use crate::ptq;
use crate::spec::{Calibration, CalibrationMethod};
use qat_kernels::infer::Model;

fn about(graph: &Graph, known: &[f32]) -> About {
    About {
        shape: graph.input,
        classes: ["a", "b", "c"].map(String::from).to_vec(),
        dataset_sha256: [7; 32],
        standardisation: Standardisation { mean: vec![1.5], std: vec![0.5] },
        samples: 12,
        method: "ptq, min-max".into(),
        known_inputs: known.chunks_exact(graph.input.len()).map(<[f32]>::to_vec).collect(),
    }
}

/// A network without training, its examples, and the file made of it.
fn exported(layers: &str) -> (Quantised, Vec<f32>, Vec<u8>) {
    let model = nets::model(layers);
    let checkpoint = nets::checkpoint(&model, nets::SMALL_INPUT);
    let graph = Graph::from_checkpoint(&model, nets::SMALL_INPUT, 3, &checkpoint).unwrap();
    let examples = nets::examples(40, graph.input.len());
    let how = Calibration { method: CalibrationMethod::MinMax, samples: 40 };
    let input = Affine::from_range(-1.5, 1.5);
    let network = ptq::quantise(graph, input, &examples, how).unwrap();
    let about = about(&network.graph, &examples[..2 * network.graph.input.len()]);
    let file = export(&network, "net", &about, [3; 32], Options::default()).unwrap();
    (network, examples, file)
}

/// What the engine makes of every example, in a row.
fn answers(network: &Quantised, examples: &[f32], file: &[u8]) -> Vec<i8> {
    let model = Model::parse(file).unwrap();
    let (mut out, mut arena) = (vec![0; model.output_len()], vec![0; model.arena_len()]);
    assert_eq!(model.self_test(&mut out, &mut arena).unwrap(), 2);
    let mut all = Vec::new();
    for x in examples.chunks_exact(network.graph.input.len()) {
        let q: Vec<i8> = x.iter().map(|&x| network.input.quantize(x)).collect();
        model.run(&q, &mut out, &mut arena).unwrap();
        all.extend(&out);
    }
    all
}

/// The largest difference between engine and reference in units of the output's scale.
fn worst_difference(layers: &str) -> f32 {
    let (network, examples, file) = exported(layers);
    let dequantised = network.dequantised().unwrap();
    let code = *network.outputs.last().unwrap();
    let examples_of = examples.chunks_exact(network.graph.input.len());
    let wanted = examples_of.flat_map(|x| network.forward(&dequantised, x).unwrap());
    let differences = answers(&network, &examples, &file)
        .into_iter()
        .zip(wanted)
        .map(|(q, y)| (code.dequantize(q) - y).abs() / code.scale);
    differences.fold(0.0, f32::max)
}

#[test]
fn one_layer_is_within_one_step_of_the_reference() {
    // Only the rounding of bias and multiplier, and ties, can differ: a code next door, never further.
    let flat = r#"{ op = "flatten" },"#;
    for layers in [
        r#"{ op = "flatten" }, { op = "linear", out = 3 }"#.to_string(),
        format!(
            "{flat} {{ op = \"linear\", out = 3, bits = 2, grid = \"mid-rise\", step = {{ pi = {{ k = 5 }} }} }}"
        ),
        format!("{flat} {{ op = \"linear\", out = 3, bits = 8, incoherence = true }}"),
        r#"{ op = "conv", out = 3, kernel = [6, 5] }"#.into(),
        r#"{ op = "conv", out = 3, kernel = [6, 5], bits = 8, bn = true }"#.into(),
        r#"{ op = "conv", out = 3, kernel = 3, pad = 1 }, { op = "global-avg-pool" }"#.into(),
    ] {
        let worst = worst_difference(&layers);
        assert!(worst <= 1.001, "{layers}: {worst}");
    }
}

#[test]
fn a_network_of_every_operator_follows_the_reference() {
    // Differences of one code in early layers reach the logits through the layers after them.
    let worst = worst_difference(nets::SMALL_CNN);
    assert!(worst <= 4.0, "{worst}");
}

#[test]
fn sigmoids_follow_the_reference() {
    // The table is the reference's own function: behind one layer it hides the difference of one code, or passes it on
    // with a slope of at most ¼ of the scale of its input.
    let worst = worst_difference(
        r#"{ op = "flatten" }, { op = "linear", out = 3, act = "sigmoid" }, { op = "linear", out = 3, bits = 8 }"#,
    );
    assert!(worst <= 2.001, "{worst}");
    let plain = nets::SIGMOIDS.replace("{ op = \"softmax\" }", "");
    let worst = worst_difference(plain.trim_end().trim_end_matches(','));
    assert!(worst <= 4.0, "{worst}");
}

/// A file with a softmax gives the softmax of what the same file without gives, in its exact integers.
#[test]
fn a_softmax_follows_the_logits_in_the_file_alone() {
    let plain = r#"{ op = "flatten" }, { op = "linear", out = 3, bits = 8 }"#;
    let (network, examples, file) = exported(plain);
    let (with, _, with_file) = exported(&format!("{plain}, {{ op = \"softmax\" }}"));
    assert_eq!(network, Quantised { graph: Graph { softmax: false, ..with.graph.clone() }, ..with.clone() });
    let (logits, shares) = (answers(&network, &examples, &file), answers(&with, &examples, &with_file));
    let scale = f64::from(network.outputs.last().unwrap().scale);
    let (logits, shares) = (logits.as_chunks::<3>().0, shares.as_chunks::<3>().0);
    assert_eq!((logits.len(), shares.len()), (40, 40));
    for (logits, shares) in logits.iter().zip(shares) {
        let largest = i32::from(*logits.iter().max().unwrap());
        let powers = logits.map(|q| {
            (f64::from(1 << 15) * (scale * f64::from(i32::from(q) - largest)).exp()).round_ties_even() as u32
        });
        let sum: u32 = powers.iter().sum();
        let exact = powers.map(|e| ((256 * e + sum / 2) / sum) as i32 - 128);
        assert_eq!(shares.map(i32::from), exact.map(|share| share.min(127)));
        let total: i32 = shares.iter().map(|&s| i32::from(s) + 128).sum();
        assert!((254..=258).contains(&total), "{shares:?}");
    }
    assert!(shares.iter().flatten().any(|&s| (-100..100).contains(&s)), "every share is all or nothing");
}

#[test]
fn equal_input_gives_equal_bytes_and_the_metadata_comes_back() {
    let graph = nets::small_cnn();
    let examples = nets::examples(8, graph.input.len());
    let how = Calibration { samples: 8, ..Calibration::default() };
    let network = ptq::quantise(graph, Affine::from_range(-1.5, 1.5), &examples, how).unwrap();
    let about = about(&network.graph, &examples[..network.graph.input.len()]);
    let dated = Options { created: 99, ..Options::default() };
    let file = export(&network, "net", &about, [3; 32], dated).unwrap();
    assert_eq!(export(&network, "net", &about, [3; 32], dated).unwrap(), file);
    let meta = Model::parse(&file).unwrap().metadata().unwrap();
    assert_eq!((meta.name, meta.created, meta.samples), ("net", 99, 12));
    assert_eq!((meta.source_sha256, meta.dataset_sha256), ([3; 32], [7; 32]));
    assert_eq!(meta.label_list().collect::<Vec<_>>(), ["a", "b", "c"]);
    // What a device computes from raw features is what training saw.
    let model = Model::parse(&file).unwrap();
    let raw: Vec<f32> = (0..model.input_len()).map(|i| i as f32 / 16.0).collect();
    let mut standardised = raw.clone();
    about.standardisation.apply(&mut standardised);
    let want: Vec<i8> = standardised.iter().map(|&x| network.input.quantize(x)).collect();
    let mut got = vec![0; raw.len()];
    meta.input.apply(model.input_scale(), model.input_zero_point(), &raw, &mut got).unwrap();
    assert_eq!(got, want);
}

#[test]
fn what_is_stored_in_a_checkpoint_comes_back() {
    let graph = nets::small_cnn();
    for known in [0, 1, 2] {
        let mut about = about(&graph, &nets::examples(known, graph.input.len()));
        if known == 0 {
            about.standardisation = Standardisation::none();
        }
        let mut c = Checkpoint::default();
        about.store(&mut c).unwrap();
        let back = Checkpoint::from_bytes(&c.to_bytes().unwrap()).unwrap();
        assert_eq!(About::load(&back).unwrap(), about);
    }
    assert!(About::load(&Checkpoint::default()).unwrap_err().to_string().contains("`about`"));
    // As many numbers in all, but not in each.
    let mut uneven = about(&graph, &nets::examples(2, graph.input.len()));
    let number = uneven.known_inputs[0].pop().unwrap();
    uneven.known_inputs[1].push(number);
    let mut c = Checkpoint::default();
    assert!(uneven.store(&mut c).unwrap_err().to_string().contains("example 0 has"));
    assert_eq!(c, Checkpoint::default(), "a refused description leaves nothing behind");
}

#[test]
fn an_accumulator_that_could_overflow_is_refused_by_name() {
    let levels = qat_kernels::Levels::new(8, qat_kernels::Grid::MidTread).unwrap();
    let quant = crate::spec::WeightQuant { levels, step: qat_kernels::config::StepRule::Uniform };
    let fan_in = 65_000; // 65,000 · 256 · 128 ≈ 0.99 · 2^31, and then the bias
    let weights =
        crate::graph::Weights { channels: 3, fan_in, rows: vec![0.5; 3 * fan_in], bias: vec![1e5; 3] };
    let graph = nets::linear_graph(weights, quant);
    let steps = vec![Some(Steps::PerChannel(vec![0.5; 3]))];
    let network =
        Quantised::new(graph, Affine::from_range(-1.0, 1.0), steps, &[Some(Affine::from_range(-9.0, 9.0))]);
    let e = export(&network, "net", &about(&network.graph, &[]), [3; 32], Options::default()).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Model);
    assert!(e.to_string().contains("layer `l`") && e.to_string().contains("fewer inputs"), "{e}");
}
