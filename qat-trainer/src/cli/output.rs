//! Printing that cannot panic: a closed pipe (`qat … | head`) ends the printing, not the program.

use qat_trainer::data::Dataset;
use qat_trainer::{Error, ErrorKind, Result};
use serde::Serialize;
use std::io::{ErrorKind as Io, Write};

/// Prints a line, or several, to standard output.
pub(super) fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != Io::BrokenPipe => Err(Error::io("write", "standard output", &e)),
        _ => Ok(()),
    }
}

/// Prints a value as one line of JSON.
pub(super) fn say_json<T: Serialize>(value: &T) -> Result<()> {
    say(&json(value)?)
}

/// A value as one line of JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::new(ErrorKind::Io, format!("a result cannot be written as JSON: {e}")))
}

/// Prints a line to standard error. There is nobody left to tell if that fails.
pub(super) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Tells what looks wrong in the data.
pub(super) fn doubt(data: &Dataset) {
    for doubt in data.doubts() {
        complain(&format!("qat: warning: data: {doubt}"));
    }
}
