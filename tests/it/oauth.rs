//! Tokens of an OAuth 2.0 server in place of keys: against a real provider with a real keyring, and against a scripted
//! server that answers as some servers do.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::bus::Bus;
use crate::harness::{Gptpipe, Outcome, Running, gptpipe};
use crate::key::find_in_files;
use crate::oidc::Oidc;
use crate::proxy::{Kind, Proxy};
use crate::server::{Answer, Request, Server};

/// The entry that tokens are kept in.
const ENTRY: &str = "corp oauth";

/// Writes the profile `corp` for an API, with these lines about OAuth.
fn configure(bus: &Bus, api: &Server, lines: &str) {
    let text = format!(
        "[profiles.corp]\nbase-url = '{}'\nmodel = 'm'\n[profiles.corp.oauth]\n{lines}\n",
        api.url()
    );
    bus.home.write("config/gptpipe/config.toml", text);
}

/// The same for a person who logs in at the provider.
fn for_people(bus: &Bus, api: &Server, oidc: &Oidc) {
    let lines = format!(
        "issuer = '{}'\nclient-id = 'cli'\nscope = 'openid offline_access chat'",
        oidc.issuer()
    );
    configure(bus, api, &lines);
}

fn login(bus: &Bus) -> Gptpipe {
    bus.gptpipe().args(["login", "-P", "corp"])
}

fn ask(bus: &Bus) -> Gptpipe {
    bus.gptpipe()
        .args(["-P", "corp", "--no-cache", "p"])
        .input("A text.\n")
}

/// The code that the person is told to enter.
fn code(login: &Running) -> String {
    let found = RefCell::default();
    login.wait_stderr(|stderr| {
        let mut lines = stderr
            .lines()
            .skip_while(|line| !line.ends_with("enter this code there:"));
        let code = lines.nth(1).map(|line| line.trim().to_owned());
        let is_there = code.is_some() && stderr.contains("waiting");
        *found.borrow_mut() = code.unwrap_or_default();
        is_there
    });
    found.into_inner()
}

/// A person logs in.
fn log_in(bus: &Bus, oidc: &Oidc) -> Outcome {
    let login = login(bus).start();
    oidc.approve(&code(&login));
    let run = login.finish();
    run.status(0).stdout("");
    run
}

/// What is kept.
fn kept(bus: &Bus) -> Value {
    serde_json::from_str(&bus.lookup(ENTRY)).unwrap()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("no `{name}`"))
}

/// An API that takes only tokens that hold at the provider.
fn strict(oidc: &Arc<Oidc>) -> Server {
    let oidc = Arc::clone(oidc);
    Server::start(move |request| {
        let token = bearer(request);
        if oidc.holds(&token) {
            request.echo()
        } else {
            let said = format!("the token {token} has expired");
            Answer::error("401 Unauthorized", "invalid_token", &said)
        }
    })
}

fn bearer(request: &Request) -> String {
    let header = request.header("authorization").unwrap_or_default();
    header
        .strip_prefix("Bearer ")
        .unwrap_or_default()
        .to_owned()
}

/// Runs so many at once, and all must succeed.
fn all_at_once(bus: &Bus, count: usize) {
    let runs: Vec<Running> = (0..count).map(|_| ask(bus).patient().start()).collect();
    for run in runs {
        run.finish().ok().stdout("A text.\n");
    }
}

