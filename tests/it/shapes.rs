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
fn jsonl_counts_the_request_of_chunks_that_are_the_same_once() {
    let server = Server::echo();
    let run = gptpipe()
        .ask(&server)
        .args(["p", "--format", "jsonl", "-b", "line", "-j1"])
        .input("same\nother\nsame\nsame\n")
        .run();
    run.ok();
    let lines = records(&run.stdout);
    let told: Vec<(u64, bool)> = lines
        .iter()
        .map(|line| {
            let attempts = line["attempts"].as_u64().unwrap();
            (attempts, line["cached"].as_bool().unwrap())
        })
        .collect();
    assert_eq!(told, [(1, false), (1, false), (0, true), (0, true)]);
    assert_eq!(server.calls(), 2);
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
    let server = Server::start(|request| request.reply(["a\r", "\nb\nc\n\nd"]));
    gptpipe()
        .ask(&server)
        .args(["p", "-b", "line"])
        .input("1\n2\n")
        .run()
        .ok()
        .stdout("a b c  d\na b c  d\n");
}

const PERSON: &str = r#"{
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": false
}"#;

#[test]
fn a_reply_that_does_not_follow_the_schema_is_asked_for_once_more() {
    let server = Server::start(|request| {
        let messages = request.body["messages"].as_array().unwrap();
        match messages.len() {
            2 => request.reply(["{\"name\": \"Ada\", \"age\": \"36\"}"]),
            _ => request.reply(["```json\n{\"name\": \"Ada\",\n \"age\": 36}\n```"]),
        }
    });
    let home = Folder::home();
    let schema = home.write("person.json", PERSON);
    let run = |input: &str| {
        gptpipe()
            .at(&home)
            .ask(&server)
            .args(["-b", "paragraph", "the person", "--schema"])
            .arg(&schema)
            .input(input)
            .run()
    };
    run("Ada is 36.\n\nAnd so is Ada.\n")
        .ok()
        .stdout("{\"name\":\"Ada\",\"age\":36}\n{\"name\":\"Ada\",\"age\":36}\n");
    let requests = server.requests();
    assert_eq!(requests.len(), 4, "each chunk is asked about twice");
    for request in &requests {
        let format = &request.body["response_format"];
        assert_eq!(format["type"], "json_schema");
        assert_eq!(format["json_schema"]["strict"], true);
        let sent: Value = serde_json::from_str(PERSON).unwrap();
        assert_eq!(format["json_schema"]["schema"], sent);
    }
    let mending = requests
        .iter()
        .find(|request| request.body["messages"].as_array().unwrap().len() == 4)
        .unwrap();
    let messages = &mending.body["messages"];
    assert_eq!(messages[2]["role"], "assistant");
    assert_eq!(
        messages[2]["content"],
        "{\"name\": \"Ada\", \"age\": \"36\"}"
    );
    let faults = messages[3]["content"].as_str().unwrap();
    assert!(
        faults.contains("- at /age: \"36\" is not of type"),
        "{faults}"
    );
    // What was mended is remembered.
    run("Ada is 36.\n").ok();
    assert_eq!(server.calls(), 4);
}

#[test]
fn what_is_asked_once_more_is_another_request_to_whoever_tells_them_apart() {
    let server = Server::start(|request| match request.ordinal {
        0 => request.reply(["no JSON"]),
        _ => request.reply(["{\"name\":\"A\",\"age\":1}"]),
    });
    let home = Folder::home();
    let schema = home.write("person.json", PERSON);
    gptpipe()
        .ask(&server)
        .config("[profiles.openai]\nidempotency-header = 'Idempotency-Key'\n")
        .args(["the person", "--schema"])
        .arg(&schema)
        .input("A\n")
        .run()
        .ok();
    let requests = server.requests();
    let keys: Vec<&str> = requests
        .iter()
        .map(|request| request.header("idempotency-key").unwrap())
        .collect();
    assert_eq!(keys.len(), 2);
    assert_ne!(
        keys[0], keys[1],
        "a gateway would answer with the first reply"
    );
}

#[test]
fn what_is_too_long_is_not_asked_about_in_parts_and_the_hint_says_so() {
    let server =
        Server::start(|_| Answer::error("400 Bad Request", "context_length_exceeded", "too long"));
    let home = Folder::home();
    let schema = home.write("person.json", PERSON);
    gptpipe()
        .ask(&server)
        .args(["the persons", "--schema"])
        .arg(&schema)
        .input("One sentence. And another.\n")
        .run()
        .status(69)
        .one_message()
        .says("hint: try a smaller -c");
    assert_eq!(server.calls(), 1);
}

#[test]
fn a_reply_that_never_follows_the_schema_fails() {
    let server = Server::start(|request| request.reply(["no JSON at all"]));
    let home = Folder::home();
    let schema = home.write("person.json", PERSON);
    let run = |on_error: &str| {
        gptpipe()
            .at(&home)
            .ask(&server)
            .args(["the person", "--on-error", on_error, "--schema"])
            .arg(&schema)
            .input("Ada\n")
            .run()
    };
    run("stop")
        .status(69)
        .stdout("")
        .one_message()
        .says("the reply does not follow the schema: it is not JSON: ")
        .says("hint: ");
    assert_eq!(server.calls(), 2);
    run("skip").status(1).stdout("");
    assert_eq!(server.calls(), 4, "what failed is not remembered");
}

#[test]
fn a_server_that_takes_no_schema_is_shown_it_in_the_prompt() {
    let server = Server::start(|request| request.reply(["{\"name\":\"A\",\"age\":1}"]));
    let home = Folder::home();
    let schema = home.write("person.json", PERSON);
    for (mode, kind) in [("object", json!("json_object")), ("prompt", Value::Null)] {
        gptpipe()
            .ask(&server)
            .config(&format!("[profiles.openai]\nschema = '{mode}'\n"))
            .args(["the person", "--schema"])
            .arg(&schema)
            .input("A\n")
            .run()
            .ok()
            .stdout("{\"name\":\"A\",\"age\":1}\n");
        let request = server.requests().pop().unwrap();
        assert_eq!(request.body["response_format"]["type"], kind);
        let system = request.body["messages"][0]["content"].as_str().unwrap();
        assert!(
            system.contains("\"additionalProperties\":false"),
            "{system}"
        );
    }
    gptpipe()
        .ask(&server)
        .args(["the person", "--api", "responses", "--schema"])
        .arg(&schema)
        .input("A\n")
        .run()
        .ok();
    let request = server.requests().pop().unwrap();
    assert_eq!(request.body["text"]["format"]["type"], "json_schema");
    assert_eq!(request.body["text"]["format"]["name"], "reply");
}

#[test]
fn what_is_no_schema_is_told_before_anything_is_sent() {
    let server = Server::echo();
    let home = Folder::home();
    let wrong = home.write("wrong.json", "{\"type\": \"strin\"}");
    let ask = || gptpipe().ask(&server).args(["p", "--schema"]).input("A\n");
    ask()
        .arg(&wrong)
        .run()
        .status(2)
        .one_message()
        .says("wrong.json` is no JSON Schema: ");
    ask().arg("/no/such.json").run().status(66).one_message();
    assert_eq!(server.calls(), 0);
}
