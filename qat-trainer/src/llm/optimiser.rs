//! What AdamW remembers of the weights of a large matrix, in 32 or in 8 bits a number.

mod eight_bits;

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::nn::state;
use eight_bits::EightBits;

/// How the moments of weights are kept.
///
/// ```
/// use qat_kernels::{Grid, Levels, config::StepRule};
/// use qat_trainer::llm::{FakeQuantised, MatrixQuant, MomentBits};
/// # use qat_trainer::{Result, spec::WeightQuant};
/// # let options = (tch::Kind::Float, tch::Device::Cpu);
/// # let w = tch::Tensor::linspace(-1.0, 1.0, 4096, options).view([4, 1024]);
/// let quant = WeightQuant { levels: Levels::new(3, Grid::MidRise)?, step: StepRule::Uniform };
/// // What the optimiser remembers of a matrix of 4 rows of 1024 weights, bytes.
/// let bytes = |moments| -> Result<usize> {
///     let how = MatrixQuant { moments, ..MatrixQuant::new(quant) };
///     Ok(FakeQuantised::new(&w, None, how, None)?.optimiser_bytes())
/// };
/// let of_steps = 4 * 8; // one step a row, always in 32 bits
/// assert_eq!(bytes(MomentBits::ThirtyTwo)?, 4096 * 8 + of_steps);
/// assert_eq!(bytes(MomentBits::Eight)?, 4096 * 2 + 4096 / 256 * 8 + of_steps);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MomentBits {
    /// 8 bytes a weight.
    #[default]
    ThirtyTwo,
    /// 2 bytes a weight, and 8 for every 256 of them. Codes are drawn such that the moments are right in the mean.
    Eight,
}

/// The moments of the weights of a matrix. They are worked on in parts, which always begin at the same weights.
#[derive(Debug)]
pub(super) enum Store {
    Floats { m: Vec<f32>, v: Vec<f32>, part: usize },
    Eight(EightBits),
}

impl Store {
    /// Zeros for `len` weights, in parts of `part`.
    pub(super) fn new(bits: MomentBits, len: usize, part: usize) -> Self {
        match bits {
            MomentBits::ThirtyTwo => Self::Floats { m: vec![0.0; len], v: vec![0.0; len], part },
            MomentBits::Eight => Self::Eight(EightBits::new(len, part)),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Floats { m, .. } => 8 * m.len(),
            Self::Eight(codes) => codes.bytes(),
        }
    }

    /// The moments part by part; `update` is the number of the update, which the draw of 8-bit codes depends on.
    pub(super) fn parts(&mut self, update: u32) -> Vec<Part<'_>> {
        match self {
            Self::Floats { m, v, part } => {
                m.chunks_mut(*part).zip(v.chunks_mut(*part)).map(|(m, v)| Part::Floats(m, v)).collect()
            }
            Self::Eight(codes) => codes.parts(update).map(Part::Eight).collect(),
        }
    }

    /// Puts the moments into the state of a training, beside the weights `name`.
    pub(super) fn save(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        match self {
            Self::Floats { m, v, .. } => {
                state::put(to, name, state::FIRST_MOMENT, m)?;
                state::put(to, name, state::SECOND_MOMENT, v)
            }
            Self::Eight(codes) => codes.save(name, to),
        }
    }

    /// Takes them out again.
    pub(super) fn load(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        match self {
            Self::Floats { m, v, .. } => {
                *m = state::get(from, name, state::FIRST_MOMENT, m.len())?;
                *v = state::get(from, name, state::SECOND_MOMENT, v.len())?;
                Ok(())
            }
            Self::Eight(codes) => codes.load(name, from),
        }
    }
}

/// Moments of consecutive weights.
pub(super) enum Part<'a> {
    Floats(&'a mut [f32], &'a mut [f32]),
    Eight(eight_bits::Part<'a>),
}

impl Part<'_> {
    /// Lets `update` change the moments.
    pub(super) fn with<R>(self, update: impl FnOnce(&mut [f32], &mut [f32]) -> R) -> R {
        match self {
            Self::Floats(m, v) => update(m, v),
            Self::Eight(part) => part.with(update),
        }
    }
}
