//! Parameters that are trained as they are: biases, batch normalisation, scales, weights in floating point.

use crate::autograd::{slice, slice_mut};
use crate::error::{Error, ErrorKind, Result};
use qat_kernels::ste_simd::AdamW;
use tch::{Device, Kind, Tensor};

/// A leaf tensor with the moments of its optimiser.
#[derive(Debug)]
pub(crate) struct Param {
    leaf: Tensor,
    moments: Moments,
    average: Option<Vec<f32>>,
    decays: bool,
}

impl Param {
    /// A parameter of this shape. `decays`: whether weight decay applies to it.
    pub(crate) fn new(data: &[f32], shape: &[usize], decays: bool) -> Result<Self> {
        let leaf = leaf(data, shape)?;
        Ok(Self { leaf, moments: Moments::new(data.len()), average: None, decays })
    }

    /// The tensor for the forward pass, which also stands for the parameter in the list of gradients.
    pub(crate) fn leaf(&self) -> &Tensor {
        &self.leaf
    }

    /// The numbers.
    pub(crate) fn values(&self) -> Result<&[f32]> {
        slice(&self.leaf)
    }

    /// One step of AdamW with the gradient times `factor`.
    pub(crate) fn update(&mut self, grad: &[f32], factor: f32, adamw: &AdamW) -> Result<()> {
        let adamw = AdamW { weight_decay: if self.decays { adamw.weight_decay } else { 0.0 }, ..*adamw };
        self.moments.step(slice_mut(&mut self.leaf)?, grad, factor, &adamw)
    }

    /// Moves the running average: `a ← d·a + (1 − d)·p`, starting from p.
    pub(crate) fn average(&mut self, decay: f32) -> Result<()> {
        average(&mut self.average, slice(&self.leaf)?, decay);
        Ok(())
    }

    /// Replaces the values by their running average, if there is one.
    pub(crate) fn take_average(&mut self) -> Result<()> {
        if let Some(average) = self.average.take() {
            slice_mut(&mut self.leaf)?.copy_from_slice(&average);
        }
        Ok(())
    }
}

/// A leaf tensor with this content.
pub(crate) fn leaf(data: &[f32], shape: &[usize]) -> Result<Tensor> {
    let size: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
    // Not a reshaped view of another tensor: memory with two owners cannot be written later.
    let mut t = Tensor::f_empty(size.as_slice(), (Kind::Float, Device::Cpu))?;
    let memory = slice_mut(&mut t)?;
    if memory.len() != data.len() {
        return Err(Error::new(
            ErrorKind::Train,
            format!("{} numbers for a tensor of {shape:?}", data.len()),
        ));
    }
    memory.copy_from_slice(data);
    Ok(t.f_set_requires_grad(true)?)
}

/// Moves a running average of `values`.
pub(crate) fn average(average: &mut Option<Vec<f32>>, values: &[f32], decay: f32) {
    match average {
        Some(a) => {
            for (a, &p) in a.iter_mut().zip(values) {
                *a = decay * *a + (1.0 - decay) * p;
            }
        }
        None => *average = Some(values.to_vec()),
    }
}

/// First and second moments of AdamW.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moments {
    m: Vec<f32>,
    v: Vec<f32>,
}

impl Moments {
    /// Zero moments of `n` numbers.
    pub(crate) fn new(n: usize) -> Self {
        Self { m: vec![0.0; n], v: vec![0.0; n] }
    }

    /// Both moments, to write to.
    pub(crate) fn split(&mut self) -> (&mut [f32], &mut [f32]) {
        (&mut self.m, &mut self.v)
    }

    /// The step of [`AdamW`] on numbers that are not quantised; the same formula as the fused kernel of qat-kernels.
    pub(crate) fn step(&mut self, p: &mut [f32], grad: &[f32], factor: f32, adamw: &AdamW) -> Result<()> {
        if grad.len() != p.len() || self.m.len() != p.len() {
            let (got, want) = (grad.len(), p.len());
            return Err(Error::new(ErrorKind::Train, format!("{got} gradients for {want} parameters")));
        }
        adamw
            .validate()
            .map_err(|e| Error::new(ErrorKind::Train, e.to_string()).remedy("lower the learning rate"))?;
        let f = Update::new(adamw);
        for (((p, &g), m), v) in p.iter_mut().zip(grad).zip(&mut self.m).zip(&mut self.v) {
            *p = *p * f.decay - f.step(g * factor, m, v);
        }
        Ok(())
    }
}

/// The factors of AdamW's formula, formed in f64 and rounded once.
#[derive(Clone, Copy)]
pub(crate) struct Update {
    decay: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    rate: f32,
    scale: f32,
    eps: f32,
}

impl Update {
    /// The factors of this update.
    pub(crate) fn new(a: &AdamW) -> Self {
        let (lr, b1, b2) = (f64::from(a.lr), f64::from(a.beta1), f64::from(a.beta2));
        let power = |b: f64| b.powi(i32::try_from(a.step).unwrap_or(i32::MAX));
        Self {
            decay: (1.0 - lr * f64::from(a.weight_decay)) as f32,
            beta1: a.beta1,
            rest1: (1.0 - b1) as f32,
            beta2: a.beta2,
            rest2: (1.0 - b2) as f32,
            rate: (lr / (1.0 - power(b1))) as f32,
            scale: (1.0 / (1.0 - power(b2)).sqrt()) as f32,
            eps: a.eps,
        }
    }

    /// What to subtract from a parameter with gradient `g`, without the decay.
    #[inline(always)]
    pub(crate) fn step(self, g: f32, m: &mut f32, v: &mut f32) -> f32 {
        *m = self.beta1 * *m + self.rest1 * g;
        *v = self.beta2 * *v + (self.rest2 * g) * g;
        self.rate * *m / (v.sqrt() * self.scale + self.eps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::OptimizerConfig;

    #[test]
    fn equals_torchs_adamw() {
        let start: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut ours = Param::new(&start, &[37], true).unwrap();
        let vs = tch::nn::VarStore::new(Device::Cpu);
        let torch = vs.root().var_copy("p", &Tensor::from_slice(&start));
        let mut optimizer = tch::nn::AdamW { wd: 0.1, ..Default::default() }.build(&vs, 1e-2).unwrap();
        for t in 1..=50 {
            let target = Tensor::from_slice(&start).roll([t], [0]);
            let loss = |p: &Tensor| (p - &target).pow_tensor_scalar(2).sum(Kind::Float);
            optimizer.backward_step(&loss(&torch));
            let g = Tensor::f_run_backward(&[loss(ours.leaf())], &[ours.leaf()], false, false).unwrap();
            let adamw = AdamW { lr: 1e-2, weight_decay: 0.1, step: t as u32, ..AdamW::default() };
            ours.update(slice(&g[0]).unwrap(), 1.0, &adamw).unwrap();
        }
        let torch = torch.detach();
        for (a, b) in ours.values().unwrap().iter().zip(slice(&torch).unwrap()) {
            assert!((a - b).abs() < 2e-6, "{a} {b}");
        }
        assert!((ours.values().unwrap()[5] - start[5]).abs() > 0.05);
    }

    #[test]
    fn the_average_starts_at_the_first_value_and_follows() {
        let mut p = Param::new(&[1.0], &[1], false).unwrap();
        p.average(0.9).unwrap();
        p.update(&[-1.0], 1.0, &AdamW { lr: 1.0, ..AdamW::default() }).unwrap();
        p.average(0.9).unwrap();
        p.take_average().unwrap();
        assert!((p.values().unwrap()[0] - 1.1).abs() < 1e-5);
    }
}
