//! What the quantisers share: weights that fall into runs of one step each, with steps that are made when needed from
//! what is stored instead (α and k, binary16, the data itself).

use super::QuantizerSettings;
use crate::error::{Error, Result, What};
use crate::grid::Levels;
use crate::ste::simd::Kernels;
use core::ops::Range;

/// Steps that are made on the stack at a time; a microcontroller has little of that.
const AT_A_TIME: usize = if cfg!(target_pointer_width = "64") { 1024 } else { 64 };

/// Weights per step when `len` weights share `count` steps equally.
pub(super) fn run_length(len: usize, what: What, count: usize, counted: What) -> Result<usize> {
    if count == 0 {
        return Err(Error::Empty { what: counted });
    }
    if len == 0 {
        return Err(Error::Empty { what });
    }
    if len.is_multiple_of(count) {
        Ok(len / count)
    } else {
        Err(Error::NotDivisible { what, len, by: count })
    }
}

/// Refuses a slice of another length.
pub(super) fn check_length(what: What, got: usize, expected: usize) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::Length { what, expected, got }) }
}

/// Checks everything, then calls `find` for each scale with its number, its weights and their importance.
pub(super) fn init_runs(
    weights: &[f32],
    importance: Option<&[f32]>,
    scales: usize,
    what: What,
    mut find: impl FnMut(usize, &[f32], Option<&[f32]>) -> Result<()>,
) -> Result<()> {
    let per_scale = run_length(weights.len(), What::Weights, scales, what)?;
    super::search::check(weights, importance)?;
    for (i, run) in weights.chunks(per_scale).enumerate() {
        let start = i * per_scale;
        let importance = importance.map(|all| &all[start..start + per_scale]);
        find(i, run, importance)?;
    }
    Ok(())
}

/// Runs of equal length, a step each.
pub(super) struct Runs<F> {
    pub(super) levels: Levels,
    /// Number of runs.
    pub(super) count: usize,
    /// What the steps are made from, for errors.
    pub(super) what: What,
    /// The step of a run.
    pub(super) step_at: F,
}

impl<F: Fn(usize) -> Result<f32>> Runs<F> {
    /// `out = level(q)·Δ`.
    pub(super) fn forward(&self, weights: &[f32], out: &mut [f32]) -> Result<()> {
        check_length(What::Output, out.len(), weights.len())?;
        let kernels = Kernels::default().part_of(weights.len());
        self.with_steps(weights.len(), What::Weights, |_, at, steps| {
            kernels.fake_quantize(self.levels, steps, &weights[at.clone()], &mut out[at])
        })
    }

    /// Codes of weights.
    pub(super) fn quantize(&self, weights: &[f32], codes: &mut [i8]) -> Result<()> {
        check_length(What::Codes, codes.len(), weights.len())?;
        let kernels = Kernels::default().part_of(weights.len());
        self.with_steps(weights.len(), What::Weights, |_, at, steps| {
            kernels.quantize(self.levels, steps, &weights[at.clone()], &mut codes[at])
        })
    }

    /// Weights of codes.
    pub(super) fn dequantize(&self, codes: &[i8], out: &mut [f32]) -> Result<()> {
        check_length(What::Output, out.len(), codes.len())?;
        let kernels = Kernels::default().part_of(codes.len());
        self.with_steps(codes.len(), What::Codes, |_, at, steps| {
            kernels.dequantize(self.levels, steps, &codes[at.clone()], &mut out[at])
        })
    }

    /// Gradients of weights; `sink` receives, per run, the unscaled gradient of its step.
    pub(super) fn backward(
        &self,
        settings: &QuantizerSettings,
        weights: &[f32],
        grad_output: &[f32],
        grad_weights: &mut [f32],
        mut sink: impl FnMut(usize, f32),
    ) -> Result<()> {
        check_length(What::Gradient, grad_output.len(), weights.len())?;
        check_length(What::Output, grad_weights.len(), weights.len())?;
        let &QuantizerSettings { levels, ste, mask, .. } = settings;
        let kernels = Kernels::default().part_of(weights.len());
        self.with_steps(weights.len(), What::Weights, |first, at, steps| {
            let mut sums = [0.0f32; AT_A_TIME];
            let sums = &mut sums[..steps.len()];
            let (w, g) = (&weights[at.clone()], &grad_output[at.clone()]);
            kernels.backward(ste, levels, mask, steps, w, g, &mut grad_weights[at], sums)?;
            for (i, &sum) in sums.iter().enumerate() {
                sink(first + i, sum);
            }
            Ok(())
        })
    }

