//! Keys that are known are looked for in everything that runs leave behind, in every spelling: what was written, files,
//! databases, argument lists, the environment of children. The search proves itself by what it finds where something
//! was planted.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::process::Signal;

use crate::harness::{Folder, Gptpipe, Outcome, gptpipe, shell};
use crate::key::quoting;
use crate::server::{Gate, Request, Server};

/// Keys as they are made, and one with everything in it that is escaped somewhere.
pub(crate) const KEYS: [&str; 3] = [
    "sk-proj-Canary0Zr8vGq2T0b1XcYw4Hn6LkPs9dFjE3uAoM7iQ",
    "gsk_Canary1Zr8vGq2T0b1XcYw4Hn6LkPs9dFjE3uAoM7iQ",
    "canary2/with\"odd\\parts+and=more:%20",
];

/// The letters of base64 (RFC 4648, section 4).
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        out.extend((0..=three.len()).map(|at| LETTERS[(bits >> (18 - 6 * at) & 63) as usize]));
    }
    out
}

/// The spellings of a key, by what they are called.
fn spellings(key: &str) -> Vec<(&'static str, Vec<u8>)> {
    let json = serde_json::to_string(key).unwrap();
    let mut all = vec![
        ("itself", key.as_bytes().to_vec()),
        ("reversed", key.bytes().rev().collect()),
        ("as JSON", json.trim_matches('"').as_bytes().to_vec()),
        ("in a URL", percent(key)),
        (
            "in hexadecimal",
            key.bytes()
                .flat_map(|byte| format!("{byte:02x}").into_bytes())
                .collect(),
        ),
        // A part is enough to be worth a try.
        ("its first half", key.as_bytes()[..key.len() / 2].to_vec()),
        ("its second half", key.as_bytes()[key.len() / 2..].to_vec()),
    ];
    // Base64 looks different at each place of three bytes; the letters at the ends depend on what stands around.
    for before in 0..3 {
        let padded = [&b"xxx"[..before], key.as_bytes()].concat();
        let letters = base64(&padded[..padded.len() / 3 * 3]);
        all.push((
            "in base64",
            letters[if before == 0 { 0 } else { 4 }..].to_vec(),
        ));
    }
    all
}

fn percent(key: &str) -> Vec<u8> {
    let letter = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => vec![byte],
        byte => format!("%{byte:02X}").into_bytes(),
    };
    key.bytes().flat_map(letter).collect()
}

/// What of the keys is in these bytes.
fn traces(bytes: &[u8]) -> Vec<&'static str> {
    let has = |what: &[u8]| memchr::memmem::find(bytes, what).is_some();
    let all = KEYS.iter().flat_map(|key| spellings(key));
    all.filter(|(_, bytes)| has(bytes))
        .map(|(name, _)| name)
        .collect()
}

/// Every file below a folder that has a trace in it, or in its name.
pub(crate) fn search(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = path.display().to_string().into_bytes();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            found.extend(search(&path));
        } else if kind.is_file() {
            bytes.extend(fs::read(&path).unwrap());
        }
        for name in traces(&bytes) {
            found.push(format!("{}: {name}", path.display()));
        }
    }
    found
}

/// Neither stream has a trace.
#[track_caller]
pub(crate) fn clean(run: &Outcome) {
    for bytes in [&run.stdout[..], run.stderr.as_bytes()] {
        let traces = traces(bytes);
        run.must(traces.is_empty(), &format!("a key was written: {traces:?}"));
    }
}

/// Where a run gets a key from.
#[derive(Clone, Copy, Debug)]
enum From {
    Environment,
    Credential,
    Command,
}

/// A run with that key; what the key command sees is written down in the home.
fn with_key(home: &Arc<Folder>, server: &Server, from: From, key: &'static str) -> Gptpipe {
    let run = gptpipe().at(home).env("TMPDIR", home.path.join("tmp"));
    let mut config = format!(
        "[profiles.corp]\nbase-url = '{}'\nmodel = 'm'\n",
        server.url()
    );
    let run = match from {
        From::Environment => run.env("GPTPIPE_API_KEY", key),
        From::Credential => run.env(
            "CREDENTIALS_DIRECTORY",
            home.path.join("outside/credentials"),
        ),
        From::Command => {
            config += "key-command = 'outside/key'\n";
            // Another profile's key is none of the command's business.
            run.env("OPENAI_API_KEY", KEYS[0])
                .env("GROQ_API_KEY", KEYS[1])
        }
    };
    run.config(&config).args(["-P", "corp"])
}

