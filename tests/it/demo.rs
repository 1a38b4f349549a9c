//! `--demo`: the whole path without key, network or home.

use crate::harness::{gptpipe, shell};

const TEXT: &str = "The river rose quickly in the night. Nobody in the village had expected the river to rise so \
    quickly. By morning the bridge over the river was gone, and the village was cut off. The mayor spoke on the \
    radio about the bridge. Children played in the mud. A dog barked. It took the engineers three weeks to build a \
    new bridge over the river. Since then the village watches the river every night.\n";

#[test]
fn it_summarizes_without_key_network_or_home() {
    for args in [
        &[][..],
        &["--api", "responses"],
        &["-c", "40"],
        &["--live"],
        &["-j", "1"],
    ] {
        let run = gptpipe()
            .args(["--demo", "summarize"])
            .args(args)
            .input(TEXT)
            .run();
        run.status(0).says("no language model");
        let said = String::from_utf8(run.stdout.clone()).unwrap();
        let is_shorter = !said.trim().is_empty() && said.len() < TEXT.len();
        run.must(
            is_shorter,
            "the summary must be shorter than the text, and not empty",
        );
        run.must(
            said.split_inclusive(". ")
                .all(|part| TEXT.contains(part.trim())),
            "it only picks sentences",
        );
    }
    let run = shell(r#"unset HOME XDG_CONFIG_HOME; exec "$GPTPIPE" --demo summarize report.txt"#);
    run.home().write("report.txt", TEXT);
    let run = run.run();
    run.status(0)
        .must(run.stdout.len() > 20, "there must be a summary");
}

#[test]
fn it_says_that_it_is_no_language_model() {
    gptpipe()
        .args(["--demo", "summarize"])
        .input(TEXT)
        .run()
        .status(0)
        .says("it is no language model");
    gptpipe()
        .args(["--demo", "-q", "summarize"])
        .input(TEXT)
        .run()
        .ok();
    for prompt in [
        "translate to French",
        "write a poem about this",
        "what is the sentiment?",
    ] {
        let run = gptpipe().args(["--demo", "-q", prompt]).input(TEXT).run();
        run.status(2)
            .stdout("")
            .one_message()
            .says("the demo is not a language model");
    }
    gptpipe()
        .args(["--demo", "-q", "summarize", "-R", "translate to French"])
        .input(TEXT)
        .run()
        .status(2)
        .stdout("")
        .one_message()
        .says("the demo is not a language model");
}

#[test]
fn it_can_be_cat() {
    let run = gptpipe()
        .args(["--demo", "-q", "cat", "-c", "20"])
        .input(TEXT)
        .run();
    run.ok().stdout(TEXT);
}

#[test]
fn it_asks_nobody_else() {
    // Neither address nor key of the environment is used.
    let server = crate::server::Server::echo();
    let run = gptpipe()
        .ask(&server)
        .env("GPTPIPE_API_KEY", "k")
        .env("HTTP_PROXY", server.url());
    run.args(["--demo", "-q", "summarize"])
        .input(TEXT)
        .run()
        .ok();
    assert_eq!(server.calls(), 0);
}
