//! Rotary frequencies.

use super::{LlmConfig, RopeScaling};
use qat_kernels::math::power;
use std::f64::consts::TAU;

impl LlmConfig {
    /// Radians per position, for each pair of a head's numbers.
    ///
    /// ```
    /// # use qat_trainer::llm::config::{Architecture, LlmConfig, RopeScaling};
    /// # let mut config = LlmConfig {
    /// #     architecture: Architecture::Llama,
    /// #     vocabulary: 100, hidden: 16, layers: 1, heads: 2, kv_heads: 1, head_dim: 8, mlp: 64, context: 32,
    /// #     rope_base: 256.0, rope_scaling: RopeScaling::None, norm_eps: 1e-5,
    /// #     tied: true, qkv_bias: false, output_bias: false,
    /// # };
    /// assert_eq!((config.head_dim, config.rope_base), (8, 256.0));
    /// assert_eq!(config.frequencies(), [1.0, 0.25, 0.0625, 0.015625]); // 256^(−i/4)
    /// config.rope_scaling = RopeScaling::Linear { factor: 2.0 };
    /// assert_eq!(config.frequencies(), [0.5, 0.125, 0.03125, 0.0078125]);
    /// ```
    #[must_use]
    pub fn frequencies(&self) -> Vec<f64> {
        let pairs = self.head_dim / 2;
        let plain = (0..pairs).map(|i| power(self.rope_base, -(i as f64) / pairs as f64));
        plain.map(|frequency| scaled(self.rope_scaling, frequency)).collect()
    }
}

fn scaled(scaling: RopeScaling, frequency: f64) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low, high, original } => {
            // 0 at wavelengths of `original / low`, 1 at `original / high`.
            let turns = original * frequency / TAU;
            let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            frequency * (share + (1.0 - share) / factor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Architecture, tiny};
    use super::*;

    #[test]
    fn frequencies_fall_from_one_and_scale() {
        let mut config = tiny(Architecture::Llama);
        assert_eq!(config.frequencies()[0], 1.0);
        let plain = config.frequencies();
        assert!((plain[2] - 1e4f64.powf(-0.5)).abs() < 1e-15);
        config.rope_scaling = RopeScaling::Linear { factor: 4.0 };
        assert_eq!(config.frequencies()[3], plain[3] / 4.0);
        // Wavelengths are 2π, 20π, 200π and 2000π.
        config.rope_scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 1000.0 };
        let scaled = config.frequencies();
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[1], plain[1]);
        let share = (1000.0 / (200.0 * std::f64::consts::PI) - 1.0) / 3.0;
        assert!((scaled[2] / plain[2] - (share + (1.0 - share) / 8.0)).abs() < 1e-12);
        assert_eq!(scaled[3], plain[3] / 8.0);
    }
}
