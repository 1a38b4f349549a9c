//! What is sent, and what is understood of what comes back: the bodies of both APIs, streams in all
//! their shapes, answers of real servers as they were recorded, and connections that are kept.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use gptpipe::api::request::FRAMING;
use serde_json::json;

use crate::harness::{Outcome, gptpipe, lines};
use crate::server::{Answer, Request, Server};

/// A run over one chunk, asked of a server that answers so.
fn answered(args: &[&str], answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Outcome {
    let server = Server::start(answer);
    gptpipe()
        .ask(&server)
        .args(["p", "--timeout", "2s"])
        .args(args)
        .input("text")
        .run()
}

#[test]
fn a_chat_request_is_what_was_asked_for_and_nothing_more() {
    let server = Server::echo();
    let text = "A \"text\" with \\ and \t tab,\nCRLF\r\nand grüße 日本語 🚀 \u{1} \u{2028}";
    gptpipe()
        .ask(&server)
        .args(["sum \"up\"", "-m", "m1"])
        .input(text)
        .run()
        .ok()
        .stdout(text);
    let request = server.only_request();
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
        ("POST", "/v1/chat/completions")
    );
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert!(
        request
            .header("user-agent")
            .unwrap()
            .starts_with("gptpipe/")
    );
    assert_eq!(request.header("authorization"), None);
    assert_eq!(
        request.body,
        json!({
            "model": "m1",
            "messages": [
                {"role": "system", "content": format!("{FRAMING}\n\nsum \"up\"")},
                {"role": "user", "content": text.trim_end()},
            ],
            "stream": true,
            "stream_options": {"include_usage": true},
        })
    );
}

#[test]
fn a_responses_request_is_what_was_asked_for_and_nothing_more() {
    let server = Server::echo();
    let run = gptpipe()
        .ask(&server)
        .args(["sum up", "-m", "m1", "--api=responses"])
        .input("A text.\n")
        .run();
    run.ok().stdout("A text.\n");
    let request = server.only_request();
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
        ("POST", "/v1/responses")
    );
    assert_eq!(
        request.body,
        json!({
            "model": "m1",
            "instructions": format!("{FRAMING}\n\nsum up"),
            "input": [{"role": "user", "content": "A text."}],
            "stream": true,
        })
    );
}

