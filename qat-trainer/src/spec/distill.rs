//! `[distill]`: learning from a teacher in the quantised phase.

use super::{ModelSpec, Source};
use crate::error::Result;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A teacher, and what is learned from it. Without `[distill]` there is none.
///
/// ```
/// use qat_trainer::spec::{DistillSpec, Divergence, Run, TeacherSource};
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// # model = { layers = [{ op = "linear", out = 2 }] }
/// [distill]
/// teacher = "../runs/large"
/// task_weight = 0.5
/// "#;
/// let distill = DistillSpec {
///     teacher: TeacherSource::Run("configs/../runs/large".into()),
///     task_weight: 0.5,
///     weight: 1.0,
///     temperature: 2.0,
///     divergence: Divergence::Kl,
///     features: vec![],
/// };
/// assert_eq!(Run::parse(toml, "configs/run.toml".as_ref())?.distill, Some(distill));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DistillSpec {
    /// The teacher.
    pub teacher: TeacherSource,
    /// Weight of the task's own loss, 0 or more. TOML: `task_weight`, default 1.
    pub task_weight: f32,
    /// Weight of the answers' divergence, 0 or more. TOML: `weight`, default 1.
    pub weight: f32,
    /// Temperature of the answers, positive. TOML: `temperature`, default 2.
    pub temperature: f32,
    /// How answers are held against each other. TOML: `divergence = "kl"` (default) or `"confidence-aware"`.
    pub divergence: Divergence,
    /// Layers whose outputs are to agree. TOML: `features = [{ student = "conv3", teacher = "conv5", weight = 1.0, loss =
    /// "mse" }]`; default none.
    pub features: Vec<Feature>,
}

/// Where the teacher comes from. TOML: `teacher`.
///
/// ```
/// use qat_trainer::spec::{Run, TeacherSource};
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// # model = { layers = [{ op = "linear", out = 2 }] }
/// [distill]
/// teacher = "self"
/// "#;
/// let teacher = |toml: &str| Run::parse(toml, "run.toml".as_ref()).map(|run| run.distill.map(|d| d.teacher));
/// assert_eq!(teacher(toml)?, Some(TeacherSource::Own)); // no folder of that name, which is
/// assert_eq!(teacher(&toml.replace("self", "./self"))?, Some(TeacherSource::Run("./self".into())));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TeacherSource {
    /// `"self"`: the floating-point network that the first phase trained.
    Own,
    /// The floating-point network of a run folder, of this or another architecture, trained on the same data.
    Run(PathBuf),
}

/// How the student's answers are held against the teacher's.
///
/// ```
/// use qat_trainer::spec::{Divergence, Run};
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// # model = { layers = [{ op = "linear", out = 2 }] }
/// [distill]
/// teacher = "self"
/// divergence = "confidence-aware"
/// "#;
/// let distill = Run::parse(toml, "run.toml".as_ref())?.distill;
/// assert_eq!(distill.map(|distill| distill.divergence), Some(Divergence::ConfidenceAware));
/// assert_eq!(Divergence::default(), Divergence::Kl);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Divergence {
    /// `KL(teacher ‖ student)` (Hinton et al. 2015): the student covers all that the teacher holds possible.
    #[default]
    Kl,
    /// Confidence-aware, `γ·KL(student ‖ teacher) + (1 − γ)·KL(teacher ‖ student)` with γ the teacher's mean probability
    /// of the labels (Du et al. 2024, equation 6): where the teacher is sure the student seeks its mode, where it is not
    /// it covers it.
    ConfidenceAware,
}

/// A layer of the student that is to agree with one of the teacher.
///
/// ```
/// use qat_trainer::spec::{Feature, FeatureLoss, Run};
/// let toml = r#"
/// data = { format = "none", shape = [1, 1, 4] }
/// model = { layers = [{ op = "linear", name = "hidden", out = 8, act = "relu" }, { op = "linear", out = 2 }] }
/// distill = { teacher = "runs/large", features = [{ student = "hidden", teacher = "hidden3" }] }
/// "#;
/// let [student, teacher] = ["hidden", "hidden3"].map(String::from);
/// let feature = Feature { student, teacher, weight: 1.0, loss: FeatureLoss::Mse };
/// let distill = Run::parse(toml, "run.toml".as_ref())?.distill;
/// assert_eq!(distill.map(|distill| distill.features), Some(vec![feature]));
/// // The student is here, so that a slip in its layer's name is found at once.
/// let e = Run::parse(&toml.replace(r#"name = "hidden""#, r#"name = "h""#), "run.toml".as_ref()).unwrap_err();
/// assert!(e.to_string().contains("no layer of [model] is called `hidden`"), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// Name of the student's layer.
    pub student: String,
    /// Name of the teacher's layer.
    pub teacher: String,
    /// Weight of the loss, 0 or more; default 1.
    #[serde(default = "one")]
    pub weight: f32,
    /// The loss; default `"mse"`.
    #[serde(default)]
    pub loss: FeatureLoss,
}

