//! The `.cal` file: header, a [`CalibrationArtifact`] in postcard, CRC-32. `docs/calibration-format.md` writes it down
//! byte by byte.
//!
//! ```text
//! 0  magic 89 43 41 4C    4  version u16 = 1    6  zero u16    8  total length u32    12  payload    −4  CRC-32
//! ```

use super::artifact::{CalibrationArtifact, Parts, Provenance, TensorCalibration};
use crate::crc32::crc32;
use crate::error::{Error, FileFault, Result, What};

/// First four bytes of every `.cal` file. The first one is no text character, so that a transfer in text mode is seen.
pub const CAL_MAGIC: [u8; 4] = [0x89, b'C', b'A', b'L'];
/// The format version that this crate writes and reads.
pub const CAL_VERSION: u16 = 1;

const HEADER_LEN: usize = 12;
const CRC_LEN: usize = 4;

/// Most bytes that a `.cal` file can take with so many domains, tensors, parts (of all tensors together) and bytes of
/// names (of domains and tensors together): a buffer of this size is always enough.
///
/// ```
/// use qat_kernels::calibration::max_file_len;
/// // Ten tensors of one part each, one domain, names of up to 20 bytes.
/// const LEN: usize = max_file_len(1, 10, 10, 11 * 20);
/// let buffer = [0u8; LEN];
/// assert!(buffer.len() < 1024);
/// ```
#[must_use]
pub const fn max_file_len(domains: usize, tensors: usize, parts: usize, name_bytes: usize) -> usize {
    // Longest varints: u64 10 bytes; a length of at most 2^32 5.
    const LENGTH: usize = 5;
    const METHOD: usize = 1 + 4;
    const PROVENANCE: usize = 32 + 10 + 10 + METHOD + LENGTH;
    const DOMAIN: usize = LENGTH + 10;
    // Bits, scheme with its grid, granularity with its group, limit.
    const CONFIG: usize = METHOD + 1 + 2 + (1 + 10) + (1 + 4);
    const TENSOR: usize = LENGTH + CONFIG + LENGTH;
    (HEADER_LEN + PROVENANCE + LENGTH + CRC_LEN)
        .saturating_add(domains.saturating_mul(DOMAIN))
        .saturating_add(tensors.saturating_mul(TENSOR))
        .saturating_add(Parts::packed_len(parts))
        .saturating_add(name_bytes)
}

const fn fault(at: usize, fault: FileFault) -> Error {
    Error::File { at, fault }
}