#[test]
fn the_framing_can_be_replaced_or_left_out() {
    let server = Server::echo();
    let system = |system: &str| {
        gptpipe()
            .ask(&server)
            .args(["p", "-s", system])
            .input("x\n")
            .run()
            .ok();
        server.requests().last().unwrap().body["messages"][0]["content"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(system("Be brief."), "Be brief.\n\np");
    assert_eq!(system(""), "p");
}

#[test]
fn fields_of_the_user_are_passed_as_they_are() {
    let server = Server::echo();
    let params = [
        "--param",
        "temperature=0",
        "--param",
        "stop=[\"a\", \"b\"]",
        "--param",
        "reasoning_effort=low",
    ];
    gptpipe()
        .ask(&server)
        .arg("p")
        .args(params)
        .args(["--param", "temperature=0.5"])
        .input("x\n")
        .run()
        .ok();
    let body = &server.only_request().body;
    assert_eq!(body["temperature"], 0.5);
    assert_eq!(body["stop"], json!(["a", "b"]));
    assert_eq!(body["reasoning_effort"], "low");
}

#[test]
fn the_bound_of_a_reply_has_the_name_that_the_server_knows() {
    let server = Server::echo();
    let body = |args: &[&str]| {
        let run = gptpipe()
            .ask(&server)
            .env("GPTPIPE_API_KEY", "k")
            .args(["p", "-m", "m"])
            .args(args);
        run.args(["--max-output-tokens", "9"])
            .input("x\n")
            .run()
            .ok();
        server.requests().last().unwrap().body.clone()
    };
    assert_eq!(body(&[])["max_completion_tokens"], 9);
    assert_eq!(body(&["-P", "groq"])["max_completion_tokens"], 9);
    assert_eq!(body(&["-P", "ollama"])["max_tokens"], 9);
    assert_eq!(body(&["--api", "responses"])["max_output_tokens"], 9);
    let mistral = body(&["-P", "mistral"]);
    assert_eq!(mistral["max_tokens"], 9);
    assert!(
        mistral.get("stream_options").is_none(),
        "Mistral refuses what it does not know: {mistral}"
    );
}

#[test]
fn the_text_before_a_chunk_can_be_shown_as_background() {
    let server = Server::echo();
    let text =
        "The first sentence has words. The second one has some too. The third one ends it.\n";
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-c", "8", "--context", "20", "-j", "1"])
        .input(text)
        .run();
    run.ok().stdout(text);
    let requests = server.requests();
    assert!(requests.len() >= 3, "{requests:?}");
    let system = |at: usize| {
        requests[at].body["messages"][0]["content"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        system(0),
        format!("{FRAMING}\n\np"),
        "nothing stands before the first"
    );
    let (background, before) = (system(1), requests[0].text.clone());
    assert!(
        background.ends_with(&before),
        "{background:?} must end with {before:?}"
    );
    for request in &requests {
        assert!(
            text.contains(&request.text),
            "the chunk stays as it is: {:?}",
            request.text
        );
    }
}

#[test]
fn streams_in_every_shape_give_the_same_reply() {
    for line_end in ["\n", "\r\n", "\r"] {
        let run = answered(&[], move |request| {
            let stream = request.stream().line_end(line_end);
            stream
                .delta("grüße, ")
                .delta("日本語 ")
                .delta("and 🚀")
                .finish("stop")
        });
        run.ok().stdout("grüße, 日本語 and 🚀");
    }
    answered(&[], |request| {
        let event =
            json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": null}}]});
        let stream = request
            .stream()
            .body("\u{feff}: hello\n\nretry: 5\nid: 1\n")
            .event(&event.to_string());
        stream
            .delta("a")
            .body(": OPENROUTER PROCESSING\n\n")
            .delta("b")
            .finish("stop")
    })
    .ok()
    .stdout("ab");
    // Bytes cut anywhere: also within characters and line ends.
    answered(&[], |request| {
        let event =
            |text: &str| json!({"choices": [{"index": 0, "delta": {"content": text}}]}).to_string();
        let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
        let all = format!(
            "data: {}\r\n\r\ndata: {}\r\n\r\ndata: {end}\r\n\r\n",
            event("日本語"),
            event(" 🚀")
        );
        let mut answer = request.stream();
        for byte in all.as_bytes() {
            answer = answer.body([*byte]);
        }
        answer.end()
    })
    .ok()
    .stdout("日本語 🚀");
    // Halves of a UTF-16 pair in two events, as servers send that count in UTF-16.
    answered(&[], |request| {
        let stream = request
            .stream()
            .event(r#"{"choices":[{"index":0,"delta":{"content":"a \ud83d"}}]}"#);
        stream
            .event(r#"{"choices":[{"index":0,"delta":{"content":"\ude80 b"}}]}"#)
            .finish("stop")
    })
    .ok()
    .stdout("a 🚀 b");
}

#[test]
fn a_server_that_does_not_stream_is_understood() {
    let chat = |_: &Request| {
        let message = json!({"role": "assistant", "content": "All at once."});
        let choices = json!([{"index": 0, "message": message, "finish_reason": "stop"}]);
        Answer::json(
            "200 OK",
            &json!({"id": "1", "object": "chat.completion", "choices": choices}),
        )
    };
    answered(&[], chat).ok().stdout("All at once.");
    let responses = |_: &Request| {
        let content = json!([{"type": "output_text", "text": "All at once."}]);
        let output = json!([{"type": "reasoning"}, {"type": "message", "role": "assistant", "content": content}]);
        Answer::json(
            "200 OK",
            &json!({"id": "1", "object": "response", "status": "completed", "output": output}),
        )
    };
    answered(&["--api", "responses"], responses)
        .ok()
        .stdout("All at once.");
}

#[test]
fn an_answer_compressed_unasked_is_read() {
    let server = Server::start(|request| {
        let events = concat!(
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"packed\"},\"finish_reason\":\"stop\"}]}\n\n",
            "data: [DONE]\n\n"
        );
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(events.as_bytes()).unwrap();
        let headers = "Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\n";
        Answer::plain("200 OK", headers, gzip.finish().unwrap())
    });
    gptpipe()
        .ask(&server)
        .arg("p")
        .input("text")
        .run()
        .ok()
        .stdout("packed");
}

#[test]
fn reasoning_is_no_part_of_the_reply() {
    answered(&[], |request| {
        let think =
            json!({"choices": [{"index": 0, "delta": {"reasoning_content": "Hmm."}}]}).to_string();
        request
            .stream()
            .event(&think)
            .delta("The answer.")
            .finish("stop")
    })
    .ok()
    .stdout("The answer.");
}

#[test]
fn an_empty_reply_that_is_whole_is_a_reply() {
    answered(&[], |request| request.stream().finish("stop"))
        .status(0)
        .stdout("")
        .one_message()
        .says("warning: the reply to chunk 1 ")
        .says(" is empty");
}

#[test]
fn white_space_around_a_reply_gives_way_to_the_sources() {
    let server = Server::start(|request| request.reply(["\n\n", " ", &request.text, " \n", "\n"]));
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line"])
        .input("  a\n\n\tb\n")
        .run();
    run.ok().stdout("  a\n\n\tb\n");
}

#[test]
fn a_done_without_a_reason_is_enough_where_the_profile_says_so() {
    let server = Server::start(|request| request.stream().delta("all").event("[DONE]").end());
    let config = format!(
        "[profiles.odd]\nbase-url = '{}'\nmodel = 'm'\nend = 'done'\n",
        server.url()
    );
    gptpipe()
        .config(&config)
        .args(["-P", "odd", "p"])
        .input("x")
        .run()
        .ok()
        .stdout("all");
}

/// A recorded answer as it was on the wire.
fn recorded(path: &Path) -> Answer {
    let recorded = fs::read(path).unwrap();
    let end = recorded
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .unwrap()
        + 4;
    let (head, mut body) = recorded.split_at(end);
    let find =
        |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|window| window == what);
    // What curl said after the body tells how it ended.
    let ended_by_curl = find(body, b"curl: (");
    let is_stalled = find(body, b"curl: (28)").is_some();
    body = &body[..ended_by_curl.unwrap_or(body.len())];
    // Long recordings leave out the middle, and with it the event that was cut there.
    let mut body = body.to_vec();
    if let Some(gap) = find(&body, b"\n[... ") {
        let begin = body[..gap]
            .windows(2)
            .rposition(|window| window == b"\n\n")
            .unwrap();
        let end = gap + find(&body[gap..], b"\n\n").unwrap();
        body.drain(begin..end);
    }
    let is_chunked = find(&head.to_ascii_lowercase(), b"transfer-encoding: chunked").is_some();
    let mut bytes = head.to_vec();
    if is_chunked && !body.is_empty() {
        bytes.extend(format!("{:x}\r\n", body.len()).bytes());
        bytes.extend(&body);
        bytes.extend(b"\r\n");
    } else {
        bytes.extend(&body);
    }
    if is_chunked && ended_by_curl.is_none() {
        bytes.extend(b"0\r\n\r\n");
    }
    let answer = Answer::nothing().body(bytes);
    if is_stalled {
        answer.stall()
    } else {
        answer.close()
    }
}

/// Every recording, how a run ends with it, and what is then on stdout or in the message.
const RECORDED: [(&str, i32, &str); 33] = [
    (
        "litellm-1.106.2-err-401",
        255,
        "the server refused the key: 400 no_db_connection: No connected db",
    ),
    (
        "litellm-1.106.2-err-429",
        75,
        "the rate limit was reached: 429 throttling_error",
    ),
    ("litellm-1.106.2-err-500", 75, "the server failed: 500"),
    (
        "litellm-1.106.2-err-badjson",
        69,
        "the server does not accept the request: 400",
    ),
    (
        "litellm-1.106.2-err-ctx",
        69,
        "the text is too long for the model's context: 400",
    ),
    (
        "litellm-1.106.2-err-filter",
        69,
        "a content filter stopped the reply: 400",
    ),
    (
        "litellm-1.106.2-err-rpm",
        75,
        "the rate limit was reached: 429 throttling_error",
    ),
    (
        "litellm-1.106.2-err-streamerr",
        75,
        "the server is overloaded or starting: 529",
    ),
    (
        "litellm-1.106.2-err-streamerr-stream-false",
        75,
        "the server is overloaded or starting: 529",
    ),
    (
        "litellm-1.106.2-err-unknown-model",
        255,
        "the server does not know the model: 400",
    ),
    (
        "litellm-1.106.2-plain",
        0,
        "Hello from LiteLLM: grüße, 日本語 and 🚀 in one reply.",
    ),
    (
        "litellm-1.106.2-stream",
        0,
        "Hello from LiteLLM: grüße, 日本語 and 🚀 in one reply.",
    ),
    (
        "litellm-1.106.2-upstream-ctx",
        69,
        "the text is too long for the model's context: 400",
    ),
    (
        "litellm-1.106.2-upstream-killed-midstream",
        75,
        "the server failed in the middle of the reply: 500",
    ),
    (
        "litellm-1.106.2-upstream-stalled-midstream",
        75,
        "the reply stalled",
    ),
    ("litellm-1.106.2-upstream-stream", 1, "You may distribute"),
    (
        "llama-cpp-python-0.3.36-err-badjson",
        75,
        "the server failed: 500: Internal Server Error",
    ),
    (
        "llama-cpp-python-0.3.36-err-ctx-plain",
        69,
        "the text is too long for the model's context: 400",
    ),
    (
        "llama-cpp-python-0.3.36-err-ctx-stream",
        75,
        "the server sent an empty reply",
    ),
    (
        "llama-cpp-python-0.3.36-interrupted-by-next-request",
        75,
        "[DONE] came without a finish reason",
    ),
    ("llama-cpp-python-0.3.36-plain", 1, "The particular."),
    ("llama-cpp-python-0.3.36-stream", 1, "\"History in"),
    (
        "llama-server-0.5.0-dev-ctx-filled-midstream",
        1,
        "(b the object code,",
    ),
    (
        "llama-server-0.5.0-dev-err-401",
        255,
        "the server refused the key: 401 authentication_error: Invalid API Key",
    ),
    (
        "llama-server-0.5.0-dev-err-404",
        255,
        "there is no such API path: 404",
    ),
    (
        "llama-server-0.5.0-dev-err-503-loading",
        75,
        "the server is overloaded or starting: 503",
    ),
    (
        "llama-server-0.5.0-dev-err-badjson",
        69,
        "the server does not accept the request: 500",
    ),
    (
        "llama-server-0.5.0-dev-err-ctx-stream",
        69,
        "the text is too long for the model's context: 400",
    ),
    ("llama-server-0.5.0-dev-n2", 1, "\u{fffd} by"),
    ("llama-server-0.5.0-dev-plain", 1, "The relationship for"),
    (
        "llama-server-0.5.0-dev-sigKILL-midstream",
        75,
        "the reply was cut off",
    ),
    (
        "llama-server-0.5.0-dev-sigTERM-midstream",
        75,
        "the reply stalled",
    ),
    ("llama-server-0.5.0-dev-stream-usage", 1, "1, a"),
];

#[test]
fn what_real_servers_sent_is_understood() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures");
    assert_eq!(
        fs::read_dir(&folder).unwrap().count(),
        RECORDED.len(),
        "each recording stands in the table once"
    );
    for (name, status, words) in RECORDED {
        let path = folder.join(format!("{name}.txt"));
        let server = Server::start(move |_| recorded(&path));
        // Replies that ended at a limit are whole as far as this flag asks for.
        let cut = if status == 1 {
            &["--max-output-tokens", "3"][..]
        } else {
            &[]
        };
        let run = gptpipe()
            .ask(&server)
            .args(["p", "--timeout", "500ms"])
            .once()
            .args(cut)
            .input("text")
            .run();
        run.must(
            run.code == Some(status),
            &format!("{name} must end with {status}"),
        );
        if status > 1 {
            run.stdout("").one_message().says(words);
            continue;
        }
        run.must(
            run.stdout.starts_with(words.as_bytes()),
            &format!("stdout must begin with {words}"),
        );
        if status == 1 {
            run.one_message()
                .says("the reply was cut at --max-output-tokens");
            // And without it they are not passed off as whole.
            let run = gptpipe().ask(&server).arg("p").input("text").run();
            run.status(69)
                .stdout("")
                .one_message()
                .says("the reply reached its length limit");
        }
    }
}

#[test]
fn connections_are_used_again() {
    let server = Server::echo();
    let text = lines(60);
    for (jobs, most) in [("1", 5), ("4", 15)] {
        let before = server.log(|log| log.connections);
        gptpipe()
            .ask(&server)
            .args(["p", "-b", "line", "-j", jobs])
            .input(&text)
            .run()
            .ok()
            .stdout(&text);
        let connections = server.log(|log| log.connections) - before;
        assert!(
            connections <= most,
            "{connections} connections for -j {jobs}"
        );
    }
}

#[test]
fn a_kept_connection_that_is_gone_costs_nothing() {
    let text = lines(30);
    let run = |server: &Server| {
        gptpipe()
            .ask(server)
            .args(["p", "-b", "line", "-j", "2"])
            .input(&text)
            .run()
            .ok()
            .stdout(&text);
    };
    // Closed after every answer, announced or not.
    run(&Server::start(|request| request.echo().close()));
    run(&Server::start(|request| {
        request.reply([request.text.as_str()]).reset()
    }));
    // Closed in the moment when the next request comes.
    let server = Server::start(|request| match request.ordinal_there {
        1 => Answer::nothing().close(),
        _ => request.echo(),
    });
    run(&server);
    assert!(server.calls() > 30);
    let server = Server::start(|request| match request.ordinal_there {
        1 => Answer::nothing().reset(),
        _ => request.echo(),
    });
    run(&server);
}

#[test]
fn errors_of_a_kept_connection_leave_it_usable() {
    let server = Server::start(|request| match request.text.as_str() {
        "0" => request.reply(["kept"]),
        _ => Answer::error("400 Bad Request", "", "no"),
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "-j", "1"])
        .input("0\n1\n")
        .run();
    run.status(69).one_message();
    assert_eq!(server.log(|log| log.connections), 1);
}
