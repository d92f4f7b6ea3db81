//! Run descriptions that come with the program: `configs/*.toml`, each with a line that says what it is.

use crate::error::{Error, ErrorKind, Result};

/// A run description that comes with the program.
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
    #[must_use]
    pub fn summary(&self) -> String {
        self.toml.lines().next().and_then(|line| line.strip_prefix('#')).unwrap_or_default().trim().into()
    }

    /// The preset that it changes, if it is not complete by itself.
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
pub fn find(name: &str) -> Result<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        Error::new(ErrorKind::Spec, format!("there is no preset `{name}`"))
            .remedy(format!("choose one of {}", names.join(", ")))
    })
}
