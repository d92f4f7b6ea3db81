//! What people and tools read about a model: names, provenance, how raw input becomes int8. The engine needs none of it.

use crate::error::{Error, FileFault, Result, What};
use crate::grid::Levels;
use serde::{Deserialize, Serialize};

/// The metadata section, postcard in this field order (which *is* the format).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata<'a> {
    /// Name of the model.
    pub name: &'a str,
    /// What wrote the file, with version.
    pub tool: &'a str,
    /// Class labels in output order, separated by line feeds; empty if the outputs have no names.
    pub labels: &'a str,
    /// SHA-256 of the checkpoint that was exported.
    pub source_sha256: [u8; 32],
    /// SHA-256 of the data that the activation ranges were calibrated on.
    pub dataset_sha256: [u8; 32],
    /// Samples seen by the calibration.
    pub samples: u64,
    /// Calibration method.
    pub method: &'a str,
    /// Unix time of the export in seconds, given by the caller; 0 if not stated (reproducible exports).
    pub created: u64,
    /// From raw features to the model's int8 input.
    #[serde(borrow)]
    pub input: InputTransform<'a>,
}

impl<'a> Metadata<'a> {
    /// Reads the section.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let broken = Error::File { at: 0, fault: FileFault::Metadata };
        let (metadata, rest) = postcard::take_from_bytes::<Self>(bytes).map_err(|_| broken)?;
        let whole = [metadata.input.mean, metadata.input.std].iter().all(|b| b.len().is_multiple_of(4));
        if rest.is_empty() && whole && metadata.input.mean.len() == metadata.input.std.len() {
            Ok(metadata)
        } else {
            Err(broken)
        }
    }

    /// The labels in output order.
    ///
    /// ```
    /// use qat_kernels::{artifact::Metadata, infer::argmax};
    /// let metadata = Metadata { labels: "cat\ndog\nbird", ..Metadata::default() };
    /// assert_eq!(metadata.label_list().nth(argmax(&[-3, 90, 7])), Some("dog"));
    /// assert_eq!(Metadata::default().label_list().count(), 0); // outputs without names
    /// ```
    pub fn label_list(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.labels.split('\n').filter(|l| !l.is_empty())
    }
}

/// Standardisation of raw features, then int8: `q = clamp(round_ties_even(((x − mean)/std)/scale) + zero_point)`.
///
/// With one mean and deviation they hold for every feature, with several they repeat along the innermost dimension;
/// with none the features are used as they are.
///
/// ```
/// use qat_kernels::artifact::InputTransform;
/// // Temperature and pressure, one after the other.
/// let bytes = |values: [f32; 2]| values.map(f32::to_le_bytes);
/// let (mean, std) = (bytes([20.0, 1000.0]), bytes([10.0, 50.0]));
/// let sensors = InputTransform { mean: mean.as_flattened(), std: std.as_flattened() };
/// let mut input = [0; 4];
/// sensors.apply(0.5, 0, &[30.0, 950.0, 20.0, 1100.0], &mut input)?;
/// assert_eq!(input, [2, -2, 0, 4]); // 1, −1, 0 and 2 deviations, in steps of ½
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InputTransform<'a> {
    /// Means, f32 little-endian.
    #[serde(borrow)]
    pub mean: &'a [u8],
    /// Standard deviations, f32 little-endian, as many as means.
    #[serde(borrow)]
    pub std: &'a [u8],
}

