//! What is trained as it is. The numbers that learn are f32, whatever the decoder's kind.

use super::linear::{Linear, Plain, affine};
use super::qat::parameters::{Parameter, adamw};
use crate::autograd::slice;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::nn::{Param, Rates};
use qat_kernels::ste_simd::AdamW;
use tch::{Device, Kind, Tensor};

/// A dense matrix whose weights and bias are leaves. Weight decay applies to the weights alone.
#[derive(Debug)]
pub struct Learned {
    weight: Weight,
    bias: Option<Weight>,
    kind: Kind,
}

impl Learned {
    /// Begins at W, `[out, in]`, and b, `[out]`, which are copied.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch refuses.
    ///
    /// ```
    /// # use qat_kernels::ste_simd::AdamW;
    /// # use qat_trainer::llm::{Rates, Rule};
    /// use qat_trainer::llm::{Learned, Linear};
    /// use tch::{Kind, Tensor};
    /// # let adamw = AdamW { lr: 0.125, weight_decay: 0.0, ..AdamW::default() };
    /// # let rates = Rates { weights: Rule::AdamW(adamw), scales: adamw, factor: 1.0 };
    /// let mut layer = Learned::new(&Tensor::from_slice(&[1f32, -1.0]).view([1, 2]), None)?;
    /// let x = Tensor::from_slice(&[1f32, 2.0]);
    /// let loss = layer.forward(&x)?.square().sum(Kind::Float); // of −1: the gradient of W is −2·x
    /// let grads = Tensor::f_run_backward(&[&loss], &layer.leaves(), false, false)?;
    /// drop(loss);
    /// layer.update(&grads, &rates)?; // the first step of AdamW is ⅛, the learning rate, uphill or downhill
    /// let next = Vec::<f32>::try_from(layer.weight()?.reshape(-1))?;
    /// assert!((next[0] - 1.125).abs() < 1e-6 && (next[1] + 0.875).abs() < 1e-6);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let kind = weight.f_kind()?;
        let bias = bias.map(|bias| Weight::new(bias, false)).transpose()?;
        Ok(Self { weight: Weight::new(weight, true)?, bias, kind })
    }

    fn weights(&self) -> impl Iterator<Item = (&Weight, &'static str)> {
        [Some((&self.weight, "weight")), self.bias.as_ref().map(|bias| (bias, "bias"))].into_iter().flatten()
    }

    fn weights_mut(&mut self) -> impl Iterator<Item = (&mut Weight, &'static str)> {
        [Some((&mut self.weight, "weight")), self.bias.as_mut().map(|bias| (bias, "bias"))]
            .into_iter()
            .flatten()
    }
}

/// A parameter where its tensor lies.
#[derive(Debug)]
pub(super) enum Weight {
    /// f32 on the CPU, updated by qat-kernels.
    Host(Param),
    /// Anywhere else, or beside tensors of another kind.
    Device { parameter: Parameter, decays: bool },
}

impl Weight {
    /// One that begins at a tensor's numbers.
    pub(super) fn new(tensor: &Tensor, decays: bool) -> Result<Self> {
        if tensor.f_kind()? != Kind::Float || tensor.device() != Device::Cpu {
            return Ok(Self::Device { parameter: Parameter::new(tensor)?, decays });
        }
        let plain = tensor.f_detach()?.f_contiguous()?;
        let shape: Vec<usize> = plain.size().iter().map(|&d| d as usize).collect();
        Ok(Self::Host(Param::new(slice(&plain)?, &shape, decays)?))
    }

    pub(super) fn leaf(&self) -> &Tensor {
        match self {
            Self::Host(param) => param.leaf(),
            Self::Device { parameter, .. } => &parameter.leaf,
        }
    }

    /// One step of the optimiser.
    pub(super) fn step(&mut self, grad: Option<&Tensor>, rates: &Rates) -> Result<()> {
        let grad = grad.ok_or_else(|| Error::new(ErrorKind::Train, "fewer gradients than parameters"))?;
        match self {
            Self::Host(param) => param.update(slice(&grad.f_contiguous()?)?, rates.factor, rates.weights),
            Self::Device { parameter, decays } => {
                let rule = adamw(rates)?;
                let weight_decay = if *decays { rule.weight_decay } else { 0.0 };
                parameter.step(grad, rates.factor, &AdamW { weight_decay, ..rule })
            }
        }
    }

    pub(super) fn save(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        match self {
            Self::Host(param) => param.save(name, to),
            Self::Device { parameter, .. } => parameter.save(name, to),
        }
    }

    pub(super) fn load(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        match self {
            Self::Host(param) => param.load(name, from),
            Self::Device { parameter, .. } => parameter.load(name, from),
        }
    }
}

impl Linear for Learned {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        affine(x, self.weight.leaf(), self.bias())
    }

    fn weight(&self) -> Result<Tensor> {
        Ok(self.weight.leaf().f_to_kind(self.kind)?)
    }

    fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref().map(Weight::leaf)
    }

    fn plain(&self, kind: Kind) -> Result<Option<Plain>> {
        Plain::new(self.weight.leaf(), self.bias(), kind).map(Some)
    }

    fn leaves(&self) -> Vec<&Tensor> {
        self.weights().map(|(weight, _)| weight.leaf()).collect()
    }

    fn share(&self) -> Box<dyn Linear> {
        Box::new(super::Dense::new(
            self.weight.leaf().shallow_clone(),
            self.bias.as_ref().map(|bias| bias.leaf().shallow_clone()),
        ))
    }

    fn update(&mut self, grads: &[Tensor], rates: &Rates) -> Result<()> {
        let mut grads = grads.iter();
        self.weights_mut().try_for_each(|(weight, _)| weight.step(grads.next(), rates))
    }

    fn save_state(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        self.weights().try_for_each(|(weight, what)| weight.save(&format!("{name}.{what}"), to))
    }

    fn load_state(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        self.weights_mut().try_for_each(|(weight, what)| weight.load(&format!("{name}.{what}"), from))
    }
}
