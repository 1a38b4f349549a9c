//! Where things live: the XDG base directories on Unix, and the platform's own
//! places elsewhere.

use std::path::PathBuf;

use etcetera::BaseStrategy as _;

/// The configuration file, if this user has a home; it need not exist.
#[must_use]
pub fn config_file() -> Option<PathBuf> {
    let strategy = etcetera::choose_base_strategy().ok()?;
    Some(strategy.config_dir().join("gptpipe").join("config.toml"))
}

/// The file of remembered replies, if this user has a home; it need not exist.
#[must_use]
pub fn cache_file() -> Option<PathBuf> {
    let strategy = etcetera::choose_base_strategy().ok()?;
    Some(strategy.cache_dir().join("gptpipe").join("cache.db"))
}

/// The file that all processes of this user share besides, if this user has a home; it need not
/// exist.
#[must_use]
pub fn state_file() -> Option<PathBuf> {
    Some(state_folder()?.join("state.db"))
}

/// The record of requests, if this user has a home; it need not exist.
#[must_use]
pub fn ledger_file() -> Option<PathBuf> {
    Some(state_folder()?.join("ledger.db"))
}

/// The folder of what the record is made from, if this user has a home; it need not exist.
#[must_use]
pub fn journal_folder() -> Option<PathBuf> {
    Some(state_folder()?.join("journals"))
}

fn state_folder() -> Option<PathBuf> {
    let strategy = etcetera::choose_base_strategy().ok()?;
    // Windows has no place for state, and carries what counts as data to other machines.
    let folder = strategy.state_dir().unwrap_or_else(|| strategy.cache_dir());
    Some(folder.join("gptpipe"))
}

/// The record of what was handed to providers in batches, if this user has a home; it need not
/// exist.
#[must_use]
pub fn batch_file() -> Option<PathBuf> {
    Some(state_file()?.with_file_name("batch.db"))
}

/// The folder of what completions are to know, if this user has a home; it need not exist.
#[must_use]
pub fn models_folder() -> Option<PathBuf> {
    let strategy = etcetera::choose_base_strategy().ok()?;
    Some(strategy.cache_dir().join("gptpipe").join("models"))
}
