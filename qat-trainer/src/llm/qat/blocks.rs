//! The steps of a matrix: α of every block of a row, k of every group of a block, and the Δ they make.

use super::MatrixQuant;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::quantised::QuantisedMatrix;
use crate::nn::state;
use crate::nn::weights::{fit, steps, steps_per_channel};
use qat_kernels::config::StepRule;
use qat_kernels::quantizer::{F16, choose_divisors};
use qat_kernels::{Levels, ste_simd};
use rayon::prelude::*;

/// Parts of the state of a training.
const ALPHA: &str = "alpha";
const DIVISORS: &str = "divisors";

/// The steps of a matrix. A block is what a channel is to other networks: it has an α of its own.
#[derive(Clone, Debug)]
pub(in crate::llm) struct Blocks {
    pub(in crate::llm) quant: MatrixQuant,
    /// Weights in a block.
    pub(in crate::llm) len: usize,
    /// α of each block (s of uniform steps), row by row.
    pub(in crate::llm) alpha: Vec<f32>,
    /// k of each group, block by block; empty without groups.
    pub(in crate::llm) divisors: Vec<u8>,
    /// Δ of each group, or of each block without groups.
    pub(in crate::llm) steps: Vec<f32>,
}

impl Blocks {
    /// Steps fitted to the weights `w` in rows of `row`, block by block. `importance`, one number ≥ 0 a weight, weights the
    /// errors.
    pub(in crate::llm) fn fitted(
        quant: MatrixQuant,
        w: &[f32],
        row: usize,
        importance: Option<&[f32]>,
    ) -> Result<Self> {
        let len = quant.blocks().block(row)?;
        let (alpha, divisors) = fit(quant.quant, quant.init, w, len, importance)?;
        Self::with(quant, row, alpha, divisors)
    }

    /// Steps of given α and k.
    pub(in crate::llm) fn with(
        quant: MatrixQuant,
        row: usize,
        alpha: Vec<f32>,
        divisors: Vec<u8>,
    ) -> Result<Self> {
        let len = quant.blocks().block(row)?;
        let count = alpha.len() * steps_per_channel(quant.quant.step, len);
        let wanted = if matches!(quant.quant.step, StepRule::PiAdaptive { .. }) { count } else { 0 };
        if alpha.is_empty() || divisors.len() != wanted {
            let problem = format!("{} divisors for {} blocks of {len} weights", divisors.len(), alpha.len());
            return Err(Error::new(ErrorKind::Model, problem));
        }
        let mut this = Self { quant, len, alpha, divisors, steps: vec![0.0; count] };
        this.refresh()?;
        Ok(this)
    }

    /// Those of a quantised form of the weights `w`, which are moved to where they round to its codes: a share [`HOLD`] of the way
    /// from each weight's level to the weight, or to the border of the level's cell if it lies beyond. Bits, grid, steps and blocks
    /// are those of `start`, whatever `quant` says of them.
    pub(in crate::llm) fn at_codes(
        quant: MatrixQuant,
        w: &mut [f32],
        row: usize,
        start: &QuantisedMatrix,
    ) -> Result<Self> {
        if (w.len(), row) != (start.codes().len(), start.columns()) {
            let problem = format!(
                "codes of {} by {} for a matrix of {} by {row}",
                start.rows(),
                start.columns(),
                w.len() / row.max(1)
            );
            return Err(Error::new(ErrorKind::Model, problem));
        }
        let how = start.how();
        let quant = MatrixQuant { quant: how.quant, block: how.block, ..quant };
        let alpha = start.scales().iter().map(|scale| scale.to_f32()).collect();
        let this = Self::with(quant, row, alpha, start.divisors().to_vec())?;
        let per_step = (w.len() / this.steps.len().max(1)).max(1);
        for ((w, codes), &step) in w.chunks_mut(per_step).zip(start.codes().chunks(per_step)).zip(&this.steps)
        {
            w.iter_mut().zip(codes).for_each(|(w, &code)| *w = hold(quant.quant.levels, *w, code, step));
        }
        Ok(this)
    }

    /// The codes of `w` in rows of `row`, with α rounded to binary16.
    pub(in crate::llm) fn quantised(&self, w: &[f32], row: usize) -> Result<QuantisedMatrix> {
        let mut codes = vec![0; w.len()];
        ste_simd::quantize(self.quant.quant.levels, &self.steps, w, &mut codes)?;
        let scales = self.alpha.iter().map(|&alpha| F16::from_scale(alpha)).collect();
        QuantisedMatrix::new(self.quant.blocks(), row, codes, scales, self.divisors.clone())
    }

    /// Steps of a block.
    pub(in crate::llm) fn per_block(&self) -> usize {
        self.steps.len() / self.alpha.len()
    }

    /// Steps from α and k.
    pub(in crate::llm) fn refresh(&mut self) -> Result<()> {
        let per = self.per_block();
        for (b, (out, &alpha)) in self.steps.chunks_mut(per).zip(&self.alpha).enumerate() {
            let divisors = self.divisors.get(b * per..(b + 1) * per).unwrap_or(&[]);
            steps(self.quant.quant.step, alpha, divisors, out)?;
        }
        Ok(())
    }

    /// Whether k is to be chosen anew after the update of this number.
    pub(in crate::llm) fn choose_after(&self, update: u32) -> bool {
        !self.divisors.is_empty()
            && self.quant.choose_every > 0
            && update.is_multiple_of(self.quant.choose_every)
    }

    /// Chooses k of every group anew, for the least squared error of `w` with α as it is.
    pub(in crate::llm) fn choose(&mut self, w: &[f32]) -> Result<()> {
        let StepRule::PiAdaptive { group } = self.quant.quant.step else { return Ok(()) };
        let (per, levels) = (self.per_block(), self.quant.quant.levels);
        let blocks = self.divisors.par_chunks_mut(per).zip(w.par_chunks(self.len)).zip(&self.alpha);
        blocks.try_for_each(|((divisors, w), &alpha)| {
            choose_divisors(levels, group, alpha, w, None, divisors)
        })?;
        self.refresh()
    }

    pub(in crate::llm) fn save(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        state::put(to, name, ALPHA, &self.alpha)?;
        let divisors: Vec<f32> = self.divisors.iter().map(|&k| k.into()).collect();
        state::put(to, name, DIVISORS, &divisors)
    }

    pub(in crate::llm) fn load(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        self.alpha = state::get(from, name, ALPHA, self.alpha.len())?;
        let divisors = state::get(from, name, DIVISORS, self.divisors.len())?;
        self.divisors = divisors.iter().map(|&k| k as u8).collect();
        self.refresh().map_err(|e| {
            Error::new(ErrorKind::Checkpoint, e.to_string()).place(format!("tensor `{name}.{ALPHA}`"))
        })
    }
}

/// How far from its level, towards the weight it stands for, a weight begins that is given a code. At the level nothing would be
/// left of the weight; at the border of the cell the first, noisy updates would undo what the codes are better by than those
/// of rounding. Other shares were not compared.
const HOLD: f32 = 0.5;

fn hold(levels: Levels, w: f32, code: i8, step: f32) -> f32 {
    let level = levels.level(code.into());
    let (at, low, high) = (level * step, (level - 0.5) * step, (level + 0.5) * step);
    at + HOLD * (w.clamp(low, high) - at)
}
