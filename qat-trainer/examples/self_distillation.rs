//! Quantises the matrices of a language model and trains them, on text of any kind, towards the answers of the model as it was:
//!
//! ```text
//! cargo run --release -p qat-trainer --example self_distillation -- \
//!     MODEL OUT --text speeches.txt --bits 3 --steps 300 --threads 1
//! ```
//!
//! The model itself is the teacher: the loss is KL(teacher ‖ student) over all positions, so that the text needs no labels and
//! teaches nothing but how to be the same model with fewer bits. OUT becomes a Hugging Face folder of the dequantised weights, with
//! the codes beside them.
//! Model and teacher compute in bf16 unless `--dtype f32` is given; the weights that are learned are f32 either way.

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use qat_kernels::config::StepRule;
use qat_kernels::ste_simd::AdamW;
use qat_kernels::{Grid, Levels, QatLossWeights, SteVariant};
use qat_trainer::distill::{DistillationLoss, Divergence};
use qat_trainer::llm::{
    Decoder, DecoderQuant, LanguageModel, MatrixQuant, MomentBits, Rates, Rule, chunked_divergence,
    read_codes, read_text, write_codes,
};
use qat_trainer::spec::WeightQuant;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

#[derive(Parser)]
struct Arguments {
    /// A Hugging Face folder or GGUF file of the Llama or Qwen2 family.
    model: PathBuf,
    /// The folder to write.
    out: PathBuf,
    /// Texts to train on, in this order.
    #[arg(long, required = true)]
    text: Vec<PathBuf>,
    /// A folder that `qat llm quantize` made of the model: training begins at its codes and steps.
    #[arg(long)]
    from: Option<PathBuf>,
    /// Stop after so many updates of those that the learning rate is planned for, and write nothing: a trial.
    #[arg(long)]
    stop: Option<u32>,
    /// Bits of a weight.
    #[arg(long, default_value_t = 3)]
    bits: u8,
    /// Weights of a row that share one α.
    #[arg(long, default_value_t = 64)]
    block: usize,
    /// Weights that share one k of α·π/k: 8, 16 or 32.
    #[arg(long, default_value_t = 16)]
    group: usize,
    /// λ of EWGS; 0 is LSQ.
    #[arg(long, default_value_t = 0.0)]
    ewgs: f32,
    /// Updates.
    #[arg(long, default_value_t = 300)]
    steps: u32,
    /// Sequences in an update.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Tokens in a sequence.
    #[arg(long, default_value_t = 512)]
    window: usize,
    /// Learning rate at its peak; it rises for a twentieth of the updates and falls to a twentieth of itself as a cosine.
    #[arg(long, default_value_t = 2e-4)]
    lr: f32,
    /// That of log α.
    #[arg(long, default_value_t = 1e-3)]
    scale_lr: f32,
    /// Keep the optimiser's moments in 8 bits.
    #[arg(long)]
    eight_bit_moments: bool,
    /// Threads; all cores if not given.
    #[arg(long)]
    threads: Option<i32>,
    /// The numbers to compute with.
    #[arg(long, default_value = "bf16", value_parser = ["bf16", "f32"])]
    dtype: String,
}

/// Positions whose logits are in memory at a time: those of SmolLM2 stay in a processor's cache.
const CHUNK: usize = 32;

