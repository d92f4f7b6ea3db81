//! Fake-quantised matrices whose weights and scales are parameters of torch, on any device.

use super::leaves::product;
use super::node::{Backend, Made, Operands, fake_quantise, fake_quantise_made, gradients};
use super::{Blocks, MatrixQuant};
use crate::autograd::{fused, fused_kernels, slice};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::linear::{Linear, Plain};
use crate::llm::quantised::QuantisedMatrix;
use crate::nn::{Rates, Rule, Update, state};
use qat_kernels::SteVariant;
use qat_kernels::ste_simd::AdamW;
use tch::{Device, Kind, Tensor};

/// A quantiser whose α is a parameter of torch.
#[derive(Debug)]
pub(in crate::llm) struct Quantiser {
    quant: MatrixQuant,
    backend: Backend,
    alpha: Parameter,
    /// k of each group, f32.
    divisors: Tensor,
}

impl Quantiser {
    /// One with these steps, on `device`.
    pub(in crate::llm) fn new(backend: Backend, blocks: &Blocks, device: Device) -> Result<Self> {
        let k: Vec<f32> = blocks.divisors.iter().map(|&k| k.into()).collect();
        Ok(Self {
            quant: blocks.quant,
            backend,
            alpha: Parameter::new(&Tensor::from_slice(&blocks.alpha).f_to_device(device)?)?,
            divisors: Tensor::from_slice(&k).f_to_device(device)?,
        })
    }

    pub(in crate::llm) fn quant(&self) -> &MatrixQuant {
        &self.quant
    }

    /// α of each block.
    pub(in crate::llm) fn leaf(&self) -> &Tensor {
        &self.alpha.leaf
    }

    /// Q(w), `[out, in]`, to be computed with in `kind` unless the quantiser's settings have another one.
    pub(in crate::llm) fn of(&self, w: &Tensor, kind: Kind) -> Result<Tensor> {
        fake_quantise(self.quant, self.backend, &self.operands(w), self.quant.compute.unwrap_or(kind))
    }

