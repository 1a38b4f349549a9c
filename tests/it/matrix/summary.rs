//! Runs that go on after a failure, and what they say in the end; and each attempt, with `-v`.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::harness::{Folder, Gptpipe, gptpipe, lines};
use crate::server::{Answer, Request, Server};

/// Repeats every chunk, but fails these until it is mended.
struct Failing {
    server: Server,
    is_mended: Arc<AtomicBool>,
    home: Arc<Folder>,
}

impl Failing {
    fn new(
        fails: impl Fn(&str) -> bool + Send + Sync + 'static,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let is_mended = Arc::new(AtomicBool::new(false));
        let server = Server::start({
            let is_mended = Arc::clone(&is_mended);
            move |request| {
                if fails(&request.text) && !is_mended.load(Ordering::SeqCst) {
                    answer(request)
                } else {
                    request.echo()
                }
            }
        });
        Self {
            server,
            is_mended,
            home: Folder::home(),
        }
    }

    fn run(&self) -> Gptpipe {
        gptpipe().at(&self.home).ask(&self.server).arg("p")
    }

    /// From now on everything is answered; gives how many requests came before.
    fn mend(&self) -> usize {
        self.is_mended.store(true, Ordering::SeqCst);
        self.server.calls()
    }
}

fn refused(_: &Request) -> Answer {
    Answer::error("400 Bad Request", "bad_text", "I do not like it")
}

const HINT: &str = "hint: what was answered is remembered: run again to send only these\n";

#[test]
fn chunks_that_failed_are_named_and_sent_again() {
    for (on_error, instead) in [("skip", "left out"), ("keep", "kept as they were")] {
        let failing = Failing::new(|text| text.ends_with('7'), refused);
        let run = |failing: &Failing| {
            failing
                .run()
                .args(["-b", "line", "-j", "4", "--on-error", on_error])
                .input(lines(40))
                .run()
        };
        let outcome = run(&failing);
        let why =
            "failed: the server does not accept the request: 400 bad_text: I do not like it\n";
        outcome.status(1).stderr(&format!(
            "gptpipe: 4 of 40 chunks failed and were {instead}:\n  \
             chunk 8 (bytes 14-15, line 8 of standard input) {why}  \
             chunk 18 (bytes 41-43, line 18 of standard input) {why}  \
             chunk 28 (bytes 71-73, line 28 of standard input) {why}  \
             chunk 38 (bytes 101-103, line 38 of standard input) {why}{HINT}"
        ));
        // Each record keeps its line.
        let expected = if on_error == "keep" {
            lines(40)
        } else {
            (0..40)
                .map(|n| {
                    if n % 10 == 7 {
                        "\n".to_owned()
                    } else {
                        format!("{n}\n")
                    }
                })
                .collect()
        };
        outcome.stdout(expected);
        let calls = failing.mend();
        assert_eq!(calls, 40);
        run(&failing).ok().stdout(lines(40));
        assert_eq!(
            failing.server.calls(),
            calls + 4,
            "only these are sent again"
        );
    }
}

#[test]
fn text_that_is_not_by_lines() {
    let sentences =
        |number: usize| format!("The sentence of number {number} is about as long as the others.");
    let text = (0..30).fold(String::new(), |text, number| {
        text + &sentences(number) + "\n\n"
    });
    let failing = Failing::new(|text| text.contains("number 13 "), refused);
    let run = |on_error: &str| {
        failing
            .run()
            .args(["-b", "paragraph", "--on-error", on_error])
            .input(&text)
            .run()
    };
    let kept = run("keep");
    kept.status(1)
        .stdout(&text)
        .says("1 of 30 chunks failed and were kept as they were:");
    let skipped = run("skip");
    skipped
        .status(1)
        .stdout(text.replace(&(sentences(13) + "\n\n"), ""));
    assert_eq!(failing.server.calls(), 31);
}

