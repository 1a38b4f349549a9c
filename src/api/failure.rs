//! What went wrong with a request, and whether it can help to ask again.
//!
//! A [`Failure`] has a [`Kind`], the server's own words for people, and what is needed to ask again: the wait
//! asked for, and what had come of the reply. It is made in `fault` from what a server said, in `transport` from
//! what the connection did, in `event` from how a stream ended. How long to wait, how often, and what the exit
//! status will be is decided elsewhere, from the [`Verdict`].

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::api::reply::Reply;
use crate::api::words::clean;
use crate::secret::redact::without;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No connection could be made.
    Connect,
    /// The host's name could not be looked up.
    Dns,
    /// No secure connection: an unknown certificate, or no TLS at the other end.
    Tls,
    /// A proxy on the way refused or failed.
    Proxy,
    /// The URL cannot be used.
    Url,
    /// Nothing came for too long.
    Timeout(Wait),
    /// The connection ended before the reply began.
    Closed,
    /// The connection or the stream ended before the reply did.
    Cut,
    /// Success was reported, and then not one event came.
    Empty,
    /// The server reported an error inside a reply that had begun well.
    EventError,
    /// What came is not what the API's format allows.
    Malformed,
    /// Too many requests or tokens for now.
    RateLimit,
    /// The server has no room for now, or is still starting.
    Overloaded,
    /// The server failed (5xx).
    Server,
    /// Try again: 408, 409, 425.
    Busy,
    /// The money or the quota is used up.
    Quota,
    /// There is no key, and nothing was sent.
    NoKey,
    /// There is no key any more: a token could not be renewed.
    KeyLost,
    /// The key is missing or wrong.
    Auth,
    /// The key is right, but this is not allowed with it.
    Forbidden,
    /// There is no such model.
    Model,
    /// There is no such path.
    NotFound,
    /// The server points elsewhere; documents and keys are not sent after it.
    Redirect,
    /// What answered is not the API: a web page or the like.
    NotApi,
    /// Prompt and text exceed the model's context.
    ContextLength,
    /// The request has too many bytes or tokens for the server's limits.
    TooLarge,
    /// A content filter stopped it.
    Filtered,
    /// The model refused.
    Refused,
    /// The reply reached its length limit.
    Length,
    /// The model asked for a tool.
    ToolCalls,
    /// The reply ended for a reason that is not known here.
    UnknownFinish,
    /// The server counted fewer prompt tokens than were sent.
    DroppedInput,
    /// The server does not accept the request as it is.
    BadRequest,
    /// Nothing may be sent, and the reply is not remembered.
    NotCached,
    /// The reply does not follow the schema, also when asked again.
    Schema,
}

/// What was waited for when time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// The connection.
    Connect,
    /// The first byte of the response: queueing is part of it.
    FirstByte,
    /// The next byte of the body.
    Idle,
}

/// Whether it can help to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same request may succeed later.
    Transient,
    /// This chunk fails; others need not.
    Fatal,
    /// Every further request would fail too.
    FatalForAll,
}

/// A request that brought no whole reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub kind: Kind,
    /// The HTTP status, or for an error inside a reply the status that its code names.
    pub status: Option<u16>,
    /// The server's own words (or ours, where there are none): one line, no keys, no final stop.
    pub message: String,
    /// The most telling word of the error body, such as `insufficient_quota`.
    pub code: Option<String>,
    /// The server's name for the request, to be quoted to its operators.
    pub request_id: Option<String>,
    /// How long the server asks to wait at least.
    pub retry_after: Option<Duration>,
    /// The server's own verdict (`x-should-retry`).
    pub should_retry: Option<bool>,
    /// What had come of the reply, never to be passed off as whole; it may have cost something.
    pub partial: Option<Box<Reply>>,
    /// What the user can do about just this one.
    pub hint: Option<Box<str>>,
}

