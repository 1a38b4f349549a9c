//! Replies into bytes on standard output.

pub mod fence;
pub mod format;
pub mod record;
pub mod replace;
pub mod schema;
pub mod terminal;
pub mod trim;
pub mod writer;
