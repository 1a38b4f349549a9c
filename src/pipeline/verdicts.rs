//! What a batch said of requests that it did not answer well: that is not asked once more, at the
//! full price, but judged as any failure of a chunk is.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::api::failure::{Failure, Kind};
use crate::api::reply::{Reply, Usage};
use crate::store::cache::Key;

/// Bytes of messages and cut replies that are kept; beyond them only the kinds of failures are.
const BYTES: usize = 16 << 20;

/// What is to become of a request.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// It failed for good.
    Failed(Box<Failure>),
    /// It, or its reply, was too long.
    TooLong(Box<Failure>),
    /// A batch can do nothing about it; it is asked about as ever.
    Ask,
}

/// What is known of the requests of a run that batches did not answer well.
#[derive(Debug, Default)]
pub struct Verdicts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    all: HashMap<Key, Verdict>,
    bytes: usize,
    replies: u64,
    usage: Usage,
}

impl Verdicts {
    pub(super) fn get(&self, key: &Key) -> Option<Verdict> {
        self.lock().all.get(key).cloned()
    }

    pub(super) fn set(&self, key: Key, mut verdict: Verdict) {
        let mut state = self.lock();
        if let Verdict::Failed(failure) | Verdict::TooLong(failure) = &mut verdict {
            let partial = failure.partial.as_ref().map_or(0, |reply| reply.text.len());
            let bytes = failure.message.len() + partial;
            if state.bytes + bytes > BYTES {
                **failure = Failure::new(failure.kind, "");
            } else {
                state.bytes += bytes;
            }
        }
        state.all.insert(key, verdict);
    }

    /// What a request is answered with, and was with `keeps_cut`; none where it is to be asked about.
    pub(super) fn answer(&self, key: &Key, keeps_cut: bool) -> Option<Result<Reply, Failure>> {
        let (Verdict::Failed(failure) | Verdict::TooLong(failure)) = self.get(key)? else {
            return None;
        };
        let mut failure = *failure;
        if failure.kind == Kind::Length && keeps_cut {
            // Of what was not kept nothing can be written.
            return failure.partial.take().map(|cut| Ok(*cut));
        }
        Some(Err(failure))
    }

    pub(super) fn remove(&self, key: &Key) {
        self.lock().all.remove(key);
    }

    /// A reply was brought by a batch of this run.
    pub(super) fn bring(&self, usage: Usage) {
        let mut state = self.lock();
        state.replies += 1;
        state.usage.add(usage);
    }

    /// How many replies batches of this run have brought, and what these used: that was not saved,
    /// though they are found in the cache.
    #[must_use]
    pub fn brought(&self) -> (u64, Usage) {
        let state = self.lock();
        (state.replies, state.usage)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
