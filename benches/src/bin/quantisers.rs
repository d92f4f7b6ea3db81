//! The speed of the quantisers, as ratios to copying memory within one run.
//!
//!     cargo run --release -p qat-benches --bin quantisers [-- --rounds N] [--only PART]
//!
//! Operations and the copies beside them are those of `qat_benches::cases`, on the fastest backend of the machine. Every
//! round runs each operation and each copy of a contest once, in an order drawn anew; a figure is the median over
//! the rounds of the quotient of two processor times of the same round. Answers are checked before anything is timed.
//!
//! Writes `benches/results/quantisers.csv`; with `--only`, the rows of the contests of which an operation's
//! name contains PART.

use anyhow::{Context as _, Result, bail};
use qat_benches::cases::{Backend, Copy, Operation, Shape};
use qat_benches::results::{Figure, record};
use qat_benches::rounds;

const SUITE: &str = "quantisers";
const COMMAND: &str = "cargo run --release -p qat-benches --bin quantisers";
/// What the other estimators are compared with.
const LSQ: &str = "lsq_fwd_bwd";

/// Operations on one shape, timed together.
struct Contest {
    /// As the results name the shape.
    size: &'static str,
    shape: Shape,
    /// Runs per turn, so that a turn is long against the clock's resolution.
    repeats: usize,
    /// Operations with the largest ratio to a copy, and to LSQ, that is good enough.
    operations: &'static [(&'static str, Option<f64>, Option<f64>)],
}

const CONTESTS: [Contest; 6] = [
    Contest {
        size: "4096x4096",
        shape: Shape { rows: 4096, columns: 4096, threads: 2 },
        repeats: 1,
        operations: &[
            (LSQ, Some(1.3), None),
            ("standard_fwd_bwd", None, Some(1.1)),
            ("clipped_fwd_bwd", None, Some(1.1)),
            ("ewgs_fwd_bwd", None, Some(1.1)),
            ("pi_fwd_bwd", None, Some(1.1)),
            ("adaptive_pi_fwd_bwd", None, None),
        ],
    },
    Contest {
        size: "4096x4096",
        shape: Shape { rows: 4096, columns: 4096, threads: 2 },
        repeats: 1,
        operations: &[("lsq_adamw", None, None), ("fake_quantise", None, None), ("quantise", None, None)],
    },
    Contest {
        size: "4864x896",
        shape: Shape { rows: 4864, columns: 896, threads: 1 },
        repeats: 1,
        operations: &[
            ("scale_grad", Some(1.5), None),
            ("observe_minmax", None, None),
            ("observe_histogram", None, None),
        ],
    },
    Contest {
        size: "4096x4096",
        shape: Shape { rows: 4096, columns: 4096, threads: 1 },
        repeats: 1,
        operations: &[
            // 70 % of a copy's bandwidth.
            ("pack_2bit", Some(1.43), None),
            ("unpack_2bit", Some(1.43), None),
            ("dequantise_2bit", Some(1.43), None),
            ("pack_3bit", None, None),
            ("unpack_3bit", None, None),
            ("pack_4bit", None, None),
            ("unpack_4bit", None, None),
        ],
    },
    Contest {
        size: "4096",
        shape: Shape { rows: 1, columns: 4096, threads: 1 },
        repeats: 1000,
        operations: &[("hadamard", Some(8.0), None)],
    },
    // In the second-level cache, where the rows of a layer usually are.
    Contest {
        size: "32x4096",
        shape: Shape { rows: 32, columns: 4096, threads: 1 },
        repeats: 32,
        operations: &[("hadamard", Some(8.0), None)],
    },
];

fn main() -> Result<()> {
    let (rounds, only) = arguments()?;
    let mut figures = Vec::new();
    let chosen = |contest: &&Contest| contest.operations.iter().any(|(name, ..)| name.contains(&only));
    for contest in CONTESTS.iter().filter(chosen) {
        figures.extend(hold(contest, rounds)?);
    }
    record(SUITE, COMMAND, &figures)
}

fn arguments() -> Result<(usize, String)> {
    let (mut rounds, mut only) = (41, String::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--rounds" => rounds = value()?.parse().context("--rounds")?,
            "--only" => only = value()?,
            _ => bail!("no option {word}"),
        }
    }
    Ok((rounds, only))
}

/// Times a contest.
fn hold(contest: &Contest, rounds: usize) -> Result<Vec<Figure>> {
    let backend = Backend::best();
    let mut cases = Vec::new();
    for (name, ..) in contest.operations {
        let operation = Operation::named(name).with_context(|| format!("no operation {name}"))?;
        let mut case = operation.on(contest.shape)?;
        case.run(backend)?;
        case.check().context(*name)?;
        cases.push(case);
    }
    let mut sizes: Vec<usize> = cases.iter().map(|case| case.copied()).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut copies: Vec<Copy> = sizes.iter().map(|size| Copy::new(*size, contest.shape.threads)).collect();

    let mut turn = |contestant: usize| {
        for _ in 0..contest.repeats {
            match copies.get_mut(contestant) {
                Some(copy) => copy.run(),
                None => cases[contestant - sizes.len()].run(backend)?,
            }
        }
        Ok::<(), qat_kernels::Error>(())
    };
    let times = rounds::run(sizes.len() + contest.operations.len(), rounds, &mut turn)?;
    let (of_copies, of_cases) = times.split_at(sizes.len());

    let Contest { size, shape, .. } = contest;
    println!("{size}, {} thread(s), {}, {rounds} rounds", shape.threads, backend.isa().name());
    println!("  {:24} {:>9} {:>7} {:>6} {:>7} {:>6}", "", "CPU ms", "x copy", "goal", "x LSQ", "goal");
    let lsq = contest.operations.iter().position(|(name, ..)| *name == LSQ).map(|i| &of_cases[i]);
    let mut figures = Vec::new();
    for ((name, goal, lsq_goal), (case, times)) in contest.operations.iter().zip(cases.iter().zip(of_cases)) {
        let copy = sizes.iter().zip(of_copies).find(|(size, _)| **size == case.copied());
        let (_, copy) = copy.context("every case has its copy")?;
        let ratio = rounds::median_ratio(times, copy);
        let to_lsq = lsq.filter(|_| lsq_goal.is_some()).map(|lsq| rounds::median_ratio(times, lsq));
        let show = |x: Option<f64>| x.map_or(String::new(), |x| format!("{x:.2}"));
        let ms = rounds::median(times.clone()) * 1e3 / contest.repeats as f64;
        println!(
            "  {name:24} {ms:9.4} {ratio:7.3} {:>6} {:>7} {:>6}",
            show(*goal),
            show(to_lsq),
            show(*lsq_goal)
        );
        let figure = |metric, ratio: f64, unit, goal: Option<f64>| {
            let figure = Figure::new(format!("{name}_{size}"), metric, format!("{ratio:.3}"), unit);
            match goal {
                Some(goal) => figure.with_goal(format!("{goal}")),
                None => figure,
            }
        };
        figures.push(figure("ratio_to_copy", ratio, "copies", *goal));
        figures.extend(to_lsq.map(|ratio| figure("ratio_to_lsq", ratio, "", *lsq_goal)));
    }
    Ok(figures)
}
