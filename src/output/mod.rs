//! Replies into bytes on standard output.

pub mod format;
pub mod terminal;
pub mod trim;
pub mod writer;
