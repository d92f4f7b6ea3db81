//! The arithmetic of the CUDA kernels, compiled for the CPU from their own source, equals that of qat-kernels bit for bit. Only
//! sums over a block are added up in another order.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use qat_benches::numbers::SplitMix64;
use qat_kernels::config::StepRule;
use qat_kernels::pack::{pack, packed_len};
use qat_kernels::ste::{lsq_gradient_scale, lsq_step_gradient};
use qat_kernels::ste_simd::{self, AdamW};
use qat_kernels::{Grid, Levels, LsqMask, SteVariant, pi_step};

use crate::cmd::{root, run as run_command, target_dir};

/// Blocks of weights, weights of a block, and of a group where steps have groups.
const SHAPES: [(usize, usize, Option<usize>); 5] =
    [(9, 48, Some(8)), (3, 1184, Some(16)), (7, 5, None), (2, 1027, None), (1, 36, Some(6))];
/// Largest error of a sum, relative to the sum of its terms' magnitudes.
const SUM_ERROR: f64 = 1e-6;

/// Returns how many quantisers, packed matrices and updates were compared.
pub(crate) fn check() -> Result<u64> {
    let program = build()?;
    let mut checked = 0;
    for case in cases(&[2, 3, 4, 8])? {
        for ste in [
            SteVariant::Standard,
            SteVariant::Clipped { clip_val: 0.4 },
            SteVariant::LearnedStepSize,
            SteVariant::Ewgs { lambda: 0.2 },
        ] {
            let case = Case { ste, ..case };
            case.check(&program).with_context(|| format!("{case:?}"))?;
            checked += 1;
        }
    }
    for case in cases(&[2, 3, 4, 5, 6, 7, 8])? {
        case.check_packed(&program).with_context(|| format!("packed codes of {case:?}"))?;
        checked += 1;
    }
    for step in [1, 2, 1000] {
        adamw(&program, &AdamW { lr: 3e-3, weight_decay: 0.1, step, ..AdamW::default() })?;
        checked += 1;
    }
    Ok(checked + super::pieces::check(&program)?)
}

/// Blocks of every shape, with every grid of so many bits and every rule of steps.
fn cases(bits: &[u8]) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (blocks, length, group) in SHAPES {
        for &bits in bits {
            for grid in [Grid::MidTread, Grid::MidRise] {
                let levels = Levels::new(bits, grid)?;
                let adaptive = group.map(|group| StepRule::PiAdaptive { group });
                let rules = [StepRule::Uniform, StepRule::Pi { k: 3 }].into_iter().chain(adaptive);
                let ste = SteVariant::Standard;
                cases.extend(rules.map(|rule| Case { blocks, length, levels, rule, ste }));
            }
        }
    }
    Ok(cases)
}

fn build() -> Result<PathBuf> {
    let program = target_dir()?.join("cuda-arithmetic");
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let source = root().join("qat-trainer/cuda/host.cpp");
    // As on the GPU, nothing is fused that is written as two operations.
    run_command(
        Command::new(compiler)
            .args([
                "-std=c++17",
                "-O1",
                "-ffp-contract=off",
                "-Wall",
                "-Wno-unknown-pragmas",
                "-Werror",
                "-o",
            ])
            .args([&program, &source]),
    )?;
    Ok(program)
}

#[derive(Clone, Copy, Debug)]
struct Case {
    blocks: usize,
    length: usize,
    levels: Levels,
    rule: StepRule,
    ste: SteVariant,
}

