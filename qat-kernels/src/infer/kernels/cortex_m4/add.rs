//! Sum of two tensors with scales of their own.

use super::super::Requant;
use crate::arch::cortex_m4::Sum;

pub(in crate::infer) fn add(
    [a, b]: [&[i8]; 2],
    zero_points: [i8; 2],
    multipliers: [i32; 2],
    requant: &Requant,
    out: &mut [i8],
) -> Option<()> {
    let done = sum(zero_points, multipliers, requant).add(a, b, out)?;
    super::super::add(
        [a.get(done..)?, b.get(done..)?],
        zero_points,
        multipliers,
        requant,
        out.get_mut(done..)?,
    )
}

/// The same where the result takes the place of the first operand.
pub(in crate::infer) fn add_in_place(
    a: &mut [i8],
    b: &[i8],
    zero_points: [i8; 2],
    multipliers: [i32; 2],
    requant: &Requant,
) -> Option<()> {
    let done = sum(zero_points, multipliers, requant).add_in_place(a, b);
    super::super::add_in_place(a.get_mut(done..)?, b.get(done..)?, zero_points, multipliers, requant)
}

/// What does not depend on the values is the same for all; modulo 2^32, so that its size does not matter.
fn sum([z_a, z_b]: [i8; 2], [m_a, m_b]: [i32; 2], requant: &Requant) -> Sum {
    let half = 1i32.wrapping_shl(u32::from(requant.shift).wrapping_sub(1));
    let product = |z: i8, m: i32| i32::from(z).wrapping_mul(m);
    let constant = half.wrapping_sub(product(z_a, m_a)).wrapping_sub(product(z_b, m_b));
    let limits = [requant.lo as i8, requant.hi as i8];
    Sum::new([m_a, m_b], constant, requant.shift.into(), requant.zero_point, limits)
}
