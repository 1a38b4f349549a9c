use std::sync::Arc;

use serde_json::{Value, json};

use super::{KEYS, clean, files, home_is_clean, percent};
use crate::harness::{Folder, Gptpipe, gptpipe};
use crate::server::{Answer, Request, Server};

/// Statuses of failure: those of HTTP, and what proxies and gateways have added.
const STATUSES: [u16; 57] = [
    400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418,
    421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 498, 499, 500, 501, 502, 503, 504, 505, 506,
    507, 508, 510, 511, 520, 521, 522, 523, 524, 525, 526, 527, 529, 530, 540, 561, 598, 599, 600,
];

/// The key, as the server had it.
fn key(request: &Request) -> String {
    let header = request.header("authorization").unwrap_or_default();
    header.trim_start_matches("Bearer ").to_owned()
}

/// How a server spells what it says back.
const SAYS: [fn(&str) -> String; 7] = [
    |key| key.to_owned(),
    |key| format!("Bearer {key}"),
    |key| String::from_utf8(percent(key)).unwrap(),
    |key| format!("https://user:{key}@host.test/?key={key}&token={key}"),
    // Once as it stands in JSON, and once more by whoever quotes that.
    |key| json!(key).to_string(),
    |key| {
        let escaped = key.chars().map(|c| format!("\\u{:04x}", c as u32));
        escaped.collect::<Vec<_>>().concat()
    },
    |key| {
        let (first, second) = key.split_at(key.len() / 2);
        format!("{first}\n    {second}")
    },
];

/// Bodies of an error that say it, each somewhere else.
fn bodies(said: &str) -> Vec<(&'static str, Vec<u8>)> {
    let json = |value: Value| ("application/json", value.to_string().into_bytes());
    vec![
        json(json!({"error": {"message": said, "type": said, "param": said, "code": said}})),
        json(json!({"error": {"code": said}})),
        json(json!({"error": said})),
        json(json!({"error": said, "message": said, "error_description": said})),
        json(json!({"detail": said})),
        json(json!({"detail": [{"loc": ["header", said], "msg": said, "type": said}]})),
        json(json!({"message": said, "request_id": said})),
        json(json!([{"error": {"message": said, "status": said}}])),
        json(json!({"object": "error", "message": said, "code": 40301})),
        json(json!({ said: said })),
        json(json!(said)),
        // Says that it is JSON, and breaks off.
        (
            "application/json",
            format!("{{\"error\":{{\"message\":\"{said}").into_bytes(),
        ),
        (
            "text/html",
            format!("<html><head><title>{said}</title></head><body><h1>{said}</h1></body></html>")
                .into_bytes(),
        ),
        (
            "text/html",
            format!("<!-- {said} --><p>{said}</p>").into_bytes(),
        ),
        ("text/plain", said.as_bytes().to_vec()),
        (
            "text/event-stream",
            format!("data: {}\n\n", json!({"error": {"message": said}})).into_bytes(),
        ),
        (
            "application/octet-stream",
            [b"\xff\xfe\0".as_slice(), said.as_bytes(), b"\xff"].concat(),
        ),
    ]
}

/// What can stand in a header.
fn in_a_header(said: &str) -> String {
    said.replace(|c: char| c.is_control(), " ")
}

type Fault = Box<dyn Fn(&Request, &str) -> Answer + Send + Sync>;

fn fault(
    name: &'static str,
    answer: impl Fn(&Request, &str) -> Answer + Send + Sync + 'static,
) -> (&'static str, Fault) {
    (name, Box::new(answer))
}

fn event(request: &Request, event: &Value) -> Answer {
    request.stream().delta("half").event(&event.to_string())
}

