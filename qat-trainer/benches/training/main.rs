//! What quantisation in the loop adds to a training step, on the CPU: `cargo bench -p qat-trainer --bench training`.
//!
//! Both phases of one trainer, with its loader, loss and optimiser, train the same network on the same generated data,
//! in turn; the ratio is the median over the rounds of the quotient of their median steps. Time is processor time on one
//! thread, so that a busy machine disturbs little. Quantised are all weights (2 bits, learned steps) and all activations
//! (8 bits, learned ranges).
//!
//! Batch normalisation is folded before the quantised phase, so that a quantised step does less than a floating-point
//! step with it: `qat_over_fp32` is against the network as it is trained, `qat_over_fp32_without_bn` against one that has
//! biases in place of batch normalisation in both phases.

mod qwen_block;

use anyhow::Result;
use qat_benches::numbers::SplitMix64;
use qat_benches::results::{Figure, record};
use qat_benches::rounds::{median, median_ratio, processor_time};
use qat_trainer::affine::Affine;
use qat_trainer::data::{Dataset, Split, Standardisation};
use qat_trainer::events::QatEvent;
use qat_trainer::spec::{Run, Shape};
use qat_trainer::train::QatTrainer;
use std::path::Path;

const COMMAND: &str = "cargo bench -p qat-trainer --bench training";
const ROUNDS: usize = 9;
const STEPS: usize = 12;
const BATCH: usize = 64;
const CLASSES: usize = 10;

/// Four layers of 1024×1024 weights, and the classes.
const MLP: &str = r#"
  { op = "linear", out = 1024, act = "relu" },
  { op = "linear", out = 1024, act = "relu" },
  { op = "linear", out = 1024, act = "relu" },
  { op = "linear", out = 1024, act = "relu" },
  { op = "linear", out = 10 },"#;

/// ResNet-8 of MLPerf Tiny for 32×32×3 images: 12.5 million multiply-accumulates.
const RESNET8: &str = r#"
  { op = "conv", name = "stem", out = 16, kernel = 3, pad = 1, bn = true, act = "relu" },
  { op = "conv", out = 16, kernel = 3, pad = 1, bn = true, act = "relu" },
  { op = "conv", out = 16, kernel = 3, pad = 1, bn = true },
  { op = "add", name = "s1", from = "stem", act = "relu" },
  { op = "conv", out = 32, kernel = 3, pad = 1, stride = 2, bn = true, act = "relu" },
  { op = "conv", name = "b2", out = 32, kernel = 3, pad = 1, bn = true },
  { op = "conv", input = "s1", out = 32, kernel = 1, stride = 2 },
  { op = "add", name = "s2", from = "b2", act = "relu" },
  { op = "conv", out = 64, kernel = 3, pad = 1, stride = 2, bn = true, act = "relu" },
  { op = "conv", name = "b3", out = 64, kernel = 3, pad = 1, bn = true },
  { op = "conv", input = "s2", out = 64, kernel = 1, stride = 2 },
  { op = "add", from = "b3", act = "relu" },
  { op = "global-avg-pool" },
  { op = "linear", out = 10 },"#;

fn main() -> Result<()> {
    // Cargo passes options of its own; what is left are parts of the names of cases.
    let only: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let chosen = |case: &str| only.is_empty() || only.iter().any(|part| case.contains(part.as_str()));
    tch::set_num_threads(1);
    // A second thread that waits for work would count as processor time.
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global()?;
    let flat = Shape::flat(1024);
    let image = Shape { h: 32, w: 32, c: 3 };
    let plain = RESNET8.replace(", bn = true", "");
    let cases = [
        ("mlp_4x1024", "qat_over_fp32", MLP, flat),
        ("resnet8", "qat_over_fp32", RESNET8, image),
        ("resnet8", "qat_over_fp32_without_bn", &plain, image),
    ];
    let mut figures = Vec::new();
    for (case, metric, layers, shape) in cases.into_iter().filter(|(case, ..)| chosen(case)) {
        let [float, quantised] = measure(layers, shape)?;
        let ratio = median_ratio(&quantised, &float);
        let ms = |times: &[f64]| 1e3 * median(times.to_vec());
        println!("{case:<12} {metric:<26} {ratio:.3}  ({:.1} ms over {:.1} ms)", ms(&quantised), ms(&float));
        figures.push(Figure::new(case.into(), metric, format!("{ratio:.3}"), "").with_goal("<= 1.10".into()));
    }
    let block = if chosen("qwen_block") { qwen_block::measure()? } else { Vec::new() };
    for (metric, ratio) in block {
        println!("{:<12} {metric:<26} {ratio:.3}", "qwen_block");
        let figure = Figure::new("qwen_block".into(), metric, format!("{ratio:.3}"), "");
        figures.push(figure.with_goal("<= 1.10".into()));
    }
    record("training", COMMAND, &figures)
}

/// The median step of each phase, in seconds, round by round.
fn measure(layers: &str, shape: Shape) -> Result<[Vec<f64>; 2]> {
    let text = format!(
        "[data]\nformat = \"csv\"\ntrain = \"-\"\ntest = \"-\"\n[model]\nlayers = [{layers}]\n\
         [train]\nepochs = 1\nbatch = {BATCH}\nlr = 1e-4\n\
         [qat]\nepochs = 1\nbits = 2\ngrid = \"mid-rise\"\nstep = {{ pi = {{ k = 3 }} }}\ninit = \"max\"\n\
         learning_rate = 1e-4\ncalibration = {{ samples = 4, method = \"min-max\" }}\n"
    );
    let run = Run::parse(&text, Path::new("bench.toml"))?;
    let data = data(shape);
    let trainer = QatTrainer::new(&run, &data)?;
    let float = trainer.train_float(&mut |_: &QatEvent| ())?;
    let mut medians = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for phase in [round % 2, 1 - round % 2] {
            let mut steps = Steps::default();
            let mut listener = |e: &QatEvent| steps.saw(e);
            match phase {
                0 => trainer.train_float(&mut listener)?,
                _ => trainer.train_quantised(&float, &mut listener)?,
            };
            medians[phase].push(median(steps.times));
        }
    }
    Ok(medians)
}

/// Times from one step's end to the next one's.
#[derive(Default)]
struct Steps {
    last: Option<std::time::Duration>,
    times: Vec<f64>,
}

impl Steps {
    fn saw(&mut self, event: &QatEvent) {
        if matches!(event, QatEvent::StepDone { .. }) {
            let now = processor_time();
            self.times.extend(self.last.map(|last| (now - last).as_secs_f64()));
            self.last = Some(now);
        }
    }
}

/// Generated examples: their values do not matter to the time of a step.
fn data(shape: Shape) -> Dataset {
    let mut random = SplitMix64(7);
    let mut split = |n: usize| Split {
        features: (0..n * shape.len()).map(|_| (random.bits() >> 40) as f32 / (1 << 24) as f32).collect(),
        labels: (0..n).map(|i| (i % CLASSES) as u32).collect(),
    };
    Dataset {
        train: split(STEPS * BATCH),
        test: split(1),
        classes: (0..CLASSES).map(|c| c.to_string()).collect(),
        shape,
        standardisation: Standardisation::none(),
        input: Affine::from_range(0.0, 1.0),
        sha256: [0; 32],
    }
}
