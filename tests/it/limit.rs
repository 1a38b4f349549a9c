//! Limits: how fast requests go out, and that all processes of a user keep one limit together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{Folder, Gptpipe, gptpipe, lines, shell};
use crate::server::{Answer, Request, Server};

/// The most requests that arrived within any time of this length.
fn most_within(server: &Server, window: Duration) -> usize {
    let mut arrived: Vec<_> = server.requests().iter().map(|r| r.arrived).collect();
    arrived.sort();
    (0..arrived.len())
        .map(|first| {
            arrived[first..]
                .iter()
                .take_while(|at| at.duration_since(arrived[first]) < window)
                .count()
        })
        .max()
        .unwrap_or(0)
}

/// From the first arrival to the last.
fn spread(server: &Server) -> Duration {
    let arrived: Vec<_> = server.requests().iter().map(|r| r.arrived).collect();
    let (first, last) = (arrived.iter().min(), arrived.iter().max());
    last.unwrap().duration_since(*first.unwrap())
}

fn run(server: &Server, home: &Arc<Folder>, args: &[&str]) -> Gptpipe {
    gptpipe()
        .at(home)
        .ask(server)
        .args(["p", "-b", "line"])
        .args(args)
}

#[test]
fn requests_are_evenly_spaced() {
    let (server, home) = (Server::echo(), Folder::home());
    let run = run(&server, &home, &["--rate", "20/s"]).input(lines(30));
    run.run().ok().stdout(lines(30));
    // 29 spaces of a twentieth of a second; machines may be late but never early.
    assert!(spread(&server) >= Duration::from_millis(1430));
    let most = most_within(&server, Duration::from_secs(1));
    assert!(most <= 21, "{most} in a second");
}

