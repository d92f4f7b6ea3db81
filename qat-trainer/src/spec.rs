//! The run description: one TOML file that says which data, which network, how to train and how to quantise.
//!
//! Every key is documented at the field it fills: [`DataSpec`], [`ModelSpec`], [`TrainSpec`], [`QatSpec`], [`DistillSpec`]. Unknown keys
//! are errors. Paths are relative to the TOML file, or to the folder that a key `base` at its top names.
//!
//! ```
//! let toml = r#"
//! [data]
//! format = "csv"
//! train = "train.csv"
//! test = "test.csv"
//!
//! [model]
//! layers = [
//!   { op = "linear", out = 32, bn = true, act = "relu", bits = 8 },
//!   { op = "linear", out = 32, bn = true, act = "relu" },
//!   { op = "linear", out = 3, bits = 8 },
//! ]
//!
//! [qat]
//! bits = 2
//! grid = "mid-rise"
//! step = { pi = { k = 3 } }
//! epochs = 5
//! "#;
//! let run = qat_trainer::spec::Run::parse(toml, "run.toml".as_ref())?;
//! assert_eq!(run.model.layers.len(), 3);
//! assert_eq!(run.qat.config.bits, 2);
//! # Ok::<(), qat_trainer::Error>(())
//! ```

mod augment;
mod data;
mod distill;
mod geometry;
mod layered;
mod layers;
mod llm;
mod model;
mod origins;
mod qat;
mod store;
mod train;

pub use augment::Augment;
pub use data::{Column, DataSpec, Files, Layout, SplitRule, TestHalf};
pub use distill::{DistillSpec, Divergence, Feature, FeatureLoss, TeacherSource};
pub use geometry::{Padding, Shape, Window};
pub use layered::Layers;
pub use llm::{
    ArithmeticSpec, BLOCK_MATRICES, Delimiters, LlmDataSpec, LlmDistillSpec, LlmFiles, LlmLoraSpec,
    LlmModelSpec, LlmQatSpec, LlmRun, LlmTrainSpec, LoraMode, ModelShape, ReasoningSpec,
};
pub use model::{Act, LayerSpec, ModelSpec, Op, Task, Value, WeightQuant};
pub use qat::{ActivationQuant, Calibration, Importance, QatSpec};
pub use qat_kernels::calibration::CalibrationMethod;
pub use train::{Balanced, ClassWeights, Keep, Optimizer, Schedule, Sgd, TrainSpec, WeightInit};

use crate::error::{Error, ErrorKind, Result};
use origins::Origins;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use store::relative_path;

/// A whole run description.
///
/// ```
/// use qat_trainer::spec::Run;
/// let toml = r#"
/// base = "../data"
/// data = { format = "csv", train = "train.csv", test = "test.csv" }
/// model = { layers = [{ op = "linear", out = 3 }] }
/// "#;
/// let run = Run::parse(toml, "configs/iris.toml".as_ref())?;
/// assert_eq!((run.name.as_str(), run.base), ("iris", "configs/../data".into()));
/// assert_eq!((run.text.as_str(), run.distill), (toml, None));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Name of the model, written into its file. TOML: `name`; default: the name of the TOML file without its ending.
    pub name: String,
    /// Where the run description was read from; errors name it.
    pub file: PathBuf,
    /// The text it was read from.
    pub text: String,
    /// The folder that relative paths start from. TOML: `base`, itself relative to the folder of the TOML file; default:
    /// that folder.
    pub base: PathBuf,
    /// `[data]`.
    pub data: DataSpec,
    /// `[model]`.
    pub model: ModelSpec,
    /// `[train]`.
    pub train: TrainSpec,
    /// `[qat]`.
    pub qat: QatSpec,
    /// `[distill]`, if it is there.
    pub distill: Option<DistillSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRun {
    name: Option<String>,
    base: Option<PathBuf>,
    data: toml::Spanned<data::RawData>,
    model: layers::RawModel,
    #[serde(default)]
    train: TrainSpec,
    #[serde(default)]
    qat: qat::RawQat,
    distill: Option<distill::RawDistill>,
}

