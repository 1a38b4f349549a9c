//! `--reduce`: the replies merged into one, level by level.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Folder, Random, gptpipe};
use crate::server::{Answer, Gate, Request, Server};

/// Whether the request merges replies: its prompt says so.
fn merges(request: &Request) -> bool {
    let system = request.body["messages"][0]["content"].as_str().unwrap();
    system.contains("MERGE")
}

/// Words of the chunks, joined by whoever merges them: the order shows.
fn joiner() -> Server {
    Server::start(|request| {
        if merges(request) {
            request.reply([&*request.text.replace("\n\n", "+")])
        } else {
            request.echo()
        }
    })
}

fn words(count: usize) -> (String, String) {
    let words: Vec<String> = (0..count).map(|at| format!("w{at}.")).collect();
    (words.join("\n\n"), words.join("+"))
}

#[test]
fn every_reply_is_merged_in_order_and_once_whatever_the_size() {
    let server = joiner();
    let mut random = Random::new();
    for _ in 0..30 {
        let count = 1 + random.below(60);
        let (input, merged) = words(count);
        let bound = (12 + random.below(60)).to_string();
        let jobs = (1 + random.below(9)).to_string();
        gptpipe()
            .ask(&server)
            .args([
                "p",
                "-b",
                "paragraph",
                "-R",
                "MERGE",
                "-c",
                &bound,
                "-j",
                &jobs,
            ])
            .input(&input)
            .run()
            .ok()
            .stdout(format!("{merged}\n"));
    }
}

/// What merges and what is merged share the leave to ask: neither may keep it from the other.
#[test]
fn one_request_at_a_time_is_enough() {
    let server = joiner();
    let (input, merged) = words(200);
    for _ in 0..10 {
        gptpipe()
            .ask(&server)
            .args(["p", "-b", "paragraph", "-R", "MERGE", "-c", "14", "-j", "1"])
            .input(&input)
            .run()
            .ok()
            .stdout(format!("{merged}\n"));
    }
}

#[test]
fn nothing_to_ask_about_is_nothing_to_merge() {
    let server = joiner();
    gptpipe()
        .ask(&server)
        .args(["p", "-R", "MERGE"])
        .input("\n \n")
        .run()
        .ok()
        .stdout("");
    assert_eq!(server.calls(), 0);
}

#[test]
fn merging_begins_before_the_input_ends() {
    let server = joiner();
    let mut run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "paragraph", "-R", "MERGE", "-c", "12"])
        .hold_input()
        .start();
    run.feed(format!("{}\n\n", words(40).0));
    server.wait(|log| log.requests.iter().any(|request| merges(request)));
    run.end_input();
    run.finish().ok().stdout(format!("{}\n", words(40).1));
}

#[test]
fn a_second_run_asks_nothing_and_an_edit_asks_only_what_it_touches() {
    let server = joiner();
    let home = Folder::home();
    let run = |input: &str| {
        gptpipe()
            .at(&home)
            .ask(&server)
            .args(["p", "-b", "paragraph", "-R", "MERGE", "-c", "20"])
            .input(input)
            .run()
    };
    let (input, merged) = words(30);
    run(&input).ok().stdout(format!("{merged}\n"));
    let calls = server.calls();
    run(&input).ok().stdout(format!("{merged}\n"));
    assert_eq!(server.calls(), calls);
    // The last word belongs to one pack a level.
    run(&input.replace("w29.", "last.")).ok();
    assert!(
        server.calls() - calls <= 6,
        "{} calls",
        server.calls() - calls
    );
}

#[test]
fn the_last_reply_is_streamed() {
    let gate = Gate::default();
    let held = gate.clone();
    let server = Server::start(move |request| {
        if merges(request) {
            request
                .stream()
                .delta("the beginning")
                .wait(&held)
                .delta(" and the end")
                .finish("stop")
        } else {
            request.echo()
        }
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-R", "MERGE", "--live"])
        .input("Some text.\n")
        .start();
    run.wait_stdout(|stdout| stdout == b"the beginning");
    gate.open();
    run.finish().ok().stdout("the beginning and the end\n");
}

#[test]
fn the_first_failure_is_told_and_what_was_answered_is_remembered() {
    let server = Server::start(|request| {
        if merges(request) && request.text.contains("w7.") {
            Answer::error("400 Bad Request", "odd", "cannot merge")
        } else if merges(request) {
            request.reply([&*request.text.replace("\n\n", "+")])
        } else {
            request.echo()
        }
    });
    let (input, _) = words(20);
    let run = |on_error: &str| {
        gptpipe()
            .ask(&server)
            .args(["p", "-b", "paragraph", "-R", "MERGE", "-c", "20"])
            .args(["--on-error", on_error])
            .input(&input)
            .run()
    };
    run("stop")
        .status(69)
        .stdout("")
        .one_message()
        .says("the merging of the replies to chunks ")
        .says("cannot merge");
    let skipped = run("skip");
    skipped.status(1).says("chunks failed and were left out");
    let text = String::from_utf8(skipped.stdout.clone()).unwrap();
    assert!(
        text.starts_with("w0.+w1.") && text.ends_with("+w19.\n"),
        "{text}"
    );
    assert!(!text.contains("w7."), "{text}");
}

#[test]
fn a_chunk_that_fails_is_told_though_merging_had_begun() {
    let server = Server::start(|request| {
        if merges(request) {
            request.reply([&*request.text.replace("\n\n", "+")])
        } else if request.text == "w15." {
            Answer::error("400 Bad Request", "odd", "no such thing")
        } else {
            request.echo()
        }
    });
    for _ in 0..5 {
        gptpipe()
            .ask(&server)
            .args(["p", "-b", "paragraph", "-R", "MERGE", "-c", "12"])
            .input(words(30).0)
            .run()
            .status(69)
            .stdout("")
            .one_message()
            .says("chunk 16 (bytes ");
    }
}

#[test]
fn one_object_for_all_of_it() {
    let server = joiner();
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "-R", "MERGE", "--format", "jsonl"])
        .input("a\nb\n")
        .run();
    run.ok();
    let record: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(record["text"], "a+b");
    assert_eq!(record["index"], 1);
    assert_eq!(record["file"], Value::Null);
}

#[test]
fn merging_asks_no_more_than_jobs_at_a_time_and_can_be_interrupted() {
    let gate = Gate::default();
    let held = gate.clone();
    let merged = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&merged);
    let server = Server::start(move |request| {
        if merges(request) {
            seen.fetch_add(1, Ordering::Relaxed);
            return request.stream().delta("x").wait(&held).finish("stop");
        }
        request.echo()
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "paragraph", "-R", "MERGE", "-c", "12", "-j", "3"])
        .input(words(200).0)
        .start();
    server.wait(|log| log.requests.iter().filter(|r| merges(r)).count() >= 3);
    server.settle();
    assert_eq!(merged.load(Ordering::Relaxed), 3);
    assert!(server.log(|log| log.most_in_flight) <= 3);
    run.signal(Signal::INT);
    let run = run.finish();
    run.killed_by(Signal::INT).stdout("").says("not merged yet");
    gate.open();
}
