//! Replies that break off, are cut short, fall silent or say that something went wrong.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::matrix::{Fault, Row, endure};
use crate::server::{Answer, Request};

const EVENTS: &str = "Content-Type: text/event-stream\r\n";

/// Many requests at a time, and one retry for each: that is all that a fault may cost.
const MANY: &[&str] = &["-j", "64", "--retries", "1"];

/// The events of the chunk, said again, as one text.
fn events(request: &Request) -> String {
    let delta = json!({"choices": [{"index": 0, "delta": {"content": request.text}}]});
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    format!("data: {delta}\n\ndata: {end}\n\ndata: [DONE]\n\n")
}

/// The same, in a body whose length is told.
fn sized(request: &Request) -> Answer {
    Answer::plain("200 OK", EVENTS, events(request))
}

/// The same, in a body that ends with the connection.
fn unsized_body(request: &Request) -> Answer {
    Answer::raw(format!(
        "HTTP/1.1 200 OK\r\n{EVENTS}\r\n{}",
        events(request)
    ))
}

/// The same, compressed.
fn gzipped(request: &Request) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(events(request).as_bytes()).unwrap();
    gzip.finish().unwrap()
}

/// Bytes up to the beginning and the end of what proves the reply whole.
fn proof(bytes: &[u8]) -> (usize, usize) {
    let mark = br#""finish_reason":"stop""#;
    let at = bytes.windows(mark.len()).position(|window| window == mark);
    let at = at.unwrap();
    let length = bytes[at..].windows(2).position(|window| window == b"\n\n");
    (at, at + length.unwrap() + 2)
}

/// Cuts an answer at every tenth byte, in turn, before it is whole.
fn before_whole(answer: Answer, number: usize) -> Answer {
    let bytes = answer.bytes();
    let places = proof(&bytes).0 / 10 + 1;
    Answer::raw(bytes).cut(number % places * 10)
}

/// Cuts an answer at every third byte, in turn, once it is whole.
fn after_whole(answer: Answer, number: usize) -> Answer {
    let bytes = answer.bytes();
    let whole = proof(&bytes).1;
    let places = (bytes.len() - whole).div_ceil(3);
    Answer::raw(bytes).cut(whole + number % places * 3)
}

#[test]
fn replies_that_break_off() {
    let half = |request: &Request| request.stream().delta(&request.text[..9]);
    let piece = "data: {\"choices\": [{\"index\": 0, \"del";
    endure(vec![
        Fault::new("reset before the headers", |_, _| Answer::nothing().reset()).alone(MANY),
        Fault::new("reset after the headers", |request, _| {
            request.stream().reset()
        })
        .alone(MANY),
        Fault::new("reset between events", move |request, _| {
            half(request).reset()
        })
        .alone(MANY),
        Fault::new("reset in an event", move |request, _| {
            half(request).body(piece).reset()
        })
        .alone(MANY),
        Fault::new("close before the headers", |_, _| Answer::nothing().close()).alone(MANY),
        Fault::new("close after the headers", |request, _| {
            request.stream().close()
        })
        .alone(MANY),
        Fault::new("close between events", move |request, _| {
            half(request).close()
        })
        .alone(MANY),
        Fault::new("close in an event", move |request, _| {
            half(request).body(piece).close()
        })
        .alone(MANY),
        Fault::new("proper end between events", move |request, _| {
            half(request).end()
        })
        .alone(MANY),
        Fault::new("proper end in an event", move |request, _| {
            half(request).body(piece).end()
        })
        .alone(MANY),
    ]);
}

#[test]
fn replies_cut_at_every_tenth_byte() {
    endure(vec![
        Fault::new("reset at every tenth byte", |request, number| {
            before_whole(request.echo(), number).reset()
        })
        .alone(MANY),
        Fault::new("close at every tenth byte of chunks", |request, number| {
            before_whole(request.echo(), number).close()
        })
        .alone(MANY),
        Fault::new(
            "close at every tenth byte of a length",
            |request, number| before_whole(sized(request), number).close(),
        )
        .alone(MANY),
        Fault::new(
            "close at every tenth byte of no length",
            |request, number| before_whole(unsized_body(request), number).close(),
        )
        .alone(MANY),
        // A reset may destroy what was sent before it, so whether the reply was whole is not known.
        Fault::new("close once it is whole, in chunks", |request, number| {
            after_whole(request.echo(), number).close()
        })
        .harmless()
        .alone(MANY),
        Fault::new("close once it is whole, of a length", |request, number| {
            after_whole(sized(request), number).close()
        })
        .harmless()
        .alone(MANY),
        Fault::new("close once it is whole, of no length", |request, number| {
            after_whole(unsized_body(request), number).close()
        })
        .harmless()
        .alone(MANY),
    ]);
}

