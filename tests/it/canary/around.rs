use std::fs;
use std::sync::Arc;

use super::{KEYS, clean, files, home_is_clean, search, spellings, traces};
use crate::harness::{Folder, Gptpipe, gptpipe, shell};
use crate::proxy::{Kind, Proxy};
use crate::server::{Answer, Gate, Request, Server};
use crate::transport::TlsServer;
use crate::tty::Terminal;

/// A run with the key, that does not ask twice.
fn run(home: &Arc<Folder>, server: &Server, key: &str) -> Gptpipe {
    gptpipe()
        .at(home)
        .ask(server)
        .env("GPTPIPE_API_KEY", key)
        .env("RUST_BACKTRACE", "full")
        .args(["p", "-v", "--retries", "0"])
        .args(files())
        .input("A text.\n\nAnother.\n")
}

/// Says the key back.
fn quoting() -> Server {
    Server::start(|request: &Request| {
        let said = request.header("authorization").unwrap().to_owned();
        Answer::error("503 Service Unavailable", "overloaded", &said)
    })
}

/// What is done about a reply is done with the key at hand: every way to run, and what each of them prints.
#[test]
fn no_way_to_run_brings_a_key_to_light() {
    let home = Folder::home();
    home.write("schema", r#"{"type": "object"}"#);
    home.write("in", "A text.\n");
    for server in [Server::echo(), quoting()] {
        for key in KEYS {
            for args in [
                &["-b", "line"][..],
                &["-b", "line", "--format", "jsonl", "--on-error", "keep"],
                &["--live"],
                &["--api", "responses", "--on-error", "skip"],
                &["--schema", "schema", "--on-error", "skip"],
                &["-R", "merge", "--on-error", "skip"],
                &[
                    "--rate",
                    "1000/s",
                    "--token-rate",
                    "1000000/s",
                    "--on-error",
                    "skip",
                ],
                &["--refresh", "-j", "auto", "--on-error", "keep"],
                &["--dry-run"],
                &["--dry-run", "--format", "jsonl"],
                &["--cache-only", "--on-error", "skip"],
                &["--progress", "always", "--on-error", "skip"],
                &["-i.bak", "in", "--on-error", "keep"],
                &["-n", "--on-error", "skip"],
                &[
                    "--param",
                    "temperature=0",
                    "--max-output-tokens",
                    "9",
                    "--on-error",
                    "keep",
                ],
                // Keys where they should not be.
                &["--param", "api_key=x"],
                &["--headers", "x"],
            ] {
                let outcome = run(&home, &server, key).args(args).run();
                clean(&outcome);
                let is_known = outcome
                    .code
                    .is_some_and(|code| [0, 1, 2, 69, 75].contains(&code));
                outcome.must(is_known, "it ends as it should");
            }
        }
        assert!(server.calls() > 3);
    }
    home_is_clean(&home);
}

/// Lines of the configuration file with a key in them, each wrong in its own way.
#[test]
fn no_wrong_line_brings_its_key_to_light() {
    for key in KEYS {
        let quoted = format!("'{key}'");
        for line in [
            format!("api-key = {quoted}"),
            format!("key = {quoted}"),
            format!("model = {quoted}\napi_key = {quoted}"),
            format!("headers = {{ Authorization = 'Bearer {key}' }}"),
            format!("[profiles.corp]\nheaders = {{ Authorization = 'Bearer {key}' }}"),
            format!("[profiles.corp]\nheaders = {{ X-Api-Key = {quoted} }}"),
            format!("[profiles.corp]\nbase-url = 'https://user:{key}@host.test/v1'"),
            format!("[profiles.corp]\nbase-url = 'https://host.test/v1?key={key}'"),
            format!("[profiles.corp]\nparams = {{ api_key = {quoted} }}"),
            format!("[profiles.corp]\nkey-env = {quoted}"),
            format!("[profiles.corp]\nsecret = {quoted}"),
            format!("[profiles.corp.oauth]\nclient-secret = {quoted}"),
            format!("[profiles.corp.oauth]\naccess-token = {quoted}"),
            format!("[key]\nvalue = {quoted}"),
            // What is no TOML is shown as it stands, but for this.
            format!("api-key = {key}"),
            format!("api-key = '{key}"),
            format!("api-key '{key}'"),
            format!("export OPENAI_API_KEY={key}"),
            format!("timeout = {quoted} \u{1}"),
            format!("token = [[{quoted}"),
        ] {
            let home = Folder::home();
            let file = home.write("config/gptpipe/config.toml", &line);
            for args in [
                &["p", "-P", "corp"][..],
                &["key", "list"],
                &["cache"],
                &["p", "--dry-run", "-v"],
            ] {
                let outcome = gptpipe()
                    .at(&home)
                    .args(args)
                    .env("RUST_BACKTRACE", "1")
                    .input("x")
                    .run();
                clean(&outcome);
                if args.contains(&"corp") {
                    outcome.status(2);
                }
            }
            fs::remove_file(file).unwrap();
            let found = search(&home.path);
            assert!(found.is_empty(), "{line}: {found:#?}");
        }
    }
}

/// What somebody mistyped on the command line or in the environment. Nothing is known of a key then but its looks.
#[test]
fn no_mistake_brings_a_key_to_light() {
    let (home, server) = (Folder::home(), Server::echo());
    for key in &KEYS[..2] {
        let bearer = format!("Authorization: Bearer {key}");
        let address = format!("https://user:{key}@127.0.0.1:1/v1?api_key={key}");
        for args in [
            &["--api-key", key][..],
            &["--key", key],
            &["-H", &bearer],
            &["setup", key],
            &["setup", "--key", key],
            &["key", key],
            &["key", "rotate", key],
            &["login", key],
            &["cache", key],
            &["p", "--base-url", &address],
            &["p", "--base-url", key],
            &["p", "-P", key],
            &["p", "--rate", key],
            &["p", "--param", key],
            &["p", "--schema", key],
        ] {
            let outcome = gptpipe()
                .at(&home)
                .ask(&server)
                .env("GPTPIPE_API_KEY", key)
                .args(args)
                .input("x")
                .run();
            clean(&outcome);
            outcome.must(outcome.code != Some(0), "it is a mistake");
        }
        for (name, value) in [
            ("GPTPIPE_BASE_URL", address.as_str()),
            ("OPENAI_BASE_URL", &address),
            ("GPTPIPE_PROFILE", key),
            ("GPTPIPE_MODEL", key),
            ("SSL_CERT_FILE", key),
        ] {
            let run = gptpipe()
                .at(&home)
                .env("GPTPIPE_API_KEY", key)
                .env(name, value)
                .args(["p", "--retries", "0"]);
            clean(&run.input("x").run());
        }
    }
    let found = search(&home.path);
    assert!(found.is_empty(), "{found:#?}");
}

/// On the way to the server: names, proxies with passwords, certificates, and what does not speak TLS.
#[test]
fn no_way_to_the_server_brings_a_key_to_light() {
    let home = Folder::home();
    let tls = TlsServer::start(&["api.test"], &["h2"]);
    let locked = Proxy::start(Kind::Locked, tls.port());
    let open = Proxy::start(Kind::Connect, tls.port());
    let garbage = Server::start(|_| Answer::raw("SSH-2.0-OpenSSH_9.9\r\n"));
    for key in KEYS {
        let password: String = String::from_utf8(super::percent(key)).unwrap();
        let ask = |address: &str| {
            gptpipe()
                .at(&home)
                .env("GPTPIPE_API_KEY", key)
                .args([
                    "p",
                    "-v",
                    "--retries",
                    "0",
                    "--timeout",
                    "300ms",
                    "--base-url",
                    address,
                ])
                .args(files())
                .input("x")
        };
        let direct = [
            format!("https://127.0.0.1:{}/v1", tls.port()),
            format!("https://127.0.0.1:{}/v1", garbage.port()),
            format!("http://127.0.0.1:{}/v1", garbage.port()),
            format!("http://127.0.0.1:{}/v1", tls.port()),
            "https://127.0.0.1:1/v1".to_owned(),
            "https://name.invalid/v1".to_owned(),
            "http://elsewhere.test/v1".to_owned(),
        ];
        for address in direct {
            let outcome = ask(&address).run();
            clean(&outcome);
            outcome.must(outcome.code != Some(0), "it cannot succeed");
        }
        let users = [
            format!("user:{password}@"),
            format!("{password}@"),
            format!(":{key}@"),
        ];
        let proxies = [locked.address(), open.address(), ([127, 0, 0, 1], 1).into()];
        for (at, proxy) in proxies.into_iter().enumerate() {
            for (scheme, shift) in ["http", "socks5h", "https", "ftp"].iter().zip(at..) {
                let proxy = format!("{scheme}://{}{proxy}", users[shift % users.len()]);
                let outcome = ask("https://api.test/v1").env("HTTPS_PROXY", proxy).run();
                clean(&outcome);
                outcome.must(outcome.code != Some(0), "it cannot succeed");
            }
        }
        clean(&ask("https://api.test/v1").env("HTTPS_PROXY", key).run());
    }
    assert!(!open.asked().is_empty() && !locked.asked().is_empty());
    home_is_clean(&home);
}

/// On a terminal, where the progress is drawn, the line is broken to its width and replies are shown as they come.
#[test]
fn no_screen_shows_a_key() {
    for key in KEYS {
        let (home, server) = (Folder::home(), quoting());
        for args in [
            &["-b", "line", "--on-error", "skip", "--progress", "always"][..],
            &["-b", "line", "--on-error", "keep"],
            &["--live"],
        ] {
            let terminal = Terminal::new();
            run(&home, &server, key)
                .args(args)
                .env("TERM", "xterm-256color")
                .stdout(terminal.line())
                .stderr(terminal.line())
                .run();
            let shown = terminal.shown();
            assert!(shown.contains("overloaded"), "{shown}");
            let found = traces(shown.as_bytes());
            assert!(found.is_empty(), "{found:?} in {shown}");
        }
        home_is_clean(&home);
    }
}

/// A machine that has no memory, no files or no room left at any moment: what is said then, by whomever, names no key.
#[test]
fn no_lack_brings_a_key_to_light() {
    let (home, server) = (Folder::home(), quoting());
    let mut ends = std::collections::BTreeSet::new();
    let files = files().collect::<Vec<_>>().join(" ");
    let memory = (1..=24).map(|part| format!("ulimit -v {}", part * 8 * 1024));
    let handles = (3..=20).map(|count| format!("ulimit -n {count}"));
    let sizes = [0, 1, 8].map(|blocks| format!("ulimit -f {blocks}"));
    for limit in memory.chain(handles).chain(sizes) {
        let script = format!("{limit}; exec \"$GPTPIPE\" p -v --retries 0 {files}");
        let run = shell(&script)
            .at(&home)
            .ask(&server)
            .env("GPTPIPE_API_KEY", KEYS[2])
            .env("RUST_BACKTRACE", "full")
            .input("A text.\n");
        let (output, end) = run.start().over();
        let found = traces(&output);
        assert!(
            found.is_empty(),
            "{limit}: {found:?} in {}",
            String::from_utf8_lossy(&output)
        );
        ends.insert(end);
    }
    assert!(
        ends.len() > 2,
        "some of it has to fail in other ways: {ends:?}"
    );
    let found = search(&home.path);
    assert!(found.is_empty(), "keys were left: {found:#?}");
}

/// While it runs, nobody finds the key in its argument list, and its memory and environment are not for other
/// processes of the user.
#[test]
fn no_running_process_shows_a_key() {
    let (home, gate) = (Folder::home(), Gate::default());
    let server = Server::start({
        let gate = gate.clone();
        move |request: &Request| request.echo().behind(&gate)
    });
    let key = KEYS[0];
    let running = run(&home, &server, key).start();
    server.wait(|log| log.in_flight > 0);
    let folder = format!("/proc/{}", running.id());
    for file in [
        "cmdline",
        "comm",
        "status",
        "maps",
        "stat",
        "wchan",
        "mountinfo",
    ] {
        let bytes = fs::read(format!("{folder}/{file}")).unwrap_or_default();
        assert!(traces(&bytes).is_empty(), "{file}");
    }
    for descriptor in fs::read_dir(format!("{folder}/fd")).unwrap() {
        let target = fs::read_link(descriptor.unwrap().path()).unwrap_or_default();
        assert!(traces(target.display().to_string().as_bytes()).is_empty());
    }
    // What cannot be dumped belongs to root (proc(5)), whoever runs it.
    let owner =
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("{folder}/environ")).unwrap());
    assert_eq!(owner, 0, "its environment is not for others");
    assert!(search(&home.path).is_empty());
    gate.open();
    clean(&running.finish());
    home_is_clean(&home);
}

/// The search finds a key in what a run writes, were it there: the text is one.
#[test]
fn a_key_in_what_is_written_is_found() {
    let (home, server) = (Folder::home(), Server::echo());
    for key in KEYS {
        let outcome = run(&home, &server, "another")
            .input(format!("{key}\n"))
            .run();
        assert!(!traces(&outcome.stdout).is_empty());
        let stored = search(&home.path);
        assert!(
            stored.iter().any(|found| found.contains("remembered.db")),
            "{stored:?}"
        );
        assert!(spellings(key).len() > 10);
    }
}
