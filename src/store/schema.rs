//! The tables, and how a file of an older version becomes one of this version.
//!
//! `entry` is narrow: one small row for each key, so that marks of use and the search for what was
//! not used for long touch few pages. `body` holds what was stored, in the order in which it came,
//! so that what is old leaves whole pages free when it goes.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::store::entry;

/// What one of our files is for.
#[derive(Debug)]
pub(super) struct Kind {
    /// What messages call it.
    pub(super) noun: &'static str,
    /// What SQLite's `application_id` says of it.
    pub(super) application: i32,
    /// What leads from each version to the next.
    pub(super) steps: &'static [&'static str],
    /// Prepares what is asked often, and so finds out whether the tables are right.
    pub(super) rehearse: fn(&Connection) -> rusqlite::Result<()>,
}

/// Remembered replies: "gptC".
pub(super) static CACHE: Kind = Kind {
    noun: "cache",
    application: 0x6770_7443,
    steps: &STEPS,
    rehearse: entry::rehearse,
};

/// Bytes of a page.
pub(super) const PAGE: u64 = 4096;

/// What leads from each version to the next; a file's `user_version` says how many it has behind
/// it. A step that was released is never changed. Times are microseconds since 1970.
const STEPS: [&str; 1] = ["
    CREATE TABLE entry (
        id INTEGER PRIMARY KEY,    -- the first eight bytes of the key
        body INTEGER NOT NULL,
        stored INTEGER NOT NULL,
        used INTEGER NOT NULL,
        expires INTEGER NOT NULL,  -- when pruning may take it
        bytes INTEGER NOT NULL,
        is_split INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE body (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL,
        stored INTEGER NOT NULL,
        text TEXT,                 -- these of a reply
        model TEXT,
        finish INTEGER,
        prompt_tokens INTEGER,
        completion_tokens INTEGER,
        cached_tokens INTEGER,
        split_end INTEGER,         -- these of a split
        split_start INTEGER,
        sum BLOB NOT NULL
    ) STRICT;
    CREATE TABLE meta (
        name TEXT PRIMARY KEY,
        value INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
"];

impl Kind {
    /// The version that this program writes.
    pub(super) fn version(&self) -> i64 {
        i64::try_from(self.steps.len()).unwrap_or(i64::MAX)
    }
}

/// The version of the file; 0 where nothing was made yet.
pub(super) fn version_of(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Brings the file to the version of the last step. Several processes may try at once: each looks
/// again once it alone may write.
pub(super) fn migrate(connection: &Connection, kind: &Kind) -> rusqlite::Result<()> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let version = version_of(connection)?;
    let missing = usize::try_from(version)
        .ok()
        .and_then(|version| kind.steps.get(version..))
        .unwrap_or_default();
    if missing.is_empty() {
        return transaction.commit();
    }
    for step in missing {
        connection.execute_batch(step)?;
    }
    connection.pragma_update(None, "application_id", kind.application)?;
    connection.pragma_update(None, "user_version", kind.version())?;
    transaction.commit()
}
