//! The pace of the requests: what one costs, and what the server's answers say
//! about the others.

use std::sync::PoisonError;
use std::time::Duration;

use crate::api::failure::{Failure, Kind};
use crate::api::reply::Reply;
use crate::api::retry::PATIENCE;
use crate::pipeline::ask::Asker;

/// A wait that the user is told of though nobody asked.
const LONG_WAIT: Duration = Duration::from_secs(5);

impl Asker {
    /// Closes the gate where one failure speaks for all requests.
    pub(super) async fn close_gate(&self, failure: &Failure, wait: Duration) {
        let speaks_for_all = match failure.kind {
            Kind::RateLimit => true,
            Kind::Overloaded => failure.retry_after.is_some(),
            _ => false,
        };
        if !speaks_for_all {
            return;
        }
        // The server's own wait holds for all; what is random on top is this request's alone.
        let wait = failure.retry_after.unwrap_or(wait);
        self.pacer.close(wait).await;
        if self.gate.close(wait) && wait >= LONG_WAIT {
            self.messages.warning(&format!(
                "{}; all requests wait {} s",
                failure.kind.phrase(),
                wait.as_secs()
            ));
        }
    }

    /// The tokens of a request with these texts, where they are limited.
    pub(super) fn tokens(&self, texts: &[&str]) -> u32 {
        if !self.pacer.limits_tokens() {
            return 0;
        }
        let mut counter = self.counter.lock().unwrap_or_else(PoisonError::into_inner);
        let system = self.template.system();
        let parts = texts.iter().chain([&system]);
        let tokens: usize = parts.map(|part| counter.count(part)).sum();
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }

    /// Puts the server's count in the place of ours.
    pub(super) async fn settle(&self, counted: u32, result: &Result<Reply, Failure>) {
        let reply = match result {
            Ok(reply) => Some(reply),
            Err(failure) => failure.partial.as_deref(),
        };
        let usage = reply.and_then(|reply| reply.usage);
        if let Some(usage) = usage.filter(|_| self.pacer.limits_tokens()) {
            let used = usage.prompt_tokens.saturating_add(usage.completion_tokens);
            let used = u32::try_from(used).unwrap_or(u32::MAX);
            self.pacer.settle(counted, used).await;
        }
    }

    /// Slows all requests down before the server has to refuse one: those in flight share what it
    /// lets in.
    pub(super) async fn hold_back(&self, reply: &Reply, in_flight: usize) {
        if let Some(refill) = reply.refill {
            let others = u32::try_from(in_flight).unwrap_or(u32::MAX);
            let wait = refill.saturating_mul(others.max(1)).min(PATIENCE);
            self.gate.close(wait);
            self.pacer.close(wait).await;
        }
    }
}
