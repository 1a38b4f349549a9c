//! Replies that were paid for, found again by what determines them.
//!
//! A [`Cache`] is a cheap handle. Looking up happens at once, in the thread that asks: it costs
//! microseconds. So does storing the first entry; all others go to a thread of its own. Either resolves once
//! it is committed. Whatever fails is a miss or an entry that is not remembered, and is told once: a cache is
//! never a reason to lose a reply.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::error::reason;
use crate::store::database;
use crate::store::entry::{self, Found, Read};
use crate::store::first::{self, First};
use crate::store::prune::Limits;
use crate::store::schema::CACHE;
use crate::store::trouble::{Trouble, WITHOUT, is_damage};
use crate::store::writer::{self, Clock, Common, Mark, Message, SECOND, Shared, Store};

pub use crate::store::entry::{Entry, Key};

/// A mark of use younger than this, in microseconds, is not renewed.
const FRESH: i64 = 3600 * SECOND;

/// How far, in microseconds, the clock of who stored an entry may have been ahead.
const SKEW: i64 = 60 * SECOND;

/// What the end of a run waits for what was asked of the cache.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a cache lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file, which is made if there is none.
    File(PathBuf),
    /// In memory, for this run only.
    Memory,
}

/// How a cache is used.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// Where it lives.
    pub place: Place,
    /// Whether the user named the file: then what is no cache of ours is left alone, and its folder
    /// is not made.
    pub is_named: bool,
    /// Entries older than this are not used.
    pub ttl: Duration,
    /// Entries from before this run are not used (`--refresh`).
    pub is_refresh: bool,
    /// The file is kept below this many bytes, its log among them; half a MiB at least.
    pub max_bytes: u64,
}

/// A handle of the cache.
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    reader: Shared,
    common: Arc<Common>,
    /// Started by the second entry to store; None where it could not be.
    writer: OnceLock<Option<mpsc::Sender<Message>>>,
    /// Whether an entry is expected to be stored.
    is_expecting: AtomicBool,
    /// Whether the first entry was handed in.
    has_first: AtomicBool,
    is_refresh: bool,
    /// Microseconds since 1970.
    opened: i64,
}

impl Cache {
    /// Opens the cache, or makes it. What comes with it is a warning though it can be used, such as
    /// that a damaged file was set aside.
    ///
    /// # Errors
    /// That it cannot be used, in the words of a warning: which file, why, and that the run goes on
    /// without.
    pub fn open(options: CacheOptions) -> Result<(Self, Option<String>), String> {
        Self::open_at(options, Clock(Arc::new(now)))
    }

    pub(super) fn open_at(
        options: CacheOptions,
        clock: Clock,
    ) -> Result<(Self, Option<String>), String> {
        let opened = clock.now();
        let limits = Limits::new(options.max_bytes);
        let (reader, place, warning) = match options.place {
            Place::Memory => {
                let connection = database::connect_memory(&CACHE)
                    .map_err(|_| format!("there is no cache in memory; {WITHOUT}"))?;
                // The only connection is the one that writes too; a limit that cannot be set is
                // no reason to do without.
                let _ = writer::set_limits(&connection, limits);
                (connection, None, None)
            }
            Place::File(path) => {
                let opened = database::open(&CACHE, &path, options.is_named, opened / SECOND)
                    .map_err(|words| format!("{words}; {WITHOUT}"))?;
                let place = writer::Place {
                    path: opened.path,
                    identity: opened.identity,
                    is_named: options.is_named,
                };
                (opened.connection, Some(place), opened.warning)
            }
        };
        let cache = Self {
            inner: Arc::new(Inner {
                reader: Arc::new(Mutex::new(reader)),
                common: Arc::new(Common {
                    place,
                    limits,
                    ttl: micros(options.ttl),
                    clock,
                    trouble: Trouble::default(),
                    marks: Mutex::default(),
                }),
                writer: OnceLock::new(),
                is_expecting: AtomicBool::new(false),
                has_first: AtomicBool::new(false),
                is_refresh: options.is_refresh,
                opened,
            }),
        };
        Ok((cache, warning))
    }

    /// Looks an entry up; takes some microseconds, from any thread. A database that fails is a miss
    /// and a trouble.
    #[must_use]
    pub fn lookup(&self, key: &Key) -> Option<Entry> {
        self.lookup_all(std::slice::from_ref(key), 0)
            .pop()
            .flatten()
    }

    /// Looks up one key after the other as [`Cache::lookup`] does, up to the first miss, or until
    /// what was found has so many bytes; says what it found for those. At least one key is looked
    /// up.
    ///
    /// All are read in one transaction: to begin one takes as long as to read a small entry.
    #[must_use]
    pub fn lookup_all(&self, keys: &[Key], most_bytes: usize) -> Vec<Option<Entry>> {
        let common = &self.inner.common;
        if common.trouble.is_blind() {
            return keys.first().map(|_| None).into_iter().collect();
        }
        let mut entries = Vec::with_capacity(keys.len());
        let connection = writer::lock(&self.inner.reader);
        let read = self.read_all(&connection, keys, most_bytes as u64, &mut entries);
        drop(connection);
        if let Err(error) = read {
            common.fail(&error);
            // One damaged page says little about the others; a file that cannot be read would
            // be waited for again and again.
            if !is_damage(&error) {
                common.trouble.turn_blind();
            }
            entries.push(None);
        }
        entries
    }

