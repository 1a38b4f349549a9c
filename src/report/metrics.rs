//! The ledger's totals as Prometheus reads them.
//!
//! The totals are kept, and this is but a rendering of them, so that counters of
//! a program that runs for seconds go on where they were. Labels are the profile
//! and the model, of the first so many that there were, and the kind of an error;
//! hosts and keys are none.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, MetricEncoder, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use crate::store::ledger::BOUNDS;
use crate::store::usage::Total;

/// Pairs of profile and model that have series of their own. What comes after them is `other`, so
/// that a script which makes up names does not make up series.
const SERIES: usize = 50;

/// The formats of an exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The plain text that all versions of Prometheus and the textfile collector read.
    Text,
    /// `OpenMetrics`.
    OpenMetrics,
}

impl Format {
    /// Its `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The exposition of the totals.
#[must_use]
pub fn exposition(totals: Vec<Total>, format: Format) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Totals(merge(totals))));
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = match format {
        Format::Text => prometheus_text::encode(&mut out, &registry),
        Format::OpenMetrics => text::encode(&mut out, &registry),
    };
    out
}

/// Puts the exposition into the place of a file at once, for node_exporter's textfile collector,
/// which runs as another user.
///
/// # Errors
/// The system's.
#[expect(clippy::doc_markdown, reason = "node_exporter is a name and no code")]
pub fn write_file(path: &Path, exposition: &str) -> io::Result<()> {
    // Links are followed, so that what they lead to is replaced. The collector takes files that
    // end with `.prom` only.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let old = fs::metadata(&path).ok();
    if old.as_ref().is_some_and(|old| !old.is_file()) {
        // A pipe or a device, which others hold on to, is not replaced.
        let mut file = File::options().write(true).open(path)?;
        return file.write_all(exposition.as_bytes());
    }
    let mut name = path.clone().into_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let new = Path::new(&name);
    // What a process of this number left behind, or somebody put there.
    let _ = fs::remove_file(new);
    let written = File::create_new(new).and_then(|mut file| {
        if let Some(old) = old {
            file.set_permissions(old.permissions())?;
        }
        file.write_all(exposition.as_bytes())?;
        fs::rename(new, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(new);
    }
    written
}

/// One series for each profile and model.
fn merge(totals: Vec<Total>) -> Vec<Total> {
    let mut merged: Vec<Total> = Vec::new();
    for mut total in totals {
        let is_known = |known: &Total| known.profile == total.profile && known.model == total.model;
        if !merged.iter().any(is_known) && merged.len() >= SERIES {
            "other".clone_into(&mut total.profile);
            "other".clone_into(&mut total.model);
        }
        let is_same =
            |known: &&mut Total| known.profile == total.profile && known.model == total.model;
        match merged.iter_mut().find(is_same) {
            Some(known) => add(known, &total),
            None => merged.push(total),
        }
    }
    merged
}

fn add(to: &mut Total, from: &Total) {
    to.requests += from.requests;
    to.retries += from.retries;
    to.cost += from.cost;
    to.unpriced += from.unpriced;
    to.hits += from.hits;
    to.latency += from.latency;
    to.in_flight += from.in_flight;
    for (to, from) in to.tokens.iter_mut().zip(from.tokens) {
        *to += from;
    }
    for (to, from) in to.buckets.iter_mut().zip(from.buckets) {
        *to += from;
    }
    for (kind, count) in &from.failures {
        *to.failures.entry(kind.clone()).or_default() += count;
    }
}

#[derive(Debug)]
struct Totals(Vec<Total>);

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Totals {
    fn counter<V: EncodeCounterValue>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: impl Fn(&Total) -> V,
    ) -> fmt::Result {
        let series = self.0.iter().map(|total| (labels(total), value(total)));
        counters(encoder, name, help, series)
    }
}

impl Collector for Totals {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        self.counter(
            encoder,
            "gpt_requests",
            "Requests that were sent, each attempt counted",
            |total| total.requests,
        )?;
        let mut metric = encoder.encode_descriptor(
            "gpt_response_time_seconds",
            "Time from the beginning of a request to the end of its whole reply",
            None,
            MetricType::Histogram,
        )?;
        for total in &self.0 {
            let count = total.buckets.iter().sum();
            let bounds = BOUNDS.iter().map(|bound| seconds(bound.cast_unsigned()));
            let buckets: Vec<(f64, u64)> =
                bounds.chain([f64::INFINITY]).zip(total.buckets).collect();
            let labels = labels(total);
            let mut metric: MetricEncoder<'_> = metric.encode_family(&labels)?;
            metric.encode_histogram::<Labels<'_>>(seconds(total.latency), count, &buckets, None)?;
        }
        self.counter(
            encoder,
            "gpt_cache_hits",
            "Replies that were remembered and not asked for",
            |total| total.hits,
        )?;
        self.counter(
            encoder,
            "gpt_retries",
            "Requests that were attempts after the first",
            |total| total.retries,
        )?;
        let kinds = self.0.iter().flat_map(|total| {
            let kinds: BTreeMap<&str, u64> = total
                .failures
                .iter()
                .map(|(kind, count)| (kind.as_str(), *count))
                .collect();
            kinds.into_iter().map(|(kind, count)| {
                let mut labels = labels(total);
                labels.push(("kind", kind));
                (labels, count)
            })
        });
        counters(
            encoder,
            "gpt_errors",
            "Attempts that brought no whole reply, by what went wrong",
            kinds,
        )?;
        let tokens = self.0.iter().flat_map(|total| {
            let types = ["input", "output", "cached_input"];
            types.into_iter().zip(total.tokens).map(|(kind, count)| {
                let mut labels = labels(total);
                labels.push(("type", kind));
                (labels, count)
            })
        });
        counters(
            encoder,
            "gpt_tokens",
            "Tokens as the servers counted them; cached_input is part of input",
            tokens,
        )?;
        #[expect(clippy::cast_precision_loss, reason = "far below where that matters")]
        self.counter(
            encoder,
            "gpt_cost_usd",
            "US dollars, for replies whose price is known",
            |total| total.cost as f64 / 1e9,
        )?;
        self.counter(
            encoder,
            "gpt_unpriced_replies",
            "Replies whose cost is not known",
            |total| total.unpriced,
        )?;
        let mut metric = encoder.encode_descriptor(
            "gpt_requests_in_flight",
            "Requests of all processes that are not over",
            None,
            MetricType::Gauge,
        )?;
        for total in &self.0 {
            let labels = labels(total);
            metric
                .encode_family(&labels)?
                .encode_gauge(&total.in_flight)?;
        }
        Ok(())
    }
}

