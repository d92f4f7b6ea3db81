//! Packed codes: b-bit two's complement fields, least significant bits first, as one bit stream per row.
//!
//! Code `i` of a row occupies bits `i·b .. (i+1)·b` of the row's bytes, bit 0 being the least significant bit of byte
//! 0. A row ends on a byte boundary; the unused bits of its last byte are zero. Four 2-bit codes share a byte, eight
//! 3-bit codes share three. Worked example, 2 bits: codes `[1, −2, 0, −1]` are the fields `01 10 00 11`, the byte
//! `0b11_00_10_01` = `0xC9`.

use crate::arch::{Backend, Kernel};
use crate::error::{Error, Result, What};
use crate::grid::{Grid, Levels};

/// Bytes that `codes` codes of `bits` bits take, ⌈codes·bits/8⌉. Saturates instead of overflowing.
///
/// ```
/// use qat_kernels::pack::packed_len;
/// const ROW: usize = packed_len(10, 3);
/// assert_eq!(ROW, 4); // 30 bits
/// assert_eq!([2, 3, 5, 8].map(|bits| packed_len(8, bits)), [2, 3, 5, 8]); // eight codes
/// ```
#[must_use]
pub const fn packed_len(codes: usize, bits: u8) -> usize {
    // Eight codes fill exactly `bits` bytes, so the product never has to hold codes·bits.
    let whole = (codes / 8).saturating_mul(bits as usize);
    whole.saturating_add((codes % 8 * bits as usize).div_ceil(8))
}

/// Packs one row of codes.
///
/// # Errors
/// [`Error::Bits`]; [`Error::Code`] for the first code outside `−2^(b−1)..=2^(b−1)−1`; [`Error::Length`] unless
/// `packed` has [`packed_len`] bytes. On an error the contents of `packed` are unspecified.
///
/// ```
/// let mut bytes = [0; 1];
/// qat_kernels::pack::pack(2, &[1, -2, 0, -1], &mut bytes)?;
/// assert_eq!(bytes, [0xC9]);
/// let mut codes = [0; 4];
/// qat_kernels::pack::unpack(2, &bytes, &mut codes)?;
/// assert_eq!(codes, [1, -2, 0, -1]);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn pack(bits: u8, codes: &[i8], packed: &mut [u8]) -> Result<()> {
    let levels = check(bits, codes.len(), packed.len())?;
    let (lo, span) = (levels.lo() as i8, (levels.hi() - levels.lo()) as u8);
    if Backend::best().run(Pack { bits, lo, span, codes, packed }) {
        return Ok(());
    }
    let outside = |c: i8| c.wrapping_sub(lo) as u8 > span;
    let at = codes.iter().position(|&c| outside(c)).unwrap_or(0);
    Err(Error::Code { index: at, code: codes.get(at).copied().unwrap_or(0).into() })
}

/// Unpacks `codes.len()` codes of one row. Padding bits are ignored.
///
/// # Errors
/// [`Error::Bits`]; [`Error::Length`] unless `packed` has [`packed_len`] bytes.
///
/// ```
/// use qat_kernels::{Error, What, pack::unpack};
/// let mut codes = [0; 2];
/// unpack(3, &[0b11_011_100], &mut codes)?;
/// assert_eq!(codes, [-4, 3]); // the upper two bits are padding
/// let e = Error::Length { what: What::Packed, expected: 2, got: 1 };
/// assert_eq!(unpack(3, &[0], &mut [0; 3]), Err(e)); // three codes are 9 bits
/// # Ok::<(), Error>(())
/// ```
pub fn unpack(bits: u8, packed: &[u8], codes: &mut [i8]) -> Result<()> {
    check(bits, codes.len(), packed.len())?;
    Backend::best().run(Unpack { bits, packed, codes });
    Ok(())
}

