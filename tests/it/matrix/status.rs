//! Statuses that pass: each alone and with everything that servers put beside them, sense or not.

use std::time::{Duration, SystemTime};

use httpdate::fmt_http_date;
use serde_json::json;

use crate::matrix::{Fault, Row, endure};
use crate::server::Answer;

const HTML: &str =
    "<!doctype html><html><head><title>Sorry</title></head><body>Sorry.</body></html>";

/// What servers put beside a status, and how long that asks to wait.
const BESIDE: [(&str, &str, u64); 16] = [
    ("nothing", "", 0),
    ("seconds", "Retry-After: 1\r\n", 1000),
    ("no seconds", "Retry-After: 0\r\n", 0),
    ("milliseconds", "retry-after-ms: 300\r\n", 300),
    ("LiteLLM's name", "llm_provider-retry-after: 1\r\n", 1000),
    (
        "milliseconds and more seconds",
        "retry-after-ms: 200\r\nRetry-After: 9\r\n",
        200,
    ),
    (
        "nonsense and milliseconds",
        "retry-after-ms: soon\r\nRetry-After: 1\r\n",
        1000,
    ),
    ("negative", "Retry-After: -1\r\n", 0),
    ("NaN", "Retry-After: NaN\r\n", 0),
    ("soon", "Retry-After: soon\r\n", 0),
    ("empty", "Retry-After:\r\n", 0),
    (
        "a date long past",
        "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
        0,
    ),
    (
        "no date",
        "Retry-After: Mon, 99 Foo 2026 88:00:00 GMT\r\n",
        0,
    ),
    (
        "a limit that is not reached",
        "x-ratelimit-remaining-requests: 5\r\nx-ratelimit-reset-requests: 9s\r\n",
        0,
    ),
    (
        "a limit that is reached",
        "x-ratelimit-remaining-tokens: 0\r\nx-ratelimit-reset-tokens: 250ms\r\n",
        250,
    ),
    ("x-should-retry", "x-should-retry: true\r\n", 0),
];

/// The time after which a refusal comes that speaks for all requests: by then all of them are in
/// flight, so that they wait once and not each in its turn.
const HELD: Duration = Duration::from_millis(1500);

/// Every fault of a status.
fn row(status: &'static str) -> Row {
    let held = match &status[..3] {
        "429" | "503" | "529" => HELD,
        _ => Duration::ZERO,
    };
    let fault = |beside: &str, answer: Box<dyn Fn() -> Answer + Send + Sync>, wait: Duration| {
        Fault::new(format!("{status} with {beside}"), move |_, _| {
            answer().after(held)
        })
        .wait(held + wait)
    };
    let mut faults = Vec::new();
    for (beside, headers, wait) in BESIDE {
        let body = json!({"error": {"message": "try later", "type": null}}).to_string();
        let headers = format!("Content-Type: application/json\r\n{headers}");
        let answer = move || Answer::plain(status, &headers, &body);
        faults.push(fault(beside, Box::new(answer), Duration::from_millis(wait)));
    }
    let second = Duration::from_secs(1);
    let date = move || {
        let now = SystemTime::now();
        let (now, then) = (fmt_http_date(now), fmt_http_date(now + second));
        let headers = format!("Date: {now}\r\nRetry-After: {then}\r\n");
        Answer::plain(status, &headers, "")
    };
    let page = move || Answer::plain(status, "Content-Type: text/html\r\n", HTML);
    let words = move || Answer::plain(status, "", "Internal Server Error");
    faults.push(fault("a date", Box::new(date), second));
    faults.push(fault("a web page", Box::new(page), Duration::ZERO));
    faults.push(fault("plain text", Box::new(words), Duration::ZERO));
    if status.starts_with("429") {
        for word in ["rate_limit_exceeded", "throttling_error"] {
            let error = move || Answer::error(status, word, "slower");
            faults.push(fault(word, Box::new(error), Duration::ZERO));
        }
    }
    Row::new(faults, &["-j", "500"])
}

#[test]
fn statuses_that_pass() {
    endure(
        [
            "408 Request Timeout",
            "409 Conflict",
            "425 Too Early",
            "429 Too Many Requests",
            "500 Internal Server Error",
            "502 Bad Gateway",
            "503 Service Unavailable",
            "504 Gateway Timeout",
            "529 ",
        ]
        .map(row)
        .into(),
    );
}

/// A server that says that the same request may succeed is believed, whatever its status.
#[test]
fn advice_to_ask_again() {
    let advised = |status: &'static str| {
        Fault::new(
            format!("{status} with x-should-retry: true"),
            move |_, _| Answer::plain(status, "x-should-retry: true\r\n", ""),
        )
    };
    let statuses = [
        "400 Bad Request",
        "422 Unprocessable Entity",
        "501 Not Implemented",
    ];
    endure(vec![Row::new(statuses.map(advised), &["-j", "64"])]);
}
