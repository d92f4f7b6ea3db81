//! Pooling. Padding takes no part in a maximum and counts as the real number 0 in an average.

use super::{Requant, Windows};

/// Largest value of each window, then the clamp (a fused ReLU commutes with the maximum).
pub(in crate::infer) fn max_pool(
    x: &[i8],
    windows: &Windows,
    [lo, hi]: [i8; 2],
    out: &mut [i8],
) -> Option<()> {
    let channels = windows.input[2].max(1);
    for (pixel, out) in windows.pixels().zip(out.chunks_exact_mut(channels)) {
        out.fill(i8::MIN);
        for line in windows.lines(x, pixel) {
            for tap in line?.1.chunks_exact(channels) {
                raise(out, tap);
            }
        }
    }
    if lo > i8::MIN || hi < i8::MAX {
        #[cfg(core_family = "cortex-m4")]
        crate::arch::cortex_m4::clamp(out, lo, hi);
        #[cfg(not(core_family = "cortex-m4"))]
        out.iter_mut().for_each(|y| *y = if *y < lo { lo } else { *y }.min(hi));
    }
    Some(())
}

/// Raises every value to the one of `x` at its place if that is larger.
fn raise(to: &mut [i8], x: &[i8]) {
    #[cfg(core_family = "cortex-m4")]
    crate::arch::cortex_m4::raise(to, x);
    #[cfg(not(core_family = "cortex-m4"))]
    to.iter_mut().zip(x).for_each(|(y, &x)| *y = if x > *y { x } else { *y });
}

/// Channels whose sums are formed together.
const BLOCK: usize = 16;

/// `Σ (x − z)·M` over each window; M holds 1/(window area) as well as the ratio of the scales.
pub(in crate::infer) fn avg_pool(
    x: &[i8],
    windows: &Windows,
    zero_point: i8,
    multiplier: i32,
    requant: &Requant,
    out: &mut [i8],
) -> Option<()> {
    let channels = windows.input[2].max(1);
    for (pixel, out) in windows.pixels().zip(out.chunks_exact_mut(channels)) {
        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
            let (mut sums, mut taps) = ([0i32; BLOCK], 0i32);
            for line in windows.lines(x, pixel) {
                for tap in line?.1.chunks_exact(channels) {
                    let x = tap.get(block * BLOCK..)?;
                    taps += 1;
                    match x.first_chunk::<BLOCK>() {
                        Some(x) => sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += i32::from(x)),
                        None => sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += i32::from(x)),
                    }
                }
            }
            let zeros = taps * i32::from(zero_point);
            out.iter_mut().zip(sums).for_each(|(y, sum)| *y = requant.apply(sum - zeros, multiplier));
        }
    }
    Some(())
}
