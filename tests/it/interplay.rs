//! Beside other tools: what people build around gptpipe in a shell, with the real tools.

use crate::harness::{Folder, Gptpipe, lines, tool};
use crate::server::{Answer, Gate, Server};

/// A bash script in which `gptpipe` is the program, and a pipeline fails where any part of it does.
fn bash(script: &str) -> Gptpipe {
    tool("bash").args(["-c", &format!("set -o pipefail\n{script}")])
}

#[test]
fn grep_and_xargs_find_and_ask() {
    let server = Server::echo();
    let home = Folder::home();
    for name in ["a.txt", "b b.txt", "c\nc.txt", "d.txt"] {
        home.write(&format!("in/{name}"), format!("TODO in {}\n", name.len()));
    }
    home.write("in/none.txt", "nothing\n");
    bash("grep -lZr TODO in | xargs -0 -P8 -n1 gptpipe p | sort")
        .at(&home)
        .ask(&server)
        .run()
        .ok()
        .stdout("TODO in 5\nTODO in 5\nTODO in 7\nTODO in 7\n");
    bash("find in -name '*.txt' -exec gptpipe p {} + | sort | uniq -c | wc -l")
        .at(&home)
        .ask(&server)
        .run()
        .ok()
        .stdout("3\n");
    // Processes that ask the same at the same moment do not wait for each other.
    assert!(
        (3..=5).contains(&server.calls()),
        "{} calls",
        server.calls()
    );
}

#[test]
fn lines_of_jobs_side_by_side_stay_whole() {
    let server = Server::echo();
    let home = Folder::home();
    let mut expected = Vec::new();
    for file in 0..16 {
        let letter = char::from(b'a' + file);
        let text: Vec<String> = (100..200)
            .map(|line| format!("{letter}{line} {}", letter.to_string().repeat(90)))
            .collect();
        home.write(&format!("in/{letter}"), text.join("\n") + "\n");
        expected.extend(text);
    }
    bash("grep -l . in/* | xargs -P8 -n1 gptpipe -b line p | LC_ALL=C sort | uniq")
        .at(&home)
        .ask(&server)
        .run()
        .ok()
        .stdout(expected.join("\n") + "\n");
    assert_eq!(server.calls(), expected.len());
}

#[test]
fn xargs_stops_when_every_further_job_would_fail() {
    let server =
        Server::start(|_| Answer::error("401 Unauthorized", "invalid_api_key", "no such key"));
    let run = bash("seq 100 | xargs -P2 -n1 sh -c 'echo $0 | gptpipe p'")
        .ask(&server)
        .env("GPTPIPE_API_KEY", "wrong")
        .run();
    run.status(124).says("exited with status 255; aborting");
    assert!(server.calls() <= 4, "{} jobs", server.calls());
}

#[test]
fn jq_reads_what_is_written_for_it() {
    let server = Server::echo();
    bash("gptpipe -b line --format jsonl p | jq -rc '[.index, .text] | @tsv'")
        .ask(&server)
        .input("one\n\ntwo\n")
        .run()
        .ok()
        .stdout("1\tone\n2\ttwo\n");
}

#[test]
fn jq_takes_what_follows_a_schema_as_it_comes() {
    let server = Server::start(|request| {
        let name = &*request.text;
        request.reply(["```json\n{\"name\": \"", name, "\",\n \"age\": 36}\n```"])
    });
    let home = Folder::home();
    let schema = r#"{"type": "object", "properties": {"name": {"type": "string"}}}"#;
    home.write("schema", schema);
    bash("gptpipe -b line --schema schema p | jq -c '[.name, .age + 1]'")
        .at(&home)
        .ask(&server)
        .input("Ada\nGrace\n")
        .run()
        .ok()
        .stdout("[\"Ada\",37]\n[\"Grace\",37]\n");
}

#[test]
fn join_finds_the_line_of_each_key() {
    let server = Server::echo();
    let home = Folder::home();
    home.write("text", "1 one\n2 two\n3 three\n");
    home.write("other", "1 eins\n3 drei\n");
    bash("join <(gptpipe -b line p text) other")
        .at(&home)
        .ask(&server)
        .run()
        .ok()
        .stdout("1 one eins\n3 three drei\n");
}

/// A name that is not text can only be handed on as the bytes that it is.
#[test]
fn a_file_name_of_any_bytes_is_found() {
    let server = Server::echo();
    let home = Folder::home();
    let script =
        r"mkdir in && echo odd > $'in/\xff\n-n' && printf 'in/\xff\n-n\0' | xargs -0 gptpipe p";
    bash(script)
        .at(&home)
        .ask(&server)
        .run()
        .ok()
        .stdout("odd\n");
    bash("find in -type f -print0 | xargs -0 gptpipe --format jsonl p | jq -r .text")
        .at(&home)
        .ask(&server)
        .run()
        .ok()
        .stdout("odd\n");
}

#[test]
fn tee_and_paste_keep_lines_beside_each_other() {
    let server = Server::start(|request| request.reply([&*request.text.to_uppercase(), "\n!"]));
    let home = Folder::home();
    home.write("names", "ada\n\ngrace\n");
    bash(
        "gptpipe -b line p names | tee copy | paste names - && cmp copy <(gptpipe -b line p names)",
    )
    .at(&home)
    .ask(&server)
    .run()
    .ok()
    .stdout("ada\tADA !\n\t\ngrace\tGRACE !\n");
    assert_eq!(server.calls(), 2);
}

