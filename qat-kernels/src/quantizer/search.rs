//! MSE-optimal steps: a coarse ladder of candidates, then least squares from the best of them.
//!
//! For codes that are fixed, the best step is a least-squares solution, `Δ = Σh·w·level / Σh·level²`; for a step that is
//! fixed, the best codes are the nearest ones. Alternating the two never increases the error, but stops in the nearest
//! of many minima. The ladder (ratio 1.1, spanning every step that can be sensible) finds the valleys, and the
//! alternation goes down the three deepest.
//!
//! Errors are judged with `w·(1/Δ)`; codes are made with `w/Δ`. The two differ on ties only, where either code has the
//! same error. All sums run in eight fixed lanes, so that every core finds the same step.

use super::runs::check_length;
use crate::arch::{Backend, Kernel};
use crate::error::{Error, Result, What};
use crate::grid::Levels;

/// Step (or step of a dead channel) when nothing can be learned from the weights, because they are all zero or too
/// small for a normal step: f32's ε, a value that integer engines can still carry as a multiplier.
pub const DEAD_STEP: f32 = f32::EPSILON;

/// Lanes of every sum.
pub(super) const LANES: usize = 8;
/// Weights per inner sum in f32; the sums of blocks are added in f64.
pub(super) const BLOCK: usize = 256;
/// The importance of weights that all count the same.
pub(super) const ONES: [f32; BLOCK] = [1.0; BLOCK];
/// Ratio of the ladder's neighbours. Finer ladders found nothing better in the study behind the tests.
const RATIO: f32 = 1.1;
/// Rungs at most: 1.1^96 ≈ 9,400 spans the largest weight over the mean of a row with one outlier in thousands.
pub(super) const RUNGS: usize = 96;
/// Steps tried between a valley's rung and each of its neighbours.
const FINE: usize = 8;
/// Steps tried around a rung.
pub(super) const FINER: usize = 2 * FINE + 1;
/// Valleys of the ladder that are refined.
const VALLEYS: usize = 3;
/// Alternations per valley at most; most stop after a few.
pub(super) const ROUNDS: usize = 16;
/// A round that does not improve the error by more than this factor is the last one of its valley.
pub(super) const SETTLED: f64 = 1.0 - 1e-5;

/// The step that minimises `Σ hᵢ·(wᵢ − ŵᵢ)²` over all weights, h = 1 without an importance.
///
/// `importance` holds one number ≥ 0 per weight, for example the diagonal of the Fisher information or of the layer's
/// input covariance; if all are 0, all count the same. Weights that are all zero get [`DEAD_STEP`].
///
/// # Errors
/// [`Error::Empty`] without weights; [`Error::NotFinite`] for NaN or ∞ in weights or importance; [`Error::Length`] for
/// an importance of another length; [`Error::Range`] for a negative importance.
///
/// ```
/// use qat_kernels::{Grid, Levels, quantizer::fit_step};
/// let step = fit_step(Levels::new(2, Grid::MidRise)?, &[0.25, -0.75, 0.75, -0.25], None)?;
/// assert_eq!(step, 0.5); // ±½ and ±1½ steps: no error at all
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn fit_step(levels: Levels, weights: &[f32], importance: Option<&[f32]>) -> Result<f32> {
    let importance = Importance::new(weights, importance)?;
    let Some(ladder) = Ladder::new(levels, weights, importance) else { return Ok(DEAD_STEP) };

    let backend = Backend::best();
    let error_at = |step: f32| {
        let wide = f64::from(step);
        backend.run(Pass::<false> { levels, weights, importance, step }).error * wide * wide
    };
    let refined = |step: f32| {
        let moments = backend.run(Pass::<true> { levels, weights, importance, step });
        let wide = f64::from(step);
        (moments.error * wide * wide, (wide * moments.ratio()) as f32)
    };
    let mut errors = [0.0f64; RUNGS];
    for (error, step) in errors.iter_mut().zip(ladder.rungs()) {
        *error = error_at(step);
    }

    let mut best = (f64::INFINITY, DEAD_STEP);
    for valley in valleys(errors.get(..ladder.count).unwrap_or(&[])).into_iter().flatten() {
        let mut start = (f64::INFINITY, DEAD_STEP);
        for step in ladder.between_neighbours(valley) {
            let error = error_at(step);
            if error < start.0 {
                start = (error, step);
            }
        }
        let (mut step, mut last) = (start.1, f64::INFINITY);
        for _ in 0..ROUNDS {
            let (error, next) = refined(step);
            let settled = error > last * SETTLED;
            last = error;
            if error < best.0 {
                best = (error, step);
            }
            if settled || !(next > 0.0 && next.is_normal()) {
                break;
            }
            step = next;
        }
    }
    Ok(best.1)
}

