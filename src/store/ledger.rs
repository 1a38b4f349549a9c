//! What requests there were and what they cost: one row for each, and totals that
//! never go down.
//!
//! It is a file of its own, apart from the slots in the state file: those are
//! looked up where a request waits for it, and that file's log being touched is
//! the sign for other processes to look into it. Requests come in here from the
//! journals that runs leave behind, rows and totals in one transaction, with how
//! far each journal has been read; so every line counts once, whoever is killed
//! when. What a dead process had sent and not heard the end of is `abandoned`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

use crate::store::database;
use crate::store::schema::Kind;
use crate::store::trouble::Refusal;

/// The ledger: "gptL".
pub(super) static LEDGER: Kind = Kind {
    noun: "ledger",
    application: 0x6770_744c,
    steps: &STEPS,
    rehearse,
};

/// What a request is called that its process did not hear the end of.
pub const ABANDONED: &str = "abandoned";

/// Upper bounds of the buckets of the response times, in microseconds.
pub const BOUNDS: [i64; 13] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    20_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
];

/// Rows that are kept at most, whatever their age: a few hundred megabytes.
const MOST_ROWS: i64 = 2_000_000;

/// Microseconds from one tidying up to the next.
const DAY: i64 = 86_400_000_000;

/// What leads from each version of the file to the next. Times and latencies are microseconds, money
/// is in billionths of a US dollar; what was not counted or has no known price is NULL.
const STEPS: [&str; 1] = ["
    CREATE TABLE source (
        id INTEGER PRIMARY KEY,
        host TEXT NOT NULL,
        profile TEXT NOT NULL,
        model TEXT NOT NULL,
        UNIQUE (host, profile, model)
    ) STRICT;
    CREATE TABLE run (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        source INTEGER NOT NULL,
        time INTEGER NOT NULL,
        key TEXT,                  -- the fingerprint
        hits INTEGER NOT NULL DEFAULT 0,
        hit_tokens_in INTEGER NOT NULL DEFAULT 0,
        hit_tokens_out INTEGER NOT NULL DEFAULT 0,
        saved INTEGER
    ) STRICT;
    CREATE TABLE request (
        id INTEGER PRIMARY KEY,
        run INTEGER NOT NULL,
        number INTEGER NOT NULL,
        time INTEGER NOT NULL,
        chunk TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        is_sent INTEGER NOT NULL,
        outcome TEXT,              -- NULL: in flight
        latency INTEGER,
        status INTEGER,
        tokens_in INTEGER,
        tokens_out INTEGER,
        tokens_cached INTEGER,
        cost INTEGER,
        request_id TEXT,
        UNIQUE (run, number)
    ) STRICT;
    CREATE INDEX request_time ON request (time);
    CREATE INDEX request_open ON request (run) WHERE outcome IS NULL;
    CREATE TABLE total (
        source INTEGER PRIMARY KEY,
        requests INTEGER NOT NULL DEFAULT 0,
        retries INTEGER NOT NULL DEFAULT 0,
        tokens_in INTEGER NOT NULL DEFAULT 0,
        tokens_out INTEGER NOT NULL DEFAULT 0,
        tokens_cached INTEGER NOT NULL DEFAULT 0,
        cost INTEGER NOT NULL DEFAULT 0,
        unpriced INTEGER NOT NULL DEFAULT 0,
        hits INTEGER NOT NULL DEFAULT 0,
        latency INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE failure (
        source INTEGER NOT NULL,
        kind TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (source, kind)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE bucket (
        source INTEGER NOT NULL,
        bound INTEGER NOT NULL,    -- the index; the last one has no bound
        count INTEGER NOT NULL,
        PRIMARY KEY (source, bound)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE journal (
        name TEXT PRIMARY KEY,
        run INTEGER NOT NULL,
        taken INTEGER NOT NULL     -- bytes that were taken over
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE meta (
        name TEXT PRIMARY KEY,
        value INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE spent (
        period TEXT PRIMARY KEY,   -- 2026-11-25, 2026-11
        amount INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE reservation (
        id INTEGER PRIMARY KEY,
        day TEXT NOT NULL,
        month TEXT NOT NULL,
        amount INTEGER NOT NULL,   -- what is counted as spent until it is settled
        least INTEGER NOT NULL,    -- what stays spent if its holder is gone
        expires INTEGER NOT NULL   -- seconds since 1970
    ) STRICT;
"];

fn rehearse(connection: &Connection) -> rusqlite::Result<()> {
    for statement in [
        "SELECT host, profile, model FROM source WHERE id = ?1",
        "SELECT name, source, time, key, hits, hit_tokens_in, hit_tokens_out, saved FROM run",
        "SELECT run, number, time, chunk, attempt, is_sent, outcome, latency, status, tokens_in,
            tokens_out, tokens_cached, cost, request_id FROM request",
        "SELECT requests, retries, tokens_in, tokens_out, tokens_cached, cost, unpriced, hits,
            latency FROM total WHERE source = ?1",
        "SELECT count FROM failure WHERE source = ?1 AND kind = ?2",
        "SELECT count FROM bucket WHERE source = ?1 AND bound = ?2",
        "SELECT run, taken FROM journal WHERE name = ?1",
    ] {
        connection.prepare(statement)?;
    }
    Ok(())
}

/// The ledger, open.
#[derive(Debug)]
pub struct Ledger {
    pub(super) connection: Connection,
    path: PathBuf,
    pub(super) folder: PathBuf,
}

impl Ledger {
    /// Opens the file, makes it if there is none; what comes with it is a warning. `folder` has the
    /// journals.
    ///
    /// # Errors
    /// That it cannot be used, in the words of a warning.
    pub fn open(path: &Path, folder: &Path) -> Result<(Self, Option<String>), String> {
        let opened = database::open(&LEDGER, path, false, now() / 1_000_000)?;
        let ledger = Self {
            connection: opened.connection,
            path: opened.path,
            folder: folder.to_owned(),
        };
        // A journal is removed once it is taken over, so that has to be on the disk.
        ledger
            .connection
            .execute_batch("PRAGMA synchronous = FULL")
            .map_err(|error| ledger.words(error))?;
        Ok((ledger, opened.warning))
    }

    /// Does not wait for other processes: what they do is done by them.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn be_brief(&self) -> Result<(), String> {
        self.connection
            .busy_timeout(Duration::from_millis(20))
            .map_err(|error| self.words(error))
    }

    pub(super) fn words(&self, error: rusqlite::Error) -> String {
        Refusal::from(error).words(&LEDGER, &self.path)
    }

    /// Forgets what is too old, once a day.
    pub(super) fn tidy(&self, retention: Duration) -> rusqlite::Result<()> {
        let now = now();
        let connection = &self.connection;
        let last: Option<i64> = connection
            .query_row("SELECT value FROM meta WHERE name = 'tidied'", [], |row| {
                row.get(0)
            })
            .optional()?;
        if last.is_some_and(|last| (0..DAY).contains(&(now - last))) {
            return Ok(());
        }
        let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        let age = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
        let oldest = now.saturating_sub(age);
        connection.execute(
            "DELETE FROM request WHERE time < ?1 AND outcome IS NOT NULL",
            [oldest],
        )?;
        connection.execute(
            "DELETE FROM request WHERE id <= (SELECT max(id) FROM request) - ?1",
            [MOST_ROWS],
        )?;
        connection.execute(
            "DELETE FROM run WHERE time < ?1 AND NOT EXISTS
                (SELECT 1 FROM request WHERE request.run = run.id)
                AND NOT EXISTS (SELECT 1 FROM journal WHERE journal.run = run.id)",
            [oldest],
        )?;
        // Journals that are gone leave their names behind; they never come back.
        let mut names = connection.prepare("SELECT name FROM journal")?;
        let names = names.query_map([], |row| row.get::<_, String>(0))?;
        for name in names.collect::<rusqlite::Result<Vec<_>>>()? {
            if !self.folder.join(&name).exists() {
                connection.execute("DELETE FROM journal WHERE name = ?1", [name])?;
            }
        }
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('tidied', ?1)", [now])?;
        transaction.commit()
    }
}

/// Microseconds since 1970.
#[must_use]
pub fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}
