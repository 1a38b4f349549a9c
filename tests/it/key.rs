//! Keys: sent in a header and found nowhere else, at no verbosity, whatever the server says back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::harness::{gptpipe, shell};
use crate::server::{Answer, Request, Server};

/// A key as `OpenAI` makes them, one of another shape, and one that is no word at all.
const KEYS: [&str; 3] = [
    "sk-proj-canary0123456789ABCDEFabcdef",
    "canary",
    "canary/with+odd=parts.and:more",
];

/// No file in the folder has it.
pub(crate) fn find_in_files(folder: &Path, what: &str) {
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

/// Answers of servers that say the key back, each in another place.
pub(crate) fn quoting() -> [fn(&Request) -> Answer; 6] {
    [
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
    ]
}

#[test]
fn a_key_is_sent_in_its_header_and_shown_nowhere() {
    for key in KEYS {
        for answer in quoting() {
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
        .env("GPTPIPE_API_KEY", KEYS[1])
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
        "[profiles.x]\nparams = { api_key = 'canary/+' }",
        "[profiles.x]\nparams = { route = [{ auth = 'sk-canary0123456789abcdef' }] }",
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

#[test]
fn a_key_comes_from_where_the_profile_says() {
    let server = Server::echo();
    let config = format!(
        "[profiles.corp]\nbase-url = '{}'\nmodel = 'm'\nkey-env = 'CORP_KEY'\nkey-command = 'printf %s from-a-command'\n",
        server.url()
    );
    let corp = || {
        gptpipe()
            .config(&config)
            .forgetful()
            .args(["-P", "corp", "p"])
            .input("x")
    };
    let sent = || {
        server
            .requests()
            .pop()
            .unwrap()
            .header("authorization")
            .unwrap()
            .to_owned()
    };
    corp().run().ok();
    assert_eq!(sent(), "Bearer from-a-command");
    corp().env("CORP_KEY", "from-its-variable").run().ok();
    assert_eq!(sent(), "Bearer from-its-variable");
    let both = || {
        corp()
            .env("CORP_KEY", "from-its-variable")
            .env("GPTPIPE_API_KEY", "from-the-variable")
    };
    both().run().ok();
    assert_eq!(sent(), "Bearer from-the-variable");
    let run = both();
    let folder = run
        .home()
        .write("credentials/gptpipe.corp", "from-systemd\n");
    run.env("CREDENTIALS_DIRECTORY", folder.parent().unwrap())
        .run()
        .ok();
    assert_eq!(sent(), "Bearer from-systemd");
    let show = gptpipe().config(&config).args(["key", "-P", "corp"]).run();
    show.ok();
    let text = String::from_utf8_lossy(&show.stdout).into_owned();
    assert!(
        text.contains("the key command printf") && !text.contains("from-a-command"),
        "{text}"
    );
}

#[test]
fn a_key_command_that_fails_is_told_and_nothing_is_sent() {
    let server = Server::echo();
    for (command, words) in [
        (
            "sh -c 'echo canary-in-the-output; echo no such entry >&2; exit 1'",
            "ended with status 1: no such entry",
        ),
        ("sh -c 'exit 0'", "wrote no key"),
        ("no-such-program", "cannot be run"),
        (
            "pass show x | head -1",
            "no shell runs it, so `|` needs quotes",
        ),
    ] {
        let config = format!(
            "[profiles.corp]\nbase-url = '{}'\nmodel = 'm'\nkey-command = \"{command}\"\n",
            server.url()
        );
        let run = gptpipe()
            .config(&config)
            .args(["-P", "corp", "p"])
            .input("A text.\n\nAnother.\n")
            .run();
        run.status(2)
            .stdout("")
            .one_message()
            .says(words)
            .never_says("canary");
    }
    assert_eq!(server.calls(), 0);
}

#[test]
fn a_token_of_a_command_that_ran_out_is_asked_for_again() {
    let server = Server::start(|request: &Request| match request.header("authorization") {
        Some("Bearer token-1") => Answer::error("401 Unauthorized", "expired", "it has run out"),
        _ => request.echo(),
    });
    let run = gptpipe();
    let script = "#!/bin/sh\necho x >> count\necho token-$(($(wc -l < count)))\n";
    let path = run.home().write("token", script);
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    let config = format!(
        "[profiles.corp]\nbase-url = '{}'\nmodel = 'm'\nkey-command = './token'\n",
        server.url()
    );
    let run = run
        .config(&config)
        .args(["-P", "corp", "-b", "line", "p"])
        .input("one\ntwo\nthree\n")
        .run();
    run.ok().stdout("one\ntwo\nthree\n");
    assert_eq!(
        fs::read_to_string(run.home().path.join("count"))
            .unwrap()
            .lines()
            .count(),
        2
    );
}

#[test]
fn a_key_for_another_host_is_hinted_at() {
    let server =
        Server::start(|_: &Request| Answer::error("401 Unauthorized", "no_key", "a key, please"));
    let run = gptpipe()
        .ask(&server)
        .env("OPENAI_API_KEY", KEYS[0])
        .arg("p")
        .input("x")
        .run();
    run.status(255)
        .one_message()
        .says("goes to its own host alone")
        .says("GPTPIPE_API_KEY");
    assert_eq!(server.only_request().header("authorization"), None);
}

#[test]
fn setup_needs_a_keyring_and_makes_no_file_without_one() {
    let run = gptpipe().arg("setup").input(KEYS[0]).run();
    run.status(2)
        .stdout("")
        .one_message()
        .says("key-command")
        .never_says("canary");
    find_in_files(&run.home().path, "canary");
    let run = gptpipe().args(["setup", KEYS[0]]).run();
    run.status(2).one_message().never_says("canary");
    let run = gptpipe().args(["p", "--no-check"]).input("x").run();
    run.status(2)
        .one_message()
        .says("is for `gptpipe setup` alone");
}

#[test]
fn all_keys_are_listed_by_profile_and_none_is_shown() {
    let run = gptpipe()
        .env("GPTPIPE_API_KEY", "for-any-canary")
        .env("OPENAI_API_KEY", KEYS[0])
        .env("MISTRAL_API_KEY", KEYS[1])
        .args(["key", "list"])
        .run();
    run.ok();
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].starts_with("mistral  ") && lines[0].ends_with("the variable MISTRAL_API_KEY")
    );
    assert!(lines[1].starts_with("openai   ") && lines[1].ends_with("the variable OPENAI_API_KEY"));
    assert!(!text.contains("canary"), "{text}");
}

#[test]
fn files_are_private_whatever_the_mask() {
    let server = Server::echo();
    let run = shell("umask 0; \"$GPTPIPE\" --rate 100/s p")
        .ask(&server)
        .input("text")
        .run();
    run.ok();
    for (path, expected) in [
        ("cache/gptpipe", 0o700),
        ("cache/gptpipe/cache.db", 0o600),
        ("cache/gptpipe/cache.db-wal", 0o600),
        ("state/gptpipe", 0o700),
        ("state/gptpipe/state.db", 0o600),
    ] {
        let mode = fs::metadata(run.home().path.join(path))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, expected, "{path}");
    }
}