#[test]
fn replies_without_an_end_or_with_an_error() {
    let half = |request: &Request| request.stream().delta(&request.text[..9]);
    let error = |error| json!({ "error": error }).to_string();
    let litellm = error(json!({"message": "litellm.APIConnectionError: died", "code": "500"}));
    let number = error(json!({"message": "Loading model", "code": 503}));
    let document = litellm.clone();
    let words = error(json!("upstream died"));
    let failed =
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}).to_string();
    endure(vec![
        Fault::new("[DONE] without a reason", move |request, _| {
            half(request).event("[DONE]").end()
        })
        .alone(MANY),
        Fault::new("[DONE] and a connection that ends", move |request, _| {
            half(request).event("[DONE]").close()
        })
        .alone(MANY),
        Row::new(
            [
                Fault::new("nothing in chunks", |request, _| request.stream().end()),
                Fault::new("nothing of a length", |_, _| {
                    Answer::plain("200 OK", EVENTS, "")
                }),
                Fault::new("nothing and no type", |_, _| {
                    Answer::plain("200 OK", "", "")
                }),
                Fault::new("comments alone", |request, _| {
                    request.stream().body(": ping\n\n: ping\n\n").end()
                }),
                Fault::new("[DONE] alone", |request, _| {
                    request.stream().event("[DONE]").end()
                }),
            ],
            MANY,
        ),
        Row::new(
            [
                Fault::new("LiteLLM's error in the stream", move |request, _| {
                    half(request).event(&litellm).end()
                }),
                Fault::new("an error in place of the stream", move |_, _| {
                    Answer::plain("200 OK", "Content-Type: application/json\r\n", &document)
                }),
                Fault::new("an error as the first event", move |request, _| {
                    request.stream().event(&number).end()
                }),
                Fault::new("an error in one word", move |request, _| {
                    half(request).event(&words).close()
                }),
                Fault::new("an error by the event's name", move |request, _| {
                    half(request).body("event: error\ndata: oops\n\n").end()
                }),
                Fault::new("an error as the reason of the end", move |request, _| {
                    half(request).event(&failed).event("[DONE]").end()
                }),
            ],
            MANY,
        ),
        Row::new(
            [
                Fault::new("half an object in an event", move |request, _| {
                    half(request).event("{\"choices\": [{\"del").finish("stop")
                }),
                Fault::new("words in an event", move |request, _| {
                    half(request).event("Bad Gateway").finish("stop")
                }),
                Fault::new("the wrong type in an event", move |request, _| {
                    half(request).event("{\"choices\": 7}").finish("stop")
                }),
                Fault::new("half a document", |_, _| {
                    let body = "{\"choices\": [{\"message\": {\"content\": \"x";
                    Answer::plain("200 OK", "Content-Type: application/json\r\n", body)
                }),
            ],
            MANY,
        ),
    ]);
}

#[test]
fn the_responses_api() {
    let half = |request: &Request| request.stream().delta(&request.text[..9]);
    let failed = json!({"type": "response.failed", "response": {
        "id": "r", "status": "failed", "output": [],
        "error": {"code": "server_error", "message": "died"},
    }})
    .to_string();
    let error = json!({"type": "error", "code": "server_error", "message": "died"}).to_string();
    endure(vec![Row::new(
        [
            Fault::new("Responses, a reset", move |request, _| {
                half(request).reset()
            }),
            Fault::new("Responses, a proper end", move |request, _| {
                half(request).end()
            }),
            Fault::new("Responses, nothing", |request, _| request.stream().end()),
            Fault::new("Responses, a failure", move |request, _| {
                half(request).event(&failed).end()
            }),
            Fault::new("Responses, an error", move |request, _| {
                half(request).event(&error).end()
            }),
        ],
        &["-j", "64", "--api", "responses"],
    )]);
}

