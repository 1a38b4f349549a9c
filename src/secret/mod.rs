//! Keys and tokens.

pub mod command;
pub mod given;
pub mod keyring;
#[cfg(feature = "oauth")]
pub mod lock;
#[cfg(feature = "oauth")]
pub mod oauth;
#[cfg(feature = "oauth")]
pub mod oauth_device;
#[cfg(feature = "oauth")]
pub mod oauth_discovery;
#[cfg(feature = "oauth")]
pub mod oauth_error;
#[cfg(feature = "oauth")]
pub mod oauth_session;
#[cfg(feature = "oauth")]
pub mod oauth_token;
pub mod redact;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its one type"
)]
pub mod secret;
pub mod source;
pub mod token;
#[cfg(feature = "oauth")]
pub mod vault;
