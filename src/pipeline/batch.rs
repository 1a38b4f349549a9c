//! The chunks of a run handed to the provider's Batch API, so that the run finds its replies in the
//! cache.
//!
//! It goes in rounds. In each the whole input is cut; what is neither remembered nor in a batch
//! already becomes lines of files, which are uploaded and started as batches (`gather`); then all
//! batches that have anything to do with the run are waited for (`watch`), and what came of them
//! goes into the cache (`collect`). A further round sends what was not answered, alone, and the
//! halves of what was too long. It ends when nothing is left to send. Memory holds one file's keys,
//! never texts: these go into a file without a name.
//!
//! Nothing is submitted twice. A job is written down before it leaves, with a mark that the batch
//! carries at the server; whoever finds a job without a batch looks for the mark before anything
//! else. Only one process submits at a time.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use crate::api::batch::Bounds;
use crate::api::event::Api;
use crate::api::failure::{Failure, Kind, Verdict as Judgement};
use crate::api::request::Template;
use crate::api::retry::{Next, PATIENCE, Retry};
use crate::error::{Error, ExitStatus};
use crate::limit::budget::Leave;
use crate::pipeline::ask::Asker;
use crate::pipeline::verdicts::Verdicts;
use crate::report::progress::Progress;
use crate::store::batch::{Job, Jobs};
use crate::store::cache::{Entry, Key};
use crate::store::turn::SubmitLock;

/// Time between two looks whether another process is done with submitting.
const TURN: Duration = Duration::from_millis(200);

/// How long a batch that was started just now may take to be listed.
const LISTED: Duration = Duration::from_secs(2);

/// A job older than this is listed if its batch was started.
const SETTLED: Duration = Duration::from_mins(1);

/// How far the server's clock may be behind, in seconds.
const SKEW: u64 = 3600;

/// Batches after the first that a request which failed for now is put into.
const FURTHER: u32 = 2;

/// Whom batches are for, as the record says it.
#[derive(Clone, Debug)]
pub struct Whom {
    /// Where the requests go.
    pub url: String,
    /// Host and port of that.
    pub host: String,
    /// The profile.
    pub profile: String,
    /// The model.
    pub model: String,
    /// The kind of API.
    pub api: Api,
}

/// The parts that batches are made with.
#[derive(Debug)]
pub struct Batches<'a> {
    /// Knows what is remembered, what may be spent and what batches cost; its record is that of the
    /// batches.
    pub asker: Arc<Asker>,
    /// The requests but for their chunks.
    pub template: Template,
    /// Whom they are for.
    pub whom: Whom,
    /// What a file may hold.
    pub bounds: Bounds,
    /// The record of jobs.
    pub jobs: Jobs,
    /// The folder of files for the time of the run.
    pub folder: PathBuf,
    /// The line that people watch.
    pub progress: &'a mut Progress,
    /// What batches could not do; it is for the asker of the run.
    pub verdicts: Arc<Verdicts>,
    /// Where the run stands, for whoever interrupts it; see [`Standing`].
    pub standing: Arc<std::sync::Mutex<Standing>>,
    /// What the batches that are not over may spend, by the numbers of their jobs; none at first.
    pub leaves: HashMap<i64, Leave>,
    /// Rounds after which something had failed for now; none at first.
    pub attempts: u32,
    /// How often the server had no room for a batch; not at first.
    pub full: u32,
    /// Whether there is more to submit than was; not at first.
    pub is_unfinished: bool,
}

/// What goes on at the server.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The batches that are not over, by the server's names.
    pub batches: Vec<String>,
    /// Their requests, and those that are done.
    pub total: u64,
    /// Those that are done.
    pub done: u64,
}

