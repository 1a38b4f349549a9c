//! What the user is told while a chunk is asked about: with `-v` a line for each
//! attempt, without it only what would otherwise look like a program that hangs.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::api::failure::Failure;
use crate::api::reply::Reply;
use crate::api::retry::Next;
use crate::pipeline::ask::Asking;
use crate::pipeline::mend::one_line;
use crate::report::message::Messages;
use crate::store::cache::Cache;

/// Time after which the user is told what a run that failed is waiting for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waits for what is in flight when `what` ends the run: it is paid for, so it is to be remembered.
pub(super) async fn wait_for_flight(
    messages: &Messages,
    what: &str,
    flight: impl Future<Output = ()>,
) {
    let mut flight = std::pin::pin!(flight);
    if tokio::time::timeout(PATIENCE, flight.as_mut())
        .await
        .is_err()
    {
        messages.warning(&format!(
            "{what}; waiting for the replies in flight, so that they need not be paid for again (Ctrl-C leaves them)"
        ));
        flight.await;
    }
}

impl Asking<'_> {
    pub(super) fn tell_trouble(&self) {
        let cache = self.asker.recall.cache.as_ref();
        let troubles = [
            cache.and_then(Cache::take_trouble),
            self.asker.pacer.take_trouble(),
            self.asker.book.take_trouble(),
        ];
        for trouble in troubles.into_iter().flatten() {
            self.asker.messages.warning(&trouble);
        }
        for note in self.asker.client.take_notes() {
            self.asker.messages.warning(&note);
        }
    }

    pub(super) fn tell_limit(&self, limit: Option<usize>, why: &str) {
        if let Some(limit) = limit {
            let note = format!("{why}: at most {limit} requests in flight");
            self.asker.messages.note(&note);
        }
    }

    pub(super) fn tell_success(&self, reply: &Reply, took: Duration) {
        if !self.asker.messages.is_verbose {
            return;
        }
        let usage = reply.usage.unwrap_or_default();
        self.asker.messages.note(&format!(
            "{}: {} answered in {:.2} s, {} tokens in, {} out{}",
            self.place.name(),
            reply.model.as_deref().unwrap_or("the model"),
            took.as_secs_f64(),
            usage.prompt_tokens,
            usage.completion_tokens,
            match self.attempts {
                0 | 1 => String::new(),
                attempt => format!(", attempt {attempt}"),
            }
        ));
    }

    pub(super) fn tell_faults(&self, reply: &Reply, faults: &str, took: Duration) {
        self.tell_success(reply, took);
        self.asker.messages.note(&format!(
            "{}: the reply does not follow the schema: {}; asking once more",
            self.place.name(),
            one_line(faults)
        ));
    }

    pub(super) fn tell_failure(&self, failure: &Failure, took: Duration, next: Next) {
        let messages = &self.asker.messages;
        if !messages.is_verbose {
            // One that fails again may do so for long, and looks like one that hangs.
            if self.attempts == 2
                && matches!(next, Next::Again(_))
                && !self.asker.has_told.swap(true, Ordering::Relaxed)
            {
                messages.warning(&format!(
                    "{}: {failure}; trying again (-v tells of each attempt)",
                    self.place.name()
                ));
            }
            return;
        }
        let next = match next {
            Next::Again(wait) => format!("again in {:.1} s", wait.as_secs_f64()),
            Next::GiveUp => "given up".to_owned(),
            Next::TooLong(wait) => {
                format!("given up, as the server asks to wait {} s", wait.as_secs())
            }
        };
        messages.note(&format!(
            "{}: attempt {} failed after {:.2} s: {failure}; {next}",
            self.place.name(),
            self.attempts,
            took.as_secs_f64(),
        ));
    }
}
