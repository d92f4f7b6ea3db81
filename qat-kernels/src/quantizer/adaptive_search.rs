//! The joint search for α of a channel and k of its groups that minimises the squared error.
//!
//! For a given α each group simply takes the k with the smallest error, so the joint problem is a search over α alone,
//! on a function with a valley for every lucky combination. As in [`super::search`], a ladder of α finds the valleys,
//! and least squares goes down the deepest: with the codes and k fixed the best α is
//! `Σh·w·level/k / (π·Σh·level²/k²)`; then every group chooses again.

use super::divisors::DIVISORS;
use super::search::{
    DEAD_STEP, FINER, Importance, LANES, Ladder, LaneMoments, Moments, ROUNDS, RUNGS, SETTLED, sum_lanes,
    valleys,
};
use crate::arch::{Backend, Kernel};
use crate::config::check_group;
use crate::error::{Error, Result, What};
use crate::grid::{Levels, pi_step};
use core::f32::consts::PI;

/// α of a channel in which nothing can be learned from the weights.
pub const DEAD_ALPHA: f32 = DEAD_STEP;

/// Finds α of one channel (a row of weights) and k of each of its groups of `group` consecutive weights, such that
/// `Σ hᵢ·(wᵢ − ŵᵢ)²` is least; h = 1 without an importance (see [`super::fit_step`]).
///
/// `divisors` receives one k ∈ {2, 3, 4, 5} per group; α is returned. A row that is all zero gets [`DEAD_ALPHA`].
/// Channels are independent: callers may share them out to threads.
///
/// # Errors
/// [`Error::Group`] for a group that is not 8, 16 or 32; [`Error::NotDivisible`] if it does not divide the row;
/// [`Error::Length`] unless there is one divisor per group; and the errors of [`super::fit_step`].
///
/// ```
/// use qat_kernels::{Grid, Levels, pi_step, quantizer::fit_adaptive};
/// let levels = Levels::new(2, Grid::MidRise)?;
/// // Two groups of eight on the levels of α = 1, the one with k = 2, the other with k = 5.
/// let mut row = [0.0; 16];
/// for (i, w) in row.iter_mut().enumerate() {
///     *w = levels.dequantize(i as i32 % 4 - 2, pi_step(1.0, if i < 8 { 2 } else { 5 })?);
/// }
/// let mut divisors = [0; 2];
/// let alpha = fit_adaptive(levels, 8, &row, None, &mut divisors)?;
/// assert_eq!(divisors, [2, 5]);
/// assert!((alpha - 1.0).abs() < 1e-6);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn fit_adaptive(
    levels: Levels,
    group: usize,
    weights: &[f32],
    importance: Option<&[f32]>,
    divisors: &mut [u8],
) -> Result<f32> {
    let row = Row::new(levels, group, weights, importance, divisors.len())?;
    let alpha = match Ladder::new(levels, weights, row.importance) {
        Some(ladder) => row.best_alpha(&ladder),
        None => DEAD_ALPHA,
    };
    row.choose(alpha, Some(divisors));
    Ok(alpha)
}

/// Chooses k of each group anew for a given α, for use at intervals during training: the gradient moves α and the
/// weights, but cannot move k.
///
/// # Errors
/// [`Error::NotPositive`] for an α that gives no step; otherwise as [`fit_adaptive`].
///
/// ```
/// use core::f32::consts::FRAC_1_PI;
/// use qat_kernels::{Error, Grid, Levels, What, quantizer::choose_divisors};
/// let levels = Levels::new(2, Grid::MidTread)?; // levels −2..=1
/// let mut row = [0.5; 16];
/// row[8..].fill(0.25);
/// let mut divisors = [0; 2];
/// choose_divisors(levels, 8, FRAC_1_PI, &row, None, &mut divisors)?;
/// assert_eq!(divisors, [2, 4]); // steps of ½ and ¼: no error at all
/// let e = Error::NotPositive { what: What::Alpha, index: 0, value: 0.0 };
/// assert_eq!(choose_divisors(levels, 8, 0.0, &row, None, &mut divisors), Err(e));
/// # Ok::<(), Error>(())
/// ```
pub fn choose_divisors(
    levels: Levels,
    group: usize,
    alpha: f32,
    weights: &[f32],
    importance: Option<&[f32]>,
    divisors: &mut [u8],
) -> Result<()> {
    let row = Row::new(levels, group, weights, importance, divisors.len())?;
    check_alpha(alpha)?;
    row.choose(alpha, Some(divisors));
    Ok(())
}

