//! What is written about the program is what it says itself.

use std::fs;
use std::path::Path;

use crate::harness::{gptpipe, shell};

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn help() -> String {
    let run = gptpipe().arg("--help").run();
    run.ok();
    String::from_utf8(run.stdout.clone()).unwrap()
}

/// The long options of a text, sorted.
fn options(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '-';
    let words = text
        .split(|c| !is_part(c))
        .filter(|word| word.len() > 3 && word.starts_with("--"));
    let mut options: Vec<String> = words
        .filter(|word| !word.starts_with("---"))
        .map(str::to_owned)
        .collect();
    options.sort();
    options.dedup();
    options
}

/// The rows of the help's table of exit statuses: numbers and meaning.
fn statuses(help: &str) -> Vec<(String, String)> {
    let (_, table) = help
        .split_once("Exit statuses:\n")
        .expect("help has a table of exit statuses");
    let rows = table
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    let split = |row: &str| {
        let end = row
            .find(|c: char| !c.is_ascii_digit() && c != ',' && c != ' ')
            .unwrap_or(row.len());
        (row[..end].trim().to_owned(), row[end..].trim().to_owned())
    };
    rows.map(split).collect()
}

#[test]
fn the_readme_mentions_every_option() {
    let readme = readme();
    let help = help();
    for option in options(&help) {
        let is_there = options(&readme).contains(&option);
        assert!(is_there, "README.md does not mention {option}");
    }
    let unknown: Vec<String> = options(&readme)
        .into_iter()
        .filter(|option| !options(&help).contains(option))
        .collect();
    let of_others = [
        "--release",
        "--locked",
        "--path",
        "--git",
        "--features",
        "--no-default-features",
        "--bin",
        "--parallel",
        "--name",
        "--now",
        "--read-only",
        "--rm",
        "--target",
        // Of GNU parallel and of Slurm.
        "--array",
        "--block",
        "--env",
        "--halt",
        "--joblog",
        "--pipe",
        "--resume-failed",
        "--sshlogin",
    ];
    let unknown: Vec<&String> = unknown
        .iter()
        .filter(|option| !of_others.contains(&option.as_str()))
        .collect();
    assert!(
        unknown.is_empty(),
        "README.md mentions what help does not know: {unknown:?}"
    );
}

#[test]
fn the_readme_has_the_exit_statuses_of_the_help() {
    // Tables, backticks and line ends aside.
    let plain = |text: &str| {
        let text = text.replace(['|', '`', '\n'], " ");
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let (readme, help) = (plain(&readme()), help());
    let statuses = statuses(&help);
    assert!(statuses.len() >= 10, "{statuses:?}");
    for (numbers, meaning) in statuses {
        let row = plain(&format!("{numbers} {meaning}"));
        assert!(
            readme.contains(&row),
            "README.md lacks the exit status: {row}"
        );
    }
}

/// The first command that the README shows works as it stands there.
#[test]
fn the_readmes_first_command_works() {
    let readme = readme();
    let command = readme
        .lines()
        .find_map(|line| line.strip_prefix("    cargo run"));
    let command = command.expect("README.md shows how to try the program");
    let (_, args) = command
        .split_once(" -- ")
        .expect("its arguments stand after `--`");
    let run = shell(&format!(r#"cd "$SOURCES" && "$GPTPIPE" {args}"#))
        .env("SOURCES", env!("CARGO_MANIFEST_DIR"));
    let run = run.run();
    run.status(0).must(
        !run.stdout.trim_ascii().is_empty(),
        "it must write something",
    );
}

#[test]
fn the_help_fits_a_terminal() {
    for line in help().lines() {
        assert!(line.chars().count() <= 90, "too long: {line}");
        assert!(!line.contains('\u{1b}'));
    }
}

/// A file is what was rendered just now; `GPTPIPE_REWRITE=1` makes it so.
#[track_caller]
pub(crate) fn is_current(path: &Path, rendered: &str) {
    if std::env::var_os("GPTPIPE_REWRITE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, rendered).unwrap();
    }
    let written = fs::read_to_string(path).unwrap_or_default();
    let differs = written
        .lines()
        .zip(rendered.lines())
        .find(|(written, rendered)| written != rendered);
    assert!(
        written == rendered,
        "{} is out of date; GPTPIPE_REWRITE=1 cargo test --test it rewrites it: {differs:?}",
        path.display()
    );
}
