//! Whose turn it is to submit: a lock that the system takes back from a process that ended.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::store::file;

/// Held while jobs of one scope are submitted; the system lets go of it with the process.
#[derive(Debug)]
pub struct SubmitLock {
    path: PathBuf,
    _file: File,
}

impl SubmitLock {
    /// Takes the lock; none while another process has it.
    pub(super) fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever had it before has taken the file away, and a lock on that one holds nobody back.
        let is_there = fs::metadata(path)
            .is_ok_and(|there| file.metadata().is_ok_and(|own| file::is_same(&own, &there)));
        Ok(is_there.then(|| Self {
            path: path.to_owned(),
            _file: file,
        }))
    }
}

impl Drop for SubmitLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
