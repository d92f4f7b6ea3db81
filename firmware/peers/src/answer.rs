//! What is reported of a layer's output.

/// How an output compares with what it should be.
#[derive(Clone, Copy, Default)]
pub(crate) struct Answer {
    /// The largest distance from the exact value, in steps of the output, rounded to the next larger integer.
    deviation: i8,
    /// Which values occur.
    seen: [u32; 8],
}

impl Answer {
    /// Takes one more value into account; `exact` is what it would be without rounding and without an end of the range.
    pub(crate) fn compare(&mut self, got: i8, exact: f64) {
        let distance = (f64::from(got) - exact.clamp(-128.0, 127.0)).abs();
        // A cast of floats saturates.
        let whole = distance as i8;
        self.deviation = self.deviation.max(whole.saturating_add((f64::from(whole) < distance).into()));
        let bit = got.cast_unsigned();
        self.seen[usize::from(bit / 32)] |= 1 << (bit % 32);
    }

    /// Deviation, and the number of different values, 127 for more.
    pub(crate) fn report(&self) -> [i8; 2] {
        let different = self.seen.iter().map(|bits| bits.count_ones()).sum::<u32>();
        [self.deviation, i8::try_from(different).unwrap_or(i8::MAX)]
    }
}
