//! The run folder: made at the start, complete at the end; in between it belongs to one process, and holds what a training
//! that stops needs to go on.

use qat_trainer::atomic::{remove_leftovers, write_atomically};
use qat_trainer::lock::FolderLock;
use qat_trainer::{Error, ErrorKind, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The state of an unfinished training.
pub(in crate::cli) const STATE: &str = "last.safetensors";

/// Everything that `qat train` writes into its folder; the state is gone once it is complete.
pub(in crate::cli) const FILES: &[&str] = &[
    "config.toml",
    "metrics.jsonl",
    "fp32.safetensors",
    "checkpoint.safetensors",
    "model.piq",
    "ptq.piq",
    "summary.json",
    STATE,
];

/// A run folder under construction. Dropping it before [`Folder::keep`] removes what was written, unless there is a state
/// to go on from: half a run looks too much like a whole one.
pub(in crate::cli) struct Folder {
    path: PathBuf,
    /// Everything that the training writes into it.
    files: &'static [&'static str],
    /// Whether the folder itself is new.
    new: bool,
    kept: bool,
    _lock: FolderLock,
}

impl Folder {
    /// Makes the folder if it is not there, keeps other processes out of it, and removes what killed ones left. `files` is what
    /// the training writes into it.
    pub(in crate::cli) fn open(path: &Path, files: &'static [&'static str]) -> Result<Self> {
        let new = !path.exists();
        fs::create_dir_all(path).map_err(|e| {
            Error::new(ErrorKind::Io, format!("cannot make this folder: {e}"))
                .file(path)
                .remedy("choose another --out")
        })?;
        let folder = Self { path: path.into(), files, new, kept: true, _lock: FolderLock::acquire(path)? };
        remove_leftovers(path, files)?;
        Ok(folder)
    }

    /// Removes the files of an earlier run.
    pub(in crate::cli) fn clear(&mut self) -> Result<()> {
        self.kept = false;
        self.files.iter().try_for_each(|name| self.remove(name))
    }

    /// The folder.
    pub(in crate::cli) fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub(in crate::cli) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file in it.
    pub(in crate::cli) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_atomically(&self.file(name), bytes)
    }

    /// Removes a file, if it is there.
    fn remove(&self, name: &str) -> Result<()> {
        let file = self.file(name);
        match fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", file, &e)),
            _ => Ok(()),
        }
    }

    /// Says how to go on after a stop.
    pub(in crate::cli) fn stopped(&self, e: Error) -> Error {
        match e.kind() {
            ErrorKind::Stopped => {
                e.file(&self.path).remedy("run the same command with --resume to go on from there")
            }
            _ => e,
        }
    }

    /// The run is complete.
    pub(in crate::cli) fn keep(mut self) -> Result<()> {
        self.kept = true;
        self.remove(STATE)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.kept || self.file(STATE).exists() {
            return;
        }
        // Best effort: the error worth reporting is the one that led here.
        for name in self.files {
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

    fn fresh(path: &Path) -> Folder {
        let mut folder = Folder::open(path, FILES).unwrap();
        folder.clear().unwrap();
        folder
    }

    #[test]
    fn a_failed_run_leaves_nothing_and_a_finished_one_everything() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let folder = fresh(&path);
        folder.write("model.piq", b"x").unwrap();
        drop(folder);
        assert!(!path.exists());

        let folder = fresh(&path);
        folder.write("model.piq", b"x").unwrap();
        folder.write(STATE, b"x").unwrap();
        folder.keep().unwrap();
        assert!(path.join("model.piq").exists() && !path.join(STATE).exists());

        // Looking at it changes nothing.
        drop(Folder::open(&path, FILES).unwrap());
        assert!(path.join("model.piq").exists());

        // Somebody else's files stay, a finished run's are replaced.
        fs::write(path.join("notes.txt"), "mine").unwrap();
        drop(fresh(&path));
        assert!(path.join("notes.txt").exists() && !path.join("model.piq").exists());
    }

    #[test]
    fn an_interrupted_run_keeps_its_state_and_loses_half_written_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let folder = fresh(&path);
        for name in [STATE, "config.toml"] {
            folder.write(name, b"x").unwrap();
        }
        fs::write(path.join(format!("{STATE}.4242.tmp")), "half").unwrap();
        drop(folder);
        drop(Folder::open(&path, FILES).unwrap());
        let mut left: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["config.toml", STATE]);
    }
}
