//! The one error type of the crate: what went wrong, in which file, at which place in it, and what to do about it, on
//! one line.

use std::fmt;
use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The part of the work that failed; decides the exit code of `qat`.
///
/// ```
/// use qat_trainer::{ErrorKind, presets};
/// let e = presets::find("cifar-1000").unwrap_err();
/// assert!(matches!(e.kind(), ErrorKind::Spec), "a name that is none is a mistake in the call: {e}");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused to read or write a file.
    Io,
    /// The run description is wrong, or asks for what does not fit together.
    Spec,
    /// A data file is damaged, or does not hold what the run description says.
    Data,
    /// A checkpoint is damaged, or does not belong to the run description.
    Checkpoint,
    /// A network cannot be brought onto the integer engine, or a `.piq` file is damaged.
    Model,
    /// Training failed (libtorch, divergence).
    Train,
    /// The program was built without what the command needs.
    Unsupported,
    /// Somebody asked the work to stop, and it did.
    Stopped,
}

impl ErrorKind {
    /// The exit code of `qat`: 2 for a mistake in the run description or the call, 3 for the data, 4 for a checkpoint
    /// or model, 5 for training, 6 for a missing feature, 130 for a stop on request (as after Ctrl-C), 1 for everything
    /// else.
    ///
    /// ```
    /// use qat_trainer::ErrorKind;
    /// assert_eq!(ErrorKind::Spec.exit_code(), 2);
    /// assert_eq!(ErrorKind::Checkpoint.exit_code(), ErrorKind::Model.exit_code()); // both are 4
    /// assert_eq!(ErrorKind::Stopped.exit_code(), 130); // 128 + SIGINT, as shells count
    /// ```
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Io => 1,
            ErrorKind::Spec => 2,
            ErrorKind::Data => 3,
            ErrorKind::Checkpoint | ErrorKind::Model => 4,
            ErrorKind::Train => 5,
            ErrorKind::Unsupported => 6,
            ErrorKind::Stopped => 130,
        }
    }
}

/// An error with its file, its place in the file, and the remedy.
///
/// ```
/// use qat_trainer::{Error, ErrorKind};
/// let e = Error::new(ErrorKind::Data, "the cell `abc` is not a number")
///     .file("train.csv")
///     .place("row 3, column 5")
///     .remedy("write a decimal number");
/// assert_eq!(e.to_string(), "train.csv: row 3, column 5: the cell `abc` is not a number; write a decimal number");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<Parts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    kind: ErrorKind,
    file: Option<PathBuf>,
    place: Option<String>,
    problem: String,
    remedy: Option<String>,
}

impl Error {
    /// An error that says what is wrong and nothing more yet.
    ///
    /// ```
    /// use qat_trainer::{Error, ErrorKind};
    /// let e = Error::new(ErrorKind::Train, "the loss is NaN\n  in epoch 3");
    /// assert_eq!(e.to_string(), "the loss is NaN in epoch 3"); // always one line
    /// ```
    #[must_use]
    pub fn new(kind: ErrorKind, problem: impl Into<String>) -> Self {
        Self(Box::new(Parts { kind, file: None, place: None, problem: problem.into(), remedy: None }))
    }

    /// The operating system's refusal, while `doing` ("read", "write", …) `path`.
    ///
    /// ```
    /// use qat_trainer::{Error, ErrorKind};
    /// let refusal = std::io::Error::from(std::io::ErrorKind::NotFound);
    /// let e = Error::io("read", "train.csv", &refusal);
    /// assert_eq!(e.kind(), ErrorKind::Io);
    /// assert_eq!(e.to_string(), format!("train.csv: cannot read this file: {refusal}; check the path"));
    /// ```
    #[must_use]
    pub fn io(doing: &str, path: impl AsRef<Path>, source: &std::io::Error) -> Self {
        let remedy = match source.kind() {
            std::io::ErrorKind::NotFound => "check the path",
            std::io::ErrorKind::PermissionDenied => "check the permissions",
            std::io::ErrorKind::StorageFull
            | std::io::ErrorKind::QuotaExceeded
            | std::io::ErrorKind::FileTooLarge => "free some space, or raise the limit, and continue",
            _ => "check the disk and try again",
        };
        Self::new(ErrorKind::Io, format!("cannot {doing} this file: {source}")).file(path).remedy(remedy)
    }

    /// Names the file; the innermost caller that knows it wins.
    ///
    /// ```
    /// use qat_trainer::{Error, ErrorKind};
    /// let e = Error::new(ErrorKind::Data, "the file is empty").file("half/test.csv").file("half");
    /// assert_eq!(e.to_string(), "half/test.csv: the file is empty");
    /// ```
    #[must_use]
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        self.0.file.get_or_insert_with(|| path.as_ref().to_path_buf());
        self
    }

    /// Names the place in the file (line and key, row and column, byte offset) or in the network (layer); the
    /// innermost caller that knows it wins.
    ///
    /// ```
    /// use qat_trainer::{Error, ErrorKind};
    /// let e = Error::new(ErrorKind::Model, "its sum could overflow").place("layer `fc`").place("operator 4");
    /// assert_eq!(e.to_string(), "layer `fc`: its sum could overflow");
    /// ```
    #[must_use]
    pub fn place(mut self, place: impl Into<String>) -> Self {
        self.0.place.get_or_insert_with(|| place.into());
        self
    }

    /// Says what to do about it.
    ///
    /// ```
    /// use qat_trainer::{Error, ErrorKind};
    /// let e = Error::new(ErrorKind::Unsupported, "this build cannot train").remedy("build it with the feature `tch`");
    /// assert_eq!(e.remedy("try again").to_string(), "this build cannot train; build it with the feature `tch`");
    /// ```
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy.get_or_insert_with(|| remedy.into());
        self
    }

    /// The part of the work that failed.
    ///
    /// ```
    /// use qat_trainer::{Error, ErrorKind};
    /// let e = Error::from(qat_kernels::Error::Divisor { k: 9 }).place("layer `conv1`");
    /// assert_eq!(e.kind(), ErrorKind::Model); // what the kernels refuse is a model that they cannot run
    /// ```
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
}

impl fmt::Display for Error {
    /// One line: `file: place: problem; remedy`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = &*self.0;
        let mut line = String::new();
        if let Some(file) = &p.file {
            line.push_str(&format!("{}: ", file.display()));
        }
        if let Some(place) = &p.place {
            line.push_str(&format!("{place}: "));
        }
        line.push_str(&p.problem);
        if let Some(remedy) = &p.remedy {
            line.push_str(&format!("; {remedy}"));
        }
        // Messages of other libraries may span lines; a log or a script expects one.
        f.write_str(&line.lines().map(str::trim).collect::<Vec<_>>().join(" "))
    }
}

impl std::error::Error for Error {}

impl From<qat_kernels::Error> for Error {
    fn from(e: qat_kernels::Error) -> Self {
        Self::new(ErrorKind::Model, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_whatever_goes_in() {
        let e = Error::new(ErrorKind::Spec, "first\n  second").file("a.toml").remedy("third\n");
        assert_eq!(e.to_string(), "a.toml: first second; third");
    }

    #[test]
    fn the_innermost_place_wins() {
        let e = Error::new(ErrorKind::Data, "bad")
            .place("row 3")
            .place("file level")
            .file("in.csv")
            .file("out.csv");
        assert_eq!(e.to_string(), "in.csv: row 3: bad");
    }
}
