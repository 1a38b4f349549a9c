//! Tokens that run out: what a source of them has to be able to do.
//!
//! A key is the same for the whole run. A token is asked for before each request, because it may have to be
//! renewed between two of them, and once more when a server refuses it.

use std::fmt::Debug;

use futures::future::BoxFuture;

use crate::error::Error;
use crate::secret::secret::Secret;

/// Hands out a token for each request.
///
/// One that is asked by several requests at once renews once, for all of them.
pub trait TokenSource: Send + Sync + Debug {
    /// A token that does not run out while a request is sent.
    ///
    /// # Errors
    /// Why there is none, and what to do about it.
    fn get(&self) -> BoxFuture<'_, Result<Secret, Error>>;

    /// Another token in place of one that a server refused. What was renewed since is handed out as it is.
    ///
    /// # Errors
    /// Why there is none, and what to do about it.
    fn renew<'a>(&'a self, refused: &'a Secret) -> BoxFuture<'a, Result<Secret, Error>>;
}
