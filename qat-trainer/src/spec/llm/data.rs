//! `[data]` of a language model.

use crate::error::Result;
use crate::spec::Source;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What is learned, and what it is judged by.
///
/// ```
/// use qat_trainer::spec::LlmRun;
/// let toml = r#"
/// # model = { from = "model" }
/// # train = { steps = 100 }
/// [data]
/// format = "text"
/// train = ["a.txt", "b.txt"]
/// window = 512
/// "#;
/// assert_eq!(LlmRun::parse(toml, "run.toml".as_ref())?.data.window, 512); // tokens
/// let e = LlmRun::parse(&toml.replace("512", "1"), "run.toml".as_ref()).unwrap_err();
/// assert!(e.to_string().contains("1 tokens predict nothing"), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LlmDataSpec {
    /// Where it comes from.
    pub files: LlmFiles,
    /// Tokens of an example: texts are cut into as many, other examples have at most as many. TOML: `window`, at least 2,
    /// default 256.
    pub window: usize,
}

/// Where examples come from. TOML: `format`, and the keys of each.
///
/// ```
/// use qat_trainer::spec::{LlmFiles, LlmRun};
/// let toml = r#"
/// # model = { from = "model" }
/// # train = { steps = 100 }
/// [data]
/// format = "jsonl"
/// train = ["problems.jsonl"]
/// held_out = ["others.jsonl"]
/// "#;
/// let [train, held_out] = ["problems", "others"].map(|name| vec![format!("data/{name}.jsonl").into()]);
/// let files = LlmFiles::Jsonl { train, held_out, delimiters: None };
/// assert_eq!(LlmRun::parse(toml, "data/run.toml".as_ref())?.data.files, files); // beside the TOML file
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum LlmFiles {
    /// `"text"`: UTF-8 files, cut into windows one after the other. TOML: `train` and `held_out`, lists of files, and `equal`.
    Text {
        /// To learn from.
        train: Vec<PathBuf>,
        /// To judge by.
        held_out: Vec<PathBuf>,
        /// Whether as many windows are used of each file to learn from as the one with the fewest has, evenly spread over it; default
        /// false: all of them.
        equal: bool,
    },
    /// `"jsonl"`: an example a line, either `{"question": …, "steps": [ … ], "answer": …}` or `{"text": …}`, which the
    /// delimiters cut into those parts. TOML: `train`, `held_out`, `delimiters`.
    Jsonl {
        /// To learn from.
        train: Vec<PathBuf>,
        /// To judge by.
        held_out: Vec<PathBuf>,
        /// Where the parts of a `text` end; without them all of it is learned alike.
        delimiters: Option<Delimiters>,
    },
    /// `"arithmetic"`: generated problems with written-out steps, see [`crate::llm::arithmetic`].
    Arithmetic(ArithmeticSpec),
}

/// Texts that part a text into question, steps of reasoning, and answer.
///
/// ```
/// use qat_trainer::spec::{Delimiters, LlmFiles, LlmRun};
/// let toml = r#"
/// # model = { from = "model" }
/// # train = { steps = 100 }
/// [data]
/// format = "jsonl"
/// train = ["problems.jsonl"]
/// delimiters = { reasoning = "<think>", step = ";", answer = "=>" }
/// "#;
/// let [reasoning, step, answer] = ["<think>", ";", "=>"].map(String::from);
/// let parts = Delimiters { reasoning, step, answer };
/// let files = LlmRun::parse(toml, "run.toml".as_ref())?.data.files;
/// assert!(matches!(files, LlmFiles::Jsonl { delimiters: Some(found), .. } if found == parts));
/// assert!(LlmRun::parse(&toml.replace(';', ""), "run.toml".as_ref()).is_err()); // nothing ends a step
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delimiters {
    /// The question ends behind the first of these, such as `"<think>"`.
    pub reasoning: String,
    /// A step ends behind each of these, such as `"\n"`.
    pub step: String,
    /// The answer begins with the last of these, such as `"####"`.
    pub answer: String,
}

