//! What is timed: packed matrices in several widths, torch's product, and copies.

use anyhow::{Result, ensure};
use qat_benches::cases::Copy;
use qat_benches::numbers::SplitMix64;
use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights};
use qat_kernels::infer::Model;
use qat_kernels::matrix::PackedMatrix;
use qat_kernels::pack::{pack, packed_len};
use qat_kernels::ste_simd::{Backend, Isa};
use qat_kernels::{Grid, Levels};
use tch::Tensor;

pub(crate) const ROWS: usize = 4096;
pub(crate) const COLUMNS: usize = 4096;
/// Columns that share a divisor where k varies.
const GROUP: usize = 16;

/// One way to multiply a packed matrix.
pub(crate) struct Packed {
    pub(crate) name: String,
    pub(crate) bits: u8,
    /// The index of the copy that takes as long as reading the matrix.
    pub(crate) reading: usize,
    how: How,
}

enum How {
    /// On a backend.
    Matrix { backend: Backend, matrix: usize },
    /// As the only layer of a file.
    Model { model: Model<'static>, output: Vec<i8>, arena: Vec<u8> },
}

/// A matrix of random codes.
struct Matrix {
    levels: Levels,
    codes: Vec<i8>,
    packed: Vec<u8>,
    /// k − 2 of every group, and packed; empty where k is fixed.
    fields: Vec<u8>,
    divisors: Vec<u8>,
}

impl Matrix {
    fn random(bits: u8, adaptive: bool) -> Result<Self> {
        let levels = Levels::new(bits, Grid::MidRise)?;
        let mut random = SplitMix64(u64::from(bits));
        let codes: Vec<i8> = (0..ROWS * COLUMNS)
            .map(|_| (random.bits() % levels.count() as u64) as i32 + levels.lo())
            .map(|code| code as i8)
            .collect();
        let mut packed = vec![0; ROWS * packed_len(COLUMNS, bits)];
        for (to, from) in packed.chunks_mut(packed_len(COLUMNS, bits)).zip(codes.chunks(COLUMNS)) {
            pack(bits, from, to)?;
        }
        let groups = if adaptive { codes.len() / GROUP } else { 0 };
        let fields: Vec<u8> = (0..groups).map(|_| (random.bits() & 3) as u8).collect();
        let divisors =
            fields.chunks(4).map(|four| four.iter().rev().fold(0, |byte, field| byte << 2 | field));
        Ok(Self { levels, codes, packed, divisors: divisors.collect(), fields })
    }

    fn on(&self, backend: Backend) -> Result<PackedMatrix<'_>> {
        let matrix = PackedMatrix::new(self.levels, ROWS, COLUMNS, &self.packed)?.on(backend);
        Ok(if self.divisors.is_empty() { matrix } else { matrix.with_divisors(GROUP, &self.divisors)? })
    }

    /// Twice the levels, times their factors.
    fn to_torch(&self) -> Tensor {
        let weight = |(i, &code): (usize, &i8)| {
            let factor = self.fields.get(i / GROUP).map_or(1, |&field| 60 / (i32::from(field) + 2));
            (factor * self.levels.twice_level(code.into())) as f32
        };
        let weights: Vec<f32> = self.codes.iter().enumerate().map(weight).collect();
        Tensor::from_slice(&weights).view([ROWS as i64, COLUMNS as i64])
    }
}

/// Torch, copies, and packed matrices.
pub(crate) struct Contestants {
    batch: usize,
    /// The weights of matrix 0, and the activations.
    weights: Tensor,
    activations: Tensor,
    x: Vec<i8>,
    copies: Vec<Copy>,
    matrices: Vec<Matrix>,
    packed: Vec<Packed>,
    sums: Vec<i32>,
}

impl Contestants {
    /// The index of torch.
    pub(crate) const TORCH: usize = 0;

