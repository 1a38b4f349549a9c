//! Where a cache may live, and what is said where it may not.

use std::os::unix::fs::symlink;

use super::*;
use crate::error::Error;
use crate::store::file::beside;
use crate::store::upkeep;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The warning with which a cache is refused; it names the file and says what happens now.
#[track_caller]
fn refusal(options: CacheOptions) -> String {
    let Place::File(path) = options.place.clone() else {
        panic!("there is a file");
    };
    let warning = Cache::open(options).unwrap_err();
    let rest = warning
        .strip_suffix("; going on without a cache")
        .unwrap_or_else(|| panic!("{warning}"));
    let folder = path.parent().unwrap().display().to_string();
    assert!(rest.contains(&folder), "{warning}");
    rest.replace(&folder, "…")
}

#[test]
fn everything_is_for_this_user_only() {
    let folder = Folder::new();
    let file = folder.0.join("a/b/cache.db");
    let cache = open(&file);
    store(&cache, 1, reply("one"));
    for suffix in ["", "-wal", "-shm"] {
        assert_eq!(mode(&beside(&file, suffix)), 0o600, "{suffix}");
    }
    assert_eq!(mode(&folder.0.join("a")), 0o700);
    assert_eq!(mode(&folder.0.join("a/b")), 0o700);
    end(cache);
}

#[test]
fn what_others_can_write_is_refused() {
    let folder = Folder::new();
    end(open(&folder.file()));
    set_mode(&folder.file(), 0o602);
    assert_eq!(
        refusal(options(&folder.file())),
        "the cache `…/cache.db` can be written by other users"
    );
    set_mode(&folder.file(), 0o600);
    set_mode(&folder.0, 0o777);
    assert_eq!(
        refusal(named(&folder.file())),
        "the folder `…` of the cache can be written by other users"
    );
    set_mode(&folder.0, 0o700);
    end(open(&folder.file()));
}

#[test]
fn a_file_that_is_named_may_lie_where_only_owners_take_files_away() {
    let folder = Folder::new();
    set_mode(&folder.0, 0o1777);
    let (cache, warning) = Cache::open(named(&folder.file())).unwrap();
    assert!(warning.is_none());
    store(&cache, 1, reply("one"));
    end(cache);
    assert_eq!(
        refusal(options(&folder.file())),
        "the folder `…` of the cache can be written by other users"
    );
    // What another user put beside it would be read as a part of it.
    set_mode(&beside(&folder.file(), "-wal"), 0o666);
    assert_eq!(
        refusal(named(&folder.file())),
        "the file `…/cache.db-wal`, a part of the cache, can be written by other users"
    );
}

#[test]
fn what_is_read_only_is_refused() {
    let folder = Folder::new();
    end(open(&folder.file()));
    set_mode(&folder.file(), 0o400);
    assert_eq!(
        refusal(options(&folder.file())),
        "the cache `…/cache.db` is read-only"
    );
    set_mode(&folder.file(), 0o600);
    set_mode(&folder.0, 0o500);
    assert_eq!(
        refusal(options(&folder.file())),
        "the folder `…` of the cache is read-only"
    );
    set_mode(&folder.0, 0o700);
}

#[test]
fn what_is_something_else_is_left_alone() {
    let folder = Folder::new();
    let notes = folder.0.join("notes.txt");
    fs::write(&notes, "my notes, ".repeat(1000)).unwrap();
    assert_eq!(
        refusal(named(&notes)),
        "`…/notes.txt` is no cache of gptpipe and is left as it is"
    );
    assert_eq!(
        fs::read_to_string(&notes).unwrap(),
        "my notes, ".repeat(1000)
    );
    let other = folder.0.join("other.db");
    Connection::open(&other)
        .unwrap()
        .execute_batch("CREATE TABLE mine (a); INSERT INTO mine VALUES (1)")
        .unwrap();
    let before = fs::read(&other).unwrap();
    assert_eq!(
        refusal(named(&other)),
        "`…/other.db` is no cache of gptpipe and is left as it is"
    );
    assert_eq!(fs::read(&other).unwrap(), before);
    assert_eq!(folder.names(), ["notes.txt", "other.db"]);
    for path in [&notes, &other] {
        for error in [
            upkeep::stats(path).unwrap_err(),
            upkeep::prune(path, 1).unwrap_err(),
            upkeep::clear(path).unwrap_err(),
        ] {
            assert!(matches!(error, Error::Usage { .. }), "{error:?}");
        }
    }
    assert_eq!(fs::read(&other).unwrap(), before);
    assert_eq!(folder.names(), ["notes.txt", "other.db"]);
}

#[test]
fn a_damaged_file_that_was_named_is_set_aside_only_if_it_is_a_cache() {
    let folder = Folder::new();
    let file = folder.0.join("mine");
    let (cache, _) = Cache::open(named(&file)).unwrap();
    end(cache);
    let mut bytes = fs::read(&file).unwrap();
    bytes[100..4096].fill(0xff);
    fs::write(&file, &bytes).unwrap();
    let (cache, warning) = Cache::open(named(&file)).unwrap();
    assert!(warning.unwrap().contains("set aside"));
    end(cache);
    // Without its mark it could be anybody's.
    bytes[68] ^= 1;
    fs::write(&file, &bytes).unwrap();
    assert_eq!(
        refusal(named(&file)),
        "`…/mine` is no cache of gptpipe and is left as it is"
    );
}