/// Generated arithmetic.
///
/// ```
/// use qat_trainer::spec::{ArithmeticSpec, LlmFiles, LlmRun};
/// let toml = r#"
/// # model = { layers = 1, hidden = 16, heads = 2, mlp = 32 }
/// # train = { steps = 100 }
/// [data]
/// format = "arithmetic"
/// problems = 2000
/// operations = 2
/// "#;
/// let problems = ArithmeticSpec { problems: 2_000, held_out: 500, operations: 2, seed: 1 };
/// assert_eq!(LlmRun::parse(toml, "run.toml".as_ref())?.data.files, LlmFiles::Arithmetic(problems));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArithmeticSpec {
    /// Problems to learn from, at least 1, default 50,000.
    pub problems: usize,
    /// Other problems, to judge by; at least 1, default 500.
    pub held_out: usize,
    /// Operations in a problem, 1 to 16, default 3.
    pub operations: usize,
    /// Seed of the problems, default 1.
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Format {
    Text,
    Jsonl,
    Arithmetic,
}

/// `held_out`: files, or a number of problems.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a list of files, or a number of generated problems")]
enum HeldOut {
    Files(Vec<PathBuf>),
    Count(usize),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawData {
    format: Format,
    window: Option<usize>,
    train: Option<Vec<PathBuf>>,
    held_out: Option<HeldOut>,
    equal: Option<bool>,
    delimiters: Option<Delimiters>,
    problems: Option<usize>,
    operations: Option<usize>,
    seed: Option<u64>,
}

impl LlmDataSpec {
    pub(super) fn from_raw(raw: RawData, base: &Path, source: Source<'_>) -> Result<Self> {
        let error = |key: &str, problem: String| source.error("data", key, problem);
        let window = raw.window.unwrap_or(256);
        if window < 2 {
            return Err(error("window", format!("{window} tokens predict nothing")).remedy("at least 2"));
        }
        let generated = raw.format == Format::Arithmetic;
        let foreign = [
            ("train", raw.train.is_some() && generated),
            ("equal", raw.equal.is_some() && raw.format != Format::Text),
            ("delimiters", raw.delimiters.is_some() && raw.format != Format::Jsonl),
            ("problems", raw.problems.is_some() && !generated),
            ("operations", raw.operations.is_some() && !generated),
            ("seed", raw.seed.is_some() && !generated),
        ];
        if let Some((key, _)) = foreign.into_iter().find(|(_, there)| *there) {
            return Err(error(key, format!("`{key}` has no meaning for this format")).remedy("remove it"));
        }
        let files = match raw.format {
            Format::Arithmetic => {
                let held_out = match raw.held_out {
                    None => 500,
                    Some(HeldOut::Count(count)) => count,
                    Some(HeldOut::Files(_)) => {
                        return Err(error("held_out", "generated problems come from no file".into())
                            .remedy("write their number"));
                    }
                };
                let spec = ArithmeticSpec {
                    problems: raw.problems.unwrap_or(50_000),
                    held_out,
                    operations: raw.operations.unwrap_or(3),
                    seed: raw.seed.unwrap_or(1),
                };
                for (key, count) in [("problems", spec.problems), ("held_out", spec.held_out)] {
                    if count == 0 {
                        return Err(error(key, "there are no problems".into()).remedy("at least 1"));
                    }
                }
                if !(1..=16).contains(&spec.operations) {
                    let problem = format!("{} operations are out of range", spec.operations);
                    return Err(error("operations", problem).remedy("allowed: 1 to 16"));
                }
                LlmFiles::Arithmetic(spec)
            }
            Format::Text | Format::Jsonl => {
                let paths =
                    |paths: Vec<PathBuf>| paths.into_iter().map(|path| base.join(path)).collect::<Vec<_>>();
                let train = paths(raw.train.unwrap_or_default());
                if train.is_empty() {
                    return Err(error("train", "no file is named".into()).remedy("write train = [\"file\"]"));
                }
                let held_out = match raw.held_out {
                    None => Vec::new(),
                    Some(HeldOut::Files(files)) => paths(files),
                    Some(HeldOut::Count(_)) => {
                        return Err(error("held_out", "this is no list of files".into())
                            .remedy("write held_out = [\"file\"]"));
                    }
                };
                if let Some(d) = &raw.delimiters
                    && [&d.reasoning, &d.step, &d.answer].into_iter().any(String::is_empty)
                {
                    return Err(error("delimiters", "a delimiter is empty".into()).remedy("write a text"));
                }
                match raw.format {
                    Format::Text => LlmFiles::Text { train, held_out, equal: raw.equal.unwrap_or_default() },
                    _ => LlmFiles::Jsonl { train, held_out, delimiters: raw.delimiters },
                }
            }
        };
        Ok(Self { files, window })
    }
}
