//! Keys and tokens.

#[expect(
    clippy::module_inception,
    reason = "the room is named after its one type"
)]
pub mod secret;