    /// As [`Self::of`], of a w that is made of `parts` in every pass and forgotten again: `make` makes it in f32, `split` makes
    /// the gradients of the parts of its gradient.
    pub(in crate::llm) fn of_made<M, S>(
        &self,
        parts: &[&Tensor],
        make: M,
        split: S,
        kind: Kind,
    ) -> Result<Tensor>
    where
        M: Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
        S: Fn(Tensor, &[Tensor]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    {
        let made = Made { parts, make, split, alpha: &self.alpha.leaf, divisors: &self.divisors };
        fake_quantise_made(self.quant, self.backend, made, self.quant.compute.unwrap_or(kind))
    }

    pub(super) fn operands<'a>(&'a self, w: &'a Tensor) -> Operands<'a> {
        Operands { w, alpha: &self.alpha.leaf, divisors: &self.divisors }
    }

    pub(in crate::llm) fn share(&self) -> Self {
        Self { alpha: self.alpha.share(), divisors: self.divisors.shallow_clone(), ..*self }
    }

    /// Whether the estimator has a gradient of α.
    const fn learns(&self) -> bool {
        matches!(self.quant.ste, SteVariant::LearnedStepSize | SteVariant::Ewgs { .. })
    }

    /// One step of α given the gradient of its logarithm, if the estimator has one.
    pub(in crate::llm) fn update(&mut self, grad: &Tensor, rates: &Rates) -> Result<()> {
        if self.learns() { self.alpha.step_scale(grad, rates.factor, &rates.scales) } else { Ok(()) }
    }

    /// What the fused kernels are told of α's update, if the estimator has a gradient of it.
    pub(super) fn factors(&self, rates: &Rates) -> Result<Option<fused::Factors>> {
        self.learns().then(|| factors(&rates.scales, rates.factor)).transpose()
    }

    /// AdamW's moments of log α.
    pub(super) const fn moments(&self) -> [&Tensor; 2] {
        self.alpha.moments()
    }

    /// The steps for rows of `row`, on the CPU.
    fn blocks(&self, row: usize) -> Result<Blocks> {
        let (alpha, k) = (on_cpu(&self.alpha.leaf)?, on_cpu(&self.divisors)?);
        let k = slice(&k)?.iter().map(|&k| k as u8).collect();
        Blocks::with(self.quant, row, slice(&alpha)?.to_vec(), k)
    }

    /// The codes of w, with α rounded to binary16.
    pub(in crate::llm) fn quantised(&self, w: &Tensor) -> Result<QuantisedMatrix> {
        let (w, row) = (on_cpu(w)?, w.size2()?.1 as usize);
        self.blocks(row)?.quantised(slice(&w)?, row)
    }

    /// Whether k of every group is to be chosen anew after the update of this number.
    pub(in crate::llm) fn chooses_after(&self, update: u32) -> bool {
        let every = self.quant.choose_every;
        self.divisors.numel() > 0 && every > 0 && update.is_multiple_of(every)
    }

    /// Chooses k of every group anew for w, after the updates that it is to be done after; on the CPU. Returns whether it did.
    pub(in crate::llm) fn choose(&mut self, update: u32, w: &Tensor) -> Result<bool> {
        if !self.chooses_after(update) {
            return Ok(false);
        }
        let w = on_cpu(w)?;
        let mut blocks = self.blocks(w.size2()?.1 as usize)?;
        blocks.choose(slice(&w)?)?;
        let k: Vec<f32> = blocks.divisors.iter().map(|&k| k.into()).collect();
        self.divisors = Tensor::from_slice(&k).f_to_device(self.divisors.device())?;
        Ok(true)
    }

    pub(in crate::llm) fn save(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        self.alpha.save(&format!("{name}.alpha"), to)?;
        put(&format!("{name}.divisors"), &self.divisors, to)
    }

    pub(in crate::llm) fn load(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        self.alpha.load(&format!("{name}.alpha"), from)?;
        self.divisors = get(&format!("{name}.divisors"), &self.divisors, from)?;
        Ok(())
    }
}

/// The same numbers in the memory of the CPU, one after the other.
pub(super) fn on_cpu(t: &Tensor) -> Result<Tensor> {
    Ok(t.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?)
}

/// The w that a matrix begins with, f32 `[out, in]` on the CPU, and steps fitted to it.
pub(super) fn fitted(
    weight: &Tensor,
    quant: MatrixQuant,
    importance: Option<&[f32]>,
) -> Result<(Tensor, Blocks)> {
    let w = on_cpu(&weight.f_to_kind(Kind::Float)?)?;
    let blocks = Blocks::fitted(quant, slice(&w)?, w.size2()?.1 as usize, importance)?;
    Ok((w, blocks))
}

/// The same of a matrix that begins at codes and their steps.
pub(super) fn at_codes(
    weight: &Tensor,
    quant: MatrixQuant,
    start: &QuantisedMatrix,
) -> Result<(Tensor, Blocks)> {
    let mut w = slice(&on_cpu(&weight.f_to_kind(Kind::Float)?)?)?.to_vec();
    let blocks = Blocks::at_codes(quant, &mut w, weight.size2()?.1 as usize, start)?;
    Ok((Tensor::from_slice(&w).f_reshape(weight.size())?, blocks))
}

/// The rule of AdamW, the only one for parameters of torch.
pub(in crate::llm) fn adamw(rates: &Rates) -> Result<AdamW> {
    match rates.weights {
        Rule::AdamW(adamw) => Ok(adamw),
        Rule::Sgd(_) => Err(Error::new(ErrorKind::Train, "these parameters learn by AdamW alone")),
    }
}

/// A quantised matrix in training, on any device. It computes what [`super::FakeQuantised`] computes, with a node in the graph
/// that quantises w in every forward pass. The weights it learns are f32 whatever the decoder's kind; the bias stays as it is.
#[derive(Debug)]
pub struct NodeQuantised {
    weight: Parameter,
    quantiser: Quantiser,
    bias: Option<Tensor>,
    kind: Kind,
}

impl NodeQuantised {
    /// As [`super::FakeQuantised::new`], on the device of `weight`.
    ///
    /// # Errors
    /// The same, but for the device.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::MatrixQuant, spec::WeightQuant};
    /// use qat_trainer::llm::{Linear, NodeQuantised};
    /// use tch::{Device, Tensor};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant::new(quant);
    /// let w = Tensor::from_slice(&[0.25f32, -0.75, 0.75, -0.25]).view([1, 4]); // ±½ and ±1½ steps
    /// let matrix = NodeQuantised::new(&w.to_device(Device::cuda_if_available()), None, quant, None)?;
    /// assert!(matrix.weight()?.to_device(Device::Cpu).equal(&w));
    /// assert_eq!(matrix.leaves().iter().map(|leaf| leaf.numel()).sum::<usize>(), 4 + 1); // w and α
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn new(
        weight: &Tensor,
        bias: Option<&Tensor>,
        quant: MatrixQuant,
        importance: Option<&[f32]>,
    ) -> Result<Self> {
        Self::on(Backend::on(weight.device()), weight, bias, quant, importance)
    }

