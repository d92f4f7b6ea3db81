//! How the time of quantisers and packed products grows with weights, threads and tokens: the timed half of the pictures of
//! `qat_benches::curves`; the counted half is `cargo xtask mcu-bench --scaling`.
//!
//!     cargo run --release -p qat-benches --bin scaling [-- --rounds N]
//!
//! All figures are medians over the rounds of quotients of two processor times of the same round, so that a busy machine
//! disturbs little. Answers are checked before anything is timed. Writes `benches/results/scaling.csv`.

use anyhow::{Context as _, Result, bail, ensure};
use qat_benches::cases::{Backend, Case, Copy, Operation, Shape};
use qat_benches::curves::{BITS, OPERATIONS, THREADS, TOKENS, WEIGHTS};
use qat_benches::numbers::SplitMix64;
use qat_benches::results::{Figure, record};
use qat_benches::rounds::{self, median_ratio};
use qat_kernels::matrix::PackedMatrix;
use qat_kernels::pack::packed_len;
use qat_kernels::{Grid, Levels};

const SUITE: &str = "scaling";
const COMMAND: &str = "cargo run --release -p qat-benches --bin scaling";
/// Weights that a turn works on at least, so that it is long against the clock's resolution.
const TURN: usize = 1 << 22;
const SIDE: usize = 4096;

fn main() -> Result<()> {
    let rounds = rounds_asked_for()?;
    let mut figures = Vec::new();
    for operation in OPERATIONS {
        for power in WEIGHTS {
            figures.push(weights(operation, power, rounds)?);
        }
    }
    for operation in &OPERATIONS[..2] {
        figures.extend(threads(operation, rounds)?);
    }
    for bits in BITS {
        figures.extend(tokens(bits, rounds)?);
    }
    record(SUITE, COMMAND, &figures)
}

fn rounds_asked_for() -> Result<usize> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.as_slice() {
        [] => Ok(21),
        [option, number] if option == "--rounds" => number.parse().context("--rounds"),
        _ => bail!("options: --rounds N"),
    }
}

/// A case that has run once and given the right answer.
fn checked(name: &str, shape: Shape) -> Result<Box<dyn Case>> {
    let mut case = Operation::named(name).with_context(|| format!("no operation {name}"))?.on(shape)?;
    case.run(Backend::best())?;
    case.check().context(name.to_owned())?;
    Ok(case)
}

fn figure(case: String, metric: &'static str, ratio: f64) -> Figure {
    println!("{case:<28} {ratio:7.3} {metric}");
    Figure::new(case, metric, format!("{ratio:.3}"), "")
}

/// An operation on 2^`power` weights beside a copy.
fn weights(name: &str, power: u32, rounds: usize) -> Result<Figure> {
    let shape = Shape { rows: (1 << power) / 1024, columns: 1024, threads: 1 };
    let mut case = checked(name, shape)?;
    let mut copy = Copy::new(case.copied(), 1);
    let repeats = (TURN / shape.len()).max(1);
    let times = rounds::run(2, rounds, |contestant| {
        (0..repeats).try_for_each(|_| match contestant {
            0 => case.run(Backend::best()),
            _ => {
                copy.run();
                Ok(())
            }
        })
    })?;
    Ok(figure(format!("{name}_2e{power}"), "ratio_to_copy", median_ratio(&times[0], &times[1])))
}

/// An operation shared by more and more threads.
fn threads(name: &str, rounds: usize) -> Result<Vec<Figure>> {
    let shapes = THREADS.map(|threads| Shape { rows: SIDE, columns: SIDE, threads });
    let mut cases = shapes.into_iter().map(|shape| checked(name, shape)).collect::<Result<Vec<_>>>()?;
    let times = rounds::run(cases.len(), rounds, |i| cases[i].run(Backend::best()))?;
    let figures = THREADS.iter().zip(&times).map(|(threads, time)| {
        figure(format!("{name}_{threads}threads"), "ratio_to_one_thread", median_ratio(time, &times[0]))
    });
    Ok(figures.collect())
}

/// A packed matrix times more and more vectors.
fn tokens(bits: u8, rounds: usize) -> Result<Vec<Figure>> {
    let levels = Levels::new(bits, Grid::MidRise)?;
    let mut random = SplitMix64(bits.into());
    let packed: Vec<u8> = (0..SIDE * packed_len(SIDE, bits)).map(|_| random.bits() as u8).collect();
    let matrix = PackedMatrix::new(levels, SIDE, SIDE, &packed)?.on(Backend::best());
    let most = TOKENS.into_iter().max().context("no batch")?;
    let x: Vec<i8> = (0..most * SIDE).map(|_| random.bits() as i8).collect();
    let mut sums = vec![0; most * SIDE];
    // A vector of a batch is multiplied as a single one is.
    let mut single = vec![0; SIDE];
    matrix.multiply(&x, &mut sums)?;
    matrix.multiply(&x[x.len() - SIDE..], &mut single)?;
    ensure!(sums.ends_with(&single), "a batch at {bits} bits is not its vectors");
    let mut multiply = |tokens: usize| matrix.multiply(&x[..tokens * SIDE], &mut sums[..tokens * SIDE]);
    let times = rounds::run(TOKENS.len(), rounds, |i| multiply(TOKENS[i]))?;
    let figures = TOKENS.iter().zip(&times).map(|(tokens, time)| {
        let ratio = median_ratio(time, &times[0]) / *tokens as f64;
        figure(format!("product_{bits}bit_{tokens}tokens"), "ratio_to_single", ratio)
    });
    Ok(figures.collect())
}
