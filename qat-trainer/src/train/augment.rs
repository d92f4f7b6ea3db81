//! Random distortion of examples. Images: shift, rotation, change of size, shear and warp, in one map with bilinear
//! sampling. Series: shift and masking along time. Everything: gain and noise.

use crate::random::Random;
use crate::spec::{Augment, Shape};

/// Draws a distortion and writes the distorted `example` (height × width × channels, `shape`) to `out`. What moves in
/// from outside, or is masked, is `background`.
pub(super) fn distort(
    example: &[f32],
    out: &mut [f32],
    shape: Shape,
    bounds: Augment,
    background: f32,
    random: &mut Random,
) {
    if bounds.bends() {
        Bend::draw(bounds, random).apply(example, out, shape, background);
    } else {
        out.copy_from_slice(example);
    }
    let step = shape.w * shape.c;
    if bounds.time_shift > 0 {
        let by = random.below(2 * bounds.time_shift as usize + 1) as isize - bounds.time_shift as isize;
        move_in_time(out, step, by, background);
    }
    if bounds.time_mask > 0 {
        let longest = (bounds.time_mask as usize).min(shape.h);
        let length = random.below(longest + 1);
        let start = random.below(shape.h - length + 1);
        out[start * step..(start + length) * step].fill(background);
    }
    if bounds.gain > 0.0 {
        let gain = 1.0 + random.symmetric() * bounds.gain;
        out.iter_mut().for_each(|x| *x *= gain);
    }
    if bounds.noise > 0.0 {
        out.iter_mut().for_each(|x| *x += bounds.noise * random.normal());
    }
}

/// Moves a series of steps of `step` features `by` steps later (earlier if negative).
fn move_in_time(series: &mut [f32], step: usize, by: isize, background: f32) {
    let distance = by.unsigned_abs().saturating_mul(step).min(series.len());
    let kept = series.len() - distance;
    if by >= 0 {
        series.copy_within(..kept, distance);
        series[..distance].fill(background);
    } else {
        series.copy_within(distance.., 0);
        series[kept..].fill(background);
    }
}

/// Points of a warp along each axis.
const POINTS: usize = 5;

/// A map of an image onto itself: resized, rotated and sheared about the middle, then shifted, then warped.
struct Bend {
    /// Down and right, in pixels.
    shift: [f32; 2],
    /// In radians.
    angle: f32,
    /// New size over old.
    size: f32,
    /// Columns by which a row moves per row from the middle.
    shear: f32,
    /// How far the points of a regular grid over the image move, down and right, in pixels; the rest follows between
    /// them.
    warp: Option<[[[f32; 2]; POINTS]; POINTS]>,
}

impl Bend {
    fn draw(bounds: Augment, random: &mut Random) -> Self {
        Self {
            shift: [random.symmetric() * bounds.shift, random.symmetric() * bounds.shift],
            angle: random.symmetric() * bounds.rotate.to_radians(),
            size: 1.0 + random.symmetric() * bounds.scale,
            shear: if bounds.shear > 0.0 { random.symmetric() * bounds.shear } else { 0.0 },
            warp: (bounds.warp > 0.0).then(|| {
                let mut point = |_| std::array::from_fn(|_| random.symmetric() * bounds.warp);
                std::array::from_fn(|_| std::array::from_fn(&mut point))
            }),
        }
    }

    fn apply(&self, image: &[f32], out: &mut [f32], shape: Shape, background: f32) {
        let Shape { h, w, c } = shape;
        let middle = [(h as f32 - 1.0) / 2.0, (w as f32 - 1.0) / 2.0];
        // For every new pixel, where it comes from: the inverse map.
        let (sin, cos) = (self.angle.sin() / self.size, self.angle.cos() / self.size);
        let pixel = |y: isize, x: isize, channel: usize| -> f32 {
            let inside = (0..h as isize).contains(&y) && (0..w as isize).contains(&x);
            let at = || (y as usize * w + x as usize) * c + channel;
            if inside { image.get(at()).copied().unwrap_or(background) } else { background }
        };
        for (i, new) in out.chunks_exact_mut(c).enumerate() {
            let (row, column) = (i / w, i % w);
            let [down, right] = self.warped(row, column, h, w);
            let dy = row as f32 - down - middle[0] - self.shift[0];
            let dx = column as f32 - right - middle[1] - self.shift[1] - self.shear * dy;
            let (y, x) = (middle[0] + cos * dy - sin * dx, middle[1] + sin * dy + cos * dx);
            let (top, left) = (y.floor(), x.floor());
            let (fy, fx) = (y - top, x - left);
            let (top, left) = (top as isize, left as isize);
            for (channel, new) in new.iter_mut().enumerate() {
                let upper = pixel(top, left, channel) * (1.0 - fx) + pixel(top, left + 1, channel) * fx;
                let lower =
                    pixel(top + 1, left, channel) * (1.0 - fx) + pixel(top + 1, left + 1, channel) * fx;
                *new = upper * (1.0 - fy) + lower * fy;
            }
        }
    }

