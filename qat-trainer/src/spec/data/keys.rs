//! `[data]` as TOML has it: one flat table for all formats, checked key by key.

use super::super::Source;
use super::super::geometry::{MAX_DIM, Shape};
use super::{Column, DataSpec, Files, Layout, SplitRule, TestHalf};
use crate::error::{Error, ErrorKind, Result};
use qat_kernels::frontend::{LogMel, LogMelConfig};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Format {
    Idx,
    Csv,
    Jsonl,
    Npz,
    Cifar10,
    Cifar100,
    Images,
    Wav,
    None,
}

impl Format {
    const fn name(self) -> &'static str {
        match self {
            Format::Idx => "idx",
            Format::Csv => "csv",
            Format::Jsonl => "jsonl",
            Format::Npz => "npz",
            Format::Cifar10 => "cifar10",
            Format::Cifar100 => "cifar100",
            Format::Images => "images",
            Format::Wav => "wav",
            Format::None => "none",
        }
    }
}

/// One value or a list of them.
#[derive(Clone, Deserialize)]
#[serde(untagged, expecting = "expected one value or a list of values")]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(x) => vec![x],
            Self::Many(x) => x,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSplit {
    share: Option<f64>,
    test: Option<Vec<String>>,
    group: Option<String>,
    #[serde(default = "one")]
    seed: u64,
}

