//! The import law of design.md, read from the sources: data flows one way. A room uses only rooms
//! before it, files of one room never use each other in a circle, and only a few may know what was
//! typed and what was set.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms in the order of the flow; each may use those before it.
const ORDER: [&str; 18] = [
    "error",
    "interrupt",
    "secret",
    "input",
    "api",
    "store",
    "limit",
    "output",
    "report",
    "pipeline",
    "demo",
    "cli",
    "config",
    "command",
    "run",
    "lib",
    "main",
    "tests",
];

/// A file over this many lines without its tests is asked why.
const LONGEST: usize = 450;

/// A source file: its room, its name there, and its text without tests, comments and strings.
struct Source {
    path: PathBuf,
    room: String,
    file: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            // Files that hold nothing but tests, declared as such in their room.
            if path.ends_with("tests") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs")
                || path.ends_with("tests.rs")
            {
                continue;
            }
            let inside = path.strip_prefix(&root).unwrap().with_extension("");
            let parts: Vec<String> = inside
                .iter()
                .map(|part| part.to_string_lossy().into_owned())
                .collect();
            sources.push(Source {
                room: parts[0].clone(),
                file: parts.last().unwrap().clone(),
                code: without_tests(&blanked(&fs::read_to_string(&path).unwrap())),
                path,
            });
        }
    }
    assert!(sources.len() > 20, "the sources must be found");
    sources
}

/// The text with comments, strings and characters made blank, so that what is left is code. Line
/// ends stay where they are.
fn blanked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = literal(rest, out.chars().last());
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        out.extend(
            rest[..length]
                .chars()
                .map(|c| if c == '\n' { '\n' } else { ' ' }),
        );
        rest = &rest[length..];
    }
    out
}

/// The length of the comment, string or character that stands here; 0 if there is none.
fn literal(rest: &str, before: Option<char>) -> usize {
    let until = |end: &str, from: usize| {
        rest[from..]
            .find(end)
            .map_or(rest.len(), |at| from + at + end.len())
    };
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return until("*/", 2);
    }
    let is_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let raw = rest
        .strip_prefix('b')
        .unwrap_or(rest)
        .strip_prefix('r')
        .filter(|_| !is_word);
    if let Some(raw) = raw {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let start = rest.len() - raw.len() + hashes + 1;
            return until(&format!("\"{}", "#".repeat(hashes)), start);
        }
    }
    if let Some(string) = rest.strip_prefix('"') {
        let mut is_escaped = false;
        let end = string.find(|c| {
            let ends = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            ends
        });
        return end.map_or(rest.len(), |at| at + 2);
    }
    if let Some(character) = rest.strip_prefix('\'') {
        // Anything else that begins so is a lifetime.
        let mut chars = character.char_indices();
        let (_, first) = chars.next().unwrap_or_default();
        if first == '\\' {
            return 2 + first.len_utf8() + character[2..].find('\'').unwrap_or(0) + 1;
        }
        if let Some((at, '\'')) = chars.next() {
            return 1 + at + 1;
        }
    }
    0
}

/// The code without items that are there for tests alone.
fn without_tests(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let mut depth = 0;
        let end = rest.find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0 && (c == '}' || c == ';')
        });
        rest = &rest[end.map_or(rest.len(), |end| end + 1)..];
    }
    out + rest
}

/// Every path that begins so, groups taken apart: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(code: &str, prefix: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().last();
        if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':' && c != '$') {
            tree(&code[at + prefix.len()..], &[], &mut found);
        }
    }
    found
}

/// Reads a path or a group of them, and gives what stands after it.
fn tree<'a>(mut rest: &'a str, before: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let mut path = before.to_vec();
    loop {
        rest = rest.trim_start();
        if let Some(mut group) = rest.strip_prefix('{') {
            loop {
                group = tree(group, &path, found).trim_start();
                match group.strip_prefix(',') {
                    Some(more) if !more.trim_start().starts_with('}') => group = more,
                    Some(more) => return more.trim_start().strip_prefix('}').unwrap_or(more),
                    None => return group.strip_prefix('}').unwrap_or(group),
                }
            }
        }
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*')
            .unwrap_or(rest.len());
        path.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
        if let Some(name) = rest.strip_prefix("as ") {
            let end = name
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(name.len());
            rest = &name[end..];
        }
        let Some(more) = rest.strip_prefix("::") else {
            found.push(path);
            return rest;
        };
        rest = more;
    }
}

