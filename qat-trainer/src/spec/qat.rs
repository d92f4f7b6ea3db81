//! `[qat]`: the quantised phase.

use super::{Source, TrainSpec};
use crate::error::{Error, ErrorKind, Result};
use qat_kernels::calibration::CalibrationMethod;
use qat_kernels::config::StepRule;
use qat_kernels::quantizer::StepInit;
use qat_kernels::{Grid, MAX_BITS, MIN_BITS, QatConfig, SteVariant};
use serde::Deserialize;

/// `[qat]`: the quantised training.
///
/// ```
/// use qat_trainer::spec::Run;
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// # model = { layers = [{ op = "linear", out = 2 }] }
/// [train]
/// epochs = 40
/// [qat]
/// bits = 3
/// share = 0.25
/// progressive = [8, 4]
/// learning_rate = 2e-2
/// "#;
/// let run = Run::parse(toml, "run.toml".as_ref())?;
/// // A quarter of the epochs with quantised weights: of 8 bits, then 4, then 3.
/// assert_eq!((run.train.epochs, run.qat.config.epochs), (30, 10));
/// assert_eq!(run.qat.scale_learning_rate, 0.01); // no more, however fast the weights move
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct QatSpec {
    /// Keys `bits`, `grid`, `step` (which the layers may override one by one), `ste`, `epochs` and `learning_rate`;
    /// defaults as [`QatConfig::default`]. One step per output channel. `share`, between 0 and 1, in place of `epochs`
    /// gives this phase that share of the epochs of `[train]`, which are then those of both phases together.
    pub config: QatConfig,
    /// Where the ranges of the activations come from. TOML: `activations = "learned"` (default) or `"calibrated"`. Their
    /// bits are `activation_bits` here, 2 to 8 (default), or `act_bits` of a layer; the last layer's are 8 unless it says
    /// otherwise.
    pub activations: ActivationQuant,
    /// How ranges are first measured. TOML: `calibration = { method = "mse", samples = 512 }`.
    pub calibration: Calibration,
    /// How the steps of the weights are found before they are learned: `"mse"` (the default), `"octav"`, `"lsq"` or
    /// `"max"` (SEQ's), see [`StepInit`]. Adaptive Pi quantisers always search for α and k together. TOML: `init`.
    pub init: StepInit,
    /// What weights the squared errors that `init = "mse"` and adaptive quantisers minimise: `"none"`, the default, or
    /// `"fisher"`. TOML: `importance`.
    pub importance: Importance,
    /// Steps of the optimiser after which adaptive Pi quantisers choose k of each group anew; at least 1, default 100.
    /// TOML: `choose_k_every`.
    pub choose_k_every: usize,
    /// Bits of the weights in the stages of the phase before the last, such as `[8, 4]`, each 2 to 8, none less than the
    /// next. The stages have equal shares of the epochs; layers with more bits keep theirs. TOML: `progressive`; default
    /// none.
    pub progressive: Vec<u8>,
    /// Bytes that the exported file may have. The bits of the layers are then chosen after the first phase, see
    /// [`crate::mixed`], in place of what the run description says. TOML: `max_bytes`; default: no limit.
    pub max_bytes: Option<usize>,
    /// Peak learning rate of the steps and ranges, which move by about this share per step; positive. TOML:
    /// `scale_learning_rate`; default: `learning_rate`, but at most 0.01.
    pub scale_learning_rate: f32,
}

/// What weights the errors of the weights in the search for their steps.
///
/// ```
/// use qat_trainer::spec::{Importance, Run};
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// # model = { layers = [{ op = "linear", out = 2 }] }
/// [qat]
/// importance = "fisher"
/// "#;
/// assert_eq!(Run::parse(toml, "run.toml".as_ref())?.qat.importance, Importance::Fisher);
/// let e = Run::parse(&toml.replace("fisher", "hessian"), "run.toml".as_ref()).unwrap_err();
/// assert!(e.to_string().contains("expected `none` or `fisher`"), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Importance {
    /// Nothing: all weights count the same.
    #[default]
    None,
    /// The diagonal of the Fisher information of the floating-point network, from the calibration's examples: the mean
    /// square of the gradients of each example's loss.
    Fisher,
}

/// Where the ranges of the activations come from.
///
/// ```
/// use qat_trainer::spec::{ActivationQuant, Run};
/// let toml = r#"
/// data = { format = "none", shape = [1, 1, 4] }
/// model = { layers = [{ op = "linear", out = 8, act = "relu" }, { op = "linear", out = 2 }] }
/// qat = { activations = "calibrated", activation_bits = 4 }
/// "#;
/// let run = Run::parse(toml, "run.toml".as_ref())?;
/// assert_eq!(run.qat.activations, ActivationQuant::Calibrated);
/// assert!(run.model.layers.iter().map(|layer| layer.act_bits).eq([4, 8])); // the last layer gives logits
/// # Ok::<(), qat_trainer::Error>(())
/// ```
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
///
/// ```
/// use qat_trainer::spec::{Calibration, CalibrationMethod, Run};
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// # model = { layers = [{ op = "linear", out = 2 }] }
/// [qat]
/// calibration = { method = { percentile = { share = 0.999 } } }
/// "#;
/// let method = CalibrationMethod::Percentile { share: 0.999 }; // clips one activation in a thousand
/// let run = Run::parse(toml, "run.toml".as_ref())?;
/// assert_eq!(run.qat.calibration, Calibration { method, samples: 512 });
/// # Ok::<(), qat_trainer::Error>(())
/// ```
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
    share: Option<f32>,
    learning_rate: Option<f32>,
    scale_learning_rate: Option<f32>,
    activations: ActivationQuant,
    activation_bits: Option<u8>,
    calibration: Calibration,
    init: StepInit,
    importance: Importance,
    choose_k_every: Option<usize>,
    max_bytes: Option<usize>,
    progressive: Vec<u8>,
}

