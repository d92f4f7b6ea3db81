//! Quantisation of a matrix column by column, each column's error made good by those that follow.
//!
//! What counts is the layer's output, `‖(W − Ŵ)·X‖²`, X its inputs over a text. It is quadratic in a row's error with the Hessian
//! `H = 2·X·Xᵀ`. After a weight has been rounded, the best update of those not yet rounded is known: optimal brain surgeon
//! (Hassibi and Stork 1993), for quantisation equation 2 of GPTQ (Frantar et al. 2023):
//!
//! ```text
//! δ = −(w_q − quant(w_q)) / [H⁻¹]_qq · (H⁻¹)_{:,q}
//! ```
//!
//! With one order of columns for all rows, everything needed of the shrinking inverses is in `H⁻¹ = Uᵀ·U`, U upper triangular
//! (GPTQ, section 3.3, step 3): `error_j = (w_j − ŵ_j)/U_jj`, and column i > j loses `error_j·U_ji`. The loss is `Σ_j error_j²`, so
//! `1/U_jj²` is the importance of a column with which the steps of a block are fitted (to its weights as they have become
//! by then).
//!
//! **Order.** Columns with large inputs go first, while there is still much that can make their errors good (GPTQ's "act-order"), but
//! the columns of a block stay together, since they share steps: blocks by the mean of H's diagonal, then columns
//! within each.
//!
//! **Damping.** A share of the diagonal's mean is added to the diagonal; inputs that were always zero then change nothing.

use crate::autograd::slice;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::quantised::{BlockQuant, QuantisedMatrix, check_finite};
use qat_kernels::quantizer::F16;
use rayon::prelude::*;
use tch::{Kind, Tensor};

/// What the inputs of a matrix say about its columns.
#[derive(Debug)]
pub(super) struct Curvature {
    block: usize,
    /// The columns in the order in which they are rounded.
    order: Vec<usize>,
    /// U, in this order, f32.
    factor: Tensor,
}

impl Curvature {
    /// Of the sum of x·xᵀ over the inputs, `[columns, columns]`; the scale does not matter. `damping`: share of the diagonal's mean.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if the sum is not finite, or not positive definite with this damping.
    pub(super) fn new(gram: &Tensor, block: usize, damping: f64) -> Result<Self> {
        let gram = gram.f_to_kind(Kind::Double)?;
        let diagonal = Vec::<f64>::try_from(gram.f_diagonal(0, 0, 1)?.f_contiguous()?)?;
        let mean = diagonal.iter().sum::<f64>() / diagonal.len().max(1) as f64;
        if !mean.is_finite() {
            return Err(Error::new(ErrorKind::Train, "the inputs of this matrix are not finite"));
        }
        let order = order(&diagonal, block);
        let index = Tensor::from_slice(&order.iter().map(|&i| i as i64).collect::<Vec<_>>());
        let sorted = gram.f_index_select(0, &index)?.f_index_select(1, &index)?;
        let lift = if mean > 0.0 { damping * mean } else { 1.0 };
        let size = diagonal.len() as i64;
        let lifted = sorted.f_add(&(Tensor::f_eye(size, (Kind::Double, gram.device()))? * lift))?;
        let indefinite = |e: tch::TchError| {
            Error::new(ErrorKind::Train, format!("the inputs' second moments cannot be inverted: {e}"))
                .remedy("use more calibration text or a larger damping")
        };
        let inverse = lifted.f_linalg_cholesky(false).map_err(indefinite)?.f_cholesky_inverse(false)?;
        let factor = inverse.f_linalg_cholesky(true).map_err(indefinite)?.f_to_kind(Kind::Float)?;
        Ok(Self { block, order, factor: factor.f_contiguous()? })
    }
}

/// Columns by falling diagonal, blocks of `block` together and by their means.
fn order(diagonal: &[f64], block: usize) -> Vec<usize> {
    let mut blocks: Vec<(f64, Vec<usize>)> = diagonal
        .chunks(block)
        .enumerate()
        .map(|(i, part)| {
            let mut columns: Vec<usize> = (i * block..i * block + part.len()).collect();
            columns.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
            (part.iter().sum(), columns)
        })
        .collect();
    blocks.sort_by(|a, b| b.0.total_cmp(&a.0));
    blocks.into_iter().flat_map(|(_, columns)| columns).collect()
}

