//! Bytes as int8 and back: same size, same alignment, every bit pattern valid.
#![allow(unsafe_code)]

/// The bytes as int8.
#[inline]
pub(crate) fn as_i8(bytes: &[u8]) -> &[i8] {
    // SAFETY: u8 and i8 have the same size and alignment and every bit pattern is valid in both; the pointer and length
    // come from one live slice, whose lifetime the result keeps.
    unsafe { core::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
}

/// The bytes as int8, to write to.
#[inline]
pub(crate) fn as_i8_mut(bytes: &mut [u8]) -> &mut [i8] {
    // SAFETY: as above; the exclusive borrow of the argument carries over to the result.
    unsafe { core::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len()) }
}

/// The whole words inside some bytes.
#[inline]
pub(crate) fn words_mut(bytes: &mut [i8]) -> &mut [u32] {
    // SAFETY: every bit pattern is valid in both types.
    unsafe { bytes.align_to_mut().1 }
}
