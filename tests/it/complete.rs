//! Completions, as the shells themselves make them of the scripts: an interactive bash and zsh on a
//! terminal, with a key that puts every candidate on the line, and fish's own look-up.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use crate::harness::{Folder, gptpipe, tool};
use crate::tty::Terminal;

/// The scripts, each with the name under which its shell looks for it.
const SCRIPTS: [(&str, &str); 3] = [
    ("bash", "gptpipe.bash"),
    ("zsh", "_gptpipe"),
    ("fish", "gptpipe.fish"),
];

/// What `gptpipe` does in the shells under test: it shows its words, and that there are no more.
const SHOW: &str = "case $2 in (profiles|models) command gptpipe \"$@\";; \
                    (*) printf '[[%s]]\\n' \"$@\" end;; esac";

fn script(shell: &str) -> String {
    let run = gptpipe().args(["completions", shell]).run();
    run.ok();
    String::from_utf8(run.stdout.clone()).unwrap()
}

/// A home with files, profiles, and a list of models.
fn home() -> Arc<Folder> {
    let home = Folder::home();
    home.write("a file.txt", "");
    home.write("notes/one.md", "");
    home.write(
        "config/gptpipe/config.toml",
        "[profiles.corp]\nbase-url = 'http://127.0.0.1:9/v1'\nmodel = 'house'\n",
    );
    home.write("cache/gptpipe/models/corp", "qwen3:8b\nqwen3:30b\n");
    for (shell, file) in SCRIPTS {
        home.write(&format!("completions/{file}"), script(shell));
    }
    home
}

