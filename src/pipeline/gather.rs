//! A round of batches: what of the input has to be asked about becomes lines of files, and these
//! become batches.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::api::batch::Upload;
use crate::api::failure::{Kind, Verdict as Judgement};
use crate::api::line;
use crate::error::Error;
use crate::input::halve::halve;
use crate::limit::budget::{Amount, Leave};
use crate::pipeline::batch::{Batches, is_unsure, unrecorded, unwritten};
use crate::pipeline::found::{Found, Miss};
use crate::pipeline::recall::Halves;
use crate::pipeline::verdicts::Verdict;
use crate::store::batch::Intent;
use crate::store::cache::{Entry, Key};
use crate::store::scratch::scratch;

/// How long leave to spend is waited for while other batches of the run hold theirs.
const BUDGET: Duration = Duration::from_secs(2);

/// Lines that become a file.
struct Open {
    file: File,
    bytes: u64,
    lines: Vec<(Key, u32)>,
    keys: HashSet<Key>,
}

impl Open {
    fn add(&mut self, key: Key, tokens: u32, line: &[u8]) -> io::Result<()> {
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        self.lines.push((key, tokens));
        self.keys.insert(key);
        Ok(())
    }
}

/// Whether a batch may be submitted.
enum Spending {
    /// Nothing is bounded.
    Free,
    /// So much may be spent.
    Leave(Leave),
    /// Not before others are over.
    Later,
}

fn sum(one: Amount, other: Amount) -> Amount {
    Amount {
        cost: one.cost.saturating_add(other.cost),
        tokens: one.tokens.saturating_add(other.tokens),
    }
}

/// What is known of a request: text, background, and what the cache calls it.
type Part = (Key, String, String);

