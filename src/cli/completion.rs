//! The flag table and the commands as completions for bash, zsh and fish.
//!
//! Each shell has a template in its own language beside this file; what is put into it comes from
//! the tables. What a closed set of words is, the option's own parser says. Names that change
//! (profiles, models) are asked for when they are wanted: the scripts call `gptpipe completions`.

use std::fmt::Write as _;

use argh::{ArgsInfo, FlagInfo, FlagInfoKind, FromArgs, Optionality};

use crate::cli::args::Cli;
use crate::cli::commands::{COMMANDS, Command, Operand};
use crate::cli::manual::{GROUPS, HELP};

/// A shell that can be taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// Version 3.2 or later; what files are called it knows from 4 on.
    Bash,
    /// Version 5 or later.
    Zsh,
    /// Version 3 or later.
    Fish,
}

/// What may stand as an option's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Values {
    /// It is a switch.
    None,
    /// One of these.
    Words(Vec<String>),
    /// A file's name.
    Files,
    /// A profile's name.
    Profiles,
    /// A model's name.
    Models,
    /// Something that nobody can know.
    Free,
}

/// An option as the shells need it.
struct Flag {
    long: &'static str,
    short: Option<char>,
    about: &'static str,
    /// What its value is called.
    value: Option<&'static str>,
    repeats: bool,
    values: Values,
}

/// What may stand as the value of an option.
#[must_use]
pub fn values(flag: &FlagInfo<'_>) -> Values {
    let FlagInfoKind::Option { arg_name } = flag.kind else {
        return Values::None;
    };
    match (flag.long, arg_name) {
        ("--profile", _) => Values::Profiles,
        ("--model", _) => Values::Models,
        (_, "FILE") => Values::Files,
        _ => match words(flag.long) {
            words if words.is_empty() => Values::Free,
            words => Values::Words(words),
        },
    }
}

