//! Fake-quantised matrices whose weights stay outside of torch.
//!
//! The network computes with ŵ, a leaf tensor that lives as long as the matrix. After a backward pass torch holds ∂L/∂ŵ, and
//! one pass over memory makes of it the estimator's gradients of w and α, the step of the optimiser and the next ŵ, see
//! `crate::nn::weights`. A forward pass costs nothing beyond that of a dense matrix, also when it is computed twice.

use super::{Blocks, MatrixQuant};
use crate::autograd::{slice, slice_mut};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::learned::Weight;
use crate::llm::linear::Linear;
use crate::llm::optimiser::{Part, Store};
use crate::llm::quantised::QuantisedMatrix;
use crate::nn::weights::{Scratch, Shared, Unit, diverged};
use crate::nn::{Moments, Rates, UNIT, Update, in_units, leaf};
use qat_kernels::ste::lsq_gradient_scale;
use qat_kernels::ste_simd;
use tch::{Device, Kind, Tensor};

/// A quantised matrix in training, on the CPU. The weights it learns are f32 whatever the decoder's kind.
#[derive(Debug)]
pub struct FakeQuantised {
    w_hat: Tensor,
    bias: Option<Bias>,
    w: Vec<f32>,
    blocks: Blocks,
    store: Store,
    alpha_moments: Moments,
    /// That of the matrix it began as.
    kind: Kind,
}

#[derive(Debug)]
enum Bias {
    Fixed(Tensor),
    Learned(Weight),
}

impl FakeQuantised {
    /// Begins at W, `[out, in]`, with fitted steps; `importance`, one number ≥ 0 a weight, weights the errors of the fit. The
    /// bias is learned if W is f32, and stays as it is otherwise.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] for blocks or groups that do not divide the row; [`ErrorKind::Model`] for weights that are not finite;
    /// [`ErrorKind::Train`] for a matrix that is not on the CPU.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::MatrixQuant, spec::WeightQuant};
    /// use qat_trainer::llm::{FakeQuantised, Linear};
    /// use tch::Tensor;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant::new(quant);
    /// let w = Tensor::from_slice(&[0.25f32, -0.75, 0.75, -0.25]).view([1, 4]);
    /// let matrix = FakeQuantised::new(&w, Some(&Tensor::from_slice(&[1f32])), quant, None)?;
    /// assert!(matrix.weight()?.equal(&w)); // ±½ and ±1½ steps: fitted without an error
    /// assert_eq!(matrix.leaves().len(), 2); // ŵ, and the bias, since W is f32
    /// let e = FakeQuantised::new(&(&w / 0.0), None, quant, None).unwrap_err();
    /// assert_eq!(e.kind(), qat_trainer::ErrorKind::Model); // infinite weights
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn new(
        weight: &Tensor,
        bias: Option<&Tensor>,
        quant: MatrixQuant,
        importance: Option<&[f32]>,
    ) -> Result<Self> {
        let (_, row) = weight.size2()?;
        let plain = plain(weight)?;
        let w = slice(&plain)?;
        let blocks = Blocks::fitted(quant, w, row as usize, importance)?;
        Self::build(w.to_vec(), weight, bias, blocks)
    }

