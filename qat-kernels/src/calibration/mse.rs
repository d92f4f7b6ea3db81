//! The range with the smallest expected squared error of quantisation.
//!
//! Clipping trades the error of few large samples for a finer step for all others; the best point depends on the
//! distribution and on the bits (Banner et al. 2019 derive it for Gauss and Laplace; here it is searched on the
//! histogram). The expectation is exact for samples spread evenly within each bin. With n(x) the nearest level in
//! units of the step Δ and ρ = x/Δ − n the error,
//!
//! ```text
//! ∫ (x − Q(x))² dx = Δ³·G(x),   G = n/12 + ρ³/3
//! ```
//!
//! which holds beyond the last level as well, where n stays and ρ grows. A bin thus costs two evaluations of G, however
//! many levels lie in it.
//!
//! The search: thresholds from the extreme downwards in ratios of 2^(−1/8), then sixteen steps of about 1 % around the
//! best. Symmetric: one threshold for both signs. Affine: the same, and from there each end in turn, twice. Each candidate
//! is judged by the scale and zero point that it would really get.

use super::config::QuantScheme;
use super::histogram::Segment;
use super::observer::Observer;
use super::params::{AffineParams, ClipRange};
use crate::grid::Levels;

/// 2^(−1/8).
const RATIO: f32 = 0.917_004_05;
/// Steps on either side of the best coarse threshold.
const FINE: u8 = 8;

pub(super) fn range<const BINS: usize>(o: &Observer<BINS>, levels: Levels, scheme: QuantScheme) -> ClipRange {
    let Some(all) = o.extremes() else { return ClipRange::trusted(0.0, 0.0) };
    let width = o.histogram().width();
    let error = |range| expected_error(o.segments(), width, range, levels, scheme);
    // Below a bin's width the histogram cannot tell thresholds apart.
    let floor = width as f32;

    let top = all.magnitude();
    let mut best = Best { range: all, error: error(all) };
    search(top, floor, |t| best.offer(o.clipped_to(t), error));
    if scheme == QuantScheme::Affine {
        for _ in 0..2 {
            if all.hi() > 0.0 && all.lo() < 0.0 {
                let lo = best.range.lo();
                search(all.hi(), floor, |t| best.offer(ClipRange::trusted(lo, t), error));
                let hi = best.range.hi();
                search(-all.lo(), floor, |t| best.offer(ClipRange::trusted(-t, hi), error));
            }
        }
    }
    best.range
}

/// The best range so far.
struct Best {
    range: ClipRange,
    error: f64,
}

impl Best {
    /// Judges a candidate and returns its error. A tie keeps the earlier one, which clips less.
    fn offer(&mut self, range: ClipRange, error: impl Fn(ClipRange) -> f64) -> f64 {
        let e = error(range);
        if e < self.error {
            *self = Self { range, error: e };
        }
        e
    }
}

/// Offers thresholds from `top` down to `floor`, then around the best of them.
fn search(top: f32, floor: f32, mut offer: impl FnMut(f32) -> f64) {
    let (mut t, mut best, mut least) = (top, top, f64::INFINITY);
    // 160 octave eighths reach 2^-20 of the top: past the floor of any histogram, and an end in any case.
    for _ in 0..160 {
        let e = offer(t);
        if e < least {
            (best, least) = (t, e);
        }
        t *= RATIO;
        if t < floor || t <= 0.0 {
            break;
        }
    }
    let (low, high) = (best * RATIO, if best < top { best / RATIO } else { top });
    for i in 1..FINE {
        let part = f32::from(i) / f32::from(FINE);
        offer(low + (best - low) * part);
        if high > best {
            let t = best + (high - best) * part;
            offer(if t < top { t } else { top });
        }
    }
}

