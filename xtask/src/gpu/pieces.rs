//! The arithmetic of the other CUDA kernels, compiled for the CPU: a whole update is what its parts make, and what lies between a
//! decoder's matrices follows its formulas in f64.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use qat_benches::numbers::SplitMix64;

use super::arithmetic::{Job, same};

/// Largest error of a number, relative to the largest of its kind.
const ERROR: f64 = 2e-6;

/// Returns how many cases were compared.
pub(super) fn check(program: &Path) -> Result<u64> {
    let mut checked = 0;
    for (blocks, length, group) in [(9, 48, 8), (3, 1184, 16), (7, 5, 5), (2, 1027, 1027)] {
        for estimator in 0..4 {
            for rule in 0..3 {
                learn(program, [blocks, length, group], estimator, rule).with_context(|| {
                    format!("{blocks} blocks of {length}, estimator {estimator}, rule {rule}")
                })?;
                checked += 1;
            }
        }
    }
    for (rows, width) in [(3, 896), (2, 37)] {
        norm(program, rows, width).with_context(|| format!("a norm of {width}"))?;
        cross_entropy(program, rows, width).with_context(|| format!("cross-entropy of {width}"))?;
        checked += 2;
    }
    for half in [32, 3] {
        rotate(program, half).with_context(|| format!("heads of {}", 2 * half))?;
        checked += 1;
    }
    gates(program)?;
    Ok(checked + 1)
}

/// Numbers between −1 and 1.
struct Numbers(SplitMix64);

impl Numbers {
    fn take(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count).map(|_| size * ((self.0.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0)).collect()
    }
}

/// An update at once against the gradients, AdamW's step of w, and ŵ, each by a job of its own; and α by its formula.
fn learn(program: &Path, [blocks, length, group]: [usize; 3], estimator: usize, rule: usize) -> Result<()> {
    let mut numbers = Numbers(SplitMix64(7));
    let count = blocks * length;
    let k: Vec<f32> = (0..if rule == 2 { count / group } else { 0 }).map(|i| (2 + i % 4) as f32).collect();
    let (w, g) = (numbers.take(count, 1.0), numbers.take(count, 0.1));
    let alpha: Vec<f32> = numbers.take(blocks, 0.2).iter().map(|x| 0.3 + x).collect();
    let square = |x: Vec<f32>| -> Vec<f32> { x.iter().map(|x| x * x).collect() };
    let (m, v) = (numbers.take(count, 0.01), square(numbers.take(count, 0.03)));
    let (alpha_m, alpha_v) = (numbers.take(blocks, 0.01), square(numbers.take(blocks, 0.03)));
    let scale = 0.05f32;
    let quantiser = |job: &mut Job| {
        // Two bits, mid-rise.
        job.float(-2.0).float(1.0).float(0.5).int(estimator).float(0.4).float(scale).int(rule).float(3.0);
        job.int(length).int(blocks).int(if rule == 2 { group } else { length });
        job.int(if length >= 512 { 256 } else { 32 }).int(k.len());
    };
    // Decay, β₁, 1 − β₁, β₂, 1 − β₂, rate, scale, ε, the gradient's factor.
    let factors = [0.999f32, 0.9, 0.1, 0.999, 0.001, 0.01, 1.5, 1e-8, 0.5];
    let adamw = |job: &mut Job| {
        for x in factors {
            job.float(x);
        }
    };

    let mut job = Job::default();
    quantiser(job.int(0));
    let mut parts = job.floats(&w).floats(&alpha).floats(&k).floats(&g).run(program)?;
    parts.floats(count)?;
    parts.halves(count)?;
    let of_w = parts.floats(count)?;
    parts.floats(count)?;
    let of_alpha = parts.floats(blocks)?;
    let mut job = Job::default();
    adamw(job.int(1));
    let mut stepped = job.int(count).floats(&w).floats(&m).floats(&v).floats(&of_w).run(program)?;

    let mut job = Job::default();
    quantiser(job.int(2));
    adamw(&mut job);
    job.floats(&w)
        .floats(&alpha)
        .floats(&k)
        .floats(&g)
        .floats(&m)
        .floats(&v)
        .floats(&alpha_m)
        .floats(&alpha_v);
    let mut whole = job.run(program)?;
    let next_w = whole.floats(count)?;
    same("w", &next_w, &stepped.floats(count)?)?;
    let next_alpha = whole.floats(blocks)?;
    for what in ["m", "v"] {
        same(what, &whole.floats(count)?, &stepped.floats(count)?)?;
    }
    let (next_m, next_v) = (whole.floats(blocks)?, whole.floats(blocks)?);
    let [_, b1, rest1, b2, rest2, rate, size, eps, factor] = factors;
    for b in 0..blocks {
        let g = of_alpha[b] * factor;
        let (m, v) = (b1 * alpha_m[b] + rest1 * g, b2 * alpha_v[b] + (rest2 * g) * g);
        ensure!(
            m == next_m[b] && v == next_v[b],
            "the moments of α of block {b} are {} and {}",
            next_m[b],
            next_v[b]
        );
        let change = f64::from(rate * m / (v.sqrt() * size + eps));
        let expected = f64::from(alpha[b]) * (-change).exp();
        close("α", &[next_alpha[b]], &[expected])?;
    }
    let mut job = Job::default();
    quantiser(job.int(0));
    let mut after = job.floats(&next_w).floats(&next_alpha).floats(&k).floats(&g).run(program)?;
    same("ŵ", &whole.floats(count)?, &after.floats(count)?)?;
    whole.finish()
}

