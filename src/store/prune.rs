//! Keeps the file small: what expired goes, and what was not used for longest when room is needed.
//!
//! It works in slices, each a short transaction, so that no other process waits long; and each
//! slice looks anew, so that several processes at it do not take away more than is needed. The
//! file does not shrink by it: pages that are free are used again.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use crate::store::schema::PAGE;

/// Time between two looks for what expired, by any process, in microseconds.
const INTERVAL: i64 = 3600 * 1_000_000;

/// A row from this far in the future, in microseconds, was stored by a clock that was wrong.
const ABSURD: i64 = 24 * 3600 * 1_000_000;

/// A clock that says less (microseconds; 2025) was never set, and has no say about what expired.
const NEVER_SET: i64 = 1_735_689_600 * 1_000_000;

/// Rows of a slice.
const SLICE: i64 = 128;

/// An end even where a damaged file would have none.
const SLICES: usize = 100_000;

/// How large the parts of the cache may grow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Pages of the file.
    pub(super) pages: u64,
    /// Bytes after which the log goes into the file.
    pub(super) log_bytes: u64,
    /// Bytes of an entry.
    pub(super) entry_bytes: u64,
}

impl Limits {
    /// The smallest file that works, in bytes.
    const SMALLEST: u64 = 512 * 1024;

    /// Bytes of the largest entry whatever the file may be; half of what SQLite takes in a row.
    const LONGEST: u64 = 500_000_000;

    /// Shares out the bytes of the whole: the log grows to a few times its own limit before it
    /// begins anew.
    pub(super) fn new(max_bytes: u64) -> Self {
        let max_bytes = max_bytes.max(Self::SMALLEST);
        let log_bytes = (max_bytes / 16).clamp(64 * 1024, 4 * 1024 * 1024);
        Self {
            pages: (max_bytes - 3 * log_bytes) / PAGE,
            log_bytes,
            entry_bytes: (max_bytes / 10).min(Self::LONGEST),
        }
    }

    /// Pages that an entry of so many bytes takes at most: it may split a page on every level of both trees.
    fn needed(self, bytes: u64) -> u64 {
        bytes / PAGE + self.pages / 50 + 8
    }
}

/// Pages of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages {
    pub(super) all: u64,
    pub(super) free: u64,
}

impl Pages {
    pub(super) fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let value = |sql| -> rusqlite::Result<u64> {
            let value: i64 = connection
                .prepare_cached(sql)?
                .query_row([], |row| row.get(0))?;
            Ok(u64::try_from(value).unwrap_or_default())
        };
        Ok(Self {
            all: value("PRAGMA page_count")?,
            free: value("PRAGMA freelist_count")?,
        })
    }

    pub(super) fn used(self) -> u64 {
        self.all.saturating_sub(self.free)
    }
}

/// What was taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Entries.
    pub entries: u64,
    /// What they took, in bytes.
    pub bytes: u64,
}

/// Prunes if nobody did in the last hour.
pub(super) fn prune_if_due(
    connection: &Connection,
    now: i64,
    limits: Limits,
) -> rusqlite::Result<()> {
    if is_due(connection, now)? {
        prune(connection, now, limits)?;
        shrink(connection, limits)?;
    }
    Ok(())
}

/// Whether nobody pruned in the last hour.
pub(super) fn is_due(connection: &Connection, now: i64) -> rusqlite::Result<bool> {
    let last: Option<i64> = connection
        .prepare_cached("SELECT value FROM meta WHERE name = 'pruned'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    // A time in the future is as good as none.
    Ok(last.is_none_or(|last| now < last || now - last >= INTERVAL))
}

/// Takes away what expired, and what was not used for longest if there is too much.
pub(super) fn prune(connection: &Connection, now: i64, limits: Limits) -> rusqlite::Result<Pruned> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES ('pruned', ?1)")?
        .execute([now])?;
    let mut pruned = Pruned::default();
    if now > NEVER_SET {
        slices(connection, &mut pruned, |connection| {
            rows(
                connection,
                "SELECT id, body, bytes FROM entry WHERE expires <= ?1 OR stored > ?2 LIMIT ?3",
                params![now, now.saturating_add(ABSURD), SLICE],
            )
        })?;
    }
    let room = make_room(connection, limits, 0)?;
    pruned.entries += room.entries;
    pruned.bytes += room.bytes;
    Ok(pruned)
}

