//! The run description of a language model: which texts or problems, which decoder, how to train.
//!
//! ```
//! let toml = r#"
//! [data]
//! format = "arithmetic"
//!
//! [model]
//! layers = 2
//! hidden = 64
//! heads = 4
//! mlp = 128
//!
//! [train]
//! steps = 1000
//! "#;
//! let run = qat_trainer::spec::LlmRun::parse(toml, "sums.toml".as_ref())?;
//! assert_eq!((run.name.as_str(), run.train.steps), ("sums", 1000));
//! # Ok::<(), qat_trainer::Error>(())
//! ```

mod data;
mod distill;
mod lora;
mod model;
mod qat;
mod train;

pub use data::{ArithmeticSpec, Delimiters, LlmDataSpec, LlmFiles};
pub use distill::{LlmDistillSpec, ReasoningSpec};
pub use lora::{BLOCK_MATRICES, LlmLoraSpec, LoraMode};
pub use model::{LlmModelSpec, ModelShape};
pub use qat::LlmQatSpec;
pub use train::LlmTrainSpec;

use super::{Source, checked_name, parsed};
use crate::error::Result;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A whole run description of a language model. Unknown keys are errors. Paths are relative to the TOML file, or to the folder
/// that a key `base` at its top names.
#[derive(Clone, Debug, PartialEq)]
pub struct LlmRun {
    /// Name of the run. TOML: `name`; default: the name of the TOML file without its ending.
    pub name: String,
    /// Where the run description was read from; errors name it.
    pub file: PathBuf,
    /// The text it was read from.
    pub text: String,
    /// The folder that relative paths start from.
    pub base: PathBuf,
    /// `[data]`.
    pub data: LlmDataSpec,
    /// `[model]`.
    pub model: LlmModelSpec,
    /// `[train]`.
    pub train: LlmTrainSpec,
    /// `[qat]`, if it is there.
    pub qat: Option<LlmQatSpec>,
    /// `[lora]`, if it is there.
    pub lora: Option<LlmLoraSpec>,
    /// `[distill]`, if it is there.
    pub distill: Option<LlmDistillSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRun {
    name: Option<String>,
    base: Option<PathBuf>,
    data: data::RawData,
    model: model::RawModel,
    train: LlmTrainSpec,
    qat: Option<qat::RawQat>,
    lora: Option<lora::RawLora>,
    distill: Option<distill::RawDistill>,
}

impl LlmRun {
    /// Reads a run description from `text`; `path` is the file it stands for, from which relative paths start.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Spec`] with line and key.
    ///
    /// ```
    /// use qat_trainer::{ErrorKind, spec::LlmRun};
    /// let toml = r#"
    /// data = { format = "arithmetic" }
    /// model = { layers = 1, hidden = 16, heads = 2, mlp = 32 }
    /// train = { steps = 100 }
    /// "#;
    /// let run = LlmRun::parse(toml, "configs/sums.toml".as_ref())?;
    /// assert_eq!((run.name.as_str(), run.base.as_path()), ("sums", "configs".as_ref()));
    /// assert!(run.qat.is_none() && run.lora.is_none() && run.distill.is_none());
    /// let e = LlmRun::parse(&toml.replace("steps", "step"), "sums.toml".as_ref()).unwrap_err();
    /// assert_eq!(e.kind(), ErrorKind::Spec);
    /// assert!(e.to_string().starts_with("sums.toml: line 4: unknown field `step`"), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::from_source(Source { text, origins: None }, path, folder.into())
    }