    pub(crate) fn new(batch: usize) -> Result<Self> {
        let mut random = SplitMix64(9);
        let x: Vec<i8> = (0..batch * COLUMNS).map(|_| random.bits() as i8).collect();
        let floats: Vec<f32> = x.iter().map(|&x| x.into()).collect();
        let matrices = [(2, false), (2, true), (3, false), (3, true), (4, false), (8, false)]
            .map(|(bits, adaptive)| Matrix::random(bits, adaptive));
        let matrices: Vec<Matrix> = matrices.into_iter().collect::<Result<_>>()?;
        let product = if batch == 1 { "matvec" } else { "matmul16" };
        let (best, mut copies, mut packed) = (Backend::best(), Vec::new(), Vec::new());
        for (index, matrix) in matrices.iter().enumerate() {
            // After torch come the copies.
            let reading = 1 + copies.len();
            let bytes = matrix.packed.len() + matrix.divisors.len();
            copies.push(Copy::new(bytes / 2, 1));
            let (bits, adaptive) = (matrix.levels.bits(), !matrix.divisors.is_empty());
            let name = format!(
                "{product}_{ROWS}x{COLUMNS}_{bits}bit{}",
                if adaptive { "_adaptive_k_g16" } else { "" }
            );
            let avx2 = Backend::new(Isa::Avx2).filter(|avx2| *avx2 != best);
            for (backend, suffix) in [(Some(best), ""), (avx2, "_avx2")] {
                if let Some(backend) = backend {
                    let how = How::Matrix { backend, matrix: index };
                    packed.push(Packed { name: format!("{name}{suffix}"), bits, reading, how });
                }
            }
            if batch == 1 && index == 0 {
                let how = model(matrix)?;
                packed.push(Packed { name: name.replace(product, "model"), bits, reading, how });
            }
        }
        let weights = matrices.first().map_or_else(Tensor::new, Matrix::to_torch);
        let activations = Tensor::from_slice(&floats).view([batch as i64, COLUMNS as i64]);
        let sums = vec![0; batch * ROWS];
        Ok(Self { batch, weights, activations, x, copies, matrices, packed, sums })
    }

    pub(crate) fn len(&self) -> usize {
        1 + self.copies.len() + self.packed.len()
    }

    /// Those that multiply packed matrices, with their indices.
    pub(crate) fn packed(&self) -> impl Iterator<Item = (usize, &Packed)> {
        (1 + self.copies.len()..).zip(&self.packed)
    }

    /// Every packed product equals torch's.
    pub(crate) fn check(&mut self) -> Result<()> {
        for index in 0..self.packed.len() {
            self.multiply(index)?;
            let packed = &self.packed[index];
            match &packed.how {
                How::Matrix { matrix, .. } => {
                    let product = torch(&self.matrices[*matrix].to_torch(), &self.activations, self.batch);
                    let expected = Vec::<f32>::try_from(product.contiguous().view(-1))?;
                    let equal = expected.iter().zip(&self.sums).all(|(&a, &b)| f64::from(a) == f64::from(b));
                    ensure!(equal, "{} is not what torch computes", packed.name);
                }
                How::Model { output, .. } => {
                    // The file's scales make an output one 2^14th of a sum.
                    let plain = self.matrices[0].on(Backend::best())?;
                    plain.multiply(&self.x, &mut self.sums)?;
                    let rounded = |sum: i32| ((sum + (1 << 13)) >> 14).clamp(-128, 127);
                    let equal = output.iter().zip(&self.sums).all(|(&y, &sum)| i32::from(y) == rounded(sum));
                    ensure!(equal, "{} does not round its sums", packed.name);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn run(&mut self, index: usize) -> Result<()> {
        let Some(index) = index.checked_sub(1) else {
            drop(torch(&self.weights, &self.activations, self.batch));
            return Ok(());
        };
        if let Some(copy) = self.copies.get_mut(index) {
            copy.run();
            return Ok(());
        }
        self.multiply(index - self.copies.len())
    }

    fn multiply(&mut self, index: usize) -> Result<()> {
        match &mut self.packed[index].how {
            How::Matrix { backend, matrix } => {
                self.matrices[*matrix].on(*backend)?.multiply(&self.x, &mut self.sums)?;
            }
            How::Model { model, output, arena } => model.run(&self.x, output, arena)?,
        }
        Ok(())
    }
}

/// One vector: a matrix-vector product; more: as torch's linear layer does it.
fn torch(weights: &Tensor, x: &Tensor, batch: usize) -> Tensor {
    if batch == 1 { weights.mv(&x.view(-1)) } else { x.matmul(&weights.tr()) }
}

/// A file with the matrix as its only layer, and its buffers.
fn model(matrix: &Matrix) -> Result<How> {
    let mut builder =
        ModelBuilder::new(TensorSpec { shape: [1, 1, COLUMNS as u16], scale: 1.0, zero_point: 0 });
    let steps = Steps::PerChannel(&[2.0; ROWS]);
    let weights = Weights { levels: matrix.levels, codes: &matrix.codes, steps };
    builder.linear(builder.input(), &weights, &[], Output::new(16_384.0, 0))?;
    // A checked model borrows its file, which this program needs to its end.
    let model = Model::parse(builder.finish(&Metadata::default(), &[])?.leak())?;
    Ok(How::Model { model, output: vec![0; ROWS], arena: vec![0; model.arena_len()] })
}
