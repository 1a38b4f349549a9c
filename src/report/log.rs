//! The record of a run's requests: into the journal that the ledger is made of,
//! and as lines of JSON into a file that the user named.
//!
//! What is noted says who asked whom for how much, and never what: no text and no
//! key. A request is noted when it leaves and again when it is over, in one write
//! each, so that nobody waits for it and no end of the process loses it.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::api::failure::{Failure, Kind};
use crate::api::reply::{Reply, Usage};
use crate::api::sending::OnSend;
use crate::error::{Error, reason};
use crate::report::audit;
use crate::report::price::Price;
use crate::store::journal::{Ended, Hits, Journal, Line, Run, Started};
use crate::store::ledger::{ABANDONED, Ledger, now};
use crate::store::usage::Record;

/// Bytes of a run's journal that are taken over while it goes on.
const LONG: u64 = 8 << 20;

/// One run in so many takes over what the runs before it left behind.
const RUNS: u32 = 64;

/// Where the ledger is, and how long it keeps its rows.
#[derive(Clone, Debug)]
pub struct LedgerPlace {
    /// The database.
    pub file: PathBuf,
    /// The folder of the journals.
    pub journals: PathBuf,
    /// How long a request is remembered.
    pub retention: Duration,
}

impl LedgerPlace {
    /// Whether anything was ever recorded there.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.file.exists() || self.journals.exists()
    }

    /// Opens it.
    ///
    /// # Errors
    /// In the words of a warning.
    pub fn open(&self) -> Result<(Ledger, Option<String>), String> {
        Ledger::open(&self.file, &self.journals)
    }

    /// Opens it, with everything in it that the journals have by now.
    ///
    /// # Errors
    /// In the words of a warning.
    pub fn open_current(&self) -> Result<(Ledger, Option<String>), String> {
        let (ledger, warning) = self.open()?;
        ledger.take_over(self.retention)?;
        Ok((ledger, warning))
    }
}

/// Keeps the record of a run.
#[derive(Clone, Debug, Default)]
pub struct Book(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    run: Run,
    /// The key's name, once it is known.
    key: OnceLock<Option<String>>,
    price: Option<Price>,
    ledger: Option<LedgerPlace>,
    log: Option<Log>,
    journal: Mutex<State>,
    numbers: AtomicU64,
    trouble: Mutex<Option<String>>,
    is_taking_over: AtomicBool,
}

/// The journal: begun with the first request, so that a run that sends none has no file.
#[derive(Debug)]
enum State {
    Unopened,
    Open(Journal, u64),
    Closed,
}

/// The file that the user named.
#[derive(Debug)]
struct Log {
    file: File,
    name: String,
}

impl Book {
    /// A record of requests at one host; nothing is written before the first.
    ///
    /// # Errors
    /// [`Error::Usage`] for a log that cannot be opened.
    pub fn open(
        run: Run,
        price: Option<Price>,
        ledger: Option<LedgerPlace>,
        log: Option<&Path>,
    ) -> Result<Self, Error> {
        if ledger.is_none() && log.is_none() {
            return Ok(Self::default());
        }
        Ok(Self(Some(Arc::new(Inner {
            run,
            key: OnceLock::new(),
            price,
            ledger,
            log: log.map(open_log).transpose()?,
            journal: Mutex::new(State::Unopened),
            numbers: AtomicU64::new(0),
            trouble: Mutex::default(),
            is_taking_over: AtomicBool::new(false),
        }))))
    }

    /// The key is known by now; `fingerprint` is what tells it from others.
    pub fn name_key(&self, fingerprint: impl FnOnce() -> Option<String>) {
        if let Some(inner) = &self.0 {
            inner.key.get_or_init(fingerprint);
        }
    }