impl Case {
    fn check(&self, program: &Path) -> Result<()> {
        let &Self { blocks, length, levels, ste, .. } = self;
        let mut normal = self.numbers();
        let Steps { alpha, k, steps } = self.steps(&mut normal)?;
        let per_step = blocks * length / steps.len();
        // Multiples of a quarter of the step are borders, levels and ties.
        let w: Vec<f32> = (0..blocks * length)
            .map(|i| match i % 4 {
                0 => steps[i / per_step] * ((i / 4 % 41) as f32 - 20.0) / 4.0,
                _ if i % 97 == 1 => [0.0, -0.0, 1e30, -1e30, 1e-40][i / 97 % 5],
                _ => normal(),
            })
            .collect();
        // With the precision of bf16, so that both kinds of gradients are the same numbers.
        let g: Vec<f32> = w.iter().map(|_| f32::from_bits(normal().to_bits() & 0xffff_0000)).collect();

        let mut w_hat = vec![0.0; w.len()];
        ste_simd::fake_quantize(levels, &steps, &w, &mut w_hat)?;
        let (mut of_w, mut sums) = (vec![0.0; w.len()], vec![0.0; steps.len()]);
        ste_simd::backward(ste, levels, LsqMask::Exact, &steps, &w, &g, &mut of_w, &mut sums)?;

        let (estimator, parameter) = match ste {
            SteVariant::Standard => (0, 0.0),
            SteVariant::Clipped { clip_val } => (1, clip_val),
            SteVariant::LearnedStepSize => (2, 0.0),
            SteVariant::Ewgs { lambda } => (3, lambda),
        };
        let scale = lsq_gradient_scale(length, levels);
        let mut job = Job::default();
        self.describe(job.int(0), estimator, parameter, scale).int(k.len());
        job.floats(&w).floats(&alpha).floats(&k).floats(&g);
        let mut answer = job.run(program)?;

        same("ŵ", &answer.floats(w.len())?, &w_hat)?;
        let halves: Vec<f32> = w_hat.iter().map(|&x| to_bf16(x)).collect();
        same("ŵ in bf16", &answer.halves(w.len())?, &halves)?;
        same("the gradient of w", &answer.floats(w.len())?, &of_w)?;
        same("the gradient of w, given bf16", &answer.floats(w.len())?, &of_w)?;
        for (b, of_log_alpha) in answer.floats(blocks)?.into_iter().enumerate() {
            let (mut sum, mut size) = (0.0, 0.0);
            for i in b * length..(b + 1) * length {
                let step = steps[i / per_step];
                let term = lsq_step_gradient(w[i], step, levels, LsqMask::Exact, g[i]);
                let term = f64::from(term) * f64::from(step) * f64::from(scale);
                (sum, size) = (sum + term, size + term.abs());
            }
            let error = (f64::from(of_log_alpha) - sum).abs();
            ensure!(
                error <= SUM_ERROR * size,
                "block {b}: the gradient of log α is {of_log_alpha}, not {sum}"
            );
        }
        answer.finish()
    }

    /// Weights of packed codes.
    fn check_packed(&self, program: &Path) -> Result<()> {
        let &Self { blocks, length, levels, .. } = self;
        let mut normal = self.numbers();
        let Steps { alpha, k, steps } = self.steps(&mut normal)?;
        let row = if blocks % 3 == 0 { 3 * length } else { length };
        let span = levels.hi() - levels.lo() + 1;
        // All of them, in an order that does not repeat with the rows.
        let codes: Vec<i8> =
            (0..(blocks * length) as i32).map(|i| (levels.lo() + (i + i / 7) % span) as i8).collect();
        let mut packed = vec![0; packed_len(row, levels.bits()) * codes.len() / row];
        for (codes, packed) in codes.chunks(row).zip(packed.chunks_mut(packed_len(row, levels.bits()))) {
            pack(levels.bits(), codes, packed)?;
        }
        let mut weights = vec![0.0; codes.len()];
        ste_simd::dequantize(levels, &steps, &codes, &mut weights)?;

        let mut job = Job::default();
        self.describe(job.int(7), 0, 0.0, 1.0).int(k.len()).int(levels.bits().into()).int(row);
        job.floats(&alpha).floats(&k).bytes(&packed);
        let mut answer = job.run(program)?;
        same("the weights", &answer.floats(codes.len())?, &weights)?;
        let halves: Vec<f32> = weights.iter().map(|&x| to_bf16(x)).collect();
        same("the weights in bf16", &answer.halves(codes.len())?, &halves)?;
        answer.finish()
    }

