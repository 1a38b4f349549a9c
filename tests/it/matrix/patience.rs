//! How often a chunk is asked about and after what wait, and what all requests wait for.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::harness::{gptpipe, lines};
use crate::server::{Answer, Gate, Request, Server};

fn failing(_: &Request) -> Answer {
    Answer::error("500 Internal Server Error", "", "oops")
}

/// How often each text was asked about.
fn times(server: &Server) -> HashMap<String, usize> {
    let mut times = HashMap::new();
    for request in server.requests() {
        *times.entry(request.text.clone()).or_default() += 1;
    }
    times
}

#[test]
fn as_many_retries_as_asked_for_and_never_more() {
    for retries in [0, 1, 2] {
        let server = Server::start(failing);
        let outcome = gptpipe()
            .ask(&server)
            .args(["p", "-b", "line", "-j", "64", "--on-error", "skip"])
            .args(["--retries", &retries.to_string()])
            .input(lines(100))
            .run();
        outcome.status(1).stdout("\n".repeat(100));
        let times = times(&server);
        outcome.must(
            times.len() == 100 && times.values().all(|times| *times == 1 + retries),
            &format!("each is sent {} times: {times:?}", 1 + retries),
        );
    }
}

#[test]
fn retries_that_are_used_up_end_the_run() {
    let server = Server::start(|request| match request.text.as_str() {
        "2" => failing(request),
        _ => request.echo(),
    });
    let began = Instant::now();
    let outcome = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "-j", "1"])
        .input(lines(5))
        .patient()
        .run();
    let took = began.elapsed().as_secs();
    outcome.status(75).stdout("0\n1\n");
    // It is told once before the end that this may take a while.
    outcome
        .says("warning: chunk 3 ")
        .says("trying again (-v tells of each attempt)");
    outcome.says("hint: running again sends only what is missing");
    let messages = outcome.stderr.lines().count();
    outcome.must(messages == 3, "a warning, an error and a hint");
    let words = "error: chunk 3 (bytes 4-5, line 3 of standard input) failed after 6 attempts in ";
    outcome.says(words).says(" s: the server failed: 500: oops");
    let told = outcome.stderr.split("attempts in ").nth(1).unwrap();
    let told: u64 = told.split(' ').next().unwrap().parse().unwrap();
    outcome.must(
        told <= took && took <= told + 2,
        &format!("it took {took} s and says {told}"),
    );
    outcome.must(times(&server)["2"] == 6, "it was asked for 6 times");
    let waits: Vec<Duration> = {
        let requests = server.requests();
        let asked: Vec<_> = requests
            .iter()
            .filter(|request| request.text == "2")
            .collect();
        asked
            .windows(2)
            .map(|pair| pair[1].arrived - pair[0].arrived)
            .collect()
    };
    // Full jitter: up to 1, 2, 4, 8 and 16 s.
    for (at, wait) in waits.iter().enumerate() {
        let most = Duration::from_secs(1 << at) + Duration::from_secs(2);
        outcome.must(*wait <= most, &format!("the waits were {waits:?}"));
    }
}

/// All requests wait when one is told that there were too many: of 8 in flight one is refused, then
/// the others are answered, and no other comes before the time.
#[test]
fn a_refusal_for_all_holds_back_every_request() {
    let wait = Duration::from_millis(2500);
    for (status, headers) in [
        ("429 Too Many Requests", "retry-after-ms: 2500\r\n"),
        ("503 Service Unavailable", "retry-after-ms: 2500\r\n"),
    ] {
        let (answers, refuses) = (Gate::default(), Gate::default());
        let server = Server::start({
            let (answers, refuses) = (answers.clone(), refuses.clone());
            move |request| match request.ordinal {
                3 => Answer::plain(status, headers, "").behind(&refuses),
                0..8 => request.echo().behind(&answers),
                _ => request.echo(),
            }
        });
        let run = gptpipe()
            .ask(&server)
            .args(["p", "-b", "line", "-j", "8", "-v"])
            .input(lines(40))
            .start();
        server.wait(|log| log.in_flight == 8);
        let began = Instant::now();
        refuses.open();
        run.wait_stderr(|stderr| stderr.contains("attempt 1 failed"));
        answers.open();
        let outcome = run.finish();
        outcome.status(0).stdout(lines(40));
        let requests = server.requests();
        assert_eq!(
            requests.len(),
            41,
            "each once, and the one refused once more"
        );
        for request in &requests[8..] {
            let after = request.arrived - began;
            assert!(
                after >= wait,
                "{status}: {} came after {after:?}",
                request.text
            );
        }
    }
}

/// What says nothing about other requests holds none of them back.
#[test]
fn a_failure_of_one_holds_back_no_other() {
    for (status, headers) in [
        ("500 Internal Server Error", "retry-after-ms: 5000\r\n"),
        ("408 Request Timeout", "retry-after-ms: 5000\r\n"),
    ] {
        let server = Server::start(move |request| match request.ordinal {
            3 => Answer::plain(status, headers, ""),
            _ => request.echo(),
        });
        let outcome = gptpipe()
            .ask(&server)
            .args(["p", "-b", "line", "-j", "2"])
            .input(lines(40))
            .run();
        outcome.ok().stdout(lines(40));
        let requests = server.requests();
        assert_eq!(requests.len(), 41);
        let refused = requests[3].arrived;
        let others = &requests[4..40];
        for request in others {
            let after = request.arrived - refused;
            assert!(
                after < Duration::from_secs(5),
                "{status}: one came after {after:?}"
            );
        }
        assert_eq!(requests[40].text, requests[3].text);
        assert!(requests[40].arrived - refused >= Duration::from_secs(5));
    }
}

#[test]
fn a_long_wait_is_told_of() {
    for (quiet, is_told) in [(&[][..], true), (&["-q"][..], false)] {
        let server = Server::start(|request| match request.ordinal {
            0 => Answer::plain("429 Too Many Requests", "Retry-After: 5\r\n", ""),
            _ => request.echo(),
        });
        let outcome = gptpipe()
            .ask(&server)
            .arg("p")
            .args(quiet)
            .input("text\n")
            .run();
        outcome.status(0).stdout("text\n");
        assert_eq!(server.calls(), 2);
        if is_told {
            outcome
                .one_message()
                .says("warning: the rate limit was reached; all requests wait 5 s");
        } else {
            outcome.stderr("");
        }
    }
}

/// Few requests at a time: each refusal holds back those that come after it, and is no failure of
/// theirs.
#[test]
fn refusals_wave_after_wave() {
    let server = Server::start({
        let met = Mutex::<HashSet<String>>::default();
        move |request| {
            let is_first = met.lock().unwrap().insert(request.text.clone());
            if is_first && request.text.ends_with('0') {
                Answer::plain("429 Too Many Requests", "retry-after-ms: 20\r\n", "")
            } else {
                request.echo()
            }
        }
    });
    let outcome = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "-j", "4", "--retries", "1"])
        .input(lines(100))
        .run();
    outcome.ok().stdout(lines(100));
    assert_eq!(server.calls(), 110);
}
