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

/// The words' bytes.
#[cfg(any(
    core_family = "cortex-m0",
    core_family = "cortex-m55",
    core_family = "riscv32",
    all(test, feature = "alloc")
))]
#[inline]
pub(crate) fn of_words_mut(words: &mut [u32]) -> &mut [i8] {
    // SAFETY: every bit pattern is valid in both types, and bytes have no alignment.
    unsafe { words.align_to_mut().1 }
}

/// The words' halves.
#[cfg(any(
    core_family = "cortex-m0",
    core_family = "cortex-m55",
    core_family = "riscv32",
    all(test, feature = "alloc")
))]
#[inline]
pub(crate) fn halves_mut(words: &mut [u32]) -> &mut [i16] {
    // SAFETY: every bit pattern is valid in both types, and words are aligned for halves.
    unsafe { words.align_to_mut().1 }
}

/// Pairs of little-endian words, if they lie where words should.
#[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
#[inline]
pub(crate) fn word_pairs(bytes: &[[u8; 8]]) -> Option<&[[i32; 2]]> {
    // SAFETY: every bit pattern is valid in both types, and these cores are little-endian.
    let (head, pairs, tail) = unsafe { bytes.align_to() };
    (head.is_empty() && tail.is_empty()).then_some(pairs)
}
