//! What people watch: progress and messages, on standard error only.

pub mod audit;
pub mod log;
pub mod message;
pub mod metrics;
mod neighbours;
pub mod price;
pub mod progress;
