//! Checks and timings on a GPU: `cargo xtask gpu` packs this program for a machine that has CUDA and no Rust.
//!
//! 1. Checks: every quantiser's weights and gradients, and the loss and gradients of a small decoder, on the device against
//!    qat-kernels on the CPU, within the tolerances of `checks`.
//! 2. Timings: the gradient of a layer's steps, and training steps of a decoder, plain, quantised, distilled and adapted,
//!    with the memory that they take at most. Every timed training has to lower its loss.
//!
//! On the CPU with `--shape tiny` all but the device is the same; the tests run it so.

mod adapted;
mod checks;
mod layer;
mod shapes;
mod steps;

use anyhow::{Context as _, Result, bail, ensure};
use qat_benches::results::{export, machine};
use qat_trainer::autograd::{compile_kernels, device, fused_kernels, synchronise};
use shapes::Shape;
use std::path::PathBuf;
use std::time::Instant;
use tch::Device;

const SUITE: &str = "gpu";
const USAGE: &str = "\
usage: gpu [--device cpu|cuda|cuda:N] [--shape tiny|odd|qwen-0.5b] [--rounds N] [--only PART]… [--parts]
           [--out FILE.csv] [--machine TEXT]
       gpu --compile sm_90    compile the fused kernels, without a GPU, and say what they need";

struct Options {
    device: String,
    shape: Shape,
    rounds: usize,
    only: Vec<String>,
    /// Whether to print where the time of a step goes.
    parts: bool,
    out: Option<PathBuf>,
    machine: String,
    compile: Option<String>,
}

impl Options {
    fn chosen(&self, case: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| case.contains(part.as_str()))
    }
}

fn main() -> Result<()> {
    let options = arguments()?;
    if let Some(architecture) = &options.compile {
        return compile(architecture);
    }
    // Before the first tensor is made.
    let device = device(&options.device)?;
    println!("{} on {}, {} rounds", options.shape.name, options.machine, options.rounds);
    if let (true, Err(problem)) = (device.is_cuda(), fused_kernels(device)) {
        println!("without the fused kernels: {problem}");
    }
    let mut figures = Vec::new();
    if options.chosen("checks") {
        figures.extend(checks::run(device)?);
    }
    if options.chosen("scale_grad") {
        figures.extend(layer::run(&options.shape, device, options.rounds)?);
    }
    let chosen = |case: &str| options.chosen(case);
    figures.extend(steps::run(&options.shape, device, options.rounds, &chosen, options.parts)?);
    ensure!(!figures.is_empty(), "no part's name contains any of {:?}", options.only);
    if let Some(out) = &options.out {
        let command = format!(
            "cargo xtask gpu; gpu --device {} --shape {} --rounds {}",
            options.device, options.shape.name, options.rounds
        );
        let commit = option_env!("QAT_COMMIT").unwrap_or_default();
        export(out, SUITE, [&command, &options.machine, commit], &figures)?;
        println!("{} figures in {}", figures.len(), out.display());
    }
    Ok(())
}

fn arguments() -> Result<Options> {
    let mut options = Options {
        device: "cuda".into(),
        shape: Shape::named("qwen-0.5b")?,
        rounds: 10,
        only: Vec::new(),
        parts: false,
        out: None,
        machine: machine(),
        compile: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value\n{USAGE}"));
        match word.as_str() {
            "--device" => options.device = value()?,
            "--shape" => options.shape = Shape::named(&value()?)?,
            "--rounds" => options.rounds = value()?.parse().context("--rounds")?,
            "--only" => options.only.push(value()?),
            "--parts" => options.parts = true,
            "--out" => options.out = Some(value()?.into()),
            "--compile" => options.compile = Some(value()?),
            "--machine" => options.machine = value()?,
            // What cargo adds.
            "--bench" => {}
            _ => bail!("no option {word}\n{USAGE}"),
        }
    }
    ensure!(options.rounds > 0, "--rounds 0 measures nothing");
    Ok(options)
}

/// Compiles the kernels and prints how many there are and what they need, from the assembler's report.
fn compile(architecture: &str) -> Result<()> {
    let compiled = compile_kernels(architecture)?;
    let before = |what: &str| -> Vec<u64> {
        let numbers =
            compiled.log.match_indices(what).filter_map(|(at, _)| compiled.log[..at].split(' ').next_back());
        numbers.filter_map(|number| number.parse().ok()).collect()
    };
    let kernels = compiled.log.matches("Compiling entry function").count();
    let spilled: u64 = before(" bytes spill stores").iter().sum();
    let registers = before(" registers").into_iter().max().unwrap_or_default();
    let bytes = compiled.cubin.len();
    println!(
        "{architecture}: {kernels} kernels, {spilled} bytes spilled, {registers} registers at most, {bytes} bytes of code"
    );
    Ok(())
}

/// Seconds that `work` takes, with all that it gives to the device.
fn timed(device: Device, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    synchronise(device)?;
    let began = Instant::now();
    work()?;
    synchronise(device)?;
    Ok(began.elapsed().as_secs_f64())
}
