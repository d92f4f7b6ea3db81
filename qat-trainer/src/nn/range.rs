//! Activations of 2 to 8 bits during training: the affine quantiser of the integer engine, on floats.
//!
//! ```text
//! q = clamp(round_ties_even(x/s) + z, lo, hi)      x̂ = (q − z)·s      lo = −2^(b−1), hi = 2^(b−1) − 1
//! ```
//!
//! The zero point z is fixed by calibration; the scale s may be learned. Its gradient is that of LSQ (Esser et al. 2020,
//! equation 3) with the bounds lo − z and hi − z, and its optimiser works on log s: relative steps suit ranges of any
//! size, and the scale cannot leave the positive numbers (INV-2).

use super::optimiser::{Moments, Update};
use super::parallel::{UNIT, in_units};
use super::param::{average, leaf};
use super::state;
use crate::affine::Affine;
use crate::autograd::{closure_node_taking, is_sole_owner, memory, memory_mut, slice_mut};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use qat_kernels::ste_simd::{AdamW, AffineGrid, Kernels};
use tch::Tensor;

/// The grid of an [`Affine`], for the kernels: the codes' bounds relative to the zero point.
fn grid_of(a: Affine, bits: u8) -> Result<AffineGrid> {
    let [lo, hi] = Affine::codes(bits).map(i16::from);
    let z = i16::from(a.zero_point);
    Ok(AffineGrid::new(a.scale, lo - z, hi - z)?)
}

/// x̂ of all numbers with 8 bits, in place.
pub(crate) fn fake_quantize_slice(affine: Affine, x: &mut [f32]) -> Result<()> {
    Kernels::default().round_activations_in_place(grid_of(affine, 8)?, x);
    Ok(())
}

/// `t` itself if it lies in memory in the order of `pattern`, else a copy that does.
fn like(t: &Tensor, pattern: &Tensor) -> Result<Tensor> {
    if t.stride() == pattern.stride() {
        return Ok(t.shallow_clone());
    }
    let mut copy = pattern.f_empty_like()?;
    copy.f_copy_(t)?;
    Ok(copy)
}

/// x̂ as a node of the graph. `scale` is the leaf that holds the grid's scale; it gets LSQ's gradient times `factor`.
fn fake_quantize(x: &Tensor, grid: AffineGrid, scale: &Tensor, factor: f32) -> Result<Tensor> {
    let mut y = tch::no_grad(|| x.f_empty_like())?;
    let x = &like(x, &y)?;
    let kernels = Kernels::default();
    let units = memory_mut(&mut y)?.chunks_mut(UNIT).zip(memory(x)?.chunks(UNIT)).collect();
    in_units(units, |(y, x)| kernels.round_activations(grid, x, y)).into_iter().collect::<Result<(), _>>()?;
    let learned = scale.requires_grad();
    closure_node_taking(y, &[x, scale], &[x], move |grad, saved| {
        let [x] = saved else { return Err(Error::new(ErrorKind::Train, "one saved tensor expected")) };
        let (grad_x, sum) = backward(kernels, grid, x, grad)?;
        let grad_scale = match learned {
            true => Some(Tensor::f_from_slice(&[(sum * f64::from(factor)) as f32])?),
            false => None,
        };
        Ok(vec![Some(grad_x), grad_scale])
    })
}

/// The gradient with respect to x, and the sum that the scale's gradient is made of. The former takes the place of `grad`
/// if nothing else holds that.
fn backward(kernels: Kernels, grid: AffineGrid, x: &Tensor, mut grad: Tensor) -> Result<(Tensor, f64)> {
    let in_place = grad.stride() == x.stride() && is_sole_owner(&mut grad)?;
    let (grad_x, sums) = if in_place {
        let units = memory_mut(&mut grad)?.chunks_mut(UNIT).zip(memory(x)?.chunks(UNIT)).collect();
        let sums = in_units(units, |(g, x)| kernels.activations_backward_in_place(grid, x, g));
        (grad, sums)
    } else {
        let mut grad_x = x.f_empty_like()?;
        let grad = like(&grad, &grad_x)?;
        let sources = memory(&grad)?.chunks(UNIT).zip(memory(x)?.chunks(UNIT));
        let units = memory_mut(&mut grad_x)?.chunks_mut(UNIT).zip(sources).collect();
        let sums = in_units(units, |(grad_x, (g, x))| kernels.activations_backward(grid, x, g, grad_x));
        (grad_x, sums)
    };
    let sums = sums.into_iter().collect::<Result<Vec<f32>, _>>()?;
    Ok((grad_x, sums.into_iter().map(f64::from).sum()))
}

