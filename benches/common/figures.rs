//! How figures are shown: the machine they were measured on, and Markdown
//! tables of the smallest, the middle and the largest of several runs.
//!
//! Times of one run say little about another machine; the ratios of medians
//! that were taken in turn on one machine do. No figure passes or fails.

use std::fs;
use std::process::Command;

/// The smallest, the middle and the largest of some measurements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Sums up measurements, of which there is at least one.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Self {
            min: values[0],
            median,
            max: values[values.len() - 1],
        }
    }

    /// The three as cells of a table.
    pub(crate) fn cells(self, digits: usize) -> [String; 3] {
        [self.min, self.median, self.max].map(|value| format!("{value:.digits$}"))
    }
}

/// A Markdown table; the first column is text, the others are numbers.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = format!("| {} |\n|---|", head.join(" | "));
    table.push_str(&"---:|".repeat(head.len() - 1));
    table.push('\n');
    for row in rows {
        table.push_str("| ");
        table.push_str(&row.join(" | "));
        table.push_str(" |\n");
    }
    table
}

/// Where the figures come from: processor, cores, system, compiler.
pub(crate) fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| Some(text.split_whitespace().next()?.to_owned()))
        .unwrap_or_else(|| "unknown".to_owned());
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    format!(
        "Measured on {cpu}, {cores} cores, {}, {}; load at the start {load}.\n",
        first_line(Command::new("uname").args(["-s", "-r"])),
        first_line(Command::new(rustc).arg("--version")),
    )
}

/// The first line that a command prints, or that there is none.
pub(crate) fn first_line(command: &mut Command) -> String {
    command
        .output()
        .ok()
        .and_then(|output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().next().map(str::to_owned)
        })
        .unwrap_or_else(|| format!("{} unknown", command.get_program().to_string_lossy()))
}
