//! `gptpipe batch`: from what was typed to the command.

use std::collections::BTreeMap;

use crate::api::client::Client;
use crate::api::event::Api;
use crate::cli::args::Cli;
use crate::cli::argv::BatchAction;
use crate::command::batch;
use crate::config::file::File;
use crate::config::paths;
use crate::config::provider;
use crate::error::{Error, ExitStatus};
use crate::report::message;
use crate::run::filter::{config_file, environment};
use crate::run::parts::{self, base_url};
use crate::run::{print, runtime};
use crate::store::batch::{Job, Jobs};

/// `gptpipe batch`.
pub(super) fn batch(cli: &Cli, action: BatchAction) -> Result<ExitStatus, Error> {
    let file = config_file()?;
    let record = match paths::batch_file() {
        Some(path) if path.exists() => {
            let (record, warning) = Jobs::open(&path).map_err(Error::usage)?;
            // Whoever comes next finds a record without a fault and without these batches.
            if let Some(warning) = warning.filter(|_| !cli.quiet) {
                message::warning(&warning);
            }
            Some(record)
        }
        _ => None,
    };
    match (action, record) {
        (BatchAction::List, None) => Ok(ExitStatus::Success),
        (BatchAction::List, Some(record)) => {
            refresh(cli, &file, &record)?;
            print(&batch::list(&record.all().map_err(Error::usage)?))
        }
        (BatchAction::Cancel(id), record) => {
            let known = match &record {
                Some(record) => record.of_batch(&id).map_err(Error::usage)?,
                None => None,
            };
            let is_known = known.is_some();
            let client = match known {
                Some(job) => client(Some(job.profile), Some(job.url), &file)?,
                None => client(cli.profile.clone(), cli.base_url.clone(), &file)?,
            };
            print(&runtime()?.block_on(batch::cancel(&client, &id, is_known))?)
        }
    }
}

/// Asks about the batches that are not over; who cannot be asked is no reason to tell nothing.
fn refresh(cli: &Cli, file: &File, record: &Jobs) -> Result<(), Error> {
    let mut open: BTreeMap<(String, String), Vec<Job>> = BTreeMap::new();
    for job in record.all().map_err(Error::usage)? {
        if !job.is_over {
            let whom = (job.profile.clone(), job.url.clone());
            open.entry(whom).or_default().push(job);
        }
    }
    let mut troubles = Vec::new();
    for ((profile, url), jobs) in open {
        match client(Some(profile), Some(url), file) {
            Ok(client) => {
                let refreshed = runtime()?.block_on(batch::refresh(&client, record, &jobs));
                troubles.extend(refreshed.map_err(Error::usage)?);
            }
            Err(error) => troubles.push(error.to_string()),
        }
    }
    for trouble in troubles.iter().filter(|_| !cli.quiet) {
        message::warning(trouble);
    }
    Ok(())
}

/// Asks the server of a profile, or another address with what the profile has for it.
fn client(profile: Option<String>, url: Option<String>, file: &File) -> Result<Client, Error> {
    // A record's address says which of its paths belongs to it.
    let path = url.as_deref().and_then(|url| url.split('?').next());
    let api = path.and_then(|path| {
        let is = |end: &str, api| path.ends_with(end).then_some(api);
        is("/responses", Api::Responses).or(is("/chat/completions", Api::Chat))
    });
    let provider = provider::resolve(profile, url, &environment, file)?;
    let base_url = base_url(&provider.profile)?;
    let api = api.unwrap_or(provider.profile.api);
    parts::client(&provider, base_url, api, provider.keys())
}
