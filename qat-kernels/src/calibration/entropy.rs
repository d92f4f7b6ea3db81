//! The threshold with the smallest Kullback-Leibler divergence between the samples' distribution and its quantised
//! version (Migacz 2017, "8-bit inference with TensorRT").
//!
//! For every threshold of i bins, i from the number of levels L up to the largest sample:
//!
//! ```text
//! P: the first i bins of |x|, with everything beyond added to the last one (clipped samples land there)
//! Q: the same i bins without what lies beyond, summed in L equal groups, each sum spread over the bins that P fills
//! D = Σ P/|P| · ln( (P/|P|) / (Q/|Q|) )
//! ```
//!
//! and the range with the least D wins, the wider one on a tie. L is the number of levels on the side of zero that
//! is used: 2^b for an affine scheme whose samples are never negative, else 2^(b−1). Where Q has no mass but P has, D is
//! infinite and the threshold is passed over.
//!
//! One departure: exact zeros take no part. Every scheme with a zero represents them without error, and after a ReLU
//! they would outweigh all the rest.

use super::config::QuantScheme;
use super::histogram::Histogram;
use super::observer::Observer;
use super::params::ClipRange;
use crate::math::ln;

pub(super) fn range<const BINS: usize>(o: &Observer<BINS>, bits: u8, scheme: QuantScheme) -> ClipRange {
    let Some(all) = o.extremes() else { return ClipRange::trusted(0.0, 0.0) };
    let h = o.histogram();
    let log2_levels = if scheme == QuantScheme::Affine && !h.is_signed() { bits } else { bits - 1 };
    let levels = 1usize << log2_levels;
    let used =
        h.magnitudes().enumerate().filter(|&(_, count)| count > 0).map(|(i, _)| i + 1).last().unwrap_or(0);
    let total: u64 = h.magnitudes().sum();

    let mut best = (used, f64::INFINITY);
    let mut inside: u64 = h.magnitudes().take(levels.saturating_sub(1)).sum();
    for bins in levels..=used {
        inside += h.magnitude(bins - 1);
        let d = divergence(h, bins, log2_levels, inside, total);
        if d <= best.1 {
            best = (bins, d);
        }
    }
    if best.0 >= used { all } else { o.clipped_to((best.0 as f64 * h.width()) as f32) }
}

/// D for a threshold of `bins` bins, `inside` of the `total` samples below it.
fn divergence<const BINS: usize>(
    h: &Histogram<BINS>,
    bins: usize,
    log2_levels: u8,
    inside: u64,
    total: u64,
) -> f64 {
    let outliers = total - inside;
    let filled = |i: usize| {
        let count = h.magnitude(i);
        if i + 1 == bins { count + outliers } else { count }
    };
    let mut sum = 0.0;
    let mut start = 0;
    for group in 1..=1usize << log2_levels {
        let end = (group * bins) >> log2_levels;
        let mass: u64 = (start..end).map(|i| h.magnitude(i)).sum();
        let support = (start..end).filter(|&i| filled(i) > 0).count();
        if support > 0 && mass == 0 {
            return f64::INFINITY;
        }
        // One bin alone is its own group: P = Q there unless it took in the outliers.
        let spread = support as f64 / mass as f64;
        for p in (start..end).map(filled).filter(|&p| p > 0) {
            let ratio = (p as f64 * spread) as f32;
            if ratio != 1.0 {
                sum += p as f64 * f64::from(ln(ratio));
            }
        }
        start = end;
    }
    // The totals' ratio is the same in every term, and Σ P/|P| = 1.
    sum / total as f64 + f64::from(ln((inside as f64 / total as f64) as f32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::config::CalibrationConfig;

    fn observed<const BINS: usize>(samples: &[f32]) -> Observer<BINS> {
        let mut o = Observer::new();
        let mut b = o.batch(&CalibrationConfig::default());
        b.observe(samples);
        b.finish();
        o
    }

    /// D straight from the definition, on vectors.
    fn naive(counts: &[u64], bins: usize, levels: usize) -> f64 {
        let mut p: Vec<f64> = counts[..bins].iter().map(|&c| c as f64).collect();
        let q_in = p.clone();
        p[bins - 1] += counts[bins..].iter().sum::<u64>() as f64;
        let mut q = vec![0.0; bins];
        for g in 0..levels {
            let group = g * bins / levels..(g + 1) * bins / levels;
            let support = group.clone().filter(|&i| p[i] > 0.0).count() as f64;
            let mass: f64 = q_in[group.clone()].iter().sum();
            group.filter(|&i| p[i] > 0.0).for_each(|i| q[i] = mass / support);
        }
        let (np, nq) = (p.iter().sum::<f64>(), q.iter().sum::<f64>());
        p.iter().zip(&q).filter(|(p, _)| **p > 0.0).map(|(p, q)| p / np * ((p / np) / (q / nq)).ln()).sum()
    }

    #[test]
    fn divergence_is_that_of_the_definition() {
        let samples: Vec<f32> = (1..4000u32)
            .map(|i| {
                let u = (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32;
                (u * u * u * 9.0 + 0.001) * if i % 3 == 0 { -1.0 } else { 1.0 }
            })
            .collect();
        let o = observed::<128>(&samples);
        let h = o.histogram();
        // The error of micromath's logarithm, see `math`.
        let tolerance = if cfg!(feature = "micromath") { 2e-4 } else { 1e-6 };
        let counts: Vec<u64> = h.magnitudes().collect();
        let total = counts.iter().sum();
        for log2_levels in [2, 3, 4] {
            let levels = 1 << log2_levels;
            for bins in levels..=counts.len() {
                let inside = counts[..bins].iter().sum();
                let (a, b) = (divergence(h, bins, log2_levels, inside, total), naive(&counts, bins, levels));
                assert!((a - b).abs() < tolerance || (a == b), "{levels} {bins}: {a} {b}");
            }
        }
    }

    #[test]
    fn a_lone_outlier_is_clipped() {
        let mut samples: Vec<f32> = (0..20_000).map(|i| (i % 1000) as f32 / 1000.0 + 0.0005).collect();
        samples.push(30.0);
        let range = range(&observed::<2048>(&samples), 4, QuantScheme::Affine);
        assert!(range.hi() < 2.0, "{range:?}");
        assert!(range.hi() > 0.9, "{range:?}");
    }

    #[test]
    fn uniform_samples_are_not_clipped_much() {
        let samples: Vec<f32> = (0..64_000).map(|i| (i as f32 + 0.5) / 32_000.0 - 1.0).collect();
        let range = range(&observed::<512>(&samples), 4, QuantScheme::Affine);
        assert!(range.hi() > 0.9 && range.lo() < -0.9, "{range:?}");
    }
}
