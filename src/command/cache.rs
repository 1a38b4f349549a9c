//! `gptpipe cache`: what is remembered, in lines for people and scripts.

use std::path::Path;

use crate::command::table::{lines, time};
use crate::error::Error;
use crate::store::upkeep::{self, Cleared, Pruned, Stats};

/// What the cache holds: lines of a name and a value. Names stay the same and in this order, sizes
/// are in bytes, times in UTC; `none` where there is no entry.
///
/// # Errors
/// What [`upkeep::stats`] says.
pub fn stats(path: &Path) -> Result<String, Error> {
    let Stats {
        file,
        entries,
        splits,
        bytes,
        oldest,
        newest,
        used,
    } = upkeep::stats(path)?;
    Ok(lines(&[
        ("file", file.display().to_string()),
        ("entries", entries.to_string()),
        ("splits", splits.to_string()),
        ("bytes", bytes.to_string()),
        ("oldest", time(oldest)),
        ("newest", time(newest)),
        ("last-used", time(used)),
    ]))
}

/// Takes away what expired and what is more than `max_bytes`, and tells how much that was.
///
/// # Errors
/// What [`upkeep::prune`] says.
pub fn prune(path: &Path, max_bytes: u64) -> Result<String, Error> {
    let Pruned { entries, bytes } = upkeep::prune(path, max_bytes)?;
    Ok(lines(&[
        ("removed-entries", entries.to_string()),
        ("removed-bytes", bytes.to_string()),
    ]))
}

/// Takes everything away and tells how much that was.
///
/// # Errors
/// What [`upkeep::clear`] says.
pub fn clear(path: &Path) -> Result<String, Error> {
    let Cleared {
        entries,
        damaged,
        bytes,
    } = upkeep::clear(path)?;
    Ok(lines(&[
        ("removed-entries", entries.to_string()),
        ("removed-damaged-files", damaged.to_string()),
        ("removed-bytes", bytes.to_string()),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_an_empty_cache() {
        let path = std::env::temp_dir().join("gptpipe-there-is-no-such-file.db");
        assert_eq!(
            stats(&path).unwrap(),
            format!(
                "file       {}\nentries    0\nsplits     0\nbytes      0\noldest     none\n\
                 newest     none\nlast-used  none\n",
                path.display()
            )
        );
        assert_eq!(
            prune(&path, 1 << 30).unwrap(),
            "removed-entries  0\nremoved-bytes    0\n"
        );
        assert_eq!(
            clear(&path).unwrap(),
            "removed-entries        0\nremoved-damaged-files  0\nremoved-bytes          0\n"
        );
        assert!(!path.exists());
    }

    #[test]
    fn what_is_there_is_told_and_taken_away() {
        use crate::store::cache::{Cache, CacheOptions, Entry, Key, Place};
        let folder = std::env::temp_dir().join(format!("gptpipe-command-{}", std::process::id()));
        let path = folder.join("cache.db");
        let (cache, _) = Cache::open(CacheOptions {
            place: Place::File(path.clone()),
            is_named: false,
            ttl: std::time::Duration::MAX,
            is_refresh: false,
            max_bytes: 1 << 30,
        })
        .unwrap();
        let stored = futures::executor::block_on(
            cache.store(Key([7; 32]), Entry::Split { end: 1, start: 2 }),
        );
        assert!(stored);
        let text = stats(&path).unwrap();
        let values: Vec<(&str, &str)> = text
            .lines()
            .map(|line| line.split_once("  ").unwrap())
            .map(|(name, value)| (name, value.trim_start()))
            .collect();
        assert_eq!(values[1..3], [("entries", "1"), ("splits", "1")]);
        assert!(values[3].1.parse::<u64>().unwrap() > 4096, "{text}");
        for (name, time) in &values[4..] {
            assert!(humantime::parse_rfc3339(time).is_ok(), "{name} {time}");
        }
        assert_eq!(
            prune(&path, 1 << 30).unwrap(),
            "removed-entries  0\nremoved-bytes    0\n"
        );
        assert!(
            clear(&path)
                .unwrap()
                .starts_with("removed-entries        1\n")
        );
        assert!(stats(&path).unwrap().contains("entries    0\n"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
