//! `--dry-run`: what would be sent, and nothing is.

use serde_json::{Value, json};

use crate::harness::{Folder, gptpipe};
use crate::server::Server;

#[test]
fn the_plan_is_what_the_run_does() {
    let server = Server::echo();
    let home = Folder::home();
    let text = home.write("text.txt", "One.\n\nTwo.\n\nThree.\n\nTwo.\n");
    let run = |args: &[&str]| {
        gptpipe()
            .at(&home)
            .ask(&server)
            .args(["p", "-b", "paragraph"])
            .args(args)
            .arg(&text)
            .run()
    };
    // One of the chunks is remembered already.
    gptpipe()
        .at(&home)
        .ask(&server)
        .args(["p", "-b", "paragraph"])
        .input("Three.")
        .run()
        .ok();
    let plan = run(&["--dry-run", "--format", "jsonl"]);
    plan.ok();
    assert_eq!(server.calls(), 1, "nothing is sent");
    let lines: Vec<Value> = String::from_utf8(plan.stdout.clone())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let fates: Vec<&Value> = lines.iter().map(|line| &line["fate"]).collect();
    assert_eq!(fates[..4], ["send", "send", "cached", "repeated"]);
    assert_eq!(
        lines[1],
        json!({
            "type": "chunk", "index": 2, "file": text.to_str().unwrap(), "start": 6, "end": 10,
            "line": 3, "tokens": 2, "fate": "send",
        })
    );
    let total = &lines[4];
    assert_eq!(total["type"], "total");
    assert_eq!(
        (&total["chunks"], &total["requests"]),
        (&json!(4), &json!(2))
    );
    let framing = total["prompt_tokens"].as_u64().unwrap();
    assert!((60..400).contains(&framing), "twice the framing: {framing}");
    let plan = run(&["--dry-run"]);
    let told = String::from_utf8(plan.ok().stdout.clone()).unwrap();
    let second = "\nchunk 2: 2 tokens, to send (bytes 6-10, line 3 of ";
    assert!(told.contains(second), "{told}");
    // And then it is so.
    run(&[]).ok();
    assert_eq!(server.calls(), 3);
    let plan = run(&["--dry-run"]);
    let text = String::from_utf8(plan.stdout.clone()).unwrap();
    assert!(
        text.contains("\n4 chunks: 0 to send, 4 remembered, 0 the same as others\n"),
        "{text}"
    );
    assert_eq!(server.calls(), 3);
}

#[test]
fn a_plan_needs_neither_a_key_nor_a_server() {
    let run = gptpipe()
        .args(["--dry-run", "summarize"])
        .input("Some text.\n")
        .run();
    run.ok();
    let text = String::from_utf8(run.stdout.clone()).unwrap();
    assert!(text.contains("1 request to gpt-"), "{text}");
    assert!(text.contains(" at api.openai.com: "), "{text}");
}

#[test]
fn what_cannot_be_read_fails_as_in_the_run() {
    gptpipe()
        .args(["--dry-run", "p"])
        .input(b"caf\xe9")
        .run()
        .status(65)
        .one_message();
}

#[test]
fn a_plan_tells_what_it_would_cost() {
    let plan = |model: &str, args: &[&str]| {
        let run = gptpipe()
            .config("[prices.m]\ninput = 1\noutput = 200\n")
            .args(["--dry-run", "-b", "paragraph", "-s", "", "-m", model, "p"])
            .args(args)
            .input("One.\n\nTwo.\n")
            .run();
        run.ok();
        String::from_utf8(run.stdout.clone()).unwrap()
    };
    // Two prompts of one token, with two of a chunk each.
    let text = plan("m", &[]);
    let cost = "\ncost: $0.000006 for the prompts, and $0.000800 if the replies are as long as their chunks\n";
    assert!(text.contains(cost), "{text}");
    let text = plan("m", &["--max-output-tokens", "100"]);
    let cost =
        "\ncost: $0.000006 for the prompts, and $0.0400 if the replies are of 100 tokens each\n";
    assert!(text.contains(cost), "{text}");
    let text = plan("m", &["--format", "jsonl"]);
    let total: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(total["prompt_cost"], json!(6e-6));
    assert_eq!(total["reply_cost"], json!(8e-4));
    // What is not known is not nothing.
    let text = plan("in-house", &[]);
    let cost = "\ncost: ?, as there is no known price for the model in-house\n";
    assert!(text.contains(cost), "{text}");
    let text = plan("in-house", &["--format", "jsonl"]);
    let total: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(total["prompt_cost"], Value::Null);
}
