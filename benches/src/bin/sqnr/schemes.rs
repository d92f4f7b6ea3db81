//! The schemes of the study.

use crate::data::Matrix;
use anyhow::Result;
use qat_kernels::Grid::{self, MidRise, MidTread};
use qat_kernels::Levels;
use qat_kernels::quantizer::{
    AdaptivePiQuantizer, DifferentiableQuantizer, F16, GroupQuantizer, PiQuantDifferentiable,
    QuantizerSettings, packed_divisors_len,
};

/// Bits of a binary16.
const HALF: usize = 16;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Δ = α·π/k, one k: in effect a free step per row.
    Fixed(Grid),
    /// A free step in binary16 per group.
    Uniform(usize, Grid),
    /// Δ = α·π/k, k per group.
    Adaptive(usize, Grid),
}

impl Scheme {
    /// The common scheme that adaptive k is to beat at fewer bits.
    pub(crate) const RIVAL: Self = Self::Uniform(32, MidRise);
    /// All of them; the rival comes before those that are compared with it.
    pub(crate) const ALL: [Self; 10] = [
        Self::Fixed(MidTread),
        Self::Fixed(MidRise),
        Self::Uniform(128, MidRise),
        Self::RIVAL,
        Self::Uniform(32, MidTread),
        Self::Uniform(16, MidRise),
        Self::Adaptive(32, MidRise),
        Self::Adaptive(16, MidRise),
        Self::Adaptive(8, MidRise),
        Self::Adaptive(16, MidTread),
    ];

    /// Its name in results.
    pub(crate) fn name(self) -> String {
        let of = |grid| match grid {
            MidTread => "midtread",
            MidRise => "midrise",
        };
        match self {
            Self::Fixed(grid) => format!("fixed_k_{}", of(grid)),
            Self::Uniform(group, grid) => format!("uniform_f16_g{group}_{}", of(grid)),
            Self::Adaptive(group, grid) => format!("adaptive_k_g{group}_{}", of(grid)),
        }
    }

    /// Whether k is chosen per group.
    pub(crate) fn is_adaptive(self) -> bool {
        matches!(self, Self::Adaptive(..))
    }

    /// The weights as they are decoded, and the bits stored for them.
    pub(crate) fn decode(self, bits: u8, matrix: &Matrix) -> Result<(Vec<f32>, f64)> {
        let (rows, columns) = (matrix.rows(), matrix.columns);
        let settings = |grid| Ok::<_, qat_kernels::Error>(QuantizerSettings::new(Levels::new(bits, grid)?));
        let mut pi;
        let mut group_wise;
        let mut adaptive;
        let (quantizer, extra): (&mut dyn DifferentiableQuantizer, usize) = match self {
            Self::Fixed(grid) => {
                let k = if bits == 2 { 3 } else { 4 };
                pi = PiQuantDifferentiable::new(settings(grid)?, k, vec![1.0; rows])?;
                (&mut pi, HALF * rows)
            }
            Self::Uniform(group, grid) => {
                let groups = rows * columns / group;
                group_wise = GroupQuantizer::new(settings(grid)?, vec![F16::ONE; groups])?;
                (&mut group_wise, HALF * groups)
            }
            Self::Adaptive(group, grid) => {
                let groups = columns / group;
                adaptive = AdaptivePiQuantizer::new(
                    settings(grid)?,
                    group,
                    vec![1.0; rows],
                    vec![3; rows * groups],
                )?;
                (&mut adaptive, HALF * rows + 8 * packed_divisors_len(rows, groups))
            }
        };
        quantizer.init_scale_from_weights(&matrix.weights)?;
        let mut scales = vec![0.0; quantizer.scale_count()];
        quantizer.scales(&mut scales)?;
        scales.iter_mut().for_each(|scale| *scale = F16::from_scale(*scale).to_f32());
        quantizer.set_scales(&scales)?;

        // By way of the codes, as a reader of the file would.
        let mut codes = vec![0; matrix.weights.len()];
        let mut decoded = vec![0.0; matrix.weights.len()];
        quantizer.quantize(&matrix.weights, &mut codes)?;
        quantizer.dequantize(&codes, &mut decoded)?;
        Ok((decoded, (usize::from(bits) * matrix.weights.len() + extra) as f64))
    }
}
