//! The key of a client: found when the first request is about to be sent, put into its header, and renewed where that
//! can be done.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::api::failure::{Failure, Kind};
use crate::api::reply::Reply;
use crate::error::{Error, ExitStatus};
use crate::secret::secret::Secret;
use crate::secret::source::Keys;

/// The header that carries the key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Auth {
    /// `Authorization: Bearer` (RFC 6750).
    Bearer,
    /// `api-key` (Azure).
    ApiKey,
    /// `x-api-key` (Anthropic's own).
    XApiKey,
}

/// Hands out the key, in the form in which the server wants it.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) keys: Arc<Keys>,
    auth: Auth,
    /// What tells the key from others, for limits and for records.
    known: OnceLock<([u8; 32], Option<String>)>,
    /// Whether anything was sent yet: until then a missing key has cost nothing.
    has_sent: AtomicBool,
}

impl Credentials {
    pub(super) fn new(keys: Arc<Keys>, auth: Auth) -> Self {
        Self {
            keys,
            auth,
            known: OnceLock::new(),
            has_sent: AtomicBool::new(false),
        }
    }

    /// A request is about to be sent.
    pub(super) fn note_sending(&self) {
        self.has_sent.store(true, Ordering::Relaxed);
    }

    /// The key for a request, if one is to be sent.
    pub(super) async fn get(&self) -> Result<Option<Secret>, Failure> {
        let key = self.keys.get().await;
        key.map_err(|error| self.no_key(&error))
    }

    /// Another key in place of one that was refused, if there is one.
    pub(super) async fn renew(&self, refused: Option<&Secret>) -> Result<Option<Secret>, Failure> {
        let key = self.keys.renew(refused).await;
        key.map_err(|error| self.no_key(&error))
    }

    pub(super) fn header(&self, key: &Secret) -> Result<(HeaderName, HeaderValue), Failure> {
        let auth = if self.keys.has_tokens() {
            // Whatever the server's own keys go into (RFC 6750, section 2.1).
            Auth::Bearer
        } else {
            self.auth
        };
        header_of(auth, key).map_err(|error| self.no_key(&error))
    }

    /// What tells the key at this host from others.
    pub(super) async fn identity(&self, host: &str) -> Result<[u8; 32], Failure> {
        if let Some((identity, _)) = self.known.get() {
            return Ok(*identity);
        }
        let name = self.keys.identity().await;
        let name = name.map_err(|error| self.no_key(&error))?;
        let mut hasher = blake3::Hasher::new_derive_key("gptpipe 2026-11 key and host");
        hasher.update(host.as_bytes());
        hasher.update(&[0]);
        if let Some(name) = &name {
            hasher.update(name.expose().as_bytes());
        }
        let identity = *hasher.finalize().as_bytes();
        let fingerprint = name.map(|name| name.fingerprint());
        Ok(self.known.get_or_init(|| (identity, fingerprint)).0)
    }

    /// The key's name in records, once it is known.
    pub(super) fn fingerprint(&self) -> Option<String> {
        self.known.get()?.1.clone()
    }

    /// Says what can be done about a key that was refused.
    pub(super) fn refused(&self, mut failure: Failure) -> Failure {
        if failure.kind == Kind::Auth {
            failure.hint = failure
                .hint
                .or_else(|| self.keys.refusal_hint().map(String::into_boxed_str));
        }
        failure
    }

    /// Why there is no key.
    fn no_key(&self, error: &Error) -> Failure {
        let kind = if error.status() == ExitStatus::Temporary {
            // The server that gives tokens, and not the API, could not be asked.
            Kind::Connect
        } else if self.has_sent.load(Ordering::Relaxed) {
            Kind::KeyLost
        } else {
            Kind::NoKey
        };
        let mut failure = Failure::new(kind, &error.to_string());
        failure.hint = error.hint().map(String::into_boxed_str);
        failure
    }
}

/// The header that carries a key.
pub(super) fn header_of(auth: Auth, key: &Secret) -> Result<(HeaderName, HeaderValue), Error> {
    let (name, value) = match auth {
        Auth::Bearer => {
            let value = Zeroizing::new(format!("Bearer {}", key.expose()));
            (AUTHORIZATION, HeaderValue::try_from(value.as_str()))
        }
        Auth::ApiKey => (
            HeaderName::from_static("api-key"),
            HeaderValue::try_from(key.expose()),
        ),
        Auth::XApiKey => (
            HeaderName::from_static("x-api-key"),
            HeaderValue::try_from(key.expose()),
        ),
    };
    let mut value = value.map_err(|_| {
        Error::usage("the key has characters in it that no key has, such as a line end")
    })?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// The failure without the key that was sent.
pub(super) fn hide(failure: Failure, key: Option<&Secret>) -> Failure {
    match key {
        Some(key) => failure.without_secret(key.expose()),
        None => failure,
    }
}

/// The same without the key, should the server have named something by it.
pub(super) fn hide_in_reply(reply: Reply, key: Option<&Secret>) -> Reply {
    match key {
        Some(key) => reply.without_secret(key.expose()),
        None => reply,
    }
}
