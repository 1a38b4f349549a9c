//! A successful response that is one document and no stream: the server ignored `stream`, or it is not the API.

use crate::api::event::{Api, Bad, Decoder, End, Progress, unreadable};
use crate::api::failure::{Failure, Kind};
use crate::api::reply::Reply;
use crate::api::wire::{ResponsesEvent, is_error};
use crate::api::{fault, words};

/// What a successful response holds, by its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Events, for [`Decoder`].
    Events,
    /// One document, for [`decode_plain`]: the server did not stream, or this is no API.
    Plain,
}

impl Body {
    /// Judges by the `Content-Type` header; where it says nothing, events are what was asked for.
    #[must_use]
    pub fn of(content_type: Option<&str>) -> Self {
        let content_type = content_type.unwrap_or_default().to_ascii_lowercase();
        match content_type.split(';').next().unwrap_or_default().trim() {
            plain if plain.contains("json") || plain.contains("html") || plain.contains("xml") => {
                Self::Plain
            }
            _ => Self::Events,
        }
    }
}

/// Reads a successful response that is one document: the server ignored `stream`, or this is not the API.
///
/// # Errors
/// As [`Decoder::finish`]; [`Kind::NotApi`] for a web page and for any other document.
pub fn decode_plain(api: Api, body: &[u8]) -> Result<Reply, Failure> {
    let body = String::from_utf8_lossy(body);
    let body = body.trim_start_matches('\u{feff}').trim();
    if body.is_empty() {
        return Err(Failure::new(Kind::Empty, ""));
    }
    if words::is_html(body) {
        return Err(Failure::new(Kind::NotApi, &words::html_title(body)));
    }
    if !body.starts_with(['{', '[']) {
        return Err(Failure::new(Kind::NotApi, body));
    }
    let mut decoder = Decoder::new(api, End::FinishReason);
    decoder.progress = Progress::Begun;
    let taken = match serde_json::from_str::<ResponsesEvent<'_>>(body) {
        // Gemini wraps its errors in an array.
        _ if body.starts_with('[') => Err(Bad::said(fault::from_event(body))),
        Err(error) => Err(error.into()),
        Ok(event) if is_error(event.error) => Err(Bad::said(fault::from_event(body))),
        Ok(_) => match api {
            Api::Chat => decoder.chat(body),
            Api::Responses => decoder.response(body, ""),
        },
    };
    match taken {
        Ok(()) => {}
        Err(Bad::Json(error)) => return Err(decoder.fail(unreadable(&error))),
        Err(Bad::Said(failure)) => return Err(decoder.fail(*failure)),
    }
    if decoder.reply == Reply::default() && decoder.reason.is_none() {
        let said = fault::from_event(body);
        return Err(Failure {
            kind: Kind::NotApi,
            ..said
        });
    }
    decoder.finish()
}
