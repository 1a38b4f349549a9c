//! Keys and tokens.

pub mod command;
pub mod given;
pub mod keyring;
pub mod redact;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its one type"
)]
pub mod secret;
pub mod source;
pub mod token;
