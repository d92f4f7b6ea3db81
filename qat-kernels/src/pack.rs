//! Packed codes: b-bit two's complement fields, least significant bits first, as one bit stream per row.
//!
//! Code `i` of a row occupies bits `i·b .. (i+1)·b` of the row's bytes, bit 0 being the least significant bit of byte
//! 0. A row ends on a byte boundary; the unused bits of its last byte are zero. Four 2-bit codes share a byte, eight
//! 3-bit codes share three. Worked example, 2 bits: codes `[1, −2, 0, −1]` are the fields `01 10 00 11`, the byte
//! `0b11_00_10_01` = `0xC9`.

use crate::error::{Error, Result, What};
use crate::grid::{Grid, Levels};

/// Bytes that `codes` codes of `bits` bits take, ⌈codes·bits/8⌉. Saturates instead of overflowing.
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
    let lo = levels.lo() as i8;
    let span = (levels.hi() - levels.lo()) as u8;
    // One bit of evidence per code, looked at once: the search for the culprit is off the fast path.
    let bad = codes.iter().fold(false, |bad, &c| bad | (c.wrapping_sub(lo) as u8 > span));
    if bad {
        let at = codes.iter().position(|&c| c.wrapping_sub(lo) as u8 > span).unwrap_or(0);
        return Err(Error::Code { index: at, code: codes.get(at).copied().unwrap_or(0).into() });
    }
    match bits {
        2 => pack_bytes::<4>(codes, packed, |c| {
            let x = u32::from_le_bytes(c) & 0x0303_0303;
            (x | x >> 6 | x >> 12 | x >> 18) as u8
        }),
        4 => pack_bytes::<2>(codes, packed, |[a, b]| (a & 15) | b << 4),
        8 => packed.iter_mut().zip(codes).for_each(|(p, &c)| *p = c as u8),
        _ => pack_stream(bits, codes, packed),
    }
    Ok(())
}

/// Unpacks `codes.len()` codes of one row. Padding bits are ignored.
///
/// # Errors
/// [`Error::Bits`]; [`Error::Length`] unless `packed` has [`packed_len`] bytes.
pub fn unpack(bits: u8, packed: &[u8], codes: &mut [i8]) -> Result<()> {
    check(bits, codes.len(), packed.len())?;
    match bits {
        2 => unpack_bytes::<4>(packed, codes, |b| {
            let x = u32::from(b);
            let x = (x | x << 12) & 0x000F_000F;
            let x = (x | x << 6) & 0x0303_0303;
            // Sign extension of four fields at once: 2·0x7E = 0xFC, and no carry leaves its byte.
            (x | ((x & 0x0202_0202) * 0x7E)).to_le_bytes()
        }),
        4 => unpack_bytes::<2>(packed, codes, |b| {
            [(b << 4).cast_signed() >> 4, b.cast_signed() >> 4].map(i8::cast_unsigned)
        }),
        8 => codes.iter_mut().zip(packed).for_each(|(c, &p)| *c = p as i8),
        _ => unpack_stream(bits, packed, codes),
    }
    Ok(())
}

/// The code at position `index` of a packed row, or `None` past its end.
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

#[inline(always)]
fn sign_extend(field: u32, bits: u32) -> i32 {
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

/// Any width: eight codes are `bits` whole bytes, carried through one 64-bit word.
fn pack_stream(bits: u8, codes: &[i8], packed: &mut [u8]) {
    let mask = (1u64 << bits) - 1;
    for (bytes, group) in packed.chunks_mut(bits.into()).zip(codes.chunks(8)) {
        let word = group.iter().rev().fold(0u64, |w, &c| w << bits | (c as u64 & mask));
        bytes.iter_mut().zip(word.to_le_bytes()).for_each(|(b, w)| *b = w);
    }
}

fn unpack_stream(bits: u8, packed: &[u8], codes: &mut [i8]) {
    for (bytes, group) in packed.chunks(bits.into()).zip(codes.chunks_mut(8)) {
        let mut word = bytes.iter().rev().fold(0u64, |w, &b| w << 8 | u64::from(b));
        for c in group {
            *c = sign_extend(word as u32, bits.into()) as i8;
            word >>= bits;
        }
    }
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
