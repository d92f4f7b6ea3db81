//! One writer at a time for a folder.

use crate::error::{Error, ErrorKind, Result};
use std::fs::{File, TryLockError};
use std::path::Path;

/// A folder that no other process may write to while this value lives. The operating system ends the lock with the
/// process, however it ends, so that nothing is left behind.
///
/// The lock is on the folder itself (`flock`), hence on Unix only; elsewhere it always succeeds.
///
/// ```
/// use qat_trainer::lock::FolderLock;
/// # let dir = tempfile::tempdir()?;
/// # let run = dir.path();
/// let lock = FolderLock::acquire(run)?;
/// assert_eq!(std::fs::read_dir(run)?.count(), 0); // there is no lock file that a killed process could leave
/// std::fs::write(run.join("model.piq"), b"")?; // its own writer may write
/// # drop(lock);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FolderLock {
    _folder: Option<File>,
}

impl FolderLock {
    /// Locks an existing folder.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if another process holds it, or if the file system has no locks.
    ///
    /// ```
    /// use qat_trainer::lock::FolderLock;
    /// # let dir = tempfile::tempdir()?;
    /// let first = FolderLock::acquire(dir.path())?;
    /// assert_eq!(FolderLock::acquire(dir.path()).is_err(), cfg!(unix));
    /// drop(first);
    /// assert!(FolderLock::acquire(dir.path()).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn acquire(folder: &Path) -> Result<Self> {
        if cfg!(not(unix)) {
            return Ok(Self { _folder: None });
        }
        let file = File::open(folder).map_err(|e| Error::io("open", folder, &e))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _folder: Some(file) }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::new(ErrorKind::Io, "another process is writing to this folder")
                    .file(folder)
                    .remedy("wait until it has ended, or choose another folder"))
            }
            Err(TryLockError::Error(e)) => Err(Error::io("lock", folder, &e)),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_second_writer_is_refused_until_the_first_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let first = FolderLock::acquire(dir.path()).unwrap();
        let e = FolderLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(e.contains("another process"), "{e}");
        drop(first);
        FolderLock::acquire(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
