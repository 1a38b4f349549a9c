//! Whatever the bytes of the file are: never a panic, never a reply that was not stored for its
//! key, and the next run has a cache again. A seed that failed is printed.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::store::file::beside;

/// Harm done to a file.
#[derive(Clone, Debug)]
enum Harm {
    Flip(Index, u8),
    Cut(Index),
    Overwrite(Index, Vec<u8>),
    Zero(Index, usize),
    /// A page takes the place of another.
    CopyPage(Index, Index),
    Swap(Vec<u8>),
}

fn harm() -> impl Strategy<Value = Harm> {
    let at = any::<Index>;
    prop_oneof![
        8 => (at(), 1..=255u8).prop_map(|(at, bits)| Harm::Flip(at, bits)),
        2 => at().prop_map(Harm::Cut),
        2 => (at(), proptest::collection::vec(any::<u8>(), 1..3000))
            .prop_map(|(at, bytes)| Harm::Overwrite(at, bytes)),
        2 => (at(), 1..20_000usize).prop_map(|(at, length)| Harm::Zero(at, length)),
        3 => (at(), at()).prop_map(|(from, to)| Harm::CopyPage(from, to)),
        1 => proptest::collection::vec(any::<u8>(), 0..200).prop_map(Harm::Swap),
    ]
}

fn inflict(bytes: &mut Vec<u8>, harm: &Harm) {
    const PAGE: usize = 4096;
    if bytes.is_empty() {
        return;
    }
    match harm {
        Harm::Flip(at, bits) => {
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        Harm::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Harm::Overwrite(at, new) => {
            let at = at.index(bytes.len());
            let length = new.len().min(bytes.len() - at);
            bytes[at..at + length].copy_from_slice(&new[..length]);
        }
        Harm::Zero(at, length) => {
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + length);
            bytes[at..end].fill(0);
        }
        Harm::CopyPage(from, to) => {
            let pages = bytes.len() / PAGE;
            if pages > 0 {
                let (from, to) = (from.index(pages) * PAGE, to.index(pages) * PAGE);
                bytes.copy_within(from..from + PAGE, to);
            }
        }
        Harm::Swap(new) => bytes.clone_from(new),
    }
}

/// Entries of many sizes, some of them on pages of their own.
fn known(number: u64) -> Entry {
    match number % 5 {
        0 => Entry::Split {
            end: usize::try_from(number).unwrap(),
            start: 10_000,
        },
        n => reply(
            &format!("reply {number} ").repeat([0, 1, 30, 200, 1500][usize::try_from(n).unwrap()]),
        ),
    }
}

const COUNT: u64 = 60;

/// The bytes of a file and of its log: some entries only in the one, some only in the other, some
/// in both, some deleted.
fn sound() -> (Vec<u8>, Vec<u8>) {
    let folder = Folder::new();
    let hand = Hand::new();
    let cache = hand.open(options(&folder.file()));
    for number in 0..COUNT {
        store(&cache, number, known(number + 1));
    }
    let other = Connection::open(folder.file()).unwrap();
    other
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    for number in COUNT / 2..COUNT {
        store(&cache, number, known(number));
    }
    for number in 0..COUNT / 2 {
        if number % 3 == 0 {
            store(&cache, number, known(number));
        }
    }
    end(cache);
    let read = |suffix| fs::read(beside(&folder.file(), suffix)).unwrap();
    (read(""), read("-wal"))
}

/// What a run does with a file that may be anything.
fn use_it(options: CacheOptions, hand: &Hand) -> Option<String> {
    let (cache, warning) = match Cache::open_at(options, hand.clock()) {
        Ok(opened) => opened,
        Err(warning) => return Some(warning),
    };
    for number in 0..COUNT {
        if let Some(found) = cache.lookup(&key(number)) {
            // Either may have been the last that was committed in what is left of the log.
            assert!(
                found == known(number) || found == known(number + 1),
                "key {number} got {found:?}"
            );
        }
    }
    for number in 0..COUNT {
        let is_stored = block_on(cache.store(key(number), known(number)));
        if is_stored && let Some(found) = cache.lookup(&key(number)) {
            // In a tree that is no longer in order a row may stand twice; either was once the key's own.
            assert!(
                found == known(number) || found == known(number + 1),
                "key {number} got {found:?}"
            );
        }
    }
    block_on(cache.finish());
    warning.or(cache.take_trouble())
}