/// Everything that goes wrong in a stream, after the server has said that all is well.
fn streams() -> Vec<(&'static str, Fault)> {
    vec![
        fault("an error in the stream", |request, said| {
            event(
                request,
                &json!({"error": {"message": said, "type": said, "code": said}}),
            )
            .end()
        }),
        fault("an error that is a string", |request, said| {
            event(request, &json!({"error": said})).end()
        }),
        fault("an event that is named so", |request, said| {
            let said = in_a_header(said);
            request
                .stream()
                .body(format!("event: {said}\nid: {said}\ndata: {said}\n\n"))
                .end()
        }),
        fault("a comment", |request, said| {
            request
                .stream()
                .body(format!(": {}\n\n", in_a_header(said)))
                .end()
        }),
        fault("an end for that reason", |request, said| {
            event(
                request,
                &json!({"choices": [{"index": 0, "delta": {}, "finish_reason": said}]}),
            )
            .end()
        }),
        fault("a refusal", |request, said| {
            let refusal = json!({"choices": [{"index": 0, "delta": {"refusal": said}}]});
            request.stream().event(&refusal.to_string()).finish("stop")
        }),
        fault("a filter", |request, said| {
            let filter = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter",
                "content_filter_results": {said: {"filtered": true, "severity": said}}}]});
            event(request, &filter).end()
        }),
        fault("a call of a tool", |request, said| {
            let call = json!({"choices": [{"index": 0, "finish_reason": "tool_calls", "delta": {"tool_calls": [{
                "index": 0, "id": said, "function": {"name": said, "arguments": said}}]}}]});
            event(request, &call).end()
        }),
        fault("a model of that name", |request, said| {
            let named = json!({"id": said, "model": said, "system_fingerprint": said,
                "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": null}]});
            request.stream().event(&named.to_string()).finish("stop")
        }),
        fault("an event that is no JSON", |request, said| {
            request.stream().event(&in_a_header(said)).end()
        }),
        fault("an event of another shape", |request, said| {
            event(request, &json!({"choices": said, "usage": said})).end()
        }),
        fault("a stream that breaks off", |request, said| {
            let bytes = format!("data: {{\"error\": \"{said}");
            request.stream().body(bytes).reset()
        }),
        fault("a stream that stalls", |request, said| {
            let bytes = format!("data: {{\"error\": \"{said}");
            request.stream().body(bytes).stall()
        }),
    ]
}

/// Everything else that is no stream.
fn answers() -> Vec<(&'static str, Fault)> {
    vec![
        fault("one document in place of a stream", |_, said| {
            Answer::json("200 OK", &json!({"object": said, "model": said}))
        }),
        fault("a page in place of a stream", |_, said| {
            Answer::plain(
                "200 OK",
                "Content-Type: text/html\r\n",
                format!("<title>{said}</title>{said}"),
            )
        }),
        fault("a redirect", |_, said| {
            let said = in_a_header(said);
            Answer::plain(
                "307 Temporary Redirect",
                &format!("Location: https://{said}@other.test/{said}?key={said}\r\n"),
                "",
            )
        }),
        fault("a redirect to nowhere", |_, said| {
            Answer::plain(
                "308 Permanent Redirect",
                &format!("Location: {}\r\n", in_a_header(said)),
                "",
            )
        }),
        fault("a type of that name", |_, said| {
            Answer::plain(
                "200 OK",
                &format!("Content-Type: text/{}\r\n", in_a_header(said)),
                "x",
            )
        }),
        fault("an encoding of that name", |_, said| {
            Answer::plain(
                "200 OK",
                &format!("Content-Encoding: {}\r\n", in_a_header(said)),
                "x",
            )
        }),
        fault("headers for whoever waits", |_, said| {
            let said = in_a_header(said);
            let names = [
                "Retry-After",
                "retry-after-ms",
                "x-ratelimit-reset-requests",
                "x-ratelimit-remaining-requests",
                "x-request-id",
                "x-should-retry",
                "www-authenticate",
                "cf-ray",
                "server",
                "set-cookie",
            ];
            let headers = names.map(|name| format!("{name}: {said}\r\n")).concat();
            Answer::plain("429 Too Many Requests", &headers, "")
        }),
        fault("a status in these words", |_, said| {
            Answer::raw(format!(
                "HTTP/1.1 400 {}\r\nContent-Length: 0\r\n\r\n",
                in_a_header(said)
            ))
        }),
        fault("no HTTP at all", |_, said| {
            Answer::raw(format!("{said}\r\n\r\n"))
        }),
        fault("a header that is none", |_, said| {
            Answer::raw(format!(
                "HTTP/1.1 200 OK\r\n{}\u{1}\r\n\r\n",
                in_a_header(said)
            ))
        }),
        fault("a chunk of that length", |_, said| {
            Answer::raw(format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{said}\r\n"
            ))
        }),
        fault("gzip that is none", |_, said| {
            Answer::plain(
                "200 OK",
                "Content-Encoding: gzip\r\nContent-Type: application/json\r\n",
                said,
            )
        }),
    ]
}