#[test]
fn each_file_is_named() {
    let failing = Failing::new(|text| text.starts_with("bad"), refused);
    failing.home.write("one.txt", "good 1\nbad 1\n");
    failing.home.write("two.txt", "grüße\n\nbad 2\ngood 2\n");
    let outcome = failing
        .run()
        .args(["-b", "line", "--on-error", "skip", "one.txt", "two.txt"])
        .run();
    outcome.status(1).stdout("good 1\n\ngrüße\n\n\ngood 2\n");
    outcome
        .says("gptpipe: 2 of 5 chunks failed and were left out:\n")
        .says("\n  chunk 2 (bytes 7-12, line 2 of one.txt) failed: ")
        .says("\n  chunk 4 (bytes 9-14, line 3 of two.txt) failed: ");
}

#[test]
fn failures_that_pass_are_counted_with_their_attempts() {
    let failing = Failing::new(
        |text| text == "3",
        |_| Answer::error("503 Service Unavailable", "", "starting"),
    );
    let run = || {
        failing
            .run()
            .args(["-b", "line", "--retries", "1", "--on-error", "skip"])
            .input(lines(6))
            .run()
    };
    let outcome = run();
    outcome.status(1).stdout("0\n1\n2\n\n4\n5\n");
    outcome
        .says("gptpipe: 1 of 6 chunks failed and were left out:\n")
        .says("  chunk 4 (bytes 6-7, line 4 of standard input) failed after 2 attempts in ")
        .says(" s: the server is overloaded or starting: 503: starting\n");
    let calls = failing.mend();
    assert_eq!(calls, 7);
    run().ok().stdout(lines(6));
    assert_eq!(failing.server.calls(), 8);
}

/// The same text is asked about once, and fails in each of its places.
#[test]
fn the_same_text_fails_in_each_of_its_places() {
    let failing = Failing::new(|text| text == "bad", refused);
    let run = failing
        .run()
        .args(["-b", "line", "-j", "4", "--on-error", "keep"]);
    let outcome = run.input("bad\ngood\nbad\ngood\nbad\n").run();
    outcome
        .status(1)
        .stdout("bad\ngood\nbad\ngood\nbad\n")
        .says("gptpipe: 3 of 5 chunks failed and were kept as they were:\n")
        .says("  chunk 1 (bytes 0-3, line 1 of standard input) failed: ")
        .says("  chunk 3 (bytes 9-12, line 3 of standard input) failed: ")
        .says("  chunk 5 (bytes 18-21, line 5 of standard input) failed: ");
    let requests = failing.server.requests();
    let good = requests.iter().filter(|request| request.text == "good");
    outcome.must(
        good.count() == 1,
        "what was answered is not asked for again",
    );
}

#[test]
fn so_many_failures_are_counted() {
    let failing = Failing::new(|_| true, refused);
    let outcome = failing
        .run()
        .args(["-b", "line", "-q", "--on-error", "keep"])
        .input(lines(250))
        .run();
    outcome
        .status(1)
        .stdout(lines(250))
        .says("gptpipe: 250 of 250 chunks failed and were kept as they were:\n")
        .says("\n  and 150 more\n");
    outcome.must(
        outcome.stderr.lines().count() == 103,
        "100 of them are named",
    );
}

#[test]
fn without_a_memory_nothing_is_said_of_it() {
    let failing = Failing::new(|text| text == "3", refused);
    let run = failing
        .run()
        .args(["-b", "line", "--no-cache", "--on-error", "skip"]);
    run.input(lines(6))
        .run()
        .status(1)
        .says("1 of 6 chunks failed")
        .never_says("hint: ");
}