impl<'a, const TENSORS: usize> CalibrationArtifact<'a, TENSORS> {
    /// Exact length of the file.
    ///
    /// # Errors
    /// [`Error::File`] with [`FileFault::TooLong`] beyond 4 GiB.
    ///
    /// ```
    /// # use qat_kernels::{QuantGranularity, calibration::*};
    /// # let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerToken);
    /// # let mut domains = Domains::new();
    /// # domains.add("digits", 100)?;
    /// # let provenance = Provenance::new([7; 32], 1_767_225_600, config.method, &domains);
    /// # let mut artifact = CalibrationArtifact::<4>::new(provenance);
    /// # artifact.push(TensorCalibration { name: "fc.in", config, parts: Parts::default() })?;
    /// let mut file = vec![0; artifact.file_len()?];
    /// artifact.to_slice(&mut file)?;
    /// assert_eq!(file[8..12], (file.len() as u32).to_le_bytes()); // the file says it, too
    /// assert!(file.len() <= max_file_len(1, 1, 0, "digits".len() + "fc.in".len()));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn file_len(&self) -> Result<usize> {
        let too_long = fault(8, FileFault::TooLong);
        let payload = postcard::experimental::serialized_size(self).map_err(|_| too_long)?;
        let total = payload.checked_add(HEADER_LEN + CRC_LEN).ok_or(too_long)?;
        if u32::try_from(total).is_ok() { Ok(total) } else { Err(too_long) }
    }

    /// Writes the file to the front of `out` and returns that part of it. What is not valid is not written.
    ///
    /// # Errors
    /// What [`Self::validate`] finds; [`Error::Length`] if `out` is shorter than [`Self::file_len`];
    /// [`FileFault::TooLong`].
    ///
    /// ```
    /// # use qat_kernels::{Error, QuantGranularity, What, calibration::*};
    /// # let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerToken);
    /// # let mut domains = Domains::new();
    /// # domains.add("digits", 100)?;
    /// # let provenance = Provenance::new([7; 32], 1_767_225_600, config.method, &domains);
    /// # let mut artifact = CalibrationArtifact::<4>::new(provenance);
    /// # artifact.push(TensorCalibration { name: "fc.in", config, parts: Parts::default() })?;
    /// let mut flash_page = [0xFF; 256];
    /// let len = artifact.to_slice(&mut flash_page)?.len();
    /// assert!(flash_page.starts_with(&CAL_MAGIC));
    /// assert_eq!(flash_page[len..], [0xFF; 256][len..]); // the rest is left alone
    /// let e = Error::Length { what: What::Output, expected: len, got: len - 1 };
    /// assert_eq!(artifact.to_slice(&mut flash_page[..len - 1]), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn to_slice<'o>(&self, out: &'o mut [u8]) -> Result<&'o mut [u8]> {
        self.validate()?;
        let (expected, got) = (self.file_len()?, out.len());
        let short = Error::Length { what: What::Output, expected, got };
        let file = out.get_mut(..expected).ok_or(short)?;
        let total = u32::try_from(expected).map_err(|_| fault(8, FileFault::TooLong))?;

        let (body, crc) = file.split_last_chunk_mut::<CRC_LEN>().ok_or(short)?;
        let (header, payload) = body.split_first_chunk_mut::<HEADER_LEN>().ok_or(short)?;
        let [m0, m1, m2, m3] = CAL_MAGIC;
        let [v0, v1] = CAL_VERSION.to_le_bytes();
        let [l0, l1, l2, l3] = total.to_le_bytes();
        *header = [m0, m1, m2, m3, v0, v1, 0, 0, l0, l1, l2, l3];
        postcard::to_slice(self, payload).map_err(|_| short)?;
        *crc = crc32(body).to_le_bytes();
        Ok(file)
    }

    /// Reads a file. Names and parts stay in `bytes`; nothing else is kept of it.
    ///
    /// # Errors
    /// [`Error::File`]: wrong magic, unknown version, truncated, wrong length, wrong checksum, a reserved field that is
    /// not zero, a payload that does not decode, bytes after it. [`Error::Capacity`]: more than `TENSORS` tensors.
    /// [`Error::Tensor`]: a tensor that is not valid. And what [`Self::validate`] finds.
    ///
    /// ```
    /// # use qat_kernels::{Error, FileFault, QuantGranularity, calibration::*};
    /// # let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerToken);
    /// # let mut domains = Domains::new();
    /// # domains.add("digits", 100)?;
    /// # let provenance = Provenance::new([7; 32], 1_767_225_600, config.method, &domains);
    /// # let mut artifact = CalibrationArtifact::<4>::new(provenance);
    /// # artifact.push(TensorCalibration { name: "fc.in", config, parts: Parts::default() })?;
    /// # let mut buffer = [0; 256];
    /// # let file = artifact.to_slice(&mut buffer)?;
    /// let read = CalibrationArtifact::<4>::from_bytes(file)?;
    /// assert_eq!((read.provenance().samples, read.tensors()[0].name), (100, "fc.in"));
    /// let mut damaged = file.to_vec();
    /// damaged[20] ^= 1; // one bit of the data set's hash
    /// let e = Error::File { at: file.len() - 4, fault: FileFault::Crc };
    /// assert_eq!(CalibrationArtifact::<4>::from_bytes(&damaged).err(), Some(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self> {
        let payload = payload(bytes)?;
        // The payload ends where the checksum begins.
        let end = bytes.len() - CRC_LEN;
        let decode_error = |rest: &[u8]| fault(end - rest.len(), FileFault::Metadata);

        let (provenance, rest) =
            postcard::take_from_bytes::<Provenance<'a>>(payload).map_err(|_| decode_error(payload))?;
        let (count, mut rest) = postcard::take_from_bytes::<u32>(rest).map_err(|_| decode_error(rest))?;
        let mut artifact = Self::new(provenance);
        for _ in 0..count {
            let (tensor, after) =
                postcard::take_from_bytes::<TensorCalibration<'a>>(rest).map_err(|_| decode_error(rest))?;
            artifact.push(tensor)?;
            rest = after;
        }
        if !rest.is_empty() {
            return Err(fault(end - rest.len(), FileFault::TrailingBytes));
        }
        artifact.validate()?;
        Ok(artifact)
    }
}

/// Checks the outer layer and returns what it holds.
fn payload(bytes: &[u8]) -> Result<&[u8]> {
    let truncated = fault(0, FileFault::Truncated { got: bytes.len() });
    // The magic first, even in a file too short for a header: "not a .cal file" says more than "truncated".
    if !bytes.starts_with(&CAL_MAGIC) && !CAL_MAGIC.starts_with(bytes) {
        return Err(fault(0, FileFault::Magic));
    }
    let (header, _) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(truncated)?;
    let &[_, _, _, _, v0, v1, r0, r1, l0, l1, l2, l3] = header;
    let version = u16::from_le_bytes([v0, v1]);
    if version != CAL_VERSION {
        return Err(fault(4, FileFault::Version { version }));
    }
    let stated = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if stated != bytes.len() {
        return Err(fault(8, FileFault::TotalLength { stated, got: bytes.len() }));
    }
    let (body, stored) = bytes.split_last_chunk::<CRC_LEN>().ok_or(truncated)?;
    let payload = body.get(HEADER_LEN..).ok_or(truncated)?;
    if u32::from_le_bytes(*stored) != crc32(body) {
        return Err(fault(body.len(), FileFault::Crc));
    }
    if [r0, r1] != [0, 0] {
        return Err(fault(6, FileFault::Reserved));
    }
    Ok(payload)
}
