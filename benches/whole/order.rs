//! Order under load: many lines whose replies take random times, against the
//! best that any program could do that takes the lines in order.

#![expect(clippy::print_stdout, reason = "tables are what a benchmark is for")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::child::{self, Run};
use crate::figures::{Spread, table};
use crate::shape::Shape;
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
    let mut rivals = [
        ("gptpipe", "--refresh"),
        ("gptpipe, `--no-cache`", "--no-cache"),
    ]
    .map(|(name, option)| (name, option, Vec::new()));
    for _ in 0..count {
        for (_, option, results) in &mut rivals {
            let mut command = lab.gptpipe(&lab.slow(Shape::Even, SEED));
            command.args([
                "-q",
                "-b",
                "line",
                "-j",
                &JOBS.to_string(),
                option,
                "answer",
            ]);
            let run = child::run(&mut command, &input);
            assert!(
                run.output == expected.as_bytes(),
                "the replies are not those of the lines in their order"
            );
            results.push(run);
        }
    }
    let ideal = makespan(
        (1..=LINES).map(|number| Shape::Even.delay(SEED, number, 0)),
        JOBS,
    );
    println!(
        "### Order under load\n\nRuns of each: {count}, in turn; {LINES} lines, replies that take 20 to \
         2,000 ms (seed {SEED}), `-j {JOBS}`; every reply in its place. The ideal gives each line in its \
         order to the first of {JOBS} that is free.\n"
    );
    let mut rows = vec![vec![
        "ideal".to_owned(),
        String::new(),
        format!("{:.2}", ideal.as_secs_f64()),
        String::new(),
        "1.000".to_owned(),
        String::new(),
        String::new(),
    ]];
    let mut medians = Vec::new();
    for (name, _, results) in rivals {
        let of = |figure: fn(&Run) -> f64| Spread::of(results.iter().map(figure).collect());
        let wall = of(|run| run.wall.as_secs_f64());
        let cpu = of(|run| run.cpu.as_secs_f64());
        let mut row = vec![name.to_owned()];
        row.extend(wall.cells(2));
        row.push(format!("{:.3}", wall.median / ideal.as_secs_f64()));
        row.push(format!("{:.2}", cpu.median));
        row.push(format!("{:.1}", of(|run| run.peak).max));
        rows.push(row);
        medians.push(wall.median);
    }
    let head = [
        "",
        "min s",
        "median s",
        "max s",
        "÷ ideal",
        "processor s",
        "peak MiB",
    ];
    println!("{}", table(&head, &rows));
    println!(
        "Storing every reply takes {:.2} % of the time.\n",
        (medians[0] / medians[1] - 1.0) * 100.0
    );
}

/// When the last is done, if each in its order goes to whoever is free first.
pub(crate) fn makespan(delays: impl Iterator<Item = Duration>, jobs: usize) -> Duration {
    let mut free: BinaryHeap<Reverse<Duration>> = vec![Reverse(Duration::ZERO); jobs].into();
    let mut last = Duration::ZERO;
    for delay in delays {
        let Reverse(at) = free.pop().unwrap_or_default();
        let end = at + delay;
        last = last.max(end);
        free.push(Reverse(end));
    }
    last
}