/// The code at position `index` of a packed row, or `None` past its last byte; padding in front of that reads as codes.
/// `bits`: 2 to 8, which is not checked: other widths give numbers without meaning.
///
/// ```
/// use qat_kernels::pack::code_at;
/// let row = [0b11_100000, 0b0000_0111]; // codes −32 and 31, six bits each, and four bits of padding
/// assert_eq!(code_at(6, &row, 0), Some(-32));
/// assert_eq!(code_at(6, &row, 1), Some(31)); // from both bytes
/// assert_eq!(code_at(6, &row, 2), None);
/// ```
#[must_use]
#[inline]
pub fn code_at(bits: u8, row: &[u8], index: usize) -> Option<i32> {
    let bits = u32::from(bits);
    let bit = index.checked_mul(bits as usize)?;
    let low = u32::from(*row.get(bit / 8)?);
    // A field of at most 8 bits touches at most two bytes; past the end the second one is padding.
    let high = u32::from(row.get(bit / 8 + 1).copied().unwrap_or(0));
    let field = (low | high << 8) >> (bit % 8);
    if bit + bits as usize > row.len() * 8 {
        return None;
    }
    Some(sign_extend(field, bits))
}

/// The code in the lowest `bits` of a field.
#[inline(always)]
pub(crate) fn sign_extend(field: u32, bits: u32) -> i32 {
    let unused = 32u32.wrapping_sub(bits);
    field.wrapping_shl(unused).cast_signed().wrapping_shr(unused)
}

fn check(bits: u8, codes: usize, packed: usize) -> Result<Levels> {
    let levels = Levels::new(bits, Grid::MidTread)?;
    let expected = packed_len(codes, bits);
    if packed != expected {
        return Err(Error::Length { what: What::Packed, expected, got: packed });
    }
    Ok(levels)
}

/// Codes that are checked and then packed: they stay in the nearest cache in between.
const BLOCK: usize = 1024;

/// Packs; whether all codes are within the grid.
struct Pack<'a> {
    bits: u8,
    /// The smallest code, and how far the largest is from it.
    lo: i8,
    span: u8,
    codes: &'a [i8],
    packed: &'a mut [u8],
}

impl Kernel for Pack<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        match self.bits {
            2 => self.blocks(|codes, packed| {
                pack_bytes::<4>(codes, packed, |c| {
                    let x = u32::from_le_bytes(c) & 0x0303_0303;
                    (x | x >> 6 | x >> 12 | x >> 18) as u8
                });
            }),
            3 => self.blocks(pack_eights::<3>),
            4 => self.blocks(|codes, packed| pack_bytes::<2>(codes, packed, |[a, b]| (a & 15) | b << 4)),
            5 => self.blocks(pack_eights::<5>),
            6 => self.blocks(pack_eights::<6>),
            7 => self.blocks(pack_eights::<7>),
            _ => self.blocks(|codes, packed| packed.iter_mut().zip(codes).for_each(|(p, &c)| *p = c as u8)),
        }
    }
}

impl Pack<'_> {
    #[inline(always)]
    fn blocks(self, pack: impl Fn(&[i8], &mut [u8])) -> bool {
        let Self { bits, lo, span, codes, packed } = self;
        let mut fine = true;
        for (codes, packed) in codes.chunks(BLOCK).zip(packed.chunks_mut(BLOCK / 8 * usize::from(bits))) {
            fine &= codes.iter().fold(true, |fine, &c| fine & (c.wrapping_sub(lo) as u8 <= span));
            pack(codes, packed);
        }
        fine
    }
}

struct Unpack<'a> {
    bits: u8,
    packed: &'a [u8],
    codes: &'a mut [i8],
}

impl Kernel for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { bits, packed, codes } = self;
        match bits {
            2 => unpack_bytes::<4>(packed, codes, |b| {
                let x = u32::from(b);
                let x = (x | x << 12) & 0x000F_000F;
                let x = (x | x << 6) & 0x0303_0303;
                // Sign extension of four fields at once: from 2 to 0xFC, and no carry leaves its byte.
                let signs = x & 0x0202_0202;
                (x | (signs << 7).wrapping_sub(signs << 1)).to_le_bytes()
            }),
            3 => unpack_eights::<3>(packed, codes),
            4 => unpack_bytes::<2>(packed, codes, |b| {
                [(b << 4).cast_signed() >> 4, b.cast_signed() >> 4].map(i8::cast_unsigned)
            }),
            5 => unpack_eights::<5>(packed, codes),
            6 => unpack_eights::<6>(packed, codes),
            7 => unpack_eights::<7>(packed, codes),
            _ => codes.iter_mut().zip(packed).for_each(|(c, &p)| *c = p as i8),
        }
    }
}

