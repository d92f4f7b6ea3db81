//! How packed codes come out of bytes.
//!
//! One vector of packed bytes holds several vectors of codes, its *planes*: plane s of 2-bit codes are bits 2s and 2s + 1 of
//! every byte, a shift and a mask away. Neighbouring columns thus end up in different planes; instead of putting every
//! row's codes back into order, the activations are brought into the planes' order, once for all rows.
//!
//! Codes come out unsigned, as `q + 2^(b−1)`, which is the stored field with its top bit flipped.

use crate::arch::ints::Ints;

/// Planes of packed codes of `bits` bits.
pub(super) const fn planes(bits: u8) -> usize {
    match bits {
        2 => 4,
        3 | 4 => 2,
        _ => 1,
    }
}

/// A packed format with `P` planes.
pub(super) trait Codes<const P: usize> {
    /// Whether several rows side by side are faster than one after the other.
    const SIDE_BY_SIDE: bool = true;

    /// Bytes that a step consumes, of the `len` that it looks at.
    fn step(len: usize) -> usize;

    /// By how much unpacked codes of `bits` bits exceed q.
    #[inline(always)]
    fn offset<V: Ints<LEN>, const LEN: usize>(bits: u8) -> i32 {
        1i32.wrapping_shl(u32::from(bits).wrapping_sub(1))
    }

    /// The planes of a step.
    fn unpack<V: Ints<LEN>, const LEN: usize>(v: V, packed: &[u8; LEN]) -> [V::Bytes; P];

    /// The same planes, twice as large; of formats with more than one.
    #[inline(always)]
    fn unpack_doubled<V: Ints<LEN>, const LEN: usize>(v: V, packed: &[u8; LEN]) -> [V::Bytes; P] {
        let mut planes = Self::unpack(v, packed);
        for plane in &mut planes {
            *plane = v.double(*plane);
        }
        planes
    }

    /// Adds the products of a step.
    #[inline(always)]
    fn dot<V: Ints<LEN>, const LEN: usize>(
        v: V,
        sums: V::Sums,
        w: [V::Bytes; P],
        x: [V::Bytes; P],
    ) -> V::Sums {
        v.dot_small(sums, w, x)
    }

    /// Adds the products of a step with twice the codes, those of neighbouring columns to the sum that is theirs.
    #[inline(always)]
    fn dot_doubled<V: Ints<LEN>, const LEN: usize>(
        v: V,
        sums: V::Sums,
        packed: &[u8; LEN],
        x: [V::Bytes; P],
    ) -> V::Sums {
        if const { P > 1 } {
            return v.dot_small(sums, Self::unpack_doubled(v, packed), x);
        }
        // Twice as large they could be too large for a product.
        let w = Self::unpack(v, packed);
        Self::dot(v, Self::dot(v, sums, w, x), w, x)
    }

    /// Brings the activations of a step into the order of the planes.
    #[inline(always)]
    fn spread<const LEN: usize>(x: &[[i8; P]; LEN], planes: &mut [[u8; LEN]; P]) {
        for (s, plane) in planes.iter_mut().enumerate() {
            for (to, from) in plane.iter_mut().zip(x) {
                *to = from[s].cast_unsigned();
            }
        }
    }
}

/// Four codes to a byte.
pub(super) struct Twos;

impl Codes<4> for Twos {
    #[inline(always)]
    fn step(len: usize) -> usize {
        len
    }

    #[inline(always)]
    fn unpack<V: Ints<LEN>, const LEN: usize>(v: V, packed: &[u8; LEN]) -> [V::Bytes; 4] {
        let packed = v.flip(v.bytes(packed), 0xAA);
        [v.field::<0>(packed, 3), v.field::<2>(packed, 3), v.field::<4>(packed, 3), v.field::<6>(packed, 3)]
    }

    #[inline(always)]
    fn unpack_doubled<V: Ints<LEN>, const LEN: usize>(v: V, packed: &[u8; LEN]) -> [V::Bytes; 4] {
        let packed = v.flip(v.bytes(packed), 0xAA);
        let lowest = v.double(v.field::<0>(packed, 3));
        [lowest, v.field::<1>(packed, 6), v.field::<3>(packed, 6), v.field::<5>(packed, 6)]
    }
}

/// Eight codes to three bytes.
pub(super) struct Threes;

impl Codes<2> for Threes {
    #[inline(always)]
    fn step(len: usize) -> usize {
        len / 4 * 3
    }

    #[inline(always)]
    fn unpack<V: Ints<LEN>, const LEN: usize>(v: V, packed: &[u8; LEN]) -> [V::Bytes; 2] {
        let [first, second] = v.thirds(v.bytes(packed));
        [v.flip(first, 4), v.flip(second, 4)]
    }