fn check(harms: &[Harm], log_harms: &[Harm], is_named: bool) {
    use std::sync::OnceLock;
    static SOUND: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    let (mut file, mut log) = SOUND.get_or_init(sound).clone();
    for harm in harms {
        inflict(&mut file, harm);
    }
    for harm in log_harms {
        inflict(&mut log, harm);
    }
    let folder = Folder::new();
    let hand = Hand::new();
    fs::write(folder.file(), &file).unwrap();
    fs::write(beside(&folder.file(), "-wal"), &log).unwrap();
    let options = CacheOptions {
        is_named,
        ..options(&folder.file())
    };
    let _ = use_it(options.clone(), &hand);
    // What the first run met, the second sets aside; the third has nothing left to meet, but for
    // what nobody reads and a version that is not to be touched.
    let _ = use_it(options.clone(), &hand);
    if let Some(warning) = use_it(options, &hand) {
        assert!(
            is_named || warning.contains("newer gptpipe"),
            "the third run: {warning}"
        );
    }
    if is_named && folder.names().iter().any(|name| name.contains(".damaged-")) {
        assert!(
            file.starts_with(b"SQLite format 3\0"),
            "not ours, and moved"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(48),
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_damaged_file_never_gives_a_wrong_reply(
        harms in proptest::collection::vec(harm(), 1..4),
        is_named in any::<bool>(),
    ) {
        check(&harms, &[], is_named);
    }

    #[test]
    fn a_damaged_log_never_gives_a_wrong_reply(
        harms in proptest::collection::vec(harm(), 0..2),
        log_harms in proptest::collection::vec(harm(), 1..4),
    ) {
        check(&harms, &log_harms, false);
    }
}

#[test]
fn a_damaged_file_is_set_aside_and_three_are_kept() {
    let folder = Folder::new();
    let hand = Hand::new();
    let mut names = Vec::new();
    for round in 0..5 {
        fs::write(folder.file(), format!("this is no database {round}")).unwrap();
        let (cache, warning) = Cache::open_at(options(&folder.file()), hand.clock()).unwrap();
        let aside = format!("cache.db.damaged-{}", 1_900_000_000 + round);
        assert_eq!(
            warning.unwrap(),
            format!(
                "the damaged cache `{}` was set aside as `{}`",
                folder.file().display(),
                folder.0.join(&aside).display()
            )
        );
        store(&cache, 1, reply("one"));
        end(cache);
        hand.go(1);
        names.push(aside);
    }
    let mut left = folder.names();
    left.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
    assert_eq!(left[0], "cache.db");
    assert_eq!(left[1..], names[2..]);
}

/// Changes one byte in the middle of a text that is on the disk and in no log.
fn spoil_text(file: &Path, text: &str) {
    let other = Connection::open(file).unwrap();
    other
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    drop(other);
    let mut bytes = fs::read(file).unwrap();
    let at = bytes
        .windows(text.len())
        .position(|window| window == text.as_bytes())
        .unwrap();
    bytes[at + text.len() / 2] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn damage_met_in_a_run_is_told_once_and_set_aside_by_the_next() {
    let folder = Folder::new();
    let cache = open(&folder.file());
    let text = "all of it must come back as it was";
    store(&cache, 1, reply(text));
    store(&cache, 2, reply("another"));
    end(cache);
    spoil_text(&folder.file(), text);
    let cache = open(&folder.file());
    assert_eq!(cache.lookup(&key(1)), None);
    assert_eq!(cache.lookup(&key(1)), None);
    assert_eq!(cache.lookup(&key(2)), Some(reply("another")));
    assert_eq!(
        cache.take_trouble().unwrap(),
        format!(
            "the cache `{}` is damaged; this run remembers nothing more, the next one begins a new file",
            folder.file().display()
        )
    );
    assert_eq!(cache.lookup(&key(1)), None);
    assert_eq!(cache.take_trouble(), None);
    assert!(!block_on(cache.store(key(3), reply("three"))));
    block_on(cache.finish());
    let (next, warning) = Cache::open(options(&folder.file())).unwrap();
    assert!(warning.unwrap().contains("was set aside as"));
    let aside = |name: &String| name.contains(".damaged-") && name.ends_with("-wal");
    assert!(folder.names().iter().any(aside), "{:?}", folder.names());
    assert_eq!(next.lookup(&key(2)), None);
    store(&next, 2, reply("another"));
    // Whoever still has the old file open speaks of that one only.
    assert_eq!(cache.lookup(&key(1)), None);
    end(open(&folder.file()));
    end(next);
    assert!(
        !folder
            .names()
            .iter()
            .any(|name| name.contains("is-damaged"))
    );
}

#[test]
fn a_note_on_another_file_is_no_note_on_this_one() {
    let folder = Folder::new();
    fs::write(beside(&folder.file(), ".is-damaged"), "1 2\n").unwrap();
    end(open(&folder.file()));
    fs::write(beside(&folder.file(), ".is-damaged"), "1 2\n").unwrap();
    end(open(&folder.file()));
    assert_eq!(folder.names(), ["cache.db", "cache.db-shm", "cache.db-wal"]);
}

#[test]
fn a_log_without_its_file_is_not_taken_for_the_new_file_s() {
    let folder = Folder::new();
    let cache = open(&folder.file());
    for number in 0..20 {
        store(&cache, number, reply("old"));
    }
    end(cache);
    fs::remove_file(folder.file()).unwrap();
    let cache = open(&folder.file());
    for number in 0..20 {
        assert_eq!(cache.lookup(&key(number)), None);
    }
    store(&cache, 1, reply("new"));
    end(cache);
    assert_eq!(open(&folder.file()).lookup(&key(1)), Some(reply("new")));
}

/// Any column of a row changed in any way: the row is the entry that was stored, or none.
#[test]
fn a_damaged_row_is_the_entry_or_none() {
    use crate::api::reply::{Finish, Reply, Usage};
    use crate::store::entry::{self, Entry, Key, Read};
    use crate::store::{database, schema};

    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let cases = number("GPTPIPE_FUZZ").unwrap_or(5_000);
    let seed = number("GPTPIPE_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20);
    let connection = database::connect_memory(&schema::CACHE).unwrap();
    let key = Key([7; 32]);
    let reply = Entry::Reply(Reply {
        text: "a whole reply".to_owned(),
        finish: Finish::Stop,
        usage: Some(Usage {
            prompt_tokens: 3,
            completion_tokens: 4,
            cached_tokens: 0,
        }),
        model: Some("m".to_owned()),
        id: None,
        refill: None,
    });
    let split = Entry::Split { end: 4, start: 6 };
    for case in 0..cases {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_add(case));
        let stored = if random.bool() { &reply } else { &split };
        entry::write(&connection, &key, stored, 100, 200).unwrap();
        let column = random.choice([
            "key",
            "stored",
            "text",
            "model",
            "finish",
            "prompt_tokens",
            "completion_tokens",
            "cached_tokens",
            "split_end",
            "split_start",
            "sum",
        ]);
        let column = column.unwrap();
        let bytes: Vec<u8> = (0..random.usize(0..40)).map(|_| random.u8(..)).collect();
        let changed = match random.u8(0..5) {
            0 => connection.execute(&format!("UPDATE body SET {column} = ?1"), [random.i64(..)]),
            1 => connection.execute(
                &format!("UPDATE body SET {column} = ?1"),
                [random.i64(0..9)],
            ),
            2 => connection.execute(&format!("UPDATE body SET {column} = ?1"), [bytes]),
            3 => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                connection.execute(&format!("UPDATE body SET {column} = ?1"), [text])
            }
            _ => connection.execute(&format!("UPDATE body SET {column} = NULL"), []),
        };
        // What the column cannot hold is refused and leaves the row as it is.
        let _ = changed;
        match entry::Reader::new(&connection).unwrap().read(&key).unwrap() {
            Some(Read::Found(found)) => {
                assert_eq!(&found.entry, stored, "GPTPIPE_SEED={seed}, case {case}");
            }
            Some(Read::Other | Read::Damaged) | None => {}
        }
    }
}
