//! Requests that are answered with an error, in the shape that clients expect.
//!
//! One constructor for each thing that can be wrong, so that its status, its
//! code and its words stand together. The words follow the program's own form:
//! lower case, what was wrong with which thing, no final stop.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

/// What a user reads who asks for more than the demo can do.
const CANNOT: &str = "the demo is not a language model: it can only summarize (pick the main \
                      sentences); for anything else set up a real model, see gptpipe --help";

/// An error in place of a reply.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// The method that the path knows, after a wrong one.
    pub(super) allowed: Option<&'static str>,
    code: Option<&'static str>,
    param: Option<&'static str>,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self {
            status,
            allowed: None,
            code,
            param: None,
            message: message.into(),
        }
    }

    /// The wish takes a language model.
    pub(super) fn cannot() -> Self {
        Self::new(StatusCode::BAD_REQUEST, Some("demo_cannot"), CANNOT)
    }

    pub(super) fn bad_json(error: &serde_json::Error) -> Self {
        let message = format!("the body is not JSON: {error}");
        Self::new(StatusCode::BAD_REQUEST, None, message)
    }

    pub(super) fn bad_request(message: &str, param: &'static str) -> Self {
        Self {
            param: Some(param),
            ..Self::new(StatusCode::BAD_REQUEST, None, message)
        }
    }

    pub(super) fn broken_body() -> Self {
        Self::new(StatusCode::BAD_REQUEST, None, "the body could not be read")
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("the body is larger than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, None, message)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            Some("invalid_api_key"),
            "the key is not the one of this demo server",
        )
    }

    pub(super) fn unknown_path(method: &Method, path: &str) -> Self {
        let message = format!("unknown request URL: {method} {path}");
        Self::new(StatusCode::NOT_FOUND, Some("unknown_url"), message)
    }

    pub(super) fn wrong_method(method: &Method, allowed: &'static str) -> Self {
        let message = format!("`{method}` is not allowed here, only `{allowed}`");
        let code = Some("method_not_supported");
        Self {
            allowed: Some(allowed),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, code, message)
        }
    }

    pub(super) fn internal() -> Self {
        let message = "the demo server failed; this is a fault of the program";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, None, message)
    }

    /// The body of the answer.
    pub(super) fn body(&self) -> Value {
        let kind = if self.status.is_server_error() {
            "server_error"
        } else {
            "invalid_request_error"
        };
        json!({
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            },
        })
    }
}
