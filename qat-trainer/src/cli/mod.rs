//! The command line: reads arguments, calls the library, prints.

mod calibrate;
mod checkpoint;
mod compare;
mod completions;
mod config;
mod eval;
mod export;
mod inspect;
mod keygen;
mod llm;
mod output;
mod presets;
mod quantize;
mod report;
mod seeded;
mod sign;
mod train;
mod verify;

use clap::{Parser, Subcommand};
use qat_trainer::{Error, ErrorKind, Result};
use std::path::Path;
use std::process::ExitCode;

/// Train 2- to 8-bit models with quantisation in the loop, and ship them as checked integer files.
///
/// A run description (TOML) says which data, which network, how to train and how to quantise. `qat train` makes a run
/// folder from it; the model in that folder, model.piq, computes the same integers here and on a microcontroller.
///
/// Exit codes: 0 success, 1 a file cannot be read or written, 2 wrong call or run description, 3 wrong data, 4 wrong
/// checkpoint or model, 5 training failed, 6 built without what is needed, 130 stopped on request.
#[derive(Parser)]
#[command(name = "qat", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model: in floating point, then with quantisation in the loop, then export and measure it.
    Train(train::Arguments),
    /// Measure the ranges of activations of a floating-point checkpoint and write them as a .cal file.
    Calibrate(calibrate::Arguments),
    /// Quantise a floating-point checkpoint without training: into a .piq file, or weight by weight.
    Quantize(quantize::Arguments),
    /// Write the model of a run folder as a .piq file. Needs no data and no libtorch.
    Export(export::Arguments),
    /// Write the .piq file of a network that has learned nothing, with generated weights, to see what it would cost.
    Seeded(seeded::Arguments),
    /// Measure a .piq file on the test split, with the integer engine that runs on the device.
    Eval(eval::Arguments),
    /// Show what a .piq file holds: layers, bits, shapes, operations, bytes, memory, provenance.
    Inspect(inspect::Arguments),
    /// Language models: measure, quantise, train and pack them, make text, talk.
    Llm(llm::Arguments),
    /// Check that a .piq file is whole, states its provenance and reproduces its known answers; that the weights of a quantised
    /// language model are those of its codes.
    Verify(verify::Arguments),
    /// Make a pair of keys for signing models.
    Keygen(keygen::Arguments),
    /// Sign a .piq file, so that devices can refuse what others made of it.
    Sign(sign::Arguments),
    /// Write a run as one HTML file with pictures: curves, weights over the grid, calibration, confusion, bytes.
    Report(report::Arguments),
    /// Show several runs as a table, the most accurate first.
    Compare(compare::Arguments),
    /// List the run descriptions that come with the program, or print one.
    Presets(presets::Arguments),
    /// Print a script that completes commands and options in a shell.
    Completions(completions::Arguments),
}

/// Runs the command line of this process.
pub(crate) fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Train(a) => a.run(),
        Command::Calibrate(a) => a.run(),
        Command::Quantize(a) => a.run(),
        Command::Export(a) => a.run(),
        Command::Seeded(a) => a.run(),
        Command::Eval(a) => a.run(),
        Command::Inspect(a) => a.run(),
        Command::Llm(a) => a.run(),
        Command::Verify(a) => a.run(),
        Command::Keygen(a) => a.run(),
        Command::Sign(a) => a.run(),
        Command::Report(a) => a.run(),
        Command::Compare(a) => a.run(),
        Command::Presets(a) => a.run(),
        Command::Completions(a) => a.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let mistake = if e.kind() == ErrorKind::Stopped { "" } else { "error: " };
            output::complain(&format!("qat: {mistake}{e}"));
            ExitCode::from(e.kind().exit_code())
        }
    }
}

/// Reads a `.piq` file; its bytes still have to be parsed.
fn read_model(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io("read", path, &e))
}

/// Parses the bytes of the `.piq` file at `path`.
fn parse_model<'a>(path: &Path, bytes: &'a [u8]) -> Result<qat_kernels::infer::Model<'a>> {
    qat_kernels::infer::Model::parse(bytes).map_err(|e| {
        Error::new(ErrorKind::Model, format!("not a usable .piq file: {e}"))
            .file(path)
            .remedy("the file is damaged or something else; export it again")
    })
}
