//! What may be spent: never more than the bound, by one process or by many, and what is whole is kept.

use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Folder, Gptpipe, gptpipe, lines};
use crate::server::{Answer, Gate, Request, Server};

/// A dollar for a million tokens: each request comes to $0.000115.
const PRICES: &str = "[prices.m]\ninput = 1\noutput = 1\n";

/// Counts fifteen tokens in, about as many as they are taken for, and a hundred out.
fn counting(request: &Request) -> Answer {
    let body = serde_json::json!({
        "id": "1", "object": "chat.completion", "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": request.text},
            "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 15, "completion_tokens": 100, "total_tokens": 115},
    });
    Answer::json("200 OK", &body)
}

fn run(server: &Server, home: &Arc<Folder>, budget: &str) -> Gptpipe {
    asking(server, home).config(&format!("{budget}\n{PRICES}"))
}

fn asking(server: &Server, home: &Arc<Folder>) -> Gptpipe {
    gptpipe()
        .at(home)
        .ask(server)
        .args(["-m", "m", "-b", "line", "-s", ""])
        .args(["--max-output-tokens", "100", "p"])
}

#[test]
fn a_run_stops_before_it_costs_more_and_goes_on_with_more() {
    let (server, home) = (Server::start(counting), Folder::home());
    let text = lines(50);
    let outcome = run(&server, &home, "")
        .args(["--max-cost", "0.0012"])
        .input(&text)
        .run();
    outcome
        .status(255)
        .says("--max-cost $0.0012")
        .says("run the same command with a larger --max-cost");
    let calls = server.calls();
    assert!((9..=10).contains(&calls), "{calls} requests");
    outcome.stdout(lines(calls));
    // What was answered is remembered and costs nothing again.
    let outcome = run(&server, &home, "")
        .args(["--max-cost", "1"])
        .input(&text)
        .run();
    outcome.status(0).stdout(&text);
    assert_eq!(server.calls(), 50);
}

#[test]
fn a_run_stops_before_it_uses_more_tokens_and_needs_no_price_for_that() {
    let (server, home) = (Server::start(counting), Folder::home());
    let outcome = gptpipe()
        .at(&home)
        .ask(&server)
        .args(["-m", "unknown", "-b", "line", "--max-output-tokens", "100"])
        .args(["--max-tokens", "600", "p"])
        .input(lines(50))
        .run();
    outcome
        .status(255)
        .says("--max-tokens 600")
        .says("a larger --max-tokens");
    assert!((4..=5).contains(&server.calls()), "{}", server.calls());
    outcome.stdout(lines(server.calls()));
}

/// However many are in flight, what they may come to is counted in.
#[test]
fn requests_in_flight_are_counted_in() {
    let gate = Gate::default();
    let server = Server::start({
        let gate = gate.clone();
        move |request| counting(request).behind(&gate)
    });
    let home = Folder::home();
    let running = run(&server, &home, "")
        .args(["-j", "32", "--max-cost", "0.0012"])
        .input(lines(50))
        .start();
    server.wait(|log| log.in_flight >= 9);
    assert!(server.log(|log| log.in_flight) <= 10);
    gate.open();
    running.finish().status(255);
    assert!(server.calls() <= 10, "{}", server.calls());
}

#[test]
fn without_a_price_the_cost_cannot_be_bounded() {
    let (server, home) = (Server::echo(), Folder::home());
    let ask = |args: &[&str], config: &str| {
        gptpipe()
            .at(&home)
            .config(config)
            .ask(&server)
            .args(["-m", "in-house", "p"])
            .args(args)
            .input("a\n")
            .run()
    };
    ask(&["--max-cost", "1"], "")
        .status(2)
        .says("there is no price for the model `in-house`")
        .says("input = 0.10");
    ask(&[], "[budget]\nday = 1\n")
        .status(2)
        .says("`[budget]` cannot be kept");
    ask(&[], "[budget]\nday = -1\n").status(2);
    ask(&["--max-cost", "lots"], "")
        .status(2)
        .says("takes US dollars");
    ask(&["--max-tokens", "0"], "").status(2).says("from 1");
    assert_eq!(server.calls(), 0);
    // What costs nothing has a price too.
    let free = "[budget]\nday = 0\n[prices.in-house]\ninput = 0\noutput = 0\n";
    ask(&[], free).status(0);
}

#[test]
fn processes_share_the_budget_of_the_day() {
    let (server, home) = (Server::start(counting), Folder::home());
    // Fifty requests, and a little.
    let budget = "[budget]\nday = 0.0058";
    // The file is written before any of them reads it.
    drop(run(&server, &home, budget));
    let ask = |process: usize| {
        asking(&server, &home)
            .input(lines(20).replace('\n', &format!(" of {process}\n")))
            .patient()
    };
    let running: Vec<_> = (0..8).map(|process| ask(process).start()).collect();
    let mut stopped = 0;
    for process in running {
        let outcome = process.finish();
        outcome.must(
            matches!(outcome.code, Some(0 | 255)),
            "it ends by the budget",
        );
        if outcome.code == Some(255) {
            outcome.says("the budget of $0.0058 a day");
            stopped += 1;
        }
    }
    assert!(stopped >= 5, "{stopped} were stopped");
    let calls = server.calls();
    assert!((48..=50).contains(&calls), "{calls} requests");
    // A later run is told at once.
    run(&server, &home, budget)
        .input("more\n")
        .run()
        .status(255);
    assert_eq!(server.calls(), calls);
    // And what was spent before there was a budget counts.
    let month = "[budget]\nmonth = 0.0058";
    run(&server, &home, month)
        .input("one more\n")
        .run()
        .status(255)
        .says("a month");
}

