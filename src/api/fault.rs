//! What went wrong according to the server: status, headers and error body → [`Failure`].
//!
//! A [`Kind`] is decided from the status and from the `code`, `type` and `status` words of the body; by phrases of
//! its message only where a real server gives nothing else to go by, each with its source. Bodies have as many
//! shapes as there are vendors: `Details` gathers from all of them what they have in common.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::api::failure::{Failure, Kind};
use crate::api::retry_after::{parse_span, retry_after};
use crate::api::words::{clean, host_of, html_title, id_of, is_html};

/// Reads a response that is not a success.
///
/// `header` looks a header up by its name in lower case; `body` may be anything.
pub fn from_response(status: u16, header: &dyn Fn(&str) -> Option<String>, body: &[u8]) -> Failure {
    let body = String::from_utf8_lossy(body);
    let details = Details::read(&body);
    let mut failure = Failure::new(kind_of(Some(status), &details), &details.message);
    failure.status = Some(status);
    failure.code = details.best_code();
    failure.request_id = request_id(header).or_else(|| details.request_id.clone());
    // Measured against the server's own clock where it tells it.
    let now = header("date").and_then(|date| httpdate::parse_http_date(date.trim()).ok());
    let now = now.unwrap_or_else(SystemTime::now);
    failure.retry_after = retry_after(header, now).or(details.retry_delay);
    failure.should_retry = match header("x-should-retry").as_deref().map(str::trim) {
        Some("true") => Some(true),
        Some("false") => Some(false),
        _ => None,
    };
    // OpenRouter answers 402 also while earlier requests are still being charged, and only then names a wait
    // (openrouter.ai/docs: "Handling 402 errors").
    if status == 402 && failure.retry_after.is_some() {
        failure.kind = Kind::RateLimit;
    }
    if failure.kind == Kind::Redirect {
        failure.message = match header("location") {
            None => "without saying where to".to_owned(),
            Some(url) => match host_of(&url) {
                Some(host) => clean(&format!("to {host}")),
                None => "to another path of the same host".to_owned(),
            },
        };
    }
    failure
}

/// Reads an error that came in place of a reply or of an event, under a status that promised success.
#[must_use]
pub fn from_event(data: &str) -> Failure {
    let details = Details::read(data);
    let status = details.code.as_deref().and_then(|code| code.parse().ok());
    let status = status.filter(|status| (400..600).contains(status));
    let kind = match kind_of(status, &details) {
        Kind::Server => Kind::EventError,
        kind => kind,
    };
    let mut failure = Failure::new(kind, &details.message);
    failure.status = status;
    failure.code = details.best_code();
    failure.request_id.clone_from(&details.request_id);
    failure.retry_after = details.retry_delay;
    failure
}

/// What an error body says, wherever the vendor put it.
#[derive(Debug, Default)]
struct Details {
    message: String,
    code: Option<String>,
    /// `type`, `status` and the codes further inside, in the order of their worth after `code`.
    words: Vec<String>,
    param: Option<String>,
    limit_source: String,
    request_id: Option<String>,
    retry_delay: Option<Duration>,
    is_html: bool,
    is_flagged: bool,
}

impl Details {
    fn read(body: &str) -> Self {
        let mut details = Self::default();
        let body = body.trim_start_matches('\u{feff}').trim();
        if let Ok(value) = serde_json::from_str(body) {
            details.value(&value, 0);
        } else if is_html(body) {
            details.is_html = true;
            details.message = html_title(body);
        } else {
            body.clone_into(&mut details.message);
        }
        details
    }

    /// Gemini wraps the object in an array; Anthropic's and `OpenAI`'s hold an `error` object; Ollama's `error` is a
    /// string; vLLM's and Mistral's object is the error itself; `FastAPI`'s is `detail`.
    fn value(&mut self, value: &Value, depth: u8) {
        match value {
            Value::Array(list) => {
                if let Some(first) = list.first() {
                    self.value(first, depth);
                }
            }
            Value::String(text) => self.message(text, depth),
            Value::Object(_) => {
                self.request_id = self
                    .request_id
                    .take()
                    .or_else(|| id_of(&word(&value["request_id"])?));
                for inner in ["error", "response"] {
                    let inner = &value[inner];
                    if inner.is_object() || inner.is_string() {
                        return self.value(inner, depth);
                    }
                }
                self.object(value, depth);
            }
            _ => {}
        }
    }

