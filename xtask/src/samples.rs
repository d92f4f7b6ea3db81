//! The sample files that test splits travel in, and their split for several emulators (layout: `firmware/harness`).

use anyhow::{Result, bail};

const HEADER: usize = 16;

/// A sample file in memory.
pub(crate) struct Samples {
    /// Values a sample.
    pub(crate) len: usize,
    /// All samples, one after the other.
    values: Vec<u8>,
}

impl Samples {
    pub(crate) fn new(len: usize, values: Vec<u8>) -> Result<Self> {
        if len == 0 || values.is_empty() || !values.len().is_multiple_of(len) {
            bail!("{} values are no whole number of samples of {len}", values.len());
        }
        Ok(Self { len, values })
    }

    /// Reads a file's bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let Some((header, values)) = bytes.split_at_checked(HEADER) else {
            bail!("{} bytes are too few for a header", bytes.len())
        };
        let word = |at: usize| header[at..at + 4].iter().rev().fold(0u32, |n, &b| n << 8 | u32::from(b));
        let (version, count, len) = (word(4), word(8) as usize, word(12) as usize);
        if !header.starts_with(b"QSMP") || version != 1 {
            bail!("not a sample file of version 1");
        }
        if count.checked_mul(len) != Some(values.len()) {
            bail!("{count} samples of {len} values announced, {} bytes there", values.len());
        }
        Self::new(len, values.to_vec())
    }

    /// The file's bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = b"QSMP".to_vec();
        for word in [1, self.count(), self.len] {
            bytes.extend((word as u32).to_le_bytes());
        }
        bytes.extend(&self.values);
        bytes
    }

    pub(crate) fn count(&self) -> usize {
        self.values.len() / self.len
    }

    /// The samples as the engine takes them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Vec<i8>> {
        self.values.chunks_exact(self.len).map(|sample| sample.iter().map(|v| v.cast_signed()).collect())
    }

    /// The first `count` samples, or all if there are fewer.
    pub(crate) fn truncate(&mut self, count: usize) {
        self.values.truncate(count.saturating_mul(self.len));
    }

    /// At most `parts` files of about the same size, in order.
    pub(crate) fn split(&self, parts: usize) -> Vec<Self> {
        let share = self.count().div_ceil(parts.max(1)) * self.len;
        self.values.chunks(share).map(|values| Self { len: self.len, values: values.to_vec() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_back() {
        let samples = Samples::new(3, (0..15).collect()).unwrap();
        let again = Samples::parse(&samples.to_bytes()).unwrap();
        assert_eq!((again.len, again.count(), again.to_bytes()), (3, 5, samples.to_bytes()));
    }

    #[test]
    fn parts_hold_everything_in_order() {
        let samples = Samples::new(3, (0..15).collect()).unwrap();
        for parts in 1..8 {
            let split = samples.split(parts);
            assert!(split.len() <= parts);
            assert_eq!(split.iter().flat_map(|s| s.values.clone()).collect::<Vec<_>>(), samples.values);
            assert!(split.iter().all(|s| s.values.len() % 3 == 0));
        }
    }

    #[test]
    fn broken_files_are_refused() {
        let good = Samples::new(2, vec![7; 8]).unwrap().to_bytes();
        for cut in [0, HEADER - 1, good.len() - 1] {
            assert!(Samples::parse(&good[..cut]).is_err());
        }
        for at in [0, 4, 8, 12] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Samples::parse(&bad).is_err(), "byte {at}");
        }
        assert!(Samples::new(3, vec![0; 4]).is_err());
    }
}
