//! One block of a Qwen2-0.5B-shaped decoder (hidden 896, 14 query and 2 key-value heads of 64, feed-forward 4864; 14.9 million
//! weights) on 2 × 128 tokens: a whole step of training with its matrices quantised over one without.
//!
//! A step is forward, backward, and AdamW on everything, in f32. Both decoders take their steps in turn; the ratio is the
//! median over the rounds of the quotient of their times.

use anyhow::Result;
use qat_benches::rounds::{median, run};
use qat_kernels::config::StepRule;
use qat_kernels::ste_simd::AdamW;
use qat_kernels::{Grid, Levels, SteVariant};
use qat_trainer::llm::config::{Architecture, LlmConfig, RopeScaling};
use qat_trainer::llm::{Decoder, DecoderQuant, MatrixQuant, Rates, Rule};
use qat_trainer::spec::WeightQuant;
use tch::{Kind, Tensor};

const ROUNDS: usize = 15;
const BATCH: i64 = 2;
const TIME: i64 = 128;
const VOCABULARY: usize = 256;

/// How the matrices are quantised: the name of the metric, and the quantiser.
fn schemes() -> Result<[(&'static str, MatrixQuant); 3]> {
    let quant = |bits, step, block| -> Result<MatrixQuant> {
        let levels = Levels::new(bits, Grid::MidRise)?;
        Ok(MatrixQuant { block, ..MatrixQuant::new(WeightQuant { levels, step }) })
    };
    let adaptive = quant(3, StepRule::PiAdaptive { group: 16 }, Some(64))?;
    Ok([
        // As the other networks of this benchmark: 2 bits, a step per row.
        ("qat_over_fp32", quant(2, StepRule::Pi { k: 3 }, None)?),
        ("qat_over_fp32_adaptive", adaptive),
        ("qat_over_fp32_adaptive_ewgs", MatrixQuant { ste: SteVariant::Ewgs { lambda: 0.1 }, ..adaptive }),
    ])
}

/// The ratio of each scheme, with the name of its metric.
pub(crate) fn measure() -> Result<Vec<(&'static str, f64)>> {
    let config = LlmConfig {
        architecture: Architecture::Qwen2,
        vocabulary: VOCABULARY,
        hidden: 896,
        layers: 1,
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        mlp: 4864,
        context: TIME as usize,
        rope_base: 1e6,
        rope_scaling: RopeScaling::None,
        norm_eps: 1e-6,
        tied: true,
        qkv_bias: true,
        output_bias: false,
    };
    let schemes = schemes()?;
    let mut contestants = vec![Contestant::new(Decoder::generated(&config, 1)?)?];
    for (_, blocks) in &schemes {
        let mut decoder = Decoder::generated(&config, 1)?;
        decoder.quantise_in_training(&DecoderQuant { blocks: *blocks, tables: None })?;
        contestants.push(Contestant::new(decoder)?);
    }
    let ids: Vec<i64> = (0..BATCH * TIME).map(|i| i * 37 % VOCABULARY as i64).collect();
    let ids = Tensor::from_slice(&ids).view([BATCH, TIME]);
    let times = run(contestants.len(), ROUNDS, |i| contestants[i].step(&ids))?;
    let plain = &times[0];
    println!("qwen_block   a plain step takes {:.1} ms", 1e3 * median(plain.clone()));
    let ratio = |quantised: &Vec<f64>| qat_benches::rounds::median_ratio(quantised, plain);
    Ok(schemes.iter().zip(&times[1..]).map(|((name, _), times)| (*name, ratio(times))).collect())
}

/// A decoder that learns.
struct Contestant {
    decoder: Decoder,
    steps: u32,
}

impl Contestant {
    fn new(mut decoder: Decoder) -> Result<Self> {
        decoder.learn()?;
        Ok(Self { decoder, steps: 0 })
    }

    fn step(&mut self, ids: &Tensor) -> Result<()> {
        self.steps += 1;
        let adamw = AdamW { lr: 1e-4, step: self.steps, ..AdamW::default() };
        let grads = {
            let loss = self.decoder.hidden(ids)?.f_square()?.f_mean(Kind::Float)?;
            Tensor::f_run_backward(&[&loss], &self.decoder.leaves(), false, false)?
        };
        let rates = Rates { weights: Rule::AdamW(adamw), scales: adamw, factor: 1.0 };
        Ok(self.decoder.update(&grads, &rates)?)
    }
}