    /// An attempt begins.
    #[must_use]
    pub fn attempt(&self, chunk: &[u8; 32], attempt: u32) -> Entry {
        Entry {
            book: self.clone(),
            started: Arc::new(Mutex::new(Started {
                number: u64::MAX,
                chunk: self.0.as_ref().map_or(String::new(), |_| digest(chunk)),
                attempt,
                ..Started::default()
            })),
            began: SystemTime::now(),
            is_over: false,
        }
    }

    /// What went wrong, once.
    #[must_use]
    pub fn take_trouble(&self) -> Option<String> {
        lock(&self.0.as_ref()?.trouble).take()
    }

    /// The run is over, with so many replies that were remembered.
    pub fn finish(&self, count: u64, usage: Usage) {
        let Some(inner) = &self.0 else {
            return;
        };
        if count > 0 {
            let hits = Hits {
                count,
                tokens_in: usage.prompt_tokens,
                tokens_out: usage.completion_tokens,
                saved: inner.price.as_ref().map(|price| price.cost(usage)),
            };
            inner.note(&Line::Hits(hits).text());
        }
        let state = std::mem::replace(&mut *lock(&inner.journal), State::Closed);
        let State::Open(journal, _) = state else {
            return;
        };
        let is_due = journal.bytes() > LONG / 8 || fastrand::u32(..RUNS) == 0;
        // Unlocked, so that it can be taken over.
        drop(journal);
        if is_due && let Some(place) = &inner.ledger {
            // Where another process is at it, nothing is left to do.
            let _ = place.open().and_then(|(ledger, _)| {
                ledger.be_brief()?;
                ledger.take_over(place.retention)
            });
        }
    }
}

impl Inner {
    /// What is known of the run.
    fn run(&self) -> Run {
        Run {
            key: self.key.get().cloned().flatten(),
            ..self.run.clone()
        }
    }

    /// Adds lines to the journal.
    fn note(self: &Arc<Self>, lines: &str) {
        let Some(place) = &self.ledger else {
            return;
        };
        let mut state = lock(&self.journal);
        if matches!(*state, State::Unopened) {
            match Journal::create(&place.journals, &self.run()) {
                Ok(journal) => *state = State::Open(journal, LONG),
                Err(error) => {
                    self.meet(|| {
                        format!(
                            "the ledger's folder `{}` cannot be used: {}; this run is not recorded",
                            place.journals.display(),
                            reason(&error)
                        )
                    });
                    *state = State::Closed;
                }
            }
        }
        let State::Open(journal, next) = &mut *state else {
            return;
        };
        if let Err(error) = journal.append(lines) {
            self.meet(|| {
                format!(
                    "the ledger in `{}` cannot be written: {}; some requests are not recorded",
                    place.journals.display(),
                    reason(&error)
                )
            });
        }
        if journal.bytes() > *next {
            *next = journal.bytes() + LONG;
            self.take_over_aside(place);
        }
    }

