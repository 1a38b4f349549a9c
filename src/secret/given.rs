//! What a key is known to be, and the places where one can be found at no cost: what systemd hands over, and the
//! environment.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::SystemTime;

use zeroize::Zeroizing;

use crate::error::{Error, reason};
use crate::secret::keyring::{SERVICE, Stored};
use crate::secret::secret::Secret;

/// The variable whose key is for whatever host is named.
pub const VARIABLE: &str = "GPTPIPE_API_KEY";

/// The most that is read of a credential, in bytes.
const LONGEST: u64 = 64 * 1024;

/// Where a key came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file that systemd hands over (systemd.exec(5), `LoadCredential=`); its name.
    Credential(String),
    /// An environment variable; its name.
    Variable(String),
    /// The profile's command; its program.
    Command(String),
    /// The system's keyring; the entry's user.
    Keyring(String),
    /// An OAuth token.
    Token,
    /// The program itself, for its own demonstration.
    Own,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credential(name) => write!(f, "the systemd credential {name}"),
            Self::Variable(name) => write!(f, "the variable {name}"),
            Self::Command(program) => write!(f, "the key command {program}"),
            Self::Keyring(user) => write!(f, "the keyring (service {SERVICE}, username {user})"),
            Self::Token => f.write_str("an OAuth token"),
            Self::Own => f.write_str("the demonstration"),
        }
    }
}

/// A key, and what is known of it.
#[derive(Clone, Debug)]
pub struct Key {
    /// The key.
    pub secret: Secret,
    /// Where it came from.
    pub origin: Origin,
    /// When it was stored, where that is known.
    pub since: Option<SystemTime>,
}

impl Key {
    /// One out of the keyring, from the entry of that user.
    #[must_use]
    pub fn stored(user: String, stored: &Stored) -> Self {
        Self {
            secret: stored.secret.clone(),
            origin: Origin::Keyring(user),
            since: stored.since,
        }
    }

    pub(super) fn new(secret: Secret, origin: Origin) -> Self {
        Self {
            secret,
            origin,
            since: None,
        }
    }
}

/// Looks up what costs nothing: a credential, then the variables. `variable` is the profile's own; none where requests
/// go to another host than the profile's.
///
/// # Errors
/// [`Error::Usage`] for a credential that cannot be read.
pub fn given(
    environment: &dyn Fn(&str) -> Option<String>,
    profile: &str,
    variable: Option<&str>,
    is_foreign: bool,
) -> Result<Option<Key>, Error> {
    if let Some(folder) = environment("CREDENTIALS_DIRECTORY") {
        let own = (!is_foreign).then(|| format!("{SERVICE}.{profile}"));
        for name in own.into_iter().chain([SERVICE.to_owned()]) {
            if let Some(secret) = credential(Path::new(&folder), &name)? {
                return Ok(Some(Key::new(secret, Origin::Credential(name))));
            }
        }
    }
    let own = variable.filter(|_| !is_foreign);
    let mut names = [Some(VARIABLE), own].into_iter().flatten();
    Ok(names.find_map(|name| {
        let secret = Secret::new(environment(name)?)?;
        Some(Key::new(secret, Origin::Variable(name.to_owned())))
    }))
}

fn credential(folder: &Path, name: &str) -> Result<Option<Secret>, Error> {
    // A profile's name comes from the user, and no file has a separator in its name.
    if name.contains(['/', '\\']) {
        return Ok(None);
    }
    let refused = |why: String| Error::usage(format!("the systemd credential `{name}` {why}"));
    let file = match File::open(folder.join(name)) {
        Ok(file) => file,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(refused(format!("cannot be read: {}", reason(&error)))),
    };
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST)
        .read_to_string(&mut text)
        .map_err(|error| refused(format!("cannot be read: {}", reason(&error))))?;
    match Secret::new(std::mem::take(&mut *text)) {
        Some(secret) => Ok(Some(secret)),
        None => Err(refused("is empty".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_comes_in_order() {
        let folder =
            std::env::temp_dir().join(format!("gptpipe-credentials-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let place = folder.display().to_string();
        let find = |is_foreign| {
            let environment = |name: &str| match name {
                "CREDENTIALS_DIRECTORY" => Some(place.clone()),
                "GPTPIPE_API_KEY" => Some("any".to_owned()),
                "CORP_KEY" => Some("own".to_owned()),
                _ => None,
            };
            let key = given(&environment, "corp", Some("CORP_KEY"), is_foreign)
                .unwrap()
                .unwrap();
            (key.secret.expose().to_owned(), key.origin.to_string())
        };
        assert_eq!(
            find(false),
            ("any".to_owned(), "the variable GPTPIPE_API_KEY".to_owned())
        );
        std::fs::write(folder.join("gptpipe"), "for all\n").unwrap();
        assert_eq!(find(false).1, "the systemd credential gptpipe");
        std::fs::write(folder.join("gptpipe.corp"), "for corp\n").unwrap();
        assert_eq!(find(false).0, "for corp");
        assert_eq!(find(true).0, "for all", "a profile's key stays at home");
        std::fs::write(folder.join("gptpipe.corp"), "\n").unwrap();
        let environment = |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| place.clone());
        assert!(
            given(&environment, "corp", None, false).is_err(),
            "an empty one is no key"
        );
        assert!(
            given(&environment, "../corp", None, true)
                .unwrap()
                .is_some()
        );
        std::fs::remove_dir_all(folder).unwrap();
        let own = |name: &str| (name == "CORP_KEY").then(|| "own".to_owned());
        assert!(
            given(&own, "corp", Some("CORP_KEY"), false)
                .unwrap()
                .is_some()
        );
        assert!(
            given(&own, "corp", Some("CORP_KEY"), true)
                .unwrap()
                .is_none()
        );
    }
}
