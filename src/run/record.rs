//! The record of a run: what it is called there, and what its requests cost.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use crate::api::client::Client;
use crate::api::request::BOUNDS;
use crate::command::metrics;
use crate::config::paths;
use crate::config::profile::BATCH;
use crate::config::settings::Config;
use crate::error::Error;
use crate::limit::budget::{Budget, BudgetOptions};
use crate::pipeline::tariff::Tariff;
use crate::report::log::Book;
use crate::report::message::Messages;
use crate::report::price::Price;
use crate::secret::redact::{Words, redact};
use crate::store::budget::Budgets;
use crate::store::journal::Run;
use crate::store::ledger::now;

/// What bounds the run's spending, and what it is reckoned by.
///
/// # Errors
/// [`Error::Usage`] for a bound on what has no known price.
pub(super) fn budget(config: &Config, is_demo: bool) -> Result<(Budget, Tariff), Error> {
    let spending = &config.spending;
    // The demo costs nothing.
    let budgets = if is_demo {
        Budgets::default()
    } else {
        spending.budgets
    };
    let price = if is_demo {
        Some(Price::default())
    } else {
        spending.price.clone()
    };
    let is_bounded = spending.max_cost.is_some() || budgets != Budgets::default();
    if is_bounded && price.is_none() && !config.cache.is_only {
        let what = if spending.max_cost.is_some() {
            "--max-cost"
        } else {
            "[budget]"
        };
        let model = &config.model;
        return Err(Error::usage_hint(
            format!("`{what}` cannot be kept: there is no price for the model `{model}`"),
            format!(
                "say in the configuration file what a million tokens cost, as in \
                 `prices.\"{model}\" = {{ input = 0.10, output = 0.50 }}`"
            ),
        ));
    }
    let place = ledger_paths();
    let budget = Budget::new(BudgetOptions {
        max_cost: spending.max_cost,
        max_tokens: spending.max_tokens,
        shared: budgets,
        place,
    });
    // Given as an option, or else as a field that bounds it.
    let field = config
        .params
        .iter()
        .rev()
        .find(|param| BOUNDS.contains(&param.name.as_str()))
        .and_then(|param| param.json.parse().ok());
    let tariff = Tariff {
        price,
        max_output: config.max_output_tokens.map(NonZeroU32::get).or(field),
        ..Tariff::default()
    };
    Ok((budget, tariff))
}

/// What requests cost that may go by batch.
pub(super) fn by_batch(config: &Config, tariff: &Tariff) -> Tariff {
    let mut tariff = tariff.clone();
    if config.batch.is_some() && BATCH.contains(&config.provider.profile.name.as_str()) {
        tariff.price = tariff.price.map(|price| price.by_batch());
    }
    tariff
}

fn ledger_paths() -> Option<(PathBuf, PathBuf)> {
    Some((paths::ledger_file()?, paths::journal_folder()?))
}

/// Puts the totals, those of this run among them, into the file that the user named.
pub(super) fn write_metrics(config: &Config, messages: &Messages) {
    let spending = &config.spending;
    if let (Some(file), Some(place)) = (&spending.metrics, &spending.ledger)
        && let Err(words) = metrics::replace(file, place)
    {
        messages.warning(&words);
    }
}

/// Opens the record of what is submitted in batches, at a price of its own.
pub(super) fn open_batch_book(
    config: &Config,
    client: &Client,
    price: Option<Price>,
) -> Result<Book, Error> {
    let spending = &config.spending;
    let run = run(config, client);
    Book::open(run, price, spending.ledger.clone(), spending.log.as_deref())
}

fn run(config: &Config, client: &Client) -> Run {
    Run {
        name: format!("{:016x}", fastrand::u64(..)),
        time: now(),
        host: client.host(),
        profile: config.provider.profile.name.clone(),
        // A key that was typed in its place is not kept.
        model: redact(&config.model, Words::Own),
        // Which key it is is known only once one is needed.
        key: None,
        is_counted: config.spending.budgets != Budgets::default(),
    }
}

/// Opens the record.
pub(super) fn open_book(config: &Config, client: &Client, is_demo: bool) -> Result<Book, Error> {
    let spending = &config.spending;
    if spending.metrics.is_some() && spending.ledger.is_none() {
        return Err(Error::usage_hint(
            "`--metrics` has nothing to tell: there is no record of requests",
            "leave out `--metrics`, or `ledger = false` in the configuration file",
        ));
    }
    let folder = spending.metrics.as_deref().and_then(Path::parent);
    if let Some(folder) = folder.filter(|folder| *folder != Path::new("") && !folder.is_dir()) {
        let folder = folder.display();
        return Err(Error::usage(format!(
            "`--metrics`: there is no folder `{folder}`"
        )));
    }
    let mut run = run(config, client);
    let mut price = spending.price.clone();
    if is_demo {
        // It is on another port each time, and costs nothing.
        for name in [&mut run.host, &mut run.profile, &mut run.model] {
            "demo".clone_into(name);
        }
        price = Some(Price::default());
    }
    Book::open(run, price, spending.ledger.clone(), spending.log.as_deref())
}
