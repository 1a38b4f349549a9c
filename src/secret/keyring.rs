//! Entries of the system's keyring.
//!
//! A keyring may ask its user something, may be somewhere on a network, or may hang, and every call blocks. So each
//! goes to a thread of its own and is waited for no longer than [`patience`]. What can go wrong is told apart,
//! because what helps differs: a locked keyring is not an empty one.
//!
//! Entries have the service `gptpipe`; the user is the profile's name, so that `secret-tool lookup service gptpipe
//! username NAME` finds the same.

use std::fmt;
use std::thread;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::Error;
use crate::secret::secret::Secret;

/// The service of all entries.
pub const SERVICE: &str = "gptpipe";

/// How long a keyring is waited for where it can ask nobody for a password.
const HEADLESS: Duration = Duration::from_secs(5);

/// How long it is waited for where it can: people have to find the window and type.
const ATTENDED: Duration = Duration::from_mins(2);

/// What a user without a keyring can do in its place.
pub const CHOICES: &str = "a key can also come from an environment variable, from `key-command` in the \
     profile (such as 'pass show openai'), or from systemd's LoadCredential=";

/// An entry as it was read.
#[derive(Debug)]
pub struct Stored {
    /// What is kept.
    pub secret: Secret,
    /// When it was put there; `None` where another program did, or the system keeps no such note.
    pub since: Option<SystemTime>,
    /// The host that it was stored for; `None` where nobody said.
    pub host: Option<String>,
    /// How many further entries have the same name.
    pub others: usize,
}

/// Why the keyring could not be used. That there is no such entry is not one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyringError {
    /// This program was built without it.
    NotBuilt,
    /// There is no session bus, as in a container, in cron or after `sudo`.
    NoBus,
    /// No program on the bus keeps secrets.
    NoService,
    /// It is locked, and was not unlocked.
    Locked,
    /// So many entries have the name, and nothing tells which is meant.
    Ambiguous(usize),
    /// It did not answer for so long.
    TooSlow(Duration),
    /// Anything else, in its own words.
    Other(String),
}

impl fmt::Display for KeyringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBuilt => f.write_str("this program was built without the keyring"),
            Self::NoBus => f.write_str("there is no keyring here: no D-Bus session bus"),
            Self::NoService => {
                f.write_str("there is no keyring here: no program on D-Bus keeps secrets")
            }
            Self::Locked => f.write_str("the keyring is locked"),
            Self::Ambiguous(count) => write!(f, "the keyring has {count} entries of that name"),
            Self::TooSlow(time) => {
                let time = humantime::format_duration(*time);
                write!(f, "the keyring did not answer for {time}")
            }
            Self::Other(why) => write!(f, "the keyring failed: {why}"),
        }
    }
}

impl KeyringError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Locked => format!("unlock it, for example by logging in; {CHOICES}"),
            Self::Ambiguous(_) => {
                "`gptpipe setup` replaces them by one; `gptpipe key remove` takes them away"
                    .to_owned()
            }
            Self::NoService => format!("gnome-keyring, KWallet or KeePassXC is one; {CHOICES}"),
            Self::NotBuilt | Self::NoBus | Self::TooSlow(_) | Self::Other(_) => CHOICES.to_owned(),
        }
    }
}

impl From<KeyringError> for Error {
    fn from(error: KeyringError) -> Self {
        Self::usage_hint(error.to_string(), error.hint())
    }
}

/// Reads an entry; `None` when there is none.
///
/// # Errors
/// What keeps the keyring from being used.
pub async fn read(user: &str) -> Result<Option<Stored>, KeyringError> {
    let user = user.to_owned();
    within_limit(move || service::read(&user)).await
}

/// Stores an entry in place of all that have its name, and gives how many those were.
///
/// # Errors
/// What keeps the keyring from being used; nothing has been taken away then.
pub async fn write(user: &str, secret: &Secret) -> Result<usize, KeyringError> {
    write_for(user, secret, "").await
}

/// The same for a key that may go to one host only.
///
/// # Errors
/// What keeps the keyring from being used; nothing has been taken away then.
pub async fn write_for(user: &str, secret: &Secret, host: &str) -> Result<usize, KeyringError> {
    let (user, secret, host) = (user.to_owned(), secret.clone(), host.to_owned());
    within_limit(move || service::write(&user, &secret, &host)).await
}

/// Reads many entries over one connection, and gives those that there are, each with its user.
///
/// # Errors
/// What keeps the keyring from being used.
pub async fn read_all(users: Vec<String>) -> Result<Vec<(String, Stored)>, KeyringError> {
    within_limit(move || {
        let mut all = Vec::new();
        for user in users {
            if let Some(stored) = service::read(&user)? {
                all.push((user, stored));
            }
        }
        Ok(all)
    })
    .await
}

/// Whether there may be a keyring, as far as can be told without asking for it.
#[must_use]
pub fn may_be_there() -> bool {
    cfg!(feature = "keyring") && service::may_be_there()
}

/// Takes away all entries of a name, and gives how many there were.
///
/// # Errors
/// What keeps the keyring from being used.
pub async fn remove(user: &str) -> Result<usize, KeyringError> {
    let user = user.to_owned();
    within_limit(move || service::remove(&user)).await
}

