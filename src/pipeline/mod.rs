//! The whole path: chunks in, requests in flight, replies out in order.

pub mod ask;
mod asked;
pub mod batch;
mod collect;
mod dropped;
pub mod found;
mod gather;
pub mod map;
mod mend;
mod pace;
mod place;
pub mod recall;
pub mod reduce;
pub mod reorder;
mod room;
mod spend;
pub mod tally;
pub mod tariff;
mod task;
mod tell;
pub mod verdicts;
mod watch;
