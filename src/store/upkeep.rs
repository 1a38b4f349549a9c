//! What `gptpipe cache` does with a cache file: look, prune, clear.
//!
//! It goes beside whatever runs use the file at the same time. A file that is not there is an empty
//! cache, and none is made.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::error::Error;
use crate::store::cache;
use crate::store::damage;
use crate::store::database;
use crate::store::file::{self, Found};
use crate::store::prune::{self, Limits};
use crate::store::schema::CACHE;
use crate::store::trouble::Refusal;
use crate::store::writer;

pub use crate::store::prune::Pruned;

/// What a cache file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The file, from the root.
    pub file: PathBuf,
    /// Entries, splits among them, expired ones too.
    pub entries: u64,
    /// Those that say where a chunk was cut in two.
    pub splits: u64,
    /// Bytes of the file and its log.
    pub bytes: u64,
    /// When the oldest entry was stored.
    pub oldest: Option<SystemTime>,
    /// When the newest entry was stored.
    pub newest: Option<SystemTime>,
    /// When any entry was last used, to within an hour.
    pub used: Option<SystemTime>,
}

/// What was cleared away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Entries.
    pub entries: u64,
    /// Damaged files that were set aside.
    pub damaged: u64,
    /// Bytes by which everything together is smaller now.
    pub bytes: u64,
}

/// Looks what the file holds.
///
/// # Errors
/// [`Error::Usage`] where the file is no cache, is damaged or cannot be read.
pub fn stats(path: &Path) -> Result<Stats, Error> {
    let path = file::resolve(path);
    let mut stats = Stats::default();
    if let Some(connection) = open(&path)? {
        stats = count(&connection).map_err(|error| failure(&path, error))?;
        stats.bytes = bytes_of(&path);
    }
    stats.file = path;
    Ok(stats)
}

/// Takes away what expired, and what was not used for longest until the file fits into so many
/// bytes.
///
/// # Errors
/// [`Error::Usage`] where the file is no cache, is damaged or cannot be written.
pub fn prune(path: &Path, max_bytes: u64) -> Result<Pruned, Error> {
    let path = file::resolve(path);
    let Some(connection) = open(&path)? else {
        return Ok(Pruned::default());
    };
    let limits = Limits::new(max_bytes);
    let pruned =
        prune::prune(&connection, cache::now(), limits).map_err(|error| failure(&path, error))?;
    // The file is right as it is; it is only larger than it need be.
    let _ = prune::shrink(&connection, limits);
    let _ = prune::cut_log(&connection, writer::PATIENCE);
    Ok(pruned)
}

/// Takes away all entries and the damaged files that were set aside.
///
/// # Errors
/// [`Error::Usage`] where the file is no cache or cannot be written.
pub fn clear(path: &Path) -> Result<Cleared, Error> {
    let path = file::resolve(path);
    let before = bytes_of(&path);
    let mut cleared = Cleared::default();
    match open_as_it_is(&path) {
        Ok(None) => {}
        Ok(Some(connection)) => {
            cleared.entries = delete_all(&connection).map_err(|error| failure(&path, error))?;
            // Processes that read at this moment keep it from shrinking; it does so later.
            let _ = connection.execute_batch("PRAGMA temp_store = MEMORY; VACUUM");
            let _ = prune::cut_log(&connection, writer::PATIENCE);
        }
        Err(Refused::Place(words)) => return Err(Error::usage(words)),
        Err(Refused::File(refusal, found)) => {
            // A file that was named and is not ours is never moved, let alone deleted.
            if !damage::may_set_aside(&CACHE, &path, &refusal, true) {
                return Err(Error::usage(refusal.words(&CACHE, &path)));
            }
            let seconds = cache::now() / writer::SECOND;
            damage::set_aside(&CACHE, &path, found, seconds).map_err(Error::usage)?;
        }
    }
    let mut after = bytes_of(&path);
    for file in damage::set_aside_files(&path) {
        let bytes = bytes_of(&file);
        if damage::remove_all(&file).is_ok() {
            cleared.damaged += 1;
            cleared.bytes += bytes;
        } else {
            after += bytes;
        }
    }
    cleared.bytes += before.saturating_sub(after);
    Ok(cleared)
}

/// Why a file is not opened.
enum Refused {
    Place(String),
    File(Refusal, file::Identity),
}

/// None: there is no file.
fn open_as_it_is(path: &Path) -> Result<Option<Connection>, Refused> {
    let Found::File(identity) = file::find(&CACHE, path).map_err(Refused::Place)? else {
        return Ok(None);
    };
    let refuse = |refusal| Refused::File(refusal, identity);
    if damage::is_condemned(path, identity) {
        return Err(refuse(Refusal::Damaged));
    }
    let connection = database::connect(&CACHE, path).map_err(refuse)?;
    Ok(Some(connection))
}

fn open(path: &Path) -> Result<Option<Connection>, Error> {
    open_as_it_is(path).map_err(|refused| match refused {
        Refused::Place(words) => Error::usage(words),
        Refused::File(Refusal::Damaged, _) => damaged(path),
        Refused::File(refusal, _) => Error::usage(refusal.words(&CACHE, path)),
    })
}

fn failure(path: &Path, error: rusqlite::Error) -> Error {
    match Refusal::from(error) {
        Refusal::Damaged => damaged(path),
        refusal => Error::usage(refusal.words(&CACHE, path)),
    }
}

fn damaged(path: &Path) -> Error {
    Error::usage_hint(
        Refusal::Damaged.words(&CACHE, path),
        "the next run that uses it sets it aside if it is a cache of gptpipe; \
         `gptpipe cache clear` deletes it",
    )
}

fn count(connection: &Connection) -> rusqlite::Result<Stats> {
    connection.query_row(
        "SELECT count(*), coalesce(sum(is_split), 0), min(stored), max(stored), max(used)
         FROM entry",
        [],
        |row| {
            let number = |column| -> rusqlite::Result<u64> {
                let value: i64 = row.get(column)?;
                Ok(u64::try_from(value).unwrap_or_default())
            };
            Ok(Stats {
                entries: number(0)?,
                splits: number(1)?,
                oldest: time(row.get(2)?),
                newest: time(row.get(3)?),
                used: time(row.get(4)?),
                ..Stats::default()
            })
        },
    )
}

fn time(micros: Option<i64>) -> Option<SystemTime> {
    let micros = u64::try_from(micros?).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros))
}

fn delete_all(connection: &Connection) -> rusqlite::Result<u64> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let entries = connection.execute("DELETE FROM entry", [])?;
    connection.execute("DELETE FROM body", [])?;
    transaction.commit()?;
    Ok(entries as u64)
}

fn bytes_of(path: &Path) -> u64 {
    [path.to_owned(), file::beside(path, "-wal")]
        .iter()
        .filter_map(|file| fs::metadata(file).ok())
        .map(|metadata| metadata.len())
        .sum()
}
