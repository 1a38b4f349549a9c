//! What the room promises, on real files.

mod damage;
mod laws;
mod places;
mod processes;
mod size;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::Connection;

use super::cache::{Cache, CacheOptions, Entry, Key, Place};
use super::writer::{Clock, SECOND};
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
        // Whatever the mask of whoever runs the tests.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("cache.db")
    }

    /// What lies in it, in order.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A clock that goes on when it is told to.
#[derive(Clone)]
struct Hand(Arc<AtomicI64>);

impl Hand {
    /// 2030, some time of the day.
    fn new() -> Self {
        Self(Arc::new(AtomicI64::new(1_900_000_000 * SECOND)))
    }

    fn clock(&self) -> Clock {
        let time = Arc::clone(&self.0);
        Clock(Arc::new(move || time.load(Ordering::SeqCst)))
    }

    fn go(&self, seconds: i64) {
        self.0.fetch_add(seconds * SECOND, Ordering::SeqCst);
    }

    #[track_caller]
    fn open(&self, options: CacheOptions) -> Cache {
        let (cache, warning) = Cache::open_at(options, self.clock()).unwrap();
        assert_eq!(warning, None);
        cache
    }
}

const HOUR: i64 = 3600;

fn options(file: &Path) -> CacheOptions {
    CacheOptions {
        place: Place::File(file.to_owned()),
        is_named: false,
        ttl: Duration::from_hours(24),
        is_refresh: false,
        max_bytes: 64 << 20,
    }
}

fn named(file: &Path) -> CacheOptions {
    CacheOptions {
        is_named: true,
        ..options(file)
    }
}

#[track_caller]
fn open(file: &Path) -> Cache {
    let (cache, warning) = Cache::open(options(file)).unwrap();
    assert_eq!(warning, None);
    cache
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Ends the use of a cache as a run does; what it had open may live on for a moment.
fn end(cache: Cache) {
    block_on(cache.finish());
    assert_eq!(cache.take_trouble(), None);
    drop(cache);
}

#[track_caller]
fn store(cache: &Cache, number: u64, entry: Entry) {
    assert!(block_on(cache.store(key(number), entry)));
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
        refill: None,
    })
}

#[test]
fn what_is_stored_is_found_again_by_the_next_process() {
    let folder = Folder::new();
    let cache = open(&folder.file());
    assert_eq!(cache.lookup(&key(1)), None);
    store(&cache, 1, reply("one\0two"));
    let split = Entry::Split { end: 10, start: 12 };
    store(&cache, 2, split.clone());
    assert_eq!(cache.lookup(&key(1)), Some(reply("one\0two")));
    end(cache);
    let cache = open(&folder.file());
    assert_eq!(cache.lookup(&key(1)), Some(reply("one\0two")));
    assert_eq!(cache.lookup(&key(2)), Some(split));
    assert_eq!(cache.lookup(&key(3)), None);
    end(cache);
}

#[test]
fn memory_remembers_while_it_lasts() {
    let memory = CacheOptions {
        place: Place::Memory,
        ..options(Path::new(""))
    };
    let (cache, warning) = Cache::open(memory.clone()).unwrap();
    assert_eq!(warning, None);
    store(&cache, 1, reply("one"));
    assert_eq!(cache.clone().lookup(&key(1)), Some(reply("one")));
    end(cache);
    let (cache, _) = Cache::open(memory).unwrap();
    assert_eq!(cache.lookup(&key(1)), None);
}

#[test]
fn a_reply_that_was_cut_is_not_remembered() {
    let folder = Folder::new();
    let cache = open(&folder.file());
    for finish in [
        Finish::Length,
        Finish::Filtered,
        Finish::Refused,
        Finish::ToolCalls,
        Finish::Failed,
        Finish::Unknown,
    ] {
        let cut = Entry::Reply(Reply {
            finish,
            ..Reply::default()
        });
        assert!(!block_on(cache.store(key(1), cut)), "{finish:?}");
    }
    assert_eq!(cache.lookup(&key(1)), None);
    end(cache);
}

#[test]
fn keys_that_share_a_row_are_told_apart() {
    let folder = Folder::new();
    let cache = open(&folder.file());
    let [mut one, mut other] = [key(1); 2];
    one.0[31] = 0;
    other.0[31] = 1;
    assert!(block_on(cache.store(one, reply("one"))));
    assert_eq!(cache.lookup(&other), None);
    assert!(block_on(cache.store(other, reply("other"))));
    assert_eq!(cache.lookup(&other), Some(reply("other")));
    assert_eq!(cache.lookup(&one), None);
    end(cache);
}

