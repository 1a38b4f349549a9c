//! One request as a task of its own, and what may be seen of it before it ends.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::api::failure::{Failure, Kind};
use crate::api::reply::Reply;

/// How a chunk was answered, with how many requests and after what time.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) result: Result<Reply, Failure>,
    /// None were needed for what was remembered.
    pub(super) attempts: u32,
    pub(super) took: Duration,
}

impl Outcome {
    /// What was known without asking.
    pub(super) fn remembered(reply: Reply) -> Self {
        Self {
            result: Ok(reply),
            attempts: 0,
            took: Duration::ZERO,
        }
    }
}

/// What has come of a reply that may be shown before it is whole.
#[derive(Debug)]
pub(super) struct Live {
    state: Mutex<State>,
    /// Shared by all replies of a run: whoever shows them need not know beforehand which is next.
    grown: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// What was not taken yet.
    text: String,
    is_shown: bool,
    is_restarted: bool,
}

/// What was taken from a [`Live`].
pub(super) struct Taken {
    pub(super) text: String,
    /// Whether what was taken before does not count any more.
    pub(super) is_restarted: bool,
}

impl Live {
    pub(super) fn new(grown: &Arc<Notify>) -> Self {
        Self {
            state: Mutex::default(),
            grown: Arc::clone(grown),
        }
    }

    pub(super) fn push(&self, text: &str) {
        if !text.is_empty() {
            self.lock().text.push_str(text);
            self.grown.notify_one();
        }
    }

    pub(super) fn take(&self) -> Taken {
        let mut state = self.lock();
        state.is_shown |= !state.text.is_empty();
        Taken {
            text: std::mem::take(&mut state.text),
            is_restarted: std::mem::take(&mut state.is_restarted),
        }
    }

    /// Whether any of it was taken since it began or began anew.
    pub(super) fn is_shown(&self) -> bool {
        self.lock().is_shown
    }

    /// Begins anew.
    pub(super) fn restart(&self) {
        let mut state = self.lock();
        state.text.clear();
        state.is_restarted |= std::mem::take(&mut state.is_shown);
    }

    /// Waits until there is something to show.
    pub(super) async fn grown(&self) {
        while self.lock().text.is_empty() {
            self.grown.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that ends when nobody waits for it any more.
#[derive(Debug)]
pub(super) struct Task(pub(super) JoinHandle<Outcome>);

impl Future for Task {
    /// Chunks that are the same share it.
    type Output = Arc<Outcome>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Arc<Outcome>> {
        Pin::new(&mut self.0).poll(context).map(|result| {
            Arc::new(result.unwrap_or_else(|error| Outcome {
                result: Err(Failure::new(
                    Kind::Malformed,
                    &format!("the request's task failed: {error}"),
                )),
                attempts: 0,
                took: Duration::ZERO,
            }))
        })
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