/// Whether so many bytes more find room with certainty.
pub(super) fn has_room(
    connection: &Connection,
    limits: Limits,
    bytes: u64,
) -> rusqlite::Result<bool> {
    Ok(Pages::of(connection)?.used() + limits.needed(bytes) <= limits.pages)
}

/// Takes away what was not used for longest until a tenth of the file is free, if so many bytes
/// more would not find room with certainty.
pub(super) fn make_room(
    connection: &Connection,
    limits: Limits,
    bytes: u64,
) -> rusqlite::Result<Pruned> {
    let mut pruned = Pruned::default();
    if has_room(connection, limits, bytes)? {
        return Ok(pruned);
    }
    let target = limits
        .pages
        .saturating_sub(limits.needed(bytes).max(limits.pages / 10));
    slices(connection, &mut pruned, |connection| {
        let excess = Pages::of(connection)?.used().saturating_sub(target) * PAGE;
        if excess == 0 {
            return Ok(Vec::new());
        }
        let mut rows = rows(
            connection,
            "SELECT id, body, bytes FROM entry ORDER BY used, body LIMIT ?1",
            params![SLICE],
        )?;
        let mut bytes = 0;
        let enough = rows.iter().position(|row| {
            bytes += row.bytes;
            bytes >= excess
        });
        if let Some(last) = enough {
            rows.truncate(last + 1);
        }
        Ok(rows)
    })?;
    Ok(pruned)
}

/// Gives room back to the system where most of the file is free and it is larger than it may be, as
/// after the limit was lowered.
pub(super) fn shrink(connection: &Connection, limits: Limits) -> rusqlite::Result<()> {
    let pages = Pages::of(connection)?;
    if pages.all > limits.pages && pages.free > pages.used() {
        connection.execute_batch("VACUUM")?;
    }
    Ok(())
}

/// Writes the log into the file and cuts it, and waits no longer than so for others.
pub(super) fn cut_log(connection: &Connection, patience: Duration) -> rusqlite::Result<()> {
    connection.busy_timeout(patience)?;
    let cut = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    connection.busy_timeout(crate::store::database::BUSY)?;
    cut
}

/// What is needed to take a row away.
#[derive(Clone, Copy, Debug)]
struct Doomed {
    id: i64,
    body: i64,
    bytes: u64,
}

fn rows(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<Vec<Doomed>> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params, |row| {
        let bytes: i64 = row.get(2)?;
        Ok(Doomed {
            id: row.get(0)?,
            body: row.get(1)?,
            bytes: u64::try_from(bytes).unwrap_or_default(),
        })
    })?;
    rows.collect()
}

/// Takes away what is chosen, again and again, until nothing is.
fn slices(
    connection: &Connection,
    pruned: &mut Pruned,
    choose: impl Fn(&Connection) -> rusqlite::Result<Vec<Doomed>>,
) -> rusqlite::Result<()> {
    for _ in 0..SLICES {
        let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        let chosen = choose(connection)?;
        if chosen.is_empty() {
            return transaction.commit();
        }
        for row in &chosen {
            connection
                .prepare_cached("DELETE FROM body WHERE id = ?1")?
                .execute([row.body])?;
            connection
                .prepare_cached("DELETE FROM entry WHERE id = ?1")?
                .execute([row.id])?;
        }
        transaction.commit()?;
        pruned.entries += chosen.len() as u64;
        pruned.bytes += chosen.iter().map(|row| row.bytes).sum::<u64>();
    }
    Ok(())
}