    /// As [`super::FakeQuantised::from_quantised`], on the device of `weight`.
    ///
    /// # Errors
    /// The same, but for the device.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{MatrixQuant, QuantisedMatrix}, spec::WeightQuant};
    /// use qat_trainer::{ErrorKind, llm::{Linear, NodeQuantised}};
    /// use tch::Tensor;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant::new(quant);
    /// let row = [0.3f32, -0.8, 2.2, -0.1];
    /// let start = QuantisedMatrix::fit(quant.blocks(), &row, 4, None)?;
    /// let w = Tensor::from_slice(&row).view([1, 4]);
    /// let matrix = NodeQuantised::from_quantised(&w, None, quant, &start)?;
    /// assert_eq!(matrix.quantised()?, Some(start.clone()));
    /// let e = NodeQuantised::from_quantised(&w.view([2, 2]), None, quant, &start).unwrap_err();
    /// assert_eq!(e.kind(), ErrorKind::Model); // another shape
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn from_quantised(
        weight: &Tensor,
        bias: Option<&Tensor>,
        quant: MatrixQuant,
        start: &QuantisedMatrix,
    ) -> Result<Self> {
        Self::build(Backend::on(weight.device()), weight, bias, at_codes(weight, quant, start)?)
    }

    /// As [`Self::new`], with a backend to compare with others.
    ///
    /// # Errors
    /// The same.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::MatrixQuant, spec::WeightQuant};
    /// use qat_trainer::llm::{Backend, Linear, NodeQuantised};
    /// use tch::Tensor;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant::new(quant);
    /// let w = Tensor::from_slice(&[0.3f32, -0.8, 2.2, -0.1]).view([1, 4]);
    /// let by = |backend| NodeQuantised::on(backend, &w, None, quant, None)?.weight();
    /// assert!(by(Backend::Kernels)?.equal(&by(Backend::Operators)?)); // bit for bit
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn on(
        backend: Backend,
        weight: &Tensor,
        bias: Option<&Tensor>,
        quant: MatrixQuant,
        importance: Option<&[f32]>,
    ) -> Result<Self> {
        Self::build(backend, weight, bias, fitted(weight, quant, importance)?)
    }

    fn build(
        backend: Backend,
        weight: &Tensor,
        bias: Option<&Tensor>,
        (w, blocks): (Tensor, Blocks),
    ) -> Result<Self> {
        let device = weight.device();
        Ok(Self {
            weight: Parameter::new(&w.f_to_device(device)?)?,
            quantiser: Quantiser::new(backend, &blocks, device)?,
            bias: bias.map(Tensor::shallow_clone),
            kind: weight.f_kind()?,
        })
    }

    /// The gradients of w, `[out, in]`, and of log α of each block, `[blocks]`, given that of ŵ: what a backward pass computes
    /// here.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch refuses.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_kernels::quantizer::StepInit;
    /// # use qat_trainer::{llm::{MatrixQuant, NodeQuantised}, spec::WeightQuant};
    /// # use tch::Tensor;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant::new(quant);
    /// let quant = MatrixQuant { init: StepInit::Max, ..quant }; // half the largest weight: a step of 1
    /// let w = Tensor::from_slice(&[0.3f32, 2.0]).view([1, 2]);
    /// let matrix = NodeQuantised::new(&w, None, quant, None)?; // ŵ is ½ and 1½
    /// let (of_w, of_log_alpha) = matrix.gradients(&w.ones_like())?;
    /// assert_eq!(Vec::<f32>::try_from(of_w.reshape(-1))?, [1.0, 0.0]); // 2 is beyond the levels
    /// // LSQ: ½ − 0.3 inside, the level 1½ outside; by √(2·1½).
    /// assert!((of_log_alpha.double_value(&[0]) - (0.2 + 1.5) / 3f64.sqrt()).abs() < 1e-6);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn gradients(&self, of_w_hat: &Tensor) -> Result<(Tensor, Tensor)> {
        let Self { weight, quantiser, .. } = self;
        tch::no_grad(|| {
            gradients(quantiser.quant, quantiser.backend, &quantiser.operands(&weight.leaf), of_w_hat)
        })
    }
}

