//! Bytes into chunks: reading, counting tokens, cutting.

mod block;
mod boundary;
pub mod chunk;
pub mod chunker;
mod fences;
pub mod halve;
mod han;
mod key;
mod memo;
mod merge;
mod meter;
mod place;
mod pretoken;
pub mod reader;
mod segment;
pub mod sentence;
pub mod spool;
mod table;
pub mod token;
mod vocabulary;
mod word;
