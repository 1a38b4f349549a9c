//! The flag table and the commands as completions for bash, zsh and fish.
//!
//! Each shell has a template in its own language beside this file; what is put into it comes from
//! the tables. What a closed set of words is, the option's own parser says. Names that change
//! (profiles, models) are asked for when they are wanted: the scripts call `gptpipe completions`.

use std::fmt::Write as _;

use argh::{ArgsInfo, FlagInfo, FlagInfoKind, FromArgs, Optionality};

use crate::cli::args::Cli;
use crate::cli::commands::{COMMANDS, Command, Operand, Options};
use crate::cli::manual::{GROUPS, HELP, own_options};

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

/// What a parser says against words.
type Refusal = fn(&[&str]) -> Option<String>;

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

impl Flag {
    /// The option as argh declares it, and as its parser judges its value.
    fn new(flag: &FlagInfo<'static>, refusal: Refusal) -> Self {
        Self {
            long: flag.long,
            short: flag.short,
            about: flag.description,
            value: match flag.kind {
                FlagInfoKind::Option { arg_name } => Some(arg_name),
                FlagInfoKind::Switch => None,
            },
            repeats: flag.optionality == Optionality::Repeating,
            values: values(flag, refusal),
        }
    }

    /// `--help`, which is argh's own, and its short name ours.
    fn help() -> Self {
        Self {
            long: "--help",
            short: Some('h'),
            about: HELP,
            value: None,
            repeats: false,
            values: Values::None,
        }
    }
}

/// What may stand as the value of an option.
fn values(flag: &FlagInfo<'_>, refusal: Refusal) -> Values {
    let FlagInfoKind::Option { arg_name } = flag.kind else {
        return Values::None;
    };
    match (flag.long, arg_name) {
        ("--profile", _) => Values::Profiles,
        ("--model", _) => Values::Models,
        (_, "FILE") => Values::Files,
        _ => match words(flag.long, refusal) {
            words if words.is_empty() => Values::Free,
            words => Values::Words(words),
        },
    }
}

