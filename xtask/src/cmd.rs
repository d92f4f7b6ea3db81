//! Running other programs, and where things lie.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The workspace.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The cargo that runs us, in the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root());
    command
}

/// What `cargo metadata` says of the workspace's own packages.
pub(crate) fn metadata() -> Result<&'static Value> {
    static METADATA: OnceLock<Value> = OnceLock::new();
    if let Some(known) = METADATA.get() {
        return Ok(known);
    }
    let text = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let parsed = serde_json::from_str(&text).context("cargo metadata")?;
    Ok(METADATA.get_or_init(|| parsed))
}

/// Where builds go.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let dir = metadata()?["target_directory"].as_str().context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(dir))
}

/// Builds `qat` as the tests do; returns where it is.
pub(crate) fn qat() -> Result<PathBuf> {
    // All packages, so that cargo finds the features of the tests and builds nothing again.
    run(cargo().args(["build", "-q", "--locked", "--workspace", "--bin", "qat"]))?;
    Ok(target_dir()?.join("debug/qat"))
}

/// The command as one would type it.
pub(crate) fn show(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs it, its output going where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| show(command))?;
    if !status.success() {
        bail!("`{}` failed ({status})", show(command));
    }
    Ok(())
}

/// Runs it and returns its standard output; its errors go where ours go.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let result =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().with_context(|| show(command))?;
    if !result.status.success() {
        bail!("`{}` failed ({})", show(command), result.status);
    }
    String::from_utf8(result.stdout).with_context(|| show(command))
}

/// Runs it silently; whether it exists and succeeds.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Runs it, passes its standard output on line by line, and shows each line to `look`. Returns whether it succeeded.
pub(crate) fn watch(command: &mut Command, mut look: impl FnMut(&str)) -> Result<bool> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| show(command))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.with_context(|| show(command))?;
            println!("{line}");
            look(&line);
        }
    }
    Ok(child.wait()?.success())
}
