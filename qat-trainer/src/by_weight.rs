//! Quantising a checkpoint tensor by tensor, without knowing its network: how much each loses at a bit width.

use crate::checkpoint::{Array, Checkpoint};
use crate::error::{Error, ErrorKind, Result};
use crate::graph::{Weights, dequantised_rows};
use crate::ptq::fit_weights;
use crate::spec::WeightQuant;
use qat_kernels::config::StepRule;
use serde::Serialize;

/// Bits of a step or α beside the codes: one f32 per row.
const STEP_BITS: f64 = 32.0;
/// Bits of the divisor of a group.
const DIVISOR_BITS: f64 = 2.0;

/// What became of one tensor.
///
/// ```
/// # use qat_kernels::{Grid, Levels, config::StepRule};
/// # use qat_trainer::{by_weight::quantise, checkpoint::Checkpoint, spec::WeightQuant};
/// let mut model = Checkpoint::default();
/// model.insert("fc.weight", &[2, 4], vec![0.5, -0.5, 1.5, -1.5, 2.0, -2.0, 6.0, -6.0])?;
/// let two_bits = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
/// let row = quantise(&mut model, two_bits)?.tensors.remove(0);
/// assert_eq!((row.name.as_str(), row.weights), ("fc.weight", 8));
/// assert_eq!(row.bits, Some(10.0)); // 2 of the code, and a fourth of the row's 32-bit step
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Its shape; the first dimension are the rows, each with a step of its own.
    pub shape: Vec<usize>,
    /// Number of weights.
    pub weights: usize,
    /// Bits per weight, steps and divisors counted; `None` for what stays as it is: vectors, and rows that the groups
    /// of an adaptive quantiser do not divide.
    pub bits: Option<f64>,
    /// Signal-to-quantisation-noise ratio, `10·log₁₀(Σw² / Σ(w − ŵ)²)`; `None` where nothing is lost.
    pub sqnr_db: Option<f64>,
    /// Signal and noise, for sums over tensors.
    #[serde(skip)]
    pub energy: [f64; 2],
}

/// All tensors together.
///
/// ```
/// # use qat_kernels::{Grid, Levels, config::StepRule};
/// # use qat_trainer::{by_weight::quantise, checkpoint::Checkpoint, spec::WeightQuant};
/// # let four_bits = WeightQuant { levels: Levels::new(4, Grid::MidTread)?, step: StepRule::Uniform };
/// let mut model = Checkpoint::default();
/// model.insert("fc.weight", &[1, 16], (0..16).map(|i| i as f32).collect())?;
/// model.insert("fc.bias", &[1], vec![0.25])?;
/// let table = quantise(&mut model, four_bits)?;
/// assert_eq!((table.quantised, table.kept), (16, 1)); // the bias stays f32
/// assert_eq!((table.bits, table.bytes), (6.0, 12)); // 16 codes of 4 bits and a step: 96 bits
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    /// One row per tensor, by name.
    pub tensors: Vec<Row>,
    /// Weights that were quantised.
    pub quantised: usize,
    /// Weights that stay f32.
    pub kept: usize,
    /// Mean bits of the quantised weights.
    pub bits: f64,
    /// Bytes of the quantised weights with their steps.
    pub bytes: u64,
    /// Signal-to-quantisation-noise ratio over all quantised weights.
    pub sqnr_db: Option<f64>,
}

/// Quantises every tensor of two dimensions or more, row by row, in place, with the steps of least squared error.
///
/// # Errors
/// [`ErrorKind::Checkpoint`] naming the tensor that holds a number that is not finite. Those in front of it have been quantised by
/// then: the checkpoint is to be thrown away.
///
/// ```
/// use qat_kernels::{Grid, Levels, config::StepRule};
/// use qat_trainer::{by_weight::quantise, checkpoint::Checkpoint, spec::WeightQuant};
/// let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
/// let mut model = Checkpoint::default();
/// model.insert("w", &[1, 4], vec![0.9, 1.1, -0.9, -1.1])?;
/// quantise(&mut model, quant)?;
/// assert_eq!(model.get("w", &[1, 4])?, [1.0, 1.0, -1.0, -1.0]); // each pair has become one level
/// model.insert("w", &[1, 2], vec![1.0, f32::NAN])?;
/// assert!(quantise(&mut model, quant).unwrap_err().to_string().starts_with("tensor `w`: element 1 is NaN"));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn quantise(checkpoint: &mut Checkpoint, quant: WeightQuant) -> Result<Table> {
    let mut tensors = Vec::with_capacity(checkpoint.tensors.len());
    for (name, array) in &mut checkpoint.tensors {
        let row = one(name, array, quant).map_err(|e| e.place(format!("tensor `{name}`")))?;
        tensors.push(row);
    }
    let done = || tensors.iter().filter(|row| row.bits.is_some());
    let quantised: usize = done().map(|row| row.weights).sum();
    let bits: f64 = done().map(|row| row.weights as f64 * row.bits.unwrap_or(0.0)).sum();
    let energy = done().fold([0.0; 2], |[s, n], row| [s + row.energy[0], n + row.energy[1]]);
    Ok(Table {
        quantised,
        kept: tensors.iter().map(|row| row.weights).sum::<usize>() - quantised,
        bits: bits / quantised.max(1) as f64,
        bytes: (bits / 8.0).ceil() as u64,
        sqnr_db: decibels(energy),
        tensors,
    })
}