/// Quantises a matrix, `[rows, columns]`, f32 on the CPU.
///
/// # Errors
/// [`ErrorKind::Model`] for weights that are not finite; those of [`BlockQuant::block`].
pub(super) fn compensate(
    weights: &Tensor,
    how: BlockQuant,
    curvature: &Curvature,
) -> Result<QuantisedMatrix> {
    check_finite(slice(&weights.f_contiguous()?)?)?;
    let (rows, columns) = weights.size2()?;
    let (rows, columns) = (rows as usize, columns as usize);
    let Curvature { block, ref order, ref factor } = *curvature;
    let (blocks, groups) = (columns / block, how.group().map_or(0, |group| block / group));
    let index = Tensor::from_slice(&order.iter().map(|&i| i as i64).collect::<Vec<_>>());
    let left = weights.f_index_select(1, &index)?;
    let mut codes = vec![0i8; rows * columns];
    let mut scales = vec![F16::ONE; rows * blocks];
    let mut divisors = vec![0u8; rows * blocks * groups];
    for (at, columns_now) in order.chunks(block).enumerate() {
        let start = (at * block) as i64;
        let now = left.f_narrow(1, start, block as i64)?.f_contiguous()?;
        let u = factor.f_narrow(0, start, block as i64)?;
        let u_now = u.f_narrow(1, start, block as i64)?.f_contiguous()?;
        let part = Part::new(how, columns_now, slice(&u_now)?);
        let rounded =
            slice(&now)?.par_chunks(block).map(|row| part.round(row)).collect::<Result<Vec<_>>>()?;
        let natural = columns_now.iter().min().map_or(0, |first| first / block);
        let mut errors = Vec::with_capacity(rows * block);
        for (row, rounded) in rounded.into_iter().enumerate() {
            let to = row * columns + natural * block;
            codes[to..to + block].copy_from_slice(&rounded.codes);
            let to = row * blocks + natural;
            scales[to] = rounded.scale;
            divisors[to * groups..(to + 1) * groups].copy_from_slice(&rounded.divisors);
            errors.extend(rounded.errors);
        }
        let end = start + block as i64;
        let rest = columns as i64 - end;
        if rest > 0 {
            let errors = Tensor::from_slice(&errors).f_reshape([rows as i64, block as i64])?;
            let change = errors.f_matmul(&u.f_narrow(1, end, rest)?)?;
            let _ = left.f_narrow(1, end, rest)?.f_subtract_(&change)?;
        }
    }
    QuantisedMatrix::new(how, columns, codes, scales, divisors)
}

/// One block of columns.
struct Part<'a> {
    how: BlockQuant,
    /// Where in the block each column lies, in the order of rounding.
    places: Vec<usize>,
    /// The importance of the columns as they lie.
    importance: Vec<f32>,
    /// U of these columns, in the order of rounding.
    u: &'a [f32],
}

/// One row's part of a block.
struct Rounded {
    codes: Vec<i8>,
    scale: F16,
    divisors: Vec<u8>,
    /// (w − ŵ)/U_jj in the order of rounding.
    errors: Vec<f32>,
}

impl<'a> Part<'a> {
    fn new(how: BlockQuant, columns: &[usize], u: &'a [f32]) -> Self {
        let block = columns.len();
        let places: Vec<usize> = columns.iter().map(|column| column % block).collect();
        let mut importance = vec![0.0; block];
        for (i, &place) in places.iter().enumerate() {
            importance[place] = u[i * (block + 1)].powi(-2);
        }
        // Steps depend on ratios alone; the largest is 1, so that no sum overflows.
        let largest = importance.iter().fold(0.0f32, |a, &b| a.max(b));
        importance.iter_mut().for_each(|h| *h /= largest);
        Self { how, places, importance, u }
    }