/// Refuses an α for which any of the four steps is not a positive normal number.
pub(super) fn check_alpha(alpha: f32) -> Result<()> {
    for k in DIVISORS {
        pi_step(alpha, k)?;
    }
    Ok(())
}

/// One channel.
#[derive(Clone, Copy)]
struct Row<'a> {
    levels: Levels,
    group: usize,
    weights: &'a [f32],
    importance: Importance<'a>,
}

impl<'a> Row<'a> {
    fn new(
        levels: Levels,
        group: usize,
        weights: &'a [f32],
        importance: Option<&'a [f32]>,
        divisors: usize,
    ) -> Result<Self> {
        check_group(group)?;
        let importance = Importance::new(weights, importance)?;
        if !weights.len().is_multiple_of(group) {
            return Err(Error::NotDivisible { what: What::Weights, len: weights.len(), by: group });
        }
        let expected = weights.len() / group;
        if divisors == expected {
            Ok(Self { levels, group, weights, importance })
        } else {
            Err(Error::Length { what: What::Divisors, expected, got: divisors })
        }
    }

    /// The best α: down the deepest valleys of the ladder, whose steps are those of k = 3.
    fn best_alpha(&self, ladder: &Ladder) -> f32 {
        let (mut alphas, mut errors) = ([0.0f32; RUNGS], [0.0f64; RUNGS]);
        let errors = self.try_steps(ladder.rungs(), &mut alphas, &mut errors);
        let mut best = (f64::INFINITY, DEAD_ALPHA);
        for valley in valleys(errors).into_iter().flatten() {
            let (mut alphas, mut errors) = ([0.0f32; FINER], [0.0f64; FINER]);
            let errors = self.try_steps(ladder.between_neighbours(valley), &mut alphas, &mut errors);
            let start = errors.iter().zip(alphas).min_by(|a, b| a.0.total_cmp(b.0));
            let (mut alpha, mut last) = (start.map_or(DEAD_ALPHA, |(_, alpha)| alpha), f64::INFINITY);
            for _ in 0..ROUNDS {
                let moments = self.choose(alpha, None);
                let wide = f64::from(alpha);
                let error = moments.error * wide * wide;
                let settled = error > last * SETTLED;
                last = error;
                if error < best.0 {
                    best = (error, alpha);
                }
                let next = (wide * moments.ratio()) as f32;
                if settled || check_alpha(next).is_err() {
                    break;
                }
                alpha = next;
            }
        }
        best.1
    }

