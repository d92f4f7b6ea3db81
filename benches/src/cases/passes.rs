//! The passes of `ste_simd` with a step per row, but forward and backward, which [`super::estimators`] has.

use super::{Backend, Case, Shape, same, share_out};
use crate::numbers::SplitMix64;
use anyhow::{Result, ensure};
use qat_kernels::ste::lsq_step_gradient;
use qat_kernels::ste_simd::Kernels;
use qat_kernels::{Grid, Levels, LsqMask};

/// Weights, gradients and a step per row; most weights are inside the range, some beyond each end.
pub(super) struct Rows {
    pub(super) shape: Shape,
    pub(super) levels: Levels,
    pub(super) steps: Vec<f32>,
    pub(super) w: Vec<f32>,
    pub(super) g: Vec<f32>,
}

impl Rows {
    pub(super) fn new(shape: Shape, bits: u8) -> Result<Self> {
        let levels = Levels::new(bits, Grid::MidTread)?;
        let mut random = SplitMix64(1);
        let steps: Vec<f32> = (0..shape.rows).map(|_| (random.unit() * 0.02 + 0.01) as f32).collect();
        let mut w = random.clone().bells(shape.len());
        for (row, step) in w.chunks_mut(shape.columns).zip(&steps) {
            row.iter_mut().for_each(|w| *w *= step * levels.top() / 2.5);
        }
        let g = SplitMix64(2).bells(shape.len());
        Ok(Self { shape, levels, steps, w, g })
    }

    /// The step of a weight.
    pub(super) fn step(&self, i: usize) -> f32 {
        self.steps[i / self.shape.columns]
    }

    /// Refuses steps' gradients that are not the sum of their terms.
    pub(super) fn check_sums(&self, sums: &[f32]) -> Result<()> {
        let rows = self.w.chunks(self.shape.columns).zip(self.g.chunks(self.shape.columns));
        for (i, ((sum, step), (w, g))) in sums.iter().zip(&self.steps).zip(rows).enumerate() {
            close_to_sum(i, *sum, 1.0, w.iter().zip(g).map(|(w, g)| term(*w, *step, self.levels, *g)))?;
        }
        Ok(())
    }
}

/// What a weight adds to the gradient of its step.
pub(super) fn term(w: f32, step: f32, levels: Levels, g: f32) -> f64 {
    lsq_step_gradient(w, step, levels, LsqMask::Exact, g).into()
}

/// Refuses a sum that is not `factor` times that of the terms in f64.
pub(super) fn close_to_sum(
    i: usize,
    found: f32,
    factor: f64,
    terms: impl Iterator<Item = f64>,
) -> Result<()> {
    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
    let error = (f64::from(found) - sum * factor).abs();
    ensure!(error <= 1e-6 * size * factor, "sum {i} is {found}, not {}", sum * factor);
    Ok(())
}

const F32: usize = size_of::<f32>();

struct Quantise {
    rows: Rows,
    codes: Vec<i8>,
}

pub(super) fn quantise(shape: Shape) -> Result<Box<dyn Case>> {
    Ok(Box::new(Quantise { rows: Rows::new(shape, 2)?, codes: vec![i8::MAX; shape.len()] }))
}

impl Case for Quantise {
    fn copied(&self) -> usize {
        self.codes.len() * (F32 + 1) / 2
    }

    fn run(&mut self, backend: Backend) -> qat_kernels::Result<()> {
        let Rows { shape, levels, steps, w, .. } = &self.rows;
        let (rows, len) = (shape.rows_of_thread(), shape.len_of_thread());
        let parts = steps.chunks(rows).zip(w.chunks(len)).zip(self.codes.chunks_mut(len));
        share_out(parts, |((steps, w), codes)| Kernels::on(backend).quantize(*levels, steps, w, codes))
    }

