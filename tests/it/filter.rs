//! Bytes in, bytes out: the program as a filter among other filters, against a model that repeats
//! what it is told.

use std::time::Duration;

use std::fs::File;
use std::io::{Read as _, Write as _};

use rustix::pipe::PipeFlags;
use rustix::process::Signal;

use crate::harness::{gptpipe, lines, shell};
use crate::server::{Gate, Request, Server};

const TEXT: &str = "One line.\nAnother, grüße, 日本語 and 🚀.\n\n\n  An indented one.\nThe last\n";

#[test]
fn empty_input_sends_nothing() {
    let server = Server::echo();
    gptpipe().ask(&server).arg("p").run().ok().stdout("");
    assert_eq!(server.calls(), 0);
}

#[test]
fn blank_input_passes_through_and_sends_nothing() {
    let server = Server::echo();
    for blank in [
        "\n",
        " ",
        " \r\n\t\n\u{3000}\u{a0}\u{2003}\n",
        "\u{85}\u{2028}",
    ] {
        for by in ["sentence", "paragraph", "line", "file"] {
            gptpipe()
                .ask(&server)
                .args(["p", "-b", by])
                .input(blank)
                .run()
                .ok()
                .stdout(blank);
        }
    }
    assert_eq!(server.calls(), 0);
}

#[test]
fn a_missing_last_line_end_stays_missing() {
    let server = Server::echo();
    gptpipe()
        .ask(&server)
        .arg("p")
        .input("no line end")
        .run()
        .ok()
        .stdout("no line end");
    gptpipe()
        .ask(&server)
        .arg("p")
        .input("one\n")
        .run()
        .ok()
        .stdout("one\n");
}

#[test]
fn line_ends_stay_what_they_are() {
    let server = Server::echo();
    for text in [
        "a\r\nb\r\n\r\n\r\nc\r\n",
        "a\rb\rc",
        "a\n\r\nb\r\n\n",
        "\u{feff}bom\n",
    ] {
        for by in ["sentence", "paragraph", "line", "file"] {
            gptpipe()
                .ask(&server)
                .args(["p", "-c", "1", "-b", by])
                .input(text)
                .run()
                .ok()
                .stdout(text);
        }
    }
}

#[test]
fn characters_split_between_writes_arrive_whole() {
    let server = Server::echo();
    let mut run = gptpipe().ask(&server).arg("p").hold_input().start();
    for byte in TEXT.as_bytes() {
        run.feed([*byte]);
    }
    run.finish().ok().stdout(TEXT);
}

#[test]
fn what_is_not_text_is_told_with_its_place() {
    let server = Server::echo();
    let cases: [(&[u8], &str); 5] = [
        (
            b"ab\ncd\xff",
            "standard input is not UTF-8 text: byte 5, line 2",
        ),
        (b"caf\xe9\n", "byte 3, line 1"),
        (b"one\ntwo\n\xe6\x97", "byte 8, line 3"),
        (b"\xed\xa0\x80", "byte 0, line 1"),
        (
            b"text\nmore\0",
            "standard input is binary data: byte 9, line 2",
        ),
    ];
    for (input, message) in cases {
        let run = gptpipe().ask(&server).arg("p").input(input).run();
        run.status(65).one_message().says(message).says("hint: ");
    }
    let file = gptpipe();
    let path = file.home().write("latin1.txt", b"caf\xe9");
    let run = file.ask(&server).arg("p").arg(&path).run();
    run.status(65).one_message().says(&format!(
        "{} is not UTF-8 text: byte 3, line 1",
        path.display()
    ));
}

#[test]
fn what_stands_before_the_wrong_byte_is_a_right_prefix() {
    let server = Server::echo();
    let good = "A sentence. ".repeat(200);
    let input = [good.as_bytes(), b"\xff and more"].concat();
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-c", "20"])
        .input(input)
        .run();
    run.status(65).must(
        good.as_bytes().starts_with(&run.stdout),
        "stdout must be a prefix of the input",
    );
}

#[test]
fn output_begins_before_input_ends() {
    let server = Server::echo();
    for by in ["sentence", "paragraph", "line"] {
        let mut run = gptpipe()
            .ask(&server)
            .args(["p", "-c", "10", "-b", by])
            .hold_input()
            .start();
        // So much may be needed to know that nothing that follows moves the first chunk's end.
        let text = "This is a sentence of some words.\n\n".repeat(500);
        run.feed(&text);
        run.wait_stdout(|stdout| !stdout.is_empty());
        run.finish().ok().stdout(&text);
    }
}

