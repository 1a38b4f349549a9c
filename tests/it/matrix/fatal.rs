//! What no further attempt can mend: the exit status, the message, whole replies on standard output,
//! and nothing asked afterwards.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use httpdate::fmt_http_date;
use serde_json::json;

use crate::harness::{Folder, Outcome, gptpipe};
use crate::matrix::{CHUNKS, number, text};
use crate::server::{Answer, Gate, Request, Server};

/// Three records of which the second meets the fault, one at a time and with all the retries that
/// there usually are: none of them is made.
#[track_caller]
fn second_of_three(fault: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Outcome {
    let server = Server::start(move |request| match request.text.as_str() {
        "two" => fault(request),
        _ => request.echo(),
    });
    let outcome = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "-j", "1"])
        .input("one\ntwo\nthree\n")
        .run();
    let requests = server.requests();
    let asked: Vec<&str> = requests
        .iter()
        .map(|request| request.text.as_str())
        .collect();
    outcome
        .must(asked == ["one", "two"], &format!("asked about {asked:?}"))
        .one_message()
        .stdout("one\n")
        .says("error: chunk 2 (bytes 4-7, line 2 of standard input) failed: ");
    outcome
}

fn error(
    status: &str,
    code: &str,
    message: &str,
) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    let (status, code, message) = (status.to_owned(), code.to_owned(), message.to_owned());
    move |_| Answer::error(&status, &code, &message)
}

/// An answer with these headers.
fn headed(status: &str, headers: &str) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    let (status, headers) = (status.to_owned(), headers.to_owned());
    move |_| Answer::plain(&status, &headers, "")
}

#[test]
fn what_every_further_request_would_meet() {
    for (status, code, words) in [
        (
            "401 Unauthorized",
            "invalid_api_key",
            "the server refused the key: 401 invalid_api_key: no",
        ),
        (
            "400 Bad Request",
            "no_db_connection",
            "the server refused the key: 400 no_db_connection: no",
        ),
        (
            "403 Forbidden",
            "",
            "the server does not allow this: 403: no",
        ),
        (
            "404 Not Found",
            "model_not_found",
            "the server does not know the model: 404 model_not_found: no",
        ),
        ("404 Not Found", "", "there is no such API path: 404: no"),
        (
            "402 Payment Required",
            "",
            "the quota or the budget is used up: 402: no",
        ),
        (
            "429 Too Many Requests",
            "insufficient_quota",
            "the quota or the budget is used up: 429 insufficient_quota: no",
        ),
        (
            "429 Too Many Requests",
            "billing_hard_limit_reached",
            "the quota or the budget is used up: 429",
        ),
    ] {
        second_of_three(error(status, code, "no"))
            .status(255)
            .says(words);
    }
    // A wait does not fill a purse, nor does the server's own advice.
    second_of_three(|_| {
        let headers =
            "Content-Type: application/json\r\nRetry-After: 1\r\nx-should-retry: true\r\n";
        let body = json!({"error": {"message": "pay", "code": "insufficient_quota"}}).to_string();
        Answer::plain("429 Too Many Requests", headers, body)
    })
    .status(255)
    .says("hint: add credit");
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        second_of_three(headed(status, "Location: https://elsewhere.test/v1\r\n"))
            .status(255)
            .says("the server redirects, which is not followed: ")
            .says("to elsewhere.test")
            .says("hint: check the base URL");
    }
    let page = "<html><head><title>Forbidden</title></head><body>nginx</body></html>";
    for status in ["401 Unauthorized", "403 Forbidden", "404 Not Found"] {
        second_of_three(move |_| Answer::plain(status, "Content-Type: text/html\r\n", page))
            .status(255)
            .says(&format!(": {}: Forbidden", &status[..3]));
    }
    second_of_three(|_| {
        Answer::plain(
            "200 OK",
            "Content-Type: text/html\r\n",
            "<html><title>Log in</title></html>",
        )
    })
    .status(255)
    .says("what answered is not an API: Log in");
    for (code, words) in [
        ("insufficient_quota", "the quota or the budget is used up"),
        ("invalid_api_key", "the server refused the key"),
    ] {
        let event = json!({"error": {"message": "no", "code": code}}).to_string();
        second_of_three(move |request| request.stream().delta("tw").event(&event).end())
            .status(255)
            .says(words);
    }
}

