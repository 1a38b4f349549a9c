//! Keys and tokens that are known are looked for in everything that runs leave behind, in every spelling.
//!
//! The places are these, each searched byte for byte:
//! - standard output and standard error of every run ([`clean`]);
//! - every file below the run's home, databases and their journals among them, and the files' names ([`search`]); what
//!   else a run can be told to write is a line of [`FILES`];
//! - argument lists and environments of children, which they write down into the home ([`witness`]), and the program's
//!   own argument list while it runs.
//!
//! The search proves itself by what it finds where something was planted. The rooms below say what the runs meet.

mod around; // commands, settings, terminals, proxies, certificates, a machine that has run out of something
mod faults; // everything a server can do wrong, with the key said back in all of it
mod tokens; // OAuth: what is said by, and to, an authorization server

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

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

/// What OAuth has in place of keys: tokens that anybody may use who has them, and what proves who asks for one.
const ACCESS: &str = "canary3-access-Qm7Wd2Xv9Kp4Rt6";
const REFRESH: &str = "canary4.refresh~Hs3Jf8Lz5Nb1Cg0";
const DEVICE: &str = "canary5_device_Yx6Ue2Tq4Po9Ia7";
const CLIENT: &str = "canary6+client/Vk5Mn3Bw8Zs2=";
const IDENTITY: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJjYW5hcnk3In0.Canary7Rd4Gh9Xe1";

/// All that is looked for.
const CANARIES: [&str; 8] = [
    KEYS[0], KEYS[1], KEYS[2], ACCESS, REFRESH, DEVICE, CLIENT, IDENTITY,
];

/// Files that every run which asks is told to write, each by its option. They lie in the home, where all is searched.
const FILES: [(&str, &str); 3] = [
    ("--cache", "remembered.db"),
    ("--log", "log.jsonl"),
    ("--metrics", "metrics.prom"),
];

/// The words of the command line that ask for all of them.
fn files() -> impl Iterator<Item = &'static str> {
    FILES.into_iter().flat_map(|(option, file)| [option, file])
}

/// Every one of them was written, and nothing in the home has a trace.
#[track_caller]
fn home_is_clean(home: &Folder) {
    for (option, file) in FILES {
        let size = fs::metadata(home.path.join(file)).map_or(0, |file| file.len());
        assert!(size > 0, "{option} has written nothing into {file}");
    }
    let found = search(&home.path);
    assert!(found.is_empty(), "keys were left: {found:#?}");
}

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
        let letters = letters[if before == 0 { 0 } else { 4 }..].to_vec();
        // The letters that addresses and tokens have in place of two others (section 5).
        let of_urls = letters.iter().map(|letter| match letter {
            b'+' => b'-',
            b'/' => b'_',
            letter => *letter,
        });
        all.push(("in base64 for URLs", of_urls.collect()));
        all.push(("in base64", letters));
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

/// What of the canaries is in these bytes.
fn traces(bytes: &[u8]) -> Vec<&'static str> {
    static FINDERS: OnceLock<Vec<(&'static str, memchr::memmem::Finder<'static>)>> =
        OnceLock::new();
    let finders = FINDERS.get_or_init(|| {
        let all = CANARIES.iter().flat_map(|canary| spellings(canary));
        all.map(|(name, bytes)| (name, memchr::memmem::Finder::new(&bytes).into_owned()))
            .collect()
    });
    let found = finders
        .iter()
        .filter(|(_, finder)| finder.find(bytes).is_some());
    found.map(|(name, _)| *name).collect()
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
    witness(home, "key", key);
}

/// A command below `outside` that writes down what it was called with, and by whom, and then gives the secret.
fn witness(home: &Folder, name: &str, secret: &str) -> PathBuf {
    home.write(&format!("outside/{name}.secret"), secret);
    let script = format!(
        "#!/bin/sh\n\
         for pid in $$ $PPID; do cat /proc/$pid/cmdline; echo; done >> seen-arguments\n\
         cat /proc/$$/environ >> seen-environment\n\
         echo \"unlocking with $(cat outside/{name}.secret)\" >&2\ncat outside/{name}.secret\n"
    );
    let path = home.write(&format!("outside/{name}"), script);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

/// A child was run, and has written down what it saw.
#[track_caller]
fn is_witnessed(home: &Folder) {
    let seen = fs::read(home.path.join("seen-environment")).unwrap();
    assert!(
        memchr::memmem::find(&seen, b"HOME=").is_some(),
        "the command has to have been run"
    );
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
                        .args(files())
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
                &["usage"],
                &["metrics"],
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
    is_witnessed(&home);
    fs::remove_dir_all(home.path.join("outside")).unwrap();
    home_is_clean(&home);
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
    for key in CANARIES {
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
