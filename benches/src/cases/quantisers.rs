//! Forward and backward of LSQ through Pi quantisers, which make their steps from α and k on the way: one α per row, and
//! one k or a k per group of 16.

use super::estimators::copied;
use super::passes::{Rows, close_to_sum, term};
use super::{Backend, Case, Shape, same, share_out};
use anyhow::Result;
use core::f32::consts::PI;
use qat_kernels::quantizer::{
    AdaptivePiQuantizer, DifferentiableQuantizer, PiQuantDifferentiable, QuantizerSettings,
};
use qat_kernels::ste::lsq_gradient_scale;
use qat_kernels::{LsqMask, SteVariant, pi_step};

/// Weights of a group with one k.
const GROUP: usize = 16;

struct Quantised {
    rows: Rows,
    /// One per thread, for its rows.
    quantisers: Vec<Box<dyn DifferentiableQuantizer + Sync>>,
    alphas: Vec<f32>,
    /// k of each run of weights; runs are of one length.
    divisors: Vec<u8>,
    w_hat: Vec<f32>,
    grad_w: Vec<f32>,
    grad_alphas: Vec<f32>,
}

pub(super) fn pi(shape: Shape) -> Result<Box<dyn Case>> {
    const K: u8 = 3;
    new(shape, vec![K; shape.rows], |settings, alphas, _| {
        Ok(Box::new(PiQuantDifferentiable::new(settings, K, alphas)?))
    })
}

pub(super) fn adaptive_pi(shape: Shape) -> Result<Box<dyn Case>> {
    let divisors = (0..shape.len() / GROUP).map(|group| 2 + (group % 4) as u8).collect();
    new(shape, divisors, |settings, alphas, divisors| {
        Ok(Box::new(AdaptivePiQuantizer::new(settings, GROUP, alphas, divisors)?))
    })
}

fn new(
    shape: Shape,
    divisors: Vec<u8>,
    make: impl Fn(
        QuantizerSettings,
        Vec<f32>,
        Vec<u8>,
    ) -> qat_kernels::Result<Box<dyn DifferentiableQuantizer + Sync>>,
) -> Result<Box<dyn Case>> {
    let rows = Rows::new(shape, 4)?;
    let settings = QuantizerSettings::new(rows.levels);
    let alphas: Vec<f32> = rows.steps.iter().map(|step| step * 3.0 / PI).collect();
    let of_thread = shape.rows_of_thread();
    let runs = of_thread * divisors.len() / shape.rows;
    let parts = alphas.chunks(of_thread).zip(divisors.chunks(runs));
    let quantisers = parts.map(|(alphas, divisors)| make(settings, alphas.to_vec(), divisors.to_vec()));
    Ok(Box::new(Quantised {
        quantisers: quantisers.collect::<qat_kernels::Result<_>>()?,
        rows,
        alphas,
        divisors,
        w_hat: vec![f32::NAN; shape.len()],
        grad_w: vec![f32::NAN; shape.len()],
        grad_alphas: vec![f32::NAN; shape.rows],
    }))
}

impl Case for Quantised {
    fn copied(&self) -> usize {
        copied(self.w_hat.len())
    }

    fn run(&mut self, _: Backend) -> qat_kernels::Result<()> {
        let Rows { shape, w, g, .. } = &self.rows;
        let (rows, len) = (shape.rows_of_thread(), shape.len_of_thread());
        let forward = self.quantisers.iter().zip(w.chunks(len)).zip(self.w_hat.chunks_mut(len));
        share_out(forward, |((quantiser, w), w_hat)| quantiser.forward(w, w_hat))?;
        let inputs = self.quantisers.iter().zip(w.chunks(len)).zip(g.chunks(len));
        let outputs = self.grad_w.chunks_mut(len).zip(self.grad_alphas.chunks_mut(rows));
        share_out(inputs.zip(outputs), |(((quantiser, w), g), (grad_w, grad_alphas))| {
            quantiser.backward(w, g, grad_w, grad_alphas)
        })
    }

    fn check(&self) -> Result<()> {
        let Rows { shape, levels, w, g, .. } = &self.rows;
        let run = shape.len() / self.divisors.len();
        let steps = self.divisors.iter().enumerate().map(|(i, k)| {
            let step = pi_step(self.alphas[i * run / shape.columns], *k)?;
            Ok((step, f64::from(PI) / f64::from(*k)))
        });
        let steps = steps.collect::<qat_kernels::Result<Vec<_>>>()?;
        let weight = |(i, w): (usize, &f32)| levels.fake_quantize(*w, steps[i / run].0);
        same("weight", &self.w_hat, w.iter().enumerate().map(weight))?;
        let (ste, mask) = (SteVariant::LearnedStepSize, LsqMask::Exact);
        let gradient = |(i, (w, g)): (usize, (&f32, &f32))| {
            ste.backward_in_range(*w, steps[i / run].0, *levels, mask, *g)
        };
        same("gradient", &self.grad_w, w.iter().zip(g).enumerate().map(gradient))?;
        let scale = lsq_gradient_scale(shape.columns, *levels).into();
        for (row, grad_alpha) in self.grad_alphas.iter().enumerate() {
            let terms = (row * shape.columns..(row + 1) * shape.columns).map(|i| {
                let (step, per_alpha) = steps[i / run];
                term(w[i], step, *levels, g[i]) * per_alpha
            });
            close_to_sum(row, *grad_alpha, scale, terms)?;
        }
        Ok(())
    }
}