    fn object(&mut self, value: &Value, depth: u8) {
        for name in ["message", "msg", "detail", "error_description"] {
            match &value[name] {
                Value::String(text) => self.message(text, depth),
                Value::Object(_) => self.value(&value[name], depth),
                // FastAPI: a list of {loc, msg, type}.
                Value::Array(list) => {
                    let texts: Vec<_> = list
                        .iter()
                        .filter_map(|item| item["msg"].as_str())
                        .collect();
                    self.message = texts.join("; ");
                }
                _ => continue,
            }
            break;
        }
        self.code = word(&value["code"]).or(self.code.take());
        self.param = word(&value["param"]);
        // OpenRouter: what the provider behind it said, and which of its own limits was reached.
        let metadata = &value["metadata"];
        if let Some(raw) = metadata["raw"].as_str() {
            self.message = format!("{}: {raw}", self.message);
        }
        metadata["limit_source"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut self.limit_source);
        self.is_flagged |= metadata["reasons"].is_array();
        let inner = [
            &value["innererror"],
            &value["provider_specific_fields"]["innererror"],
        ];
        let reason = value["details"]
            .as_array()
            .into_iter()
            .flatten()
            .inspect(|detail| {
                // google.rpc.RetryInfo: Gemini has no Retry-After header.
                if let Some(delay) = detail["retryDelay"].as_str() {
                    self.retry_delay = parse_span(delay);
                }
            });
        let reasons: Vec<_> = reason
            .filter_map(|detail| word(&detail["reason"]))
            .collect();
        let words = [
            &inner[0]["code"],
            &inner[1]["code"],
            &metadata["error_type"],
            &value["type"],
            &value["status"],
        ];
        self.words.extend(
            reasons
                .into_iter()
                .chain(words.into_iter().filter_map(word)),
        );
    }

