//! Instructions for each multiply-accumulate by the size of a layer, for the pictures of `qat_benches::curves`.

use anyhow::Result;
use qat_benches::curves::{CHANNELS, COLUMNS};

use super::{Case, Op, PER_MAC, toolchain};
use crate::emulator::BOARDS;
use crate::results::{Figure, record};

/// The layers that the pictures show and that [`super::cases`] does not count.
fn cases() -> Vec<Case> {
    let columns = COLUMNS.map(|columns| Op::Fc(columns, 128));
    let channels = CHANNELS.map(|channels| Op::Conv(3, [8, 8, channels], channels));
    let layers: Vec<Op> = columns.into_iter().chain(channels).collect();
    BOARDS.iter().flat_map(|board| layers.iter().map(|&op| Case::new(board, op, 2, 0))).collect()
}

/// Measures all of them and writes them to the table.
pub(crate) fn run(yes: bool) -> Result<()> {
    let cases = cases();
    let toolchain = toolchain(cases.iter().map(|case| case.board), yes)?;
    let mut figures = Vec::new();
    for case in cases {
        let value = case.measure(&toolchain)?;
        println!("{:<32} {value:.4} {PER_MAC}", case.name);
        figures.push(Figure::new(case.name, PER_MAC, format!("{value:.4}"), ""));
    }
    record("scaling", "cargo xtask mcu-bench --scaling", &figures)
}
