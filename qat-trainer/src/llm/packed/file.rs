//! The container: a header, an index in JSON, parts on multiples of 64 bytes, a checksum.

use crate::error::{Error, ErrorKind, Result};
use std::io::Read;
use std::ops::Range;
use std::path::Path;

/// The first bytes of a file.
pub(super) const MAGIC: [u8; 8] = *b"\x89PIQ-LM\n";
pub(super) const VERSION: u32 = 1;
/// Bytes of the header: magic, version, length of the index, length of the file, zeros.
pub(super) const HEADER: usize = 64;
/// Parts begin on multiples of it: a cache line.
pub(super) const ALIGN: usize = 64;
/// Bytes of the checksum, the last ones.
const CHECKSUM: usize = 4;

/// Whether a file begins as packed decoders do.
///
/// # Errors
/// [`ErrorKind::Io`] if it cannot be read. A folder is none.
///
/// ```
/// # use std::path::Path;
/// use qat_trainer::{ErrorKind, llm::packed::is_packed};
/// # let dir = tempfile::tempdir()?;
/// # let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packed-v1.piq"));
/// # let other = dir.path().join("model.gguf");
/// # std::fs::write(&other, "GGUF")?;
/// assert!(is_packed(path)?); // of a packed decoder
/// assert!(!is_packed(&other)? && !is_packed(dir.path())?); // a file that is none, and a folder
/// assert_eq!(is_packed(Path::new("none.piq")).unwrap_err().kind(), ErrorKind::Io);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn is_packed(path: &Path) -> Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    let mut begin = Vec::new();
    let file = std::fs::File::open(path).and_then(|file| file.take(8).read_to_end(&mut begin));
    file.map_err(|e| Error::io("read", path, &e))?;
    Ok(begin == MAGIC)
}

pub(super) fn damaged(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::Model, problem).remedy("the file is damaged or something else; export it again")
}

/// Where the index lies, in a file whose header and checksum hold.
pub(super) fn open(bytes: &[u8]) -> Result<Range<usize>> {
    let at = |offset: usize| -> Result<[u8; 8]> {
        let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
        field.copied().ok_or_else(|| damaged(format!("{} bytes are no header", bytes.len())))
    };
    if at(0)? != MAGIC {
        return Err(damaged("not a packed decoder").place("byte 0"));
    }
    let [a, b, c, d, index @ ..] = at(8)?;
    let version = u32::from_le_bytes([a, b, c, d]);
    if version != VERSION {
        let problem = format!("the format's version is {version}; this program reads {VERSION}");
        return Err(damaged(problem).place("byte 8"));
    }
    let (length, there) = (u64::from_le_bytes(at(16)?), bytes.len() as u64);
    if length != there {
        return Err(
            damaged(format!("the header states {length} bytes but there are {there}")).place("byte 16")
        );
    }
    let zeros = bytes.get(24..HEADER).is_some_and(|rest| rest.iter().all(|&b| b == 0));
    let (Some((body, checksum)), true) = (bytes.split_last_chunk::<CHECKSUM>(), zeros) else {
        return Err(damaged("the rest of the header is not zero").place("byte 24"));
    };
    let index = HEADER..HEADER + u32::from_le_bytes(index) as usize;
    if index.end > body.len() {
        let problem = format!("an index of {} bytes does not fit into the file", index.len());
        return Err(damaged(problem).place("byte 12"));
    }
    let mut crc = flate2::Crc::new();
    crc.update(body);
    if crc.sum() != u32::from_le_bytes(*checksum) {
        return Err(damaged("the checksum does not hold: bytes have changed").place("the last four bytes"));
    }
    Ok(index)
}

/// Checks that parts follow each other and the index as [`Layout`] puts them, up to the end: a file has one spelling.
pub(super) fn check_places(index_end: usize, mut parts: Vec<Range<usize>>, file: usize) -> Result<()> {
    parts.sort_by_key(|part| part.start);
    let mut end = index_end;
    for part in parts {
        if part.start != end.next_multiple_of(ALIGN) {
            return Err(damaged(format!(
                "a part begins at byte {}, the one before it ends at {end}",
                part.start
            ))
            .place("index"));
        }
        end = part.end;
    }
    if end + CHECKSUM != file {
        return Err(damaged(format!("the parts end at byte {end} of {file}")).place("index"));
    }
    Ok(())
}

/// Puts parts one behind the other, from 0 on; the index says where, so they are moved behind it in the end.
#[derive(Default)]
pub(super) struct Layout {
    bytes: Vec<u8>,
}

impl Layout {
    /// Adds a part; returns where it begins, counted from the first part.
    pub(super) fn add(&mut self, part: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(part);
        at as u64
    }

    /// Parts that are in place already.
    pub(super) fn of(parts: &[u8]) -> Self {
        Self { bytes: parts.to_vec() }
    }

    /// The file with this index.
    pub(super) fn finish(self, index: &[u8]) -> Result<Vec<u8>> {
        let short = || Error::new(ErrorKind::Model, "the index takes 4 GiB");
        let index_len = u32::try_from(index.len()).map_err(|_| short())?;
        let first = first_part(index.len());
        let mut file = Vec::with_capacity(first + self.bytes.len() + CHECKSUM);
        file.extend_from_slice(&MAGIC);
        file.extend_from_slice(&VERSION.to_le_bytes());
        file.extend_from_slice(&index_len.to_le_bytes());
        file.extend_from_slice(&((first + self.bytes.len() + CHECKSUM) as u64).to_le_bytes());
        file.resize(HEADER, 0);
        file.extend_from_slice(index);
        file.resize(first, 0);
        file.extend_from_slice(&self.bytes);
        let mut crc = flate2::Crc::new();
        crc.update(&file);
        file.extend_from_slice(&crc.sum().to_le_bytes());
        Ok(file)
    }
}

/// Where the first part begins behind an index of so many bytes. Places in the index count from there.
pub(super) fn first_part(index: usize) -> usize {
    (HEADER + index).next_multiple_of(ALIGN)
}
