//! The whole path: chunks in, requests in flight, replies out in order.

pub mod map;
mod place;
mod task;