impl Batches<'_> {
    /// Submits what of these pieces has to be asked about; gives the jobs to wait for. Afterwards
    /// `is_unfinished` says whether a further round has to follow.
    ///
    /// # Errors
    /// What is wrong with the input, what ended the submitting, and a record that fails.
    pub async fn submit(
        &mut self,
        mut pieces: mpsc::Receiver<Result<Found, Error>>,
    ) -> Result<BTreeSet<i64>, Error> {
        self.is_unfinished = false;
        // Only now is a key needed.
        let identity = self.asker.client.identity().await;
        identity.map_err(|failure| self.refused("nothing was sent", &failure))?;
        let asker = &self.asker;
        asker.book.name_key(|| asker.client.key_fingerprint());
        let lock = self.lock().await?;
        self.recover().await?;
        let mut waited = BTreeSet::new();
        let mut open = self.open()?;
        while let Some(found) = pieces.recv().await {
            let Found::Miss(Miss { piece, key }) = found? else {
                continue;
            };
            let mut parts = vec![(key, piece.chunk.text, piece.chunk.context)];
            while let Some(part) = parts.pop() {
                self.take(part, &mut parts, &mut open, &mut waited).await?;
            }
        }
        self.send(open, &mut waited).await?;
        drop(lock);
        Ok(waited)
    }

    /// Puts one request where it belongs: into the cache's care, into that of a job, or into the file.
    async fn take(
        &mut self,
        (key, text, context): Part,
        parts: &mut Vec<Part>,
        open: &mut Open,
        waited: &mut BTreeSet<i64>,
    ) -> Result<(), Error> {
        if open.keys.contains(&key) {
            return Ok(());
        }
        match self.verdicts.get(&key) {
            Some(Verdict::Failed(_) | Verdict::Ask) => return Ok(()),
            Some(Verdict::TooLong(failure)) => {
                let halved = halve(&text)
                    .filter(|(end, start)| Halves::of(&text, &context, *end, *start).is_some());
                let Some((end, start)) = halved else {
                    self.verdicts.set(key, Verdict::Failed(failure));
                    return Ok(());
                };
                self.store(key, Entry::Split { end, start }).await;
                self.verdicts.remove(&key);
            }
            None => {}
        }
        if self.is_known(&key, &text, &context, parts) {
            return Ok(());
        }
        if let Some(job) = self.jobs.of(&key).map_err(unrecorded)? {
            waited.insert(job);
            return Ok(());
        }
        // A job that ended meanwhile has put its replies into the cache before it was over.
        if self.is_known(&key, &text, &context, parts) {
            return Ok(());
        }
        let body = self.template.body(&text, &context);
        let name = blake3::Hash::from_bytes(key.0).to_hex();
        let request = line::line(self.whom.api, &name, &body);
        let is_full = open.lines.len() >= self.bounds.requests
            || open.bytes + request.len() as u64 > self.bounds.bytes;
        if is_full && !open.lines.is_empty() {
            let full = std::mem::replace(open, self.open()?);
            self.send(full, waited).await?;
        }
        let tokens = self.asker.count(&[&context, &text]);
        open.add(key, tokens, &request).map_err(unwritten)
    }

    /// Whether the reply is remembered. Of what is asked about in halves, these are still to be
    /// looked at.
    fn is_known(&self, key: &Key, text: &str, context: &str, parts: &mut Vec<Part>) -> bool {
        let recall = &self.asker.recall;
        match recall.entry(key) {
            Some(Entry::Reply(_)) => true,
            Some(Entry::Split { end, start }) => {
                let Some(halves) = Halves::of(text, context, end, start) else {
                    return false;
                };
                for (text, context) in [halves.right, halves.left] {
                    let key = recall.key(text, &context);
                    parts.push((key, text.to_owned(), context));
                }
                true
            }
            None => false,
        }
    }

    fn open(&self) -> Result<Open, Error> {
        Ok(Open {
            file: scratch(&self.folder).map_err(unwritten)?,
            bytes: 0,
            lines: Vec::new(),
            keys: HashSet::new(),
        })
    }

    /// Makes a batch of the lines.
    async fn send(&mut self, open: Open, waited: &mut BTreeSet<i64>) -> Result<(), Error> {
        let Open {
            file, bytes, lines, ..
        } = open;
        let (Some((first, _)), count) = (lines.first(), lines.len()) else {
            return Ok(());
        };
        let mut leave = match self.leave_for_all(&lines).await? {
            Spending::Free => None,
            Spending::Leave(leave) => Some(leave),
            // What is not submitted now is once others are over.
            Spending::Later => {
                self.is_unfinished = true;
                return Ok(());
            }
        };
        let mark = format!("{:032x}", fastrand::u128(..));
        let intent = Intent {
            mark: &mark,
            scope: self.scope(),
            url: &self.whom.url,
            host: &self.whom.host,
            profile: &self.whom.profile,
            model: &self.whom.model,
        };
        let id = self.jobs.begin(&intent, &lines).map_err(unrecorded)?;
        self.progress
            .say(&format!("uploading {count} requests for a batch"));
        let name = format!("gptpipe-{mark}.jsonl");
        let upload = Upload {
            file: &file,
            bytes,
            name: &name,
        };
        let client = Arc::clone(&self.asker.client);
        let uploaded = self.patiently(async || client.upload(&upload).await).await;
        let file = match uploaded {
            Ok(file) => file,
            Err(failure) => {
                self.jobs.forget(id).map_err(unrecorded)?;
                if failure.kind != Kind::TooLarge {
                    return Err(self.refused("the batch cannot be uploaded", &failure));
                }
                if count == 1 {
                    self.verdicts
                        .set(*first, Verdict::TooLong(Box::new(failure)));
                } else {
                    self.shrink(count, bytes);
                }
                self.is_unfinished = true;
                return Ok(());
            }
        };
        self.jobs.uploaded(id, &file).map_err(unrecorded)?;
        if let Some(leave) = &mut leave {
            leave.begin();
        }
        let batch = match self.create(&file, &mark).await {
            Ok(batch) => batch,
            Err(failure) => {
                if !is_unsure(&failure) && failure.verdict() != Judgement::Transient {
                    self.jobs.forget(id).map_err(unrecorded)?;
                    let _ = client.delete_file(&file).await;
                }
                return Err(self.refused("the batch cannot be started", &failure));
            }
        };
        self.jobs.started(id, &batch).map_err(unrecorded)?;
        self.asker.messages.tell(&format!(
            "batch {batch}: {count} {} submitted to {} at {}",
            if count == 1 { "request" } else { "requests" },
            self.whom.model,
            self.whom.host,
        ));
        waited.insert(id);
        self.leaves.extend(leave.map(|leave| (id, leave)));
        Ok(())
    }

    /// Waits for leave to spend what all these may come to.
    async fn leave_for_all(&self, lines: &[(Key, u32)]) -> Result<Spending, Error> {
        let asker = &self.asker;
        if !asker.budget.is_any() {
            return Ok(Spending::Free);
        }
        let (mut least, mut most) = (Amount::default(), Amount::default());
        for (_, tokens) in lines {
            let (low, high) = asker.amounts(*tokens);
            least = sum(least, low);
            most = sum(most, high);
        }
        let leave = asker.leave_for(least, most, "the batch");
        let leave = if self.leaves.is_empty() {
            leave.await
        } else {
            // What holds it back may be this run's own.
            match timeout(BUDGET, leave).await {
                Ok(leave) => leave,
                Err(_) => return Ok(Spending::Later),
            }
        };
        let leave = leave.map_err(|failure| self.refused("nothing more is submitted", &failure))?;
        Ok(Spending::Leave(leave))
    }
}
