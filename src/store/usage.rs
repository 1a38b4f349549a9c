//! What the ledger has to tell: usage in groups, totals for metrics, and each
//! request for the audit.

use std::collections::BTreeMap;

use rusqlite::Row;

use crate::store::ledger::{BOUNDS, Ledger};

/// What requests are put together by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// The model that was asked for.
    #[default]
    Model,
    /// The day, in UTC.
    Day,
    /// The profile.
    Profile,
    /// Host and port.
    Host,
}

impl By {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Day => "day",
            Self::Profile => "profile",
            Self::Host => "host",
        }
    }

    fn column(self, table: &str) -> String {
        match self {
            Self::Model => "source.model".to_owned(),
            Self::Profile => "source.profile".to_owned(),
            Self::Host => "source.host".to_owned(),
            Self::Day => format!("date({table}.time / 1000000, 'unixepoch')"),
        }
    }
}

/// What a group of requests came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// What they have in common.
    pub name: String,
    /// Requests that were sent.
    pub requests: u64,
    /// Of these, the further attempts.
    pub retries: u64,
    /// Attempts that brought no whole reply.
    pub errors: u64,
    /// Those that are not over.
    pub in_flight: u64,
    /// Replies that were remembered.
    pub hits: u64,
    /// Tokens of the prompts.
    pub tokens_in: u64,
    /// Those of them that came out of the server's cache.
    pub tokens_cached: u64,
    /// Tokens of the replies.
    pub tokens_out: u64,
    /// Billionths of a US dollar, as far as they are known.
    pub cost: i64,
    /// Replies whose cost is not known.
    pub unpriced: u64,
    /// What the remembered replies would have cost, likewise.
    pub saved: i64,
    /// Remembered replies of which that is not known.
    pub unsaved: u64,
    /// Microseconds in which 50, 95 and 99 of 100 replies had come.
    pub latency: Option<[i64; 3]>,
}

/// What there was from one source since the ledger began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Total {
    /// The profile.
    pub profile: String,
    /// The model.
    pub model: String,
    /// Requests that were sent.
    pub requests: u64,
    /// Of these, the further attempts.
    pub retries: u64,
    /// Tokens of prompts, of replies, and those of prompts that came out of the server's cache.
    pub tokens: [u64; 3],
    /// Billionths of a US dollar.
    pub cost: u64,
    /// Replies whose cost is not known.
    pub unpriced: u64,
    /// Replies that were remembered.
    pub hits: u64,
    /// The response times together, in microseconds.
    pub latency: u64,
    /// How many replies came within each of [`BOUNDS`] and not within the one before; the last are
    /// those that took longer.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// What went wrong, and how often.
    pub failures: BTreeMap<String, u64>,
    /// Requests that are not over.
    pub in_flight: u64,
}

/// One request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Microseconds since 1970.
    pub time: i64,
    /// The run.
    pub run: String,
    /// Host and port.
    pub host: String,
    /// The profile.
    pub profile: String,
    /// The model.
    pub model: String,
    /// The key's fingerprint.
    pub key: Option<String>,
    /// The beginning of the chunk's digest.
    pub chunk: String,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Whether it left.
    pub is_sent: bool,
    /// How it ended; none if it is in flight.
    pub outcome: Option<String>,
    /// The HTTP status.
    pub status: Option<u16>,
    /// Tokens of the prompt.
    pub tokens_in: Option<i64>,
    /// Tokens of the reply.
    pub tokens_out: Option<i64>,
    /// Those of the prompt that came out of the server's cache.
    pub tokens_cached: Option<i64>,
    /// Billionths of a US dollar.
    pub cost: Option<i64>,
    /// Microseconds.
    pub latency: Option<i64>,
    /// The server's name for the request.
    pub request_id: Option<String>,
}

