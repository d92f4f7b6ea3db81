//! `[train]` and `[qat]`: the two phases of training.

use super::Source;
use crate::error::{Error, ErrorKind, Result};
use qat_kernels::calibration::CalibrationMethod;
use qat_kernels::config::StepRule;
use qat_kernels::{Grid, QatConfig, SteVariant};
use serde::Deserialize;

/// `[train]`: the floating-point training that comes first. Batch size, weight decay, label smoothing, clipping, averaging,
/// augmentation and seed hold for the quantised phase too.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSpec {
    /// Passes over the training split before quantisation; at least 1, default 30.
    pub epochs: u32,
    /// Examples per step; at least 2 (batch normalisation needs two), default 128.
    pub batch: usize,
    /// Peak learning rate of AdamW; positive, default 2e-3.
    pub lr: f32,
    /// How the learning rate moves, in both phases; default `cosine`.
    pub schedule: Schedule,
    /// Epochs over which the learning rate rises from 0 at the start of the floating-point phase; may be a fraction,
    /// default 1.
    pub warm_up: f32,
    /// Decoupled weight decay of AdamW; default 1e-4.
    pub weight_decay: f32,
    /// Share of the target probability spread over all classes, 0 ≤ share < 1; default 0.
    pub label_smoothing: f32,
    /// Largest norm of all gradients together, beyond which they are scaled down; 0 for no limit, the default.
    pub clip_norm: f32,
    /// Decay per step of a running average of all parameters, which replaces them at the end of each phase; 0 ≤ decay
    /// < 1, 0 for none, the default.
    pub ema: f32,
    /// Random distortions of training images; default none.
    pub augment: Augment,
    /// Seed of everything random: initial weights, order, augmentation; default 1.
    pub seed: u64,
}

/// How the learning rate moves after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It falls to 0 along half a cosine.
    #[default]
    Cosine,
}

/// `[train] augment = { shift, rotate, scale }`: each image is distorted anew in every epoch, uniformly within these
/// bounds. Images only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Largest shift along each axis, in pixels.
    pub shift: f32,
    /// Largest rotation to either side, in degrees.
    pub rotate: f32,
    /// Largest relative change of size, 0 ≤ scale < 1.
    pub scale: f32,
}

impl Augment {
    /// Whether nothing is to be distorted.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl Default for TrainSpec {
    fn default() -> Self {
        Self {
            epochs: 30,
            batch: 128,
            lr: 2e-3,
            schedule: Schedule::default(),
            warm_up: 1.0,
            weight_decay: 1e-4,
            label_smoothing: 0.0,
            clip_norm: 0.0,
            ema: 0.0,
            augment: Augment::default(),
            seed: 1,
        }
    }
}

impl TrainSpec {
    pub(super) fn validate(&self, source: Source<'_>) -> Result<()> {
        let at_least = |key: &str, value: u64, least: u64| {
            if value < least {
                return Err(source
                    .error("train", key, format!("{value} is too small"))
                    .remedy(format!("at least {least}")));
            }
            Ok(())
        };
        let within = |key: &str, value: f32, ok: bool, allowed: &str| {
            if !ok || !value.is_finite() {
                return Err(source
                    .error("train", key, format!("{value} is out of range"))
                    .remedy(format!("allowed: {allowed}")));
            }
            Ok(())
        };
        at_least("epochs", self.epochs.into(), 1)?;
        at_least("batch", self.batch as u64, 2)?;
        within("lr", self.lr, self.lr > 0.0, "a positive number")?;
        within("warm_up", self.warm_up, self.warm_up >= 0.0, "0 or more epochs")?;
        within("weight_decay", self.weight_decay, self.weight_decay >= 0.0, "0 or more")?;
        within(
            "label_smoothing",
            self.label_smoothing,
            (0.0..1.0).contains(&self.label_smoothing),
            "0 up to, not including, 1",
        )?;
        within("clip_norm", self.clip_norm, self.clip_norm >= 0.0, "0 or more")?;
        within("ema", self.ema, (0.0..1.0).contains(&self.ema), "0 up to, not including, 1")?;
        let Augment { shift, rotate, scale } = self.augment;
        within("augment", shift, shift >= 0.0, "shift of 0 or more pixels")?;
        within("augment", rotate, (0.0..=180.0).contains(&rotate), "rotate of 0 to 180 degrees")?;
        within("augment", scale, (0.0..1.0).contains(&scale), "scale from 0 up to, not including, 1")
    }
}

