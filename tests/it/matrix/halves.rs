//! Texts that are too long for the model's reply or context: asked about in halves, put together
//! byte for byte, and never found out about twice. And servers that drop a part of them unasked.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::harness::{Folder, gptpipe};
use crate::server::{Answer, Request, Server};

/// What a server says of a text that is too long.
type TooLong = fn(&Request) -> Answer;

const TOO_LONG: [(&str, TooLong); 6] = [
    ("length", |request| {
        let cut = request.text.ceil_char_boundary(20);
        request
            .stream()
            .delta(&request.text[..cut])
            .finish("length")
    }),
    ("OpenAI's 400", |_| {
        Answer::error(
            "400 Bad Request",
            "context_length_exceeded",
            "too many tokens",
        )
    }),
    ("413", |_| Answer::plain("413 Content Too Large", "", "")),
    ("llama-server's 400", |_| {
        let error = json!({
            "code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 1507, "n_ctx": 512,
            "message": "request (1507 tokens) exceeds the available context size (512 tokens)",
        });
        Answer::json("400 Bad Request", &json!({ "error": error }))
    }),
    ("LiteLLM's 400", |_| {
        let message = "litellm.ContextWindowExceededError: litellm.BadRequestError: no";
        Answer::error("400 Bad Request", "400", message)
    }),
    ("an error in the stream", |request| {
        let error = json!({"error": {"message": "no", "code": "context_length_exceeded"}});
        request.stream().event(&error.to_string()).end()
    }),
];

/// Repeats what is no longer than this many bytes.
fn server(most: usize, too_long: TooLong) -> Server {
    Server::start(move |request| {
        if request.text.len() > most {
            too_long(request)
        } else {
            request.echo()
        }
    })
}

fn numbered(count: usize, piece: impl Fn(usize) -> String) -> String {
    (0..count).map(piece).collect()
}

/// Texts of every kind, with the options that they are cut by.
fn texts() -> Vec<(&'static str, String, Vec<&'static str>)> {
    let prose = |count| {
        numbered(count, |n| {
            format!(
                "Sentence {n} tells of thing {n}, and of nothing else.{}",
                [" ", "  ", "\n", "\n\n"][n % 4]
            )
        })
    };
    let chinese = numbered(120, |n| {
        format!("第{n}句话讲的是第{n}件事情，别的什么也没有说。")
    });
    let lines = numbered(40, |n| {
        let words = numbered(n, |word| format!(" w{n}.{word}"));
        format!("line {n}:{words}\r\n")
    });
    let paragraphs = numbered(12, |n| {
        let sentences = numbered(9, |at| format!("Paragraph {n} has a sentence {at}.\n"));
        format!("{sentences}\n\n")
    });
    let mut code = String::new();
    for n in 0..60 {
        let _ = writeln!(code, "\tlet value_{n} = [{n}, {n}, {n}];");
    }
    vec![
        ("prose", prose(120), vec!["-c", "300"]),
        (
            "prose after a context",
            prose(120),
            vec!["-c", "200", "--context", "60"],
        ),
        ("Chinese", chinese, vec!["-c", "400"]),
        ("lines", lines, vec!["-b", "line"]),
        ("paragraphs", paragraphs, vec!["-b", "paragraph"]),
        ("a file", prose(60) + &code, vec!["-b", "file"]),
    ]
}

#[test]
fn what_is_too_long_is_asked_about_in_halves_and_only_once() {
    for (name, text, args) in texts() {
        for (why, too_long) in TOO_LONG {
            let scene = format!("{name}, {why}");
            let server = server(160, too_long);
            let home = Folder::home();
            let run = || {
                gptpipe()
                    .at(&home)
                    .ask(&server)
                    .arg("p")
                    .args(&args)
                    .input(&text)
                    .run()
            };
            let outcome = run();
            outcome.ok().stdout(&text);
            let requests = server.requests();
            let bodies: HashSet<String> = requests
                .iter()
                .map(|request| request.body.to_string())
                .collect();
            outcome.must(
                bodies.len() == requests.len(),
                &format!("{scene}: no request is repeated"),
            );
            let whole = requests.iter().filter(|request| request.text.len() <= 160);
            let answered: usize = whole.map(|request| request.text.trim().len()).sum();
            let all: usize = text.len() - text.chars().filter(|c| c.is_whitespace()).count();
            outcome.must(
                answered >= all && requests.iter().any(|request| request.text.len() > 160),
                &format!("{scene}: something was too long, and its parts were asked about"),
            );
            let calls = server.calls();
            let again = run();
            again.ok().stdout(&text);
            again.must(
                server.calls() == calls,
                &format!("{scene}: running again asks for nothing"),
            );
        }
    }
}

