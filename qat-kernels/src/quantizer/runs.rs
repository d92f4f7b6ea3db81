//! What the quantisers share: how weights fall into runs of one step each, and steps that are not stored as such.

use crate::error::{Error, Result, What};

/// Steps that are made on the stack at a time, for quantisers that store something else (α and k, binary16).
const AT_A_TIME: usize = 64;

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

/// Calls `kernel` with the steps of a few runs at a time and the range of weights that they cover.
///
/// An index in an error of `kernel` counts from the start of that range and of those steps; it is moved to count from
/// the start of everything.
pub(super) fn with_steps(
    runs: usize,
    run_length: usize,
    step_at: impl Fn(usize) -> Result<f32>,
    mut kernel: impl FnMut(core::ops::Range<usize>, &[f32]) -> Result<()>,
) -> Result<()> {
    let mut steps = [0.0f32; AT_A_TIME];
    for first in (0..runs).step_by(AT_A_TIME) {
        let steps = &mut steps[..AT_A_TIME.min(runs - first)];
        for (i, step) in steps.iter_mut().enumerate() {
            *step = step_at(first + i)?;
        }
        let start = first * run_length;
        kernel(start..start + steps.len() * run_length, steps).map_err(|error| moved(error, start, first))?;
    }
    Ok(())
}

/// The error with its index moved, by `weights` or by `steps`, whichever it counts.
pub(super) fn moved(error: Error, weights: usize, steps: usize) -> Error {
    match error {
        Error::NotFinite { what, index } => Error::NotFinite { what, index: index + weights },
        Error::Code { index, code } => Error::Code { index: index + weights, code },
        Error::NotPositive { what, index, value } => Error::NotPositive { what, index: index + steps, value },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_is_visited_once_with_its_own_step() {
        for runs in [1, 63, 64, 65, 200] {
            let mut seen = vec![];
            with_steps(runs, 3, |i| Ok(i as f32), |range, steps| {
                assert_eq!(range.len(), steps.len() * 3);
                assert_eq!(range.start, 3 * steps[0] as usize);
                seen.extend_from_slice(steps);
                Ok(())
            })
            .unwrap();
            assert_eq!(seen, (0..runs).map(|i| i as f32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn indices_in_errors_count_from_the_start() {
        let at = |step: usize, weight: usize| {
            with_steps(100, 2, |_| Ok(1.0), |range, _| {
                if range.contains(&weight) {
                    return Err(Error::NotFinite { what: What::Weights, index: weight - range.start });
                }
                if range.contains(&(2 * step)) {
                    return Err(Error::NotPositive { what: What::Steps, index: step - range.start / 2, value: 0.0 });
                }
                Ok(())
            })
        };
        assert_eq!(at(1000, 150), Err(Error::NotFinite { what: What::Weights, index: 150 }));
        assert_eq!(at(90, 1000), Err(Error::NotPositive { what: What::Steps, index: 90, value: 0.0 }));
    }
}
