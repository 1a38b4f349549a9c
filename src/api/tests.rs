//! Laws over what real servers sent (`tests/data/captures`): streams and plain bodies → replies and failures.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::executor::block_on;
use futures::stream;
use proptest::prelude::*;

use super::event::{Api, Decoder, End, Step};
use super::failure::{Failure, Kind, Verdict, Wait};
use super::fault::{from_event, from_response};
use super::plain::{Body, decode_plain};
use super::reply::{Finish, Reply, Usage};
use super::sse::{self, Broken, Lines};

mod fuzz;
mod vendors;
mod wires;

type Outcome = Result<Reply, Failure>;

/// Runs a body through guard, parser and decoder as the client does, cut as given.
fn decode(api: Api, end: End, pieces: &[&[u8]], cut: Option<&Failure>) -> Outcome {
    let pieces: Vec<Result<Bytes, &str>> = pieces
        .iter()
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    let mut events = Box::pin(sse::events(stream::iter(pieces)));
    let mut decoder = Decoder::new(api, end);
    let mut shown = String::new();
    let is_over = block_on(async {
        while let Some(event) = events.next().await {
            let event = event.unwrap();
            match decoder.event(&event.event, &event.data)? {
                Step::Delta(text) => shown.push_str(text),
                Step::Alive => {}
                Step::End => return Ok(true),
            }
        }
        Ok(false)
    })?;
    let outcome = match cut.filter(|_| !is_over) {
        Some(failure) => decoder.cut(failure.clone()),
        None => decoder.finish(),
    };
    let text = match &outcome {
        Ok(reply) => &reply.text,
        Err(failure) => failure
            .partial
            .as_ref()
            .map_or(&shown, |partial| &partial.text),
    };
    assert_eq!(
        text.trim_end_matches('\u{fffd}'),
        shown.trim_end_matches('\u{fffd}')
    );
    outcome
}

fn chat(body: &str) -> Outcome {
    decode(Api::Chat, End::FinishReason, &[body.as_bytes()], None)
}

fn responses(body: &str) -> Outcome {
    decode(Api::Responses, End::FinishReason, &[body.as_bytes()], None)
}

/// A chat stream of these events, without `[DONE]`.
fn stream_of(events: &[&str]) -> String {
    let lines = events.iter().map(|event| format!("data: {event}\n\n"));
    lines.collect::<Vec<_>>().concat()
}

struct Capture {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
    /// What `curl` said about the end.
    cut: Option<Failure>,
}

impl Capture {
    fn read(path: &PathBuf) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let (body, curl) = body.split_once("curl: (").unwrap_or((body, ""));
        let cut = match curl.split(')').next().unwrap() {
            "" => None,
            "18" => Some(Failure::new(Kind::Cut, "")),
            "28" => Some(Failure::new(Kind::Timeout(Wait::Idle), "")),
            code => panic!("curl {code}"),
        };
        // Long captures were shortened in the middle: the two halves of events around the gap go too.
        let body = match body.split_once("[... ") {
            Some((before, after)) => {
                let before = &before[..before.rfind("\n\n").unwrap() + 2];
                format!("{before}{}", &after[after.find("\n\n").unwrap() + 2..])
            }
            None => body.to_owned(),
        };
        Self {
            status,
            headers,
            body: body.into_bytes(),
            cut,
        }
    }

    fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).cloned()
    }

    fn outcome(&self, pieces: &[&[u8]]) -> Outcome {
        if self.status != 200 {
            return Err(from_response(
                self.status,
                &|name| self.header(name),
                &self.body,
            ));
        }
        match Body::of(self.header("content-type").as_deref()) {
            Body::Plain => decode_plain(Api::Chat, &self.body),
            Body::Events => decode(Api::Chat, End::FinishReason, pieces, self.cut.as_ref()),
        }
    }
}

