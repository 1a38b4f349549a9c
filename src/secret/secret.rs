//! A key as a type that cannot be shown.
//!
//! No `Display`, no `Serialize`, a `Debug` that says nothing, and memory that is
//! wiped when the last copy is dropped. The one way to its characters is
//! [`Secret::expose`], whose callers are few and easy to find.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use zeroize::Zeroizing;

/// Hexadecimal digits of a fingerprint: enough to tell a user's keys apart, too few to confirm a guess of one.
const FINGERPRINT: usize = 8;

/// The secrets that are alive, so that no message gives one away.
static ALIVE: Mutex<Vec<Weak<Zeroizing<String>>>> = Mutex::new(Vec::new());

/// A key or token. A copy is the same memory.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Takes the characters over; outer white space, which a copied key often
    /// carries and no header may, is left out. `None` when nothing is left.
    #[must_use]
    pub fn new(text: String) -> Option<Self> {
        let text = Zeroizing::new(text);
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return None;
        }
        let secret = Arc::new(Zeroizing::new(trimmed.to_owned()));
        let mut alive = lock();
        alive.retain(|other| other.strong_count() > 0);
        alive.push(Arc::downgrade(&secret));
        Some(Self(secret))
    }

    /// The characters, for a header and nothing else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A short name that tells this key from others; the key cannot be found out from it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("gptpipe 2026-11 key fingerprint");
        hasher.update(self.0.as_bytes());
        hasher.finalize().to_hex()[..FINGERPRINT].to_owned()
    }

    /// All that are alive.
    pub(super) fn alive() -> Vec<Self> {
        lock().iter().filter_map(Weak::upgrade).map(Self).collect()
    }
}

fn lock() -> MutexGuard<'static, Vec<Weak<Zeroizing<String>>>> {
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_nothing_of_itself() {
        let secret = Secret::new(" canary\n".to_owned()).unwrap();
        assert_eq!(secret.expose(), "canary");
        assert!(!format!("{secret:?} {secret:#?}").contains("canary"));
        assert!(Secret::new(" \n".to_owned()).is_none());
    }

    #[test]
    fn is_known_as_long_as_it_lives() {
        let is_known = || {
            let alive = Secret::alive();
            alive.iter().any(|secret| secret.expose() == "short-lived")
        };
        let secret = Secret::new("short-lived".to_owned()).unwrap();
        let copy = secret.clone();
        drop(secret);
        assert!(is_known());
        drop(copy);
        assert!(!is_known());
    }

    #[test]
    fn a_fingerprint_tells_keys_apart_and_has_nothing_of_them() {
        let fingerprint = |key: &str| Secret::new(key.to_owned()).unwrap().fingerprint();
        assert_eq!(fingerprint("a key"), fingerprint(" a key "));
        assert_ne!(fingerprint("a key"), fingerprint("another"));
        assert_eq!(fingerprint("a key").len(), FINGERPRINT);
    }
}
