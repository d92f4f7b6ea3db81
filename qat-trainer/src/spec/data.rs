//! `[data]`: which files, in which format.

use super::Source;
use crate::error::{Error, ErrorKind, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The data set of a run. Files that end in `.gz` are decompressed while reading.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSpec {
    /// The files and what is particular to their format.
    pub files: Files,
    /// Shift and scale the features to mean 0 and standard deviation 1 over the training split: per column for CSV, one
    /// pair for all pixels of images. TOML: `standardise`, default true.
    pub standardise: bool,
    /// Names of the classes in the order of their labels. TOML: `classes`; default for IDX and for integer labels: the
    /// numbers themselves; default for text labels of CSV: the names in the training split, sorted.
    pub classes: Option<Vec<String>>,
}

/// The files of a data set.
#[derive(Clone, Debug, PartialEq)]
pub enum Files {
    /// `format = "idx"`: grey-scale images and labels as in MNIST (LeCun et al. 1998), unsigned bytes.
    Idx {
        /// `train_images`.
        train_images: PathBuf,
        /// `train_labels`.
        train_labels: PathBuf,
        /// `test_images`.
        test_images: PathBuf,
        /// `test_labels`.
        test_labels: PathBuf,
        /// `resize = [height, width]`: area-averaged to this size at load; default: as stored.
        resize: Option<[usize; 2]>,
    },
    /// `format = "csv"`: one example a row, separated by commas.
    Csv {
        /// `train`.
        train: PathBuf,
        /// `test`.
        test: PathBuf,
        /// `label`: the column of the label, by name or by index from 0; default 0.
        label: Column,
        /// `header`: whether the first row holds the names of the columns; default true.
        header: bool,
        /// `features`: the columns of the features, by name or index; default: every column but the label.
        features: Option<Vec<Column>>,
    },
}

/// A column of a CSV file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected the name of a column or its index from 0")]
pub enum Column {
    /// By index, from 0.
    Index(usize),
    /// By the name in the header.
    Name(String),
}

impl std::fmt::Display for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Column::Index(i) => write!(f, "{i}"),
            Column::Name(name) => write!(f, "`{name}`"),
        }
    }
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Format {
    Idx,
    Csv,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawData {
    format: Format,
    train_images: Option<PathBuf>,
    train_labels: Option<PathBuf>,
    test_images: Option<PathBuf>,
    test_labels: Option<PathBuf>,
    resize: Option<[usize; 2]>,
    train: Option<PathBuf>,
    test: Option<PathBuf>,
    label: Option<Column>,
    header: Option<bool>,
    features: Option<Vec<Column>>,
    standardise: Option<bool>,
    classes: Option<Vec<String>>,
}

/// Largest height or width that `resize` accepts: 8-bit codes of larger images do not fit any arena of a
/// microcontroller, and a slip of the keyboard should not fill the memory.
const MAX_SIDE: usize = 4096;

impl DataSpec {
    /// The keys whose values are paths.
    pub(super) const PATHS: [&str; 6] =
        ["train", "test", "train_images", "train_labels", "test_images", "test_labels"];

    pub(super) fn from_raw(raw: toml::Spanned<RawData>, base: &Path, source: Source<'_>) -> Result<Self> {
        let section = source.place(raw.span().start);
        let raw = raw.into_inner();
        let refuse = |key: &str, given: bool, format: &str| -> Result<()> {
            if given {
                return Err(source
                    .error("data", key, format!("`{key}` has no meaning for format = \"{format}\""))
                    .remedy("remove it"));
            }
            Ok(())
        };
        let need = |key: &str, path: Option<PathBuf>| -> Result<PathBuf> {
            path.map(|path| base.join(path)).ok_or_else(|| {
                Error::new(ErrorKind::Spec, format!("`{key}` is missing in [data]"))
                    .place(section.clone())
                    .remedy("name the file")
            })
        };
        let files = match raw.format {
            Format::Idx => {
                refuse("train", raw.train.is_some(), "idx")?;
                refuse("test", raw.test.is_some(), "idx")?;
                refuse("label", raw.label.is_some(), "idx")?;
                refuse("header", raw.header.is_some(), "idx")?;
                refuse("features", raw.features.is_some(), "idx")?;
                if let Some([h, w]) = raw.resize
                    && !((1..=MAX_SIDE).contains(&h) && (1..=MAX_SIDE).contains(&w))
                {
                    return Err(source
                        .error("data", "resize", format!("{h} by {w} pixels asked for"))
                        .remedy(format!("each side must lie in 1..={MAX_SIDE}")));
                }
                Files::Idx {
                    train_images: need("train_images", raw.train_images)?,
                    train_labels: need("train_labels", raw.train_labels)?,
                    test_images: need("test_images", raw.test_images)?,
                    test_labels: need("test_labels", raw.test_labels)?,
                    resize: raw.resize,
                }
            }
            Format::Csv => {
                refuse("train_images", raw.train_images.is_some(), "csv")?;
                refuse("train_labels", raw.train_labels.is_some(), "csv")?;
                refuse("test_images", raw.test_images.is_some(), "csv")?;
                refuse("test_labels", raw.test_labels.is_some(), "csv")?;
                refuse("resize", raw.resize.is_some(), "csv")?;
                let header = raw.header.unwrap_or(true);
                let label = raw.label.unwrap_or(Column::Index(0));
                for (key, column) in std::iter::once(("label", &label))
                    .chain(raw.features.iter().flatten().map(|column| ("features", column)))
                {
                    if let (Column::Name(name), false) = (column, header) {
                        return Err(source
                            .error("data", key, format!("column `{name}` is named, but header = false"))
                            .remedy("give the index of the column, from 0"));
                    }
                }
                if raw.features.as_ref().is_some_and(Vec::is_empty) {
                    return Err(source
                        .error("data", "features", "no column is left")
                        .remedy("name at least one column"));
                }
                Files::Csv {
                    train: need("train", raw.train)?,
                    test: need("test", raw.test)?,
                    label,
                    header,
                    features: raw.features,
                }
            }
        };
        if let Some(classes) = &raw.classes {
            let wrong =
                |problem: String, remedy: &str| Err(source.error("data", "classes", problem).remedy(remedy));
            if classes.len() < 2 {
                return wrong("fewer than two classes".into(), "name every class");
            }
            for (i, name) in classes.iter().enumerate() {
                // A model file keeps the names as lines of one text.
                if name.is_empty() || name.contains(['\n', '\r']) {
                    return wrong(
                        format!("name {i} is empty or has a line break"),
                        "give it a name on one line",
                    );
                }
                if classes[..i].contains(name) {
                    return wrong(format!("`{name}` is there twice"), "give every class a name of its own");
                }
            }
        }
        Ok(Self { files, standardise: raw.standardise.unwrap_or(true), classes: raw.classes })
    }
}