impl Batches<'_> {
    /// Further batches that a request may be put into.
    pub(super) fn most_attempts(&self) -> u32 {
        self.asker.options.max_retries.min(FURTHER)
    }

    /// Remembers an entry; says whether it is.
    pub(super) async fn store(&self, key: Key, entry: Entry) -> bool {
        match &self.asker.recall.cache {
            Some(cache) => cache.store(key, entry).await,
            None => false,
        }
    }

    /// Waits for its turn to submit.
    pub(super) async fn lock(&mut self) -> Result<SubmitLock, Error> {
        let mut has_told = false;
        loop {
            let scope = self.scope();
            if let Some(lock) = self.jobs.lock(&scope).map_err(unrecorded)? {
                return Ok(lock);
            }
            if !std::mem::replace(&mut has_told, true) {
                let text = "another gptpipe submits such a batch; waiting until it has";
                self.asker.messages.tell(text);
            }
            sleep(TURN.mul_f64(1.0 + fastrand::f64())).await;
        }
    }

    /// What all requests of the run have in common, hashed.
    pub(super) fn scope(&self) -> [u8; 32] {
        self.asker.recall.key("", "").0
    }

    /// Finds out about jobs of which nobody knows whether they were submitted. Those that were not
    /// are forgotten: what of them is still wanted will be submitted anew.
    pub(super) async fn recover(&mut self) -> Result<(), Error> {
        for job in self.jobs.unknown(&self.scope()).map_err(unrecorded)? {
            let age = SystemTime::now()
                .duration_since(job.time())
                .unwrap_or_default();
            let mut found = None;
            // Without its file it cannot have been started.
            if job.file.is_some() {
                found = self.find(&job).await?;
                if found.is_none() && age < SETTLED {
                    sleep(LISTED).await;
                    found = self.find(&job).await?;
                }
            }
            if let Some(batch) = found {
                self.jobs.started(job.id, &batch).map_err(unrecorded)?;
                let text = format!("batch {batch} was submitted by a run before this one");
                self.asker.messages.tell(&text);
                continue;
            }
            if let Some(file) = &job.file {
                // It may be gone already, and is no more than a file.
                let _ = self.asker.client.delete_file(file).await;
            }
            self.jobs.forget(job.id).map_err(unrecorded)?;
        }
        Ok(())
    }

    /// Looks for the batch of a job at the server.
    async fn find(&self, job: &Job) -> Result<Option<String>, Error> {
        let since = job.created.saturating_sub(SKEW);
        let found = self
            .patiently(async || {
                let client = &self.asker.client;
                client
                    .find_batch(&job.mark, job.file.as_deref(), since)
                    .await
            })
            .await;
        let found = found.map_err(|failure| {
            let what = "cannot find out whether an earlier run submitted its batch";
            self.refused(what, &failure)
        })?;
        Ok(found.map(|batch| batch.id))
    }

    /// Makes further files half as large as one that was too large.
    pub(super) fn shrink(&mut self, requests: usize, bytes: u64) {
        self.bounds = Bounds {
            requests: (requests / 2).max(1).min(self.bounds.requests),
            bytes: (bytes / 2).max(1).min(self.bounds.bytes),
        };
        self.asker.messages.note(&format!(
            "a batch of {requests} requests is too large for the server; trying half of it"
        ));
    }

    /// Starts a batch; gives the server's name for it. Where nobody heard whether it was started, it
    /// is looked for before that is tried again.
    pub(super) async fn create(&self, file: &str, mark: &str) -> Result<String, Failure> {
        let client = &self.asker.client;
        let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let since = began.map_or(0, |now| now.as_secs().saturating_sub(SKEW));
        let mut retry = Retry::new(self.asker.options.max_retries);
        loop {
            let failure = match client.create_batch(self.whom.api, file, mark).await {
                Ok(batch) => return Ok(batch.id),
                Err(failure) => failure,
            };
            let next = retry.next(&failure, fastrand::f64());
            self.tell_failure(&failure, next);
            let is_unsure = is_unsure(&failure);
            match next {
                Next::Again(wait) if is_unsure => sleep(wait.max(LISTED)).await,
                Next::Again(wait) => sleep(wait).await,
                _ if is_unsure => sleep(LISTED).await,
                _ => {}
            }
            if is_unsure {
                let found = self
                    .patiently(async || client.find_batch(mark, Some(file), since).await)
                    .await?;
                if let Some(batch) = found {
                    return Ok(batch.id);
                }
            }
            if !matches!(next, Next::Again(_)) {
                return Err(failure);
            }
        }
    }

    /// Does something that can be done again without harm, until it works or is given up.
    pub(super) async fn patiently<T>(
        &self,
        attempt: impl AsyncFn() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut retry = Retry::new(self.asker.options.max_retries);
        loop {
            let failure = match attempt().await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            let next = retry.next(&failure, fastrand::f64());
            self.tell_failure(&failure, next);
            match next {
                Next::Again(wait) => sleep(wait).await,
                _ => return Err(failure),
            }
        }
    }

    pub(super) fn tell_failure(&self, failure: &Failure, next: Next) {
        let next = match next {
            Next::Again(wait) => format!("again in {:.1} s", wait.as_secs_f64()),
            Next::GiveUp => "given up".to_owned(),
            Next::TooLong(wait) => format!("the server asks to wait {} s", wait.as_secs()),
        };
        self.asker
            .messages
            .note(&format!("batch: {failure}; {next}"));
    }

    /// A failure as the end of the run.
    pub(super) fn refused(&self, what: &str, failure: &Failure) -> Error {
        if failure.kind == Kind::NoKey {
            return Error::Usage {
                message: failure.message.clone(),
                hint: failure.hint().map(str::to_owned),
            };
        }
        let status = match failure.verdict() {
            Judgement::Transient => ExitStatus::Temporary,
            Judgement::Fatal => ExitStatus::Failed,
            Judgement::FatalForAll => ExitStatus::Hopeless,
        };
        let hint = match failure.kind {
            Kind::NotFound => Some(format!(
                "{} has no Batch API, it seems; leave out `--batch`",
                self.whom.host
            )),
            _ if status == ExitStatus::Temporary => {
                let wait = failure.retry_after.filter(|wait| *wait > PATIENCE);
                let wait =
                    wait.map(|wait| format!("the server asks to wait {} s; ", wait.as_secs()));
                let again = "run the same command again; nothing is submitted twice";
                Some(wait.unwrap_or_default() + again)
            }
            _ => failure.hint().map(str::to_owned),
        };
        Error::Request {
            status,
            message: format!("{what}: {failure}"),
            hint,
        }
    }
}

/// Whether it is not known if the server did what it was asked for.
pub(super) fn is_unsure(failure: &Failure) -> bool {
    match failure.status {
        Some(status) => status >= 500 || matches!(status, 408 | 409),
        None => !failure.kind.is_unsent(),
    }
}

/// A record of batches that fails: without it nobody may submit anything.
pub(super) fn unrecorded(words: String) -> Error {
    Error::Request {
        status: ExitStatus::Temporary,
        message: words,
        hint: Some("without it requests might be submitted twice".to_owned()),
    }
}

pub(super) fn unwritten(source: io::Error) -> Error {
    Error::System {
        what: "write down what a batch is made of",
        source,
    }
}
