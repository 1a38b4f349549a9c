//! `--batch`: chunks by the provider's Batch API, never submitted twice, whatever happens.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::canary;
use crate::harness::{Folder, Gptpipe, Random, gptpipe, lines};
use crate::provider::{Fault, Line, Provider};
use crate::server::Gate;
use crate::tty::{Terminal, lines_shown};

const DONE: &[&str] = &["completed"];

fn run(provider: &Provider, home: &Arc<Folder>, args: &[&str]) -> Gptpipe {
    gptpipe()
        .at(home)
        .ask(&provider.server)
        .args(["p", "-b", "line", "--batch"])
        .args(args)
}

/// The chunks of `lines`.
fn chunks(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
}

#[test]
fn the_replies_come_by_batch_and_are_written_as_ever() {
    let (provider, home) = (
        Provider::new(&["validating", "in_progress", "finalizing", "completed"]),
        Folder::home(),
    );
    let text = lines(20);
    let done = run(&provider, &home, &[]).input(&text).run();
    done.status(0).stdout(&text);
    done.says("batch batch_1: 20 requests submitted to gpt-6-luna at 127.0.0.1")
        .says("batch batch_1: in_progress, 0 of 20 done")
        .says("batch batch_1: completed, 20 of 20 done");
    provider.once_each(chunks(&text));
    // What was uploaded holds the user's text, and is of no use any more.
    let state = provider.state();
    assert!(state.files[0].is_deleted && state.files[0].name.starts_with("gptpipe-"));
    drop(state);
    // And from then on it is remembered.
    let calls = provider.server.calls();
    run(&provider, &home, &["-q"])
        .input(&text)
        .run()
        .ok()
        .stdout(&text);
    gptpipe()
        .at(&home)
        .ask(&provider.server)
        .args(["p", "-b", "line"])
        .input(&text)
        .run()
        .ok()
        .stdout(&text);
    assert_eq!(provider.server.calls(), calls, "nothing more is asked");
}

#[test]
fn the_body_is_that_of_an_ordinary_request_without_its_stream() {
    for api in ["chat", "responses"] {
        let (provider, home) = (Provider::new(DONE), Folder::home());
        let args = [
            "--api",
            api,
            "--param",
            "temperature=0.5",
            "-s",
            "Be brief.",
        ];
        let one = run(&provider, &home, &args).input("one\n").run();
        one.status(0).stdout("one\n");
        let ordinary = gptpipe()
            .ask(&provider.server)
            .args(["p", "-b", "line"])
            .args(args)
            .input("one\n")
            .run();
        ordinary.ok().stdout("one\n");
        let requests = provider.server.requests();
        let mut expected = requests.last().unwrap().body.clone();
        let fields = expected.as_object_mut().unwrap();
        fields.remove("stream");
        fields.remove("stream_options");
        let state = provider.state();
        let line: Value = serde_json::from_str(state.files[0].text.trim()).unwrap();
        assert_eq!(line["body"], expected);
        assert_eq!(
            line["url"],
            if api == "chat" {
                "/v1/chat/completions"
            } else {
                "/v1/responses"
            }
        );
    }
}

#[test]
fn a_file_keeps_to_the_bounds_of_the_provider() {
    let (provider, home) = (Provider::new(DONE), Folder::home());
    let text = lines(25);
    let bounds = "[profiles.openai]\nbatch = { requests = 10 }\n";
    let by_requests = run(&provider, &home, &[]).config(bounds).input(&text).run();
    by_requests.status(0).stdout(&text);
    assert_eq!(provider.batches(), 3);
    provider.once_each(chunks(&text));
    let state = provider.state();
    let counts: Vec<usize> = state.files[..3]
        .iter()
        .map(|f| f.text.lines().count())
        .collect();
    assert_eq!(counts, [10, 10, 5]);
    drop(state);

    let (provider, home) = (Provider::new(DONE), Folder::home());
    let bounds = "[profiles.openai]\nbatch = { bytes = \"5KB\" }\n";
    let by_bytes = run(&provider, &home, &[]).config(bounds).input(&text).run();
    by_bytes.status(0).stdout(&text);
    provider.once_each(chunks(&text));
    let state = provider.state();
    let inputs = state
        .files
        .iter()
        .filter(|file| file.name.starts_with("gptpipe"));
    assert!(inputs.clone().count() > 1);
    assert!(inputs.clone().all(|file| file.text.len() <= 5000));
}

#[test]
fn a_file_that_is_too_large_for_the_server_is_halved() {
    let (provider, home) = (Provider::new(DONE), Folder::home());
    let too_large = Fault::Answer("413 Payload Too Large", "", "{}");
    provider
        .state()
        .on_upload
        .extend([too_large.clone(), too_large]);
    let text = lines(8);
    let done = run(&provider, &home, &[]).input(&text).run();
    done.status(0).stdout(&text);
    assert_eq!(provider.batches(), 4);
    provider.once_each(chunks(&text));
}