fn captures() -> Vec<(String, Capture)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures");
    let paths = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let paths = paths.filter(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("litellm-") || name.starts_with("llama-")
    });
    let mut all: Vec<_> = paths
        .map(|path| {
            (
                path.file_stem().unwrap().to_str().unwrap().to_owned(),
                Capture::read(&path),
            )
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// What became of a capture: its kind or `Whole`, and the text or its beginning.
const OUTCOMES: &[(&str, Option<Kind>, &str)] = &[
    ("litellm-1.106.2-err-401", Some(Kind::Auth), ""),
    ("litellm-1.106.2-err-429", Some(Kind::RateLimit), ""),
    ("litellm-1.106.2-err-500", Some(Kind::Server), ""),
    ("litellm-1.106.2-err-badjson", Some(Kind::BadRequest), ""),
    ("litellm-1.106.2-err-ctx", Some(Kind::ContextLength), ""),
    ("litellm-1.106.2-err-filter", Some(Kind::Filtered), ""),
    ("litellm-1.106.2-err-rpm", Some(Kind::RateLimit), ""),
    ("litellm-1.106.2-err-streamerr", Some(Kind::Overloaded), ""),
    (
        "litellm-1.106.2-err-streamerr-stream-false",
        Some(Kind::Overloaded),
        "",
    ),
    ("litellm-1.106.2-err-unknown-model", Some(Kind::Model), ""),
    (
        "litellm-1.106.2-plain",
        None,
        "Hello from LiteLLM: grüße, 日本語 and 🚀 in one reply.",
    ),
    (
        "litellm-1.106.2-stream",
        None,
        "Hello from LiteLLM: grüße, 日本語 and 🚀 in one reply.",
    ),
    (
        "litellm-1.106.2-upstream-ctx",
        Some(Kind::ContextLength),
        "",
    ),
    (
        "litellm-1.106.2-upstream-killed-midstream",
        Some(Kind::EventError),
        " 4 of the Document",
    ),
    (
        "litellm-1.106.2-upstream-stalled-midstream",
        Some(Kind::Timeout(Wait::Idle)),
        "",
    ),
    (
        "litellm-1.106.2-upstream-stream",
        Some(Kind::Length),
        " You may distribute",
    ),
    (
        "llama-cpp-python-0.3.36-err-badjson",
        Some(Kind::Server),
        "",
    ),
    (
        "llama-cpp-python-0.3.36-err-ctx-plain",
        Some(Kind::ContextLength),
        "",
    ),
    (
        "llama-cpp-python-0.3.36-err-ctx-stream",
        Some(Kind::Empty),
        "",
    ),
    (
        "llama-cpp-python-0.3.36-interrupted-by-next-request",
        Some(Kind::Cut),
        " 5 is not allowed,",
    ),
    (
        "llama-cpp-python-0.3.36-plain",
        Some(Kind::Length),
        " The particular.",
    ),
    (
        "llama-cpp-python-0.3.36-stream",
        Some(Kind::Length),
        " \"History in",
    ),
    (
        "llama-server-0.5.0-dev-ctx-filled-midstream",
        Some(Kind::Length),
        " (",
    ),
    ("llama-server-0.5.0-dev-err-401", Some(Kind::Auth), ""),
    ("llama-server-0.5.0-dev-err-404", Some(Kind::NotFound), ""),
    (
        "llama-server-0.5.0-dev-err-503-loading",
        Some(Kind::Overloaded),
        "",
    ),
    (
        "llama-server-0.5.0-dev-err-badjson",
        Some(Kind::BadRequest),
        "",
    ),
    (
        "llama-server-0.5.0-dev-err-ctx-stream",
        Some(Kind::ContextLength),
        "",
    ),
    (
        "llama-server-0.5.0-dev-n2",
        Some(Kind::Length),
        " \u{fffd} by",
    ),
    (
        "llama-server-0.5.0-dev-plain",
        Some(Kind::Length),
        " The relationship for",
    ),
    (
        "llama-server-0.5.0-dev-sigKILL-midstream",
        Some(Kind::Cut),
        " \u{fffd} to share to the terms",
    ),
    (
        "llama-server-0.5.0-dev-sigTERM-midstream",
        Some(Kind::Timeout(Wait::Idle)),
        " a \"AS of the work",
    ),
    (
        "llama-server-0.5.0-dev-stream-usage",
        Some(Kind::Length),
        " 1, a",
    ),
];

#[test]
fn every_capture_comes_to_its_outcome() {
    let all = captures();
    let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, OUTCOMES.iter().map(|row| row.0).collect::<Vec<_>>());
    for ((name, capture), (_, kind, text)) in all.iter().zip(OUTCOMES) {
        let outcome = capture.outcome(&[&capture.body]);
        assert_eq!(
            outcome.as_ref().err().map(|failure| failure.kind),
            *kind,
            "{name}: {outcome:?}"
        );
        match outcome {
            Ok(reply) => assert_eq!(reply.text, *text, "{name}"),
            Err(failure) => {
                let partial = failure
                    .partial
                    .map(|partial| partial.text)
                    .unwrap_or_default();
                assert!(partial.starts_with(text), "{name}: {partial}");
            }
        }
    }
}

#[test]
fn captures_tell_what_else_they_know() {
    let all: HashMap<_, _> = captures().into_iter().collect();
    let get = |name: &str| all[name].outcome(&[&all[name].body]);

    let reply = get("litellm-1.106.2-stream").unwrap();
    assert_eq!(
        reply.usage,
        Some(Usage {
            prompt_tokens: 8,
            completion_tokens: 22,
            cached_tokens: 0
        })
    );
    assert_eq!(reply.model.as_deref(), Some("mock-ok"));
    assert_eq!(reply.finish, Finish::Stop);
    assert!(reply.id.unwrap().starts_with("chatcmpl-603ce599"));

    let partial = get("llama-server-0.5.0-dev-stream-usage")
        .unwrap_err()
        .partial
        .unwrap();
    assert_eq!(
        partial.usage,
        Some(Usage {
            prompt_tokens: 7,
            completion_tokens: 3,
            cached_tokens: 6
        })
    );
    assert_eq!(partial.finish, Finish::Length);
    assert_eq!(
        get("llama-cpp-python-0.3.36-stream")
            .unwrap_err()
            .partial
            .unwrap()
            .usage,
        None
    );

    let failure = get("litellm-1.106.2-err-rpm").unwrap_err();
    assert_eq!(failure.retry_after, Some(Duration::from_mins(1)));
    assert_eq!(
        failure.request_id.as_deref(),
        Some("23c98718-c653-42e7-9e98-e76db8f4b82a")
    );
    assert_eq!(failure.code.as_deref(), Some("throttling_error"));

    let failure = get("litellm-1.106.2-upstream-killed-midstream").unwrap_err();
    assert_eq!(
        (failure.status, failure.verdict()),
        (Some(500), Verdict::Transient)
    );
    assert!(
        failure.message.starts_with("litellm.APIConnectionError"),
        "{failure}"
    );
    let failure = get("llama-cpp-python-0.3.36-interrupted-by-next-request").unwrap_err();
    assert_eq!(
        failure.to_string(),
        "the reply was cut off: [DONE] came without a finish reason"
    );
    let failure = get("llama-server-0.5.0-dev-err-401").unwrap_err();
    assert_eq!(
        failure.to_string(),
        "the server refused the key: 401 authentication_error: Invalid API Key"
    );
    let failure = get("llama-server-0.5.0-dev-err-badjson").unwrap_err();
    assert_eq!(failure.verdict(), Verdict::Fatal);
}

/// The same events, written otherwise.
fn rewritten(body: &str, line_end: &str, bom: bool) -> String {
    let mut lines = Vec::new();
    for (number, line) in body.lines().enumerate() {
        match number % 5 {
            1 => lines.extend([": ping - 2026-11-23".to_owned(), "retry: 3000".to_owned()]),
            3 => lines.push(format!("id: {number}")),
            _ => {}
        }
        // Between two tokens of JSON a line may be broken.
        match line.split_once("\"choices\":") {
            Some((before, after)) if number % 4 == 0 => lines.extend([
                "event: message".to_owned(),
                before.to_owned(),
                "data:\"choices\":".to_owned(),
                format!("data: {after}"),
            ]),
            _ => lines.push(line.to_owned()),
        }
    }
    let mut out = String::from(if bom { "\u{feff}" } else { "" });
    for line in lines {
        out.push_str(&line);
        out.push_str(line_end);
    }
    out
}

#[test]
fn how_bytes_are_cut_and_written_does_not_matter() {
    for (name, capture) in captures() {
        if capture.status != 200
            || Body::of(capture.header("content-type").as_deref()) != Body::Events
        {
            continue;
        }
        let expected = capture.outcome(&[&capture.body]);
        let text = String::from_utf8(capture.body.clone()).unwrap();
        for line_end in ["\n", "\r\n", "\r"] {
            for bom in [false, true] {
                let body = rewritten(&text, line_end, bom).into_bytes();
                let single: Vec<&[u8]> = body.chunks(1).collect();
                assert_eq!(
                    capture.outcome(&[&body]),
                    expected,
                    "{name} {line_end:?} {bom}"
                );
                assert_eq!(
                    capture.outcome(&single),
                    expected,
                    "{name} {line_end:?} {bom} bytes"
                );
            }
        }
        // The decoder sees nothing but lines, so equal lines are enough at every single place.
        let body = rewritten(&text, "\r\n", true).into_bytes();
        let whole = lines(&[&body]);
        for cut in 0..body.len() {
            assert_eq!(
                lines(&[&body[..cut], &body[cut..]]),
                whole,
                "{name} cut at {cut}"
            );
        }
        for cut in (0..capture.body.len()).step_by(61) {
            let (left, right) = capture.body.split_at(cut);
            assert_eq!(
                capture.outcome(&[left, right]),
                expected,
                "{name} cut at {cut}"
            );
        }
    }
}

fn lines(pieces: &[&[u8]]) -> String {
    let mut lines = Lines::new(sse::MAX_EVENT);
    let mut out = String::new();
    for piece in pieces {
        lines.push(piece).unwrap();
        while let Some(piece) = lines.take() {
            out.push_str(&piece);
        }
    }
    lines.finish().unwrap();
    while let Some(piece) = lines.take() {
        out.push_str(&piece);
    }
    out
}

proptest! {
    #[test]
    fn any_bytes_cut_anywhere_give_the_same_lines_and_no_panic(
        body in proptest::collection::vec(prop_oneof![
            Just(b"data: x".to_vec()), Just(b"\n".to_vec()), Just(b"\r".to_vec()), Just(b"\xEF\xBB\xBF".to_vec()),
            Just(b"event".to_vec()), Just(b":".to_vec()), proptest::collection::vec(any::<u8>(), 0..6),
        ], 0..40),
        cuts in proptest::collection::vec(0..400_usize, 0..8),
    ) {
        let body = body.concat();
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
        cuts.extend([0, body.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect();
        prop_assert_eq!(lines(&pieces), lines(&[&body]));
        let _ = decode(Api::Chat, End::Done, &pieces, None);
        let _ = decode(Api::Responses, End::FinishReason, &pieces, None);
    }

    #[test]
    fn events_alike_and_not_alike_give_all_their_text(pieces in prop::collection::vec((any::<String>(), "[a\"]{0,2}", 0..4_u8), 0..20)) {
        let events: Vec<String> = pieces.iter().map(|(text, id, kind)| {
            let mut choice = serde_json::json!({"index": 0, "delta": {"content": text}, "finish_reason": null});
            if *kind == 0 {
                choice["delta"]["tool_calls"] = serde_json::json!([]);
            }
            serde_json::json!({"id": id, "choices": [choice], "usage": null}).to_string()
        }).collect();
        let mut events: Vec<&str> = events.iter().map(String::as_str).collect();
        events.push(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#);
        let text: String = pieces.iter().map(|(text, ..)| text.as_str()).collect();
        prop_assert_eq!(chat(&stream_of(&events)).unwrap().text, text);
    }

    #[test]
    fn text_cut_by_utf16_units_is_joined(text in any::<String>(), size in 1..4_usize) {
        let units: Vec<u16> = text.encode_utf16().collect();
        let events: Vec<String> = units.chunks(size).map(|piece| {
            let escaped = piece.iter().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>().concat();
            format!(r#"{{"choices":[{{"delta":{{"content":"{escaped}"}}}}]}}"#)
        }).collect();
        let mut events: Vec<&str> = events.iter().map(String::as_str).collect();
        events.push(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#);
        prop_assert_eq!(chat(&stream_of(&events)).unwrap().text, text);
    }

    #[test]
    fn no_error_body_panics(status in 100..600_u16, body in any::<Vec<u8>>(), text in ".{0,200}") {
        let _ = from_response(status, &|_| Some(text.clone()), &body).to_string();
        let _ = from_response(status, &|_| None, text.as_bytes()).to_string();
        let _ = from_event(&text).to_string();
        let _ = decode_plain(Api::Responses, text.as_bytes());
    }
}

#[test]
fn a_long_event_costs_what_its_bytes_cost() {
    // The parser's work: for each piece, each line copies what is left of the piece.
    let work = |body: &[u8]| {
        let mut lines = Lines::new(sse::MAX_EVENT);
        let mut work = 0;
        for read in body.chunks(16 << 10) {
            lines.push(read).unwrap();
            while let Some(piece) = lines.take() {
                let mut left = piece.len();
                for line in piece.split_inclusive('\n') {
                    assert!(piece.ends_with('\n'));
                    work += left;
                    left -= line.len();
                }
            }
        }
        work
    };
    let long = |size: usize| format!("data: {}\n\n", "x".repeat(size)).into_bytes();
    let many = |count: usize| "data: {\"choices\":[]}\n\n".repeat(count).into_bytes();
    for size in [1 << 20, 4 << 20, 15 << 20] {
        assert!(work(&long(size)) < 2 * size);
    }
    for count in [1_000, 16_000, 64_000] {
        let body = many(count);
        assert!(work(&body) < 1_000 * body.len());
    }
    let text = "é\\n".repeat(300_000);
    let body = stream_of(&[&format!(
        r#"{{"choices":[{{"delta":{{"content":"{text}"}},"finish_reason":"stop"}}]}}"#
    )]);
    let pieces: Vec<&[u8]> = body.as_bytes().chunks(1500).collect();
    let reply = decode(Api::Chat, End::FinishReason, &pieces, None).unwrap();
    assert_eq!(reply.text, "é\n".repeat(300_000));
}

#[test]
fn an_event_without_end_is_an_error() {
    let read = || Ok::<_, &str>(Bytes::from(vec![b'x'; 1 << 20]));
    let first = stream::iter([Ok(Bytes::from_static(b"data: first\n\ndata: "))]);
    let body = first.chain(stream::iter((0..100).map(move |_| read())));
    let pieces: Vec<_> = block_on(sse::guard(body).collect());
    assert_eq!(
        pieces,
        [Ok("data: first\n\n".to_owned()), Err(Broken::TooLong)]
    );
    // The same for many lines.
    let mut lines = Lines::new(100);
    assert!((0..9).all(|_| lines.push(b"data: 789\n").is_ok()));
    assert!((0..2).any(|_| lines.push(b"data: 789\n").is_err()));
}

#[test]
fn what_came_before_a_failing_connection_is_handed_on() {
    let body = stream::iter([
        Ok(Bytes::from_static(b"data: 1\n\ndata: 2")),
        Err("reset"),
        Ok(Bytes::from_static(b"x")),
    ]);
    let pieces: Vec<_> = block_on(sse::guard(body).collect());
    assert_eq!(
        pieces,
        [
            Ok("data: 1\n\n".to_owned()),
            Err(Broken::Transport("reset"))
        ]
    );
}

#[test]
fn two_marks_and_invalid_bytes_are_survived() {
    let stop = r#"data: {"choices":[{"delta":{"content":"a"#.as_bytes();
    let body = [
        b"\xEF\xBB\xBF\xEF\xBB\xBFdata: x\n\n",
        stop,
        b"\xFFb\"},\"finish_reason\":\"stop\"}]}",
    ]
    .concat();
    let reply = decode(Api::Chat, End::FinishReason, &[&body], None).unwrap();
    assert_eq!(reply.text, "a\u{fffd}b");
}

fn delta(content: &str) -> String {
    format!(r#"{{"choices":[{{"index":0,"delta":{{"content":{content}}}}}]}}"#)
}

fn reason(word: &str) -> String {
    format!(r#"{{"choices":[{{"index":0,"delta":{{}},"finish_reason":"{word}"}}]}}"#)
}

#[test]
fn content_has_many_forms() {
    let contents = [
        r#""a""#,
        "null",
        r#""""#,
        r#"[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]}]"#,
        r#"[{"type":"text","text":"b"},{"type":"reference","reference_ids":[1]},{"type":"text","text":"\u00fc"}]"#,
        "[]",
    ];
    let mut events: Vec<String> = contents.iter().map(|content| delta(content)).collect();
    events.extend([
        r#"{"choices":[]}"#.to_owned(),
        r#"{"choices":null}"#.to_owned(),
        r#"{"id":7,"model":null,"choices":[{"delta":{"role":"assistant","reasoning_content":"x","tool_calls":[]}}]}"#.to_owned(),
        r#"{"choices":[{"index":1,"delta":{"content":"no"},"finish_reason":"length"}]}"#.to_owned(),
        r#"{"choices":[{"delta":{"reasoning":"x","tool_calls":null},"finish_reason":"","error":null}],"error":{}}"#.to_owned(),
        reason("stop"),
        r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"prompt_cache_hit_tokens":4}}"#.to_owned(),
        r#"{"choices":[],"usage":{"prompt_tokens":"five"}}"#.to_owned(),
        "[DONE]".to_owned(),
        "{{{ nonsense after the end".to_owned(),
    ]);
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    let reply = chat(&stream_of(&events)).unwrap();
    assert_eq!(reply.text, "abü");
    assert_eq!(reply.id.as_deref(), Some("7"));
    assert_eq!(
        reply.usage,
        Some(Usage {
            prompt_tokens: 5,
            completion_tokens: 2,
            cached_tokens: 4
        })
    );
}

#[test]
fn lone_surrogates_are_joined_or_replaced() {
    let cases: &[(&[&str], &str)] = &[
        (&[r"x\ud83d", r"\udc67y"], "x👧y"),
        (&[r"\ud83d", "", r"\udc67"], "👧"),
        (&[r"\ud83d", "z"], "\u{fffd}z"),
        (&[r"\udc67"], "\u{fffd}"),
        (&[r"a\ud83d"], "a\u{fffd}"),
        (&[r"\ud83d\ud83d", r"\udc67\udc67"], "\u{fffd}👧\u{fffd}"),
        (&[r"\ud83dA\udc67"], "\u{fffd}A\u{fffd}"),
        (&[r"\uD83D\uDC67", r"\\ud83d"], "👧\\ud83d"),
    ];
    for (pieces, expected) in cases {
        let mut events: Vec<String> = pieces
            .iter()
            .map(|piece| delta(&format!("\"{piece}\"")))
            .collect();
        events.push(reason("stop"));
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        assert_eq!(chat(&stream_of(&events)).unwrap().text, *expected);
    }
}

#[test]
fn only_a_reason_makes_a_reply_whole() {
    let with = |last: &str| chat(&stream_of(&[&delta(r#""a""#), last]));
    for word in ["stop", "STOP", "end_turn", "eos", "stop_sequence"] {
        assert_eq!(with(&reason(word)).unwrap().text, "a");
    }
    for (word, kind) in [
        ("length", Kind::Length),
        ("MAX_TOKENS", Kind::Length),
        ("model_length", Kind::Length),
        ("content_filter", Kind::Filtered),
        ("SAFETY", Kind::Filtered),
        ("tool_calls", Kind::ToolCalls),
        ("function_call", Kind::ToolCalls),
        ("refusal", Kind::Refused),
        ("error", Kind::EventError),
        ("abort", Kind::EventError),
        ("insufficient_system_resource", Kind::Overloaded),
        ("something_new", Kind::UnknownFinish),
    ] {
        let failure = with(&reason(word)).unwrap_err();
        assert_eq!(failure.kind, kind, "{word}");
        assert_eq!(failure.partial.unwrap().text, "a", "{word}");
    }
    assert_eq!(with("[DONE]").unwrap_err().kind, Kind::Cut);
    let body = stream_of(&[&delta(r#""a""#), "[DONE]"]);
    let done = decode(Api::Chat, End::Done, &[body.as_bytes()], None).unwrap();
    assert_eq!((done.text.as_str(), done.finish), ("a", Finish::Done));
    let body = stream_of(&[&delta(r#""a""#)]);
    assert_eq!(
        decode(Api::Chat, End::Done, &[body.as_bytes()], None)
            .unwrap_err()
            .kind,
        Kind::Cut
    );
    for body in ["", "\n\n", ": ping\n\n"] {
        assert_eq!(chat(body).unwrap_err().kind, Kind::Empty);
    }
    // Nor does a body that ends within what follows the reason.
    for rest in ["data: [DO", "data: {\"choices\": [], \"usage\": {\"pro"] {
        let body = stream_of(&[&delta(r#""a""#), &reason("stop")]) + rest;
        assert_eq!(chat(&body).unwrap().text, "a", "{rest}");
    }
    // A connection that fails after the reason takes nothing away.
    let body = stream_of(&[&delta(r#""a""#), &reason("stop")]);
    let reset = Failure::new(Kind::Cut, "reset");
    assert_eq!(
        decode(
            Api::Chat,
            End::FinishReason,
            &[body.as_bytes()],
            Some(&reset)
        )
        .unwrap()
        .text,
        "a"
    );
    // A last event that nothing ends counts; half of one does not.
    assert_eq!(chat(body.trim_end()).unwrap().text, "a");
    assert_eq!(chat(&body[..body.len() - 9]).unwrap_err().kind, Kind::Cut);
}

#[test]
fn refusals_tools_and_errors_in_a_chat_stream() {
    let refused = chat(&stream_of(&[
        r#"{"choices":[{"delta":{"content":null,"refusal":"I can"}}]}"#,
        r#"{"choices":[{"delta":{"refusal":"not."}}]}"#,
        &reason("stop"),
    ]));
    let failure = refused.unwrap_err();
    assert_eq!(failure.to_string(), "the model refused: I cannot");
    let tool = chat(&stream_of(&[
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":""}}]}}]}"#,
        &reason("stop"),
    ]));
    assert_eq!(tool.unwrap_err().kind, Kind::ToolCalls);

    let fails = |event: &str| chat(&stream_of(&[&delta(r#""a""#), event])).unwrap_err();
    for (event, kind) in [
        (r#"{"error":{"message":"x","code":429}}"#, Kind::RateLimit),
        (
            r#"{"error":{"message":"x","type":"insufficient_quota"}}"#,
            Kind::Quota,
        ),
        (r#"{"error":"x"}"#, Kind::EventError),
        (
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
            Kind::Overloaded,
        ),
        (
            r#"{"object":"error","message":"x","type":"InternalServerError","param":null,"code":500}"#,
            Kind::EventError,
        ),
        // OpenRouter, "Handling errors during streaming", the current form and the older one.
        (
            r#"{"id":"g","error":{"code":"server_error","message":"x"},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}"#,
            Kind::EventError,
        ),
        (
            r#"{"choices":[{"delta":{},"finish_reason":"error","error":{"code":502,"message":"x"}}]}"#,
            Kind::EventError,
        ),
        ("{not json", Kind::Malformed),
        (r#"{"choices":[{"#, Kind::Cut),
    ] {
        let failure = fails(event);
        assert_eq!(failure.kind, kind, "{event}");
        assert_eq!(failure.partial.unwrap().text, "a");
    }
    let named = chat("event: error\ndata: upstream died\n\n").unwrap_err();
    assert_eq!(
        named.to_string(),
        "the server failed in the middle of the reply: upstream died"
    );
    let ping = format!(
        "event: ping\ndata: still here\n\ndata\n\n{}",
        stream_of(&[&reason("stop")])
    );
    assert!(chat(&ping).is_ok());
}

#[test]
fn the_responses_api_streams() {
    let created = r#"{"type":"response.created","response":{"id":"resp_1","model":"gpt-x","status":"in_progress"}}"#;
    let delta = |text: &str| {
        format!(
            r#"{{"type":"response.output_text.delta","item_id":"m","output_index":1,"delta":"{text}"}}"#
        )
    };
    let usage = r#""usage":{"input_tokens":9,"output_tokens":3,"input_tokens_details":{"cached_tokens":2}}"#;
    let output = r#""output":[{"type":"reasoning","summary":[]},{"type":"message","content":[{"type":"output_text","text":"ab👧"}]}]"#;
    let completed = format!(
        r#"{{"type":"response.completed","response":{{"id":"resp_1","status":"completed",{usage},{output}}}}}"#
    );
    let thinks = r#"{"type":"response.reasoning_text.delta","delta":"hm"}"#;
    let body = stream_of(&[
        created,
        thinks,
        &delta("a"),
        &delta(r"b\ud83d"),
        &delta(r"\udc67"),
        &completed,
        "{nonsense",
    ]);
    let reply = responses(&body).unwrap();
    assert_eq!(
        (
            reply.text.as_str(),
            reply.id.as_deref(),
            reply.model.as_deref()
        ),
        ("ab👧", Some("resp_1"), Some("gpt-x"))
    );
    assert_eq!(
        reply.usage,
        Some(Usage {
            prompt_tokens: 9,
            completion_tokens: 3,
            cached_tokens: 2
        })
    );
    // Only the last event, and the type only in the event's name.
    assert_eq!(responses(&stream_of(&[&completed])).unwrap().text, "ab👧");
    let unnamed = completed.replacen(r#""type":"response.completed","#, "", 1);
    assert_eq!(
        responses(&format!("event: response.completed\ndata: {unnamed}\n\n"))
            .unwrap()
            .text,
        "ab👧"
    );

    let ends = |last: &str| responses(&stream_of(&[created, &delta("a"), last])).unwrap_err();
    for (last, kind) in [
        (
            r#"{"type":"response.incomplete","response":{"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"}}}"#,
            Kind::Length,
        ),
        (
            r#"{"type":"response.incomplete","response":{"status":"incomplete","incomplete_details":{"reason":"content_filter"}}}"#,
            Kind::Filtered,
        ),
        (
            r#"{"type":"response.incomplete","response":{}}"#,
            Kind::UnknownFinish,
        ),
        (
            r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error","message":"x"}}}"#,
            Kind::EventError,
        ),
        (
            r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"rate_limit_exceeded","message":"x"}}}"#,
            Kind::RateLimit,
        ),
        (r#"{"type":"response.failed"}"#, Kind::EventError),
        (
            r#"{"type":"error","code":"insufficient_quota","message":"x","param":null,"sequence_number":2}"#,
            Kind::Quota,
        ),
        (
            r#"{"type":"error","error":{"type":"invalid_request_error","code":"context_length_exceeded","message":"x"}}"#,
            Kind::ContextLength,
        ),
        (
            r#"{"type":"response.refusal.delta","delta":"no"}"#,
            Kind::Refused,
        ),
        (
            r#"{"type":"response.refusal.done","refusal":"no"}"#,
            Kind::Refused,
        ),
        (
            r#"{"type":"response.in_progress","response":{}}"#,
            Kind::Cut,
        ),
        (
            r#"{"type":"response.completed","response":{"status":"completed","output":[{"type":"function_call","name":"f","arguments":"{}"}]}}"#,
            Kind::ToolCalls,
        ),
        ("[DONE]", Kind::Cut),
    ] {
        let failure = ends(last);
        assert_eq!(failure.kind, kind, "{last}");
        assert_eq!(failure.partial.unwrap().text, "a", "{last}");
    }
}

#[test]
fn plain_bodies() {
    let whole = r#"{"id":"c","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}"#;
    assert_eq!(
        decode_plain(Api::Chat, whole.as_bytes()).unwrap().text,
        "hi"
    );
    let whole = r#"{"object":"response","status":"completed","error":null,"output":[{"type":"message","content":[{"type":"output_text","text":"hi"}]}]}"#;
    assert_eq!(
        decode_plain(Api::Responses, whole.as_bytes()).unwrap().text,
        "hi"
    );
    for (body, kind) in [
        ("", Kind::Empty),
        (r#"{"error":{"message":"x","code":429}}"#, Kind::RateLimit),
        (
            r#"[{"error":{"message":"x","code":400,"status":"INVALID_ARGUMENT"}}]"#,
            Kind::BadRequest,
        ),
        (
            r#"{"error":"model requires more system memory"}"#,
            Kind::EventError,
        ),
        (r#"{"detail":"Not here"}"#, Kind::NotApi),
        (
            "<!DOCTYPE html><html><title>Log in &ndash; Wi-Fi</title></html>",
            Kind::NotApi,
        ),
        ("hello", Kind::NotApi),
        (r#"{"choices":[{"message":{"content":"h"#, Kind::Cut),
        (
            r#"{"choices":[{"message":{"content":"h"},"finish_reason":null}]}"#,
            Kind::Cut,
        ),
        (
            r#"{"choices":[{"message":{"content":null,"refusal":"no"},"finish_reason":"stop"}]}"#,
            Kind::Refused,
        ),
    ] {
        assert_eq!(
            decode_plain(Api::Chat, body.as_bytes()).unwrap_err().kind,
            kind,
            "{body}"
        );
    }
    let failed = r#"{"object":"response","status":"failed","error":{"code":"server_error","message":"x"},"output":[]}"#;
    assert_eq!(
        decode_plain(Api::Responses, failed.as_bytes())
            .unwrap_err()
            .kind,
        Kind::EventError
    );
    assert_eq!(
        Body::of(Some("application/json; charset=utf-8")),
        Body::Plain
    );
    assert_eq!(
        Body::of(Some("text/event-stream; charset=utf-8")),
        Body::Events
    );
    assert_eq!(Body::of(None), Body::Events);
}
