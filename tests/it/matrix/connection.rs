//! Connections that cannot be made, break while they are made, or end behind the client's back.

use crate::harness::{Outcome, gptpipe};
use crate::matrix::{CHUNKS, Fault, endure, number, text, undisturbed};
use crate::server::{Closed, Request, Server};

/// The attempts that `-v` tells of.
fn failed_attempts(outcome: &Outcome) -> usize {
    outcome.stderr.matches(" failed after ").count()
}

/// Every chunk was asked about once.
#[track_caller]
fn once_each(server: &Server, outcome: &Outcome) {
    let mut asked: Vec<usize> = server
        .requests()
        .iter()
        .map(|request| number(request))
        .collect();
    asked.sort_unstable();
    outcome.must(
        asked.into_iter().eq(0..CHUNKS),
        "each chunk is asked about once",
    );
}

#[test]
fn nobody_listens_at_first() {
    let closed = Closed::new();
    let run = gptpipe()
        .args([
            "p",
            "-b",
            "line",
            "-j",
            "64",
            "-v",
            "--base-url",
            &closed.url(),
        ])
        .input(text())
        .start();
    run.wait_stderr(|stderr| stderr.matches("attempt 1 failed").count() == CHUNKS);
    let server = closed.open(Request::echo);
    let outcome = run.finish();
    outcome
        .status(0)
        .stdout(undisturbed())
        .says("cannot connect");
    once_each(&server, &outcome);
}

#[test]
fn nobody_listens_at_all() {
    let closed = Closed::new();
    let outcome = gptpipe()
        .args(["p", "-b", "line", "-j", "1", "-v", "--retries", "2"])
        .args(["--base-url", &closed.url()])
        .input(text())
        .run();
    outcome
        .status(75)
        .stdout("")
        .says("error: chunk 1 (bytes 0-33, line 1 of standard input) failed after 3 attempts in ")
        .says("cannot connect: 127.0.0.1:")
        .says("hint: is the server running");
}

#[test]
fn a_name_that_nobody_has() {
    let outcome = gptpipe()
        .args([
            "p",
            "-v",
            "--retries",
            "2",
            "--base-url",
            "http://nobody.invalid/v1",
        ])
        .input("text\n")
        .run();
    outcome
        .status(75)
        .stdout("")
        .says("failed after 3 attempts in ")
        .says("the host cannot be found: nobody.invalid")
        .says("hint: check the host in the base URL");
    outcome.must(
        failed_attempts(&outcome) == 3 + 1,
        "each attempt is told, and the end",
    );
}

/// Connections end without a word between two requests, as those of many servers do after 5 s: the
/// next request on such a connection was not read by anybody, and is sent again at once.
#[test]
fn connections_end_behind_the_clients_back() {
    endure(vec![
        Fault::new("a connection that ends after the reply", |request, _| {
            request.echo().close()
        })
        .harmless()
        .alone(&["-j", "64"]),
    ]);
}
