//! Features to mean 0 and standard deviation 1.

/// Shift and scale of the features, `(x − mean)/std` in f32.
///
/// One pair holds for every feature; several repeat along the example; none leaves the features as they are. A model
/// file carries it, so that every host and device turns raw features into the same integers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standardisation {
    /// Means.
    pub mean: Vec<f32>,
    /// Standard deviations, positive.
    pub std: Vec<f32>,
}

impl Standardisation {
    /// Features as they are.
    ///
    /// ```
    /// use qat_trainer::data::Standardisation;
    /// let mut features = [3.0, -7.5];
    /// Standardisation::none().apply(&mut features);
    /// assert_eq!(features, [3.0, -7.5]);
    /// ```
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// One pair for all pixels. The mean is rounded to a whole grey value: then the zero point of the 8-bit code is
    /// exact, and the code of a pixel is the pixel less 128.
    ///
    /// ```
    /// use qat_trainer::data::Standardisation;
    /// let grey = Standardisation::of_images(&[10.0, 21.0, 10.0, 21.0]);
    /// assert_eq!(grey, Standardisation { mean: vec![16.0], std: vec![5.5] }); // a mean of 15.5, rounded
    /// ```
    #[must_use]
    pub fn of_images(pixels: &[f32]) -> Self {
        let (mean, std) = moments(pixels.iter().copied());
        Self { mean: vec![mean.round() as f32], std: vec![std as f32] }
    }

    /// A pair per column of a table with rows of `width` features.
    ///
    /// ```
    /// use qat_trainer::data::Standardisation;
    /// let table = [1.0, 10.0, 3.0, 10.0]; // two rows; the second column is constant
    /// let s = Standardisation::of_columns(&table, 2);
    /// assert_eq!((s.mean, s.std), (vec![2.0, 10.0], vec![1.0, 1.0]));
    /// ```
    #[must_use]
    pub fn of_columns(features: &[f32], width: usize) -> Self {
        let columns = (0..width).map(|c| moments(features.iter().skip(c).step_by(width.max(1)).copied()));
        let (mean, std) = columns.map(|(mean, std)| (mean as f32, std as f32)).unzip();
        Self { mean, std }
    }

    /// The standardised value of feature `index`.
    ///
    /// ```
    /// use qat_trainer::data::Standardisation;
    /// let stereo = Standardisation { mean: vec![0.0, 10.0], std: vec![1.0, 2.0] };
    /// // Left, right, left, right: the pairs repeat along a series.
    /// assert_eq!([stereo.apply_one(2, 14.0), stereo.apply_one(3, 14.0)], [14.0, 2.0]);
    /// ```
    #[must_use]
    pub fn apply_one(&self, index: usize, x: f32) -> f32 {
        match self.mean.len().min(self.std.len()) {
            0 => x,
            n => (x - self.mean[index % n]) / self.std[index % n],
        }
    }

    /// Standardises whole examples in place.
    ///
    /// ```
    /// use qat_trainer::data::Standardisation;
    /// let mut two_rows = [1.0, 10.0, 3.0, 30.0];
    /// Standardisation::of_columns(&two_rows, 2).apply(&mut two_rows);
    /// assert_eq!(two_rows, [-1.0, -1.0, 1.0, 1.0]);
    /// ```
    pub fn apply(&self, features: &mut [f32]) {
        let n = self.mean.len().min(self.std.len());
        if n == 0 {
            return;
        }
        for row in features.chunks_mut(n) {
            for (x, (mean, std)) in row.iter_mut().zip(self.mean.iter().zip(&self.std)) {
                *x = (*x - mean) / std;
            }
        }
    }
}

/// Mean and standard deviation (of the population); a deviation of 0 becomes 1, so that a constant column does no harm.
fn moments(values: impl Iterator<Item = f32> + Clone) -> (f64, f64) {
    let n = values.clone().count().max(1) as f64;
    let mean = values.clone().map(f64::from).sum::<f64>() / n;
    let variance = values.map(|x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    let std = variance.sqrt();
    // A deviation that f32 cannot hold, or that is rounding noise beside the mean, is a constant column too.
    if std > mean.abs() * 1e-6 && (std as f32).is_normal() { (mean, std) } else { (mean, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_get_mean_zero_and_deviation_one() {
        let mut table = vec![1.0, 10.0, 5.0, 3.0, 30.0, 5.0, 5.0, 80.0, 5.0];
        let s = Standardisation::of_columns(&table, 3);
        assert_eq!(s.std[2], 1.0); // constant
        s.apply(&mut table);
        for c in 0..3 {
            let (mean, std) = moments(table.iter().skip(c).step_by(3).copied());
            assert!(mean.abs() < 1e-6 && (std - 1.0).abs() < 1e-6, "{c}: {mean} {std}");
        }
        assert_eq!(s.apply_one(4, 30.0), table[4]);
    }

    #[test]
    fn image_means_are_whole_grey_values() {
        let s = Standardisation::of_images(&[0.0, 0.0, 255.0, 3.0]);
        assert_eq!(s.mean, [65.0]); // 64.5
        let mut untouched = [1.0, 2.0];
        Standardisation::none().apply(&mut untouched);
        assert_eq!(untouched, [1.0, 2.0]);
        assert_eq!(Standardisation::none().apply_one(7, 3.0), 3.0);
    }
}
