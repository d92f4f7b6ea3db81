//! Reads numbers and texts from a file of known length and never asks for memory before it knows that the file goes on
//! that long.

use super::damaged;
use crate::error::{Error, ErrorKind, Result};
use std::io::Read;

/// A little-endian reader that counts where it is.
pub(super) struct Reader<R> {
    inner: R,
    at: u64,
    end: u64,
}

impl<R: Read> Reader<R> {
    /// Reads a file of `len` bytes, but no more than `limit` of them.
    pub(super) fn new(inner: R, len: u64, limit: u64) -> Self {
        Self { inner, at: 0, end: len.min(limit) }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// The next N bytes.
    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// A count of things of at least `size` bytes each, which the rest of the header has room for.
    pub(super) fn count(&mut self, size: u64, what: &str) -> Result<usize> {
        let at = self.at;
        let count = self.u64()?;
        let needed = count.checked_mul(size).filter(|bytes| *bytes <= self.end - self.at);
        match (needed, usize::try_from(count)) {
            (Some(_), Ok(count)) => Ok(count),
            _ => {
                let problem = format!("{count} {what} do not fit into the header");
                Err(damaged(problem).place(format!("byte {at}")))
            }
        }
    }

    /// A text: its length in bytes, then UTF-8.
    pub(super) fn string(&mut self) -> Result<String> {
        let at = self.at;
        let len = self.count(1, "bytes of text")?;
        let mut bytes = vec![0; len];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| damaged("a text is not UTF-8").place(format!("byte {at}")))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        let len = bytes.len() as u64;
        if len > self.end - self.at {
            return Err(damaged("the header ends too early").place(format!("byte {}", self.at)));
        }
        self.inner.read_exact(bytes).map_err(|e| {
            Error::new(ErrorKind::Io, format!("cannot read the header: {e}"))
                .place(format!("byte {}", self.at))
        })?;
        self.at += len;
        Ok(())
    }
}