impl Linear for NodeQuantised {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let w_hat = self.quantiser.of(&self.weight.leaf, self.kind)?;
        product(x, &w_hat, self.bias.as_ref(), self.quantiser.quant.compute)
    }

    fn weight(&self) -> Result<Tensor> {
        Ok(self.quantiser.of(&self.weight.leaf, self.kind)?.f_to_kind(self.kind)?)
    }

    fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    fn plain(&self, kind: Kind) -> Result<Option<Plain>> {
        if self.quantiser.quant.compute.is_some_and(|compute| compute != kind) {
            return Ok(None);
        }
        Plain::new(&self.quantiser.of(&self.weight.leaf, kind)?, self.bias(), kind).map(Some)
    }

    fn quantised(&self) -> Result<Option<QuantisedMatrix>> {
        self.quantiser.quantised(&self.weight.leaf).map(Some)
    }

    fn leaves(&self) -> Vec<&Tensor> {
        vec![&self.weight.leaf, self.quantiser.leaf()]
    }

    fn share(&self) -> Box<dyn Linear> {
        let bias = self.bias.as_ref().map(Tensor::shallow_clone);
        Box::new(Self { weight: self.weight.share(), quantiser: self.quantiser.share(), bias, ..*self })
    }

    fn update(&mut self, grads: &[Tensor], rates: &Rates) -> Result<()> {
        let [of_weight, of_alpha] = grads else {
            return Err(Error::new(ErrorKind::Train, format!("{} gradients for 2 parameters", grads.len())));
        };
        self.weight.step(of_weight, rates.factor, &adamw(rates)?)?;
        self.quantiser.update(of_alpha, rates)?;
        self.quantiser.choose(rates.scales.step, &self.weight.leaf).map(|_| ())
    }

    fn save_state(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        self.weight.save(&format!("{name}.weight"), to)?;
        self.quantiser.save(name, to)
    }

    fn load_state(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        self.weight.load(&format!("{name}.weight"), from)?;
        self.quantiser.load(name, from)
    }
}

/// A leaf with AdamW's moments.
#[derive(Debug)]
pub(in crate::llm) struct Parameter {
    pub(in crate::llm) leaf: Tensor,
    m: Tensor,
    v: Tensor,
    /// Whether fused kernels update it, and torch's operators do otherwise.
    fused: bool,
}

impl Parameter {
    /// One that begins at these numbers, which are copied.
    pub(in crate::llm) fn new(start: &Tensor) -> Result<Self> {
        let leaf = start.f_detach()?.f_to_kind(Kind::Float)?.copy().f_set_requires_grad(true)?;
        let zeros = || tch::no_grad(|| leaf.f_zeros_like());
        let (m, v) = (zeros()?, zeros()?);
        let fused = fused_kernels(leaf.device()).is_ok();
        Ok(Self { leaf, m, v, fused })
    }

    /// The same leaf, for a second forward pass.
    pub(in crate::llm) fn share(&self) -> Self {
        Self {
            leaf: self.leaf.shallow_clone(),
            m: self.m.shallow_clone(),
            v: self.v.shallow_clone(),
            fused: self.fused,
        }
    }

    /// AdamW's moments.
    pub(super) const fn moments(&self) -> [&Tensor; 2] {
        [&self.m, &self.v]
    }

