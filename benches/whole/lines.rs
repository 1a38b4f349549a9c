//! Short records that are remembered: `-b line` over a million of them, beside
//! `jq -c .` on the same file; and over a tenth of them, to see whether memory
//! grows.

#![expect(clippy::print_stdout, reason = "tables are what a benchmark is for")]

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

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

/// Replies that are stored at once.
const TOGETHER: usize = 512;

pub(crate) fn measure(lab: &Lab) {
    let text = records();
    let long = lab.folder.join("records");
    child::write(&long, text.as_bytes());
    let part = text
        .match_indices('\n')
        .nth(RECORDS / PART - 1)
        .map_or(text.len(), |(at, end)| at + end.len());
    let short = lab.folder.join("some-records");
    child::write(&short, &text.as_bytes()[..part]);
    let base_url = format!("{}/v1", lab.address);
    let cache = lab.folder.join("records.db");
    remember(&cache, &format!("{base_url}/chat/completions"), &text);
    let gptpipe = |input: &Path| {
        let mut command = lab.gptpipe(&base_url);
        command
            .args(["-q", "--cache-only", "-m", "m", "-b", "line", "--cache"])
            .arg(&cache)
            .arg("repeat");
        child::run(&mut command, input)
    };
    let has_jq = lab.command("jq").arg("--version").output().is_ok();
    let count = runs(3);
    let (mut all, mut some, mut jq) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        let run = gptpipe(&long);
        assert!(run.output == text.as_bytes(), "what is remembered differs");
        all.push(run);
        some.push(gptpipe(&short));
        if has_jq {
            jq.push(child::run(lab.command("jq").args(["-c", "."]), &long));
        }
    }
    let mut rows = vec![
        row("gptpipe, remembered", RECORDS, &all),
        row("a tenth of the records", RECORDS / PART, &some),
    ];
    if has_jq {
        rows.push(row("`jq -c .`", RECORDS, &jq));
    }
    println!(
        "### Short records\n\nRuns of each: {count}, in turn; {RECORDS} records, {:.0} MB, every \
         byte of the long output compared.\n",
        megabytes(text.len())
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
fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}
