//! What is remembered between runs: replies that were paid for, and what was paid.
//!
//! One SQLite file holds them, used by many processes at once; `models`, lists of names beside it. `cache` is what a run sees of it,
//! `upkeep` what `gptpipe cache` does with it. Beneath them: `first` stores the one entry of a short run, `writer` commits all others on a thread of its own, `prune` keeps the file small, `database`
//! opens and makes it, `damage` sets it aside when it is broken, `file` judges it and its folder as
//! the system shows them, `entry` and `schema` say what a row is, `trouble` puts into words what
//! goes wrong. Beside it `slots` has what is shared of limits, and `ledger` what requests there were: runs note
//! them in a `journal`, `intake` takes those over, `usage` tells of it. `batch` has what was handed to providers in
//! batches, submitted by one process in its `turn`; `scratch` makes files that are gone with the process. Nothing here
//! ever ends a run.

#![expect(clippy::doc_markdown, reason = "SQLite is a name and no code")]

pub mod batch;
pub mod budget;
pub mod cache;
mod damage;
mod database;
mod entry;
mod file;
mod first;
mod intake;
pub mod journal;
pub mod ledger;
pub mod models;
mod prune;
mod schema;
pub mod scratch;
pub mod slots;
mod trouble;
pub mod turn;
pub mod upkeep;
pub mod usage;
mod writer;

#[cfg(test)]
mod tests;
