//! Replies that are remembered: a run of ten thousand chunks that sends nothing,
//! beside `cat` of the same output and beside cutting alone.

#![expect(clippy::print_stdout, reason = "tables are what a benchmark is for")]

use std::hint::black_box;
use std::time::Instant;

use gptpipe::input::chunk::{By, ChunkerOptions};
use gptpipe::input::chunker::Chunker;
use gptpipe::input::token::Encoding;

use crate::child::{self, Run};
use crate::figures::{Spread, table};
use crate::prose;
use crate::{Lab, runs};

/// Chunks, at the usual bound.
const CHUNKS: usize = 10_000;

/// Bytes that make about so many chunks of the usual bound.
const BYTES: usize = CHUNKS * 8_000;

/// The usual bound, in tokens.
const MAX_TOKENS: usize = 2_000;

/// Bytes handed to the chunker at a time, as gptpipe does.
const READ: usize = 64 * 1024;

pub(crate) fn measure(lab: &Lab) {
    let text = prose::english(BYTES, 11);
    let input = lab.folder.join("prose");
    child::write(&input, text.as_bytes());
    let base_url = format!("{}/v1", lab.address);
    let gptpipe = |options: &[&str]| {
        let mut command = lab.gptpipe(&base_url);
        command.args(["-q", "-j", "16"]).args(options).arg("repeat");
        child::run(&mut command, &input)
    };
    let first = gptpipe(&[]);
    assert!(first.output == text.as_bytes(), "the echo differs");
    let count = runs(5);
    let (mut cached, mut cat, mut cutting, mut chunks) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..count {
        let run = gptpipe(&["--cache-only"]);
        assert!(run.output == text.as_bytes(), "what is remembered differs");
        cached.push(run);
        cat.push(child::run(&mut lab.command("cat"), &input));
        let began = Instant::now();
        chunks = cut(&text);
        cutting.push(began.elapsed().as_secs_f64());
    }
    #[expect(clippy::cast_precision_loss, reason = "sizes are below 2^53")]
    let (megabytes, number) = (text.len() as f64 / 1e6, chunks as f64);
    let wall = |runs: &[Run]| Spread::of(runs.iter().map(|run| run.wall.as_secs_f64()).collect());
    let cpu = |runs: &[Run]| Spread::of(runs.iter().map(|run| run.cpu.as_secs_f64()).collect());
    let of_cutting = Spread::of(cutting);
    let rows = [
        ("gptpipe, remembered", wall(&cached), cpu(&cached).median),
        ("cutting alone", of_cutting, of_cutting.median),
        ("`cat`", wall(&cat), cpu(&cat).median),
    ]
    .map(|(name, wall, cpu)| {
        let mut row = vec![name.to_owned()];
        row.extend(wall.cells(3));
        row.push(format!("{cpu:.3}"));
        row.push(format!("{:.0}", megabytes / wall.median));
        row.push(format!("{:.1}", wall.median * 1e6 / number));
        row
    });
    println!(
        "### Remembered replies\n\nRuns of each: {count}, in turn; {chunks} chunks, {megabytes:.0} MB, \
         every byte of the output compared. The first run, which asked and stored, took {:.2} s.\n",
        first.wall.as_secs_f64()
    );
    let head = [
        "",
        "min s",
        "median s",
        "max s",
        "processor s",
        "MB/s",
        "µs a chunk",
    ];
    println!("{}", table(&head, &rows));
    println!(
        "A hit costs {:.1} µs of a processor beyond cutting.\n",
        (cpu(&cached).median - of_cutting.median) * 1e6 / number
    );
}

/// Cuts a text as gptpipe does; gives the number of chunks.
fn cut(text: &str) -> usize {
    let mut chunker = Chunker::new(ChunkerOptions {
        by: By::Sentence,
        max_tokens: MAX_TOKENS,
        encoding: Encoding::O200k,
        context_tokens: 0,
    });
    let mut chunks = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(rest.floor_char_boundary(READ.min(rest.len())));
        rest = more;
        chunker.push(piece);
        chunks += chunker.by_ref().map(black_box).count();
    }
    chunker.finish();
    chunks
        + chunker
            .by_ref()
            .filter(|chunk| !chunk.text.is_empty())
            .count()
}
