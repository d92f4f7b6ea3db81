//! What a training needs beside its numbers to go on as if it had never stopped, as tensors of a checkpoint: those of
//! the parameter `L.weight` are called `L.weight.m`, `L.weight.v` and `L.weight.average`.

use crate::checkpoint::Checkpoint;
use crate::error::Result;

/// First moment of the optimiser (velocity).
pub(crate) const FIRST_MOMENT: &str = "m";
/// Second moment of the optimiser.
pub(crate) const SECOND_MOMENT: &str = "v";
/// Running average.
pub(crate) const AVERAGE: &str = "average";

/// Adds numbers that belong to the parameter `name`.
pub(crate) fn put(to: &mut Checkpoint, name: &str, what: &str, data: &[f32]) -> Result<()> {
    to.insert(&format!("{name}.{what}"), &[data.len()], data.to_vec())
}

/// The `n` numbers that [`put`] added.
pub(crate) fn get(from: &Checkpoint, name: &str, what: &str, n: usize) -> Result<Vec<f32>> {
    Ok(from.get(&format!("{name}.{what}"), &[n])?.to_vec())
}

/// Adds the running average of the parameter `name`, if there is one.
pub(crate) fn put_average(to: &mut Checkpoint, name: &str, average: Option<&[f32]>) -> Result<()> {
    average.map_or(Ok(()), |a| put(to, name, AVERAGE, a))
}

/// The running average of `n` numbers, if there was one.
pub(crate) fn get_average(from: &Checkpoint, name: &str, n: usize) -> Result<Option<Vec<f32>>> {
    from.has(&format!("{name}.{AVERAGE}")).then(|| get(from, name, AVERAGE, n)).transpose()
}