/// `[qat]`: the quantised training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QatSpec {
    /// Keys `bits`, `grid`, `step` (which the layers may override one by one), `ste`, `epochs` and `learning_rate`;
    /// defaults as [`QatConfig::default`]. One step per output channel.
    pub config: QatConfig,
    /// Where the ranges of the activations come from. TOML: `activations = "learned"` (default) or `"calibrated"`.
    pub activations: ActivationQuant,
    /// How ranges are first measured. TOML: `calibration = { method = "mse", samples = 512 }`.
    pub calibration: Calibration,
}

/// Where the ranges of the activations come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationQuant {
    /// Measured before the quantised phase, then learned with the weights.
    #[default]
    Learned,
    /// Measured before the quantised phase and kept.
    Calibrated,
}

/// How the ranges of the activations are measured.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Calibration {
    /// What makes the range: `"mse"` (the default: the least squared error after rounding), `"min-max"`, `"entropy"`,
    /// `{ percentile = { share = 0.9999 } }` or `{ moving-average = { momentum = 0.9 } }`.
    pub method: CalibrationMethod,
    /// Training examples looked at, from the first; at least 1, default 512.
    pub samples: usize,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { method: CalibrationMethod::Mse, samples: 512 }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawQat {
    bits: Option<u8>,
    grid: Option<Grid>,
    step: Option<StepRule>,
    ste: Option<SteVariant>,
    epochs: Option<u32>,
    learning_rate: Option<f32>,
    activations: ActivationQuant,
    calibration: Calibration,
}

impl QatSpec {
    pub(super) fn from_raw(raw: RawQat, source: Source<'_>) -> Result<Self> {
        let d = QatConfig::default();
        let config = d
            .with_bits(raw.bits.unwrap_or(d.bits))
            .with_grid(raw.grid.unwrap_or(d.grid))
            .with_step(raw.step.unwrap_or(d.step))
            .with_ste(raw.ste.unwrap_or(d.ste))
            .with_epochs(raw.epochs.unwrap_or(d.epochs))
            .with_learning_rate(raw.learning_rate.unwrap_or(d.learning_rate));
        config
            .validate()
            .map_err(|e| source.error("qat", key_of(&e), e.to_string()).remedy("correct the value"))?;
        raw.calibration.method.validate().map_err(|e| {
            source.error("qat", "calibration", e.to_string()).remedy("correct the method's number")
        })?;
        if raw.calibration.samples == 0 {
            return Err(source
                .error("qat", "calibration", "samples = 0 measures nothing")
                .remedy("take at least 1, better some hundred"));
        }
        Ok(Self { config, activations: raw.activations, calibration: raw.calibration })
    }
}

/// The key of `[qat]` that an error of [`QatConfig::validate`] is about.
fn key_of(e: &qat_kernels::Error) -> &'static str {
    use qat_kernels::{Error as E, What};
    match e {
        E::Bits { .. } => "bits",
        E::Divisor { .. } | E::Range { what: What::Group, .. } => "step",
        E::Range { what: What::Epochs, .. } => "epochs",
        E::NotPositive { what: What::LearningRate, .. } => "learning_rate",
        _ => "ste",
    }
}

/// The same check for the quantiser of one layer.
pub(super) fn check_layer_config(config: &QatConfig) -> Result<()> {
    config.validate().map_err(|e| Error::new(ErrorKind::Spec, e.to_string()).remedy("correct the value"))
}