#[test]
fn what_fails_for_now_is_put_into_a_further_batch_alone() {
    let (provider, home) = (Provider::new(DONE), Folder::home());
    let provider = provider.judge(|text, times| match (text, times) {
        ("3", 1) => Line::Error(
            429,
            json!({"error": {"code": "rate_limit_exceeded", "message": "slow"}}),
        ),
        ("5", 1 | 2) => Line::Error(500, json!({"error": {"message": "oops"}})),
        ("7", 1) => Line::Silent,
        _ => Line::Reply(text.to_owned()),
    });
    let text = lines(10);
    let done = run(&provider, &home, &[]).input(&text).run();
    done.status(0).stdout(&text);
    done.says("batch batch_1 is completed, and 3 of its 10 requests failed for now");
    let state = provider.state();
    for (chunk, times) in &state.submitted {
        let expected = match chunk.as_str() {
            "3" | "7" => 2,
            "5" => 3,
            _ => 1,
        };
        assert_eq!(*times, expected, "{chunk}");
    }
    assert!(state.asked.is_empty(), "the full price is paid for nothing");
}

#[test]
fn what_expired_is_submitted_again() {
    let (provider, home) = (Provider::new(&["in_progress", "expired"]), Folder::home());
    let provider = provider.judge(|text, times| {
        if times == 1 && text > "2" {
            Line::Expired
        } else {
            Line::Reply(text.to_owned())
        }
    });
    let text = lines(6);
    let done = run(&provider, &home, &[]).input(&text).run();
    done.status(0).stdout(&text);
    assert_eq!(provider.batches(), 2);
    assert!(provider.state().asked.is_empty());
}

#[test]
fn what_never_works_fails_as_a_chunk_does() {
    let fails = |status: u16, body: Value| {
        let provider = Provider::new(DONE);
        provider.judge(move |text, _| match text {
            "1" => Line::Error(status, body.clone()),
            _ => Line::Reply(text.to_owned()),
        })
    };
    let body = json!({"error": {"message": "no such field: x", "type": "invalid_request_error"}});
    let (provider, text) = (fails(400, body.clone()), lines(3));
    let done = run(&provider, &Folder::home(), &[]).input(&text).run();
    done.status(69).stdout("0\n");
    done.says("chunk 2 (bytes 2-3, line 2 of standard input) failed: the server does not accept the request")
        .says("no such field: x");
    provider.once_each(chunks(&text));
    let provider = fails(400, body);
    let done = run(&provider, &Folder::home(), &["--on-error", "skip"])
        .input(&text)
        .run();
    done.status(1).stdout("0\n\n2\n");
    provider.once_each(chunks(&text));
    // Its time is over in three batches.
    let provider = fails(500, json!({"error": {"message": "oops"}}));
    let done = run(&provider, &Folder::home(), &[]).input(&text).run();
    done.status(75).stdout("0\n");
    assert_eq!(provider.state().submitted["1"], 3);
    assert!(provider.state().asked.is_empty());
    let quota = json!({"error": {"code": "insufficient_quota", "message": "no more"}});
    let done = run(&fails(429, quota), &Folder::home(), &[])
        .input(&text)
        .run();
    done.status(255).stdout("0\n");
}

#[test]
fn what_is_too_long_is_asked_about_in_halves_by_a_further_batch() {
    let (provider, home) = (Provider::new(DONE), Folder::home());
    let provider = provider.judge(|text, _| {
        if text.len() > 20 {
            Line::Cut("a beginn".to_owned())
        } else {
            Line::Reply(text.to_uppercase())
        }
    });
    let text = "one two three four five six.\nshort\n";
    let done = run(&provider, &home, &[]).input(text).run();
    done.status(0).stdout(text.to_uppercase());
    assert_eq!(provider.batches(), 2);
    assert!(provider.state().asked.is_empty());
}

#[test]
fn a_reply_that_the_user_bounds_is_written_cut_and_not_asked_for_again() {
    let (provider, home) = (Provider::new(DONE), Folder::home());
    let provider = provider.judge(|text, _| match text {
        "1" => Line::Cut("cut".to_owned()),
        _ => Line::Reply(text.to_owned()),
    });
    let text = lines(3);
    let done = run(&provider, &home, &["--max-output-tokens", "5"])
        .input(&text)
        .run();
    done.status(1)
        .stdout("0\ncut\n2\n")
        .says("the reply was cut at --max-output-tokens");
    provider.once_each(chunks(&text));
}

#[test]
fn a_batch_that_is_refused_says_why() {
    let (provider, home) = (Provider::new(&["failed"]), Folder::home());
    provider.state().errors = json!({"object": "list", "data": [
        {"code": "invalid_json_line", "message": "This line is not parseable", "param": null, "line": 1}]});
    let done = run(&provider, &home, &[]).input(lines(2)).run();
    done.status(69).stdout("");
    done.says("batch batch_1 was refused")
        .says("line 1: This line is not parseable");
    provider.state().errors = json!({"object": "list", "data": [
        {"code": "model_not_found", "message": "no such model", "param": "body.model", "line": 1}]});
    let done = run(&provider, &home, &[]).input(lines(2)).run();
    done.status(255).says("the server does not know the model");
}