    /// Rounds the weights of a row, in the order of rounding.
    fn round(&self, row: &[f32]) -> Result<Rounded> {
        let Self { how, places, importance, u } = self;
        let block = row.len();
        let (mut left, mut lying) = (row.to_vec(), vec![0.0; block]);
        for (&w, &place) in row.iter().zip(places) {
            lying[place] = w;
        }
        let mut divisors = vec![0; how.group().map_or(0, |group| block / group)];
        let scale = how.fit(&lying, Some(importance), &mut divisors)?;
        let (mut codes, mut errors) = (vec![0i8; block], vec![0.0; block]);
        let levels = how.quant.levels;
        for (i, &place) in places.iter().enumerate() {
            let divisor = how.group().and_then(|group| divisors.get(place / group).copied());
            let step = how.step(scale, divisor)?;
            let code = levels.quantize(left[i], step);
            let u = &u[i * block..(i + 1) * block];
            let error = (left[i] - levels.dequantize(code, step)) / u[i];
            for (w, u) in left.iter_mut().zip(u).skip(i + 1) {
                *w -= error * u;
            }
            codes[place] = code as i8;
            errors[i] = error;
        }
        Ok(Rounded { codes, scale, divisors, errors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::quantised::tests::{RULES, how};
    use crate::random::normal;
    use qat_kernels::Grid;

    /// Generated weights, and the Gram matrix of generated inputs that depend on each other and differ in size.
    fn generated(rows: i64, columns: i64) -> (Tensor, Tensor) {
        let mixed = normal(2, &[400, columns]).matmul(&(normal(3, &[columns, columns]) * 0.2));
        let sizes = (normal(4, &[columns]) * 0.7).exp();
        let x = (mixed + normal(5, &[400, columns]) * 0.3) * sizes;
        (normal(1, &[rows, columns]) * 0.1, x.tr().matmul(&x))
    }

    /// tr((W − Ŵ)·G·(W − Ŵ)ᵀ): the squared error of the outputs.
    fn loss(weights: &Tensor, gram: &Tensor, matrix: &QuantisedMatrix) -> f64 {
        let error = weights - Tensor::from_slice(&matrix.dequantise().unwrap()).reshape(weights.size());
        (error.matmul(gram) * error).sum(Kind::Double).double_value(&[])
    }

    #[test]
    fn outputs_are_nearer_than_with_any_rounding_to_nearest() {
        let (weights, gram) = generated(24, 96);
        let diagonal = Vec::<f32>::try_from(gram.diagonal(0, 0, 1).contiguous()).unwrap();
        let flat = Vec::<f32>::try_from(weights.reshape(-1)).unwrap();
        for step in RULES {
            for bits in [2, 3] {
                let how = how(bits, Grid::MidRise, step, 32);
                let curvature = Curvature::new(&gram, 32, 0.01).unwrap();
                let ours = loss(&weights, &gram, &compensate(&weights, how, &curvature).unwrap());
                for importance in [None, Some(&diagonal[..])] {
                    let nearest = QuantisedMatrix::fit(how, &flat, 96, importance).unwrap();
                    let nearest = loss(&weights, &gram, &nearest);
                    assert!(ours < 0.75 * nearest, "{step:?} {bits}: {ours} {nearest}");
                }
            }
        }
    }

    #[test]
    fn without_correlations_it_is_rounding_to_nearest() {
        let weights = normal(1, &[6, 64]) * 0.1;
        let flat = Vec::<f32>::try_from(weights.reshape(-1)).unwrap();
        let curvature = Curvature::new(&Tensor::eye(64, (Kind::Float, tch::Device::Cpu)), 32, 0.01).unwrap();
        for step in RULES {
            let how = how(3, Grid::MidRise, step, 32);
            let nearest = QuantisedMatrix::fit(how, &flat, 64, None).unwrap();
            assert_eq!(compensate(&weights, how, &curvature).unwrap(), nearest, "{step:?}");
        }
    }

    #[test]
    fn the_update_is_the_papers_equation() {
        // Two columns, one weight rounded: w₁ must become w₁ − e₀·[H⁻¹]₀₁/[H⁻¹]₀₀ = w₁ + e₀·h₀₁/h₁₁.
        let gram = Tensor::from_slice(&[4f64, 1.5, 1.5, 2.0]).reshape([2, 2]);
        let curvature = Curvature::new(&gram, 2, 0.0).unwrap();
        assert_eq!(curvature.order, [0, 1]);
        let how = how(2, Grid::MidRise, crate::llm::quantised::tests::RULES[0], 2);
        let u = Vec::<f32>::try_from(curvature.factor.reshape(-1)).unwrap();
        let rounded = Part::new(how, &[0, 1], &u).round(&[0.31, -0.12]).unwrap();
        let step = rounded.scale.to_f32();
        let value = |i: usize| how.quant.levels.dequantize(rounded.codes[i].into(), step);
        let moved = -0.12 + (0.31 - value(0)) * 1.5 / 2.0;
        let error = |i: usize| rounded.errors[i] * u[3 * i];
        assert!((error(0) - (0.31 - value(0))).abs() < 1e-6 && error(0) != 0.0);
        assert!((error(1) - (moved - value(1))).abs() < 1e-6, "{} {}", error(1), moved - value(1));
    }

    #[test]
    fn columns_with_large_inputs_go_first_and_blocks_stay_together() {
        assert_eq!(order(&[1.0, 2.0, 9.0, 0.0, 3.0, 4.0], 2), [2, 3, 5, 4, 1, 0]);
    }

    #[test]
    fn inputs_that_are_zero_or_not_finite_are_survived_or_named() {
        let (weights, gram) = generated(4, 32);
        let how = how(2, Grid::MidRise, RULES[2], 32);
        for gram in [&gram * 0.0, gram.tril(0).triu(0) * Tensor::arange(32, (Kind::Float, gram.device()))] {
            let matrix = compensate(&weights, how, &Curvature::new(&gram, 32, 0.01).unwrap()).unwrap();
            assert!(matrix.dequantise().unwrap().iter().all(|w| w.is_finite()));
        }
        assert!(Curvature::new(&(gram * f64::NAN), 32, 0.01).is_err());
        let curvature = Curvature::new(&Tensor::eye(32, (Kind::Float, tch::Device::Cpu)), 32, 0.01).unwrap();
        let e = compensate(&(weights * f64::INFINITY), how, &curvature).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Model);
    }
}
