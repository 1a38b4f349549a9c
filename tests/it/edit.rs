//! `--in-place`: files replaced by what comes of them, whole or not at all.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use rustix::process::Signal;

use crate::harness::{Folder, gptpipe};
use crate::server::{Answer, Gate, Server};

/// Shouts.
fn shouter() -> Server {
    Server::start(|request| match &*request.text {
        "bad" => Answer::error("400 Bad Request", "odd", "no such thing"),
        text => request.reply([&*text.to_uppercase()]),
    })
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

/// The names in a folder, but for the homes of what ran.
fn names(home: &Folder) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(home.path.join("texts"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn each_file_is_replaced_and_stays_what_it_was_besides() {
    let server = shouter();
    let home = Folder::home();
    let one = home.write("texts/one", "one.\n\ntwo.\n");
    let two = home.write("texts/two", "\n  three");
    let empty = home.write("texts/empty", "");
    fs::set_permissions(&one, fs::Permissions::from_mode(0o750)).unwrap();
    gptpipe()
        .at(&home)
        .ask(&server)
        .args(["-i", "-b", "paragraph", "p"])
        .args([&one, &empty, &two])
        .run()
        .ok()
        .stdout("");
    assert_eq!(read(&one), "ONE.\n\nTWO.\n");
    assert_eq!(read(&two), "\n  THREE");
    assert_eq!(read(&empty), "");
    assert_eq!(fs::metadata(&one).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(
        names(&home),
        ["empty", "one", "two"],
        "nothing stays behind"
    );
}

#[test]
fn the_old_file_is_kept_where_that_is_asked_for() {
    let server = shouter();
    for (args, kept) in [
        (&["-i", "--backup", ".bak"][..], "texts/a.bak"),
        (&["-i.bak"], "texts/a.bak"),
        (&["-qi~"], "texts/a~"),
        (&["--in-place=.old"], "texts/a.old"),
        (&["-i", "--backup", "old-*"], "texts/old-a"),
        (&["-i", "--backup=kept/*.1"], "texts/kept/a.1"),
    ] {
        let home = Folder::home();
        let file = home.write("texts/a", "text");
        fs::create_dir(home.path.join("texts/kept")).unwrap();
        home.write(kept, "an older one");
        gptpipe()
            .at(&home)
            .ask(&server)
            .args(args)
            .arg("p")
            .arg(&file)
            .run()
            .ok();
        assert_eq!(read(&file), "TEXT", "{args:?}");
        assert_eq!(read(home.path.join(kept)), "text", "{args:?}");
    }
}

#[test]
fn an_older_backup_stays_where_there_can_be_no_other() {
    let server = shouter();
    let home = Folder::home();
    let file = home.write("texts/a", "text");
    // A folder of that name cannot be replaced by a file.
    home.write("texts/a.bak/inside", "an older one");
    gptpipe()
        .at(&home)
        .ask(&server)
        .args(["-i.bak", "p"])
        .arg(&file)
        .run()
        .status(74)
        .one_message()
        .says("a`, which is as it was: ");
    assert_eq!(read(&file), "text");
    assert_eq!(read(home.path.join("texts/a.bak/inside")), "an older one");
    assert_eq!(names(&home), ["a", "a.bak"], "nothing stays behind");
}

#[test]
fn a_file_that_cannot_be_replaced_ends_the_run() {
    let server = shouter();
    let home = Folder::home();
    let files: Vec<_> = (10..50)
        .map(|number| home.write(&format!("texts/{number}"), format!("text {number}")))
        .collect();
    home.write("texts/10.bak/inside", "an older one");
    let run = gptpipe().at(&home).ask(&server);
    let run = run.args(["-i.bak", "-j", "1", "p"]).args(&files).run();
    run.status(74).says("10`, which is as it was: ");
    assert!(
        server.calls() < 10,
        "{} files are asked about behind it",
        server.calls()
    );
    assert_eq!(read(&files[39]), "text 49");
}

#[test]
fn a_link_stays_one() {
    let server = shouter();
    let home = Folder::home();
    let file = home.write("texts/a", "text");
    let link = home.path.join("texts/link");
    symlink("a", &link).unwrap();
    gptpipe()
        .at(&home)
        .ask(&server)
        .args(["-i", "p"])
        .arg(&link)
        .run()
        .ok();
    assert_eq!(read(&file), "TEXT");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[test]
fn a_file_of_which_a_chunk_failed_is_left_as_it_was() {
    let server = shouter();
    for on_error in ["skip", "keep", "stop"] {
        let home = Folder::home();
        let good = home.write("texts/1", "good\n");
        let bad = home.write("texts/2", "good\n\nbad\n");
        let last = home.write("texts/3", "last\n");
        let run = gptpipe()
            .at(&home)
            .ask(&server)
            .args(["-i", "-b", "paragraph", "--on-error", on_error, "p"])
            .args([&good, &bad, &last])
            .run();
        let goes_on = on_error != "stop";
        run.status(if goes_on { 1 } else { 69 }).stdout("");
        assert_eq!(read(&good), "GOOD\n");
        assert_eq!(read(&bad), "good\n\nbad\n", "{on_error}");
        assert_eq!(read(&last), if goes_on { "LAST\n" } else { "last\n" });
        if goes_on {
            run.says("2 is not replaced: not all of it was answered");
        }
        assert_eq!(names(&home), ["1", "2", "3"], "nothing stays behind");
    }
}

#[test]
fn an_interrupted_run_and_one_that_is_killed_leave_every_file_whole() {
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        let gate = Gate::default();
        let held = gate.clone();
        let server = Server::start(move |request| {
            let answer = request.reply([&*request.text.to_uppercase()]);
            if request.text == "two" {
                answer.behind(&held)
            } else {
                answer
            }
        });
        let home = Folder::home();
        let one = home.write("texts/1", "one\n");
        let two = home.write("texts/2", "first\n\ntwo\n");
        let run = gptpipe()
            .at(&home)
            .ask(&server)
            .args(["-i", "-b", "paragraph", "p"])
            .args([&one, &two])
            .start();
        server.wait(|log| log.calls == 3);
        while read(&one) != "ONE\n" {
            std::thread::yield_now();
        }
        if signal == Signal::KILL {
            run.kill();
        } else {
            run.signal(signal);
            run.finish().killed_by(signal);
        }
        assert_eq!(read(&two), "first\n\ntwo\n");
        if signal != Signal::KILL {
            assert_eq!(names(&home), ["1", "2"], "nothing stays behind");
        }
        gate.open();
        // What was answered need not be asked for again.
        gptpipe()
            .at(&home)
            .ask(&server)
            .args(["-i", "-b", "paragraph", "p"])
            .arg(&two)
            .run()
            .ok();
        assert_eq!(read(&two), "FIRST\n\nTWO\n");
    }
}

#[test]
fn a_file_that_somebody_else_changes_meanwhile_is_left_to_them() {
    let gate = Gate::default();
    let held = gate.clone();
    let server = Server::start(move |request| request.reply(["new"]).behind(&held));
    let home = Folder::home();
    let file = home.write("texts/a", "old");
    let run = gptpipe()
        .at(&home)
        .ask(&server)
        .args(["-i", "p"])
        .arg(&file)
        .start();
    server.wait(|log| log.calls == 1);
    fs::write(&file, "theirs, and longer").unwrap();
    gate.open();
    run.finish()
        .status(1)
        .says("a is not replaced: somebody changed it meanwhile");
    assert_eq!(read(&file), "theirs, and longer");
    assert_eq!(names(&home), ["a"]);
}

/// As `sed -i` takes a file that is named twice, but for the second pass.
#[test]
fn a_file_that_is_named_twice_is_replaced_once() {
    let server = Server::start(|request| request.reply([&*format!("<{}>", request.text)]));
    let home = Folder::home();
    let one = home.write("texts/one", "one\n");
    home.write("texts/two", "two\n");
    symlink("one", home.path.join("texts/link")).unwrap();
    fs::hard_link(&one, home.path.join("texts/hard")).unwrap();
    let ask = |args: &[&str]| {
        let ask = gptpipe().at(&home).ask(&server).forgetful().args(args);
        ask.run()
    };
    ask(&["-i", "p", "texts/one", "texts/two", "texts/one"])
        .ok()
        .stdout("");
    assert_eq!(server.calls(), 2);
    ask(&["-i", "--backup=.bak", "p", "texts/link", "./texts/one"])
        .ok()
        .stdout("");
    assert_eq!(server.calls(), 3);
    assert_eq!(read(&one), "<<one>>\n");
    assert_eq!(read(home.path.join("texts/two")), "<two>\n");
    assert_eq!(read(home.path.join("texts/one.bak")), "<one>\n");
    // Another hard link is a file of its own.
    let hard = home.path.join("texts/hard");
    assert_eq!(read(&hard), "one\n");
    fs::hard_link(&hard, home.path.join("texts/harder")).unwrap();
    ask(&["-i", "p", "texts/hard", "texts/harder"]).ok();
    assert_eq!(read(&hard), "<one>\n");
    assert_eq!(read(home.path.join("texts/harder")), "<one>\n");
    // A backup is in nobody's way.
    home.write("texts/sub/one", "other\n");
    let calls = server.calls();
    ask(&["-i", "--backup=.bak", "p", "texts/one", "texts/one.bak"])
        .status(2)
        .one_message()
        .says("the backup of `texts/one` would be a file that is to be replaced");
    let kept = format!("--backup={}/*.bak", home.path.display());
    ask(&["-i", &kept, "p", "texts/one", "texts/sub/one"])
        .status(2)
        .one_message()
        .says("the backup of `texts/sub/one` would be the backup of another file");
    assert_eq!(server.calls(), calls);
}

#[test]
fn what_cannot_be_replaced_is_told_before_anything_is_sent() {
    let server = shouter();
    let home = Folder::home();
    let file = home.write("texts/a", "text");
    let ask = |args: &[&str]| gptpipe().at(&home).ask(&server).args(args).arg(&file).run();
    let cases: [(&[&str], &str); 6] = [
        (&["-i", "--backup", "*", "p"], "would be the file itself"),
        (&["-i", "p", "-"], "standard input is none"),
        (&["-i", "-R", "m", "p"], "exclude each other"),
        (&["-i", "--format=jsonl", "p"], "exclude each other"),
        (&["--backup=.bak", "p"], "`--backup` is for what"),
        (&["-i", "--backup=no/such/*", "p"], "there can be no backup"),
    ];
    for (args, words) in cases {
        ask(args).status(2).one_message().says(words);
    }
    gptpipe()
        .ask(&server)
        .args(["-i", "p"])
        .input("text")
        .run()
        .status(2)
        .one_message()
        .says("standard input is none");
    ask(&["-i", "p", "/no/such/file"]).status(66).one_message();
    ask(&["-i", "p", "/dev/null"])
        .status(2)
        .one_message()
        .says("no regular file");
    assert_eq!(server.calls(), 0);
    assert_eq!(read(&file), "text");
}
