//! What is remembered: a whole reply is stored before it is written, found again by what
//! determines it, and never a reason to lose anything.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gptpipe::cli::commands;
use rusqlite::Connection;

use crate::harness::{Folder, Gptpipe, gptpipe, lines, shell};
use crate::server::{Answer, Gate, Request, Server};

/// Within this time from a request's arrival its reply is stored, on however busy a machine.
const STORED: Duration = Duration::from_secs(2);

fn file(home: &Folder) -> PathBuf {
    home.path.join("cache/gptpipe/cache.db")
}

/// A run over three records.
fn three(server: &Server, home: &Arc<Folder>) -> Gptpipe {
    gptpipe()
        .at(home)
        .ask(server)
        .args(["p", "-b", "line"])
        .input("one\ntwo\nthree\n")
}

const THREE: &str = "one\ntwo\nthree\n";

#[test]
fn what_is_remembered_is_not_asked_for() {
    let (server, home) = (Server::echo(), Folder::home());
    three(&server, &home).run().ok().stdout(THREE);
    assert_eq!(server.calls(), 3);
    three(&server, &home).run().ok().stdout(THREE);
    assert_eq!(server.calls(), 3);
    let run = three(&server, &home)
        .input("one\nzero\nthree\nfour\n")
        .run();
    run.ok().stdout("one\nzero\nthree\nfour\n");
    assert_eq!(server.calls(), 5, "only what is missing is sent");
}

/// Replies that are known are handed on many at a time, and wait neither for more nor for what is
/// asked behind them.
#[test]
fn what_is_remembered_comes_at_once_whatever_comes_behind_it() {
    let gate = Gate::default();
    let server = Server::start({
        let gate = gate.clone();
        move |request: &Request| match request.text.as_str() {
            "slow" => request.echo().behind(&gate),
            _ => request.echo(),
        }
    });
    let home = Folder::home();
    three(&server, &home).run().ok();
    let mut run = three(&server, &home).hold_input().start();
    run.feed("one\n");
    run.wait_stdout(|stdout| stdout == b"one\n");
    run.feed("three\n\ntwo\nslow\none\n");
    server.wait(|log| log.calls == 4);
    run.wait_stdout(|stdout| stdout == b"one\nthree\n\ntwo\n");
    gate.open();
    run.wait_stdout(|stdout| stdout.ends_with(b"slow\none\n"));
    run.finish().ok();
    assert_eq!(server.calls(), 4);
}

#[test]
fn known_and_unknown_records_stay_in_their_order() {
    let (server, home) = (Server::echo(), Folder::home());
    let all = lines(3_000);
    let known: String = all
        .split_inclusive('\n')
        .enumerate()
        .filter(|(number, _)| number % 700 > 9)
        .map(|(_, line)| line)
        .collect();
    let run = |input: &str| three(&server, &home).input(input).run();
    run(&known).ok().stdout(&known);
    let before = server.calls();
    run(&all).ok().stdout(&all);
    assert_eq!(server.calls() - before, 50);
}

#[test]
fn what_determines_the_reply_decides() {
    let (server, home) = (Server::echo(), Folder::home());
    three(&server, &home).run().ok();
    for (args, calls) in [
        (&["-m", "other"][..], 3),
        (&["-s", "Be brief."], 3),
        (&["--param", "temperature=0"], 3),
        (&["--api", "responses"], 3),
        (&["-j", "1"], 0),
        (&["--max-output-tokens", "9"], 0),
        (&["--live"], 0),
        (&["--join", "line"], 0),
        (&["--timeout", "7s", "--retries", "1"], 0),
    ] {
        let before = server.calls();
        three(&server, &home).args(args).run().status(0);
        assert_eq!(server.calls() - before, calls, "{args:?}");
    }
    let before = server.calls();
    three(&server, &home)
        .env("GPTPIPE_API_KEY", "another-key")
        .run()
        .ok();
    assert_eq!(server.calls(), before, "the key makes no difference");
    let other = Server::echo();
    three(&other, &home).run().ok();
    assert_eq!(other.calls(), 3, "another server is asked");
}

