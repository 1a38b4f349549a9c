//! What Prometheus reads: in its own format by its own tools, from a file and over HTTP, and never
//! going back.

#![expect(
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "counts are small whole numbers"
)]

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Folder, Gptpipe, HANGS, Running, gptpipe, lines, shell, tool};
use crate::server::{Answer, Request, Server};

fn run(server: &Server, home: &Arc<Folder>) -> Gptpipe {
    gptpipe()
        .at(home)
        .ask(server)
        .args(["-m", "gpt-6-luna", "-b", "line", "p"])
}

/// Some requests of all kinds.
fn some(home: &Arc<Folder>) -> usize {
    let server = Server::start(|request: &Request| {
        if request.text == "3" {
            return Answer::error("400 Bad Request", "no", "no");
        }
        request.echo()
    });
    let runs = || {
        run(&server, home)
            .args(["--on-error", "skip", "--metrics", "gptpipe.prom"])
            .input(lines(10))
            .run()
    };
    // The second time all but one is remembered.
    runs().status(1);
    runs().status(1);
    server.calls()
}

fn exposition(home: &Arc<Folder>) -> String {
    let run = gptpipe().at(home).arg("metrics").run();
    run.ok();
    String::from_utf8(run.stdout.clone()).unwrap()
}

/// Judges a text by Prometheus's own rules.
#[track_caller]
fn lint(text: &str) {
    let checked = tool("promtool")
        .args(["check", "metrics"])
        .input(text)
        .run();
    checked.status(0).stdout("").stderr("");
}

/// The samples of an exposition.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// The sum of a metric over all its labels.
fn sum(samples: &BTreeMap<String, f64>, metric: &str) -> f64 {
    let of_metric = samples.iter().filter(|(name, _)| {
        name.strip_prefix(metric)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
    });
    of_metric.map(|(_, value)| value).sum()
}

#[test]
fn the_exposition_is_what_prometheus_wants() {
    let home = Folder::home();
    lint(&exposition(&home));
    let calls = some(&home);
    let text = exposition(&home);
    lint(&text);
    let file = home.path.join("gptpipe.prom");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    // The collector is another user.
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    let left: Vec<_> = fs::read_dir(&home.path)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.contains(".tmp"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    let samples = samples(&text);
    for (metric, value) in [
        ("gpt_requests_total", calls as f64),
        ("gpt_cache_hits_total", 9.0),
        ("gpt_errors_total", 2.0),
        ("gpt_response_time_seconds_count", 9.0),
        ("gpt_requests_in_flight", 0.0),
    ] {
        assert_eq!(sum(&samples, metric), value, "{metric}\n{text}");
    }
    assert!(sum(&samples, "gpt_cost_usd_total") > 0.0);
    let output = "gpt_tokens_total{profile=\"openai\",model=\"gpt-6-luna\",type=\"output\"}";
    assert_eq!(samples[output], 45.0);
}

#[test]
fn a_pipe_is_written_into_and_a_file_keeps_its_mode() {
    let (server, home) = (Server::echo(), Folder::home());
    let prepared = shell("mkfifo pipe; echo old >kept; chmod 600 kept; ln -s kept link").at(&home);
    prepared.run().ok();
    let read = shell("cat pipe").at(&home).start();
    run(&server, &home)
        .args(["--metrics", "pipe"])
        .input("a\n")
        .run()
        .ok();
    let read = read.finish();
    assert!(String::from_utf8_lossy(&read.stdout).contains("gpt_requests_total"));
    run(&server, &home)
        .args(["--metrics", "link"])
        .input("a\n")
        .run()
        .ok();
    let kept = fs::symlink_metadata(home.path.join("kept")).unwrap();
    assert_eq!(kept.permissions().mode() & 0o777, 0o600);
    assert!(
        fs::read_to_string(home.path.join("kept"))
            .unwrap()
            .contains("gpt_requests_total")
    );
    let is_link = fs::symlink_metadata(home.path.join("link"))
        .unwrap()
        .is_symlink();
    assert!(is_link);
}

#[test]
fn a_file_that_cannot_be_written_is_known_beforehand_or_warned_of() {
    let (server, home) = (Server::echo(), Folder::home());
    let ask = |args: &[&str]| run(&server, &home).args(args).input("a\n").run();
    ask(&["--metrics", "no/folder/x.prom"])
        .status(2)
        .says("there is no folder `no/folder`");
    assert_eq!(server.calls(), 0);
    fs::create_dir(home.path.join("taken")).unwrap();
    let warned = ask(&["--metrics", "taken"]);
    warned
        .status(0)
        .stdout("a\n")
        .says("cannot be written to `taken`");
    let off = run(&server, &home)
        .config("ledger = false\n")
        .args(["--metrics", "x.prom"]);
    off.input("b\n").run().status(2).says("has nothing to tell");
}

/// A port that is free now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Serves the metrics of a home; gives the address.
fn serve(home: &Arc<Folder>) -> (Running, String) {
    let port = free_port();
    let running = gptpipe()
        .at(home)
        .args(["metrics", "--listen", &port.to_string()])
        .patient()
        .start();
    let address = format!("127.0.0.1:{port}");
    let told = format!("metrics at http://{address}/metrics");
    running.wait_stderr(|text| text.contains(&told));
    (running, address)
}

fn get(url: &str, args: &[&str]) -> String {
    let run = tool("curl")
        .args(["-sS", "--max-time", "20"])
        .args(args)
        .arg(url)
        .run();
    run.status(0);
    String::from_utf8(run.stdout.clone()).unwrap()
}

#[test]
fn they_are_served_to_whoever_asks_on_this_machine() {
    let home = Folder::home();
    let (running, address) = serve(&home);
    let url = format!("http://{address}/metrics");
    let calls = some(&home);
    let text = get(&url, &[]);
    lint(&text);
    assert_eq!(sum(&samples(&text), "gpt_requests_total"), calls as f64);
    assert_eq!(text, exposition(&home));
    let open = get(
        &url,
        &[
            "-i",
            "-H",
            "Accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1",
        ],
    );
    assert!(
        open.contains("content-type: application/openmetrics-text"),
        "{open}"
    );
    assert!(open.ends_with("# EOF\n"), "{open}");
    let head = get(&url, &["-I"]);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    for (path, args, status) in [("/", &[][..], "404"), ("/metrics", &["-d", "x"][..], "405")] {
        let answer = get(
            &format!("http://{address}{path}"),
            &[args, &["-i"]].concat(),
        );
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
    // One that says nothing holds up nobody.
    let silent = std::net::TcpStream::connect(&address).unwrap();
    assert_eq!(get(&url, &[]), text);
    drop(silent);
    let taken = gptpipe().args(["metrics", "--listen", &address]).run();
    taken.status(2).says("cannot listen at");
    running.signal(Signal::TERM);
    running.finish().killed_by(Signal::TERM);
}

/// Asks until the answer is there.
fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < 2 * HANGS, "{what} never came");
        thread::sleep(Duration::from_millis(200));
    }
}

