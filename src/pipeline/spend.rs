//! What a request may cost before it is sent, and what it came to.

use std::sync::PoisonError;
use std::time::Duration;

use crate::api::failure::{Failure, Kind};
use crate::api::reply::{Reply, Usage};
use crate::limit::budget::{Amount, Leave, Refused};
use crate::pipeline::ask::Asker;
use crate::report::price::dollars;

/// What a server adds around the texts of a request, in tokens.
const AROUND: u64 = 16;

/// Time after which the user is told what a request waits for.
const PATIENCE: Duration = Duration::from_secs(3);

impl Asker {
    /// Waits for leave to send a prompt of so many tokens; none is needed where nothing is bounded.
    pub(super) async fn leave(&self, tokens: u32) -> Result<Option<Leave>, Failure> {
        if !self.budget.is_any() {
            return Ok(None);
        }
        let (least, most) = self.amounts(tokens);
        self.leave_for(least, most, "a request").await.map(Some)
    }

    /// The least and the most that a request with a prompt of so many tokens can come to.
    pub(super) fn amounts(&self, tokens: u32) -> (Amount, Amount) {
        let prompt_tokens = u64::from(tokens) + AROUND;
        let least = Usage {
            prompt_tokens,
            ..Usage::default()
        };
        let most = Usage {
            completion_tokens: self.tariff.output(prompt_tokens),
            ..least
        };
        (self.tariff.amount(least), self.tariff.amount(most))
    }

    /// Waits for leave to spend so much on something.
    pub(super) async fn leave_for(
        &self,
        least: Amount,
        most: Amount,
        on: &str,
    ) -> Result<Leave, Failure> {
        let mut reserve = std::pin::pin!(self.budget.reserve(least, most));
        let soon = tokio::time::timeout(PATIENCE, &mut reserve).await;
        let leave = if let Ok(leave) = soon {
            leave
        } else {
            if self.budget.has_to_tell() {
                self.messages.warning(
                    "what is left of the budget is reserved by requests under way; waiting for them",
                );
            }
            reserve.await
        };
        leave.map_err(|refused| refusal(&refused, most, on))
    }

    /// What a request came to: as the server counted, or else as it is counted here.
    pub(super) fn used(&self, tokens: u32, result: &Result<Reply, Failure>) -> Amount {
        let (reply, has_begun) = match result {
            Ok(reply) => (Some(reply), true),
            // What was refused, or never arrived, costs nothing.
            Err(failure) => (
                failure.partial.as_deref(),
                failure.status.is_none_or(|status| status < 400) && !failure.kind.is_unsent(),
            ),
        };
        if let Some(usage) = reply.and_then(|reply| reply.usage) {
            return self.tariff.amount(usage);
        }
        if !has_begun {
            return Amount::default();
        }
        let text = reply.map_or("", |reply| reply.text.as_str());
        let mut counter = self.counter.lock().unwrap_or_else(PoisonError::into_inner);
        self.tariff.amount(Usage {
            prompt_tokens: u64::from(tokens) + AROUND,
            completion_tokens: counter.count(text) as u64,
            cached_tokens: 0,
        })
    }
}

/// The end of the run: every further request would be refused too.
fn refusal(refused: &Refused, most: Amount, on: &str) -> Failure {
    let next = format!("{on} may cost up to {}", dollars(most.cost));
    let (words, what) = match refused {
        Refused::Cost(max, spent) => (
            format!(
                "--max-cost {}: {} is spent, and {next}",
                dollars(*max),
                dollars(*spent)
            ),
            "a larger --max-cost",
        ),
        Refused::Tokens(max, spent) => (
            format!(
                "--max-tokens {max}: {spent} are used, and {on} may use up to {}",
                most.tokens
            ),
            "a larger --max-tokens",
        ),
        Refused::Budget(period, budget, spent) => (
            format!(
                "the budget of {} a {period}: {} is spent, and {next}",
                dollars(*budget),
                dollars(*spent)
            ),
            "a larger `[budget]` in the configuration file, or later",
        ),
        Refused::Unknown(words) => (
            format!("how much of it is spent cannot be looked up: {words}"),
            "no `[budget]` in the configuration file",
        ),
    };
    let mut failure = Failure::new(Kind::Quota, &words);
    failure.hint = Some(format!("to go on, run the same command with {what}").into_boxed_str());
    failure
}