impl Run {
    /// Reads a run description from a file, and those that it extends.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if a file cannot be read, [`ErrorKind::Spec`] with line and key otherwise.
    ///
    /// ```
    /// use qat_trainer::{ErrorKind, spec::Run};
    /// # let dir = tempfile::tempdir()?;
    /// # let folder = dir.path();
    /// std::fs::write(folder.join("mine.toml"), "preset = 'autoencoder'\nname = 'longer'\ntrain.epochs = 70\n")?;
    /// std::fs::write(folder.join("again.toml"), "extends = 'mine.toml'\ntrain.seed = 2\n")?;
    /// let run = Run::load(folder.join("again.toml"))?;
    /// assert_eq!((run.name.as_str(), run.train.epochs, run.train.seed), ("longer", 70, 2));
    /// assert_eq!(Run::load(folder.join("none.toml")).unwrap_err().kind(), ErrorKind::Io);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::layered(Layers { file: Some(path.as_ref()), ..Layers::default() })
    }

    /// Reads a run description from `text`; `path` is the file it stands for, from which relative paths start.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] with line and key.
    ///
    /// ```
    /// use qat_trainer::{ErrorKind, spec::Run};
    /// let toml = "[data]\nformat = 'none'\nshape = [1, 1, 2]\n[model]\nlayer = []\n";
    /// let e = Run::parse(toml, "run.toml".as_ref()).unwrap_err();
    /// assert_eq!(e.kind(), ErrorKind::Spec);
    /// assert!(e.to_string().starts_with("run.toml: line 5: unknown field `layer`"), "{e}");
    /// ```
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::from_source(Source { text, origins: None }, path, folder.into())
    }

    /// `folder` is where `base` starts, and paths if there is no `base`.
    fn from_source(source: Source<'_>, path: &Path, folder: PathBuf) -> Result<Self> {
        let raw: RawRun = parsed(source, path)?;
        let name = checked_name(raw.name, source, path)?;
        let base = raw.base.map_or_else(|| folder.clone(), |base| folder.join(base));
        let parts = || -> Result<_> {
            let data = DataSpec::from_raw(raw.data, &base, source)?;
            let mut train = raw.train;
            train.validate(source)?;
            let activation_bits = raw.qat.activation_bits(source)?;
            let qat = QatSpec::from_raw(raw.qat, &mut train, source)?;
            let defaults = model::Defaults { config: qat.config, activation_bits };
            let model = ModelSpec::from_raw(raw.model, defaults, source)?;
            let distill = raw.distill.map(|d| DistillSpec::from_raw(d, &model, &base, source)).transpose()?;
            Ok((data, model, train, qat, distill))
        };
        let (data, model, train, qat, distill) = parts().map_err(|e| e.file(path))?;
        Ok(Self { name, file: path.into(), text: source.text.into(), base, data, model, train, qat, distill })
    }
}

/// The keys of a run description, unchecked.
fn parsed<T: serde::de::DeserializeOwned>(source: Source<'_>, path: &Path) -> Result<T> {
    toml::from_str(source.text).map_err(|e| {
        let at = e.span().map_or_else(|| "top".into(), |span| source.place(span.start));
        Error::new(ErrorKind::Spec, e.message())
            .place(at)
            .file(path)
            .remedy("correct this line of the run description")
    })
}

/// The name of a run: the one given, or that of the file at `path`.
fn checked_name(given: Option<String>, source: Source<'_>, path: &Path) -> Result<String> {
    let name = given.unwrap_or_else(|| {
        path.file_stem().map_or_else(|| "model".into(), |stem| stem.to_string_lossy().into_owned())
    });
    if name.is_empty() || name.len() > 64 {
        return Err(source
            .error("", "name", "the name is empty or longer than 64 bytes")
            .file(path)
            .remedy("give a short name"));
    }
    Ok(name)
}

/// The text of a run description file.
fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
    String::from_utf8(bytes).map_err(|e| {
        Error::new(ErrorKind::Spec, "the run description is not UTF-8 text")
            .file(path)
            .place(format!("byte {}", e.utf8_error().valid_up_to()))
            .remedy("save it as UTF-8")
    })
}

/// The TOML text, for turning byte offsets and keys into line numbers.
#[derive(Clone, Copy)]
struct Source<'a> {
    text: &'a str,
    /// Of a merged text: where its keys come from.
    origins: Option<&'a Origins>,
}

