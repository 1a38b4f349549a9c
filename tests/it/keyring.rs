//! The system's keyring: a real one (gnome-keyring) on a bus of the test's own, one that is locked, one that is not
//! there, and one that does not answer.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::bus::Bus;
use crate::canary;
use crate::harness::{Folder, Gptpipe, Outcome, gptpipe, shell};
use crate::server::{Answer, Request, Server};
use crate::tty::Terminal;

const KEY: &str = "sk-proj-canary0123456789ABCDEFabcdef";
const OTHER: &str = "sk-proj-other9876543210FEDCBAfedcba0";

impl Bus {
    /// Stores a key for the profile `corp`.
    fn setup(&self, key: &str) -> Outcome {
        let run = self
            .gptpipe()
            .args(["setup", "-P", "corp"])
            .input(key)
            .run();
        run.must(!said(&run).contains("canary"), "no key may be shown");
        run
    }

    /// Asks something as the profile `corp`.
    fn ask(&self) -> Outcome {
        let run = self
            .gptpipe()
            .args(["-P", "corp", "-mm", "p", "--no-cache"]);
        run.input("text").run()
    }
}

fn said(run: &Outcome) -> String {
    format!("{}{}", String::from_utf8_lossy(&run.stdout), run.stderr)
}

/// A server that takes only these keys, and the profile `corp` for it.
fn corp(bus: &Bus, keys: &'static [&'static str]) -> Server {
    let server = Server::start(move |request: &Request| {
        let key = request.header("authorization").unwrap_or_default();
        if !keys.iter().any(|known| key == format!("Bearer {known}")) {
            return Answer::error(
                "401 Unauthorized",
                "invalid_api_key",
                &format!("who is {key}?"),
            );
        }
        match request.method.as_str() {
            "GET" => Answer::json("200 OK", &json!({"data": [{"id": "a"}, {"id": "b"}]})),
            _ => request.echo(),
        }
    });
    configure(bus, &server, "key-env = 'CORP_KEY'");
    server
}

fn configure(bus: &Bus, server: &Server, more: &str) {
    let text = format!("[profiles.corp]\nbase-url = '{}'\n{more}\n", server.url());
    bus.home.write("config/gptpipe/config.toml", text);
}

/// The value of a line of standard output.
fn value(run: &Outcome, name: &str) -> String {
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no line `{name}` in\n{text}"))
        .trim()
        .to_owned()
}

#[test]
fn a_key_is_stored_used_rotated_and_removed() {
    let bus = Bus::with_keyring();
    let server = corp(&bus, &[KEY, OTHER]);
    bus.ask()
        .status(2)
        .one_message()
        .says("there is no key for the profile `corp`");
    assert_eq!(server.calls(), 0);

    let run = bus.setup(&format!("{KEY}\n"));
    run.ok();
    assert_eq!(
        value(&run, "stored"),
        "the keyring (service gptpipe, username corp)"
    );
    assert!(value(&run, "checked").ends_with("takes it and has 2 models"));
    assert_eq!(value(&run, "replaced"), "nothing");
    let first = value(&run, "fingerprint");
    let check = server.only_request();
    assert_eq!(
        (check.method.as_str(), check.path.as_str()),
        ("GET", "/v1/models")
    );
    assert_eq!(bus.lookup("corp"), KEY, "other programs find the same");

    bus.ask().ok().stdout("text");
    let show = bus.gptpipe().args(["key", "-P", "corp"]).run();
    show.ok();
    assert_eq!(
        value(&show, "source"),
        "the keyring (service gptpipe, username corp)"
    );
    assert_eq!(value(&show, "fingerprint"), first);
    assert!(
        value(&show, "age").ends_with(" s old"),
        "{}",
        value(&show, "age")
    );
    assert!(
        value(&show, "last used").ends_with(" s ago"),
        "{}",
        value(&show, "last used")
    );

    let run = bus.setup(OTHER);
    run.ok();
    let replaced = value(&run, "replaced");
    assert!(
        replaced.starts_with(&first) && replaced.ends_with(" s old"),
        "{replaced}"
    );
    assert_eq!((bus.lookup("corp").as_str(), bus.count("corp")), (OTHER, 1));
    bus.ask().ok();
    let request = server.requests().pop().unwrap();
    assert_eq!(
        request.header("authorization"),
        Some(format!("Bearer {OTHER}").as_str())
    );

    let list = bus.gptpipe().args(["key", "list"]).run();
    list.ok();
    let line = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(
        line.starts_with("corp  ") && line.lines().count() == 1,
        "{line}"
    );

    let run = bus.gptpipe().args(["key", "remove", "-P", "corp"]).run();
    run.ok();
    assert_eq!(
        (value(&run, "removed").as_str(), bus.lookup("corp").as_str()),
        ("1", "")
    );
    bus.ask()
        .status(2)
        .says("there is no key for the profile `corp`")
        .says("gptpipe setup -P corp");
}