#[test]
fn a_person_logs_in_elsewhere_and_later_logs_out() {
    let (bus, oidc) = (Bus::with_keyring(), Arc::new(Oidc::start()));
    let api = strict(&oidc);
    for_people(&bus, &api, &oidc);
    let run = ask(&bus).run();
    run.status(2)
        .says("there is no login for the profile `corp`")
        .says("gptpipe login -P corp");
    assert_eq!(api.calls(), 0);

    let run = log_in(&bus, &oidc);
    run.says(&format!("{}/device\n", oidc.issuer()))
        .says("/device?user_code=")
        .says("logged in to the profile `corp`");
    let token = kept(&bus);
    for secret in ["access_token", "refresh_token"] {
        run.never_says(text(&token, secret));
    }
    let run = ask(&bus).arg("-v").run();
    run.status(0)
        .stdout("A text.\n")
        .never_says(text(&token, "access_token"));
    assert_eq!(bearer(&api.only_request()), text(&token, "access_token"));
    for folder in ["state", "config"] {
        let folder = bus.home.path.join(folder);
        for secret in ["access_token", "refresh_token"] {
            find_in_files(&folder, text(&token, secret));
        }
    }
    assert_eq!(oidc.given("refresh_token"), 0, "it holds for ten minutes");

    login(&bus)
        .arg("--revoke")
        .run()
        .status(0)
        .says("is revoked");
    for secret in ["access_token", "refresh_token"] {
        assert!(!oidc.holds(text(&token, secret)), "{secret}");
    }
    assert_eq!(bus.lookup(ENTRY), "");
    login(&bus)
        .arg("--revoke")
        .run()
        .status(2)
        .says("there is no login");
    ask(&bus).run().status(2).says("there is no login");
}

#[test]
fn a_login_can_be_refused_and_can_be_given_up() {
    let (bus, oidc) = (Bus::with_keyring(), Arc::new(Oidc::start()));
    let api = strict(&oidc);
    for_people(&bus, &api, &oidc);
    let refused = login(&bus).start();
    oidc.deny(&code(&refused));
    refused
        .finish()
        .status(255)
        .says("`access_denied`: End-User aborted interaction");
    let given_up = login(&bus).start();
    code(&given_up);
    given_up.signal(Signal::INT);
    given_up.finish().killed_by(Signal::INT).says("interrupted");
    assert_eq!(bus.lookup(ENTRY), "");
}

/// Tokens have run out when so many processes begin: one of them renews, for all.
#[test]
fn processes_at_expiry_renew_once() {
    let (bus, oidc) = (Bus::with_keyring(), Arc::new(Oidc::start()));
    let api = strict(&oidc);
    for_people(&bus, &api, &oidc);
    let mut renewals = 0;
    for count in [2, 16] {
        oidc.tokens_hold(1);
        log_in(&bus, &oidc);
        let before = kept(&bus);
        oidc.tokens_hold(600);
        thread::sleep(Duration::from_millis(1100));
        all_at_once(&bus, count);
        renewals += 1;
        assert_eq!(oidc.given("refresh_token"), renewals, "{count} processes");
        let after = kept(&bus);
        assert_ne!(
            text(&before, "refresh_token"),
            text(&after, "refresh_token"),
            "it rotates"
        );
    }
    assert_eq!(oidc.families_revoked(), 0, "no token was used twice");
    let refused = api
        .requests()
        .into_iter()
        .filter(|request| !oidc.holds(&bearer(request)));
    assert_eq!(
        refused.count(),
        0,
        "nothing was sent with a token that had run out"
    );
}

/// A server refuses tokens that should still hold: one process renews, for all, and each sends its request again.
#[test]
fn processes_that_are_refused_renew_once() {
    let (bus, oidc) = (Bus::with_keyring(), Arc::new(Oidc::start()));
    let refused = Arc::new(std::sync::Mutex::new(String::new()));
    let api = Server::start({
        let refused = Arc::clone(&refused);
        move |request| {
            if bearer(request) == *refused.lock().unwrap() {
                Answer::error("401 Unauthorized", "invalid_token", "it was revoked")
            } else {
                request.echo()
            }
        }
    });
    for_people(&bus, &api, &oidc);
    log_in(&bus, &oidc);
    for (count, renewals) in [(2, 1), (16, 2)] {
        text(&kept(&bus), "access_token").clone_into(&mut refused.lock().unwrap());
        all_at_once(&bus, count);
        assert_eq!(oidc.given("refresh_token"), renewals, "{count} processes");
    }
    assert_eq!(oidc.families_revoked(), 0, "no token was used twice");
}