fn labels(total: &Total) -> Labels<'_> {
    vec![("profile", &total.profile), ("model", &total.model)]
}

fn counters<'a, V: EncodeCounterValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl Iterator<Item = (Labels<'a>, V)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in series {
        let none: Option<&Exemplar<Labels<'a>, f64>> = None;
        metric
            .encode_family(&labels)?
            .encode_counter(&value, none)?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far below where that matters")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(model: &str) -> Total {
        let mut buckets = [0; BOUNDS.len() + 1];
        (buckets[0], buckets[4], buckets[BOUNDS.len()]) = (2, 3, 1);
        Total {
            profile: "openai".to_owned(),
            model: model.to_owned(),
            requests: 9,
            tokens: [100, 20, 60],
            cost: 1_500_000_000,
            latency: 403_500_000,
            buckets,
            failures: BTreeMap::from([("rate_limit".to_owned(), 3)]),
            in_flight: 2,
            ..Total::default()
        }
    }

    #[test]
    fn names_types_and_values_are_those_of_the_text_format() {
        let out = exposition(vec![total("a"), total("a")], Format::Text);
        for line in [
            "# TYPE gpt_requests_total counter",
            "gpt_requests_total{profile=\"openai\",model=\"a\"} 18",
            "# TYPE gpt_response_time_seconds histogram",
            "gpt_response_time_seconds_bucket{profile=\"openai\",model=\"a\",le=\"0.05\"} 4",
            "gpt_response_time_seconds_bucket{profile=\"openai\",model=\"a\",le=\"1\"} 10",
            "gpt_response_time_seconds_bucket{profile=\"openai\",model=\"a\",le=\"+Inf\"} 12",
            "gpt_response_time_seconds_sum{profile=\"openai\",model=\"a\"} 807.0",
            "gpt_response_time_seconds_count{profile=\"openai\",model=\"a\"} 12",
            "gpt_errors_total{profile=\"openai\",model=\"a\",kind=\"rate_limit\"} 6",
            "gpt_tokens_total{profile=\"openai\",model=\"a\",type=\"cached_input\"} 120",
            "gpt_cost_usd_total{profile=\"openai\",model=\"a\"} 3.0",
            "# TYPE gpt_requests_in_flight gauge",
            "gpt_requests_in_flight{profile=\"openai\",model=\"a\"} 4",
        ] {
            assert!(
                out.lines().any(|found| found == line),
                "{line} is missing:\n{out}"
            );
        }
        assert!(out.ends_with('\n') && !out.contains("# EOF"));
        let open = exposition(vec![total("a")], Format::OpenMetrics);
        assert!(open.ends_with("# EOF\n"), "{open}");
        assert!(open.contains("# TYPE gpt_requests counter\n"), "{open}");
    }

    #[test]
    fn labels_are_escaped_and_few() {
        let odd = exposition(vec![total("a\"b\\c\nd")], Format::Text);
        assert!(odd.contains("model=\"a\\\"b\\\\c\\nd\""), "{odd}");
        let many: Vec<Total> = (0..200).map(|n| total(&n.to_string())).collect();
        let out = exposition(many, Format::Text);
        let series = out
            .lines()
            .filter(|line| line.starts_with("gpt_requests_total{"));
        assert_eq!(series.count(), SERIES + 1);
        let rest = "gpt_requests_total{profile=\"other\",model=\"other\"} 1350\n";
        assert!(out.contains(rest), "{out}");
    }
}
