//! How close gptpipe comes to the schedule: rates that several processes keep
//! together, and requests in flight against the best that could be done.

#![expect(clippy::print_stdout, reason = "tables are what a benchmark is for")]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::{StreamExt as _, stream};

use crate::child::{self, Run};
use crate::figures::{Spread, table};
use crate::order::makespan;
use crate::prose;
use crate::server::{Seen, seen};
use crate::shape::Shape;
use crate::{Lab, runs};

const SEED: u64 = 5;

/// Rates, each with the number of requests that it is tried with.
const RATES: [(u32, usize); 3] = [(5, 40), (50, 400), (500, 3000)];

/// Tokens of a chunk with which a document of a hundred thousand characters becomes about as many
/// chunks as may be in flight.
const CHUNK: &str = "520";

/// Numbered lines.
fn numbers(from: usize, count: usize) -> String {
    (from..from + count).fold(String::new(), |mut text, number| {
        let _ = writeln!(text, "{number} is a line");
        text
    })
}

/// The most of these times that lie within one second.
fn most_within_a_second(times: &[f64]) -> usize {
    let mut most = 0;
    let mut first = 0;
    for (at, time) in times.iter().enumerate() {
        while times[first] <= time - 1.0 {
            first += 1;
        }
        most = most.max(at + 1 - first);
    }
    most
}

/// Rates by one process and by sixteen.
pub(crate) fn rate(lab: &Lab) {
    println!(
        "### Rates\n\nArrivals as the server noted them; the window is the second with the most of them.\n"
    );
    let mut rows = Vec::new();
    for (rate, count) in RATES {
        for processes in [1, 16] {
            let _ = seen(&lab.address);
            let share = count / processes;
            let mut children: Vec<_> = (0..processes)
                .map(|process| {
                    let input = lab.folder.join(format!("rate-{process}"));
                    child::write(&input, numbers(process * share, share).as_bytes());
                    let mut command = lab.gptpipe(&lab.slow(Shape::Constant(20), SEED));
                    command
                        .args(["-q", "-b", "line", "-j", "64", "--no-cache", "-r"])
                        .args([&format!("{rate}/s"), "answer"])
                        .stdin(File::open(&input).expect("the input"))
                        .stdout(Stdio::null());
                    command.spawn().expect("gptpipe starts")
                })
                .collect();
            for child in &mut children {
                assert!(child.wait().expect("its end").success(), "gptpipe failed");
            }
            let times: Vec<f64> = seen(&lab.address).iter().map(|seen| seen.at).collect();
            assert_eq!(times.len(), share * processes, "requests");
            let last = times.last().copied().unwrap_or(1.0);
            #[expect(clippy::cast_precision_loss, reason = "few requests")]
            let achieved = (times.len() - 1) as f64 / last;
            rows.push(vec![
                format!("{rate}/s"),
                processes.to_string(),
                times.len().to_string(),
                format!("{achieved:.2}"),
                format!("{:.4}", achieved / f64::from(rate)),
                most_within_a_second(&times).to_string(),
            ]);
        }
    }
    let head = [
        "asked",
        "processes",
        "requests",
        "achieved a second",
        "achieved ÷ asked",
        "most in a second",
    ];
    println!("{}", table(&head, &rows));
}

/// A script as the article's: a semaphore of five, and a sleep of one second inside it.
const SCRIPT: &str = r#"
import asyncio, sys
host, port, path, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
gate = asyncio.Semaphore(5)
async def ask(number):
    async with gate:
        reader, writer = await asyncio.open_connection(host, port)
        body = '{"stream":true,"messages":[{"role":"user","content":"%d is a line"}]}' % number
        writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        await reader.readuntil(b"[DONE]")
        writer.close()
        await asyncio.sleep(1)
async def main():
    await asyncio.gather(*(ask(number) for number in range(count)))
asyncio.run(main())
"#;