fn norm(program: &Path, rows: usize, width: usize) -> Result<()> {
    let mut numbers = Numbers(SplitMix64(8));
    let (x, w, g) =
        (numbers.take(rows * width, 2.0), numbers.take(width, 1.0), numbers.take(rows * width, 1.0));
    let eps = 1e-6f32;
    let mut job = Job::default();
    job.int(3).int(rows).int(width).float(eps).floats(&x).floats(&w).floats(&g);
    let mut answer = job.run(program)?;
    let (mut y, mut of_x) = (Vec::new(), Vec::new());
    for (x, g) in x.chunks(width).zip(g.chunks(width)) {
        let [x, g, w] = [x, g, &w].map(|t| t.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>());
        let mean = |terms: &mut dyn Iterator<Item = f64>| terms.sum::<f64>() / width as f64;
        let scale = 1.0 / (mean(&mut x.iter().map(|x| x * x)) + f64::from(eps)).sqrt();
        let along = mean(&mut (0..width).map(|i| g[i] * w[i] * x[i]));
        y.extend((0..width).map(|i| x[i] * scale * w[i]));
        of_x.extend((0..width).map(|i| scale * g[i] * w[i] - x[i] * scale.powi(3) * along));
    }
    close("y", &answer.floats(x.len())?, &y)?;
    close("the gradient of x", &answer.floats(x.len())?, &of_x)?;
    answer.finish()
}

fn rotate(program: &Path, half: usize) -> Result<()> {
    const TOKENS: usize = 3;
    const HEADS: usize = 2;
    let mut numbers = Numbers(SplitMix64(9));
    let x = numbers.take(TOKENS * HEADS * 2 * half, 1.0);
    let angle = |i: usize| 0.3 * (i % half + 1) as f64 * (i / (2 * half)) as f64;
    let table =
        |f: fn(f64) -> f64| -> Vec<f32> { (0..TOKENS * 2 * half).map(|i| f(angle(i)) as f32).collect() };
    let mut job = Job::default();
    job.int(4).int(TOKENS).int(HEADS).int(half);
    job.floats(&x).floats(&table(f64::cos)).floats(&table(f64::sin));
    let mut answer = job.run(program)?;
    let expected: Vec<f64> = (0..x.len())
        .map(|i| {
            let (head, at) = (i / (2 * half), i % (2 * half));
            let (sin, cos) = angle(head / HEADS * 2 * half + at).sin_cos();
            let other = f64::from(x[head * 2 * half + (at + half) % (2 * half)]);
            f64::from(x[i]) * cos + if at < half { -other } else { other } * sin
        })
        .collect();
    close("the heads", &answer.floats(x.len())?, &expected)?;
    let back: Vec<f64> = x.iter().map(|&x| x.into()).collect();
    close("the heads turned back", &answer.floats(x.len())?, &back)?;
    answer.finish()
}

fn gates(program: &Path) -> Result<()> {
    const COUNT: usize = 257;
    let mut numbers = Numbers(SplitMix64(10));
    let (mut gate, up, g) = (numbers.take(COUNT, 6.0), numbers.take(COUNT, 1.0), numbers.take(COUNT, 1.0));
    (gate[0], gate[1], gate[2]) = (0.0, 90.0, -90.0);
    let mut job = Job::default();
    let mut answer = job.int(5).int(COUNT).floats(&gate).floats(&up).floats(&g).run(program)?;
    let of = |f: &dyn Fn(f64, f64, f64) -> f64| -> Vec<f64> {
        (0..COUNT).map(|i| f(gate[i].into(), up[i].into(), g[i].into())).collect()
    };
    let share = |x: f64| 1.0 / (1.0 + (-x).exp());
    close("the gated", &answer.floats(COUNT)?, &of(&|x, up, _| x * share(x) * up))?;
    let slope = |x: f64| share(x) * (1.0 + x * (1.0 - share(x)));
    close("the gradient of the gate", &answer.floats(COUNT)?, &of(&|x, up, g| g * up * slope(x)))?;
    close("the gradient of what it gates", &answer.floats(COUNT)?, &of(&|x, _, g| g * x * share(x)))?;
    answer.finish()
}

fn cross_entropy(program: &Path, rows: usize, width: usize) -> Result<()> {
    let mut numbers = Numbers(SplitMix64(11));
    let logits = numbers.take(rows * width, 20.0);
    let factor = 0.25f32;
    let mut job = Job::default();
    job.int(6).int(rows).int(width).float(factor).floats(&logits);
    // The last row has no target.
    let target = |row: usize| (row + 1 < rows).then_some(row * 5 % width);
    for row in 0..rows {
        job.int(target(row).unwrap_or(u32::MAX as usize));
    }
    let mut answer = job.run(program)?;
    let (mut log_sums, mut gradients) = (Vec::new(), Vec::new());
    for (row, logits) in logits.chunks(width).enumerate() {
        let log_sum = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        log_sums.push(log_sum);
        gradients.extend((0..width).map(|i| match target(row) {
            None => 0.0,
            Some(t) => {
                f64::from(factor) * ((f64::from(logits[i]) - log_sum).exp() - f64::from(u8::from(i == t)))
            }
        }));
    }
    close("ln Σ exp", &answer.floats(rows)?, &log_sums)?;
    close("the gradients", &answer.floats(logits.len())?, &gradients)?;
    answer.finish()
}

fn close(what: &str, got: &[f32], expected: &[f64]) -> Result<()> {
    let size = expected.iter().fold(0.0f64, |size, x| size.max(x.abs()));
    for (i, (&a, &b)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(a) - b).abs();
        ensure!(error <= ERROR * size, "{what}: number {i} is {a:e}, not {b:e}");
    }
    Ok(())
}