/// What the tests above rest on: this provider takes the second use of a refresh token for theft, and then no token of
/// that login holds any more.
#[test]
fn a_stolen_refresh_token_ends_the_login() {
    let (bus, oidc) = (Bus::with_keyring(), Arc::new(Oidc::start()));
    let api = strict(&oidc);
    for_people(&bus, &api, &oidc);
    oidc.tokens_hold(1);
    log_in(&bus, &oidc);
    let old = kept(&bus);
    thread::sleep(Duration::from_millis(1100));
    ask(&bus).run().ok();
    let address = oidc.issuer().strip_prefix("http://").unwrap().to_owned();
    let form = format!(
        "grant_type=refresh_token&client_id=cli&refresh_token={}",
        text(&old, "refresh_token")
    );
    let mut thief = TcpStream::connect(address).unwrap();
    let head = "POST /token HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded";
    write!(
        thief,
        "{head}\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    )
    .unwrap();
    let mut answer = String::new();
    thief.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("invalid_grant"), "{answer}");
    assert_eq!(oidc.families_revoked(), 1);
    thread::sleep(Duration::from_millis(1100));
    let run = ask(&bus).run();
    run.status(2)
        .says("the login for the profile `corp` has ended")
        .says("gptpipe login -P corp")
        .never_says(text(&kept(&bus), "refresh_token"));
}

#[test]
fn batch_jobs_get_tokens_by_themselves() {
    let oidc = Arc::new(Oidc::start());
    let api = strict(&oidc);
    let bus = Bus::empty();
    let lines = |client: &str, more: &str| {
        format!(
            "issuer = '{}'\nclient-id = '{client}'\ngrant = 'client_credentials'\nscope = 'chat'\n{more}",
            oidc.issuer()
        )
    };
    // Its secret has characters that mean something in a form.
    configure(
        &bus,
        &api,
        &lines("batch", "client-secret-env = 'CORP_SECRET'"),
    );
    let run = ask(&bus).env("CORP_SECRET", "secret+of/batch=").run();
    run.ok().stdout("A text.\n");
    login(&bus)
        .env("CORP_SECRET", "secret+of/batch=")
        .run()
        .status(0)
        .says("needs no login");
    let wrong = ask(&bus).env("CORP_SECRET", "canary+canary").run();
    wrong
        .status(2)
        .says("`invalid_client`")
        .says("check `client-id`")
        .never_says("canary");
    ask(&bus)
        .run()
        .status(2)
        .says("the variable `CORP_SECRET`, which `client-secret-env` names, is not set");
    let command = "client-secret-command = \"printf 'secret+of/post='\"\nclient-auth = 'post'\nresource = 'urn:llm'";
    configure(&bus, &api, &lines("batch-post", command));
    ask(&bus).run().ok();
    assert_eq!(oidc.given("client_credentials"), 3);
}

#[test]
fn batch_jobs_share_a_token_where_there_is_a_keyring() {
    let (bus, oidc) = (Bus::with_keyring(), Arc::new(Oidc::start()));
    let api = strict(&oidc);
    let lines = format!(
        "issuer = '{}'\nclient-id = 'batch'\ngrant = 'client_credentials'\nscope = 'chat'",
        oidc.issuer()
    );
    configure(&bus, &api, &lines);
    ask(&bus)
        .run()
        .status(2)
        .says("the client `batch` has no secret")
        .says("`corp client-secret`");
    bus.store("corp client-secret", ["extra", "x"], "secret+of/batch=");
    all_at_once(&bus, 4);
    assert_eq!(oidc.given("client_credentials"), 1);
    login(&bus)
        .arg("--revoke")
        .run()
        .status(0)
        .says("is revoked");
    all_at_once(&bus, 1);
    assert_eq!(oidc.given("client_credentials"), 2);
}

