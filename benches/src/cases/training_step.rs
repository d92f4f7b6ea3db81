//! A weight's whole training step in one pass: LSQ's gradients, AdamW, and the new weights quantised.

use super::passes::Rows;
use super::{Backend, Case, Shape, share_out};
use anyhow::{Result, ensure};
use qat_kernels::ste_simd::{AdamW, Kernels};
use qat_kernels::{LsqMask, SteVariant};

/// Every run is the next update, with the same gradients.
struct TrainingStep {
    rows: Rows,
    first: Vec<f32>,
    m: Vec<f32>,
    v: Vec<f32>,
    w_hat: Vec<f32>,
    step_grads: Vec<f32>,
    adamw: AdamW,
}

pub(super) fn lsq_adamw(shape: Shape) -> Result<Box<dyn Case>> {
    let rows = Rows::new(shape, 4)?;
    let zero = || vec![0.0; shape.len()];
    Ok(Box::new(TrainingStep {
        first: rows.w.clone(),
        m: zero(),
        v: zero(),
        w_hat: vec![f32::NAN; shape.len()],
        step_grads: vec![f32::NAN; shape.rows],
        adamw: AdamW { step: 0, ..AdamW::default() },
        rows,
    }))
}

impl Case for TrainingStep {
    fn copied(&self) -> usize {
        // Four tensors read, of which three are written, and one more written.
        4 * size_of::<f32>() * self.w_hat.len()
    }

    fn run(&mut self, backend: Backend) -> qat_kernels::Result<()> {
        self.adamw.step += 1;
        let (adamw, ste, mask) = (&self.adamw, SteVariant::LearnedStepSize, LsqMask::Exact);
        let Rows { shape, levels, steps, w, g } = &mut self.rows;
        let (rows, len) = (shape.rows_of_thread(), shape.len_of_thread());
        let state = w.chunks_mut(len).zip(self.m.chunks_mut(len)).zip(self.v.chunks_mut(len));
        let out = self.w_hat.chunks_mut(len).zip(self.step_grads.chunks_mut(rows));
        let parts = steps.chunks(rows).zip(g.chunks(len)).zip(state).zip(out);
        share_out(parts, |(((steps, g), ((w, m), v)), (w_hat, step_grads))| {
            Kernels::on(backend)
                .fused_adamw(ste, *levels, mask, steps, steps, adamw, w, g, m, v, w_hat, step_grads)
        })
    }

    fn check(&self) -> Result<()> {
        ensure!(self.adamw.step > 0, "nothing was done");
        let Rows { levels, w, g, .. } = &self.rows;
        for (i, (w, w_hat)) in w.iter().zip(&self.w_hat).enumerate() {
            let expected = levels.fake_quantize(*w, self.rows.step(i));
            ensure!(*w_hat == expected, "weight {i} is {w_hat}, not {expected}");
        }
        for i in (0..w.len()).step_by(61) {
            let expected = self.textbook(self.first[i], g[i], self.rows.step(i));
            let error = (w[i] - expected).abs();
            ensure!(error <= 1e-5 * expected.abs() + 1e-7, "weight {i} is {}, not {expected}", w[i]);
        }
        Ok(())
    }
}

impl TrainingStep {
    /// A weight after as many updates as were run, by the formulas of the papers.
    fn textbook(&self, mut w: f32, g: f32, step: f32) -> f32 {
        let AdamW { lr, beta1, beta2, eps, weight_decay, step: updates } = self.adamw;
        let (mut m, mut v) = (0.0, 0.0);
        for t in 1..=updates.cast_signed() {
            let g = if self.rows.levels.inside(w / step) { g } else { 0.0 };
            m = beta1 * m + (1.0 - beta1) * g;
            v = beta2 * v + (1.0 - beta2) * g * g;
            let (m_hat, v_hat) = (m / (1.0 - beta1.powi(t)), v / (1.0 - beta2.powi(t)));
            w = w * (1.0 - lr * weight_decay) - lr * m_hat / (v_hat.sqrt() + eps);
        }
        w
    }
}