#[test]
fn a_batch_that_has_no_room_yet_is_submitted_again_smaller() {
    let (provider, home) = (Provider::new(&["failed"]), Folder::home());
    provider.state().errors = json!({"object": "list", "data": [
        {"code": "token_limit_exceeded", "message": "Enqueued token limit reached for m", "param": null, "line": null}]});
    let running = run(&provider, &home, &[]).input(lines(4)).start();
    running.wait_stderr(|stderr| stderr.contains("is submitted again in 2 s"));
    provider.state().states = vec!["completed"];
    let done = running.finish();
    done.status(0).stdout(lines(4));
    let state = provider.state();
    assert_eq!(
        state.batches.len(),
        3,
        "one refused, and two of half its size"
    );
}

#[test]
fn a_reply_to_the_submission_that_is_lost_submits_nothing_twice() {
    for faults in [
        vec![Fault::Lost],
        vec![
            Fault::Answer("502 Bad Gateway", "", "<html></html>"),
            Fault::Lost,
        ],
        vec![Fault::Answer(
            "429 Too Many Requests",
            "Retry-After: 1\r\n",
            "{}",
        )],
    ] {
        let (provider, home) = (Provider::new(DONE), Folder::home());
        provider.state().on_create.extend(faults);
        let text = lines(4);
        let done = run(&provider, &home, &[]).input(&text).run();
        done.status(0).stdout(&text);
        assert_eq!(provider.batches(), 1);
        provider.once_each(chunks(&text));
    }
}

#[test]
fn an_upload_whose_reply_is_lost_is_uploaded_again() {
    let (provider, home) = (Provider::new(DONE), Folder::home());
    provider.state().on_upload.extend([
        Fault::Lost,
        Fault::Answer("503 Service Unavailable", "", "{}"),
    ]);
    let text = lines(4);
    run(&provider, &home, &[])
        .input(&text)
        .run()
        .status(0)
        .stdout(&text);
    provider.once_each(chunks(&text));
}

#[test]
fn a_process_killed_at_any_moment_is_picked_up_by_the_next() {
    let text = lines(12);
    // Before the upload is answered, before the batch is, and while it is waited for.
    for moment in 0..3 {
        let (provider, home) = (Provider::new(&["in_progress", "completed"]), Folder::home());
        let gate = Gate::default();
        match moment {
            0 => provider
                .state()
                .on_upload
                .push_back(Fault::Held(gate.clone())),
            1 => provider
                .state()
                .on_create
                .push_back(Fault::Held(gate.clone())),
            _ => provider
                .state()
                .on_look
                .push_back(Fault::Held(gate.clone())),
        }
        let running = run(&provider, &home, &[]).input(&text).start();
        provider.server.wait(|log| log.calls == moment + 1);
        running.kill();
        gate.open();
        // Others are there by then, so that it is not on the first page.
        if moment == 1 {
            for other in ["x\n", "y\n", "z\n"] {
                let elsewhere = Folder::home();
                run(&provider, &elsewhere, &[]).input(other).run().status(0);
            }
        }
        let done = run(&provider, &home, &[]).input(&text).run();
        done.status(0).stdout(&text);
        for chunk in chunks(&text) {
            assert_eq!(
                provider.state().submitted[chunk],
                1,
                "moment {moment}: {chunk}"
            );
        }
        assert!(provider.state().asked.is_empty());
    }
}

#[test]
fn a_process_killed_while_it_takes_replies_in_pays_for_none_again() {
    let (provider, home, text) = (Provider::new(DONE), Folder::home(), lines(3000));
    for attempt in 0..6 {
        let running = run(&provider, &home, &[]).input(&text).start();
        running.wait_stderr(|stderr| stderr.contains("completed"));
        std::thread::sleep(std::time::Duration::from_millis(5 * attempt));
        running.kill();
    }
    let done = run(&provider, &home, &[]).patient().input(&text).run();
    done.status(0).stdout(&text);
    provider.once_each(chunks(&text));
}

