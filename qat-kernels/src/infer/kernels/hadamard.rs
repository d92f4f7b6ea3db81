//! Rotation of activations, for a layer whose weights were rotated when they were quantised.

use super::Requant;
use super::rows::each_row;
use crate::hadamard::Rotation;

/// `y = clamp(z_y + (((H·D·(x − z_x))·M + 2^(n−1)) >> n))`, block by block; M holds 1/√(block) as well as the ratio of the
/// scales. `scratch` has room for one block.
pub(in crate::infer) fn hadamard(
    x: &[i8],
    zero_point: i8,
    rotation: Rotation,
    multiplier: i32,
    requant: &Requant,
    scratch: &mut [u32],
    out: &mut [i8],
) -> Option<()> {
    let block = rotation.max_block();
    let sums = scratch.get_mut(..block)?;
    let mut signs = 0;
    let mut index = 0usize;
    each_row(x, out, block, |x, out| {
        for (sum, &x) in sums.iter_mut().zip(x) {
            if index.is_multiple_of(64) {
                signs = rotation.sign_word(index / 64);
            }
            let centred = i32::from(x) - i32::from(zero_point);
            *sum = if signs & 1 == 1 { -centred } else { centred }.cast_unsigned();
            signs >>= 1;
            index = index.wrapping_add(1);
        }
        butterflies(sums)?;
        for (y, sum) in out.iter_mut().zip(&*sums) {
            *y = requant.apply(sum.cast_signed(), multiplier);
        }
        Some(())
    })
}

/// `x ← H·x` modulo 2^32; the checks have bounded the sums. [`crate::hadamard`] has the fast transform; this one has no
/// path to a panic.
fn butterflies(x: &mut [u32]) -> Option<()> {
    let mut half = 1usize;
    while half < x.len() {
        for pair in x.chunks_exact_mut(half.wrapping_mul(2).max(1)) {
            let (a, b) = pair.split_at_mut_checked(half)?;
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (a.wrapping_add(*b), a.wrapping_sub(*b));
            }
        }
        half = half.wrapping_mul(2);
    }
    Some(())
}
