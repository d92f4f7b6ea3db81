//! Random distortion of examples. Images: shift, rotation, change of size, in one affine map with bilinear sampling.
//! Series: shift and masking along time. Everything: gain and noise.

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
        let shift = [random.symmetric() * bounds.shift, random.symmetric() * bounds.shift];
        let angle = random.symmetric() * bounds.rotate.to_radians();
        let size = 1.0 + random.symmetric() * bounds.scale;
        affine(example, out, shape, shift, angle, size, background);
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

/// Rotates by `angle` and resizes by `size` about the middle, then shifts by `shift` (down, right), in pixels.
fn affine(
    image: &[f32],
    out: &mut [f32],
    shape: Shape,
    shift: [f32; 2],
    angle: f32,
    size: f32,
    background: f32,
) {
    let Shape { h, w, c } = shape;
    let middle = [(h as f32 - 1.0) / 2.0, (w as f32 - 1.0) / 2.0];
    // For every new pixel, where it comes from: the inverse map.
    let (sin, cos) = (angle.sin() / size, angle.cos() / size);
    let pixel = |y: isize, x: isize, channel: usize| -> f32 {
        let inside = (0..h as isize).contains(&y) && (0..w as isize).contains(&x);
        let at = || (y as usize * w + x as usize) * c + channel;
        if inside { image.get(at()).copied().unwrap_or(background) } else { background }
    };
    for (i, new) in out.chunks_exact_mut(c).enumerate() {
        let dy = (i / w) as f32 - middle[0] - shift[0];
        let dx = (i % w) as f32 - middle[1] - shift[1];
        let (y, x) = (middle[0] + cos * dy - sin * dx, middle[1] + sin * dy + cos * dx);
        let (top, left) = (y.floor(), x.floor());
        let (fy, fx) = (y - top, x - left);
        let (top, left) = (top as isize, left as isize);
        for (channel, new) in new.iter_mut().enumerate() {
            let upper = pixel(top, left, channel) * (1.0 - fx) + pixel(top, left + 1, channel) * fx;
            let lower = pixel(top + 1, left, channel) * (1.0 - fx) + pixel(top + 1, left + 1, channel) * fx;
            *new = upper * (1.0 - fy) + lower * fy;
        }
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

    fn moved(shift: [f32; 2], angle: f32, size: f32) -> Vec<f32> {
        let mut out = vec![f32::NAN; 70];
        affine(&image(), &mut out, SHAPE, shift, angle, size, -1.0);
        out
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
