//! gptpipe: a Unix filter that puts a language model into a pipeline.

pub mod error;
pub mod interrupt;

pub mod api;

pub mod secret;