/// What is typed, and what is offered for the last word; sorted.
type Case = (&'static str, &'static [&'static str]);

const CASES: &[Case] = &[
    // A command only as the first word, and no file where the prompt goes.
    (
        "gptpipe ",
        &[
            "batch",
            "cache",
            "completions",
            "key",
            "login",
            "metrics",
            "setup",
            "usage",
        ],
    ),
    ("gptpipe ca", &["cache"]),
    ("gptpipe -q ca", &["cache"]),
    ("gptpipe -- c", &[]),
    ("gptpipe cache ", &["clear", "prune", "stats"]),
    ("gptpipe cache clear ", &[]),
    ("gptpipe key ", &["list", "remove", "rotate", "show"]),
    ("gptpipe setup ", &[]),
    ("gptpipe us", &["usage"]),
    ("gptpipe metrics ", &[]),
    ("gptpipe s --format=j", &["jsonl"]),
    ("gptpipe completions ", &["bash", "fish", "zsh"]),
    // Files after the prompt, and after a prompt from a file.
    ("gptpipe summarize no", &["notes"]),
    ("gptpipe summarize notes/", &["notes/one.md"]),
    ("gptpipe summarize a", &["a file.txt"]),
    ("gptpipe -- cache a", &["a file.txt"]),
    ("gptpipe -f notes/one.md a", &["a file.txt"]),
    ("gptpipe --prompt-file=notes/one.md ca", &["cache"]),
    ("gptpipe -f notes/o", &["notes/one.md"]),
    ("gptpipe --cache no", &["notes"]),
    ("gptpipe 'two words' a", &["a file.txt"]),
    ("true | gptpipe -b li", &["line"]),
    // Options, whole and begun, and none after `--`.
    ("gptpipe --cache-", &["--cache-only", "--cache-ttl"]),
    ("gptpipe summarize --ver", &["--verbose", "--version"]),
    // Values.
    ("gptpipe --by ", &["file", "line", "paragraph", "sentence"]),
    ("gptpipe -b li", &["line"]),
    ("gptpipe -qb li", &["line"]),
    ("gptpipe --by=p", &["paragraph"]),
    ("gptpipe --on-error ", &["keep", "skip", "stop"]),
    ("gptpipe --progress=", &["always", "auto", "never"]),
    ("gptpipe --api c", &["chat"]),
    ("gptpipe -j ", &["auto"]),
    ("gptpipe --system ", &[]),
    ("gptpipe --timeout ", &[]),
    // After a command, its own options and their values.
    ("gptpipe usage --au", &["--audit"]),
    ("gptpipe usage --by ", &["day", "host", "model", "profile"]),
    ("gptpipe usage --since 7d --by=h", &["host"]),
    ("gptpipe usage --since ", &[]),
    ("gptpipe usage --format j", &["jsonl"]),
    ("gptpipe usage --dry", &[]),
    ("gptpipe metrics --", &["--help", "--listen"]),
    (
        "gptpipe cache --",
        &["--cache", "--help", "--quiet", "--verbose", "--version"],
    ),
    ("gptpipe cache clear --cache no", &["notes"]),
    ("gptpipe -q key list -P co", &["corp"]),
    ("gptpipe -P corp setup --no-", &["--no-check"]),
    ("gptpipe login --re", &["--revoke"]),
    ("gptpipe summarize usage -b li", &["line"]),
    ("gptpipe -f notes/one.md usage -b li", &["line"]),
    // Profiles, and the models of the profile that is named.
    ("gptpipe -P co", &["corp"]),
    ("gptpipe --profile=oll", &["ollama"]),
    ("gptpipe -P corp -m ", &["house", "qwen3:30b", "qwen3:8b"]),
    ("gptpipe --profile=corp --model=qwen3:3", &["qwen3:30b"]),
    ("gptpipe -P corp -m qwen3:8", &["qwen3:8b"]),
    ("gptpipe -P llamacpp -m ", &["default"]),
];

/// How many words stand between the command and the last one.
fn words_before(line: &str) -> usize {
    let line = line.rsplit("| ").next().unwrap();
    let mut is_quoted = false;
    let spaces = line.chars().filter(|&c| {
        is_quoted ^= c == '\'';
        c == ' ' && !is_quoted
    });
    spaces.count() - 1
}

/// The candidates among the words that a shell made of a line.
fn candidates(line: &str, words: Vec<String>) -> Vec<String> {
    let (before, last) = (words_before(line), line.rsplit(' ').next().unwrap());
    let mut offered: Vec<String> = words.into_iter().skip(before).collect();
    offered.retain(|word| word != last && !word.is_empty());
    // Some shells put the slash behind a folder only when it is the only candidate.
    for word in &mut offered {
        word.truncate(word.trim_end_matches('/').len());
    }
    for word in &mut offered {
        // Where the value is part of the word, some shells give it alone and some with the option.
        if let Some((option, value)) = word.split_once('=')
            && last.starts_with(option)
        {
            *word = value.to_owned();
        }
    }
    offered.sort();
    offered.dedup();
    offered
}

/// Types the lines into an interactive shell, with `key` behind each that asks for all candidates.
fn typed(shell: &str, args: &[&str], home: &Arc<Folder>, key: &str) {
    let terminal = Terminal::new();
    let run = tool(shell)
        .args(args)
        .at(home)
        .env("TERM", "dumb")
        .env("LC_ALL", "C.UTF-8")
        .env("ZDOTDIR", &home.path)
        .stdin(terminal.line())
        .stdout(terminal.line())
        .stderr(terminal.line())
        .start();
    let mut seen = 0;
    let mut wrong = String::new();
    for (line, expected) in CASES {
        terminal
            .screen
            .wait(|shown| shown[seen..].contains("READY> "));
        terminal.type_in(&format!("{line}{key}\r"));
        let shown = terminal
            .screen
            .wait(|shown| shown[seen..].contains("[[end]]"));
        let words = shown[seen..].split("[[").skip(1);
        let words = words.map(|word| word.split("]]").next().unwrap().to_owned());
        let words: Vec<String> = words.take_while(|word| word != "end").collect();
        seen += shown[seen..].find("[[end]]").unwrap() + "[[end]]".len();
        let offered = candidates(line, words);
        if offered != *expected {
            let _ = writeln!(
                wrong,
                "{shell}: {line:?} offers {offered:?}, not {expected:?}"
            );
        }
    }
    terminal.type_in("exit\r");
    run.finish();
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn bash_offers_what_can_stand_there_and_nothing_else() {
    let home = home();
    home.write(
        "rc",
        format!(
            "PS1='READY> '\nbind 'set bell-style none'\nbind 'set enable-bracketed-paste off'\n\
             bind 'set mark-directories on'\n\
             . completions/gptpipe.bash\ngptpipe() {{ {SHOW}; }}\n"
        ),
    );
    typed(
        "bash",
        &["--noprofile", "--rcfile", "rc", "-i"],
        &home,
        "\u{1b}*",
    );
}

#[test]
fn zsh_offers_what_can_stand_there_and_nothing_else() {
    // In a folder of zsh's own, and as one of the user's start-up files.
    for load in [
        "fpath=($PWD/completions $fpath); compinit -u -D",
        "compinit -u -D; . completions/_gptpipe",
    ] {
        let home = home();
        home.write(
            ".zshrc",
            format!(
                "PS1='READY> ' RPS1= PS2=\nunsetopt beep prompt_cr prompt_sp\n\
                 unset zle_bracketed_paste\n\
                 autoload -Uz compinit\n{load}\n\
                 bindkey -e\nbindkey '^[*' complete-word\n\
                 zstyle ':completion:*' completer _all_matches _complete\n\
                 zstyle ':completion:*' insert true\n\
                 gptpipe() {{ {SHOW}; }}\n"
            ),
        );
        typed("zsh", &["-d", "-i"], &home, "\u{1b}*");
    }
}

#[test]
fn fish_offers_what_can_stand_there_and_nothing_else() {
    let home = home();
    let mut wrong = String::new();
    let lines = CASES.iter().map(|(line, _)| *line);
    let run = tool("fish")
        .at(&home)
        .env("LC_ALL", "C.UTF-8")
        .args([
            "-N",
            "-c",
            "source completions/gptpipe.fish\nfor line in $argv; complete -C $line; echo end; end",
        ])
        .args(lines)
        .run();
    run.ok();
    let shown = String::from_utf8(run.stdout.clone()).unwrap();
    let mut offers = shown.split("end\n");
    for (line, expected) in CASES {
        let before = words_before(line);
        let offered = offers.next().unwrap().lines();
        let offered = offered.map(|line| line.split('\t').next().unwrap().to_owned());
        let words = vec![String::new(); before].into_iter().chain(offered);
        let offered = candidates(line, words.collect());
        if offered != *expected {
            let _ = writeln!(wrong, "fish: {line:?} offers {offered:?}, not {expected:?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Run with `GPTPIPE_REWRITE=1` to bring the files up to date.
#[test]
fn the_scripts_in_the_folder_are_those_that_are_printed() {
    for (shell, file) in SCRIPTS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("completions")
            .join(file);
        crate::docs::is_current(&path, &script(shell));
    }
}
