//! Cutting and counting, beside the crates that do the same.
//!
//! `cargo bench --bench cut` measures with criterion how fast gptpipe cuts and
//! counts, and what the worst inputs cost; then it cuts the same slices with
//! gptpipe and with text-splitter in turn and prints the ratios as a Markdown
//! table. text-splitter reads a few MB/s, so the slices are half a megabyte;
//! every pass of gptpipe over one begins with an empty memory of words.
//!
//! The text is made on the spot, or read from the files that
//! `GPTPIPE_BENCH_EN` and `GPTPIPE_BENCH_ZH` name (several as in PATH). Only
//! text is cut: what text-splitter's tokenizers need to load their vocabularies
//! is not counted, and gptpipe has nothing to load.

#![expect(clippy::print_stdout, reason = "tables are what a benchmark is for")]

#[path = "common/chinese.rs"]
mod chinese;
#[path = "common/figures.rs"]
mod figures;
#[path = "common/prose.rs"]
mod prose;

use std::ffi::OsStr;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use bpe_openai::Tokenizer;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use gptpipe::input::chunk::{By, ChunkerOptions};
use gptpipe::input::chunker::Chunker;
use gptpipe::input::token::{Encoding, TokenCounter};
use text_splitter::{ChunkConfig, ChunkSizer, TextSplitter};
use tiktoken_rs::CoreBPE;

/// The bound of a chunk.
const MAX_TOKENS: usize = 1000;

/// Bytes of prose that are made.
const MADE: usize = 2_000_000;

/// Bytes that are cut in turn.
const SLICE: usize = 500_000;

/// Rounds of the comparison.
const ROUNDS: usize = 9;

/// Bytes handed to the chunker at a time, as gptpipe does.
const READ: usize = 64 * 1024;

/// Bytes of a worst case: when it takes linear time, as many a second at both sizes.
const WORST: [usize; 2] = [250_000, 1_000_000];

fn main() {
    // Cargo says `--bench` only when figures are wanted; `cargo test --benches` does not.
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("nothing is measured here: run `cargo bench --bench cut`");
        return;
    }
    println!("{}", figures::machine());
    let mut texts = texts("GPTPIPE_BENCH_EN", || {
        ("English, made", prose::english(MADE, 1))
    });
    texts.extend(self::texts("GPTPIPE_BENCH_ZH", || {
        ("Chinese, made", chinese::chinese(MADE, 1))
    }));
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .without_plots()
        .configure_from_args();
    cutting(&mut criterion, &texts);
    counting(&mut criterion, &texts);
    worst(&mut criterion);
    criterion.final_summary();
    compare(&texts);
}

/// A text and what it is called.
struct Text {
    name: String,
    text: String,
}

impl Text {
    /// A slice from the text's middle, where prefaces and tables are over.
    fn slice(&self) -> &str {
        let spare = self.text.len().saturating_sub(SLICE);
        let start = self.text.ceil_char_boundary(spare / 2);
        let end = self.text.floor_char_boundary(start + SLICE);
        &self.text[start..end]
    }
}

