//! A matrix that is trained as it is, in f32 on the CPU.

use super::linear::Linear;
use crate::autograd::slice;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::nn::{Param, Rates};
use tch::{Device, Kind, Tensor};

/// A dense matrix whose weights and bias are leaves. Weight decay applies to the weights alone.
#[derive(Debug)]
pub struct Learned {
    weight: Param,
    bias: Option<Param>,
}

impl Learned {
    /// Begins at W, `[out, in]`, and b, `[out]`, which are copied.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if they are not f32 on the CPU.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        Ok(Self { weight: param(weight, true)?, bias: bias.map(|bias| param(bias, false)).transpose()? })
    }

    fn params(&self) -> impl Iterator<Item = (&Param, &'static str)> {
        [Some((&self.weight, "weight")), self.bias.as_ref().map(|bias| (bias, "bias"))].into_iter().flatten()
    }

    fn params_mut(&mut self) -> impl Iterator<Item = (&mut Param, &'static str)> {
        [Some((&mut self.weight, "weight")), self.bias.as_mut().map(|bias| (bias, "bias"))]
            .into_iter()
            .flatten()
    }
}

/// A parameter that begins at a tensor's values.
pub(super) fn param(tensor: &Tensor, decays: bool) -> Result<Param> {
    let (kind, device) = (tensor.f_kind()?, tensor.device());
    if kind != Kind::Float || device != Device::Cpu {
        let problem = format!("weights of {kind:?} on {device:?} cannot be trained");
        return Err(Error::new(ErrorKind::Train, problem).remedy("load the model in f32 on the CPU"));
    }
    let plain = tensor.f_detach()?.f_contiguous()?;
    let shape: Vec<usize> = plain.size().iter().map(|&d| d as usize).collect();
    Param::new(slice(&plain)?, &shape, decays)
}

/// One step of a parameter.
pub(super) fn step(param: &mut Param, grad: Option<&Tensor>, rates: &Rates) -> Result<()> {
    let grad = grad.ok_or_else(|| Error::new(ErrorKind::Train, "fewer gradients than parameters"))?;
    param.update(slice(&grad.f_contiguous()?)?, rates.factor, rates.weights)
}

impl Linear for Learned {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(self.weight.leaf(), self.bias.as_ref().map(Param::leaf))?)
    }

    fn weight(&self) -> Result<Tensor> {
        Ok(self.weight.leaf().shallow_clone())
    }

    fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref().map(Param::leaf)
    }

    fn leaves(&self) -> Vec<&Tensor> {
        self.params().map(|(param, _)| param.leaf()).collect()
    }

    fn share(&self) -> Box<dyn Linear> {
        Box::new(super::Dense::new(
            self.weight.leaf().shallow_clone(),
            self.bias.as_ref().map(|bias| bias.leaf().shallow_clone()),
        ))
    }

    fn update(&mut self, grads: &[Tensor], rates: &Rates) -> Result<()> {
        let mut grads = grads.iter();
        self.params_mut().try_for_each(|(param, _)| step(param, grads.next(), rates))
    }

    fn save_state(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        self.params().try_for_each(|(param, what)| param.save(&format!("{name}.{what}"), to))
    }

    fn load_state(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        self.params_mut().try_for_each(|(param, what)| param.load(&format!("{name}.{what}"), from))
    }
}
