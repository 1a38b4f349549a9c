//! What remembering costs: opening, looking up, storing.
//!
//! `cargo bench --bench cache` prints a Markdown table on standard output, in microseconds for each
//! operation. Entries are of 2 KB. The file lies in the folder for temporary files, so the
//! disk is that one's; `TMPDIR` names another. `GPTPIPE_BENCH_RUNS` replaces the number of runs.

#![expect(clippy::print_stdout, reason = "tables are what a benchmark is for")]
#![allow(dead_code, reason = "figures are shared with other benchmarks")]

#[path = "common/figures.rs"]
mod figures;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::future::join_all;
use gptpipe::api::reply::{Finish, Reply, Usage};
use gptpipe::store::cache::{Cache, CacheOptions, Entry, Key, Place};

use figures::{Spread, table};

/// Entries in the file.
const ENTRIES: u64 = 10_000;

/// Operations of one measurement.
const OPERATIONS: u32 = 2000;

/// Entries that are stored together, as by a run with that many jobs.
const TOGETHER: u32 = 16;

/// Bytes of a reply.
const REPLY: usize = 2000;

fn main() {
    // Cargo says `--bench` only when figures are wanted; `cargo test --benches` does not.
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("nothing is measured here: run `cargo bench --bench cache`");
        return;
    }
    let runs = std::env::var("GPTPIPE_BENCH_RUNS")
        .ok()
        .and_then(|runs| runs.parse().ok())
        .unwrap_or(9);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let lab = Lab::new();
    println!("{}", figures::machine());
    println!("{ENTRIES} entries of {REPLY} bytes, {runs} runs.\n");
    let rows = runtime.block_on(lab.measure(runs));
    println!("{}", table(&["µs each", "min", "median", "max"], &rows));
}

/// A folder for the length of the measurement.
struct Lab {
    folder: PathBuf,
}

impl Lab {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("gptpipe-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        Self { folder }
    }

    async fn measure(&self, runs: usize) -> Vec<Vec<String>> {
        let file = self.folder.join("cache.db");
        let cache = open(&file);
        for begin in (0..ENTRIES).step_by(64) {
            store_together(&cache, begin, 64).await;
        }
        cache.finish().await;
        let mut rows = Rows::default();
        for run in 0..runs as u64 {
            let new = self.folder.join(format!("{run}.db"));
            rows.add("open, making the file", 1, timed(|| drop(open(&new))));
            rows.add("open", 1, timed(|| drop(open(&file))));
            let cold = open(&file);
            let look = || {
                for number in 0..u64::from(OPERATIONS) {
                    let found = cold.lookup(&key(number * 7919 % ENTRIES));
                    assert!(found.is_some(), "it was stored");
                }
            };
            rows.add("lookup, hit", OPERATIONS, timed(look));
            rows.add(
                "lookup, miss",
                OPERATIONS,
                timed(|| {
                    for number in 0..u64::from(OPERATIONS) {
                        assert!(cold.lookup(&key(1 << 40 | number)).is_none());
                    }
                }),
            );
            let fresh = 1 << 20 | run << 50;
            let began = Instant::now();
            for number in 0..u64::from(OPERATIONS) {
                store_together(&cache, fresh + number, 1).await;
            }
            rows.add("store, one at a time", OPERATIONS, began.elapsed());
            let fresh = 1 << 30 | run << 50;
            let began = Instant::now();
            for number in (0..OPERATIONS / TOGETHER).map(|group| u64::from(group * TOGETHER)) {
                store_together(&cache, fresh + number, TOGETHER.into()).await;
            }
            rows.add("store, 16 together", OPERATIONS, began.elapsed());
            // Every commit of another process makes the reader forget the pages that it holds.
            let fresh = 1 << 40 | 1 << 35 | run << 50;
            let mut looked = Duration::ZERO;
            for number in 0..u64::from(OPERATIONS) {
                store_together(&cache, fresh + number, 1).await;
                looked += timed(|| drop(cache.lookup(&key(number * 7919 % ENTRIES))));
            }
            rows.add("lookup, hit after a commit", OPERATIONS, looked);
        }
        let trouble = cache.take_trouble();
        assert_eq!(trouble, None);
        rows.0
            .into_iter()
            .map(|(name, values)| {
                let mut row = vec![name.to_owned()];
                row.extend(Spread::of(values).cells(1));
                row
            })
            .collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Measurements by name, in the order in which they came first.
#[derive(Default)]
struct Rows(Vec<(&'static str, Vec<f64>)>);

impl Rows {
    fn add(&mut self, name: &'static str, operations: u32, took: Duration) {
        let each = took.as_secs_f64() * 1e6 / f64::from(operations);
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(each),
            None => self.0.push((name, vec![each])),
        }
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn open(file: &Path) -> Cache {
    let options = CacheOptions {
        place: Place::File(file.to_owned()),
        is_named: true,
        ttl: Duration::from_hours(24),
        is_refresh: false,
        max_bytes: 1 << 30,
    };
    Cache::open(options).expect("a cache").0
}

async fn store_together(cache: &Cache, begin: u64, count: u64) {
    let all = (begin..begin + count).map(|number| cache.store(key(number), reply(number)));
    assert!(
        join_all(all).await.into_iter().all(|stored| stored),
        "{:?}",
        cache.take_trouble()
    );
}

fn key(number: u64) -> Key {
    Key(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn reply(number: u64) -> Entry {
    let mut text = format!("{number} ").repeat(REPLY / 2);
    text.truncate(REPLY);
    Entry::Reply(Reply {
        text,
        finish: Finish::Stop,
        usage: Some(Usage::default()),
        model: Some("a-model-of-some-name".to_owned()),
        id: None,
        refill: None,
    })
}
