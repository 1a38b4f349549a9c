//! What people watch: progress and messages, on standard error only.

pub mod message;
mod neighbours;
pub mod progress;