const fn one() -> u64 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::spec) struct RawData {
    format: Format,
    train_images: Option<PathBuf>,
    train_labels: Option<PathBuf>,
    test_images: Option<PathBuf>,
    test_labels: Option<PathBuf>,
    resize: Option<[usize; 2]>,
    train: Option<OneOrMany<PathBuf>>,
    test: Option<OneOrMany<PathBuf>>,
    label: Option<Column>,
    header: Option<bool>,
    features: Option<OneOrMany<Column>>,
    layout: Option<Layout>,
    color: Option<bool>,
    split: Option<RawSplit>,
    standardise: Option<bool>,
    classes: Option<Vec<String>>,
    shape: Option<[usize; 3]>,
    sample_rate: Option<u32>,
    clip: Option<usize>,
    log_mel: Option<RawLogMel>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLogMel {
    frame: Option<u16>,
    hop: Option<u16>,
    mels: Option<u16>,
    f_min: Option<u32>,
    f_max: Option<u32>,
}

/// Largest height or width that `resize` accepts: 8-bit codes of larger images do not fit any arena of a
/// microcontroller, and a slip of the keyboard should not fill the memory.
const MAX_SIDE: usize = 4096;

impl DataSpec {
    pub(in crate::spec) fn from_raw(
        raw: toml::Spanned<RawData>,
        base: &Path,
        source: Source<'_>,
    ) -> Result<Self> {
        let section = source.place(raw.span().start);
        let mut raw = raw.into_inner();
        raw.refuse_foreign_keys(source)?;
        let split = raw.split.take().map(|split| split.resolve(raw.format, source)).transpose()?;
        let classes = raw.classes.take();
        if let Some(classes) = &classes {
            check_classes(classes, source)?;
        }
        let standardise = raw.standardise.unwrap_or(true);
        let reader = Reader { base, source, section, split: split.as_ref() };
        let files = reader.files(raw)?;
        Ok(Self { files, split, standardise, classes })
    }
}

impl RawData {
    /// Every key belongs to some formats; with another it is a mistake, or a wish that will not come true.
    fn refuse_foreign_keys(&self, source: Source<'_>) -> Result<()> {
        use Format::{Cifar10, Cifar100, Csv, Idx, Images, Jsonl, Npz, Wav};
        let with_files: &[Format] = &[Idx, Csv, Jsonl, Npz, Cifar10, Cifar100, Images, Wav];
        let keys: [(&str, bool, &[Format]); 18] = [
            ("train_images", self.train_images.is_some(), &[Idx]),
            ("train_labels", self.train_labels.is_some(), &[Idx]),
            ("test_images", self.test_images.is_some(), &[Idx]),
            ("test_labels", self.test_labels.is_some(), &[Idx]),
            ("resize", self.resize.is_some(), &[Idx, Cifar10, Cifar100, Images]),
            ("train", self.train.is_some(), &[Csv, Jsonl, Npz, Cifar10, Cifar100, Images, Wav]),
            ("test", self.test.is_some(), &[Csv, Jsonl, Npz, Cifar10, Cifar100, Images, Wav]),
            ("label", self.label.is_some(), &[Csv, Jsonl, Npz, Cifar100]),
            ("header", self.header.is_some(), &[Csv]),
            ("features", self.features.is_some(), &[Csv, Jsonl, Npz]),
            ("layout", self.layout.is_some(), &[Npz]),
            ("color", self.color.is_some(), &[Images]),
            ("split", self.split.is_some(), with_files),
            ("standardise", self.standardise.is_some(), with_files),
            ("shape", self.shape.is_some(), &[Format::None]),
            ("sample_rate", self.sample_rate.is_some(), &[Wav]),
            ("clip", self.clip.is_some(), &[Wav]),
            ("log_mel", self.log_mel.is_some(), &[Wav]),
        ];
        for (key, given, formats) in keys {
            if given && !formats.contains(&self.format) {
                let format = self.format.name();
                return Err(source
                    .error("data", key, format!("`{key}` has no meaning for format = \"{format}\""))
                    .remedy("remove it"));
            }
        }
        Ok(())
    }
}

impl RawSplit {
    fn resolve(self, format: Format, source: Source<'_>) -> Result<SplitRule> {
        let wrong =
            |problem: String, remedy: &str| Err(source.error("data", "split", problem).remedy(remedy));
        if self.group.is_some() && matches!(format, Format::Idx | Format::Cifar10 | Format::Cifar100) {
            return wrong(format!("format = \"{}\" knows no groups", format.name()), "remove `group`");
        }
        let test = match (self.share, self.test, &self.group) {
            (Some(share), None, _) if share > 0.0 && share < 1.0 => TestHalf::Share(share),
            (Some(share), None, _) => return wrong(format!("a share of {share}"), "choose 0 < share < 1"),
            (None, Some(names), Some(_)) if !names.is_empty() => TestHalf::Named(names),
            (None, Some(_), Some(_)) => return wrong("no group is named".into(), "name one in `test`"),
            (None, Some(_), None) => {
                return wrong("groups are named, but not what makes them".into(), "add `group`");
            }
            _ => return wrong("it needs a share or the names of groups".into(), "give `share` or `test`"),
        };
        Ok(SplitRule { test, group: self.group, seed: self.seed })
    }
}

/// What reading the files' keys needs.
struct Reader<'a> {
    base: &'a Path,
    source: Source<'a>,
    /// Place of the section.
    section: String,
    split: Option<&'a SplitRule>,
}

