//! Ends from outside, at any moment: what was whole is kept, and running again goes on from there
//! until the output is what an undisturbed run would have written.

use std::collections::HashSet;
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::harness::{Folder, Gptpipe, Random, gptpipe, lines};
use crate::server::{Gate, Request, Server};

/// Chunks of a run.
const CHUNKS: usize = 400;

/// Requests in flight, and so the most that one interruption can cost.
const JOBS: usize = 16;

/// Takes some milliseconds for each reply.
fn slow_echo() -> Server {
    Server::start(|request: &Request| {
        let delay = 2 + request.ordinal * 7919 % 11;
        request.echo().after(Duration::from_millis(delay as u64))
    })
}

fn run(server: &Server, home: &Arc<Folder>, text: &str) -> Gptpipe {
    gptpipe()
        .at(home)
        .ask(server)
        .args(["p", "-b", "line", "-j", &JOBS.to_string()])
        .input(text)
}

/// Runs until it is done, ended at random moments until then; gives how often.
fn until_done(
    random: &mut Random,
    end: impl Fn(crate::harness::Running) -> Option<Vec<u8>>,
) -> usize {
    let (server, home, text) = (slow_echo(), Folder::home(), lines(CHUNKS));
    let mut ended = 0;
    let mut written: HashSet<String> = HashSet::new();
    let mut seen = 0;
    loop {
        let running = run(&server, &home, &text).start();
        // From before the first request to some replies further.
        let moment = Duration::from_micros(random.below(60_000) as u64);
        thread::sleep(moment);
        let Some(stdout) = end(running) else {
            break;
        };
        ended += 1;
        assert!(
            text.as_bytes().starts_with(&stdout),
            "what was written is a right prefix"
        );
        // What an earlier run has written is not asked for by any later one.
        let requests = server.requests();
        for request in &requests[seen..] {
            assert!(
                !written.contains(&request.text),
                "{} was whole, and is asked for again",
                request.text
            );
        }
        seen = requests.len();
        let stdout = String::from_utf8(stdout).unwrap();
        written.extend(stdout.lines().map(str::to_owned));
        assert!(ended < 2000, "no run comes any further");
    }
    run(&server, &home, &text).run().ok().stdout(&text);
    let calls = server.calls();
    assert!(
        calls <= CHUNKS + JOBS * ended,
        "{calls} requests for {CHUNKS} chunks and {ended} ends"
    );
    ended
}

#[test]
fn killed_a_hundred_times_it_pays_for_nothing_twice() {
    let mut random = Random::new();
    let mut kills = 0;
    while kills < 100 {
        kills += until_done(&mut random, |running| {
            let (stdout, was_killed) = running.kill();
            was_killed.then_some(stdout)
        });
    }
}

#[test]
fn interrupted_at_any_moment_it_goes_on_from_there() {
    let mut random = Random::new();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        until_done(&mut random, |running| {
            running.try_signal(signal);
            let run = running.finish();
            if run.code == Some(0) {
                return None;
            }
            run.killed_by(signal);
            // Before it has begun to work there is nothing to tell.
            if !run.stderr.is_empty() {
                run.one_message()
                    .says("gptpipe: interrupted: ")
                    .says("hint: whole replies are remembered");
            }
            Some(run.stdout.clone())
        });
    }
}

#[test]
fn a_reader_that_leaves_costs_no_reply_that_was_whole() {
    let (server, home, text) = (slow_echo(), Folder::home(), lines(CHUNKS));
    let mut ends = 0;
    for lines in [1, 50, 51, 200, 399] {
        let mut running = run(&server, &home, &text).start_unread();
        let mut stdout = std::io::BufReader::new(running.take_stdout());
        for _ in 0..lines {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        }
        drop(stdout);
        let outcome = running.finish();
        let is_right = outcome.code == Some(0) || outcome.signal == Some(Signal::PIPE.as_raw());
        outcome.must(is_right && outcome.stderr.is_empty(), "it ends as cat does");
        ends += 1;
    }
    run(&server, &home, &text).run().ok().stdout(&text);
    assert!(server.calls() <= CHUNKS + JOBS * ends);
}

#[test]
fn a_terminal_that_is_gone_costs_no_reply_that_was_whole() {
    let gate = Gate::default();
    let server = Server::start({
        let gate = gate.clone();
        move |request| request.echo().behind(&gate)
    });
    let (home, text) = (Folder::home(), lines(4));
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&user).unwrap();
    unlockpt(&user).unwrap();
    let name = ptsname(&user, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let line = open(name.as_c_str(), flags, Mode::empty()).unwrap();
    let running = run(&server, &home, &text)
        .stdout(File::from(line.try_clone().unwrap()))
        .stderr(File::from(line))
        .start();
    server.wait(|log| log.in_flight == 4);
    drop(user);
    gate.open();
    let outcome = running.finish();
    outcome.must(outcome.code != Some(0), "nobody has seen it");
    let again = run(&server, &home, &text).run();
    again.ok().stdout(&text);
    let calls = server.calls();
    assert!(calls <= 8, "{calls} requests");
    // What was answered before the end was told is there; a quick end may drop what was not.
    let began = Instant::now();
    run(&server, &home, &text).arg("--cache-only").run().ok();
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn two_runs_at_once_and_one_of_them_killed() {
    let (server, home, text) = (slow_echo(), Folder::home(), lines(CHUNKS));
    let written = Mutex::new(Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..10 {
                let running = run(&server, &home, &text).start();
                thread::sleep(Duration::from_millis(20));
                written.lock().unwrap().push(running.kill().0);
            }
        });
        for _ in 0..3 {
            run(&server, &home, &text).run().ok().stdout(&text);
        }
    });
    for stdout in written.into_inner().unwrap() {
        assert!(text.as_bytes().starts_with(&stdout));
    }
    run(&server, &home, &text).run().ok().stdout(&text);
}
