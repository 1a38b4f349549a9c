//! When a request may be sent.

pub mod budget;
pub mod concurrency;
pub mod gate;
pub mod pacer;
pub mod rate;