/// Calls the keyring on a thread of its own; one that hangs is left behind.
async fn within_limit<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, KeyringError> + Send + 'static,
) -> Result<T, KeyringError> {
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new()
        .name("keyring".to_owned())
        .spawn(move || drop(sender.send(call())))
        .map_err(|error| KeyringError::Other(error.to_string()))?;
    let patience = patience();
    match timeout(patience, receiver).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(KeyringError::Other("its own code broke off".to_owned())),
        Err(_) => Err(KeyringError::TooSlow(patience)),
    }
}

/// How long a call may take.
fn patience() -> Duration {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_attended = cfg!(any(windows, target_os = "macos"))
        || ["DISPLAY", "WAYLAND_DISPLAY"].into_iter().any(is_set);
    if is_attended { ATTENDED } else { HEADLESS }
}

#[cfg(not(feature = "keyring"))]
mod service {
    use super::{KeyringError, Stored};
    use crate::secret::secret::Secret;

    pub(super) fn read(_: &str) -> Result<Option<Stored>, KeyringError> {
        Err(KeyringError::NotBuilt)
    }

    pub(super) fn write(_: &str, _: &Secret, _: &str) -> Result<usize, KeyringError> {
        Err(KeyringError::NotBuilt)
    }

    pub(super) fn remove(_: &str) -> Result<usize, KeyringError> {
        Err(KeyringError::NotBuilt)
    }

    pub(super) fn may_be_there() -> bool {
        false
    }
}

#[cfg(feature = "keyring")]
mod service {
    use std::collections::HashMap;
    use std::error::Error as _;
    #[cfg(all(unix, not(target_os = "macos")))]
    use std::path::PathBuf;
    use std::time::SystemTime;

    use keyring::{Entry, Error};
    use zeroize::Zeroizing;

    use super::{KeyringError, SERVICE, Stored};
    use crate::secret::secret::Secret;

    /// The attribute with the mark of an entry: when it was stored, in the words of RFC 3339, and after a blank for which
    /// host. Windows has a fixed set of attributes.
    const MARK: &str = if cfg!(windows) { "comment" } else { "stored" };

    /// Whether the mark is an entry of its own, since those of the Keychain have no attributes to set.
    const HAS_NOTE: bool = cfg!(target_os = "macos");

    pub(super) fn read(user: &str) -> Result<Option<Stored>, KeyringError> {
        let entry = open(user)?;
        match entry.get_password() {
            Ok(password) => {
                let mark = if HAS_NOTE {
                    note(user)?.get_password().ok()
                } else {
                    mark(entry.inner.get_attributes())
                };
                Ok(stored(password, mark, 0))
            }
            Err(Error::NoEntry) => Ok(None),
            Err(Error::Ambiguous(entries)) => {
                let others = entries.len() - 1;
                let mut found = Vec::new();
                for entry in &entries {
                    let password = entry.get_password().map_err(told)?;
                    found.extend(stored(password, mark(entry.get_attributes()), others));
                }
                // What `setup` stored last is meant. Without such a mark, all have to be the same.
                let first = found.first().map(|stored| stored.secret.clone());
                let is_same = found.iter().all(|stored| {
                    let first = first.as_ref().map(Secret::expose);
                    first == Some(stored.secret.expose())
                });
                let latest = found.into_iter().max_by_key(|stored| stored.since);
                match latest {
                    Some(stored) if is_same || stored.since.is_some() => Ok(Some(stored)),
                    Some(_) => Err(KeyringError::Ambiguous(others + 1)),
                    None => Ok(None),
                }
            }
            Err(error) => Err(told(error)),
        }
    }

    pub(super) fn write(user: &str, secret: &Secret, host: &str) -> Result<usize, KeyringError> {
        let entry = open(user)?;
        let before = match entry.inner.get_credential() {
            Ok(_) => 1,
            Err(Error::NoEntry) => 0,
            Err(Error::Ambiguous(entries)) => {
                let has_mark = |at: &usize| {
                    let attributes = entries[*at].get_attributes();
                    attributes.is_ok_and(|attributes| attributes.contains_key(MARK))
                };
                let kept = (0..entries.len()).find(has_mark).unwrap_or(0);
                // It is stored before anything is taken away.
                entries[kept].set_password(secret.expose()).map_err(told)?;
                for (at, entry) in entries.iter().enumerate() {
                    if at != kept {
                        entry.delete_credential().map_err(told)?;
                    }
                }
                entries.len()
            }
            Err(error) => return Err(told(error)),
        };
        entry.set_password(secret.expose()).map_err(told)?;
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        let mark = format!("{now} {host}");
        let mark = mark.trim_end();
        if HAS_NOTE {
            note(user)?.set_password(mark).map_err(told)?;
        } else {
            // Where entries have no attributes their age is not known, and that is all.
            let _ = entry
                .inner
                .update_attributes(&HashMap::from([(MARK, mark)]));
        }
        Ok(before)
    }