    fn read_all(
        &self,
        connection: &Connection,
        keys: &[Key],
        most_bytes: u64,
        entries: &mut Vec<Option<Entry>>,
    ) -> rusqlite::Result<()> {
        // One statement is a transaction by itself. What was only read need not be committed.
        let _transaction = match keys {
            [] | [_] => None,
            _ => Some(connection.unchecked_transaction()?),
        };
        let mut reader = entry::Reader::new(connection)?;
        let mut bytes = 0;
        for key in keys {
            let entry = match reader.read(key)? {
                Some(Read::Found(found)) => self.judge(key, found),
                Some(Read::Damaged) => {
                    self.inner.common.meet_damage();
                    None
                }
                Some(Read::Other) | None => None,
            };
            bytes += entry.as_ref().map_or(0, Entry::bytes);
            let is_miss = entry.is_none();
            entries.push(entry);
            if is_miss || bytes >= most_bytes {
                break;
            }
        }
        Ok(())
    }

    /// Whether the entry is good for this run; if so it is marked as used.
    fn judge(&self, key: &Key, found: Found) -> Option<Entry> {
        let common = &self.inner.common;
        let now = common.clock.now();
        let age = now.saturating_sub(found.stored);
        let is_old = self.inner.is_refresh && found.stored < self.inner.opened;
        if age < -SKEW || age >= common.ttl || is_old {
            return None;
        }
        let expires = found.stored.saturating_add(common.ttl);
        let is_fresh = now.saturating_sub(found.used) < FRESH && found.expires >= expires;
        if !is_fresh {
            let is_time = common.mark(Mark {
                id: key.id(),
                body: found.body,
                used: now,
                expires,
            });
            if is_time && let Some(writer) = self.writer() {
                // A full queue has something to commit anyway.
                let _ = writer.try_send(Message::Marks);
            }
        }
        Some(found.entry)
    }

    /// Says that one entry more will be stored. For the second one the thread that does so gets ready: what is stored
    /// soon need not wait for that.
    pub fn expect(&self) {
        if self.inner.is_expecting.swap(true, Ordering::Relaxed) {
            let _ = self.writer();
        }
    }

    /// Remembers an entry; resolves to true once it is committed, so that it outlives the process.
    /// False: it is not remembered, because of a trouble, because it is larger than a tenth of the
    /// file may be, or because the reply is not whole.
    pub async fn store(&self, key: Key, entry: Entry) -> bool {
        let common = &self.inner.common;
        if common.trouble.is_met() || !entry.is_whole() || entry.bytes() > common.limits.entry_bytes
        {
            return false;
        }
        let stored = common.clock.now();
        if !self.inner.has_first.swap(true, Ordering::Relaxed)
            && let Some(is_committed) = self.store_first(&key, &entry, stored)
        {
            return is_committed;
        }
        let Some(writer) = self.writer() else {
            return false;
        };
        let (done, is_committed) = oneshot::channel();
        let store = Store {
            key,
            entry,
            stored,
            done,
        };
        writer.send(Message::Store(store)).await.is_ok() && is_committed.await.unwrap_or(false)
    }

    /// Stores an entry at once; None where that might take long.
    fn store_first(&self, key: &Key, entry: &Entry, stored: i64) -> Option<bool> {
        let common = &self.inner.common;
        let place = common.place.as_ref()?;
        // Whoever looks something up at the moment would be waited for.
        let connection = self.inner.reader.try_lock().ok()?;
        let first = first::store(&connection, common, place, (key, entry, stored));
        drop(connection);
        match first {
            Ok(First::Left) => None,
            Ok(First::Stored { is_due }) => {
                if is_due && let Some(writer) = self.writer() {
                    // A full queue keeps the file small anyway.
                    let _ = writer.try_send(Message::Upkeep);
                }
                Some(true)
            }
            Err(error) => {
                common.fail(&error);
                Some(false)
            }
        }
    }

    /// The first thing that went wrong since the cache was opened, once, in the words of a warning;
    /// after it nothing is stored any more.
    #[must_use]
    pub fn take_trouble(&self) -> Option<String> {
        self.inner.common.trouble.take()
    }

    /// Waits until all that was asked for is committed and the marks of use are written, for some
    /// seconds at most; the end of a run. Needs a runtime with a clock.
    pub async fn finish(&self) {
        let common = &self.inner.common;
        let has_marks = !writer::lock(&common.marks).is_empty();
        let is_log_long = self.inner.has_first.load(Ordering::Relaxed)
            && common.place.as_ref().is_some_and(writer::is_log_long);
        if self.inner.writer.get().is_none() && !has_marks && !is_log_long {
            return;
        }
        let Some(writer) = self.writer() else {
            return;
        };
        let (done, is_done) = oneshot::channel();
        let finished = async {
            if is_log_long {
                let _ = writer.send(Message::Upkeep).await;
            }
            if writer.send(Message::Finish(done)).await.is_ok() {
                let _ = is_done.await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, finished).await;
    }

    fn writer(&self) -> Option<&mpsc::Sender<Message>> {
        let Inner {
            common,
            reader,
            writer,
            ..
        } = &*self.inner;
        writer
            .get_or_init(|| {
                let memory = common.place.is_none().then(|| Arc::clone(reader));
                writer::start(Arc::clone(common), memory)
                    .map_err(|error| {
                        common.trouble.meet(|| {
                            format!(
                                "there is no thread for the cache: {}; this run remembers nothing",
                                reason(&error)
                            )
                        });
                    })
                    .ok()
            })
            .as_ref()
    }
}

/// Microseconds since 1970; a clock before that is taken for 1970.
pub(super) fn now() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, micros)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
