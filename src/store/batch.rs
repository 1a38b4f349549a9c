//! What was handed to providers in batches, so that nothing ever is twice: one row for each job and
//! one for each of its requests, without any text.
//!
//! A job is written down before it is submitted, with a mark by which it is found at the server when
//! nobody heard the answer. Its requests are known by the cache's keys; they go once what came of
//! them is in the cache. Whoever submits holds a lock, which ends with its process, so that a job
//! without a batch is one whose process died.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};

use crate::store::entry::Key;
use crate::store::schema::Kind;
use crate::store::turn::SubmitLock;
use crate::store::{database, file, trouble};

/// The record of batches: "gptB".
static BATCHES: Kind = Kind {
    noun: "record of batches",
    application: 0x6770_7442,
    steps: &STEPS,
    rehearse,
};

/// What leads from each version of the file to the next. Times are seconds since 1970.
const STEPS: [&str; 1] = ["
    CREATE TABLE batch_job (
        id INTEGER PRIMARY KEY,
        mark TEXT NOT NULL UNIQUE,     -- what the job is found by at the server
        scope BLOB NOT NULL,           -- what all its requests have in common, hashed
        url TEXT NOT NULL,             -- where such requests go
        host TEXT NOT NULL,
        profile TEXT NOT NULL,
        model TEXT NOT NULL,
        created INTEGER NOT NULL,
        file TEXT,                     -- the server's name of the uploaded file
        batch TEXT,                    -- and of the batch
        state TEXT NOT NULL,           -- the server's own word
        total INTEGER NOT NULL,
        completed INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        tokens INTEGER NOT NULL,       -- of the replies and their prompts
        is_over INTEGER NOT NULL       -- what came of it is in the cache
    ) STRICT;
    CREATE TABLE batch_line (
        key BLOB NOT NULL,
        job INTEGER NOT NULL,
        tokens INTEGER NOT NULL,       -- of the prompt, as counted here
        PRIMARY KEY (key, job)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX batch_line_job ON batch_line (job);
"];

/// How long a job that is over is told of.
const KEPT: Duration = Duration::from_hours(30 * 24);

const LIVE: &str = "SELECT job FROM batch_line WHERE key = ?1 ORDER BY job DESC LIMIT 1";

const COLUMNS: &str = "id, mark, url, host, profile, model, created, file, batch, state, total,
    completed, failed, tokens, is_over";

/// A job that is to be written down.
#[derive(Clone, Copy, Debug)]
pub struct Intent<'a> {
    /// What the job is found by at the server.
    pub mark: &'a str,
    /// What all its requests have in common, hashed.
    pub scope: [u8; 32],
    /// Where such requests go.
    pub url: &'a str,
    /// Host and port of that.
    pub host: &'a str,
    /// The profile.
    pub profile: &'a str,
    /// The model.
    pub model: &'a str,
}

/// A job as it is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number here.
    pub id: i64,
    /// What it is found by at the server.
    pub mark: String,
    /// Where such requests go.
    pub url: String,
    /// Host and port of that.
    pub host: String,
    /// The profile.
    pub profile: String,
    /// The model.
    pub model: String,
    /// When it was written down, in seconds since 1970.
    pub created: u64,
    /// The server's name of the uploaded file.
    pub file: Option<String>,
    /// The server's name of the batch; none until it is known.
    pub batch: Option<String>,
    /// How far it was when it was last asked about, in the server's word.
    pub state: String,
    /// Requests.
    pub total: u64,
    /// Those answered.
    pub completed: u64,
    /// Those failed.
    pub failed: u64,
    /// Tokens of the replies and their prompts.
    pub tokens: u64,
    /// Whether what came of it is in the cache, or nothing will.
    pub is_over: bool,
}

impl Job {
    /// When it was written down.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.created)
    }
}

/// The record.
#[derive(Debug)]
pub struct Jobs {
    connection: Connection,
    path: PathBuf,
}

impl Jobs {
    /// Opens the record, or makes it; what comes with it is a warning.
    ///
    /// # Errors
    /// That it cannot be used, in words.
    pub fn open(path: &Path) -> Result<(Self, Option<String>), String> {
        let opened = database::open(&BATCHES, path, false, now().cast_signed())?;
        // Here what is lost in a power cut would be paid for twice.
        let synchronous = opened.connection.pragma_update(None, "synchronous", "FULL");
        let jobs = Self {
            connection: opened.connection,
            path: opened.path,
        };
        jobs.told(synchronous)?;
        let warning = opened
            .warning
            .map(|warning| format!("{warning}; the batches that it knew go on at the server"));
        Ok((jobs, warning))
    }