#[test]
fn an_unfinished_chunk_is_sent_when_input_pauses() {
    let server = Server::echo();
    let mut run = gptpipe()
        .ask(&server)
        .args(["p", "--flush-after", "1ms"])
        .hold_input()
        .start();
    run.feed("An answer, please.\n");
    run.wait_stdout(|stdout| stdout == b"An answer, please.\n");
    run.feed("And another.\n");
    run.finish()
        .ok()
        .stdout("An answer, please.\nAnd another.\n");
    assert_eq!(server.calls(), 2);
}

#[test]
fn without_a_pause_set_a_chunk_waits_for_its_end() {
    let server = Server::echo();
    let mut run = gptpipe().ask(&server).arg("p").hold_input().start();
    run.feed("Not yet. ");
    run.feed("Now.\n");
    run.finish().ok().stdout("Not yet. Now.\n");
    assert_eq!(server.only_request().text, "Not yet. Now.");
}

#[test]
fn files_are_read_in_their_order() {
    let server = Server::echo();
    let run = gptpipe();
    let one = run.home().write("one.txt", "First.\n");
    let two = run.home().write("two.txt", "Third, without an end");
    run.ask(&server)
        .arg("p")
        .arg(&one)
        .arg("-")
        .arg(&two)
        .arg(&one)
        .forgetful()
        .input("Second.\n\n")
        .run()
        .ok()
        .stdout("First.\nSecond.\n\nThird, without an endFirst.\n");
    assert_eq!(server.calls(), 4, "a chunk never spans two files");
}

