//! What a reply is written as: text, lines of JSON, what is inside a fence.

use serde_json::{Value, json};

use crate::harness::{Folder, gptpipe};
use crate::server::{Answer, Server};

/// Standard output as lines of JSON.
fn records(stdout: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(stdout).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn jsonl_tells_where_each_chunk_stands_and_what_became_of_it() {
    let server = Server::echo();
    let home = Folder::home();
    let one = home.write("one.txt", "First.\n\nSecond, \u{1b}日本.\n");
    let two = home.write("two.txt", "\n\nThird.");
    let run = gptpipe()
        .at(&home)
        .ask(&server)
        .args(["p", "--format", "jsonl", "-b", "paragraph"])
        .args([&one, &two])
        .run();
    run.ok();
    let records = records(&run.stdout);
    assert_eq!(records.len(), 3);
    for (at, (file, start, end, line, text)) in [
        (&one, 0, 6, 1, "First."),
        (&one, 8, 24, 3, "Second, \u{1b}日本."),
        (&two, 2, 8, 3, "Third."),
    ]
    .into_iter()
    .enumerate()
    {
        let mut record = records[at].clone();
        let latency = record["latency"].take();
        assert!(latency.as_f64().unwrap() >= 0.0);
        let prompt_tokens = record["usage"]["prompt_tokens"].take();
        assert!(prompt_tokens.as_u64().unwrap() > 0);
        assert_eq!(
            record,
            json!({
                "index": at + 1, "file": file.to_str().unwrap(), "start": start, "end": end,
                "line": line, "text": text, "error": null, "finish_reason": "stop",
                "model": "test", "cached": false, "attempts": 1, "latency": null,
                "usage": {"prompt_tokens": null, "completion_tokens": 5, "cached_tokens": 0},
            })
        );
    }
}

#[test]
fn jsonl_has_the_same_members_for_what_was_remembered_and_for_what_failed() {
    let server = Server::start(|request| match &*request.text {
        "bad" => Answer::error("400 Bad Request", "odd", "no such thing"),
        _ => request.echo(),
    });
    let home = Folder::home();
    let run = |on_error| {
        gptpipe()
            .at(&home)
            .ask(&server)
            .args(["p", "--format", "jsonl", "-b", "line", "-j1"])
            .args(["--on-error", on_error])
            .input("good\nbad\n\ngood\n")
            .run()
    };
    let kept = records(&run("keep").status(1).stdout);
    let skipped = records(&run("skip").status(1).stdout);
    let stopped = records(&run("stop").status(69).stdout);
    assert_eq!((kept.len(), skipped.len(), stopped.len()), (3, 3, 2));
    assert_eq!(kept[1]["text"], "bad");
    assert_eq!(skipped[1]["text"], Value::Null);
    for record in [&kept[1], &skipped[1], &stopped[1]] {
        assert_eq!(record["error"]["kind"], "bad_request");
        assert_eq!(record["error"]["status"], 400);
        let message = record["error"]["message"].as_str().unwrap();
        assert!(message.contains("no such thing"), "{message}");
        assert_eq!(record["finish_reason"], Value::Null);
    }
    // The second line like the first was asked once, or not at all.
    assert_eq!(skipped[0]["cached"], true);
    assert_eq!(skipped[0]["attempts"], 0);
    assert_eq!(skipped[0]["latency"], Value::Null);
    assert_eq!(skipped[2]["index"], 3);
    let members =
        |record: &Value| -> Vec<String> { record.as_object().unwrap().keys().cloned().collect() };
    for record in kept.iter().chain(&skipped).chain(&stopped) {
        assert_eq!(members(record), members(&kept[0]));
    }
}

#[test]
fn a_prompt_alone_is_one_record() {
    let server = Server::start(|request| request.reply(["hi"]));
    let run = gptpipe()
        .ask(&server)
        .args(["-n", "--format=jsonl", "say hi"])
        .run();
    run.ok();
    let records = records(&run.stdout);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["text"], "hi");
    assert_eq!(records[0]["file"], Value::Null);
    assert_eq!(records[0]["start"], Value::Null);
}

#[test]
fn a_fence_and_what_is_around_it_are_left_out() {
    let server = Server::start(|request| {
        let reply = format!("Sure, here it is:\n\n```text\n{}\n```\nDone!", request.text);
        request.reply([&*reply])
    });
    let unfenced = |args: &[&str]| {
        gptpipe()
            .ask(&server)
            .args(["p", "--unfence", "-b", "line"])
            .args(args)
            .input("one\n\ntwo\n")
            .run()
    };
    unfenced(&[]).ok().stdout("one\n\ntwo\n");
    unfenced(&["--live"]).ok().stdout("one\n\ntwo\n");
    let run = unfenced(&["--format", "jsonl"]);
    let texts: Vec<Value> = records(&run.stdout)
        .iter()
        .map(|record| record["text"].clone())
        .collect();
    assert_eq!(texts, ["one", "two"]);
}

#[test]
fn a_record_is_one_line_for_every_reader_of_lines() {
    let server = Server::start(|request| request.reply(["a\r", "b\r\nc\n\nd"]));
    gptpipe()
        .ask(&server)
        .args(["p", "-b", "line"])
        .input("1\n2\n")
        .run()
        .ok()
        .stdout("a b c  d\na b c  d\n");
}
