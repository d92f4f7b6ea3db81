//! Resizing by area averaging, in integers.

/// Resizes 8-bit grey images, stored one after the other, from `from` to `to` (height, width).
///
/// Each new pixel is the mean of the area that it covers, each old pixel counting by its overlap, rounded to the
/// nearest whole grey value (halves up). All sums are integers, so the result is the same on every machine. An
/// incomplete image at the end is dropped.
///
/// ```
/// let small = qat_trainer::data::resize_area(&[0, 2, 4, 6, 8, 10], [2, 3], [1, 2]);
/// // Left: columns 0 and half of 1: (0 + 6 + ½·(2 + 8)) / 3 = 3⅔.
/// assert_eq!(small, [4, 6]);
/// ```
#[must_use]
pub fn resize_area(images: &[u8], from: [usize; 2], to: [usize; 2]) -> Vec<u8> {
    let [rows, columns] = [overlaps(from[0], to[0]), overlaps(from[1], to[1])];
    let area = (from[0] * from[1]) as u64;
    let size = from[0] * from[1];
    let mut out = Vec::with_capacity(images.len() / size.max(1) * to[0] * to[1]);
    for image in images.chunks_exact(size.max(1)) {
        for row in &rows {
            for column in &columns {
                let sum: u64 = row
                    .iter()
                    .flat_map(|&(y, a)| column.iter().map(move |&(x, b)| (y * from[1] + x, a * b)))
                    .map(|(at, weight)| weight * u64::from(image[at]))
                    .sum();
                out.push(((sum + area / 2) / area) as u8);
            }
        }
    }
    out
}

/// For each of `to` cells the old cells that it touches, with their overlap in units of 1/`to` of an old cell. Each
/// cell's overlaps sum to `from`.
fn overlaps(from: usize, to: usize) -> Vec<Vec<(usize, u64)>> {
    (0..to)
        .map(|i| {
            let (start, end) = (i * from, (i + 1) * from);
            (start / to..end.div_ceil(to))
                .map(|old| (old, (end.min((old + 1) * to) - start.max(old * to)) as u64))
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_images_stay_flat_and_size_one_stays_equal() {
        for (from, to) in [([28, 28], [16, 16]), ([7, 5], [3, 4]), ([4, 4], [9, 2]), ([1, 1], [3, 3])] {
            for grey in [0, 1, 127, 255] {
                let image = vec![grey; from[0] * from[1] * 2];
                assert_eq!(resize_area(&image, from, to), vec![grey; to[0] * to[1] * 2]);
            }
        }
        let image: Vec<u8> = (0..35).collect();
        assert_eq!(resize_area(&image, [7, 5], [7, 5]), image);
    }

    #[test]
    fn equals_the_real_number_integral() {
        let (from, to) = ([5, 7], [3, 4]);
        let image: Vec<u8> = (0..35u32).map(|i| (i * 37 % 256) as u8).collect();
        let out = resize_area(&image, from, to);
        for (i, &pixel) in out.iter().enumerate() {
            let edge = |n: usize, from: usize, to: usize| n as f64 * from as f64 / to as f64;
            let [y0, y1] = [i / to[1], i / to[1] + 1].map(|n| edge(n, from[0], to[0]));
            let [x0, x1] = [i % to[1], i % to[1] + 1].map(|n| edge(n, from[1], to[1]));
            let mut mean = 0.0;
            for y in 0..from[0] {
                for x in 0..from[1] {
                    let dy = (y1.min(y as f64 + 1.0) - y0.max(y as f64)).max(0.0);
                    let dx = (x1.min(x as f64 + 1.0) - x0.max(x as f64)).max(0.0);
                    mean += dy * dx * f64::from(image[y * from[1] + x]);
                }
            }
            mean /= (y1 - y0) * (x1 - x0);
            assert!((f64::from(pixel) - mean).abs() <= 0.5 + 1e-9, "{i}: {pixel} {mean}");
        }
    }
}