/// What a source uses: rooms, each with a file of it where one is named.
fn uses(source: &Source) -> Vec<(String, String)> {
    let mut uses = Vec::new();
    let mut add = |path: &[String]| {
        let part = |at: usize| path.get(at).cloned().unwrap_or_default();
        uses.push((part(0), part(1)));
    };
    for path in paths(&source.code, "crate::")
        .into_iter()
        .chain(paths(&source.code, "gptpipe::"))
    {
        add(&path);
    }
    let is_inside = source.file != source.room;
    for path in paths(&source.code, "super::") {
        let climbs = path.iter().take_while(|part| *part == "super").count();
        if !is_inside || source.file == "mod" || climbs > 0 {
            add(&path[climbs..]);
        } else {
            add(&[std::slice::from_ref(&source.room), &path[..]].concat());
        }
    }
    uses
}

#[test]
fn every_room_stands_in_the_order() {
    for source in sources() {
        assert!(
            ORDER.contains(&source.room.as_str()),
            "{} stands nowhere in the order",
            source.path.display()
        );
    }
}

#[test]
fn imports_point_to_rooms_before() {
    let place = |room: &str| ORDER.iter().position(|name| *name == room);
    for source in sources() {
        for (room, file) in uses(&source) {
            let Some(used) = place(&room) else {
                // `gptpipe::run()` and other things that lib.rs hands out.
                assert!(
                    source.room == "main" || source.room == "lib",
                    "{}: crate::{room}",
                    source.path.display()
                );
                continue;
            };
            let is_before = Some(used) <= place(&source.room);
            assert!(
                is_before,
                "{} uses crate::{room}::{file}, which comes after it",
                source.path.display()
            );
        }
    }
}

#[test]
fn only_a_few_know_what_was_typed_and_what_was_set() {
    for source in sources() {
        for (room, file) in uses(&source) {
            let may = match (room.as_str(), file.as_str()) {
                ("cli", _) => &["cli", "config", "run"][..],
                ("config", _) => &["config", "run"],
                _ => continue,
            };
            let path = source.path.display();
            assert!(
                may.contains(&source.room.as_str()),
                "{path} uses crate::{room}::{file}"
            );
        }
    }
}

#[test]
fn files_of_a_room_never_use_each_other_in_a_circle() {
    let sources = sources();
    let mut graph: BTreeMap<(String, String), BTreeSet<(String, String)>> = BTreeMap::new();
    for source in &sources {
        let files: Vec<&str> = sources
            .iter()
            .filter(|other| other.room == source.room)
            .map(|other| other.file.as_str())
            .collect();
        for (room, file) in uses(source) {
            if room != source.room || source.file == source.room {
                continue;
            }
            let file = if files.contains(&file.as_str()) {
                file
            } else {
                "mod".to_owned()
            };
            if file != source.file {
                graph
                    .entry((room.clone(), source.file.clone()))
                    .or_default()
                    .insert((room, file));
            }
        }
    }
    // Takes away what uses nothing that is left; what cannot be taken away is a circle.
    loop {
        let before = graph.len();
        let left: BTreeSet<(String, String)> = graph.keys().cloned().collect();
        graph.retain(|_, uses| uses.iter().any(|used| left.contains(used)));
        if graph.len() == before {
            break;
        }
    }
    assert!(
        graph.is_empty(),
        "these use each other in a circle: {graph:#?}"
    );
}

#[test]
fn files_are_of_a_size_to_be_read() {
    for source in sources() {
        // Comments are part of what is read; only the tests are not.
        let lines = source.code.lines().count();
        assert!(
            lines <= LONGEST,
            "{} has {lines} lines without its tests",
            source.path.display()
        );
    }
}

/// The law is worth what its reading of the sources is.
#[test]
fn paths_are_found_wherever_they_stand() {
    let code = blanked(
        "use crate::api::{self, client::{Auth, Client as C}, reply::Reply};\n// crate::cli::no\n\
         fn f<'a>(x: &'a str) { crate::input::chunker::cut(\"crate::run::no\", '\"', '\\'', r#\"crate::no\"#); }\n\
         #[cfg(test)]\nmod tests { use crate::demo::no; }\nuse crate::error::Error;\n",
    );
    let found: Vec<String> = paths(&without_tests(&code), "crate::")
        .iter()
        .map(|path| path.join("::"))
        .collect();
    assert_eq!(
        found,
        [
            "api::self",
            "api::client::Auth",
            "api::client::Client",
            "api::reply::Reply",
            "input::chunker::cut",
            "error::Error"
        ]
    );
}
