//! Generated numbers, the same on every machine.

/// Steele et al. 2014.
#[derive(Clone, Debug)]
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1].
    pub const fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64 + f64::EPSILON / 2.0
    }

    /// About normal: the sum of four uniform numbers, of variance 1.
    pub const fn bell(&mut self) -> f32 {
        let bits = self.bits();
        let sum = (bits & 0xFFFF) + (bits >> 16 & 0xFFFF) + (bits >> 32 & 0xFFFF) + (bits >> 48);
        (sum as f32 - 131_070.0) * (1.732_050_8 / 65_536.0)
    }

    /// `len` numbers like [`Self::bell`].
    #[must_use]
    pub fn bells(mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.bell()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bells_have_mean_0_and_variance_1() {
        let x = SplitMix64(3).bells(100_000);
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.01, "{mean} {variance}");
    }
}
