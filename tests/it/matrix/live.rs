//! Replies that break off after somebody saw their beginning: on a terminal it is said, and shown
//! anew; what went into a pipe cannot be taken back.

use crate::harness::gptpipe;
use crate::server::{Answer, Gate, Request, Server};
use crate::tty::{Terminal, on_terminal};

/// Breaks the first reply off at the gate, after its beginning; then repeats every chunk.
fn breaking(gate: &Gate, breaks: fn(Answer) -> Answer) -> Server {
    let gate = gate.clone();
    Server::start(move |request| match request.ordinal {
        0 => breaks(request.stream().delta("Half of ").wait(&gate)),
        _ => request.echo(),
    })
}

const BREAKS: [fn(Answer) -> Answer; 4] = [Answer::reset, Answer::close, Answer::end, |answer| {
    answer
        .event("{\"error\": {\"message\": \"died\", \"code\": 500}}")
        .end()
}];

#[test]
fn a_terminal_is_shown_it_anew() {
    for breaks in BREAKS {
        let gate = Gate::default();
        let server = breaking(&gate, breaks);
        let terminal = Terminal::new();
        let run = on_terminal()
            .ask(&server)
            .arg("p")
            .input("the whole text")
            .stdout(terminal.line())
            .start();
        terminal.screen.wait(|shown| shown.contains("Half of"));
        gate.open();
        let outcome = run.finish();
        outcome.status(0).one_message().says(
            "warning: chunk 1 (bytes 0-14, line 1 of standard input): the reply broke off after its \
             beginning was shown; it is shown anew",
        );
        assert_eq!(terminal.shown(), "Half of\r\nthe whole text\r\n");
        assert_eq!(server.calls(), 2);
    }
}

#[test]
fn a_pipe_keeps_what_went_into_it() {
    for breaks in BREAKS {
        let gate = Gate::default();
        let server = breaking(&gate, breaks);
        let run = gptpipe()
            .ask(&server)
            .args(["p", "--live", "-v"])
            .input("the whole text")
            .start();
        run.wait_stdout(|stdout| stdout == b"Half of");
        gate.open();
        let outcome = run.finish();
        outcome.status(75).stdout("Half of\n");
        outcome.says("error: chunk 1 (bytes 0-14, line 1 of standard input) failed: the ");
        outcome.never_says("again in ");
        outcome.says(
            "warning: chunk 1 (bytes 0-14, line 1 of standard input): the reply broke off after its \
             beginning was written, so it is not asked for again",
        );
        assert_eq!(server.calls(), 1, "it is not asked for again");
    }
}

/// Nothing of it was shown yet, so it is as if nothing had come.
#[test]
fn what_nobody_saw_is_asked_for_again() {
    let (first, second) = (Gate::default(), Gate::default());
    let server = Server::start({
        let (first, second) = (first.clone(), second.clone());
        move |request: &Request| match (request.text.as_str(), request.ordinal) {
            ("one", _) => request.stream().delta("one").wait(&first).finish("stop"),
            ("two", 0 | 1) => request.stream().delta("tw").wait(&second).reset(),
            _ => request.echo(),
        }
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "--live", "-b", "line", "-j", "2"])
        .input("one\ntwo\n")
        .start();
    run.wait_stdout(|stdout| stdout == b"one");
    second.open();
    server.wait(|log| log.calls == 3);
    first.open();
    run.finish().ok().stdout("one\ntwo\n");
    assert_eq!(server.calls(), 3);
}

/// The first half of a text that is too long is shown as it comes, and only once.
#[test]
fn halves_are_shown_as_they_come() {
    let gate = Gate::default();
    let server = Server::start({
        let gate = gate.clone();
        move |request| match request.text.as_str() {
            "First. Second." => Answer::error("400 Bad Request", "context_length_exceeded", "no"),
            "Second." => request.echo().behind(&gate),
            _ => request.echo(),
        }
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "--live"])
        .input("First. Second.\n")
        .start();
    run.wait_stdout(|stdout| stdout.starts_with(b"First."));
    gate.open();
    run.finish().ok().stdout("First. Second.\n");
    assert_eq!(server.calls(), 3);
}

/// A reply that reached its length limit after its beginning was seen cannot begin anew in a pipe.
#[test]
fn halves_of_what_was_seen() {
    let script = |gate: &Gate| {
        let gate = gate.clone();
        move |request: &Request| match request.ordinal {
            0 => request.stream().delta("First").wait(&gate).finish("length"),
            _ => request.echo(),
        }
    };
    let gate = Gate::default();
    let server = Server::start(script(&gate));
    let run = gptpipe()
        .ask(&server)
        .args(["p", "--live"])
        .input("First. Second.\n")
        .start();
    run.wait_stdout(|stdout| stdout == b"First");
    gate.open();
    let outcome = run.finish();
    outcome.status(69).stdout("First\n");
    outcome
        .says("beginning was written, so it is not asked for again")
        .says("failed: the reply reached its length limit");
    assert_eq!(server.calls(), 1);

    let gate = Gate::default();
    let server = Server::start(script(&gate));
    let terminal = Terminal::new();
    let run = on_terminal()
        .ask(&server)
        .arg("p")
        .input("First. Second.\n")
        .stdout(terminal.line())
        .start();
    terminal.screen.wait(|shown| shown.contains("First"));
    gate.open();
    run.finish().status(0).says("it is shown anew");
    assert_eq!(terminal.shown(), "First\r\nFirst. Second.\r\n");
    assert_eq!(server.calls(), 3);
}
