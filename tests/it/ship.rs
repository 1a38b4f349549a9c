//! What is shipped: the crate, the Debian package, the units and the image, as far as that can be told without making
//! them. `.ci/release` makes and runs them all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use toml::Table;

use crate::harness::{Folder, tool};

/// The folder that `.ci/run` has put tools into that no distribution has.
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/ship/tools/bin");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    let path = root().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn manifest() -> Table {
    read("Cargo.toml").parse().unwrap()
}

fn package(key: &str) -> String {
    manifest()["package"][key].as_str().unwrap().to_owned()
}

/// The numbers of a version; what is not there is 0.
fn version(text: &str) -> Vec<u64> {
    let mut numbers: Vec<u64> = text.split('.').map(|part| part.parse().unwrap()).collect();
    numbers.resize(3, 0);
    numbers
}

/// The files of a folder, as paths from the top.
fn files(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| format!("{folder}/{}", entry.unwrap().file_name().display()))
        .filter(|name| root().join(name).is_file())
        .collect();
    names.sort();
    assert!(!names.is_empty(), "{folder} must not be empty");
    names
}

/// cargo's own standard output, and that it warned of nothing.
fn cargo(args: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO"))
        .args(args)
        .current_dir(root())
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !messages.contains("warning"),
        "cargo {args:?}: {messages}"
    );
    output.stdout
}

#[test]
fn no_dependency_wants_a_later_compiler_than_is_promised() {
    let metadata = cargo(&["metadata", "--locked", "--format-version=1"]);
    let metadata: Value = serde_json::from_slice(&metadata).unwrap();
    let ours = version(&package("rust-version"));
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "{}", packages.len());
    for package in packages {
        let Some(theirs) = package["rust_version"].as_str() else {
            continue; // it promises nothing
        };
        assert!(
            version(theirs) <= ours,
            "{} {} wants Rust {theirs}",
            package["name"],
            package["version"]
        );
    }
}

#[test]
fn the_changelog_tells_of_this_version_first() {
    let changelog = read("CHANGELOG.md");
    let mut headings = changelog
        .lines()
        .filter_map(|line| line.strip_prefix("## "));
    let heading = headings.find(|heading| *heading != "Unreleased");
    let heading = heading.expect("CHANGELOG.md has versions");
    let (version, date) = heading
        .split_once(" - ")
        .unwrap_or_else(|| panic!("`{heading}` has no date"));
    assert_eq!(version, package("version"));
    let is_date = date.len() == 10
        && date.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    assert!(is_date, "`{date}` is a date");
}

#[test]
fn the_crate_holds_what_it_should() {
    let list = cargo(&["package", "--list", "--locked", "--allow-dirty"]);
    let list = String::from_utf8(list).unwrap();
    let tops: BTreeSet<&str> = list
        .lines()
        .map(|path| path.split_once('/').map_or(path, |(top, _)| top))
        .filter(|top| *top != ".cargo_vcs_info.json" && *top != "Cargo.toml.orig")
        .collect();
    let mut expected: BTreeSet<String> = manifest()["package"]["include"]
        .as_array()
        .unwrap()
        .iter()
        .map(|path| path.as_str().unwrap().trim_start_matches('/').to_owned())
        .collect();
    expected.extend(["Cargo.toml".to_owned(), "Cargo.lock".to_owned()]);
    let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
    assert_eq!(tops, expected);
}

