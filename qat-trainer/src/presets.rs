//! Run descriptions that come with the program: `configs/*.toml`, each with a line that says what it is.

use crate::error::{Error, ErrorKind, Result};

/// A run description that comes with the program.
///
/// ```
/// use qat_trainer::presets::{Preset, find};
/// use qat_trainer::spec::Run;
/// let &Preset { name, toml } = find("autoencoder")?;
/// let run = Run::parse(toml, "autoencoder.toml".as_ref())?;
/// assert_eq!((run.name.as_str(), run.model.layers.len()), (name, 10));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Its name: the file's without the ending.
    pub name: &'static str,
    /// Its text. Paths start at the working directory.
    pub toml: &'static str,
}

macro_rules! presets {
    ($($name:literal),+ $(,)?) => {
        /// All presets.
        pub const PRESETS: &[Preset] =
            &[$(Preset { name: $name, toml: include_str!(concat!("../configs/", $name, ".toml")) }),+];
    };
}

presets!(
    "digits",
    "digits-3bit",
    "digits-mixed",
    "digits-small",
    "digits-teacher",
    "digits-mlp",
    "digits-mlp-3bit",
    "digits-mlp-mixed",
    "letter",
    "letter-3bit",
    "letter-mixed",
    "imu",
    "imu-3bit",
    "imu-mixed",
    "ds-cnn-imu",
    "autoencoder",
    "ds-cnn",
    "mobilenet",
    "resnet8",
    "resnet8-digits",
);

impl Preset {
    /// What it is: its first line, a comment.
    ///
    /// ```
    /// use qat_trainer::presets::Preset;
    /// let mine = Preset { name: "mine", toml: "#  Three sensors, two classes. \n[data]\n" };
    /// assert_eq!(mine.summary(), "Three sensors, two classes.");
    /// assert_eq!(Preset { toml: "[data]\n# Three sensors.\n", ..mine }.summary(), "");
    /// ```
    #[must_use]
    pub fn summary(&self) -> String {
        self.toml.lines().next().and_then(|line| line.strip_prefix('#')).unwrap_or_default().trim().into()
    }

    /// The preset that it changes, if it is not complete by itself.
    ///
    /// ```
    /// use qat_trainer::presets::find;
    /// assert_eq!(find("letter-3bit")?.extends(), Some("letter"));
    /// assert_eq!(find("letter")?.extends(), None);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn extends(&self) -> Option<&'static str> {
        let value = self.toml.lines().find_map(|line| line.strip_prefix("extends = "))?;
        value.trim().trim_matches('"').strip_suffix(".toml")
    }
}

/// The preset of a name.
///
/// # Errors
/// [`ErrorKind::Spec`] with the names that there are.
///
/// ```
/// use qat_trainer::{ErrorKind, presets::find};
/// assert!(find("imu")?.toml.contains("[model]"));
/// let e = find("mnist").unwrap_err();
/// assert_eq!(e.kind(), ErrorKind::Spec);
/// assert!(e.to_string().starts_with("there is no preset `mnist`; choose one of digits, "), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn find(name: &str) -> Result<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        Error::new(ErrorKind::Spec, format!("there is no preset `{name}`"))
            .remedy(format!("choose one of {}", names.join(", ")))
    })
}
