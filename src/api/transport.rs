//! What went wrong with the connection: errors of `reqwest` → [`Failure`].

use std::error::Error;
use std::io;

use eventsource_stream::EventStreamError;

use crate::api::failure::{Failure, Kind, Wait};
use crate::api::sse::Broken;

/// Reads the error that ended a stream of events.
#[must_use]
pub fn from_events(error: EventStreamError<Broken<Failure>>) -> Failure {
    match error {
        EventStreamError::Transport(Broken::Transport(failure)) => failure,
        EventStreamError::Transport(Broken::TooLong) => {
            let mut failure = Failure::new(Kind::Malformed, "one event is longer than 16 MiB");
            failure.should_retry = Some(false);
            failure
        }
        // The guard lets nothing through that ends so.
        EventStreamError::Utf8(_) | EventStreamError::Parser(_) => {
            Failure::new(Kind::Malformed, "these are not server-sent events")
        }
    }
}

/// Reads an error of the connection.
///
/// Its own flags do not suffice: a connection cut in mid-body answers no to all of them. So the chain of causes
/// is walked. The text of the error itself is left out, because it holds the URL with all that is in it.
#[must_use]
pub fn from_transport(error: &reqwest::Error) -> Failure {
    let mut texts = Vec::new();
    let mut kinds = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        if !error.is::<reqwest::Error>() {
            texts.push(error.to_string());
        }
        // The source of an `io::Error` is not what it wraps but what comes after that.
        cause = match error.downcast_ref::<io::Error>() {
            Some(error) => {
                kinds.push(error.kind());
                error.get_ref().map(|inner| inner as &(dyn Error + 'static))
            }
            None => error.source(),
        };
    }
    let text = texts.join(": ").to_ascii_lowercase();
    let has = |word: &str| text.contains(word);
    let kind = if error.is_builder() {
        Kind::Url
    } else if error.is_redirect() {
        Kind::Redirect
    } else if error.is_timeout() || kinds.contains(&io::ErrorKind::TimedOut) {
        Kind::Timeout(if error.is_connect() {
            Wait::Connect
        } else if error.is_body() || error.is_decode() {
            Wait::Idle
        } else {
            Wait::FirstByte
        })
    } else if error.is_connect() {
        // The types of these causes are private to hyper-util; their words are all there is.
        if has("dns error") {
            Kind::Dns
        } else if kinds.contains(&io::ErrorKind::InvalidData) {
            // So rustls reports every certificate and protocol error.
            Kind::Tls
        } else if has("tunnel") || has("socks") || has("proxy") {
            Kind::Proxy
        } else {
            Kind::Connect
        }
    } else if has("invalid http") {
        Kind::NotApi
    } else {
        Kind::Cut
    };
    let host = error.url().and_then(|url| {
        let host = url.host_str()?;
        Some(
            url.port()
                .map_or(host.to_owned(), |port| format!("{host}:{port}")),
        )
    });
    // In the form of all messages: in lower case, and without the system's number.
    let last = texts.last().map(|text| {
        let text = text.split(" (os error").next().unwrap_or_default();
        match text.split_at_checked(1) {
            Some((first, rest)) => first.to_ascii_lowercase() + rest,
            None => text.to_owned(),
        }
    });
    let words: Vec<&str> = [host.as_deref(), last.as_deref()]
        .into_iter()
        .flatten()
        .collect();
    let mut failure = Failure::new(kind, &words.join(": "));
    if has("too many open files") {
        failure.hint = Some("raise `ulimit -n`, or send less at once with -j".into());
    }
    if kind == Kind::Proxy && has("proxy authorization required") {
        failure.status = Some(407);
    }
    failure
}
