//! What the room promises, on real files.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::cache::{Cache, CacheOptions, Entry, Key, Place};
use crate::api::reply::{Finish, Reply, Usage};

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let path = std::env::temp_dir().join(format!(
            "gptpipe-store-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("cache.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn options(folder: &Folder) -> CacheOptions {
    CacheOptions {
        place: Place::File(folder.file()),
        is_named: false,
        ttl: Duration::from_hours(24),
        is_refresh: false,
        max_bytes: 64 << 20,
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn key(number: u64) -> Key {
    Key(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn reply(text: &str) -> Entry {
    Entry::Reply(Reply {
        text: text.to_owned(),
        finish: Finish::Stop,
        usage: Some(Usage {
            prompt_tokens: 3,
            completion_tokens: u64::MAX,
            cached_tokens: 0,
        }),
        model: Some("m".to_owned()),
        id: None,
    })
}

#[test]
fn what_is_stored_is_found_again_by_the_next_process() {
    let folder = Folder::new();
    let (cache, warning) = Cache::open(options(&folder)).unwrap();
    assert_eq!(warning, None);
    assert_eq!(cache.lookup(&key(1)), None);
    assert!(block_on(cache.store(key(1), reply("one\0two"))));
    let split = Entry::Split { end: 10, start: 12 };
    assert!(block_on(cache.store(key(2), split.clone())));
    assert_eq!(cache.lookup(&key(1)), Some(reply("one\0two")));
    block_on(cache.finish());
    drop(cache);
    let (cache, _) = Cache::open(options(&folder)).unwrap();
    assert_eq!(cache.lookup(&key(1)), Some(reply("one\0two")));
    assert_eq!(cache.lookup(&key(2)), Some(split));
    assert_eq!(cache.lookup(&key(3)), None);
    assert_eq!(cache.take_trouble(), None);
}
