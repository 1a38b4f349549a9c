//! Output in the order of the input whatever finishes first, requests within their bounds, and
//! memory that does not depend on the input.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{gptpipe, lines};
use crate::server::{Gate, Request, Server};

fn number(request: &Request) -> usize {
    request.text.parse().unwrap()
}

/// Repeats every line, but the first only when the gate is open.
fn slow_head(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::start(move |request| {
        if number(request) == 0 {
            request.echo().behind(&gate)
        } else {
            request.echo()
        }
    })
}

#[test]
fn a_late_first_chunk_still_comes_first() {
    let gate = Gate::default();
    let server = slow_head(&gate);
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "-j", "4"])
        .input(lines(20))
        .start();
    server.wait(|log| log.calls == 20 && log.in_flight == 1);
    gate.open();
    run.finish().ok().stdout(lines(20));
}

#[test]
fn the_last_may_be_the_first_to_finish() {
    let gates: Vec<Gate> = (0..8).map(|_| Gate::default()).collect();
    let server = Server::start({
        let gates = gates.clone();
        move |request| request.echo().behind(&gates[number(request)])
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "-j", "8"])
        .input(lines(8))
        .start();
    server.wait(|log| log.in_flight == 8);
    for (at, gate) in gates.iter().enumerate().rev() {
        gate.open();
        server.wait(|log| log.in_flight == at);
    }
    run.finish().ok().stdout(lines(8));
}

#[test]
fn a_finished_beginning_is_written_while_the_rest_is_awaited() {
    let gate = Gate::default();
    let server = Server::start({
        let gate = gate.clone();
        move |request| {
            if number(request) == 3 {
                request.echo().behind(&gate)
            } else {
                request.echo()
            }
        }
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line"])
        .input(lines(9))
        .start();
    run.wait_stdout(|stdout| stdout.starts_with(b"0\n1\n2"));
    gate.open();
    run.finish().ok().stdout(lines(9));
}

#[test]
fn as_many_requests_as_asked_for_and_never_more() {
    for jobs in [1, 2, 8, 64] {
        let gate = Gate::default();
        let server = Server::start({
            let gate = gate.clone();
            move |request| request.echo().behind(&gate)
        });
        let jobs_arg = jobs.to_string();
        let run = gptpipe()
            .ask(&server)
            .args(["p", "-b", "line", "-j", &jobs_arg])
            .input(lines(200))
            .start();
        server.wait(|log| log.in_flight == jobs);
        server.settle();
        gate.open();
        run.finish().ok().stdout(lines(200));
        assert_eq!(server.log(|log| log.most_in_flight), jobs, "-j {jobs}");
    }
}

#[test]
fn a_slow_head_holds_back_output_and_not_requests() {
    let gate = Gate::default();
    let server = slow_head(&gate);
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "-j", "2"])
        .input(lines(3000))
        .start();
    server.wait(|log| log.calls == 3000);
    gate.open();
    run.finish().ok().stdout(lines(3000));
}

#[test]
fn behind_a_slow_head_only_so_much_is_asked() {
    let gate = Gate::default();
    let server = Server::forgetful({
        let gate = gate.clone();
        move |request| {
            if request.text.starts_with("0 ") {
                request.echo().behind(&gate)
            } else {
                request.echo()
            }
        }
    });
    // Forty kilobytes each, with its reply; what waits is bounded in bytes.
    let text = (0..1000).fold(String::new(), |text, number| {
        text + &format!("{number} {}\n", "word ".repeat(4000))
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "-j", "2", "-c", "100000"])
        .input(&text)
        .start();
    server.wait(|log| log.calls >= 100);
    server.settle();
    let calls = server.calls();
    assert!(calls <= 300, "{calls} replies wait for the first");
    gate.open();
    run.finish().ok().stdout(&text);
}

#[test]
fn what_nobody_reads_is_not_asked_for_without_end() {
    let server = Server::forgetful(Request::echo);
    let paragraph = "A paragraph of a certain length, said again and again. ".repeat(40) + "\n\n";
    let mut run = gptpipe()
        .ask(&server)
        .forgetful()
        .args(["p", "-c", "500"])
        .hold_input()
        .start_unread();
    let fed = Arc::new(AtomicUsize::new(0));
    let mut stdin = run.take_stdin();
    let feeder = thread::spawn({
        let (fed, paragraph) = (Arc::clone(&fed), paragraph.clone());
        move || {
            for _ in 0..4000 {
                stdin.write_all(paragraph.as_bytes()).unwrap();
                fed.fetch_add(paragraph.len(), Ordering::SeqCst);
            }
        }
    });
    server.wait(|log| log.calls >= 8);
    server.settle();
    let taken = fed.load(Ordering::SeqCst);
    assert!(
        taken < 2_000_000,
        "{taken} bytes were read, though nobody reads the output"
    );
    run.read_stdout();
    feeder.join().unwrap();
    run.finish().ok().stdout(paragraph.repeat(4000));
}

#[test]
fn ten_thousand_requests_arrive_in_order() {
    let server = Server::forgetful(Request::echo);
    let text = lines(10_000);
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "-j", "64"])
        .input(&text)
        .run();
    run.ok().stdout(&text);
    let (calls, most) = server.log(|log| (log.calls, log.most_in_flight));
    assert_eq!(calls, 10_000);
    assert!(most <= 64, "{most} were in flight");
}

#[test]
fn random_delays_do_not_move_anything() {
    let server = Server::start(|request| {
        // Every order of endings will do; this one is the same every time.
        let delay = (request.ordinal * 7919 % 13) as u64;
        request.echo().after(Duration::from_millis(delay))
    });
    let text = lines(300);
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "-j", "16"])
        .input(&text)
        .run();
    run.ok().stdout(&text);
    assert!(server.log(|log| log.most_in_flight) <= 16);
}

/// Peak memory in KiB of a run over about so many bytes.
fn peak_memory(bytes: usize) -> u64 {
    let server = Server::forgetful(Request::echo);
    let sentence = "This sentence is one of very many that are all the same in this long text. ";
    let piece = (sentence.repeat(9) + "\n\n").repeat(150);
    let pieces = bytes / piece.len();
    let mut run = gptpipe()
        .ask(&server)
        .forgetful()
        .args(["p", "-c", "1000"])
        .hold_input()
        .start_unread();
    let output = thread::spawn({
        let mut stdout = run.take_stdout();
        move || std::io::copy(&mut stdout, &mut std::io::sink()).unwrap()
    });
    for _ in 0..pieces {
        run.feed(&piece);
    }
    // It has read all of it by now but for what the pipe holds.
    let peak = run.peak_memory();
    run.finish().ok();
    assert_eq!(
        usize::try_from(output.join().unwrap()).unwrap(),
        pieces * piece.len()
    );
    peak
}

#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_depend_on_the_input() {
    let (small, large) = (peak_memory(2_000_000), peak_memory(16_000_000));
    assert!(
        large < small + 4_000,
        "2 MB of input took {small} KiB and 16 MB took {large}"
    );
}

#[test]
#[cfg(target_os = "linux")]
#[ignore = "half a minute without optimization; the smaller one above says the same"]
fn memory_does_not_depend_on_a_large_input() {
    let (small, large) = (peak_memory(8_000_000), peak_memory(64_000_000));
    assert!(
        large < small + 4_000,
        "8 MB of input took {small} KiB and 64 MB took {large}"
    );
}
