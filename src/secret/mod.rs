//! Keys and tokens.

pub mod keyring;
pub mod redact;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its one type"
)]
pub mod secret;
pub mod token;