/// The words that an option takes: what its parser answers to an empty value names each in backticks.
fn words(long: &str) -> Vec<String> {
    let Err(refusal) = Cli::from_args(&["gptpipe"], &[long, ""]) else {
        return Vec::new();
    };
    let why = refusal.output.rsplit("': ").next().unwrap_or_default();
    why.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// The script for a shell.
#[must_use]
pub fn script(shell: Shell) -> String {
    let flags = flags();
    match shell {
        Shell::Bash => bash(&flags),
        Shell::Zsh => zsh(&flags),
        Shell::Fish => fish(&flags),
    }
}

/// All options in the order of help. `--help` is argh's own, and its short name ours.
fn flags() -> Vec<Flag> {
    let declared = Cli::get_args_info().flags;
    let names = GROUPS.iter().flat_map(|(_, names)| *names);
    names
        .filter_map(|name| {
            if *name == "--help" {
                return Some(Flag {
                    long: "--help",
                    short: Some('h'),
                    about: HELP,
                    value: None,
                    repeats: false,
                    values: Values::None,
                });
            }
            let flag = declared.iter().find(|flag| flag.long == *name)?;
            Some(Flag {
                long: flag.long,
                short: flag.short,
                about: flag.description,
                value: match flag.kind {
                    FlagInfoKind::Option { arg_name } => Some(arg_name),
                    FlagInfoKind::Switch => None,
                },
                repeats: flag.optionality == Optionality::Repeating,
                values: values(flag),
            })
        })
        .collect()
}

/// Long names of options with a value, and their short names in one word.
fn with_value(flags: &[Flag]) -> (Vec<String>, String) {
    let with = || flags.iter().filter(|flag| flag.values != Values::None);
    (
        with().map(|flag| flag.long.to_owned()).collect(),
        with().filter_map(|flag| flag.short).collect(),
    )
}

/// What may follow a command at each place: its words, then its operand.
fn after(command: &Command) -> Vec<(usize, Values)> {
    let mut places = Vec::new();
    if !command.words.is_empty() {
        let words = command.words.iter().map(|(word, _)| (*word).to_owned());
        places.push((1, Values::Words(words.collect())));
    }
    let values = match command.operand {
        Operand::Nothing | Operand::OfLast(_) => return places,
        Operand::Profile => Values::Profiles,
        Operand::Files => Values::Files,
    };
    places.push((places.len() + 1, values));
    places
}

fn bash(flags: &[Flag]) -> String {
    let list = |words: &[String]| format!("$'{}'", words.join("\\n"));
    let names: Vec<String> = flags
        .iter()
        .flat_map(|flag| {
            let short = flag.short.map(|short| format!("-{short}"));
            short.into_iter().chain([flag.long.to_owned()])
        })
        .collect();
    let action = |values: &Values| {
        match values {
        Values::Words(words) => Some(format!("list={}", list(words))),
        Values::Files => Some("files=1".to_owned()),
        Values::Profiles => {
            Some("list=$(\"$gptpipe\" completions profiles 2>/dev/null)".to_owned())
        }
        Values::Models => Some(
            "list=$(\"$gptpipe\" completions models ${profile:+\"--profile=$profile\"} 2>/dev/null)"
                .to_owned(),
        ),
        Values::None | Values::Free => None,
    }
    };
    let mut of_options = String::new();
    for flag in flags {
        if let Some(action) = action(&flag.values) {
            let short = flag.short.map(|short| format!("-{short} | "));
            let _ = writeln!(
                of_options,
                "        {}{}) {action} ;;",
                short.unwrap_or_default(),
                flag.long
            );
        }
    }
    let mut of_commands = String::new();
    for command in COMMANDS {
        for (place, values) in after(command) {
            let action = action(&values).unwrap_or_default();
            let name = command.name;
            let _ = writeln!(of_commands, "        {name}/{place}) {action} ;;");
        }
        let _ = writeln!(of_commands, "        {}/*) ;;", command.name);
    }
    let (long, short) = with_value(flags);
    let commands: Vec<String> = COMMANDS.iter().map(|c| c.name.to_owned()).collect();
    include_str!("completion/bash.txt")
        .replace("@LONG@", &long.join(" | "))
        .replace("@SHORT@", &short)
        .replace("@OPTIONS@", &list(&names))
        .replace("@COMMANDS@", &list(&commands))
        .replace("@VALUES@\n", &of_options)
        .replace("@WORDS@\n", &of_commands)
}

fn zsh(flags: &[Flag]) -> String {
    let quoted = |text: &str| text.replace('\'', "'\\''");
    let action = |values: &Values| match values {
        Values::Words(words) => format!("({})", words.join(" ")),
        Values::Files => "_files".to_owned(),
        Values::Profiles => "_gptpipe_profiles".to_owned(),
        Values::Models => "_gptpipe_models".to_owned(),
        Values::None | Values::Free => " ".to_owned(),
    };
    let mut options = String::new();
    for flag in flags {
        let about = quoted(flag.about).replace('[', "\\[").replace(']', "\\]");
        let (value, attached) = match flag.value {
            None => (String::new(), ("", "")),
            Some(name) => (
                // A colon in the name would end it.
                format!(":{}:{}", name.replace(':', "\\:"), action(&flag.values)),
                ("+", "="),
            ),
        };
        let long = format!("{}{}", flag.long, attached.1);
        let star = if flag.repeats { "*" } else { "" };
        let names = match flag.short {
            Some(short) if star.is_empty() => format!(
                "'(-{short} {})'{{-{short}{},{long}}}'",
                flag.long, attached.0
            ),
            Some(short) => format!("'*'{{-{short}{},{long}}}'", attached.0),
            None => format!("'{star}{long}"),
        };
        let _ = writeln!(options, "        {names}[{about}]{value}' \\");
    }
    let described = |words: &[(&str, &str)], indent: &str| {
        let lines = words
            .iter()
            .map(|(word, about)| format!("{indent}'{word}:{}'\n", quoted(about)));
        lines.collect::<String>()
    };
    let commands: Vec<(&str, &str)> = COMMANDS.iter().map(|c| (c.name, c.about)).collect();
    let mut of_commands = String::new();
    for command in COMMANDS {
        for (place, values) in after(command) {
            let name = command.name;
            match values {
                Values::Words(_) => {
                    let _ = writeln!(
                        of_commands,
                        "        {name}/{place})\n            words_of=(\n{}            )\n            \
                         _describe -t words word words_of\n            ;;",
                        described(command.words, "                ")
                    );
                }
                values => {
                    let action = action(&values);
                    let _ = writeln!(of_commands, "        {name}/{place}) {action} ;;");
                }
            }
        }
        let _ = writeln!(of_commands, "        {}/*) ;;", command.name);
    }
    include_str!("completion/zsh.txt")
        .replace("@OPTIONS@\n", &options)
        .replace("@COMMANDS@\n", &described(&commands, "        "))
        .replace("@WORDS@\n", &of_commands)
}

fn fish(flags: &[Flag]) -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let action = |values: &Values| match values {
        Values::None => String::new(),
        Values::Words(words) => format!(" -x -a '{}'", words.join(" ")),
        Values::Files => " -r -F".to_owned(),
        Values::Profiles => " -x -a '(__gptpipe_profiles)'".to_owned(),
        Values::Models => " -x -a '(__gptpipe_models)'".to_owned(),
        Values::Free => " -x".to_owned(),
    };
    let mut lines = String::new();
    for flag in flags {
        let short = flag.short.map(|short| format!(" -s {short}"));
        let _ = writeln!(
            lines,
            "complete -c gptpipe{} -l {}{} -d '{}'",
            short.unwrap_or_default(),
            flag.long.trim_start_matches('-'),
            action(&flag.values),
            quoted(flag.about)
        );
    }
    for command in COMMANDS {
        let (name, about) = (command.name, quoted(command.about));
        let _ = writeln!(
            lines,
            "complete -c gptpipe -n '__gptpipe_at command' -f -a {name} -d '{about}'"
        );
        for (place, values) in after(command) {
            let at = format!(
                "complete -c gptpipe -n '__gptpipe_at word {name} {place}'{}",
                action(&values)
            );
            let at = at.replace(" -x", " -f").replace(" -r -F", " -F");
            if let Values::Words(_) = values {
                for (word, about) in command.words {
                    let _ = writeln!(
                        lines,
                        "complete -c gptpipe -n '__gptpipe_at word {name} {place}' -f -a {word} -d '{}'",
                        quoted(about)
                    );
                }
            } else {
                lines += &at;
                lines.push('\n');
            }
        }
    }
    let (long, short) = with_value(flags);
    let long: Vec<String> = long
        .into_iter()
        .filter(|long| long != "--prompt-file")
        .collect();
    let commands: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    include_str!("completion/fish.txt")
        .replace("@LONG@", &long.join(" "))
        .replace("@SHORT@", &short)
        .replace("@COMMANDS@", &commands.join(" "))
        .replace("@LINES@\n", &lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of values that nobody can know beforehand. Who gives a value another name has to say
    /// here, or in [`values`], what completes it.
    const UNKNOWABLE: [&str; 9] = [
        "DUR",
        "N",
        "NAME=JSON",
        "PROMPT",
        "RATE",
        "SUFFIX",
        "TEXT",
        "URL",
        "USD",
    ];

    #[test]
    fn it_is_known_what_completes_each_value() {
        for flag in flags() {
            if let (Values::Free, Some(name)) = (&flag.values, flag.value) {
                assert!(UNKNOWABLE.contains(&name), "{}", flag.long);
            }
        }
    }

    #[test]
    fn the_words_of_an_option_are_those_that_it_takes() {
        assert_eq!(
            words("--by"),
            ["sentence", "paragraph", "line", "file"],
            "the parser names them"
        );
        for flag in flags() {
            if let Values::Words(words) = flag.values {
                for word in words {
                    let parsed = Cli::from_args(&["gptpipe"], &[flag.long, &word]);
                    assert!(parsed.is_ok(), "{} {word}", flag.long);
                    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
                    assert!(word.chars().all(is_plain), "{word}");
                }
            }
        }
    }

    #[test]
    fn nothing_of_a_template_is_left() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            let is_mark =
                |word: &str| word.len() > 2 && word.bytes().all(|b| b.is_ascii_uppercase());
            let marks: Vec<&str> = script
                .split('@')
                .skip(1)
                .step_by(2)
                .filter(|word| is_mark(word))
                .collect();
            assert!(marks.is_empty(), "{marks:?}");
            for flag in flags() {
                let name = flag.long.trim_start_matches('-');
                assert!(script.contains(name), "{name}");
            }
        }
    }
}
