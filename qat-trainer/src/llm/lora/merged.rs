//! `Q(W + s·U·D)`.

use super::adapter::{Adapter, plain};
use crate::autograd::slice;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::linear::{Linear, Plain};
use crate::llm::qat::leaves::product;
use crate::llm::qat::node::Backend;
use crate::llm::qat::parameters::Quantiser;
use crate::llm::qat::{Blocks, MatrixQuant};
use crate::llm::quantised::QuantisedMatrix;
use crate::nn::Rates;
use tch::{Kind, Tensor};

/// A frozen matrix with adapters, quantised as one.
#[derive(Debug)]
pub(super) struct Merged {
    /// W, f32 or bf16: as the decoder had it, since f32 would hold the same numbers in twice the memory.
    pub(super) base: Tensor,
    pub(super) adapter: Adapter,
    pub(super) quantiser: Quantiser,
    bias: Option<Tensor>,
    kind: Kind,
}

impl Merged {
    pub(super) fn new(
        weight: &Tensor,
        bias: Option<&Tensor>,
        quant: MatrixQuant,
        adapter: Adapter,
    ) -> Result<Self> {
        let row = weight.size2()?.1 as usize;
        let base = match weight.kind() {
            Kind::BFloat16 => weight.shallow_clone(),
            _ => weight.f_to_kind(Kind::Float)?,
        };
        let start = tch::no_grad(|| adapter.scale.sum(&base, adapter.leaves()))?;
        let blocks = Blocks::fitted(quant, slice(&plain(&start)?)?, row, None)?;
        let device = weight.device();
        Ok(Self {
            quantiser: Quantiser::new(Backend::on(device), &blocks, device)?,
            base,
            adapter,
            bias: bias.map(Tensor::shallow_clone),
            kind: weight.kind(),
        })
    }

    /// `W + s·U·D`, f32, without a history.
    fn merged(&self) -> Result<Tensor> {
        tch::no_grad(|| self.adapter.scale.sum(&self.base, self.adapter.leaves()))
    }

    /// `Q(W + s·U·D)`. What is quantised is gone when it is: in f32, and kept for the backward pass, it would be the largest of
    /// all that a training keeps.
    fn rounded(&self) -> Result<Tensor> {
        let ([down, up], scale) = (self.adapter.leaves(), self.adapter.scale);
        let lost = || Error::new(ErrorKind::Train, "the adapter is lost");
        let make = move |parts: &[Tensor]| match parts {
            [base, down, up] => scale.sum(base, [down, up]),
            _ => Err(lost()),
        };
        let split = move |of_sum: Tensor, parts: &[Tensor]| match parts {
            [_, down, up] => {
                let [of_down, of_up] = scale.gradients_of_sum(of_sum, [down, up])?;
                Ok(vec![None, Some(of_down), Some(of_up)])
            }
            _ => Err(lost()),
        };
        self.quantiser.of_made(&[&self.base, down, up], make, split, self.kind)
    }
}

impl Linear for Merged {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        product(x, &self.rounded()?, self.bias.as_ref(), self.quantiser.quant().compute)
    }

    fn weight(&self) -> Result<Tensor> {
        Ok(self.rounded()?.f_to_kind(self.kind)?)
    }

    fn plain(&self, kind: Kind) -> Result<Option<Plain>> {
        if self.quantiser.quant().compute.is_some_and(|compute| compute != kind) {
            return Ok(None);
        }
        Plain::new(&self.rounded()?, self.bias(), kind).map(Some)
    }

    fn quantised(&self) -> Result<Option<QuantisedMatrix>> {
        self.quantiser.quantised(&self.merged()?).map(Some)
    }

    fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    fn leaves(&self) -> Vec<&Tensor> {
        let [down, up] = self.adapter.leaves();
        vec![down, up, self.quantiser.leaf()]
    }

    fn share(&self) -> Box<dyn Linear> {
        Box::new(Self {
            base: self.base.shallow_clone(),
            adapter: self.adapter.share(),
            quantiser: self.quantiser.share(),
            bias: self.bias.as_ref().map(Tensor::shallow_clone),
            kind: self.kind,
        })
    }

    fn update(&mut self, grads: &[Tensor], rates: &Rates) -> Result<()> {
        let [down, up, alpha] = grads else {
            return Err(Error::new(ErrorKind::Train, format!("{} gradients for 3 parameters", grads.len())));
        };
        self.adapter.update([down, up], rates)?;
        self.quantiser.update(alpha, rates)?;
        if !self.quantiser.chooses_after(rates.scales.step) {
            return Ok(());
        }
        let merged = self.merged()?;
        self.quantiser.choose(rates.scales.step, &merged).map(|_| ())
    }

    fn save_state(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        self.adapter.save(name, to)?;
        self.quantiser.save(name, to)
    }

    fn load_state(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        self.adapter.load(name, from)?;
        self.quantiser.load(name, from)
    }
}
