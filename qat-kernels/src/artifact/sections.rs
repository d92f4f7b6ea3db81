//! The outer layer of a `.piq` file: header, section table, CRC-32. Knows nothing of what the sections hold.

use super::signature::Signature;
use super::{ALIGNMENT, MAGIC, VERSION};
use crate::crc32::crc32;
use crate::error::{Error, FileFault, Result};

/// Bytes of the header in front of the section table: magic, version u16, section count u16, total length u32, zero u32.
const FILE_HEADER_LEN: usize = 16;
/// Bytes of a table entry: kind u16, zero u16, offset u32, length u32.
const ENTRY_LEN: usize = 12;
const CRC_LEN: usize = 4;

/// What a section holds. Kinds appear in ascending order, each at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Section {
    /// The model header and one record per operator.
    Program = 1,
    /// Packed codes, group divisors, biases and multipliers.
    Parameters = 2,
    /// Provenance, names and the input transform, postcard.
    Metadata = 3,
    /// Inputs with the outputs that the engine must give.
    KnownAnswers = 4,
    /// Who vouches for everything in front of it.
    Signature = 5,
}

/// The sections of a file whose outer layer has been checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sections<'a> {
    pub(crate) program: &'a [u8],
    pub(crate) parameters: &'a [u8],
    pub(crate) metadata: &'a [u8],
    pub(crate) known_answers: &'a [u8],
    pub(crate) signature: Option<Signature<'a>>,
}

fn fault(at: usize, fault: FileFault) -> Error {
    Error::File { at, fault }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

/// Checks magic and version; returns the number of sections and the length of the file.
fn header(bytes: &[u8]) -> Result<(usize, usize)> {
    let truncated = |at| fault(at, FileFault::Truncated { got: bytes.len() });
    if bytes.first_chunk() != Some(&MAGIC) {
        return Err(fault(0, FileFault::Magic));
    }
    let version = u16_at(bytes, 4).ok_or(truncated(4))?;
    if version != VERSION {
        return Err(fault(4, FileFault::Version { version }));
    }
    let count = u16_at(bytes, 6).ok_or(truncated(6))?;
    let total = u32_at(bytes, 8).ok_or(truncated(8))?;
    Ok((count.into(), total as usize))
}

/// The file at the start of a longer `region`, such as a flash partition that models are sent to: the header says where it
/// ends, and what follows is not looked at. Nor is the file: [`crate::infer::Model::parse`] and `parse_signed` check what
/// this returns.
///
/// # Errors
/// [`Error::File`] where no file of this version begins ([`FileFault::Magic`] of erased flash, too), or where it ends behind
/// the region ([`FileFault::TotalLength`]).
///
/// ```
/// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
/// use qat_kernels::{Error, FileFault, artifact::file_in, infer::Model};
/// let mut partition = [0xFF; 16 << 10];
/// assert_eq!(file_in(&partition), Err(Error::File { at: 0, fault: FileFault::Magic }));
///
/// partition[..file.len()].copy_from_slice(file);
/// assert!(Model::parse(&partition).is_err());
/// let model = Model::parse(file_in(&partition)?)?;
/// # assert_eq!(file_in(&partition)?, file);
/// # Ok::<(), Error>(())
/// ```
pub fn file_in(region: &[u8]) -> Result<&[u8]> {
    let (_, total) = header(region)?;
    let ends_behind = fault(8, FileFault::TotalLength { stated: total, got: region.len() });
    region.get(..total).ok_or(ends_behind)
}

impl<'a> Sections<'a> {
    /// Checks magic, version, length, CRC and table, and splits the file.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let truncated = |at| fault(at, FileFault::Truncated { got: bytes.len() });
        let (count, total) = header(bytes)?;
        if total != bytes.len() {
            return Err(fault(8, FileFault::TotalLength { stated: total, got: bytes.len() }));
        }
        let body_len = total.checked_sub(CRC_LEN).ok_or(truncated(8))?;
        let (body, stored) = bytes.split_at_checked(body_len).ok_or(truncated(8))?;
        if u32_at(stored, 0) != Some(crc32(body)) {
            return Err(fault(body_len, FileFault::Crc));
        }
        if u32_at(body, 12) != Some(0) {
            return Err(fault(12, FileFault::Reserved));
        }

        let mut found =
            Self { program: &[], parameters: &[], metadata: &[], known_answers: &[], signature: None };
        let mut last_kind = 0;
        let mut end = FILE_HEADER_LEN + count * ENTRY_LEN;
        if end > body.len() {
            return Err(fault(6, FileFault::SectionTable));
        }
        for entry in 0..count {
            let at = FILE_HEADER_LEN + entry * ENTRY_LEN;
            let broken = fault(at, FileFault::SectionTable);
            let kind = u16_at(body, at).ok_or(broken)?;
            let zero = u16_at(body, at + 2).ok_or(broken)?;
            let offset = u32_at(body, at + 4).ok_or(broken)? as usize;
            let len = u32_at(body, at + 8).ok_or(broken)? as usize;
            // In order, without overlap, each on the next boundary: one spelling per file, nowhere to hide bytes.
            let gap_is_zero = body.get(end..offset).is_some_and(|gap| gap.iter().all(|&b| b == 0));
            if kind <= last_kind || zero != 0 || offset != end.next_multiple_of(ALIGNMENT) || !gap_is_zero {
                return Err(broken);
            }
            end = offset.checked_add(len).ok_or(broken)?;
            let content = body.get(offset..end).ok_or(broken)?;
            match kind {
                k if k == Section::Program as u16 => found.program = content,
                k if k == Section::Parameters as u16 => found.parameters = content,
                k if k == Section::Metadata as u16 => found.metadata = content,
                k if k == Section::KnownAnswers as u16 => found.known_answers = content,
                k if k == Section::Signature as u16 => {
                    let broken = fault(offset, FileFault::SignatureSection);
                    found.signature = Some(Signature::read(body, offset, content).ok_or(broken)?);
                }
                _ => return Err(fault(at, FileFault::UnknownSection { kind })),
            }
            last_kind = kind;
        }
        if end != body.len() {
            return Err(fault(end, FileFault::TrailingBytes));
        }
        Ok(found)
    }
}

