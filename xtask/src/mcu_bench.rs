//! `cargo xtask mcu-bench`: instructions for each multiply-accumulate of the kernels on an emulated core, with
//! requantisation and everything else that one run of a one-layer model takes. The counts are exact, so the committed
//! table is a gate: `cargo xtask test` measures again.

pub(crate) mod log_mel;
pub(crate) mod peers;
pub(crate) mod scaling;
mod yardsticks;

use anyhow::{Context as _, Result, bail};
use qat_kernels::artifact::{Metadata, ModelBuilder, Output, TensorSpec, Window};
use qat_kernels::infer::Model;
use qat_kernels::{Grid, Levels};

use crate::bare_metal::{self, Toolchain};
use crate::emulator::{Board, M0, M3, M4, M55, RV32};
use crate::mcu::{host_logits, mismatches};
use crate::probe::{Layers, Numbers};
use crate::results::{Figure, record, value};
use crate::samples::Samples;
use crate::slot::Slot;
use crate::tools::ensure;

const SUITE: &str = "mcu";
/// What is measured of layers with weights, and of the others: instructions for each value that they read.
const PER_MAC: &str = "insns_per_mac";
const PER_VALUE: &str = "insns_per_value";
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
    /// Sum of two tensors.
    Add([u16; 3]),
    /// Largest value of each 2×2.
    MaxPool([u16; 3]),
    /// Mean of everything.
    GlobalPool([u16; 3]),
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
    let mut add = |board, op, bits, group| cases.push(Case::new(board, op, bits, group));
    for board in [&M4, &M55] {
        let [fc, long, conv, pointwise, depthwise] = shapes(board);
        for bits in [2, 3, 4, 8] {
            for op in [fc, long, conv, pointwise, depthwise] {
                add(board, op, bits, 0);
            }
        }
        for op in [fc, long, conv, pointwise] {
            add(board, op, 2, 16);
        }
    }
    for board in [&M0, &M3, &RV32] {
        let [fc, long, conv, pointwise, depthwise] = shapes(board);
        for op in [fc, long, conv, pointwise, depthwise] {
            add(board, op, 2, 0);
        }
        for bits in [3, 4, 8] {
            add(board, fc, bits, 0);
            add(board, conv, bits, 0);
        }
        for op in [fc, long, conv] {
            add(board, op, 2, 16);
        }
    }
    for group in [8, 32] {
        add(&M4, Op::Fc(640, 128), 2, group);
        add(&M4, Op::Conv(1, [25, 5, 64], 64), 2, group);
    }
    // First layers, and what has no weights.
    add(&M4, Op::Conv(3, [28, 28, 1], 16), 8, 0);
    add(&M4, Op::Conv(3, [32, 32, 3], 16), 8, 0);
    add(&M4, Op::Add([16, 16, 32]), 0, 0);
    add(&M4, Op::MaxPool([16, 16, 32]), 0, 0);
    add(&M4, Op::GlobalPool([25, 5, 64]), 0, 0);
    cases
}

/// The layers that are measured, as large as the board's memory allows: a larger image only repeats the work on its pixels.
fn shapes(board: &Board) -> [Op; 5] {
    let [image, map] = if board.core == M0.core { [[8, 8], [5, 5]] } else { [[16, 16], [25, 5]] };
    [
        Op::Fc(256, 128),
        Op::Fc(640, 128),
        Op::Conv(3, [image[0], image[1], 16], 32),
        Op::Conv(1, [map[0], map[1], 64], 64),
        Op::Depthwise([map[0], map[1], 64]),
    ]
}

impl Op {
    /// Operator and shape, as they are called in the table.
    fn shape(self) -> String {
        match self {
            Self::Fc(inputs, outputs) => format!("fc_{inputs}x{outputs}"),
            Self::Conv(kernel, [_, _, inputs], outputs) => {
                format!("conv{kernel}x{kernel}_{inputs}x{outputs}")
            }
            Self::Depthwise([_, _, channels]) => format!("dw3x3_{channels}"),
            Self::Add([height, width, channels]) => format!("add_{height}x{width}x{channels}"),
            Self::MaxPool([height, width, channels]) => format!("maxpool2x2_{height}x{width}x{channels}"),
            Self::GlobalPool([height, width, channels]) => format!("globalpool_{height}x{width}x{channels}"),
        }
    }
}

impl Case {
    fn new(board: &'static Board, op: Op, bits: u8, group: usize) -> Self {
        // Groups of 16 are what adaptive presets have.
        let adaptive = match group {
            0 => String::new(),
            16 => "_adaptive".to_owned(),
            _ => format!("_adaptive{group}"),
        };
        let bits_name = if bits > 0 { format!("_{bits}bit") } else { String::new() };
        let name = format!("{}_{}{bits_name}{adaptive}", board.core, op.shape());
        Self { name, board, op, bits, group }
    }