/// The words that an option takes: what its parser answers to an empty value names each in backticks.
fn words(long: &str, refusal: Refusal) -> Vec<String> {
    let Some(refusal) = refusal(&[long, ""]) else {
        return Vec::new();
    };
    let why = refusal.rsplit("': ").next().unwrap_or_default();
    why.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// The script for a shell.
#[must_use]
pub fn script(shell: Shell) -> String {
    let of_run = flags();
    let of_commands: Vec<(&Command, Vec<Flag>)> = COMMANDS
        .iter()
        .map(|command| (command, flags_of(command)))
        .collect();
    match shell {
        Shell::Bash => bash(&of_run, &of_commands),
        Shell::Zsh => zsh(&of_run, &of_commands),
        Shell::Fish => fish(&of_run, &of_commands),
    }
}

/// The options of a run, in the order of help.
fn flags() -> Vec<Flag> {
    let declared = Cli::get_args_info().flags;
    let refusal = |words: &[&str]| {
        let refused = Cli::from_args(&["gptpipe"], words).err();
        refused.map(|exit| exit.output)
    };
    let names = GROUPS.iter().flat_map(|(_, names)| *names);
    names
        .filter_map(|name| {
            if *name == "--help" {
                return Some(Flag::help());
            }
            let flag = declared.iter().find(|flag| flag.long == *name)?;
            Some(Flag::new(flag, refusal))
        })
        .collect()
}

/// The options that a command takes.
fn flags_of(command: &Command) -> Vec<Flag> {
    match command.options {
        Options::OfRun(_) => {
            let mut flags = flags();
            flags.retain(|flag| command.takes(flag.long));
            flags
        }
        Options::Own { refusal, .. } => own_options(command)
            .map(|flag| Flag::new(flag, refusal))
            .chain([Flag::help()])
            .collect(),
    }
}

/// Long names of options with a value, and their short names in one word; of all commands, as no
/// name has a value after one and none after another.
fn with_value(of_run: &[Flag], of_commands: &[(&Command, Vec<Flag>)]) -> (Vec<String>, String) {
    let of_commands = of_commands.iter().flat_map(|(_, flags)| flags);
    let (mut long, mut short) = (Vec::new(), String::new());
    for flag in of_run.iter().chain(of_commands) {
        if flag.values != Values::None && !long.iter().any(|known| known == flag.long) {
            long.push(flag.long.to_owned());
            short.extend(flag.short);
        }
    }
    (long, short)
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

fn bash(of_run: &[Flag], flags_of: &[(&Command, Vec<Flag>)]) -> String {
    let list = |words: &[String]| format!("$'{}'", words.join("\\n"));
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
    let (mut of_values, mut of_names) = (String::new(), String::new());
    let of_commands = flags_of
        .iter()
        .map(|(command, flags)| (command.name, &flags[..]));
    for (name, flags) in of_commands.chain([("*", of_run)]) {
        let names = flags.iter().flat_map(|flag| {
            let short = flag.short.map(|short| format!("-{short}"));
            short.into_iter().chain([flag.long.to_owned()])
        });
        let names: Vec<String> = names.collect();
        let _ = writeln!(of_names, "        {name}) list={} ;;", list(&names));
        for flag in flags {
            if let Some(action) = action(&flag.values) {
                let short = flag.short.map(|short| format!("{name}/-{short} | "));
                let _ = writeln!(
                    of_values,
                    "        {}{name}/{}) {action} ;;",
                    short.unwrap_or_default(),
                    flag.long
                );
            }
        }
        // What a command does not take has no values after it.
        if name != "*" {
            let _ = writeln!(of_values, "        {name}/*) ;;");
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
    let (long, short) = with_value(of_run, flags_of);
    let commands: Vec<String> = COMMANDS.iter().map(|c| c.name.to_owned()).collect();
    include_str!("completion/bash.txt")
        .replace("@LONG@", &long.join(" | "))
        .replace("@SHORT@", &short)
        .replace("@OPTIONS@\n", &of_names)
        .replace("@COMMANDS@", &list(&commands))
        .replace("@VALUES@\n", &of_values)
        .replace("@WORDS@\n", &of_commands)
}

fn zsh(of_run: &[Flag], flags_of: &[(&Command, Vec<Flag>)]) -> String {
    let quoted = |text: &str| text.replace('\'', "'\\''");
    let action = |values: &Values| match values {
        Values::Words(words) => format!("({})", words.join(" ")),
        Values::Files => "_files".to_owned(),
        Values::Profiles => "_gptpipe_profiles".to_owned(),
        Values::Models => "_gptpipe_models".to_owned(),
        Values::None | Values::Free => " ".to_owned(),
    };
    let spec = |flag: &Flag| {
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
        format!("            {names}[{about}]{value}'\n")
    };
    let mut options = String::new();
    let of_commands = flags_of
        .iter()
        .map(|(command, flags)| (command.name, &flags[..]));
    for (name, flags) in of_commands.chain([("*", of_run)]) {
        let specs: String = flags.iter().map(spec).collect();
        let _ = writeln!(
            options,
            "    {name})\n        specs=(\n{specs}        )\n        ;;"
        );
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
    let (mut long, short) = with_value(of_run, flags_of);
    long.retain(|long| long != "--prompt-file");
    include_str!("completion/zsh.txt")
        .replace("@LONG@", &long.join(" | "))
        .replace("@SHORT@", &short)
        .replace("@OPTIONS@\n", &options)
        .replace("@COMMANDS@\n", &described(&commands, "        "))
        .replace("@WORDS@\n", &of_commands)
}

fn fish(of_run: &[Flag], flags_of: &[(&Command, Vec<Flag>)]) -> String {
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
    let line = |flag: &Flag, takers: &str| {
        let short = flag.short.map(|short| format!(" -s {short}"));
        format!(
            "complete -c gptpipe -n '__gptpipe_at option {takers}'{} -l {}{} -d '{}'\n",
            short.unwrap_or_default(),
            flag.long.trim_start_matches('-'),
            action(&flag.values),
            quoted(flag.about)
        )
    };
    for flag in of_run {
        let takers = COMMANDS.iter().filter(|command| command.takes(flag.long));
        let takers: Vec<&str> = takers.map(|command| command.name).collect();
        lines += &line(flag, format!("run {}", takers.join(" ")).trim_end());
    }
    for (command, flags) in flags_of {
        if let Options::Own { .. } = command.options {
            lines.extend(flags.iter().map(|flag| line(flag, command.name)));
        }
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
    let (mut long, short) = with_value(of_run, flags_of);
    long.retain(|long| long != "--prompt-file");
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
    const UNKNOWABLE: [&str; 10] = [
        "ADDR",
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
    fn an_option_has_a_value_after_every_command_or_after_none() {
        let of_run = flags();
        for command in COMMANDS {
            for flag in flags_of(command) {
                let same = of_run.iter().find(|other| other.long == flag.long);
                assert!(
                    same.is_none_or(|same| same.value.is_some() == flag.value.is_some()),
                    "{}",
                    flag.long
                );
            }
        }
    }

    #[test]
    fn it_is_known_what_completes_each_value() {
        let of_commands = COMMANDS.iter().flat_map(flags_of);
        for flag in flags().into_iter().chain(of_commands) {
            if let (Values::Free, Some(name)) = (&flag.values, flag.value) {
                assert!(UNKNOWABLE.contains(&name), "{}", flag.long);
            }
        }
    }

    #[test]
    fn the_words_of_an_option_are_those_that_it_takes() {
        assert_eq!(
            words("--by", |words| Cli::from_args(&["gptpipe"], words)
                .err()
                .map(|exit| exit.output)),
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
