//! What the commands are asked to do.

use crate::cli::completion::Shell;

/// What `gptpipe key` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAction {
    /// Tells where the key in use comes from.
    Show,
    /// Tells which profiles have one.
    List,
    /// Stores another one.
    Rotate,
    /// Takes it out of the keyring.
    Remove,
}

/// What `gptpipe cache` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheAction {
    /// Tells what is remembered.
    Stats,
    /// Takes away what is old or too much.
    Prune,
    /// Takes everything away.
    Clear,
}

/// What `gptpipe batch` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchAction {
    /// Tells the batches that are known.
    List,
    /// Has the one of this name cancelled.
    Cancel(String),
}

/// What `gptpipe completions` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completions {
    /// The script for a shell.
    Script(Shell),
    /// The names of all profiles, which the scripts ask for.
    Profiles,
    /// The names of a profile's models, likewise.
    Models,
}