/// An authorization server that answers as the script says, and an API that repeats.
fn scripted(answer: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Server {
    Server::start(move |request| match answer(request) {
        Some(answer) => answer,
        None if request.path.ends_with("/chat/completions") => request.echo(),
        None => Answer::json("404 Not Found", &json!({"message": "nothing here"})),
    })
}

/// The address of the server without the API's path.
fn root(server: &Server) -> String {
    server.url().trim_end_matches("/v1").to_owned()
}

/// Asks the API, which is the authorization server too, as a batch job without a keyring.
fn batch(server: &Server, lines: &str) -> Gptpipe {
    let text = format!(
        "[profiles.corp]\nbase-url = '{}'\nmodel = 'm'\n[profiles.corp.oauth]\nclient-id = 'batch'\n\
         client-secret-env = 'CORP_SECRET'\ngrant = 'client_credentials'\n{lines}\n",
        server.url()
    );
    let run = gptpipe().env("CORP_SECRET", "canary").config(&text);
    run.args(["-P", "corp", "--no-cache", "p"])
        .input("A text.\n")
}

#[test]
fn what_servers_answer_besides_is_understood() {
    for answer in [
        json!({"access_token": "t", "token_type": "bEARER"}),
        json!({"access_token": "t", "token_type": "Bearer", "expires_in": "3600", "ext_expires_in": 3600}),
        json!({"access_token": "t", "expires_in": 0.5}),
    ] {
        let server = scripted(move |request| {
            (request.path == "/token").then(|| {
                assert_eq!(request.body, "grant_type=client_credentials&audience=a+b");
                assert_eq!(
                    request.header("authorization"),
                    Some("Basic YmF0Y2g6Y2FuYXJ5")
                );
                assert_eq!(request.header("accept"), Some("application/json"));
                Answer::json("200 OK", &answer)
            })
        });
        let lines = format!("token-url = '{}/token'\naudience = 'a b'", root(&server));
        batch(&server, &lines).run().ok().stdout("A text.\n");
        assert_eq!(bearer(server.requests().last().unwrap()), "t");
    }
}

#[test]
fn what_a_server_refuses_is_told_without_secrets() {
    let say = |status: &'static str, body: Value| {
        scripted(move |request| (request.path == "/token").then(|| Answer::json(status, &body)))
    };
    for (server, said) in [
        (
            say(
                "401 Unauthorized",
                json!({"error": "invalid_client", "error_description": "canary is \u{1b}[31mwrong\n"}),
            ),
            "`invalid_client`: [redacted] is",
        ),
        (
            say("200 OK", json!({"error": "unauthorized_client"})),
            "`unauthorized_client`",
        ),
        (
            say(
                "200 OK",
                json!({"access_token": "canary", "token_type": "mac"}),
            ),
            "only `Bearer` is known",
        ),
        (
            say("200 OK", json!({"token": "canary"})),
            "token cannot be read",
        ),
        (
            say("404 Not Found", json!("canary")),
            "answered 404 and not in OAuth's form",
        ),
    ] {
        let run = batch(&server, &format!("token-url = '{}/token'", root(&server))).run();
        run.status(2)
            .stdout("")
            .says(said)
            .never_says("canary")
            .never_says("\u{1b}");
        assert_eq!(server.calls(), 1, "nothing was sent without a token");
    }
}

#[test]
fn a_server_that_fails_for_now_is_asked_again() {
    let calls = AtomicUsize::new(0);
    let server = scripted(move |request| {
        (request.path == "/token").then(|| match calls.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::plain(
                "503 Service Unavailable",
                "Content-Type: text/html\r\n",
                "<html>busy</html>",
            ),
            1 => Answer::nothing().reset(),
            _ => Answer::json("200 OK", &json!({"access_token": "t"})),
        })
    });
    batch(&server, &format!("token-url = '{}/token'", root(&server)))
        .run()
        .ok();
    assert_eq!(server.calls(), 4);
}

