//! The connections: how the file is opened, and how it is made.
//!
//! A new file is built beside its place, whole, and only then linked into it, so that nobody ever
//! opens one that is half made; switching to the write-ahead log, the one thing that SQLite does
//! not wait its turn for, happens where no other process can be. A file may be set aside while it
//! is being opened; so it counts only if it stood at its place before and after.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::store::damage;
use crate::store::file::{self, Found, Identity};
use crate::store::schema::{self, Kind};
use crate::store::trouble::{Refusal, is_busy, reason};

/// How long SQLite waits for other processes.
pub(super) const BUSY: Duration = Duration::from_secs(30);

/// Time between two attempts at what SQLite does not wait for.
const PAUSE: Duration = Duration::from_millis(3);

/// How often a file may vanish or be replaced while it is being opened.
const ATTEMPTS: usize = 100;

/// An open cache file.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Connection,
    /// The path from the root.
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    /// What was amiss, and was put right.
    pub(super) warning: Option<String>,
}

/// Opens the file, makes it if there is none, and sets it aside if it is damaged.
pub(super) fn open(
    kind: &'static Kind,
    path: &Path,
    is_named: bool,
    seconds: i64,
) -> Result<Opened, String> {
    let path = file::resolve(path);
    file::prepare_folder(kind, &path, is_named)?;
    let mut warning = None;
    for _ in 0..ATTEMPTS {
        let Found::File(identity) = file::find(kind, &path)? else {
            make(kind, &path).map_err(|refusal| refusal.words(kind, &path))?;
            continue;
        };
        let connected = if damage::is_condemned(&path, identity) {
            Err(Refusal::Damaged)
        } else {
            connect(kind, &path)
        };
        // What was opened may not be what was found.
        if file::find(kind, &path)? != Found::File(identity) {
            continue;
        }
        match connected {
            Ok(connection) => {
                return Ok(Opened {
                    connection,
                    path,
                    identity,
                    warning,
                });
            }
            Err(refusal) if damage::may_set_aside(kind, &path, &refusal, is_named) => {
                let aside = damage::set_aside(kind, &path, identity, seconds)?;
                warning = aside.map(|aside| {
                    let (file, aside) = (path.display(), aside.display());
                    let noun = kind.noun;
                    format!("the damaged {noun} `{file}` was set aside as `{aside}`")
                });
            }
            // A name can be mistyped; then the file is not damaged but something else.
            Err(Refusal::Damaged) if is_named => return Err(Refusal::Foreign.words(kind, &path)),
            Err(refusal) => return Err(refusal.words(kind, &path)),
        }
    }
    Err(format!(
        "the {} `{}` is replaced again and again",
        kind.noun,
        path.display()
    ))
}

/// Opens the file as it is.
pub(super) fn connect(kind: &Kind, path: &Path) -> Result<Connection, Refusal> {
    // A mutex of ours stands around each connection.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    patiently(|| {
        let connection = Connection::open_with_flags(path, flags)?;
        prepare(&connection)?;
        // The log stays for the next process, which saves every process the last one's work; and
        // nobody waits for a lock when leaving.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        identify(kind, &connection)?;
        Ok(connection)
    })
}

/// A cache that lives as long as the connection.
pub(super) fn connect_memory(kind: &Kind) -> Result<Connection, Refusal> {
    let connection = Connection::open_in_memory()?;
    prepare(&connection)?;
    schema::migrate(&connection, kind)?;
    Ok(connection)
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    // Whatever a file brings along besides our tables has no say.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    // Else this build of SQLite plans a statement anew whenever other values are bound, which takes
    // longer than to run it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // A file that is cut short by somebody else must not end the process, so it is not mapped.
    // NORMAL: what is committed outlives the process; a power cut may cost the last replies.
    connection.execute_batch(
        "PRAGMA mmap_size = 0; PRAGMA cache_size = -512; PRAGMA cell_size_check = ON;
         PRAGMA synchronous = NORMAL;",
    )
}

/// Makes sure that it is a cache of ours, of this version, with its log.
fn identify(kind: &Kind, connection: &Connection) -> Result<(), Refusal> {
    let application: i32 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application != kind.application {
        return Err(Refusal::Foreign);
    }
    let version = schema::version_of(connection)?;
    if version > kind.version() {
        return Err(Refusal::Newer);
    }
    if version < kind.version() {
        schema::migrate(connection, kind)?;
    }
    let journal: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if journal != "wal" {
        // Somebody changed it with a tool.
        use_log(connection)?;
    }
    (kind.rehearse)(connection)?;
    Ok(())
}

fn use_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))
}

/// Does again what another process was in the way of.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T, Refusal>) -> Result<T, Refusal> {
    let started = Instant::now();
    loop {
        match attempt() {
            Err(Refusal::Failed(error)) if is_busy(&error) && started.elapsed() < BUSY => {
                thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

/// Why there is no new file.
#[derive(Debug)]
enum Unmade {
    Io(io::Error),
    Sqlite(rusqlite::Error),
}

impl Unmade {
    fn words(&self, kind: &Kind, path: &Path) -> String {
        let reason = match self {
            Self::Io(error) => crate::error::reason(error),
            Self::Sqlite(error) => reason(error),
        };
        format!(
            "the {} `{}` cannot be made: {reason}",
            kind.noun,
            path.display()
        )
    }
}

impl From<io::Error> for Unmade {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rusqlite::Error> for Unmade {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Makes the file, unless another process does.
fn make(kind: &Kind, path: &Path) -> Result<(), Unmade> {
    let lock = file::lock(path);
    let is_empty = match file::find(kind, path) {
        Ok(Found::Nothing) => false,
        Ok(Found::Empty) => true,
        // Another was faster, or the next look tells what is wrong.
        Ok(Found::File(_)) | Err(_) => return Ok(()),
    };
    let new = if lock.is_some() {
        // Killed while it was made: the next one cleans up.
        file::beside(path, ".new")
    } else {
        file::beside(path, &format!(".new-{}", std::process::id()))
    };
    damage::remove_all(&new)?;
    let made = build(kind, &new).and_then(|()| {
        // A log of a file that was removed by hand would be taken for one of this file.
        damage::forget(path)?;
        damage::remove_companions(path)?;
        if is_empty {
            return Ok(fs::rename(&new, path)?);
        }
        match fs::hard_link(&new, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // Not every file system has links.
            Err(_) => Ok(fs::rename(&new, path)?),
            Ok(()) => Ok(()),
        }
    });
    damage::remove_all(&new)?;
    made
}

fn build(kind: &Kind, new: &Path) -> Result<(), Unmade> {
    file::make_private(new)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(new, flags)?;
    connection.pragma_update(None, "page_size", schema::PAGE.cast_signed())?;
    prepare(&connection)?;
    // Nobody sees it yet, so that it need reach the disk only once.
    connection.pragma_update(None, "synchronous", "OFF")?;
    use_log(&connection)?;
    schema::migrate(&connection, kind)?;
    // Its log goes into the file and away.
    connection.close().map_err(|(_, error)| error)?;
    Ok(File::options().write(true).open(new)?.sync_all()?)
}