    /// Fills `alphas` with those whose step at k = 3 is one of `steps`, and `errors` with what each leaves of the row.
    fn try_steps<'e>(
        &self,
        steps: impl Iterator<Item = f32>,
        alphas: &mut [f32],
        errors: &'e mut [f64],
    ) -> &'e [f64] {
        let mut count = 0;
        for (slot, step) in alphas.iter_mut().zip(steps) {
            *slot = step * (3.0 / PI);
            // Steps fall, so that the first one that is too small for a normal α·π/5 ends the list.
            if check_alpha(*slot).is_err() {
                break;
            }
            count += 1;
        }
        let errors = errors.get_mut(..count).unwrap_or(&mut []);
        self.scan(alphas, errors);
        errors
    }

    /// The error of the row for each α.
    fn scan(&self, alphas: &[f32], errors: &mut [f64]) {
        match self.group {
            8 => Backend::best().run(Scan::<8> { row: self, alphas, errors }),
            16 => Backend::best().run(Scan::<16> { row: self, alphas, errors }),
            _ => Backend::best().run(Scan::<32> { row: self, alphas, errors }),
        }
    }

    /// The best k of every group for one α, written where asked; the moments in units of α·π.
    fn choose(&self, alpha: f32, divisors: Option<&mut [u8]>) -> Moments {
        match self.group {
            8 => Backend::best().run(Choose::<8> { row: self, alpha, divisors }),
            16 => Backend::best().run(Choose::<16> { row: self, alpha, divisors }),
            _ => Backend::best().run(Choose::<32> { row: self, alpha, divisors }),
        }
    }

    /// Eight groups at a time, transposed: one group per lane. Lanes beyond the last group have no importance.
    #[inline(always)]
    fn tiles<const G: usize>(&self) -> impl Iterator<Item = Tile<G>> {
        let (weights, importance) = (self.weights, self.importance);
        weights.chunks(G * LANES).enumerate().map(move |(t, groups)| {
            let mut tile = Tile { w: [[0.0; LANES]; G], h: [[0.0; LANES]; G] };
            for (lane, group) in groups.chunks(G).enumerate() {
                let start = (t * LANES + lane) * G;
                for (i, (&w, &h)) in group.iter().zip(importance.block(start, G)).enumerate() {
                    (tile.w[i][lane], tile.h[i][lane]) = (w, h);
                }
            }
            tile
        })
    }
}

/// Weights and importance of eight groups, `[position in the group][group]`: sums over a group then need no shuffles.
struct Tile<const G: usize> {
    w: [[f32; LANES]; G],
    h: [[f32; LANES]; G],
}

impl<const G: usize> Tile<G> {
    #[inline(always)]
    fn moments<const FULL: bool>(&self, levels: Levels, inverse: &[f32; LANES]) -> LaneMoments {
        let mut sums = LaneMoments::default();
        for (w, h) in self.w.iter().zip(&self.h) {
            sums.add::<FULL>(levels, w, h, inverse);
        }
        sums
    }
}

/// `1/k²`, which turns moments in units of the group's step into moments in units of α·π.
const INVERSE_SQUARES: [f32; 4] = [1.0 / 4.0, 1.0 / 9.0, 1.0 / 16.0, 1.0 / 25.0];

/// Groups outside, α inside: groups stay in the nearest cache while every α is tried on them.
struct Scan<'r, 'a, const G: usize> {
    row: &'r Row<'a>,
    alphas: &'r [f32],
    errors: &'r mut [f64],
}

impl<const G: usize> Kernel for Scan<'_, '_, G> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let levels = self.row.levels;
        self.errors.fill(0.0);
        for tile in self.row.tiles::<G>() {
            for (error, &alpha) in self.errors.iter_mut().zip(self.alphas) {
                let inverse = 1.0 / (alpha * PI);
                let mut least = [f32::INFINITY; LANES];
                for (k, inverse_square) in DIVISORS.into_iter().zip(INVERSE_SQUARES) {
                    let found = tile.moments::<false>(levels, &[inverse * f32::from(k); LANES]);
                    for (least, error) in least.iter_mut().zip(found.error) {
                        let here = error * inverse_square;
                        *least = if here < *least { here } else { *least };
                    }
                }
                *error += sum_lanes(&least);
            }
        }
        for (error, &alpha) in self.errors.iter_mut().zip(self.alphas) {
            *error *= f64::from(alpha) * f64::from(alpha);
        }
    }
}

struct Choose<'r, 'a, 'd, const G: usize> {
    row: &'r Row<'a>,
    alpha: f32,
    divisors: Option<&'d mut [u8]>,
}

