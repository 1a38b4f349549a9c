//! `gptpipe login`: from what was typed to the command.

use crate::cli::args::Cli;
use crate::command::login;
use crate::error::{Error, ExitStatus};
use crate::interrupt;
use crate::run::filter::config_file;
use crate::run::{keys, runtime};

/// Logs in, or gives the login back.
pub(super) fn login(cli: &Cli) -> Result<ExitStatus, Error> {
    let provider = keys::provider(cli, &config_file()?)?;
    let name = &provider.profile.name;
    let session = provider.session.ok_or_else(|| {
        Error::usage_hint(
            format!("the profile `{name}` has no OAuth settings"),
            format!(
                "they stand below `[profiles.{name}.oauth]` in the configuration file; for a key there is \
                 `gptpipe setup`"
            ),
        )
    })?;
    let work = async {
        if cli.revoke {
            login::revoke(&session).await
        } else {
            login::log_in(&session).await
        }
    };
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        tokio::select! {
            biased;
            signal = interrupt::signal() => Err(Error::Interrupted {
                signal,
                written: "the login is as it was before".to_owned(),
                is_remembered: false,
            }),
            result = work => result,
        }
    });
    runtime.shutdown_background();
    result.map(|()| ExitStatus::Success)
}