/// The article's table: a hundred requests of 820 ms, and documents of three sizes.
pub(crate) fn article(lab: &Lab) {
    let input = lab.folder.join("hundred");
    child::write(&input, numbers(0, 100).as_bytes());
    let base_url = lab.slow(Shape::Constant(820), SEED);
    let limited = |jobs: &str, rate: &[&str]| {
        let mut command = lab.gptpipe(&base_url);
        command.args(["-q", "-b", "line", "--no-cache", "-j", jobs]);
        command.args(rate).arg("answer");
        child::run(&mut command, &input)
    };
    let mut rows = Vec::new();
    let mut row = |name: &str, run: &Run, ideal: f64| {
        let wall = run.wall.as_secs_f64();
        rows.push(vec![
            name.to_owned(),
            format!("{wall:.2}"),
            format!("{ideal:.2}"),
            format!("{:.3}", wall / ideal),
            format!("{:.2}", run.cpu.as_secs_f64()),
        ]);
    };
    row("gptpipe `-r 5/s`", &limited("64", &["-r", "5/s"]), 20.62);
    row("gptpipe `-j 64`", &limited("64", &[]), 1.64);
    let script = lab.folder.join("article.py");
    child::write(&script, SCRIPT.as_bytes());
    let address = lab.address.trim_start_matches("http://");
    let (host, port) = address.split_once(':').expect("host and port");
    let path = format!(
        "{}/chat/completions",
        base_url.trim_start_matches(&lab.address)
    );
    let mut python = lab.command("python3");
    python.arg(&script).args([host, port, &path, "100"]);
    if lab.command("python3").arg("--version").output().is_ok() {
        row(
            "asyncio, a sleep in a semaphore",
            &child::run(&mut python, &input),
            20.62,
        );
    } else {
        println!("not measured: python3 is not installed\n");
    }
    println!("### A hundred requests of 820 ms\n");
    let head = ["", "s", "ideal s", "÷ ideal", "processor s"];
    println!("{}", table(&head, &rows));
    documents(lab);
}

/// Documents of a thousand, ten thousand and a hundred thousand characters, each request with the
/// latency of its own size: whole, and in chunks with 64 in flight.
fn documents(lab: &Lab) {
    let mut rows = Vec::new();
    let mut middles = Vec::new();
    for characters in [1_000_usize, 10_000, 100_000] {
        let text = &prose::english(characters + 200, 3)[..characters];
        for (name, options, count) in [
            ("whole", &["-b", "file"][..], runs(20)),
            ("in chunks", &["-c", CHUNK, "-j", "64"], runs(60)),
        ] {
            let (mut walls, mut requests) = (Vec::new(), 0);
            for round in 0..count {
                let input = lab.folder.join("document");
                child::write(&input, number_each(text, round).as_bytes());
                let mut command = lab.gptpipe(&lab.slow(Shape::Measured, SEED + round as u64));
                command
                    .args(["-q", "--no-cache"])
                    .args(options)
                    .arg("answer");
                let _ = seen(&lab.address);
                walls.push(child::run(&mut command, &input).wall.as_secs_f64() * 1000.0);
                requests = seen(&lab.address).len();
            }
            walls.sort_by(f64::total_cmp);
            let at = |part: usize| walls[(walls.len() * part / 100).min(walls.len() - 1)];
            middles.push(at(50));
            let mut row = vec![format!("{} K characters, {name}", characters / 1000)];
            row.extend([count, requests].map(|number| number.to_string()));
            row.extend([50, 95, 99].map(|part| format!("{:.0}", at(part))));
            rows.push(row);
        }
    }
    println!(
        "### Documents\n\nMilliseconds from start to end of the program; chunks with `-c {CHUNK} -j 64`.\n"
    );
    println!(
        "{}",
        table(&["", "runs", "requests", "P50", "P95", "P99"], &rows)
    );
    println!(
        "A hundred thousand characters in chunks take {:.2} times as long as a thousand whole.\n",
        middles[5] / middles[0]
    );
}

/// The server takes the number that a message begins with for what it waits: every sentence gets
/// one, so that each chunk has its own.
fn number_each(text: &str, round: usize) -> String {
    let mut number = round * 10_000;
    let mut out = String::new();
    let paragraphs = text.split_inclusive("\n\n");
    for sentence in paragraphs.flat_map(|paragraph| paragraph.split_inclusive(". ")) {
        number += 1;
        let _ = write!(out, "{number} {sentence}");
    }
    out
}

