//! The divisors k of adaptive Pi quantisers: which exist, what they mean to an integer engine, how they are stored.

use crate::error::{Error, Result, What};

/// The divisors that exist, INV-3.
pub const DIVISORS: [u8; 4] = [2, 3, 4, 5];

/// The integer factor of a group with divisor k: 60/k ∈ {30, 20, 15, 12}.
///
/// # What the engine does with it
/// A group's step is `α·π/k = (60/k)·(α·π/60)`. An integer engine therefore sums `2·level·x` per group, multiplies the
/// sum by 60/k, adds the groups up in an exact i32, and scales by the channel's base step `α·π/60` once.
///
/// The float side multiplies levels by [`crate::pi_step`]`(α, k)`, that is `(α·π)/k` rounded to f32 after each of the
/// two operations. From the same product α·π, the engine's ratios of groups are exact where the float side rounds the
/// division by k and then the product with the level: half a unit in the last place each, so that a fake-quantised
/// weight is less than 1½ units in its last place away from the engine's. The codes are the same ones: they are made
/// once, on the float side, and they alone are stored.
///
/// # Errors
/// [`Error::Divisor`] unless k ∈ {2, 3, 4, 5}.
///
/// ```
/// use qat_kernels::quantizer::group_factor;
/// assert_eq!([2, 3, 4, 5].map(|k| group_factor(k).unwrap_or(0)), [30, 20, 15, 12]);
/// assert!(group_factor(6).is_err());
/// ```
pub const fn group_factor(k: u8) -> Result<u8> {
    match k {
        2..=5 => Ok(60 / k),
        _ => Err(Error::Divisor { k }),
    }
}

/// Bytes that the divisors of `rows` rows take up, `groups` of them a row.
///
/// ```
/// use qat_kernels::quantizer::packed_divisors_len;
/// assert_eq!(packed_divisors_len(10, 24), 60); // 24 groups: 48 bits, 6 bytes a row
/// assert_eq!(packed_divisors_len(10, 5), 20); // 10 bits, padded to 2 bytes
/// ```
#[must_use]
pub const fn packed_divisors_len(rows: usize, groups: usize) -> usize {
    rows.saturating_mul(groups.div_ceil(4))
}

/// Packs divisors, rows of `groups` each, into 2 bits a group: the value k − 2, first group in the lowest bits of the
/// first byte, each row padded with zero bits to a whole byte. Returns the bytes used.
///
/// # Errors
/// [`Error::Empty`] for rows of 0 groups; [`Error::NotDivisible`] if the divisors are not whole rows;
/// [`Error::Length`] if `packed` is not [`packed_divisors_len`] long; [`Error::Divisor`] for a k outside 2..=5, in which
/// case `packed` is untouched.
///
/// ```
/// use qat_kernels::quantizer::{pack_divisors, unpack_divisors};
/// let (mut packed, mut divisors) = ([0; 2], [0; 5]);
/// pack_divisors(&[2, 3, 4, 5, 4], 5, &mut packed)?;
/// assert_eq!(packed, [0b11_10_01_00, 0b10]);
/// unpack_divisors(&packed, 5, &mut divisors)?;
/// assert_eq!(divisors, [2, 3, 4, 5, 4]);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn pack_divisors(divisors: &[u8], groups: usize, packed: &mut [u8]) -> Result<()> {
    check_layout(divisors.len(), groups, packed.len())?;
    check_divisors(divisors)?;
    for (row, bytes) in divisors.chunks(groups).zip(packed.chunks_mut(groups.div_ceil(4))) {
        for (four, byte) in row.chunks(4).zip(bytes) {
            *byte = four.iter().rev().fold(0, |bits, &k| bits << 2 | (k - 2));
        }
    }
    Ok(())
}

/// The inverse of [`pack_divisors`]. Every byte decodes; padding bits are ignored.
///
/// # Errors
/// As [`pack_divisors`], without [`Error::Divisor`].
///
/// ```
/// use qat_kernels::{Error, What, quantizer::unpack_divisors};
/// let rows = [0b11_10_01, 0b11_00_00_00]; // two of three groups; the upper two bits are padding
/// let mut divisors = [0; 6];
/// unpack_divisors(&rows, 3, &mut divisors)?;
/// assert_eq!(divisors, [3, 4, 5, 2, 2, 2]);
/// let e = Error::Length { what: What::Packed, expected: 2, got: 1 };
/// assert_eq!(unpack_divisors(&rows[1..], 3, &mut divisors), Err(e));
/// # Ok::<(), Error>(())
/// ```
pub fn unpack_divisors(packed: &[u8], groups: usize, divisors: &mut [u8]) -> Result<()> {
    check_layout(divisors.len(), groups, packed.len())?;
    for (row, bytes) in divisors.chunks_mut(groups).zip(packed.chunks(groups.div_ceil(4))) {
        for (four, &byte) in row.chunks_mut(4).zip(bytes) {
            for (i, k) in four.iter_mut().enumerate() {
                *k = 2 + (byte >> (2 * i) & 3);
            }
        }
    }
    Ok(())
}

/// Refuses the first divisor that does not exist.
pub(super) fn check_divisors(divisors: &[u8]) -> Result<()> {
    match divisors.iter().find(|k| !DIVISORS.contains(k)) {
        Some(&k) => Err(Error::Divisor { k }),
        None => Ok(()),
    }
}

fn check_layout(divisors: usize, groups: usize, packed: usize) -> Result<()> {
    if groups == 0 {
        return Err(Error::Empty { what: What::Group });
    }
    if !divisors.is_multiple_of(groups) {
        return Err(Error::NotDivisible { what: What::Divisors, len: divisors, by: groups });
    }
    let expected = packed_divisors_len(divisors / groups, groups);
    if packed == expected { Ok(()) } else { Err(Error::Length { what: What::Packed, expected, got: packed }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_and_unpacking_are_inverse_for_every_row_length() {
        for groups in 1..=19 {
            for rows in [0, 1, 3] {
                let divisors: Vec<u8> = (0..rows * groups).map(|i| DIVISORS[(i * i + i / 3) % 4]).collect();
                let mut packed = vec![0xFF; packed_divisors_len(rows, groups)];
                let mut back = vec![0; divisors.len()];
                pack_divisors(&divisors, groups, &mut packed).unwrap();
                unpack_divisors(&packed, groups, &mut back).unwrap();
                assert_eq!(back, divisors);
                if rows > 0 && groups % 4 != 0 {
                    let padding = packed[groups.div_ceil(4) - 1] >> (2 * (groups % 4));
                    assert_eq!(padding, 0, "padding bits are zero");
                }
            }
        }
    }

    #[test]
    fn bad_input_is_named() {
        let mut packed = [0; 1];
        assert_eq!(pack_divisors(&[6], 1, &mut packed), Err(Error::Divisor { k: 6 }));
        assert_eq!(pack_divisors(&[1], 1, &mut packed), Err(Error::Divisor { k: 1 }));
        assert_eq!(pack_divisors(&[2], 0, &mut packed), Err(Error::Empty { what: What::Group }));
        assert_eq!(
            pack_divisors(&[2, 3, 4], 2, &mut packed),
            Err(Error::NotDivisible { what: What::Divisors, len: 3, by: 2 })
        );
        assert_eq!(
            unpack_divisors(&packed, 5, &mut [0; 5]),
            Err(Error::Length { what: What::Packed, expected: 2, got: 1 })
        );
        for k in [0, 1, 6, 255] {
            assert_eq!(group_factor(k), Err(Error::Divisor { k }));
        }
    }
}
