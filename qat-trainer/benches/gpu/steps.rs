//! Whole training steps: forward, backward and AdamW on everything that learns, in bf16 with f32 masters.

use crate::shapes::{Shape, Weights};
use crate::timed;
use anyhow::{Result, ensure};
use qat_benches::results::Figure;
use qat_benches::rounds::median;
use qat_kernels::config::StepRule;
use qat_kernels::quantizer::StepInit;
use qat_kernels::ste_simd::AdamW;
use qat_kernels::{Grid, Levels, QatLossWeights};
use qat_trainer::autograd::{GpuMemory, empty_cache, gpu_memory, reset_peak, synchronise};
use qat_trainer::distill::{DistillationLoss, Divergence};
use qat_trainer::llm::{
    ChainOfThoughtLoss, Decoder, DecoderQuant, DecoderTeacher, Lesson, LoraMode, LoraSettings, MatrixQuant,
    Rates, Rule, Span, chunked_cross_entropy,
};
use qat_trainer::spec::WeightQuant;
use std::collections::BTreeMap;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Steps before the first that is timed.
const WARM_UP: usize = 3;

/// What is trained.
#[derive(Clone, Copy, Debug)]
enum Training {
    /// Everything as it is.
    Plain,
    /// Everything, with the matrices of the blocks quantised to so many bits and the tables to 8.
    Quantised(u8),
    /// The same, with a frozen teacher of the same shape.
    Distilled(u8),
    /// Adapters on matrices of 2 bits, activations computed twice.
    Adapted(LoraMode),
}

/// Name, training, and the goals for a step's milliseconds and for the memory in 10⁹ bytes.
const TRAININGS: [(&str, Training, Option<f64>, Option<f64>); 6] = [
    ("plain", Training::Plain, None, None),
    ("full", Training::Quantised(2), Some(40.0), None),
    ("full_3bit", Training::Quantised(3), Some(40.0), None),
    ("distilled", Training::Distilled(2), None, None),
    ("lora_packed", Training::Adapted(LoraMode::Packed), None, Some(1.1)),
    ("lora_merged", Training::Adapted(LoraMode::Merged), None, Some(1.75)),
];

pub(crate) fn run(
    shape: &Shape,
    device: Device,
    rounds: usize,
    chosen: &dyn Fn(&str) -> bool,
    parts: bool,
) -> Result<Vec<Figure>> {
    let case = |name: &str| format!("{}_{name}", shape.case);
    let trainings: Vec<_> = TRAININGS.iter().filter(|(name, ..)| chosen(&case(name))).collect();
    if trainings.is_empty() {
        return Ok(Vec::new());
    }
    let weights = Weights::generated(&shape.config, 1)?;
    let mut figures = Vec::new();
    for (name, training, ms_goal, gb_goal) in trainings {
        let mut trained = Trained::new(*training, shape, &weights, device)?;
        let (first, last, times) = trained.train(shape, device, rounds)?;
        ensure!(last < first, "{name}: the loss goes from {first} to {last}");
        let ms = 1e3 * median(times);
        let figure = |metric, value: String, unit, goal: Option<f64>| {
            let figure = Figure::new(case(name), metric, value, unit);
            goal.iter().fold(figure, |figure, goal| figure.with_goal(goal.to_string()))
        };
        figures.push(figure("step_ms", format!("{ms:.2}"), "ms", *ms_goal));
        let mut memory = String::new();
        if let Some(GpuMemory { peak, reserved, .. }) = gpu_memory(device)? {
            let gb = |bytes: u64| format!("{:.3}", bytes as f64 / 1e9);
            figures.push(figure("peak_gb", gb(peak), "GB", *gb_goal));
            figures.push(figure("reserved_gb", gb(reserved), "GB", None));
            memory = format!(", {} GB of tensors at most, {} reserved", gb(peak), gb(reserved));
        }
        println!("{:<24} {ms:9.2} ms a step{memory}; loss {first:.3} to {last:.3}", case(name));
        if parts {
            trained.parts(shape, device, rounds)?;
        }
        drop(trained);
        empty_cache(device)?;
    }
    Ok(figures)
}

struct Trained {
    decoder: Decoder,
    teacher: Option<DecoderTeacher>,
    /// Positions whose logits are in memory at a time.
    chunk: usize,
    lr: f32,
}

