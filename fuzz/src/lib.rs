//! What the targets share: numbers, grids and configurations from a fuzzer's bytes. Mostly sensible ones, so that the code
//! behind the checks is reached, and now and then whatever a type can hold.

pub mod data;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use qat_kernels::config::StepRule;
use qat_kernels::{Grid, Levels, LsqMask, QatConfig, QuantGranularity, SteVariant};

/// Any float: small multiples of 1/16 often, since ties lie there, and every bit pattern otherwise.
pub fn float(u: &mut Unstructured<'_>) -> Result<f32> {
    match u.int_in_range(0..=3u8)? {
        0 => Ok(f32::from_bits(u.arbitrary()?)),
        1 => Ok(f32::from(u.arbitrary::<i16>()?) / 4096.0),
        _ => Ok(f32::from(u.arbitrary::<i8>()?) / 16.0),
    }
}

/// A finite float of a size that quantisers are used with, 0 and powers of two among them.
pub fn finite(u: &mut Unstructured<'_>) -> Result<f32> {
    float(u).map(|x| if x.is_finite() && x.abs() < 1e6 { x } else { 0.0 })
}

/// Up to `max` floats from `one`.
pub fn floats(
    u: &mut Unstructured<'_>,
    max: usize,
    one: impl Fn(&mut Unstructured<'_>) -> Result<f32>,
) -> Result<Vec<f32>> {
    let len = u.int_in_range(0..=max)?;
    (0..len).map(|_| one(u)).collect()
}

/// A grid that exists.
pub fn levels(u: &mut Unstructured<'_>) -> Result<Levels> {
    let grid = if u.arbitrary()? { Grid::MidRise } else { Grid::MidTread };
    let bits = u.int_in_range(2..=8u8)?;
    Ok(Levels::new(bits, grid).expect("2 to 8 bits exist"))
}

/// An estimator, its parameter not always in range.
pub fn estimator(u: &mut Unstructured<'_>) -> Result<SteVariant> {
    Ok(match u.int_in_range(0..=3u8)? {
        0 => SteVariant::Standard,
        1 => SteVariant::Clipped { clip_val: float(u)?.abs() },
        2 => SteVariant::LearnedStepSize,
        _ => SteVariant::Ewgs { lambda: float(u)?.abs() },
    })
}

/// A mask.
pub fn mask(u: &mut Unstructured<'_>) -> Result<LsqMask> {
    Ok(if u.arbitrary()? { LsqMask::Exact } else { LsqMask::Rounded })
}

/// A configuration, valid or not.
pub fn config(u: &mut Unstructured<'_>) -> Result<QatConfig> {
    let small = |u: &mut Unstructured<'_>| -> Result<usize> { Ok(u.int_in_range(0..=40u8)?.into()) };
    Ok(QatConfig {
        bits: u.int_in_range(1..=9)?,
        grid: if u.arbitrary()? { Grid::MidRise } else { Grid::MidTread },
        step: match u.int_in_range(0..=2u8)? {
            0 => StepRule::Uniform,
            1 => StepRule::Pi { k: u.int_in_range(1..=6)? },
            _ => StepRule::PiAdaptive { group: *u.choose(&[0, 7, 8, 16, 32])? },
        },
        granularity: match u.int_in_range(0..=3u8)? {
            0 => QuantGranularity::PerTensor,
            1 => QuantGranularity::PerChannel,
            2 => QuantGranularity::PerGroup(small(u)?),
            _ => QuantGranularity::PerToken,
        },
        ste: estimator(u)?,
        ..QatConfig::default()
    })
}

/// The bytes with the length and the checksum of a `.piq` or `.cal` file made right: hardly any mutation keeps both, and what
/// lies behind their checks is worth fuzzing too.
#[must_use]
pub fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(body) = bytes.len().checked_sub(4).filter(|&n| n >= 12) {
        let total = bytes.len() as u32;
        bytes[8..12].copy_from_slice(&total.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..body]);
        bytes[body..].copy_from_slice(&crc.to_le_bytes());
    }
    bytes
}
