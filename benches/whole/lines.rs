//! Short records that are remembered: `-b line` over a million of them, beside
//! `jq -c .` on the same file; and over a tenth of them, to see whether memory
//! grows.

#![expect(clippy::print_stdout, reason = "tables are what a benchmark is for")]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::future::join_all;
use gptpipe::api::event::Api;
use gptpipe::api::identity::Identity;
use gptpipe::api::reply::{Finish, Reply, Usage};
use gptpipe::api::request::RequestOptions;
use gptpipe::store::cache::{Cache, CacheOptions, Entry, Key, Place};

use crate::child::{self, Run};
use crate::figures::{Spread, table};
use crate::prose;
use crate::{Lab, runs};

/// Records of the long file, and how many times as many they are as those of the short one.
const RECORDS: usize = 1_000_000;
const PART: usize = 10;

/// Words of a record.
const WORDS: usize = 6;

/// Bytes that are compared at a time.
const PIECE: usize = 64 * 1024;

/// Replies that are stored at once.
const TOGETHER: usize = 512;

/// What makes this program write the records and what is remembered of them, into a folder for an
/// address. What that takes would count as the peak memory of every child of this process.
pub(crate) const MAKE: &str = "--make-records";

/// Records, a tenth of them, and what is remembered, in the folder of the measurement.
const FILES: [&str; 3] = ["records", "some-records", "records.db"];

/// Writes the files of the measurement: the arguments behind [`MAKE`].
pub(crate) fn make(arguments: &[String]) {
    let [folder, base_url] = arguments else {
        panic!("{MAKE} FOLDER URL");
    };
    let [long, short, cache] = FILES.map(|name| Path::new(folder).join(name));
    let text = records();
    child::write(&long, text.as_bytes());
    let part = text
        .match_indices('\n')
        .nth(RECORDS / PART - 1)
        .map_or(text.len(), |(at, end)| at + end.len());
    child::write(&short, &text.as_bytes()[..part]);
    remember(&cache, &format!("{base_url}/chat/completions"), &text);
}

pub(crate) fn measure(lab: &Lab) {
    let base_url = format!("{}/v1", lab.address);
    let made = Command::new(std::env::current_exe().expect("this program's path"))
        .arg(MAKE)
        .arg(&lab.folder)
        .arg(&base_url)
        .status();
    assert!(made.is_ok_and(|status| status.success()), "no records");
    let [long, short, cache] = FILES.map(|name| lab.folder.join(name));
    let gptpipe = |input: &Path| {
        let mut command = lab.gptpipe(&base_url);
        command
            .args(["-q", "--cache-only", "-m", "m", "-b", "line", "--cache"])
            .arg(&cache)
            .arg("repeat");
        run(&mut command, input)
    };
    let has_jq = lab.command("jq").arg("--version").output().is_ok();
    let count = runs(3);
    let (mut all, mut some, mut jq) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        all.push(gptpipe(&long));
        some.push(gptpipe(&short));
        if has_jq {
            jq.push(run(lab.command("jq").args(["-c", "."]), &long));
        }
    }
    let bytes = fs::metadata(&long).map_or(0, |metadata| metadata.len());
    let mut rows = vec![
        row("gptpipe, remembered", RECORDS, &all),
        row("a tenth of the records", RECORDS / PART, &some),
    ];
    if has_jq {
        rows.push(row("`jq -c .`", RECORDS, &jq));
    }
    println!(
        "### Short records\n\nRuns of each: {count}, in turn; {RECORDS} records, {:.0} MB, every \
         byte of the output compared.\n",
        megabytes(bytes)
    );
    let head = [
        "",
        "min s",
        "median s",
        "max s",
        "processor s",
        "records/s",
        "peak MiB",
    ];
    println!("{}", table(&head, &rows));
    if !has_jq {
        println!("jq is not in PATH, so that nothing stands beside it.\n");
    }
}

/// Runs a program whose output is to be its input, without holding either.
fn run(command: &mut Command, input: &Path) -> Run {
    let stdin = File::open(input).expect("the input");
    let began = Instant::now();
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut output = child.stdout.take().expect("its stdout");
    let mut input = File::open(input).expect("the input");
    let (mut bytes, mut expected) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let length = output.read(&mut bytes).expect("its output");
        let expected = &mut expected[..length];
        input
            .read_exact(expected)
            .expect("no more output than input");
        assert!(bytes[..length] == *expected, "what is remembered differs");
        if length == 0 {
            break;
        }
    }
    let rest = input.read(&mut expected).expect("the input");
    assert_eq!(rest, 0, "the output is shorter than the input");
    child::finish(child, began, command)
}

/// Records of JSON, no two of them alike.
fn records() -> String {
    let prose = prose::english(RECORDS * WORDS * 7, 17);
    let mut words = prose
        .split_whitespace()
        .filter(|word| !word.contains(['"', '\\']))
        .cycle();
    let mut text = String::new();
    for number in 0..RECORDS {
        let _ = write!(text, "{{\"id\":{number},\"text\":\"");
        for at in 0..WORDS {
            text.push_str(if at == 0 { "" } else { " " });
            text.push_str(words.next().unwrap_or_default());
        }
        text.push_str("\"}\n");
    }
    text
}

/// Stores each record as the reply to itself. Asking a server would take minutes.
fn remember(file: &Path, url: &str, text: &str) {
    let identity = Identity::new(
        url,
        &RequestOptions {
            api: Api::Chat,
            model: "m".to_owned(),
            system: None,
            prompt: "repeat".to_owned(),
            is_prompt_alone: false,
            params: Vec::new(),
            max_output: None,
            wants_usage: true,
            schema: None,
        },
    );
    let (cache, _) = Cache::open(CacheOptions {
        place: Place::File(file.to_owned()),
        is_named: true,
        ttl: Duration::from_hours(24),
        is_refresh: false,
        max_bytes: 1 << 30,
    })
    .expect("a cache");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let lines: Vec<&str> = text.lines().collect();
    runtime.block_on(async {
        for lines in lines.chunks(TOGETHER) {
            let stored = lines.iter().map(|line| {
                let reply = Reply {
                    text: (*line).to_owned(),
                    finish: Finish::Stop,
                    usage: Some(Usage::default()),
                    model: Some("m".to_owned()),
                    ..Reply::default()
                };
                cache.store(Key(identity.of(line, "")), Entry::Reply(reply))
            });
            assert!(
                join_all(stored)
                    .await
                    .into_iter()
                    .all(|is_stored| is_stored)
            );
        }
        cache.finish().await;
    });
}

#[expect(clippy::cast_precision_loss, reason = "counts are below 2^53")]
fn row(name: &str, records: usize, runs: &[Run]) -> Vec<String> {
    let of = |value: fn(&Run) -> f64| Spread::of(runs.iter().map(value).collect());
    let wall = of(|run| run.wall.as_secs_f64());
    let mut row = vec![name.to_owned()];
    row.extend(wall.cells(3));
    row.push(format!("{:.3}", of(|run| run.cpu.as_secs_f64()).median));
    row.push(format!("{:.0}", records as f64 / wall.median));
    row.push(format!("{:.1}", of(|run| run.peak).max));
    row
}

#[expect(clippy::cast_precision_loss, reason = "sizes are below 2^53")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