/// `xargs -P8` over a hundred files, and two thousand requests with 64 in flight.
pub(crate) fn xargs(lab: &Lab) {
    let folder = lab.folder.join("files");
    fs::create_dir_all(&folder).expect("a folder");
    let text = &prose::english(1200, 9)[..1000];
    let mut names = String::new();
    for number in 0..100 {
        let path: PathBuf = folder.join(format!("{number}.txt"));
        child::write(&path, format!("{number} {text}\n").as_bytes());
        let _ = writeln!(names, "{}", path.display());
    }
    let list = lab.folder.join("list");
    child::write(&list, names.as_bytes());
    let base_url = lab.slow(Shape::Constant(320), SEED);
    let count = runs(5);
    let mut files = Vec::new();
    for _ in 0..count {
        let mut command = lab.command("xargs");
        command
            .env("OPENAI_API_KEY", "sk-benchmark")
            .env("OPENAI_BASE_URL", &base_url)
            .args([
                "-P8",
                "-n1",
                env!("CARGO_BIN_EXE_gptpipe"),
                "-q",
                "--refresh",
                "answer",
            ]);
        files.push(child::run(&mut command, &list));
    }
    let input = lab.folder.join("two-thousand");
    child::write(&input, numbers(0, 2000).as_bytes());
    let flood: Vec<Run> = (0..runs(3))
        .map(|_| {
            let mut command = lab.gptpipe(&base_url);
            command.args(["-q", "-b", "line", "-j", "64", "--refresh", "answer"]);
            child::run(&mut command, &input)
        })
        .collect();
    let row = |name: &str, runs: &[Run], ideal: f64| {
        let wall = Spread::of(runs.iter().map(|run| run.wall.as_secs_f64()).collect());
        let cpu = Spread::of(runs.iter().map(|run| run.cpu.as_secs_f64()).collect());
        let mut row = vec![name.to_owned()];
        row.extend(wall.cells(2));
        row.push(format!("{ideal:.2}"));
        row.push(format!("{:.3}", wall.median / ideal));
        row.push(format!("{:.2}", cpu.median));
        row
    };
    println!("### Many requests of 320 ms\n");
    let head = [
        "",
        "min s",
        "median s",
        "max s",
        "ideal s",
        "÷ ideal",
        "processor s",
    ];
    let rows = [
        row("`xargs -P8`, 100 files of 1 KB", &files, 4.16),
        row("2,000 requests, `-j 64`", &flood, 10.24),
    ];
    println!("{}", table(&head, &rows));
}

/// How long `buffered(n)` takes for replies of these times, by a clock that does not wait.
fn buffered(times: impl Iterator<Item = Duration>, jobs: usize) -> Duration {
    /// Tokio's clock has milliseconds.
    const FINER: u32 = 1000;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let began = tokio::time::Instant::now();
        let replies = times.map(|time| tokio::time::sleep(time * FINER));
        stream::iter(replies).buffered(jobs).count().await;
        began.elapsed() / FINER
    })
}

/// Five thousand chunks whose replies take constant, log-normal and heavy-tailed times.
pub(crate) fn schedule(lab: &Lab) {
    const LINES: usize = 5_000;
    let input = lab.folder.join("five-thousand");
    child::write(&input, numbers(0, LINES).as_bytes());
    let mut rows = Vec::new();
    for jobs in [8_usize, 64, 256] {
        // About eight seconds each.
        let middle = (jobs * 8_000 / LINES) as u64;
        for (name, shape) in [
            ("constant", Shape::Constant(middle)),
            ("log-normal", Shape::LogNormal(middle)),
            ("heavy tail", Shape::HeavyTail(middle)),
        ] {
            let mut command: Command = lab.gptpipe(&lab.slow(shape, SEED));
            command.args([
                "-q",
                "-b",
                "line",
                "--refresh",
                "-j",
                &jobs.to_string(),
                "answer",
            ]);
            let _ = seen(&lab.address);
            let run = child::run(&mut command, &input);
            let wall = run.wall.as_secs_f64();
            let asked = (0..LINES).map(|number| shape.delay(SEED, number as u64, 0));
            let mut real = seen(&lab.address);
            assert_eq!(real.len(), LINES, "requests");
            real.sort_by_key(|seen: &Seen| seen.number);
            let real = real.iter().map(|seen| Duration::from_secs_f64(seen.took));
            let plain = buffered(real.clone(), jobs).as_secs_f64();
            let [asked, real] = [makespan(asked, jobs), makespan(real, jobs)]
                .map(|ideal: Duration| ideal.as_secs_f64());
            rows.push(vec![
                format!("{name}, `-j {jobs}`"),
                format!("{wall:.2}"),
                format!("{real:.2}"),
                format!("{:.3}", wall / real),
                format!("{asked:.2}"),
                format!("{:.3}", wall / asked),
                format!("{plain:.2}"),
                format!("{:.2}", run.cpu.as_secs_f64()),
            ]);
        }
    }
    println!(
        "### Schedules of 5,000 chunks\n\nThe ideal gives each reply in its order to the first place that is \
         free: with the times that the server's replies took, which its sleeps make a little longer than \
         asked, and with the times that were asked. `buffered(n)` is the adapter of futures with the same replies, \
         which holds back requests behind a slow head.\n"
    );
    let head = [
        "replies",
        "s",
        "ideal s",
        "÷ ideal",
        "ideal as asked s",
        "÷ this",
        "`buffered(n)` s",
        "processor s",
    ];
    println!("{}", table(&head, &rows));
}
