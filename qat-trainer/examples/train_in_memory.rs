//! The library without files: a run description as text, data from memory, a `.piq` file as bytes:
//! `cargo run -p qat-trainer --example train_in_memory`. The data is generated: whether a point lies inside a circle.
#![allow(missing_docs)]

use std::path::Path;

use qat_kernels::artifact::Target;
use qat_kernels::infer::{Model, argmax};
use qat_trainer::affine::Affine;
use qat_trainer::data::{Dataset, Split, Standardisation};
use qat_trainer::events::QatEvent;
use qat_trainer::export::{About, Options, export_checkpoint};
use qat_trainer::spec::{Run, Shape};
use qat_trainer::train::QatTrainer;
use qat_trainer::verify::{first_failure, verify};

const DESCRIPTION: &str = r#"
name = "circle"
[data]
format = "csv"
train = "-"
test = "-"
[model]
layers = [
  { op = "linear", out = 16, act = "relu", bits = 8 },
  { op = "linear", out = 16, act = "relu" },
  { op = "linear", out = 2, bits = 8 },
]
[train]
epochs = 30
batch = 32
lr = 1e-2
[qat]
bits = 2
grid = "mid-rise"
step = { pi = { k = 3 } }
epochs = 15
learning_rate = 5e-3
"#;

/// Points of a grid of n × n over the square from −1 to 1.
fn points(n: usize) -> Split {
    let at = |i: usize| 2.0 * (i as f32 + 0.5) / n as f32 - 1.0;
    let features: Vec<f32> = (0..n * n).flat_map(|i| [at(i % n), at(i / n)]).collect();
    let inside = |p: &[f32]| u32::from(p.iter().map(|x| x * x).sum::<f32>() < 0.6);
    Split { labels: features.chunks(2).map(inside).collect(), features }
}

/// Trains, exports, verifies; returns the share of test points that the integer engine gets right.
fn train() -> Result<f64, Box<dyn std::error::Error>> {
    let data = Dataset {
        train: points(32),
        test: points(21),
        classes: ["outside", "inside"].map(str::to_owned).into(),
        shape: Shape::flat(2),
        standardisation: Standardisation::none(),
        input: Affine::from_range(-1.0, 1.0),
        sha256: [1; 32],
    };
    let run = Run::parse(DESCRIPTION, Path::new("circle.toml"))?;
    let outcome = QatTrainer::new(&run, &data)?.train(&mut |_: &QatEvent| ())?;
    println!("float {:.1} %", 100.0 * outcome.float.test_accuracy);
    let mut checkpoint = outcome.quantised.checkpoint;
    About::new(&run, &data, "learned ranges".into()).store(&mut checkpoint)?;
    let file =
        export_checkpoint(&run, &checkpoint.to_bytes()?, Options { created: 0, target: Target::Portable })?;
    first_failure(&verify(&file, None))?;

    let model = Model::parse(&file)?;
    let metadata = model.metadata()?;
    let (mut input, mut logits, mut arena) = ([0; 2], [0; 2], vec![0; model.arena_len()]);
    let mut right = 0;
    for (point, &label) in data.test.features.chunks(2).zip(&data.test.labels) {
        metadata.input.apply(model.input_scale(), model.input_zero_point(), point, &mut input)?;
        model.run(&input, &mut logits, &mut arena)?;
        right += usize::from(argmax(&logits) == label as usize);
    }
    let share = right as f64 / data.test.labels.len() as f64;
    println!("integer engine {:.1} % with {} bytes", 100.0 * share, file.len());
    Ok(share)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    train().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_bits_learn_a_circle() -> Result<(), Box<dyn std::error::Error>> {
        // Answering "outside" or "inside" everywhere is right for half of the points.
        let share = train()?;
        assert!(share > 0.9, "{share}");
        main()
    }
}