fn main() -> Result<()> {
    let args = Arguments::parse();
    if let Some(threads) = args.threads {
        tch::set_num_threads(threads);
    }
    let kind = if args.dtype == "f32" { Kind::Float } else { Kind::BFloat16 };
    let load = || LanguageModel::load(&args.model, kind, Device::Cpu);
    let (teacher, mut student) = (load()?, load()?);

    let mut tokens = Vec::new();
    for path in &args.text {
        tokens.extend(student.tokenizer.encode(&read_text(path)?)?.into_iter().map(i64::from));
    }
    let sequences: Vec<&[i64]> = tokens.chunks_exact(args.window).collect();
    ensure!(!sequences.is_empty(), "the texts have {} tokens, fewer than a window", tokens.len());

    let levels = Levels::new(args.bits, Grid::MidRise)?;
    let quant = WeightQuant { levels, step: StepRule::PiAdaptive { group: args.group } };
    let ste =
        if args.ewgs > 0.0 { SteVariant::Ewgs { lambda: args.ewgs } } else { SteVariant::LearnedStepSize };
    let moments = if args.eight_bit_moments { MomentBits::Eight } else { MomentBits::ThirtyTwo };
    let blocks = MatrixQuant { block: Some(args.block), ste, moments, ..MatrixQuant::new(quant) };
    let start = match &args.from {
        Some(folder) => read_codes(&folder.join("codes.safetensors"))?,
        None => BTreeMap::new(),
    };
    let bits = student.decoder.quantise_in_training_from(&DecoderQuant { blocks, tables: None }, &start)?;
    println!("{bits:.3} bits a weight, {} sequences of {} tokens", sequences.len(), args.window);

    let weights = QatLossWeights { task: 0.0, distillation: 1.0, reasoning: 0.0 };
    let loss = DistillationLoss::new(weights, 1.0, Divergence::Kl)?;
    let (began, mut mean) = (Instant::now(), None);
    for t in 1..=args.stop.unwrap_or(args.steps) {
        // Sequences far from each other, and all of them before any comes again.
        let first = (t as usize - 1) * args.batch;
        let batch =
            (first..first + args.batch).map(|i| sequences[(i * golden(sequences.len())) % sequences.len()]);
        let (value, grads) = gradients(&teacher.decoder, &student.decoder, &loss, batch)?;
        let factor = 1.0 / (args.batch as f32 * norm(&grads, args.batch)?.max(1.0));
        let rate = schedule(t, args.steps);
        let adamw = |lr| AdamW { lr: lr * rate, weight_decay: 0.0, beta2: 0.99, step: t, ..AdamW::default() };
        student
            .decoder
            .update(
                &grads,
                &Rates { weights: Rule::AdamW(adamw(args.lr)), scales: adamw(args.scale_lr), factor },
            )
            .with_context(|| format!("update {t}"))?;
        mean = Some(mean.map_or(value, |mean: f64| 0.9 * mean + 0.1 * value));
        if t % 10 == 0 || t == 1 {
            let seconds = began.elapsed().as_secs_f64();
            println!(
                "{t:>6}  KL {value:.4}  (mean {:.4})  {:.2} s an update",
                mean.unwrap_or(value),
                seconds / f64::from(t)
            );
        }
    }
    if args.stop.is_some() {
        return Ok(());
    }
    let matrices = student.decoder.freeze_quantised()?;
    student.save(&args.out)?;
    write_codes(&args.out.join("codes.safetensors"), &matrices)?;
    let about = serde_json::json!({
        "bits": bits,
        "steps": args.steps,
        "tokens": args.steps as usize * args.batch * args.window,
        "processor_seconds": qat_benches::rounds::processor_time().as_secs_f64(),
    });
    std::fs::write(args.out.join("quantisation.json"), format!("{about:#}"))?;
    println!("wrote {}", args.out.display());
    Ok(())
}

/// The mean loss of some sequences, and the sums of its gradients.
fn gradients<'a>(
    teacher: &Decoder,
    student: &Decoder,
    loss: &DistillationLoss,
    sequences: impl ExactSizeIterator<Item = &'a [i64]>,
) -> Result<(f64, Vec<Tensor>)> {
    let (count, mut value) = (sequences.len(), 0.0);
    let mut sums: Vec<Tensor> = Vec::new();
    for sequence in sequences {
        let ids = Tensor::from_slice(sequence).unsqueeze(0);
        let hidden = |decoder: &Decoder| -> Result<Tensor> { Ok(decoder.hidden(&ids)?.f_squeeze_dim(0)?) };
        let theirs = tch::no_grad(|| hidden(teacher))?;
        let ours = hidden(student)?;
        let apart = chunked_divergence(loss, (student, &ours), (teacher, &theirs), CHUNK)?;
        value += apart.double_value(&[]) / count as f64;
        let grads = Tensor::f_run_backward(&[&apart], &student.leaves(), false, false)?;
        if sums.is_empty() {
            sums = grads;
        } else {
            for (sum, grad) in sums.iter_mut().zip(&grads) {
                let _ = sum.f_add_(grad)?;
            }
        }
    }
    Ok((value, sums))
}

/// The norm of the mean gradient, given the sums of `count`.
fn norm(grads: &[Tensor], count: usize) -> Result<f32> {
    let mut square = 0.0;
    for g in grads {
        square += g.f_norm()?.f_double_value(&[])?.powi(2);
    }
    Ok((square.sqrt() / count as f64) as f32)
}

/// The share of the learning rate at update `t` of `steps`.
fn schedule(t: u32, steps: u32) -> f32 {
    let (t, steps) = (t as f32, steps as f32);
    let rising = (t / (steps / 20.0).max(1.0)).min(1.0);
    let falling = 0.05 + 0.475 * (1.0 + (std::f32::consts::PI * t / steps).cos());
    rising * falling
}

/// A step through `n` places that goes far and comes by all of them: near n over the golden ratio, without a common factor.
fn golden(n: usize) -> usize {
    let start = (n as f64 * 0.618) as usize;
    let divisor = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    (start.max(1)..).find(|&step| divisor(step, n) == 1).unwrap_or(1)
}
