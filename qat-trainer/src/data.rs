//! Data sets: IDX, CSV, NPZ, JSONL, CIFAR, image and sound files into memory, labels into classes, features to mean 0 and deviation 1.
//!
//! Nothing is allocated from a length that a file merely claims, and every error names the file, the place in it and
//! the remedy.

mod cifar;
mod csv;
mod doubts;
mod file;
mod folder;
mod halves;
mod idx;
mod images;
mod jsonl;
mod labels;
mod npy;
mod npz;
mod raw;
mod resize;
mod standardise;
mod wav;

pub use doubts::Doubt;
pub use resize::resize_area;
pub use standardise::Standardisation;

use crate::affine::Affine;
use crate::error::{Error, ErrorKind, Result};
use crate::spec::{DataSpec, Files, Shape};
use halves::halves;
use labels::Labels;
use raw::{Kind, Raw};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A data set, ready for training.
///
/// ```
/// use qat_trainer::{data::Dataset, spec::Run};
/// let dir = tempfile::tempdir()?;
/// std::fs::write(dir.path().join("train.csv"), "label,ears,tail\ndog,2,30\ncat,1,20\n")?;
/// std::fs::write(dir.path().join("test.csv"), "label,ears,tail\ncat,2,25\n")?;
/// let toml = r#"
///     data = { format = "csv", train = "train.csv", test = "test.csv", standardise = false }
///     model = { layers = [{ op = "linear", out = 2 }] }
/// "#;
/// let data = Dataset::load(&Run::parse(toml, &dir.path().join("run.toml"))?.data)?;
/// assert_eq!(data.classes, ["cat", "dog"]); // sorted
/// assert_eq!(data.train.labels, [1, 0]);
/// assert_eq!((data.shape.len(), data.test.features), (2, vec![2.0, 25.0]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use qat_trainer::data::Split;
/// let xor = Split { features: vec![0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0], labels: vec![0, 1, 1, 0] };
/// let ones = xor.examples().zip(&xor.labels).filter(|(_, label)| **label == 1);
/// assert!(ones.map(|(x, _)| x).eq([[0.0, 1.0], [1.0, 0.0]]));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Split {
    /// Standardised features, example by example: `len() × shape.len()` numbers, all finite.
    pub features: Vec<f32>,
    /// A label for each example, less than the number of classes.
    pub labels: Vec<u32>,
}

impl Split {
    /// Number of examples.
    ///
    /// ```
    /// use qat_trainer::data::Split;
    /// let split = Split { features: vec![0.0; 12], labels: vec![0, 2, 1] };
    /// assert_eq!(split.len(), 3); // of four features each
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no examples.
    ///
    /// ```
    /// use qat_trainer::data::Split;
    /// assert!(Split::default().is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The features of each example.
    ///
    /// ```
    /// use qat_trainer::data::Split;
    /// let split = Split { features: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], labels: vec![0, 1] };
    /// assert!(split.examples().eq([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]));
    /// assert_eq!(Split::default().examples().len(), 0);
    /// ```
    pub fn examples(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.features.chunks_exact((self.features.len() / self.len().max(1)).max(1))
    }
}

