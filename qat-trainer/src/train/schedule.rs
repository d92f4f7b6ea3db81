//! The learning rate over time.

use crate::spec::Schedule;

/// Learning rate of every step of a phase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// The largest.
    pub(crate) peak: f32,
    /// What happens after the warm-up.
    pub(crate) schedule: Schedule,
    /// Steps over which it rises, linearly.
    pub(crate) warm_up: usize,
    /// Steps altogether.
    pub(crate) steps: usize,
}

impl Rate {
    /// The rate of step `t`, from 0. It is taken at the middle of the step, and so is positive in every step.
    pub(crate) fn at(&self, t: usize) -> f32 {
        let middle = t as f64 + 0.5;
        let warm_up = self.warm_up.min(self.steps) as f64;
        let share = if middle < warm_up {
            middle / warm_up
        } else {
            let x = ((middle - warm_up) / (self.steps as f64 - warm_up).max(1.0)).min(1.0);
            match self.schedule {
                Schedule::Constant => 1.0,
                Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * x).cos()),
                Schedule::Linear => 1.0 - x,
            }
        };
        // Far below what changes a weight, but above 0, which the optimiser refuses.
        (f64::from(self.peak) * share.max(1e-9)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_peaks_and_falls_and_never_reaches_zero() {
        for (schedule, top, end) in [(Schedule::Cosine, 0.999, 1e-3), (Schedule::Linear, 0.99, 6e-3)] {
            let rate = Rate { peak: 1.0, schedule, warm_up: 10, steps: 110 };
            let all: Vec<f32> = (0..110).map(|t| rate.at(t)).collect();
            assert!(all[..10].is_sorted() && all[10..].iter().rev().is_sorted());
            assert!(all[0] < 0.06 && all[10] > top && all[109] < end);
            assert!(all.iter().all(|r| *r > 0.0));
            assert!((all[60] - 0.5).abs() < 0.02);
        }
    }

    #[test]
    fn short_phases_have_positive_rates_too() {
        for (warm_up, steps) in [(0, 1), (5, 3), (3, 3), (0, 0)] {
            for schedule in [Schedule::Constant, Schedule::Cosine, Schedule::Linear] {
                let rate = Rate { peak: 0.1, schedule, warm_up, steps };
                assert!((0..=steps).all(|t| rate.at(t) > 0.0 && rate.at(t) <= 0.1));
            }
        }
    }
}