fn texts(variable: &str, make: impl Fn() -> (&'static str, String)) -> Vec<Text> {
    let Some(paths) = std::env::var_os(variable) else {
        let (name, text) = make();
        return vec![Text {
            name: name.to_owned(),
            text,
        }];
    };
    std::env::split_paths(&paths)
        .map(|path| Text {
            name: Path::file_name(&path)
                .map(OsStr::to_string_lossy)
                .unwrap_or_default()
                .into_owned(),
            text: fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        })
        .collect()
}

/// Cuts a text as gptpipe does, and gives the number of chunks and the sum of their bytes.
fn cut(text: &str) -> (usize, usize) {
    let mut chunker = Chunker::new(ChunkerOptions {
        by: By::Sentence,
        max_tokens: MAX_TOKENS,
        encoding: Encoding::O200k,
        context_tokens: 0,
    });
    let (mut chunks, mut bytes) = (0, 0);
    let mut take = |chunker: &mut Chunker| {
        for chunk in chunker {
            chunks += usize::from(!chunk.text.is_empty());
            bytes += chunk.gap.len() + chunk.text.len() + chunk.tail.len();
            black_box(chunk);
        }
    };
    let mut rest = text;
    while !rest.is_empty() {
        let (read, after) = rest.split_at(rest.floor_char_boundary(READ));
        chunker.push(read);
        take(&mut chunker);
        rest = after;
    }
    chunker.finish();
    take(&mut chunker);
    (chunks, bytes)
}

/// Cuts a text with text-splitter, keeping white space as gptpipe does.
fn split<S: ChunkSizer>(splitter: &TextSplitter<S>, text: &str) -> (usize, usize) {
    let (mut chunks, mut bytes) = (0, 0);
    for chunk in splitter.chunks(text) {
        chunks += 1;
        bytes += black_box(chunk).len();
    }
    (chunks, bytes)
}

fn splitter<S: ChunkSizer>(sizer: S) -> TextSplitter<S> {
    TextSplitter::new(
        ChunkConfig::new(MAX_TOKENS)
            .with_sizer(sizer)
            .with_trim(false),
    )
}

/// text-splitter's measure with the fastest of the exact tokenizers.
struct Bpe(&'static Tokenizer);

impl ChunkSizer for Bpe {
    fn size(&self, chunk: &str) -> usize {
        self.0.count(chunk)
    }
}

fn tiktoken() -> CoreBPE {
    tiktoken_rs::o200k_base().expect("the vocabulary inside tiktoken-rs")
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    criterion.benchmark_group(name)
}

/// Whole texts, cut by gptpipe; slices of them, cut by the others.
fn cutting(criterion: &mut Criterion, texts: &[Text]) {
    let (bpe, tiktoken) = (
        splitter(Bpe(bpe_openai::o200k_base())),
        splitter(tiktoken()),
    );
    for text in texts {
        let mut group = group(criterion, &format!("cut: {}", text.name));
        group.throughput(Throughput::BytesDecimal(text.text.len() as u64));
        group.bench_function("gptpipe", |bencher| bencher.iter(|| cut(&text.text)));
        let slice = text.slice();
        group.throughput(Throughput::BytesDecimal(slice.len() as u64));
        group.bench_function("text-splitter, bpe-openai", |bencher| {
            bencher.iter(|| split(&bpe, slice));
        });
        group.bench_function("text-splitter, tiktoken-rs", |bencher| {
            bencher.iter(|| split(&tiktoken, slice));
        });
        group.finish();
    }
}

/// Counting alone, paragraph by paragraph.
fn counting(criterion: &mut Criterion, texts: &[Text]) {
    let bpe = bpe_openai::o200k_base();
    for text in texts {
        let paragraphs: Vec<&str> = text.text.split_inclusive("\n\n").collect();
        let mut group = group(criterion, &format!("count: {}", text.name));
        group.throughput(Throughput::BytesDecimal(text.text.len() as u64));
        let mut counter = TokenCounter::new(Encoding::O200k);
        group.bench_function("gptpipe", |bencher| {
            bencher.iter(|| {
                paragraphs
                    .iter()
                    .map(|paragraph| counter.count(paragraph))
                    .sum::<usize>()
            });
        });
        group.bench_function("bpe-openai", |bencher| {
            bencher.iter(|| {
                paragraphs
                    .iter()
                    .map(|paragraph| bpe.count(*paragraph))
                    .sum::<usize>()
            });
        });
        group.finish();
    }
}

/// Inputs on which such programs become quadratic.
fn worst(criterion: &mut Criterion) {
    type Make = fn(usize) -> String;
    let inputs: [(&str, Make); 11] = [
        ("one letter", |bytes| many("a", bytes)),
        ("blanks", |bytes| many(" ", bytes)),
        ("a stop, then blanks", |bytes| {
            ".".to_owned() + &many(" ", bytes)
        }),
        ("stops and blanks in turn", |bytes| many(". ", bytes)),
        ("one emoji", |bytes| many("🚀", bytes)),
        ("a family of joined emoji", |bytes| many("👨‍👩‍👧", bytes)),
        ("Chinese without stops", |bytes| {
            many("国际中文的语言", bytes)
        }),
        ("line ends", |bytes| many("\n", bytes)),
        ("letters and digits", |bytes| many("aB3dE9", bytes)),
        ("combining marks", |bytes| many("\u{301}", bytes)),
        ("a bracket, then blanks, in turn", |bytes| {
            many(".)   ", bytes)
        }),
    ];
    for bytes in WORST {
        let mut group = group(criterion, &format!("cut: {} KB of the worst", bytes / 1000));
        for (name, input) in inputs {
            let input = input(bytes);
            group.throughput(Throughput::BytesDecimal(input.len() as u64));
            group.bench_function(name, |bencher| bencher.iter(|| cut(&input)));
        }
        group.finish();
    }
}

fn many(unit: &str, bytes: usize) -> String {
    unit.repeat(bytes / unit.len())
}

/// Speeds in MB/s, taken in turn.
struct Row {
    name: &'static str,
    speeds: Vec<f64>,
    chunks: usize,
}

/// A way to cut: gives the number of chunks and the sum of their bytes.
type Way<'a> = &'a dyn Fn() -> (usize, usize);

/// The same slices cut in turn, and the ratios of medians.
fn compare(texts: &[Text]) {
    let bpe = splitter(Bpe(bpe_openai::o200k_base()));
    let tiktoken = splitter(tiktoken());
    println!(
        "\n### Cutting, {MAX_TOKENS} tokens\n\n{ROUNDS} rounds, in turn, over {SLICE} bytes from the \
         middle of each text; time of the thread on a processor.\n"
    );
    let mut rows = Vec::new();
    for text in texts {
        let slice = text.slice();
        let ways: [(&'static str, Way<'_>); 3] = [
            ("gptpipe", &|| cut(slice)),
            ("text-splitter, bpe-openai", &|| split(&bpe, slice)),
            ("text-splitter, tiktoken-rs", &|| split(&tiktoken, slice)),
        ];
        let mut found = ways.map(|(name, _)| Row {
            name,
            speeds: Vec::new(),
            chunks: 0,
        });
        // The first round is not counted: it warms the caches of all alike.
        for round in 0..=ROUNDS {
            for ((name, way), row) in ways.iter().zip(&mut found) {
                let began = processor_time();
                let (chunks, bytes) = way();
                let seconds = processor_time().saturating_sub(began).as_secs_f64();
                assert_eq!(bytes, slice.len(), "{name} lost something");
                row.chunks = chunks;
                if round > 0 {
                    row.speeds.push(megabytes(bytes) / seconds);
                }
            }
        }
        let own = figures::Spread::of(found[0].speeds.clone()).median;
        for row in found {
            let speed = figures::Spread::of(row.speeds);
            let mut cells = vec![text.name.clone(), row.name.to_owned()];
            cells.push(row.chunks.to_string());
            cells.extend(speed.cells(2));
            cells.push(format!("{:.1}", own / speed.median));
            rows.push(cells);
        }
    }
    let head = [
        "text",
        "cut by",
        "chunks",
        "MB/s: min",
        "median",
        "max",
        "gptpipe ÷ this",
    ];
    println!("{}", figures::table(&head, &rows));
}

/// How long this thread has run. Cutting waits for nothing, so on a quiet
/// machine this is the time on the wall, and on a busy one it still is its own.
#[cfg(unix)]
fn processor_time() -> Duration {
    use rustix::time::{ClockId, clock_gettime};

    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Where there is no such clock, the one on the wall.
#[cfg(not(unix))]
fn processor_time() -> Duration {
    use std::sync::LazyLock;
    use std::time::Instant;

    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGAN.elapsed()
}

#[expect(clippy::cast_precision_loss, reason = "sizes are below 2^53")]
fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}
