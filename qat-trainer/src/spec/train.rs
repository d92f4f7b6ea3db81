//! `[train]`: the floating-point phase, and what both phases share.

use super::Source;
use super::augment::Augment;
use crate::error::Result;
use serde::Deserialize;

/// `[train]`: the floating-point training that comes first. All but `epochs`, `lr` and `warm_up` holds for the quantised
/// phase too.
///
/// ```
/// use qat_trainer::spec::{Run, TrainSpec};
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// # model = { layers = [{ op = "linear", out = 2 }] }
/// [train]
/// epochs = 10
/// batch = 64
/// accumulate = 2
/// validation = 0.1
/// patience = 3
/// "#;
/// let train = Run::parse(toml, "run.toml".as_ref())?.train;
/// assert_eq!(train.batch * train.accumulate, 128); // examples of a step
/// let rest = TrainSpec::default();
/// assert_eq!(train, TrainSpec { epochs: 10, batch: 64, accumulate: 2, validation: 0.1, patience: 3, ..rest });
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSpec {
    /// Passes over the training split before quantisation; at least 1, default 30.
    pub epochs: u32,
    /// Examples per batch; at least 2 (batch normalisation needs two), default 128.
    pub batch: usize,
    /// Batches per step of the optimiser, whose gradients are averaged (gradient accumulation); at least 1, the default.
    pub accumulate: usize,
    /// What moves the parameters; default `"adamw"`.
    pub optimizer: Optimizer,
    /// What the weights are drawn from; default `"he"`.
    pub init: WeightInit,
    /// Peak learning rate; positive, default 2e-3.
    pub lr: f32,
    /// How the learning rate moves, in both phases; default `cosine`.
    pub schedule: Schedule,
    /// Epochs over which the learning rate rises from 0 at the start of the floating-point phase; may be a fraction,
    /// default 1.
    pub warm_up: f32,
    /// Weight decay, decoupled from the gradient by AdamW, part of it for SGD; default 1e-4.
    pub weight_decay: f32,
    /// Weight of each class in the loss: `"balanced"` for the inverse of its share of the training split, or one positive
    /// number per class in the order of the labels; default: all alike.
    pub class_weights: Option<ClassWeights>,
    /// Share of the target probability spread over all classes, 0 ≤ share < 1; default 0.
    pub label_smoothing: f32,
    /// Largest norm of all gradients together, beyond which they are scaled down; 0 for no limit, the default.
    pub clip_norm: f32,
    /// Decay per step of a running average of all parameters, which replaces them at the end of each phase; 0 ≤ decay
    /// < 1, 0 for none, the default.
    pub ema: f32,
    /// Random distortions of training examples; default none.
    pub augment: Augment,
    /// Share of the training split that is held back, drawn with the seed, to judge the state after each epoch; 0 ≤ share
    /// < 1, default 0.
    pub validation: f32,
    /// The state that a phase ends with: after its last epoch, `"last"`, the default; or `"best"`, that of the epoch with
    /// the smallest loss on the examples held back, which needs `validation`.
    pub keep: Keep,
    /// Epochs without a smaller loss on the examples held back after which a phase ends early; needs `validation`. 0 for
    /// never, the default.
    pub patience: u32,
    /// Seed of everything random: initial weights, order, augmentation; default 1.
    pub seed: u64,
}

/// The uniform distribution that a layer's weights are drawn from, given its inputs per output, n. Behind batch normalisation the
/// outputs do not depend on their scale, and the smaller the weights are the further a step of the same length turns them.
///
/// ```
/// use qat_trainer::spec::{Run, WeightInit};
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// # model = { layers = [{ op = "linear", out = 2 }] }
/// [train]
/// init = "torch"
/// "#;
/// assert_eq!(Run::parse(toml, "run.toml".as_ref())?.train.init, WeightInit::Torch);
/// assert_eq!(WeightInit::default(), WeightInit::He);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightInit {
    /// `"he"`: ±√(6/n) in front of a ReLU, which keeps the variance of its input (He et al. 2015), ±√(3/n) elsewhere (LeCun et
    /// al. 1998).
    #[default]
    He,
    /// `"torch"`: ±√(1/n), as PyTorch's layers begin.
    Torch,
}

/// How the learning rate moves after the warm-up.
///
/// ```
/// use qat_trainer::spec::{Run, Schedule};
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// # model = { layers = [{ op = "linear", out = 2 }] }
/// [train]
/// schedule = "linear"
/// "#;
/// assert_eq!(Run::parse(toml, "run.toml".as_ref())?.train.schedule, Schedule::Linear);
/// let e = Run::parse(&toml.replace("linear\"\n", "step\"\n"), "run.toml".as_ref()).unwrap_err();
/// assert!(e.to_string().contains("expected one of `constant`, `cosine`, `linear`"), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It falls to 0 along half a cosine.
    #[default]
    Cosine,
    /// It falls to 0 along a line.
    Linear,
}

/// The optimiser. TOML: `"adamw"`, or `{ sgd = { momentum = 0.9, nesterov = true } }`.
///
/// ```
/// use qat_trainer::spec::{Optimizer, Run, Sgd};
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// # model = { layers = [{ op = "linear", out = 2 }] }
/// [train]
/// optimizer = { sgd = { nesterov = true } }
/// lr = 0.1
/// "#;
/// let sgd = Optimizer::Sgd(Sgd { momentum: 0.9, nesterov: true });
/// assert_eq!(Run::parse(toml, "run.toml".as_ref())?.train.optimizer, sgd);
/// assert_eq!(Optimizer::default(), Optimizer::AdamW); // for which the default of `lr` is made
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// AdamW (Loshchilov & Hutter 2019) with β = (0.9, 0.999).
    #[default]
    #[serde(rename = "adamw")]
    AdamW,
    /// Stochastic gradient descent. The steps of quantisers keep AdamW: their gradients depend on the unit of the
    /// weights, and only relative steps suit all layers.
    Sgd(Sgd),
}

