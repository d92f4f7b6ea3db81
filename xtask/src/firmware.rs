//! Builds the programs of `firmware/`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::bare_metal::Toolchain;
use crate::cmd::{root, run, target_dir};
use crate::emulator::Board;

/// Builds a program in release mode, around a model if it takes one, and returns its path.
pub(crate) fn build(
    toolchain: &Toolchain,
    board: &Board,
    package: &str,
    model: Option<&Path>,
    features: &[&str],
) -> Result<PathBuf> {
    let model = model.map(|path| ("PIQ_MODEL", path));
    build_with(toolchain, board, package, features, model.as_slice())
}

/// The same with other variables that hold paths.
pub(crate) fn build_with(
    toolchain: &Toolchain,
    board: &Board,
    package: &str,
    features: &[&str],
    paths: &[(&str, &Path)],
) -> Result<PathBuf> {
    build_profile("release", toolchain, board, package, features, &absolute(paths)?)
}

/// The same at opt-level s.
pub(crate) fn build_small(
    toolchain: &Toolchain,
    board: &Board,
    package: &str,
    model: &Path,
) -> Result<PathBuf> {
    build_profile("small", toolchain, board, package, &[], &absolute(&[("PIQ_MODEL", model)])?)
}

/// Builds `infer` with room for a file, an arena, an input and an output of these many bytes.
pub(crate) fn build_with_room(toolchain: &Toolchain, board: &Board, room: [usize; 4]) -> Result<PathBuf> {
    let room = room.map(|bytes| bytes.to_string()).join(" ");
    build_profile("release", toolchain, board, "infer", &[], &[("PIQ_ROOM", room.into())])
}

type Variable<'a> = (&'a str, OsString);

fn absolute<'a>(paths: &[(&'a str, &Path)]) -> Result<Vec<Variable<'a>>> {
    let absolute = |path: &Path| fs::canonicalize(path).with_context(|| path.display().to_string());
    paths.iter().map(|(name, path)| Ok((*name, absolute(path)?.into_os_string()))).collect()
}

fn build_profile(
    profile: &str,
    toolchain: &Toolchain,
    board: &Board,
    package: &str,
    features: &[&str],
    variables: &[Variable<'_>],
) -> Result<PathBuf> {
    let target_dir = target_dir()?.join("firmware");
    let mut command = toolchain.cargo("build", board.target, "core");
    command.current_dir(root().join("firmware"));
    command.args(["-q", "--profile", profile, "--locked", "-p", package]);
    command.arg("--target-dir").arg(&target_dir);
    if !features.is_empty() {
        command.args(["--features", &features.join(",")]);
    }
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    run(&mut command)?;
    Ok(target_dir.join(board.target).join(profile).join(package))
}
