//! The whole path: chunks in, requests in flight, replies out in order.

pub mod ask;
mod asked;
mod dropped;
pub mod found;
pub mod map;
mod mend;
mod pace;
mod place;
pub mod recall;
pub mod reduce;
pub mod reorder;
mod room;
pub mod tally;
mod task;
mod tell;
