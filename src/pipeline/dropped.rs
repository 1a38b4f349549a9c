//! Whether the server read all that it was sent: some drop what does not fit
//! their context, without a word, and answer about the rest.

use std::sync::{Mutex, PoisonError};

use crate::api::failure::{Failure, Kind};
use crate::api::reply::Reply;
use crate::input::token::TokenCounter;

/// Prompts of fewer tokens are not held against the server's count: every server has room for them.
const COUNTED: usize = 128;

/// Holds a whole reply against the server's count of what was sent.
///
/// # Errors
/// [`Kind::DroppedInput`] when it counted fewer than half of the tokens.
pub(super) fn check_input(
    reply: Reply,
    sent: [&str; 3],
    counter: &Mutex<TokenCounter>,
) -> Result<Reply, Failure> {
    let Some(usage) = reply.usage.filter(|usage| usage.prompt_tokens > 0) else {
        return Ok(reply);
    };
    // Some count only what was not in their own cache.
    let read = usage.prompt_tokens.saturating_add(usage.cached_tokens);
    let read = usize::try_from(read).unwrap_or(usize::MAX);
    // Tokens never outnumber bytes, so some replies need no counting here.
    let bytes: usize = sent.iter().map(|text| text.len()).sum();
    if bytes < COUNTED || read >= bytes.div_ceil(2) {
        return Ok(reply);
    }
    let mut counter = counter.lock().unwrap_or_else(PoisonError::into_inner);
    let tokens: usize = sent.iter().map(|text| counter.count(text)).sum();
    drop(counter);
    check_count(reply, tokens)
}

/// The same, where the tokens of what was sent are known.
///
/// # Errors
/// The same.
pub(super) fn check_count(reply: Reply, tokens: usize) -> Result<Reply, Failure> {
    let usage = reply.usage.unwrap_or_default();
    let read = usage.prompt_tokens.saturating_add(usage.cached_tokens);
    let read = usize::try_from(read).unwrap_or(usize::MAX);
    if read == 0 || tokens < COUNTED || read >= tokens.div_ceil(2) {
        return Ok(reply);
    }
    let message = format!("it counted {read} of about {tokens} tokens");
    Err(Failure::new(Kind::DroppedInput, &message).with_partial(reply))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::reply::Usage;
    use crate::input::token::Encoding;

    fn check(text: &str, prompt_tokens: u64, cached_tokens: u64) -> Option<Kind> {
        let reply = Reply {
            usage: Some(Usage {
                prompt_tokens,
                cached_tokens,
                ..Usage::default()
            }),
            ..Reply::default()
        };
        let counter = Mutex::new(TokenCounter::new(Encoding::O200k));
        let sent = ["Be brief.", "", text];
        check_input(reply, sent, &counter)
            .err()
            .map(|failure| failure.kind)
    }

    #[test]
    fn fewer_than_half_of_the_tokens_is_a_failure() {
        // Three tokens before it, and a thousand.
        let text = "word ".repeat(1000);
        assert_eq!(check(&text, 400, 0), Some(Kind::DroppedInput));
        assert_eq!(check(&text, 503, 0), None);
        assert_eq!(check(&text, 100, 450), None);
        assert_eq!(check(&text, 0, 0), None);
    }

    #[test]
    fn short_prompts_are_not_counted_against_anybody() {
        assert_eq!(check("a few words of text", 1, 0), None);
    }
}
