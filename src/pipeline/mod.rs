//! The whole path: chunks in, requests in flight, replies out in order.

pub mod ask;
mod asked;
mod dropped;
pub mod map;
mod pace;
mod place;
pub mod recall;
pub mod reorder;
mod room;
mod task;
mod tell;