    pub(super) fn from_source(source: Source<'_>, path: &Path, folder: PathBuf) -> Result<Self> {
        let raw: RawRun = parsed(source, path)?;
        let name = checked_name(raw.name, source, path)?;
        let base = raw.base.map_or_else(|| folder.clone(), |base| folder.join(base));
        let parts = || -> Result<_> {
            let data = LlmDataSpec::from_raw(raw.data, &base, source)?;
            let model = LlmModelSpec::from_raw(raw.model, &base, source)?;
            raw.train.validate(source)?;
            let qat = raw.qat.map(|qat| LlmQatSpec::from_raw(qat, &base, source)).transpose()?;
            let lora = raw.lora.map(|l| LlmLoraSpec::from_raw(l, qat.as_ref(), source)).transpose()?;
            let distill = raw.distill.map(|d| LlmDistillSpec::from_raw(d, &base, source)).transpose()?;
            Ok((data, model, raw.train, qat, lora, distill))
        };
        let (data, model, train, qat, lora, distill) = parts().map_err(|e| e.file(path))?;
        let (file, text) = (path.into(), source.text.into());
        Ok(Self { name, file, text, base, data, model, train, qat, lora, distill })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::spec::Schedule;

    pub(crate) const SUMS: &str = r#"
[data]
format = "arithmetic"
problems = 60
held_out = 10
window = 64

[model]
layers = 1
hidden = 16
heads = 2
mlp = 32

[train]
steps = 6
batch = 4
"#;

    fn error(text: &str) -> String {
        LlmRun::parse(text, Path::new("dir/sums.toml")).unwrap_err().to_string()
    }

    #[test]
    fn defaults_and_paths() {
        let run = LlmRun::parse(SUMS, Path::new("dir/sums.toml")).unwrap();
        assert_eq!((run.train.batch, run.train.accumulate, run.train.schedule), (4, 1, Schedule::Cosine));
        let LlmModelSpec::Shape(shape) = &run.model else { panic!("{:?}", run.model) };
        assert_eq!((shape.kv_heads, shape.context), (2, 64));
        let text = SUMS.replace(
            "format = \"arithmetic\"\nproblems = 60\nheld_out = 10",
            "format = \"text\"\ntrain = [\"a\"]\nheld_out = [\"b\"]",
        );
        let LlmFiles::Text { train, held_out, equal: false } =
            LlmRun::parse(&text, Path::new("dir/t.toml")).unwrap().data.files
        else {
            panic!()
        };
        assert_eq!((train, held_out), (vec!["dir/a".into()], vec!["dir/b".into()]));
    }

    #[test]
    fn every_mistake_names_file_line_and_key() {
        for (from, to, wants) in [
            ("steps = 6", "steps = 0", ["line 15", "`steps` of [train]"]),
            ("steps = 6", "step = 6", ["line 15", "unknown field `step`"]),
            ("batch = 4", "lr = -1.0", ["line 16", "`lr` of [train]"]),
            ("batch = 4", "clip_norm = -1.0", ["line 16", "`clip_norm` of [train]"]),
            ("window = 64", "window = 1", ["line 6", "`window` of [data]"]),
            ("problems = 60", "problems = 0", ["line 4", "`problems` of [data]"]),
            ("problems = 60", "train = [\"a\"]", ["line 4", "`train` has no meaning"]),
            ("problems = 60", "equal = true", ["line 4", "`equal` has no meaning"]),
            ("\"arithmetic\"", "\"poems\"", ["line 3", "unknown variant `poems`"]),
            ("\"arithmetic\"", "\"jsonl\"", ["line 4", "`problems` has no meaning"]),
            ("heads = 2", "heads = 3", ["line 11", "16 is not divided by 3 heads"]),
            ("heads = 2", "from = \"x\"", ["line 9", "`layers` has no meaning"]),
            ("batch = 4", "[distill]\nteacher = \"t\"\ntemperature = 0.0", ["line 18", "above 0"]),
            ("batch = 4", "[distill]\nteacher = \"t\"\nreasoning = { steps = -1.0 }", ["line 18", "-1"]),
            ("batch = 4", "[qat]\nbits = 9", ["line 17", "allowed: 2 to 8"]),
            ("batch = 4", "[qat]\nbits = 2\nstep = { pi = { k = 7 } }", ["line 18", "k = 7"]),
            (
                "batch = 4",
                "[qat]\nbits = 2\nstep = { pi-adaptive = { group = 7 } }",
                ["line 18", "groups of 7"],
            ),
            ("batch = 4", "[qat]\nbits = 2\nblock = 0", ["line 18", "`block` of [qat]"]),
            ("batch = 4", "[lora]\nrank = 4", ["line 16", "there is no [qat]"]),
            ("batch = 4", "[qat]\nbits = 2\n[lora]\nrank = 0", ["line 19", "`rank` of [lora]"]),
            ("batch = 4", "[qat]\nbits = 2\n[lora]\nalpha = -1.0", ["line 19", "above 0"]),
            ("batch = 4", "[qat]\nbits = 2\n[lora]\nr = 4", ["line 19", "unknown field `r`"]),
            ("batch = 4", "[qat]\nbits = 2\n[lora]\nmode = \"thin\"", ["line 19", "unknown variant `thin`"]),
            (
                "batch = 4",
                "[qat]\nbits = 2\n[lora]\ntargets = [\"head\"]",
                ["line 19", "choose among q_proj"],
            ),
            (
                "batch = 4",
                "[qat]\nbits = 2\n[lora]\nmode = \"scales\"\nrank = 4",
                ["line 20", "no meaning for scales"],
            ),
            (
                "batch = 4",
                "[qat]\nbits = 2\ncodes = \"c\"\n[lora]\nmode = \"merged\"",
                ["line 18", "`codes` of [qat]"],
            ),
            ("batch = 4", "[qat]\nbits = 2\ntable_bits = 8\n[lora]", ["line 18", "`table_bits` of [qat]"]),
            ("mlp = 32", "", ["line 8", "`mlp` is missing"]),
        ] {
            let text = SUMS.replacen(from, to, 1);
            assert_ne!(text, SUMS, "{from}");
            let e = error(&text);
            assert!(e.starts_with("dir/sums.toml: "), "{e}");
            for want in wants {
                assert!(e.contains(want), "{to}: {e} lacks {want}");
            }
        }
    }
}
