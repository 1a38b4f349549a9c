//! What came of batches that are over: whole replies into the cache, and the rest judged.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::sleep;

use crate::api::batch::{Batch, State};
use crate::api::failure::{Failure, Kind, Verdict as Judgement};
use crate::api::line as wire;
use crate::api::reply::{Reply, Usage};
use crate::api::sending::OnSend;
use crate::error::{Error, ExitStatus};
use crate::limit::budget::Amount;
use crate::pipeline::batch::{Batches, unrecorded, unwritten};
use crate::pipeline::dropped::check_count;
use crate::pipeline::mend::{Checked, check};
use crate::pipeline::verdicts::Verdict;
use crate::store::batch::Job;
use crate::store::cache::{Entry, Key};
use crate::store::scratch::scratch;

/// Time until a server without room for a batch is asked again: at first, and at most.
const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_mins(5);

/// How often a server without room for the tokens of a batch is asked again.
const FULL: u32 = 30;

/// The longest line of a file of answers, in bytes.
const LINE: u64 = 64 << 20;

/// Replies on their way into the cache.
const STORING: usize = 64;

/// What came of a job.
#[derive(Default)]
struct Sum {
    answered: u64,
    usage: Usage,
    /// What there is to record of each request: no text.
    ends: Vec<(Key, Result<Reply, Failure>)>,
    /// Requests that may succeed in a further batch.
    transient: u64,
}

