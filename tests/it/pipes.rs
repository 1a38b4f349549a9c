//! Readers that leave, disks that are full, signals: the program ends as any filter does, at once,
//! and lets go of what it was asking for.

use std::fs::File;
use std::io::Read as _;

use rustix::process::{Signal, kill_process};

use crate::harness::{gptpipe, shell};
use crate::server::{Gate, Request, Server};

/// Answers the first record and is silent about all others until the gate opens.
fn one_and_silence(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::start(move |request| {
        if request.text == "1" {
            request.echo()
        } else {
            request.echo().behind(&gate)
        }
    })
}

#[test]
fn a_reader_that_leaves_before_the_first_byte() {
    let gate = Gate::default();
    let server = one_and_silence(&gate);
    let mut run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line"])
        .hold_input()
        .start_unread();
    run.feed("2\n3\n4\n");
    server.wait(|log| log.in_flight == 3);
    drop(run.take_stdout());
    let run = run.finish_with_input_held();
    run.killed_by(Signal::PIPE).stderr("");
    server.wait(|log| log.aborted == 3);
}

#[test]
fn a_reader_that_leaves_after_the_first_byte() {
    let gate = Gate::default();
    let server = one_and_silence(&gate);
    let mut run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line"])
        .hold_input()
        .start_unread();
    run.feed("1\n2\n");
    let mut stdout = run.take_stdout();
    stdout.read_exact(&mut [0]).unwrap();
    server.wait(|log| log.calls == 2);
    drop(stdout);
    run.finish_with_input_held()
        .killed_by(Signal::PIPE)
        .stderr("");
    server.wait(|log| log.aborted == 1);
}

#[test]
fn a_reader_that_leaves_while_much_is_written() {
    let server = Server::forgetful(Request::echo);
    let text = "Many words that nobody will read to their end. ".repeat(50_000);
    let mut run = gptpipe()
        .ask(&server)
        .forgetful()
        .args(["p", "-c", "200"])
        .input(&text)
        .start_unread();
    let mut stdout = run.take_stdout();
    stdout.read_exact(&mut [0; 1000]).unwrap();
    drop(stdout);
    run.finish().killed_by(Signal::PIPE).stderr("");
}

#[test]
fn head_ends_it_and_the_shell_sees_why() {
    let server = Server::echo();
    let script = r#"{ seq 1 5000 | "$GPTPIPE" -b line p; echo "status $?" >&2; } | head -n 1"#;
    let run = shell(script).ask(&server).run();
    run.status(0).stdout("1\n").stderr("status 141\n");
    assert!(
        server.calls() < 4000,
        "{} requests for one line",
        server.calls()
    );
}

#[test]
fn a_full_disk_is_told() {
    let server = Server::echo();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let run = gptpipe()
        .ask(&server)
        .arg("p")
        .input("text\n")
        .stdout(full())
        .run();
    run.status(74)
        .one_message()
        .says("cannot write to standard output: no space left on device");
    let text = "A sentence of several words. ".repeat(4000);
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-c", "10"])
        .input(&text)
        .stdout(full())
        .run();
    run.status(74).one_message();
    assert!(
        server.calls() < 4000,
        "{} requests though nothing can be written",
        server.calls()
    );
}

#[test]
fn output_that_cannot_be_written_at_all() {
    let server = Server::echo();
    let read_only = File::open("/dev/null").unwrap();
    gptpipe()
        .ask(&server)
        .arg("p")
        .input("text\n")
        .stdout(read_only)
        .run()
        .status(74)
        .one_message();
}

#[test]
fn a_signal_ends_it_and_what_was_whole_is_there() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let gate = Gate::default();
        let server = one_and_silence(&gate);
        let mut run = gptpipe()
            .ask(&server)
            .args(["p", "-b", "line"])
            .hold_input()
            .start();
        run.feed("1\n2\n3\n");
        run.wait_stdout(|stdout| stdout.starts_with(b"1"));
        server.wait(|log| log.calls == 3);
        run.signal(signal);
        let run = run.finish_with_input_held();
        run.killed_by(signal)
            .one_message()
            .stdout_between("1", "1\n");
        run.says("gptpipe: interrupted: 1 of 3 chunks");
        server.wait(|log| log.aborted == 2);
    }
}

#[test]
fn a_signal_while_finished_replies_wait_for_a_slow_one() {
    let server = {
        let gate = Gate::default();
        Server::start(move |request| {
            if request.text == "2" {
                request.echo().behind(&gate)
            } else {
                request.echo()
            }
        })
    };
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line"])
        .input("1\n2\n3\n4\n")
        .start();
    run.wait_stdout(|stdout| stdout.starts_with(b"1"));
    server.wait(|log| log.calls == 4 && log.in_flight == 1);
    run.signal(Signal::TERM);
    run.finish()
        .killed_by(Signal::TERM)
        .one_message()
        .stdout_between("1", "1\n");
}

#[test]
fn a_signal_while_input_is_awaited() {
    let server = Server::echo();
    let mut run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line"])
        .hold_input()
        .start();
    run.feed("1\n");
    run.wait_stdout(|stdout| stdout.starts_with(b"1"));
    run.signal(Signal::INT);
    run.finish_with_input_held()
        .killed_by(Signal::INT)
        .one_message()
        .stdout_between("1", "1\n");
}

#[test]
fn a_signal_while_nobody_reads_the_output() {
    let server = Server::forgetful(Request::echo);
    let text = "Many words that nobody will read at all. ".repeat(20_000);
    let run = gptpipe()
        .ask(&server)
        .forgetful()
        .args(["p", "-c", "500"])
        .input(&text)
        .start_unread();
    server.wait(|log| log.calls >= 20);
    server.settle();
    run.signal(Signal::TERM);
    run.finish().killed_by(Signal::TERM).one_message();
}

#[test]
fn the_shell_sees_which_signal_it_was() {
    for (signal, status) in [
        (Signal::INT, "status 130\n"),
        (Signal::TERM, "status 143\n"),
    ] {
        let gate = Gate::default();
        let server = one_and_silence(&gate);
        // Without the `exit` some shells would become the program.
        let run = shell(r#""$GPTPIPE" p; echo "status $?"; exit"#)
            .ask(&server)
            .input("2\n")
            .start();
        server.wait(|log| log.in_flight == 1);
        kill_process(run.child(), signal).unwrap();
        let run = run.finish();
        run.must(
            run.stdout == status.as_bytes(),
            "the shell must see the signal",
        );
    }
}

#[test]
fn a_signal_that_was_ignored_from_the_start_stays_ignored() {
    let gate = Gate::default();
    let server = one_and_silence(&gate);
    let run = shell(r#"trap "" INT HUP; exec "$GPTPIPE" p"#)
        .ask(&server)
        .input("2\n")
        .start();
    server.wait(|log| log.in_flight == 1);
    run.signal(Signal::INT);
    run.signal(Signal::HUP);
    gate.open();
    run.finish().ok().stdout("2\n");

    let gate = Gate::default();
    let server = one_and_silence(&gate);
    let run = shell(r#"trap "" INT HUP; exec "$GPTPIPE" p"#)
        .ask(&server)
        .input("2\n")
        .start();
    server.wait(|log| log.in_flight == 1);
    run.signal(Signal::TERM);
    run.finish().killed_by(Signal::TERM);
}

#[test]
fn input_that_ends_in_an_error_keeps_what_was_answered() {
    let server = Server::echo();
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line"])
        .input(b"1\n2\n\xff\n")
        .run();
    run.status(65)
        .one_message()
        .stdout_between("1\n2", "1\n2\n");
}
