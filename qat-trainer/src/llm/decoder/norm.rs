//! Root mean square norms.

use crate::autograd::closure_node;
use crate::autograd::fused::decoder as fused;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::learned::Weight as Learned;
use crate::nn::Rates;
use tch::{Kind, Tensor};

/// A root mean square norm (Zhang and Sennrich 2019): `w·x/√(mean(x²) + ε)`, computed in f32.
#[derive(Debug)]
pub(super) struct Norm {
    weight: Weight,
    pub(super) eps: f64,
}

/// w: as it was loaded, or a parameter.
#[derive(Debug)]
enum Weight {
    Fixed(Tensor),
    Learned(Learned),
}

impl Norm {
    pub(super) fn new(weight: Tensor, eps: f64) -> Self {
        Self { weight: Weight::Fixed(weight), eps }
    }

    pub(super) fn weight(&self) -> &Tensor {
        match &self.weight {
            Weight::Fixed(weight) => weight,
            Weight::Learned(param) => param.leaf(),
        }
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let kind = x.f_kind()?;
        if fused::takes(x.device(), kind) {
            return self.fused(x);
        }
        // f64 stays f64: tests compare in it.
        let wide = if kind == Kind::BFloat16 { x.f_to_kind(Kind::Float)? } else { x.shallow_clone() };
        let mean = wide.f_square()?.f_mean_dim([-1i64].as_slice(), true, None::<Kind>)?;
        let normed = wide.f_mul(&mean.f_add_scalar(self.eps)?.f_rsqrt()?)?;
        Ok(normed.f_to_kind(kind)?.f_mul(&self.weight().f_to_kind(kind)?)?)
    }

    /// The same in one pass over x, and one or two over its gradient.
    fn fused(&self, x: &Tensor) -> Result<Tensor> {
        let (x, w) = (x.f_contiguous()?, self.weight().f_to_kind(Kind::Float)?);
        let learns = w.requires_grad();
        let (y, scales) = tch::no_grad(|| fused::norm(&x, &w, self.eps))?;
        closure_node(y, &[&x, &w], &[&x, &w, &scales], move |grad, saved| {
            let [x, w, scales] = saved else {
                return Err(Error::new(ErrorKind::Train, "the norm's operands are lost"));
            };
            let (of_x, of_w) = fused::norm_gradients([x, w, scales], &grad.f_contiguous()?, learns)?;
            Ok(vec![Some(of_x), of_w])
        })
    }

    pub(super) fn share(&self) -> Self {
        Self::new(self.weight().shallow_clone(), self.eps)
    }

    /// Learns w from now on.
    pub(super) fn learn(&mut self) -> Result<()> {
        if let Weight::Fixed(weight) = &self.weight {
            self.weight = Weight::Learned(Learned::new(weight, false)?);
        }
        Ok(())
    }

    /// One step of the optimiser; takes a gradient if w is learned.
    pub(super) fn update<'a>(
        &mut self,
        grads: &mut impl Iterator<Item = &'a Tensor>,
        rates: &Rates,
    ) -> Result<()> {
        match &mut self.weight {
            Weight::Fixed(_) => Ok(()),
            Weight::Learned(param) => param.step(grads.next(), rates),
        }
    }

    pub(super) fn save_state(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        match &self.weight {
            Weight::Fixed(_) => Ok(()),
            Weight::Learned(param) => param.save(&format!("{name}.weight"), to),
        }
    }

    pub(super) fn load_state(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        match &mut self.weight {
            Weight::Fixed(_) => Ok(()),
            Weight::Learned(param) => param.load(&format!("{name}.weight"), from),
        }
    }
}
