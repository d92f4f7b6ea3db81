//! Pooling. Padding takes no part in a maximum and counts as the real number 0 in an average.

use super::{Requant, Windows};

/// Largest value of each window, then the clamp (a fused ReLU commutes with the maximum).
pub(in crate::infer) fn max_pool(
    x: &[i8],
    windows: &Windows,
    [lo, hi]: [i8; 2],
    out: &mut [i8],
) -> Option<()> {
    for (pixel, out) in windows.pixels().zip(out.chunks_exact_mut(windows.input[2].max(1))) {
        out.fill(i8::MIN);
        for (_, tap) in windows.taps(x, pixel) {
            out.iter_mut().zip(tap.unwrap_or(&[])).for_each(|(y, &x)| *y = if x > *y { x } else { *y });
        }
        out.iter_mut().for_each(|y| {
            *y = if *y < lo {
                lo
            } else if *y > hi {
                hi
            } else {
                *y
            }
        });
    }
    Some(())
}

/// `Σ (x − z)·M` over each window; M holds 1/(window area) as well as the ratio of the scales.
pub(in crate::infer) fn avg_pool(
    x: &[i8],
    windows: &Windows,
    zero_point: i8,
    multiplier: i32,
    requant: &Requant,
    out: &mut [i8],
) -> Option<()> {
    for (pixel, out) in windows.pixels().zip(out.chunks_exact_mut(windows.input[2].max(1))) {
        for (c, y) in out.iter_mut().enumerate() {
            let mut acc = 0i32;
            for (_, tap) in windows.taps(x, pixel) {
                if let Some(tap) = tap {
                    acc = acc.wrapping_add(i32::from(*tap.get(c)?) - i32::from(zero_point));
                }
            }
            *y = requant.apply(acc, multiplier);
        }
    }
    Some(())
}
