//! A model on an emulated microcontroller: runs the firmware around it on samples, and compares with the host engine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use qat_kernels::infer::Model;

use crate::bare_metal::{self, Toolchain};
use crate::cmd::target_dir;
use crate::emulator::{Board, emulate};
use crate::firmware;
use crate::footprint::Footprint;
use crate::panic_free::panic_paths;
use crate::samples::Samples;
use crate::tools::ensure;

/// Bytes of stack that `Model::run` takes at most on any microcontroller, as its documentation promises. The engine has no
/// recursion and no buffer whose size depends on the model, so that running every operator in every packed order, as the
/// probes do, sees the worst.
const STACK: u32 = 2 << 10;

/// What a board made of a model.
pub(crate) struct Report {
    /// Logits of all samples.
    pub(crate) logits: Vec<u8>,
    /// Instructions of every inference, in the order of the samples.
    pub(crate) instructions: Vec<u64>,
    /// Functions of the program that can panic.
    pub(crate) panic_paths: Vec<String>,
    /// Bytes of stack that an inference needed at most.
    pub(crate) stack: u32,
    /// What the program takes, the model included.
    pub(crate) footprint: Footprint,
}

impl Report {
    /// Smallest, median and largest number of instructions of an inference.
    pub(crate) fn spread(&self) -> [u64; 3] {
        let mut sorted = self.instructions.clone();
        sorted.sort_unstable();
        [sorted.first(), sorted.get(sorted.len() / 2), sorted.last()].map(|n| n.copied().unwrap_or(0))
    }
}

/// `cargo xtask mcu`.
pub(crate) fn command(
    board: &Board,
    model: &Path,
    samples: &Path,
    out: &Path,
    count: Option<usize>,
    yes: bool,
) -> Result<()> {
    ensure(&[board.tool], yes)?;
    let toolchain = bare_metal::find(&[board.target], yes)?;
    println!("bare-metal Rust: {toolchain}");
    let mut samples = Samples::parse(&read(samples)?).with_context(|| samples.display().to_string())?;
    samples.truncate(count.unwrap_or(usize::MAX));
    let report = run_model(&toolchain, board, model, &samples)?;
    fs::write(out, &report.logits).with_context(|| out.display().to_string())?;

    let bytes = read(model)?;
    let macs = parse(&bytes, model)?.macs();
    let host = host_logits(&bytes, model, &samples)?;
    let [least, median, most] = report.spread();
    let first = report.instructions.first().copied().unwrap_or(0);
    println!("board          {}", board.name);
    println!("samples        {}", samples.count());
    println!("mismatches     {}", mismatches(&report.logits, &host, samples.count()));
    println!("instructions   {first} for sample 0; least {least}, median {median}, most {most}");
    println!("MACs           {macs} ({:.3} instructions each)", median as f64 / macs.max(1) as f64);
    println!("stack          {} bytes at most in an inference", report.stack);
    let Footprint { flash, ram } = report.footprint;
    println!(
        "flash          {flash} bytes, {} of them the model; RAM {ram} bytes without the stack",
        bytes.len()
    );
    println!(
        "panic paths    {}",
        if report.panic_paths.is_empty() { "none".into() } else { report.panic_paths.join(", ") }
    );
    Ok(())
}

/// Builds the firmware around `model` and runs it on all of `samples`.
pub(crate) fn run_model(
    toolchain: &Toolchain,
    board: &Board,
    model: &Path,
    samples: &Samples,
) -> Result<Report> {
    let bytes = read(model)?;
    let program = firmware::build(toolchain, board, "infer", Some(model), &[])?;
    let checked = Checked::new(&program)?;
    run_program(board, &program, checked, &parse(&bytes, model)?, samples)
        .with_context(|| model.display().to_string())
}

/// What is known of a program before it runs.
#[derive(Clone)]
pub(crate) struct Checked {
    panic_paths: Vec<String>,
    footprint: Footprint,
}

impl Checked {
    /// Looks at a linked program.
    pub(crate) fn new(program: &Path) -> Result<Self> {
        Ok(Self { panic_paths: panic_paths(program)?, footprint: Footprint::of(program)? })
    }
}

/// Runs a program that has `model` in its flash on all of `samples`.
pub(crate) fn run_program(
    board: &Board,
    program: &Path,
    checked: Checked,
    model: &Model<'_>,
    samples: &Samples,
) -> Result<Report> {
    if model.input_len() != samples.len {
        bail!("it takes {} values, the samples have {}", model.input_len(), samples.len);
    }
    let outcome = emulate(board, program, samples)?;
    let (count, logits_len) = (samples.count(), samples.count() * model.output_len());
    if outcome.counts.len() != count || outcome.logits.len() != logits_len {
        bail!(
            "{count} samples went in; {} counts and {} of {logits_len} logits came out",
            outcome.counts.len(),
            outcome.logits.len()
        );
    }
    let stack = outcome.stack.context("the program has not measured its stack")?;
    if stack > STACK {
        bail!("an inference took {stack} bytes of stack, {STACK} are promised");
    }
    let Checked { panic_paths, footprint } = checked;
    Ok(Report { logits: outcome.logits, instructions: outcome.counts, panic_paths, stack, footprint })
}

/// Puts a model where builds find it.
pub(crate) fn write_model(name: &str, file: &[u8]) -> Result<PathBuf> {
    let folder = target_dir()?.join("probes");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{name}.piq"));
    fs::write(&path, file)?;
    Ok(path)
}

/// The logits of the host engine.
pub(crate) fn host_logits(bytes: &[u8], name: &Path, samples: &Samples) -> Result<Vec<u8>> {
    let model = parse(bytes, name)?;
    let mut output = vec![0; model.output_len()];
    let mut arena = vec![0; model.arena_len()];
    let mut logits = Vec::new();
    for sample in samples.iter() {
        model.run(&sample, &mut output, &mut arena).with_context(|| name.display().to_string())?;
        logits.extend(output.iter().map(|v| v.cast_unsigned()));
    }
    Ok(logits)
}

/// In how many of `count` samples the logits differ.
pub(crate) fn mismatches(a: &[u8], b: &[u8], count: usize) -> usize {
    if a.len() != b.len() || count == 0 {
        return count;
    }
    let len = (a.len() / count).max(1);
    a.chunks(len).zip(b.chunks(len)).filter(|(a, b)| a != b).count()
}

pub(crate) fn parse<'a>(bytes: &'a [u8], name: &Path) -> Result<Model<'a>> {
    Model::parse(bytes).with_context(|| name.display().to_string())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_with_one_wrong_logit_counts_once() {
        assert_eq!(mismatches(&[1, 2, 3, 4, 5, 6], &[1, 2, 3, 4, 5, 6], 3), 0);
        assert_eq!(mismatches(&[1, 2, 3, 4, 5, 6], &[0, 0, 3, 4, 5, 7], 3), 2);
        assert_eq!(mismatches(&[1, 2], &[1, 2, 3, 4], 2), 2);
    }
}