/// Writes the outer layer around the sections.
#[cfg(feature = "alloc")]
pub(crate) fn assemble(sections: &[(Section, &[u8])]) -> Result<alloc::vec::Vec<u8>> {
    let too_long = fault(8, FileFault::TooLong);
    let mut bytes = alloc::vec![0; FILE_HEADER_LEN + sections.len() * ENTRY_LEN];
    let put = |bytes: &mut alloc::vec::Vec<u8>, at: usize, value: &[u8]| {
        bytes.iter_mut().skip(at).zip(value).for_each(|(b, v)| *b = *v);
    };
    put(&mut bytes, 0, &MAGIC);
    put(&mut bytes, 4, &VERSION.to_le_bytes());
    put(&mut bytes, 6, &u16::try_from(sections.len()).map_err(|_| too_long)?.to_le_bytes());
    for (i, (kind, content)) in sections.iter().enumerate() {
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        let at = FILE_HEADER_LEN + i * ENTRY_LEN;
        let offset = u32::try_from(bytes.len()).map_err(|_| too_long)?;
        let len = u32::try_from(content.len()).map_err(|_| too_long)?;
        put(&mut bytes, at, &(*kind as u16).to_le_bytes());
        put(&mut bytes, at + 4, &offset.to_le_bytes());
        put(&mut bytes, at + 8, &len.to_le_bytes());
        bytes.extend_from_slice(content);
    }
    let total = u32::try_from(bytes.len() + CRC_LEN).map_err(|_| too_long)?;
    put(&mut bytes, 8, &total.to_le_bytes());
    let crc = crc32(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

#[cfg(test)]
#[cfg(feature = "alloc")]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        assemble(&[
            (Section::Program, &[1; 20]),
            (Section::Parameters, &[2; 3]),
            (Section::Metadata, &[3; 16]),
        ])
        .unwrap()
    }

    /// Gives a mutilated body its right CRC again, so that the deeper checks are reached.
    fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let body = bytes.len() - CRC_LEN;
        let crc = crc32(&bytes[..body]);
        bytes[body..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn fault_of(bytes: &[u8]) -> FileFault {
        match Sections::parse(bytes).unwrap_err() {
            Error::File { fault, .. } => fault,
            e => panic!("{e}"),
        }
    }

    #[test]
    fn sections_come_back_as_they_went_in() {
        let bytes = sample();
        let s = Sections::parse(&bytes).unwrap();
        assert_eq!((s.program, s.parameters, s.metadata), (&[1; 20][..], &[2; 3][..], &[3; 16][..]));
        assert!(s.known_answers.is_empty());
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_seen() {
        let bytes = sample();
        for bit in 0..bytes.len() * 8 {
            let mut b = bytes.clone();
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(Sections::parse(&b).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Sections::parse(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_file_in_a_longer_region_ends_where_its_header_says() {
        let file = sample();
        for behind in [&[][..], &[0xFF; 40], &MAGIC] {
            assert_eq!(file_in(&[&file[..], behind].concat()), Ok(&file[..]));
        }
        assert!((0..file.len()).all(|len| file_in(&file[..len]).is_err()));
        let mut endless = file.clone();
        endless[8..12].copy_from_slice(&[0xFF; 4]);
        let stated = u32::MAX as usize;
        assert_eq!(file_in(&endless), Err(fault(8, FileFault::TotalLength { stated, got: file.len() })));
    }

    #[test]
    fn each_outer_fault_has_its_name() {
        let with = |at: usize, value: &[u8]| {
            let mut b = sample();
            b[at..at + value.len()].copy_from_slice(value);
            resealed(b)
        };
        let len = sample().len();
        assert_eq!(fault_of(b""), FileFault::Magic);
        assert_eq!(fault_of(b"GIF8"), FileFault::Magic);
        assert_eq!(fault_of(&MAGIC), FileFault::Truncated { got: 4 });
        assert_eq!(fault_of(&with(4, &[2])), FileFault::Version { version: 2 });
        assert_eq!(fault_of(&sample()[..len - 1]), FileFault::TotalLength { stated: len, got: len - 1 });
        let mut flipped = sample();
        flipped[70] ^= 1;
        assert_eq!(fault_of(&flipped), FileFault::Crc);
        assert_eq!(fault_of(&with(12, &[1])), FileFault::Reserved);
        assert_eq!(fault_of(&with(6, &[200])), FileFault::SectionTable); // more entries than file
        assert_eq!(fault_of(&with(16, &[2])), FileFault::SectionTable); // the same kind twice
        assert_eq!(fault_of(&with(18, &[1])), FileFault::SectionTable); // reserved field of an entry
        assert_eq!(fault_of(&with(20, &[80])), FileFault::SectionTable); // not the next boundary
        assert_eq!(fault_of(&with(24, &[0xFF, 0xFF, 0xFF, 0xFF])), FileFault::SectionTable); // beyond the end
        assert_eq!(fault_of(&with(40, &[9])), FileFault::UnknownSection { kind: 9 });
        assert_eq!(fault_of(&with(60, &[1])), FileFault::SectionTable); // something in a gap
        assert_eq!(fault_of(&with(48, &[15])), FileFault::TrailingBytes);
        assert_eq!(fault_of(&with(40, &[5])), FileFault::SignatureSection);
    }
}
