//! Forward and backward with each estimator: quantised weights, gradients of the weights, gradients of the steps.

use super::passes::Rows;
use super::{Backend, Case, Shape, same, share_out};
use anyhow::Result;
use qat_kernels::ste_simd::Kernels;
use qat_kernels::{LsqMask, SteVariant};

const MASK: LsqMask = LsqMask::Exact;

struct ForwardBackward {
    ste: SteVariant,
    rows: Rows,
    w_hat: Vec<f32>,
    grad_w: Vec<f32>,
    step_grads: Vec<f32>,
}

pub(super) fn standard(shape: Shape) -> Result<Box<dyn Case>> {
    new(SteVariant::Standard, shape)
}

pub(super) fn clipped(shape: Shape) -> Result<Box<dyn Case>> {
    // About where the ranges of the rows end.
    new(SteVariant::Clipped { clip_val: 0.1 }, shape)
}

pub(super) fn lsq(shape: Shape) -> Result<Box<dyn Case>> {
    new(SteVariant::LearnedStepSize, shape)
}

pub(super) fn ewgs(shape: Shape) -> Result<Box<dyn Case>> {
    new(SteVariant::Ewgs { lambda: 0.2 }, shape)
}

fn new(ste: SteVariant, shape: Shape) -> Result<Box<dyn Case>> {
    Ok(Box::new(ForwardBackward {
        ste,
        rows: Rows::new(shape, 4)?,
        w_hat: vec![f32::NAN; shape.len()],
        grad_w: vec![f32::NAN; shape.len()],
        step_grads: vec![f32::NAN; shape.rows],
    }))
}

/// Half of what forward (a tensor read, one written) and backward (two read, one written) move.
pub(super) const fn copied(weights: usize) -> usize {
    5 * size_of::<f32>() * weights / 2
}

impl Case for ForwardBackward {
    fn copied(&self) -> usize {
        copied(self.w_hat.len())
    }

    fn run(&mut self, backend: Backend) -> qat_kernels::Result<()> {
        let (kernels, ste) = (Kernels::on(backend), self.ste);
        let Rows { shape, levels, steps, w, g } = &self.rows;
        let (rows, len) = (shape.rows_of_thread(), shape.len_of_thread());
        let forward = steps.chunks(rows).zip(w.chunks(len)).zip(self.w_hat.chunks_mut(len));
        share_out(forward, |((steps, w), w_hat)| kernels.fake_quantize(*levels, steps, w, w_hat))?;
        let inputs = steps.chunks(rows).zip(w.chunks(len)).zip(g.chunks(len));
        let outputs = self.grad_w.chunks_mut(len).zip(self.step_grads.chunks_mut(rows));
        share_out(inputs.zip(outputs), |(((steps, w), g), (grad_w, step_grads))| {
            kernels.backward(ste, *levels, MASK, steps, w, g, grad_w, step_grads)
        })
    }

    fn check(&self) -> Result<()> {
        let Rows { levels, w, g, .. } = &self.rows;
        let weight = |(i, w): (usize, &f32)| levels.fake_quantize(*w, self.rows.step(i));
        same("weight", &self.w_hat, w.iter().enumerate().map(weight))?;
        let gradient = |(i, (w, g)): (usize, (&f32, &f32))| {
            self.ste.backward_in_range(*w, self.rows.step(i), *levels, MASK, *g)
        };
        same("gradient", &self.grad_w, w.iter().zip(g).enumerate().map(gradient))?;
        self.rows.check_sums(&self.step_grads)
    }
}