impl<const G: usize> Kernel for Choose<'_, '_, '_, G> {
    type Output = Moments;

    #[inline(always)]
    fn run(self) -> Moments {
        let (levels, inverse) = (self.row.levels, 1.0 / (self.alpha * PI));
        let mut divisors = self.divisors.map(|divisors| divisors.iter_mut());
        let mut total = Moments::default();
        for tile in self.row.tiles::<G>() {
            let mut least = [f32::INFINITY; LANES];
            let mut best_k = [0.0f32; LANES];
            for (k, inverse_square) in DIVISORS.into_iter().zip(INVERSE_SQUARES) {
                let found = tile.moments::<false>(levels, &[inverse * f32::from(k); LANES]);
                for lane in 0..LANES {
                    let here = found.error[lane] * inverse_square;
                    let better = here < least[lane];
                    least[lane] = if better { here } else { least[lane] };
                    best_k[lane] = if better { f32::from(k) } else { best_k[lane] };
                }
            }
            let found = tile.moments::<true>(levels, &best_k.map(|k| inverse * k));
            let in_alpha = |moment: [f32; LANES]| -> f64 {
                let mut scaled = [0.0; LANES];
                for lane in 0..LANES {
                    scaled[lane] = moment[lane] / (best_k[lane] * best_k[lane]);
                }
                sum_lanes(&scaled)
            };
            total.error += sum_lanes(&least);
            total.cross += in_alpha(found.cross);
            total.power += in_alpha(found.power);
            if let Some(slots) = divisors.as_mut() {
                for (k, slot) in best_k.into_iter().zip(slots) {
                    *slot = k as u8;
                }
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::Grid;
    use crate::quantizer::samples;

    /// The error of a row for α when every group has its best k, by the definitions.
    fn row_error(lv: Levels, group: usize, row: &[f32], h: Option<&[f32]>, alpha: f32) -> f64 {
        let groups = row.chunks(group).enumerate().map(|(g, weights)| {
            let error = |k: u8| -> f64 {
                let step = pi_step(alpha, k).unwrap();
                let of = |i: usize| h.map_or(1.0, |h| f64::from(h[g * group + i]));
                let off_by = |w: f32| f64::from(w) - f64::from(lv.fake_quantize(w, step));
                weights.iter().enumerate().map(|(i, &w)| of(i) * off_by(w).powi(2)).sum()
            };
            DIVISORS.into_iter().map(error).fold(f64::INFINITY, f64::min)
        });
        groups.sum()
    }

    fn fixed_error(lv: Levels, group: usize, row: &[f32], h: Option<&[f32]>, alpha: f32, ks: &[u8]) -> f64 {
        let step = |i: usize| pi_step(alpha, ks[i / group]).unwrap();
        let of = |i: usize| h.map_or(1.0, |h| f64::from(h[i]));
        let off_by = |i: usize| f64::from(row[i]) - f64::from(lv.fake_quantize(row[i], step(i)));
        (0..row.len()).map(|i| of(i) * off_by(i).powi(2)).sum()
    }

    #[test]
    fn the_joint_search_comes_near_the_best_of_a_dense_scan() {
        for (seed, len) in [(1, 32), (2, 64), (3, 128), (4, 384)] {
            for heavy in [false, true] {
                let row = samples(seed, len, heavy);
                let fisher: Vec<f32> = samples(seed + 9, len, false).iter().map(|x| x * x).collect();
                let largest = row.iter().fold(0.0f32, |m, w| m.max(w.abs()));
                for (bits, grid, group) in [
                    (2, Grid::MidRise, 16),
                    (2, Grid::MidTread, 8),
                    (3, Grid::MidRise, 16),
                    (4, Grid::MidTread, 32),
                ] {
                    for h in [None, Some(&fisher[..])] {
                        let lv = Levels::new(bits, grid).unwrap();
                        let mut ks = vec![0; len / group];
                        let alpha = fit_adaptive(lv, group, &row, h, &mut ks).unwrap();
                        let found = fixed_error(lv, group, &row, h, alpha, &ks);
                        let best = (1..3000)
                            .map(|i| row_error(lv, group, &row, h, 2.2 * largest * i as f32 / 3000.0))
                            .fold(f64::INFINITY, f64::min);
                        assert!(found <= best * 1.01, "{len} {heavy} {bits} {grid:?} {group} {found} {best}");
                    }
                }
            }
        }
    }

    #[test]
    fn each_group_takes_its_best_divisor() {
        let lv = Levels::new(2, Grid::MidRise).unwrap();
        let row = samples(11, 16 * 19, true); // two full tiles of eight groups and a part of one
        let mut ks = [0; 19];
        choose_divisors(lv, 16, 0.6, &row, None, &mut ks).unwrap();
        for (g, &k) in ks.iter().enumerate() {
            let group = &row[16 * g..16 * (g + 1)];
            let best = row_error(lv, 16, group, None, 0.6);
            assert!(fixed_error(lv, 16, group, None, 0.6, &[k]) <= best * (1.0 + 1e-5), "group {g}");
        }
        // At the α that the joint search found, choosing again changes nothing.
        let alpha = fit_adaptive(lv, 16, &row, None, &mut ks).unwrap();
        let found = ks;
        choose_divisors(lv, 16, alpha, &row, None, &mut ks).unwrap();
        assert_eq!(ks, found);
    }

    #[test]
    fn a_group_that_does_not_matter_does_not_pull_alpha() {
        let lv = Levels::new(3, Grid::MidRise).unwrap();
        let mut row = samples(5, 64, false);
        let mut ks = [0; 4];
        let alone = fit_adaptive(lv, 16, &row[..48], None, &mut ks[..3]).unwrap();
        row[48..].iter_mut().for_each(|w| *w *= 40.0);
        let importance: Vec<f32> = (0..64).map(|i| if i < 48 { 2.0 } else { 0.0 }).collect();
        let weighted = fit_adaptive(lv, 16, &row, Some(&importance), &mut ks).unwrap();
        let error = |alpha| row_error(lv, 16, &row[..48], None, alpha);
        assert!(error(weighted) <= error(alone) * 1.05, "{weighted} {alone}");
    }

    #[test]
    fn dead_and_extreme_rows_still_give_four_steps() {
        let lv = Levels::new(2, Grid::MidRise).unwrap();
        for scale in [0.0, 1e-44, 1e-38, 1e-37, 1e-20, 1.0, 1e20, 1e37] {
            let row: Vec<f32> = samples(3, 32, true).iter().map(|w| w * scale).collect();
            let mut ks = [0; 4];
            let alpha = fit_adaptive(lv, 8, &row, None, &mut ks).unwrap();
            assert_eq!(check_alpha(alpha), Ok(()), "{scale}");
            assert!(ks.iter().all(|k| DIVISORS.contains(k)));
        }
    }

    #[test]
    fn bad_input_is_named() {
        let lv = Levels::new(2, Grid::MidRise).unwrap();
        let fit = |group, row: &[f32], ks: &mut [u8]| fit_adaptive(lv, group, row, None, ks);
        for group in [0, 1, 12, 64] {
            assert_eq!(fit(group, &[1.0; 64], &mut [0; 4]), Err(Error::Group { group }));
        }
        let not_divisible = Error::NotDivisible { what: What::Weights, len: 20, by: 8 };
        assert_eq!(fit(8, &[1.0; 20], &mut [0; 2]), Err(not_divisible));
        let length = Error::Length { what: What::Divisors, expected: 4, got: 3 };
        assert_eq!(fit(8, &[1.0; 32], &mut [0; 3]), Err(length));
        assert_eq!(fit(8, &[], &mut []), Err(Error::Empty { what: What::Weights }));
        let mut row = [1.0; 8];
        row[3] = f32::INFINITY;
        assert_eq!(fit(8, &row, &mut [0]), Err(Error::NotFinite { what: What::Weights, index: 3 }));
        for alpha in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-38] {
            let found = choose_divisors(lv, 8, alpha, &[1.0; 8], None, &mut [0]);
            assert!(matches!(found, Err(Error::NotPositive { what: What::Alpha, .. })), "{alpha}");
        }
    }
}
