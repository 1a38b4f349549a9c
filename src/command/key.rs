//! `gptpipe key`: where keys come from, how old they are, and how to be rid of them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::command::setup::Done;
use crate::command::table::{age, lines, span, time};
use crate::error::Error;
use crate::secret::keyring::{self, KeyringError};
use crate::secret::source::{Key, Keys};

/// When keys were last used, by their fingerprints.
pub type Uses = BTreeMap<String, SystemTime>;

/// What an OAuth token's entry has after the profile's name.
const TOKEN: &str = " oauth";

/// Tells where the key that a run would use comes from, without a character of it.
///
/// # Errors
/// When there is none, or its source fails.
pub async fn show(
    profile: &str,
    host: &str,
    keys: &Keys,
    max_age: Duration,
    ledger: &Uses,
) -> Result<Done, Error> {
    let mut warnings = Vec::new();
    let key = keys.any().await?.ok_or_else(|| keys.missing())?;
    warnings.extend(keys.take_notes());
    warnings.extend(reminder(profile, &key, max_age));
    let fingerprint = key.secret.fingerprint();
    let last = last_use(ledger, &fingerprint);
    let text = lines(&[
        ("profile", profile.to_owned()),
        ("host", host.to_owned()),
        ("source", key.origin.to_string()),
        ("fingerprint", fingerprint),
        (
            "stored",
            key.since
                .map_or_else(|| "unknown".to_owned(), |since| time(Some(since))),
        ),
        ("age", age(key.since)),
        (
            "last used",
            last.unwrap_or_else(|| "not that is recorded".to_owned()),
        ),
    ]);
    Ok(Done { text, warnings })
}

/// Tells which profiles have a key, a line for each: profile, fingerprint, age, last use, source. `given` are those that were
/// there at the start.
///
/// # Errors
/// When there is a keyring and it cannot be read.
pub async fn list(
    profiles: Vec<String>,
    given: Vec<(String, Key)>,
    max_age: Duration,
    ledger: &Uses,
) -> Result<Done, Error> {
    let mut rows: Vec<(String, Option<Key>)> = given
        .into_iter()
        .map(|(profile, key)| (profile, Some(key)))
        .collect();
    let users = profiles
        .iter()
        .flat_map(|profile| [profile.clone(), format!("{profile}{TOKEN}")]);
    let stored = match keyring::read_all(users.collect()).await {
        Ok(stored) => stored,
        Err(KeyringError::NotBuilt | KeyringError::NoBus | KeyringError::NoService) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    for (user, stored) in stored {
        match user.strip_suffix(TOKEN) {
            Some(profile) => rows.push((profile.to_owned(), None)),
            None => rows.push((user.clone(), Some(Key::stored(user, &stored)))),
        }
    }
    rows.sort_by(|(one, _), (other, _)| one.cmp(other));
    let warnings = rows
        .iter()
        .filter_map(|(profile, key)| reminder(profile, key.as_ref()?, max_age));
    let warnings = warnings.collect();
    let width = rows
        .iter()
        .map(|(profile, _)| profile.chars().count())
        .max();
    let width = width.unwrap_or_default() + 2;
    let rows = rows.iter().map(|(profile, key)| match key {
        Some(key) => {
            let fingerprint = key.secret.fingerprint();
            let last = last_use(ledger, &fingerprint);
            let last = last.map_or_else(|| "unused".to_owned(), |last| format!("used {last}"));
            format!(
                "{profile:width$}{fingerprint}  {:>10}  {last:>16}  {}\n",
                age(key.since),
                key.origin
            )
        }
        None => format!(
            "{profile:width$}{:8}  {:>10}  {:>16}  an OAuth login in the keyring\n",
            "", "", ""
        ),
    });
    Ok(Done {
        text: rows.collect(),
        warnings,
    })
}

/// Takes a profile's key out of the keyring.
///
/// # Errors
/// When the keyring cannot be used.
pub async fn remove(profile: &str, keys: &Keys) -> Result<Done, Error> {
    let count = keyring::remove(profile).await?;
    let mut warnings = Vec::new();
    if let Some(Key { origin, .. }) = keys.first() {
        warnings.push(format!(
            "{origin} still has a key for the profile `{profile}`"
        ));
    }
    Ok(Done {
        text: lines(&[
            ("profile", profile.to_owned()),
            ("removed", count.to_string()),
        ]),
        warnings,
    })
}

/// When the key was last used, by what is recorded.
fn last_use(ledger: &Uses, fingerprint: &str) -> Option<String> {
    Some(format!("{} ago", span(*ledger.get(fingerprint)?)))
}

/// A word about a key that has become old.
fn reminder(profile: &str, key: &Key, max_age: Duration) -> Option<String> {
    let age = SystemTime::now().duration_since(key.since?).ok()?;
    (age > max_age).then(|| {
        format!(
            "the key of the profile `{profile}` is {} days old; make another one at the provider, and store it with \
             `gptpipe key rotate -P {profile}`",
            age.as_secs() / 86_400
        )
    })
}
