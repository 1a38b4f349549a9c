//! Terminals: what is shown on them, and that not a single escape byte goes anywhere else.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
#[cfg(feature = "keyring")]
use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
#[cfg(feature = "keyring")]
use rustix::termios::{LocalModes, tcgetattr};
use rustix::termios::{Winsize, tcsetwinsize};

#[cfg(feature = "keyring")]
use crate::harness::HANGS;
use crate::harness::{Gptpipe, Reader, gptpipe, shell};
use crate::server::{Gate, Request, Server};

/// A terminal with its user.
pub(crate) struct Terminal {
    pub(crate) screen: Reader,
    /// The program's end. It has to be gone before the screen can end.
    line: OwnedFd,
    user: OwnedFd,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let name = ptsname(&user, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let line = open(name.as_c_str(), flags, Mode::empty()).unwrap();
        tcsetwinsize(
            &line,
            Winsize {
                ws_row: 24,
                ws_col: 80,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )
        .unwrap();
        let screen = Reader::new(File::from(user.try_clone().unwrap()));
        Self { screen, line, user }
    }

    pub(crate) fn line(&self) -> OwnedFd {
        self.line.try_clone().unwrap()
    }

    /// Waits until what is typed is not shown.
    #[cfg(feature = "keyring")]
    pub(crate) fn wait_for_no_echo(&self) {
        let end = Instant::now() + HANGS;
        while tcgetattr(&self.line)
            .unwrap()
            .local_modes
            .contains(LocalModes::ECHO)
        {
            assert!(
                Instant::now() < end,
                "the terminal still shows what is typed"
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// What its user types.
    #[cfg(feature = "keyring")]
    pub(crate) fn type_in(&self, text: &str) {
        File::from(self.user.try_clone().unwrap())
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// Everything that was shown, once the program is gone.
    pub(crate) fn shown(self) -> String {
        drop(self.line);
        self.screen.finish()
    }
}

/// The program on a terminal of the usual kind, with input from a pipe.
pub(crate) fn on_terminal() -> Gptpipe {
    gptpipe().env("TERM", "xterm-256color")
}

/// What the last line of a screen shows in the end.
fn last_line(shown: &str) -> String {
    lines_shown(shown).pop().unwrap_or_default()
}

/// What the lines of a screen show in the end: carriage returns and erasures done.
pub(crate) fn lines_shown(shown: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line: Vec<char> = Vec::new();
    let text = |line: &[char]| line.iter().collect::<String>().trim_end().to_owned();
    let mut column = 0;
    let mut rest = shown;
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        match first {
            '\r' => column = 0,
            '\n' => {
                lines.push(text(&line));
                line.clear();
                column = 0;
            }
            '\u{1b}' => {
                let end = rest.find(|c: char| c.is_ascii_alphabetic()).unwrap();
                let (args, command) = (&rest[1..end], &rest[end..=end]);
                rest = &rest[end + 1..];
                match (command, args) {
                    ("K", "2") => line.clear(),
                    ("K", "" | "0") => line.truncate(column),
                    _ => {}
                }
            }
            shown => {
                line.resize(line.len().max(column + 1), ' ');
                line[column] = shown;
                column += 1;
            }
        }
    }
    lines.push(text(&line));
    lines
}

#[test]
fn a_terminal_sees_a_reply_as_it_arrives() {
    let gate = Gate::default();
    let server = Server::start({
        let gate = gate.clone();
        move |request| {
            request
                .stream()
                .delta("The first words ")
                .wait(&gate)
                .delta("and the last.")
                .finish("stop")
        }
    });
    let terminal = Terminal::new();
    let run = on_terminal()
        .ask(&server)
        .arg("p")
        .input("text")
        .stdout(terminal.line())
        .start();
    terminal
        .screen
        .wait(|shown| shown.contains("The first words"));
    gate.open();
    run.finish().ok();
    assert_eq!(
        terminal.shown(),
        "The first words and the last.\r\n",
        "and the prompt gets a line of its own"
    );
}

#[test]
fn live_and_whole_can_be_asked_for() {
    let gate = Gate::default();
    let server = Server::start({
        let gate = gate.clone();
        move |request| {
            request
                .stream()
                .delta("First ")
                .wait(&gate)
                .delta("last")
                .finish("stop")
        }
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "--live"])
        .input("text")
        .start();
    run.wait_stdout(|stdout| stdout == b"First");
    gate.open();
    run.finish().ok().stdout("First last");

    let gate = Gate::default();
    let server = Server::start({
        let gate = gate.clone();
        move |request| request.stream().delta("Half").wait(&gate).reset()
    });
    let terminal = Terminal::new();
    let run = on_terminal()
        .ask(&server)
        .args(["p", "--whole"])
        .input("text")
        .stdout(terminal.line())
        .start();
    server.wait(|log| log.calls == 1);
    gate.open();
    run.finish().status(75);
    assert_eq!(terminal.shown(), "", "what is not whole is not shown");
}

#[test]
fn only_the_next_reply_is_shown_live() {
    let (first, second) = (Gate::default(), Gate::default());
    let server = Server::start({
        let (first, second) = (first.clone(), second.clone());
        move |request| {
            let gate = if request.text == "1" { &first } else { &second };
            request
                .stream()
                .delta(&request.text)
                .delta(" begins ")
                .wait(gate)
                .delta("and ends")
                .finish("stop")
        }
    });
    let run = gptpipe()
        .ask(&server)
        .args(["p", "--live", "-b", "line"])
        .input("1\n2\n")
        .start();
    server.wait(|log| log.in_flight == 2);
    run.wait_stdout(|stdout| stdout == b"1 begins");
    first.open();
    run.wait_stdout(|stdout| stdout == b"1 begins and ends\n2 begins");
    second.open();
    run.finish()
        .ok()
        .stdout("1 begins and ends\n2 begins and ends\n");
}

#[test]
fn a_reply_cannot_write_on_the_users_terminal() {
    let nasty = "\u{1b}]0;title\u{7}a\u{1b}[2Jb\u{9b}31mc\rd\u{8}e\tf\u{7f}";
    let server = Server::start(move |request| request.reply([nasty]));
    let terminal = Terminal::new();
    on_terminal()
        .ask(&server)
        .arg("p")
        .input("text")
        .stdout(terminal.line())
        .run()
        .ok();
    assert_eq!(
        terminal.shown(),
        "^[]0;title^Ga^[[2Jb\\u{9b}31mc^Md^He\tf^?\r\n"
    );
    gptpipe()
        .ask(&server)
        .arg("p")
        .input("text")
        .run()
        .ok()
        .stdout(nasty);
}

/// Repeats every chunk, and `2` only once the gate is open.
fn holding_back_2(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::start(move |request| {
        if request.text == "2" {
            request.echo().behind(&gate)
        } else {
            request.echo()
        }
    })
}

#[test]
fn progress_comes_and_goes_without_a_trace() {
    let gate = Gate::default();
    let server = holding_back_2(&gate);
    let terminal = Terminal::new();
    let run = on_terminal()
        .ask(&server)
        .args(["p", "-b", "line"])
        .input("1\n2\n3\n")
        .stderr(terminal.line())
        .start();
    terminal.screen.wait(|shown| shown.contains("1/3 chunks"));
    gate.open();
    let run = run.finish();
    run.status(0).stdout("1\n2\n3\n");
    let shown = terminal.shown();
    assert_eq!(last_line(&shown), "", "{shown:?}");
    assert!(!shown.ends_with('\n'), "{shown:?}");
}

#[test]
fn of_a_pipeline_only_the_last_draws() {
    let gate = Gate::default();
    let server = holding_back_2(&gate);
    let terminal = Terminal::new();
    let run = shell(r#"printf '1\n2\n3\n' | "$GPTPIPE" p -b line | "$GPTPIPE" p -b file"#)
        .env("TERM", "xterm-256color")
        .ask(&server)
        .stderr(terminal.line())
        .start();
    terminal.screen.wait(|shown| shown.contains("0/0+ chunks"));
    // By now the first would have drawn too, and it goes on waiting.
    server.settle();
    gate.open();
    run.finish().status(0).stdout("1\n2\n3\n");
    let shown = terminal.shown();
    assert!(!shown.contains("/3 chunks"), "{shown:?}");
    assert_eq!(last_line(&shown), "", "{shown:?}");
}

#[test]
fn progress_is_gone_before_a_message() {
    let gate = Gate::default();
    let server = Server::start({
        let gate = gate.clone();
        move |request| request.stream().delta("half").wait(&gate).reset()
    });
    let terminal = Terminal::new();
    let run = on_terminal()
        .ask(&server)
        .arg("p")
        .input("1\n")
        .stderr(terminal.line())
        .start();
    terminal.screen.wait(|shown| shown.contains("in flight"));
    gate.open();
    run.finish().status(75).stdout("");
    let shown = terminal.shown();
    let (before, _) = shown
        .split_once("gptpipe: error: ")
        .expect("there is a message");
    assert_eq!(last_line(before), "", "{shown:?}");
}

#[test]
fn progress_is_gone_after_a_signal() {
    let gate = Gate::default();
    let server = Server::start(move |request| request.echo().behind(&gate));
    let terminal = Terminal::new();
    let run = on_terminal()
        .ask(&server)
        .arg("p")
        .input("1\n")
        .stderr(terminal.line())
        .start();
    terminal.screen.wait(|shown| shown.contains("in flight"));
    run.signal(Signal::INT);
    run.finish().killed_by(Signal::INT);
    let shown = terminal.shown();
    let (before, _) = shown
        .split_once("gptpipe: interrupted")
        .expect("there is a message");
    assert_eq!(last_line(before), "", "{shown:?}");
    let hides = shown.rfind("\u{1b}[?25l");
    assert!(
        hides <= shown.rfind("\u{1b}[?25h"),
        "the cursor must be there again: {shown:?}"
    );
}

#[test]
fn where_there_is_no_terminal_there_is_no_escape() {
    let server = Server::echo();
    for args in [
        &[][..],
        &["-v"],
        &["--live"],
        &["--progress", "always"],
        &["-v", "--progress", "always"],
    ] {
        let run = on_terminal()
            .ask(&server)
            .args(["p", "-b", "line"])
            .args(args)
            .input("1\n2\n3\n")
            .run();
        run.status(0).stdout("1\n2\n3\n");
        run.must(
            !run.stderr.contains(['\u{1b}', '\r']),
            "no escape and no carriage return",
        );
    }
    // Nor in a pipe beside a terminal.
    let terminal = Terminal::new();
    let run = on_terminal()
        .ask(&server)
        .args(["p", "-b", "line"])
        .input("1\n")
        .stdout(terminal.line())
        .run();
    run.ok();
    assert_eq!(terminal.shown(), "1\r\n");
    let terminal = Terminal::new();
    let run = on_terminal()
        .ask(&server)
        .args(["p", "-b", "line"])
        .input("1\n")
        .stderr(terminal.line())
        .run();
    run.stdout("1\n");
}

#[test]
fn terminals_that_cannot_or_users_that_do_not_want() {
    let gate = Gate::default();
    let server = holding_back_2(&gate);
    gate.open();
    let shown = |run: Gptpipe| {
        let terminal = Terminal::new();
        run.ask(&server)
            .args(["p", "-b", "line"])
            .input("1\n2\n")
            .stderr(terminal.line())
            .run()
            .stdout("1\n2\n");
        terminal.shown()
    };
    assert_eq!(shown(gptpipe().env("TERM", "dumb")), "");
    assert_eq!(shown(on_terminal().arg("-q")), "");
    assert_eq!(shown(on_terminal().args(["--progress", "never"])), "");
    let plain = shown(on_terminal().env("NO_COLOR", "1"));
    // Colours and other looks end with `m`.
    let looks = plain.split('\u{1b}').skip(1).filter(|escape| {
        escape
            .find(|c: char| c.is_ascii_alphabetic())
            .is_some_and(|end| escape[end..].starts_with('m'))
    });
    assert_eq!(looks.count(), 0, "{plain:?}");
}

#[test]
fn without_text_a_terminal_means_the_prompt_alone() {
    let server = Server::start(|request: &Request| request.reply(["Hello."]));
    let terminal = Terminal::new();
    let run = on_terminal()
        .ask(&server)
        .arg("Greet me.")
        .stdin(terminal.line())
        .run();
    run.status(0)
        .stdout("Hello.\n")
        .one_message()
        .says("the prompt is sent alone");
    let request = server.only_request();
    assert_eq!(request.text, "Greet me.");
    assert_eq!(request.body["messages"].as_array().unwrap().len(), 1);
}

#[test]
fn a_terminal_on_all_three_streams() {
    let server = Server::start(|request: &Request| request.reply(["Hello", " there."]));
    let terminal = Terminal::new();
    let run = on_terminal().ask(&server).arg("Greet me.");
    let run = run
        .stdin(terminal.line())
        .stdout(terminal.line())
        .stderr(terminal.line())
        .run();
    run.status(0);
    let shown = terminal.shown();
    assert!(shown.contains("Hello there.\r\n"), "{shown:?}");
    assert_eq!(last_line(&shown), "", "{shown:?}");
}

#[test]
#[cfg(feature = "keyring")]
fn what_is_typed_is_not_drawn_over() {
    let server = Server::start(|request| request.echo().after(Duration::from_millis(1500)));
    let terminal = Terminal::new();
    let run = on_terminal().ask(&server).args(["p", "-b", "line", "-"]);
    let run = run.stdin(terminal.line()).stderr(terminal.line()).start();
    terminal.type_in("typed\n\u{4}");
    run.finish().status(0).stdout("typed\n");
    let shown = terminal.shown();
    assert_eq!(shown.replace("^D\u{8}\u{8}", ""), "typed\r\n", "{shown:?}");
}
