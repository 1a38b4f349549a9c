//! A request as a line of JSON: who asked whom, when, with which key, for how much; no text.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::store::journal::{Ended, Run, Started};
use crate::store::usage::Record;

/// Puts together what was noted of a request.
pub(super) fn record(run: &Run, started: &Started, ended: &Ended) -> Record {
    let signed = |tokens: Option<u64>| tokens.map(u64::cast_signed);
    Record {
        time: started.time,
        run: run.name.clone(),
        host: run.host.clone(),
        profile: run.profile.clone(),
        model: run.model.clone(),
        key: run.key.clone(),
        chunk: started.chunk.clone(),
        attempt: started.attempt,
        is_sent: started.is_sent,
        outcome: Some(ended.outcome.clone()),
        status: ended.status,
        tokens_in: signed(ended.tokens_in),
        tokens_out: signed(ended.tokens_out),
        tokens_cached: signed(ended.tokens_cached),
        cost: ended.cost,
        latency: Some(ended.latency),
        request_id: ended.request_id.clone(),
    }
}

/// A request as a line of JSON. What is not known is null; fields stay the same and in this order.
#[derive(Serialize)]
struct Row<'a> {
    time: String,
    run: &'a str,
    host: &'a str,
    profile: &'a str,
    model: &'a str,
    key: Option<&'a str>,
    chunk: &'a str,
    attempt: u32,
    sent: bool,
    outcome: &'a str,
    status: Option<u16>,
    tokens_in: Option<i64>,
    tokens_out: Option<i64>,
    tokens_cached: Option<i64>,
    cost_usd: Option<f64>,
    latency_ms: Option<f64>,
    request_id: Option<&'a str>,
}

/// The line of a request, with its end.
#[must_use]
pub fn line(record: &Record) -> String {
    let time = Duration::from_micros(u64::try_from(record.time).unwrap_or(0));
    let time = SystemTime::UNIX_EPOCH + time;
    #[expect(clippy::cast_precision_loss, reason = "far below where that matters")]
    let row = Row {
        time: humantime::format_rfc3339_micros(time).to_string(),
        run: &record.run,
        host: &record.host,
        profile: &record.profile,
        model: &record.model,
        key: record.key.as_deref(),
        chunk: &record.chunk,
        attempt: record.attempt,
        sent: record.is_sent,
        outcome: record.outcome.as_deref().unwrap_or("in_flight"),
        status: record.status,
        tokens_in: record.tokens_in,
        tokens_out: record.tokens_out,
        tokens_cached: record.tokens_cached,
        cost_usd: record.cost.map(|cost| cost as f64 / 1e9),
        latency_ms: record.latency.map(|latency| latency as f64 / 1e3),
        request_id: record.request_id.as_deref(),
    };
    let mut line = serde_json::to_string(&row).unwrap_or_default();
    line.push('\n');
    line
}
