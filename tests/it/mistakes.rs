//! What people get wrong, and the whole of what they are told: each mistake has a file in
//! tests/data/mistakes with the command, everything on standard error, and the exit status.
//! `GPTPIPE_REWRITE=1` rewrites the files; read the difference then as somebody who sees it first.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::json;

use crate::docs::is_current;
use crate::harness::{Folder, Gptpipe, gptpipe, tool};
use crate::proxy::{Kind, Proxy};
use crate::server::{Answer, Closed, Request, Server};
use crate::transport::TlsServer;
use crate::tty::{Terminal, lines_shown};

/// What differs from machine to machine and from run to run, made the same.
fn normalized(text: &str, home: &Path) -> String {
    let text = text.replace(&home.display().to_string(), "~");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("127.0.0.1:") {
        let end = at + "127.0.0.1:".len();
        let number = rest[end..]
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest[end..].len());
        out += &rest[..end];
        out += "PORT";
        rest = &rest[end + number..];
    }
    out += rest;
    // What a resolver says of a name that there is not depends on the system.
    match out.split_once("no-such-host.invalid: ") {
        Some((before, after)) => {
            let end = after.find('\n').unwrap_or(after.len());
            format!(
                "{before}no-such-host.invalid: REASON{}",
                after.split_at(end).1
            )
        }
        None => out,
    }
}

