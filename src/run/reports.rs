//! `gptpipe usage` and `gptpipe metrics`: the ledger, told.

use std::io::{self, BufWriter, IsTerminal as _};
use std::time::Duration;

use crate::cli::reports::{MetricsCli, UsageCli, UsageFormat};
use crate::command::metrics;
use crate::command::usage::{self, Style};
use crate::config::spending;
use crate::error::{Error, ExitStatus};
use crate::interrupt;
use crate::report::log::LedgerPlace;
use crate::report::message;
use crate::report::metrics::Format;
use crate::run::filter::config_file;
use crate::run::print;
use crate::store::ledger::now;

/// Tells what was used.
pub(super) fn usage(cli: &UsageCli) -> Result<ExitStatus, Error> {
    let (ledger, warning) = place()?.open_current().map_err(Error::usage)?;
    if let Some(warning) = warning {
        message::warning(&warning);
    }
    let since = cli.since.map_or(i64::MIN, |since| {
        now() - i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    });
    if cli.audit {
        usage::audit(&ledger, since, BufWriter::new(io::stdout().lock()))?;
        return Ok(ExitStatus::Success);
    }
    let style = match cli.format.unwrap_or_default() {
        UsageFormat::Jsonl => Style::Json,
        UsageFormat::Text if io::stdout().is_terminal() => Style::Terminal,
        UsageFormat::Text => Style::Plain,
    };
    let text = usage::usage(&ledger, cli.by.unwrap_or_default(), since, style)?;
    if text.is_empty() {
        message::warning("no requests are recorded for that time");
    }
    print(&text)
}

/// Prints or serves the totals.
pub(super) fn metrics(cli: &MetricsCli) -> Result<ExitStatus, Error> {
    let place = place()?;
    let Some(address) = cli.listen else {
        return print(&metrics::current(&place, Format::Text).map_err(Error::usage)?);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System {
            what: "start the runtime",
            source,
        })?;
    let ended = runtime.block_on(async {
        let ready = |address| message::note(&format!("metrics at http://{address}/metrics"));
        tokio::select! {
            biased;
            signal = interrupt::signal() => Ok(ExitStatus::Signal(signal)),
            failed = metrics::serve(place, address, ready) => match failed {
                Ok(()) => Ok(ExitStatus::Success),
                Err(error) => Err(Error::usage(format!(
                    "cannot listen at `{address}`: {}",
                    crate::error::reason(&error)
                ))),
            },
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
    ended
}

fn place() -> Result<LedgerPlace, Error> {
    spending::ledger_place(&config_file()?.ledger)
        .ok_or_else(|| Error::usage("there is no home folder, and so no record of requests"))
}