impl InputTransform<'_> {
    /// Turns raw features into a model's int8 input, with the same bits on every core.
    ///
    /// `scale` and `zero_point` are the model's ([`Model::input_scale`](crate::infer::Model::input_scale),
    /// [`Model::input_zero_point`](crate::infer::Model::input_zero_point)).
    ///
    /// # Errors
    /// [`Error::Length`] if `raw` and `input` differ in length; [`Error::NotFinite`] for NaN or ∞ in `raw`;
    /// [`Error::NotPositive`] for a scale or deviation that is not.
    ///
    /// ```
    /// use qat_kernels::{Error, What, artifact::InputTransform};
    /// let (mean, std) = (128.0_f32.to_le_bytes(), 64.0_f32.to_le_bytes());
    /// let pixels = InputTransform { mean: &mean, std: &std };
    /// let mut input = [0; 4];
    /// pixels.apply(1.0 / 64.0, -3, &[0.0, 128.0, 128.5, 255.0], &mut input)?;
    /// assert_eq!(input, [-128, -3, -3, 124]); // −131 is clamped; ½ is a tie and goes to 0
    /// let e = Error::Length { what: What::Input, expected: 4, got: 3 };
    /// assert_eq!(pixels.apply(1.0, 0, &[0.0; 3], &mut input), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn apply(&self, scale: f32, zero_point: i8, raw: &[f32], input: &mut [i8]) -> Result<()> {
        if raw.len() != input.len() {
            return Err(Error::Length { what: What::Input, expected: input.len(), got: raw.len() });
        }
        if !(scale > 0.0 && scale.is_finite()) {
            return Err(Error::NotPositive { what: What::Scale, index: 0, value: scale });
        }
        // The 8-bit mid-tread grid clamps to −128..=127; the zero point moves that window.
        let levels = Levels::new(8, crate::Grid::MidTread)?;
        let (means, _) = self.mean.as_chunks::<4>();
        let (stds, _) = self.std.as_chunks::<4>();
        let features = means.len().max(1);
        for (row, (raw, input)) in raw.chunks(features).zip(input.chunks_mut(features)).enumerate() {
            for (i, (&x, q)) in raw.iter().zip(input).enumerate() {
                let index = row * features + i;
                let mean = means.get(i).map_or(0.0, |m| f32::from_le_bytes(*m));
                let std = stds.get(i).map_or(1.0, |s| f32::from_le_bytes(*s));
                if !(std > 0.0 && std.is_finite()) {
                    return Err(Error::NotPositive { what: What::Scale, index: i, value: std });
                }
                if !x.is_finite() {
                    return Err(Error::NotFinite { what: What::Input, index });
                }
                let v = ((x - mean) / std) / scale;
                *q = quantize_affine(levels, v, zero_point);
            }
        }
        Ok(())
    }
}

/// `clamp(round_ties_even(v) + z, −128, 127)` for v in units of the scale.
#[inline]
fn quantize_affine(levels: Levels, v: f32, zero_point: i8) -> i8 {
    let z = f32::from(zero_point);
    let (lo, hi) = (levels.lo() as f32 - z, levels.hi() as f32 - z);
    let v = if v > lo { v } else { lo };
    let v = if v < hi { v } else { hi };
    // |v| ≤ 255 here, where adding and taking away 1.5·2^23 rounds to an integer, ties to even.
    ((v + 12_582_912.0) - 12_582_912.0 + z) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn standardise_then_round_to_even() {
        let (mean, std) = (bytes(&[1.0, 0.0]), bytes(&[2.0, 1.0]));
        let t = InputTransform { mean: &mean, std: &std };
        let mut q = [0; 4];
        t.apply(0.5, -3, &[2.5, 0.25, 1e9, -1e9], &mut q).unwrap();
        assert_eq!(q, [-1, -3, 127, -128]); // 1.5 → 2 − 3, 0.5 → 0 − 3
    }

    #[test]
    fn bad_input_is_named() {
        let t = InputTransform::default();
        let q = &mut [0; 2];
        assert_eq!(t.apply(1.0, 0, &[0.0], q), Err(Error::Length { what: What::Input, expected: 2, got: 1 }));
        assert_eq!(
            t.apply(1.0, 0, &[0.0, f32::NAN], q),
            Err(Error::NotFinite { what: What::Input, index: 1 })
        );
        assert!(t.apply(0.0, 0, &[0.0; 2], q).is_err());
        let (mean, std) = (bytes(&[0.0]), bytes(&[0.0]));
        assert!(InputTransform { mean: &mean, std: &std }.apply(1.0, 0, &[0.0; 2], q).is_err());
    }
}
