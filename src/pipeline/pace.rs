//! The pace of the requests: when one goes, what it costs, and what the server's
//! answers say about the others.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::timeout;

use crate::api::failure::{Failure, Kind};
use crate::api::reply::Reply;
use crate::api::retry::PATIENCE;
use crate::limit::budget::Leave;
use crate::pipeline::ask::{Asker, Asking};

/// A wait that the user is told of though nobody asked.
const LONG_WAIT: Duration = Duration::from_secs(5);

/// Time between two looks for what the user should know of a wait.
const TELL_EVERY: Duration = Duration::from_secs(1);

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

    /// The tokens of a request with these texts, where they or what they cost are limited.
    pub(super) fn tokens(&self, texts: &[&str]) -> u32 {
        if !self.pacer.limits_tokens() && !self.budget.is_any() {
            return 0;
        }
        self.count(texts)
    }

    /// The tokens of a request with these texts.
    pub(super) fn count(&self, texts: &[&str]) -> u32 {
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
        if let Some(usage) = usage {
            self.tariff.spend(usage);
        }
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

impl Asking<'_> {
    /// Waits for the gate, for a permit, for leave to spend and for the turn, in this order: whoever
    /// has leave waits for nobody who waits for leave.
    pub(super) async fn ready(&mut self, tokens: u32) -> Result<Option<Leave>, Failure> {
        let asker = self.asker;
        self.unless_over(asker.gate.pass(fastrand::f64())).await?;
        if self.permit.is_none() {
            let permit = self.unless_over(self.traffic.concurrency.acquire()).await?;
            self.permit = Some(permit);
            // It may have been closed while this one waited for its turn.
            self.unless_over(asker.gate.pass(fastrand::f64())).await?;
        }
        let leave = self.unless_over(asker.leave(tokens)).await??;
        let turn = asker.pacer.turn(self.place.number, tokens);
        self.unless_over(self.told(turn)).await?;
        Ok(leave)
    }

    /// Waits for a turn, and meanwhile tells the user what there is to tell.
    async fn told(&self, turn: impl Future<Output = ()>) {
        let mut turn = std::pin::pin!(turn);
        while timeout(TELL_EVERY, turn.as_mut()).await.is_err() {
            self.tell_trouble();
        }
    }

    /// Waits, but not longer than it is worth it.
    pub(super) async fn unless_over<T>(&self, wait: impl Future<Output = T>) -> Result<T, Failure> {
        let mut over = self.traffic.over.subscribe();
        tokio::select! {
            biased;
            _ = over.wait_for(|first| *first < self.place.number) => {
                Err(Failure::new(Kind::Busy, "the run ended before it was sent"))
            }
            value = wait => Ok(value),
        }
    }
}
