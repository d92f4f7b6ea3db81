//! CRC-32/ISO-HDLC, the checksum of Ethernet, zip and PNG: the one that `.piq` and `.cal` files end in.
//!
//! Reflected polynomial `0xEDB88320`, initial value and final inversion `0xFFFFFFFF` (check value `0xCBF43926`). It
//! finds every burst of up to 32 bits, hence every single flipped bit, at any length.
//!
//! The table has one entry per nibble: 64 bytes of flash instead of the usual 1 KiB, two look-ups per byte. A file is
//! checked once, when it is loaded; flash is paid for always.

const POLYNOMIAL: u32 = 0xEDB8_8320;

/// Remainders of the 16 nibbles.
const TABLE: [u32; 16] = {
    let mut table = [0; 16];
    let mut nibble = 0;
    while nibble < 16 {
        let mut r = nibble as u32;
        let mut bit = 0;
        while bit < 4 {
            r = if r & 1 == 1 { (r >> 1) ^ POLYNOMIAL } else { r >> 1 };
            bit += 1;
        }
        table[nibble] = r;
        nibble += 1;
    }
    table
};

/// A CRC-32 in progress: bytes may come in pieces of any size.
///
/// ```
/// use qat_kernels::crc32::{Crc32, crc32};
/// let mut crc = Crc32::new();
/// crc.update(b"1234");
/// crc.update(b"56789");
/// assert_eq!(crc.finish(), 0xCBF4_3926);
/// assert_eq!(crc.finish(), crc32(b"123456789"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crc32 {
    /// The register before the final inversion.
    state: u32,
}

impl Crc32 {
    /// The checksum of no bytes.
    ///
    /// ```
    /// use qat_kernels::crc32::Crc32;
    /// assert_eq!(Crc32::new().finish(), 0);
    /// assert_eq!(Crc32::new(), Crc32::default());
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self { state: u32::MAX }
    }

    /// Appends `bytes`.
    ///
    /// ```
    /// use qat_kernels::crc32::Crc32;
    /// let mut crc = Crc32::new();
    /// for byte in *b"abc" {
    ///     crc.update(&[byte]); // as bytes come off a wire
    /// }
    /// assert_eq!(crc.finish(), 0x3524_41C2);
    /// ```
    pub const fn update(&mut self, mut bytes: &[u8]) {
        let mut r = self.state;
        while let [first, rest @ ..] = bytes {
            r ^= *first as u32;
            r = (r >> 4) ^ TABLE[(r & 15) as usize];
            r = (r >> 4) ^ TABLE[(r & 15) as usize];
            bytes = rest;
        }
        self.state = r;
    }

    /// The checksum of everything appended so far; more may follow.
    ///
    /// ```
    /// use qat_kernels::crc32::Crc32;
    /// let mut crc = Crc32::new();
    /// crc.update(b"a");
    /// assert_eq!(crc.finish(), 0xE8B7_BE43);
    /// crc.update(&crc.finish().to_le_bytes());
    /// assert_eq!(crc.finish(), 0x2144_DF1C); // the same for all bytes that end in their own checksum
    /// ```
    #[must_use]
    pub const fn finish(self) -> u32 {
        !self.state
    }
}

impl Default for Crc32 {
    fn default() -> Self {
        Self::new()
    }
}

/// CRC-32/ISO-HDLC of `bytes`.
///
/// ```
/// use qat_kernels::crc32::crc32;
/// const SEAL: u32 = crc32(b"weights"); // at compile time
/// assert_eq!(SEAL, 0x1AD2_7358); // as zlib and Python's binascii have it
/// assert_ne!(crc32(b"weighty"), SEAL);
/// ```
#[must_use]
pub const fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc32::new();
    crc.update(bytes);
    crc.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, a bit at a time.
    fn naive(bytes: &[u8]) -> u32 {
        let mut r = u32::MAX;
        for &byte in bytes {
            r ^= u32::from(byte);
            for _ in 0..8 {
                r = if r & 1 == 1 { (r >> 1) ^ POLYNOMIAL } else { r >> 1 };
            }
        }
        !r
    }

    #[test]
    fn known_values() {
        assert_eq!(crc32(b""), 0);
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(&[0; 32]), 0x190A_55AD);
        assert_eq!(crc32(&[0xFF; 32]), 0xFF6C_AB0B);
    }

    #[test]
    fn table_equals_the_definition_at_every_length_and_split() {
        let bytes: Vec<u8> = (0..=255u8).map(|i| i.wrapping_mul(167).rotate_left(3)).collect();
        for len in 0..=bytes.len() {
            let whole = &bytes[..len];
            assert_eq!(crc32(whole), naive(whole));
            let (a, b) = whole.split_at(len / 3);
            let mut crc = Crc32::new();
            crc.update(a);
            crc.update(b);
            assert_eq!(crc.finish(), naive(whole));
        }
    }

    #[test]
    fn every_flipped_bit_changes_it() {
        let mut bytes: Vec<u8> = (0..64).collect();
        let good = crc32(&bytes);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(crc32(&bytes), good);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