#[test]
fn the_debian_package_puts_everything_where_it_belongs() {
    let manifest = manifest();
    let deb = manifest["package"]["metadata"]["deb"].as_table().unwrap();
    let assets: Vec<[String; 3]> = deb["assets"].clone().try_into().unwrap();
    let place = |source: &str| {
        let mut found = assets.iter().filter(|[from, ..]| from == source);
        let [_, to, mode] = found
            .next()
            .unwrap_or_else(|| panic!("{source} is left out"));
        assert!(found.next().is_none(), "{source} is there twice");
        (to.as_str(), mode.as_str())
    };
    for [source, ..] in &assets {
        let is_built = source == "target/release/gptpipe";
        assert!(is_built || root().join(source).is_file(), "{source}");
    }
    assert_eq!(place("target/release/gptpipe"), ("usr/bin/", "755"));
    for page in files("man") {
        if let Some(section) = page
            .strip_suffix(".in")
            .is_none()
            .then(|| &page[page.len() - 1..])
        {
            let folder = format!("usr/share/man/man{section}/");
            assert_eq!(place(&page), (folder.as_str(), "644"));
        }
    }
    for script in files("completions") {
        let to = match script.as_str() {
            "completions/gptpipe.bash" => "usr/share/bash-completion/completions/gptpipe",
            "completions/gptpipe.fish" => "usr/share/fish/vendor_completions.d/",
            "completions/_gptpipe" => "usr/share/zsh/vendor-completions/",
            other => panic!("where does {other} belong?"),
        };
        assert_eq!(place(&script), (to, "644"));
    }
    for file in files("contrib/systemd") {
        let (to, mode) = place(&file);
        let is_unit = file.contains("gptpipe-spool@");
        assert_eq!(is_unit, to == "usr/lib/systemd/system/", "{file}");
        assert_eq!(mode == "755", file == "contrib/systemd/spool", "{file}");
    }
}

/// The units in a folder where what they start is there, under the name of an instance.
fn units() -> (Folder, Vec<PathBuf>) {
    let folder = Folder::new();
    let paths = files("contrib/systemd")
        .into_iter()
        .filter(|name| name.contains('@'));
    let paths: Vec<PathBuf> = paths
        .map(|name| {
            let text = read(&name).replace("/usr/libexec/gptpipe/spool", "/bin/sh");
            let name = name.rsplit('/').next().unwrap().replace('@', "@letters");
            folder.write(&name, text)
        })
        .collect();
    assert_eq!(paths.len(), 3);
    (folder, paths)
}

#[test]
fn systemd_finds_no_fault_with_the_units() {
    let (_folder, paths) = units();
    tool("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&paths)
        .run()
        .status(0)
        .stdout("")
        .stderr("");
}

#[test]
fn the_service_may_do_little() {
    let (_folder, paths) = units();
    let service = paths
        .iter()
        .find(|path| path.extension().is_some_and(|end| end == "service"));
    let run = tool("systemd-analyze")
        .args(["security", "--no-pager", "--offline=true", "--threshold=15"])
        .arg(service.unwrap())
        .run();
    run.status(0);
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    run.must(text.contains("Overall exposure level"), "systemd judges it");
}

#[test]
fn the_scripts_are_sound() {
    let scripts = [
        "contrib/systemd/spool",
        "contrib/debian/postinst",
        "contrib/debian/postrm",
    ];
    tool("shellcheck")
        .args(scripts.map(|name| root().join(name)))
        .run()
        .status(0)
        .stdout("");
}

#[test]
fn the_image_is_made_as_it_should_be() {
    let hadolint = format!("{TOOLS}/hadolint");
    assert!(
        Path::new(&hadolint).exists(),
        "hadolint is missing; .ci/run installs it"
    );
    let path = root().join("contrib/Dockerfile");
    tool(&hadolint).arg(path).run().status(0).stdout("");

    let text = read("contrib/Dockerfile");
    let base = format!("FROM rust:{}-", package("rust-version"));
    assert!(text.contains(&base), "it is built by the promised compiler");
    let (_, last) = text.split_once("\nFROM scratch\n").expect("a bare image");
    assert!(last.contains("\nUSER 65532:65532\n"), "{last}");
    assert!(!last.contains("\nRUN "), "{last}");
    let copies = text.lines().filter_map(|line| line.strip_prefix("COPY "));
    for copied in copies.filter(|line| !line.starts_with("--from")) {
        let mut words: Vec<&str> = copied.split(' ').collect();
        words.pop();
        assert!(
            words.iter().all(|word| root().join(word).exists()),
            "{copied}"
        );
    }
}
