//! The run folder: made at the start, complete at the end, gone if the training fails.

use qat_trainer::checkpoint::write_atomically;
use qat_trainer::{Error, ErrorKind, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Everything that a training leaves in its folder.
const FILES: [&str; 7] = [
    "config.toml",
    "metrics.jsonl",
    "fp32.safetensors",
    "checkpoint.safetensors",
    "model.piq",
    "ptq.piq",
    "summary.json",
];

/// A run folder under construction. Dropping it before [`Folder::keep`] removes what was written: half a run looks too
/// much like a whole one.
pub(super) struct Folder {
    path: PathBuf,
    /// Whether the folder itself is new.
    new: bool,
    kept: bool,
}

impl Folder {
    /// Makes the folder, and removes the files of an earlier run from it.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let new = !path.exists();
        fs::create_dir_all(path).map_err(|e| {
            Error::new(ErrorKind::Io, format!("cannot make this folder: {e}"))
                .file(path)
                .remedy("choose another --out")
        })?;
        let folder = Self { path: path.into(), new, kept: false };
        for name in FILES {
            let file = folder.file(name);
            match fs::remove_file(&file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("replace", file, &e));
                }
                _ => {}
            }
        }
        Ok(folder)
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file in it.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_atomically(&self.file(name), bytes)
    }

    /// The run is complete.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // Best effort: the error worth reporting is the one that led here.
        for name in FILES {
            let _ = fs::remove_file(self.file(name));
        }
        if self.new {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_run_leaves_nothing_and_a_finished_one_everything() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let folder = Folder::create(&path).unwrap();
        folder.write("model.piq", b"x").unwrap();
        drop(folder);
        assert!(!path.exists());

        let folder = Folder::create(&path).unwrap();
        folder.write("model.piq", b"x").unwrap();
        folder.keep();
        assert!(path.join("model.piq").exists());

        // Somebody else's files stay, a finished run's are replaced.
        fs::write(path.join("notes.txt"), "mine").unwrap();
        drop(Folder::create(&path).unwrap());
        assert!(path.join("notes.txt").exists() && !path.join("model.piq").exists());
    }
}
