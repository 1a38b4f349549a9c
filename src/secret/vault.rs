//! Where tokens are kept: the system's keyring, and in tests a plain value.

use std::fmt;

use futures::future::BoxFuture;

use crate::secret::keyring::{self, KeyringError};
use crate::secret::secret::Secret;

/// Where tokens are kept.
pub trait Vault: fmt::Debug + Send + Sync {
    /// Reads an entry; none: there is none.
    fn read<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<Secret>, KeyringError>>;
    /// Puts an entry in the place of what is there.
    fn write<'a>(
        &'a self,
        user: &'a str,
        text: &'a Secret,
    ) -> BoxFuture<'a, Result<(), KeyringError>>;
    /// Takes an entry away.
    fn remove<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<(), KeyringError>>;
}

/// The system's keyring.
#[derive(Clone, Copy, Debug)]
pub struct Keyring;

impl Vault for Keyring {
    fn read<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<Secret>, KeyringError>> {
        Box::pin(async move { Ok(keyring::read(user).await?.map(|stored| stored.secret)) })
    }

    fn write<'a>(
        &'a self,
        user: &'a str,
        text: &'a Secret,
    ) -> BoxFuture<'a, Result<(), KeyringError>> {
        Box::pin(async move { keyring::write(user, text).await.map(drop) })
    }

    fn remove<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<(), KeyringError>> {
        Box::pin(async move { keyring::remove(user).await.map(drop) })
    }
}