/// Whatever it was doing, upload, start, watch or take in, the next run goes on from there.
#[test]
fn a_process_killed_again_and_again_submits_nothing_twice() {
    let mut random = Random::new();
    let (provider, home) = (Provider::new(&["in_progress", "completed"]), Folder::home());
    let (text, bounds) = (lines(40), "[profiles.openai]\nbatch = { requests = 10 }\n");
    let mut ended = 0;
    loop {
        let running = run(&provider, &home, &[])
            .config(bounds)
            .input(&text)
            .start();
        let moment = 5 + random.below(400) * (1 + ended / 20);
        std::thread::sleep(Duration::from_millis(moment as u64));
        if !running.kill().1 {
            break;
        }
        ended += 1;
        assert!(ended < 200, "no run comes any further");
    }
    let done = run(&provider, &home, &[]).config(bounds).input(&text).run();
    done.status(0).stdout(&text);
    provider.once_each(chunks(&text));
    let locks = std::fs::read_dir(home.path.join("state/gptpipe"))
        .unwrap()
        .flatten();
    let left: Vec<_> = locks
        .filter(|file| !file.file_name().to_string_lossy().contains(".db"))
        .collect();
    let left: Vec<_> = left.iter().filter(|file| file.path().is_file()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn two_processes_at_once_submit_once() {
    let (provider, home) = (Provider::new(&["in_progress", "completed"]), Folder::home());
    let text = lines(30);
    let gate = Gate::default();
    provider
        .state()
        .on_upload
        .push_back(Fault::Held(gate.clone()));
    let first = run(&provider, &home, &[]).input(&text).start();
    provider.server.wait(|log| log.calls == 1);
    let second = run(&provider, &home, &[]).input(&text).start();
    second.wait_stderr(|stderr| stderr.contains("another gptpipe submits such a batch"));
    gate.open();
    first.finish().status(0).stdout(&text);
    second.finish().status(0).stdout(&text);
    assert_eq!(provider.batches(), 1);
    provider.once_each(chunks(&text));
}

#[test]
fn input_that_grew_submits_what_is_not_on_its_way() {
    let (provider, home) = (Provider::new(&["in_progress"; 99]), Folder::home());
    let running = run(&provider, &home, &[]).input(lines(4)).start();
    running.wait_stderr(|stderr| stderr.contains("in_progress"));
    running.kill();
    for batch in &provider.state().batches {
        assert_eq!(batch.input, "file-1");
    }
    provider.state().states = vec!["completed"];
    let running = run(&provider, &home, &[]).input(lines(6)).start();
    running.wait_stderr(|stderr| stderr.contains("batch_2: completed"));
    let cancelled = gptpipe()
        .at(&home)
        .ask(&provider.server)
        .args(["batch", "cancel", "batch_1"]);
    cancelled.run().status(0);
    let done = running.finish();
    done.status(75)
        .stdout("")
        .says("batch batch_1 was cancelled; 2 of its 4 requests were answered");
    let done = run(&provider, &home, &[]).input(lines(6)).run();
    done.status(0).stdout(lines(6));
    let state = provider.state();
    let twice = state.submitted.values().filter(|times| **times == 2);
    assert_eq!(
        twice.count(),
        2,
        "those that were cancelled: {:?}",
        state.submitted
    );
}

#[test]
fn an_interrupted_run_says_what_goes_on_and_how_to_pick_it_up() {
    let (provider, home) = (Provider::new(&["in_progress"; 99]), Folder::home());
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let running = run(&provider, &home, &[]).input(lines(4)).start();
        running.wait_stderr(|stderr| stderr.contains("in_progress, 0 of 4 done"));
        running.signal(signal);
        let done = running.finish();
        done.must(
            done.code.or(done.signal.map(|signal| 128 + signal)) == Some(status),
            "it ends by the signal",
        );
        done.stdout("")
            .says("interrupted: batch batch_1 goes on at the server, with 0 of 4 requests done")
            .says("the same command picks it up; `gptpipe batch cancel batch_1` ends it");
    }
    provider.state().batches[0].finish_next();
    let done = run(&provider, &home, &[]).input(lines(4)).run();
    done.status(0).stdout(lines(4));
    provider.once_each(chunks(&lines(4)));
}

/// Whoever finds the damage says so, as the next one finds nothing.
#[test]
fn a_damaged_record_is_told_by_the_command_and_by_a_run() {
    let provider = Provider::new(&["in_progress"; 99]);
    let home = Folder::home();
    let record = home.path.join("state/gptpipe/batch.db");
    for is_command in [true, false] {
        let running = run(&provider, &home, &[]).input(lines(4)).start();
        running.wait_stderr(|stderr| stderr.contains("in_progress, 0 of 4 done"));
        running.signal(Signal::INT);
        running.finish();
        let file = File::options().write(true).open(&record).unwrap();
        file.write_all_at(&b"this is no database ".repeat(400), 0)
            .unwrap();
        let says = "was set aside";
        let lost = "the batches that it knew go on at the server";
        let before = provider.state().batches.len();
        if is_command {
            let command = || gptpipe().at(&home).arg("batch").run();
            let found = command();
            found.status(0).stdout("").one_message();
            found.says(says).says(lost);
            command().ok().stdout("");
        } else {
            let running = run(&provider, &home, &[]).input(lines(4)).start();
            running.finish().status(75).says(says).says(lost);
            let after = provider.state().batches.len();
            assert_eq!(after, before, "nothing is paid for twice unasked");
            let running = run(&provider, &home, &[]).input(lines(4)).start();
            running.wait_stderr(|stderr| stderr.contains("in_progress, 0 of 4 done"));
            running.signal(Signal::INT);
            running.finish();
        }
    }
}

#[test]
fn the_command_tells_and_cancels() {
    let (provider, home) = (Provider::new(&["in_progress"; 99]), Folder::home());
    let command = |args: &[&str]| gptpipe().at(&home).arg("batch").args(args).run();
    command(&[]).ok().stdout("");
    let running = run(&provider, &home, &[]).input(lines(4)).start();
    running.wait_stderr(|stderr| stderr.contains("in_progress"));
    let told = command(&["list"]);
    told.ok();
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|row| row.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[0],
        [
            "batch", "state", "done", "failed", "total", "tokens", "age", "model", "host"
        ]
    );
    assert_eq!(
        rows[1][..6],
        ["batch_1", "in_progress", "0", "0", "4", "0"],
        "{text}"
    );
    let cancelled = command(&["cancel", "batch_1"]);
    cancelled
        .ok()
        .stdout("batch   batch_1\nstate   cancelling\ndone    0\nfailed  0\ntotal   4\n");
    let done = running.finish();
    done.status(75)
        .says("2 of its 4 requests were answered and are remembered");
    let told = command(&[]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("batch_1  cancelled"));
    let again = command(&["cancel", "batch_1"]);
    again
        .status(69)
        .says("batch batch_1 is not cancelled")
        .says("Cannot cancel a batch");
    let elsewhere = gptpipe()
        .ask(&provider.server)
        .args(["batch", "cancel", "batch_9"])
        .run();
    elsewhere.status(69).says("No such batch");
    let nowhere = gptpipe().args(["batch", "cancel", "nosuch"]).run();
    nowhere
        .status(2)
        .one_message()
        .says("there is no batch nosuch on record here")
        .says("there is no key for the profile `openai`")
        .says("`gptpipe batch` tells those on record");
    command(&["cancel", "batch_1", "batch_2"])
        .status(2)
        .one_message()
        .says("`gptpipe batch cancel` takes the name of one batch");
    command(&["cancel"])
        .status(2)
        .says("`gptpipe batch cancel` needs the name of a batch");
    command(&["end"])
        .status(2)
        .says("`gptpipe batch` takes list or cancel, not `end`");
    // A server that is gone does not keep what is known from being told.
    let running = run(&provider, &home, &[]).input(lines(2)).start();
    running.wait_stderr(|stderr| stderr.contains("in_progress"));
    running.kill();
    drop(provider);
    let told = command(&[]);
    told.status(0).says("batch batch_2 cannot be asked about");
    assert!(String::from_utf8_lossy(&told.stdout).contains("batch_2  in_progress"));
}

