//! The first entry of a run, which is the only one of most runs that `xargs` starts: the connection that looks up
//! stores it, there and then. A thread and a connection of its own cost a tenth of such a run.
//!
//! Whatever might have to be waited for is left to the thread that writes: another process that writes at the moment,
//! a log that is due to go into the file, room that has to be made, a file that was set aside meanwhile.

use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::store::database;
use crate::store::entry::{self, Entry, Key};
use crate::store::file::{self, Found};
use crate::store::prune;
use crate::store::schema::CACHE;
use crate::store::trouble::{is_busy, is_full};
use crate::store::writer::{self, Common, Place};

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// It is committed. `is_due`: the file should be pruned.
    Stored { is_due: bool },
    /// It is left to the thread that writes.
    Left,
}

/// Stores an entry of a time in microseconds since 1970, unless that might take long.
pub(super) fn store(
    connection: &Connection,
    common: &Common,
    place: &Place,
    (key, entry, stored): (&Key, &Entry, i64),
) -> rusqlite::Result<First> {
    let is_there = file::find(&CACHE, &place.path) == Ok(Found::File(place.identity));
    if !is_there || writer::is_log_long(place) {
        return Ok(First::Left);
    }
    connection.busy_timeout(Duration::ZERO)?;
    let written = write(connection, common, (key, entry, stored));
    connection.busy_timeout(database::BUSY)?;
    match written {
        Err(error) if is_busy(&error) || is_full(&error) => Ok(First::Left),
        written => written,
    }
}

/// One transaction; one that is not committed is undone.
fn write(
    connection: &Connection,
    common: &Common,
    (key, entry, stored): (&Key, &Entry, i64),
) -> rusqlite::Result<First> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    if !prune::has_room(connection, common.limits, entry.bytes())? {
        return Ok(First::Left);
    }
    let expires = stored.saturating_add(common.ttl);
    entry::write(connection, key, entry, stored, expires)?;
    let is_due = prune::is_due(connection, common.clock.now())?;
    transaction.commit()?;
    Ok(First::Stored { is_due })
}
