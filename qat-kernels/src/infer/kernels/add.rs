//! Sum of two tensors with scales of their own (a residual connection).

use super::Requant;

/// `clamp(z_y + (((a − z_a)·M_a + (b − z_b)·M_b + 2^(n−1)) >> n), lo, hi)`, all in 32 bits: the multipliers have at
/// most 21 bits.
pub(in crate::infer) fn add(
    [a, b]: [&[i8]; 2],
    zero_points: [i8; 2],
    multipliers: [i32; 2],
    requant: &Requant,
    out: &mut [i8],
) -> Option<()> {
    for ((y, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *y = sum([a, b], zero_points, multipliers, requant);
    }
    Some(())
}

/// The same where the result takes the place of the first operand.
pub(in crate::infer) fn add_in_place(
    a: &mut [i8],
    b: &[i8],
    zero_points: [i8; 2],
    multipliers: [i32; 2],
    requant: &Requant,
) -> Option<()> {
    for (a, &b) in a.iter_mut().zip(b) {
        *a = sum([*a, b], zero_points, multipliers, requant);
    }
    Some(())
}

#[inline(always)]
fn sum([a, b]: [i8; 2], [z_a, z_b]: [i8; 2], [m_a, m_b]: [i32; 2], requant: &Requant) -> i8 {
    let shift = u32::from(requant.shift);
    let half = 1i32.wrapping_shl(shift.wrapping_sub(1));
    let term = |x: i8, z: i8, m: i32| (i32::from(x) - i32::from(z)).wrapping_mul(m);
    let sum = term(a, z_a, m_a).wrapping_add(term(b, z_b, m_b)).wrapping_add(half);
    requant.finish(sum.wrapping_shr(shift))
}