#[test]
fn what_does_not_go_with_batches_is_refused_before_anything_is_sent() {
    let (provider, home) = (Provider::new(DONE), Folder::home());
    for (args, says) in [
        (&["--live"][..], "`--batch` and `--live` exclude each other"),
        (
            &["--flush-after", "1s"],
            "`--batch` and `--flush-after` exclude each other",
        ),
        (
            &["--cache-only"],
            "`--batch` and `--cache-only` exclude each other",
        ),
        (
            &["--no-cache"],
            "`--batch` and `--no-cache` exclude each other",
        ),
        (&["--demo"], "`--batch` and `--demo` exclude each other"),
        (
            &["--cache", ":memory:"],
            "`--batch` needs a cache that lasts",
        ),
        (
            &["-P", "mistral", "-m", "m"],
            "the profile `mistral` has no Batch API",
        ),
        (
            &["--cache", "/dev/null/x"],
            "`--batch` has nowhere to keep track",
        ),
    ] {
        let refused = run(&provider, &home, args).input("text\n").run();
        refused.status(2).stdout("").says(says).says("hint: ");
    }
    assert_eq!(provider.server.calls(), 0);
    let own = "[profiles.own]\nmodel = 'm'\nbatch = true\n";
    let own = run(&provider, &home, &["-P", "own"])
        .config(own)
        .input("text\n")
        .run();
    own.status(0).stdout("text\n");
    let wrong = run(&provider, &home, &[])
        .config("[profiles.openai]\nbatch = 7\n")
        .run();
    wrong
        .status(2)
        .says("`batch`: takes true, false or { requests = 50000");
}

#[test]
fn a_server_without_the_api_is_told() {
    let server = crate::server::Server::start(|_| {
        crate::server::Answer::error("404 Not Found", "not_found", "no such path")
    });
    let refused = gptpipe()
        .ask(&server)
        .args(["p", "--batch"])
        .input("text")
        .run();
    refused
        .status(255)
        .stdout("")
        .says("has no Batch API, it seems");
}

#[test]
fn the_server_is_asked_politely_and_its_waits_are_kept() {
    let (provider, home) = (
        Provider::new(&["in_progress", "in_progress", "completed"]),
        Folder::home(),
    );
    provider.state().on_look.extend([
        Fault::Answer("429 Too Many Requests", "Retry-After: 3\r\n", "{}"),
        Fault::Answer("503 Service Unavailable", "", "{}"),
    ]);
    let done = run(&provider, &home, &[]).input(lines(2)).run();
    done.status(0).stdout(lines(2));
    let looks: Vec<Instant> = provider
        .server
        .requests()
        .iter()
        .filter(|request| request.method == "GET" && request.path.ends_with("batches/batch_1"))
        .map(|request| request.arrived)
        .collect();
    let waits: Vec<Duration> = looks.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(waits.len(), 4);
    assert!(waits[0] >= Duration::from_secs(3), "{waits:?}");
    assert!(
        waits.iter().all(|wait| *wait >= Duration::from_millis(790)),
        "{waits:?}"
    );
    assert!(waits[3] >= Duration::from_secs(2), "they grow: {waits:?}");
}