/// In journals that nobody took over, between two runs with a budget, and by one that still runs.
#[test]
fn what_was_spent_without_a_budget_counts_when_there_is_one() {
    let gate = Gate::default();
    let server = Server::start({
        let gate = gate.clone();
        move |request| match request.text.as_str() {
            "stuck" => counting(request).behind(&gate),
            _ => counting(request),
        }
    });
    let home = Folder::home();
    let ask = |budget: &str, text: &str| run(&server, &home, budget).input(text).run();
    ask("", "a\nb\nc\n").status(0);
    ask("", "d\n").status(0);
    ask("[budget]\nday = 0.0005", "e\n")
        .status(255)
        .says("$0.000460 is spent");
    // With a little for one that is counted too high.
    ask("[budget]\nday = 0.0006", "e\n").status(0);
    ask("", "f\ng\n").status(0);
    let month = "[budget]\nmonth = 0.0009";
    ask(month, "h\n").status(255).says("$0.000805 is spent");
    assert_eq!(server.calls(), 7);
    let mut running = run(&server, &home, "").input("i\nstuck\n").start();
    running.read_stdout();
    running.wait_stdout(|bytes| bytes == b"i\n");
    let month = "[budget]\nmonth = 0.00095";
    ask(month, "h\n").status(255).says("$0.000920 is spent");
    gate.open();
    running.finish().status(0);
    // Nothing counts twice, however often it is looked at: there is room for two.
    let month = "[budget]\nmonth = 0.0013";
    for (text, status) in [("h\n", 0), ("j\n", 0), ("k\n", 255), ("k\n", 255)] {
        ask(month, text).status(status);
    }
    assert_eq!(server.calls(), 11);
}

#[test]
fn what_a_killed_process_held_is_free_again_in_time_and_no_one_hangs() {
    let server = Server::start(|request: &Request| {
        if request.text == "stuck" {
            return Answer::nothing().stall();
        }
        counting(request)
    });
    let home = Folder::home();
    let budget = "[budget]\nday = 0.0003";
    let stuck = run(&server, &home, budget).input("stuck\n").start();
    server.wait(|log| log.in_flight == 1);
    stuck.kill();
    // What is left is enough for a request beside what the dead one holds, and then no more.
    run(&server, &home, budget).input("a\n").run().status(0);
    let waiting = run(&server, &home, budget).input("b\n").start();
    waiting.wait_stderr(|text| text.contains("reserved by requests under way"));
    let ledger = home.path.join("state/gptpipe/ledger.db");
    let ledger = rusqlite::Connection::open(ledger).unwrap();
    // As if half a minute had gone by.
    let aged = ledger.execute("UPDATE reservation SET expires = expires - 60", []);
    assert_eq!(aged, Ok(1));
    // Of the dead one's request only its prompt stays spent.
    waiting.finish().status(0);
    run(&server, &home, budget).input("c\n").run().status(255);
    assert_eq!(server.calls(), 3);
}

#[test]
fn the_demo_costs_nothing_whatever_the_budget() {
    let home = Folder::home();
    let run = gptpipe()
        .at(&home)
        .config("[budget]\nday = 0\n")
        .args(["--demo", "-v", "--max-cost", "0.01", "summarize"])
        .input("One sentence. Another sentence.")
        .run();
    run.status(0).says("cost: $0.00\n");
    let plan = gptpipe()
        .args(["--demo", "--dry-run", "summarize"])
        .input("One sentence. Another sentence.")
        .run();
    let plan = String::from_utf8_lossy(&plan.stdout);
    let cost = "cost: $0.00 for the prompts, and $0.00 if";
    assert!(plan.contains(cost), "{plan}");
}

/// One request waits for its turn while the other, which has it, needs more of the budget.
#[test]
fn turns_and_budget_do_not_wait_for_each_other() {
    let server = Server::start(|request: &Request| {
        let spent = |text: &str| {
            let body = serde_json::json!({
                "id": "1", "object": "chat.completion", "model": "m",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 15, "completion_tokens": 1000, "total_tokens": 1015},
            });
            Answer::json("200 OK", &body)
        };
        match request.ordinal {
            0 => Answer::error("503 Service Unavailable", "odd", "try again")
                .headers("retry-after-ms: 1\r\n"),
            // Meanwhile the first chunk has come back.
            1 => spent("no JSON").after(Duration::from_millis(1500)),
            _ => spent("{}"),
        }
    });
    let home = Folder::home();
    let schema = home.write("any.json", r#"{"type": "object"}"#);
    let run = gptpipe()
        .at(&home)
        .ask(&server)
        .args(["-m", "m", "-b", "line", "-s", "", "-j", "1", "p"])
        .args(["--max-output-tokens", "1000", "--max-tokens", "2500"])
        .arg("--schema")
        .arg(&schema)
        .input("first\nsecond\n")
        .run();
    run.status(255).says("--max-tokens 2500");
    assert_eq!(server.calls(), 3);
}
