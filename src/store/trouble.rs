//! What goes wrong with the cache, in words; and the first of it while a run lasts.
//!
//! SQLite's own texts are not passed on: they speak to programmers, and a fixed word for each code
//! cannot carry anything of what is stored.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Error, ErrorCode};

use crate::store::schema::Kind;

/// What every warning of a cache that cannot be used ends with.
pub(super) const WITHOUT: &str = "going on without a cache";

/// SQLite's code where a file ends before a page that it should have.
const SHORT_READ: i32 = rusqlite::ffi::SQLITE_IOERR_SHORT_READ;

/// SQLite's code where the index of the log finds no room on the disk.
const NO_ROOM: i32 = rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

/// Why a file cannot be used as the cache.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is broken.
    Damaged,
    /// It is something else.
    Foreign,
    /// A later version made it.
    Newer,
    /// The system or another process is in the way.
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        if is_damage(&error) {
            Self::Damaged
        } else {
            Self::Failed(error)
        }
    }
}

impl Refusal {
    /// The reason, without the end that says what happens now.
    pub(super) fn words(&self, kind: &Kind, path: &Path) -> String {
        let (noun, file) = (kind.noun, path.display());
        match self {
            Self::Damaged => format!("the {noun} `{file}` is damaged"),
            Self::Foreign => format!("`{file}` is no {noun} of gptpipe and is left as it is"),
            Self::Newer => format!("the {noun} `{file}` was made by a newer gptpipe"),
            Self::Failed(error) => format!("the {noun} `{file}` cannot be used: {}", reason(error)),
        }
    }
}

/// Whether the error says that the file's content is not what it should be.
pub(super) fn is_damage(error: &Error) -> bool {
    match error {
        Error::SqliteFailure(error, _) | Error::SqlInputError { error, .. } => {
            let is_short = error.extended_code == SHORT_READ;
            is_short
                || matches!(
                    error.code,
                    ErrorCode::DatabaseCorrupt
                        | ErrorCode::NotADatabase
                        // The statements are right, so it is the tables that are wrong.
                        | ErrorCode::Unknown
                        | ErrorCode::ConstraintViolation
                        | ErrorCode::TypeMismatch
                        | ErrorCode::InternalMalfunction
                )
        }
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::InvalidColumnIndex(_)
        | Error::Utf8Error(..)
        | Error::QueryReturnedNoRows
        | Error::ExecuteReturnedResults => true,
        _ => false,
    }
}

/// Whether another process was in the way.
pub(super) fn is_busy(error: &Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
        )
    )
}

/// Whether there was no room: on the disk, or below the limit of the file.
pub(super) fn is_full(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// The reason in a few words.
pub(super) fn reason(error: &Error) -> String {
    let Error::SqliteFailure(failure, _) = error else {
        return if is_damage(error) {
            "it is damaged".to_owned()
        } else {
            "SQLite was asked for something it cannot do".to_owned()
        };
    };
    let words = match failure.code {
        _ if is_damage(error) => "it is damaged",
        _ if failure.extended_code == NO_ROOM => "the disk is full",
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::FileLockingProtocolFailed => "another process kept it for too long",
        ErrorCode::DiskFull => "the disk is full",
        ErrorCode::SystemIoFailure => {
            let code = failure.extended_code;
            return format!("the system cannot read or write it (code {code} of SQLite)");
        }
        ErrorCode::ReadOnly => "it is read-only",
        ErrorCode::CannotOpen | ErrorCode::PermissionDenied => "it cannot be opened",
        ErrorCode::OutOfMemory => "there is no memory left",
        _ => return format!("SQLite failed with code {}", failure.extended_code),
    };
    words.to_owned()
}

/// The first thing that went wrong since the cache was opened.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    first: Mutex<Option<String>>,
    is_told: AtomicBool,
    is_met: AtomicBool,
    is_blind: AtomicBool,
}

impl Trouble {
    /// Remembers it, if it is the first.
    pub(super) fn meet(&self, words: impl FnOnce() -> String) {
        let mut first = self.first();
        if first.is_none() && !self.is_told.load(Ordering::Relaxed) {
            *first = Some(words());
        }
        self.is_met.store(true, Ordering::Release);
    }

    /// From now on nothing is looked up either.
    pub(super) fn turn_blind(&self) {
        self.is_blind.store(true, Ordering::Release);
    }

    /// Whether anything went wrong.
    pub(super) fn is_met(&self) -> bool {
        self.is_met.load(Ordering::Acquire)
    }

    /// Whether reading is hopeless.
    pub(super) fn is_blind(&self) -> bool {
        self.is_blind.load(Ordering::Acquire)
    }

    /// Hands it out, once.
    pub(super) fn take(&self) -> Option<String> {
        let taken = self.first().take();
        if taken.is_some() {
            self.is_told.store(true, Ordering::Relaxed);
        }
        taken
    }

    fn first(&self) -> MutexGuard<'_, Option<String>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
