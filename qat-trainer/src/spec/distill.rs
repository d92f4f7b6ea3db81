//! `[distill]`: learning from a teacher in the quantised phase.

use super::{ModelSpec, Source};
use crate::error::Result;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A teacher, and what is learned from it. Without `[distill]` there is none.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TeacherSource {
    /// `"self"`: the floating-point network that the first phase trained.
    Own,
    /// The floating-point network of a run folder, of this or another architecture, trained on the same data.
    Run(PathBuf),
}

/// How the student's answers are held against the teacher's.
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
