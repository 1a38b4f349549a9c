//! The lines of the files of the Batch API: requests on the way there, answers on the way back
//! (`OpenAI`'s API reference, "Batch": "The request input object", "The request output object").

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::event::Api;
use crate::api::failure::{Failure, Kind};
use crate::api::fault;
use crate::api::plain::decode_plain;
use crate::api::reply::Reply;

/// The path that a batch's requests go to.
#[must_use]
pub fn path(api: Api) -> &'static str {
    match api {
        Api::Chat => "/v1/chat/completions",
        Api::Responses => "/v1/responses",
    }
}

/// A line of a file of requests; `name` comes back with the answer.
#[must_use]
pub fn line(api: Api, name: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{{\"custom_id\":\"{name}\",\"method\":\"POST\",\"url\":\"{}\",\"body\":",
        path(api)
    );
    [head.as_bytes(), body, b"}\n"].concat()
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    custom_id: Cow<'a, str>,
    #[serde(borrow, default)]
    response: Option<Response<'a>>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(default)]
    status_code: Option<u16>,
    #[serde(default)]
    request_id: Option<String>,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
}

/// Reads a line of a file of answers: the name of the request, and what came of it. None for what is
/// no such line.
#[must_use]
pub fn answer(api: Api, line: &[u8]) -> Option<(String, Result<Reply, Failure>)> {
    let answer: Answer<'_> = serde_json::from_slice(line).ok()?;
    let name = answer.custom_id.into_owned();
    let error = answer.error.filter(|error| error.get() != "null");
    let result = match (answer.response, error) {
        (Some(response), None) => {
            let body = response.body.map_or("", RawValue::get).as_bytes();
            let status = response.status_code.unwrap_or(200);
            let result = if (200..300).contains(&status) {
                decode_plain(api, body)
            } else {
                Err(fault::from_response(status, &|_| None, body))
            };
            result.map_err(|mut failure| {
                failure.request_id = failure.request_id.or(response.request_id);
                failure
            })
        }
        (None, None) => Err(Failure::new(Kind::Empty, "")),
        (_, Some(error)) => {
            let error = error.get();
            let mut failure = fault::from_event(&format!("{{\"error\":{error}}}"));
            // The request was never begun.
            if matches!(
                failure.code.as_deref(),
                Some("batch_expired" | "batch_cancelled")
            ) {
                failure.kind = Kind::Busy;
            }
            Err(failure)
        }
    };
    Some((name, result))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::reply::Finish;
    use serde_json::{Value, json};

    #[test]
    fn a_line_is_what_the_documents_say() {
        let line = line(Api::Chat, "a1", br#"{"model":"m","messages":[]}"#);
        assert!(line.ends_with(b"}\n"));
        let line: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(
            line,
            json!({
                "custom_id": "a1", "method": "POST", "url": "/v1/chat/completions",
                "body": {"model": "m", "messages": []},
            })
        );
    }

    #[test]
    fn answers_are_told_from_failures() {
        let read = |value: Value| answer(Api::Chat, value.to_string().as_bytes()).unwrap();
        let body = |reason: &str| {
            json!({"id": "c", "object": "chat.completion", "model": "m", "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": reason}
            ]})
        };
        let whole = json!({"id": "b", "custom_id": "k", "error": null,
            "response": {"status_code": 200, "request_id": "r", "body": body("stop")}});
        let (name, reply) = read(whole);
        let reply = reply.unwrap();
        assert_eq!(
            (name.as_str(), reply.text.as_str(), reply.finish),
            ("k", "hi", Finish::Stop)
        );
        let kind = |value: Value| read(value).1.unwrap_err().kind;
        let with = |status: u16, body: Value| {
            json!({"custom_id": "k", "error": null,
                "response": {"status_code": status, "request_id": "r", "body": body}})
        };
        assert_eq!(kind(with(200, body("length"))), Kind::Length);
        assert_eq!(
            kind(with(429, json!({"error": {"code": "rate_limit_exceeded"}}))),
            Kind::RateLimit
        );
        assert_eq!(
            kind(with(400, json!({"error": {"message": "no such field"}}))),
            Kind::BadRequest
        );
        let expired = json!({"custom_id": "k", "response": null,
            "error": {"code": "batch_expired", "message": "This request could not be executed"}});
        assert_eq!(kind(expired), Kind::Busy);
        assert!(answer(Api::Chat, b"").is_none());
        assert!(answer(Api::Chat, b"{\"x\":1}").is_none());
    }
}