impl RawQat {
    /// Bits of the activations of layers that do not say theirs.
    pub(super) fn activation_bits(&self, source: Source<'_>) -> Result<u8> {
        let bits = self.activation_bits.unwrap_or(MAX_BITS);
        if !(MIN_BITS..=MAX_BITS).contains(&bits) {
            return Err(source
                .error("qat", "activation_bits", format!("{bits} bits for an activation"))
                .remedy("2 to 8 are possible"));
        }
        Ok(bits)
    }
}

impl QatSpec {
    /// `train` is shortened by what a `share` takes of its epochs.
    pub(super) fn from_raw(raw: RawQat, train: &mut TrainSpec, source: Source<'_>) -> Result<Self> {
        let epochs = divide(&raw, train, source)?;
        let d = QatConfig::default();
        let config = d
            .with_bits(raw.bits.unwrap_or(d.bits))
            .with_grid(raw.grid.unwrap_or(d.grid))
            .with_step(raw.step.unwrap_or(d.step))
            .with_ste(raw.ste.unwrap_or(d.ste))
            .with_epochs(epochs.unwrap_or(d.epochs))
            .with_learning_rate(raw.learning_rate.unwrap_or(d.learning_rate));
        config
            .validate()
            .map_err(|e| source.error("qat", key_of(&e), e.to_string()).remedy("correct the value"))?;
        let refuse =
            |key: &str, problem: String, remedy: &str| Err(source.error("qat", key, problem).remedy(remedy));
        if raw.calibration.samples == 0 {
            return Err(source
                .error("qat", "calibration", "samples = 0 measures nothing")
                .remedy("take at least 1, better some hundred"));
        }
        let scale_learning_rate = raw.scale_learning_rate.unwrap_or(config.learning_rate.min(0.01));
        if !(scale_learning_rate > 0.0 && scale_learning_rate.is_finite()) {
            let problem = format!("{scale_learning_rate} is out of range");
            return refuse("scale_learning_rate", problem, "allowed: a positive number");
        }
        let choose_k_every = raw.choose_k_every.unwrap_or(100);
        if choose_k_every == 0 {
            return refuse("choose_k_every", "0 is too small".into(), "at least 1");
        }
        if !raw.progressive.iter().all(|b| (MIN_BITS..=MAX_BITS).contains(b))
            || !raw.progressive.iter().rev().is_sorted()
        {
            let problem = format!("{:?} are no bits of stages", raw.progressive);
            return refuse("progressive", problem, "write 2 to 8 for each, the largest first, as in [8, 4]");
        }
        if raw.progressive.len() >= config.epochs as usize {
            let problem = format!("{} stages and the last need as many epochs", raw.progressive.len());
            return refuse("progressive", problem, "raise `epochs`, or take fewer stages");
        }
        Ok(Self {
            config,
            activations: raw.activations,
            calibration: raw.calibration,
            init: raw.init,
            importance: raw.importance,
            choose_k_every,
            max_bytes: raw.max_bytes,
            progressive: raw.progressive,
            scale_learning_rate,
        })
    }
}

/// Divides the epochs of `[train]` between the phases, if `[qat]` asks for a share of them.
fn divide(raw: &RawQat, train: &mut TrainSpec, source: Source<'_>) -> Result<Option<u32>> {
    let Some(share) = raw.share else { return Ok(raw.epochs) };
    let refuse = |problem: String, remedy: &str| Err(source.error("qat", "share", problem).remedy(remedy));
    if raw.epochs.is_some() {
        return refuse("`epochs` says how long the phase is already".into(), "remove one of the two");
    }
    if !(share > 0.0 && share < 1.0) {
        return refuse(format!("{share} is out of range"), "allowed: between 0 and 1, both excluded");
    }
    if train.epochs < 2 {
        return refuse("there is one epoch to divide".into(), "raise `epochs` of [train]");
    }
    let quantised = ((train.epochs as f32 * share).round() as u32).clamp(1, train.epochs - 1);
    train.epochs -= quantised;
    Ok(Some(quantised))
}

/// The key of `[qat]` that an error of [`QatConfig::validate`] is about.
fn key_of(e: &qat_kernels::Error) -> &'static str {
    use qat_kernels::{Error as E, What};
    match e {
        E::Bits { .. } => "bits",
        E::Divisor { .. } | E::Group { .. } => "step",
        E::Range { what: What::Epochs, .. } => "epochs",
        E::NotPositive { what: What::LearningRate, .. } => "learning_rate",
        _ => "ste",
    }
}

/// The same check for the quantiser of one layer.
pub(super) fn check_layer_config(config: &QatConfig) -> Result<()> {
    config.validate().map_err(|e| Error::new(ErrorKind::Spec, e.to_string()).remedy("correct the value"))
}
