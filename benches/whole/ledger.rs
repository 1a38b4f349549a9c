//! What the record of requests costs: the same run with it and without, in turn.

#![expect(clippy::print_stdout, reason = "tables are what a benchmark is for")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::child::{self, Run};
use crate::figures::{Spread, table};
use crate::shape::Shape;
use crate::{Lab, runs};

/// Requests at once and the time of each make five hundred a second.
const JOBS: &str = "10";
const MILLIS: u64 = 20;
const REQUESTS: usize = 2_000;

pub(crate) fn measure(lab: &Lab) {
    let on = lab.folder.join("ledger-on");
    let off = lab.folder.join("ledger-off");
    let config = off.join(".config/gptpipe");
    fs::create_dir_all(&on).expect("a home");
    fs::create_dir_all(&config).expect("a home");
    child::write(&config.join("config.toml"), b"ledger = false\n");
    let many = lab.folder.join("ledger-many");
    let lines = (0..REQUESTS).fold(String::new(), |mut lines, number| {
        let _ = writeln!(lines, "{number} is a line");
        lines
    });
    child::write(&many, lines.as_bytes());
    let one = lab.folder.join("ledger-one");
    child::write(&one, b"a line\n");
    let base_url = lab.slow(Shape::Constant(MILLIS), 7);
    let quick = format!("{}/v1", lab.address);
    let all = ["--log", "log.jsonl", "--metrics", "gptpipe.prom"];
    let mut rows = Vec::new();
    for (name, input, url, count) in [
        ("2,000 requests, 500 a second", &many, &base_url, runs(9)),
        ("one request, answered at once", &one, &quick, runs(200)),
    ] {
        let ask = |home: &Path, extra: &[&str]| {
            let mut command: Command = lab.gptpipe(url);
            command
                .env("HOME", home)
                .current_dir(home)
                .args(["-q", "-b", "line", "-j", JOBS, "--no-cache"])
                .args(extra)
                .arg("answer");
            child::run(&mut command, input)
        };
        let (mut with, mut without, mut most) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            without.push(ask(&off, &[]));
            with.push(ask(&on, &[]));
            most.push(ask(&on, &all));
        }
        let base = median(&without, wall);
        for (what, runs) in [
            ("off", &without),
            ("on", &with),
            ("on, with --log and --metrics", &most),
        ] {
            let took = median(runs, wall);
            rows.push(vec![
                format!("{name}: {what}"),
                format!("{:.2}", took * 1e3),
                format!("{:+.2}", (took - base) * 1e3),
                format!("{:+.2} %", (took / base - 1.0) * 100.0),
                format!("{:.2}", median(runs, cpu) * 1e3),
            ]);
        }
    }
    println!("### The record of requests\n\nMedians of runs that were taken in turn.\n");
    let head = ["", "ms", "more, ms", "more", "processor, ms"];
    println!("{}", table(&head, &rows));
}

fn wall(run: &Run) -> f64 {
    run.wall.as_secs_f64()
}

fn cpu(run: &Run) -> f64 {
    run.cpu.as_secs_f64()
}

fn median(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    Spread::of(runs.iter().map(of).collect()).median
}