    /// Calls `kernel` with the number of a run, the range of weights of this and the next few runs, and their steps.
    /// An index in an error of `kernel` counts from the start of that range; it is moved to count from the first weight.
    fn with_steps(
        &self,
        len: usize,
        what: What,
        mut kernel: impl FnMut(usize, Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let per_run = run_length(len, what, self.count, self.what)?;
        let mut steps = [0.0f32; AT_A_TIME];
        for first in (0..self.count).step_by(AT_A_TIME) {
            let steps = &mut steps[..AT_A_TIME.min(self.count - first)];
            for (i, step) in steps.iter_mut().enumerate() {
                *step = (self.step_at)(first + i)?;
            }
            let at = first * per_run..(first + steps.len()) * per_run;
            kernel(first, at.clone(), steps).map_err(|error| moved(error, at.start))?;
        }
        Ok(())
    }
}

/// The error with the index of a weight moved by `by`.
fn moved(error: Error, by: usize) -> Error {
    match error {
        Error::NotFinite { what, index } => Error::NotFinite { what, index: index + by },
        Error::Code { index, code } => Error::Code { index: index + by, code },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::Grid;

    fn runs(count: usize) -> Runs<impl Fn(usize) -> Result<f32>> {
        let levels = Levels::new(8, Grid::MidTread).unwrap();
        Runs { levels, count, what: What::Steps, step_at: |i| Ok((i + 1) as f32) }
    }

    #[test]
    fn every_run_has_its_own_step() {
        for count in [1, 63, 64, 65, AT_A_TIME - 1, AT_A_TIME + 1, 3 * AT_A_TIME] {
            let mut out = vec![0; 3 * count];
            let weights: Vec<f32> = (0..3 * count).map(|i| ((i / 3 + 1) * (i % 3)) as f32).collect();
            runs(count).quantize(&weights, &mut out).unwrap();
            assert!(out.iter().enumerate().all(|(i, &q)| usize::try_from(q) == Ok(i % 3)));
        }
    }

    #[test]
    fn indices_in_errors_count_from_the_first_weight() {
        // Beyond the steps that are made first.
        let (count, bad) = (2 * AT_A_TIME, 2 * AT_A_TIME + 150);
        let (mut weights, mut out) = (vec![0.0; 2 * count], vec![0.0; 2 * count]);
        weights[bad] = f32::NAN;
        let expected = Err(Error::NotFinite { what: What::Weights, index: bad });
        assert_eq!(runs(count).forward(&weights, &mut out), expected);
        let mut codes = vec![0i8; 2 * count];
        codes[bad] = 5;
        let two_bit = Runs { levels: Levels::new(2, Grid::MidTread).unwrap(), ..runs(count) };
        assert_eq!(two_bit.dequantize(&codes, &mut out), Err(Error::Code { index: bad, code: 5 }));
        let never = |_: usize, _: &[f32], _: Option<&[f32]>| panic!("checked before");
        assert_eq!(init_runs(&weights, None, count, What::Steps, never), expected);
    }

    #[test]
    fn lengths_that_do_not_fit_are_named() {
        let mut out = [0.0; 4];
        let length = |what, expected, got| Err(Error::Length { what, expected, got });
        assert_eq!(runs(2).forward(&[0.0; 6], &mut out), length(What::Output, 6, 4));
        assert_eq!(runs(2).quantize(&[0.0; 4], &mut [0; 3]), length(What::Codes, 4, 3));
        assert_eq!(runs(2).forward(&[], &mut []), Err(Error::Empty { what: What::Weights }));
        assert_eq!(runs(0).forward(&[0.0; 4], &mut out), Err(Error::Empty { what: What::Steps }));
        let not_divisible = Err(Error::NotDivisible { what: What::Weights, len: 4, by: 3 });
        assert_eq!(runs(3).forward(&[0.0; 4], &mut out), not_divisible);
    }
}