#[test]
fn identical_chunks_of_a_run_are_sent_once() {
    for jobs in ["1", "8"] {
        let gate = Gate::default();
        let server = Server::start({
            let gate = gate.clone();
            move |request| request.echo().behind(&gate)
        });
        let text = "same\nother\nsame\nsame\n".repeat(100);
        let run = gptpipe().ask(&server).args(["p", "-b", "line", "-j", jobs]);
        let run = run.input(&text).start();
        server.wait(|log| log.calls >= 1);
        gate.open();
        run.finish().ok().stdout(&text);
        assert_eq!(server.calls(), 2, "-j {jobs}");
    }
}

#[test]
fn identical_chunks_are_shown_live_in_their_places() {
    let server = Server::echo();
    let text = "same\nother\nsame\nsame\n".repeat(20);
    let run = gptpipe().ask(&server).args(["p", "-b", "line", "--live"]);
    run.input(&text).run().ok().stdout(&text);
    assert_eq!(server.calls(), 2);
}

#[test]
fn with_no_cache_each_chunk_is_asked_about_and_nothing_is_written() {
    let (server, home) = (Server::echo(), Folder::home());
    for _ in 0..2 {
        let run = three(&server, &home).arg("--no-cache");
        run.input("a\na\na\n").run().ok().stdout("a\na\na\n");
    }
    assert_eq!(server.calls(), 6);
    assert!(!file(&home).exists());
}

#[test]
fn refresh_asks_anew_and_remembers() {
    let count = Arc::new(AtomicUsize::new(0));
    let server = Server::start({
        let count = Arc::clone(&count);
        move |request| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            request.reply([format!("{} {}", request.text, number / 2).as_str()])
        }
    });
    let home = Folder::home();
    let run = |args: &[&str]| {
        let run = gptpipe()
            .at(&home)
            .ask(&server)
            .args(["p", "-b", "line", "-j", "1"]);
        run.args(args).input("a\nb\na\n").run()
    };
    run(&[]).ok().stdout("a 0\nb 0\na 0\n");
    run(&["--refresh"]).ok().stdout("a 1\nb 1\na 1\n");
    run(&[]).ok().stdout("a 1\nb 1\na 1\n");
}

#[test]
fn cache_only_sends_nothing() {
    let (server, home) = (Server::echo(), Folder::home());
    three(&server, &home).run().ok();
    let run = three(&server, &home).arg("--cache-only").run();
    run.ok().stdout(THREE);
    let run = three(&server, &home)
        .arg("--cache-only")
        .input("one\nfour\n");
    let run = run.run();
    run.status(69)
        .one_message()
        .stdout("one\n")
        .says("chunk 2 (bytes 4-8, line 2 of standard input) failed: its reply is not in the cache")
        .says("hint: run without --cache-only");
    assert_eq!(server.calls(), 3);
    // Neither a server nor a key is needed.
    gptpipe()
        .at(&home)
        .args(["p", "-b", "line", "--cache-only", "--base-url"])
        .arg(server.url())
        .input(THREE)
        .run()
        .ok()
        .stdout(THREE);
}

#[test]
fn what_is_too_old_is_asked_for_again() {
    let (server, home) = (Server::echo(), Folder::home());
    three(&server, &home).run().ok();
    three(&server, &home)
        .args(["--cache-ttl", "1ms"])
        .run()
        .ok();
    assert_eq!(server.calls(), 6);
    three(&server, &home).args(["--cache-ttl", "7d"]).run().ok();
    assert_eq!(server.calls(), 6);
}

#[test]
fn only_whole_replies_are_remembered() {
    let home = Folder::home();
    let server = Server::start(|request| request.stream().delta(&request.text).finish("length"));
    for _ in 0..2 {
        let run = three(&server, &home).args(["--max-output-tokens", "3"]);
        run.run().status(1).stdout(THREE);
    }
    assert_eq!(server.calls(), 6, "cut replies are not remembered");
    let server = Server::start(|request| {
        request
            .stream()
            .delta(&request.text)
            .finish("content_filter")
    });
    for _ in 0..2 {
        three(&server, &home).args(["-j", "1"]).run().status(69);
    }
    assert_eq!(server.calls(), 2, "filtered replies are not remembered");
}

