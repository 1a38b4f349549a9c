//! A chunk and its reply: what is sent, what comes back, what goes wrong.

mod address;
pub mod client;
pub mod event;
pub mod failure;
pub mod fault;
pub mod identity;
mod mould;
pub mod plain;
pub mod reply;
pub mod request;
pub mod retry;
pub mod retry_after;
pub mod sse;
pub mod transport;
mod wire;
pub mod words;

#[cfg(test)]
mod tests;
