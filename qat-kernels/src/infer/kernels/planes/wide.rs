//! Eight bits: plain rows of int8 weights, multiplied four rows at a time, so that an activation is loaded once for all of
//! them.

use super::super::{Requant, WeightView, Windows};
use super::{params, read};
use crate::arch::bytes::as_i8;
use crate::artifact::planes::QUAD;

#[inline(never)]
pub(super) fn linear(x: &[i8], weights: &WeightView<'_>, requant: &Requant, out: &mut [i8]) -> Option<()> {
    let len = x.len();
    // Σ (2q + half)·x = 2·Σ q·x + half·Σ x.
    let sum = if weights.spec.grid == 0 { 0 } else { x.iter().map(|&x| i32::from(x)).sum() };
    let mut rows = as_i8(weights.codes);
    let mut params = params(weights)?.iter().map(read);
    for out in out.chunks_mut(QUAD) {
        let (quad, rest) = rows.split_at_checked(len.checked_mul(out.len())?)?;
        rows = rest;
        let mut parts = [&[][..]; QUAD];
        let mut quad = quad.chunks_exact(len.max(1));
        // Rows that there are not are computed as the last one again.
        let mut last = &[][..];
        for part in &mut parts {
            last = quad.next().unwrap_or(last);
            *part = last;
        }
        let sums = dot(x, parts);
        for ((y, dot), p) in out.iter_mut().zip(sums).zip(&mut params) {
            let acc = (dot << 1).wrapping_add(sum).wrapping_add(p.bias);
            *y = requant.apply(acc, p.multiplier);
        }
    }
    Some(())
}

/// Four rows times `x`. A function of its own, so that its loop has all registers.
#[inline(never)]
fn dot(x: &[i8], [a, b, c, d]: [&[i8]; QUAD]) -> [i32; QUAD] {
    let mut sums = [0i32; QUAD];
    let mut add = |x: i8, rows: [i8; QUAD]| {
        for (sum, q) in sums.iter_mut().zip(rows) {
            *sum = sum.wrapping_add(i32::from(q).wrapping_mul(x.into()));
        }
    };
    let parts = [x, a, b, c, d].map(|row| row.as_chunks::<4>());
    let [(x, x_rest), (a, a_rest), (b, b_rest), (c, c_rest), (d, d_rest)] = parts;
    for ((((x, a), b), c), d) in x.iter().zip(a).zip(b).zip(c).zip(d) {
        for at in 0..4 {
            add(x[at], [a[at], b[at], c[at], d[at]]);
        }
    }
    for ((((&x, &a), &b), &c), &d) in x_rest.iter().zip(a_rest).zip(b_rest).zip(c_rest).zip(d_rest) {
        add(x, [a, b, c, d]);
    }
    sums
}

/// `scratch` holds a window unless the kernel is 1×1 without padding.
#[inline(never)]
pub(super) fn conv2d(
    x: &[i8],
    windows: &Windows,
    weights: &WeightView<'_>,
    requant: &Requant,
    zero_point: i8,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    let gathered = windows.kernel != [1, 1] || windows.pad != [0, 0];
    let window = scratch.get_mut(..if gathered { weights.fan_in } else { 0 })?;
    for (pixel, out) in windows.pixels().zip(out.chunks_exact_mut(windows.output[2].max(1))) {
        let x = if gathered {
            windows.gather(x, pixel, zero_point, window)?;
            &*window
        } else {
            windows.taps(x, pixel).next()?.1?
        };
        linear(x, weights, requant, out)?;
    }
    Some(())
}
