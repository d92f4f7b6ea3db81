//! Data sets: IDX and CSV files into memory, labels into classes, features to mean 0 and deviation 1.
//!
//! Nothing is allocated from a length that a file merely claims, and every error names the file, the place in it and
//! the remedy.

mod csv;
mod file;
mod idx;
mod labels;
mod resize;
mod standardise;

pub use resize::resize_area;
pub use standardise::Standardisation;

use crate::affine::Affine;
use crate::error::{Error, ErrorKind, Result};
use crate::spec::{DataSpec, Files, Shape};
use labels::Labels;
use sha2::{Digest, Sha256};
use std::path::Path;

/// A data set, ready for training.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The examples to learn from.
    pub train: Split,
    /// The examples to judge by.
    pub test: Split,
    /// Names of the classes, by label.
    pub classes: Vec<String>,
    /// Shape of one example.
    pub shape: Shape,
    /// What was done to the raw features.
    pub standardisation: Standardisation,
    /// The 8-bit code of the (standardised) features. Pixels of 8 bits keep all of them.
    pub input: Affine,
    /// SHA-256 of the training files as they lie on the disk, one after the other (images before labels).
    pub sha256: [u8; 32],
}

/// One half of a data set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Split {
    /// Standardised features, example by example: `len() × shape.len()` numbers, all finite.
    pub features: Vec<f32>,
    /// A label for each example, less than the number of classes.
    pub labels: Vec<u32>,
}

impl Split {
    /// Number of examples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no examples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The features of each example.
    pub fn examples(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.features.chunks_exact((self.features.len() / self.len().max(1)).max(1))
    }
}

impl Dataset {
    /// Reads both splits.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] for files that cannot be read, [`ErrorKind::Data`] for whatever is wrong inside them.
    pub fn load(spec: &DataSpec) -> Result<Self> {
        let mut hash = Sha256::new();
        let train = Raw::read(spec, Half::Train, Some(&mut hash))?;
        let labels = Labels::learn(spec.classes.as_deref(), &train)?;
        let test = Raw::read(spec, Half::Test, None)?;
        test.same_columns_as(&train)?;
        let standardisation = match (spec.standardise, train.is_image()) {
            (false, _) => Standardisation::none(),
            (true, true) => Standardisation::of_images(&train.features),
            (true, false) => Standardisation::of_columns(&train.features, train.shape.len()),
        };
        let (shape, is_image) = (train.shape, train.is_image());
        let train = train.finish(&labels, &standardisation)?;
        let test = test.finish(&labels, &standardisation)?;
        let input = if is_image {
            let [min, max] = [0.0, 255.0].map(|x| standardisation.apply_one(0, x));
            Affine::from_range(min, max)
        } else {
            let (min, max) = train.features.iter().fold((0f32, 0f32), |(a, b), &x| (a.min(x), b.max(x)));
            Affine::from_range(min, max)
        };
        let classes = labels.into_names();
        Ok(Self { train, test, classes, shape, standardisation, input, sha256: hash.finalize().into() })
    }

    /// The value that a pixel of 0 has after standardisation: what moves in when an image is shifted.
    #[must_use]
    pub fn background(&self) -> f32 {
        self.standardisation.apply_one(0, 0.0)
    }
}

/// The test split alone, for a model that brings its own classes and standardisation.
///
/// # Errors
/// As [`Dataset::load`]; besides [`ErrorKind::Data`] if the examples have not `features` features.
pub fn load_test(
    spec: &DataSpec,
    features: usize,
    classes: &[String],
    standardisation: &Standardisation,
) -> Result<(Split, Shape)> {
    let test = Raw::read(spec, Half::Test, None)?;
    if test.shape.len() != features {
        return Err(Error::new(
            ErrorKind::Data,
            format!(
                "an example has {} features ({}), the model reads {features}",
                test.shape.len(),
                test.shape
            ),
        )
        .file(&test.file)
        .remedy("use the run description that the model was trained with"));
    }
    let shape = test.shape;
    Ok((test.finish(&Labels::from_names(classes), standardisation)?, shape))
}

/// Most features of a split: 4 GiB as f32. A slip in `resize` should be an error, not the end of the memory.
const MAX_FEATURES: usize = 1 << 30;