impl Kind {
    /// One word, for programs: part of what `--format jsonl`, records and metrics promise.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Proxy => "proxy",
            Self::Url => "url",
            Self::Timeout(_) => "timeout",
            Self::Closed => "closed",
            Self::Cut => "cut",
            Self::Empty => "empty",
            Self::EventError => "event_error",
            Self::Malformed => "malformed",
            Self::RateLimit => "rate_limit",
            Self::Overloaded => "overloaded",
            Self::Server => "server",
            Self::Busy => "busy",
            Self::Quota => "quota",
            Self::Auth => "auth",
            Self::Forbidden => "forbidden",
            Self::Model => "model",
            Self::NotFound => "not_found",
            Self::Redirect => "redirect",
            Self::NotApi => "not_api",
            Self::ContextLength => "context_length",
            Self::TooLarge => "too_large",
            Self::Filtered => "filtered",
            Self::Refused => "refused",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::UnknownFinish => "unknown_finish",
            Self::DroppedInput => "dropped_input",
            Self::BadRequest => "bad_request",
            Self::NotCached => "not_cached",
            Self::NoKey => "no_key",
            Self::KeyLost => "key_lost",
            Self::Schema => "schema",
        }
    }

    /// What it means in plain words, for the beginning of a message.
    #[must_use]
    pub fn phrase(self) -> &'static str {
        match self {
            Self::Connect => "cannot connect",
            Self::Dns => "the host cannot be found",
            Self::Tls => "no secure connection",
            Self::Proxy => "the proxy failed",
            Self::Url => "the URL cannot be used",
            Self::Timeout(Wait::Connect) => "no connection in time",
            Self::Timeout(Wait::FirstByte) => "no response in time",
            Self::Timeout(Wait::Idle) => "the reply stalled",
            Self::Closed => "the server broke off before it answered",
            Self::Cut => "the reply was cut off",
            Self::Empty => "the server sent an empty reply",
            Self::EventError => "the server failed in the middle of the reply",
            Self::Malformed => "the reply cannot be read",
            Self::RateLimit => "the rate limit was reached",
            Self::Overloaded => "the server is overloaded or starting",
            Self::Server => "the server failed",
            Self::Busy => "the server was busy",
            Self::Quota => "the quota or the budget is used up",
            Self::NoKey => "nothing was sent",
            Self::KeyLost => "there is no key any more",
            Self::Auth => "the server refused the key",
            Self::Forbidden => "the server does not allow this",
            Self::Model => "the server does not know the model",
            Self::NotFound => "there is no such API path",
            Self::Redirect => "the server redirects, which is not followed",
            Self::NotApi => "what answered is not an API",
            Self::ContextLength => "the text is too long for the model's context",
            Self::TooLarge => "the request is too large for the server",
            Self::Filtered => "a content filter stopped the reply",
            Self::Refused => "the model refused",
            Self::Length => "the reply reached its length limit",
            Self::ToolCalls => "the model asked for a tool, and there are none",
            Self::UnknownFinish => "the reply ended for an unknown reason",
            Self::DroppedInput => "the server dropped part of the text",
            Self::BadRequest => "the server does not accept the request",
            Self::NotCached => "its reply is not in the cache",
            Self::Schema => "the reply does not follow the schema",
        }
    }

    /// Whether nothing can have reached the server.
    #[must_use]
    pub fn is_unsent(self) -> bool {
        matches!(
            self,
            Self::Connect
                | Self::Dns
                | Self::Tls
                | Self::Proxy
                | Self::Url
                | Self::NoKey
                | Self::KeyLost
        )
    }

    /// Whether a smaller chunk may succeed.
    #[must_use]
    pub fn is_too_long(self) -> bool {
        matches!(self, Self::ContextLength | Self::TooLarge | Self::Length)
    }

    fn verdict(self) -> Verdict {
        match self {
            Self::Connect
            | Self::Dns
            | Self::Proxy
            | Self::Timeout(_)
            | Self::Closed
            | Self::Cut
            | Self::Empty
            | Self::EventError
            | Self::Malformed
            | Self::RateLimit
            | Self::Overloaded
            | Self::Server
            | Self::Busy => Verdict::Transient,
            Self::ContextLength
            | Self::TooLarge
            | Self::Filtered
            | Self::Refused
            | Self::Length
            | Self::ToolCalls
            | Self::UnknownFinish
            | Self::DroppedInput
            | Self::BadRequest
            | Self::NotCached
            | Self::Schema => Verdict::Fatal,
            Self::Tls
            | Self::Url
            | Self::Quota
            | Self::NoKey
            | Self::KeyLost
            | Self::Auth
            | Self::Forbidden
            | Self::Model
            | Self::NotFound
            | Self::Redirect
            | Self::NotApi => Verdict::FatalForAll,
        }
    }
}