impl Batches<'_> {
    /// Takes in what came of a batch that is over; says whether something of it may succeed in a
    /// further one.
    pub(super) async fn finish(
        &mut self,
        job: &Job,
        batch: &Batch,
        is_alone: bool,
    ) -> Result<bool, Error> {
        let id = &batch.id;
        if batch.state == State::Failed {
            let failure = batch
                .failure
                .clone()
                .unwrap_or_else(|| Failure::new(Kind::BadRequest, ""));
            self.jobs.end(job.id, &batch.word, 0).map_err(unrecorded)?;
            if let Some(leave) = self.leaves.remove(&job.id) {
                leave.settle(Amount::default());
            }
            self.delete_input(job).await;
            if failure.kind != Kind::RateLimit {
                return Err(self.refused(&format!("batch {id} was refused"), &failure));
            }
            self.is_unfinished = true;
            self.full += 1;
            if self.full > FULL {
                return Err(self.refused(&format!("batch {id} found no room"), &failure));
            }
            if is_alone && job.total > 1 {
                let total = usize::try_from(job.total).unwrap_or(usize::MAX);
                self.shrink(total, u64::MAX);
            }
            let wait = FIRST.saturating_mul(1 << self.full.min(9)).min(MOST);
            self.asker.messages.warning(&format!(
                "{failure}; what was in batch {id} is submitted again in {} s",
                wait.as_secs()
            ));
            sleep(wait).await;
            return Ok(false);
        }
        let lines = self.jobs.lines(job.id).map_err(unrecorded)?;
        let mut lines: HashMap<Key, u32> = lines.into_iter().collect();
        let mut sum = Sum::default();
        for file in [&batch.output_file, &batch.error_file]
            .into_iter()
            .flatten()
        {
            self.progress
                .say(&format!("reading what came of batch {id}"));
            let mut answers = self.download(id, file).await?;
            self.take_in(&mut answers, &mut lines, &mut sum).await?;
        }
        for key in lines.into_keys() {
            let unanswered = Failure::new(Kind::Busy, "the batch did not answer it");
            self.judge(key, unanswered, &mut sum);
        }
        let tokens = sum.usage.prompt_tokens + sum.usage.completion_tokens;
        let ended = self.jobs.end(job.id, &batch.word, tokens);
        self.book(job, &mut sum, ended.map_err(unrecorded)?).await;
        self.delete_input(job).await;
        if batch.state == State::Cancelled {
            return Err(Error::Request {
                status: ExitStatus::Temporary,
                message: format!(
                    "batch {id} was cancelled; {} of its {} requests were answered and are remembered",
                    sum.answered, job.total
                ),
                hint: Some("running again submits the others".to_owned()),
            });
        }
        if sum.transient > 0 && self.attempts < self.most_attempts() {
            let (transient, word) = (sum.transient, &batch.word);
            self.asker.messages.warning(&format!(
                "batch {id} is {word}, and {transient} of its {} requests failed for now; \
                 submitting these again",
                job.total
            ));
        }
        Ok(sum.transient > 0)
    }

    /// Records what a batch came to, unless another process that waited for it has.
    async fn book(&mut self, job: &Job, sum: &mut Sum, is_first: bool) {
        let asker = &self.asker;
        let leave = match self.leaves.remove(&job.id) {
            // A run before this one had it, and with that run it is gone.
            None if asker.budget.is_any() && is_first => {
                let none = Amount::default();
                asker.leave_for(none, none, "the batch").await.ok()
            }
            leave => leave,
        };
        let ends = std::mem::take(&mut sum.ends);
        if !is_first {
            if let Some(leave) = leave {
                leave.settle(Amount::default());
            }
            return;
        }
        for (key, end) in &ends {
            let entry = asker.book.attempt(&key.0, self.attempts + 1);
            if let Some(OnSend(on_send)) = entry.on_send() {
                on_send();
            }
            entry.end(end.as_ref());
        }
        asker.tariff.spend(sum.usage);
        if let Some(leave) = leave {
            leave.settle(asker.tariff.amount(sum.usage));
        }
    }

    /// The file that was uploaded is of no use any more, and holds the user's text.
    async fn delete_input(&self, job: &Job) {
        if let Some(file) = &job.file {
            let _ = self.asker.client.delete_file(file).await;
        }
    }

    async fn download(&self, id: &str, file: &str) -> Result<File, Error> {
        let out = scratch(&self.folder).map_err(unwritten)?;
        let attempt = async || {
            let mut out = out
                .try_clone()
                .map_err(|error| Failure::new(Kind::Busy, &crate::error::reason(&error)))?;
            self.asker.client.download(file, &mut out).await
        };
        let downloaded = self.patiently(attempt).await;
        downloaded.map_err(|failure| {
            self.refused(&format!("what came of batch {id} cannot be read"), &failure)
        })?;
        Ok(out)
    }

    /// Takes in a file of answers, and its requests off those that are still unanswered.
    async fn take_in(
        &mut self,
        answers: &mut File,
        lines: &mut HashMap<Key, u32>,
        sum: &mut Sum,
    ) -> Result<(), Error> {
        let mut reader = BufReader::new(answers);
        let mut line = Vec::new();
        let mut whole = Vec::new();
        loop {
            line.clear();
            let length = reader.by_ref().take(LINE).read_until(b'\n', &mut line);
            let is_end = length.map_err(unwritten)? == 0;
            if is_end || whole.len() >= STORING {
                self.remember(&mut whole, sum).await;
            }
            if is_end {
                return Ok(());
            }
            let Some((name, result)) = wire::answer(self.whom.api, &line) else {
                continue;
            };
            let Ok(hash) = blake3::Hash::from_hex(&name) else {
                continue;
            };
            let key = Key(*hash.as_bytes());
            let counted = lines.remove(&key).unwrap_or(0);
            sum.note(key, &result);
            let checked = result.and_then(|reply| {
                let tokens = usize::try_from(counted).unwrap_or(usize::MAX);
                let reply = check_count(reply, tokens)?;
                check(self.asker.schema.as_deref(), reply, None)
            });
            match checked {
                Ok(Checked::Right(reply)) => whole.push((key, reply)),
                // It is shown its faults, which a batch has no way for.
                Ok(Checked::Wrong(..)) => self.verdicts.set(key, Verdict::Ask),
                Err(failure) => self.judge(key, failure, sum),
            }
        }
    }

    /// Puts whole replies into the cache, several at a time, as it commits what waits together.
    async fn remember(&self, whole: &mut Vec<(Key, Reply)>, sum: &mut Sum) {
        let stored = futures::stream::iter(whole.drain(..))
            .map(async |(key, reply)| {
                let usage = reply.usage.unwrap_or_default();
                let is_stored = self.store(key, Entry::Reply(reply)).await;
                if is_stored {
                    self.verdicts.bring(usage);
                }
                (key, is_stored)
            })
            .buffer_unordered(STORING)
            .collect::<Vec<_>>()
            .await;
        for (key, is_stored) in stored {
            sum.answered += u64::from(is_stored);
            if !is_stored {
                // Too large for the cache, or there is a trouble with it.
                self.verdicts.set(key, Verdict::Ask);
            }
        }
        let cache = self.asker.recall.cache.as_ref();
        if let Some(trouble) = cache.and_then(crate::store::cache::Cache::take_trouble) {
            self.asker.messages.warning(&trouble);
        }
    }

    /// Decides what becomes of a request that was not answered well.
    fn judge(&mut self, key: Key, failure: Failure, sum: &mut Sum) {
        let is_kept = failure.kind == Kind::Length && self.asker.options.keeps_cut;
        if failure.kind.is_too_long() && !is_kept && self.asker.schema.is_none() {
            self.is_unfinished = true;
            self.verdicts.set(key, Verdict::TooLong(Box::new(failure)));
        } else if failure.verdict() == Judgement::Transient {
            sum.transient += 1;
            if self.attempts < self.most_attempts() {
                self.is_unfinished = true;
            } else {
                self.verdicts.set(key, Verdict::Failed(Box::new(failure)));
            }
        } else {
            self.verdicts.set(key, Verdict::Failed(Box::new(failure)));
        }
    }
}

impl Sum {
    /// Takes in what a request came to.
    fn note(&mut self, key: Key, result: &Result<Reply, Failure>) {
        let bare = |reply: &Reply| Reply {
            usage: reply.usage,
            id: reply.id.clone(),
            ..Reply::default()
        };
        let end = match result {
            Ok(reply) => {
                self.usage.add(reply.usage.unwrap_or_default());
                Ok(bare(reply))
            }
            Err(failure) => {
                let partial = failure.partial.as_deref();
                let usage = partial.and_then(|partial| partial.usage);
                self.usage.add(usage.unwrap_or_default());
                let mut end = Failure::new(failure.kind, "");
                end.status = failure.status;
                end.request_id.clone_from(&failure.request_id);
                end.partial = partial.map(|partial| Box::new(bare(partial)));
                Err(end)
            }
        };
        self.ends.push((key, end));
    }
}
