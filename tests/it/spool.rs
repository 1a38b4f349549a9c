//! The spool of contrib/systemd, as its service runs it: each file that comes is done once, whole, and none is lost.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::harness::{BINARY, Folder, Gptpipe, Random, Running, tool};
use crate::server::{Answer, Gate, Request, Server};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/systemd/spool");

/// A spool in a home of its own.
struct Spool {
    home: Arc<Folder>,
    server: Server,
}

impl Spool {
    fn new(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let home = Folder::home();
        fs::create_dir_all(home.path.join("spool/in")).unwrap();
        let server = Server::start(script);
        Self { home, server }
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.home.path.join("spool").join(name)
    }

    /// Puts a file there as people are told to: under a hidden name first.
    fn drop(&self, name: impl AsRef<OsStr>, text: impl AsRef<[u8]>) {
        drop_into(&self.path("in"), name.as_ref(), text.as_ref());
    }

    fn run(&self, jobs: usize, options: &[&str]) -> Gptpipe {
        let jobs = jobs.to_string();
        let spool = tool("/bin/sh").at(&self.home).ask(&self.server).patient();
        spool
            .args([SCRIPT, "-j", &jobs])
            .arg(self.path(""))
            .args([BINARY, "-q", "--retries", "0", "say it again"])
            .args(options)
    }

    fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// What a folder holds, by name; links are not followed.
    fn names(&self, folder: &str) -> Vec<OsString> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else {
            return Vec::new();
        };
        let mut names: Vec<OsString> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    fn holds(&self, folder: &str, expected: &[&str]) {
        assert_eq!(self.names(folder), expected, "{folder}");
    }
}

fn drop_into(folder: &Path, name: &OsStr, text: &[u8]) {
    let hidden = folder.join(".written");
    fs::write(&hidden, text).unwrap();
    fs::rename(&hidden, folder.join(name)).unwrap();
}

/// Ends the spool and all that it runs, as a service manager does at the worst.
fn kill_all(run: Running) {
    let leader = Pid::from_raw(i32::try_from(run.id()).unwrap()).unwrap();
    let _ = kill_process_group(leader, Signal::KILL);
    run.kill();
}

/// Refuses a text with `poison` for good, and one with `outage` for now.
fn moody(request: &Request) -> Answer {
    if request.text.contains("poison") {
        return Answer::error("400 Bad Request", "invalid_value", "this text is refused");
    }
    if request.text.contains("outage") {
        return Answer::error("503 Service Unavailable", "overloaded", "back soon");
    }
    request.echo()
}

#[test]
fn each_file_is_done_and_its_reply_stands_beside_it() {
    let spool = Spool::new(Request::echo);
    spool.drop("a.txt", "one");
    spool.drop("b c.txt", "two");
    fs::write(spool.path("in/.half"), "not yet").unwrap();
    spool.run(1, &[]).run().status(0).stdout("").stderr("");
    spool.holds("done", &["a.txt", "a.txt.out", "b c.txt", "b c.txt.out"]);
    spool.holds("in", &[".half"]);
    spool.holds("failed", &[]);
    assert_eq!(spool.read("done/a.txt.out"), "one");
    assert_eq!(spool.read("done/b c.txt"), "two");

    // What is said of a file that is done, such as a warning, goes to the journal.
    spool.drop("d.txt", "four");
    spool.run(1, &["-v"]).run().status(0).says("chunk 1");
    assert_eq!(spool.read("done/d.txt.out"), "four");

    // The same name again: both are there.
    spool.drop("a.txt", "three");
    spool.run(1, &[]).run().status(0);
    assert_eq!(spool.read("done/a.txt"), "one");
    assert_eq!(spool.read("done/a.txt.2"), "three");
    assert_eq!(spool.read("done/a.txt.2.out"), "three");
}

#[test]
fn what_fails_by_its_own_fault_is_set_aside_with_the_reason() {
    let spool = Spool::new(moody);
    spool.drop("bad.txt", "poison");
    spool.drop("latin1.txt", b"caf\xe9 au lait");
    spool.drop("zz.txt", "the others go on");
    let run = spool.run(1, &[]).run();
    run.status(0).says("`bad.txt` failed with status 69");
    spool.holds("done", &["zz.txt", "zz.txt.out"]);
    let reason = spool.read("failed/bad.txt.reason");
    assert!(reason.contains("this text is refused"), "{reason}");
    assert!(reason.ends_with("the status was 69\n"), "{reason}");
    let reason = spool.read("failed/latin1.txt.reason");
    assert!(reason.contains("UTF-8"), "{reason}");
    assert!(reason.ends_with("the status was 65\n"), "{reason}");
    assert_eq!(spool.read("failed/bad.txt"), "poison");

    // Not all of it failed, and what there is of a reply is kept.
    spool.drop("half.txt", "good.\n\npoison.\n\nbetter.\n");
    let options = ["-b", "paragraph", "--on-error", "skip"];
    spool.run(1, &options).run().status(0);
    let reason = spool.read("failed/half.txt.reason");
    assert!(reason.ends_with("the status was 1\n"), "{reason}");
    let out = spool.read("failed/half.txt.out");
    assert!(out.contains("good.") && out.contains("better."), "{out}");
    assert!(!out.contains("poison"), "{out}");
}