    fn check(&self) -> Result<()> {
        let Rows { levels, w, .. } = &self.rows;
        let code = |(i, w): (usize, &f32)| levels.quantize(*w, self.rows.step(i)) as i8;
        same("code", &self.codes, w.iter().enumerate().map(code))
    }
}

struct Dequantise {
    rows: Rows,
    codes: Vec<i8>,
    out: Vec<f32>,
}

pub(super) fn dequantise(shape: Shape) -> Result<Box<dyn Case>> {
    let rows = Rows::new(shape, 2)?;
    let code = |(i, w): (usize, &f32)| rows.levels.quantize(*w, rows.step(i)) as i8;
    let codes = rows.w.iter().enumerate().map(code).collect();
    Ok(Box::new(Dequantise { codes, out: vec![f32::NAN; shape.len()], rows }))
}

impl Case for Dequantise {
    fn copied(&self) -> usize {
        F32 * self.out.len()
    }

    fn run(&mut self, backend: Backend) -> qat_kernels::Result<()> {
        let Rows { shape, levels, steps, .. } = &self.rows;
        let (rows, len) = (shape.rows_of_thread(), shape.len_of_thread());
        let parts = steps.chunks(rows).zip(self.codes.chunks(len)).zip(self.out.chunks_mut(len));
        share_out(parts, |((steps, codes), out)| Kernels::on(backend).dequantize(*levels, steps, codes, out))
    }

    fn check(&self) -> Result<()> {
        let weight =
            |(i, code): (usize, &i8)| self.rows.levels.dequantize(i32::from(*code), self.rows.step(i));
        same("weight", &self.out, self.codes.iter().enumerate().map(weight))
    }
}

struct FakeQuantise {
    rows: Rows,
    out: Vec<f32>,
}

pub(super) fn fake_quantise(shape: Shape) -> Result<Box<dyn Case>> {
    Ok(Box::new(FakeQuantise { rows: Rows::new(shape, 4)?, out: vec![f32::NAN; shape.len()] }))
}

impl Case for FakeQuantise {
    fn copied(&self) -> usize {
        F32 * self.out.len()
    }

    fn run(&mut self, backend: Backend) -> qat_kernels::Result<()> {
        let Rows { shape, levels, steps, w, .. } = &self.rows;
        let (rows, len) = (shape.rows_of_thread(), shape.len_of_thread());
        let parts = steps.chunks(rows).zip(w.chunks(len)).zip(self.out.chunks_mut(len));
        share_out(parts, |((steps, w), out)| Kernels::on(backend).fake_quantize(*levels, steps, w, out))
    }

    fn check(&self) -> Result<()> {
        let Rows { levels, w, .. } = &self.rows;
        let weight = |(i, w): (usize, &f32)| levels.fake_quantize(*w, self.rows.step(i));
        same("weight", &self.out, w.iter().enumerate().map(weight))
    }
}

struct ScaleGradient {
    rows: Rows,
    step_grads: Vec<f32>,
}

pub(super) fn scale_gradient(shape: Shape) -> Result<Box<dyn Case>> {
    Ok(Box::new(ScaleGradient { rows: Rows::new(shape, 4)?, step_grads: vec![f32::NAN; shape.rows] }))
}

impl Case for ScaleGradient {
    fn copied(&self) -> usize {
        F32 * self.rows.shape.len()
    }

    fn run(&mut self, backend: Backend) -> qat_kernels::Result<()> {
        let Rows { shape, levels, steps, w, g } = &self.rows;
        let (rows, len) = (shape.rows_of_thread(), shape.len_of_thread());
        let inputs = steps.chunks(rows).zip(w.chunks(len)).zip(g.chunks(len));
        share_out(inputs.zip(self.step_grads.chunks_mut(rows)), |(((steps, w), g), step_grads)| {
            Kernels::on(backend).step_gradient(*levels, LsqMask::Exact, steps, w, g, step_grads)
        })
    }

    fn check(&self) -> Result<()> {
        self.rows.check_sums(&self.step_grads)
    }
}
