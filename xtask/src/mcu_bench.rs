//! `cargo xtask mcu-bench`: instructions for each multiply-accumulate of the kernels on an emulated core, with
//! requantisation and everything else that one run of a one-layer model takes. The counts are exact, so the committed
//! table is a gate: `cargo xtask test` measures again.

use anyhow::{Context as _, Result, bail};
use qat_kernels::artifact::{Metadata, ModelBuilder, TensorSpec, Window};
use qat_kernels::infer::Model;
use qat_kernels::{Grid, Levels};

use crate::bare_metal::{self, Toolchain};
use crate::emulator::{Board, M4, M55};
use crate::mcu::{host_logits, mismatches, run_model, write_model};
use crate::probe::{Layers, Numbers};
use crate::results::{Figure, record, value};
use crate::samples::Samples;
use crate::tools::ensure;

const SUITE: &str = "mcu";
const METRIC: &str = "insns_per_mac";
/// A count may grow by this share before the gate closes.
const TOLERANCE: f64 = 0.01;

/// A layer as it is measured everywhere.
#[derive(Clone, Copy)]
enum Op {
    /// Fully connected: inputs, outputs.
    Fc(u16, u16),
    /// Convolution with a square kernel over height × width × channels, padded to keep its size; channels out.
    Conv(u16, [u16; 3], u16),
    /// Depthwise 3×3 over height × width × channels, padded to keep its size.
    Depthwise([u16; 3]),
}

/// One row of the table.
pub(crate) struct Case {
    /// Core, operator, shape, bits.
    pub(crate) name: String,
    board: &'static Board,
    op: Op,
    bits: u8,
    /// Weights for each divisor k, 0 where k is fixed.
    group: usize,
}

/// All rows.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for board in [&M4, &M55] {
        let mut add = |op, shape: &str, bits, group| {
            let adaptive = if group > 0 { "_adaptive" } else { "" };
            let name = format!("{}_{shape}_{bits}bit{adaptive}", board.core);
            cases.push(Case { name, board, op, bits, group });
        };
        for bits in [2, 3, 4, 8] {
            add(Op::Fc(256, 128), "fc_256x128", bits, 0);
            add(Op::Fc(640, 128), "fc_640x128", bits, 0);
            add(Op::Conv(3, [16, 16, 16], 32), "conv3x3_16x32", bits, 0);
            add(Op::Conv(1, [25, 5, 64], 64), "conv1x1_64x64", bits, 0);
            add(Op::Depthwise([25, 5, 64]), "dw3x3_64", bits, 0);
        }
        add(Op::Fc(256, 128), "fc_256x128", 2, 16);
        add(Op::Fc(640, 128), "fc_640x128", 2, 16);
        add(Op::Conv(3, [16, 16, 16], 32), "conv3x3_16x32", 2, 16);
        add(Op::Conv(1, [25, 5, 64], 64), "conv1x1_64x64", 2, 16);
    }
    cases
}

impl Case {
    /// The model and one sample.
    fn model(&self) -> Result<(Vec<u8>, Samples)> {
        let shape = match self.op {
            Op::Fc(inputs, _) => [1, 1, inputs],
            Op::Conv(_, shape, _) | Op::Depthwise(shape) => shape,
        };
        let mut layers = Layers {
            numbers: Numbers(u64::from(self.bits)),
            levels: Levels::new(self.bits, Grid::MidRise)?,
            group: self.group,
        };
        let spec = TensorSpec { shape, scale: 0.02, zero_point: layers.numbers.int8() };
        let mut model = ModelBuilder::new(spec).with_target(self.board.family);
        let x = model.input();
        let len: usize = shape.iter().map(|&n| usize::from(n)).product();
        match self.op {
            Op::Fc(_, out) => {
                let layer = layers.next(out.into(), len, spec);
                model.linear(x, &layer.weights(), &layer.bias, layer.output)?
            }
            Op::Conv(kernel, [_, _, channels], out) => {
                let layer = layers.next(out.into(), usize::from(kernel * kernel * channels), spec);
                let window = Window::square(kernel, 1, (kernel / 2) as u8);
                model.conv2d(x, window, &layer.weights(), &layer.bias, layer.output)?
            }
            Op::Depthwise([_, _, channels]) => {
                let layer = layers.next(channels.into(), 9, spec);
                let window = Window::square(3, 1, 1);
                model.depthwise_conv2d(x, window, &layer.weights(), &layer.bias, layer.output)?
            }
        };
        let metadata = Metadata { name: &self.name, tool: "xtask", ..Metadata::default() };
        let values = (0..len).map(|_| layers.numbers.int8().cast_unsigned()).collect();
        Ok((model.finish(&metadata, &[])?, Samples::new(len, values)?))
    }

    /// Instructions for each multiply-accumulate, after a look at the answers.
    pub(crate) fn measure(&self, toolchain: &Toolchain) -> Result<f64> {
        let (file, samples) = self.model().with_context(|| self.name.clone())?;
        let path = write_model(&self.name, &file)?;
        let report = run_model(toolchain, self.board, &path, &samples)?;
        let host = host_logits(&file, &path, &samples)?;
        if mismatches(&report.logits, &host, samples.count()) > 0 {
            bail!("{}: {} computes something else than the host", self.name, self.board.name);
        }
        if !report.panic_paths.is_empty() {
            bail!("{}: panic paths {}", self.name, report.panic_paths.join(", "));
        }
        let [_, instructions, _] = report.spread();
        Ok(instructions as f64 / Model::parse(&file)?.macs() as f64)
    }

    /// Measures again and compares with the committed table.
    pub(crate) fn check(&self, toolchain: &Toolchain) -> Result<()> {
        let committed: f64 = value(SUITE, &self.name, METRIC)?.parse().with_context(|| self.name.clone())?;
        let measured = self.measure(toolchain)?;
        println!("{:<32} {measured:.4} instructions per MAC, {committed:.4} committed", self.name);
        if measured > committed * (1.0 + TOLERANCE) {
            bail!("{}: {measured:.4} instructions per MAC, {committed:.4} were committed", self.name);
        }
        Ok(())
    }
}

/// Measures the cases whose names contain one of `only` (all if empty) and writes them to the table.
pub(crate) fn run(only: &[String], yes: bool) -> Result<()> {
    let chosen = |case: &Case| only.is_empty() || only.iter().any(|part| case.name.contains(part.as_str()));
    let cases: Vec<Case> = cases().into_iter().filter(chosen).collect();
    let mut targets: Vec<&str> = Vec::new();
    for board in cases.iter().map(|case| case.board) {
        if !targets.contains(&board.target) {
            ensure(&[board.tool], yes)?;
            targets.push(board.target);
        }
    }
    let toolchain = bare_metal::find(&targets, yes)?;
    let mut figures = Vec::new();
    for case in cases {
        let value = case.measure(&toolchain)?;
        println!("{:<32} {value:.4} instructions per MAC", case.name);
        figures.push(Figure::new(case.name, METRIC, format!("{value:.4}"), ""));
    }
    record(SUITE, "cargo xtask mcu-bench", &figures)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_case_builds_and_has_its_own_name() {
        let mut names = HashSet::new();
        for case in cases() {
            let (file, _) = case.model().unwrap();
            assert!(Model::parse(&file).unwrap().macs() > 0);
            assert!(names.insert(case.name));
        }
    }
}
