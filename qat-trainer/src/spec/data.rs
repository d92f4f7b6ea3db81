//! `[data]`: which files, in which format.

mod keys;

pub(super) use keys::RawData;

use super::geometry::Shape;
use qat_kernels::frontend::LogMelConfig;
use serde::Deserialize;
use std::path::PathBuf;

/// The data set of a run. Files that end in `.gz` are decompressed while reading.
///
/// ```
/// use qat_trainer::spec::{Files, Run};
/// let toml = r#"
/// [data]
/// format = "csv"
/// train = "../data/falls.csv.gz"
/// split = { share = 0.2 }
/// classes = ["walk", "fall"]
/// # [model]
/// # layers = [{ op = "linear", out = 2 }]
/// "#;
/// let data = Run::parse(toml, "configs/falls.toml".as_ref())?.data;
/// let file = "configs/../data/falls.csv.gz"; // beside the TOML file
/// assert!(matches!(data.files, Files::Csv { train, test: None, .. } if train.as_os_str() == file));
/// assert!(data.standardise && data.split.is_some_and(|split| split.group.is_none()));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DataSpec {
    /// The files and what is particular to their format.
    pub files: Files,
    /// How the test half is made where no file holds it. TOML: `split = { share = 0.2, seed = 1 }` takes this share of
    /// every class; `split = { share = 0.2, group = "subject" }` of the groups that a column names, whole;
    /// `split = { test = ["7", "9"], group = "subject" }` these groups. The key `test` is left out then.
    pub split: Option<SplitRule>,
    /// Shift and scale the features to mean 0 and standard deviation 1 over the training split: one pair for all pixels
    /// of images, per channel for series, per column for tables. TOML: `standardise`, default true.
    pub standardise: bool,
    /// Names of the classes in the order of their labels. TOML: `classes`; default for numbers: the numbers themselves;
    /// default for text labels and folders: the names in the training split, sorted.
    pub classes: Option<Vec<String>>,
}

/// How one set of examples is divided.
///
/// ```
/// use qat_trainer::spec::{Run, SplitRule, TestHalf};
/// let toml = r#"
/// [data]
/// format = "csv"
/// train = "gait.csv"
/// split = { share = 0.25, group = "subject" }
/// # [model]
/// # layers = [{ op = "linear", out = 2 }]
/// "#;
/// // A quarter of the subjects, whole: nobody is in both halves.
/// let rule = SplitRule { test: TestHalf::Share(0.25), group: Some("subject".into()), seed: 1 };
/// assert_eq!(Run::parse(toml, "run.toml".as_ref())?.data.split, Some(rule));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SplitRule {
    /// What goes into the test half.
    pub test: TestHalf,
    /// What makes the group of an example: the column of a CSV file, the field of a JSON object, the array of an NPZ
    /// file. Of files in folders: the text before this separator in the file's name.
    pub group: Option<String>,
    /// Decides what goes where; default 1.
    pub seed: u64,
}

/// The test half.
///
/// ```
/// use qat_trainer::spec::{Run, TestHalf};
/// let toml = r#"
/// # model = { layers = [{ op = "linear", out = 2 }] }
/// [data]
/// format = "npz"
/// train = "gait.npz"
/// split = { test = ["7", "9"], group = "subject" }
/// "#;
/// let split = Run::parse(toml, "run.toml".as_ref())?.data.split;
/// assert_eq!(split.map(|split| split.test), Some(TestHalf::Named(vec!["7".into(), "9".into()])));
/// let e = Run::parse(&toml.replace(r#", group = "subject""#, ""), "run.toml".as_ref()).unwrap_err();
/// assert!(e.to_string().contains("add `group`"), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum TestHalf {
    /// This share of the examples of each class, or of the groups; 0 < share < 1.
    Share(f64),
    /// The groups of these names.
    Named(Vec<String>),
}