#[test]
fn the_configuration_file_says_what_is_remembered() {
    let (server, home) = (Server::echo(), Folder::home());
    let run = |config: &str| three(&server, &home).config(config).run();
    run("[cache]\nenabled = false\n").ok();
    assert!(!file(&home).exists());
    run("[cache]\nfile = 'mine.db'\nttl = '7d'\nmax_size = '8MiB'\n").ok();
    assert!(home.path.join("mine.db").exists() && !file(&home).exists());
    run("[cache]\nfile = ':memory:'\n").ok();
    assert_eq!(server.calls(), 9);
    run("[cache]\nsize = 3\n")
        .status(2)
        .one_message()
        .says("config.toml:2: `size`: unknown key");
    run("[cache]\nmax-size = '8 bits'\n")
        .status(2)
        .one_message()
        .says("takes a size with its unit");
}

#[test]
fn nobody_else_may_read_it() {
    let (server, home) = (Server::echo(), Folder::home());
    shell(r#"umask 0; exec "$GPTPIPE" p"#)
        .at(&home)
        .ask(&server)
        .input("text\n")
        .run()
        .ok();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(home.path.join("cache/gptpipe")), 0o700);
    for entry in fs::read_dir(home.path.join("cache/gptpipe")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(path.clone()), 0o600, "{}", path.display());
    }
}

/// What is wrong, how it is made so, and what the warning says.
type Broken = (&'static str, fn(&Folder), &'static str);

#[test]
fn a_cache_that_cannot_be_used_is_done_without() {
    let server = Server::echo();
    let broken: [Broken; 6] = [
        (
            "a folder in its place",
            |home| fs::create_dir_all(file(home)).unwrap(),
            "cache.db",
        ),
        (
            "a file in the folder's place",
            |home| drop(home.write("cache/gptpipe", "no folder")),
            "cannot be made",
        ),
        (
            "a folder that others can write",
            |home| {
                let folder = home.path.join("cache/gptpipe");
                fs::create_dir_all(&folder).unwrap();
                fs::set_permissions(folder, Permissions::from_mode(0o777)).unwrap();
            },
            "other users",
        ),
        (
            "another program's database",
            |home| {
                home.write("cache/gptpipe/cache.db", "");
                let database = Connection::open(file(home)).unwrap();
                database
                    .execute_batch("CREATE TABLE t (x); PRAGMA application_id = 7")
                    .unwrap();
            },
            "cache.db",
        ),
        (
            "a newer version's database",
            |home| {
                let server = Server::echo();
                let run = gptpipe().ask(&server).arg("p").input("x\n").run();
                run.ok();
                let other = run.home();
                fs::create_dir_all(home.path.join("cache/gptpipe")).unwrap();
                fs::copy(file(other), file(home)).unwrap();
                let database = Connection::open(file(home)).unwrap();
                database.execute_batch("PRAGMA user_version = 99").unwrap();
            },
            "newer",
        ),
        (
            "a folder that cannot be made",
            |home| {
                fs::create_dir_all(home.path.join("cache")).unwrap();
                std::os::unix::fs::symlink("/proc/self/none", home.path.join("cache/gptpipe"))
                    .unwrap();
            },
            "cannot be made",
        ),
    ];
    for (what, make, words) in broken {
        let home = Folder::home();
        make(&home);
        let before = server.calls();
        let run = three(&server, &home).input("one\none\ntwo\n").run();
        run.status(0).stdout("one\none\ntwo\n").one_message();
        run.says("gptpipe: warning: ").says(words);
        assert_eq!(
            server.calls() - before,
            2,
            "{what}: the same text is still asked about once"
        );
        let run = three(&server, &home).arg("-q").run();
        run.ok().stdout(THREE);
    }
}

