//! Memory: prose of two sizes through the echoing server, eight at a time.
//!
//! The text is written into the program while it is made, and what comes out
//! is held against the same text made a second time, byte for byte: nothing of
//! it is stored here, and a single wrong byte ends the measurement.

#![expect(clippy::print_stdout, reason = "tables are what a benchmark is for")]

use std::io::{self, Read as _, Write as _};
use std::process::{ChildStdin, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::child::{self, Run};
use crate::figures::{Spread, table};
use crate::prose::{self, Random};
use crate::server::PIECE;
use crate::{Lab, runs};

const SIZES: [(&str, usize); 2] = [("100 MiB", 100 << 20), ("1 GiB", 1 << 30)];

/// The prose that paragraphs are drawn from.
const POOL: usize = 1 << 20;

const SEED: u64 = 20_26;

pub(crate) fn measure(lab: &Lab) {
    let pool = Arc::new(prose::english(POOL, SEED));
    let count = runs(3);
    let mut results: Vec<Vec<Run>> = SIZES.iter().map(|_| Vec::new()).collect();
    for _ in 0..count {
        for ((_, size), runs) in SIZES.iter().zip(&mut results) {
            runs.push(run(lab, &pool, *size));
        }
    }
    println!(
        "### Memory: an echo of English prose\n\nRuns of each: {count}, in turn, `-j 8`; events of \
         {PIECE} bytes of text; every byte of the output compared.\n"
    );
    let mut rows = Vec::new();
    let mut peaks = Vec::new();
    for ((name, size), runs) in SIZES.iter().zip(&results) {
        #[expect(clippy::cast_precision_loss, reason = "sizes are below 2^53")]
        let megabytes = *size as f64 / 1e6;
        let speed = Spread::of(
            runs.iter()
                .map(|run| megabytes / run.wall.as_secs_f64())
                .collect(),
        );
        let cpu = Spread::of(runs.iter().map(|run| run.cpu.as_secs_f64()).collect());
        let wall = Spread::of(runs.iter().map(|run| run.wall.as_secs_f64()).collect());
        let peak = Spread::of(runs.iter().map(|run| run.peak).collect());
        let mut row = vec![(*name).to_owned()];
        row.extend(peak.cells(1));
        row.push(format!("{:.1}", wall.median));
        row.push(format!("{:.1}", cpu.median));
        row.push(format!("{:.1}", speed.median));
        rows.push(row);
        peaks.push(peak.median);
    }
    let head = [
        "input",
        "peak MiB: min",
        "median",
        "max",
        "wall s",
        "processor s",
        "MB/s",
    ];
    println!("{}", table(&head, &rows));
    println!(
        "Ratio of the peaks, {} to {}: {:.2}.\n",
        SIZES[1].0,
        SIZES[0].0,
        peaks[1] / peaks[0]
    );
}

fn run(lab: &Lab, pool: &Arc<String>, size: usize) -> Run {
    let mut command = lab.gptpipe(&format!("{}/v1", lab.address));
    command
        // What an earlier run remembers would be another measurement.
        .args(["-q", "-j", "8", "--refresh", "repeat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let began = Instant::now();
    let mut child = command.spawn().expect("gptpipe starts");
    let stdin = child.stdin.take().expect("its stdin");
    let mut stdout = child.stdout.take().expect("its stdout");
    let writer = {
        let pool = Arc::clone(pool);
        thread::spawn(move || feed(stdin, Paragraphs::new(&pool, size)))
    };
    let mut expected = Paragraphs::new(pool, size);
    let mut bytes = vec![0; 1 << 16];
    let mut seen = 0;
    loop {
        let length = match stdout.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => panic!("the output broke: {error}"),
        };
        let mut got = &bytes[..length];
        while !got.is_empty() {
            let want = expected.take(got.len());
            assert!(
                !want.is_empty() && want == &got[..want.len()],
                "the output differs from the input after byte {seen}"
            );
            seen += want.len();
            got = &got[want.len()..];
        }
    }
    writer
        .join()
        .expect("the writing thread")
        .expect("gptpipe reads its input");
    let run = child::finish(child, began, &command);
    assert_eq!(seen, size, "the output is shorter than the input");
    run
}

fn feed(stdin: ChildStdin, mut paragraphs: Paragraphs<'_>) -> io::Result<()> {
    let mut stdin = io::BufWriter::with_capacity(1 << 16, stdin);
    loop {
        let bytes = paragraphs.take(usize::MAX);
        if bytes.is_empty() {
            return stdin.flush();
        }
        stdin.write_all(bytes)?;
    }
}

/// An endless choice of paragraphs, cut off at a size.
struct Paragraphs<'a> {
    pool: &'a [u8],
    /// Where the paragraphs begin, and where the last ends.
    bounds: Vec<usize>,
    random: Random,
    current: &'a [u8],
    left: usize,
}

impl<'a> Paragraphs<'a> {
    fn new(pool: &'a str, size: usize) -> Self {
        let mut bounds = vec![0];
        bounds.extend(pool.match_indices("\n\n").map(|(at, end)| at + end.len()));
        Self {
            pool: pool.as_bytes(),
            bounds,
            random: Random(SEED),
            current: b"",
            left: size,
        }
    }

    /// The next bytes, at most `most`; none at the end.
    fn take(&mut self, most: usize) -> &'a [u8] {
        if self.current.is_empty() {
            let at = self.random.below(self.bounds.len() - 1);
            let paragraph = &self.pool[self.bounds[at]..self.bounds[at + 1]];
            self.current = &paragraph[..paragraph.len().min(self.left)];
            self.left -= self.current.len();
        }
        let (taken, rest) = self.current.split_at(most.min(self.current.len()));
        self.current = rest;
        taken
    }
}