/// Makes the mistake, and compares what is said with the file of that name.
#[track_caller]
fn check(name: &str, before: &str, run: Gptpipe) {
    let typed = run.typed();
    let run = run.run();
    let code = run.code.map_or("none".to_owned(), |code| code.to_string());
    let command = format!("{before}gptpipe {typed}");
    let told = format!(
        "$ {}\n{}exit status {code}\n",
        command.trim_end(),
        run.stderr
    );
    let told = normalized(&told, &run.home().path);
    let words = told.lines().skip(1).take_while(|l| !l.starts_with("exit"));
    for line in words {
        let text = line
            .strip_prefix("gptpipe: error: ")
            .or_else(|| line.strip_prefix("gptpipe: warning: "))
            .or_else(|| line.strip_prefix("hint: "));
        let text = text.unwrap_or_else(|| panic!("{name}: a line of no known form: {line}"));
        assert!(
            !text.starts_with(|c: char| c.is_uppercase()) && !text.ends_with('.'),
            "{name}: {line}"
        );
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mistakes");
    is_current(&folder.join(format!("{name}.txt")), &told);
}

/// A run that would work against a server that answers.
fn asks(server: &Server) -> Gptpipe {
    gptpipe().ask(server).arg("summarize").input("Some text.\n")
}

#[test]
fn on_the_command_line() {
    let text = || gptpipe().input("Some text.\n");
    check("no-prompt", "", gptpipe());
    check("empty-prompt", "", text().arg(""));
    check(
        "unknown-option",
        "",
        text().args(["summarize", "--modle=x"]),
    );
    check("unknown-short-option", "", text().args(["-x", "summarize"]));
    check(
        "ambiguous-option",
        "",
        text().args(["summarize", "--pro", "x"]),
    );
    check(
        "wrong-word",
        "",
        text().args(["summarize", "--by", "lines"]),
    );
    check("wrong-number", "", text().args(["summarize", "-j", "0"]));
    check(
        "wrong-time",
        "",
        text().args(["summarize", "--timeout", "90"]),
    );
    check("wrong-rate", "", text().args(["summarize", "--rate", "5"]));
    check(
        "wrong-parameter",
        "",
        text().args(["summarize", "--param", "stop=[1"]),
    );
    check("value-missing", "", text().args(["summarize", "-m"]));
    check("word-after-command", "", text().args(["cache", "clean"]));
    check(
        "option-of-a-run",
        "",
        text().args(["cache", "clear", "--dry-run"]),
    );
    check(
        "command-as-prompt",
        "",
        text().args(["completions", "notes.txt"]),
    );
    check(
        "unknown-profile",
        "",
        text().args(["summarize", "-P", "olama"]),
    );
    check("no-model", "", text().args(["summarize", "-P", "ollama"]));
    check("empty-model", "", text().args(["summarize", "-m", ""]));
    check("no-key", "", text().arg("summarize"));
    check(
        "no-base-url",
        "",
        text().args(["summarize", "-P", "azure", "-m", "x"]),
    );
    check(
        "wrong-base-url",
        "",
        text().args(["summarize", "--base-url", "localhost:8080"]),
    );
    check(
        "key-over-http",
        "GPTPIPE_API_KEY=… ",
        text().env("GPTPIPE_API_KEY", "k").args([
            "summarize",
            "--base-url",
            "http://llm.example/v1",
        ]),
    );
    check(
        "demo-translates",
        "",
        text().args(["--demo", "translate to French"]),
    );
    check(
        "exclusive-options",
        "",
        text().args(["summarize", "--cache-only", "--no-cache"]),
    );
}

#[test]
fn in_the_configuration_file() {
    let with = |text: &str| gptpipe().config(text).args(["-n", "hello"]);
    check("config-unknown-key", "", with("jobs = 4\nmodle = 'x'\n"));
    check("config-no-value", "", with("jobs =\n"));
    check("config-no-quotes", "", with("timeout = 5m\n"));
    check("config-profile", "", with("[profile.corp]\nmodel = 'x'\n"));
    check("config-key", "", with("api-key = 'sk-canary'\n"));
    check("config-option", "", with("quiet = true\n"));
}

#[test]
fn with_the_input() {
    let server = Server::echo();
    let with = |name: &str, bytes: &[u8]| {
        let run = asks(&server).arg(name);
        run.home().write(name, bytes);
        run
    };
    check("missing-file", "", asks(&server).arg("reprot.txt"));
    let run = asks(&server).arg("notes");
    run.home().write("notes/a.txt", "text");
    check("directory", "", run);
    check(
        "binary-file",
        "",
        with("program.bin", b"\x7fELF\x02\x01\x01\0\0"),
    );
    check("latin1-file", "", with("letter.txt", b"Gr\xfc\xdfe\n"));
    check("utf16-file", "", with("export.txt", b"\xff\xfeH\0i\0"));
    check(
        "missing-prompt-file",
        "",
        gptpipe().ask(&server).args(["-f", "promt.txt"]).input("x"),
    );
    let run = gptpipe().ask(&server).args(["-f", "prompt.txt"]).input("x");
    run.home().write("prompt.txt", b"Gr\xfc\xdfe\n");
    check("latin1-prompt", "", run);
    check(
        "missing-schema",
        "",
        asks(&server).args(["--schema", "shcema.json"]),
    );
    check(
        "schema-from-input",
        "",
        asks(&server).args(["--schema", "-"]),
    );
    // The prompt forgotten: the file's name becomes the prompt.
    let run = gptpipe().ask(&server).arg("notes.txt");
    run.home().write("notes.txt", "Some text.\n");
    check("file-as-prompt", "true | ", run);
    assert_eq!(server.calls(), 0);

    let server = Server::start(|request: &Request| request.reply([""]));
    check("empty-reply", "", asks(&server));
}

#[test]
fn on_a_terminal() {
    let server = Server::start(|request: &Request| request.reply(["Reply."]));
    for (name, prompt) in [
        ("terminal-no-text", "Hello"),
        ("terminal-file", "notes.txt"),
    ] {
        let terminal = Terminal::new();
        let run = gptpipe().ask(&server).args([prompt, "-m", "m"]);
        run.home().write("notes.txt", "Some text.\n");
        check(name, "", run.stdin(terminal.line()));
    }
}

#[test]
fn with_the_server() {
    let refuses = |status: &'static str, code: &'static str, message: &'static str| {
        Server::start(move |_| Answer::error(status, code, message))
    };
    let server = refuses(
        "401 Unauthorized",
        "invalid_api_key",
        "Incorrect API key provided: sk-wrong12345. You can find your API key at https://platform.openai.com.",
    );
    check(
        "wrong-key",
        "GPTPIPE_API_KEY=… ",
        asks(&server).env("GPTPIPE_API_KEY", "sk-wrong12345"),
    );
    let server = refuses(
        "404 Not Found",
        "model_not_found",
        "The model `gpt-7` does not exist or you do not have access to it.",
    );
    check("wrong-model", "", asks(&server).args(["-m", "gpt-7"]));
    let server = refuses(
        "429 Too Many Requests",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    );
    check("quota-spent", "", asks(&server));
    let server = refuses(
        "400 Bad Request",
        "context_length_exceeded",
        "This model's maximum context length is 8 tokens.",
    );
    check("context-too-long", "", asks(&server).input("word"));
    let server = Server::start(|request: &Request| {
        if request.text.len() < 50 {
            return request.reply(["Short."]);
        }
        let code = "context_length_exceeded";
        let message = "This model's maximum context length is 8 tokens.";
        Answer::error("400 Bad Request", code, message)
    });
    check(
        "huge-line",
        "",
        asks(&server)
            .args(["-b", "line"])
            .input(format!("short\n{}\n", "x".repeat(200))),
    );
    let server = Server::start(|_| {
        Answer::plain(
            "404 Not Found",
            "Content-Type: text/html\r\n",
            "<html><title>nginx</title></html>",
        )
    });
    check("wrong-path", "", asks(&server));
    let server = Server::start(|_| {
        Answer::json(
            "500 Internal Server Error",
            &json!({"error": "out of memory"}),
        )
    });
    check("server-fails", "", asks(&server).once());
    check("cache-only", "", asks(&server).arg("--cache-only"));
}

