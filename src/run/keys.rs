//! `gptpipe setup` and `gptpipe key`: from what was typed to the commands.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::api::address::is_exposed;
use crate::cli::args::Cli;
use crate::cli::argv::KeyAction;
use crate::command::key;
use crate::command::setup::{self, Done, SetupOptions};
use crate::config::file::File;
use crate::config::provider::{self, Provider};
use crate::config::{paths, profile, spending};
use crate::error::{Error, ExitStatus};
use crate::report::log::LedgerPlace;
use crate::report::message;
use crate::run::filter::{config_file, environment};
use crate::run::parts::{base_url, client};
use crate::run::{print, runtime};
use crate::secret::source::{Key, Origin, VARIABLE};

/// How old a key may become, where the file says nothing else.
const MAX_AGE: Duration = Duration::from_hours(90 * 24);

/// `gptpipe setup`.
pub(super) fn setup(cli: &Cli) -> Result<ExitStatus, Error> {
    let file = config_file()?;
    let is_checked = !cli.no_check;
    let provider = provider(cli, &file)?;
    let url = base_url(&provider.profile)?;
    if is_exposed(&url) && !provider.profile.allows_http {
        return Err(Error::usage_hint(
            format!("the key would travel unencrypted to {}", provider.host()),
            "use https://, or set `allow-http = true` in the profile",
        ));
    }
    let options = SetupOptions {
        profile: provider.profile.name.clone(),
        host: provider.host(),
        is_foreign: provider.profile.is_foreign,
        client: is_checked
            .then(|| client(&provider, url, provider.profile.api, Arc::default()))
            .transpose()?,
        keys: provider.keys(),
        models: paths::models_folder(),
    };
    finish(runtime()?.block_on(setup::setup(options))?, cli.quiet)
}

/// `gptpipe key`.
pub(super) fn key(cli: &Cli, action: KeyAction) -> Result<ExitStatus, Error> {
    if action == KeyAction::Rotate {
        return setup(cli);
    }
    let file = config_file()?;
    let max_age = file.key.max_age.unwrap_or(MAX_AGE);
    if action == KeyAction::List {
        let profiles = profile::names(&file.profiles);
        let given = given(&profiles, &file)?;
        let uses = uses(&file);
        let list = key::list(profiles, given, max_age, &uses);
        return finish(runtime()?.block_on(list)?, cli.quiet);
    }
    let provider = provider(cli, &file)?;
    let (name, host, keys) = (&provider.profile.name, provider.host(), provider.keys());
    let done = runtime()?.block_on(async {
        match action {
            KeyAction::Remove => key::remove(name, &keys).await,
            _ => key::show(name, &host, &keys, max_age, &uses(&file)).await,
        }
    });
    finish(done?, cli.quiet)
}

pub(super) fn provider(cli: &Cli, file: &File) -> Result<Provider, Error> {
    let (profile, base_url) = (cli.profile.clone(), cli.base_url.clone());
    provider::resolve(profile, base_url, &environment, file)
}

/// The profiles whose key is there already; the key for any host stands for none of them.
fn given(profiles: &[String], file: &File) -> Result<Vec<(String, Key)>, Error> {
    let mut given = Vec::new();
    let environment = |name: &str| match name {
        VARIABLE | "GPTPIPE_BASE_URL" => None,
        name => environment(name),
    };
    for name in profiles {
        let provider = provider::resolve(Some(name.clone()), None, &environment, file)?;
        let is_own = |key: &Key| match &key.origin {
            Origin::Variable(variable) => Some(variable) == provider.profile.key_env.as_ref(),
            Origin::Credential(credential) => credential.ends_with(&format!(".{name}")),
            _ => false,
        };
        given.extend(provider.given.filter(is_own).map(|key| (name.clone(), key)));
    }
    Ok(given)
}

/// When keys were last used, as far as the ledger tells; it is not made for that.
fn uses(file: &File) -> key::Uses {
    let place = spending::ledger_place(&file.ledger);
    let Some(place) = place.filter(LedgerPlace::is_begun) else {
        return key::Uses::new();
    };
    let uses = place
        .open_current()
        .and_then(|(ledger, _)| ledger.last_uses());
    match uses {
        Ok(uses) => uses
            .into_iter()
            .map(|(key, time)| {
                (
                    key,
                    UNIX_EPOCH + Duration::from_micros(time.max(0).cast_unsigned()),
                )
            })
            .collect(),
        Err(words) => {
            message::warning(&words);
            key::Uses::new()
        }
    }
}

fn finish(done: Done, is_quiet: bool) -> Result<ExitStatus, Error> {
    let status = print(&done.text)?;
    if !is_quiet {
        for warning in done.warnings {
            message::warning(&warning);
        }
    }
    Ok(status)
}
