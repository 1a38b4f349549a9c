//! Bytes into chunks: counting tokens.

mod pretoken;
pub mod token;
mod vocabulary;