#[test]
fn on_the_way_to_the_server() {
    let closed = Closed::new();
    let ollama = closed.url().trim_end_matches("/v1").to_owned();
    check(
        "ollama-not-running",
        "",
        gptpipe()
            .env("OLLAMA_HOST", ollama)
            .args(["summarize", "-P", "ollama", "-m", "qwen3:8b"])
            .input("text")
            .once(),
    );
    let to = |url: &str| {
        gptpipe()
            .args(["summarize", "--base-url", url])
            .input("text")
            .once()
    };
    check("no-network", "", to("https://no-such-host.invalid/v1"));
    let tls = TlsServer::start(&["127.0.0.1"], &["h2"]);
    check(
        "unknown-certificate",
        "",
        to(&format!("https://127.0.0.1:{}/v1", tls.port())),
    );
    let proxy = Proxy::start(Kind::Locked, 9);
    check(
        "proxy-password",
        "HTTPS_PROXY=… ",
        to("https://api.test/v1").env("HTTPS_PROXY", format!("http://{}", proxy.address())),
    );
    check(
        "proxy-not-there",
        "HTTPS_PROXY=… ",
        to("https://api.test/v1").env("HTTPS_PROXY", closed.url().trim_end_matches("/v1")),
    );
}

#[test]
fn with_the_cache() {
    let server = Server::start(|request: &Request| request.reply(["Reply."]));
    let run = asks(&server);
    let cache = run.home().path.join("cache");
    run.home().write("cache/gptpipe/cache.db", "");
    fs::set_permissions(
        cache.join("gptpipe/cache.db"),
        Permissions::from_mode(0o444),
    )
    .unwrap();
    check("unwritable-cache", "", run);
}

/// A newcomer's first minute on a terminal, from the bare name to the first result: each command is
/// one that the message before it names.
#[test]
fn the_first_minute() {
    let home = Folder::home();
    home.write(
        "report.txt",
        "The river rose quickly in the night. Nobody in the village had expected the river to \
         rise so quickly. By morning the bridge over the river was gone, and the village was cut \
         off. Children played in the mud. A dog barked. It took the engineers three weeks to build \
         a new bridge over the river.\n",
    );
    let mut session = String::new();
    let mut enter = |command: &str| {
        let terminal = Terminal::new();
        let run = tool("sh")
            .args(["-c", command])
            .at(&home)
            .env("TERM", "xterm-256color")
            .stdin(terminal.line())
            .stdout(terminal.line())
            .stderr(terminal.line())
            .run();
        let shown = lines_shown(&terminal.shown()).join("\n");
        let _ = write!(session, "$ {command}\n{shown}");
        (run.code, shown)
    };
    let (code, shown) = enter("gptpipe");
    assert_eq!(code, Some(2));
    // As people do, they take the commands in the hint one after the other.
    let commands: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
    assert_eq!(
        commands,
        [
            "gptpipe summarize report.txt",
            "gptpipe --demo summarize report.txt",
            "gptpipe --help"
        ]
    );
    let (code, shown) = enter(commands[0]);
    assert_eq!(code, Some(2));
    assert!(shown.contains("--demo"), "{shown}");
    let (code, _) = enter(commands[1]);
    assert_eq!(code, Some(0));
    let (code, help) = enter("gptpipe --help | head -n 4");
    assert_eq!(code, Some(0));
    assert!(help.contains("Usage: gptpipe"), "{help}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/first-minute.txt");
    is_current(&path, &session);
}