    pub(super) fn remove(user: &str) -> Result<usize, KeyringError> {
        if HAS_NOTE {
            // It says nothing without the entry.
            let _ = note(user)?.delete_credential();
        }
        match open(user)?.delete_credential() {
            Ok(()) => Ok(1),
            Err(Error::NoEntry) => Ok(0),
            Err(Error::Ambiguous(entries)) => {
                for entry in &entries {
                    entry.delete_credential().map_err(told)?;
                }
                Ok(entries.len())
            }
            Err(error) => Err(told(error)),
        }
    }

    fn open(user: &str) -> Result<Entry, KeyringError> {
        Entry::new(SERVICE, user).map_err(|error| match (error, Entry::store_status()) {
            (Error::NoDefaultStore, Err(why)) => unreachable(why),
            (error, _) => told(error),
        })
    }

    /// The entry with the mark of another one.
    fn note(user: &str) -> Result<Entry, KeyringError> {
        open(&format!("{user} note"))
    }

    fn mark(attributes: keyring::Result<HashMap<String, String>>) -> Option<String> {
        attributes.ok()?.remove(MARK)
    }

    /// Why there is no connection to a keyring.
    fn unreachable(error: &Error) -> KeyringError {
        let why = words(error);
        // The types of these errors belong to crates that are no dependencies of this one; the names are D-Bus's.
        let is_missing = ["ServiceUnknown", "NameHasNoOwner", "Spawn"]
            .iter()
            .any(|name| why.contains(name));
        if is_missing {
            KeyringError::NoService
        } else if has_bus() {
            KeyringError::Other(why)
        } else {
            KeyringError::NoBus
        }
    }

    /// The socket of the session bus; `None` for a bus of another kind (D-Bus specification, "Server Addresses").
    #[cfg(all(unix, not(target_os = "macos")))]
    fn socket() -> Option<PathBuf> {
        let address = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
        if !address.is_empty() {
            let path = address.strip_prefix("unix:path=")?;
            return Some(path.split([',', ';']).next().unwrap_or_default().into());
        }
        let folder = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(
            || format!("/run/user/{}", rustix::process::getuid().as_raw()).into(),
            PathBuf::from,
        );
        Some(folder.join("bus"))
    }

    /// Whether a session bus takes connections.
    #[cfg(all(unix, not(target_os = "macos")))]
    fn has_bus() -> bool {
        socket().is_none_or(|path| std::os::unix::net::UnixStream::connect(path).is_ok())
    }

    #[cfg(all(unix, not(target_os = "macos")))]
    pub(super) fn may_be_there() -> bool {
        socket().is_none_or(|path| path.exists())
    }

    #[cfg(not(all(unix, not(target_os = "macos"))))]
    fn has_bus() -> bool {
        true
    }

    #[cfg(not(all(unix, not(target_os = "macos"))))]
    pub(super) fn may_be_there() -> bool {
        true
    }

    fn stored(password: String, mark: Option<String>, others: usize) -> Option<Stored> {
        let mark = mark.unwrap_or_default();
        let (since, host) = mark.split_once(' ').unwrap_or((&mark, ""));
        Some(Stored {
            secret: Secret::new(password)?,
            since: humantime::parse_rfc3339(since).ok(),
            host: (!host.is_empty()).then(|| host.to_owned()),
            others,
        })
    }

    fn told(error: Error) -> KeyringError {
        match error {
            Error::NoStorageAccess(_) => KeyringError::Locked,
            Error::Ambiguous(entries) => KeyringError::Ambiguous(entries.len()),
            // What such an error holds is the entry itself.
            Error::BadEncoding(bytes) => {
                drop(Zeroizing::new(bytes));
                KeyringError::Other("the entry is no text".to_owned())
            }
            Error::BadDataFormat(bytes, _) => {
                drop(Zeroizing::new(bytes));
                KeyringError::Other("the entry cannot be read".to_owned())
            }
            error => KeyringError::Other(words(&error)),
        }
    }

    /// An error and its causes, each once, in lower case.
    fn words(error: &Error) -> String {
        let mut words = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !words.contains(&text) {
                words = format!("{words}: {text}");
            }
            cause = error.source();
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_is_told_apart_and_has_a_way_out() {
        let all = [
            KeyringError::NotBuilt,
            KeyringError::NoBus,
            KeyringError::NoService,
            KeyringError::Locked,
            KeyringError::Ambiguous(2),
            KeyringError::TooSlow(HEADLESS),
            KeyringError::Other("why".to_owned()),
        ];
        let mut messages: Vec<String> = all.iter().map(ToString::to_string).collect();
        messages.sort();
        messages.dedup();
        assert_eq!(messages.len(), all.len());
        assert!(all.iter().all(|error| !error.hint().is_empty()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_keyring_that_hangs_is_left_behind() {
        let (_held, never) = std::sync::mpsc::channel::<()>();
        let result = within_limit(move || {
            let _ = never.recv();
            Ok(())
        });
        assert!(matches!(result.await, Err(KeyringError::TooSlow(_))));
    }

    #[tokio::test]
    async fn one_that_answers_is_heard() {
        assert_eq!(within_limit(|| Ok(7)).await, Ok(7));
    }
}
