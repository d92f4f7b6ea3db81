//! The result of a calibration with its provenance: what a `.cal` file holds.

use super::config::CalibrationConfig;
use super::domains::{Domains, MAX_DOMAINS};
use super::params::{AffineParams, Calibrated, ClipRange, zero_point_fits};
use crate::calibration::CalibrationMethod;
use crate::config::QuantGranularity;
use crate::error::{Error, Result, TensorFault, What};
use heapless::Vec;
use serde::{Deserialize, Serialize};

/// Longest name of a tensor, in bytes of UTF-8.
pub const MAX_TENSOR_NAME: usize = 128;

/// Bytes of a packed part.
const PART_LEN: usize = 13;

/// Examples of one domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainCount<'a> {
    /// Name of the domain.
    pub name: &'a str,
    /// Examples of it.
    pub examples: u64,
}

/// Where a calibration comes from (INV-5). postcard's field order is the format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance<'a> {
    /// SHA-256 of the data set.
    pub dataset_sha256: [u8; 32],
    /// Examples of the data set that were run through the model.
    pub samples: u64,
    /// Unix time of the calibration in seconds, given by the caller: this crate has no clock.
    pub unix_time: u64,
    /// The method of the run. A tensor's own configuration holds where it differs.
    pub method: CalibrationMethod,
    /// Examples per domain; they add up to `samples`.
    #[serde(borrow)]
    pub domains: Vec<DomainCount<'a>, MAX_DOMAINS>,
}

impl<'a> Provenance<'a> {
    /// Provenance with the domains of an engine, whose total is the number of samples.
    #[must_use]
    pub fn new(
        dataset_sha256: [u8; 32],
        unix_time: u64,
        method: CalibrationMethod,
        domains: &'a Domains,
    ) -> Self {
        let mut counts = Vec::new();
        for (name, examples) in domains.iter() {
            // Never full: it has as many places as there can be domains. (`collect` would bring in a panic.)
            let _ = counts.push(DomainCount { name, examples });
        }
        Self { dataset_sha256, samples: domains.total(), unix_time, method, domains: counts }
    }

    /// Checks INV-5: nothing is missing, and the domains account for every sample.
    ///
    /// # Errors
    /// [`Error::Provenance`] for a hash of zeros only ([`What::Dataset`]), no samples ([`What::SampleCount`]), time 0
    /// ([`What::Time`]), and domains that are missing, nameless, repeated, empty, or do not add up ([`What::Domains`]);
    /// [`Error::Range`] for a method with parameters out of range.
    pub fn validate(&self) -> Result<()> {
        let missing = |what| Err(Error::Provenance { what });
        if self.dataset_sha256 == [0; 32] {
            return missing(What::Dataset);
        }
        if self.samples == 0 {
            return missing(What::SampleCount);
        }
        if self.unix_time == 0 {
            return missing(What::Time);
        }
        self.method.validate()?;
        let mut sum = 0u64;
        for (i, domain) in self.domains.iter().enumerate() {
            let repeated = self.domains.iter().take(i).any(|d| d.name == domain.name);
            if domain.name.is_empty() || domain.examples == 0 || repeated {
                return missing(What::Domains);
            }
            sum = match sum.checked_add(domain.examples) {
                Some(sum) => sum,
                None => return missing(What::Domains),
            };
        }
        if sum == self.samples { Ok(()) } else { missing(What::Domains) }
    }
}

/// Ranges, scales and zero points of the parts of a tensor, packed: 13 bytes each, little-endian `lo` f32, `hi` f32,
/// `scale` f32, `zero_point` i8, one after the other. Reading needs no copy, so a file may hold any number of channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts<'a>(#[serde(borrow)] &'a [u8]);

impl<'a> Parts<'a> {
    /// Bytes of `parts` parts.
    #[must_use]
    pub const fn packed_len(parts: usize) -> usize {
        parts.saturating_mul(PART_LEN)
    }

    /// Packs parts into the front of `out`.
    ///
    /// # Errors
    /// [`Error::Length`] if `out` is shorter than [`Self::packed_len`].
    pub fn pack(parts: &[Calibrated], out: &'a mut [u8]) -> Result<Self> {
        let (expected, got) = (Self::packed_len(parts.len()), out.len());
        let out = out.get_mut(..expected).ok_or(Error::Length { what: What::Output, expected, got })?;
        for (part, bytes) in parts.iter().zip(out.as_chunks_mut::<PART_LEN>().0) {
            let [a, b, c, d] = part.range.lo().to_le_bytes();
            let [e, f, g, h] = part.range.hi().to_le_bytes();
            let [i, j, k, l] = part.params.scale.to_le_bytes();
            let [z] = part.params.zero_point.to_le_bytes();
            *bytes = [a, b, c, d, e, f, g, h, i, j, k, l, z];
        }
        Ok(Self(out))
    }

    /// Number of parts.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.len() / PART_LEN
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The part at an index.
    #[must_use]
    pub fn get(self, index: usize) -> Option<Calibrated> {
        self.0.as_chunks::<PART_LEN>().0.get(index).map(unpack)
    }

    /// All parts in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = Calibrated> + use<'a> {
        self.0.as_chunks::<PART_LEN>().0.iter().map(unpack)
    }

    const fn is_whole(self) -> bool {
        self.0.len().is_multiple_of(PART_LEN)
    }
}