    /// Begins at W with α of each block and k of each group given, as by a quantiser that looked at more than the weights.
    ///
    /// # Errors
    /// As [`Self::new`], and [`ErrorKind::Model`] for another number of them.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::MatrixQuant, spec::WeightQuant};
    /// use qat_trainer::llm::{FakeQuantised, Linear};
    /// use tch::Tensor;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant::new(quant);
    /// let w = Tensor::from_slice(&[0.3f32, -0.8, 2.2, -0.1]).view([1, 4]);
    /// let matrix = FakeQuantised::with_steps(&w, None, quant, vec![1.0], vec![])?;
    /// let nearest = Vec::<f32>::try_from(matrix.weight()?.reshape(-1))?;
    /// assert_eq!(nearest, [0.5, -0.5, 1.5, -0.5]); // of ±½ and ±1½
    /// let e = FakeQuantised::with_steps(&w, None, quant, vec![1.0; 2], vec![]).unwrap_err();
    /// assert_eq!(e.to_string(), "2 blocks of 4 for 4 weights");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn with_steps(
        weight: &Tensor,
        bias: Option<&Tensor>,
        quant: MatrixQuant,
        alpha: Vec<f32>,
        divisors: Vec<u8>,
    ) -> Result<Self> {
        let (_, row) = weight.size2()?;
        let w = slice(&plain(weight)?)?.to_vec();
        Self::build(w, weight, bias, Blocks::with(quant, row as usize, alpha, divisors)?)
    }

    /// Begins at a quantised form of W, as by a quantiser that looked at more than the weights: its codes, α and k are kept, and so
    /// is what the network computes with, bit for bit (but for [`MatrixQuant::compute`]). Bits, grid, steps and blocks are those of
    /// `start`, whatever `quant` says of them.
    ///
    /// What is learned begins half way between the level and the weight of W, or the border of the level's cell where W lies
    /// beyond it: at the border itself the first noisy gradients would undo what the quantiser chose, and with nothing of W kept all
    /// codes would be equally far from changing.
    ///
    /// # Errors
    /// As [`Self::new`], and [`ErrorKind::Model`] for a quantised matrix of another shape.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_kernels::quantizer::F16;
    /// # use qat_trainer::{llm::{MatrixQuant, QuantisedMatrix}, spec::WeightQuant};
    /// use qat_trainer::llm::{FakeQuantised, Linear};
    /// use tch::Tensor;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant::new(quant);
    /// let w = Tensor::from_slice(&[0.9f32, -0.25]).view([1, 2]);
    /// // A quantiser has given them the levels 1½ and −½, though ½ is nearer to 0.9.
    /// let start = QuantisedMatrix::new(quant.blocks(), 2, vec![1, -1], vec![F16::ONE], vec![])?;
    /// let matrix = FakeQuantised::from_quantised(&w, None, quant, &start)?;
    /// assert_eq!(Vec::<f32>::try_from(matrix.weight()?.reshape(-1))?, [1.5, -0.5]);
    /// // Half way to the border of the cell, 1, and half way to the weight.
    /// assert_eq!(matrix.latent(), [1.25, -0.375]);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn from_quantised(
        weight: &Tensor,
        bias: Option<&Tensor>,
        quant: MatrixQuant,
        start: &QuantisedMatrix,
    ) -> Result<Self> {
        let (_, row) = weight.size2()?;
        let mut w = slice(&plain(weight)?)?.to_vec();
        let blocks = Blocks::at_codes(quant, &mut w, row as usize, start)?;
        Self::build(w, weight, bias, blocks)
    }

    fn build(w: Vec<f32>, weight: &Tensor, bias: Option<&Tensor>, blocks: Blocks) -> Result<Self> {
        if w.len() != blocks.alpha.len() * blocks.len {
            let problem = format!("{} blocks of {} for {} weights", blocks.alpha.len(), blocks.len, w.len());
            return Err(Error::new(ErrorKind::Model, problem));
        }
        let kind = weight.kind();
        let bias = match bias {
            Some(bias) if kind == Kind::Float => Some(Bias::Learned(Weight::new(bias, false)?)),
            other => other.map(|bias| Bias::Fixed(bias.shallow_clone())),
        };
        let shape: Vec<usize> = weight.size().iter().map(|&d| d as usize).collect();
        let part = UNIT.div_ceil(blocks.len) * blocks.len;
        let mut this = Self {
            w_hat: leaf(&w, &shape)?,
            bias,
            store: Store::new(blocks.quant.moments, w.len(), part),
            alpha_moments: Moments::new(blocks.alpha.len()),
            w,
            blocks,
            kind,
        };
        this.requantise()?;
        Ok(this)
    }

    /// How it is quantised.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{MatrixQuant, QuantisedMatrix}, spec::WeightQuant};
    /// # use qat_trainer::llm::FakeQuantised;
    /// # use tch::Tensor;
    /// # let of = |bits| -> qat_trainer::Result<MatrixQuant> {
    /// #     let levels = Levels::new(bits, Grid::MidRise)?;
    /// #     Ok(MatrixQuant::new(WeightQuant { levels, step: StepRule::Uniform }))
    /// # };
    /// # let (two_bits, four_bits) = (of(2)?, of(4)?);
    /// # let w = [0.3, -0.1, 0.7, -1.2];
    /// // Codes of 4 bits stay what they are, whatever the others are trained in.
    /// let codes = QuantisedMatrix::fit(four_bits.blocks(), &w, 4, None)?;
    /// let w = Tensor::from_slice(&w).view([1, 4]);
    /// let matrix = FakeQuantised::from_quantised(&w, None, two_bits, &codes)?;
    /// assert_eq!(matrix.quant().quant.levels.bits(), 4);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn quant(&self) -> &MatrixQuant {
        &self.blocks.quant
    }

    /// The weights that are learned, row by row; what the network computes with is [`Linear::weight`].
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_kernels::{SteVariant, ste_simd::AdamW};
    /// # use qat_trainer::{llm::{MatrixQuant, Rates, Rule}, spec::WeightQuant};
    /// # use qat_trainer::llm::{FakeQuantised, Linear};
    /// # use tch::Tensor;
    /// # let adamw = AdamW { lr: 0.125, weight_decay: 0.0, ..AdamW::default() };
    /// # let rates = Rates { weights: Rule::AdamW(adamw), scales: adamw, factor: 1.0 };
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant { ste: SteVariant::Standard, ..MatrixQuant::new(quant) };
    /// let w = Tensor::from_slice(&[0.25f32, -0.75]).view([1, 2]);
    /// let mut matrix = FakeQuantised::with_steps(&w, None, quant, vec![0.5], vec![])?;
    /// let grad = Tensor::from_slice(&[1f32, -1.0]).view([1, 2]);
    /// matrix.update(&[grad], &rates)?; // AdamW at a rate of ⅛
    /// let moved = [0.25 - 0.125, -0.75 + 0.125];
    /// assert!(matrix.latent().iter().zip(moved).all(|(w, moved)| (w - moved).abs() < 1e-6));
    /// assert!(matrix.weight()?.equal(&w)); // the levels are the same as before
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn latent(&self) -> &[f32] {
        &self.w
    }

    /// α of each block (s of uniform steps), row by row.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::MatrixQuant, spec::WeightQuant};
    /// # use qat_trainer::llm::FakeQuantised;
    /// # use tch::Tensor;
    /// use std::f32::consts::PI;
    /// let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Pi { k: 4 } };
    /// let w = Tensor::from_slice(&[0.25f32, -0.75, 0.75, -0.25]).view([1, 4]); // ±½ and ±1½ steps of ½
    /// let matrix = FakeQuantised::new(&w, None, MatrixQuant::new(quant), None)?;
    /// let step = matrix.alpha()[0] * PI / 4.0;
    /// assert!((step - 0.5).abs() < 1e-6);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn alpha(&self) -> &[f32] {
        &self.blocks.alpha
    }

    /// k of each group, block by block; none unless steps are adaptive.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_kernels::{pi_step, ste_simd::AdamW};
    /// # use qat_trainer::{llm::{MatrixQuant, Rates, Rule}, spec::WeightQuant};
    /// # use qat_trainer::llm::{FakeQuantised, Linear};
    /// # use tch::Tensor;
    /// # let adamw = AdamW { lr: 0.125, weight_decay: 0.0, ..AdamW::default() };
    /// # let rates = Rates { weights: Rule::AdamW(adamw), scales: adamw, factor: 1.0 };
    /// # let levels = Levels::new(2, Grid::MidRise)?;
    /// # let mut row = [0.0; 16];
    /// # for (i, w) in row.iter_mut().enumerate() {
    /// #     *w = levels.dequantize(i as i32 % 4 - 2, pi_step(1.0, if i < 8 { 2 } else { 5 })?);
    /// # }
    /// # let w = Tensor::from_slice(&row).view([1, 16]);
    /// let quant = WeightQuant { levels, step: StepRule::PiAdaptive { group: 8 } };
    /// let quant = MatrixQuant { choose_every: 1, ..MatrixQuant::new(quant) };
    /// // Eight weights on the levels of the step π/2 and eight on those of π/5 begin with another k, …
    /// let mut matrix = FakeQuantised::with_steps(&w, None, quant, vec![1.0], vec![3, 3])?;
    /// matrix.update(&[w.zeros_like()], &rates)?;
    /// assert_eq!(matrix.divisors(), [2, 5]); // … which is chosen anew after an update
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn divisors(&self) -> &[u8] {
        &self.blocks.divisors
    }

    /// The codes, row by row.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] for weights that are not finite.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::MatrixQuant, spec::WeightQuant};
    /// # use qat_trainer::llm::FakeQuantised;
    /// # use tch::Tensor;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidTread)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant::new(quant);
    /// let w = Tensor::from_slice(&[0.3f32, -0.8, 2.2, -0.5]).view([1, 4]);
    /// let matrix = FakeQuantised::with_steps(&w, None, quant, vec![1.0], vec![])?;
    /// assert_eq!(matrix.codes()?, [0, -1, 1, 0]); // mid-tread: 1 is the largest, ties go to the even one
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn codes(&self) -> Result<Vec<i8>> {
        let mut codes = vec![0; self.w.len()];
        ste_simd::quantize(self.blocks.quant.quant.levels, &self.blocks.steps, &self.w, &mut codes)?;
        Ok(codes)
    }

    /// Bytes of what the optimiser remembers.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{MatrixQuant, MomentBits}, spec::WeightQuant};
    /// # use qat_trainer::llm::FakeQuantised;
    /// # use tch::{Device, Kind, Tensor};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant::new(quant);
    /// let w = Tensor::ones([4, 64], (Kind::Float, Device::Cpu));
    /// let bytes = |moments| -> qat_trainer::Result<usize> {
    ///     Ok(FakeQuantised::new(&w, None, MatrixQuant { moments, ..quant }, None)?.optimiser_bytes())
    /// };
    /// assert_eq!(bytes(MomentBits::ThirtyTwo)?, 256 * 8 + 4 * 8); // of 256 weights and four α
    /// assert_eq!(bytes(MomentBits::Eight)?, 256 * 2 + 8 + 4 * 8);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn optimiser_bytes(&self) -> usize {
        self.store.bytes() + 8 * self.blocks.alpha.len()
    }

    fn requantise(&mut self) -> Result<()> {
        let Blocks { quant, steps, .. } = &self.blocks;
        ste_simd::fake_quantize(quant.quant.levels, steps, &self.w, slice_mut(&mut self.w_hat)?)?;
        Ok(())
    }

    fn update_weights(&mut self, grad: &[f32], rates: &Rates) -> Result<()> {
        rates.scales.validate().map_err(|e| diverged(&e))?;
        if grad.len() != self.w.len() {
            let problem = format!("{} gradients for {} weights", grad.len(), self.w.len());
            return Err(Error::new(ErrorKind::Train, problem));
        }
        let quant = self.blocks.quant;
        let shared = Shared {
            levels: quant.quant.levels,
            rule: quant.quant.step,
            ste: quant.ste,
            weights: rates.weights,
            scales: Update::new(&rates.scales),
            lsq_scale: lsq_gradient_scale(self.blocks.len, quant.quant.levels),
            factor: rates.factor,
        };
        let count = UNIT.div_ceil(self.blocks.len);
        let (part, steps) = (count * self.blocks.len, count * self.blocks.per_block());
        let Self { w, w_hat, store, alpha_moments, blocks, .. } = self;
        let Blocks { alpha, divisors, steps: all_steps, .. } = blocks;
        let (alpha_m, alpha_v) = alpha_moments.split();
        let weights = w.chunks_mut(part).zip(slice_mut(w_hat)?.chunks_mut(part)).zip(grad.chunks(part));
        let alpha_moments = alpha_m.chunks_mut(count).zip(alpha_v.chunks_mut(count));
        let alphas = alpha.chunks_mut(count).zip(alpha_moments);
        let end = divisors.len();
        let divisors = (0..).map(|u| divisors.get(u * steps..((u + 1) * steps).min(end)).unwrap_or(&[]));
        let units = weights.zip(alphas).zip(all_steps.chunks_mut(steps).zip(divisors));
        let units = units.zip(store.parts(rates.scales.step)).collect();
        let one = |(unit, moments): ((_, _), Part<'_>)| {
            let ((((w, w_hat), g), (alpha, (alpha_m, alpha_v))), (steps, divisors)) = unit;
            moments.with(|m, v| {
                let unit = Unit { w, w_hat, g, m, v, alpha, alpha_m, alpha_v, steps, divisors };
                shared.update(unit, &mut Scratch::default())
            })
        };
        in_units(units, one).into_iter().collect::<Result<(), _>>().map_err(|e| diverged(&e))
    }
}

