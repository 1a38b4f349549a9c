//! What the words mean on this machine: flags over environment over the
//! configuration file over built-in profiles over defaults, frozen.

pub mod file;
#[cfg(feature = "oauth")]
pub mod oauth;
pub mod paths;
pub mod profile;
pub mod provider;
pub mod settings;
pub mod spending;
mod wrong;