    /// What to subtract, without the decay.
    fn delta(&mut self, grad: &Tensor, factor: f32, adamw: &AdamW) -> Result<Tensor> {
        adamw.validate().map_err(|e| crate::nn::weights::diverged(&e))?;
        let (b1, b2) = (f64::from(adamw.beta1), f64::from(adamw.beta2));
        let t = i32::try_from(adamw.step).unwrap_or(i32::MAX);
        let g = grad.f_to_kind(Kind::Float)?.f_mul_scalar(f64::from(factor))?;
        if !g.f_sum(Kind::Float)?.f_double_value(&[])?.is_finite() {
            return Err(not_finite());
        }
        self.m = self.m.f_mul_scalar(b1)?.f_add(&g.f_mul_scalar(1.0 - b1)?)?;
        self.v = self.v.f_mul_scalar(b2)?.f_add(&g.f_mul_scalar(1.0 - b2)?.f_mul(&g)?)?;
        let root = self.v.f_sqrt()?.f_mul_scalar(1.0 / (1.0 - b2.powi(t)).sqrt())?;
        let rate = f64::from(adamw.lr) / (1.0 - b1.powi(t));
        Ok(self.m.f_mul_scalar(rate)?.f_div(&root.f_add_scalar(f64::from(adamw.eps))?)?)
    }

    /// One step of AdamW.
    pub(in crate::llm) fn step(&mut self, grad: &Tensor, factor: f32, adamw: &AdamW) -> Result<()> {
        tch::no_grad(|| {
            if self.fused {
                let wide = if grad.f_kind()? == Kind::BFloat16 { Kind::BFloat16 } else { Kind::Float };
                let grad = grad.f_to_kind(wide)?.f_contiguous()?;
                return fused::adamw(&factors(adamw, factor)?, &self.leaf, [&self.m, &self.v], &grad);
            }
            let delta = self.delta(grad, factor, adamw)?;
            let kept = 1.0 - f64::from(adamw.lr) * f64::from(adamw.weight_decay);
            let next = self.leaf.f_mul_scalar(kept)?.f_sub(&delta)?;
            Ok(self.leaf.f_copy_(&next)?)
        })
    }

    /// One step of AdamW on the logarithm, given its gradient: `α ← α·exp(−δ)`.
    pub(in crate::llm) fn step_scale(&mut self, grad: &Tensor, factor: f32, adamw: &AdamW) -> Result<()> {
        tch::no_grad(|| {
            if self.fused {
                let grad = grad.f_to_kind(Kind::Float)?.f_contiguous()?;
                return fused::adamw_log(&factors(adamw, factor)?, &self.leaf, [&self.m, &self.v], &grad);
            }
            let delta = self.delta(grad, factor, adamw)?;
            let next = self.leaf.f_mul(&delta.f_neg()?.f_exp()?)?.f_clamp(1e-20, 1e20)?;
            Ok(self.leaf.f_copy_(&next)?)
        })
    }

    pub(in crate::llm) fn save(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        put(name, &self.leaf, to)?;
        put(&format!("{name}.{}", state::FIRST_MOMENT), &self.m, to)?;
        put(&format!("{name}.{}", state::SECOND_MOMENT), &self.v, to)
    }

    pub(in crate::llm) fn load(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        let leaf = get(name, &self.leaf, from)?;
        tch::no_grad(|| self.leaf.f_copy_(&leaf))?;
        self.m = get(&format!("{name}.{}", state::FIRST_MOMENT), &self.m, from)?;
        self.v = get(&format!("{name}.{}", state::SECOND_MOMENT), &self.v, from)?;
        Ok(())
    }
}

/// What a training ends with whose gradients are not finite.
pub(in crate::llm) fn not_finite() -> Error {
    Error::new(ErrorKind::Train, "the training diverged: a gradient is not finite")
        .remedy("lower the learning rate")
}

/// What the fused kernels are told of an update.
pub(super) fn factors(adamw: &AdamW, factor: f32) -> Result<fused::Factors> {
    adamw.validate().map_err(|e| crate::nn::weights::diverged(&e))?;
    Ok(Update::new(adamw).fused(factor))
}

/// Adds a tensor.
pub(in crate::llm) fn put(name: &str, tensor: &Tensor, to: &mut Checkpoint) -> Result<()> {
    let plain = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let shape: Vec<usize> = plain.size().iter().map(|&d| d as usize).collect();
    to.insert(name, &shape, slice(&plain)?.to_vec())
}

/// The tensor `name`, in the shape and on the device of `like`.
pub(in crate::llm) fn get(name: &str, like: &Tensor, from: &Checkpoint) -> Result<Tensor> {
    let shape: Vec<usize> = like.size().iter().map(|&d| d as usize).collect();
    Ok(Tensor::from_slice(from.get(name, &shape)?).f_reshape(like.size())?.f_to_device(like.device())?)
}