    /// Writes a job down with its requests; gives its number.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn begin(&mut self, intent: &Intent<'_>, lines: &[(Key, u32)]) -> Result<i64, String> {
        let result = self.begin_all(intent, lines);
        self.told(result)
    }

    fn begin_all(&self, intent: &Intent<'_>, lines: &[(Key, u32)]) -> rusqlite::Result<i64> {
        let now = now();
        let transaction =
            Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        transaction.execute(
            "DELETE FROM batch_job WHERE is_over AND created < ?1",
            [now.saturating_sub(KEPT.as_secs()).cast_signed()],
        )?;
        transaction.execute(
            "INSERT INTO batch_job (mark, scope, url, host, profile, model, created, state, total,
                completed, failed, tokens, is_over)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'preparing', ?8, 0, 0, 0, 0)",
            params![
                intent.mark,
                intent.scope,
                intent.url,
                intent.host,
                intent.profile,
                intent.model,
                now.cast_signed(),
                count(lines.len() as u64),
            ],
        )?;
        let id = transaction.last_insert_rowid();
        let mut insert = transaction
            .prepare_cached("INSERT INTO batch_line (key, job, tokens) VALUES (?1, ?2, ?3)")?;
        for (key, tokens) in lines {
            insert.execute(params![key.0, id, tokens])?;
        }
        drop(insert);
        transaction.commit()?;
        Ok(id)
    }

    /// The file of a job was uploaded.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn uploaded(&self, id: i64, file: &str) -> Result<(), String> {
        self.run(
            "UPDATE batch_job SET file = ?2, state = 'uploaded' WHERE id = ?1",
            params![id, file],
        )
    }

    /// The batch of a job was started.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn started(&self, id: i64, batch: &str) -> Result<(), String> {
        self.run(
            "UPDATE batch_job SET batch = ?2 WHERE id = ?1",
            params![id, batch],
        )
    }

    /// How far a job is: state, requests answered and failed.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn progressed(
        &self,
        id: i64,
        state: &str,
        completed: u64,
        failed: u64,
    ) -> Result<(), String> {
        self.run(
            "UPDATE batch_job SET state = ?2, completed = ?3, failed = ?4 WHERE id = ?1",
            params![id, state, count(completed), count(failed)],
        )
    }

    /// What came of a job is in the cache, or nothing will: its requests may be sent again. Says
    /// whether nobody had said so before.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn end(&self, id: i64, state: &str, tokens: u64) -> Result<bool, String> {
        let ended = (|| {
            let transaction =
                Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
            let ended = transaction.execute(
                "UPDATE batch_job SET state = ?2, tokens = ?3, is_over = 1
                 WHERE id = ?1 AND NOT is_over",
                params![id, state, count(tokens)],
            )?;
            transaction.execute("DELETE FROM batch_line WHERE job = ?1", [id])?;
            transaction.commit()?;
            Ok(ended == 1)
        })();
        self.told(ended)
    }

    /// A job never was: nothing of it was submitted.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn forget(&self, id: i64) -> Result<(), String> {
        let forgotten = (|| {
            let transaction =
                Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
            transaction.execute("DELETE FROM batch_line WHERE job = ?1", [id])?;
            transaction.execute("DELETE FROM batch_job WHERE id = ?1", [id])?;
            transaction.commit()
        })();
        self.told(forgotten)
    }

    /// The job that a request is in, if there is one that is not over.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn of(&self, key: &Key) -> Result<Option<i64>, String> {
        let found = self
            .connection
            .prepare_cached(LIVE)
            .and_then(|mut live| live.query_row([key.0], |row| row.get(0)).optional());
        self.told(found)
    }

    /// The requests of a job, each with the tokens of its prompt.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn lines(&self, id: i64) -> Result<Vec<(Key, u32)>, String> {
        let lines = (|| {
            let mut select = self
                .connection
                .prepare_cached("SELECT key, tokens FROM batch_line WHERE job = ?1")?;
            let rows = select.query_map([id], |row| Ok((Key(row.get(0)?), row.get(1)?)))?;
            rows.collect()
        })();
        self.told(lines)
    }

    /// A job, if it is still known.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn job(&self, id: i64) -> Result<Option<Job>, String> {
        Ok(self.select("id = ?1", params![id])?.pop())
    }

    /// The job of a batch, by the server's name for it.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn of_batch(&self, batch: &str) -> Result<Option<Job>, String> {
        Ok(self.select("batch = ?1", params![batch])?.pop())
    }

    /// The jobs of which nobody knows whether they were submitted. Their processes are gone, if the
    /// lock of their scope is held here.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn unknown(&self, scope: &[u8; 32]) -> Result<Vec<Job>, String> {
        self.select(
            "scope = ?1 AND batch IS NULL AND NOT is_over",
            params![scope],
        )
    }

    /// All jobs that are known, the oldest first.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn all(&self) -> Result<Vec<Job>, String> {
        self.select("true", params![])
    }

    /// Takes the lock of a scope, under which alone its jobs are submitted; none while another
    /// process has it.
    ///
    /// # Errors
    /// The system's, in words.
    pub fn lock(&self, scope: &[u8; 32]) -> Result<Option<SubmitLock>, String> {
        let name = blake3::Hash::from_bytes(*scope).to_hex();
        let path = file::folder(&self.path).join(format!("batch-{}.lock", &name[..16]));
        SubmitLock::take(&path).map_err(|error| {
            let reason = crate::error::reason(&error);
            format!("the lock `{}` cannot be used: {reason}", path.display())
        })
    }

    fn select(&self, which: &str, values: impl rusqlite::Params) -> Result<Vec<Job>, String> {
        let jobs = (|| {
            let statement = format!("SELECT {COLUMNS} FROM batch_job WHERE {which} ORDER BY id");
            let mut select = self.connection.prepare(&statement)?;
            let rows = select.query_map(values, read)?;
            rows.collect()
        })();
        self.told(jobs)
    }

    fn run(&self, statement: &str, values: impl rusqlite::Params) -> Result<(), String> {
        let run = self
            .connection
            .prepare_cached(statement)
            .and_then(|mut statement| statement.execute(values));
        self.told(run).map(drop)
    }

    fn told<T>(&self, result: rusqlite::Result<T>) -> Result<T, String> {
        result.map_err(|error| trouble::Refusal::from(error).words(&BATCHES, &self.path))
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Job> {
    let number = |at: usize| -> rusqlite::Result<u64> {
        let number: i64 = row.get(at)?;
        Ok(u64::try_from(number).unwrap_or(0))
    };
    Ok(Job {
        id: row.get(0)?,
        mark: row.get(1)?,
        url: row.get(2)?,
        host: row.get(3)?,
        profile: row.get(4)?,
        model: row.get(5)?,
        created: number(6)?,
        file: row.get(7)?,
        batch: row.get(8)?,
        state: row.get(9)?,
        total: number(10)?,
        completed: number(11)?,
        failed: number(12)?,
        tokens: number(13)?,
        is_over: row.get(14)?,
    })
}

fn rehearse(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached(LIVE)?;
    connection.prepare(&format!("SELECT {COLUMNS} FROM batch_job"))?;
    Ok(())
}

/// Seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Home(PathBuf);

    impl Home {
        fn new(name: &str) -> Self {
            let name = format!("gptpipe-batch-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn open(&self) -> Jobs {
            Jobs::open(&self.0.join("batch.db")).unwrap().0
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn intent(mark: &str) -> Intent<'_> {
        Intent {
            mark,
            scope: [1; 32],
            url: "https://h/v1/chat/completions",
            host: "h",
            profile: "openai",
            model: "m",
        }
    }

    #[test]
    fn a_request_is_in_one_job_until_that_is_over() {
        let home = Home::new("job");
        let mut jobs = home.open();
        let (one, other) = (Key([1; 32]), Key([2; 32]));
        let id = jobs.begin(&intent("a"), &[(one, 7)]).unwrap();
        assert_eq!(jobs.of(&one), Ok(Some(id)));
        assert_eq!(jobs.of(&other), Ok(None));
        assert_eq!(jobs.lines(id), Ok(vec![(one, 7)]));
        assert_eq!(jobs.unknown(&[1; 32]).unwrap().len(), 1);
        assert_eq!(jobs.unknown(&[2; 32]).unwrap().len(), 0);
        jobs.uploaded(id, "file-1").unwrap();
        jobs.started(id, "batch_1").unwrap();
        assert_eq!(jobs.unknown(&[1; 32]).unwrap().len(), 0);
        jobs.progressed(id, "in_progress", 1, 0).unwrap();
        // Another process sees the same.
        let job = home.open().of_batch("batch_1").unwrap().unwrap();
        assert_eq!(
            (job.state.as_str(), job.total, job.completed, job.is_over),
            ("in_progress", 1, 1, false)
        );
        assert_eq!(jobs.end(id, "completed", 12), Ok(true));
        assert_eq!(home.open().end(id, "completed", 12), Ok(false));
        assert_eq!(jobs.of(&one), Ok(None));
        let job = jobs.job(id).unwrap().unwrap();
        assert_eq!((job.tokens, job.is_over), (12, true));
        let second = jobs.begin(&intent("b"), &[(one, 7)]).unwrap();
        assert_eq!(jobs.of(&one), Ok(Some(second)));
        jobs.forget(second).unwrap();
        assert_eq!(jobs.of(&one), Ok(None));
        assert_eq!(jobs.all().unwrap().len(), 1);
    }

    #[test]
    fn one_alone_submits_and_nothing_is_left_of_its_lock() {
        let home = Home::new("lock");
        let (jobs, others) = (home.open(), home.open());
        let lock = jobs.lock(&[1; 32]).unwrap();
        assert!(lock.is_some());
        assert!(others.lock(&[1; 32]).unwrap().is_none());
        assert!(others.lock(&[2; 32]).unwrap().is_some());
        drop(lock);
        assert!(others.lock(&[1; 32]).unwrap().is_some());
        let left = fs::read_dir(&home.0).unwrap().flatten();
        let locks = left.filter(|file| file.path().extension().is_some_and(|end| end == "lock"));
        assert_eq!(locks.count(), 0);
    }
}
