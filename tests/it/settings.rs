//! Flags over environment over configuration file over profile, and what is wrong with them.

use std::os::unix::fs::PermissionsExt as _;

use crate::harness::{Folder, Gptpipe, gptpipe};
use crate::server::Server;

/// The model that is asked.
#[track_caller]
fn model(server: &Server, run: Gptpipe) -> String {
    run.arg("p").input("text").run().ok();
    server.requests().last().unwrap().body["model"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn flags_over_environment_over_file_over_profile() {
    let server = Server::echo();
    let ask = || gptpipe().ask(&server);
    let file = "model = 'of-the-file'\n";
    assert_eq!(
        model(
            &server,
            ask()
                .config(file)
                .env("GPTPIPE_MODEL", "of-the-env")
                .args(["-m", "flag"])
        ),
        "flag"
    );
    assert_eq!(
        model(
            &server,
            ask().config(file).env("GPTPIPE_MODEL", "of-the-env")
        ),
        "of-the-env"
    );
    assert_eq!(
        model(&server, ask().config(file).env("GPTPIPE_MODEL", "")),
        "of-the-file"
    );
    assert_eq!(
        model(
            &server,
            ask().config("[profiles.openai]\nmodel = 'of-the-profile'\n")
        ),
        "of-the-profile"
    );
    assert_eq!(
        model(&server, ask()),
        gptpipe::config::profile::DEFAULT_MODEL
    );
}

#[test]
fn profiles_are_chosen_in_the_same_order() {
    let server = Server::echo();
    let file = "profile = 'a'\n[profiles.a]\nmodel = 'A'\n[profiles.b]\nmodel = 'B'\n[profiles.c]\nmodel = 'C'\n";
    let ask = || gptpipe().ask(&server).config(file);
    assert_eq!(model(&server, ask()), "A");
    assert_eq!(model(&server, ask().env("GPTPIPE_PROFILE", "b")), "B");
    assert_eq!(
        model(&server, ask().env("GPTPIPE_PROFILE", "b").args(["-P", "c"])),
        "C"
    );
}

#[test]
fn addresses_are_chosen_in_the_same_order() {
    let (right, wrong) = (Server::echo(), Server::echo());
    let (right_url, wrong_url) = (right.url(), wrong.url());
    let run = gptpipe()
        .env("GPTPIPE_BASE_URL", &wrong_url)
        .env("OPENAI_BASE_URL", &wrong_url);
    run.args(["p", "--base-url", &right_url])
        .input("x")
        .run()
        .ok();
    let run = gptpipe()
        .env("GPTPIPE_BASE_URL", &right_url)
        .env("OPENAI_BASE_URL", &wrong_url);
    run.arg("p").input("x").run().ok();
    let file = format!("[profiles.openai]\nbase-url = '{wrong_url}'\n");
    gptpipe()
        .config(&file)
        .env("GPTPIPE_BASE_URL", &right_url)
        .arg("p")
        .input("x")
        .run()
        .ok();
    gptpipe()
        .env("OPENAI_BASE_URL", &right_url)
        .arg("p")
        .input("x")
        .run()
        .ok();
    let file = format!("[profiles.openai]\nbase-url = '{right_url}'\n");
    gptpipe().config(&file).arg("p").input("x").run().ok();
    assert_eq!((right.calls(), wrong.calls()), (5, 0));
}

#[test]
fn keys_come_from_the_environment() {
    let server = Server::echo();
    let sent = |run: Gptpipe| {
        let run = run.env("OPENAI_BASE_URL", server.url());
        run.arg("p").input("x").run().ok();
        server
            .requests()
            .last()
            .unwrap()
            .header("authorization")
            .map(str::to_owned)
    };
    assert_eq!(
        sent(gptpipe().env("OPENAI_API_KEY", "one")).as_deref(),
        Some("Bearer one")
    );
    let both = gptpipe()
        .env("OPENAI_API_KEY", "one")
        .env("GPTPIPE_API_KEY", "two");
    assert_eq!(sent(both).as_deref(), Some("Bearer two"));
    assert_eq!(sent(gptpipe().env("OPENAI_API_KEY", "")), None);
    let other = gptpipe()
        .env("OPENAI_API_KEY", "one")
        .ask(&server)
        .args(["-P", "groq", "-m", "m"]);
    assert_eq!(sent(other), None, "a provider's key is for that provider");
    let elsewhere = Server::echo();
    let foreign = gptpipe().env("OPENAI_API_KEY", "one").ask(&elsewhere);
    foreign.arg("p").input("x").run().ok();
    assert_eq!(
        elsewhere.only_request().header("authorization"),
        None,
        "a profile's key is for that profile's host"
    );
}

#[test]
fn providers_are_asked_as_they_want_it() {
    let server = Server::echo();
    let endpoint = format!("http://127.0.0.1:{}/", server.port());
    let run = gptpipe()
        .env("AZURE_OPENAI_ENDPOINT", &endpoint)
        .env("AZURE_OPENAI_API_KEY", "azure-key");
    run.args(["p", "-P", "azure", "-m", "m"])
        .input("x")
        .run()
        .ok();
    let request = server.only_request();
    assert_eq!(request.path, "/openai/v1/chat/completions");
    assert_eq!(request.header("api-key"), Some("azure-key"));
    assert_eq!(request.header("authorization"), None);

    let host = format!("127.0.0.1:{}", server.port());
    gptpipe()
        .env("OLLAMA_HOST", &host)
        .args(["p", "-P", "ollama", "-m", "m"])
        .input("x")
        .run()
        .ok();
    assert_eq!(server.requests()[1].path, "/v1/chat/completions");
    let run = gptpipe()
        .args(["p", "-P", "azure", "-m", "m"])
        .env("GPTPIPE_API_KEY", "k")
        .input("x")
        .run();
    run.status(2).one_message().says("AZURE_OPENAI_ENDPOINT");
    let run = gptpipe().args(["p", "-P", "ollama"]).input("x").run();
    run.status(2).one_message().says("no model is named");
}

#[test]
fn a_profile_of_the_users_own() {
    let server = Server::echo();
    let file = format!(
        "jobs = 3\n[profiles.corp]\nbase-url = '{}'\napi = 'responses'\nmodel = 'big'\nkey-env = 'CORP_KEY'\n\
         auth = 'x-api-key'\nheaders = {{ X-Team = 'docs' }}\nparams = {{ temperature = 0.2, top_p = 1 }}\n",
        server.url()
    );
    let run = gptpipe().config(&file).env("CORP_KEY", "corp-key").args([
        "p",
        "-P",
        "corp",
        "--param",
        "top_p=0.5",
    ]);
    run.input("x").run().ok();
    let request = server.only_request();
    assert_eq!(request.path, "/v1/responses");
    assert_eq!(request.header("x-api-key"), Some("corp-key"));
    assert_eq!(request.header("x-team"), Some("docs"));
    assert_eq!(request.body["temperature"], 0.2);
    assert_eq!(request.body["top_p"], 0.5);
    let run = gptpipe()
        .config(&file)
        .args(["p", "-P", "corp"])
        .input("x")
        .run();
    run.status(2).one_message().says("CORP_KEY");
}

#[test]
fn options_of_the_file_hold() {
    let server = Server::echo();
    let file = "by = 'line'\njoin = 'blank'\njobs = 1\nsystem = 'Frame.'\n";
    gptpipe()
        .ask(&server)
        .config(file)
        .arg("p")
        .input("a\nb\n")
        .run()
        .ok()
        .stdout("a\n\nb\n");
    assert_eq!(
        server.requests()[0].body["messages"][0]["content"],
        "Frame.\n\np"
    );
    gptpipe()
        .ask(&server)
        .config(file)
        .args(["p", "--join", "line"])
        .input("a\nb\n")
        .run()
        .ok()
        .stdout("a\nb\n");
}

#[test]
fn a_wrong_line_is_named_and_nothing_is_sent() {
    let server = Server::echo();
    for (file, words, hint) in [
        (
            "jobs = 4\nmodle = 'x'\n",
            "config.toml:2: `modle`: unknown key",
            "did you mean `model`?",
        ),
        ("jobs = 0\n", "config.toml:1: `jobs`", ""),
        (
            "\n\ntimeout = '5'\n",
            "config.toml:3: `timeout`: takes a time with its unit",
            "",
        ),
        (
            "[profiles.a]\nbase_url = 'x'\n",
            "config.toml:2: `base_url`",
            "did you mean `base-url`?",
        ),
        ("jobs = = 4\n", "config.toml:1: ", ""),
        ("by = 'word'\n", "config.toml:1: `by`: takes `sentence`", ""),
    ] {
        let run = gptpipe()
            .ask(&server)
            .config(file)
            .arg("p")
            .input("text")
            .run();
        run.status(2)
            .stdout("")
            .one_message()
            .says(words)
            .says(hint);
    }
    assert_eq!(server.calls(), 0);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let run = gptpipe().config("jobs = 1\n");
    let path = run.home().path.join("config/gptpipe/config.toml");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Whoever may read everything cannot be kept out.
    if std::fs::read(&path).is_err() {
        run.arg("p")
            .input("x")
            .run()
            .status(2)
            .one_message()
            .says("cannot read")
            .says("config.toml");
    }
    let run = gptpipe();
    run.home()
        .write("config/gptpipe/config.toml", b"model = '\xff'\n");
    run.arg("p")
        .input("x")
        .run()
        .status(2)
        .one_message()
        .says("config.toml");
}

#[test]
fn without_a_home_there_is_no_file_and_that_is_all_right() {
    let server = Server::echo();
    let run = crate::harness::shell(r#"unset HOME XDG_CONFIG_HOME; exec "$GPTPIPE" p"#);
    run.ask(&server).input("x").run().ok().stdout("x");
    let run = gptpipe()
        .env("HOME", "/dev/null")
        .env("XDG_CONFIG_HOME", "/dev/null/config");
    run.ask(&server).arg("p").input("x").run().ok().stdout("x");
}

#[test]
fn an_unknown_profile_is_answered_with_the_nearest() {
    let run = gptpipe().args(["p", "-P", "mistal"]).input("x").run();
    run.status(2)
        .one_message()
        .says("there is no profile `mistal`")
        .says("did you mean `mistral`?");
    let run = gptpipe()
        .args(["p", "-P", "nothing-like-it"])
        .input("x")
        .run();
    run.status(2).one_message().says("openai").says("ollama");
    let run = gptpipe()
        .env("GPTPIPE_PROFILE", "opanai")
        .arg("p")
        .input("x")
        .run();
    run.status(2).one_message().says("did you mean `openai`?");
}

#[test]
fn verbosity_says_who_was_asked_and_how_it_went() {
    let server = Server::echo();
    let run = gptpipe()
        .ask(&server)
        .args(["p", "-v", "-m", "gpt-4o"])
        .input("text\n")
        .run();
    run.status(0)
        .stdout("text\n")
        .says("asking gpt-4o at 127.0.0.1")
        .says("chunk 1 ")
        .says(" tokens in, 5 out")
        .says("replies: 1, of these remembered: 0, tokens: ");
    let home = Folder::home();
    for remembered in [0, 1] {
        let run = gptpipe().at(&home).ask(&server).args(["p", "-v"]);
        run.input("text\n").run().says(&format!(
            "replies: 1, of these remembered: {remembered}, tokens: "
        ));
    }
    gptpipe()
        .ask(&server)
        .args(["p", "-vq"])
        .input("text\n")
        .run()
        .ok();
}