impl Dataset {
    /// Reads both splits.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] for files that cannot be read, [`ErrorKind::Data`] for whatever is wrong inside them.
    ///
    /// ```
    /// use qat_trainer::{ErrorKind, data::Dataset, spec::Run};
    /// let dir = tempfile::tempdir()?;
    /// # let toml = r#"data = { format = "csv", train = "a.csv", test = "b.csv" }
    /// # model = { layers = [{ op = "linear", out = 2 }] }"#;
    /// # let run = Run::parse(toml, &dir.path().join("run.toml"))?;
    /// std::fs::write(dir.path().join("a.csv"), "label,x\n0,1\n1,3\n")?;
    /// std::fs::write(dir.path().join("b.csv"), "label,x\n1,4\n")?;
    /// let data = Dataset::load(&run.data)?;
    /// assert_eq!(data.train.features, [-1.0, 1.0]); // mean 2, deviation 1
    /// assert_eq!(data.test.features, [2.0]); // by the same two numbers
    /// std::fs::write(dir.path().join("b.csv"), "label,x\n1,four\n")?;
    /// assert_eq!(Dataset::load(&run.data).unwrap_err().kind(), ErrorKind::Data);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(spec: &DataSpec) -> Result<Self> {
        let mut hash = Sha256::new();
        let all = read(spec, Half::Train, Some(&mut hash))?;
        let labels = Labels::learn(spec.classes.as_deref(), &all)?;
        let (train, test) = match &spec.split {
            None => {
                let test = read(spec, Half::Test, None)?;
                test.same_columns_as(&all)?;
                (all, test)
            }
            Some(rule) => {
                // Every label is checked while its place is known.
                labels.assign(&all)?;
                let [train, test] = halves(&all, rule)?;
                (all.select(&train), all.select(&test))
            }
        };
        let standardisation =
            if spec.standardise { train.standardisation() } else { Standardisation::none() };
        let (shape, kind) = (train.shape, train.kind);
        let train = train.finish(&labels, &standardisation)?;
        let test = test.finish(&labels, &standardisation)?;
        let input = if kind == Kind::Pixels {
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
    ///
    /// ```
    /// # use qat_trainer::{affine::Affine, data::{Dataset, Split, Standardisation}, spec::Shape};
    /// let pixels = Standardisation { mean: vec![51.0], std: vec![25.5] };
    /// let data = Dataset {
    ///     standardisation: pixels,
    ///     # train: Split::default(), test: Split::default(), classes: vec![], shape: Shape { h: 28, w: 28, c: 1 },
    ///     # input: Affine::from_range(-2.0, 8.0), sha256: [0; 32],
    ///     // …
    /// };
    /// assert_eq!(data.background(), -2.0); // black, (0 − 51)/25.5
    /// ```
    #[must_use]
    pub fn background(&self) -> f32 {
        self.standardisation.apply_one(0, 0.0)
    }
}

/// The test split alone, for a model that brings its own classes and standardisation.
///
/// # Errors
/// As [`Dataset::load`]; besides [`ErrorKind::Data`] if the examples have not `features` features.
///
/// ```
/// use qat_trainer::{data::{Standardisation, load_test}, spec::Run};
/// let dir = tempfile::tempdir()?;
/// # let toml = r#"data = { format = "csv", train = "not-needed.csv", test = "test.csv" }
/// # model = { layers = [{ op = "linear", out = 2 }] }"#;
/// # let run = Run::parse(toml, &dir.path().join("run.toml"))?;
/// std::fs::write(dir.path().join("test.csv"), "label,x\nyes,12\nno,8\n")?;
/// let (classes, by) = (["no", "yes"].map(String::from), Standardisation { mean: vec![10.0], std: vec![4.0] });
/// let (split, _) = load_test(&run.data, 1, &classes, &by)?;
/// assert_eq!((split.features, split.labels), (vec![0.5, -0.5], vec![1, 0]));
/// let e = load_test(&run.data, 3, &classes, &by).unwrap_err().to_string();
/// assert!(e.contains("an example has 1 features (1), the model reads 3"), "{e}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn load_test(
    spec: &DataSpec,
    features: usize,
    classes: &[String],
    standardisation: &Standardisation,
) -> Result<(Split, Shape)> {
    let mut test = read(spec, Half::Test, None)?;
    if let Some(rule) = &spec.split {
        let [_, half] = halves(&test, rule)?;
        test = test.select(&half);
    }
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

/// The files of one half, as they have them.
fn read(spec: &DataSpec, half: Half, hash: Option<&mut Sha256>) -> Result<Raw> {
    let mut opened = Opened { hash };
    let group = spec.split.as_ref().and_then(|rule| rule.group.as_deref());
    let choose = |train: &PathBuf, test: &Option<PathBuf>| match (half, test) {
        (Half::Test, Some(test)) => test.clone(),
        _ => train.clone(),
    };
    match &spec.files {
        Files::None { .. } => Err(Error::new(ErrorKind::Spec, "the run description names no data")
            .place("[data]")
            .remedy("put files of your own into its [data]; `qat seeded` needs none")),
        Files::Idx { train_images, train_labels, test_images, test_labels, resize } => {
            let images = choose(train_images, test_images);
            idx::read(&mut opened, &images, &choose(train_labels, test_labels), *resize)
        }
        Files::Csv { train, test, label, header, features } => {
            let path = choose(train, test);
            let columns = csv::Columns { label, header: *header, features: features.as_deref(), group };
            csv::read(&opened.read(&path)?, &path, &columns)
        }
        Files::Jsonl { train, test, label, features } => {
            let path = choose(train, test);
            jsonl::read(&opened.read(&path)?, &path, &jsonl::Fields { label, features, group })
        }
        Files::Npz { train, test, features, label, layout } => {
            let path = choose(train, test);
            let arrays = npz::Arrays { features, label, group, layout: *layout };
            npz::read(&opened.read(&path)?, &path, &arrays)
        }
        Files::Cifar { train, test, two_labels, coarse, resize } => {
            let files = if half == Half::Test && !test.is_empty() { test } else { train };
            cifar::read(&mut opened, files, cifar::Labels { two: *two_labels, coarse: *coarse }, *resize)
        }
        Files::Images { train, test, color, resize } => {
            let folder = choose(train, test);
            images::read(&mut opened, &folder, images::How { color: *color, resize: *resize, group })
        }
        Files::Wav { train, test, clip, log_mel } => {
            let folder = choose(train, test);
            wav::read(&mut opened, &folder, wav::How { log_mel: *log_mel, clip: *clip, group })
        }
    }
}

/// Reads files and takes them into a hash, where there is one.
struct Opened<'h> {
    hash: Option<&'h mut Sha256>,
}

impl Opened<'_> {
    fn read(&mut self, path: &Path) -> Result<Vec<u8>> {
        file::read(path, self.hash.as_deref_mut())
    }
}

/// A number of features that fits into memory.
fn check_size(count: usize, shape: Shape, file: &Path) -> Result<()> {
    let features = shape.h.checked_mul(shape.w).and_then(|n| n.checked_mul(shape.c));
    match features.and_then(|n| n.checked_mul(count)) {
        Some(features) if features <= MAX_FEATURES => Ok(()),
        _ => Err(Error::new(
            ErrorKind::Data,
            format!("{count} examples of {shape} are more than fit into memory"),
        )
        .file(file)
        .remedy("choose a smaller `resize`, or fewer examples")),
    }
}

#[cfg(test)]
mod tests;