/// Importance of the weights, checked: finite, not negative, of the same length, not all zero.
#[derive(Clone, Copy)]
pub(super) struct Importance<'a>(Option<&'a [f32]>);

impl<'a> Importance<'a> {
    /// Checks weights and importance.
    pub(super) fn new(weights: &[f32], importance: Option<&'a [f32]>) -> Result<Self> {
        check(weights, importance)?;
        Ok(Self(importance.filter(|all| all.iter().any(|&h| h > 0.0))))
    }

    /// The importance of `len ≤ BLOCK` weights from `start` on.
    #[inline(always)]
    pub(super) fn block(self, start: usize, len: usize) -> &'a [f32] {
        match self.0 {
            Some(all) => all.get(start..start + len).unwrap_or(&[]),
            None => ONES.get(..len).unwrap_or(&ONES),
        }
    }
}

/// Refuses no weights, NaN and infinities, and an importance that does not fit or is negative.
pub(super) fn check(weights: &[f32], importance: Option<&[f32]>) -> Result<()> {
    if weights.is_empty() {
        return Err(Error::Empty { what: What::Weights });
    }
    check_finite(weights, What::Weights)?;
    let Some(importance) = importance else { return Ok(()) };
    check_length(What::Importance, importance.len(), weights.len())?;
    check_finite(importance, What::Importance)?;
    match importance.iter().find(|&&h| h < 0.0) {
        Some(&value) => Err(Error::Range { what: What::Importance, value, min: 0.0, max: f32::MAX }),
        None => Ok(()),
    }
}

/// Refuses the first NaN or infinity.
fn check_finite(values: &[f32], what: What) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(Error::NotFinite { what, index }),
        None => Ok(()),
    }
}

/// Candidate steps from `2·max|w|/top` downwards to `½·mean|w|/top`.
///
/// At the upper end nothing is clipped and twice the room is wasted; at the lower end the grid ends at half the mean
/// magnitude. Every minimum worth having lies between.
pub(super) struct Ladder {
    largest: f32,
    pub(super) count: usize,
}

impl Ladder {
    /// `None` if all weights are zero, or so small that their step would not be a normal number.
    pub(super) fn new(levels: Levels, weights: &[f32], importance: Importance<'_>) -> Option<Self> {
        let (mut largest, mut sum, mut mass) = (0.0f32, 0.0f64, 0.0f64);
        for (i, block) in weights.chunks(BLOCK).enumerate() {
            for (&w, &h) in block.iter().zip(importance.block(i * BLOCK, block.len())) {
                let magnitude = w.abs();
                largest = if magnitude > largest { magnitude } else { largest };
                sum += f64::from(h) * f64::from(magnitude);
                mass += f64::from(h);
            }
        }
        let top = levels.top();
        // Divided first: 2·max|w| may overflow.
        let upper = largest / top * 2.0;
        let upper = if upper < f32::MAX / 8.0 { upper } else { f32::MAX / 8.0 };
        let lower = (sum / mass) as f32 / top * 0.5;
        let mut ladder = Self { largest: upper, count: 1 };
        let mut rung = upper;
        while rung > lower && (rung / RATIO).is_normal() && ladder.count < RUNGS {
            rung /= RATIO;
            ladder.count += 1;
        }
        // The step and its reciprocal must both be normal, with room for Pi's π/k.
        (upper > f32::MIN_POSITIVE * 8.0).then_some(ladder)
    }

    /// The steps, largest first.
    pub(super) fn rungs(&self) -> impl Iterator<Item = f32> + use<> {
        core::iter::successors(Some(self.largest), |&rung| Some(rung / RATIO)).take(self.count)
    }

    /// Finely spaced steps around one rung, from the rung above to the one below, largest first.
    pub(super) fn between_neighbours(&self, index: usize) -> impl Iterator<Item = f32> + use<> {
        let rung = self.rungs().nth(index).unwrap_or(self.largest);
        (0..FINER).map(move |i| rung * (1.0 + (RATIO - 1.0) * (FINE as f32 - i as f32) / FINE as f32))
    }
}

