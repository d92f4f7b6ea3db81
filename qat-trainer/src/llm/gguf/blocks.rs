//! How tensors are stored: plain numbers, or blocks of 32 with a scale.

use super::damaged;
use crate::error::Result;
use qat_kernels::quantizer::F16;

/// Weights in a block.
const BLOCK: usize = 32;

/// A storage format. In blocks of 32 numbers x, with binary16 scale d and minimum m, low nibbles first (numbers 0 to 15 of
/// the block) and high nibbles after (16 to 31).
///
/// ```
/// use qat_trainer::llm::gguf::{Format, Gguf};
/// # use std::io::Cursor;
/// # let mut bytes = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(); // one tensor
/// # bytes.extend([&1u64.to_le_bytes()[..], b"w", &1u32.to_le_bytes(), &32u64.to_le_bytes()].concat());
/// # bytes.extend([&2u32.to_le_bytes()[..], &[0; 8]].concat());
/// # bytes.resize(64, 0);
/// # bytes.extend(b"\0\x38\x0F");
/// # bytes.resize(64 + 18, 0x88);
/// // A file with one block: d = ½, then the byte 0F, then 88 fifteen times.
/// let file = Gguf::parse(&bytes[..], bytes.len() as u64)?;
/// assert_eq!(file.tensor("w").map(|info| info.format), Some(Format::Q4_0));
/// let x = file.read_tensor(Cursor::new(&bytes), "w")?;
/// assert_eq!((x[0], x[16]), (0.5 * (15.0 - 8.0), 0.5 * (0.0 - 8.0))); // F, the low nibble, and 0
/// assert_eq!((x[1], x[31]), (0.0, 0.0));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// binary32.
    F32,
    /// binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
    /// x = d·(q − 8), q of 4 bits; 18 bytes.
    Q4_0,
    /// x = d·q + m, q of 4 bits; 20 bytes.
    Q4_1,
    /// x = d·q, q int8; 34 bytes.
    Q8_0,
}

impl Format {
    /// The format of this code in the file.
    pub(super) fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            8 => Self::Q8_0,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// Numbers in a block and bytes of one.
    const fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (BLOCK, 2 + BLOCK / 2),
            Self::Q4_1 => (BLOCK, 4 + BLOCK / 2),
            Self::Q8_0 => (BLOCK, 2 + BLOCK),
        }
    }

    /// Bytes of a tensor of this shape, the fastest dimension first.
    pub(super) fn bytes(self, shape: &[usize]) -> Result<usize> {
        let (numbers, bytes) = self.block();
        if shape.first().is_some_and(|row| !row.is_multiple_of(numbers)) {
            return Err(damaged(format!("rows of {} do not fall into blocks of {numbers}", shape[0])));
        }
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|n| *n > 0);
        count
            .and_then(|n| (n / numbers).checked_mul(bytes))
            .filter(|bytes| isize::try_from(*bytes).is_ok())
            .ok_or_else(|| damaged(format!("its dimensions {shape:?} are no size")))
    }

    /// The numbers of whole blocks.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let half =
            |at: usize, block: &[u8]| F16::from_bits(u16::from_le_bytes([block[at], block[at + 1]])).to_f32();
        let nibbles = |codes: &[u8], x: &dyn Fn(u8) -> f32, out: &mut Vec<f32>| {
            out.extend(codes.iter().map(|q| x(q & 15)));
            out.extend(codes.iter().map(|q| x(q >> 4)));
        };
        let (numbers, size) = self.block();
        let mut out = Vec::with_capacity(bytes.len() / size * numbers);
        for block in bytes.chunks_exact(size) {
            match self {
                Self::F32 => out.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
                Self::F16 => out.push(half(0, block)),
                Self::Bf16 => {
                    out.push(f32::from_bits(u32::from(u16::from_le_bytes([block[0], block[1]])) << 16))
                }
                Self::Q4_0 => {
                    let d = half(0, block);
                    nibbles(&block[2..], &|q| d * (f32::from(q) - 8.0), &mut out);
                }
                Self::Q4_1 => {
                    let (d, m) = (half(0, block), half(2, block));
                    nibbles(&block[4..], &|q| d * f32::from(q) + m, &mut out);
                }
                Self::Q8_0 => {
                    let d = half(0, block);
                    out.extend(block[2..].iter().map(|&q| d * f32::from(q as i8)));
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halves(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|&x| F16::from_f32(x).to_bits().to_le_bytes()).collect()
    }

    #[test]
    fn blocks_decode_to_their_definition() {
        let codes: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
        let low_then_high = (0..16).chain((0..16).rev());
        let q4_0: Vec<f32> = low_then_high.clone().map(|q| 0.5 * (q as f32 - 8.0)).collect();
        assert_eq!(Format::Q4_0.decode(&[halves(&[0.5]), codes.clone()].concat()), q4_0);
        let q4_1: Vec<f32> = low_then_high.map(|q| 0.25 * q as f32 - 1.5).collect();
        assert_eq!(Format::Q4_1.decode(&[halves(&[0.25, -1.5]), codes].concat()), q4_1);
        let bytes: Vec<u8> = (0..32).map(|i: i8| (i - 16) as u8).collect();
        let q8_0: Vec<f32> = (0..32).map(|i| 2.0 * (i as f32 - 16.0)).collect();
        assert_eq!(Format::Q8_0.decode(&[halves(&[2.0]), bytes].concat()), q8_0);
    }

    #[test]
    fn plain_numbers_decode_to_themselves() {
        let values = [1.5f32, -0.375, 0.0, 1024.0];
        let bytes = |shift: u32, size: usize| -> Vec<u8> {
            values.iter().flat_map(|x| (x.to_bits() >> shift).to_le_bytes().into_iter().take(size)).collect()
        };
        assert_eq!(Format::F32.decode(&bytes(0, 4)), values);
        assert_eq!(Format::Bf16.decode(&bytes(16, 2)), values);
        assert_eq!(Format::F16.decode(&halves(&values)), values);
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(Format::Q4_1.bytes(&[64, 3]).unwrap(), 2 * 3 * 20);
        assert!(Format::Q4_1.bytes(&[48, 3]).unwrap_err().to_string().contains("blocks of 32"));
        for shape in [[0, 1], [usize::MAX, 2], [1 << 62, 1]] {
            assert!(Format::F32.bytes(&shape).unwrap_err().to_string().contains("no size"), "{shape:?}");
        }
    }
}
