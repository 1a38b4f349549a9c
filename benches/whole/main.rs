//! Comparisons of the whole program: start-up, memory, order under load, replies
//! that are remembered, the schedule, processor time.
//!
//! `cargo bench --bench whole` runs all parts, `cargo bench --bench whole
//! start` one of `start`, `memory`, `order`, `lines`, `cached`, `rate`, `article`, `xargs`,
//! `schedule`, `cpu`, `ledger`. Markdown tables come out on standard output. The server is a second process
//! of this program on loopback, so that this one stays small: a child's peak memory is counted
//! from that of the process that starts it. curl and jq are taken from PATH, aichat from PATH or
//! from the variable AICHAT, a Python with the package `openai` from PATH or from
//! the variable PYTHON; what is missing is said and left out.
//! `GPTPIPE_BENCH_RUNS` replaces the number of runs of each part.

#![expect(clippy::print_stdout, reason = "tables are what a benchmark is for")]

mod cached;
mod child;
mod cpu;
mod ledger;
mod lines;
mod memory;
mod order;
mod pace;
mod server;
mod shape;
mod start;

#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/prose.rs"]
mod prose;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use shape::Shape;

/// What makes this program serve.
const SERVE: &str = "--serve";

/// Measures something and prints it.
type Part = fn(&Lab);

const PARTS: [(&str, Part); 11] = [
    ("start", start::measure),
    ("memory", memory::measure),
    ("order", order::measure),
    ("lines", lines::measure),
    ("cached", cached::measure),
    ("rate", pace::rate),
    ("article", pace::article),
    ("xargs", pace::xargs),
    ("schedule", pace::schedule),
    ("cpu", cpu::measure),
    ("ledger", ledger::measure),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == SERVE) {
        server::serve();
        return;
    }
    if args.first().is_some_and(|arg| arg == lines::MAKE) {
        lines::make(&args[1..]);
        return;
    }
    // Cargo says `--bench` only when figures are wanted; `cargo test --benches` does not.
    if !args.iter().any(|arg| arg == "--bench") {
        println!("nothing is measured here: run `cargo bench --bench whole`");
        return;
    }
    let names: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    if let Some(name) = names
        .iter()
        .find(|name| !PARTS.iter().any(|(part, _)| part == *name))
    {
        let parts = PARTS.map(|(part, _)| part).join(", ");
        println!("there is no part `{name}`: {parts}");
        return;
    }
    let lab = Lab::new();
    println!("{}", figures::machine());
    for (part, measure) in PARTS {
        if names.is_empty() || names.contains(&part) {
            measure(&lab);
        }
    }
    println!(
        "This program's own peak, below which no child can be measured: {}.",
        own_peak().unwrap_or_else(|| "unknown".to_owned())
    );
}

/// A folder and a server for the length of the measurement.
struct Lab {
    folder: PathBuf,
    server: Child,
    address: String,
}

impl Lab {
    fn new() -> Self {
        let name = format!("whole-{}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).expect("a folder for the measurement");
        let this = std::env::current_exe().expect("this program's path");
        let mut server = Command::new(this)
            .arg(SERVE)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut address = String::new();
        let stdout = server.stdout.take().expect("the server's stdout");
        BufReader::new(stdout)
            .read_line(&mut address)
            .expect("the server says its address");
        Self {
            folder,
            server,
            address: address.trim().to_owned(),
        }
    }

    /// A program with nothing of the caller's environment but PATH, and a home of its own.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.folder)
            .current_dir(&self.folder);
        command
    }

    /// The base URL under which answers take these times.
    fn slow(&self, shape: Shape, seed: u64) -> String {
        format!("{}/slow/{}/{seed}/v1", self.address, shape.path())
    }

    /// gptpipe, asking the server at `base_url`.
    fn gptpipe(&self, base_url: &str) -> Command {
        self.gptpipe_at(env!("CARGO_BIN_EXE_gptpipe"), base_url)
    }

    /// The same of the gptpipe that is this file.
    fn gptpipe_at(&self, program: impl AsRef<std::ffi::OsStr>, base_url: &str) -> Command {
        let mut command = self.command(program);
        command
            .env("OPENAI_API_KEY", "sk-benchmark")
            .env("OPENAI_BASE_URL", base_url);
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The number of runs of a part.
fn runs(usual: usize) -> usize {
    std::env::var("GPTPIPE_BENCH_RUNS")
        .ok()
        .and_then(|runs| runs.parse().ok())
        .filter(|runs| *runs > 0)
        .unwrap_or(usual)
}

fn own_peak() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(format!("{:.1} MiB", kib / 1024.0))
}