fn run(home: &Arc<Folder>, server: &Server, key: &str) -> Gptpipe {
    gptpipe()
        .at(home)
        .ask(server)
        .env("GPTPIPE_API_KEY", key)
        .env("RUST_BACKTRACE", "1")
        .env("RUST_LOG", "trace")
        .args([
            "p",
            "-b",
            "line",
            "-j",
            "1",
            "-v",
            "--on-error",
            "skip",
            "--timeout",
            "100ms",
        ])
        .args(files())
}

/// The server does this with what it is told on the first line, and repeats the second one.
fn walk(
    home: &Arc<Folder>,
    key: &str,
    answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) {
    let server = Server::start(move |request| match &*request.text {
        "repeat" => request.echo(),
        _ => answer(request),
    });
    // As lines of JSON, which tell the fault on standard output too. A server before may have had this one's port, and
    // what it answered is remembered.
    let outcome = run(home, &server, key)
        .args(["--retries", "0", "--format", "jsonl", "--refresh"])
        .input("fail\nrepeat\n")
        .run();
    clean(&outcome);
    outcome.must(!outcome.stderr.is_empty(), "something was said of it");
    let sent = server.requests();
    let expected = format!("Bearer {key}");
    assert!(
        !sent.is_empty()
            && sent
                .iter()
                .all(|request| request.header("authorization") == Some(&expected))
    );
}

/// Every status with a body that says the key back in all its fields.
#[test]
fn no_status_brings_a_key_to_light() {
    let home = Folder::home();
    for (at, status) in STATUSES.into_iter().enumerate() {
        let says = SAYS[at % SAYS.len()];
        walk(&home, KEYS[at % KEYS.len()], move |request| {
            let said = says(&key(request));
            let headers = format!(
                "Content-Type: application/json\r\nx-request-id: {}\r\n",
                in_a_header(&said)
            );
            Answer::plain(
                &format!("{status} {}", in_a_header(&said)),
                &headers,
                &bodies(&said)[0].1,
            )
        });
    }
    home_is_clean(&home);
}

/// Every body with every spelling, for every kind of key.
#[test]
fn no_body_brings_a_key_to_light() {
    for of_user in KEYS {
        for says in SAYS {
            // The more was recorded, the longer a run takes.
            let home = Folder::home();
            for at in 0..bodies("").len() {
                // What is wrong with the request, with the key, for now.
                let status = [
                    "400 Bad Request",
                    "401 Unauthorized",
                    "503 Service Unavailable",
                ][at % 3];
                walk(&home, of_user, move |request| {
                    let (kind, body) = bodies(&says(&key(request))).swap_remove(at);
                    Answer::plain(status, &format!("Content-Type: {kind}\r\n"), body)
                });
            }
            home_is_clean(&home);
        }
    }
}

/// Everything else that a server can do, with every spelling.
#[test]
fn no_broken_stream_brings_a_key_to_light() {
    let home = Folder::home();
    for (at, says) in SAYS.into_iter().enumerate() {
        for (name, fault) in streams().into_iter().chain(answers()) {
            let of_user = KEYS[(at + name.len()) % KEYS.len()];
            walk(&home, of_user, move |request| {
                fault(request, &says(&key(request)))
            });
        }
    }
    home_is_clean(&home);
}
