//! What a server does wrong: which exit status it becomes, what the message says, and what is on
//! standard output all the same.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Outcome, gptpipe, lines};
use crate::server::{Answer, Gate, Request, Server};

/// Three records of which the second meets the fault, one at a time.
#[track_caller]
fn second_of_three(fault: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Outcome {
    let server = Server::start(move |request| {
        if request.text == "two" {
            fault(request)
        } else {
            request.echo()
        }
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "-j", "1", "--timeout", "500ms"])
        .args(["--retries", "0"]);
    let outcome = run.input("one\ntwo\nthree\n").run();
    outcome.stdout_between("one", "one\n").one_message();
    outcome.says("chunk 2 (bytes 4-7, line 2 of standard input) failed: ");
    let asked: Vec<String> = server
        .requests()
        .iter()
        .map(|request| request.text.clone())
        .collect();
    outcome.must(
        !asked.contains(&"three".to_owned()),
        "nothing may be asked after a failure",
    );
    outcome
}

#[test]
fn broken_connections_are_passing_faults() {
    second_of_three(|_| Answer::nothing().reset())
        .status(75)
        .says("the server broke off before it answered");
    second_of_three(|_| Answer::nothing().close())
        .status(75)
        .says("the server broke off before it answered");
    second_of_three(|request| request.stream().reset())
        .status(75)
        .says("the reply was cut off");
    second_of_three(|request| request.stream().delta("tw").reset())
        .status(75)
        .says("the reply was cut off");
    second_of_three(|request| request.stream().delta("tw").body("data: {\"choi").close())
        .status(75)
        .says("the reply was cut off");
    second_of_three(|_| {
        Answer::raw(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{",
        )
    })
    .status(75)
    .says("the reply was cut off");
    second_of_three(|_| Answer::raw("HTTP/1.1 200"))
        .status(75)
        .says("the server broke off before it answered");
}

#[test]
fn ends_without_a_reason_are_passing_faults() {
    second_of_three(|request| request.stream().delta("two").end())
        .status(75)
        .says("without a finish reason");
    second_of_three(|request| request.stream().delta("two").event("[DONE]").end())
        .status(75)
        .says("[DONE] came without a finish reason");
    second_of_three(|request| request.stream().event("[DONE]").end())
        .status(75)
        .says("without a finish reason");
    second_of_three(|request| request.stream().end())
        .status(75)
        .says("the server sent an empty reply")
        .says("hint: some servers answer so when the text is too long");
    second_of_three(|_| Answer::plain("200 OK", "", ""))
        .status(75)
        .says("the server sent an empty reply");
    let error =
        json!({"error": {"message": "upstream died", "type": null, "code": "500"}}).to_string();
    second_of_three(move |request| request.stream().delta("tw").event(&error).end())
        .status(75)
        .says("the server failed in the middle of the reply: 500: upstream died");
}

#[test]
fn silence_is_given_up() {
    second_of_three(|_| Answer::nothing().stall())
        .status(75)
        .says("no response in time")
        .says("--timeout");
    second_of_three(|request| request.stream().stall())
        .status(75)
        .says("the reply stalled");
    second_of_three(|request| request.stream().delta("tw").stall())
        .status(75)
        .says("the reply stalled");
    second_of_three(|request| request.stream().body("data: {\"choi").stall())
        .status(75)
        .says("the reply stalled");
}

#[test]
fn a_slow_stream_is_not_silence() {
    let server = Server::start(|request| {
        let mut answer = request.stream();
        for _ in 0..15 {
            answer = answer.delta("x").pause(Duration::from_millis(100));
        }
        answer.finish("stop")
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "--timeout", "1s"])
        .input("text\n")
        .run();
    run.ok().stdout("xxxxxxxxxxxxxxx\n");
}

#[test]
fn comments_keep_a_stream_alive() {
    let server = Server::start(|request| {
        let mut answer = request.stream();
        for _ in 0..15 {
            answer = answer.body(": ping\n\n").pause(Duration::from_millis(100));
        }
        answer.delta("still here").finish("stop")
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "--timeout", "1s"])
        .input("text\n")
        .run();
    run.ok().stdout("still here\n");
}

#[test]
fn passing_statuses() {
    for (status, words) in [
        ("408 Request Timeout", "the server was busy: 408"),
        ("429 Too Many Requests", "the rate limit was reached: 429"),
        ("500 Internal Server Error", "the server failed: 500"),
        ("502 Bad Gateway", "the server failed: 502"),
        (
            "503 Service Unavailable",
            "the server is overloaded or starting: 503",
        ),
        ("529 ", "the server is overloaded or starting: 529"),
    ] {
        second_of_three(move |_| Answer::error(status, "", "try later"))
            .status(75)
            .says(words)
            .says("try later");
        let html = "<html><head><title>Sorry</title></head><body><h1>Sorry</h1></body></html>";
        second_of_three(move |_| Answer::plain(status, "Content-Type: text/html\r\n", html))
            .status(75)
            .says(words)
            .never_says("<");
    }
}

#[test]
fn failures_of_one_chunk() {
    let error = |status, code, message| move |_: &Request| Answer::error(status, code, message);
    second_of_three(error("400 Bad Request", "bad", "no"))
        .status(69)
        .says("the server does not accept the request");
    second_of_three(error("400 Bad Request", "context_length_exceeded", "too many tokens"))
        .status(69)
        .says("the text is too long for the model's context: 400 context_length_exceeded: too many tokens")
        .says("hint: its parts are too long as well");
    second_of_three(error("413 Content Too Large", "", "too large"))
        .status(69)
        .says("hint: its parts are too long as well");
    second_of_three(error("400 Bad Request", "content_filter", "no"))
        .status(69)
        .says("a content filter stopped");
    second_of_three(|request| request.stream().delta("tw").finish("content_filter"))
        .status(69)
        .says("a content filter stopped the reply");
    second_of_three(|request| request.stream().delta("tw").finish("length"))
        .status(69)
        .says("the reply reached its length limit")
        .says("hint: try a smaller -c");
    second_of_three(|request| request.stream().delta("tw").finish("tool_calls")).status(69);
    second_of_three(|request| request.stream().delta("tw").finish("tired"))
        .status(69)
        .says("the reply ended for an unknown reason: `tired`");
    let refusal =
        json!({"choices": [{"index": 0, "delta": {"refusal": "I will not."}}]}).to_string();
    second_of_three(move |request| request.stream().event(&refusal).finish("stop"))
        .status(69)
        .says("the model refused: I will not");
}

#[test]
fn failures_that_every_further_request_would_meet() {
    let error = |status, code, message| move |_: &Request| Answer::error(status, code, message);
    second_of_three(error("401 Unauthorized", "invalid_api_key", "wrong key"))
        .status(255)
        .says("the server refused the key: 401 invalid_api_key: wrong key")
        .says("hint: check the key");
    second_of_three(error("403 Forbidden", "", "not here"))
        .status(255)
        .says("the server does not allow this");
    second_of_three(error("404 Not Found", "model_not_found", "no such model"))
        .status(255)
        .says("the server does not know the model")
        .says("hint: check the name given with -m");
    second_of_three(error("404 Not Found", "", ""))
        .status(255)
        .says("there is no such API path");
    second_of_three(error(
        "429 Too Many Requests",
        "insufficient_quota",
        "pay first",
    ))
    .status(255)
    .says("the quota or the budget is used up");
    second_of_three(error("402 Payment Required", "", "")).status(255);
    second_of_three(|_| {
        Answer::plain(
            "200 OK",
            "Content-Type: text/html\r\n",
            "<!doctype html><title>Welcome</title>",
        )
    })
    .status(255)
    .says("what answered is not an API: Welcome");
    second_of_three(|_| Answer::json("200 OK", &json!({"status": "ok"})))
        .status(255)
        .says("what answered is not an API");
    second_of_three(|_| {
        Answer::plain(
            "307 Temporary Redirect",
            "Location: https://other.test/v1\r\n",
            "",
        )
    })
    .status(255)
    .says("the server redirects, which is not followed: 307: to other.test");
}

#[test]
fn the_responses_api_fails_the_same_way() {
    let ask = |answer: fn(&Request) -> Answer| {
        let server = Server::start(answer);
        let run = gptpipe()
            .ask(&server)
            .args(["p", "--api", "responses", "--retries", "0"])
            .input("text\n")
            .run();
        run.stdout("").one_message();
        run
    };
    ask(|request| request.stream().delta("half").end())
        .status(75)
        .says("without a finish reason");
    ask(|request| request.stream().delta("half").reset()).status(75);
    ask(|request| request.stream().end())
        .status(75)
        .says("the server sent an empty reply");
    ask(|request| request.stream().delta("half").finish("length"))
        .status(69)
        .says("length limit");
    ask(|request| request.stream().delta("half").finish("content_filter"))
        .status(69)
        .says("content filter");
    ask(|request| {
        let error = json!({"code": "server_error", "message": "died"});
        let response = json!({"id": "r", "status": "failed", "error": error, "output": []});
        let event = json!({"type": "response.failed", "response": response});
        request
            .stream()
            .delta("half")
            .event(&event.to_string())
            .end()
    })
    .status(75)
    .says("died");
    ask(|request| {
        let event = json!({"type": "error", "code": "rate_limit_exceeded", "message": "slower"});
        request.stream().event(&event.to_string()).end()
    })
    .status(75)
    .says("the rate limit was reached");
}

#[test]
fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let run = gptpipe()
        .args(["p", "--base-url", &url, "--retries", "0"])
        .input("text\n")
        .run();
    run.status(75)
        .one_message()
        .stdout("")
        .says("cannot connect")
        .says("hint: is the server running");
}

#[test]
fn what_listens_does_not_speak_http() {
    let server = Server::start(|_| Answer::raw("SSH-2.0-OpenSSH_9.9\r\n"));
    let run = gptpipe().ask(&server).arg("p").input("text\n").run();
    run.status(255)
        .one_message()
        .says("what answered is not an API")
        .says("hint: check the base URL");
}

#[test]
fn replies_before_the_failure_are_written_and_none_after_it_is_asked_for() {
    let gate = Gate::default();
    let server = Server::start({
        let gate = gate.clone();
        move |request| match request.text.as_str() {
            "2" => Answer::error("401 Unauthorized", "invalid_api_key", "wrong key"),
            _ => request.echo().behind(&gate),
        }
    });
    let run = gptpipe().ask(&server).args(["p", "-b", "line", "-j", "4"]);
    let run = run.input("0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n").start();
    server.wait(|log| log.calls >= 4 && log.in_flight == 3);
    server.settle();
    gate.open();
    let run = run.finish();
    run.status(255)
        .one_message()
        .says("chunk 3 ")
        .stdout_between("0\n1", "0\n1\n");
    assert_eq!(
        server.calls(),
        4,
        "what was not in flight yet is not asked for"
    );
}

#[test]
fn of_several_failures_the_first_in_order_is_told() {
    let gate = Gate::default();
    let server = Server::start({
        let gate = gate.clone();
        move |request| match request.text.as_str() {
            "1" => Answer::error("400 Bad Request", "", "the earlier one").behind(&gate),
            "2" => Answer::error("400 Bad Request", "", "the later one"),
            _ => request.echo(),
        }
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "-j", "3"])
        .input("0\n1\n2\n")
        .start();
    server.wait(|log| log.calls == 3 && log.in_flight == 1);
    gate.open();
    run.finish()
        .status(69)
        .one_message()
        .says("chunk 2 ")
        .says("the earlier one")
        .stdout_between("0", "0\n");
}

#[test]
fn what_was_shown_live_ends_before_the_message() {
    let server = Server::start(|request| request.stream().delta("Half a rep").reset());
    let run = gptpipe()
        .ask(&server)
        .args(["p", "--live", "--retries", "0"])
        .input("text\n")
        .run();
    run.status(75).one_message();
    let is_right = run.stdout.is_empty() || run.stdout == b"Half a rep\n";
    run.must(is_right, "what was shown stays, on a line of its own");
}

#[test]
fn a_message_names_the_place_in_the_file() {
    let server = Server::start(|request| {
        if request.text.contains("BAD") {
            Answer::error("400 Bad Request", "", "no")
        } else {
            request.echo()
        }
    });
    let run = gptpipe();
    let good = run.home().write("good.txt", "One.\nTwo.\n");
    run.home().write("bad.txt", "grüße\n\n\nBAD\nmore\n");
    let run = run
        .ask(&server)
        .args(["p", "-b", "line", "-j", "1"])
        .arg(&good)
        .arg("bad.txt")
        .run();
    run.status(69)
        .one_message()
        .says("chunk 4 (bytes 10-13, line 4 of bad.txt) failed");
    run.stdout_between("One.\nTwo.\ngrüße", "One.\nTwo.\ngrüße\n\n\n");
}

#[test]
fn a_server_cannot_write_on_the_users_terminal() {
    let nasty = "\u{1b}]0;title\u{7} \u{1b}[2J\r\nsecond line";
    let run = second_of_three(move |_| Answer::error("400 Bad Request", "", nasty));
    run.status(69).must(
        !run.stderr.contains(|c: char| c.is_control() && c != '\n'),
        "no control characters",
    );
}

#[test]
fn a_request_is_named_so_that_it_can_be_found() {
    let run = second_of_three(|_| {
        let headers = "Content-Type: application/json\r\nx-request-id: req_17\r\n";
        Answer::plain(
            "500 Internal Server Error",
            headers,
            r#"{"error":{"message":"oops"}}"#,
        )
    });
    run.status(75).says("(request req_17)");
}

#[test]
fn a_reply_cut_at_the_users_own_limit_is_written_and_counted() {
    let server = Server::start(|request| {
        let reason = if request.text == "two" {
            "length"
        } else {
            "stop"
        };
        request.stream().delta(&request.text).finish(reason)
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "--max-output-tokens", "5"]);
    let run = run.input("one\ntwo\nthree\n").run();
    run.status(1).stdout("one\ntwo\nthree\n").one_message();
    run.says(
        "chunk 2 (bytes 4-7, line 2 of standard input): the reply was cut at --max-output-tokens",
    );
}

/// More chunks than are in flight: one that was cut at the user's own limit is written, and those
/// behind it are asked about all the same.
#[test]
fn a_reply_cut_at_the_users_limit_does_not_end_the_run() {
    let server = Server::start(|request| request.stream().delta(&request.text).finish("length"));
    let text = lines(20);
    gptpipe()
        .ask(&server)
        .args([
            "p",
            "-b",
            "line",
            "-j",
            "2",
            "-q",
            "--max-output-tokens",
            "5",
        ])
        .input(&text)
        .run()
        .status(1)
        .stdout(&text);
    assert_eq!(server.calls(), 20);
}