/// How the outputs of two layers are held against each other.
///
/// ```
/// use qat_trainer::spec::{FeatureLoss, Run};
/// let toml = r#"
/// # data = { format = "none", shape = [1, 1, 4] }
/// # model = { layers = [{ op = "linear", name = "wide", out = 8 }, { op = "linear", name = "last", out = 2 }] }
/// [distill]
/// teacher = "runs/large"
/// features = [
///   { student = "wide", teacher = "wider", loss = "similarity" }, # 8 features against 64
///   { student = "last", teacher = "last" },
/// ]
/// "#;
/// let features = Run::parse(toml, "run.toml".as_ref())?.distill.map_or(vec![], |distill| distill.features);
/// assert!(features.iter().map(|feature| feature.loss).eq([FeatureLoss::Similarity, FeatureLoss::Mse]));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeatureLoss {
    /// Mean squared difference over the teacher's mean square, for layers of one shape (Romero et al. 2015).
    #[default]
    Mse,
    /// Mean squared difference of the examples' similarities to each other, for layers of any shapes (Tung & Mori 2019,
    /// equation 4): `‖G_S − G_T‖²/b²`, G the rows of `A·Aᵀ` scaled to length 1, A the outputs as rows.
    Similarity,
}

fn one() -> f32 {
    1.0
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDistill {
    teacher: String,
    #[serde(default = "one")]
    task_weight: f32,
    #[serde(default = "one")]
    weight: f32,
    #[serde(default = "two")]
    temperature: f32,
    #[serde(default)]
    divergence: Divergence,
    #[serde(default)]
    features: Vec<Feature>,
}

fn two() -> f32 {
    2.0
}

impl DistillSpec {
    /// What `teacher` is where the network teaches itself.
    pub(super) const SELF: &'static str = "self";

    /// `model` is the student, `base` where paths start.
    pub(super) fn from_raw(
        raw: RawDistill,
        model: &ModelSpec,
        base: &Path,
        source: Source<'_>,
    ) -> Result<Self> {
        let refuse = |key: &str, problem: String, remedy: &str| {
            Err(source.error("distill", key, problem).remedy(remedy))
        };
        if !(raw.temperature > 0.0 && raw.temperature.is_finite()) {
            return refuse("temperature", format!("{} is out of range", raw.temperature), "allowed: above 0");
        }
        for (key, weight) in [("weight", raw.weight), ("task_weight", raw.task_weight)]
            .into_iter()
            .chain(raw.features.iter().map(|f| ("features", f.weight)))
        {
            if !(weight >= 0.0 && weight.is_finite()) {
                return refuse(key, format!("a weight of {weight} is out of range"), "allowed: 0 or more");
            }
        }
        for feature in &raw.features {
            if !model.layers.iter().any(|l| l.name == feature.student) {
                let problem = format!("no layer of [model] is called `{}`", feature.student);
                return refuse("features", problem, "give that layer a `name`, or correct this one");
            }
        }
        let teacher = match raw.teacher.as_str() {
            "" => return refuse("teacher", "no teacher is named".into(), "write a run folder, or \"self\""),
            Self::SELF => TeacherSource::Own,
            folder => TeacherSource::Run(base.join(folder)),
        };
        let RawDistill { task_weight, weight, temperature, divergence, features, .. } = raw;
        Ok(Self { teacher, task_weight, weight, temperature, divergence, features })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Run, tests::MLP};

    fn parse(section: &str) -> Result<Run> {
        Run::parse(&format!("{MLP}\n[distill]\n{section}\n"), Path::new("dir/run.toml"))
    }

    #[test]
    fn keys_and_defaults() {
        let run =
            parse("teacher = \"../big\"\nfeatures = [{ student = \"linear0\", teacher = \"x\" }]").unwrap();
        let d = run.distill.unwrap();
        assert_eq!(d.teacher, TeacherSource::Run("dir/../big".into()));
        assert_eq!((d.weight, d.task_weight, d.temperature, d.divergence), (1.0, 1.0, 2.0, Divergence::Kl));
        assert_eq!((d.features[0].weight, d.features[0].loss), (1.0, FeatureLoss::Mse));
        let own = parse("teacher = \"self\"\ndivergence = \"confidence-aware\"").unwrap().distill.unwrap();
        assert_eq!((own.teacher, own.divergence), (TeacherSource::Own, Divergence::ConfidenceAware));
        assert_eq!(Run::parse(MLP, Path::new("run.toml")).unwrap().distill, None);
    }

    #[test]
    fn every_mistake_names_line_and_key() {
        let line = MLP.lines().count() + 4;
        for (section, wants) in [
            ("teacher = \"\"", ["`teacher` of [distill]", "no teacher"]),
            ("teacher = \"self\"\ntemperature = 0.0", ["`temperature` of [distill]", "above 0"]),
            ("teacher = \"self\"\nweight = -1.0", ["`weight` of [distill]", "-1"]),
            ("teacher = \"self\"\ntemprature = 1.0", ["unknown field `temprature`", "temperature"]),
            (
                "teacher = \"self\"\nfeatures = [{ student = \"nobody\", teacher = \"x\" }]",
                ["`features` of [distill]", "`nobody`"],
            ),
        ] {
            let e = parse(section).unwrap_err().to_string();
            assert!(e.starts_with("dir/run.toml: line ") && wants.iter().all(|w| e.contains(w)), "{e}");
            assert!(section.contains('\n') != e.contains(&format!("line {}", line - 1)), "{e}");
        }
        assert!(parse("temperature = 1.0").unwrap_err().to_string().contains("teacher"));
    }
}
