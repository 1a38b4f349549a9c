//! Batches that were submitted, watched until they are over.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use crate::api::batch::{Batch, State};
use crate::api::retry::{Next, Retry};
use crate::error::Error;
use crate::pipeline::batch::{Batches, Standing, unrecorded};
use crate::store::batch::Job;

/// Time from one look at the batches to the next: at first, and at most.
const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_mins(1);

/// No server is taken at its word for longer.
const LONGEST: Duration = Duration::from_hours(1);

/// By how much it grows with each look.
const GROWTH: f64 = 1.5;

/// Time between two looks of who watches.
const TICK: Duration = Duration::from_secs(1);

/// Looks in a row at which a batch has to be unknown to be taken for lost.
const LOST: u32 = 5;

/// A job that is waited for.
struct Awaited {
    job: Job,
    batch: String,
    state: String,
    completed: u64,
    failed: u64,
    /// Looks in a row at which the server did not know it.
    unknown: u32,
}

impl Batches<'_> {
    /// Waits until all of these jobs are over, and puts what came of them into the cache.
    ///
    /// # Errors
    /// A batch that was refused or cancelled, a server that is out of reach for too long, a record
    /// that fails.
    pub async fn settle(&mut self, jobs: &BTreeSet<i64>) -> Result<(), Error> {
        let mut watched = Vec::new();
        for id in jobs {
            // Another process may have waited for the same, and be done with it.
            let job = self.jobs.job(*id).map_err(unrecorded)?;
            let Some((batch, job)) = job.and_then(|job| Some((job.batch.clone()?, job))) else {
                self.is_unfinished = true;
                continue;
            };
            watched.push(Awaited {
                batch,
                state: String::new(),
                completed: 0,
                failed: 0,
                unknown: 0,
                job,
            });
        }
        let mut pause = FIRST;
        let mut retry = Retry::new(self.asker.options.max_retries);
        let mut has_failed = false;
        while !watched.is_empty() {
            self.stand(&watched);
            let mut asked = Duration::ZERO;
            let mut at = 0;
            while at < watched.len() {
                let seen = self.asker.client.batch(&watched[at].batch).await;
                let batch = match seen {
                    Ok(batch) => batch,
                    Err(failure) => {
                        let is_unknown = failure.status == Some(404);
                        if is_unknown {
                            watched[at].unknown += 1;
                            if watched[at].unknown >= LOST {
                                self.lose(&watched.swap_remove(at))?;
                                continue;
                            }
                        } else {
                            let next = retry.next(&failure, fastrand::f64());
                            self.tell_failure(&failure, next);
                            match next {
                                // To wait is what this is about.
                                Next::Again(wait) | Next::TooLong(wait) => asked = asked.max(wait),
                                Next::GiveUp => {
                                    let what =
                                        format!("batch {} is lost sight of", watched[at].batch);
                                    return Err(self.refused(&what, &failure));
                                }
                            }
                        }
                        at += 1;
                        continue;
                    }
                };
                retry = Retry::new(self.asker.options.max_retries);
                watched[at].unknown = 0;
                self.note(&mut watched[at], &batch)?;
                if batch.state == State::Waiting {
                    at += 1;
                    continue;
                }
                let done = watched.swap_remove(at);
                let is_alone = watched.is_empty() && jobs.len() == 1;
                has_failed |= self.finish(&done.job, &batch, is_alone).await?;
            }
            if !watched.is_empty() {
                let wait = pause.mul_f64(1.0 - 0.2 * fastrand::f64());
                self.wait(wait.max(asked.min(LONGEST)), &watched).await;
                pause = pause.mul_f64(GROWTH).min(MOST);
            }
        }
        self.stand(&[]);
        self.attempts += u32::from(has_failed);
        Ok(())
    }

    /// Says how far things are, for whoever interrupts.
    fn stand(&self, watched: &[Awaited]) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        *standing = Standing {
            batches: watched.iter().map(|one| one.batch.clone()).collect(),
            total: watched.iter().map(|one| one.job.total).sum(),
            done: watched.iter().map(|one| one.completed + one.failed).sum(),
        };
    }

    /// Notes how far a job is, and tells of it: at every change of its state, with `-v` each time.
    fn note(&self, watched: &mut Awaited, batch: &Batch) -> Result<(), Error> {
        let counts = batch.counts;
        let is_new = watched.state != batch.word;
        watched.state.clone_from(&batch.word);
        (watched.completed, watched.failed) = (counts.completed, counts.failed);
        let id = watched.job.id;
        let noted = self
            .jobs
            .progressed(id, &batch.word, counts.completed, counts.failed);
        noted.map_err(unrecorded)?;
        let text = line(watched);
        if is_new {
            self.asker.messages.tell(&text);
        } else {
            self.asker.messages.note(&text);
        }
        Ok(())
    }

    /// Waits, and moves the line that people watch.
    async fn wait(&mut self, wait: Duration, watched: &[Awaited]) {
        let end = Instant::now() + wait;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            if let [first, rest @ ..] = watched {
                let mut text = line(first);
                if !rest.is_empty() {
                    text = format!("{text}; and {} more batches", rest.len());
                }
                self.progress.say(&text);
            }
            sleep(left.min(TICK)).await;
        }
    }

    /// A batch that the server does not know any more: what was in it may be sent again.
    fn lose(&mut self, lost: &Awaited) -> Result<(), Error> {
        self.is_unfinished = true;
        let batch = &lost.batch;
        self.asker.messages.warning(&format!(
            "batch {batch} is unknown to {}; its requests are submitted anew",
            self.whom.host
        ));
        self.leaves.remove(&lost.job.id);
        self.jobs
            .end(lost.job.id, "lost", 0)
            .map_err(unrecorded)
            .map(drop)
    }
}

/// A job in a line.
fn line(watched: &Awaited) -> String {
    let Awaited {
        job,
        batch,
        state,
        completed,
        failed,
        ..
    } = watched;
    let age = SystemTime::now().duration_since(job.time());
    let seconds = age.map_or(0, |age| age.as_secs());
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let state = if state.is_empty() { "submitted" } else { state };
    format!(
        "batch {batch}: {state}, {completed} of {} done, {failed} failed, {hours}:{minutes:02}:{seconds:02}",
        job.total
    )
}
