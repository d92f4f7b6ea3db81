//! Matrices, and the generated ones.

use qat_benches::numbers::SplitMix64;

/// Weights of a layer, a row per output channel.
#[derive(Clone)]
pub(crate) struct Matrix {
    pub(crate) weights: Vec<f32>,
    pub(crate) columns: usize,
}

impl Matrix {
    pub(crate) fn rows(&self) -> usize {
        self.weights.len() / self.columns
    }

    /// The first `columns` numbers of each row.
    pub(crate) fn first_columns(&self, columns: usize) -> Self {
        let rows = self.weights.chunks(self.columns);
        Self { weights: rows.flat_map(|row| &row[..columns.min(row.len())]).copied().collect(), columns }
    }
}

/// Normal numbers, by Box and Muller.
pub(crate) fn gaussian(rows: usize, columns: usize) -> Matrix {
    let mut random = SplitMix64(1);
    let mut draw = || (-2.0 * random.unit().ln()).sqrt() * (core::f64::consts::TAU * random.unit()).cos();
    Matrix { weights: (0..rows * columns).map(|_| draw() as f32).collect(), columns }
}

/// Numbers of Laplace's distribution, by the inverse of its distribution function.
pub(crate) fn laplace(rows: usize, columns: usize) -> Matrix {
    let mut random = SplitMix64(2);
    let mut draw = || {
        let u = random.unit() - 0.5;
        -u.signum() * (1.0 - 2.0 * u.abs()).max(f64::MIN_POSITIVE).ln()
    };
    Matrix { weights: (0..rows * columns).map(|_| draw() as f32).collect(), columns }
}