/// The numbers of a tensor in f32.
fn plain(t: &Tensor) -> Result<Tensor> {
    if t.device() != Device::Cpu {
        return Err(Error::new(ErrorKind::Train, format!("a matrix on {:?}", t.device()))
            .remedy("use NodeQuantised on devices"));
    }
    Ok(t.f_detach()?.f_to_kind(Kind::Float)?.f_contiguous()?)
}

/// `x·Wᵀ + b` computed in `compute`, or in what x is in; the result is in the latter.
pub(in crate::llm) fn product(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    compute: Option<Kind>,
) -> Result<Tensor> {
    let kind = x.kind();
    let compute = compute.unwrap_or(kind);
    let bias = bias.map(|bias| bias.f_to_kind(compute)).transpose()?;
    Ok(x.f_to_kind(compute)?.f_linear(&w.f_to_kind(compute)?, bias)?.f_to_kind(kind)?)
}

impl Linear for FakeQuantised {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        product(x, &self.w_hat, self.bias(), self.blocks.quant.compute)
    }

    fn weight(&self) -> Result<Tensor> {
        Ok(self.w_hat.f_to_kind(self.kind)?)
    }

    fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref().map(|bias| match bias {
            Bias::Fixed(bias) => bias,
            Bias::Learned(weight) => weight.leaf(),
        })
    }

    fn quantised(&self) -> Result<Option<QuantisedMatrix>> {
        self.blocks.quantised(&self.w, self.w_hat.size2()?.1 as usize).map(Some)
    }

    fn leaves(&self) -> Vec<&Tensor> {
        [Some(&self.w_hat), self.bias()].into_iter().flatten().filter(|t| t.requires_grad()).collect()
    }

    fn share(&self) -> Box<dyn Linear> {
        Box::new(View {
            w_hat: self.w_hat.shallow_clone(),
            bias: self.bias().map(Tensor::shallow_clone),
            compute: self.blocks.quant.compute,
            kind: self.kind,
        })
    }

    fn update(&mut self, grads: &[Tensor], rates: &Rates) -> Result<()> {
        let (grad, of_bias) = grads
            .split_first()
            .ok_or_else(|| Error::new(ErrorKind::Train, "fewer gradients than parameters"))?;
        let grad = grad.f_to_kind(Kind::Float)?.f_contiguous()?;
        self.update_weights(slice(&grad)?, rates)?;
        if self.blocks.choose_after(rates.scales.step) {
            self.blocks.choose(&self.w)?;
            self.requantise()?;
        }
        match &mut self.bias {
            Some(Bias::Learned(bias)) => bias.step(of_bias.first(), rates),
            _ => Ok(()),
        }
    }

    fn save_state(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        let weight = format!("{name}.weight");
        let row = self.w_hat.size2()?.1 as usize;
        to.insert(&weight, &[self.w.len() / row.max(1), row], self.w.clone())?;
        self.store.save(&weight, to)?;
        self.blocks.save(name, to)?;
        self.alpha_moments.save(&format!("{name}.alpha"), to)?;
        match &self.bias {
            Some(Bias::Learned(bias)) => bias.save(&format!("{name}.bias"), to),
            _ => Ok(()),
        }
    }

    fn load_state(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        let weight = format!("{name}.weight");
        let row = self.w_hat.size2()?.1 as usize;
        self.w = from.get(&weight, &[self.w.len() / row.max(1), row])?.to_vec();
        self.store.load(&weight, from)?;
        self.blocks.load(name, from)?;
        self.alpha_moments.load(&format!("{name}.alpha"), from)?;
        if let Some(Bias::Learned(bias)) = &mut self.bias {
            bias.load(&format!("{name}.bias"), from)?;
        }
        self.requantise()
    }
}

/// The same map, for a forward pass that is computed again.
#[derive(Debug)]
struct View {
    w_hat: Tensor,
    bias: Option<Tensor>,
    compute: Option<Kind>,
    kind: Kind,
}

impl Linear for View {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        product(x, &self.w_hat, self.bias.as_ref(), self.compute)
    }

    fn weight(&self) -> Result<Tensor> {
        Ok(self.w_hat.f_to_kind(self.kind)?)
    }

    fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    fn leaves(&self) -> Vec<&Tensor> {
        [Some(&self.w_hat), self.bias.as_ref()].into_iter().flatten().filter(|t| t.requires_grad()).collect()
    }

    fn share(&self) -> Box<dyn Linear> {
        let bias = self.bias.as_ref().map(Tensor::shallow_clone);
        Box::new(Self { w_hat: self.w_hat.shallow_clone(), bias, ..*self })
    }
}
