//! Files that are replaced in one step, and what a killed process leaves beside them.

use crate::error::{Error, ErrorKind, Result};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Ending of the temporary files.
const ENDING: &str = ".tmp";

/// Writes a file in one step: to a temporary name beside it, flushed to the disk, then renamed. A reader sees the old
/// file or the new one; a failure leaves the old one and no other trace. A process that is killed may leave the
/// temporary file, see [`remove_leftovers`].
///
/// # Errors
/// [`ErrorKind::Io`].
///
/// ```
/// use qat_trainer::{ErrorKind, atomic::write_atomically};
/// let dir = tempfile::tempdir()?;
/// let state = dir.path().join("state");
/// write_atomically(&state, b"epoch 1")?;
/// write_atomically(&state, b"epoch 2")?;
/// assert_eq!(std::fs::read(&state)?, b"epoch 2");
/// assert_eq!(std::fs::read_dir(&dir)?.count(), 1); // no temporary file is left
/// assert_eq!(write_atomically(&dir.path().join(".."), b"").unwrap_err().kind(), ErrorKind::Io);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, bytes, |_| Ok(()))
}

/// The steps of [`write_atomically`], each of which the operating system may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Create,
    Write,
    Flush,
    Rename,
    FlushFolder,
}

/// `allow` is asked before each step; its refusal counts as that step's.
fn write_with(path: &Path, bytes: &[u8], mut allow: impl FnMut(Stage) -> io::Result<()>) -> Result<()> {
    let temporary = temporary(path)?;
    let mut write = || -> io::Result<()> {
        allow(Stage::Create)?;
        let mut file = File::create(&temporary)?;
        // Half of it may be on the disk before the rest no longer fits.
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        file.write_all(first)?;
        allow(Stage::Write)?;
        file.write_all(rest)?;
        allow(Stage::Flush)?;
        file.sync_all()?;
        drop(file);
        allow(Stage::Rename)?;
        fs::rename(&temporary, path)?;
        allow(Stage::FlushFolder)?;
        sync_folder(path)
    };
    write().map_err(|e| {
        // Best effort: the error worth reporting is the first one.
        let _ = fs::remove_file(&temporary);
        Error::io("write", path, &e)
    })
}

/// The temporary name of this process for a file.
fn temporary(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        Error::new(ErrorKind::Io, "this is not the name of a file").file(path).remedy("give a file name")
    })?;
    let mut temporary = name.to_os_string();
    // Two processes may write beside each other; each gets its own temporary.
    temporary.push(format!(".{}{ENDING}", std::process::id()));
    Ok(path.with_file_name(temporary))
}

/// Removes the temporary files of killed processes for the files `names` of a folder, which nobody else may be writing
/// to (see [`crate::lock::FolderLock`]).
///
/// # Errors
/// [`ErrorKind::Io`].
///
/// ```
/// use qat_trainer::atomic::remove_leftovers;
/// let dir = tempfile::tempdir()?;
/// for name in ["last", "last.4711.tmp", "mine.4711.tmp"] {
///     std::fs::write(dir.path().join(name), "half a checkpoi")?;
/// }
/// remove_leftovers(dir.path(), &["last", "best"])?;
/// assert!(!dir.path().join("last.4711.tmp").exists());
/// assert_eq!(std::fs::read_dir(&dir)?.count(), 2); // the file itself, and what belongs to none of the names
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn remove_leftovers(folder: &Path, names: &[&str]) -> Result<()> {
    let failed = |e: io::Error| Error::io("tidy", folder, &e);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_suffix(ENDING)) else { continue };
        let ours = rest.rsplit_once('.').is_some_and(|(name, process)| {
            names.contains(&name) && !process.is_empty() && process.bytes().all(|b| b.is_ascii_digit())
        });
        if ours {
            let path = folder.join(&name);
            fs::remove_file(&path).map_err(|e| Error::io("remove", path, &e))?;
        }
    }
    Ok(())
}

/// Makes a rename durable: on Unix the folder itself has to reach the disk.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
            _ => PathBuf::from("."),
        };
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn whichever_step_fails_the_old_file_or_the_new_one_is_there_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let stages = [Stage::Create, Stage::Write, Stage::Flush, Stage::Rename, Stage::FlushFolder];
        for stage in stages {
            write_atomically(&path, b"the old content").unwrap();
            let refuse = |now| match now == stage {
                true => Err(io::Error::from(io::ErrorKind::StorageFull)),
                false => Ok(()),
            };
            let e = write_with(&path, b"the new content", refuse).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Io);
            let text = e.to_string();
            assert!(text.starts_with(path.to_str().unwrap()) && text.contains("; free some space"), "{text}");
            // Once renamed the new file is there, though perhaps not yet for ever.
            let whole: &[u8] =
                if stage == Stage::FlushFolder { b"the new content" } else { b"the old content" };
            assert_eq!(fs::read(&path).unwrap(), whole, "{stage:?}");
            assert_eq!(names(dir.path()), ["state"], "{stage:?}");
        }
    }

    #[test]
    fn what_is_in_the_way_of_the_rename_stays() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("blocked");
        fs::create_dir_all(blocked.join("inside")).unwrap();
        assert_eq!(write_atomically(&blocked, b"x").unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(names(dir.path()), ["blocked"]);
    }

    #[test]
    fn leftovers_go_and_everything_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["state", "state.77.tmp", "state.x.tmp", "notes.77.tmp", "state.77", "tmp"];
        for name in files {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        remove_leftovers(dir.path(), &["state", "other"]).unwrap();
        assert_eq!(names(dir.path()), ["notes.77.tmp", "state", "state.77", "state.x.tmp", "tmp"]);
    }
}