/// The indices of the deepest local minima, at most three.
pub(super) fn valleys(errors: &[f64]) -> [Option<usize>; VALLEYS] {
    let mut deepest: [Option<usize>; VALLEYS] = [None; VALLEYS];
    let depth = |index: usize| errors.get(index).copied().unwrap_or(f64::INFINITY);
    for (index, &error) in errors.iter().enumerate() {
        let before = if index == 0 { f64::INFINITY } else { depth(index - 1) };
        if error > before || error > depth(index + 1) {
            continue;
        }
        let mut entry = Some(index);
        for place in &mut deepest {
            let better = match (entry, *place) {
                (Some(new), Some(old)) => depth(new) < depth(old),
                (entry, None) => entry.is_some(),
                (None, _) => false,
            };
            if better {
                core::mem::swap(&mut entry, place);
            }
        }
    }
    deepest
}

/// What one pass over weights finds, all in units of the step, v = w/Δ.
#[derive(Clone, Copy, Default)]
pub(super) struct Moments {
    /// Σ h·(v − level)²
    pub(super) error: f64,
    /// Σ h·v·level
    pub(super) cross: f64,
    /// Σ h·level²
    pub(super) power: f64,
}

impl Moments {
    /// The least-squares step for these codes, over the step that made them; 1 if there is nothing to scale.
    pub(super) fn ratio(self) -> f64 {
        if self.power > 0.0 { self.cross / self.power } else { 1.0 }
    }
}

/// One pass over all weights. `FULL`: all three moments, otherwise the error alone, which costs half.
struct Pass<'a, const FULL: bool> {
    levels: Levels,
    weights: &'a [f32],
    importance: Importance<'a>,
    step: f32,
}

impl<const FULL: bool> Kernel for Pass<'_, FULL> {
    type Output = Moments;

    #[inline(always)]
    fn run(self) -> Moments {
        let inverse = [1.0 / self.step; LANES];
        let mut total = Moments::default();
        for (i, block) in self.weights.chunks(BLOCK).enumerate() {
            let importance = self.importance.block(i * BLOCK, block.len());
            let mut lanes = LaneMoments::default();
            let (whole, tail) = block.as_chunks::<LANES>();
            let (whole_importance, tail_importance) = importance.as_chunks::<LANES>();
            for (w, h) in whole.iter().zip(whole_importance) {
                lanes.add::<FULL>(self.levels, w, h, &inverse);
            }
            // Lanes without a weight have no importance, hence no part in any sum.
            let (mut w, mut h) = ([0.0; LANES], [0.0; LANES]);
            for (i, (&weight, &its)) in tail.iter().zip(tail_importance).enumerate() {
                (w[i], h[i]) = (weight, its);
            }
            lanes.add::<FULL>(self.levels, &w, &h, &inverse);
            total.error += sum_lanes(&lanes.error);
            total.cross += sum_lanes(&lanes.cross);
            total.power += sum_lanes(&lanes.power);
        }
        total
    }
}

/// [`Moments`] of eight independent rows of weights.
#[derive(Clone, Copy, Default)]
pub(super) struct LaneMoments {
    pub(super) error: [f32; LANES],
    pub(super) cross: [f32; LANES],
    pub(super) power: [f32; LANES],
}

impl LaneMoments {
    /// Adds one weight to each lane; `FULL`: to all three moments, otherwise to the error alone.
    #[inline(always)]
    pub(super) fn add<const FULL: bool>(
        &mut self,
        levels: Levels,
        w: &[f32; LANES],
        h: &[f32; LANES],
        inverse: &[f32; LANES],
    ) {
        // One loop per moment: in a single one, compilers pair two moments of a lane instead of the lanes of a moment.
        let (mut v, mut level) = ([0.0f32; LANES], [0.0f32; LANES]);
        for lane in 0..LANES {
            v[lane] = w[lane] * inverse[lane];
            level[lane] = levels.round(v[lane]) + levels.grid().offset();
        }
        for lane in 0..LANES {
            let off_by = v[lane] - level[lane];
            self.error[lane] += h[lane] * (off_by * off_by);
        }
        if FULL {
            for lane in 0..LANES {
                self.cross[lane] += h[lane] * (v[lane] * level[lane]);
            }
            for lane in 0..LANES {
                self.power[lane] += h[lane] * (level[lane] * level[lane]);
            }
        }
    }
}

