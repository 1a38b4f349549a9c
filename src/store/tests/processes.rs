//! Many processes at one file: each is this test program again, told by a variable what to be.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use rusqlite::Connection;

use super::*;
use crate::store::{file, upkeep};

/// What a process of ours is told: its part and the file.
const PART: &str = "GPTPIPE_STORE_TEST_PART";
const FILE: &str = "GPTPIPE_STORE_TEST_FILE";

/// What a process prints for another to wait for.
const READY: &str = "@ready";

/// This program as a process with that part.
fn process(part: &str, file: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(THE_PART).env(PART, part).env(FILE, file);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// The arguments that make the test program run nothing but [`part`].
const THE_PART: [&str; 4] = [
    "--exact",
    "store::tests::processes::part",
    "--ignored",
    "--nocapture",
];

/// No test but what the processes of the tests do.
#[test]
#[ignore = "the other tests run it as a process"]
fn part() {
    let (Ok(part), Ok(file)) = (std::env::var(PART), std::env::var(FILE)) else {
        return;
    };
    let file = PathBuf::from(file);
    let mut words = part.split(' ');
    match (words.next(), words.next()) {
        (Some("share"), Some(number)) => share(&file, number.parse().unwrap()),
        (Some("mend"), Some(number)) => mend(&file, number.parse().unwrap()),
        (Some("write"), _) => write(&file),
        (Some("full"), _) => full(&file),
        other => panic!("{other:?}"),
    }
}

/// Says something to whoever started this process, on a line of its own.
fn say(words: &str) {
    let mut stdout = std::io::stdout();
    stdout.write_all(format!("\n{words}\n").as_bytes()).unwrap();
    stdout.flush().unwrap();
}

/// Waits until standard input ends.
fn wait_for_start() {
    std::io::read_to_string(std::io::stdin()).unwrap();
}

const SHARED: u64 = 40;

/// Opens the cache when everybody does, and sees to it that all shared entries are there.
fn share(file: &Path, number: u64) {
    say(READY);
    wait_for_start();
    let (cache, warning) = Cache::open(options(file)).unwrap();
    assert_eq!(warning, None);
    for step in 0..SHARED {
        let entry = (step + number) % SHARED;
        let text = format!("shared {entry}");
        match cache.lookup(&key(entry)) {
            Some(found) => assert_eq!(found, reply(&text)),
            None => store(&cache, entry, reply(&text)),
        }
        let own = 1000 * (number + 1) + step;
        store(&cache, own, reply(&format!("own {own}")));
    }
    end(cache);
}

#[test]
fn the_first_entry_is_not_lost_where_another_process_writes() {
    let folder = Folder::new();
    let cache = open(&folder.file());
    let other = Connection::open(folder.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    block_on(async {
        let mut stored = std::pin::pin!(cache.store(key(1), reply("one")));
        // Who else waits on this thread goes on meanwhile.
        assert!(futures::poll!(stored.as_mut()).is_pending());
        other.execute_batch("COMMIT").unwrap();
        assert!(stored.await);
    });
    end(cache);
    assert_eq!(open(&folder.file()).lookup(&key(1)), Some(reply("one")));
}

#[test]
fn the_first_entry_goes_into_the_file_that_took_the_place_of_another() {
    let folder = Folder::new();
    let cache = open(&folder.file());
    for suffix in ["", "-wal", "-shm"] {
        let old = file::beside(&folder.file(), suffix);
        fs::rename(&old, file::beside(&old, ".old")).unwrap();
    }
    end(open(&folder.file()));
    store(&cache, 1, reply("one"));
    end(cache);
    assert_eq!(open(&folder.file()).lookup(&key(1)), Some(reply("one")));
}

/// Lets them all go at once and gives what they said; all must succeed.
fn run_together(children: Vec<Child>) -> Vec<String> {
    let mut all = Vec::new();
    let mut children: Vec<(Child, BufReader<_>)> = children
        .into_iter()
        .map(|mut child| {
            let stdout = BufReader::new(child.stdout.take().unwrap());
            (child, stdout)
        })
        .collect();
    for (_, stdout) in &mut children {
        wait_for(stdout, READY);
    }
    for (child, _) in &mut children {
        drop(child.stdin.take());
    }
    for (mut child, stdout) in children {
        let said: Vec<String> = stdout.lines().map(Result::unwrap).collect();
        assert!(child.wait().unwrap().success(), "{said:#?}");
        all.extend(said);
    }
    all
}

fn wait_for(stdout: &mut impl BufRead, words: &str) -> Vec<String> {
    let mut said = Vec::new();
    for line in stdout.lines().map(Result::unwrap) {
        if line == words {
            return said;
        }
        said.push(line);
    }
    panic!("no {words:?} in {said:#?}");
}

#[test]
fn sixty_four_processes_make_and_use_one_file() {
    const COUNT: u64 = 64;
    let folder = Folder::new();
    let children = (0..COUNT)
        .map(|number| {
            process(&format!("share {number}"), &folder.file())
                .spawn()
                .unwrap()
        })
        .collect();
    run_together(children);
    let cache = open(&folder.file());
    for entry in 0..SHARED {
        let text = format!("shared {entry}");
        assert_eq!(cache.lookup(&key(entry)), Some(reply(&text)));
    }
    for number in 0..COUNT {
        for step in 0..SHARED {
            let own = 1000 * (number + 1) + step;
            assert_eq!(cache.lookup(&key(own)), Some(reply(&format!("own {own}"))));
        }
    }
    assert_eq!(folder.names(), ["cache.db", "cache.db-shm", "cache.db-wal"]);
    end(cache);
}

/// Opens a damaged cache when everybody does, and stores an entry.
fn mend(file: &Path, number: u64) {
    say(READY);
    wait_for_start();
    let (cache, warning) = Cache::open(options(file)).unwrap();
    store(&cache, number, reply("mended"));
    end(cache);
    if warning.is_some() {
        say("@set aside");
    }
}

#[test]
fn many_processes_set_a_damaged_file_aside_once() {
    const COUNT: u64 = 16;
    for round in 1..4 {
        let folder = Folder::new();
        fs::write(folder.file(), "no database".repeat(100 * round)).unwrap();
        let children = (0..COUNT)
            .map(|number| {
                process(&format!("mend {number}"), &folder.file())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let said = run_together(children);
        let count = said.iter().filter(|line| *line == "@set aside").count();
        assert_eq!(count, 1, "{said:#?}");
        // Nobody's entry went into a file that another set aside.
        let cache = open(&folder.file());
        for number in 0..COUNT {
            assert_eq!(cache.lookup(&key(number)), Some(reply("mended")));
        }
        assert_eq!(folder.names().len(), 4, "{:?}", folder.names());
        end(cache);
    }
}

/// Stores without end, and says what is acknowledged.
fn write(file: &Path) {
    let (cache, _) = Cache::open(options(file)).unwrap();
    for number in 0.. {
        store(&cache, number, reply(&format!("{number}").repeat(300)));
        say(&format!("@{number}"));
    }
}

#[test]
fn a_kill_loses_nothing_that_was_acknowledged() {
    let folder = Folder::new();
    for round in 0..12 {
        let mut child = process("write", &folder.file()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        wait_for(&mut stdout, &format!("@{}", 37 * round));
        child.kill().unwrap();
        let last = stdout
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix('@')?.parse().ok())
            .last()
            .unwrap_or(37 * round);
        child.wait().unwrap();
        let cache = open(&folder.file());
        for number in 0..=last {
            let text = format!("{number}").repeat(300);
            assert_eq!(cache.lookup(&key(number)), Some(reply(&text)), "{number}");
        }
        end(cache);
        upkeep::clear(&folder.file()).unwrap();
    }
}

/// Stores until there is no room, and goes on.
fn full(file: &Path) {
    let (cache, _) = Cache::open(options(file)).unwrap();
    let mut stored = 0;
    while block_on(cache.store(key(stored), reply(&"x".repeat(2000)))) {
        stored += 1;
        assert!(stored < 10_000);
    }
    let trouble = cache.take_trouble().unwrap();
    let begin = format!("the cache `{}` fails: ", file.display());
    assert!(trouble.starts_with(&begin), "{trouble}");
    assert!(
        trouble.ends_with("; this run remembers nothing more"),
        "{trouble}"
    );
    assert!(!block_on(cache.store(key(stored), reply("small"))));
    for number in 0..stored {
        assert!(cache.lookup(&key(number)).is_some(), "{number} of {stored}");
    }
    block_on(cache.finish());
    assert_eq!(cache.take_trouble(), None);
    say(&format!("@stored {stored}"));
}

/// The system lets no file grow beyond a size; writing more fails as it does on a full disk.
#[test]
fn where_there_is_no_room_the_run_goes_on() {
    let folder = Folder::new();
    let mut shell = Command::new("/bin/sh");
    let output = shell
        .args(["-c", r#"trap "" XFSZ; ulimit -f 1000; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(THE_PART)
        .env(PART, "full")
        .env(FILE, folder.file())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    let stored: u64 = said
        .lines()
        .find_map(|line| line.strip_prefix("@stored ")?.parse().ok())
        .unwrap();
    assert!(stored > 20, "{stored}");
    // With room again, all that was acknowledged is there and more can come.
    let cache = open(&folder.file());
    for number in 0..stored {
        assert!(cache.lookup(&key(number)).is_some(), "{number} of {stored}");
    }
    store(&cache, stored, reply("one more"));
    end(cache);
}
