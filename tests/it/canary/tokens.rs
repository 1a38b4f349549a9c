use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use super::{
    ACCESS, CLIENT, DEVICE, IDENTITY, KEYS, REFRESH, base64, clean, files, home_is_clean,
    is_witnessed, percent, witness,
};
use crate::bus::Bus;
use crate::harness::{Folder, Gptpipe, gptpipe};
use crate::server::{Answer, Request, Server};

/// Whether the request has it, in whichever way requests do.
fn carries(request: &Request, canary: &str) -> bool {
    let (body, header) = (
        request.body.to_string(),
        request.header("authorization").unwrap_or_default(),
    );
    let encoded = String::from_utf8(percent(canary)).unwrap();
    body.contains(canary)
        || body.contains(&encoded)
        || header.ends_with(canary)
        || (canary == CLIENT && header.ends_with(&basic()))
}

/// All that the request has and nobody else may know, in one text, as a careless server would put it into a log.
fn secrets(request: &Request) -> String {
    let mut said = IDENTITY.to_owned();
    for canary in [ACCESS, REFRESH, DEVICE, CLIENT] {
        if carries(request, canary) {
            let encoded = String::from_utf8(percent(canary)).unwrap();
            said = format!("{said} {canary} is={canary} {encoded}");
        }
    }
    let header = request.header("authorization").unwrap_or_default();
    said + " " + header + " " + header.trim_start_matches("Basic ")
}

/// The client's name and secret as they stand in a header (RFC 6749, section 2.3.1).
fn basic() -> String {
    let encoded = String::from_utf8(percent(CLIENT)).unwrap();
    let mut letters = String::from_utf8(base64(format!("batch:{encoded}").as_bytes())).unwrap();
    while !letters.len().is_multiple_of(4) {
        letters.push('=');
    }
    letters
}

/// What an authorization server answers in place of what it should, each time with the secrets in it.
fn wrong(request: &Request, at: usize) -> Option<Answer> {
    let said = secrets(request);
    let given = format!("{said} {ACCESS} {REFRESH}");
    let json = |status: &str, value: Value| Answer::json(status, &value);
    Some(match at {
        0 => json(
            "400 Bad Request",
            json!({"error": "invalid_grant", "error_description": said, "error_uri": said}),
        ),
        1 => json("401 Unauthorized", json!({"error": said})),
        2 => json(
            "403 Forbidden",
            json!({"error": {"message": said, "code": said}}),
        ),
        3 => Answer::plain(
            "400 Bad Request",
            "Content-Type: text/html\r\n",
            format!("<title>{said}</title>{said}"),
        ),
        4 => Answer::plain(
            "404 Not Found",
            &format!("x-request-id: {said}\r\nWWW-Authenticate: {said}\r\n"),
            &said,
        ),
        5 => Answer::plain(
            "302 Found",
            &format!("Location: https://{ACCESS}@other.test/{REFRESH}?token={ACCESS}\r\n"),
            &said,
        ),
        6 => json(
            "200 OK",
            json!({"access_token": [ACCESS], "refresh_token": {"is": REFRESH}, "id_token": IDENTITY}),
        ),
        7 => json(
            "200 OK",
            json!({"access_token": ACCESS, "token_type": given, "refresh_token": REFRESH}),
        ),
        8 => json(
            "200 OK",
            json!({"access_token": format!("{ACCESS}\n{REFRESH}"), "token_type": "Bearer"}),
        ),
        9 => Answer::plain(
            "200 OK",
            "Content-Type: application/json\r\n",
            format!("{{\"access_token\":\"{ACCESS}"),
        ),
        10 => Answer::raw(format!("HTTP/1.1 400 {said}\r\n\r\n{said}")),
        11 => Answer::raw(format!("{said}\r\n\r\n")),
        12 => json(
            "500 Internal Server Error",
            json!({"error": "server_error", "error_description": said}),
        ),
        13 => json(
            "200 OK",
            json!({"device_code": DEVICE, "user_code": 7, "verification_uri": [DEVICE]}),
        ),
        14 => json(
            "200 OK",
            json!({"issuer": said, "token_endpoint": said, "device_authorization_endpoint": DEVICE}),
        ),
        _ => return None,
    })
}

/// How many wrong answers there are.
const ALL_WRONG: usize = 15;

/// What it should answer.
fn right(request: &Request) -> Answer {
    let root = format!("http://{}", request.header("host").unwrap());
    match request.path.as_str() {
        "/d" => Answer::json(
            "200 OK",
            &json!({"device_code": DEVICE, "user_code": "ABCD-EFGH", "verification_uri": format!("{root}/device"),
                "expires_in": 2, "interval": 0}),
        ),
        "/t" => Answer::json(
            "200 OK",
            &json!({"access_token": ACCESS, "token_type": "Bearer", "refresh_token": REFRESH, "expires_in": 1,
                "id_token": IDENTITY, "scope": "chat"}),
        ),
        "/r" => Answer::plain("200 OK", "", ""),
        path if path.contains("/.well-known/") => Answer::json(
            "200 OK",
            &json!({"issuer": root, "token_endpoint": format!("{root}/t"),
                "device_authorization_endpoint": format!("{root}/d"), "revocation_endpoint": format!("{root}/r")}),
        ),
        _ => request.echo(),
    }
}

