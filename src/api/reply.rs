//! What a server answered: the value that crosses the border between `api` and everything after it.
//!
//! A [`Reply`] says how it ended ([`Finish`]) and what it cost ([`Usage`]). Whether that makes it whole is
//! decided in `event`: only a whole reply is handed on as one; any other travels inside a `Failure`, so that
//! it cannot be taken for whole by mistake, while what it cost can still be booked.

use std::time::Duration;

use crate::secret::redact::{SHORTEST, without};

/// The text of a reply with what the server said about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The text, without any reasoning.
    pub text: String,
    /// How the reply ended.
    pub finish: Finish,
    /// What was counted, if the server counts (some never do when streaming).
    pub usage: Option<Usage>,
    /// The model that answered; it may be another than the one asked for.
    pub model: Option<String>,
    /// The server's name for this reply.
    pub id: Option<String>,
    /// Where the server's own limit is nearly used up: the time in which it lets one more request in.
    pub refill: Option<Duration>,
}

impl Reply {
    /// The same without `secret` where the server names things, which is written and stored. The text stays as it is:
    /// it is the data. A secret that is as short as a word may be part of a model's name.
    #[must_use]
    pub fn without_secret(mut self, secret: &str) -> Self {
        if secret.len() >= SHORTEST {
            for name in [&mut self.model, &mut self.id].into_iter().flatten() {
                if let Some(hidden) = without(name, secret) {
                    *name = hidden;
                }
            }
        }
        self
    }
}

/// Why a reply ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Finish {
    /// The model had said all it had to say.
    Stop,
    /// `[DONE]` came without any reason, and the profile says that this server always ends so.
    Done,
    /// The output limit or the context was full.
    Length,
    /// A content filter cut it.
    Filtered,
    /// The model refused.
    Refused,
    /// The model wants a tool to be called.
    ToolCalls,
    /// The server stopped for a reason of its own.
    Failed,
    /// Nothing was said about the end.
    #[default]
    Unknown,
}

impl Finish {
    /// The API's own word (chat completions, `finish_reason`); none where nothing was said.
    #[must_use]
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Stop | Self::Done => Some("stop"),
            Self::Length => Some("length"),
            Self::Filtered => Some("content_filter"),
            Self::Refused => Some("refusal"),
            Self::ToolCalls => Some("tool_calls"),
            Self::Failed => Some("error"),
            Self::Unknown => None,
        }
    }
}

/// Tokens as the server counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the request.
    pub prompt_tokens: u64,
    /// Tokens of the reply, reasoning among them.
    pub completion_tokens: u64,
    /// Those of the request that came out of the server's own cache.
    pub cached_tokens: u64,
}

impl Usage {
    /// What is left without what something else used.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens.saturating_sub(other.prompt_tokens),
            completion_tokens: self
                .completion_tokens
                .saturating_sub(other.completion_tokens),
            cached_tokens: self.cached_tokens.saturating_sub(other.cached_tokens),
        }
    }

    /// Adds what something else used.
    pub fn add(&mut self, other: Self) {
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self
            .completion_tokens
            .saturating_add(other.completion_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
    }
}