#[test]
fn a_key_that_the_server_refuses_is_not_stored() {
    let bus = Bus::with_keyring();
    let server = corp(&bus, &[KEY]);
    bus.setup(OTHER)
        .status(255)
        .stdout("")
        .one_message()
        .says("the key was not stored");
    assert_eq!(bus.count("corp"), 0);
    bus.setup(" \n")
        .status(2)
        .one_message()
        .says("there is no key to store");
    bus.setup("two words").status(2).one_message();
    let calls = server.calls();
    let run = bus
        .gptpipe()
        .args(["setup", "-Pcorp", "--no-check"])
        .input(OTHER)
        .run();
    run.ok();
    assert_eq!(
        (value(&run, "checked").as_str(), server.calls()),
        ("no", calls)
    );
    assert_eq!(bus.lookup("corp"), OTHER);
    // It was right to have been asked.
    bus.ask()
        .status(255)
        .one_message()
        .says("store another one with `gptpipe setup -P corp`");
    // Without a server nothing is known about a key.
    drop(server);
    bus.setup(KEY).status(75).says("--no-check");
}

#[test]
fn a_key_is_typed_unseen() {
    let bus = Bus::with_keyring();
    let _server = corp(&bus, &[KEY]);
    let terminal = Terminal::new();
    let run = shell(r#"exec setsid --ctty --wait "$GPTPIPE" setup -P corp"#)
        .at(&bus.home)
        .env("DBUS_SESSION_BUS_ADDRESS", bus.address())
        .stdin(terminal.line())
        .start();
    terminal
        .screen
        .wait(|shown| shown.contains("(not shown): "));
    terminal.wait_for_no_echo();
    terminal.type_in(&format!("{KEY}\r"));
    let run = run.finish();
    run.ok();
    assert_eq!(bus.lookup("corp"), KEY);
    let shown = terminal.shown();
    assert!(
        shown.contains("Key of the profile corp") && !shown.contains("canary"),
        "{shown}"
    );
}

#[test]
fn a_locked_keyring_is_no_empty_one() {
    let bus = Bus::with_keyring();
    let server = corp(&bus, &[KEY]);
    bus.setup(KEY).ok();
    let calls = server.calls();
    bus.lock();
    bus.ask()
        .status(2)
        .stdout("")
        .one_message()
        .says("the keyring is locked")
        .says("unlock it");
    bus.setup(KEY)
        .status(2)
        .one_message()
        .says("the keyring is locked");
    let run = bus.gptpipe().args(["key", "-P", "corp"]).run();
    run.status(2).one_message().says("the keyring is locked");
    assert_eq!(server.calls(), calls);
}

#[test]
fn without_a_bus_or_a_service_the_choices_are_told() {
    let bus = Bus::empty();
    let server = corp(&bus, &[KEY]);
    for (address, trouble) in [
        (bus.address(), "no program on D-Bus keeps secrets"),
        (
            format!("unix:path={}/nothing", bus.home.path.display()),
            "no D-Bus session bus",
        ),
    ] {
        let at = |run: Gptpipe| run.at(&bus.home).env("DBUS_SESSION_BUS_ADDRESS", &address);
        let run = at(gptpipe()).args(["setup", "-P", "corp"]).input(KEY).run();
        run.status(2)
            .stdout("")
            .one_message()
            .says(trouble)
            .never_says("canary");
        run.says("key-command")
            .says("LoadCredential")
            .says("environment variable");
        let run = at(gptpipe())
            .args(["-Pcorp", "-mm", "p"])
            .input("text")
            .run();
        run.status(2)
            .stdout("")
            .one_message()
            .says("there is no key for the profile `corp`");
        // Whom no key is needed for is not bothered with it.
        let open = Server::echo();
        at(gptpipe()).ask(&open).arg("p").input("text").run().ok();
    }
    assert_eq!(server.calls(), 0);
}

#[test]
fn entries_of_one_name_are_told_and_resolved() {
    let bus = Bus::with_keyring();
    let server = corp(&bus, &[KEY, OTHER]);
    bus.store("corp", ["extra", "one"], KEY);
    bus.ask().ok();
    bus.store("corp", ["extra", "two"], KEY);
    bus.ask().status(0).says("2 entries").stdout("text");
    bus.store("corp", ["extra", "two"], OTHER);
    let calls = server.calls();
    bus.ask()
        .status(2)
        .one_message()
        .says("2 entries of that name")
        .says("gptpipe setup");
    assert_eq!(server.calls(), calls);
    let run = bus.setup(OTHER);
    run.ok();
    assert_eq!(value(&run, "replaced"), "2 entries");
    assert_eq!((bus.count("corp"), bus.lookup("corp").as_str()), (1, OTHER));
    bus.ask().ok();
    // What `setup` stored is meant, also when another program adds to it.
    bus.store("corp", ["extra", "three"], KEY);
    bus.ask().status(0).says("2 entries");
    let request = server.requests().pop().unwrap();
    assert_eq!(
        request.header("authorization"),
        Some(format!("Bearer {OTHER}").as_str())
    );
    let run = bus.gptpipe().args(["key", "remove", "-Pcorp"]).run();
    run.ok();
    assert_eq!(
        (value(&run, "removed").as_str(), bus.count("corp")),
        ("2", 0)
    );
}

#[test]
fn a_stored_key_is_in_the_keyring_alone() {
    let bus = Bus::with_keyring();
    let _server = corp(&bus, &[canary::KEYS[0]]);
    canary::clean(bus.setup(canary::KEYS[0]).ok());
    for args in [&["p", "-v", "-mm"][..], &["key"], &["key", "list"]] {
        let run = bus.gptpipe().args(["-P", "corp"]).args(args);
        canary::clean(run.input("text").run().status(0));
    }
    canary::clean(bus.setup(canary::KEYS[1]).status(255));
    canary::clean(bus.setup(canary::KEYS[0]).ok());
    // Its own file is here too, and encrypted.
    let found = canary::search(&bus.home.path);
    assert!(found.is_empty(), "the key was left: {found:#?}");
}

#[test]
fn an_old_key_is_reminded_of() {
    let bus = Bus::with_keyring();
    let server = corp(&bus, &[KEY]);
    let host = format!("127.0.0.1:{}", server.port());
    bus.store(
        "corp",
        ["stored", &format!("2020-02-02T00:00:00Z {host}")],
        KEY,
    );
    bus.ask().ok();
    let key = || bus.gptpipe().args(["key", "-P", "corp"]);
    let run = key().run();
    run.status(0)
        .one_message()
        .says("days old")
        .says("gptpipe key rotate -P corp");
    assert_eq!(value(&run, "stored"), "2020-02-02T00:00:00Z");
    key().arg("-q").run().ok();
    configure(&bus, &server, "[key]\nmax-age = '300d'");
    key().run().status(0).says("days old");
}

#[test]
fn a_stored_key_goes_only_where_it_was_stored_for() {
    let bus = Bus::with_keyring();
    let server = corp(&bus, &[KEY]);
    bus.setup(KEY).ok();
    let calls = server.calls();
    let other = Server::echo();
    configure(&bus, &other, "key-env = 'CORP_KEY'");
    bus.ask()
        .status(2)
        .one_message()
        .says("was stored for 127.0.0.1")
        .says("and is not sent to");
    let run = bus
        .gptpipe()
        .args(["-Pcorp", "-mm", "p", "--base-url", &server.url()])
        .input("text")
        .run();
    run.status(255).says("goes to its own host alone");
    let run = bus
        .gptpipe()
        .args(["setup", "-Pcorp", "--base-url", &server.url()])
        .input(KEY)
        .run();
    run.status(2)
        .one_message()
        .says("is not the host of the profile `corp`");
    assert_eq!((other.calls(), server.calls()), (0, calls + 1));
    assert_eq!(
        server.requests().pop().unwrap().header("authorization"),
        None
    );
}

#[test]
fn a_server_of_ones_own_gets_a_key_when_it_asks_for_one() {
    let bus = Bus::with_keyring();
    let server = corp(&bus, &[KEY]);
    configure(&bus, &server, "");
    bus.setup(KEY).ok();
    let calls = server.calls();
    bus.ask().ok().stdout("text");
    let keys: Vec<bool> = server.requests()[calls..]
        .iter()
        .map(|request| request.header("authorization").is_some())
        .collect();
    assert_eq!(keys, [false, true]);
}

/// A bus that takes connections and says nothing.
struct Mute {
    home: Arc<Folder>,
    connections: Arc<AtomicUsize>,
}

impl Mute {
    fn new() -> Self {
        let home = Folder::home();
        let listener = UnixListener::bind(home.path.join("mute")).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        thread::spawn({
            let connections = Arc::clone(&connections);
            move || {
                let mut held = Vec::new();
                for stream in listener.incoming() {
                    connections.fetch_add(1, Ordering::SeqCst);
                    held.push(stream);
                }
            }
        });
        Self { home, connections }
    }

    fn gptpipe(&self) -> Gptpipe {
        let address = format!("unix:path={}", self.home.path.join("mute").display());
        gptpipe()
            .at(&self.home)
            .env("DBUS_SESSION_BUS_ADDRESS", address)
    }

    fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

#[test]
fn a_keyring_that_does_not_answer_is_given_up() {
    let mute = Mute::new();
    let run = mute.gptpipe().arg("p").input("text").run();
    run.status(2)
        .stdout("")
        .one_message()
        .says("the keyring did not answer for 5s");
    assert_eq!(mute.count(), 1);
    // Whoever does not want to wait need not.
    let run = mute
        .gptpipe()
        .args(["p", "--no-cache"])
        .hold_input()
        .start();
    let mut run = run;
    run.feed("A text. ".repeat(4000));
    let end = Instant::now() + Duration::from_secs(4);
    while mute.count() < 2 && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    run.signal(Signal::INT);
    run.finish().killed_by(Signal::INT);
}

#[test]
fn the_keyring_is_not_touched_without_need() {
    let mute = Mute::new();
    let server = Server::echo();
    let text = format!(
        "[profiles.corp]\nbase-url = '{}'\nkey-env = 'CORP_KEY'\nmodel = 'm'\n",
        server.url()
    );
    mute.home.write("config/gptpipe/config.toml", text);
    let corp = || mute.gptpipe().args(["-Pcorp", "p"]);
    corp()
        .env("CORP_KEY", KEY)
        .input("text")
        .run()
        .ok()
        .stdout("text");
    // All of it is remembered now.
    corp().input("text").run().ok().stdout("text");
    corp().arg("--cache-only").input("text").run().ok();
    corp().input("").run().ok();
    mute.gptpipe()
        .args(["--demo", "summarize"])
        .input("A sentence.\n")
        .run()
        .status(0);
    mute.gptpipe().args(["cache"]).run().ok();
    mute.gptpipe().args(["--help"]).run().ok();
    assert_eq!((server.calls(), mute.count()), (1, 0));
}