#[test]
fn head_ends_it_quietly_and_what_is_not_needed_is_not_asked_for() {
    let server = Server::echo();
    let run = bash("seq 100000 | gptpipe -b line -j 2 p | head -n 1; echo ${PIPESTATUS[@]}")
        .ask(&server)
        .run();
    run.status(0).stderr("");
    let stdout = String::from_utf8(run.stdout.clone()).unwrap();
    // The one who counts may have been through by then.
    assert!(
        ["1\n141 141 0\n", "1\n0 141 0\n"].contains(&&*stdout),
        "{stdout}"
    );
    assert!(server.calls() < 50_000);
}

#[test]
fn parallel_keeps_the_order_of_its_parts_and_resumes_what_failed() {
    let server = Server::echo();
    let home = Folder::home();
    let text = lines(2000);
    home.write("text", &text);
    bash("parallel --will-cite --pipe -k --block 4k gptpipe -b line p < text")
        .at(&home)
        .ask(&server)
        .run()
        .ok()
        .stdout(&text);
    // A job that failed is run again, and only that one.
    let log = "--joblog jobs --resume-failed";
    let script = format!("parallel --will-cite {log} -k 'echo {{}} | gptpipe p' ::: one two three");
    let failing = Server::start(|request| match &*request.text {
        "two" => Answer::error("400 Bad Request", "odd", "not this one"),
        _ => request.echo(),
    });
    let run = bash(&script).at(&home).ask(&failing).run();
    run.status(1).stdout("one\nthree\n").says("not this one");
    assert_eq!(failing.calls(), 3);
    let mended = Server::echo();
    bash(&script)
        .at(&home)
        .ask(&mended)
        .run()
        .ok()
        .stdout("two\n");
    assert_eq!(mended.calls(), 1);
}

#[test]
fn a_log_that_grows_is_answered_while_it_pauses() {
    let server = Server::echo();
    let home = Folder::home();
    home.write("log", "first\n");
    // Its number is written down: only this `tail` is ended, not one of another run of the tests.
    let run =
        bash("sh -c 'echo $$ > tail.pid; exec tail -n +1 -f log' | gptpipe --flush-after 50ms p")
            .at(&home)
            .ask(&server)
            .start();
    run.wait_stdout(|stdout| stdout.starts_with(b"first"));
    // `tail` looks for what was added, so it is not written anew.
    bash("echo second >> log").at(&home).run().ok();
    let seen =
        run.wait_stdout(|stdout| stdout.ends_with(b"second") || stdout.ends_with(b"second\n"));
    assert!(seen.starts_with(b"first\nsecond"), "{seen:?}");
    bash("kill -TERM \"$(cat tail.pid)\"").at(&home).run().ok();
    run.finish().status(143);
}

#[test]
fn a_loop_keeps_its_input_to_itself() {
    let server = Server::echo();
    let home = Folder::home();
    home.write("a", "text of a\n");
    home.write("b", "text of b\n");
    bash("printf 'a\\nb\\n' | while read -r file; do gptpipe p \"$file\"; gptpipe -n \"$file\"; done")
        .at(&home)
        .ask(&server)
        .run()
        .ok()
        .stdout("text of a\na\ntext of b\nb\n");
}

#[test]
fn process_substitution_is_a_file_like_others() {
    let server = Server::echo();
    bash("gptpipe p <(echo one) - <(echo three); gptpipe -f <(echo p) <(echo four)")
        .ask(&server)
        .input("two\n")
        .run()
        .ok()
        .stdout("one\ntwo\nthree\nfour\n");
}

#[test]
fn timeout_ends_it_and_what_was_whole_is_kept() {
    let gate = Gate::default();
    let held = gate.clone();
    let server = Server::start(move |request| match &*request.text {
        "two" => request.echo().behind(&held),
        _ => request.echo(),
    });
    let home = Folder::home();
    bash("printf 'one\\ntwo\\n' | timeout 2 gptpipe -b line -j 1 p")
        .at(&home)
        .ask(&server)
        .run()
        .status(124)
        .stdout("one\n");
    gate.open();
    bash("printf 'one\\ntwo\\n' | timeout 20 gptpipe -b line p")
        .at(&home)
        .ask(&server)
        .run()
        .ok()
        .stdout("one\ntwo\n");
    assert_eq!(server.calls(), 3, "the first was remembered");
}

#[test]
fn nohup_and_script_change_nothing() {
    let server = Server::echo();
    let home = Folder::home();
    home.write("text", "a text\n");
    bash("nohup gptpipe p text 2>/dev/null | cat")
        .at(&home)
        .ask(&server)
        .run()
        .ok()
        .stdout("a text\n");
    // On script's terminal it is live, and the line's end is the terminal's.
    let run = bash("script -qec 'gptpipe --progress never p text' /dev/null < /dev/null")
        .at(&home)
        .ask(&server)
        .env("TERM", "xterm")
        .run();
    run.status(0);
    assert!(run.stdout.ends_with(b"a text\r\n"), "{:?}", run.stdout);
}

#[test]
fn a_failing_part_shows_through_pipefail() {
    let server = Server::start(|_| Answer::error("400 Bad Request", "odd", "no"));
    bash("echo text | gptpipe p | cat")
        .ask(&server)
        .run()
        .status(69)
        .stdout("");
}

#[test]
fn no_locale_changes_a_byte() {
    let server = Server::echo();
    let text = "Grüße, 日本語。 🚀\u{a0}\u{2028}end\r\n";
    for locale in ["C", "C.UTF-8", "POSIX"] {
        tool("gptpipe")
            .args(["p", "-b", "line"])
            .env("LC_ALL", locale)
            .ask(&server)
            .input(text)
            .run()
            .ok()
            .stdout(text);
    }
}
