//! One request as a task of its own, and what may be seen of it before it ends.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::api::failure::{Failure, Kind};
use crate::api::reply::Reply;

/// How a request ended, and after what time.
pub(super) struct Outcome {
    pub(super) result: Result<Reply, Failure>,
    pub(super) took: Duration,
}

/// What has come of a reply that may be shown before it is whole.
#[derive(Debug)]
pub(super) struct Live {
    text: Mutex<String>,
    /// Shared by all replies of a run: whoever shows them need not know beforehand which is next.
    grown: Arc<Notify>,
}

impl Live {
    pub(super) fn new(grown: &Arc<Notify>) -> Self {
        Self {
            text: Mutex::default(),
            grown: Arc::clone(grown),
        }
    }

    pub(super) fn push(&self, text: &str) {
        self.lock().push_str(text);
        self.grown.notify_one();
    }

    pub(super) fn take(&self) -> String {
        std::mem::take(&mut self.lock())
    }

    /// Waits until there is something to show.
    pub(super) async fn grown(&self) {
        while self.lock().is_empty() {
            self.grown.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, String> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that ends when nobody waits for it any more.
pub(super) struct Task(pub(super) JoinHandle<Outcome>);

impl Future for Task {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        Pin::new(&mut self.0).poll(context).map(|result| {
            result.unwrap_or_else(|error| Outcome {
                result: Err(Failure::new(
                    Kind::Malformed,
                    &format!("the request's task failed: {error}"),
                )),
                took: Duration::ZERO,
            })
        })
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