#[test]
fn an_outage_that_lasts_is_passing_and_picked_up_later() {
    let (provider, home) = (Provider::new(DONE), Folder::home());
    let out = || Fault::Answer("503 Service Unavailable", "", "{}");
    provider.state().on_look.extend([out(), out()]);
    let done = run(&provider, &home, &["--retries", "1"])
        .input(lines(2))
        .run();
    done.status(75)
        .stdout("")
        .says("batch batch_1 is lost sight of")
        .says("nothing is submitted twice");
    let done = run(&provider, &home, &[]).input(lines(2)).run();
    done.status(0).stdout(lines(2));
    provider.once_each(chunks(&lines(2)));
}

#[test]
fn a_batch_that_the_server_forgot_is_submitted_anew() {
    let (provider, home) = (Provider::new(&["in_progress"; 99]), Folder::home());
    let running = run(&provider, &home, &[]).input(lines(2)).start();
    running.wait_stderr(|stderr| stderr.contains("in_progress"));
    running.kill();
    // A batch of another project's key looks the same.
    let gone = || Fault::Answer("404 Not Found", "", "{}");
    provider
        .state()
        .on_look
        .extend([gone(), gone(), gone(), gone(), gone()]);
    provider.state().states = vec!["completed"];
    let done = run(&provider, &home, &[]).input(lines(2)).run();
    done.status(0)
        .stdout(lines(2))
        .says("batch batch_1 is unknown to 127.0.0.1");
    assert_eq!(provider.batches(), 2);
}

#[test]
fn chunks_that_are_the_same_are_submitted_once_and_what_is_remembered_not_at_all() {
    let (provider, home) = (Provider::new(DONE), Folder::home());
    let remembered = gptpipe()
        .at(&home)
        .ask(&provider.server)
        .args(["p", "-b", "line"]);
    remembered.input("known\n").run().ok();
    let text = "same\nknown\nsame\n\nother\nsame\n";
    let done = run(&provider, &home, &[]).input(text).run();
    done.status(0).stdout(text);
    let state = provider.state();
    let submitted: Vec<(&str, usize)> = state
        .submitted
        .iter()
        .map(|(chunk, times)| (chunk.as_str(), *times))
        .collect();
    assert_eq!(submitted, [("other", 1), ("same", 1)]);
    assert_eq!(state.asked.len(), 1);
}

#[test]
fn nothing_to_ask_submits_nothing() {
    let (provider, home) = (Provider::new(DONE), Folder::home());
    run(&provider, &home, &[])
        .input(" \n\n")
        .run()
        .ok()
        .stdout(" \n\n");
    assert_eq!(provider.server.calls(), 0);
    let dry = run(&provider, &home, &["--dry-run"]).input(lines(2)).run();
    dry.status(0);
    assert_eq!(provider.server.calls(), 0);
    let binary = run(&provider, &home, &[]).input(b"a\0b").run();
    binary.status(65).stdout("");
    assert_eq!(provider.batches(), 0);
}

#[test]
fn files_pipes_and_a_prompt_alone_go_by_batch_too() {
    let (provider, home) = (Provider::new(DONE), Folder::home());
    home.write("one.txt", "one\n");
    home.write("two.txt", "two\n");
    let files = run(&provider, &home, &["one.txt", "-", "two.txt"])
        .input("three\n")
        .run();
    files.status(0).stdout("one\nthree\ntwo\n");
    let replaced = run(&provider, &home, &["-i", "two.txt"]);
    provider.state().judge = Box::new(|text, _| Line::Reply(text.to_uppercase()));
    replaced.args(["--refresh"]).run().status(0).stdout("");
    let text = std::fs::read_to_string(home.path.join("two.txt")).unwrap();
    assert_eq!(text, "TWO\n");
    let alone = gptpipe()
        .at(&home)
        .ask(&provider.server)
        .args(["--batch", "-n", "a word"])
        .run();
    alone.status(0).stdout("A WORD\n");
    assert!(provider.state().asked.is_empty());
}

#[test]
fn the_map_goes_by_batch_and_merging_the_ordinary_way() {
    let (provider, home) = (Provider::new(DONE), Folder::home());
    let done = run(&provider, &home, &["-R", "merge"])
        .input(lines(3))
        .run();
    done.status(0).stdout("0\n\n1\n\n2\n");
    let state = provider.state();
    assert_eq!(state.submitted.len(), 3);
    assert_eq!(state.asked.keys().collect::<Vec<_>>(), ["0\n\n1\n\n2"]);
}

