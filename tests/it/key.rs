//! Keys: sent in a header and found nowhere else, at no verbosity, whatever the server says back.

use std::fs;
use std::path::Path;

use crate::harness::gptpipe;
use crate::server::{Answer, Request, Server};

/// A key as `OpenAI` makes them, one of another shape, and one that is no word at all.
const KEYS: [&str; 3] = [
    "sk-proj-canary0123456789ABCDEFabcdef",
    "canary",
    "canary/with+odd=parts.and:more",
];

fn find_in_files(folder: &Path, what: &str) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find_in_files(&path, what);
        } else {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            assert!(!text.contains(what), "the key is in {}", path.display());
        }
    }
}

#[test]
fn a_key_is_sent_in_its_header_and_shown_nowhere() {
    for key in KEYS {
        let answers: [fn(&Request) -> Answer; 6] = [
            Request::echo,
            |request| {
                let said = format!(
                    "Incorrect API key provided: {}",
                    request.header("authorization").unwrap()
                );
                Answer::error("401 Unauthorized", "invalid_api_key", &said)
            },
            |request| {
                let key = request
                    .header("authorization")
                    .unwrap()
                    .trim_start_matches("Bearer ")
                    .to_owned();
                let error = format!(r#"{{"error":{{"message":"no","code":"{key}"}}}}"#);
                let headers = format!("Content-Type: application/json\r\nx-request-id: {key}\r\n");
                Answer::plain("500 Internal Server Error", &headers, error)
            },
            |request| {
                let page = format!(
                    "<html><title>{}</title>",
                    request.header("authorization").unwrap()
                );
                Answer::plain("502 Bad Gateway", "Content-Type: text/html\r\n", page)
            },
            |request| {
                let key = request.header("authorization").unwrap().to_owned();
                request
                    .stream()
                    .event(&format!(r#"{{"error":{{"message":"who is {key}?"}}}}"#))
                    .end()
            },
            |request| {
                let key = request.header("authorization").unwrap().to_owned();
                let location = format!("Location: https://{key}@other.test/{key}\r\n");
                Answer::plain("307 Temporary Redirect", &location, "")
            },
        ];
        for answer in answers {
            let server = Server::start(answer);
            for verbosity in [&[][..], &["-q"], &["-v"], &["-v", "--progress", "always"]] {
                let run = gptpipe()
                    .ask(&server)
                    .env("GPTPIPE_API_KEY", key)
                    .arg("p")
                    .once()
                    .args(verbosity);
                let run = run.input("A text.\n").run();
                run.must(!run.stderr.contains(key), "the key must not be shown");
                run.must(
                    !String::from_utf8_lossy(&run.stdout).contains(key),
                    "the key must not be written",
                );
            }
            for request in server.requests() {
                assert_eq!(
                    request.header("authorization"),
                    Some(format!("Bearer {key}").as_str())
                );
                let elsewhere = request
                    .headers
                    .iter()
                    .filter(|(name, _)| name != "authorization");
                assert!(
                    !elsewhere
                        .map(|(_, value)| value)
                        .any(|value| value.contains(key))
                );
                assert!(!request.path.contains(key) && !request.body.to_string().contains(key));
            }
        }
    }
}

#[test]
fn a_run_leaves_no_key_in_files() {
    let server = Server::echo();
    let run = gptpipe();
    let home = run.home().path.clone();
    let mut run = run
        .ask(&server)
        .env("OPENAI_API_KEY", KEYS[1])
        .args(["p", "-v"])
        .hold_input()
        .start();
    run.feed("A text.\n");
    run.end_input();
    run.wait_stdout(|stdout| stdout == b"A text.\n");
    find_in_files(&home, KEYS[1]);
    run.finish().status(0);
}

#[test]
fn a_key_with_a_line_end_in_it_is_refused_and_not_shown() {
    let server = Server::echo();
    let run = gptpipe()
        .ask(&server)
        .env("GPTPIPE_API_KEY", "canary\none")
        .arg("p")
        .input("text")
        .run();
    run.status(2).one_message().never_says("canary");
    assert_eq!(server.calls(), 0);
    // White space around it is what copying leaves.
    gptpipe()
        .ask(&server)
        .env("GPTPIPE_API_KEY", " canary\n")
        .arg("p")
        .input("text")
        .run()
        .ok();
    assert_eq!(
        server.only_request().header("authorization"),
        Some("Bearer canary")
    );
}

#[test]
fn a_key_in_the_configuration_file_is_refused_and_not_shown() {
    for line in [
        "api-key = 'canary'",
        "[profiles.x]\nkey = 'canary'",
        "[profiles.x]\ntoken = \"canary\"",
    ] {
        let run = gptpipe().config(line).arg("p").input("text").run();
        run.status(2)
            .one_message()
            .never_says("canary")
            .says("keys do not belong into a file");
    }
}

#[test]
fn a_missing_key_is_told_before_anything_is_read() {
    let run = gptpipe()
        .arg("p")
        .hold_input()
        .start()
        .finish_with_input_held();
    run.status(2)
        .stdout("")
        .one_message()
        .says("there is no key for the profile `openai`");
    run.says("OPENAI_API_KEY").says("--demo");
    let run = gptpipe()
        .args(["p", "-P", "mistral", "-m", "x"])
        .input("text")
        .run();
    run.status(2).one_message().says("MISTRAL_API_KEY");
}