#[test]
fn a_newer_version_is_left_alone_everywhere() {
    let folder = Folder::new();
    end(open(&folder.file()));
    Connection::open(folder.file())
        .unwrap()
        .pragma_update(None, "user_version", 1000)
        .unwrap();
    for options in [options(&folder.file()), named(&folder.file())] {
        assert_eq!(
            refusal(options),
            "the cache `…/cache.db` was made by a newer gptpipe"
        );
    }
}

#[test]
fn an_older_version_is_brought_up_to_this_one_once() {
    use crate::store::schema::{Kind, migrate, version_of};
    fn kind(steps: &[&'static str]) -> Kind {
        Kind {
            noun: "cache",
            application: 1,
            steps: steps.to_vec().leak(),
            rehearse: |_| Ok(()),
        }
    }
    let folder = Folder::new();
    let path = folder.file();
    Connection::open(&path).unwrap();
    let steps = [
        "CREATE TABLE a (x); INSERT INTO a VALUES (1);",
        "ALTER TABLE a ADD COLUMN y; INSERT INTO a VALUES (2, 2);",
        "INSERT INTO a VALUES (3, 3);",
    ];
    migrate(&Connection::open(&path).unwrap(), &kind(&steps[..1])).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let connection = Connection::open(&path).unwrap();
                connection.busy_timeout(Duration::from_secs(30)).unwrap();
                migrate(&connection, &kind(&steps)).unwrap();
            });
        }
    });
    let connection = Connection::open(&path).unwrap();
    assert_eq!(version_of(&connection).unwrap(), 3);
    let sum: i64 = connection
        .query_row("SELECT sum(x) FROM a", [], |row| row.get(0))
        .unwrap();
    assert_eq!(sum, 6);
    // A step that fails leaves the version before.
    let broken = [
        steps[0],
        steps[1],
        steps[2],
        "DELETE FROM a; DELETE FROM nowhere;",
    ];
    migrate(&connection, &kind(&broken)).unwrap_err();
    assert_eq!(version_of(&connection).unwrap(), 3);
    let left: i64 = connection
        .query_row("SELECT count(*) FROM a", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 3);
}

#[test]
fn there_must_be_a_place_for_a_file() {
    let folder = Folder::new();
    fs::create_dir(folder.file()).unwrap();
    assert_eq!(
        refusal(options(&folder.file())),
        "`…/cache.db`, where the cache should be, is a folder"
    );
    let missing = folder.0.join("missing/cache.db");
    let refused = refusal(named(&missing));
    assert!(
        refused.starts_with("the folder `…` of the cache cannot be used: no such file"),
        "{refused}"
    );
    fs::write(folder.0.join("file"), "").unwrap();
    let under_file = folder.0.join("file/cache.db");
    for options in [named(&under_file), options(&under_file)] {
        let refused = refusal(options);
        assert!(
            refused.starts_with("the folder `…` of the cache cannot be made: file exists")
                || refused.starts_with("`…`, where the cache should be, is no folder"),
            "{refused}"
        );
    }
    let socket = folder.0.join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert_eq!(
        refusal(named(&socket)),
        "`…/socket`, where the cache should be, is no regular file"
    );
    let nul = folder.0.join("a\0b");
    Cache::open(named(&nul)).unwrap_err();
}

#[test]
fn an_empty_file_and_a_link_are_as_good_as_a_name() {
    let folder = Folder::new();
    let file = folder.0.join("real");
    fs::write(&file, "").unwrap();
    let link = folder.0.join("link");
    symlink("real", &link).unwrap();
    let (cache, warning) = Cache::open(named(&link)).unwrap();
    assert_eq!(warning, None);
    store(&cache, 1, reply("one"));
    end(cache);
    assert_eq!(mode(&file), 0o600);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let (cache, _) = Cache::open(named(&file)).unwrap();
    assert_eq!(cache.lookup(&key(1)), Some(reply("one")));
    assert_eq!(folder.names(), ["link", "real", "real-shm", "real-wal"]);
    end(cache);
}

#[test]
fn a_file_whose_log_somebody_switched_off_is_used() {
    let folder = Folder::new();
    let cache = open(&folder.file());
    store(&cache, 1, reply("one"));
    end(cache);
    let tool = Connection::open(folder.file()).unwrap();
    let mut journal = String::new();
    // The thread of the cache above may not have let go yet.
    while journal != "delete" {
        if let Ok(now) = tool.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0)) {
            journal = now;
        }
    }
    drop(tool);
    let cache = open(&folder.file());
    assert_eq!(cache.lookup(&key(1)), Some(reply("one")));
    store(&cache, 2, reply("two"));
    assert!(beside(&folder.file(), "-wal").exists());
    end(cache);
}
