//! How large the file grows, and how it is made smaller.

use super::*;
use crate::store::upkeep;

/// Bytes of the file and its log.
fn bytes(file: &Path) -> u64 {
    ["", "-wal"]
        .iter()
        .filter_map(|suffix| fs::metadata(crate::store::file::beside(file, suffix)).ok())
        .map(|metadata| metadata.len())
        .sum()
}

fn small(file: &Path, max_bytes: u64) -> CacheOptions {
    CacheOptions {
        max_bytes,
        ..options(file)
    }
}

/// Stores many at once, so that they are committed in groups.
fn store_many(cache: &Cache, numbers: std::ops::Range<u64>, text: &str) {
    let all = numbers.map(|number| cache.store(key(number), reply(text)));
    let stored = block_on(futures::future::join_all(all));
    assert!(
        stored.iter().all(|is_stored| *is_stored),
        "{:?}",
        cache.take_trouble()
    );
}

#[test]
fn the_file_is_bounded_and_keeps_what_is_used() {
    for length in [10, 700, 2000, 9000, 40_000] {
        let folder = Folder::new();
        let hand = Hand::new();
        let max_bytes = 1 << 20;
        let cache = hand.open(small(&folder.file(), max_bytes));
        let text = "x".repeat(length);
        let count = 4 * max_bytes / (length as u64 + 200);
        let step = (count / 40).max(1);
        store(&cache, u64::MAX, reply("used"));
        for begin in (0..count).step_by(usize::try_from(step).unwrap()) {
            hand.go(2 * HOUR);
            let ttl_is_long = cache.lookup(&key(u64::MAX)).is_some();
            store_many(&cache, begin..begin + step, &text);
            block_on(cache.finish());
            let size = bytes(&folder.file());
            assert!(size <= max_bytes, "{length}: {size}");
            if begin < 11 * step {
                assert!(ttl_is_long, "{length}: {begin}");
            }
        }
        // The newest is there, and there is as much as one may expect.
        assert!(cache.lookup(&key(count - 1)).is_some());
        let kept = upkeep::stats(&folder.file()).unwrap().entries;
        assert!(
            kept * (length as u64 + 200) > max_bytes / 4,
            "{length}: {kept} are left"
        );
        end(cache);
    }
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let folder = Folder::new();
    let hand = Hand::new();
    let week = CacheOptions {
        ttl: Duration::from_hours(24 * 7),
        ..small(&folder.file(), 1 << 20)
    };
    let cache = hand.open(week);
    let text = "x".repeat(2000);
    store_many(&cache, 0..10, &text);
    for begin in (10..1000).step_by(10) {
        hand.go(HOUR);
        for number in 0..5 {
            assert!(cache.lookup(&key(number)).is_some(), "{number} at {begin}");
        }
        block_on(cache.finish());
        store_many(&cache, begin..begin + 10, &text);
    }
    for number in 5..10 {
        assert!(cache.lookup(&key(number)).is_none(), "{number}");
    }
    end(cache);
}

#[test]
fn an_entry_larger_than_a_tenth_is_not_stored() {
    let folder = Folder::new();
    let cache = hand_free(&small(&folder.file(), 1 << 20));
    assert!(!block_on(cache.store(key(1), reply(&"x".repeat(110_000)))));
    assert!(block_on(cache.store(key(1), reply(&"x".repeat(100_000)))));
    end(cache);
}

fn hand_free(options: &CacheOptions) -> Cache {
    Cache::open(options.clone()).unwrap().0
}

#[test]
fn a_lower_limit_makes_the_file_smaller() {
    let folder = Folder::new();
    let cache = hand_free(&small(&folder.file(), 64 << 20));
    store_many(&cache, 0..4000, &"x".repeat(2000));
    assert!(bytes(&folder.file()) > 8 << 20);
    let pruned = upkeep::prune(&folder.file(), 1 << 20).unwrap();
    assert!(pruned.entries > 3000, "{pruned:?}");
    let size = bytes(&folder.file());
    assert!(size <= 1 << 20, "{size}");
    // Who has it open goes on.
    let kept = upkeep::stats(&folder.file()).unwrap().entries;
    let found = (0..4000).filter(|n| cache.lookup(&key(*n)).is_some());
    assert_eq!(found.count() as u64, kept);
    store_many(&cache, 5000..5010, "x");
    end(cache);
}

#[test]
fn clearing_disturbs_nobody() {
    let folder = Folder::new();
    let cache = open(&folder.file());
    store_many(&cache, 0..1000, &"x".repeat(2000));
    fs::write(folder.0.join("cache.db.damaged-1"), "x").unwrap();
    fs::write(folder.0.join("cache.db.damaged-1-wal"), "x").unwrap();
    fs::write(folder.0.join("cache.db.damaged-mine"), "x").unwrap();
    let before = bytes(&folder.file());
    let cleared = upkeep::clear(&folder.file()).unwrap();
    assert_eq!((cleared.entries, cleared.damaged), (1000, 1));
    assert!(cleared.bytes > before / 2, "{cleared:?} of {before}");
    assert_eq!(
        folder.names(),
        [
            "cache.db",
            "cache.db-shm",
            "cache.db-wal",
            "cache.db.damaged-mine"
        ]
    );
    assert!(bytes(&folder.file()) < 100_000);
    assert_eq!(cache.lookup(&key(1)), None);
    store(&cache, 1, reply("again"));
    assert_eq!(cache.lookup(&key(1)), Some(reply("again")));
    let stats = upkeep::stats(&folder.file()).unwrap();
    assert_eq!((stats.entries, stats.splits), (1, 0));
    assert!(stats.oldest.is_some() && stats.oldest == stats.newest);
    end(cache);
}

#[test]
fn a_run_leaves_no_long_log_to_the_next_one() {
    let folder = Folder::new();
    let text = "x".repeat(20_000);
    let log = || {
        let log = crate::store::file::beside(&folder.file(), "-wal");
        fs::metadata(log).unwrap().len()
    };
    let cache = open(&folder.file());
    store_many(&cache, 0..100, &text);
    assert!(log() > 1 << 20, "{}", log());
    end(cache);
    assert!(log() < 1 << 20, "{}", log());
    // A few replies are not worth the time; and who only reads writes nothing.
    let cache = open(&folder.file());
    assert_eq!(cache.lookup(&key(99)), Some(reply(&text)));
    store(&cache, 100, reply(&text));
    end(cache);
    assert!((1..1 << 20).contains(&log()), "{}", log());
}