/// Expected squared error, summed over all samples, of quantising them with the scale and zero point of a range.
///
/// `width` is that of a whole bin, a power of two.
fn expected_error(
    segments: impl Iterator<Item = Segment>,
    width: f64,
    range: ClipRange,
    levels: Levels,
    scheme: QuantScheme,
) -> f64 {
    let params = AffineParams::of(range, levels, scheme);
    let step = f64::from(params.scale);
    let z = i32::from(params.zero_point);
    let (lo, hi) = (f64::from(levels.lo() - z), f64::from(levels.hi() - z));
    let offset = f64::from(levels.grid().offset());
    let inverse = 1.0 / step;
    let per_width = 1.0 / width;

    // The level's number and the distance from the level, both in steps.
    let split = |x: f64| {
        let v = x * inverse - offset;
        let within = if v > lo { v } else { lo };
        let n = round(if within < hi { within } else { hi });
        (n, v - n)
    };
    let g = |x: f64| {
        let (n, rho) = split(x);
        n * (1.0 / 12.0) + rho * rho * rho * (1.0 / 3.0)
    };

    let mut sum = 0.0;
    // Neighbouring bins share an edge, and its G.
    let (mut edge, mut g_edge) = (f64::NAN, 0.0);
    for s in segments {
        let count = s.count as f64;
        if s.hi > s.lo {
            if s.lo != edge {
                g_edge = g(s.lo);
            }
            let g_hi = g(s.hi);
            // A division for the cut bins at the ends only: that by a power of two is exact as a multiplication.
            let len = s.hi - s.lo;
            let per_len = if len == width { per_width } else { 1.0 / len };
            sum += count * (g_hi - g_edge) * step * per_len;
            (edge, g_edge) = (s.hi, g_hi);
        } else {
            let (_, rho) = split(s.lo);
            sum += count * rho * rho;
        }
    }
    sum * step * step
}

/// To the nearest integer, for |x| ≤ 2^51: adding and taking away 1.5·2^52 leaves no room for a fraction.
fn round(x: f64) -> f64 {
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    (x + MAGIC) - MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::Grid;

    #[test]
    fn expectation_equals_fine_sampling() {
        let segments = [
            Segment { lo: -3.0, hi: -1.5, count: 4 },
            Segment { lo: -1.5, hi: -0.25, count: 7 },
            Segment { lo: 0.0, hi: 0.0, count: 5 },
            Segment { lo: 0.3, hi: 0.4, count: 9 },
            Segment { lo: 1.0, hi: 7.0, count: 3 },
        ];
        for bits in [2, 3, 4, 8] {
            for scheme in [
                QuantScheme::Affine,
                QuantScheme::Symmetric(Grid::MidTread),
                QuantScheme::Symmetric(Grid::MidRise),
            ] {
                let levels = Levels::new(bits, scheme.grid()).unwrap();
                for range in [
                    ClipRange::trusted(-2.0, 3.0),
                    ClipRange::trusted(-3.0, 7.0),
                    ClipRange::trusted(0.0, 0.2),
                ] {
                    let p = AffineParams::of(range, levels, scheme);
                    let square = |x: f64| {
                        let e = x - f64::from(p.dequantize(p.quantize(x as f32, levels), levels));
                        e * e
                    };
                    let sampled: f64 = segments
                        .iter()
                        .map(|s| {
                            let n = 20_000;
                            let at = |i| s.lo + (s.hi - s.lo) * (f64::from(i) + 0.5) / f64::from(n);
                            s.count as f64 * (0..n).map(|i| square(at(i))).sum::<f64>() / f64::from(n)
                        })
                        .sum();
                    let exact = expected_error(segments.into_iter(), 1.0, range, levels, scheme);
                    assert!(
                        (exact - sampled).abs() <= 1e-3 * exact,
                        "{bits} {scheme:?} {range:?}: {exact} {sampled}"
                    );
                }
            }
        }
    }

    #[test]
    fn search_reaches_top_and_floor_and_ends() {
        let mut seen = Vec::new();
        search(1.0, 0.001, |t| {
            seen.push(t);
            f64::from((t - 0.3).abs())
        });
        assert_eq!(seen[0], 1.0);
        assert!(seen.iter().any(|&t| t < 0.0012));
        assert!(seen.iter().all(|&t| t > 0.0 && t <= 1.0));
        assert!(seen.iter().any(|&t| (t - 0.3).abs() < 0.003));
        let mut calls = 0;
        search(0.0, 0.0, |_| {
            calls += 1;
            0.0
        });
        assert!(calls < 200);
    }
}