#[test]
fn as_many_files_are_opened_as_requests_need() {
    let gate = Gate::default();
    let server = Server::start({
        let gate = gate.clone();
        move |request| request.echo().behind(&gate)
    });
    let all = shell(r#"ulimit -Sn 32; exec "$GPTPIPE" --no-cache -j 80 -b line p"#);
    let run = all.ask(&server).input(lines(80)).start();
    server.wait(|log| log.in_flight == 80);
    gate.open();
    run.finish().ok().stdout(lines(80));
    let server = Server::echo();
    let few = shell(r#"ulimit -n 24; exec "$GPTPIPE" --no-cache --retries 0 -j 80 -b line p"#);
    let run = few.ask(&server).input(lines(80)).run();
    run.status(75)
        .says("raise `ulimit -n`, or send less at once with -j");
}

#[test]
fn more_files_than_can_be_held_open() {
    let server = Server::echo();
    let run = shell(r#"ulimit -n 128; exec "$GPTPIPE" p file*"#);
    let mut all = String::new();
    for number in 100..600 {
        let text = format!("This is file {number}.\n");
        run.home().write(&format!("file{number}"), &text);
        all.push_str(&text);
    }
    run.ask(&server).run().ok().stdout(&all);
}

#[test]
fn a_file_that_cannot_be_read_is_told_before_anything_is_sent() {
    let server = Server::echo();
    let run = gptpipe();
    let good = run.home().write("good.txt", "Good.\n");
    let run = run
        .ask(&server)
        .arg("p")
        .arg(&good)
        .arg("missing.txt")
        .run();
    run.status(66)
        .one_message()
        .stdout("")
        .says("cannot read `missing.txt`: no such file")
        .says("hint: ");
    let run = gptpipe().ask(&server).args(["p", "/"]).run();
    run.status(66)
        .one_message()
        .stdout("")
        .says("`/`: is a directory");
    assert_eq!(server.calls(), 0);
}

#[test]
fn a_prompt_can_come_from_a_file() {
    let server = Server::echo();
    let run = gptpipe();
    let prompt = run.home().write("prompt.txt", "Say it again,\nplease.\n");
    let text = run.home().write("text.txt", "It.\n");
    run.ask(&server)
        .arg("-f")
        .arg(&prompt)
        .arg(&text)
        .run()
        .ok()
        .stdout("It.\n");
    let system = server.only_request().body["messages"][0]["content"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(system.ends_with("\n\nSay it again,\nplease."), "{system}");

    let run = gptpipe().ask(&server).args(["-f", "nowhere"]).run();
    run.status(66).one_message().says("cannot read `nowhere`");
    let run = gptpipe();
    run.home().write("empty.txt", " \n");
    run.ask(&server)
        .args(["-f", "empty.txt"])
        .run()
        .status(2)
        .one_message()
        .says("the prompt is empty");
}

#[test]
fn a_prompt_can_be_sent_alone() {
    let server = Server::start(|request: &Request| request.reply(["Hello", " you."]));
    gptpipe()
        .ask(&server)
        .args(["-n", "Greet me."])
        .input("not read")
        .run()
        .ok()
        .stdout("Hello you.\n");
    let request = server.only_request();
    assert_eq!(request.text, "Greet me.");
    assert_eq!(
        request.body["messages"].as_array().unwrap().len(),
        1,
        "there is no framing without a text"
    );
    let run = gptpipe().ask(&server).args(["-n", "p", "file"]).run();
    run.status(2)
        .one_message()
        .says("`--null-input` takes no files");
    let run = gptpipe()
        .ask(&server)
        .args(["-f", "-"])
        .input("From a pipe.\n")
        .run();
    run.ok().stdout("Hello you.\n");
    assert_eq!(server.requests()[1].text, "From a pipe.");
}

#[test]
fn standard_input_that_is_closed_or_a_directory() {
    let server = Server::echo();
    let run = shell(r#"exec "$GPTPIPE" p <&-"#).ask(&server).run();
    run.must(
        matches!(run.code, Some(0 | 66)),
        "closed input is empty or cannot be read",
    )
    .stdout("");
    let run = gptpipe()
        .ask(&server)
        .arg("p")
        .stdin(File::open("/").unwrap())
        .run();
    run.status(66)
        .one_message()
        .says("cannot read `standard input`: is a directory");
    assert_eq!(server.calls(), 0);
}

#[test]
fn a_record_is_one_request_and_one_line() {
    let server =
        Server::start(|request: &Request| request.reply(["<", &request.text, "\n", ">\n"]));
    let input = "one\n\n two \nthree";
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line"])
        .input(input)
        .run();
    run.ok().stdout("<one >\n\n <two > \n<three >");
    let texts: Vec<String> = server
        .requests()
        .iter()
        .map(|request| request.text.clone())
        .collect();
    assert_eq!(texts.len(), 3, "{texts:?}");
}

#[test]
fn a_record_is_a_whole_line_as_soon_as_it_is_answered() {
    let server = Server::echo();
    let mut run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line"])
        .hold_input()
        .start();
    run.feed("one\n");
    server.wait(|log| log.calls == 1);
    run.wait_stdout(|stdout| stdout == b"one\n");
    run.feed("two\n");
    run.wait_stdout(|stdout| stdout == b"one\ntwo\n");
    run.finish().ok();
}

/// So the lines of several processes that share a pipe, as under `xargs -P`, stay lines.
#[test]
#[cfg(target_os = "linux")]
fn a_short_reply_and_its_line_end_are_one_write() {
    let server = Server::echo();
    for by in ["sentence", "line"] {
        // A pipe of this kind keeps writes apart (pipe(2), O_DIRECT).
        let (reader, writer) =
            rustix::pipe::pipe_with(PipeFlags::DIRECT | PipeFlags::CLOEXEC).unwrap();
        let run = gptpipe()
            .ask(&server)
            .args(["p", "-b", by])
            .input("A line.\n")
            .stdout(writer)
            .start();
        run.finish().ok();
        let mut buffer = [0; 100];
        let length = File::from(reader).read(&mut buffer).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&buffer[..length]),
            "A line.\n",
            "--by {by}"
        );
    }
}

#[test]
fn a_file_is_one_request() {
    let server = Server::echo();
    let run = gptpipe();
    let text = "A paragraph.\n\n".repeat(100);
    let path = run.home().write("long.txt", &text);
    run.ask(&server)
        .args(["p", "-b", "file"])
        .arg(&path)
        .arg("-")
        .input("short\n")
        .run()
        .ok();
    let texts: Vec<String> = server
        .requests()
        .iter()
        .map(|request| request.text.clone())
        .collect();
    assert_eq!(texts.len(), 2);
    assert!(texts.contains(&text.trim_end().to_owned()) && texts.contains(&"short".to_owned()));
}

#[test]
fn replies_are_put_together_as_asked() {
    let server = Server::echo();
    let with = |join: &str| {
        gptpipe()
            .ask(&server)
            .args(["p", "-b", "line", "--join", join])
            .input("a\n\n\n  b\nc")
            .run()
    };
    with("source").ok().stdout("a\n\n\n  b\nc");
    with("line").ok().stdout("a\nb\nc\n");
    with("blank").ok().stdout("a\n\nb\n\nc\n");
}

#[test]
fn works_in_the_middle_of_a_pipeline() {
    let server = Server::echo();
    let run = shell(r#"printf 'a 1\nb 2\na 3\n' | grep a | "$GPTPIPE" -b line p | sort -r"#);
    run.ask(&server).run().ok().stdout("a 3\na 1\n");
    // The shell's `&&` and `||` see how it went.
    let run = shell(r#"echo x | "$GPTPIPE" p - missing 2>/dev/null || echo "status $?""#);
    run.ask(&server).run().ok().stdout("status 66\n");
}

#[test]
fn works_under_xargs() {
    let server = Server::echo();
    let run = shell(r#"ls *.txt | xargs -P4 -n1 "$GPTPIPE" p | sort"#);
    for name in ["a", "b", "c", "d", "e"] {
        run.home()
            .write(&format!("{name}.txt"), format!("File {name}.\n"));
    }
    run.ask(&server)
        .run()
        .ok()
        .stdout("File a.\nFile b.\nFile c.\nFile d.\nFile e.\n");
    assert_eq!(server.calls(), 5);
}

#[test]
fn input_from_a_fifo_and_from_a_process() {
    let server = Server::echo();
    let run = shell(r#"mkfifo fifo; (echo from a fifo >fifo) & exec "$GPTPIPE" p fifo"#);
    run.ask(&server).run().ok().stdout("from a fifo\n");
}

#[test]
fn a_slow_reader_gets_everything() {
    let server = Server::echo();
    let text = "Some text that is said again. ".repeat(20_000);
    let mut run = gptpipe()
        .ask(&server)
        .forgetful()
        .args(["p", "-c", "500"])
        .input(&text)
        .start_unread();
    // More than the pipe holds has to be ready before anybody reads.
    server.wait(|log| log.calls >= 40);
    run.read_stdout();
    run.finish().ok().stdout(&text);
}

#[test]
fn help_and_version_go_to_standard_output() {
    let run = gptpipe().arg("--help").run();
    run.ok()
        .must(run.stdout.starts_with(b"gptpipe: "), "help must be there");
    gptpipe()
        .arg("-V")
        .run()
        .ok()
        .stdout(concat!("gptpipe ", env!("CARGO_PKG_VERSION"), "\n"));
    let full = File::options().write(true).open("/dev/full").unwrap();
    gptpipe()
        .arg("--help")
        .stdout(full)
        .run()
        .status(74)
        .one_message();
    let mut run = gptpipe().arg("--help").start_unread();
    drop(run.take_stdout());
    let run = run.finish();
    // It may have been quicker than the reader's leaving.
    run.stderr("").must(
        run.code == Some(0) || run.signal == Some(Signal::PIPE.as_raw()),
        "it ends quietly",
    );
}

#[test]
fn wrong_usage_sends_nothing() {
    let server = Server::echo();
    let cases: [(&[&str], &str); 12] = [
        (&["-f", "-", "-"], "cannot be both the prompt and the text"),
        (&[], "there is no prompt"),
        (&[""], "the prompt is empty"),
        (&["--modle", "x", "p"], "did you mean `--model`?"),
        (&["-c", "0", "p"], "`--chunk-tokens 0`"),
        (&["-j", "many", "p"], "`--jobs many`"),
        (&["--timeout", "5", "p"], "takes a time with its unit"),
        (&["--param", "a", "p"], "takes NAME=JSON"),
        (&["--param", "messages=[]", "p"], "`--param messages`"),
        (&["batch", "notes.txt"], "list or cancel"),
        (&["cache", "notes.txt"], "stats, prune or clear"),
        (&["-r", "5", "p"], "takes a rate"),
    ];
    for (args, words) in cases {
        let run = gptpipe().ask(&server).args(args).input("text\n").run();
        run.status(2).one_message().stdout("").says(words);
    }
    assert_eq!(server.calls(), 0);
}

#[test]
fn a_word_that_is_a_command_can_be_a_prompt() {
    let server = Server::echo();
    gptpipe()
        .ask(&server)
        .args(["--", "cache"])
        .input("x\n")
        .run()
        .ok()
        .stdout("x\n");
    gptpipe()
        .ask(&server)
        .args(["help"])
        .input("x\n")
        .run()
        .ok()
        .stdout("x\n");
}

#[test]
fn input_that_nobody_needs_any_more_may_be_left_unread() {
    let gate = Gate::default();
    let server = Server::start({
        let gate = gate.clone();
        move |request: &Request| request.echo().behind(&gate)
    });
    let mut run = gptpipe()
        .ask(&server)
        .args(["p", "-b", "line"])
        .hold_input()
        .start();
    run.feed("one\ntwo\n");
    server.wait(|log| log.calls >= 1);
    let mut stdin = run.take_stdin();
    gate.open();
    stdin.write_all(b"three\n").unwrap();
    drop(stdin);
    run.finish().ok().stdout("one\ntwo\nthree\n");
}

/// Each chunk's line end is in one write with it, so that processes beside each other leave each
/// other's lines whole.
#[test]
fn lines_of_processes_beside_each_other_stay_whole() {
    let server = Server::start(|request| request.echo().after(Duration::from_millis(3)));
    let script = r#"for file in 1 2 3 4; do seq -f "file $file line %g." 300 > f$file; done
        ls f1 f2 f3 f4 | xargs -P4 -n1 "$GPTPIPE" -c 60 -j 2 p"#;
    let run = shell(script).ask(&server).run();
    run.ok();
    let out = String::from_utf8(run.stdout.clone()).unwrap();
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    let mut expected: Vec<String> = (1..=4)
        .flat_map(|file| (1..=300).map(move |line| format!("file {file} line {line}.")))
        .collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);
}