/// The usual way of short-lived programs to a real Prometheus, through `node_exporter`, and the direct one.
#[test]
fn a_real_prometheus_reads_both_the_file_and_the_server() {
    let home = Folder::home();
    let calls = some(&home);
    let (served, address) = serve(&home);
    let texts = home.path.join("textfile");
    fs::create_dir(&texts).unwrap();
    fs::rename(home.path.join("gptpipe.prom"), texts.join("gptpipe.prom")).unwrap();
    let (node_port, port) = (free_port(), free_port());
    let node = tool("prometheus-node-exporter")
        .args(["--collector.disable-defaults", "--collector.textfile"])
        .arg(format!(
            "--collector.textfile.directory={}",
            texts.display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{node_port}"))
        .patient()
        .start();
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n\
         - {{job_name: file, static_configs: [{{targets: ['127.0.0.1:{node_port}']}}]}}\n\
         - {{job_name: direct, static_configs: [{{targets: ['{address}']}}]}}\n"
    );
    let config = home.write("prometheus.yml", config);
    let data = home.path.join("data");
    let prometheus = tool("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", data.display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .patient()
        .start();
    let query = |query: &str| {
        let run = tool("curl")
            .args(["-sS", "-G", "--max-time", "10"])
            .args(["--data-urlencode", &format!("query={query}")])
            .arg(format!("http://127.0.0.1:{port}/api/v1/query"))
            .run();
        let answer: Value = serde_json::from_slice(&run.stdout).ok()?;
        let value = answer["data"]["result"][0]["value"][1].as_str()?;
        value.parse::<f64>().ok()
    };
    for job in ["file", "direct"] {
        let sum = format!("sum(gpt_requests_total{{job=\"{job}\"}})");
        assert_eq!(eventually(&sum, || query(&sum)), calls as f64);
        let median =
            format!("histogram_quantile(0.5, gpt_response_time_seconds_bucket{{job=\"{job}\"}})");
        assert!(eventually(&median, || query(&median)) > 0.0);
    }
    assert_eq!(query("node_textfile_scrape_error"), Some(0.0));
    for process in [prometheus, node, served] {
        process.signal(Signal::TERM);
        process.finish();
    }
}

/// Counters of a thousand processes, eight at a time, each of which writes the file: whoever looks sees
/// a whole file in which nothing has gone back.
#[test]
fn a_thousand_short_runs_never_count_back() {
    const RUNS: usize = 1000;
    let (server, home) = (Server::echo(), Folder::home());
    let file = home.path.join("gptpipe.prom");
    let is_over = AtomicBool::new(false);
    let next = AtomicUsize::new(0);
    let looks = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&file, &is_over));
        let runners: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    while let number @ ..RUNS = next.fetch_add(1, Ordering::SeqCst) {
                        // Every second text is remembered from the run before.
                        run(&server, &home)
                            .args(["--metrics", "gptpipe.prom"])
                            .input(format!("{}\n", number / 2))
                            .patient()
                            .run()
                            .ok();
                    }
                })
            })
            .collect();
        for runner in runners {
            runner.join().unwrap();
        }
        is_over.store(true, Ordering::SeqCst);
        watcher.join().unwrap()
    });
    assert!(looks > 100, "{looks} looks");
    let last = samples(&fs::read_to_string(&file).unwrap());
    assert_eq!(sum(&last, "gpt_requests_total"), server.calls() as f64);
    let all = sum(&last, "gpt_requests_total") + sum(&last, "gpt_cache_hits_total");
    assert_eq!(all, RUNS as f64);
}

/// Looks at the file again and again; gives how often it had changed.
fn watch(file: &Path, is_over: &AtomicBool) -> usize {
    let (mut looks, mut before) = (0, String::new());
    while !is_over.load(Ordering::SeqCst) {
        let text = fs::read_to_string(file).unwrap_or_default();
        if text.is_empty() || text == before {
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        assert!(
            text.ends_with('\n') && text.contains("gpt_requests_in_flight{"),
            "{text}"
        );
        let now = samples(&text);
        for (name, value) in samples(&before) {
            let counts = !name.starts_with("gpt_requests_in_flight");
            assert!(
                !counts || now[&name] >= value,
                "{name} went back from {value}"
            );
        }
        looks += 1;
        before = text;
    }
    looks
}
