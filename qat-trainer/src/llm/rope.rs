//! Rotary position embedding (Su et al. 2021, equation 34), in the order of Hugging Face's models: number i of the first half
//! of a head is rotated together with number i of the second half.

use super::config::{LlmConfig, RopeScaling};
use crate::error::Result;
use std::f64::consts::TAU;
use tch::{Device, Kind, Tensor};

/// Cosines and sines of all angles, `[context, head_dim]`, f32.
#[derive(Debug)]
pub(super) struct Rope {
    cos: Tensor,
    sin: Tensor,
    half: i64,
}

impl Rope {
    /// The tables for every position of a model's context.
    pub(super) fn new(config: &LlmConfig, device: Device) -> Result<Self> {
        // In f64, since positions times frequencies lose what f32 has left behind the comma.
        let frequencies = Tensor::from_slice(&frequencies(config)).f_to_device(device)?;
        let positions = Tensor::f_arange(config.context as i64, (Kind::Double, device))?;
        let angles = positions.f_outer(&frequencies)?;
        let angles = Tensor::f_cat(&[&angles, &angles], -1)?;
        Ok(Self {
            cos: angles.f_cos()?.f_to_kind(Kind::Float)?,
            sin: angles.f_sin()?.f_to_kind(Kind::Float)?,
            half: frequencies.size1()?,
        })
    }

    /// Rotates heads `[batch, heads, time, head_dim]` of tokens from position `start` on.
    pub(super) fn rotate(&self, x: &Tensor, start: i64) -> Result<Tensor> {
        let (time, kind) = (x.size()[2], x.f_kind()?);
        let part = |table: &Tensor| table.f_narrow(0, start, time)?.f_to_kind(kind);
        let (first, second) = (x.f_narrow(-1, 0, self.half)?, x.f_narrow(-1, self.half, self.half)?);
        let turned = Tensor::f_cat(&[&second.f_neg()?, &first], -1)?;
        Ok(x.f_mul(&part(&self.cos)?)?.f_add(&turned.f_mul(&part(&self.sin)?)?)?)
    }

    /// Handles on the same tables.
    pub(super) fn share(&self) -> Self {
        Self { cos: self.cos.shallow_clone(), sin: self.sin.shallow_clone(), half: self.half }
    }
}

/// Radians per position, for each pair.
pub(super) fn frequencies(config: &LlmConfig) -> Vec<f64> {
    let pairs = config.head_dim / 2;
    let plain = (0..pairs).map(|i| config.rope_base.powf(-(i as f64) / pairs as f64));
    plain.map(|frequency| scaled(config.rope_scaling, frequency)).collect()
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
    use super::super::config::{Architecture, tiny};
    use super::*;

    #[test]
    fn frequencies_fall_from_one_and_scale() {
        let mut config = tiny(Architecture::Llama);
        assert_eq!(frequencies(&config)[0], 1.0);
        let plain = frequencies(&config);
        assert!((plain[2] - 1e4f64.powf(-0.5)).abs() < 1e-15);
        config.rope_scaling = RopeScaling::Linear { factor: 4.0 };
        assert_eq!(frequencies(&config)[3], plain[3] / 4.0);
        // Wavelengths are 2π, 20π, 200π and 2000π.
        config.rope_scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 1000.0 };
        let scaled = frequencies(&config);
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[1], plain[1]);
        let share = (1000.0 / (200.0 * std::f64::consts::PI) - 1.0) / 3.0;
        assert!((scaled[2] / plain[2] - (share + (1.0 - share) / 8.0)).abs() < 1e-12);
        assert_eq!(scaled[3], plain[3] / 8.0);
    }
}
