//! `gptpipe setup`: a key goes from its user into the system's keyring.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::api::check::Checked;
use crate::api::client::Client;
use crate::api::failure::{Failure, Kind, Verdict};
use crate::command::table::{age, lines};
use crate::error::{Error, ExitStatus, reason};
use crate::secret::keyring::{self, KeyringError, SERVICE};
use crate::secret::secret::Secret;
use crate::secret::source::{Key, Keys};
use crate::store::models::store_models;

/// The most that is read of a pipe, in bytes.
const LONGEST: u64 = 64 * 1024;

/// What to store, and for whom.
#[derive(Debug)]
pub struct SetupOptions {
    /// The profile's name.
    pub profile: String,
    /// The host that the key is for, with its port where that is not the usual one.
    pub host: String,
    /// Whether that is another than the profile's own.
    pub is_foreign: bool,
    /// Who asks the server about the key; `None` leaves that out.
    pub client: Option<Client>,
    /// What comes before the keyring, if there is anything.
    pub keys: Arc<Keys>,
    /// The folder that keeps the names of the server's models.
    pub models: Option<PathBuf>,
}

/// What was done, and what to tell besides.
#[derive(Debug)]
pub struct Done {
    /// Lines of a name and a value.
    pub text: String,
    /// What is not as the user may think.
    pub warnings: Vec<String>,
}

/// Asks for a key, has it checked, and stores it.
///
/// # Errors
/// When there is no keyring, no key, or the server refuses it; nothing is stored then.
pub async fn setup(options: SetupOptions) -> Result<Done, Error> {
    let SetupOptions {
        profile,
        host,
        is_foreign,
        client,
        keys,
        models,
    } = options;
    if is_foreign {
        return Err(Error::usage_hint(
            format!(
                "{host} is not the host of the profile `{profile}`, and a stored key is for its profile's host"
            ),
            "write a profile with this `base-url` into the configuration file, and name it with -P",
        ));
    }
    // What is wrong with the keyring is told before anybody has typed a key.
    let before = match keyring::read(&profile).await {
        // They are replaced by one.
        Err(KeyringError::Ambiguous(_)) => None,
        before => before?,
    };
    let secret = read(&profile, &host)?;
    let checked = match &client {
        Some(client) => client
            .check(&secret)
            .await
            .map(Some)
            .map_err(|failure| refused(&failure))?,
        None => None,
    };
    let count = keyring::write_for(&profile, &secret, &host).await?;
    let checked = match checked {
        Some(Checked::Models(names)) => {
            // For completions only, so a disk that is full is no reason to stop.
            if let Some(folder) = &models {
                let _ = store_models(folder, &profile, &names);
            }
            match names.len() {
                1 => format!("{host} takes it and has 1 model"),
                count => format!("{host} takes it and has {count} models"),
            }
        }
        Some(Checked::Unknown) => format!("no: {host} has no list of models"),
        None => "no".to_owned(),
    };
    let is_same = before
        .as_ref()
        .is_some_and(|before| before.secret.expose() == secret.expose());
    let replaced = match (count, &before) {
        (0, _) => "nothing".to_owned(),
        (_, _) if is_same => "the same key".to_owned(),
        (1, Some(before)) => {
            let old = before
                .since
                .map_or_else(|| "of unknown age".to_owned(), |since| age(Some(since)));
            format!("{}, {old}", before.secret.fingerprint())
        }
        (1, None) => "an empty entry".to_owned(),
        (count, _) => format!("{count} entries"),
    };
    let text = lines(&[
        ("profile", profile.clone()),
        ("host", host),
        (
            "stored",
            format!("the keyring (service {SERVICE}, username {profile})"),
        ),
        ("fingerprint", secret.fingerprint()),
        ("checked", checked),
        ("replaced", replaced),
    ]);
    let mut warnings = Vec::new();
    if let Some(Key { origin, .. }) = keys.first() {
        warnings.push(format!(
            "{origin} comes before the keyring, and is what will be used"
        ));
    }
    Ok(Done { text, warnings })
}

/// Reads the key: hidden from a terminal, or all of a pipe.
fn read(profile: &str, host: &str) -> Result<Secret, Error> {
    let text = if io::stdin().is_terminal() {
        rpassword::prompt_password(format!(
            "Key of the profile {profile} for {host} (not shown): "
        ))
        .map(Zeroizing::new)
    } else {
        let mut text = Zeroizing::new(String::new());
        io::stdin()
            .take(LONGEST)
            .read_to_string(&mut text)
            .map(|_| text)
    };
    let mut text =
        text.map_err(|error| Error::usage(format!("the key cannot be read: {}", reason(&error))))?;
    let secret = Secret::new(std::mem::take(&mut *text)).ok_or_else(|| {
        Error::usage_hint(
            "there is no key to store",
            "type or paste it, or pipe it in, as in `pass show openai | gptpipe setup`",
        )
    })?;
    if secret
        .expose()
        .chars()
        .any(|c| c.is_control() || c.is_whitespace())
    {
        return Err(Error::usage_hint(
            "what was given has line ends or blanks in it, and a key has none",
            "give the key alone",
        ));
    }
    Ok(secret)
}

fn refused(failure: &Failure) -> Error {
    let (status, hint) = match failure.verdict() {
        Verdict::Transient => (
            ExitStatus::Temporary,
            "try again, or store it unchecked with --no-check",
        ),
        Verdict::Fatal | Verdict::FatalForAll => {
            (ExitStatus::Hopeless, "`--no-check` stores a key unchecked")
        }
    };
    let hint = match failure.kind {
        Kind::Auth => "is it the whole key, and one for this server?",
        _ => hint,
    };
    Error::Request {
        status,
        message: format!("the key was not stored: {failure}"),
        hint: Some(hint.to_owned()),
    }
}