impl Source<'_> {
    /// "line 3" for a byte offset, "line 3 of FILE" in a merged text.
    fn place(self, offset: usize) -> String {
        match self.origins {
            Some(origins) => origins.place_at(self.text, offset),
            None => format!("line {}", origins::line(self.text, offset)),
        }
    }

    /// An error about `key` of `[section]` (empty: the top level), with its line.
    ///
    /// Values are checked after the whole file has been read, when the parser's positions are gone; looking the key up
    /// in the text is exact for the usual `key = value` lines and falls back to the section's header.
    fn error(self, section: &str, key: &str, problem: impl Into<String>) -> Error {
        let place = match self.origins {
            Some(origins) if section.is_empty() => Some(origins.place(&[key])),
            Some(origins) => Some(origins.place(&[section, key])),
            None => self.line(section, key).map(|line| format!("line {line}")),
        };
        let key = if section.is_empty() { format!("`{key}`") } else { format!("`{key}` of [{section}]") };
        let place = place.map_or_else(|| key.clone(), |place| format!("{place}, {key}"));
        Error::new(ErrorKind::Spec, problem).place(place)
    }

    fn line(self, section: &str, key: &str) -> Option<usize> {
        let header = format!("[{section}]");
        let mut inside = section.is_empty();
        let mut line = None;
        for (i, text) in self.text.lines().enumerate() {
            let text = text.trim_start();
            if text.starts_with('[') {
                inside = text.starts_with(&header);
                if inside {
                    line = Some(i + 1);
                }
            } else if inside && text.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
            {
                line = Some(i + 1);
                break;
            }
        }
        line
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const MLP: &str = r#"
[data]
format = "csv"
train = "train.csv"
test = "test.csv"

[model]
layers = [
  { op = "linear", out = 8, bn = true, act = "relu", bits = 8 },
  { op = "linear", out = 3 },
]

[train]
epochs = 3

[qat]
bits = 2
"#;

    fn error(text: &str) -> String {
        Run::parse(text, Path::new("dir/run.toml")).unwrap_err().to_string()
    }

    #[test]
    fn defaults_and_paths() {
        let run = Run::parse(MLP, Path::new("dir/run.toml")).unwrap();
        assert_eq!(run.name, "run");
        let Files::Csv { train, .. } = &run.data.files else { panic!("{:?}", run.data) };
        assert_eq!(train, Path::new("dir/train.csv"));
        assert_eq!(run.train.epochs, 3);
        assert_eq!(run.train.batch, TrainSpec::default().batch);
    }

    #[test]
    fn every_mistake_names_file_line_and_key() {
        let cases = [
            ("epochs = 3", "epoch = 3", ["line 14", "unknown field `epoch`"]),
            ("epochs = 3", "epochs = 0", ["line 14", "`epochs` of [train]"]),
            ("epochs = 3", "epochs = \"three\"", ["line 14", "expected u32"]),
            ("epochs = 3", "lr = -1.0", ["line 14", "`lr` of [train]"]),
            ("bits = 2\n", "bits = 9\n", ["line 17", "2 to 8"]),
            ("bits = 2\n", "step = { pi = { k = 7 } }\n", ["line 17", "k = 7"]),
            ("out = 3 }", "out = 3, kernel = 3 }", ["line 10", "`kernel` has no meaning"]),
            ("out = 3 }", "out = 3, wat = 3 }", ["line 10", "unknown field `wat`"]),
            ("out = 3 }", "out = 0 }", ["line 10", "`out`"]),
            ("out = 3 }", "out = 3, bits = 1 }", ["line 10", "2 to 8"]),
            ("out = 3 }", "out = 3, input = \"nowhere\" }", ["line 10", "`nowhere`"]),
            ("format = \"csv\"", "format = \"csv\"\nresize = [4, 4]", ["line 4", "`resize`"]),
            ("test = \"test.csv\"", "", ["line 2", "`test` is missing"]),
            (
                "test = \"test.csv\"",
                "test = \"t\"\nclasses = [\"A\", \"A\"]",
                ["line 6", "`A` is there twice"],
            ),
            ("test = \"test.csv\"", "test = \"t\"\nclasses = [\"A\", \"\"]", ["line 6", "name 1 is empty"]),
            ("\n[data]", "name = \"\"\n[data]", ["line 1", "`name`"]),
            ("[data]", "[data", ["line 2", ""]),
        ];
        for (from, to, wants) in cases {
            let text = MLP.replacen(from, to, 1);
            assert_ne!(text, MLP, "{from}");
            let e = error(&text);
            assert!(e.starts_with("dir/run.toml: "), "{e}");
            assert!(!e.contains('\n'), "{e}");
            for want in wants {
                assert!(e.contains(want), "{to}: {e} lacks {want}");
            }
        }
    }
}
