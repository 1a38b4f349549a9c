//! gptpipe: a Unix filter that puts a language model into a pipeline.

pub mod error;
pub mod interrupt;

pub mod api;
pub mod demo;
pub mod input;
pub mod output;
pub mod pipeline;
pub mod report;
pub mod secret;