/// What every other request would meet too ends the run all the same, after what failed before it
/// is told.
#[test]
fn what_is_hopeless_ends_every_run() {
    for on_error in ["skip", "keep"] {
        let failing = Failing::new(
            |text| text == "3" || text == "7",
            |request| match request.text.as_str() {
                "3" => refused(request),
                _ => Answer::error("401 Unauthorized", "invalid_api_key", "no"),
            },
        );
        let outcome = failing
            .run()
            .args(["-b", "line", "-j", "1", "--on-error", on_error])
            .input(lines(40))
            .run();
        let third = if on_error == "keep" { "3" } else { "" };
        outcome
            .status(255)
            .stdout(format!("0\n1\n2\n{third}\n4\n5\n6\n"));
        outcome
            .says("error: chunk 8 (bytes 14-15, line 8 of standard input) failed: the server refused the key")
            .says(" chunks failed and were ")
            .never_says("run again")
            .says("  chunk 4 (bytes 6-7, line 4 of standard input) failed: the server does not accept");
        assert_eq!(failing.server.calls(), 8, "nothing is asked afterwards");
    }
    // Nor is anybody waited for who asks for so much patience.
    let failing = Failing::new(
        |text| text == "7",
        |_| Answer::plain("503 Service Unavailable", "Retry-After: 900\r\n", ""),
    );
    let outcome = failing
        .run()
        .args(["-b", "line", "-j", "1", "--on-error", "skip"])
        .input(lines(40))
        .run();
    outcome
        .status(75)
        .stdout(lines(7))
        .one_message()
        .says("; the server asks to wait 15m");
    assert_eq!(failing.server.calls(), 8);
}

/// With `-v` each attempt is one line, and whatever a server quotes, no key is in it.
#[test]
fn each_attempt_is_a_line_without_the_key() {
    const KEY: &str = "canary-8c1f2a5e77d04b39";
    let server = Server::start(|request| match (request.text.as_str(), request.ordinal) {
        ("0", 0) => {
            let key = request.header("authorization").unwrap();
            Answer::error(
                "500 Internal Server Error",
                key,
                &format!("wrong: {key} {KEY}"),
            )
        }
        ("1", _) => Answer::error("400 Bad Request", KEY, KEY),
        _ => request.echo(),
    });
    let outcome = gptpipe()
        .ask(&server)
        .env("GPTPIPE_API_KEY", KEY)
        .args(["p", "-v", "-b", "line", "-j", "1", "--on-error", "skip"])
        .input(lines(4))
        .run();
    outcome
        .status(1)
        .stdout("0\n\n2\n3\n")
        .never_says(KEY)
        .never_says("canary");
    let told: Vec<&str> = outcome
        .stderr
        .lines()
        .filter(|line| line.contains(": attempt ") || line.contains(" answered in "))
        .collect();
    outcome.must(
        server.calls() == 5 && told.len() == 5,
        &format!("5 attempts are 5 lines: {told:?}"),
    );
    outcome
        .says("gptpipe: chunk 1 (bytes 0-1, line 1 of standard input): attempt 1 failed after ")
        .says(" s: the server failed: 500")
        .says("; again in ")
        .says(", attempt 2\n")
        .says("gptpipe: chunk 2 (bytes 2-3, line 2 of standard input): attempt 1 failed after ")
        .says("; given up\n");
}

/// Of many attempts, of which some fail, each is one line.
#[test]
fn so_many_attempts_are_so_many_lines() {
    let met = Mutex::<HashSet<String>>::default();
    let server = Server::start(move |request| {
        let is_first = met.lock().unwrap().insert(request.text.clone());
        match request.text.chars().last() {
            Some('3') if is_first => Answer::nothing().reset(),
            Some('5') if is_first => request.stream().delta("5").close(),
            Some('7') if is_first => Answer::plain("500 Oops", "", "one\nand\r\nmore\n"),
            _ => request.echo(),
        }
    });
    let outcome = gptpipe()
        .ask(&server)
        .args(["p", "-v", "-b", "line", "-j", "16"])
        .input(lines(300))
        .run();
    outcome.status(0).stdout(lines(300));
    let count = |words: &str| {
        let lines = outcome.stderr.lines();
        lines.filter(|line| line.contains(words)).count()
    };
    assert_eq!(server.calls(), 390);
    outcome.must(
        (
            count(": attempt 1 failed after "),
            count(" answered in "),
            count(", attempt 2"),
        ) == (90, 300, 90),
        "each attempt is a line",
    );
    outcome.must(
        outcome.stderr.lines().count() == 392,
        "and the first says whom is asked, the last how many replies there are",
    );
}
