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
///
/// ```
/// use qat_kernels::calibration::{CalibrationMethod, DomainCount, Domains, Provenance};
/// let mut domains = Domains::new();
/// domains.add("speech", 30)?;
/// domains.add("music", 10)?;
/// let provenance = Provenance::new([7; 32], 1_767_225_600, CalibrationMethod::MinMax, &domains);
/// assert_eq!(provenance.domains[0], DomainCount { name: "music", examples: 10 }); // alphabetically
/// # Ok::<(), qat_kernels::Error>(())
/// ```
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
    ///
    /// ```
    /// # use qat_kernels::calibration::{CalibrationMethod, Domains, Provenance};
    /// let mut domains = Domains::new();
    /// domains.add("speech", 30)?;
    /// domains.add("music", 10)?;
    /// let sha256 = [7; 32]; // of the data set
    /// let new_year_2026 = 1_767_225_600; // seconds since 1970
    /// let provenance = Provenance::new(sha256, new_year_2026, CalibrationMethod::MinMax, &domains);
    /// assert_eq!(provenance.samples, 30 + 10);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use qat_kernels::{Error, What, calibration::{CalibrationMethod, Domains, Provenance}};
    /// # let mut domains = Domains::new();
    /// # domains.add("speech", 30)?;
    /// let mut provenance = Provenance::new([7; 32], 1_767_225_600, CalibrationMethod::MinMax, &domains);
    /// provenance.validate()?;
    /// provenance.samples += 1; // from no domain
    /// assert_eq!(provenance.validate(), Err(Error::Provenance { what: What::Domains }));
    /// # Ok::<(), Error>(())
    /// ```
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
    ///
    /// ```
    /// use qat_kernels::calibration::Parts;
    /// assert_eq!(Parts::packed_len(1), 3 * size_of::<f32>() + size_of::<i8>());
    /// let per_channel = [0; Parts::packed_len(64)]; // a buffer on the stack
    /// assert_eq!(per_channel.len(), 832);
    /// ```
    #[must_use]
    pub const fn packed_len(parts: usize) -> usize {
        parts.saturating_mul(PART_LEN)
    }

    /// Packs parts into the front of `out`.
    ///
    /// # Errors
    /// [`Error::Length`] if `out` is shorter than [`Self::packed_len`].
    ///
    /// ```
    /// use qat_kernels::calibration::{AffineParams, Calibrated, ClipRange, Parts};
    /// let params = AffineParams { scale: 0.5, zero_point: -128 };
    /// let mut bytes = [0; Parts::packed_len(1)];
    /// Parts::pack(&[Calibrated { range: ClipRange::new(0.0, 127.5)?, params }], &mut bytes)?;
    /// assert_eq!(bytes[8..12], 0.5_f32.to_le_bytes()); // the scale, after both ends of the range
    /// assert_eq!(bytes[12], 0x80); // −128
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use qat_kernels::calibration::{AffineParams, Calibrated, ClipRange, Parts, QuantScheme};
    /// # let range = ClipRange::new(0.0, 2.55)?;
    /// # let part = Calibrated { range, params: AffineParams::from_range(range, 8, QuantScheme::Affine)? };
    /// let mut bytes = [0; 100];
    /// assert_eq!(Parts::pack(&[part; 3], &mut bytes)?.len(), 3); // not the 39 bytes that they take
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.len() / PART_LEN
    }

    /// Whether there are none.
    ///
    /// ```
    /// use qat_kernels::calibration::{CalibrationConfig, Parts, TensorCalibration};
    /// let config = CalibrationConfig::default().with_granularity(qat_kernels::QuantGranularity::PerToken);
    /// let tensor = TensorCalibration { name: "fc.in", config, parts: Parts::default() };
    /// // Every token gets a scale of its own when it comes by: there is none to store.
    /// assert!(tensor.parts.is_empty() && tensor.validate().is_ok());
    /// ```
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The part at an index.
    ///
    /// ```
    /// # use qat_kernels::calibration::{AffineParams, Calibrated, ClipRange, Parts, QuantScheme};
    /// # let range = ClipRange::new(0.0, 2.55)?;
    /// # let part = Calibrated { range, params: AffineParams::from_range(range, 8, QuantScheme::Affine)? };
    /// # let mut bytes = [0; Parts::packed_len(2)];
    /// let parts = Parts::pack(&[part; 2], &mut bytes)?;
    /// assert_eq!(parts.get(1), Some(part)); // every bit survives the packing
    /// assert_eq!(parts.get(2), None);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn get(self, index: usize) -> Option<Calibrated> {
        self.0.as_chunks::<PART_LEN>().0.get(index).map(unpack)
    }

    /// All parts in order.
    ///
    /// ```
    /// # use qat_kernels::calibration::{AffineParams, Calibrated, ClipRange, Parts, QuantScheme};
    /// # let part = |hi| -> Result<_, qat_kernels::Error> {
    /// #     let range = ClipRange::new(0.0, hi)?;
    /// #     Ok(Calibrated { range, params: AffineParams::from_range(range, 8, QuantScheme::Affine)? })
    /// # };
    /// # let mut bytes = [0; Parts::packed_len(3)];
    /// let parts = Parts::pack(&[part(2.0)?, part(6.0)?, part(1.0)?], &mut bytes)?;
    /// let widest = parts.iter().map(|part| part.range.magnitude()).fold(0.0, f32::max);
    /// assert_eq!(widest, 6.0);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
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
    ///
    /// ```
    /// use qat_kernels::TensorFault;
    /// use qat_kernels::calibration::*;
    /// let range = ClipRange::new(-1.0, 1.0)?;
    /// let mut bytes = [0; Parts::packed_len(1)];
    /// let parts = [Calibrated { range, params: AffineParams { scale: 0.0, zero_point: 0 } }];
    /// let parts = Parts::pack(&parts, &mut bytes)?;
    /// let tensor = TensorCalibration { name: "fc.out", config: CalibrationConfig::default(), parts };
    /// assert_eq!(tensor.validate(), Err(TensorFault::Scale { part: 0 })); // would divide by zero
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use qat_kernels::{Error, QuantGranularity, What, calibration::*};
    /// # let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerToken);
    /// # let mut domains = Domains::new();
    /// # domains.add("digits", 100)?;
    /// # let provenance = Provenance::new([7; 32], 1_767_225_600, config.method, &domains);
    /// let artifact = CalibrationArtifact::<4>::new(provenance); // room for four tensors
    /// assert_eq!(artifact.to_slice(&mut [0; 256]), Err(Error::Empty { what: What::Tensors }));
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub const fn new(provenance: Provenance<'a>) -> Self {
        Self { provenance, tensors: Vec::new() }
    }

    /// Appends a tensor.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that is not valid or has a name that was there before; [`Error::Capacity`] beyond
    /// `TENSORS` of them.
    ///
    /// ```
    /// # use qat_kernels::{Error, QuantGranularity, TensorFault, What, calibration::*};
    /// # let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerToken);
    /// # let mut domains = Domains::new();
    /// # domains.add("digits", 100)?;
    /// # let provenance = Provenance::new([7; 32], 1_767_225_600, config.method, &domains);
    /// let mut artifact = CalibrationArtifact::<1>::new(provenance);
    /// let tensor = TensorCalibration { name: "fc1.in", config, parts: Parts::default() };
    /// artifact.push(tensor)?;
    /// let twice = Error::Tensor { tensor: 1, fault: TensorFault::DuplicateName };
    /// assert_eq!(artifact.push(tensor), Err(twice));
    /// let full = Error::Capacity { what: What::Tensors, capacity: 1 };
    /// assert_eq!(artifact.push(TensorCalibration { name: "fc2.in", ..tensor }), Err(full));
    /// # Ok::<(), Error>(())
    /// ```
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
    ///
    /// ```
    /// # use qat_kernels::{QuantGranularity, calibration::*};
    /// # let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerToken);
    /// # let mut domains = Domains::new();
    /// # domains.add("digits", 100)?;
    /// # let provenance = Provenance::new([7; 32], 1_767_225_600, config.method, &domains);
    /// # let artifact = CalibrationArtifact::<4>::new(provenance);
    /// // Was this file made with the data set at hand?
    /// let made_with = |sha256| artifact.provenance().dataset_sha256 == sha256;
    /// assert!(made_with([7; 32]) && !made_with([8; 32]));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn provenance(&self) -> &Provenance<'a> {
        &self.provenance
    }

    /// The tensors in the order in which they were appended.
    ///
    /// ```
    /// # use qat_kernels::{QuantGranularity, calibration::*};
    /// # let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerToken);
    /// # let mut domains = Domains::new();
    /// # domains.add("digits", 100)?;
    /// # let provenance = Provenance::new([7; 32], 1_767_225_600, config.method, &domains);
    /// let mut artifact = CalibrationArtifact::<4>::new(provenance);
    /// for name in ["fc2.in", "fc1.in"] {
    ///     artifact.push(TensorCalibration { name, config, parts: Parts::default() })?;
    /// }
    /// assert!(artifact.tensors().iter().map(|tensor| tensor.name).eq(["fc2.in", "fc1.in"]));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn tensors(&self) -> &[TensorCalibration<'a>] {
        &self.tensors
    }

    /// The tensor of a name.
    ///
    /// ```
    /// # use qat_kernels::{QuantGranularity, calibration::*};
    /// # let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerToken);
    /// # let mut domains = Domains::new();
    /// # domains.add("digits", 100)?;
    /// # let provenance = Provenance::new([7; 32], 1_767_225_600, config.method, &domains);
    /// # let mut artifact = CalibrationArtifact::<4>::new(provenance);
    /// artifact.push(TensorCalibration { name: "fc.in", config: config.with_bits(4), parts: Parts::default() })?;
    /// assert_eq!(artifact.tensor("fc.in").map(|tensor| tensor.config.bits), Some(4));
    /// assert_eq!(artifact.tensor("fc.out"), None); // was not calibrated
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorCalibration<'a>> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// Checks the whole artifact; reading and writing do so by themselves.
    ///
    /// # Errors
    /// What [`Provenance::validate`] finds; [`Error::Empty`] without tensors. (Tensors are checked when they are appended.)
    ///
    /// ```
    /// use qat_kernels::{Error, What, calibration::*};
    /// let mut engine = CalibrationEngine::<0>::new(CalibrationConfig::default())?;
    /// engine.observe(&[0.0, 1.0])?;
    /// // `count_examples` was forgotten: nobody could say what the ranges rest on.
    /// let provenance = Provenance::new([7; 32], 1_767_225_600, engine.config().method, engine.domains());
    /// let artifact = CalibrationArtifact::<4>::new(provenance);
    /// assert_eq!(artifact.validate(), Err(Error::Provenance { what: What::SampleCount }));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn validate(&self) -> Result<()> {
        self.provenance.validate()?;
        if self.tensors.is_empty() {
            return Err(Error::Empty { what: What::Tensors });
        }
        Ok(())
    }
}