/// What was learnt of a text holds also where one of its parts failed then: only that is asked for.
#[test]
fn a_text_that_was_halved_is_not_tried_whole_again() {
    let is_mended = Arc::new(AtomicBool::new(false));
    let server = Server::start({
        let is_mended = Arc::clone(&is_mended);
        move |request| {
            if request.text.len() > 160 {
                request.stream().finish("length")
            } else if request.text.contains("thing 7") && !is_mended.load(Ordering::SeqCst) {
                Answer::error("400 Bad Request", "", "no")
            } else {
                request.echo()
            }
        }
    });
    let home = Folder::home();
    let text = numbered(8, |n| {
        format!("Sentence {n} tells of thing {n}, and of nothing else. ")
    });
    let run = || gptpipe().at(&home).ask(&server).arg("p").input(&text).run();
    run().status(69).stdout("");
    let calls = server.calls();
    is_mended.store(true, Ordering::SeqCst);
    run().ok().stdout(&text);
    let requests = server.requests();
    let [again] = &requests[calls..] else {
        panic!("one part is asked for: {:?}", &requests[calls..]);
    };
    assert!(again.text.len() <= 160 && again.text.contains("thing 7"));
}

#[test]
fn what_cannot_be_halved_fails() {
    for (why, too_long) in TOO_LONG {
        let server = server(60, too_long);
        let word = "x".repeat(200);
        let outcome = gptpipe()
            .ask(&server)
            .args(["p", "-b", "line", "-j", "1"])
            .input(format!("one\ntwo {word} two\nthree\n"))
            .run();
        outcome
            .status(69)
            .one_message()
            .stdout("one\n")
            .says(if why == "length" {
                "hint: try a smaller -c"
            } else {
                "hint: its parts are too long as well"
            });
        outcome.says("error: chunk 2 (bytes 4-212, line 2 of standard input) failed");
        let words = match why {
            "length" => "the reply reached its length limit",
            "413" => "the request is too large for the server: 413",
            _ => "the text is too long for the model's context",
        };
        outcome.says(words);
        let requests = server.requests();
        let words = requests
            .iter()
            .filter(|request| request.text == word)
            .count();
        outcome.must(words == 1, "the word alone is asked about once");
        outcome.must(
            requests.iter().all(|request| request.text != "three"),
            "nothing is asked after a failure",
        );
    }
}

/// More than halving is needed where a retry is too: neither is forgotten for the other.
#[test]
fn halves_fail_and_are_retried_each_by_itself() {
    let met = Mutex::<HashSet<String>>::default();
    let server = Server::start(move |request| {
        if met.lock().unwrap().insert(request.text.clone()) {
            request.stream().delta("half a re").reset()
        } else if request.text.len() > 160 {
            request.stream().finish("length")
        } else {
            request.echo()
        }
    });
    let text = numbered(12, |n| {
        format!("Sentence {n} tells of thing {n}, and of nothing else.\n")
    });
    let outcome = gptpipe()
        .ask(&server)
        .args(["p", "-c", "100"])
        .input(&text)
        .run();
    outcome.ok().stdout(&text);
    let requests = server.requests();
    let distinct: HashSet<&str> = requests
        .iter()
        .map(|request| request.text.as_str())
        .collect();
    assert_eq!(
        requests.len(),
        2 * distinct.len(),
        "each is asked about twice"
    );
}

/// What the server says that it counted, and how the run ends then.
#[test]
fn servers_that_drop_a_part_of_the_text() {
    let text = "word ".repeat(1000);
    for (counted, status) in [(100, 69), (499, 69), (510, 0), (1000, 0), (0, 0)] {
        let server = Server::start(move |request| {
            request
                .stream()
                .counted(counted)
                .delta("Fine.")
                .finish("stop")
        });
        let home = Folder::home();
        let run = || {
            gptpipe()
                .at(&home)
                .ask(&server)
                .args(["p", "-s", ""])
                .input(&text)
                .run()
        };
        let outcome = run();
        outcome.status(status);
        if status == 0 {
            outcome.ok().stdout("Fine. ");
        } else {
            outcome.one_message().stdout("");
            outcome
                .says("failed: the server dropped part of the text: it counted ")
                .says(&format!(" {counted} of about 10"))
                .says("hint: try a smaller -c");
        }
        assert_eq!(server.calls(), 1, "it is not asked again");
        run().status(status);
        let calls = if status == 0 { 1 } else { 2 };
        assert_eq!(server.calls(), calls, "such a reply is not remembered");
    }
    // Some servers count nothing when they stream.
    let server = Server::start(|request| {
        let end = json!({"choices": [{"index": 0, "delta": {"content": "Fine."}, "finish_reason": "stop"}]});
        request
            .stream()
            .event(&end.to_string())
            .event("[DONE]")
            .end()
    });
    gptpipe()
        .ask(&server)
        .arg("p")
        .input(&text)
        .run()
        .ok()
        .stdout("Fine. ");
}