/// Stochastic gradient descent with momentum.
///
/// ```
/// use qat_trainer::spec::{Optimizer, Run, Sgd};
/// # let run = |optimizer: &str| Run::parse(&format!("data = {{ format = 'none', shape = [1, 1, 4] }}
/// # model = {{ layers = [{{ op = 'linear', out = 2 }}] }}
/// # train = {{ optimizer = {optimizer} }}"), "run.toml".as_ref());
/// // `run` is a run description with this optimiser.
/// let plain = Sgd { momentum: 0.0, ..Sgd::default() };
/// assert_eq!(run("{ sgd = { momentum = 0.0 } }")?.train.optimizer, Optimizer::Sgd(plain));
/// let e = run("{ sgd = { momentum = 1.0 } }").unwrap_err(); // would never forget
/// assert!(e.to_string().contains("momentum from 0 up to, not including, 1"), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sgd {
    /// Share of the velocity that a step keeps, 0 ≤ share < 1; default 0.9.
    pub momentum: f32,
    /// Whether the gradient is taken where the velocity leads (Nesterov); default false.
    pub nesterov: bool,
}

impl Default for Sgd {
    fn default() -> Self {
        Self { momentum: 0.9, nesterov: false }
    }
}

/// Weights of the classes in the loss.
///
/// ```
/// use qat_trainer::spec::{ClassWeights, Run};
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// # model = { layers = [{ op = "linear", out = 2 }] }
/// [train]
/// class_weights = [1.0, 20.0] # a missed fall is worse than a false alarm
/// "#;
/// let weights = Run::parse(toml, "run.toml".as_ref())?.train.class_weights;
/// assert_eq!(weights, Some(ClassWeights::Given(vec![1.0, 20.0])));
/// assert!(Run::parse(&toml.replace("20.0", "0.0"), "run.toml".as_ref()).is_err()); // must be positive
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected \"balanced\" or one number per class")]
pub enum ClassWeights {
    /// Such that every class counts the same in sum.
    Named(Balanced),
    /// As given.
    Given(Vec<f32>),
}

/// The one name among [`ClassWeights`].
///
/// ```
/// use qat_trainer::spec::{Balanced, ClassWeights, Run};
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// # model = { layers = [{ op = "linear", out = 2 }] }
/// [train]
/// class_weights = "balanced"
/// "#;
/// let weights = Run::parse(toml, "run.toml".as_ref())?.train.class_weights;
/// assert_eq!(weights, Some(ClassWeights::Named(Balanced::Balanced)));
/// let e = Run::parse(&toml.replace("balanced", "inverse"), "run.toml".as_ref()).unwrap_err();
/// assert!(e.to_string().contains("expected \"balanced\" or one number per class"), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balanced {
    /// `"balanced"`.
    Balanced,
}

/// Which state a phase ends with.
///
/// ```
/// use qat_trainer::spec::{Keep, Run};
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// # model = { layers = [{ op = "linear", out = 2 }] }
/// [train]
/// keep = "best"
/// validation = 0.1
/// "#;
/// assert_eq!(Run::parse(toml, "run.toml".as_ref())?.train.keep, Keep::Best);
/// let e = Run::parse(&toml.replace("0.1", "0.0"), "run.toml".as_ref()).unwrap_err();
/// assert!(e.to_string().contains("no examples are held back to judge by"), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// The last.
    #[default]
    Last,
    /// The best.
    Best,
}

impl Default for TrainSpec {
    fn default() -> Self {
        Self {
            epochs: 30,
            batch: 128,
            accumulate: 1,
            optimizer: Optimizer::default(),
            init: WeightInit::default(),
            lr: 2e-3,
            schedule: Schedule::default(),
            warm_up: 1.0,
            weight_decay: 1e-4,
            class_weights: None,
            label_smoothing: 0.0,
            clip_norm: 0.0,
            ema: 0.0,
            augment: Augment::default(),
            validation: 0.0,
            keep: Keep::default(),
            patience: 0,
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
        at_least("accumulate", self.accumulate as u64, 1)?;
        within(
            "validation",
            self.validation,
            (0.0..1.0).contains(&self.validation),
            "0 up to, not including, 1",
        )?;
        if let Optimizer::Sgd(Sgd { momentum, .. }) = self.optimizer {
            let allowed = "momentum from 0 up to, not including, 1";
            within("optimizer", momentum, (0.0..1.0).contains(&momentum), allowed)?;
        }
        if let Some(ClassWeights::Given(weights)) = &self.class_weights {
            weights.iter().try_for_each(|&w| within("class_weights", w, w > 0.0, "positive numbers"))?;
        }
        for (key, wanted) in [("keep", self.keep == Keep::Best), ("patience", self.patience > 0)] {
            if wanted && self.validation == 0.0 {
                return Err(source
                    .error("train", key, "no examples are held back to judge by")
                    .remedy("set validation = 0.1, or remove this key"));
            }
        }
        self.augment.validate(source)
    }
}
