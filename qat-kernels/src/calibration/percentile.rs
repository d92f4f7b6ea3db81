//! The range that keeps a given share of the samples.
//!
//! A quantile of the histogram: the bin in which the cumulative count reaches the rank, and within it the point that
//! linear interpolation gives. It lies in the same bin as the sample of that rank, so it is off by less than one bin.

use super::config::QuantScheme;
use super::histogram::Segment;
use super::observer::Observer;
use super::params::ClipRange;

/// Affine: cuts `(1 − share)/2` off each end. Symmetric: the magnitude that `share` of the samples do not exceed.
pub(super) fn range<const BINS: usize>(o: &Observer<BINS>, share: f32, scheme: QuantScheme) -> ClipRange {
    let share = f64::from(share);
    // Counted anew, because saturated bins hold fewer samples than were seen.
    let total = o.segments().map(|s| s.count).sum::<u64>() as f64;
    match scheme {
        QuantScheme::Affine => {
            let tail = (1.0 - share) * 0.5;
            let lo = quantile(o.segments(), tail * total) as f32;
            let hi = quantile(o.segments(), (1.0 - tail) * total) as f32;
            let hi = if hi > lo { hi } else { lo };
            ClipRange::trusted(lo, hi)
        }
        QuantScheme::Symmetric(_) => o.clipped_to(quantile(o.magnitude_segments(), share * total) as f32),
    }
}

/// The point up to which `rank` samples lie.
fn quantile(segments: impl Iterator<Item = Segment>, rank: f64) -> f64 {
    let mut below = 0.0;
    let mut end = 0.0;
    for s in segments {
        let count = s.count as f64;
        if below + count >= rank {
            return s.lo + (s.hi - s.lo) * ((rank - below) / count);
        }
        below += count;
        end = s.hi;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpolates_within_the_bin() {
        let bins = [
            Segment { lo: -1.0, hi: 0.0, count: 10 },
            Segment { lo: 0.0, hi: 0.0, count: 5 },
            Segment { lo: 2.0, hi: 4.0, count: 4 },
        ];
        for (rank, expected) in [
            (0.0, -1.0),
            (5.0, -0.5),
            (10.0, 0.0),
            (12.0, 0.0),
            (15.0, 0.0),
            (16.0, 2.5),
            (19.0, 4.0),
            (20.0, 4.0),
        ] {
            assert_eq!(quantile(bins.into_iter(), rank), expected, "{rank}");
        }
    }
}