#[cfg(feature = "schema")]
#[test]
fn replies_are_held_to_a_schema() {
    let (provider, home) = (Provider::new(DONE), Folder::home());
    home.write("schema.json", "{\"type\": \"integer\"}");
    let provider = provider.judge(|text, _| match text {
        "2" => Line::Reply("two".to_owned()),
        _ => Line::Reply(format!(" {text} ")),
    });
    let done = run(&provider, &home, &["--schema", "schema.json"])
        .input("1\n2\n3\n")
        .run();
    done.status(0).stdout("1\n2\n3\n");
    let state = provider.state();
    assert_eq!(
        state.asked.keys().collect::<Vec<_>>(),
        ["2"],
        "what was wrong is asked about as ever"
    );
}

#[test]
fn lines_of_json_say_what_became_of_each_chunk() {
    let (provider, home) = (Provider::new(DONE), Folder::home());
    let provider = provider.judge(|text, _| match text {
        "1" => Line::Error(
            400,
            json!({"error": {"code": "content_filter", "message": "no"}}),
        ),
        _ => Line::Reply(text.to_owned()),
    });
    let args = ["--format", "jsonl", "--on-error", "skip"];
    let done = run(&provider, &home, &args).input(lines(2)).run();
    done.status(1);
    let rows: Vec<Value> = String::from_utf8_lossy(&done.stdout)
        .lines()
        .map(|row| serde_json::from_str(row).unwrap())
        .collect();
    assert_eq!(
        (&rows[0]["text"], &rows[0]["cached"]),
        (&json!("0"), &json!(true))
    );
    assert_eq!(
        rows[1]["error"]["kind"],
        "content_filter".replace("content_", "").as_str().to_owned() + "ed"
    );
}

#[test]
fn quiet_is_quiet_and_verbose_tells_each_look() {
    let (provider, home) = (
        Provider::new(&["in_progress", "in_progress", "completed"]),
        Folder::home(),
    );
    run(&provider, &home, &["-q"])
        .input(lines(2))
        .run()
        .ok()
        .stdout(lines(2));
    let looks = |args: &[&str]| {
        let provider = Provider::new(&["in_progress", "in_progress", "completed"]);
        let done = run(&provider, &Folder::home(), args).input(lines(2)).run();
        done.status(0);
        done.stderr.matches("batch_1: in_progress").count()
    };
    assert_eq!((looks(&[]), looks(&["-v"])), (1, 2));
}

#[test]
fn on_a_terminal_the_line_shows_the_job_and_goes() {
    let (provider, home) = (
        Provider::new(&["in_progress", "in_progress", "completed"]),
        Folder::home(),
    );
    let terminal = Terminal::new();
    let running = run(&provider, &home, &[])
        .env("TERM", "xterm-256color")
        .input(lines(3));
    let running = running.stderr(terminal.line()).start();
    // Drawn, and not only written once.
    terminal
        .screen
        .wait(|shown| shown.matches("batch_1: in_progress, 0 of 3 done").count() > 1);
    running.finish().status(0).stdout(lines(3));
    let lines = lines_shown(&terminal.shown());
    assert_eq!(lines.last().map(String::as_str), Some(""), "{lines:?}");
    let told = lines.iter().filter(|line| line.contains("in_progress"));
    assert_eq!(told.count(), 1, "what was drawn is gone: {lines:?}");
}

#[test]
fn no_key_and_no_text_is_left_anywhere() {
    for key in canary::KEYS {
        let (provider, home) = (Provider::new(&["in_progress"; 99]), Folder::home());
        let secret = "a text that nobody else may read";
        let running = run(&provider, &home, &["-v"])
            .env("GPTPIPE_API_KEY", key)
            .input(secret)
            .start();
        running.wait_stderr(|stderr| stderr.contains("in_progress"));
        running.kill();
        assert_eq!(canary::search(&home.path), Vec::<String>::new());
        // The text is in no file of the state folder, though the process was killed.
        for entry in std::fs::read_dir(home.path.join("state/gptpipe")).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(memchr::memmem::find(&bytes, secret.as_bytes()).is_none());
        }
        let state = provider.state();
        for file in &state.files {
            assert!(!file.text.contains(key) && !file.name.contains(key));
        }
        for request in provider.server.requests() {
            assert_eq!(
                request.header("authorization"),
                Some(format!("Bearer {key}").as_str())
            );
        }
        drop(state);
        provider.state().batches[0].finish_next();
        let done = run(&provider, &home, &["-v"])
            .env("GPTPIPE_API_KEY", key)
            .input(secret)
            .run();
        done.status(0).stdout(secret);
        canary::clean(&done);
        let listed = gptpipe()
            .at(&home)
            .env("GPTPIPE_API_KEY", key)
            .arg("batch")
            .run();
        canary::clean(&listed);
        assert_eq!(canary::search(&home.path), Vec::<String>::new());
    }
}

