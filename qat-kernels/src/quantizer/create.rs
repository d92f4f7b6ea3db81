//! From a configuration to a quantiser.

use super::{
    AdaptivePiQuantizer, DifferentiableQuantizer, INLINE_GROUPS, PiQuantDifferentiable, QuantizerSettings,
    UniformQuantizer,
};
use crate::config::{QatConfig, QuantGranularity, StepRule};
use crate::error::{Error, Result, What};
use crate::grid::{Grid, Levels};
#[cfg(feature = "alloc")]
use alloc::{boxed::Box, vec, vec::Vec};

/// Whichever quantiser a configuration asks for, without a heap.
///
/// ```
/// use qat_kernels::quantizer::{Quantizer, create_quantizer};
/// use qat_kernels::{QatConfig, Result};
/// let stored = |config| -> Result<String> {
///     Ok(match create_quantizer(&config)? {
///         Quantizer::Uniform(_) => "s".into(),
///         Quantizer::Pi(pi) => format!("α, k = {}", pi.k()),
///         Quantizer::Adaptive(pi) => format!("α, k per {} weights", pi.group()),
///     })
/// };
/// assert_eq!(stored(QatConfig::default())?, "s");
/// assert_eq!(stored(QatConfig::piq3())?, "α, k = 4");
/// assert_eq!(stored(QatConfig::piq2a())?, "α, k per 16 weights");
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quantizer<S = [f32; 1], K = [u8; INLINE_GROUPS]> {
    /// Free steps.
    Uniform(UniformQuantizer<S>),
    /// α·π/k, one k.
    Pi(PiQuantDifferentiable<S>),
    /// α·π/k, k per group.
    Adaptive(AdaptivePiQuantizer<S, K>),
}

/// The quantiser of a configuration for one tensor or one channel: whatever it is given shares one scale.
///
/// For many channels or groups there is [`create_quantizer_in`], which takes storage, and with the feature `alloc`
/// `create_quantizer_boxed`, which makes it. Adaptive quantisers have room for [`INLINE_GROUPS`] groups. Incoherence
/// processing concerns a layer's weights and activations together and is done outside: [`crate::hadamard`].
///
/// # Errors
/// [`QatConfig::validate`]'s; [`Error::Unsupported`] for [`QuantGranularity::PerToken`] (that is
/// [`super::TokenQuantizer`]) and for adaptive steps with [`QuantGranularity::PerGroup`].
///
/// ```
/// use qat_kernels::quantizer::{DifferentiableQuantizer, create_quantizer};
/// use qat_kernels::{QatConfig, SteVariant};
/// let config = QatConfig::default().with_bits(3).with_ste(SteVariant::Clipped { clip_val: 1.0 });
/// let mut quantizer = create_quantizer(&config)?;
/// quantizer.set_scales(&[0.25])?;
///
/// let (weights, mut w_hat) = ([0.3, -0.6, 1.2], [0.0; 3]);
/// quantizer.forward(&weights, &mut w_hat)?;
/// assert_eq!(w_hat, [0.25, -0.5, 0.75]); // codes −4..=3
///
/// let (mut grad_weights, mut grad_step) = ([0.0; 3], [0.0]);
/// quantizer.backward(&weights, &[1.0; 3], &mut grad_weights, &mut grad_step)?;
/// assert_eq!(grad_weights, [1.0, 1.0, 0.0]); // |1.2| > clip_val
/// // (1 − 1.2) + (−2 + 2.4) + 3, times 1/√(3·3)
/// assert!((grad_step[0] - 3.2 / 3.0).abs() < 1e-6);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn create_quantizer(config: &QatConfig) -> Result<Quantizer> {
    check(config)?;
    build(config, [1.0], [3; INLINE_GROUPS])
}

