//! `gptpipe usage`: what requests there were, what they cost, how long they took.
//!
//! On a terminal a table of 80 columns with bars, else the same rows with whole
//! numbers for other programs; lines of JSON where these are asked for. What is
//! not known is `?`, and never nothing.

use std::fmt::Write as _;
use std::io::Write;

use serde::Serialize;

use crate::error::Error;
use crate::report::audit;
use crate::report::price::dollars;
use crate::store::ledger::Ledger;
use crate::store::usage::{By, Usage};

/// Columns of the names on a terminal.
const NAME: usize = 18;

/// Columns of the bars.
const BAR: usize = 4;

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// For people: 80 columns, bars.
    Terminal,
    /// For people and programs: whole numbers in columns.
    Plain,
    /// Lines of JSON.
    Json,
}

/// The usage since a time in microseconds since 1970; empty where there was none.
///
/// # Errors
/// [`Error::Usage`] where the ledger cannot be read.
pub fn usage(ledger: &Ledger, by: By, since: i64, style: Style) -> Result<String, Error> {
    let groups = ledger.usage(by, since).map_err(Error::usage)?;
    Ok(match style {
        Style::Json => groups.iter().map(|group| json(by, group)).collect(),
        Style::Plain => plain(by, &groups),
        Style::Terminal => terminal(by, &groups),
    })
}

/// A line of JSON for each request since a time.
///
/// # Errors
/// [`Error::Usage`] where the ledger cannot be read; what the output says.
pub fn audit(ledger: &Ledger, since: i64, mut out: impl Write) -> Result<(), Error> {
    let mut written = Ok(());
    ledger
        .audit(since, |record| {
            written = out.write_all(audit::line(record).as_bytes());
            written.is_ok()
        })
        .map_err(Error::usage)?;
    match written.and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Error::ReaderLeft),
        Err(error) => Err(Error::Output(error)),
    }
}

/// A group as a line of JSON; fields stay the same and in this order.
#[derive(Serialize)]
struct Row<'a> {
    requests: u64,
    cached: u64,
    tokens_in: u64,
    tokens_in_cached: u64,
    tokens_out: u64,
    cost_usd: Option<f64>,
    unpriced: u64,
    errors: u64,
    retries: u64,
    in_flight: u64,
    p50_seconds: Option<f64>,
    p95_seconds: Option<f64>,
    p99_seconds: Option<f64>,
    saved_usd: Option<f64>,
    unsaved: u64,
    #[serde(skip)]
    name: &'a str,
}

#[expect(clippy::cast_precision_loss, reason = "far below where that matters")]
fn json(by: By, usage: &Usage) -> String {
    let seconds = |at: usize| usage.latency.map(|latency| latency[at] as f64 / 1e6);
    let row = Row {
        requests: usage.requests,
        cached: usage.hits,
        tokens_in: usage.tokens_in,
        tokens_in_cached: usage.tokens_cached,
        tokens_out: usage.tokens_out,
        cost_usd: known(usage.cost, usage.unpriced).map(|cost| cost as f64 / 1e9),
        unpriced: usage.unpriced,
        errors: usage.errors,
        retries: usage.retries,
        in_flight: usage.in_flight,
        p50_seconds: seconds(0),
        p95_seconds: seconds(1),
        p99_seconds: seconds(2),
        saved_usd: known(usage.saved, usage.unsaved).map(|saved| saved as f64 / 1e9),
        unsaved: usage.unsaved,
        name: &usage.name,
    };
    let rest = serde_json::to_string(&row).unwrap_or_default();
    let name = serde_json::to_string(row.name).unwrap_or_default();
    format!("{{\"{}\":{name},{}\n", by.name(), &rest[1..])
}

/// What is known of a sum; none where that is nothing.
fn known(sum: i64, unknown: u64) -> Option<i64> {
    (sum != 0 || unknown == 0).then_some(sum)
}

/// A sum of money, of which a part may not be known.
fn money(sum: i64, unknown: u64) -> String {
    match (sum, unknown) {
        (_, 0) => dollars(sum),
        (0, _) => "?".to_owned(),
        // At least so much.
        _ => format!("{}+?", dollars(sum)),
    }
}

/// All groups together; the times of all cannot be known from those of each.
fn sum(groups: &[Usage]) -> Usage {
    let mut all = Usage {
        name: "total".to_owned(),
        ..Usage::default()
    };
    for group in groups {
        all.requests += group.requests;
        all.retries += group.retries;
        all.errors += group.errors;
        all.in_flight += group.in_flight;
        all.hits += group.hits;
        all.tokens_in += group.tokens_in;
        all.tokens_cached += group.tokens_cached;
        all.tokens_out += group.tokens_out;
        all.cost += group.cost;
        all.unpriced += group.unpriced;
        all.saved += group.saved;
        all.unsaved += group.unsaved;
    }
    all
}