    /// Numbers with the variance of a half, the same ones for all quantisers of as many bits.
    fn numbers(&self) -> impl FnMut() -> f32 + use<> {
        let mut random = SplitMix64(self.levels.bits().into());
        move || {
            let uniform = |bits: u64| (bits >> 40) as f32 / (1 << 24) as f32;
            (0..6).map(|_| uniform(random.bits()) - 0.5).sum::<f32>()
        }
    }

    /// Weights that share a step.
    fn group(&self) -> usize {
        if let StepRule::PiAdaptive { group } = self.rule { group } else { self.length }
    }

    fn steps(&self, normal: &mut impl FnMut() -> f32) -> Result<Steps> {
        let &Self { blocks, length, rule, .. } = self;
        let group = self.group();
        let mut alpha: Vec<f32> = (0..blocks).map(|_| 0.1 + normal().abs()).collect();
        // Its multiples by powers of 2 lie in the middle between two numbers of bf16.
        alpha[0] = 1.0 + 1.0 / 256.0;
        let k: Vec<u8> = match rule {
            StepRule::PiAdaptive { .. } => (0..blocks * length / group).map(|i| 2 + (i % 4) as u8).collect(),
            _ => Vec::new(),
        };
        let steps: Vec<f32> = match rule {
            StepRule::Uniform => alpha.clone(),
            StepRule::Pi { k } => alpha.iter().map(|&a| pi_step(a, k)).collect::<Result<_, _>>()?,
            StepRule::PiAdaptive { .. } => {
                let of = |(i, &k): (usize, &u8)| pi_step(alpha[i * group / length], k);
                k.iter().enumerate().map(of).collect::<Result<_, _>>()?
            }
        };
        let k = k.iter().map(|&k| k.into()).collect();
        Ok(Steps { alpha, k, steps })
    }

    /// Adds the source's `Quantiser` to a job.
    fn describe<'a>(&self, job: &'a mut Job, estimator: usize, parameter: f32, scale: f32) -> &'a mut Job {
        let &Self { blocks, length, levels, rule, .. } = self;
        let (rule, divisor) = match rule {
            StepRule::Uniform => (0, 1.0),
            StepRule::Pi { k } => (1, f32::from(k)),
            StepRule::PiAdaptive { .. } => (2, 1.0),
        };
        job.float(levels.lo() as f32).float(levels.hi() as f32).float(levels.grid().offset());
        job.int(estimator).float(parameter).float(scale).int(rule).float(divisor);
        job.int(length).int(blocks).int(self.group()).int(if length >= 512 { 256 } else { 32 })
    }
}

/// α of each block, k of each group, and the steps they make.
struct Steps {
    alpha: Vec<f32>,
    k: Vec<f32>,
    steps: Vec<f32>,
}

