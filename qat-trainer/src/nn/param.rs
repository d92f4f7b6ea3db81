//! Parameters that are trained as they are: biases, batch normalisation, scales, weights in floating point.

use super::optimiser::{Moments, Rule};
use super::state;
use crate::autograd::{slice, slice_mut};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
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

    /// One step of the optimiser with the gradient times `factor`.
    pub(crate) fn update(&mut self, grad: &[f32], factor: f32, rule: Rule) -> Result<()> {
        self.moments.step(slice_mut(&mut self.leaf)?, grad, factor, &rule.decaying(self.decays))
    }

    /// Moves the running average: `a ← d·a + (1 − d)·p`, starting from p.
    pub(crate) fn average(&mut self, decay: f32) -> Result<()> {
        average(&mut self.average, slice(&self.leaf)?, decay);
        Ok(())
    }

    /// Exchanges the values and their running average, if there is one.
    pub(crate) fn swap_average(&mut self) -> Result<()> {
        if let Some(average) = &mut self.average {
            slice_mut(&mut self.leaf)?.swap_with_slice(average);
        }
        Ok(())
    }

    /// Puts values, moments and average into the state of a training.
    pub(crate) fn save(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        let shape: Vec<usize> = self.leaf.size().iter().map(|&d| d as usize).collect();
        to.insert(name, &shape, self.values()?.to_vec())?;
        self.save_state(name, to)
    }

    /// Takes them out again.
    pub(crate) fn load(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        let shape: Vec<usize> = self.leaf.size().iter().map(|&d| d as usize).collect();
        slice_mut(&mut self.leaf)?.copy_from_slice(from.get(name, &shape)?);
        self.load_state(name, from)
    }

    /// Puts moments and average into the state of a training; `name` is that of the values in it.
    pub(crate) fn save_state(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        self.moments.save(name, to)?;
        state::put_average(to, name, self.average.as_deref())
    }

    /// Takes them out again.
    pub(crate) fn load_state(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        self.moments.load(name, from)?;
        self.average = state::get_average(from, name, self.leaf.numel())?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::optimiser::Sgd;
    use qat_kernels::ste_simd::AdamW;
    use tch::nn::{OptimizerConfig, VarStore};

    /// 50 steps of `rule` (given the number of the step) beside one of torch's optimisers.
    fn beside_torch<C: OptimizerConfig>(config: C, rule: impl Fn(u32) -> Rule) {
        let start: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut ours = Param::new(&start, &[37], true).unwrap();
        let vs = VarStore::new(Device::Cpu);
        let torch = vs.root().var_copy("p", &Tensor::from_slice(&start));
        let mut optimizer = config.build(&vs, 1e-2).unwrap();
        for t in 1..=50 {
            let target = Tensor::from_slice(&start).roll([t], [0]);
            let loss = |p: &Tensor| (p - &target).pow_tensor_scalar(2).sum(Kind::Float);
            optimizer.backward_step(&loss(&torch));
            let g = Tensor::f_run_backward(&[loss(ours.leaf())], &[ours.leaf()], false, false).unwrap();
            ours.update(slice(&g[0]).unwrap(), 1.0, rule(t as u32)).unwrap();
        }
        let torch = torch.detach();
        for (a, b) in ours.values().unwrap().iter().zip(slice(&torch).unwrap()) {
            assert!((a - b).abs() < 2e-6, "{a} {b}");
        }
        assert!((ours.values().unwrap()[5] - start[5]).abs() > 0.05);
    }

    #[test]
    fn equals_torchs_adamw() {
        let config = tch::nn::AdamW { wd: 0.1, ..Default::default() };
        beside_torch(config, |step| {
            Rule::AdamW(AdamW { lr: 1e-2, weight_decay: 0.1, step, ..AdamW::default() })
        });
    }

    #[test]
    fn equals_torchs_sgd() {
        for nesterov in [false, true] {
            let config = tch::nn::Sgd { momentum: 0.8, dampening: 0.0, wd: 0.1, nesterov };
            let sgd = Sgd { lr: 1e-2, momentum: 0.8, nesterov, weight_decay: 0.1 };
            beside_torch(config, |_| Rule::Sgd(sgd));
        }
    }

    #[test]
    fn the_average_starts_at_the_first_value_follows_and_changes_places() {
        let mut p = Param::new(&[1.0], &[1], false).unwrap();
        p.average(0.9).unwrap();
        p.update(&[-1.0], 1.0, Rule::AdamW(AdamW { lr: 1.0, ..AdamW::default() })).unwrap();
        p.average(0.9).unwrap();
        let now = p.values().unwrap()[0];
        p.swap_average().unwrap();
        assert!((p.values().unwrap()[0] - 1.1).abs() < 1e-5);
        p.swap_average().unwrap();
        assert_eq!(p.values().unwrap()[0], now);
    }

    #[test]
    fn a_restored_parameter_goes_on_bit_for_bit() {
        let rule = |step| Rule::AdamW(AdamW { lr: 0.1, step, ..AdamW::default() });
        let step = |p: &mut Param, t: u32| {
            p.update(&[0.3 * t as f32, -1.0 / t as f32], 0.7, rule(t)).unwrap();
            p.average(0.9).unwrap();
        };
        let mut p = Param::new(&[1.0, -2.0], &[2], true).unwrap();
        (1..=3).for_each(|t| step(&mut p, t));
        let mut c = Checkpoint::default();
        p.save_state("p", &mut c).unwrap();
        let mut q = Param::new(p.values().unwrap(), &[2], true).unwrap();
        q.load_state("p", &c).unwrap();
        for p in [&mut p, &mut q] {
            (4..=6).for_each(|t| step(p, t));
        }
        assert_eq!(p.values().unwrap(), q.values().unwrap());
        for p in [&mut p, &mut q] {
            p.swap_average().unwrap();
        }
        assert_eq!(p.values().unwrap(), q.values().unwrap());
    }
}