#[test]
fn secrets_go_where_they_were_meant_to_go() {
    // A redirect would take them elsewhere.
    let other = Server::echo();
    let location = format!("Location: {}\r\n", root(&other));
    let server = scripted(move |request| {
        (request.path == "/token").then(|| Answer::plain("307 Temporary Redirect", &location, ""))
    });
    let run = batch(&server, &format!("token-url = '{}/token'", root(&server))).run();
    run.status(2)
        .says("redirects, which is not followed")
        .never_says("canary");
    assert_eq!(other.calls(), 0);
    // So would an address without encryption.
    for lines in [
        "token-url = 'http://login.test/token'",
        "issuer = 'http://login.test'",
    ] {
        let run = batch(&server, lines).run();
        run.status(2)
            .says("tokens would travel unencrypted to login.test");
    }
    // And a profile's token is for the profile's host.
    let run = batch(&server, &format!("token-url = '{}/token'", root(&server)));
    run.ask(&other).run().ok();
    assert_eq!(other.only_request().header("authorization"), None);
}

#[test]
fn the_way_to_the_server_is_the_apis() {
    let server = scripted(|_| None);
    let proxy = Proxy::start(Kind::Connect, server.port());
    let run = batch(&server, "token-url = 'https://login.test/token'");
    let run = run
        .env("HTTPS_PROXY", format!("http://{}", proxy.address()))
        .run();
    run.status(75)
        .says("the authorization server gave no answer")
        .says("the server's addresses in the profile");
    let asked = proxy.asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|host| host == "login.test:443"),
        "{asked:?}"
    );
    assert!(
        server.requests().is_empty(),
        "nothing goes through in the clear"
    );
}

#[test]
fn a_token_that_is_refused_is_renewed_once() {
    let server = Server::start(|request| match request.path.as_str() {
        "/token" => Answer::json(
            "200 OK",
            &json!({"access_token": format!("canary-{}", request.ordinal)}),
        ),
        _ => Answer::error(
            "401 Unauthorized",
            "invalid_token",
            &format!("who is {}?", bearer(request)),
        ),
    });
    let run = batch(&server, &format!("token-url = '{}/token'", root(&server))).run();
    run.status(255)
        .says("gptpipe login -P corp")
        .never_says("canary");
    let sent: Vec<String> = server
        .requests()
        .iter()
        .map(|request| bearer(request))
        .collect();
    assert_eq!(sent, ["", "canary-0", "", "canary-2"]);
}

/// Whatever header the server's own keys go into.
#[test]
fn a_token_is_a_bearer_token() {
    let server = scripted(|request| {
        let token = json!({"access_token": "t"});
        (request.path == "/token").then(|| Answer::json("200 OK", &token))
    });
    let run = batch(&server, &format!("token-url = '{}/token'", root(&server)));
    let config = run.home().path.join("config/gptpipe/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        text.replace("model = 'm'", "model = 'm'\nauth = 'api-key'"),
    )
    .unwrap();
    run.run().ok();
    let request = server.requests().pop().unwrap();
    assert_eq!(
        (bearer(&request).as_str(), request.header("api-key")),
        ("t", None)
    );
}

#[test]
fn a_key_that_is_there_comes_first() {
    let server = scripted(|_| None);
    let run = batch(&server, &format!("token-url = '{}/token'", root(&server)));
    run.env("GPTPIPE_API_KEY", "key").run().ok();
    assert_eq!(bearer(&server.only_request()), "key");
}

#[test]
fn what_was_got_with_other_settings_is_not_sent() {
    let (bus, server) = (Bus::with_keyring(), scripted(|_| None));
    let kept = r#"{"settings":"others","access_token":"canary","refresh_token":"canary"}"#;
    bus.store(ENTRY, ["extra", "x"], kept);
    let lines = format!(
        "client-id = 'cli'\ntoken-url = '{0}/t'\ndevice-authorization-url = '{0}/d'",
        root(&server)
    );
    configure(&bus, &server, &lines);
    ask(&bus)
        .run()
        .status(2)
        .says("or its settings have changed since")
        .never_says("canary");
    login(&bus)
        .arg("--revoke")
        .run()
        .status(0)
        .says("so no server was told");
    assert_eq!((server.calls(), bus.lookup(ENTRY).as_str()), (0, ""));
}