fn adamw(program: &Path, adamw: &AdamW) -> Result<()> {
    const COUNT: usize = 4096;
    let mut random = SplitMix64(3);
    let mut numbers = |size: f32| -> Vec<f32> {
        (0..COUNT).map(|_| size * ((random.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0)).collect()
    };
    let (mut w, mut g, mut m) = (numbers(1.0), numbers(0.1), numbers(0.01));
    let mut v: Vec<f32> = numbers(0.03).iter().map(|x| x * x).collect();
    // Moments that become too small, and gradients of zero.
    (g[0], g[1], m[1], v[1]) = (0.0, 0.0, 1.2e-38, 1.18e-38);
    let (lr, b1, b2) = (f64::from(adamw.lr), f64::from(adamw.beta1), f64::from(adamw.beta2));
    let power = |b: f64| b.powi(adamw.step as i32);
    let mut job = Job::default();
    job.int(1).float((1.0 - lr * f64::from(adamw.weight_decay)) as f32);
    job.float(adamw.beta1).float((1.0 - b1) as f32).float(adamw.beta2).float((1.0 - b2) as f32);
    job.float((lr / (1.0 - power(b1))) as f32).float((1.0 / (1.0 - power(b2)).sqrt()) as f32);
    job.float(adamw.eps).float(1.0).int(COUNT).floats(&w).floats(&m).floats(&v).floats(&g);
    let mut answer = job.run(program)?;

    // The standard estimator passes gradients on as they are.
    let (levels, steps) = (Levels::new(8, Grid::MidTread)?, [1.0]);
    let mut w_hat = vec![0.0; COUNT];
    ste_simd::fused_adamw(
        SteVariant::Standard,
        levels,
        LsqMask::Exact,
        &steps,
        &steps,
        adamw,
        &mut w,
        &g,
        &mut m,
        &mut v,
        &mut w_hat,
        &mut [],
    )?;
    for (what, expected) in [("w", &w), ("m", &m), ("v", &v)] {
        same(what, &answer.floats(COUNT)?, expected)?;
    }
    answer.finish()
}

/// Rounded to bf16, ties to even.
fn to_bf16(x: f32) -> f32 {
    let bits = u64::from(x.to_bits());
    f32::from_bits(((bits + 0x7fff + (bits >> 16 & 1)) as u32) & 0xffff_0000)
}

pub(super) fn same(what: &str, got: &[f32], expected: &[f32]) -> Result<()> {
    let differ = |(_, (a, b)): &(usize, (&f32, &f32))| a.to_bits() != b.to_bits();
    match got.iter().zip(expected).enumerate().find(differ) {
        Some((i, (a, b))) => bail!("{what}: number {i} is {a:e}, not {b:e}"),
        None => Ok(()),
    }
}

/// What the program reads.
#[derive(Default)]
pub(super) struct Job(Vec<u8>);

impl Job {
    pub(super) fn int(&mut self, x: usize) -> &mut Self {
        self.0.extend((x as u32).to_ne_bytes());
        self
    }

    pub(super) fn float(&mut self, x: f32) -> &mut Self {
        self.0.extend(x.to_ne_bytes());
        self
    }

    pub(super) fn floats(&mut self, x: &[f32]) -> &mut Self {
        x.iter().for_each(|&x| {
            self.float(x);
        });
        self
    }

    fn bytes(&mut self, x: &[u8]) {
        self.0.extend(x);
    }

    pub(super) fn run(&self, program: &Path) -> Result<Answer> {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the program")?;
        // It reads all before it writes anything.
        child.stdin.take().context("no way in")?.write_all(&self.0)?;
        let outcome = child.wait_with_output()?;
        ensure!(outcome.status.success(), "the program failed ({})", outcome.status);
        Ok(Answer { bytes: outcome.stdout, at: 0 })
    }
}

/// What it writes.
pub(super) struct Answer {
    bytes: Vec<u8>,
    at: usize,
}

impl Answer {
    fn take<const N: usize>(&mut self, count: usize) -> Result<impl Iterator<Item = [u8; N]>> {
        let taken = self.bytes.get(self.at..self.at + N * count).context("the answer is too short")?;
        self.at += N * count;
        Ok(taken.as_chunks::<N>().0.iter().copied())
    }

    pub(super) fn floats(&mut self, count: usize) -> Result<Vec<f32>> {
        Ok(self.take(count)?.map(f32::from_ne_bytes).collect())
    }

    pub(super) fn halves(&mut self, count: usize) -> Result<Vec<f32>> {
        let wide = |half| f32::from_bits(u32::from(u16::from_ne_bytes(half)) << 16);
        Ok(self.take(count)?.map(wide).collect())
    }

    pub(super) fn finish(self) -> Result<()> {
        ensure!(self.at == self.bytes.len(), "the answer is too long");
        Ok(())
    }
}
