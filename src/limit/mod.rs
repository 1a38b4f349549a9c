//! When a request may be sent.

pub mod gate;