/// Aligned columns; names may be of any length.
fn plain(by: By, groups: &[Usage]) -> String {
    if groups.is_empty() {
        return String::new();
    }
    let head = [
        by.name(),
        "requests",
        "cached",
        "tokens-in",
        "tokens-out",
        "cost",
        "errors",
        "p50",
        "p95",
        "p99",
        "saved",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    let all = sum(groups);
    let total = (groups.len() > 1).then_some(&all);
    for usage in groups.iter().chain(total) {
        let [p50, p95, p99] = latencies(usage, |seconds| format!("{seconds:.3}s"));
        rows.push([
            visible(&usage.name),
            usage.requests.to_string(),
            usage.hits.to_string(),
            usage.tokens_in.to_string(),
            usage.tokens_out.to_string(),
            money(usage.cost, usage.unpriced),
            usage.errors.to_string(),
            p50,
            p95,
            p99,
            money(usage.saved, usage.unsaved),
        ]);
    }
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|at| width(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let (first, rest) = row.split_first().map_or(("", &[][..]), |(f, r)| (f, r));
        let _ = write!(text, "{first:<0$}", widths[0]);
        for (cell, width) in rest.iter().zip(&widths[1..]) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

/// Eighty columns.
fn terminal(by: By, groups: &[Usage]) -> String {
    if groups.is_empty() {
        return String::new();
    }
    let mut text = String::new();
    let mut line = |cells: [&str; 11], bar: &str| {
        let [
            name,
            cost,
            requests,
            hits,
            tokens_in,
            tokens_out,
            errors,
            p50,
            p95,
            p99,
            saved,
        ] = cells;
        let _ = writeln!(
            text,
            "{name:<NAME$} {cost:>8} {bar:<BAR$} {requests:>4} {hits:>4} {tokens_in:>4} \
             {tokens_out:>4} {errors:>4} {p50:>4} {p95:>4} {p99:>4} {saved:>7}"
        );
    };
    line(
        [
            by.name(),
            "cost",
            "reqs",
            "hits",
            "in",
            "out",
            "errs",
            "p50",
            "p95",
            "p99",
            "saved",
        ],
        "",
    );
    let all = sum(groups);
    let total = (groups.len() > 1).then_some(&all);
    // Where no price is known, the bars are of tokens.
    let size = |usage: &Usage| {
        if all.cost > 0 {
            usage.cost.cast_unsigned()
        } else {
            usage.tokens_in + usage.tokens_out
        }
    };
    let most = groups.iter().map(size).max().unwrap_or(0);
    for usage in groups.iter().chain(total) {
        let is_total = total.is_some_and(|total| std::ptr::eq(total, usage));
        let bar = if is_total {
            String::new()
        } else {
            bar(size(usage), most)
        };
        let [p50, p95, p99] = latencies(usage, short_time);
        line(
            [
                &shortened(&visible(&usage.name)),
                &short_money(usage.cost, usage.unpriced),
                &short(usage.requests),
                &short(usage.hits),
                &short(usage.tokens_in),
                &short(usage.tokens_out),
                &short(usage.errors),
                &p50,
                &p95,
                &p99,
                &short_money(usage.saved, usage.unsaved),
            ],
            &bar,
        );
    }
    text
}

fn latencies(usage: &Usage, write: impl Fn(f64) -> String) -> [String; 3] {
    #[expect(clippy::cast_precision_loss, reason = "far below where that matters")]
    let seconds = |latency: i64| write(latency as f64 / 1e6);
    match usage.latency {
        Some(latency) => latency.map(seconds),
        None => ["-", "-", "-"].map(str::to_owned),
    }
}

/// At most seven characters.
fn short_money(sum: i64, unknown: u64) -> String {
    let text = money(sum, unknown);
    if text.len() <= 7 {
        return text;
    }
    let whole = format!(
        "${}{}",
        short((sum / 1_000_000_000).max(0).cast_unsigned()),
        { if unknown > 0 { "+?" } else { "" } }
    );
    if sum >= 10_000_000_000 {
        return whole;
    }
    // Less than a cent, or some of it is not known: three digits say enough.
    #[expect(clippy::cast_precision_loss, reason = "it is rounded anyhow")]
    let dollars = sum as f64 / 1e9;
    match unknown {
        0 if dollars < 0.000_5 => "<$.0005".to_owned(),
        0 => format!("${dollars:.4}"),
        _ => format!("${dollars:.2}+?"),
    }
}

/// At most four characters: `999`, `1.2k`, `12k`, `1.2M`.
fn short(number: u64) -> String {
    let mut unit = "";
    let mut tenths = number.saturating_mul(10);
    for next in ["k", "M", "G", "T"] {
        // What would be rounded to four digits is written in the next unit.
        if tenths < 9_995 {
            break;
        }
        tenths = (tenths + 500) / 1000;
        unit = next;
    }
    if unit.is_empty() || tenths >= 100 {
        format!(
            "{}{unit}",
            (tenths + if unit.is_empty() { 0 } else { 5 }) / 10
        )
    } else {
        format!("{}.{}{unit}", tenths / 10, tenths % 10)
    }
}

/// At most four characters: `.85s`, `2.1s`, `12s`, `3m`.
fn short_time(seconds: f64) -> String {
    if seconds < 0.995 {
        format!("{seconds:.2}s").trim_start_matches('0').to_owned()
    } else if seconds < 9.95 {
        format!("{seconds:.1}s")
    } else if seconds < 599.5 {
        format!("{seconds:.0}s")
    } else {
        format!("{:.0}m", seconds / 60.0)
    }
}

/// A bar of so many eighths of a column.
fn bar(size: u64, most: u64) -> String {
    const EIGHTHS: [&str; 9] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"];
    let columns = u64::try_from(BAR).unwrap_or(0) * 8;
    let wide = u128::from(size) * u128::from(columns);
    let eighths = usize::try_from(wide.div_ceil(u128::from(most.max(1)))).unwrap_or(0);
    let mut bar = EIGHTHS[8].repeat(eighths / 8);
    bar.push_str(EIGHTHS[eighths % 8]);
    bar
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(NAME - 1).collect();
    short.push('…');
    short
}

/// A name can come from anywhere.
fn visible(name: &str) -> String {
    crate::output::terminal::visible(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(name: &str) -> Usage {
        Usage {
            name: name.to_owned(),
            requests: 12_345,
            hits: 1_200,
            tokens_in: 1_234_567,
            tokens_out: 345_678,
            cost: 1_234_567_890,
            errors: 3,
            saved: 12_000_000,
            latency: Some([812_000, 2_140_000, 94_000_000]),
            ..Usage::default()
        }
    }

    #[test]
    fn a_terminals_table_has_eighty_columns_whatever_is_in_it() {
        let mut all = vec![usage("gpt-6-luna"), usage(&"long-".repeat(20))];
        all.push(Usage {
            requests: 999_400_000_000_000,
            cost: 123_456_789_000_000_000,
            unpriced: 4,
            unsaved: 7,
            saved: i64::MAX / 10,
            hits: 999_950,
            tokens_in: 9_999,
            latency: Some([1, 999_400, 7_000_000_000]),
            ..usage("\u{1b}[31m")
        });
        all.push(Usage {
            cost: 0,
            unpriced: 1,
            latency: None,
            ..usage("?")
        });
        let table = terminal(By::Model, &all);
        for line in table.lines() {
            assert_eq!(line.chars().count(), 80, "{table}");
        }
        assert!(!table.contains('\u{1b}'));
        let row = table.lines().nth(1).unwrap();
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[..2], ["gpt-6-luna", "$1.23"],);
        assert_eq!(
            cells[3..],
            [
                "12k", "1.2k", "1.2M", "346k", "3", ".81s", "2.1s", "94s", "$0.0120"
            ]
        );
    }

    #[test]
    fn numbers_are_short_and_rounded_once() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.0k"),
            (9_949, "9.9k"),
            (9_960, "10k"),
            (999_400, "999k"),
            (999_600, "1.0M"),
            (12_345_678, "12M"),
        ] {
            assert_eq!(short(number), text, "{number}");
        }
    }

    #[test]
    fn what_is_piped_has_whole_numbers_and_what_is_not_known_is_said() {
        let mut free = usage("free");
        (free.cost, free.unpriced) = (0, 12_345);
        let mut some = usage("some");
        some.unpriced = 1;
        let text = plain(By::Model, &[free.clone(), some]);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[0].len(), rows[1].len());
        assert_eq!(
            rows[1][..6],
            ["free", "12345", "1200", "1234567", "345678", "?"]
        );
        assert_eq!(rows[2][5], "$1.23+?");
        assert_eq!(rows[3][0], "total");
        let line = json(By::Day, &free);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["day"], "free");
        assert!(value["cost_usd"].is_null());
        assert_eq!(value["p50_seconds"], 0.812);
        // What is known in part is told, beside how many it leaves out.
        let mut some = usage("some");
        (some.unpriced, some.saved, some.unsaved) = (1, 5_000_000, 2);
        let value: serde_json::Value = serde_json::from_str(&json(By::Day, &some)).unwrap();
        assert_eq!(value["cost_usd"], 1.234_567_89);
        assert_eq!(value["unpriced"], 1);
        assert_eq!(value["saved_usd"], 0.005);
        assert_eq!(value["unsaved"], 2);
    }
}
