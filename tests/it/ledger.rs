//! What requests there were: counted as the server counts them, whoever is killed when, and told
//! without a word of text.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Folder, Gptpipe, Outcome, Random, Running, gptpipe, lines};
use crate::server::{Answer, Gate, Request, Server};

/// A model with a price: $0.10 and $0.50 for a million tokens.
const PRICED: &str = "gpt-6-luna";

fn run(server: &Server, home: &Arc<Folder>) -> Gptpipe {
    gptpipe()
        .at(home)
        .ask(server)
        .args(["-m", PRICED, "-b", "line", "p"])
}

fn usage(home: &Arc<Folder>, args: &[&str]) -> Outcome {
    gptpipe().at(home).arg("usage").args(args).run()
}

/// The lines of JSON of a command.
fn json(outcome: &Outcome) -> Vec<Value> {
    outcome.ok();
    let text = String::from_utf8(outcome.stdout.clone()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect()
}

/// The one group that there is.
#[track_caller]
fn group(home: &Arc<Folder>) -> Value {
    let mut groups = json(&usage(home, &["--format", "jsonl"]));
    assert_eq!(groups.len(), 1, "{groups:?}");
    groups.remove(0)
}

#[track_caller]
fn audit(home: &Arc<Folder>) -> Vec<Value> {
    json(&usage(home, &["--audit"]))
}

fn state(home: &Folder) -> PathBuf {
    home.path.join("state/gptpipe")
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn each_request_is_told_with_what_it_cost() {
    let server = Server::start(|request: &Request| {
        let stream = request.stream().counted(1000);
        stream.delta(&request.text).finish("stop")
    });
    let home = Folder::home();
    run(&server, &home).input("a\nb\n").run().ok();
    // Both are remembered by now.
    run(&server, &home).input("a\nb\n").run().ok();
    let group = group(&home);
    assert_eq!(group["model"], PRICED);
    assert_eq!(group["requests"], 2);
    assert_eq!(group["cached"], 2);
    assert_eq!(group["errors"], 0);
    assert_eq!(group["tokens_in"], 2000);
    assert_eq!(group["tokens_out"], 10);
    // 2,000 tokens at $0.10 and 10 at $0.50 for a million.
    assert_eq!(group["cost_usd"], 0.000_205);
    assert_eq!(group["saved_usd"], 0.000_205);
    assert!(group["p99_seconds"].as_f64().unwrap() > 0.0);
    for by in ["day", "profile", "host"] {
        let groups = json(&usage(&home, &["--by", by, "--format=jsonl"]));
        assert_eq!(groups.len(), 1, "{by}");
        assert_eq!(groups[0]["requests"], 2);
        assert!(!groups[0][by].as_str().unwrap().is_empty());
    }
    let table = usage(&home, &[]);
    table.ok().must(
        String::from_utf8_lossy(&table.stdout).contains("$0.000205"),
        "the cost stands in the table",
    );
    // Nothing was that long ago.
    thread::sleep(Duration::from_millis(5));
    let none = usage(&home, &["--since", "1ms"]);
    none.status(0).stdout("").says("no requests");
}

/// A server that refuses, breaks off and resets, quickly enough for many of them.
fn faulty(request: &Request) -> Answer {
    let delay = Duration::from_millis((3 + request.ordinal * 7919 % 23) as u64);
    let quick = "Content-Type: application/json\r\nretry-after-ms: 1\r\n";
    match request.ordinal % 11 {
        // What does not make the program more careful, so that all its requests get to the server.
        2 => Answer::plain("500 Internal Server Error", quick, "{}"),
        5 => request.stream().delta("half").reset(),
        7 => Answer::nothing().reset(),
        8 => request.stream().delta("half").close(),
        _ => request.echo().after(delay),
    }
}

/// Requests in flight of each process of a batch.
const JOBS: usize = 4;

/// Sixteen processes, each with records of its own.
fn batch(server: &Server, home: &Arc<Folder>) -> Vec<Running> {
    (0..16)
        .map(|process| {
            run(server, home)
                .args(["-j", &JOBS.to_string(), "--retries", "3"])
                .args(["--on-error", "skip", "-q"])
                .input(lines(60).replace('\n', &format!(" of {process}\n")))
                .patient()
                .start()
        })
        .collect()
}

fn finish(process: Running) {
    let outcome = process.finish();
    let is_over = matches!(outcome.code, Some(0 | 1));
    outcome.must(is_over, "it must come to its end");
}

/// What breaks off, what is refused, who is killed with requests under way: the totals are the
/// server's own count.
#[test]
fn sixteen_processes_at_a_faulty_server_some_killed_are_counted_exactly() {
    // Of every second process the server keeps what comes after its first records to itself.
    let held: Arc<[AtomicUsize; 16]> = Arc::default();
    let server = Server::start({
        let held = Arc::clone(&held);
        move |request: &Request| {
            let (number, process) = request.text.split_once(" of ").unwrap();
            let process: usize = process.parse().unwrap();
            if process.is_multiple_of(2) && number.parse::<u32>().unwrap() >= 20 {
                held[process].fetch_add(1, Ordering::SeqCst);
                return Answer::nothing().stall();
            }
            faulty(request)
        }
    });
    let home = Folder::home();
    let mut spared = Vec::new();
    for (process, running) in batch(&server, &home).into_iter().enumerate() {
        if process % 2 == 1 {
            spared.push(running);
            continue;
        }
        // All that it may have under way is at the server.
        server.wait(|_| held[process].load(Ordering::SeqCst) == JOBS);
        assert!(running.kill().1);
    }
    spared.into_iter().for_each(finish);
    server.settle();
    let group = group(&home);
    let attempts = audit(&home);
    let calls = server.calls();
    assert_eq!(group["requests"], calls, "{group}");
    assert_eq!(group["in_flight"], 0);
    let count = |is: &dyn Fn(&Value) -> bool| attempts.iter().filter(|row| is(row)).count();
    assert_eq!(count(&|row| row["sent"] == true), calls);
    assert_eq!(count(&|row| row["outcome"] == "abandoned"), 8 * JOBS);
    let whole = count(&|row| row["outcome"] == "ok");
    assert_eq!(group["errors"], attempts.len() - whole);
    // It is all in the database, and only there.
    assert_eq!(files(&state(&home).join("journals")), Vec::<PathBuf>::new());
    let metrics = gptpipe().at(&home).arg("metrics").run();
    let count = format!("gpt_requests_total{{profile=\"openai\",model=\"{PRICED}\"}} {calls}\n");
    metrics.ok().must(
        String::from_utf8_lossy(&metrics.stdout).contains(&count),
        "metrics count the same",
    );
}

/// A request is noted right before it is sent. Who is killed between these two has noted one that
/// never left, as abandoned; none is ever sent that was not noted.
#[test]
fn processes_killed_at_any_moment_lose_no_request() {
    let server = Server::start(faulty);
    let home = Folder::home();
    let mut random = Random::new();
    let mut killed = 0;
    let mut spared = Vec::new();
    for (process, running) in batch(&server, &home).into_iter().enumerate() {
        if process % 2 == 1 {
            spared.push(running);
            continue;
        }
        thread::sleep(Duration::from_millis(random.below(60) as u64));
        killed += usize::from(running.kill().1);
    }
    spared.into_iter().for_each(finish);
    server.settle();
    assert!(killed >= 4, "{killed} were killed while they ran");
    let group = group(&home);
    let requests = usize::try_from(group["requests"].as_u64().unwrap()).unwrap();
    let calls = server.calls();
    assert!(
        (calls..=calls + killed).contains(&requests),
        "{requests} noted, {calls} came, {killed} killed"
    );
    let attempts = audit(&home);
    let abandoned = attempts.iter().filter(|row| row["outcome"] == "abandoned");
    let abandoned = abandoned.count();
    assert!(abandoned >= requests - calls && abandoned <= killed * JOBS);
}

#[test]
fn what_never_left_is_no_request_and_yet_told() {
    // A port that nobody listens at.
    let port = Server::echo().port();
    let home = Folder::home();
    let outcome = gptpipe()
        .at(&home)
        .args(["--base-url", &format!("http://127.0.0.1:{port}/v1")])
        .args(["-m", "m", "p"])
        .once()
        .input("text")
        .run();
    outcome.status(75);
    let group = group(&home);
    assert_eq!(
        (&group["requests"], &group["errors"]),
        (&0.into(), &1.into())
    );
    let rows = audit(&home);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["outcome"], "connect");
    assert_eq!(rows[0]["sent"], false);
}

#[test]
fn a_model_without_a_price_costs_something_unknown_and_never_nothing() {
    let server = Server::echo();
    let home = Folder::home();
    let ask = |config: &str| {
        gptpipe()
            .at(&home)
            .config(config)
            .ask(&server)
            .args(["-m", "in-house", "--refresh", "p"])
            .input("text")
            .run()
    };
    ask("").ok();
    assert!(group(&home)["cost_usd"].is_null());
    let table = usage(&home, &[]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[5], "?", "{table}");
    ask("[prices.in-house]\ninput = 1_000_000\noutput = 0\n").ok();
    let rows = audit(&home);
    assert!(rows[0]["cost_usd"].is_null());
    assert_eq!(rows[1]["cost_usd"], rows[1]["tokens_in"].as_f64().unwrap());
    // Of both together what is known is told.
    let both = group(&home);
    assert_eq!(both["cost_usd"], rows[1]["cost_usd"]);
    assert_eq!(both["unpriced"], 1);
    ask("[prices.in-house]\ninput = -1\noutput = 0\n").status(2);
    ask("[prices.in-house]\ninputs = 1\noutput = 0\n").status(2);
}

#[test]
fn requests_are_seen_while_they_are_in_flight() {
    let (gate, home) = (Gate::default(), Folder::home());
    let server = Server::start({
        let gate = gate.clone();
        move |request| request.echo().behind(&gate)
    });
    let running = run(&server, &home).input(lines(3)).start();
    server.wait(|log| log.in_flight == 3);
    let flying = group(&home);
    assert_eq!(
        (&flying["requests"], &flying["in_flight"]),
        (&3.into(), &3.into())
    );
    gate.open();
    running.finish().ok();
    let landed = group(&home);
    assert_eq!(
        (&landed["requests"], &landed["in_flight"]),
        (&3.into(), &0.into())
    );
    assert_eq!(landed["errors"], 0);
}

#[test]
fn an_interrupted_run_leaves_what_it_had_sent() {
    let home = Folder::home();
    let server = Server::start(|request| request.stream().delta("half").stall());
    let running = run(&server, &home).input(lines(5)).start();
    server.wait(|log| log.in_flight == 5);
    running.signal(Signal::INT);
    running.finish().killed_by(Signal::INT);
    let rows = audit(&home);
    assert_eq!(rows.len(), 5);
    assert!(rows.iter().all(|row| row["outcome"] == "abandoned"));
    assert_eq!(group(&home)["requests"], 5);
}

#[test]
fn sixty_four_processes_at_once_lose_nothing_and_say_nothing() {
    let (server, home) = (Server::echo(), Folder::home());
    let running: Vec<_> = (0..64)
        .map(|process| {
            run(&server, &home)
                .args(["--log", "log.jsonl", "--metrics", "metrics.prom"])
                .input(format!("text {process}\n"))
                .patient()
                .start()
        })
        .collect();
    for process in running {
        process.finish().ok();
    }
    assert_eq!(group(&home)["requests"], 64);
    let log = fs::read_to_string(home.path.join("log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 64);
    let mut logged: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // What the log has is what the ledger has.
    let by_run = |row: &Value| row["run"].as_str().unwrap().to_owned();
    logged.sort_by_key(by_run);
    let mut recorded = audit(&home);
    recorded.sort_by_key(by_run);
    assert_eq!(logged, recorded);
}

#[test]
fn the_log_is_for_its_owner_and_is_added_to() {
    let (server, home) = (Server::echo(), Folder::home());
    home.write("log.jsonl", "{\"before\":true}\n");
    let existing = home.path.join("log.jsonl");
    fs::set_permissions(&existing, fs::Permissions::from_mode(0o640)).unwrap();
    run(&server, &home)
        .args(["--log", "log.jsonl"])
        .input("a\n")
        .run()
        .ok();
    run(&server, &home)
        .args(["--log", "other.jsonl"])
        .input("b\n")
        .run()
        .ok();
    let mode = |name: &str| {
        let metadata = fs::metadata(home.path.join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!((mode("log.jsonl"), mode("other.jsonl")), (0o640, 0o600));
    let log = fs::read_to_string(&existing).unwrap();
    assert!(
        log.starts_with("{\"before\":true}\n{\"time\":\"20"),
        "{log}"
    );
    for file in files(&state(&home)) {
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", file.display());
    }
    // Found before anything is spent.
    let calls = server.calls();
    let refused = run(&server, &home)
        .args(["--log", "no/such/folder"])
        .input("c\n")
        .run();
    refused
        .status(2)
        .says("cannot open the log `no/such/folder`");
    assert_eq!(server.calls(), calls);
}

#[test]
fn neither_text_nor_key_is_ever_recorded() {
    let server = Server::start(|request: &Request| match request.ordinal % 3 {
        0 => Answer::error(
            "401 Unauthorized",
            "invalid_api_key",
            "canary-key is wrong, canary text",
        ),
        1 => request.reply(["canary reply"]),
        _ => Answer::error("400 Bad Request", "canary", "canary text"),
    });
    let home = Folder::home();
    for text in ["canary text\n", "canary texts\n", "canary textual\n"] {
        run(&server, &home)
            .env("GPTPIPE_API_KEY", "canary-key")
            .args(["--log", "log.jsonl", "-s", "canary system"])
            .once()
            .input(text)
            .run();
    }
    assert_eq!(group(&home)["requests"], 3);
    let mut all = files(&state(&home));
    all.push(home.path.join("log.jsonl"));
    for file in all {
        let bytes = fs::read(&file).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("canary"), "{}", file.display());
    }
    let keys: Vec<Value> = audit(&home).iter().map(|row| row["key"].clone()).collect();
    assert!(keys[0].is_string(), "the key has a name: {keys:?}");
    assert!(keys.iter().all(|key| *key == keys[0]));
}

#[test]
fn a_refused_key_that_is_renewed_is_two_requests() {
    let server = Server::start(|request: &Request| {
        if request.header("authorization") == Some("Bearer fresh") {
            request.echo()
        } else {
            Answer::error("401 Unauthorized", "invalid_api_key", "no")
        }
    });
    let home = Folder::home();
    // The command gives another key the second time.
    home.write(
        "key.sh",
        "test -e asked && echo fresh || { touch asked; echo stale; }\n",
    );
    let command = format!("sh -c 'cd {} && sh key.sh'", home.path.display());
    let config = format!(
        "[profiles.own]\nbase-url = '{}'\nkey-command = \"{command}\"\nmodel = 'm'\n",
        server.url()
    );
    gptpipe()
        .at(&home)
        .config(&config)
        .args(["-P", "own", "p"])
        .input("text")
        .run()
        .ok();
    assert_eq!(server.calls(), 2);
    let group = group(&home);
    assert_eq!(group["requests"], 2, "{group}");
    assert_eq!(
        (&group["errors"], &group["retries"]),
        (&1.into(), &1.into())
    );
}

#[test]
fn it_can_be_turned_off() {
    let (server, home) = (Server::echo(), Folder::home());
    run(&server, &home)
        .config("ledger = false\n")
        .input("a\n")
        .run()
        .ok();
    assert_eq!(files(&state(&home)), Vec::<PathBuf>::new());
    run(&server, &home)
        .config("[ledger]\nretention = '7d'\n")
        .input("b\n")
        .run()
        .ok();
    assert_eq!(group(&home)["requests"], 1);
    for wrong in [
        "ledger = 7\n",
        "[ledger]\nretentoin = '7d'\n",
        "[ledger]\nretention = '7'\n",
    ] {
        run(&server, &home)
            .config(wrong)
            .input("c\n")
            .run()
            .status(2);
    }
}

#[test]
fn a_ledger_that_cannot_be_kept_is_a_warning_and_no_end() {
    let (server, home) = (Server::echo(), Folder::home());
    home.write("state", "no folder");
    let outcome = run(&server, &home).input("a\n").run();
    outcome
        .status(0)
        .stdout("a\n")
        .says("this run is not recorded");
}

#[test]
fn old_rows_go_and_totals_stay() {
    let (server, home) = (Server::echo(), Folder::home());
    // A journal of a run of long ago, and one that was cut off in its last line.
    let old = "{\"run\":{\"name\":\"old\",\"time\":1500000000000000,\"host\":\"h\",\"profile\":\"p\",\"model\":\"m\"}}\n\
        {\"start\":{\"number\":0,\"time\":1500000000000000,\"chunk\":\"c\",\"attempt\":1,\"is_sent\":true}}\n\
        {\"end\":{\"number\":0,\"outcome\":\"ok\",\"latency\":1000000}}\n\
        {\"start\":{\"number\":1,\"time\":1500000000000000,\"chu";
    home.write("state/gptpipe/journals/0-old.journal", old);
    run(&server, &home).input("a\n").run().ok();
    let metrics = || {
        let run = gptpipe().at(&home).arg("metrics").run();
        run.ok();
        let text = String::from_utf8(run.stdout.clone()).unwrap();
        let counts = text
            .lines()
            .filter(|line| line.starts_with("gpt_requests_total"));
        counts.map(str::to_owned).collect::<Vec<_>>()
    };
    let counts = metrics();
    assert_eq!(counts[0], "gpt_requests_total{profile=\"p\",model=\"m\"} 1");
    assert_eq!(counts.len(), 2);
    assert_eq!(group(&home)["model"], PRICED);
    assert_eq!(metrics(), counts);
}

#[test]
fn commands_take_their_own_options_and_no_others() {
    let home = Folder::home();
    let help = gptpipe().args(["usage", "--help"]).run();
    help.ok().must(
        String::from_utf8_lossy(&help.stdout).contains("--since DUR"),
        "its help tells its options",
    );
    usage(&home, &["--by", "week"])
        .status(2)
        .says("takes `model`, `day`, `profile` or `host`");
    usage(&home, &["--jobs", "3"])
        .status(2)
        .says("unknown option");
    usage(&home, &["file"]).status(2).says("goes after `--`");
    gptpipe()
        .args(["-q", "usage"])
        .run()
        .status(2)
        .says("stand after its name");
    let empty = usage(&home, &["--audit"]);
    empty.ok();
    assert!(empty.stdout.is_empty());
}

/// A pipe that a reader leaves is no error.
#[test]
fn a_reader_of_the_audit_may_leave() {
    let (server, home) = (Server::echo(), Folder::home());
    run(&server, &home).input(lines(2000)).patient().run().ok();
    let mut running = gptpipe()
        .at(&home)
        .args(["usage", "--audit"])
        .start_unread();
    drop(running.take_stdout());
    running.finish().killed_by(Signal::PIPE);
    assert_eq!(audit(&home).len(), 2000);
}