fn unpack(&[a, b, c, d, e, f, g, h, i, j, k, l, z]: &[u8; PART_LEN]) -> Calibrated {
    let (lo, hi) = (f32::from_le_bytes([a, b, c, d]), f32::from_le_bytes([e, f, g, h]));
    // `validate` is what makes a file's range trustworthy.
    let range = ClipRange::trusted(lo, hi);
    let scale = f32::from_le_bytes([i, j, k, l]);
    Calibrated { range, params: AffineParams { scale, zero_point: i8::from_le_bytes([z]) } }
}

/// The calibration of one tensor. postcard's field order is the format.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorCalibration<'a> {
    /// Name, unique in the artifact, 1 to [`MAX_TENSOR_NAME`] bytes.
    pub name: &'a str,
    /// How it was calibrated.
    pub config: CalibrationConfig,
    /// What came out: one part per tensor, any number per channel or group, none per token.
    #[serde(borrow)]
    pub parts: Parts<'a>,
}

impl TensorCalibration<'_> {
    /// Checks everything that can be checked without the other tensors.
    ///
    /// # Errors
    /// The first fault found.
    pub fn validate(&self) -> Result<(), TensorFault> {
        if self.name.is_empty() || self.name.len() > MAX_TENSOR_NAME {
            return Err(TensorFault::Name);
        }
        self.config.validate().map_err(|_| TensorFault::Config)?;
        let levels = self.config.levels().map_err(|_| TensorFault::Config)?;
        let got = self.parts.len();
        let count_fits = match self.config.granularity {
            QuantGranularity::PerTensor => got == 1,
            QuantGranularity::PerChannel | QuantGranularity::PerGroup(_) => got >= 1,
            QuantGranularity::PerToken => got == 0,
        };
        if !count_fits || !self.parts.is_whole() {
            return Err(TensorFault::Parts { got });
        }
        for (part, Calibrated { range, params }) in self.parts.iter().enumerate() {
            if ClipRange::new(range.lo(), range.hi()).is_err() {
                return Err(TensorFault::Range { part });
            }
            // Normal, not just positive: a subnormal scale would not survive a core that flushes it to zero.
            if !(params.scale > 0.0 && params.scale.is_normal()) {
                return Err(TensorFault::Scale { part });
            }
            if !zero_point_fits(params, levels, self.config.scheme) {
                return Err(TensorFault::ZeroPoint { part });
            }
        }
        Ok(())
    }
}

/// A calibration: its provenance, and every tensor's ranges, scales and zero points. `TENSORS` is the most it can hold.
///
/// It borrows names and parts from the bytes it was read from, or from whatever it was built of.
///
/// ```
/// use qat_kernels::calibration::*;
///
/// let mut engine = CalibrationEngine::<0>::new(CalibrationConfig::default())?;
/// engine.observe(&[0.0, 1.0, 2.55])?;
/// engine.count_examples("digits", 1)?;
///
/// let mut packed = [0; Parts::packed_len(1)];
/// let parts = Parts::pack(&[engine.calibrated(0)?], &mut packed)?;
/// let method = engine.config().method;
/// let mut artifact: CalibrationArtifact<'_> =
///     CalibrationArtifact::new(Provenance::new([7; 32], 1_700_000_000, method, engine.domains()));
/// artifact.push(TensorCalibration { name: "conv1.out", config: *engine.config(), parts })?;
///
/// let mut file = [0; max_file_len(1, 1, 1, "digits".len() + "conv1.out".len())];
/// let bytes = artifact.to_slice(&mut file)?;
/// let read: CalibrationArtifact<'_> = CalibrationArtifact::from_bytes(bytes)?;
/// assert_eq!(read, artifact);
/// assert_eq!(read.tensor("conv1.out").and_then(|t| t.parts.get(0)).map(|p| p.params.scale), Some(0.01));
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CalibrationArtifact<'a, const TENSORS: usize = 32> {
    provenance: Provenance<'a>,
    tensors: Vec<TensorCalibration<'a>, TENSORS>,
}

impl<'a, const TENSORS: usize> CalibrationArtifact<'a, TENSORS> {
    /// An artifact without tensors.
    #[must_use]
    pub const fn new(provenance: Provenance<'a>) -> Self {
        Self { provenance, tensors: Vec::new() }
    }

    /// Appends a tensor.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that is not valid or has a name that was there before; [`Error::Capacity`] beyond
    /// `TENSORS` of them.
    pub fn push(&mut self, tensor: TensorCalibration<'a>) -> Result<()> {
        let index = self.tensors.len();
        let bad = |fault| Error::Tensor { tensor: index, fault };
        tensor.validate().map_err(bad)?;
        if self.tensor(tensor.name).is_some() {
            return Err(bad(TensorFault::DuplicateName));
        }
        self.tensors.push(tensor).map_err(|_| Error::Capacity { what: What::Tensors, capacity: TENSORS })
    }

    /// Where the calibration comes from.
    #[must_use]
    pub const fn provenance(&self) -> &Provenance<'a> {
        &self.provenance
    }

    /// The tensors in the order in which they were appended.
    #[must_use]
    pub fn tensors(&self) -> &[TensorCalibration<'a>] {
        &self.tensors
    }

    /// The tensor of a name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorCalibration<'a>> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// Checks the whole artifact; reading and writing do so by themselves.
    ///
    /// # Errors
    /// What [`Provenance::validate`] finds; [`Error::Empty`] without tensors. (Tensors are checked when they are appended.)
    pub fn validate(&self) -> Result<()> {
        self.provenance.validate()?;
        if self.tensors.is_empty() {
            return Err(Error::Empty { what: What::Tensors });
        }
        Ok(())
    }
}