    /// Two columns to the one plane, two to the other.
    #[inline(always)]
    fn spread<const LEN: usize>(x: &[[i8; 2]; LEN], [first, second]: &mut [[u8; LEN]; 2]) {
        let planes = first.as_chunks_mut::<4>().0.iter_mut().zip(second.as_chunks_mut::<4>().0);
        for ((first, second), eight) in planes.zip(x.as_chunks::<4>().0) {
            let [[a, b], [c, d], [e, f], [g, h]] = eight.map(|two| two.map(i8::cast_unsigned));
            (*first, *second) = ([a, b, e, f], [c, d, g, h]);
        }
    }
}

/// Two codes to a byte.
pub(super) struct Fours;

impl Codes<2> for Fours {
    #[inline(always)]
    fn step(len: usize) -> usize {
        len
    }

    #[inline(always)]
    fn unpack<V: Ints<LEN>, const LEN: usize>(v: V, packed: &[u8; LEN]) -> [V::Bytes; 2] {
        let packed = v.flip(v.bytes(packed), 0x88);
        [v.field::<0>(packed, 15), v.field::<4>(packed, 15)]
    }

    #[inline(always)]
    fn unpack_doubled<V: Ints<LEN>, const LEN: usize>(v: V, packed: &[u8; LEN]) -> [V::Bytes; 2] {
        let packed = v.flip(v.bytes(packed), 0x88);
        [v.double(v.field::<0>(packed, 15)), v.field::<3>(packed, 30)]
    }
}

/// Eight codes to `BITS` bytes, five to seven bits: taken apart one by one.
pub(super) struct Wide<const BITS: usize>;

impl<const BITS: usize> Codes<1> for Wide<BITS> {
    // What takes codes apart costs more than the latency of products.
    const SIDE_BY_SIDE: bool = false;

    #[inline(always)]
    fn step(len: usize) -> usize {
        len / 8 * BITS
    }

    #[inline(always)]
    fn unpack<V: Ints<LEN>, const LEN: usize>(v: V, packed: &[u8; LEN]) -> [V::Bytes; 1] {
        let mut codes = [0; LEN];
        for (codes, packed) in codes.as_chunks_mut::<8>().0.iter_mut().zip(packed.as_chunks::<BITS>().0) {
            let mut eight = [0; 8];
            eight[..BITS].copy_from_slice(packed);
            let eight = u64::from_le_bytes(eight);
            for (i, code) in codes.iter_mut().enumerate() {
                *code = (eight >> (BITS * i)) as u8 & ((1 << BITS) - 1) ^ 1 << (BITS - 1);
            }
        }
        [v.bytes(&codes)]
    }

    #[inline(always)]
    fn dot<V: Ints<LEN>, const LEN: usize>(
        v: V,
        sums: V::Sums,
        [w]: [V::Bytes; 1],
        [x]: [V::Bytes; 1],
    ) -> V::Sums {
        v.dot(sums, w, x)
    }
}

/// A byte to a code of any width up to seven bits, without sign.
pub(super) struct Bytes;

impl Codes<1> for Bytes {
    #[inline(always)]
    fn step(len: usize) -> usize {
        len
    }

    #[inline(always)]
    fn unpack<V: Ints<LEN>, const LEN: usize>(v: V, packed: &[u8; LEN]) -> [V::Bytes; 1] {
        [v.bytes(packed)]
    }

    #[inline(always)]
    fn dot<V: Ints<LEN>, const LEN: usize>(
        v: V,
        sums: V::Sums,
        [w]: [V::Bytes; 1],
        [x]: [V::Bytes; 1],
    ) -> V::Sums {
        v.dot(sums, w, x)
    }
}

/// Codes of eight bits.
pub(super) struct Eights;

impl Codes<1> for Eights {
    #[inline(always)]
    fn step(len: usize) -> usize {
        len
    }

    #[inline(always)]
    fn offset<V: Ints<LEN>, const LEN: usize>(_: u8) -> i32 {
        V::SIGNED_OFFSET
    }

    #[inline(always)]
    fn unpack<V: Ints<LEN>, const LEN: usize>(v: V, packed: &[u8; LEN]) -> [V::Bytes; 1] {
        [v.bytes(packed)]
    }

    #[inline(always)]
    fn dot<V: Ints<LEN>, const LEN: usize>(
        v: V,
        sums: V::Sums,
        [w]: [V::Bytes; 1],
        [x]: [V::Bytes; 1],
    ) -> V::Sums {
        v.dot_signed(sums, w, x)
    }

    #[inline(always)]
    fn dot_doubled<V: Ints<LEN>, const LEN: usize>(
        v: V,
        sums: V::Sums,
        packed: &[u8; LEN],
        [x]: [V::Bytes; 1],
    ) -> V::Sums {
        let w = v.bytes(packed);
        v.dot_signed_neighbours(v.dot_signed_neighbours(sums, w, x), w, x)
    }
}