impl Ledger {
    /// What was used since a time, in microseconds since 1970; groups in the order of their names.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn usage(&self, by: By, since: i64) -> Result<Vec<Usage>, String> {
        self.read_usage(by, since)
            .map_err(|error| self.words(error))
    }

    fn read_usage(&self, by: By, since: i64) -> rusqlite::Result<Vec<Usage>> {
        let mut groups: BTreeMap<String, Usage> = BTreeMap::new();
        let mut statement = self.connection.prepare(&format!(
            "SELECT {}, sum(is_sent), sum(is_sent AND attempt > 1),
                count(*) FILTER (WHERE outcome <> 'ok'), count(*) FILTER (WHERE outcome IS NULL),
                total(tokens_in), total(tokens_cached), total(tokens_out), total(cost),
                count(*) FILTER (WHERE outcome = 'ok' AND cost IS NULL)
             FROM request JOIN run ON run.id = request.run JOIN source ON source.id = run.source
             WHERE request.time >= ?1 GROUP BY 1",
            by.column("request")
        ))?;
        let mut rows = statement.query([since])?;
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            let usage = Usage {
                name: name.clone(),
                requests: count(row, 1)?,
                retries: count(row, 2)?,
                errors: count(row, 3)?,
                in_flight: count(row, 4)?,
                tokens_in: sum(row, 5)?.cast_unsigned(),
                tokens_cached: sum(row, 6)?.cast_unsigned(),
                tokens_out: sum(row, 7)?.cast_unsigned(),
                cost: sum(row, 8)?,
                unpriced: count(row, 9)?,
                ..Usage::default()
            };
            groups.insert(name, usage);
        }
        let mut statement = self.connection.prepare(&format!(
            "SELECT {}, sum(hits), total(saved), sum(iif(saved IS NULL, hits, 0))
             FROM run JOIN source ON source.id = run.source
             WHERE run.time >= ?1 AND hits > 0 GROUP BY 1",
            by.column("run")
        ))?;
        let mut rows = statement.query([since])?;
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            let usage = groups.entry(name.clone()).or_default();
            usage.name = name;
            usage.hits = count(row, 1)?;
            usage.saved = sum(row, 2)?;
            usage.unsaved = count(row, 3)?;
        }
        let mut statement = self.connection.prepare(&format!(
            "SELECT {}, latency
             FROM request JOIN run ON run.id = request.run JOIN source ON source.id = run.source
             WHERE request.time >= ?1 AND outcome = 'ok'",
            by.column("request")
        ))?;
        let mut rows = statement.query([since])?;
        let mut latencies: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let name = row.get_ref(0)?.as_str()?;
            let latency = row.get(1)?;
            match latencies.get_mut(name) {
                Some(all) => all.push(latency),
                None => drop(latencies.insert(name.to_owned(), vec![latency])),
            }
        }
        for (name, all) in latencies {
            if let Some(usage) = groups.get_mut(&name) {
                usage.latency = percentiles(all);
            }
        }
        Ok(groups.into_values().collect())
    }

    /// When each key was last used, in microseconds since 1970, by its fingerprint.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn last_uses(&self) -> Result<BTreeMap<String, i64>, String> {
        self.read_last_uses().map_err(|error| self.words(error))
    }

    fn read_last_uses(&self) -> rusqlite::Result<BTreeMap<String, i64>> {
        let mut statement = self.connection.prepare(
            "SELECT key, max(request.time) FROM run JOIN request ON request.run = run.id
             WHERE key IS NOT NULL AND is_sent GROUP BY key",
        )?;
        let uses = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        uses.collect()
    }

    /// The totals of every source, in the order in which they came.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn totals(&self) -> Result<Vec<Total>, String> {
        self.read_totals().map_err(|error| self.words(error))
    }

    fn read_totals(&self) -> rusqlite::Result<Vec<Total>> {
        // One moment for all of it.
        let transaction = self.connection.unchecked_transaction()?;
        let mut totals: BTreeMap<i64, Total> = BTreeMap::new();
        let mut statement = transaction.prepare(
            "SELECT source.id, profile, model, requests, retries, tokens_in, tokens_out,
                tokens_cached, cost, unpriced, hits, latency
             FROM total JOIN source ON source.id = total.source",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let total = Total {
                profile: row.get(1)?,
                model: row.get(2)?,
                requests: count(row, 3)?,
                retries: count(row, 4)?,
                tokens: [count(row, 5)?, count(row, 6)?, count(row, 7)?],
                cost: count(row, 8)?,
                unpriced: count(row, 9)?,
                hits: count(row, 10)?,
                latency: count(row, 11)?,
                ..Total::default()
            };
            totals.insert(row.get(0)?, total);
        }
        let mut statement = transaction.prepare("SELECT source, kind, count FROM failure")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if let Some(total) = totals.get_mut(&row.get(0)?) {
                total.failures.insert(row.get(1)?, count(row, 2)?);
            }
        }
        let mut statement = transaction.prepare("SELECT source, bound, count FROM bucket")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let bound: i64 = row.get(1)?;
            if let Some(bucket) = totals.get_mut(&row.get(0)?).and_then(|total| {
                let bound = usize::try_from(bound).ok()?;
                total.buckets.get_mut(bound)
            }) {
                *bucket = count(row, 2)?;
            }
        }
        let mut statement = transaction.prepare(
            "SELECT run.source, count(*) FROM request JOIN run ON run.id = request.run
             WHERE outcome IS NULL AND is_sent GROUP BY 1",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if let Some(total) = totals.get_mut(&row.get(0)?) {
                total.in_flight = count(row, 1)?;
            }
        }
        Ok(totals.into_values().collect())
    }

    /// Hands out each request since a time, oldest first, until it is told to stop.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn audit(&self, since: i64, mut each: impl FnMut(&Record) -> bool) -> Result<(), String> {
        self.read_audit(since, &mut each)
            .map_err(|error| self.words(error))
    }

    fn read_audit(
        &self,
        since: i64,
        each: &mut dyn FnMut(&Record) -> bool,
    ) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare(
            "SELECT request.time, run.name, host, profile, model, key, chunk, attempt, is_sent,
                outcome, status, tokens_in, tokens_out, tokens_cached, cost, latency, request_id
             FROM request JOIN run ON run.id = request.run JOIN source ON source.id = run.source
             WHERE request.time >= ?1 ORDER BY request.time",
        )?;
        let mut rows = statement.query([since])?;
        while let Some(row) = rows.next()? {
            let record = Record {
                time: row.get(0)?,
                run: row.get(1)?,
                host: row.get(2)?,
                profile: row.get(3)?,
                model: row.get(4)?,
                key: row.get(5)?,
                chunk: row.get(6)?,
                attempt: row.get(7)?,
                is_sent: row.get(8)?,
                outcome: row.get(9)?,
                status: row.get(10)?,
                tokens_in: row.get(11)?,
                tokens_out: row.get(12)?,
                tokens_cached: row.get(13)?,
                cost: row.get(14)?,
                latency: row.get(15)?,
                request_id: row.get(16)?,
            };
            if !each(&record) {
                break;
            }
        }
        Ok(())
    }
}

fn count(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(at)
        .map(|count| count.max(0).cast_unsigned())
}

/// A sum that SQLite makes of floating-point numbers, because that of whole ones may overflow.
#[expect(clippy::cast_possible_truncation, reason = "sums are whole numbers")]
fn sum(row: &Row<'_>, at: usize) -> rusqlite::Result<i64> {
    row.get::<_, f64>(at).map(|sum| sum.round() as i64)
}

/// The nearest ranks.
fn percentiles(mut all: Vec<i64>) -> Option<[i64; 3]> {
    all.sort_unstable();
    let rank = |percent: usize| {
        let rank = (all.len() * percent).div_ceil(100).max(1) - 1;
        all.get(rank).copied()
    };
    Some([rank(50)?, rank(95)?, rank(99)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_ranks() {
        assert_eq!(percentiles(Vec::new()), None);
        assert_eq!(percentiles(vec![7]), Some([7, 7, 7]));
        assert_eq!(percentiles((1..=100).rev().collect()), Some([50, 95, 99]));
        assert_eq!(percentiles(vec![4, 1, 3, 2]), Some([2, 4, 4]));
    }
}