    /// The model and one sample.
    fn model(&self) -> Result<(Vec<u8>, Samples)> {
        let shape = match self.op {
            Op::Fc(inputs, _) => [1, 1, inputs],
            Op::Conv(_, shape, _) | Op::Depthwise(shape) => shape,
            Op::Add(shape) | Op::MaxPool(shape) | Op::GlobalPool(shape) => shape,
        };
        let mut layers = Layers {
            numbers: Numbers(u64::from(self.bits)),
            levels: Levels::new(if self.bits > 0 { self.bits } else { 8 }, Grid::MidRise)?,
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
            Op::Add(_) => model.add(x, x, Output::new(2.0 * spec.scale, spec.zero_point))?,
            Op::MaxPool(_) => model.max_pool(x, Window::square(2, 2, 0), [i8::MIN, i8::MAX])?,
            Op::GlobalPool([height, width, _]) => {
                let window = Window { kernel: [height, width], stride: [1, 1], pad: [0; 4] };
                model.avg_pool(x, window, Output::new(spec.scale / 8.0, spec.zero_point))?
            }
        };
        let metadata = Metadata { name: &self.name, tool: "xtask", ..Metadata::default() };
        let values = (0..len).map(|_| layers.numbers.int8().cast_unsigned()).collect();
        Ok((model.finish(&metadata, &[])?, Samples::new(len, values)?))
    }

    /// What is measured.
    fn metric(&self) -> &'static str {
        if self.bits > 0 { PER_MAC } else { PER_VALUE }
    }

    /// Instructions for each multiply-accumulate or value, after a look at the answers.
    pub(crate) fn measure(&self, toolchain: &Toolchain) -> Result<f64> {
        let (file, samples) = self.model().with_context(|| self.name.clone())?;
        let report = Slot::of(toolchain, self.board)?.run(&self.name, &file, &samples)?;
        let host = host_logits(&file, self.name.as_ref(), &samples)?;
        if mismatches(&report.logits, &host, samples.count()) > 0 {
            bail!("{}: {} computes something else than the host", self.name, self.board.name);
        }
        if !report.panic_paths.is_empty() {
            bail!("{}: panic paths {}", self.name, report.panic_paths.join(", "));
        }
        let [_, instructions, _] = report.spread();
        let model = Model::parse(&file)?;
        let count = if self.bits > 0 { model.macs() } else { model.input_len() as u64 };
        Ok(instructions as f64 / count as f64)
    }

    /// The row of the table.
    fn figure(&self, value: f64) -> Figure {
        let shape = format!("{}_{}", self.board.core, self.op.shape());
        let mut figure = Figure::new(self.name.clone(), self.metric(), format!("{value:.4}"), "");
        if self.group == 0
            && let Some(goal) = yardsticks::goal(&shape, self.bits)
        {
            figure = figure.with_goal(goal.to_string());
        }
        match yardsticks::rival(&shape, self.bits) {
            Some((name, count)) => figure.with_rival(name.to_owned(), count.to_string()),
            None => figure,
        }
    }

    /// Measures again and compares with the committed table.
    pub(crate) fn check(&self, toolchain: &Toolchain) -> Result<()> {
        let committed: f64 =
            value(SUITE, &self.name, self.metric())?.parse().with_context(|| self.name.clone())?;
        let measured = self.measure(toolchain)?;
        println!("{:<32} {measured:.4} {}, {committed:.4} committed", self.name, self.metric());
        if measured > committed * (1.0 + TOLERANCE) {
            bail!("{}: {measured:.4} {}, {committed:.4} were committed", self.name, self.metric());
        }
        Ok(())
    }
}

/// Measures the cases whose names contain one of `only` (all if empty) and writes them to the table.
pub(crate) fn run(only: &[String], yes: bool) -> Result<()> {
    let chosen = |name: &str| only.is_empty() || only.iter().any(|part| name.contains(part.as_str()));
    let cases: Vec<Case> = cases().into_iter().filter(|case| chosen(&case.name)).collect();
    let more = chosen(log_mel::CASE).then_some(&M4);
    let toolchain = toolchain(cases.iter().map(|case| case.board).chain(more), yes)?;
    let mut figures = Vec::new();
    for case in cases {
        let value = case.measure(&toolchain)?;
        println!("{:<32} {value:.4} {}", case.name, case.metric());
        figures.push(case.figure(value));
    }
    if chosen(log_mel::CASE) {
        figures.push(log_mel::figure(&toolchain)?);
    }
    record(SUITE, "cargo xtask mcu-bench", &figures)
}

/// What builds and emulates for these boards.
fn toolchain(boards: impl Iterator<Item = &'static Board>, yes: bool) -> Result<Toolchain> {
    let mut targets: Vec<&str> = Vec::new();
    for board in boards {
        if !targets.contains(&board.target) {
            ensure(&[board.tool], yes)?;
            targets.push(board.target);
        }
    }
    bare_metal::find(&targets, yes)
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
            assert_eq!(Model::parse(&file).unwrap().macs() > 0, case.metric() == PER_MAC, "{}", case.name);
            assert!(names.insert(case.name));
        }
    }
}