/// What keys are read from; it is no part of what is searched.
fn outside(home: &Folder, key: &str) {
    home.write("outside/credentials/gptpipe.corp", key);
    home.write("outside/secret", key);
    let script = "#!/bin/sh\n\
        for pid in $$ $PPID; do cat /proc/$pid/cmdline; echo; done >> seen-arguments\n\
        cat /proc/$$/environ >> seen-environment\n\
        echo \"unlocking with $(cat outside/secret)\" >&2\ncat outside/secret\n";
    let path = home.write("outside/key", script);
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn no_key_is_left_anywhere() {
    let home = Folder::home();
    fs::create_dir_all(home.path.join("tmp")).unwrap();
    for (key, from) in KEYS
        .into_iter()
        .zip([From::Environment, From::Credential, From::Command])
    {
        for from in [from, From::Command] {
            outside(&home, key);
            for answer in quoting() {
                let server = Server::start(answer);
                for verbosity in [&["-v"][..], &["--progress", "always"]] {
                    let run = with_key(&home, &server, from, key)
                        .arg("p")
                        .once()
                        .args(verbosity);
                    clean(
                        &run.args(["--on-error", "skip"])
                            .input("A text.\n\nAnother.\n")
                            .run(),
                    );
                }
                let sent = server.requests();
                let expected = format!("Bearer {key}");
                let is_sent = sent
                    .iter()
                    .all(|request| request.header("authorization") == Some(&expected));
                assert!(
                    is_sent && !sent.is_empty(),
                    "{from:?}: the key has to be used to be looked for"
                );
            }
            let server = Server::echo();
            for args in [
                &["key"][..],
                &["key", "list"],
                &["key", "remove"],
                &["cache"],
                &["cache", "prune"],
                &["--help"],
                &["--version"],
                &["--no-such-option"],
                &["p", "--rate", "100/s", "-v"],
                &["p", "--cache-only"],
                &["p", "--demo"],
                &["p", "no-such-file"],
                &["p", "--chunk-tokens", "x"],
            ] {
                clean(
                    &with_key(&home, &server, from, key)
                        .args(args)
                        .input("A text.\n")
                        .run(),
                );
            }
            // Keys where they should not be.
            for args in [["setup", key], ["key", key]] {
                clean(
                    &with_key(&home, &server, from, key)
                        .args(args)
                        .input(key)
                        .run(),
                );
            }
            clean(
                &with_key(&home, &server, from, key)
                    .args(["setup", "--no-check"])
                    .input(key)
                    .run(),
            );
            let address = format!("https://user:{key}@127.0.0.1:1/v1");
            clean(
                &with_key(&home, &server, from, key)
                    .args(["p", "--base-url", &address])
                    .input("x")
                    .run(),
            );
        }
    }
    let seen = fs::read(home.path.join("seen-environment")).unwrap();
    assert!(
        memchr::memmem::find(&seen, b"HOME=").is_some(),
        "the command has to have been run"
    );
    fs::remove_dir_all(home.path.join("outside")).unwrap();
    let found = search(&home.path);
    assert!(found.is_empty(), "keys were left: {found:#?}");
}

#[test]
fn a_process_that_is_ended_from_outside_leaves_no_key() {
    for signal in [Signal::ABORT, Signal::QUIT, Signal::TERM, Signal::KILL] {
        let home = Folder::home();
        let gate = Gate::default();
        let server = Server::start({
            let gate = gate.clone();
            move |request: &Request| request.stream().delta("begun").wait(&gate).finish("stop")
        });
        let run = shell("ulimit -c unlimited; exec \"$GPTPIPE\" p -v")
            .at(&home)
            .ask(&server)
            .env("GPTPIPE_API_KEY", KEYS[0])
            .input("text")
            .start();
        server.wait(|log| log.calls == 1);
        let arguments = fs::read(format!("/proc/{}/cmdline", run.id())).unwrap();
        assert!(traces(&arguments).is_empty());
        run.signal(signal);
        let (output, has_dumped) = run.ended(signal);
        gate.open();
        assert!(traces(&output).is_empty());
        assert!(!has_dumped, "no memory may be written to a core file");
        let found = search(&home.path);
        assert!(found.is_empty(), "keys were left: {found:#?}");
    }
}

#[test]
fn a_key_in_any_spelling_is_found_where_it_was_planted() {
    for key in KEYS {
        for (name, bytes) in spellings(key) {
            let home = Folder::new();
            home.write(
                "deep/file",
                [&b"\0\xff before "[..], &bytes, b" after"].concat(),
            );
            assert!(
                search(&home.path).iter().any(|found| found.ends_with(name)),
                "{key} {name}"
            );
        }
        for before in ["", "a", "ab", "abc"] {
            let text = base64(format!("{before}{key} and more").as_bytes());
            assert!(traces(&text).contains(&"in base64"), "{before}");
        }
    }
    assert!(traces(b"nothing of that kind").is_empty());
    assert_eq!(base64(b"Hello, world"), b"SGVsbG8sIHdvcmxk");
}