/// Many files hold far more text than the process ever does.
#[test]
fn memory_is_bounded_by_a_file_and_not_by_the_input() {
    let (provider, home) = (Provider::new(DONE), Folder::home());
    let word = "word ".repeat(400);
    let text = (0..20_000).fold(String::new(), |text, number| {
        text + &format!("{number} {word}\n")
    });
    let bounds = "[profiles.openai]\nbatch = { requests = 5000 }\n";
    home.write("text.txt", &text);
    let peak = |lines: usize| {
        let args = ["-q", "text.txt"];
        let part: Vec<&str> = text.lines().take(lines).collect();
        home.write("text.txt", part.join("\n") + "\n");
        let sink = std::fs::File::create("/dev/null").unwrap();
        let running = run(&provider, &home, &args)
            .config(bounds)
            .patient()
            .stdout(sink)
            .start();
        let end = Instant::now() + 3 * crate::harness::HANGS;
        let mut most = 0;
        let pid = running.id();
        while Instant::now() < end {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let Some(line) = status.lines().find(|line| line.starts_with("VmHWM:")) else {
                break;
            };
            let peak: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            most = most.max(peak);
            std::thread::sleep(Duration::from_millis(20));
        }
        running.finish().ok();
        most
    };
    let (little, much) = (peak(2_500), peak(20_000));
    // The input is 40 MB; what differs is the cache's own pages and one file's keys.
    assert!(much < little + 15_000, "{little} KiB, {much} KiB");
}

/// A dollar for a million tokens, and half of it by batch.
const PRICES: &str = "[prices.m]\ninput = 1\noutput = 1\n";

/// What all requests came to: how many, errors, tokens, dollars.
fn usage(home: &Arc<Folder>) -> Value {
    let told = gptpipe()
        .at(home)
        .args(["usage", "--format", "jsonl"])
        .run();
    told.ok();
    serde_json::from_slice(told.stdout.trim_ascii()).unwrap()
}

#[test]
fn the_ledger_has_each_request_once_at_half_the_price() {
    let (provider, home) = (Provider::new(&["in_progress"; 99]), Folder::home());
    let provider = provider.judge(|text, times| match (text, times) {
        ("1", 1) => Line::Error(500, json!({"error": {"message": "oops"}})),
        _ => Line::Reply(text.to_owned()),
    });
    let batch = || {
        run(&provider, &home, &["-m", "m"])
            .config(PRICES)
            .input(lines(4))
    };
    // The run that submits is gone by the time of the replies, and two take them in.
    let running = batch().start();
    running.wait_stderr(|stderr| stderr.contains("in_progress"));
    running.kill();
    let waiting = [batch().start(), batch().start()];
    for running in &waiting {
        running.wait_stderr(|stderr| stderr.contains("in_progress"));
    }
    provider.state().states = vec!["completed"];
    provider.state().batches[0].finish_next();
    for running in waiting {
        running.finish().status(0).stdout(lines(4));
    }
    let told = usage(&home);
    assert_eq!(
        (&told["requests"], &told["errors"]),
        (&json!(5), &json!(1)),
        "{told}"
    );
    let tokens = told["tokens_in"].as_f64().unwrap() + told["tokens_out"].as_f64().unwrap();
    let dollars = told["cost_usd"].as_f64().unwrap();
    assert!((dollars * 2e6 - tokens).abs() < 1.0, "{told}");
    // What a batch brought was not saved, but for what one of the two may have found by the other's.
    assert!(told["cached"].as_u64().unwrap() <= 1, "{told}");
    let plan = run(&provider, &home, &["-m", "m", "--dry-run", "--refresh"]).config(PRICES);
    let whole = gptpipe().at(&home).ask(&provider.server);
    let whole = whole.args(["p", "-b", "line", "-m", "m", "--dry-run", "--refresh"]);
    let [half, whole] = [plan, whole].map(|plan| {
        let told = plan.args(["--format", "jsonl"]).input(lines(4)).run();
        let last = told
            .stdout
            .trim_ascii()
            .rsplit(|byte| *byte == b'\n')
            .next();
        let total: Value = serde_json::from_slice(last.unwrap()).unwrap();
        total["prompt_cost"]
            .as_f64()
            .unwrap_or_else(|| panic!("{total}"))
    });
    assert!((half * 2.0 - whole).abs() < 1e-9, "{half} {whole}");
}

#[test]
fn what_a_batch_may_come_to_has_to_fit_what_may_be_spent() {
    let (provider, home) = (Provider::new(DONE), Folder::home());
    let bound = ["-m", "m", "--max-output-tokens", "10"];
    let batch = |args: &[&str]| run(&provider, &home, &bound).args(args).config(PRICES);
    let refused = batch(&["--max-cost", "0.0001"]).input(lines(4)).run();
    refused
        .status(255)
        .stdout("")
        .says("--max-cost $0.0001")
        .says("the batch may cost up to");
    assert_eq!(provider.server.calls(), 0, "nothing is uploaded");
    let refused = batch(&["--max-tokens", "100"]).input(lines(4)).run();
    refused.status(255).says("the batch may use up to");
    // One file after the other, where both together would be too much.
    let files = format!("{PRICES}[profiles.openai]\nbatch = {{ requests = 2 }}\n");
    let tight = run(&provider, &home, &bound)
        .args(["--max-tokens", "1500"])
        .config(&files);
    let done = tight.input(lines(4)).run();
    done.status(0).stdout(lines(4));
    assert_eq!(provider.batches(), 2);
    provider.once_each(chunks(&lines(4)));
}