/// Widths that divide 8: N codes to a byte.
#[inline(always)]
fn pack_bytes<const N: usize>(codes: &[i8], packed: &mut [u8], byte: impl Fn([u8; N]) -> u8) {
    let (whole, tail) = codes.as_chunks::<N>();
    for (p, c) in packed.iter_mut().zip(whole) {
        *p = byte(c.map(i8::cast_unsigned));
    }
    if let (Some(p), false) = (packed.last_mut(), tail.is_empty()) {
        let mut c = [0; N];
        c.iter_mut().zip(tail).for_each(|(c, &t)| *c = t as u8);
        *p = byte(c);
    }
}

#[inline(always)]
fn unpack_bytes<const N: usize>(packed: &[u8], codes: &mut [i8], fields: impl Fn(u8) -> [u8; N]) {
    let (whole, tail) = codes.as_chunks_mut::<N>();
    for (c, &p) in whole.iter_mut().zip(packed) {
        *c = fields(p).map(u8::cast_signed);
    }
    if let Some(&p) = packed.last() {
        tail.iter_mut().zip(fields(p)).for_each(|(t, c)| *t = c as i8);
    }
}

/// A field of `width` bits in each `lane` bits of a word.
const fn fields(width: u32, lane: u32) -> u64 {
    let field = u64::MAX >> (64 - width);
    let (mut word, mut at) = (0, 0);
    while at < 64 {
        word |= field << at;
        at += lane;
    }
    word
}

/// The other widths: eight codes are B whole bytes.
#[inline(always)]
fn pack_eights<const B: usize>(codes: &[i8], packed: &mut [u8]) {
    let (whole, tail) = codes.as_chunks::<8>();
    for (bytes, codes) in packed.as_chunks_mut::<B>().0.iter_mut().zip(whole) {
        bytes.iter_mut().zip(gather::<B>(*codes)).for_each(|(b, w)| *b = w);
    }
    if let (Some(rest), false) = (packed.chunks_mut(B).next_back(), tail.is_empty()) {
        let mut codes = [0; 8];
        codes.iter_mut().zip(tail).for_each(|(c, &t)| *c = t);
        rest.iter_mut().zip(gather::<B>(codes)).for_each(|(b, w)| *b = w);
    }
}

/// The fields of eight codes, next to one another: neighbours meet, then pairs, then fours.
#[inline(always)]
fn gather<const B: usize>(codes: [i8; 8]) -> [u8; 8] {
    let (b, gap) = (B as u32, 8 - B as u32);
    let x = u64::from_le_bytes(codes.map(i8::cast_unsigned));
    let x = (x & fields(b, 16)) | (x >> gap & fields(b, 16) << b);
    let x = (x & fields(2 * b, 32)) | (x >> (2 * gap) & fields(2 * b, 32) << (2 * b));
    let x = (x & fields(4 * b, 64)) | (x >> (4 * gap) & fields(4 * b, 64) << (4 * b));
    x.to_le_bytes()
}

#[inline(always)]
fn unpack_eights<const B: usize>(packed: &[u8], codes: &mut [i8]) {
    let (whole, tail) = codes.as_chunks_mut::<8>();
    for (codes, bytes) in whole.iter_mut().zip(packed.as_chunks::<B>().0) {
        let mut word = [0; 8];
        word.iter_mut().zip(bytes).for_each(|(w, &b)| *w = b);
        *codes = scatter::<B>(word);
    }
    if let (Some(rest), false) = (packed.chunks(B).next_back(), tail.is_empty()) {
        let mut word = [0; 8];
        word.iter_mut().zip(rest).for_each(|(w, &b)| *w = b);
        tail.iter_mut().zip(scatter::<B>(word)).for_each(|(t, c)| *t = c);
    }
}