/// The files of a data set. `train` and `test` are a path each; a `test` of `None` is made by [`DataSpec::split`].
#[derive(Clone, Debug, PartialEq)]
pub enum Files {
    /// `format = "idx"`: grey-scale images and labels as in MNIST (LeCun et al. 1998), unsigned bytes.
    Idx {
        /// `train_images`.
        train_images: PathBuf,
        /// `train_labels`.
        train_labels: PathBuf,
        /// `test_images`; `None` with `split`.
        test_images: Option<PathBuf>,
        /// `test_labels`; `None` with `split`.
        test_labels: Option<PathBuf>,
        /// `resize = [height, width]`: area-averaged to this size at load; default: as stored.
        resize: Option<[usize; 2]>,
    },
    /// `format = "none"`: no files. Such a network can be exported with generated weights and counted, not trained.
    None {
        /// `shape = [height, width, channels]` of an example.
        shape: Shape,
    },
    /// `format = "csv"`: one example a row, separated by commas.
    Csv {
        /// `train`.
        train: PathBuf,
        /// `test`.
        test: Option<PathBuf>,
        /// `label`: the column of the label, by name or by index from 0; default 0.
        label: Column,
        /// `header`: whether the first row holds the names of the columns; default true.
        header: bool,
        /// `features`: the columns of the features, by name or index; default: every column but the label and the group.
        features: Option<Vec<Column>>,
    },
    /// `format = "jsonl"`: one JSON object a line.
    Jsonl {
        /// `train`.
        train: PathBuf,
        /// `test`.
        test: Option<PathBuf>,
        /// `label`: the field of the label; default `label`.
        label: String,
        /// `features`: fields that hold numbers or lists of numbers, one after the other; default `["features"]`.
        features: Vec<String>,
    },
    /// `format = "npz"`: arrays as `numpy.savez` and `savez_compressed` write them.
    Npz {
        /// `train`.
        train: PathBuf,
        /// `test`.
        test: Option<PathBuf>,
        /// `features`: the array of the examples, its first dimension counting them; default `x`.
        features: String,
        /// `label`: the array of the labels, whole numbers or texts; default `y`.
        label: String,
        /// `layout`: what the other dimensions are; default by their number.
        layout: Option<Layout>,
    },
    /// `format = "cifar10"` or `"cifar100"`: the binary versions of Krizhevsky (2009), 32×32 colour images.
    Cifar {
        /// `train`: one file or several.
        train: Vec<PathBuf>,
        /// `test`: one file or several; empty with `split`.
        test: Vec<PathBuf>,
        /// Whether each image has a coarse and a fine label, as CIFAR-100 does.
        two_labels: bool,
        /// `label = "fine"` (default) or `"coarse"`, of CIFAR-100.
        coarse: bool,
        /// `resize = [height, width]`, as for IDX.
        resize: Option<[usize; 2]>,
    },
    /// `format = "images"`: PNG and JPEG files, in a folder for each class.
    Images {
        /// `train`: the folder of the class folders.
        train: PathBuf,
        /// `test`.
        test: Option<PathBuf>,
        /// `color`: three channels instead of grey; default false.
        color: bool,
        /// `resize = [height, width]`, as for IDX; needed unless all images have one size.
        resize: Option<[usize; 2]>,
    },
    /// `format = "wav"`: sounds of 8- or 16-bit PCM with one channel or two, in a folder for each class, as log-mel features
    /// in steps of 1/512 octave: maps of frames × bands.
    Wav {
        /// `train`: the folder of the class folders.
        train: PathBuf,
        /// `test`.
        test: Option<PathBuf>,
        /// `clip`: samples of an example; default: a second. Longer recordings lose their end, shorter ones get silence.
        clip: usize,
        /// `sample_rate`, samples a second, default 16,000: files with another rate are refused. `log_mel = { frame, hop,
        /// mels, f_min, f_max }`, frame and hop in samples, the ends of the bands in Hz; defaults: 30 ms, 20 ms, 40 bands,
        /// 20 Hz, nine tenths of half the sample rate.
        log_mel: LogMelConfig,
    },
}

