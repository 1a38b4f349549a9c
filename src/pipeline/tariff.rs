//! What a request can come to, and what it came to: tokens and money.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::api::reply::Usage;
use crate::limit::budget::Amount;
use crate::report::price::Price;

/// The least that a reply is taken to need, in tokens, where nothing bounds it.
const REPLY: u64 = 2048;

/// What requests cost.
#[derive(Clone, Debug, Default)]
pub struct Tariff {
    /// The price, where it is known.
    pub price: Option<Price>,
    /// The most tokens of a reply that the user asked for.
    pub max_output: Option<u32>,
    /// What the run's requests came to, as far as servers counted, in billionths of a US dollar.
    pub spent: Arc<AtomicI64>,
}

impl Tariff {
    /// The most tokens of the reply to a prompt of so many. What is neither asked for nor known of
    /// the model is taken to be as long as the prompt.
    pub(super) fn output(&self, prompt: u64) -> u64 {
        if let Some(max) = self.max_output {
            return u64::from(max);
        }
        let guess = prompt.max(REPLY);
        let most = self.price.as_ref().and_then(|price| price.max_output);
        most.map_or(guess, |most| guess.min(u64::from(most)))
    }

    /// Adds what a request came to.
    pub(super) fn spend(&self, usage: Usage) {
        if let Some(price) = &self.price {
            self.spent.fetch_add(price.cost(usage), Ordering::Relaxed);
        }
    }

    /// What the run came to so far, in billionths of a US dollar; none where the price is not known.
    #[must_use]
    pub fn spent(&self) -> Option<i64> {
        self.price.as_ref()?;
        Some(self.spent.load(Ordering::Relaxed))
    }

    /// What the tokens come to.
    pub(super) fn amount(&self, usage: Usage) -> Amount {
        Amount {
            cost: self.price.as_ref().map_or(0, |price| price.cost(usage)),
            tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_bounded_by_what_is_asked_for_or_known_or_the_prompt() {
        let mut tariff = Tariff {
            max_output: Some(100),
            ..Tariff::default()
        };
        assert_eq!(tariff.output(5000), 100);
        tariff.max_output = None;
        assert_eq!(tariff.output(5000), 5000);
        assert_eq!(tariff.output(10), REPLY);
        tariff.price = Some(Price {
            max_output: Some(512),
            ..Price::default()
        });
        assert_eq!(tariff.output(5000), 512);
    }
}
