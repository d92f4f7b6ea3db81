//! Randomised Hadamard rotation of every row, in place.

use super::{Backend, Case, Shape, share_out};
use crate::numbers::SplitMix64;
use anyhow::{Result, ensure};
use qat_kernels::hadamard::Rotation;

const ROTATION: Rotation = Rotation::new(1);

/// Each run rotates what the last one has left: lengths stay.
struct Hadamard {
    shape: Shape,
    first: Vec<f32>,
    x: Vec<f32>,
    runs: usize,
}

pub(super) fn hadamard(shape: Shape) -> Result<Box<dyn Case>> {
    let x = SplitMix64(5).bells(shape.len());
    Ok(Box::new(Hadamard { shape, first: x.clone(), x, runs: 0 }))
}

impl Case for Hadamard {
    fn copied(&self) -> usize {
        size_of::<f32>() * self.x.len()
    }

    fn run(&mut self, _: Backend) -> qat_kernels::Result<()> {
        self.runs += 1;
        let columns = self.shape.columns;
        if self.shape.threads == 1 {
            return ROTATION.rotate_rows(&mut self.x, columns);
        }
        share_out(self.x.chunks_mut(self.shape.len_of_thread()), |x| ROTATION.rotate_rows(x, columns))
    }

    /// Some numbers of some rows, by the definition, in f64.
    fn check(&self) -> Result<()> {
        ensure!(self.runs > 0, "nothing was done");
        let columns = self.shape.columns;
        for row in (0..self.shape.rows).step_by(self.shape.rows.div_ceil(4)) {
            let range = row * columns..(row + 1) * columns;
            let mut x: Vec<f64> = self.first[range.clone()].iter().map(|x| f64::from(*x)).collect();
            (0..self.runs).for_each(|_| rotate(&mut x));
            let size = (x.iter().map(|x| x * x).sum::<f64>() / columns as f64).sqrt();
            for (i, (found, x)) in self.x[range].iter().zip(x).enumerate() {
                let error = (f64::from(*found) - x).abs();
                ensure!(error <= 1e-5 * size, "number {i} of row {row} is {found}, not {x}");
            }
        }
        Ok(())
    }
}

/// The definition: signs, then every pair of every stage.
fn rotate(x: &mut [f64]) {
    for (_, x) in x.iter_mut().enumerate().filter(|(i, _)| ROTATION.negates(*i)) {
        *x = -*x;
    }
    for block in ROTATION.blocks(x.len()) {
        let block = &mut x[block];
        let mut h = 1;
        while h < block.len() {
            for i in (0..block.len()).filter(|i| i & h == 0) {
                (block[i], block[i + h]) = (block[i] + block[i + h], block[i] - block[i + h]);
            }
            h *= 2;
        }
        let scale = 1.0 / (block.len() as f64).sqrt();
        block.iter_mut().for_each(|x| *x *= scale);
    }
}
