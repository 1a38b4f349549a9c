//! From the journals into the ledger: rows and totals in one transaction, with how
//! far each journal was read.
//!
//! Only one process does it at a time, since it alone may write the database.
//! A journal that nobody has locked has lost its writer, and goes once what it
//! had is on the disk.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use crate::store::budget::SPEND;
use crate::store::journal::{self, Ended, Hits, Line, Run, Started};
use crate::store::ledger::{ABANDONED, BOUNDS, Ledger};

/// Bytes of journals that are taken over in one transaction, about.
const GROUP: u64 = 4 << 20;

/// Bytes of a journal that are read at a time.
const BUFFER: usize = 64 << 10;

/// Where there are no locks, a journal that was not written to for so long has no writer any more.
const STALE: Duration = Duration::from_hours(24);

const START: &str = "INSERT OR IGNORE INTO request (run, number, time, chunk, attempt, is_sent)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

const END: &str = "UPDATE request SET outcome = ?3, latency = ?4, status = ?5, tokens_in = ?6,
    tokens_out = ?7, tokens_cached = ?8, cost = ?9, request_id = ?10
    WHERE run = ?1 AND number = ?2 AND outcome IS NULL
    RETURNING date(time / 1000000, 'unixepoch')";

/// What went by during one taking over.
#[derive(Debug, Default)]
struct Delta {
    requests: i64,
    retries: i64,
    tokens: [u64; 3],
    cost: i64,
    unpriced: i64,
    hits: u64,
    latency: i64,
    failures: BTreeMap<String, i64>,
    buckets: BTreeMap<usize, i64>,
}

/// What went by, by source, and what has to be counted against the budgets, by day and month.
#[derive(Debug, Default)]
struct Deltas {
    sources: BTreeMap<i64, Delta>,
    spent: BTreeMap<String, i64>,
}

impl Ledger {
    /// Takes over what the journals have, and forgets the rows that are older than `retention`.
    ///
    /// # Errors
    /// What cannot be read or written, in words.
    pub fn take_over(&self, retention: Duration) -> Result<(), String> {
        self.take_journals(|_| true)?;
        self.tidy(retention).map_err(|error| self.words(error))
    }

    /// Gets ready for a budget: what runs without one have spent by now counts too.
    ///
    /// # Errors
    /// What cannot be read or written, in words.
    pub fn begin_budget(&self) -> Result<(), String> {
        self.take_journals(|path| !journal::is_counted(path))
    }

    fn take_journals(&self, is_wanted: impl Fn(&Path) -> bool) -> Result<(), String> {
        let unread = |error: io::Error| {
            format!(
                "the journals in `{}` cannot be read: {}",
                self.folder.display(),
                crate::error::reason(&error)
            )
        };
        let mut paths = journal::list(&self.folder).map_err(unread)?;
        paths.retain(|path| is_wanted(path));
        paths.reverse();
        while !paths.is_empty() {
            let taken = self.take_group(&mut paths).map_err(|error| match error {
                Trouble::Io(error) => unread(error),
                Trouble::Sqlite(error) => self.words(error),
            })?;
            for journal in taken {
                journal.leave();
            }
        }
        Ok(())
    }

    /// One transaction; takes the paths that it is done with off the end of the list.
    fn take_group(&self, paths: &mut Vec<PathBuf>) -> Result<Vec<Taken>, Trouble> {
        let transaction =
            Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        let mut deltas = Deltas::default();
        let mut bytes = 0;
        let mut done = Vec::new();
        while bytes < GROUP
            && let Some(path) = paths.pop()
        {
            if let Some(taken) = take(&transaction, &path, &mut deltas)? {
                bytes += taken.bytes;
                done.push(taken);
            }
        }
        for (source, delta) in deltas.sources {
            delta.add(&transaction, source)?;
        }
        for spent in deltas.spent {
            transaction.prepare_cached(SPEND)?.execute(spent)?;
        }
        transaction.commit()?;
        Ok(done)
    }
}