#[test]
fn a_server_publishes_its_addresses_in_its_own_name() {
    let server = scripted(|request| {
        let root = format!("http://{}", request.header("host").unwrap());
        let metadata = |issuer: String| {
            let methods = ["client_secret_post"];
            json!({"issuer": issuer, "token_endpoint": format!("{root}/t"), "token_endpoint_auth_methods_supported": methods})
        };
        match request.path.as_str() {
            // As RFC 8414 has it, and nothing where OpenID Connect has it.
            "/.well-known/oauth-authorization-server/realms/a" => Some(Answer::json(
                "200 OK",
                &metadata(format!("{root}/realms/a/")),
            )),
            "/realms/b/.well-known/openid-configuration" => Some(Answer::json(
                "200 OK",
                &metadata("https://login.example".to_owned()),
            )),
            "/t" => {
                assert_eq!(
                    request.body,
                    "grant_type=client_credentials&client_id=batch&client_secret=canary"
                );
                Some(Answer::json("200 OK", &json!({"access_token": "t"})))
            }
            _ => None,
        }
    });
    let ask = |realm: &str| {
        batch(
            &server,
            &format!("issuer = '{}/realms/{realm}'", root(&server)),
        )
        .run()
    };
    ask("a").ok();
    ask("b")
        .status(2)
        .says("speaks of the issuer `https://login.example`, not of");
    ask("c")
        .status(2)
        .says("publishes no settings that can be read (the two places answered 404 and 404)");
}

#[test]
fn without_a_keyring_nobody_is_asked_to_log_in() {
    let (bus, server) = (Bus::empty(), scripted(|_| None));
    let lines = format!(
        "client-id = 'cli'\ntoken-url = '{0}/t'\ndevice-authorization-url = '{0}/d'",
        root(&server)
    );
    configure(&bus, &server, &lines);
    let run = login(&bus).run();
    run.status(2)
        .says("tokens are kept in the keyring, and it cannot be used: there is no keyring here");
    ask(&bus).run().status(2).says("there is no keyring here");
    assert_eq!(server.calls(), 0);
    // A locked one is not an empty one.
    let bus = Bus::with_keyring();
    configure(&bus, &server, &lines);
    bus.lock();
    login(&bus).run().status(2).says("the keyring is locked");
    assert_eq!(server.calls(), 0);
}

#[test]
fn the_settings_are_checked_where_they_stand() {
    let server = scripted(|_| None);
    let bus = Bus::empty();
    configure(
        &bus,
        &server,
        "client-id = 'cli'\nissuer = 'https://login.example'\nscopes = 'chat'",
    );
    ask(&bus)
        .run()
        .status(2)
        .says("config.toml:7: `scopes`: unknown key")
        .says("did you mean `scope`?");
    configure(
        &bus,
        &server,
        "client-id = 'cli'\ntoken-url = 'https://login.example/t'",
    );
    ask(&bus)
        .run()
        .status(2)
        .says("config.toml:4: ")
        .says("`issuer` or `device-authorization-url` is missing");
    configure(
        &bus,
        &server,
        "client-id = 'cli'\nissuer = 'https://login.example'\nclient-secret = 'canary'",
    );
    ask(&bus)
        .run()
        .status(2)
        .says("`client-secret` does not belong into a file")
        .never_says("canary");
    configure(
        &bus,
        &server,
        "client-id = 'cli'\nissuer = 'https://login.example'",
    );
    let run = bus.gptpipe().args(["login", "-P", "openai"]).run();
    run.status(2)
        .says("the profile `openai` has no OAuth settings")
        .says("[profiles.openai.oauth]");
    bus.gptpipe()
        .args(["p", "--revoke"])
        .run()
        .status(2)
        .says("`--revoke` is for `gptpipe login` alone");
    assert_eq!(server.calls(), 0);
}