impl Reader<'_> {
    fn files(&self, raw: RawData) -> Result<Files> {
        let resize = raw.resize;
        if let Some([h, w]) = resize
            && !((1..=MAX_SIDE).contains(&h) && (1..=MAX_SIDE).contains(&w))
        {
            return Err(self
                .source
                .error("data", "resize", format!("{h} by {w} pixels asked for"))
                .remedy(format!("each side must lie in 1..={MAX_SIDE}")));
        }
        let (train, test) = (raw.train.map(OneOrMany::into_vec), raw.test.map(OneOrMany::into_vec));
        Ok(match raw.format {
            Format::Idx => Files::Idx {
                train_images: self.path("train_images", raw.train_images)?,
                train_labels: self.path("train_labels", raw.train_labels)?,
                test_images: self.test("test_images", raw.test_images)?,
                test_labels: self.test("test_labels", raw.test_labels)?,
                resize,
            },
            Format::Csv => {
                let header = raw.header.unwrap_or(true);
                let label = raw.label.unwrap_or(Column::Index(0));
                let features = raw.features.map(OneOrMany::into_vec);
                self.columns(&label, header, features.as_deref())?;
                let (train, test) = (self.one("train", train)?, self.one_test(test)?);
                Files::Csv { train, test, label, header, features }
            }
            Format::Jsonl => Files::Jsonl {
                label: self.name("label", raw.label, "label")?,
                features: match raw.features.map(OneOrMany::into_vec) {
                    None => vec!["features".into()],
                    Some(fields) => fields
                        .into_iter()
                        .map(|field| self.name("features", Some(field), ""))
                        .collect::<Result<_>>()?,
                },
                train: self.one("train", train)?,
                test: self.one_test(test)?,
            },
            Format::Npz => Files::Npz {
                features: match raw.features {
                    None => "x".into(),
                    Some(OneOrMany::One(array)) => self.name("features", Some(array), "")?,
                    Some(OneOrMany::Many(_)) => {
                        return Err(self
                            .source
                            .error("data", "features", "a list of arrays")
                            .remedy("name one array"));
                    }
                },
                label: self.name("label", raw.label, "y")?,
                layout: raw.layout,
                train: self.one("train", train)?,
                test: self.one_test(test)?,
            },
            Format::Cifar10 | Format::Cifar100 => {
                let two_labels = raw.format == Format::Cifar100;
                let coarse = match self.name("label", raw.label, "fine")?.as_str() {
                    "fine" => false,
                    "coarse" => true,
                    other => {
                        return Err(self
                            .source
                            .error("data", "label", format!("there is no label `{other}`"))
                            .remedy("choose \"fine\" or \"coarse\""));
                    }
                };
                Files::Cifar {
                    train: self.many("train", train)?,
                    test: match self.split {
                        None => self.many("test", test)?,
                        Some(_) => self.no_test("test", test.is_some()).map(|()| Vec::new())?,
                    },
                    two_labels,
                    coarse,
                    resize,
                }
            }
            Format::None => match raw.shape {
                Some([h, w, c]) if [h, w, c].iter().all(|n| (1..=MAX_DIM).contains(n)) => {
                    Files::None { shape: Shape { h, w, c } }
                }
                _ => {
                    return Err(self
                        .source
                        .error("data", "shape", "no shape of an example, or one that cannot be")
                        .remedy(format!("give [height, width, channels], each in 1..={MAX_DIM}")));
                }
            },
            Format::Wav => {
                let (clip, log_mel) = self.sounds(raw.sample_rate, raw.clip, raw.log_mel)?;
                Files::Wav { train: self.one("train", train)?, test: self.one_test(test)?, clip, log_mel }
            }
            Format::Images => Files::Images {
                color: raw.color.unwrap_or(false),
                train: self.one("train", train)?,
                test: self.one_test(test)?,
                resize,
            },
        })
    }

    /// The front end, and the samples of a clip.
    fn sounds(
        &self,
        sample_rate: Option<u32>,
        clip: Option<usize>,
        raw: Option<RawLogMel>,
    ) -> Result<(usize, LogMelConfig)> {
        let (raw, sample_rate) = (raw.unwrap_or_default(), sample_rate.unwrap_or(16_000));
        let milliseconds = |n: u32| u16::try_from(u64::from(sample_rate) * u64::from(n) / 1000);
        let config = LogMelConfig {
            sample_rate,
            frame: raw.frame.unwrap_or(milliseconds(30).unwrap_or(u16::MAX)),
            hop: raw.hop.unwrap_or(milliseconds(20).unwrap_or(u16::MAX)),
            mels: raw.mels.unwrap_or(40),
            f_min: raw.f_min.unwrap_or(20),
            f_max: raw.f_max.unwrap_or(sample_rate / 20 * 9),
        };
        let front_end = LogMel::new(config).map_err(|e| {
            let remedy = match e {
                qat_kernels::Error::Empty { .. } => "take fewer bands, a higher `f_min` or a longer `frame`",
                _ => "correct it; frame and hop are in samples",
            };
            self.source.error("data", "log_mel", e.to_string()).remedy(remedy)
        })?;
        let clip = clip.unwrap_or(sample_rate as usize);
        if !(1..=MAX_DIM).contains(&front_end.frames(clip)) {
            return Err(self
                .source
                .error("data", "clip", format!("{clip} samples are {} frames", front_end.frames(clip)))
                .remedy(format!("1 to {MAX_DIM} frames are possible; a clip is at least one frame long")));
        }
        Ok((clip, config))
    }

    fn missing(&self, key: &str) -> Error {
        let remedy = if key.starts_with("test") {
            "name the file, or divide the other one with split = { share = 0.2 }"
        } else {
            "name the file"
        };
        Error::new(ErrorKind::Spec, format!("`{key}` is missing in [data]"))
            .place(self.section.clone())
            .remedy(remedy)
    }

    fn path(&self, key: &str, path: Option<PathBuf>) -> Result<PathBuf> {
        path.map(|path| self.base.join(path)).ok_or_else(|| self.missing(key))
    }

    fn many(&self, key: &str, paths: Option<Vec<PathBuf>>) -> Result<Vec<PathBuf>> {
        let paths = paths.filter(|paths| !paths.is_empty()).ok_or_else(|| self.missing(key))?;
        Ok(paths.into_iter().map(|path| self.base.join(path)).collect())
    }

    fn one(&self, key: &str, paths: Option<Vec<PathBuf>>) -> Result<PathBuf> {
        match self.many(key, paths)?.as_slice() {
            [path] => Ok(path.clone()),
            paths => Err(self
                .source
                .error("data", key, format!("{} files are named", paths.len()))
                .remedy("name one file, or join them")),
        }
    }

    fn no_test(&self, key: &str, given: bool) -> Result<()> {
        if given {
            return Err(self
                .source
                .error("data", key, "there are test files, and `split` makes a test half too")
                .remedy("remove one of the two"));
        }
        Ok(())
    }

    fn test(&self, key: &str, path: Option<PathBuf>) -> Result<Option<PathBuf>> {
        match self.split {
            None => self.path(key, path).map(Some),
            Some(_) => self.no_test(key, path.is_some()).map(|()| None),
        }
    }

    fn one_test(&self, paths: Option<Vec<PathBuf>>) -> Result<Option<PathBuf>> {
        match self.split {
            None => self.one("test", paths).map(Some),
            Some(_) => self.no_test("test", paths.is_some()).map(|()| None),
        }
    }

    /// A key that names something inside the file.
    fn name(&self, key: &str, given: Option<Column>, default: &str) -> Result<String> {
        match given {
            None => Ok(default.into()),
            Some(Column::Name(name)) => Ok(name),
            Some(Column::Index(i)) => Err(self
                .source
                .error("data", key, format!("{i} is no name"))
                .remedy("give the name in quotes; indices are for csv")),
        }
    }

    fn columns(&self, label: &Column, header: bool, features: Option<&[Column]>) -> Result<()> {
        let all = std::iter::once(("label", label))
            .chain(features.iter().copied().flatten().map(|c| ("features", c)));
        for (key, column) in all {
            if let (Column::Name(name), false) = (column, header) {
                return Err(self
                    .source
                    .error("data", key, format!("column `{name}` is named, but header = false"))
                    .remedy("give the index of the column, from 0"));
            }
        }
        if features.is_some_and(<[Column]>::is_empty) {
            return Err(self
                .source
                .error("data", "features", "no column is left")
                .remedy("name at least one column"));
        }
        Ok(())
    }
}

fn check_classes(classes: &[String], source: Source<'_>) -> Result<()> {
    let wrong = |problem: String, remedy: &str| Err(source.error("data", "classes", problem).remedy(remedy));
    if classes.len() < 2 {
        return wrong("fewer than two classes".into(), "name every class");
    }
    for (i, name) in classes.iter().enumerate() {
        // A model file keeps the names as lines of one text.
        if name.is_empty() || name.contains(['\n', '\r']) {
            return wrong(format!("name {i} is empty or has a line break"), "give it a name on one line");
        }
        if classes[..i].contains(name) {
            return wrong(format!("`{name}` is there twice"), "give every class a name of its own");
        }
    }
    Ok(())
}