impl Failure {
    /// A failure with nothing known but its kind and some words.
    #[must_use]
    pub fn new(kind: Kind, message: &str) -> Self {
        Self {
            kind,
            status: None,
            message: clean(message),
            code: None,
            request_id: None,
            retry_after: None,
            should_retry: None,
            partial: None,
            hint: None,
        }
    }

    /// The same with what had come of the reply.
    #[must_use]
    pub fn with_partial(mut self, partial: Reply) -> Self {
        self.partial = Some(Box::new(partial));
        self
    }

    /// The same without `secret`, wherever the server quoted it. Well-known shapes of keys are taken out
    /// already; this is for the others.
    #[must_use]
    pub fn without_secret(mut self, secret: &str) -> Self {
        if !secret.is_empty() {
            let hide = |text: &mut String| {
                if let Some(hidden) = without(text, secret) {
                    *text = hidden;
                }
            };
            hide(&mut self.message);
            self.code.as_mut().map(hide);
            self.request_id.as_mut().map(hide);
            self.partial = self
                .partial
                .map(|partial| Box::new(partial.without_secret(secret)));
        }
        self
    }

    /// Whether it can help to ask again. A server that says so itself (`x-should-retry`) is believed, except
    /// that nothing mends a refused key or an empty purse by itself.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let verdict = match self.kind {
            // A proxy that wants a password wants it every time.
            Kind::Proxy if self.status == Some(407) => Verdict::FatalForAll,
            kind => kind.verdict(),
        };
        match (verdict, self.should_retry) {
            (Verdict::Transient, Some(false)) => Verdict::Fatal,
            (Verdict::Fatal, Some(true)) => Verdict::Transient,
            _ => verdict,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        if let Some(hint) = &self.hint {
            return Some(hint);
        }
        Some(match self.kind {
            Kind::Connect => "is the server running, and is the base URL right?",
            Kind::Dns => "check the host in the base URL, and the network",
            Kind::Tls if self.message.contains("certificate") => {
                "if you trust it, name the certificate of its authority in SSL_CERT_FILE"
            }
            Kind::Tls => "a server without TLS needs `http://` in its base URL",
            Kind::Proxy => "check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY",
            Kind::Url | Kind::Redirect => "check the base URL",
            Kind::Timeout(_) => "give it longer with --timeout, or send less at once with -j",
            Kind::Empty => "some servers answer so when the text is too long: try a smaller -c",
            Kind::RateLimit => "send less at once with -j, or more slowly with --rate",
            Kind::Filtered | Kind::Refused => "--on-error skip goes on without such chunks",
            Kind::Quota => "add credit or raise the limit at the provider",
            Kind::Auth => "check the key in GPTPIPE_API_KEY or in the provider's own variable",
            Kind::Model => "check the name given with -m",
            Kind::NotFound | Kind::NotApi => "check the base URL: most end in /v1",
            // By then it has been cut down to single words.
            Kind::ContextLength | Kind::TooLarge => {
                "its parts are too long as well: shorten the prompt, or give the server more room"
            }
            Kind::DroppedInput => "try a smaller -c",
            Kind::Length => "try a smaller -c, or a larger --max-output-tokens",
            Kind::Schema => "try another model or a simpler schema; --on-error skip goes on",
            Kind::NotCached => "run without --cache-only to ask for it",
            _ => return None,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.phrase())?;
        let status = self.status.map(|status| status.to_string());
        // Many servers repeat the status as the code.
        let code = self
            .code
            .as_ref()
            .filter(|code| Some(*code) != status.as_ref());
        match (&status, code) {
            (Some(status), Some(code)) => write!(f, ": {status} {code}")?,
            (Some(one), None) | (None, Some(one)) => write!(f, ": {one}")?,
            (None, None) => {}
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

impl Error for Failure {}