/// The status of an error tells enough, should its body not come.
#[test]
fn errors_that_break_off() {
    let page = |request: &Request| {
        let page = format!("<html><title>Sorry</title>{}", request.text);
        Answer::plain("502 Bad Gateway", "Content-Type: text/html\r\n", page)
    };
    let short = move |request: &Request| {
        let whole = page(request).bytes();
        let length = whole.len() - 9;
        Answer::raw(whole).cut(length)
    };
    endure(vec![
        Row::new(
            [
                Fault::new("an error's page and a reset", move |request, _| {
                    short(request).reset()
                }),
                Fault::new("an error's page and a close", move |request, _| {
                    short(request).close()
                }),
                Fault::new("an error's headers and nothing more", |_, _| {
                    Answer::raw("HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\n")
                }),
                Fault::new("a proxy's error of HTTP/1.0", |_, _| {
                    Answer::raw("HTTP/1.0 504 Gateway Time-out\r\n\r\n<html>Sorry</html>")
                }),
            ],
            MANY,
        ),
        Fault::new("an error's page and silence", move |request, _| {
            short(request).stall()
        })
        .wait(Duration::from_millis(500))
        .alone(&["-j", "500", "--timeout", "500ms", "--retries", "1"]),
    ]);
}

/// What else may stand around a reply.
#[test]
fn replies_in_unusual_forms() {
    endure(vec![Row::new(
        [
            Fault::new("an interim response", |request, _| {
                let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n";
                Answer::raw([hints, &request.echo().bytes()[..]].concat())
            }),
            Fault::new("a reply of HTTP/1.0", |request, _| {
                Answer::raw(format!(
                    "HTTP/1.0 200 OK\r\n{EVENTS}\r\n{}",
                    events(request)
                ))
            }),
            Fault::new("a body that goes on after the end", |request, _| {
                let body = events(request) + "data: {\"error\": \"late\"}\n\n";
                Answer::plain("200 OK", EVENTS, body)
            }),
            Fault::new("a body that never ends after the end", |request, _| {
                let events = events(request);
                request.stream().body(events).stall()
            }),
            Fault::new("a reply byte by byte", |request, _| {
                let events = events(request);
                events
                    .bytes()
                    .fold(request.stream(), |answer, byte| answer.body([byte]))
                    .end()
            }),
        ]
        .map(Fault::harmless),
        MANY,
    )]);
}

#[test]
fn compressed_replies() {
    let headers = "Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\n";
    endure(vec![
        Fault::new("compressed and whole", move |request, _| {
            Answer::plain("200 OK", headers, gzipped(request))
        })
        .harmless()
        .alone(MANY),
        Row::new(
            [
                Fault::new(
                    "compressed and cut, of the right length",
                    move |request, number| {
                        let bytes = gzipped(request);
                        let length = bytes.len() / 2 * (number % 10) / 10;
                        Answer::plain("200 OK", headers, &bytes[..length])
                    },
                ),
                Fault::new(
                    "compressed and cut, of the whole's length",
                    move |request, _| {
                        let answer = Answer::plain("200 OK", headers, gzipped(request)).bytes();
                        let length = answer.len() - gzipped(request).len() / 2;
                        Answer::raw(answer).cut(length).close()
                    },
                ),
                Fault::new("compressed and reset", move |request, _| {
                    let answer = Answer::plain("200 OK", headers, gzipped(request)).bytes();
                    let length = answer.len() - gzipped(request).len() / 2;
                    Answer::raw(answer).cut(length).reset()
                }),
                Fault::new("not compressed at all", move |request, _| {
                    Answer::plain("200 OK", headers, events(request))
                }),
            ],
            MANY,
        ),
    ]);
}

#[test]
fn silence() {
    // All of them at a time, so that all fall silent together.
    let args = &["-j", "500", "--timeout", "500ms"];
    let half = |request: &Request| request.stream().delta(&request.text[..9]);
    endure(vec![
        Fault::new("silence before the headers", |_, _| {
            Answer::nothing().stall()
        })
        // Five times as long as later on, but from when it was sent: with five hundred at once on a
        // busy machine that is more than a second before it came.
        .wait(Duration::from_millis(600))
        .alone(args),
        Row::new(
            [
                Fault::new("silence after the headers", |request, _| {
                    request.stream().stall()
                }),
                Fault::new("silence between events", move |request, _| {
                    half(request).stall()
                }),
                Fault::new("silence in an event", move |request, _| {
                    half(request).body("data: {\"cho").stall()
                }),
            ]
            .map(|fault| fault.wait(Duration::from_millis(500))),
            args,
        ),
        Fault::new("a slow reply", |request, _| {
            let mut answer = request.stream();
            for piece in request.text.split_inclusive(' ') {
                answer = answer.delta(piece).pause(Duration::from_millis(600));
            }
            answer.finish("stop")
        })
        .harmless()
        .alone(&["-j", "500", "--timeout", "3s"]),
        Fault::new("a reply that is long in coming", |request, _| {
            request.echo().after(Duration::from_secs(4))
        })
        .harmless()
        .alone(&["-j", "500", "--timeout", "3s"]),
    ]);
}
