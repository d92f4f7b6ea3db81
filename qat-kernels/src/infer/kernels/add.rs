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
    let sum = sum(zero_points, multipliers, requant);
    for ((y, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *y = sum(a, b);
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
    let sum = sum(zero_points, multipliers, requant);
    for (a, &b) in a.iter_mut().zip(b) {
        *a = sum(*a, b);
    }
    Some(())
}

/// The sum of two values. What does not depend on them is the same for all; modulo 2^32, so that its size does not matter.
#[inline(always)]
fn sum([z_a, z_b]: [i8; 2], [m_a, m_b]: [i32; 2], requant: &Requant) -> impl Fn(i8, i8) -> i8 {
    let (shift, requant) = (u32::from(requant.shift), *requant);
    let half = 1i32.wrapping_shl(shift.wrapping_sub(1));
    let product = |x: i8, m: i32| i32::from(x).wrapping_mul(m);
    let constant = half.wrapping_sub(product(z_a, m_a)).wrapping_sub(product(z_b, m_b));
    move |a, b| {
        let sum = product(a, m_a).wrapping_add(product(b, m_b)).wrapping_add(constant);
        requant.finish(sum.wrapping_shr(shift))
    }
}