/// What goes wrong: where, and how.
type Fault = Arc<Mutex<Option<(&'static str, usize)>>>;

/// A server for both, the authorization and the API, which answers right but where something goes wrong.
fn server(fault: &Fault) -> Server {
    let fault = Arc::clone(fault);
    Server::start(move |request| {
        let fault = *fault.lock().unwrap();
        match fault.filter(|(path, _)| request.path.contains(path)) {
            Some((_, at)) => wrong(request, at).unwrap(),
            None => right(request),
        }
    })
}

fn configure(home: &Folder, server: &Server, lines: &str) {
    let root = server.url().trim_end_matches("/v1").to_owned();
    let text = format!(
        "[profiles.corp]\nbase-url = '{root}/v1'\nmodel = 'm'\n[profiles.corp.oauth]\nissuer = '{root}'\n{lines}\n",
    );
    home.write("config/gptpipe/config.toml", text);
}

fn ask(run: Gptpipe) -> Gptpipe {
    run.args(["-P", "corp", "-v", "--refresh", "p", "--format", "jsonl"])
        .args(["--retries", "0", "--timeout", "2s"])
        .args(files())
        .env("RUST_BACKTRACE", "1")
        .input("A text.\n")
}

/// Every fault of every address in turn.
fn faults(paths: &[&'static str]) -> Vec<(&'static str, usize)> {
    let all = paths
        .iter()
        .map(|path| (0..ALL_WRONG).map(move |at| (*path, at)));
    all.flatten().collect()
}

/// A person logs in, asks, and logs out, and each of the addresses answers wrongly in turn.
#[test]
fn no_login_brings_a_token_to_light() {
    let (bus, fault) = (Bus::with_keyring(), Fault::default());
    let server = server(&fault);
    configure(&bus.home, &server, "client-id = 'cli'");
    let run = |args: &[&str]| {
        let outcome = bus.gptpipe().args(args).args(["-P", "corp"]).run();
        clean(&outcome);
        outcome
    };
    run(&["login"]).status(0);
    let kept = bus.lookup("corp oauth");
    assert!(kept.contains(ACCESS) && kept.contains(REFRESH), "{kept}");
    clean(ask(bus.gptpipe()).run().status(0));
    run(&["key"]).status(0);
    run(&["key", "list"]).status(0);
    run(&["login", "--revoke"]).status(0);
    // A login that has run out, so that it is renewed first, and one that holds.
    let mut value: Value = serde_json::from_str(&kept).unwrap();
    value["expires_at"] = json!(1);
    let has_run_out = value.to_string();
    value["expires_at"] = json!(u32::MAX);
    value["lifetime"] = json!(u32::MAX);
    let holds = value.to_string();
    for at in faults(&["/.well-known/", "/d", "/t"]) {
        *fault.lock().unwrap() = Some(at);
        run(&["login"]);
    }
    for at in faults(&["/.well-known/", "/t", "/chat"]) {
        *fault.lock().unwrap() = Some(at);
        for kept in [&has_run_out, &holds] {
            bus.store("corp oauth", ["extra", "x"], kept);
            clean(&ask(bus.gptpipe()).run());
        }
    }
    for at in faults(&["/.well-known/", "/r"]) {
        *fault.lock().unwrap() = Some(at);
        bus.store("corp oauth", ["extra", "x"], &holds);
        run(&["login", "--revoke"]);
    }
    for kept in ["{", &format!("{{\"access_token\":\"{ACCESS}\""), ACCESS] {
        bus.store("corp oauth", ["extra", "x"], kept);
        clean(&ask(bus.gptpipe()).run());
        run(&["key"]);
        run(&["login", "--revoke"]);
    }
    let sent = server.requests();
    for canary in [DEVICE, REFRESH, ACCESS] {
        let is_used = sent.iter().any(|request| carries(request, canary));
        assert!(is_used, "`{canary}` has to be used to be looked for");
    }
    home_is_clean(&bus.home);
}

/// A job that proves itself by a secret, in the header and in the body, from a variable and from a command. They go side
/// by side, since much of it is waiting.
#[test]
fn no_job_brings_its_secret_to_light() {
    thread::scope(|scope| {
        for auth in ["basic", "post"] {
            scope.spawn(move || job(auth, "client-secret-env = 'CORP_SECRET'"));
            scope.spawn(move || job(auth, "client-secret-command = 'outside/client'"));
        }
    });
}

fn job(auth: &str, source: &str) {
    let (home, fault) = (Folder::home(), Fault::default());
    let server = server(&fault);
    let lines = format!(
        "client-id = 'batch'\ngrant = 'client_credentials'\nclient-auth = '{auth}'\n{source}"
    );
    configure(&home, &server, &lines);
    let run = || {
        witness(&home, "client", CLIENT);
        let run = ask(gptpipe().at(&home));
        if source.contains("command") {
            // What others need is none of the command's business.
            run.env("OPENAI_API_KEY", KEYS[0])
                .env("GROQ_API_KEY", KEYS[1])
        } else {
            run.env("CORP_SECRET", CLIENT)
        }
    };
    clean(run().run().status(0));
    for at in faults(&["/.well-known/", "/t", "/chat"]) {
        *fault.lock().unwrap() = Some(at);
        clean(&run().run());
    }
    let sent = server.requests();
    let is_used = sent.iter().any(|request| carries(request, CLIENT));
    assert!(is_used, "the secret has to be used to be looked for");
    if source.contains("command") {
        is_witnessed(&home);
    }
    std::fs::remove_dir_all(home.path.join("outside")).unwrap();
    home_is_clean(&home);
}
