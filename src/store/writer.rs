//! The thread that writes: it takes whatever is asked for by then, commits all of it at once, and
//! only then says so.
//!
//! It has a connection of its own, so that nobody who looks something up waits for a commit. It
//! starts with the second entry to store; a run that finds everything never has it. After the first
//! failure it stores nothing more and answers everything at once.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::store::damage;
use crate::store::database;
use crate::store::entry::{self, Entry, Key};
use crate::store::file::{self, Identity};
use crate::store::prune::{self, Limits, Pages};
use crate::store::schema::CACHE;
use crate::store::trouble::{Trouble, is_damage, is_full, reason};

/// Entries that may wait for the thread.
const WAITING: usize = 64;

/// Entries of one commit.
const GROUP: usize = 64;

/// Marks of use that may wait; beyond them entries look less used than they are.
const MARKS: usize = 4096;

/// Marks that are worth a commit of their own.
const MANY_MARKS: usize = 512;

/// Bytes of a log that a run may leave behind. To read so many takes the next one a third of a millisecond; to put them
/// into the file takes several, but it comes to that once in a hundred short runs.
const LONG_LOG: u64 = 1 << 20;

/// Time that others get to let go of a log that has become too long.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// Microseconds in a second.
pub(super) const SECOND: i64 = 1_000_000;

/// Tells the time, in microseconds since 1970.
#[derive(Clone)]
pub(super) struct Clock(pub(super) Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    pub(super) fn now(&self) -> i64 {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// A connection and who holds it.
pub(super) type Shared = Arc<Mutex<Connection>>;

/// The file that is open.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    pub(super) is_named: bool,
}

/// What the two sides of the cache share.
#[derive(Debug)]
pub(super) struct Common {
    /// None: the cache is in memory.
    pub(super) place: Option<Place>,
    pub(super) limits: Limits,
    /// Microseconds that an entry is good for.
    pub(super) ttl: i64,
    pub(super) clock: Clock,
    pub(super) trouble: Trouble,
    pub(super) marks: Mutex<Vec<Mark>>,
}

/// That an entry was used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) id: i64,
    pub(super) body: i64,
    pub(super) used: i64,
    pub(super) expires: i64,
}

impl Common {
    /// The file in words.
    fn shown(&self) -> String {
        match &self.place {
            Some(place) => format!("the cache `{}`", place.path.display()),
            None => "the cache in memory".to_owned(),
        }
    }

    /// Something failed: it is told once, and the next run is told of damage.
    pub(super) fn fail(&self, error: &rusqlite::Error) {
        if is_damage(error) {
            self.meet_damage();
        } else {
            self.trouble.meet(|| {
                format!(
                    "{} fails: {}; this run remembers nothing more",
                    self.shown(),
                    reason(error)
                )
            });
        }
    }

    /// Something that was read is not what was written.
    pub(super) fn meet_damage(&self) {
        if !self.trouble.is_met()
            && let Some(place) = &self.place
        {
            damage::condemn(&place.path, place.identity);
        }
        self.trouble.meet(|| {
            format!(
                "{} is damaged; this run remembers nothing more, the next one begins a new file",
                self.shown()
            )
        });
    }

    /// Notes that an entry was used; true if it is time to write the marks.
    pub(super) fn mark(&self, mark: Mark) -> bool {
        let mut marks = lock(&self.marks);
        if marks.len() < MARKS {
            marks.push(mark);
        }
        // Said now and then only: the thread may be busy.
        marks.len().is_multiple_of(MANY_MARKS)
    }
}

/// What the thread is asked for.
#[derive(Debug)]
pub(super) enum Message {
    Store(Store),
    /// Write the marks of use.
    Marks,
    /// Keep the file and its log small: something was stored without this thread.
    Upkeep,
    /// Write everything and say so.
    Finish(oneshot::Sender<()>),
}

/// An entry to be stored.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) key: Key,
    pub(super) entry: Entry,
    pub(super) stored: i64,
    /// Told whether it is committed.
    pub(super) done: oneshot::Sender<bool>,
}

/// Starts the thread; it ends when every sender is gone. With a connection in memory there is only
/// that one.
pub(super) fn start(
    common: Arc<Common>,
    memory: Option<Shared>,
) -> io::Result<mpsc::Sender<Message>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || {
            Writer {
                common,
                connection: memory,
                is_pruned: false,
                has_stored: false,
            }
            .run(receiver);
        })?;
    Ok(sender)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic elsewhere left behind is whole: SQLite has undone what was not committed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Writer {
    common: Arc<Common>,
    connection: Option<Shared>,
    is_pruned: bool,
    has_stored: bool,
}

/// What is committed together.
#[derive(Default)]
struct Group {
    stores: Vec<Store>,
    bytes: u64,
    wants_marks: bool,
    wants_upkeep: bool,
    finishes: Vec<oneshot::Sender<()>>,
}

impl Group {
    fn add(&mut self, message: Message) {
        match message {
            Message::Store(store) => {
                self.bytes += store.entry.bytes();
                self.stores.push(store);
            }
            Message::Marks => self.wants_marks = true,
            Message::Upkeep => self.wants_upkeep = true,
            Message::Finish(done) => {
                self.wants_marks = true;
                self.finishes.push(done);
            }
        }
    }
}

impl Writer {
    fn run(mut self, mut receiver: mpsc::Receiver<Message>) {
        // What is asked for mostly comes some time after the thread was.
        let _ = self.connect();
        while let Some(first) = receiver.blocking_recv() {
            let mut group = Group::default();
            group.add(first);
            while group.stores.len() < GROUP && group.bytes < self.common.limits.log_bytes {
                match receiver.try_recv() {
                    Ok(message) => group.add(message),
                    Err(_) => break,
                }
            }
            self.serve(group);
        }
    }

