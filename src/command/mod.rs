//! The commands, such as `gptpipe cache`: everything that is no run of the filter.
//!
//! Each gives back what belongs on standard output; whoever calls it writes that, and knows which
//! words of the command line meant it.

pub mod batch;
pub mod cache;
pub mod key;
#[cfg(feature = "oauth")]
pub mod login;
pub mod metrics;
pub mod setup;
mod table;
pub mod usage;