#[test]
fn a_damaged_file_is_set_aside() {
    let (server, home) = (Server::echo(), Folder::home());
    let garbage = "this is no database ".repeat(400);
    home.write("cache/gptpipe/cache.db", &garbage);
    fs::set_permissions(
        home.path.join("cache/gptpipe"),
        Permissions::from_mode(0o700),
    )
    .unwrap();
    fs::set_permissions(file(&home), Permissions::from_mode(0o600)).unwrap();
    let run = three(&server, &home).run();
    run.status(0)
        .stdout(THREE)
        .one_message()
        .says("was set aside");
    three(&server, &home).run().ok();
    assert_eq!(server.calls(), 3);
    let aside = fs::read_dir(home.path.join("cache/gptpipe"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("damaged"));
    assert_eq!(fs::read_to_string(aside.unwrap()).unwrap(), garbage);
    // A file that the user named is somebody's own.
    let mine = home.write("notes.txt", &garbage);
    let run = three(&server, &home).arg("--cache").arg(&mine).run();
    run.status(0).one_message().says("notes.txt");
    assert_eq!(fs::read_to_string(mine).unwrap(), garbage);
}

/// What would change nothing is refused before anything is done.
#[test]
fn a_command_refuses_options_that_mean_nothing_to_it() {
    let (server, home) = (Server::echo(), Folder::home());
    let ask = || gptpipe().at(&home).ask(&server).arg("p").input("x\n");
    ask().run().ok();
    let cases: [(&[&str], &str); 12] = [
        (&["cache", "clear", "--dry-run"], "--dry-run"),
        (&["--dry-run", "cache", "clear"], "--dry-run"),
        (&["cache", "clear", "-q", "-P", "corp"], "--profile"),
        (&["cache", "prune", "--cache-ttl=1s"], "--cache-ttl"),
        (&["cache", "--format", "jsonl"], "--format"),
        (&["batch", "-j", "4"], "--jobs"),
        (&["key", "-i"], "--in-place"),
        (&["key", "remove", "--dry-run"], "--dry-run"),
        (&["setup", "--batch"], "--batch"),
        (&["login", "--schema", "x.json"], "--schema"),
        (&["completions", "bash", "-n"], "--null-input"),
        (&["cache", "--no-check"], "--no-check"),
    ];
    for (args, option) in cases {
        let run = gptpipe().at(&home).args(args).run();
        let command = args.iter().find(|arg| commands::find(arg).is_some());
        run.status(2).stdout("").one_message().says(&format!(
            "`{option}` is not for `gptpipe {}`",
            command.unwrap()
        ));
    }
    ask().run().ok();
    assert_eq!(server.calls(), 1, "all of it is still remembered");
    for args in [
        &["cache", "-qv", "--cache", "other.db"][..],
        &["batch", "-P", "corp", "--base-url", "http://127.0.0.1:9/v1"],
        &["completions", "models", "-P", "openai"],
        &["cache", "clear", "-v"],
    ] {
        gptpipe().at(&home).args(args).run().status(0);
    }
}

#[test]
fn the_command_tells_prunes_and_clears() {
    let (server, home) = (Server::echo(), Folder::home());
    let cache = |args: &[&str]| {
        let run = gptpipe().at(&home).arg("cache").args(args).run();
        run.ok();
        String::from_utf8(run.stdout.clone()).unwrap()
    };
    let value = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    assert_eq!(value(&cache(&[]), "entries"), "0");
    three(&server, &home).run().ok();
    let stats = cache(&["stats"]);
    assert_eq!(value(&stats, "entries"), "3");
    assert_eq!(value(&stats, "file"), file(&home).display().to_string());
    cache(&["prune"]);
    assert_eq!(value(&cache(&["stats"]), "entries"), "3");
    assert_eq!(value(&cache(&["clear"]), "removed-entries"), "3");
    assert_eq!(value(&cache(&[]), "entries"), "0");
    three(&server, &home).run().ok();
    assert_eq!(server.calls(), 6);
}

#[test]
fn a_reply_is_stored_before_its_first_byte_is_written() {
    for round in 0..20 {
        let gate = Gate::default();
        let server = Server::start({
            let gate = gate.clone();
            move |request| {
                if request.text == "1" {
                    request.echo().behind(&gate)
                } else {
                    request.echo()
                }
            }
        });
        let home = Folder::home();
        let run = gptpipe().at(&home).ask(&server).args(["p", "-b", "line"]);
        let run = run.input("0\n1\n").start();
        run.wait_stdout(|stdout| !stdout.is_empty());
        run.kill();
        let run = gptpipe().at(&home).ask(&server).args(["p", "-b", "line"]);
        run.arg("--cache-only")
            .input("0\n")
            .run()
            .ok()
            .stdout("0\n");
        assert!(server.calls() <= 2, "round {round}");
        gate.open();
    }
}

#[test]
fn a_full_disk_under_the_output_loses_no_reply() {
    let gate = Gate::default();
    let server = Server::start({
        let gate = gate.clone();
        move |request| match request.text.as_str() {
            "one" => request.echo(),
            _ => request.echo().behind(&gate),
        }
    });
    let home = Folder::home();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let run = three(&server, &home).args(["-j", "2"]).stdout(full).start();
    run.wait_stderr(|stderr| stderr.contains("waiting for the replies in flight"));
    gate.open();
    run.finish().status(74);
    let before = server.calls();
    assert!(before <= 3, "{before} requests for three records");
    three(&server, &home).run().ok().stdout(THREE);
    assert_eq!(
        server.calls(),
        3,
        "what was answered is not asked for again"
    );
}

#[test]
fn a_failure_waits_for_what_is_in_flight_and_remembers_it() {
    let gate = Gate::default();
    let server = Server::start({
        let gate = gate.clone();
        move |request| match request.text.as_str() {
            "0" => Answer::error("400 Bad Request", "", "no"),
            _ => request.echo().behind(&gate),
        }
    });
    let home = Folder::home();
    let run = gptpipe()
        .at(&home)
        .ask(&server)
        .args(["p", "-b", "line", "-j", "3"]);
    let run = run.input("0\n1\n2\n").start();
    server.wait(|log| log.calls == 3 && log.in_flight == 2);
    gate.open();
    run.finish().status(69).one_message().stdout("");
    let run = gptpipe().at(&home).ask(&server).args(["p", "-b", "line"]);
    run.arg("--cache-only")
        .input("1\n2\n")
        .run()
        .ok()
        .stdout("1\n2\n");
    assert_eq!(server.calls(), 3);
}

#[test]
fn sixty_four_processes_share_it() {
    let server = Server::start(|request| request.echo().after(Duration::from_millis(5)));
    // Each process has all two hundred records, in an order of its own.
    let run = shell(
        r#"seq 1 64 | xargs -P64 -I{} sh -c 'seq 1 200 | awk "{ print (\$1 * 7 + {} * 13) % 200 }" |
            "$GPTPIPE" -b line -j 4 p > out.{} 2> err.{} || echo "status $?" >> err.{}'"#,
    )
    .ask(&server)
    .start();
    let run = run.finish();
    run.ok();
    for process in 1..=64 {
        let read = |name: &str| {
            fs::read_to_string(run.home().path.join(format!("{name}.{process}"))).unwrap()
        };
        assert_eq!(read("err"), "", "process {process}");
        let expected = (1..=200).fold(String::new(), |text, number| {
            text + &format!("{}\n", (number * 7 + process * 13) % 200)
        });
        assert_eq!(read("out"), expected, "process {process}");
    }
    // Those that asked at the same moment paid for it each; nobody asks for what another has.
    let mut first: HashMap<String, Instant> = HashMap::new();
    let mut late = 0;
    let requests = server.requests();
    for request in &requests {
        let began = *first.entry(request.text.clone()).or_insert(request.arrived);
        late += usize::from(request.arrived > began + STORED);
    }
    assert_eq!(first.len(), 200);
    assert_eq!(late, 0, "of {} requests", requests.len());
}

#[test]
fn long_runs_out_of_the_cache_stay_in_order() {
    let (server, home) = (
        Server::forgetful(crate::server::Request::echo),
        Folder::home(),
    );
    let text = lines(3000);
    for _ in 0..2 {
        let run = gptpipe().at(&home).ask(&server);
        let run = run.args(["p", "-b", "line", "-j", "64"]).input(&text);
        run.run().ok().stdout(&text);
    }
    assert_eq!(server.calls(), 3000);
}
