//! Fake-quantised matrices on a GPU whose weights stay outside of torch's graph.
//!
//! As with [`super::FakeQuantised`], the network computes with ŵ, a leaf that lives as long as the matrix, and one pass over memory
//! makes of ∂L/∂ŵ the next w, α and ŵ; here a kernel does it. A forward pass costs nothing beyond that of a dense matrix.

use super::leaves::product;
use super::node::{Backend, quantised};
use super::parameters::{Parameter, Quantiser, adamw, at_codes, factors, fitted};
use super::{Blocks, MatrixQuant};
use crate::autograd::fused::learn::{Moments, learn};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::linear::{Linear, Plain};
use crate::llm::quantised::QuantisedMatrix;
use crate::nn::Rates;
use tch::{Kind, Tensor};

/// A quantised matrix in training, where the fused kernels compute. The weights it learns are f32 whatever the decoder's kind;
/// the bias stays as it is.
#[derive(Debug)]
pub struct DeviceQuantised {
    /// bf16 if that is what products are computed in, and f32 otherwise.
    w_hat: Tensor,
    weight: Parameter,
    quantiser: Quantiser,
    bias: Option<Tensor>,
    kind: Kind,
}

impl DeviceQuantised {
    /// As [`super::NodeQuantised::new`].
    ///
    /// # Errors
    /// The same, and [`ErrorKind::Train`] where there are no fused kernels.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::MatrixQuant, spec::WeightQuant};
    /// use qat_trainer::llm::{Backend, DeviceQuantised};
    /// use tch::{Device, Tensor};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant::new(quant);
    /// let device = Device::cuda_if_available();
    /// let w = Tensor::from_slice(&[0.25f32, -0.75]).view([1, 2]).to_device(device);
    /// let made = DeviceQuantised::new(&w, None, quant, None);
    /// assert_eq!(made.is_ok(), Backend::on(device) == Backend::Fused);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn new(
        weight: &Tensor,
        bias: Option<&Tensor>,
        quant: MatrixQuant,
        importance: Option<&[f32]>,
    ) -> Result<Self> {
        Self::build(weight, bias, fitted(weight, quant, importance)?)
    }

    /// As [`super::FakeQuantised::from_quantised`].
    ///
    /// # Errors
    /// The same, and [`ErrorKind::Train`] where there are no fused kernels.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{MatrixQuant, QuantisedMatrix}, spec::WeightQuant};
    /// use qat_trainer::{ErrorKind, llm::{Backend, DeviceQuantised, Linear}};
    /// use tch::{Device, Tensor};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant::new(quant);
    /// let row = [0.3f32, -0.8, 2.2, -0.1];
    /// let start = QuantisedMatrix::fit(quant.blocks(), &row, 4, None)?;
    /// let device = Device::cuda_if_available();
    /// let w = Tensor::from_slice(&row).view([1, 4]).to_device(device);
    /// match DeviceQuantised::from_quantised(&w, None, quant, &start) {
    ///     Ok(matrix) => assert_eq!(matrix.quantised()?, Some(start)), // the same codes
    ///     Err(e) => assert_eq!(e.kind(), ErrorKind::Train), // no fused kernels
    /// }
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn from_quantised(
        weight: &Tensor,
        bias: Option<&Tensor>,
        quant: MatrixQuant,
        start: &QuantisedMatrix,
    ) -> Result<Self> {
        Self::build(weight, bias, at_codes(weight, quant, start)?)
    }

    fn build(weight: &Tensor, bias: Option<&Tensor>, (w, blocks): (Tensor, Blocks)) -> Result<Self> {
        let (device, kind) = (weight.device(), weight.f_kind()?);
        let parameter = Parameter::new(&w.f_to_device(device)?)?;
        let quantiser = Quantiser::new(Backend::Fused, &blocks, device)?;
        let w_hat = tch::no_grad(|| quantised_by(&quantiser, &parameter, kind))?;
        Ok(Self {
            w_hat: w_hat.f_set_requires_grad(true)?,
            weight: parameter,
            quantiser,
            bias: bias.map(Tensor::shallow_clone),
            kind,
        })
    }

    fn requantise(&mut self) -> Result<()> {
        tch::no_grad(|| {
            let next = quantised_by(&self.quantiser, &self.weight, self.kind)?;
            Ok(self.w_hat.f_copy_(&next)?)
        })
    }
}

/// ŵ, without a history.
fn quantised_by(quantiser: &Quantiser, weight: &Parameter, kind: Kind) -> Result<Tensor> {
    let wanted = quantiser.quant().compute.unwrap_or(kind);
    quantised(*quantiser.quant(), Backend::Fused, &quantiser.operands(&weight.leaf), wanted)
}

impl Linear for DeviceQuantised {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        product(x, &self.w_hat, self.bias.as_ref(), self.quantiser.quant().compute)
    }

    fn weight(&self) -> Result<Tensor> {
        Ok(self.w_hat.f_to_kind(self.kind)?)
    }

    fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    fn plain(&self, kind: Kind) -> Result<Option<Plain>> {
        if self.quantiser.quant().compute.is_some_and(|compute| compute != kind) {
            return Ok(None);
        }
        Plain::new(&self.w_hat, self.bias(), kind).map(Some)
    }

    fn quantised(&self) -> Result<Option<QuantisedMatrix>> {
        self.quantiser.quantised(&self.weight.leaf).map(Some)
    }

    fn leaves(&self) -> Vec<&Tensor> {
        vec![&self.w_hat]
    }

    fn share(&self) -> Box<dyn Linear> {
        let bias = self.bias.as_ref().map(Tensor::shallow_clone);
        let quantiser = self.quantiser.share();
        let w_hat = self.w_hat.shallow_clone();
        Box::new(Self { w_hat, weight: self.weight.share(), quantiser, bias, ..*self })
    }

    fn update(&mut self, grads: &[Tensor], rates: &Rates) -> Result<()> {
        let [grad] = grads else {
            return Err(Error::new(ErrorKind::Train, format!("{} gradients for 1 parameter", grads.len())));
        };
        let of_weights = factors(&adamw(rates)?, rates.factor)?;
        let of_steps = self.quantiser.factors(rates)?;
        tch::no_grad(|| {
            let grad = grad.f_to_kind(self.w_hat.f_kind()?)?.f_contiguous()?;
            let operands = self.quantiser.operands(&self.weight.leaf);
            let moments = Moments { of_w: self.weight.moments(), of_alpha: self.quantiser.moments() };
            let quantiser = operands.fused(*self.quantiser.quant())?;
            let steps = of_steps.as_ref();
            learn(&quantiser, operands.weights(), moments, &of_weights, steps, &grad, &self.w_hat)
        })?;
        if self.quantiser.choose(rates.scales.step, &self.weight.leaf)? { self.requantise() } else { Ok(()) }
    }

    fn save_state(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        self.weight.save(&format!("{name}.weight"), to)?;
        self.quantiser.save(name, to)
    }

    fn load_state(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        self.weight.load(&format!("{name}.weight"), from)?;
        self.quantiser.load(name, from)?;
        self.requantise()
    }
}