/// Why journals were not taken over.
enum Trouble {
    Io(io::Error),
    Sqlite(rusqlite::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// A journal that was taken over as far as it went.
struct Taken {
    path: PathBuf,
    file: File,
    is_over: bool,
    /// Up to where it was read.
    end: u64,
    /// Of these, what was read now.
    bytes: u64,
}

impl Taken {
    /// Once it is committed: a journal without a writer goes, that of a long run gives back its
    /// room. The lock is kept until then, so that nobody takes it for one that begins.
    fn leave(self) {
        if self.is_over {
            let _ = fs::remove_file(&self.path);
        } else if self.bytes > 0 {
            give_back(&self.file, self.end);
        }
    }
}

/// Gives the room of what was read back to the file system, where it can do that.
#[cfg(target_os = "linux")]
fn give_back(file: &File, end: u64) {
    use rustix::fs::{FallocateFlags, fallocate};
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let _ = fallocate(file, flags, 0, end);
}

#[cfg(not(target_os = "linux"))]
fn give_back(_: &File, _: u64) {}

/// Takes one journal over; none if it is gone.
fn take(
    connection: &Connection,
    path: &Path,
    deltas: &mut Deltas,
) -> Result<Option<Taken>, Trouble> {
    let mut file = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let is_over = match file.try_lock() {
        Ok(()) => true,
        // On Windows nobody else reads what is locked (LockFileEx): it has to wait for its writer's end.
        Err(TryLockError::WouldBlock) if cfg!(windows) => return Ok(None),
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(_)) => {
            let age = file.metadata()?.modified()?.elapsed();
            age.is_ok_and(|age| age > STALE)
        }
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let known: Option<(i64, i64, i64)> = connection
        .prepare_cached(
            "SELECT journal.run, source, taken FROM journal JOIN run ON run.id = journal.run
             WHERE journal.name = ?1",
        )?
        .query_row([&name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let is_counted = journal::is_counted(path);
    let from = known.map_or(0, |(_, _, taken)| taken.cast_unsigned());
    file.seek(SeekFrom::Start(from))?;
    let mut owner = known.map(|(run, source, _)| (run, source));
    // Line by line: the journal of a long run is long.
    let mut lines = BufReader::with_capacity(BUFFER, &file);
    let (mut bytes, mut whole) = (Vec::new(), 0);
    // What its writer is about to finish is left for later.
    while lines.read_until(b'\n', &mut bytes)? > 0 && bytes.ends_with(b"\n") {
        whole += bytes.len() as u64;
        let line = Line::read(&bytes);
        bytes.clear();
        let Some(line) = line else {
            continue;
        };
        match (line, owner) {
            (Line::Run(run), _) => owner = Some(enter_run(connection, &run)?),
            (_, None) => {}
            (Line::Start(started), Some(owner)) => {
                enter_start(connection, owner, &started, deltas)?;
            }
            (Line::End(ended), Some(owner)) => {
                let day = enter_end(connection, owner, &ended, deltas)?;
                if let (Some(day), Some(cost), false) = (day, ended.cost, is_counted) {
                    deltas.spend(day, cost);
                }
            }
            (Line::Hits(hits), Some((run, source))) => {
                enter_hits(connection, run, hits)?;
                deltas.sources.entry(source).or_default().hits += hits.count;
            }
        }
    }
    let end = from + whole;
    // What nothing was added to is not written, as that would have the disk waited for.
    if let Some((run, source)) = owner.filter(|_| is_over || whole > 0) {
        if is_over {
            abandon(connection, run, source, deltas)?;
        }
        connection
            .prepare_cached(
                "INSERT INTO journal VALUES (?1, ?2, ?3)
                 ON CONFLICT (name) DO UPDATE SET taken = excluded.taken",
            )?
            .execute(params![name, run, end.cast_signed()])?;
    }
    Ok(Some(Taken {
        path: path.to_owned(),
        file,
        is_over,
        end,
        bytes: whole,
    }))
}

fn enter_run(connection: &Connection, run: &Run) -> rusqlite::Result<(i64, i64)> {
    let source = params![run.host, run.profile, run.model];
    connection
        .prepare_cached("INSERT OR IGNORE INTO source (host, profile, model) VALUES (?1, ?2, ?3)")?
        .execute(source)?;
    let source: i64 = connection
        .prepare_cached("SELECT id FROM source WHERE host = ?1 AND profile = ?2 AND model = ?3")?
        .query_row(source, |row| row.get(0))?;
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO run (name, source, time, key) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![run.name, source, run.time, run.key])?;
    let id = connection
        .prepare_cached("SELECT id FROM run WHERE name = ?1")?
        .query_row([&run.name], |row| row.get(0))?;
    Ok((id, source))
}

fn enter_start(
    connection: &Connection,
    (run, source): (i64, i64),
    started: &Started,
    deltas: &mut Deltas,
) -> rusqlite::Result<()> {
    let entered = connection.prepare_cached(START)?.execute(params![
        run,
        started.number.cast_signed(),
        started.time,
        started.chunk,
        started.attempt,
        started.is_sent,
    ])?;
    if entered == 1 && started.is_sent {
        let delta = deltas.sources.entry(source).or_default();
        delta.requests += 1;
        delta.retries += i64::from(started.attempt > 1);
    }
    Ok(())
}

/// Gives the day of the request, unless it was over before.
fn enter_end(
    connection: &Connection,
    (run, source): (i64, i64),
    ended: &Ended,
    deltas: &mut Deltas,
) -> rusqlite::Result<Option<String>> {
    let signed = |tokens: Option<u64>| tokens.map(u64::cast_signed);
    let end = params![
        run,
        ended.number.cast_signed(),
        ended.outcome,
        ended.latency,
        ended.status,
        signed(ended.tokens_in),
        signed(ended.tokens_out),
        signed(ended.tokens_cached),
        ended.cost,
        ended.request_id,
    ];
    let day: Option<String> = connection
        .prepare_cached(END)?
        .query_row(end, |row| row.get(0))
        .optional()?;
    if day.is_none() {
        return Ok(None);
    }
    let delta = deltas.sources.entry(source).or_default();
    let tokens = [ended.tokens_in, ended.tokens_out, ended.tokens_cached];
    for (sum, tokens) in delta.tokens.iter_mut().zip(tokens) {
        *sum += tokens.unwrap_or(0);
    }
    delta.cost += ended.cost.unwrap_or(0);
    if ended.outcome == "ok" {
        delta.unpriced += i64::from(ended.cost.is_none());
        delta.latency += ended.latency;
        let bucket = BOUNDS.partition_point(|bound| *bound < ended.latency);
        *delta.buckets.entry(bucket).or_default() += 1;
    } else {
        *delta.failures.entry(ended.outcome.clone()).or_default() += 1;
    }
    Ok(day)
}

fn enter_hits(connection: &Connection, run: i64, hits: Hits) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE run SET hits = hits + ?2, hit_tokens_in = hit_tokens_in + ?3,
                hit_tokens_out = hit_tokens_out + ?4, saved = ?5 WHERE id = ?1",
        )?
        .execute(params![
            run,
            hits.count.cast_signed(),
            hits.tokens_in.cast_signed(),
            hits.tokens_out.cast_signed(),
            hits.saved,
        ])?;
    Ok(())
}

/// The writer is gone: what it had not heard the end of, nobody will.
fn abandon(
    connection: &Connection,
    run: i64,
    source: i64,
    deltas: &mut Deltas,
) -> rusqlite::Result<()> {
    let abandoned = connection
        .prepare_cached("UPDATE request SET outcome = ?2 WHERE run = ?1 AND outcome IS NULL")?
        .execute(params![run, ABANDONED])?;
    if abandoned > 0 {
        let failures = &mut deltas.sources.entry(source).or_default().failures;
        *failures.entry(ABANDONED.to_owned()).or_default() +=
            i64::try_from(abandoned).unwrap_or(i64::MAX);
    }
    Ok(())
}

impl Deltas {
    fn spend(&mut self, day: String, cost: i64) {
        if cost != 0 {
            let month = day.get(..7).unwrap_or_default().to_owned();
            for period in [day, month] {
                *self.spent.entry(period).or_default() += cost;
            }
        }
    }
}

impl Delta {
    fn add(&self, connection: &Connection, source: i64) -> rusqlite::Result<()> {
        connection
            .prepare_cached("INSERT OR IGNORE INTO total (source) VALUES (?1)")?
            .execute([source])?;
        connection
            .prepare_cached(
                "UPDATE total SET requests = requests + ?2, retries = retries + ?3,
                    tokens_in = tokens_in + ?4, tokens_out = tokens_out + ?5,
                    tokens_cached = tokens_cached + ?6, cost = cost + ?7,
                    unpriced = unpriced + ?8, hits = hits + ?9, latency = latency + ?10
                 WHERE source = ?1",
            )?
            .execute(params![
                source,
                self.requests,
                self.retries,
                self.tokens[0].cast_signed(),
                self.tokens[1].cast_signed(),
                self.tokens[2].cast_signed(),
                self.cost,
                self.unpriced,
                self.hits.cast_signed(),
                self.latency,
            ])?;
        for (kind, count) in &self.failures {
            connection
                .prepare_cached(
                    "INSERT INTO failure VALUES (?1, ?2, ?3)
                     ON CONFLICT (source, kind) DO UPDATE SET count = count + excluded.count",
                )?
                .execute(params![source, kind, count])?;
        }
        for (bucket, count) in &self.buckets {
            connection
                .prepare_cached(
                    "INSERT INTO bucket VALUES (?1, ?2, ?3)
                     ON CONFLICT (source, bound) DO UPDATE SET count = count + excluded.count",
                )?
                .execute(params![
                    source,
                    i64::try_from(*bucket).unwrap_or(i64::MAX),
                    count
                ])?;
        }
        Ok(())
    }
}
