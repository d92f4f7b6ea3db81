//! Products of packed matrices on workstations, beside f32 products of the same matrices by torch in the same run.
//!
//!     cargo run --release -p qat-benches --features tch --bin host [-- --rounds N]
//!
//! A 4096 × 4096 matrix times one vector and times sixteen, on one thread: with the matrix packed and the vectors int8
//! (`PackedMatrix`, on the fastest backend of the machine and on AVX2), and with both in f32 (torch). `model` is a whole
//! run of a one-layer `.piq` file, with requantisation. Every product of small integers is exact in f32 as well, so the
//! answers are compared for equality before anything is timed.
//!
//! Every round runs each contestant once, in an order drawn anew; a figure is the median over the rounds of the quotient
//! of two processor times of the same round:
//! - `speedup_over_f32`: torch's time over ours;
//! - `ratio_to_reading`: our time over that of reading the packed bytes at the speed of a copy, which moves every byte
//!   twice and therefore copies half as many.
//!
//! Writes `benches/results/host.csv`.

mod contestants;

use anyhow::{Context as _, Result, bail};
use contestants::{COLUMNS, Contestants, ROWS};
use qat_benches::results::{Figure, replace};
use qat_benches::rounds;

const SUITE: &str = "host";
const COMMAND: &str = "cargo run --release -p qat-benches --features tch --bin host";
const RIVAL: &str = "torch 2.11 f32 on 1 thread";
/// How much faster than f32 two bits are to be.
const GOAL: &str = "4";

fn main() -> Result<()> {
    let rounds = rounds_asked_for()?;
    tch::set_num_threads(1);
    let _guard = tch::no_grad_guard();
    let mut figures = Vec::new();
    for batch in [1, 16] {
        let mut contestants = Contestants::new(batch)?;
        contestants.check()?;
        let times = rounds::run(contestants.len(), rounds, |index| contestants.run(index))?;
        let torch = &times[Contestants::TORCH];
        let ms = |times: &[f64]| rounds::median(times.to_vec()) * 1e3;
        println!("{ROWS}x{COLUMNS}, {batch} vector(s), {rounds} rounds; torch {:.3} ms", ms(torch));
        println!("  {:36} {:>8} {:>9} {:>9}", "", "ms", "x torch", "x reading");
        for (index, packed) in contestants.packed() {
            let (ours, reading) = (&times[index], &times[packed.reading]);
            let (speedup, ratio) = (rounds::median_ratio(torch, ours), rounds::median_ratio(ours, reading));
            println!("  {:36} {:8.3} {speedup:9.2} {ratio:9.2}", packed.name, ms(ours));
            let figure = |metric, value: f64, unit| {
                Figure::new(packed.name.clone(), metric, format!("{value:.2}"), unit)
            };
            let speedup = figure("speedup_over_f32", speedup, "").with_rival(RIVAL.into(), "1".into());
            figures.push(if packed.bits == 2 { speedup.with_goal(GOAL.into()) } else { speedup });
            figures.push(figure("ratio_to_reading", ratio, "readings"));
        }
    }
    replace(SUITE, COMMAND, &figures)
}

fn rounds_asked_for() -> Result<usize> {
    let mut words = std::env::args().skip(1);
    match (words.next().as_deref(), words.next()) {
        (None, _) => Ok(41),
        (Some("--rounds"), Some(rounds)) => rounds.parse().context("--rounds"),
        (Some(word), _) => bail!("no option {word}, or no value for it"),
    }
}
