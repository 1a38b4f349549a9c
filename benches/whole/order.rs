//! Order under load: many lines whose replies take random times, against the
//! best that any program could do that takes the lines in order.

#![expect(clippy::print_stdout, reason = "tables are what a benchmark is for")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::child::{self, Run};
use crate::figures::{Spread, table};
use crate::server::delay;
use crate::{Lab, runs};

const LINES: u64 = 2_000;
const JOBS: usize = 64;
const SEED: u64 = 7;

pub(crate) fn measure(lab: &Lab) {
    let (mut text, mut expected) = (String::new(), String::new());
    for number in 1..=LINES {
        let _ = writeln!(text, "{number} is the number of this line");
        let _ = writeln!(expected, "reply to line {number}");
    }
    let input = lab.folder.join("lines");
    child::write(&input, text.as_bytes());
    let count = runs(3);
    let results: Vec<Run> = (0..count)
        .map(|_| {
            let mut command = lab.gptpipe(&format!("{}/slow/{SEED}/v1", lab.address));
            command.args(["-q", "-b", "line", "-j", &JOBS.to_string(), "answer"]);
            let run = child::run(&mut command, &input);
            assert!(
                run.output == expected.as_bytes(),
                "the replies are not those of the lines in their order"
            );
            run
        })
        .collect();
    let ideal = makespan((1..=LINES).map(|number| delay(SEED, number)));
    let wall = Spread::of(results.iter().map(|run| run.wall.as_secs_f64()).collect());
    let peak = Spread::of(results.iter().map(|run| run.peak).collect());
    println!(
        "### Order under load\n\nRuns: {count}; {LINES} lines, replies that take 20 to 2,000 ms (seed \
         {SEED}), `-j {JOBS}`; every reply in its place. The ideal gives each line in its order to \
         the first of {JOBS} that is free.\n"
    );
    let mut rows = vec![vec![
        "ideal".to_owned(),
        String::new(),
        format!("{:.2}", ideal.as_secs_f64()),
        String::new(),
        "1.000".to_owned(),
        String::new(),
    ]];
    let mut row = vec!["gptpipe".to_owned()];
    row.extend(wall.cells(2));
    row.push(format!("{:.3}", wall.median / ideal.as_secs_f64()));
    row.push(format!("{:.1}", peak.max));
    rows.push(row);
    let head = ["", "min s", "median s", "max s", "÷ ideal", "peak MiB"];
    println!("{}", table(&head, &rows));
}

/// When the last is done, if each in its order goes to whoever is free first.
fn makespan(delays: impl Iterator<Item = Duration>) -> Duration {
    let mut free: BinaryHeap<Reverse<Duration>> = vec![Reverse(Duration::ZERO); JOBS].into();
    let mut last = Duration::ZERO;
    for delay in delays {
        let Reverse(at) = free.pop().unwrap_or_default();
        let end = at + delay;
        last = last.max(end);
        free.push(Reverse(end));
    }
    last
}