impl Files {
    /// Whether the test half has files of its own.
    ///
    /// ```
    /// use qat_trainer::spec::Run;
    /// # let csv = |keys: &str| {
    /// #     let model = "model = { layers = [{ op = 'linear', out = 2 }] }";
    /// #     let data = format!("data = {{ format = 'csv', train = 'all.csv', {keys} }}");
    /// #     Run::parse(&format!("{data}\n{model}"), "run.toml".as_ref())
    /// # };
    /// // `csv` is a run description with a file to train on and these keys.
    /// assert!(csv("test = 'test.csv'")?.data.files.have_test());
    /// assert!(!csv("split = { share = 0.2 }")?.data.files.have_test());
    /// assert!(csv("test = 'test.csv', split = { share = 0.2 }").is_err()); // one or the other
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn have_test(&self) -> bool {
        match self {
            Files::Idx { test_images, .. } => test_images.is_some(),
            Files::Csv { test, .. }
            | Files::Jsonl { test, .. }
            | Files::Npz { test, .. }
            | Files::Images { test, .. }
            | Files::Wav { test, .. } => test.is_some(),
            Files::Cifar { test, .. } => !test.is_empty(),
            Files::None { .. } => false,
        }
    }

    /// The front end of sounds, and the samples of a clip.
    ///
    /// ```
    /// use qat_trainer::spec::Run;
    /// let toml = r#"
    /// # model = { layers = [{ op = "flatten" }, { op = "linear", out = 2 }] }
    /// [data]
    /// format = "wav"
    /// train = "sounds"
    /// split = { share = 0.2 }
    /// sample_rate = 8000
    /// log_mel = { mels = 20 }
    /// "#;
    /// let front_end = Run::parse(toml, "run.toml".as_ref())?.data.files.front_end();
    /// let samples = front_end.map(|(config, clip)| (config.frame, config.hop, clip));
    /// assert_eq!(samples, Some((240, 160, 8_000))); // 30 ms every 20 ms of a second
    /// assert_eq!(front_end.map(|(config, _)| config.f_max), Some(3_600)); // Hz, 90 % of what 8 kHz can hold
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn front_end(&self) -> Option<(LogMelConfig, usize)> {
        match self {
            Files::Wav { clip, log_mel, .. } => Some((*log_mel, *clip)),
            _ => None,
        }
    }
}

/// What the dimensions of an example mean: `h` height, `w` width, `c` channels, `t` steps of time.
///
/// ```
/// use qat_trainer::spec::{Files, Layout, Run};
/// let toml = r#"
/// # model = { layers = [{ op = "flatten" }, { op = "linear", out = 2 }] }
/// [data]
/// format = "npz"
/// train = "train.npz"
/// test = "test.npz"
/// layout = "tc"
/// "#;
/// // 128 steps of 6 channels are an array of [examples, 128, 6], which would be grey images by default.
/// let files = Run::parse(toml, "run.toml".as_ref())?.data.files;
/// assert!(matches!(files, Files::Npz { layout: Some(Layout::Tc), features, .. } if features == "x"));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// One dimension: features. The default for two dimensions, the first of which counts the examples.
    C,
    /// Grey images. The default for three.
    Hw,
    /// Series, as maps of height t and width 1.
    Tc,
    /// Colour images or maps. The default for four.
    Hwc,
    /// The same in torch's order.
    Chw,
}

/// A column of a CSV file.
///
/// ```
/// use qat_trainer::spec::{Column, Files, Run};
/// let toml = r#"
/// # model = { layers = [{ op = "linear", out = 3 }] }
/// [data]
/// format = "csv"
/// train = "train.csv"
/// test = "test.csv"
/// label = "species"
/// features = [0, 2]
/// "#;
/// let (label, columns) = (Column::Name("species".into()), vec![Column::Index(0), Column::Index(2)]);
/// let files = Run::parse(toml, "run.toml".as_ref())?.data.files;
/// assert!(matches!(files, Files::Csv { label: l, features: Some(f), .. } if (&l, &f) == (&label, &columns)));
/// // Without a header there are no names.
/// assert!(Run::parse(&format!("{toml}header = false"), "run.toml".as_ref()).is_err());
/// # Ok::<(), qat_trainer::Error>(())
/// ```
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
