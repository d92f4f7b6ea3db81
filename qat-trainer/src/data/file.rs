//! Whole files into memory, decompressed where they are gzip.

use crate::error::{Error, ErrorKind, Result};
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::Path;

/// Largest decompressed size: beyond it a small file is more likely hostile than a data set that fits in memory.
const MAX_BYTES: u64 = 4 << 30;
/// What every file may decompress to, and beyond that how many times its size: gzip reaches 1,000 with zeros, data sets 50.
const ALWAYS: u64 = 32 << 20;
const MAX_RATIO: u64 = 200;

/// Reads a file; `hash` takes in its bytes as they lie on the disk. Gzip is recognised by its first two bytes, whatever
/// the file is called: neither IDX nor text can begin with them.
pub(super) fn read(path: &Path, hash: Option<&mut Sha256>) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(|e| {
        Error::new(ErrorKind::Io, format!("cannot read this file: {e}"))
            .file(path)
            .remedy("check `[data]` of the run description; paths start at its folder")
    })?;
    if let Some(hash) = hash {
        hash.update(&bytes);
    }
    if bytes.is_empty() {
        return Err(Error::new(ErrorKind::Data, "the file is empty")
            .file(path)
            .remedy("fetch the file again"));
    }
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return gunzip(&bytes, limit(bytes.len())).map_err(|e| e.file(path));
    }
    if path.extension().is_some_and(|e| e == "gz") {
        return Err(Error::new(ErrorKind::Data, "the name ends in .gz, but this is not gzip")
            .file(path)
            .place("byte 0")
            .remedy("fetch the file again, or rename it if it is not compressed"));
    }
    Ok(bytes)
}

/// What a file of `len` compressed bytes may decompress to.
fn limit(len: usize) -> u64 {
    (len as u64).saturating_mul(MAX_RATIO).clamp(ALWAYS, MAX_BYTES)
}

fn gunzip(bytes: &[u8], limit: u64) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let done = MultiGzDecoder::new(bytes).take(limit + 1).read_to_end(&mut out);
    let at = format!("byte {} of the decompressed data", out.len());
    if let Err(e) = done {
        let problem = match e.kind() {
            std::io::ErrorKind::UnexpectedEof => "the gzip stream is cut short".to_string(),
            _ => format!("the gzip stream is damaged ({e})"),
        };
        return Err(Error::new(ErrorKind::Data, problem).place(at).remedy("fetch the file again"));
    }
    if out.len() as u64 > limit {
        return Err(Error::new(ErrorKind::Data, format!("it decompresses to more than {limit} bytes"))
            .place(at)
            .remedy("use a smaller data set, or decompress it yourself if it is what it claims to be"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut e = GzEncoder::new(Vec::new(), Compression::best());
        e.write_all(bytes).unwrap();
        e.finish().unwrap()
    }

    #[test]
    fn round_trip_truncation_and_bombs() {
        let plain: Vec<u8> = (0..10_000u32).map(|i| (i / 7) as u8).collect();
        let packed = gzip(&plain);
        assert_eq!(gunzip(&packed, MAX_BYTES).unwrap(), plain);
        for n in 2..packed.len() {
            let e = gunzip(&packed[..n], MAX_BYTES).unwrap_err().to_string();
            assert!(e.contains("cut short"), "{n}: {e}");
        }
        let mut flipped = packed.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(gunzip(&flipped, MAX_BYTES).is_err());
        assert!(gunzip(&packed, 9_999).unwrap_err().to_string().contains("more than 9999"));
        assert_eq!([0, 1 << 20, 1 << 30].map(limit), [ALWAYS, 200 << 20, MAX_BYTES]);
    }
}