fn one(name: &str, array: &mut Array, quant: WeightQuant) -> Result<Row> {
    let weights = array.data.len();
    let mut row = Row {
        name: name.into(),
        shape: array.shape.clone(),
        weights,
        bits: None,
        sqnr_db: None,
        energy: [0.0; 2],
    };
    if let Some(i) = array.data.iter().position(|w| !w.is_finite()) {
        return Err(Error::new(ErrorKind::Checkpoint, format!("element {i} is {}", array.data[i]))
            .remedy("take a checkpoint of finite numbers"));
    }
    let channels = array.shape.first().copied().unwrap_or(0);
    if array.shape.len() < 2 || weights == 0 {
        return Ok(row);
    }
    let fan_in = weights / channels.max(1);
    let mut bits = f64::from(quant.levels.bits()) + STEP_BITS / fan_in as f64;
    if let StepRule::PiAdaptive { group } = quant.step {
        if !fan_in.is_multiple_of(group) {
            return Ok(row);
        }
        bits += DIVISOR_BITS / group as f64;
    }
    let rows = std::mem::take(&mut array.data);
    let rows = Weights { channels, fan_in, rows, bias: Vec::new() };
    let values = fit_weights(&rows, quant).and_then(|steps| dequantised_rows(&rows, quant, &steps))?;
    row.energy = energy(&rows.rows, &values);
    row.bits = Some(bits);
    row.sqnr_db = decibels(row.energy);
    array.data = values;
    Ok(row)
}

/// Σw² and Σ(w − ŵ)².
#[must_use]
pub(crate) fn energy(before: &[f32], after: &[f32]) -> [f64; 2] {
    before.iter().zip(after).fold([0.0; 2], |[signal, noise], (&w, &q)| {
        let (w, q) = (f64::from(w), f64::from(q));
        [signal + w * w, noise + (w - q) * (w - q)]
    })
}

/// The ratio of signal to noise in decibels; `None` without either.
#[must_use]
pub(crate) fn decibels([signal, noise]: [f64; 2]) -> Option<f64> {
    (signal > 0.0 && noise > 0.0).then(|| 10.0 * (signal / noise).log10())
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = self.tensors.iter().map(|row| row.name.len()).max().unwrap_or(0).max(6);
        writeln!(f, "{:<width$} {:>20} {:>12} {:>8} {:>9}", "tensor", "shape", "weights", "bits", "SQNR dB")?;
        for row in &self.tensors {
            let shape = row.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
            let bits = row.bits.map_or_else(|| "kept".into(), |b| format!("{b:.3}"));
            let sqnr = row.sqnr_db.map_or_else(String::new, |db| format!("{db:.2}"));
            writeln!(f, "{:<width$} {shape:>20} {:>12} {bits:>8} {sqnr:>9}", row.name, row.weights)?;
        }
        let sqnr = self.sqnr_db.map_or_else(|| "none lost".into(), |db| format!("{db:.2} dB"));
        write!(
            f,
            "{} weights at {:.3} bits in {} bytes, SQNR {sqnr}; {} numbers kept",
            self.quantised, self.bits, self.bytes, self.kept
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tests::examples;
    use qat_kernels::{Grid, Levels};

    fn quant(bits: u8, step: StepRule) -> WeightQuant {
        WeightQuant { levels: Levels::new(bits, Grid::MidRise).unwrap(), step }
    }

    fn checkpoint() -> Checkpoint {
        let mut c = Checkpoint::default();
        c.insert("a.weight", &[4, 3, 16], examples(4, 48)).unwrap();
        c.insert("b.weight", &[5, 7], examples(5, 7)).unwrap();
        c.insert("b.bias", &[5], examples(1, 5)).unwrap();
        c
    }

    #[test]
    fn tensors_are_measured_and_vectors_kept() {
        let before = checkpoint();
        let mut last = f64::MIN;
        for bits in 2..=8 {
            let mut c = before.clone();
            let table = quantise(&mut c, quant(bits, StepRule::Pi { k: 3 })).unwrap();
            assert_eq!((table.quantised, table.kept, table.tensors.len()), (192 + 35, 5, 3));
            assert_eq!(c.tensors["b.bias"], before.tensors["b.bias"]);
            assert_eq!(table.tensors[0].bits, Some(f64::from(bits) + 32.0 / 48.0));
            // Uniform numbers: 6.02 dB a bit.
            let db = table.tensors[0].sqnr_db.unwrap();
            assert!(db > last + 5.0 && (db - 6.02 * f64::from(bits)).abs() < 1.5, "{bits}: {db}");
            last = db;
            let values: std::collections::BTreeSet<u32> =
                c.tensors["a.weight"].data[..48].iter().map(|w| w.to_bits()).collect();
            assert!(values.len() <= 1 << bits);
        }
    }

    #[test]
    fn groups_that_do_not_fit_are_kept_and_bad_numbers_named() {
        let mut c = checkpoint();
        let table = quantise(&mut c, quant(2, StepRule::PiAdaptive { group: 16 })).unwrap();
        assert_eq!((table.tensors[0].bits, table.tensors[2].bits), (Some(2.0 + 32.0 / 48.0 + 0.125), None));
        c.insert("b.weight", &[1, 2], vec![1.0, f32::NAN]).unwrap();
        let e = quantise(&mut c, quant(2, StepRule::Uniform)).unwrap_err().to_string();
        assert!(e.contains("tensor `b.weight`: element 1 is NaN"), "{e}");
    }
}
