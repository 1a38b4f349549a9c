//! gptpipe: a Unix filter that puts a language model into a pipeline.
//!
//! Text flows down this list: what was typed, what it means here, bytes into
//! chunks, a chunk into its reply, the whole path, replies into bytes. Each
//! module uses only what stands before it in the order of `tests/it/layout.rs`;
//! none knows who calls it.

pub mod error;
pub mod interrupt;

pub mod cli;
pub mod command;
pub mod config;

pub mod api;
pub mod input;
pub mod limit;
pub mod output;
pub mod pipeline;
pub mod report;
pub mod store;

pub mod demo;
pub mod secret;

mod run;

pub use run::run;