    /// How far the warp moves what ends in a pixel of an image of `h` rows and `w` columns.
    fn warped(&self, row: usize, column: usize, h: usize, w: usize) -> [f32; 2] {
        let Some(points) = &self.warp else { return [0.0; 2] };
        let place = |at: usize, length: usize| {
            let place = at as f32 * (POINTS - 1) as f32 / length.saturating_sub(1).max(1) as f32;
            let cell = (place as usize).min(POINTS - 2);
            (cell, place - cell as f32)
        };
        let ((y, fy), (x, fx)) = (place(row, h), place(column, w));
        std::array::from_fn(|axis| {
            let at = |y: usize, x: usize| points[y][x][axis];
            let upper = at(y, x) * (1.0 - fx) + at(y, x + 1) * fx;
            let lower = at(y + 1, x) * (1.0 - fx) + at(y + 1, x + 1) * fx;
            upper * (1.0 - fy) + lower * fy
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    const SHAPE: Shape = Shape { h: 5, w: 7, c: 2 };

    fn image() -> Vec<f32> {
        (0..70).map(|i| (i * i % 17) as f32).collect()
    }

    fn bent(bend: &Bend) -> Vec<f32> {
        let mut out = vec![f32::NAN; 70];
        bend.apply(&image(), &mut out, SHAPE, -1.0);
        out
    }

    fn moved(shift: [f32; 2], angle: f32, size: f32) -> Vec<f32> {
        bent(&Bend { shift, angle, size, shear: 0.0, warp: None })
    }

    #[test]
    fn no_distortion_changes_nothing() {
        assert_eq!(moved([0.0, 0.0], 0.0, 1.0), image());
        let mut out = vec![0.0; 70];
        let mut random = Random::new(1, Purpose::Order(0));
        distort(&image(), &mut out, SHAPE, Augment::default(), 0.0, &mut random);
        assert_eq!(out, image());
    }

    #[test]
    fn whole_pixels_move_exactly_and_the_background_moves_in() {
        let out = moved([1.0, -2.0], 0.0, 1.0);
        for y in 0..5 {
            for x in 0..7 {
                for c in 0..2 {
                    let want = if y == 0 || x > 4 { -1.0 } else { image()[((y - 1) * 7 + x + 2) * 2 + c] };
                    assert_eq!(out[(y * 7 + x) * 2 + c], want, "{y} {x}");
                }
            }
        }
    }

    #[test]
    fn half_a_turn_reverses_the_pixels() {
        let out = moved([0.0, 0.0], std::f32::consts::PI, 1.0);
        for (i, pair) in out.chunks(2).enumerate() {
            let want = &image()[(34 - i) * 2..(34 - i) * 2 + 2];
            assert!(pair.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-4), "{i} {pair:?} {want:?}");
        }
    }

    #[test]
    fn twice_the_size_spreads_about_the_middle() {
        let out = moved([0.0, 0.0], 0.0, 2.0);
        let at = |y: usize, x: usize| out[(y * 7 + x) * 2];
        let old = |y: usize, x: usize| image()[(y * 7 + x) * 2];
        assert_eq!(at(2, 3), old(2, 3));
        assert_eq!(at(4, 5), old(3, 4));
        assert_eq!(at(2, 4), 0.5 * (old(2, 3) + old(2, 4)));
    }

    #[test]
    fn shear_moves_rows_by_their_distance_from_the_middle() {
        let out = bent(&Bend { shift: [0.0; 2], angle: 0.0, size: 1.0, shear: 1.0, warp: None });
        for (i, pair) in out.chunks(2).enumerate() {
            let (y, x) = (i / 7, (i % 7) as isize - (i as isize / 7 - 2));
            let inside = (0..7).contains(&x);
            let want = if inside { &image()[(y * 7 + x as usize) * 2..][..2] } else { &[-1.0; 2] };
            assert_eq!(pair, want, "{i}");
        }
    }

    #[test]
    fn warp_moves_its_points_and_what_is_between_them() {
        let still = Bend { shift: [0.0; 2], angle: 0.0, size: 1.0, shear: 0.0, warp: None };
        // All points alike: a shift. One of them: its pixel, and its neighbours by their distance.
        let all = Bend { warp: Some([[[1.0, -2.0]; POINTS]; POINTS]), ..still };
        assert_eq!(bent(&all), moved([1.0, -2.0], 0.0, 1.0));
        let mut points = [[[0.0; 2]; POINTS]; POINTS];
        points[2][2] = [0.0, 1.0];
        let one = Bend { warp: Some(points), ..all };
        let displaced: Vec<f32> = (0..7).map(|x| one.warped(2, x, 5, 7)[1]).collect();
        let want = [0.0, 0.0, 1.0 / 3.0, 1.0, 1.0 / 3.0, 0.0, 0.0];
        assert!(displaced.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{displaced:?}");
        assert_eq!(one.warped(1, 3, 5, 7), [0.0; 2]);
        assert_eq!(bent(&one)[(2 * 7 + 3) * 2], image()[(2 * 7 + 2) * 2]);
    }

    #[test]
    fn bends_stay_within_their_bounds() {
        let bounds =
            Augment { shift: 2.0, rotate: 90.0, scale: 0.5, shear: 0.3, warp: 1.5, ..Augment::default() };
        let mut random = Random::new(1, Purpose::Order(0));
        let bends: Vec<Bend> = (0..300).map(|_| Bend::draw(bounds, &mut random)).collect();
        let reach = |of: &dyn Fn(&Bend) -> f32| bends.iter().map(|b| of(b).abs()).fold(0.0, f32::max);
        let warp = |b: &Bend| {
            b.warp.unwrap().as_flattened().as_flattened().iter().fold(0.0f32, |m, x| m.max(x.abs()))
        };
        for (reach, bound) in [
            (reach(&|b| b.shift[0].max(b.shift[1])), 2.0),
            (reach(&|b| b.angle), std::f32::consts::FRAC_PI_2),
            (reach(&|b| b.size - 1.0), 0.5),
            (reach(&|b| b.shear), 0.3),
            (reach(&warp), 1.5),
        ] {
            assert!((0.95 * bound..=bound + 1e-6).contains(&reach), "{reach} of {bound}");
        }
    }

    #[test]
    fn series_move_and_are_masked_along_time() {
        let series: Vec<f32> = (1..=12).map(|i| i as f32).collect();
        let moved = |by| {
            let mut out = series.clone();
            move_in_time(&mut out, 3, by, -1.0);
            out
        };
        assert_eq!(moved(1), [&[-1.0; 3], &series[..9]].concat());
        assert_eq!(moved(-2), [&series[6..], &[-1.0; 6]].concat());
        assert_eq!((moved(0), moved(9), moved(-9)), (series.clone(), vec![-1.0; 12], vec![-1.0; 12]));

        let bounds = Augment { time_mask: 2, ..Augment::default() };
        let (shape, mut lengths) = (Shape { h: 4, w: 1, c: 3 }, [0; 3]);
        let mut random = Random::new(1, Purpose::Order(0));
        for _ in 0..60 {
            let mut out = vec![0.0; 12];
            distort(&series, &mut out, shape, bounds, -1.0, &mut random);
            let masked: Vec<usize> = (0..12).filter(|&i| out[i] != series[i]).collect();
            assert!(masked.iter().all(|&i| out[i] == -1.0) && masked.len().is_multiple_of(3));
            assert!(masked.windows(2).all(|w| w[1] == w[0] + 1), "one run: {masked:?}");
            lengths[masked.len() / 3] += 1;
        }
        assert!(lengths.iter().all(|&n| n > 5), "{lengths:?}");
    }

    #[test]
    fn gain_is_one_factor_and_noise_has_its_deviation() {
        let mut random = Random::new(4, Purpose::Order(0));
        let ones = vec![1.0; 70];
        let mut out = ones.clone();
        distort(&ones, &mut out, SHAPE, Augment { gain: 0.5, ..Augment::default() }, 0.0, &mut random);
        assert!(out.iter().all(|x| *x == out[0]) && out[0] != 1.0 && (0.5..1.5).contains(&out[0]));

        let noise = Augment { noise: 0.3, ..Augment::default() };
        let mut all = Vec::new();
        for _ in 0..200 {
            distort(&ones, &mut out, SHAPE, noise, 0.0, &mut random);
            all.extend(out.iter().map(|x| f64::from(x - 1.0)));
        }
        let n = all.len() as f64;
        let (mean, square) = (all.iter().sum::<f64>() / n, all.iter().map(|x| x * x).sum::<f64>() / n);
        assert!(mean.abs() < 0.01 && (square.sqrt() - 0.3).abs() < 0.01, "{mean} {square}");
    }
}