impl Trained {
    fn new(training: Training, shape: &Shape, weights: &Weights, device: Device) -> Result<Self> {
        let plain = || weights.decoder(&shape.config, Kind::BFloat16, device);
        let mut decoder = plain()?;
        let (mut teacher, mut chunk, mut lr) = (None, (shape.batch * shape.time) as usize, 1e-4);
        match training {
            Training::Plain => decoder.learn()?,
            Training::Quantised(bits) => quantise(&mut decoder, bits)?,
            Training::Distilled(bits) => {
                let weights = QatLossWeights { task: 0.5, distillation: 0.5, reasoning: 0.0 };
                let loss = DistillationLoss::new(weights, 1.0, Divergence::Kl)?;
                let reasoning = ChainOfThoughtLoss { steps: 0.0, trajectory: 0.0, answer: 0.0 };
                teacher = Some(DecoderTeacher::new(plain()?, &decoder, loss, reasoning)?);
                chunk /= 4;
                quantise(&mut decoder, bits)?;
            }
            Training::Adapted(mode) => {
                let settings = LoraSettings { rank: shape.rank, ..LoraSettings::new(mode, quant(2)?) };
                decoder.adapt(&settings, None)?;
                decoder.set_recompute(true);
                (chunk, lr) = (shape.chunk, 1e-3);
            }
        }
        Ok(Self { decoder, teacher, chunk, lr })
    }

    /// The losses of the first and the last step, and the seconds of those that are timed.
    fn train(&mut self, shape: &Shape, device: Device, rounds: usize) -> Result<(f64, f64, Vec<f64>)> {
        let (tokens, targets) = shape.tokens(device)?;
        let (mut losses, mut times) = (Vec::new(), Vec::new());
        empty_cache(device)?;
        reset_peak(device)?;
        for t in 1..=WARM_UP + rounds {
            let mut loss = f64::NAN;
            let seconds = timed(device, || {
                loss = self.step(t as u32, &tokens, &targets, &mut |_| Ok(()))?;
                Ok(())
            })?;
            ensure!(loss.is_finite(), "step {t}: the loss is {loss}");
            losses.push(loss);
            if t > WARM_UP {
                times.push(seconds);
            }
        }
        Ok((losses[0], losses[losses.len() - 1], times))
    }

    /// Prints where the time of a step goes: of each part, milliseconds until the device has been told what to do, and until it
    /// has done it. Where the first come close to the second, the device waits for the processor.
    fn parts(&mut self, shape: &Shape, device: Device, rounds: usize) -> Result<()> {
        let (tokens, targets) = shape.tokens(device)?;
        let mut parts: BTreeMap<&str, [Vec<f64>; 2]> = BTreeMap::new();
        for t in 1..=rounds {
            synchronise(device)?;
            let mut began = Instant::now();
            self.step((WARM_UP + rounds + t) as u32, &tokens, &targets, &mut |part| {
                let told = began.elapsed().as_secs_f64();
                synchronise(device)?;
                let [all_told, all_done] = parts.entry(part).or_default();
                all_told.push(1e3 * told);
                all_done.push(1e3 * began.elapsed().as_secs_f64());
                began = Instant::now();
                Ok(())
            })?;
        }
        for (part, [told, done]) in parts {
            println!("    {part:<9} told in {:7.2} ms, done in {:7.2} ms", median(told), median(done));
        }
        Ok(())
    }

    fn step(
        &mut self,
        t: u32,
        tokens: &Tensor,
        targets: &Tensor,
        mark: &mut dyn FnMut(&'static str) -> Result<()>,
    ) -> Result<f64> {
        let (loss, grads) = {
            let loss = match &self.teacher {
                Some(teacher) => {
                    let spans = vec![Span::Plain; targets.numel()];
                    let lesson = Lesson { tokens, targets, spans: &spans, chunk: self.chunk };
                    teacher.loss(&self.decoder, &lesson)?
                }
                None => {
                    let hidden = self.decoder.hidden(tokens)?.f_flatten(0, 1)?;
                    mark("blocks")?;
                    chunked_cross_entropy(&self.decoder, &hidden, targets, self.chunk)?
                }
            };
            mark("loss")?;
            let grads = Tensor::f_run_backward(&[&loss], &self.decoder.leaves(), false, false)?;
            (loss.f_detach()?, grads)
        };
        mark("backward")?;
        let adamw = AdamW { lr: self.lr, weight_decay: 0.0, step: t, ..AdamW::default() };
        let rates = Rates { weights: Rule::AdamW(adamw), scales: adamw, factor: 1.0 };
        self.decoder.update(&grads, &rates)?;
        mark("update")?;
        Ok(loss.f_double_value(&[])?)
    }
}

fn quantise(decoder: &mut Decoder, bits: u8) -> Result<()> {
    let how = DecoderQuant { blocks: quant(bits)?, tables: Some(quant(8)?) };
    decoder.quantise_in_training(&how)?;
    Ok(decoder.learn()?)
}

/// Steps of α·π/3 per row, learned, from a start that needs no search.
fn quant(bits: u8) -> Result<MatrixQuant> {
    let levels = Levels::new(bits, Grid::MidRise)?;
    let quant = WeightQuant { levels, step: StepRule::Pi { k: 3 } };
    Ok(MatrixQuant { init: StepInit::Octav, ..MatrixQuant::new(quant) })
}