/// The quantiser of one activation, with its learned scale.
#[derive(Debug)]
pub(crate) struct Range {
    affine: Affine,
    bits: u8,
    leaf: Tensor,
    moments: Moments,
    average: Option<Vec<f32>>,
    elements: usize,
}

impl Range {
    /// A quantiser of `bits` that starts from `affine`, for activations of `elements` numbers per example. Its scale is
    /// `learned` or stays.
    pub(crate) fn new(affine: Affine, bits: u8, elements: usize, learned: bool) -> Result<Self> {
        let leaf = leaf(&[affine.scale], &[1])?.f_set_requires_grad(learned)?;
        Ok(Self { affine, bits, leaf, moments: Moments::new(1), average: None, elements })
    }

    /// Scale and zero point.
    pub(crate) fn affine(&self) -> Affine {
        self.affine
    }

    /// Whether its smallest code stands for 0, so that rounding to it is a ReLU.
    pub(crate) fn starts_at_zero(&self) -> bool {
        self.affine.zero_point == Affine::codes(self.bits)[0]
    }

    /// x̂.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // LSQ's factor, with N counted per example so that it does not depend on the batch.
        let factor = 1.0 / (self.elements as f32 * f32::from(Affine::codes(self.bits)[1])).sqrt();
        fake_quantize(x, grid_of(self.affine, self.bits)?, &self.leaf, factor)
    }

    /// The leaf of a learned scale.
    pub(crate) fn leaf(&self) -> Option<&Tensor> {
        self.leaf.requires_grad().then_some(&self.leaf)
    }

    /// One step of AdamW on log s, given the gradient of s.
    pub(crate) fn update(&mut self, grad: f32, adamw: &AdamW) -> Result<()> {
        let (m, v) = self.moments.split();
        let delta = Update::new(adamw).step(grad * self.affine.scale, &mut m[0], &mut v[0]);
        self.set(self.affine.scale * (-delta).exp())
    }

    /// Moves the running average of s.
    pub(crate) fn average(&mut self, decay: f32) {
        average(&mut self.average, &[self.affine.scale], decay);
    }

    /// Exchanges the scale and its average, if there is one.
    pub(crate) fn swap_average(&mut self) -> Result<()> {
        let now = self.affine.scale;
        match self.average.as_mut().and_then(|a| a.first_mut()) {
            Some(average) => {
                let scale = std::mem::replace(average, now);
                self.set(scale)
            }
            None => Ok(()),
        }
    }

    /// Puts moments and average into the state of a training; `name` is that of the scale in it.
    pub(crate) fn save_state(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        self.moments.save(name, to)?;
        state::put_average(to, name, self.average.as_deref())
    }

    /// Takes them out again.
    pub(crate) fn load_state(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        self.moments.load(name, from)?;
        self.average = state::get_average(from, name, 1)?;
        Ok(())
    }

    fn set(&mut self, scale: f32) -> Result<()> {
        if scale.is_nan() {
            return Err(Error::new(ErrorKind::Train, "the scale of an activation is no longer a number")
                .remedy("lower the learning rate"));
        }
        // Far beyond any activation, far from where a product with a weight's step would leave the normal numbers.
        self.affine.scale = scale.clamp(1e-12, 1e12);
        slice_mut(&mut self.leaf)?[0] = self.affine.scale;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::normal;
    use tch::{Device, Kind};

    /// The same function from torch's operators, with the detach trick.
    fn reference(x: &Tensor, a: Affine, bits: u8, scale: &Tensor) -> Tensor {
        let z = f64::from(a.zero_point);
        let [lo, hi] = Affine::codes(bits).map(f64::from);
        let v = (x / scale).clamp(lo - z, hi - z);
        (v.round() - &v).detach().f_add(&v).unwrap() * scale
    }

    #[test]
    fn forward_and_gradients_equal_torchs_operators() {
        for (affine, bits, n) in [
            (Affine { scale: 0.013, zero_point: -128 }, 8, 50_000i64), // several units and a tail
            (Affine { scale: 0.02, zero_point: 31 }, 8, 1003),
            (Affine { scale: 0.2, zero_point: -8 }, 4, 1003),
            (Affine { scale: 0.7, zero_point: 0 }, 2, 1003),
        ] {
            let grid = grid_of(affine, bits).unwrap();
            let x = normal(4, &[n]).set_requires_grad(true);
            let g = normal(5, &[n]);
            let scale = leaf(&[affine.scale], &[1]).unwrap();
            let run = |y: Tensor| {
                let grads =
                    Tensor::f_run_backward(&[(&y * &g).sum(Kind::Float)], &[&x, &scale], false, false);
                (y.detach(), grads.unwrap())
            };
            let (ours, grads) = run(fake_quantize(&x, grid, &scale, 0.5).unwrap());
            let (torch, wanted) = run(reference(&x, affine, bits, &scale));
            assert!(ours.equal(&torch));
            assert!(grads[0].allclose(&wanted[0], 1e-6, 1e-7, false));
            let (a, b) = (grads[1].double_value(&[0]), 0.5 * wanted[1].double_value(&[0]));
            assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "{a} {b}");
            // The same numbers in another order in memory.
            if n == 50_000 {
                let permuted = |t: &Tensor| t.view([10, 20, 250]).permute([0, 2, 1]);
                let y = fake_quantize(&permuted(&x), grid, &scale, 0.5).unwrap();
                assert!(y.equal(&permuted(&torch)));
                // The gradient of a sum lies in memory like nothing at all: it is one number.
                let loss = (&y * permuted(&g).contiguous()).sum(Kind::Float);
                let again = Tensor::f_run_backward(&[loss], &[&x, &scale], false, false).unwrap();
                assert!(again[0].equal(&grads[0]) && again[1].equal(&grads[1]));
                let loss = fake_quantize(&x, grid, &scale, 0.5).unwrap().sum(Kind::Float);
                Tensor::f_run_backward(&[loss], &[&x], false, false).unwrap();
            }
            assert!(grads[0].eq(0.0).any().int64_value(&[]) == 1, "nothing was clamped");
        }
    }

    #[test]
    fn equals_the_definition() {
        for affine in
            [Affine::from_range(-1.3, 2.0), Affine::from_range(0.0, 5.1), Affine::from_range(-7.0, 0.0)]
        {
            let x: Vec<f32> = (-4000..4000).map(|i| i as f32 / 500.0).collect();
            let mut y = x.clone();
            fake_quantize_slice(affine, &mut y).unwrap();
            for (x, y) in x.iter().zip(y) {
                assert_eq!(y, affine.fake_quantize(*x), "{x}");
            }
            let (narrow, grid) = (Affine { zero_point: -3, ..affine }, |bits| {
                grid_of(Affine { zero_point: -3, ..affine }, bits).unwrap()
            });
            for bits in 3..=8 {
                for x in &x {
                    assert_eq!(grid(bits).fake_quantize(*x), narrow.fake_quantize_to(bits, *x), "{bits} {x}");
                }
            }
        }
    }

    #[test]
    fn a_learned_scale_moves_towards_less_error_and_stays_positive() {
        let x = Tensor::arange(1000, (Kind::Float, Device::Cpu)) / 1000.0;
        let mut range = Range::new(Affine { scale: 1e-3, zero_point: -128 }, 8, 1000, true).unwrap();
        for step in 1..=300 {
            let loss = (range.forward(&x).unwrap() - &x).pow_tensor_scalar(2).sum(Kind::Float);
            let g = Tensor::f_run_backward(&[loss], &[range.leaf().unwrap()], false, false).unwrap();
            let adamw = AdamW { lr: 1e-2, step, ..AdamW::default() };
            range.update(g[0].double_value(&[0]) as f32, &adamw).unwrap();
        }
        assert!((range.affine().scale * 255.0 - 1.0).abs() < 0.05, "{:?}", range.affine());
        range.update(f32::INFINITY, &AdamW::default()).unwrap_err();
    }
}