#[test]
fn what_only_this_chunk_meets() {
    for (status, code, words) in [
        (
            "400 Bad Request",
            "",
            "the server does not accept the request: 400: no",
        ),
        (
            "422 Unprocessable Entity",
            "",
            "the server does not accept the request: 422: no",
        ),
        (
            "501 Not Implemented",
            "",
            "the server does not accept the request: 501: no",
        ),
        (
            "400 Bad Request",
            "content_filter",
            "a content filter stopped the reply: 400 content_filter: no",
        ),
        // llama-server says 500 to a request that it cannot read.
        (
            "500 Internal Server Error",
            "server_error",
            "the server does not accept the request: 500",
        ),
    ] {
        let message = if status.starts_with("500") {
            "[json.exception.parse_error.101] no"
        } else {
            "no"
        };
        second_of_three(error(status, code, message))
            .status(69)
            .says(words);
    }
    for status in [
        "408 Request Timeout",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "503 Service Unavailable",
    ] {
        second_of_three(headed(status, "x-should-retry: false\r\n"))
            .status(69)
            .says(&format!(": {}", &status[..3]));
    }
    for (reason, words) in [
        ("content_filter", "a content filter stopped the reply"),
        (
            "tool_calls",
            "the model asked for a tool, and there are none",
        ),
        ("tired", "the reply ended for an unknown reason: `tired`"),
    ] {
        second_of_three(move |request| request.stream().delta("tw").finish(reason))
            .status(69)
            .says(words);
    }
    let refusal =
        json!({"choices": [{"index": 0, "delta": {"refusal": "I will not."}}]}).to_string();
    second_of_three(move |request| request.stream().event(&refusal).finish("stop"))
        .status(69)
        .says("the model refused: I will not");
}

/// Who is asked to wait for longer than two minutes gives up at once, and says how long it would be.
#[test]
fn waits_that_are_too_long() {
    for status in [
        "429 Too Many Requests",
        "500 Internal Server Error",
        "503 Service Unavailable",
    ] {
        for (headers, wait) in [
            ("Retry-After: 121\r\n", "2m 1s"),
            ("Retry-After: 1e30\r\n", "1year "),
            ("Retry-After: inf\r\n", "1year "),
            ("retry-after-ms: 3600000\r\n", "1h"),
            ("llm_provider-retry-after: 600\r\n", "10m"),
            (
                "x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 6m0s\r\n",
                "6m",
            ),
        ] {
            second_of_three(headed(status, headers))
                .status(75)
                .says(&format!("; the server asks to wait {wait}"));
        }
        let hour = fmt_http_date(SystemTime::now() + Duration::from_mins(61));
        second_of_three(headed(status, &format!("Retry-After: {hour}\r\n")))
            .status(75)
            .says("; the server asks to wait 1h ");
    }
}

/// The failure is in the middle and others are in flight: what stands before it is written, what is
/// in flight is remembered, and nothing else is asked for. Once it is mended, running again asks for
/// the rest alone.
#[test]
fn nothing_is_asked_after_a_failure() {
    for (status, code, exit) in [
        ("401 Unauthorized", "invalid_api_key", 255),
        ("429 Too Many Requests", "insufficient_quota", 255),
        ("400 Bad Request", "", 69),
    ] {
        let (answers, fails) = (Gate::default(), Gate::default());
        let is_mended = Arc::new(AtomicBool::new(false));
        let server = Server::start({
            let (answers, fails) = (answers.clone(), fails.clone());
            let is_mended = Arc::clone(&is_mended);
            move |request| match number(request) {
                100 if !is_mended.load(Ordering::SeqCst) => {
                    Answer::error(status, code, "no").behind(&fails)
                }
                101.. => request.echo().behind(&answers),
                _ => request.echo(),
            }
        });
        let home = Folder::home();
        let run = || {
            gptpipe()
                .at(&home)
                .ask(&server)
                .args(["p", "-b", "line", "-j", "8", "-v"])
                .input(text())
                .start()
        };
        let failing = run();
        server.wait(|log| log.calls == 108 && log.in_flight == 8);
        fails.open();
        failing.wait_stderr(|stderr| stderr.contains("attempt 1 failed"));
        answers.open();
        let before: String = text().split_inclusive('\n').take(100).collect();
        failing
            .finish()
            .status(exit)
            .stdout(before)
            .says("error: chunk 101 (bytes 3400-3433, line 101 of standard input) failed: ");
        assert_eq!(server.calls(), 108, "only what was in flight was asked for");
        is_mended.store(true, Ordering::SeqCst);
        run().finish().status(0).stdout(text());
        assert_eq!(
            server.calls(),
            CHUNKS + 1,
            "the one that failed is asked for again"
        );
    }
}

#[test]
fn what_answers_without_tls() {
    // What speaks HTTP without TLS says so in the clear.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/v1", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let mut count = 0;
        // The last connection is the test's own, and says nothing.
        while let Ok((mut stream, _)) = listener.accept() {
            if stream.read(&mut [0; 16]).unwrap_or(0) == 0 {
                break;
            }
            count += 1;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
        count
    });
    let outcome = gptpipe()
        .args(["p", "-b", "line", "-j", "1", "--base-url", &url])
        .input("one\ntwo\n")
        .run();
    outcome
        .status(255)
        .stdout("")
        .one_message()
        .says("error: chunk 1 (bytes 0-3, line 1 of standard input) failed: no secure connection")
        .says("hint: a server without TLS needs `http://` in its base URL");
    let address = url.trim_start_matches("https://").trim_end_matches("/v1");
    drop(TcpStream::connect(address).unwrap());
    assert_eq!(server.join().unwrap(), 1, "it is asked once");
}