    /// Has the journals taken over on a thread of its own.
    fn take_over_aside(self: &Arc<Self>, place: &LedgerPlace) {
        if self.is_taking_over.swap(true, Ordering::Relaxed) {
            return;
        }
        let (this, place) = (Arc::clone(self), place.clone());
        let started = thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || {
                if let Err(words) = place.open_current() {
                    this.meet(|| words);
                }
                this.is_taking_over.store(false, Ordering::Relaxed);
            });
        if started.is_err() {
            self.is_taking_over.store(false, Ordering::Relaxed);
        }
    }

    /// An attempt is over; one that never left has come to nothing before.
    fn end(self: &Arc<Self>, started: &mut Started, began: SystemTime, end: End<'_>) {
        let mut lines = String::new();
        if !started.is_sent {
            started.number = self.numbers.fetch_add(1, Ordering::Relaxed);
            started.time = now();
            lines = Line::Start(started.clone()).text();
        }
        let latency = began.elapsed().unwrap_or_default();
        let cost = end
            .usage
            .zip(self.price.as_ref())
            .map(|(usage, price)| price.cost(usage));
        let ended = Ended {
            number: started.number,
            outcome: end.outcome.to_owned(),
            latency: i64::try_from(latency.as_micros()).unwrap_or(i64::MAX),
            status: end.status,
            tokens_in: end.usage.map(|usage| usage.prompt_tokens),
            tokens_out: end.usage.map(|usage| usage.completion_tokens),
            tokens_cached: end.usage.map(|usage| usage.cached_tokens),
            cost,
            request_id: end.request_id,
        };
        if self.log.is_some() {
            self.log(&audit::record(&self.run(), started, &ended));
        }
        lines += &Line::End(ended).text();
        self.note(&lines);
    }

    fn log(&self, record: &Record) {
        let Some(log) = &self.log else {
            return;
        };
        // One write, so that lines of several processes stay whole.
        if let Err(error) = (&log.file).write_all(audit::line(record).as_bytes()) {
            self.meet(|| {
                format!(
                    "the log `{}` cannot be written: {}",
                    log.name,
                    reason(&error)
                )
            });
        }
    }

    fn meet(&self, words: impl FnOnce() -> String) {
        lock(&self.trouble).get_or_insert_with(words);
    }
}

/// How an attempt ended.
#[derive(Debug, Default)]
struct End<'a> {
    outcome: &'a str,
    status: Option<u16>,
    usage: Option<Usage>,
    request_id: Option<String>,
}

/// One attempt, until it is over. One that is dropped before is abandoned.
#[derive(Debug)]
pub struct Entry {
    book: Book,
    started: Arc<Mutex<Started>>,
    began: SystemTime,
    is_over: bool,
}

impl Entry {
    /// What is to be told when the request leaves.
    #[must_use]
    pub fn on_send(&self) -> Option<OnSend> {
        let inner = Arc::clone(self.book.0.as_ref()?);
        let started = Arc::clone(&self.started);
        let began = self.began;
        Some(OnSend(Arc::new(move || {
            let mut started = lock(&started);
            if started.is_sent {
                // The key was refused, and there is another.
                let end = End {
                    outcome: Kind::Auth.word(),
                    status: Some(401),
                    ..End::default()
                };
                inner.end(&mut started, began, end);
                started.attempt += 1;
            }
            started.number = inner.numbers.fetch_add(1, Ordering::Relaxed);
            started.time = now();
            started.is_sent = true;
            inner.note(&Line::Start(started.clone()).text());
        })))
    }

    /// It is over.
    pub fn end(mut self, result: Result<&Reply, &Failure>) {
        self.close(match result {
            Ok(reply) => End {
                outcome: "ok",
                status: Some(200),
                usage: reply.usage,
                request_id: reply.id.clone(),
            },
            Err(failure) => End {
                outcome: failure.kind.word(),
                status: failure.status,
                usage: failure.partial.as_ref().and_then(|partial| partial.usage),
                request_id: failure.request_id.clone(),
            },
        });
    }

    fn close(&mut self, end: End<'_>) {
        self.is_over = true;
        if let Some(inner) = &self.book.0 {
            inner.end(&mut lock(&self.started), self.began, end);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let is_sent = lock(&self.started).is_sent;
        if !self.is_over && is_sent {
            self.close(End {
                outcome: ABANDONED,
                ..End::default()
            });
        }
    }
}

/// The eight bytes by which the cache knows a chunk too.
fn digest(chunk: &[u8; 32]) -> String {
    chunk[..8].iter().fold(String::new(), |mut text, byte| {
        use std::fmt::Write as _;
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn open_log(path: &Path) -> Result<Log, Error> {
    let mut options = File::options();
    options.append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let name = path.display().to_string();
    match options.open(path) {
        Ok(file) => Ok(Log { file, name }),
        Err(error) => Err(Error::usage(format!(
            "cannot open the log `{name}`: {}",
            reason(&error)
        ))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