#[test]
fn what_is_nobodys_fault_is_kept_for_the_next_run() {
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let outage = Arc::clone(&is_over);
    let spool = Spool::new(move |request| {
        if outage.load(std::sync::atomic::Ordering::Relaxed) {
            return request.echo();
        }
        moody(request)
    });
    spool.drop("a.txt", "outage");
    spool.drop("b.txt", "outage too");
    let run = spool.run(1, &[]).run();
    run.status(75)
        .says("`a.txt` is kept for the next run: status 75")
        .says("back soon");
    spool.holds("in", &["b.txt"]);
    spool.holds("done", &[]);
    spool.holds("failed", &[]);

    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    spool.run(1, &[]).run().status(0);
    spool.holds("done", &["a.txt", "a.txt.out", "b.txt", "b.txt.out"]);
}

#[test]
fn a_run_that_is_killed_loses_no_file() {
    let gate = Gate::default();
    let spool = {
        let gate = gate.clone();
        Spool::new(move |request| request.echo().behind(&gate))
    };
    for name in ["a", "b", "c"] {
        spool.drop(name, name);
    }
    let run = spool.run(2, &[]).start();
    spool.server.wait(|log| log.calls == 2);
    kill_all(run);
    spool.holds("done", &[]);
    gate.open();
    spool.run(1, &[]).run().status(0);
    spool.holds("done", &["a", "a.out", "b", "b.out", "c", "c.out"]);
}

/// A link to a key would send the key away, and the reply could give it back.
#[test]
fn only_files_are_read() {
    let spool = Spool::new(Request::echo);
    let secret = spool.home.write("secret", "sk-of-another");
    std::os::unix::fs::symlink(&secret, spool.path("in/link")).unwrap();
    std::os::unix::fs::symlink("nowhere", spool.path("in/broken")).unwrap();
    fs::create_dir(spool.path("in/folder")).unwrap();
    fs::write(spool.path("in/folder/file"), "inside").unwrap();
    spool.drop("file", "text");
    let run = spool.run(1, &[]).run();
    run.status(0).says("`link` failed: not a file");
    spool.holds("in", &[]);
    spool.holds("done", &["file", "file.out"]);
    spool.holds(
        "failed",
        &[
            "broken",
            "broken.reason",
            "folder",
            "folder.reason",
            "link",
            "link.reason",
        ],
    );
    assert_eq!(spool.server.only_request().text, "text");
}

#[test]
fn a_wrong_command_line_and_anothers_folder_are_told() {
    let spool = Spool::new(Request::echo);
    let bare = |args: &[&str]| tool("/bin/sh").arg(SCRIPT).args(args).run();
    bare(&[]).status(2).says("usage: spool");
    bare(&["-j", "0", "x", "y"]).status(2).says("`-j 0`");
    bare(&["/nowhere", "true"]).status(2);
    // Others could put a link in the place of a file there.
    let work = spool.path(".work");
    fs::create_dir(&work).unwrap();
    let anyone = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(&work, anyone).unwrap();
    spool.drop("file", "text");
    spool
        .run(1, &[])
        .run()
        .status(2)
        .says("`.work` is not this user's own");
    spool.holds("in", &["file"]);
}

/// Files of any name, some of them the same, that come while others are worked on and while runs are killed.
#[test]
fn nothing_that_comes_is_ever_lost() {
    const PIECES: [&[u8]; 14] = [
        b"a",
        b"b.out",
        b"c.reason",
        b"-n",
        b"--help",
        b" ",
        b"\n",
        b"*",
        b"'",
        b"\"",
        b"\\",
        b"$(x)",
        b"\xff\xfe",
        b"~",
    ];
    let mut random = Random::new();
    let spool = Spool::new(moody);
    let mut files = Vec::new();
    for number in 0..60 {
        let mut name: Vec<u8> = Vec::new();
        for _ in 0..=random.below(3) {
            name.extend(*random.pick(&PIECES));
        }
        if random.below(10) == 0 {
            name = name.repeat(80);
            name.truncate(255);
        }
        let kind = if random.below(5) == 0 {
            "poison"
        } else {
            "text"
        };
        files.push((OsString::from_vec(name), format!("{kind} {number}")));
    }
    let expected: BTreeMap<String, bool> = files
        .iter()
        .map(|(_, text)| (text.clone(), text.starts_with("text")))
        .collect();
    let folder = spool.path("in");
    let people = thread::spawn(move || {
        for (name, text) in files {
            // One that nobody has taken yet must not be written over, as people would see.
            while folder.join(&name).symlink_metadata().is_ok() {
                thread::yield_now();
            }
            drop_into(&folder, &name, text.as_bytes());
        }
    });
    // As the path unit does: again, as long as there is something.
    let mut round = 0;
    while !people.is_finished() || !spool.names("in").is_empty() || round < 3 {
        let run = spool.run(1 + random.below(4), &[]).start();
        round += 1;
        if round % 3 == 0 {
            kill_all(run);
        } else {
            run.finish().status(0);
        }
    }
    people.join().unwrap();
    spool.run(1, &[]).run().status(0);

    let mut found = BTreeMap::new();
    for (folder, suffix) in [("done", ".out"), ("failed", ".reason")] {
        for name in spool.names(folder) {
            let text = fs::read_to_string(spool.path(folder).join(&name)).unwrap();
            let mut beside = name.clone().into_vec();
            beside.extend(suffix.as_bytes());
            let beside = spool.path(folder).join(OsStr::from_bytes(&beside));
            let Ok(what) = fs::read_to_string(beside) else {
                continue; // it is itself what stands beside another
            };
            if folder == "done" {
                assert_eq!(what, text, "the reply of {}", name.display());
            } else {
                assert!(what.contains("refused"), "{what}");
            }
            let earlier = found.insert(text.clone(), folder == "done");
            assert!(earlier.is_none(), "{text} is there twice");
        }
    }
    assert_eq!(found, expected);
}