    fn serve(&mut self, group: Group) {
        let stores = group.stores;
        let is_committed = self.commit(&stores, group.wants_marks);
        let has_stored = group.wants_upkeep || !stores.is_empty();
        for store in stores {
            // Nobody waits any more: it is stored all the same.
            let _ = store.done.send(is_committed);
        }
        if has_stored && is_committed && self.connect().is_some() {
            self.has_stored = true;
            self.keep_small();
        }
        if !group.finishes.is_empty() && self.has_stored {
            self.leave_short_log();
        }
        for finish in group.finishes {
            let _ = finish.send(());
        }
    }

    fn commit(&mut self, stores: &[Store], wants_marks: bool) -> bool {
        let marks = if wants_marks {
            std::mem::take(&mut *lock(&self.common.marks))
        } else {
            Vec::new()
        };
        if stores.is_empty() && marks.is_empty() {
            return true;
        }
        if self.common.trouble.is_met() {
            return false;
        }
        let Some(connection) = self.connect() else {
            return false;
        };
        let connection = lock(&connection);
        let common = &self.common;
        let committed = match write(&connection, common, stores, &marks) {
            Err(error) if is_full(&error) => make_room_and_write(&connection, common, stores),
            result => result,
        };
        if let Err(error) = &committed {
            common.fail(error);
        }
        committed.is_ok()
    }

    /// The connection, opened when it is needed first.
    fn connect(&mut self) -> Option<Shared> {
        if self.connection.is_none()
            && let Some(place) = &self.common.place
        {
            let seconds = self.common.clock.now() / SECOND;
            // If another process set the file aside meanwhile, this opens the new one.
            match database::open(&CACHE, &place.path, place.is_named, seconds) {
                Ok(opened) => {
                    if let Err(error) = set_limits(&opened.connection, self.common.limits) {
                        self.common.fail(&error);
                        return None;
                    }
                    self.connection = Some(Arc::new(Mutex::new(opened.connection)));
                }
                Err(words) => self
                    .common
                    .trouble
                    .meet(|| format!("{words}; this run remembers nothing more")),
            }
        }
        self.connection.clone()
    }

    /// What is done after a commit, while nobody waits.
    fn keep_small(&mut self) {
        let Some(connection) = &self.connection else {
            return;
        };
        let connection = lock(connection);
        let common = &self.common;
        let mut kept = Ok(());
        if !self.is_pruned {
            self.is_pruned = true;
            kept = prune::prune_if_due(&connection, common.clock.now(), common.limits);
        }
        let kept = kept
            .and_then(|()| prune::make_room(&connection, common.limits, 0))
            .and_then(|_| cut_long_log(&connection, common));
        if let Err(error) = kept
            && !is_full(&error)
        {
            common.fail(&error);
        }
    }

    /// The next process that comes alone reads the whole log before anything else; a long one is put into the file here,
    /// unless others are at it.
    fn leave_short_log(&self) {
        if let (Some(connection), Some(place)) = (&self.connection, &self.common.place)
            && is_log_long(place)
        {
            // It is right as it is, only long.
            let _ = prune::cut_log(&lock(connection), Duration::ZERO);
        }
    }
}

/// Sets how large the file and its log may grow; kept by SQLite for this connection only.
pub(super) fn set_limits(connection: &Connection, limits: Limits) -> rusqlite::Result<()> {
    // A file that is larger already stays so until it is pruned.
    let pages = limits.pages.max(Pages::of(connection)?.all);
    connection.execute_batch(&format!(
        "PRAGMA max_page_count = {pages}; PRAGMA journal_size_limit = {bytes};
         PRAGMA wal_autocheckpoint = {log_pages};",
        bytes = limits.log_bytes,
        log_pages = limits.log_bytes / crate::store::schema::PAGE,
    ))
}

/// One transaction.
fn write(
    connection: &Connection,
    common: &Common,
    stores: &[Store],
    marks: &[Mark],
) -> rusqlite::Result<()> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    for store in stores {
        let expires = store.stored.saturating_add(common.ttl);
        entry::write(connection, &store.key, &store.entry, store.stored, expires)?;
    }
    for mark in marks {
        entry::mark(connection, mark.id, mark.body, mark.used, mark.expires)?;
    }
    transaction.commit()
}

/// One transaction for each entry, since all at once may be more than there can be room for. A full
/// disk fails here too; a full file does not.
fn make_room_and_write(
    connection: &Connection,
    common: &Common,
    stores: &[Store],
) -> rusqlite::Result<()> {
    /// Entries differ in size: what went need not be as large as what comes.
    const ATTEMPTS: usize = 8;
    for store in stores {
        let mut attempts = 0;
        while let Err(error) = write(connection, common, std::slice::from_ref(store), &[]) {
            attempts += 1;
            if !is_full(&error) || attempts == ATTEMPTS {
                return Err(error);
            }
            if prune::make_room(connection, common.limits, store.entry.bytes())?.entries == 0 {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Readers that are never all away keep the log from beginning anew; then it is cut by force.
fn cut_long_log(connection: &Connection, common: &Common) -> rusqlite::Result<()> {
    let Some(place) = &common.place else {
        return Ok(());
    };
    if log_bytes(place) > 2 * common.limits.log_bytes {
        prune::cut_log(connection, PATIENCE)?;
    }
    Ok(())
}

/// Whether a run should put the log into the file before it ends.
pub(super) fn is_log_long(place: &Place) -> bool {
    log_bytes(place) > LONG_LOG
}

fn log_bytes(place: &Place) -> u64 {
    let log = fs::metadata(file::beside(&place.path, "-wal"));
    log.map_or(0, |log| log.len())
}
