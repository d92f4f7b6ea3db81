//! `Q(W + s·U·D)`.

use super::adapter::{Adapter, plain};
use crate::autograd::slice;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::linear::Linear;
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
    /// W, f32.
    base: Tensor,
    adapter: Adapter,
    quantiser: Quantiser,
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
        let base = weight.f_to_kind(Kind::Float)?;
        let start = tch::no_grad(|| base.f_add(&adapter.matrix()?).map_err(Error::from))?;
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

    fn merged(&self) -> Result<Tensor> {
        Ok(self.base.f_add(&self.adapter.matrix()?)?)
    }
}

impl Linear for Merged {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let w_hat = self.quantiser.of(&self.merged()?, self.kind)?;
        product(x, &w_hat, self.bias.as_ref(), self.quantiser.quant().compute)
    }

    fn weight(&self) -> Result<Tensor> {
        Ok(self.quantiser.of(&self.merged()?, self.kind)?.f_to_kind(self.kind)?)
    }

    fn quantised(&self) -> Result<Option<QuantisedMatrix>> {
        let merged = tch::no_grad(|| self.merged())?;
        self.quantiser.quantised(&merged).map(Some)
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
        let merged = tch::no_grad(|| self.merged())?;
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