/// The quantiser of a configuration for a matrix of `rows` channels with `columns` weights each, on the caller's
/// storage: [`scales_needed`] scales and [`divisors_needed`] divisors, which are overwritten (scales with 1, k with 3).
///
/// # Errors
/// As [`create_quantizer`]; [`Error::Length`] for storage of another size; [`Error::Empty`] and [`Error::NotDivisible`]
/// for a matrix of nothing or rows that groups do not divide.
///
/// ```
/// use qat_kernels::QatConfig;
/// use qat_kernels::quantizer::{create_quantizer_in, divisors_needed, scales_needed};
/// let config = QatConfig::piq2a();
/// assert_eq!((scales_needed(&config, 4, 64)?, divisors_needed(&config, 4, 64)?), (4, 16));
/// let quantizer = create_quantizer_in(&config, 4, 64, [0.0; 4], [0; 16])?;
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn create_quantizer_in<S, K>(
    config: &QatConfig,
    rows: usize,
    columns: usize,
    mut scales: S,
    mut divisors: K,
) -> Result<Quantizer<S, K>>
where
    S: AsRef<[f32]> + AsMut<[f32]>,
    K: AsRef<[u8]> + AsMut<[u8]>,
{
    let length = |what, expected, got| match expected == got {
        true => Ok(()),
        false => Err(Error::Length { what, expected, got }),
    };
    length(What::Steps, scales_needed(config, rows, columns)?, scales.as_ref().len())?;
    length(What::Divisors, divisors_needed(config, rows, columns)?, divisors.as_ref().len())?;
    scales.as_mut().fill(1.0);
    divisors.as_mut().fill(3);
    build(config, scales, divisors)
}

/// Scales of a matrix under a configuration.
///
/// # Errors
/// As [`create_quantizer_in`].
///
/// ```
/// use qat_kernels::{Error, QatConfig, QuantGranularity, What, quantizer::scales_needed};
/// let groups = QatConfig::default().with_granularity(QuantGranularity::PerGroup(64));
/// assert_eq!(scales_needed(&groups, 10, 256)?, 40); // four to a row
/// let e = Error::NotDivisible { what: What::Weights, len: 100, by: 64 };
/// assert_eq!(scales_needed(&groups, 10, 100), Err(e));
/// # Ok::<(), Error>(())
/// ```
pub fn scales_needed(config: &QatConfig, rows: usize, columns: usize) -> Result<usize> {
    check(config)?;
    if rows == 0 || columns == 0 {
        return Err(Error::Empty { what: What::Weights });
    }
    match config.granularity {
        QuantGranularity::PerTensor => Ok(1),
        QuantGranularity::PerGroup(group) => Ok(rows * groups(columns, group)?),
        _ => Ok(rows),
    }
}

/// Divisors of a matrix under a configuration: 0 unless its steps are adaptive.
///
/// # Errors
/// As [`create_quantizer_in`].
///
/// ```
/// use qat_kernels::quantizer::{divisors_needed, packed_divisors_len};
/// use qat_kernels::QatConfig;
/// let divisors = divisors_needed(&QatConfig::piq3a(), 10, 256)?; // k per group of 16
/// assert_eq!((divisors, packed_divisors_len(10, divisors / 10)), (160, 40)); // 40 bytes in a file
/// assert_eq!(divisors_needed(&QatConfig::piq3(), 10, 256)?, 0); // one k for all
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn divisors_needed(config: &QatConfig, rows: usize, columns: usize) -> Result<usize> {
    scales_needed(config, rows, columns)?;
    match config.step {
        StepRule::PiAdaptive { group } => Ok(rows * groups(columns, group)?),
        _ => Ok(0),
    }
}

/// The quantiser of a configuration for a matrix of `rows` channels with `columns` weights each, with its storage on
/// the heap.
///
/// # Errors
/// As [`create_quantizer_in`].
///
/// ```
/// use qat_kernels::{QatConfig, quantizer::create_quantizer_boxed};
/// let mut quantizer = create_quantizer_boxed(&QatConfig::piq3(), 2, 3)?;
/// let weights = [0.1, -0.2, 0.3, 4.0, 5.0, -6.0];
/// quantizer.init_scale_from_weights(&weights)?;
/// let codes = quantizer.quantize_vec(&weights)?;
/// assert_eq!(quantizer.quantize_vec(&quantizer.dequantize_vec(&codes)?)?, codes);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[cfg(feature = "alloc")]
pub fn create_quantizer_boxed(
    config: &QatConfig,
    rows: usize,
    columns: usize,
) -> Result<Box<dyn DifferentiableQuantizer + Send + Sync>> {
    let scales: Vec<f32> = vec![1.0; scales_needed(config, rows, columns)?];
    let divisors: Vec<u8> = vec![3; divisors_needed(config, rows, columns)?];
    Ok(match build(config, scales, divisors)? {
        Quantizer::Uniform(quantizer) => Box::new(quantizer),
        Quantizer::Pi(quantizer) => Box::new(quantizer),
        Quantizer::Adaptive(quantizer) => Box::new(quantizer),
    })
}