    /// Some proxies put the whole error body that they got into the message of their own.
    fn message(&mut self, text: &str, depth: u8) {
        text.clone_into(&mut self.message);
        if depth < 2
            && text.trim_start().starts_with(['{', '['])
            && let Ok(value @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(text)
        {
            self.value(&value, depth + 1);
        }
    }

    fn says(&self, words: &[&str]) -> bool {
        let said = self.code.iter().chain(&self.words);
        said.into_iter()
            .any(|said| words.iter().any(|word| said.eq_ignore_ascii_case(word)))
    }

    fn best_code(&self) -> Option<String> {
        let is_name =
            |code: &&String| !code.is_empty() && !code.bytes().all(|byte| byte.is_ascii_digit());
        let said = self.code.iter().chain(&self.words);
        let code = said.clone().find(is_name).or(self.code.as_ref())?;
        let code: String = clean(code).chars().take(80).collect();
        (!code.is_empty()).then_some(code)
    }
}

/// Words that decide, whatever the status. They are from the vendors' own lists of errors: `OpenAI` ("Error
/// codes"), Azure ("Content filtering"), Anthropic ("Errors"), Google (`google.rpc.Code`), Moonshot, Alibaba,
/// Mistral, Groq, `OpenRouter` ("Errors and debugging"); from `LiteLLM`'s and llama-server's sources and answers.
const STRONG: &[(Kind, &[&str])] = &[
    (
        Kind::ContextLength,
        &[
            "context_length_exceeded",
            "context_window_exceeded",
            "exceed_context_size_error",
            "string_above_max_length",
            "string_too_long",
        ],
    ),
    (Kind::TooLarge, &["request_too_large"]),
    (
        Kind::Quota,
        &[
            "billing_error",
            "billing_hard_limit_reached",
            "billing_not_active",
            "budget_exceeded",
            "credit_balance_exhausted",
            "enforced_spend_limit_reached",
            "exceeded_current_quota_error",
            "insufficient_quota",
            "organization_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
            "payment_required",
            "project_spend_limit_exceeded",
            "quota_exceeded",
        ],
    ),
    (
        Kind::Filtered,
        &[
            "content_filter",
            "content_filter_error",
            "content_policy_violation",
            "data_inspection_failed",
            "invalid_prompt",
            "moderation",
            "responsibleaipolicyviolation",
        ],
    ),
    (
        Kind::Auth,
        &[
            "account_deactivated",
            "api_key_invalid",
            "authentication_error",
            "expired_key",
            "invalid_api_key",
            "invalid_authentication_error",
            "no_db_connection",
            "token_not_found_in_db",
            "unauthenticated",
            "unauthorized",
        ],
    ),
    (
        Kind::Model,
        &[
            "deploymentnotfound",
            "invalid_model",
            "model_decommissioned",
            "model_not_available",
            "model_not_found",
        ],
    ),
];

/// Words that some servers also put where a phrase of the message says more.
const WEAK: &[(Kind, &[&str])] = &[
    (
        Kind::Forbidden,
        &[
            "permission_denied",
            "permission_error",
            "unsupported_country_region_territory",
        ],
    ),
    (
        Kind::Overloaded,
        &[
            "engine_overloaded_error",
            "insufficient_system_resource",
            "overloaded_error",
            "server_is_overloaded",
            "service_tier_capacity_exceeded",
            "service_unavailable_error",
            "unavailable",
            "unavailable_error",
        ],
    ),
    (
        Kind::RateLimit,
        &[
            "rate_limit_error",
            "rate_limit_exceeded",
            "rate_limit_reached_error",
            "rate_limited",
            "resource_exhausted",
            "slow_down",
            "throttling_error",
            "too_many_requests",
        ],
    ),
];

fn kind_of(status: Option<u16>, details: &Details) -> Kind {
    let find = |table: &[(Kind, &[&str])]| {
        let mut rows = table.iter();
        rows.find(|(_, words)| details.says(words))
            .map(|(kind, _)| *kind)
    };
    let is = |code: u16| status == Some(code);
    // OpenRouter says 402 and 403 for several limits of its own; one of them passes as running requests end.
    match details.limit_source.as_str() {
        "" => {}
        "openrouter_in_flight_budget" => return Kind::RateLimit,
        _ if is(402) || is(403) => return Kind::Quota,
        _ => {}
    }
    if let Some(kind) = find(STRONG) {
        return kind;
    }
    if is(413) {
        return Kind::TooLarge;
    }
    if details.is_flagged {
        return Kind::Filtered;
    }
    if is(404) && details.param.as_deref() == Some("model") {
        return Kind::Model;
    }
    if let Some(kind) = kind_of_phrase(status, &details.message).or_else(|| find(WEAK)) {
        return kind;
    }
    match status {
        Some(300..=399) => Kind::Redirect,
        Some(401) => Kind::Auth,
        Some(402) => Kind::Quota,
        Some(403 | 451) => Kind::Forbidden,
        Some(404 | 405 | 410) => Kind::NotFound,
        Some(407) => Kind::Proxy,
        Some(408 | 409 | 425) => Kind::Busy,
        Some(429) => Kind::RateLimit,
        // Not implemented here is not implemented later either.
        Some(400..=499 | 501) => Kind::BadRequest,
        Some(503 | 529) => Kind::Overloaded,
        Some(500..=599) => Kind::Server,
        None if !details.is_html => Kind::EventError,
        _ => Kind::NotApi,
    }
}

/// Where only the message tells. It is asked only under a status that these servers use for it.
fn kind_of_phrase(status: Option<u16>, message: &str) -> Option<Kind> {
    if !matches!(status, None | Some(400 | 404 | 422 | 429 | 500)) {
        return None;
    }
    let has = |phrase: &str| message.contains(phrase);
    let is_context = has("ContextWindowExceededError") // LiteLLM 1.106, type invalid_request_error
        || has("maximum context length") // vLLM, TGI, Mistral, type BadRequestError or none
        || has("the model's context length is only") // vLLM 0.16
        || has("prompt is too long") // Anthropic, type invalid_request_error
        || has("exceeds the maximum number of tokens allowed") // Gemini, status INVALID_ARGUMENT
        || has("maximum prompt length is") // xAI
        || has("exceeds the available context size") // llama-server behind a proxy
        || has("Request too large for"); // OpenAI, 429 rate_limit_exceeded: one request above the limit per minute
    let is_filtered = has("ContentPolicyViolationError") // LiteLLM, type invalid_request_error or null
        || has("content_filter_policy") // LiteLLM 1.106, the same
        || has("Content Exists Risk"); // DeepSeek, type invalid_request_error
    let is_quota = has("Insufficient Balance") // DeepSeek behind a proxy
        || has("credit balance is too low"); // Anthropic, 400 invalid_request_error
    let is_model = has("Invalid model name passed in model=") // LiteLLM 1.106, 400 invalid_request_error
        || has("Model Not Exist") // DeepSeek, the same
        || has("is not a valid model ID") // OpenRouter, code 400
        || (has("is not found for API version") && has("models/")) // Gemini, status NOT_FOUND
        || (message.starts_with("model: ") && status == Some(404)) // Anthropic, type not_found_error
        || (message.starts_with("model ") && has("not found")) // Ollama, type api_error
        || (message.starts_with("The model `") && has("does not exist")); // vLLM, type NotFoundError
    // llama-server answers 500 server_error to a request that it cannot parse; nlohmann/json names itself.
    let is_bad = has("[json.exception.");
    [
        (is_context, Kind::ContextLength),
        (is_filtered, Kind::Filtered),
        (is_quota, Kind::Quota),
        (is_model, Kind::Model),
        (is_bad, Kind::BadRequest),
    ]
    .into_iter()
    .find_map(|(is_so, kind)| is_so.then_some(kind))
}

fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The server's name for the request, to be quoted to its operators.
pub fn request_id(header: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let names = [
        "x-request-id",
        "request-id",
        "x-litellm-call-id",
        "apim-request-id",
        "x-ms-request-id",
        "x-amzn-requestid",
        "x-generation-id",
        "cf-ray",
    ];
    id_of(&names.into_iter().find_map(header)?)
}
