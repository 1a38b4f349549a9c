//! A chunk and its reply: what is sent, what comes back, what goes wrong.

pub mod address;
pub mod batch;
pub mod check;
pub mod client;
mod credentials;
pub mod event;
#[cfg(feature = "oauth")]
pub mod exchange;
pub mod failure;
pub mod fault;
mod http;
pub mod identity;
pub mod line;
mod mould;
pub mod plain;
pub mod reply;
pub mod request;
pub mod retry;
pub mod retry_after;
pub mod sending;
mod silence;
pub mod sse;
pub mod transport;
mod wire;
pub mod words;

#[cfg(test)]
mod tests;
