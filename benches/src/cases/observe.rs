//! Calibration: a batch observed for its extremes, or into a histogram.

use super::{Backend, Case, Shape};
use crate::numbers::SplitMix64;
use anyhow::{Result, ensure};
use qat_kernels::{CalibrationConfig, CalibrationEngine, CalibrationMethod};

/// Share of the samples that the range is to keep.
const SHARE: f32 = 0.999;

struct Observe<const BINS: usize> {
    engine: CalibrationEngine<BINS>,
    batch: Vec<f32>,
}

pub(super) fn min_max(shape: Shape) -> Result<Box<dyn Case>> {
    new::<0>(CalibrationMethod::MinMax, shape)
}

pub(super) fn histogram(shape: Shape) -> Result<Box<dyn Case>> {
    new::<2048>(CalibrationMethod::Percentile { share: SHARE }, shape)
}

fn new<const BINS: usize>(method: CalibrationMethod, shape: Shape) -> Result<Box<dyn Case>> {
    let engine = CalibrationEngine::<BINS>::new(CalibrationConfig::default().with_method(method))?;
    Ok(Box::new(Observe { engine, batch: SplitMix64(7).bells(shape.len()) }))
}

impl<const BINS: usize> Case for Observe<BINS> {
    fn copied(&self) -> usize {
        size_of::<f32>() * self.batch.len() / 2
    }

    fn run(&mut self, _: Backend) -> qat_kernels::Result<()> {
        self.engine.observe(&self.batch)
    }

    fn check(&self) -> Result<()> {
        let range = self.engine.range(0)?;
        let mut sorted = self.batch.clone();
        sorted.sort_by(f32::total_cmp);
        let (largest, last) = (sorted[0].abs().max(sorted[sorted.len() - 1]), sorted.len() - 1);
        // Off each end. The histogram's quantile may be in the bin of the sample before or after.
        let cut = if BINS == 0 { 0 } else { ((1.0 - SHARE) / 2.0 * sorted.len() as f32) as usize };
        let bin = if BINS == 0 { 0.0 } else { 4.0 * largest / BINS as f32 };
        for (found, rank) in [(range.lo(), cut), (range.hi(), last - cut)] {
            let (least, most) = (sorted[rank.saturating_sub(1)] - bin, sorted[(rank + 1).min(last)] + bin);
            ensure!((least..=most).contains(&found), "{found}, not {}", sorted[rank]);
        }
        if BINS == 0 {
            ensure!((range.lo(), range.hi()) == (sorted[0], sorted[last]), "{range:?}");
        }
        Ok(())
    }
}