#[derive(Clone, Copy, PartialEq)]
enum Half {
    Train,
    Test,
}

/// One half of a data set as its files have it.
struct Raw {
    /// The file that rows are counted in.
    file: std::path::PathBuf,
    /// Where the labels came from, if not from `file`.
    label_file: std::path::PathBuf,
    features: Vec<f32>,
    labels: RawLabels,
    shape: Shape,
    /// Names of the feature columns of a CSV file with a header.
    columns: Option<Vec<String>>,
}

enum RawLabels {
    /// IDX: one byte each.
    Bytes(Vec<u8>),
    /// CSV: the text of each cell with its line.
    Cells(Vec<(usize, String)>),
}

impl RawLabels {
    fn len(&self) -> usize {
        match self {
            RawLabels::Bytes(b) => b.len(),
            RawLabels::Cells(c) => c.len(),
        }
    }
}

impl Raw {
    fn read(spec: &DataSpec, half: Half, mut hash: Option<&mut Sha256>) -> Result<Self> {
        let mut open = |path: &Path| file::read(path, hash.as_deref_mut());
        match &spec.files {
            Files::Idx { train_images, train_labels, test_images, test_labels, resize } => {
                let (images, labels) = match half {
                    Half::Train => (train_images, train_labels),
                    Half::Test => (test_images, test_labels),
                };
                let pixels = idx::images(&open(images)?).map_err(|e| e.file(images))?;
                let [h, w] = resize.unwrap_or(pixels.size);
                if pixels.count.saturating_mul(h * w) > MAX_FEATURES {
                    return Err(Error::new(
                        ErrorKind::Data,
                        format!("{} images of {h}x{w} are more than fit into memory", pixels.count),
                    )
                    .file(images)
                    .place("byte 4")
                    .remedy("choose a smaller `resize`, or fewer images"));
                }
                let bytes = idx::labels(&open(labels)?).map_err(|e| e.file(labels))?;
                if bytes.len() != pixels.count {
                    return Err(Error::new(
                        ErrorKind::Data,
                        format!("{} labels for {} images of {}", bytes.len(), pixels.count, images.display()),
                    )
                    .file(labels)
                    .place("byte 4")
                    .remedy("name the two files of one data set"));
                }
                let features = match resize {
                    Some(to) => resize_area(&pixels.data, pixels.size, *to),
                    None => pixels.data,
                };
                Ok(Self {
                    file: images.clone(),
                    label_file: labels.clone(),
                    features: features.into_iter().map(f32::from).collect(),
                    labels: RawLabels::Bytes(bytes),
                    shape: Shape { h, w, c: 1 },
                    columns: None,
                })
            }
            Files::Csv { train, test, label, header, features } => {
                let path = if half == Half::Train { train } else { test };
                let table =
                    csv::read(&open(path)?, label, *header, features.as_deref()).map_err(|e| e.file(path))?;
                Ok(Self {
                    file: path.clone(),
                    label_file: path.clone(),
                    shape: Shape::flat(table.width),
                    features: table.features,
                    labels: RawLabels::Cells(table.labels),
                    columns: table.columns,
                })
            }
        }
    }

    fn is_image(&self) -> bool {
        matches!(self.labels, RawLabels::Bytes(_))
    }

    /// A test split must look like the training split.
    fn same_columns_as(&self, train: &Raw) -> Result<()> {
        let differ = |problem: String| {
            Err(Error::new(ErrorKind::Data, problem)
                .file(&self.file)
                .remedy("name the training and test files of one data set"))
        };
        if self.shape != train.shape {
            return differ(format!(
                "its examples have the shape {}, those of {} have {}",
                self.shape,
                train.file.display(),
                train.shape
            ));
        }
        if let (Some(a), Some(b)) = (&self.columns, &train.columns)
            && let Some((mine, theirs)) = a.iter().zip(b).find(|(a, b)| a != b)
        {
            return differ(format!(
                "its header has the column `{mine}` where {} has `{theirs}`",
                train.file.display()
            ));
        }
        Ok(())
    }

    fn finish(mut self, labels: &Labels, standardisation: &Standardisation) -> Result<Split> {
        let classes = labels.assign(&self)?;
        standardisation.apply(&mut self.features);
        Ok(Split { features: self.features, labels: classes })
    }
}

#[cfg(test)]
mod tests;