const TWO_BITS: Levels = mid_tread(2);
const THREE_BITS: Levels = mid_tread(3);

#[allow(clippy::panic, reason = "only ever evaluated at compile time")]
const fn mid_tread(bits: u8) -> Levels {
    match Levels::new(bits, Grid::MidTread) {
        Ok(levels) => levels,
        Err(_) => panic!("not a width"),
    }
}

/// PiQ2, [`QatConfig::piq2`], for one tensor or channel: 2 bits, Δ = α·π/3, mid-tread, α = 1 at first.
///
/// ```
/// use qat_kernels::quantizer::{DifferentiableQuantizer, piq2_quantizer};
/// let mut quantizer = piq2_quantizer();
/// let (weights, mut w_hat) = ([0.2, -0.2, 0.0, -0.4], [1.0; 4]);
/// quantizer.init_scale_from_weights(&weights)?;
/// quantizer.forward(&weights, &mut w_hat)?;
/// assert!(weights.iter().zip(&w_hat).all(|(w, w_hat)| (w - w_hat).abs() < 1e-6));
///
/// let (mut grad_weights, mut grad_alpha) = ([0.0; 4], [1.0]);
/// quantizer.backward(&[0.0; 4], &[1.0, -2.0, 3.0, 0.5], &mut grad_weights, &mut grad_alpha)?;
/// assert_eq!(grad_weights, [1.0, -2.0, 3.0, 0.5]); // 0 is inside the range
/// assert_eq!(grad_alpha, [0.0]); // and on a level
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[must_use]
pub fn piq2_quantizer() -> PiQuantDifferentiable {
    PiQuantDifferentiable::preset(TWO_BITS, 3)
}

/// PiQ3, [`QatConfig::piq3`], for one tensor or channel: 3 bits, Δ = α·π/4, mid-tread, α = 1 at first.
///
/// ```
/// use core::f32::consts::FRAC_PI_4;
/// use qat_kernels::quantizer::{DifferentiableQuantizer, piq3_quantizer};
/// let quantizer = piq3_quantizer();
/// let (weights, mut w_hat) = ([1.0, -9.0, 0.3], [0.0; 3]);
/// quantizer.forward(&weights, &mut w_hat)?;
/// assert_eq!(w_hat, [FRAC_PI_4, -4.0 * FRAC_PI_4, 0.0]);
///
/// let (mut grad_weights, mut grad_alpha) = ([0.0; 3], [0.0]);
/// quantizer.backward(&weights, &[1.0; 3], &mut grad_weights, &mut grad_alpha)?;
/// assert_eq!(grad_weights, [1.0, 0.0, 1.0]); // −9 is clipped
/// let step_gradient = (1.0 - 1.0 / FRAC_PI_4) - 4.0 + (0.0 - 0.3 / FRAC_PI_4);
/// assert!((grad_alpha[0] - step_gradient / 3.0 * FRAC_PI_4).abs() < 1e-6); // 1/√(3·3), then π/4
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[must_use]
pub fn piq3_quantizer() -> PiQuantDifferentiable {
    PiQuantDifferentiable::preset(THREE_BITS, 4)
}

