//! How far a run came, and what has to be told of it at the end.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::api::failure::Failure;
use crate::api::reply::{Finish, Reply, Usage};
use crate::pipeline::place::Place;
use crate::pipeline::task::Outcome;
use crate::report::message::Messages;

/// Failed chunks that the summary names one by one.
const NAMED: usize = 100;

/// How far a run came.
#[derive(Debug, Default)]
pub struct Tally {
    /// Chunks whose replies were handed to the writer, or to be merged.
    pub written: u64,
    /// Packs of replies that were merged.
    pub merged: u64,
    /// Replies that were remembered.
    pub cached: u64,
    /// What these would have used.
    pub saved: Usage,
    /// Replies without a word.
    pub empty: u64,
    /// The chunk that the first of those belongs to.
    pub first_empty: Option<String>,
    /// Replies that were cut at the user's limit.
    pub cut: u64,
    /// Whether something of the file that is being replaced has failed.
    pub has_file_failed: bool,
    /// Files that should have been replaced, and were not.
    pub left: u64,
    /// Chunks that failed for good while the run went on, and why: the first of them.
    pub failed: Vec<String>,
    /// How many they are.
    pub failures: u64,
    /// Chunks that were read.
    pub known: Arc<AtomicU64>,
    /// Tokens that the server counted, in and out.
    pub tokens: u64,
}

impl Tally {
    /// Keeps in mind what a reply cost and whether it was cut.
    pub(super) fn reply(
        &mut self,
        place: &Place,
        reply: &Reply,
        outcome: &Outcome,
        messages: &Messages,
    ) {
        let usage = reply.usage.unwrap_or_default();
        if outcome.attempts == 0 {
            self.cached += 1;
            self.saved.add(usage);
        } else {
            self.tokens += usage.prompt_tokens + usage.completion_tokens;
        }
        if reply.text.trim().is_empty() {
            self.empty += 1;
            self.first_empty.get_or_insert_with(|| place.name());
        }
        if reply.finish == Finish::Length {
            self.cut += 1;
            self.has_file_failed = true;
            messages.warning(&format!(
                "{}: the reply was cut at --max-output-tokens",
                place.name()
            ));
        }
    }

    /// Keeps in mind a chunk that failed, for the summary at the end.
    pub(super) fn failure(&mut self, place: &Place, failure: &Failure, outcome: &Outcome) {
        self.failures += 1;
        self.has_file_failed = true;
        if self.failed.len() < NAMED {
            let why = Place::why(failure, outcome.attempts, outcome.took);
            self.failed.push(format!("{} {why}", place.name()));
        }
    }
}
