//! The manual: two pages, rendered from the program's own tables over a text by hand, without a
//! fault of form, and with examples that work.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use argh::{ArgsInfo as _, FlagInfo, FlagInfoKind};
use gptpipe::cli::args::Cli;
use gptpipe::cli::commands::COMMANDS;
use gptpipe::cli::manual::{EXIT_STATUSES, GROUPS, own_options};
use gptpipe::config::profile;

use crate::docs::is_current;
use crate::harness::{Folder, gptpipe, tool};
use crate::provider::State;
use crate::server::Server;

const PAGES: [&str; 2] = ["gptpipe.1", "gptpipe-config.5"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("man")
}

fn read(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

/// Text as roff takes it: with hyphens that can be copied, and no control line by accident.
fn roff(text: &str) -> String {
    let text = text
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq")
        .replace('~', "\\(ti");
    match text.strip_prefix('.') {
        Some(_) => format!("\\&{text}"),
        None => text,
    }
}

/// What the manual says of each option.
fn paragraphs() -> BTreeMap<String, String> {
    let text = read("options.in");
    let mut parts = text.split(".\\\" --");
    parts.next();
    parts
        .map(|part| {
            let (name, text) = part.split_once('\n').unwrap();
            (format!("--{name}"), text.to_owned())
        })
        .collect()
}

fn option(flag: &FlagInfo<'_>) -> String {
    let short = flag.short.map(|short| format!("\\fB\\-{short}\\fR, "));
    let value = match flag.kind {
        FlagInfoKind::Switch => String::new(),
        FlagInfoKind::Option { arg_name } => format!(" \\fI{}\\fR", roff(arg_name)),
    };
    format!(
        "{}\\fB{}\\fR{value}",
        short.unwrap_or_default(),
        roff(flag.long)
    )
}

fn options() -> String {
    let flags = Cli::get_args_info().flags;
    let mut paragraphs = paragraphs();
    let mut text = String::new();
    for (heading, names) in GROUPS {
        let _ = writeln!(text, ".SS {heading}");
        for name in names {
            let flag = flags.iter().find(|flag| flag.long == *name);
            let spelling = match flag {
                Some(flag) if *name != "--help" => option(flag),
                _ => "\\fB\\-h\\fR, \\fB\\-\\-help\\fR".to_owned(),
            };
            let paragraph = paragraphs.remove(*name);
            let paragraph = paragraph
                .unwrap_or_else(|| panic!("man/options.in says nothing of `{name}`, see there"));
            let _ = write!(text, ".TP\n{spelling}\n{paragraph}");
        }
    }
    assert!(
        paragraphs.is_empty(),
        "man/options.in speaks of options that there are not: {paragraphs:?}"
    );
    text.trim_end().to_owned()
}

fn commands() -> String {
    let mut text = String::new();
    for command in COMMANDS {
        let _ = writeln!(text, ".TP\n.B {}", roff(&command.spelling()));
        let about = command.about;
        let (first, rest) = about.split_at(1);
        let _ = writeln!(text, "{}{}.", first.to_uppercase(), roff(rest));
        for (word, about) in command.words {
            let _ = writeln!(
                text,
                ".RS\n.TP\n.B {}\n{}.\n.RE",
                roff(word),
                roff(&about.replacen(
                    |_: char| true,
                    &about.chars().next().unwrap().to_uppercase().to_string(),
                    1
                ))
            );
        }
        for flag in own_options(command) {
            let about = flag.description.replacen(
                |_: char| true,
                &flag
                    .description
                    .chars()
                    .next()
                    .unwrap()
                    .to_uppercase()
                    .to_string(),
                1,
            );
            let _ = writeln!(text, ".RS\n.TP\n{}\n{}.\n.RE", option(flag), roff(&about));
        }
    }
    text.trim_end().to_owned()
}

fn statuses() -> String {
    let rows = EXIT_STATUSES.map(|(number, meaning)| {
        let (first, rest) = meaning.split_at(1);
        format!(".TP\n.B {number}\n{}{}.", first.to_uppercase(), roff(rest))
    });
    rows.join("\n")
}

/// The built-in profiles with their addresses and the variables of their keys.
fn profiles() -> Vec<(String, String, String)> {
    let none = BTreeMap::new();
    let names = profile::names(&none);
    let found = names.into_iter().map(|name| {
        let profile = profile::find(&name, &none, &|_| None).unwrap();
        let address = profile
            .base_url
            .unwrap_or_else(|| "no usual address".to_owned());
        (name, address, profile.key_env.unwrap_or_default())
    });
    found.collect()
}

fn profile_table() -> String {
    let rows: Vec<String> = profiles()
        .iter()
        .map(|(name, address, key)| {
            format!(
                ".TP\n.B {}\n{}, with the key in\n.B {key}",
                roff(name),
                roff(address)
            )
        })
        .collect();
    rows.join("\n")
}

/// Names one after the other, each on a line of its own as a macro wants it.
fn list(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    names.join(",\n")
}

fn page(name: &str) -> String {
    let table = if name.ends_with('5') {
        profile_table()
    } else {
        list(profiles().into_iter().map(|(name, ..)| name))
    };
    // The first line is for those who edit the template.
    let template = read(&format!("{name}.in"));
    let template = template.split_once('\n').unwrap().1;
    template
        .replace("@OPTIONS@", &options())
        .replace("@COMMANDS@", &commands())
        .replace("@EXIT_STATUS@", &statuses())
        .replace("@KEYS@", &list(profiles().into_iter().map(|(.., key)| key)))
        .replace("@PROFILES@", &table)
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
}

/// Run with `GPTPIPE_REWRITE=1` to bring the pages up to date.
#[test]
fn the_pages_are_what_is_rendered() {
    for name in PAGES {
        let page = page(name);
        assert!(!page.contains('@'), "something was not replaced");
        is_current(&folder().join(name), &page);
    }
}

#[test]
fn mandoc_and_groff_find_no_fault() {
    for name in PAGES {
        let path = folder().join(name);
        let run = tool("mandoc").args(["-Tlint", "-Wstyle"]).arg(&path).run();
        run.ok().stdout("");
        let groff = ["-man", "-ww", "-z", "-Kutf8", "-Tutf8"];
        let run = tool("groff").args(groff).arg(&path).run();
        run.ok().stdout("");
    }
}

/// The page as it is read: lines of 78 columns at most, and all headings.
#[test]
fn the_pages_can_be_read() {
    for (name, headings) in [
        (
            PAGES[0],
            &[
                "NAME",
                "SYNOPSIS",
                "DESCRIPTION",
                "OPTIONS",
                "COMMANDS",
                "ENVIRONMENT",
                "FILES",
                "EXIT STATUS",
                "EXAMPLES",
                "SEE ALSO",
            ][..],
        ),
        (PAGES[1], &["NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES"]),
    ] {
        let run = tool("mandoc")
            .args(["-Tutf8", "-Owidth=78"])
            .arg(folder().join(name))
            .env("LC_ALL", "C.UTF-8")
            .run();
        run.ok();
        let text = String::from_utf8(run.stdout.clone()).unwrap();
        // Bold and underlined characters are struck over.
        let mut plain = String::new();
        for c in text.chars() {
            if c == '\u{8}' {
                plain.pop();
            } else {
                plain.push(c);
            }
        }
        for heading in headings {
            let has = plain.lines().any(|line| line.trim_end() == *heading);
            assert!(has, "{name} has no heading {heading}");
        }
        let long = plain.lines().find(|line| line.chars().count() > 80);
        assert_eq!(long, None, "{name}");
        if name == PAGES[0] {
            for option in Cli::get_args_info().flags {
                assert!(plain.contains(option.long), "{name}: {}", option.long);
            }
        }
    }
}

/// What stands between `.EX` and `.EE`, as it is typed.
fn examples(name: &str) -> Vec<String> {
    let page = read(name);
    let (_, text) = page.split_once("\n.SH EXAMPLES").unwrap();
    let parts = text.split("\n.EX\n").skip(1);
    let examples: Vec<String> = parts
        .map(|part| part.split("\n.EE").next().unwrap().to_owned())
        .collect();
    let plain = |text: &String| {
        text.replace("\\-", "-")
            .replace("\\(aq", "'")
            .replace("\\(dq", "\"")
            .replace("\\(ti", "~")
    };
    examples.iter().map(plain).collect()
}

#[test]
fn the_examples_work() {
    let provider = Mutex::new(State::new(&["completed"]));
    let server = Server::start(move |request| {
        if request.body.to_string().contains("as JSON") {
            request.reply(["{\"names\":[\"Ada\"]}"])
        } else {
            provider.lock().unwrap().serve(request)
        }
    });
    let examples = examples(PAGES[0]);
    assert!(examples.len() >= 9, "{examples:?}");
    for example in examples {
        let home = Folder::home();
        for name in [
            "report.txt",
            "letter.txt",
            "saga.txt",
            "manual.txt",
            "notes/a.md",
            "notes/b.md",
            "texts/a.txt",
            "texts/b.txt",
            "house-style.txt",
            "minutes.txt",
            "all.txt",
        ] {
            home.write(
                name,
                "Ada met Grace in May. They spoke of engines.\n\nThen they left.\n",
            );
        }
        home.write("src/a.rs", "// FIXME: a\n");
        home.write("src/b.rs", "// FIXME: b\n");
        home.write("comments.tsv", "1\tAda\tgood\n2\tGrace\tbad\n");
        let run = tool("bash")
            .args(["-c", &format!("set -eo pipefail\n{example}")])
            .ask(&server)
            .env("OLLAMA_HOST", server.url().trim_end_matches("/v1"))
            .at(&home)
            .run();
        let is_demo = example.contains("--demo");
        let writes = !example.contains("> lettre.txt") && !example.contains("> out.txt");
        // Who writes after `head` has left is ended by SIGPIPE, as any filter is.
        let is_left = example.contains("| head") && run.code == Some(141);
        run.must(
            run.code == Some(0) || is_left,
            &format!("it must work: {example}"),
        )
        .must(is_demo || run.stderr.is_empty(), "without a word")
        .must(run.stdout.is_empty() != writes, "with a result");
    }
}

/// The keys that a table takes: those that the program names after a wrong one.
fn keys_of(heading: &str) -> Vec<String> {
    let run = gptpipe()
        .config(&format!("{heading}\nno-such-key-at-all = 1\n"))
        .args(["-n", "p"])
        .run();
    run.status(2).one_message();
    let (_, keys) = run.stderr.split_once("hint: the keys here are ").unwrap();
    let keys: Vec<String> = keys.trim().split(", ").map(str::to_owned).collect();
    // Another spelling of a key is not told of.
    let other = |key: &String| key.contains('_') && keys.contains(&key.replace('_', "-"));
    let mut keys: Vec<String> = keys.iter().filter(|key| !other(key)).cloned().collect();
    keys.sort();
    keys
}

#[test]
fn every_key_of_the_configuration_file_is_described() {
    let page = read(PAGES[1]);
    for (heading, table) in [
        ("TOP LEVEL", ""),
        ("THE TABLE [cache]", "[cache]"),
        ("THE TABLE [key]", "[key]"),
        ("THE TABLE [budget]", "[budget]"),
        ("THE TABLES [prices.MODEL]", "[prices.x]"),
        ("THE TABLES [profiles.NAME]", "[profiles.x]"),
    ] {
        let (_, section) = page.split_once(&format!("\n.SH \"{heading}\"\n")).unwrap();
        let section = format!("\n{}", section.split("\n.SH ").next().unwrap());
        let mut described: Vec<String> = section
            .split("\n.TP\n.BR ")
            .skip(1)
            .flat_map(|part| {
                let keys = part.split(" \" = ").next().unwrap().replace("\\-", "-");
                let keys = keys
                    .split(" \", \" ")
                    .flat_map(|keys| keys.split(" \", \""));
                keys.map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        if table.is_empty() {
            // Tables have sections of their own.
            described.extend(
                ["budget", "cache", "key", "ledger", "prices", "profiles"].map(str::to_owned),
            );
        }
        described.sort();
        assert_eq!(described, keys_of(table), "{heading}");
    }
}

#[test]
fn the_example_of_the_configuration_file_is_understood() {
    let server = Server::echo();
    let examples = examples(PAGES[1]);
    assert_eq!(examples.len(), 1);
    let run = gptpipe()
        .config(&examples[0])
        .ask(&server)
        .env("CORP_LLM_KEY", "k")
        .args(["p", "-v"])
        .input("text")
        .run();
    run.status(0)
        .stdout("text")
        .says("asking gpt-oss-120b")
        .says("profile corp");
    assert_eq!(server.only_request().header("x-team"), Some("docs"));
}