#[test]
fn age_is_judged_by_who_reads() {
    let folder = Folder::new();
    let hand = Hand::new();
    let cache = hand.open(options(&folder.file()));
    let short = hand.open(CacheOptions {
        ttl: Duration::from_mins(1),
        ..options(&folder.file())
    });
    store(&cache, 1, reply("one"));
    hand.go(59);
    assert_eq!(short.lookup(&key(1)), Some(reply("one")));
    hand.go(1);
    assert_eq!(short.lookup(&key(1)), None);
    assert_eq!(cache.lookup(&key(1)), Some(reply("one")));
    hand.go(24 * HOUR - 61);
    assert_eq!(cache.lookup(&key(1)), Some(reply("one")));
    hand.go(1);
    assert_eq!(cache.lookup(&key(1)), None);
    store(&cache, 1, reply("one again"));
    assert_eq!(cache.lookup(&key(1)), Some(reply("one again")));
}

#[test]
fn refreshing_uses_only_what_this_run_stored() {
    let folder = Folder::new();
    let hand = Hand::new();
    let refresh = CacheOptions {
        is_refresh: true,
        ..options(&folder.file())
    };
    store(&hand.open(refresh.clone()), 1, reply("old"));
    hand.0.fetch_add(1, Ordering::SeqCst);
    let cache = hand.open(refresh);
    assert_eq!(cache.lookup(&key(1)), None);
    store(&cache, 1, reply("new"));
    assert_eq!(cache.lookup(&key(1)), Some(reply("new")));
    hand.go(5);
    assert_eq!(
        hand.open(options(&folder.file())).lookup(&key(1)),
        Some(reply("new"))
    );
}

/// What the file says of an entry's times, in seconds: used, expires.
fn times(file: &Path, number: u64) -> Option<(i64, i64)> {
    Connection::open(file)
        .unwrap()
        .query_row(
            "SELECT used, expires FROM entry WHERE id = ?1",
            [key(number).id()],
            |row| {
                Ok((
                    row.get::<_, i64>(0)? / SECOND,
                    row.get::<_, i64>(1)? / SECOND,
                ))
            },
        )
        .ok()
}

#[test]
fn use_is_marked_once_an_hour_and_keeps_an_entry_for_longer_runs() {
    let folder = Folder::new();
    let hand = Hand::new();
    let cache = hand.open(options(&folder.file()));
    let began = hand.clock().now() / SECOND;
    store(&cache, 1, reply("one"));
    let stored = Some((began, began + 24 * HOUR));
    hand.go(HOUR - 1);
    assert!(cache.lookup(&key(1)).is_some());
    block_on(cache.finish());
    assert_eq!(times(&folder.file(), 1), stored, "the mark is fresh");
    hand.go(1);
    assert!(cache.lookup(&key(1)).is_some());
    assert_eq!(times(&folder.file(), 1), stored, "marks wait");
    block_on(cache.finish());
    assert_eq!(
        times(&folder.file(), 1),
        Some((began + HOUR, began + 24 * HOUR))
    );
    let long = hand.open(CacheOptions {
        ttl: Duration::MAX,
        ..options(&folder.file())
    });
    assert!(long.lookup(&key(1)).is_some());
    block_on(long.finish());
    assert_eq!(
        times(&folder.file(), 1),
        Some((began + HOUR, i64::MAX / SECOND))
    );
}

#[test]
fn what_expired_is_pruned_once_an_hour() {
    let folder = Folder::new();
    let hand = Hand::new();
    let count = || -> i64 {
        Connection::open(folder.file())
            .unwrap()
            .query_row(
                "SELECT count(*) FROM entry JOIN body ON body.id = entry.body",
                [],
                |row| row.get(0),
            )
            .unwrap()
    };
    let cache = hand.open(options(&folder.file()));
    for number in 0..300 {
        store(&cache, number, reply("old"));
    }
    end(cache);
    hand.go(24 * HOUR);
    let cache = hand.open(options(&folder.file()));
    store(&cache, 1000, reply("new"));
    end(cache);
    assert_eq!(count(), 1);
    hand.go(-24 * HOUR);
    // From the future by a whole day: stored by a clock that was wrong. Nobody looked since.
    let cache = hand.open(options(&folder.file()));
    assert_eq!(cache.lookup(&key(1000)), None);
    hand.go(-1);
    store(&cache, 1, reply("now"));
    end(cache);
    assert_eq!(count(), 1);
}

#[test]
fn a_clock_that_was_never_set_takes_nothing_away() {
    let folder = Folder::new();
    let hand = Hand::new();
    store(&hand.open(options(&folder.file())), 1, reply("one"));
    let unset = Hand(Arc::new(AtomicI64::new(5 * SECOND)));
    let cache = unset.open(options(&folder.file()));
    assert_eq!(cache.lookup(&key(1)), None, "it is from the future");
    store(&cache, 2, reply("two"));
    end(cache);
    hand.go(1);
    let cache = hand.open(options(&folder.file()));
    assert_eq!(cache.lookup(&key(1)), Some(reply("one")));
}
