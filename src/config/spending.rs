//! What is recorded of requests, what they cost, and how much they may.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::cli::args::{Cli, parse_duration};
use crate::config::paths;
use crate::report::log::LedgerPlace;
use crate::report::price::Price;
use crate::store::budget::Budgets;

/// How long a request is remembered, where nobody says otherwise.
const RETENTION: Duration = Duration::from_hours(90 * 24);

/// Whether there is a ledger, and how long it keeps its rows: `ledger = false`, or a table.
#[derive(Debug, Default)]
pub struct LedgerTable {
    enabled: Option<bool>,
    retention: Option<Duration>,
}

impl<'de> Deserialize<'de> for LedgerTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = LedgerTable;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`false`, or a table with `enabled` and `retention`")
            }

            fn visit_bool<E: de::Error>(self, enabled: bool) -> Result<LedgerTable, E> {
                Ok(LedgerTable {
                    enabled: Some(enabled),
                    retention: None,
                })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<LedgerTable, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Table {
                    enabled: Option<bool>,
                    #[serde(default, deserialize_with = "time")]
                    retention: Option<Duration>,
                }
                let table = Table::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(LedgerTable {
                    enabled: table.enabled,
                    retention: table.retention,
                })
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// What a model costs by the user's word, in US dollars for a million tokens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PriceTable {
    #[serde(deserialize_with = "money")]
    input: f64,
    #[serde(default, deserialize_with = "some_money")]
    cached_input: Option<f64>,
    #[serde(deserialize_with = "money")]
    output: f64,
    max_output: Option<u32>,
}

/// What all processes of the user may spend, in US dollars.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BudgetTable {
    #[serde(default, deserialize_with = "some_money")]
    day: Option<f64>,
    #[serde(default, deserialize_with = "some_money")]
    month: Option<f64>,
}

impl BudgetTable {
    fn budgets(&self) -> Budgets {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a float is cut at the bounds"
        )]
        let billionths = |dollars: Option<f64>| dollars.map(|dollars| (dollars * 1e9) as i64);
        Budgets {
            day: billionths(self.day),
            month: billionths(self.month),
        }
    }
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map(Some).map_err(de::Error::custom)
}

/// A sum of US dollars, which is never less than nothing.
fn money<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let dollars = f64::deserialize(deserializer)?;
    if dollars.is_finite() && dollars >= 0.0 {
        Ok(dollars)
    } else {
        Err(de::Error::custom("takes US dollars from 0"))
    }
}

fn some_money<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    money(deserializer).map(Some)
}

/// What is recorded, what is paid, and the bounds of it.
#[derive(Debug)]
pub struct Spending {
    /// Where requests are recorded; none where they are not.
    pub ledger: Option<LedgerPlace>,
    /// The file for a line of JSON for each request.
    pub log: Option<PathBuf>,
    /// The file for the totals, for Prometheus.
    pub metrics: Option<PathBuf>,
    /// What the run may cost, in billionths of a US dollar.
    pub max_cost: Option<i64>,
    /// How many tokens it may use.
    pub max_tokens: Option<u64>,
    /// What all processes of the user may spend.
    pub budgets: Budgets,
    /// What the model costs, where that is known.
    pub price: Option<Price>,
}

/// The ledger, where it is on and the user has a home.
#[must_use]
pub fn ledger(table: &LedgerTable) -> Option<LedgerPlace> {
    if table.enabled == Some(false) {
        return None;
    }
    ledger_place(table)
}

/// The ledger's place, also where nothing is recorded any more: what was stays there.
#[must_use]
pub fn ledger_place(table: &LedgerTable) -> Option<LedgerPlace> {
    Some(LedgerPlace {
        file: paths::ledger_file()?,
        journals: paths::journal_folder()?,
        retention: table.retention.unwrap_or(RETENTION),
    })
}

/// What a model costs: by the user's word, or by the table that is built in.
#[must_use]
pub fn price(prices: &BTreeMap<String, PriceTable>, model: &str) -> Option<Price> {
    let own = prices.get(model).map(|table| Price {
        input: table.input,
        cached_input: table.cached_input,
        output: table.output,
        max_output: table.max_output,
        ..Price::default()
    });
    own.or_else(|| Price::built_in(model))
}

/// Settles all of it but the price.
#[must_use]
pub fn settle(cli: &Cli, table: &LedgerTable, budget: &BudgetTable) -> Spending {
    Spending {
        ledger: ledger(table),
        log: cli.log.as_ref().map(PathBuf::from),
        metrics: cli.metrics.as_ref().map(PathBuf::from),
        max_cost: cli.max_cost,
        max_tokens: cli.max_tokens,
        budgets: budget.budgets(),
        price: None,
    }
}