/// The reverse of [`gather`]; what is above the fields is ignored.
#[inline(always)]
fn scatter<const B: usize>(word: [u8; 8]) -> [i8; 8] {
    let (b, gap) = (B as u32, 8 - B as u32);
    let x = u64::from_le_bytes(word);
    let x = (x & fields(4 * b, 64)) | (x << (4 * gap) & fields(4 * b, 64) << 32);
    let x = (x & fields(2 * b, 32)) | (x << (2 * gap) & fields(2 * b, 32) << 16);
    let x = (x & fields(b, 16)) | (x << gap & fields(b, 16) << 8);
    // Sign extension of eight fields at once: from the sign's bit, 2^(B−1), to those above, 2^8 − 2^B.
    let signs = x & fields(1, 8) << (b - 1);
    (x | (signs << (gap + 1)).wrapping_sub(signs << 1)).to_le_bytes().map(u8::cast_signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(bits: u8, codes: &[i8]) {
        let mut packed = vec![0xAA; packed_len(codes.len(), bits)];
        pack(bits, codes, &mut packed).unwrap();
        let mut back = vec![0x55; codes.len()];
        unpack(bits, &packed, &mut back).unwrap();
        assert_eq!(back, codes, "{bits} bits");
        for (i, &c) in codes.iter().enumerate() {
            assert_eq!(code_at(bits, &packed, i), Some(c.into()));
        }
        let used = codes.len() * usize::from(bits) % 8;
        if used != 0 {
            assert_eq!(packed.last().unwrap() >> used, 0, "padding bits are zero");
        }
    }

    /// Every sequence of codes up to a length: 4^6 at 2 bits, 8^5 at 3, 16^4 at 4.
    #[test]
    fn every_short_row_survives() {
        for (bits, longest) in [(2u8, 6u32), (3, 5), (4, 4), (5, 3), (6, 2), (7, 2), (8, 2)] {
            let lv = Levels::new(bits, Grid::MidTread).unwrap();
            for len in 0..=longest {
                for number in 0..lv.count().pow(len) {
                    let codes: Vec<i8> = (0..len)
                        .map(|i| ((number / lv.count().pow(i) % lv.count()) as i32 + lv.lo()) as i8)
                        .collect();
                    round_trip(bits, &codes);
                }
            }
        }
    }

    #[test]
    fn long_rows_of_every_length_survive() {
        for bits in 2..=8 {
            let lv = Levels::new(bits, Grid::MidTread).unwrap();
            for len in 0..130 {
                let codes: Vec<i8> = (0..len)
                    .map(|i| ((i * 7 + i / 5) % lv.count()) as i32 + lv.lo())
                    .map(|c| c as i8)
                    .collect();
                round_trip(bits, &codes);
            }
        }
    }

    #[test]
    fn every_backend_gives_the_same_bytes_and_codes() {
        for bits in 2..=8 {
            let lv = Levels::new(bits, Grid::MidTread).unwrap();
            let (lo, span) = (lv.lo() as i8, (lv.hi() - lv.lo()) as u8);
            for len in [1, 7, 8, 63, 64, 65, BLOCK, 2 * BLOCK + 13] {
                let codes: Vec<i8> =
                    (0..len).map(|i| (i * 11 + i / 7) % lv.count()).map(|c| c as i8).collect();
                let codes: Vec<i8> = codes.iter().map(|c| c.wrapping_add(lo)).collect();
                let mut expected = vec![0; packed_len(len, bits)];
                pack(bits, &codes, &mut expected).unwrap();
                for backend in Backend::available() {
                    let (mut packed, mut back) = (vec![0xAA; expected.len()], vec![0x55; len]);
                    assert!(backend.run(Pack { bits, lo, span, codes: &codes, packed: &mut packed }));
                    backend.run(Unpack { bits, packed: &packed, codes: &mut back });
                    assert_eq!((packed, back), (expected.clone(), codes.clone()), "{bits} {len}");
                }
            }
        }
    }

    #[test]
    fn bad_input_is_named() {
        assert_eq!(pack(2, &[0, 2], &mut [0]), Err(Error::Code { index: 1, code: 2 }));
        assert_eq!(pack(3, &[0, 1, -5], &mut [0; 2]), Err(Error::Code { index: 2, code: -5 }));
        assert_eq!(pack(9, &[0], &mut [0; 2]), Err(Error::Bits { bits: 9 }));
        let length = Error::Length { what: What::Packed, expected: 2, got: 1 };
        assert_eq!(pack(2, &[0; 5], &mut [0]), Err(length));
        assert_eq!(unpack(2, &[0], &mut [0; 5]), Err(length));
        assert_eq!(code_at(2, &[0], 4), None);
        assert_eq!(code_at(3, &[0], 2), None);
        assert_eq!(packed_len(usize::MAX, 8), usize::MAX);
    }
}