/// Sum of the lanes. Never inlined: seen together with the loops before it, its tree makes compilers fill vectors along
/// the tree instead of along the lanes, three times slower.
#[inline(never)]
pub(super) fn sum_lanes(lanes: &[f32; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = *lanes;
    f64::from(((a + e) + (c + g)) + ((b + f) + (d + h)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::Grid;
    use crate::quantizer::samples;

    fn squared_error(lv: Levels, weights: &[f32], h: Option<&[f32]>, step: f32) -> f64 {
        let of = |i: usize| h.map_or(1.0, |h| f64::from(h[i]));
        weights
            .iter()
            .enumerate()
            .map(|(i, &w)| of(i) * (f64::from(w) - f64::from(lv.fake_quantize(w, step))).powi(2))
            .sum()
    }

    /// The best of 20,000 steps.
    fn brute_force(lv: Levels, weights: &[f32], h: Option<&[f32]>) -> f64 {
        let largest = weights.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        (1..20_000)
            .map(|i| squared_error(lv, weights, h, 2.2 * largest * i as f32 / 20_000.0))
            .fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn the_step_found_is_the_best_of_a_dense_scan() {
        for (seed, len) in [(1, 8), (2, 16), (3, 33), (4, 128), (5, 384)] {
            for heavy in [false, true] {
                let weights = samples(seed, len, heavy);
                let fisher: Vec<f32> = samples(seed + 50, len, true).iter().map(|x| x * x).collect();
                for bits in [2, 3, 4, 8] {
                    for grid in [Grid::MidTread, Grid::MidRise] {
                        for h in [None, Some(&fisher[..])] {
                            let lv = Levels::new(bits, grid).unwrap();
                            let step = fit_step(lv, &weights, h).unwrap();
                            let (found, best) =
                                (squared_error(lv, &weights, h, step), brute_force(lv, &weights, h));
                            // With few weights and many levels every step is a lottery of its own.
                            let allowed = if bits == 8 || len <= 16 { 1.5 } else { 1.1 };
                            assert!(found <= best * allowed, "{len} {heavy} {bits} {grid:?} {found} {best}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_lattice_is_found() {
        for bits in 2..=8u8 {
            let lv = Levels::new(bits, Grid::MidRise).unwrap();
            let weights: Vec<f32> = (lv.lo()..=lv.hi()).map(|q| lv.dequantize(q, 0.25)).collect();
            let error = squared_error(lv, &weights, None, fit_step(lv, &weights, None).unwrap());
            let power: f64 = weights.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
            assert!(error <= 1e-12 * power, "{bits} {error}"); // the step itself is rounded
        }
    }

    #[test]
    fn dead_and_extreme_weights_still_give_a_positive_step() {
        let lv = Levels::new(2, Grid::MidRise).unwrap();
        assert_eq!(fit_step(lv, &[0.0; 5], None), Ok(DEAD_STEP));
        assert_eq!(fit_step(lv, &[1e-45, -1e-45], None), Ok(DEAD_STEP));
        for scale in [1e-37, 1e-20, 1.0, 1e20, 1e37, f32::MAX] {
            let step = fit_step(lv, &[0.5 * scale, -scale, 0.1 * scale], None).unwrap();
            assert!(step > 0.0 && step.is_normal(), "{scale} {step}");
        }
    }

    /// With a step for one weight that hardly counts, −2 divided by it is lost in the grid's half, and its level is +½.
    #[test]
    fn a_weight_that_rounds_to_the_other_side_turns_no_step_around() {
        let weights = [9.5e-40, -3.2e19, -2.0625, -2.0625, -2.0625, -2.0625, -2.0625, 0.5625];
        let importance = [6.1875, 4.27e-43, 7.875, 0.0625, 0.375, 0.375, 0.375, 0.375];
        for grid in [Grid::MidTread, Grid::MidRise] {
            let step = fit_step(Levels::new(4, grid).unwrap(), &weights, Some(&importance)).unwrap();
            assert!(step > 0.0 && step.is_normal(), "{grid:?}: {step}");
        }
    }

    #[test]
    fn bad_input_is_named() {
        let lv = Levels::new(3, Grid::MidTread).unwrap();
        assert_eq!(fit_step(lv, &[], None), Err(Error::Empty { what: What::Weights }));
        assert_eq!(
            fit_step(lv, &[1.0, f32::NAN], None),
            Err(Error::NotFinite { what: What::Weights, index: 1 })
        );
        assert_eq!(
            fit_step(lv, &[1.0, 2.0], Some(&[1.0])),
            Err(Error::Length { what: What::Importance, expected: 2, got: 1 })
        );
        assert_eq!(
            fit_step(lv, &[1.0, 2.0], Some(&[1.0, f32::INFINITY])),
            Err(Error::NotFinite { what: What::Importance, index: 1 })
        );
        assert!(matches!(fit_step(lv, &[1.0, 2.0], Some(&[1.0, -1.0])), Err(Error::Range { .. })));
        let plain = fit_step(lv, &[1.0, 2.0], None);
        assert_eq!(fit_step(lv, &[1.0, 2.0], Some(&[0.0, 0.0])), plain);
    }
}