/// A uniform mid-tread quantiser for one tensor or channel, with a step of 1 at first.
///
/// # Errors
/// [`Error::Bits`] outside 2..=8.
///
/// ```
/// use qat_kernels::quantizer::{DifferentiableQuantizer, uniform_quantizer};
/// let quantizer = uniform_quantizer(4)?;
/// let (weights, mut w_hat) = ([2.4, -3.5, 9.0], [0.0; 3]);
/// quantizer.forward(&weights, &mut w_hat)?;
/// assert_eq!(w_hat, [2.0, -4.0, 7.0]); // codes −8..=7; ties to even
///
/// let (mut grad_weights, mut grad_step) = ([0.0; 3], [0.0]);
/// quantizer.backward(&weights, &[1.0, 2.0, 3.0], &mut grad_weights, &mut grad_step)?;
/// assert_eq!(grad_weights, [1.0, 2.0, 0.0]);
/// // 1·(2 − 2.4) + 2·(−4 + 3.5) + 3·7, times 1/√(3·7)
/// assert!((grad_step[0] - 19.6 / 21f32.sqrt()).abs() < 1e-5);
/// assert!(uniform_quantizer(9).is_err());
/// # Ok::<(), qat_kernels::Error>(())
/// ```
pub fn uniform_quantizer(bits: u8) -> Result<UniformQuantizer> {
    let levels = Levels::new(bits, Grid::MidTread)?;
    UniformQuantizer::new(QuantizerSettings::new(levels), [1.0])
}

fn check(config: &QatConfig) -> Result<()> {
    config.validate()?;
    match (config.step, config.granularity) {
        (_, QuantGranularity::PerToken) | (StepRule::PiAdaptive { .. }, QuantGranularity::PerGroup(_)) => {
            Err(Error::Unsupported { what: What::Granularity })
        }
        _ => Ok(()),
    }
}

fn groups(columns: usize, group: usize) -> Result<usize> {
    if columns.is_multiple_of(group) {
        Ok(columns / group)
    } else {
        Err(Error::NotDivisible { what: What::Weights, len: columns, by: group })
    }
}

fn build<S, K>(config: &QatConfig, scales: S, divisors: K) -> Result<Quantizer<S, K>>
where
    S: AsRef<[f32]> + AsMut<[f32]>,
    K: AsRef<[u8]> + AsMut<[u8]>,
{
    let settings = QuantizerSettings::new(config.levels()?).with_ste(config.ste);
    Ok(match config.step {
        StepRule::Uniform => Quantizer::Uniform(UniformQuantizer::new(settings, scales)?),
        StepRule::Pi { k } => Quantizer::Pi(PiQuantDifferentiable::new(settings, k, scales)?),
        StepRule::PiAdaptive { group } => {
            Quantizer::Adaptive(AdaptivePiQuantizer::new(settings, group, scales, divisors)?)
        }
    })
}

macro_rules! whichever {
    ($self:ident, $quantizer:ident => $call:expr) => {
        match $self {
            Quantizer::Uniform($quantizer) => $call,
            Quantizer::Pi($quantizer) => $call,
            Quantizer::Adaptive($quantizer) => $call,
        }
    };
}

impl<S: AsRef<[f32]> + AsMut<[f32]>, K: AsRef<[u8]> + AsMut<[u8]>> DifferentiableQuantizer
    for Quantizer<S, K>
{
    fn levels(&self) -> Levels {
        whichever!(self, quantizer => quantizer.levels())
    }

    fn scale_count(&self) -> usize {
        whichever!(self, quantizer => quantizer.scale_count())
    }

    fn scales(&self, out: &mut [f32]) -> Result<()> {
        whichever!(self, quantizer => quantizer.scales(out))
    }

    fn set_scales(&mut self, scales: &[f32]) -> Result<()> {
        whichever!(self, quantizer => quantizer.set_scales(scales))
    }

    fn init_scale_weighted(&mut self, weights: &[f32], importance: Option<&[f32]>) -> Result<()> {
        whichever!(self, quantizer => quantizer.init_scale_weighted(weights, importance))
    }

    fn forward(&self, weights: &[f32], out: &mut [f32]) -> Result<()> {
        whichever!(self, quantizer => quantizer.forward(weights, out))
    }

    fn backward(
        &self,
        weights: &[f32],
        grad_output: &[f32],
        grad_weights: &mut [f32],
        grad_scales: &mut [f32],
    ) -> Result<()> {
        whichever!(self, quantizer => quantizer.backward(weights, grad_output, grad_weights, grad_scales))
    }

    fn quantize(&self, weights: &[f32], codes: &mut [i8]) -> Result<()> {
        whichever!(self, quantizer => quantizer.quantize(weights, codes))
    }

    fn dequantize(&self, codes: &[i8], out: &mut [f32]) -> Result<()> {
        whichever!(self, quantizer => quantizer.dequantize(codes, out))
    }
}