#[test]
fn processes_keep_the_limit_together() {
    let (server, home) = (Server::echo(), Folder::home());
    let run = shell(r#"seq 1 40 | xargs -P8 -n1 sh -c 'echo $0 | "$GPTPIPE" -r 20/s p'"#)
        .at(&home)
        .ask(&server)
        .run();
    run.ok();
    assert_eq!(server.calls(), 40);
    assert!(spread(&server) >= Duration::from_millis(1920));
    let most = most_within(&server, Duration::from_secs(1));
    assert!(most <= 22, "{most} in a second");
}

#[test]
fn a_long_wait_for_a_limit_is_told() {
    let (server, home) = (Server::echo(), Folder::home());
    let run = run(&server, &home, &["--rate", "1/h"])
        .input("a\nb\n")
        .start();
    run.wait_stderr(|stderr| stderr.contains("`--rate` lets the next request go in 1h"));
    run.kill();
    assert_eq!(server.calls(), 1);
}

#[test]
fn a_process_that_dies_holds_nobody_back() {
    let (server, home) = (Server::echo(), Folder::home());
    for _ in 0..4 {
        let slow = run(&server, &home, &["--rate", "2/s"]).input(lines(50));
        let slow = slow.start();
        server.wait(|log| log.calls > 0);
        slow.kill();
    }
    let before = server.calls();
    let other = run(&server, &home, &["--rate", "20/s", "--no-cache"]).input(lines(10));
    other.run().ok();
    assert_eq!(server.calls() - before, 10);
}

#[test]
fn a_burst_is_there_for_who_asks_for_it() {
    let (server, home) = (Server::echo(), Folder::home());
    let run = run(&server, &home, &["-r", "10/s:10"]).input(lines(15));
    run.run().ok();
    let most = most_within(&server, Duration::from_millis(90));
    assert!(most >= 8, "{most} at once");
    assert!(spread(&server) >= Duration::from_millis(450));
}

#[test]
fn tokens_are_limited_by_what_is_counted() {
    let (server, home) = (
        Server::start(|request| request.echo().counted(1)),
        Folder::home(),
    );
    // About a hundred tokens each, so that one takes about a quarter of a second.
    let text = (0..6).fold(String::new(), |text, number| {
        text + &format!("{number} {}\n", "word ".repeat(20))
    });
    let run = run(&server, &home, &["--token-rate", "24000/m"]);
    run.args(["--param", "stream_options=null"])
        .input(&text)
        .run()
        .ok();
    let spread = spread(&server);
    assert!(
        spread >= Duration::from_secs(1) && spread < Duration::from_secs(6),
        "{spread:?}"
    );
}

#[test]
fn one_process_that_is_refused_holds_all_of_them_back() {
    let is_refused = Arc::new(AtomicBool::new(false));
    let server = Server::start({
        let is_refused = Arc::clone(&is_refused);
        move |request: &Request| {
            if request.text == "first" && !is_refused.swap(true, Ordering::SeqCst) {
                return Answer::plain(
                    "429 Too Many Requests",
                    "Retry-After: 2\r\nContent-Type: application/json\r\n",
                    r#"{"error":{"code":"rate_limit_exceeded","message":"slower"}}"#,
                );
            }
            request.echo()
        }
    });
    let home = Folder::home();
    // A run that is under way, with its next record to come.
    let mut other = run(&server, &home, &[]).hold_input().start();
    other.feed("a\n");
    other.wait_stdout(|stdout| stdout.starts_with(b"a"));
    other.feed("b\n");
    other.wait_stdout(|stdout| stdout.starts_with(b"a\nb"));
    let refused = run(&server, &home, &[]).input("first\n").start();
    server.wait(|log| log.calls == 3);
    // What it was told has to reach the file.
    thread::sleep(Duration::from_millis(300));
    other.feed("c\n");
    other.finish().ok().stdout("a\nb\nc\n");
    refused.finish().ok().stdout("first\n");
    let requests = server.requests();
    let at = |text: &str| {
        let request = requests.iter().rev().find(|request| request.text == text);
        request.unwrap().arrived
    };
    let refused = requests.iter().find(|request| request.text == "first");
    let refused = refused.unwrap().arrived;
    assert!(at("c").duration_since(refused) >= Duration::from_millis(1900));
    assert!(at("first").duration_since(refused) >= Duration::from_millis(1900));
}

#[test]
fn other_hosts_and_keys_have_limits_of_their_own() {
    let (server, home) = (Server::echo(), Folder::home());
    // It takes the slots of the next minute for itself.
    let first = run(&server, &home, &["-r", "1/m"]).input(lines(2)).start();
    server.wait(|log| log.calls == 1);
    let other = Server::echo();
    run(&other, &home, &["-r", "1/m"]).input("x\n").run().ok();
    run(&server, &home, &["-r", "1/m"])
        .env("GPTPIPE_API_KEY", "another")
        .input("y\n")
        .run()
        .ok();
    first.kill();
}

#[test]
fn without_a_file_the_limit_holds_for_the_process() {
    let (server, home) = (Server::echo(), Folder::home());
    home.write("state", "no folder");
    let run = run(&server, &home, &["-r", "20/s"])
        .config("ledger = false\n")
        .input(lines(20))
        .run();
    run.status(0)
        .stdout(lines(20))
        .one_message()
        .says("the limit holds for this process alone");
    assert!(spread(&server) >= Duration::from_millis(940));
}

#[test]
fn fewer_are_in_flight_while_the_server_has_no_room() {
    let server = Server::start(|request| {
        if request.ordinal < 2 {
            let headers = "retry-after-ms: 50\r\n";
            return Answer::plain("429 Too Many Requests", headers, "");
        }
        request.echo().after(Duration::from_millis(5))
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "-j", "8", "-v"])
        .input(lines(200))
        .run();
    run.status(0)
        .stdout(lines(200))
        .says("the rate limit was reached: at most 4 requests in flight")
        .says("there is room: at most 5 requests in flight")
        .says("there is room: at most 8 requests in flight");
}

#[test]
fn auto_finds_how_many_are_in_flight() {
    let server = Server::start(|request| request.echo().after(Duration::from_millis(30)));
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "-j", "auto"])
        .input(lines(400))
        .run();
    run.ok().stdout(lines(400));
    let most = server.log(|log| log.most_in_flight);
    assert!((8..=256).contains(&most), "{most} in flight");
}

/// A limit of twenty, all used up, that is there again after two seconds: a tenth of a second for
/// each request.
#[test]
fn a_limit_that_the_server_tells_is_kept_before_it_refuses() {
    let server = Server::start(|request| {
        let reply = request.echo();
        let headers = "x-ratelimit-limit-requests: 20\r\nx-ratelimit-remaining-requests: 0\r\n\
                       x-ratelimit-reset-requests: 2s\r\n";
        reply.headers(headers)
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line", "-j", "4"])
        .input(lines(20));
    run.run().ok().stdout(lines(20));
    let took = spread(&server);
    assert!(
        took >= Duration::from_millis(1200) && took < Duration::from_secs(8),
        "{took:?}"
    );
}
