//! GNU manners before argh.
//!
//! argh matches whole words only. This layer rewrites what people type
//! (`--model=x`, `-j4`, `-qv`, `--mod x`, options after operands, `--`, a lone
//! `-`) into the words that argh knows, lets the last of several values win,
//! and takes the operands out, so that a prompt named `help` or a file whose
//! name is not UTF-8 arrives as it is. It takes the names from argh's own table.

use std::ffi::{OsStr, OsString};

use argh::{ArgsInfo, FlagInfo, FlagInfoKind, FromArgs, Optionality};

use crate::cli::args::{Cli, OPPOSITES};
use crate::cli::commands::{self, Command, RESERVED};
use crate::cli::completion::Shell;
use crate::cli::manual;
use crate::cli::reports::{MetricsCli, UsageCli};
use crate::error::Error;

pub use crate::cli::action::{BatchAction, CacheAction, Completions, KeyAction};

/// What was typed, sorted.
#[derive(Debug)]
pub enum Typed {
    /// Help was asked for.
    Help,
    /// Help with a command was asked for; its text.
    HelpWith(String),
    /// The version was asked for.
    Version,
    /// A run.
    Run {
        /// The options.
        cli: Box<Cli>,
        /// Prompt and files, in their order.
        operands: Vec<OsString>,
    },
    /// `gptpipe cache`.
    Cache {
        /// The options.
        cli: Box<Cli>,
        /// What to do with it.
        action: CacheAction,
    },
    /// `gptpipe setup`.
    Setup {
        /// The options.
        cli: Box<Cli>,
    },
    /// `gptpipe key`.
    Key {
        /// The options.
        cli: Box<Cli>,
        /// What to do with it.
        action: KeyAction,
    },
    /// `gptpipe login`.
    #[cfg(feature = "oauth")]
    Login {
        /// The options.
        cli: Box<Cli>,
    },
    /// `gptpipe usage`.
    Usage(UsageCli),
    /// `gptpipe metrics`.
    Metrics(MetricsCli),
    /// `gptpipe batch`.
    Batch {
        /// The options.
        cli: Box<Cli>,
        /// What to do.
        action: BatchAction,
    },
    /// `gptpipe completions`.
    Completions {
        /// The options.
        cli: Box<Cli>,
        /// What to print.
        what: Completions,
    },
}

/// Sorts the arguments after the program's name.
///
/// # Errors
/// [`Error::Usage`] for an unknown option, a missing or a wrong value.
pub fn parse(args: Vec<OsString>) -> Result<Typed, Error> {
    if let Some((first, rest)) = args.split_first()
        && let Some(command) = first.to_str().and_then(commands::find)
    {
        match command.name {
            "usage" => return own(command, rest.to_vec(), Typed::Usage),
            "metrics" => return own(command, rest.to_vec(), Typed::Metrics),
            _ => {}
        }
    }
    let info = Cli::get_args_info();
    let sorted = sort(args, info.flags)?;
    if sorted.wants_help {
        return Ok(Typed::Help);
    }
    let words: Vec<&str> = sorted.options.iter().map(String::as_str).collect();
    let cli = Cli::from_args(&["gptpipe"], &words).map_err(|exit| refused(&exit.output))?;
    if cli.version {
        return Ok(Typed::Version);
    }
    if let Some(first) = sorted.operands.first()
        && let Some(word) = RESERVED.iter().find(|word| first == OsStr::new(word))
        && sorted.may_be_command
        && cli.prompt_file.is_none()
    {
        return command(word, Box::new(cli), &sorted);
    }
    Ok(Typed::Run {
        cli: Box::new(cli),
        operands: sorted.operands,
    })
}

/// Reads the options of a command that has its own.
fn own<C: ArgsInfo + FromArgs>(
    command: &Command,
    args: Vec<OsString>,
    typed: impl Fn(C) -> Typed,
) -> Result<Typed, Error> {
    let sorted = sort(args, C::get_args_info().flags)?;
    if sorted.wants_help {
        return Ok(Typed::HelpWith(manual::help_with(command)));
    }
    command.word(&sorted.operands)?;
    let words: Vec<&str> = sorted.options.iter().map(String::as_str).collect();
    let cli = C::from_args(&[command.name], &words).map_err(|exit| refused(&exit.output))?;
    Ok(typed(cli))
}

/// Reads what stands around a command's name, which is the first operand.
fn command(name: &str, cli: Box<Cli>, sorted: &Sorted<'_>) -> Result<Typed, Error> {
    let operands = &sorted.operands[1..];
    let unknown = || {
        Error::usage_hint(
            format!("`{name}` is the name of a command, and this version does not have it"),
            format!("to use it as a prompt, write `gptpipe -- {name}`"),
        )
    };
    let command = commands::find(name).ok_or_else(unknown)?;
    command.check_options(&sorted.names)?;
    match command.name {
        "cache" => {
            let action = match command.word(operands)? {
                "prune" => CacheAction::Prune,
                "clear" => CacheAction::Clear,
                _ => CacheAction::Stats,
            };
            Ok(Typed::Cache { cli, action })
        }
        "key" => {
            let action = match command.word(operands)? {
                "list" => KeyAction::List,
                "rotate" => KeyAction::Rotate,
                "remove" => KeyAction::Remove,
                _ => KeyAction::Show,
            };
            Ok(Typed::Key { cli, action })
        }
        "setup" => {
            command.word(operands)?;
            Ok(Typed::Setup { cli })
        }
        #[cfg(feature = "oauth")]
        "login" => {
            command.word(operands)?;
            Ok(Typed::Login { cli })
        }
        "batch" => {
            let action = match operands {
                [word, id] if word == "cancel" => {
                    BatchAction::Cancel(id.to_string_lossy().into_owned())
                }
                [word] if word == "cancel" => {
                    return Err(Error::usage_hint(
                        "`gptpipe batch cancel` needs the name of a batch",
                        "`gptpipe batch` tells the names",
                    ));
                }
                [word, _, ..] if word == "cancel" => {
                    return Err(Error::usage_hint(
                        "`gptpipe batch cancel` takes the name of one batch",
                        "give each of them a `gptpipe batch cancel`",
                    ));
                }
                operands => {
                    command.word(operands)?;
                    BatchAction::List
                }
            };
            Ok(Typed::Batch { cli, action })
        }
        "completions" => {
            // The last two are for the scripts alone.
            let what = match command.word_of(operands, &["profiles", "models"])? {
                "zsh" => Completions::Script(Shell::Zsh),
                "fish" => Completions::Script(Shell::Fish),
                "profiles" => Completions::Profiles,
                "models" => Completions::Models,
                _ => Completions::Script(Shell::Bash),
            };
            Ok(Typed::Completions { cli, what })
        }
        _ => Err(unknown()),
    }
}

/// The arguments, options apart from operands.
#[derive(Debug, Default)]
struct Sorted<'a> {
    options: Vec<String>,
    /// The long names of those that were typed.
    names: Vec<&'a str>,
    operands: Vec<OsString>,
    wants_help: bool,
    /// Whether the first operand stands before any `--`: only there a command's
    /// name is one.
    may_be_command: bool,
}

/// The switch that may have a suffix.
const IN_PLACE: &str = "--in-place";

/// One option with its value, in argh's spelling.
struct Given<'a> {
    flag: &'a FlagInfo<'a>,
    value: Option<String>,
}

fn sort<'a>(args: Vec<OsString>, flags: &'a [FlagInfo<'a>]) -> Result<Sorted<'a>, Error> {
    let mut sorted = Sorted::default();
    let mut given: Vec<Given<'_>> = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        // Only an operand may be something else than UTF-8; an option never begins so.
        let Some(text) = arg
            .to_str()
            .filter(|text| text.starts_with('-') && *text != "-")
        else {
            if arg.as_encoded_bytes().starts_with(b"-") && arg != "-" {
                return Err(Error::usage(format!(
                    "option `{}` is not UTF-8",
                    arg.to_string_lossy()
                )));
            }
            sorted.may_be_command = true;
            sorted.operands.push(arg);
            continue;
        };
        if text == "--" {
            sorted.operands.extend(args.by_ref());
            break;
        }
        let mut next_value = |name: &str| match args.next() {
            Some(value) => value
                .into_string()
                .map_err(|_| Error::usage(format!("the value of `{name}` is not UTF-8"))),
            None => Err(Error::usage_hint(
                format!("option `{name}` needs a value"),
                "see `gptpipe --help`",
            )),
        };
        if let Some(body) = text.strip_prefix("--") {
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            if "help" == name || (name.len() > 1 && "help".starts_with(name)) {
                sorted.wants_help = true;
                break;
            }
            let flag = find_long(name, flags)?;
            let value = match (&flag.kind, value) {
                // As sed takes it: `--in-place=SUFFIX`.
                (FlagInfoKind::Switch, Some(suffix)) if flag.long == IN_PLACE => {
                    given.extend(backup(flags, suffix));
                    None
                }
                (FlagInfoKind::Switch, Some(_)) => {
                    return Err(Error::usage(format!(
                        "option `{}` takes no value",
                        flag.long
                    )));
                }
                (FlagInfoKind::Switch, None) => None,
                (FlagInfoKind::Option { .. }, Some(value)) => Some(value),
                (FlagInfoKind::Option { .. }, None) => Some(next_value(flag.long)?),
            };
            given.push(Given { flag, value });
            continue;
        }
        let mut cluster = text[1..].char_indices();
        while let Some((at, short)) = cluster.next() {
            if short == 'h' {
                sorted.wants_help = true;
                return Ok(sorted);
            }
            let flag = find_short(short, text, flags)?;
            let rest = &text[1 + at + short.len_utf8()..];
            // As sed takes it: `-i.bak`. What begins like a word is further switches.
            if flag.long == IN_PLACE && rest.starts_with(|c: char| !c.is_alphanumeric()) {
                cluster = "".char_indices();
                given.extend(backup(flags, rest.to_owned()));
            }
            let value = match flag.kind {
                FlagInfoKind::Switch => None,
                FlagInfoKind::Option { .. } => {
                    let rest = &text[1 + at + short.len_utf8()..];
                    // The rest of the word is the value: `-j4`, and `-j=4` as a courtesy to
                    // those who type it; no value of ours begins with an equals sign.
                    cluster = "".char_indices();
                    match rest.strip_prefix('=').unwrap_or(rest) {
                        "" => Some(next_value(&format!("-{short}"))?),
                        rest => Some(rest.to_owned()),
                    }
                }
            };
            given.push(Given { flag, value });
        }
    }
    sorted.options = last_wins(&given);
    sorted.names = given.iter().map(|option| option.flag.long).collect();
    Ok(sorted)
}

/// The option that the suffix of `--in-place` is a value of.
fn backup<'a>(flags: &'a [FlagInfo<'a>], suffix: String) -> Vec<Given<'a>> {
    let flag = flags.iter().find(|flag| flag.long == "--backup");
    let value = Some(suffix);
    flag.map(|flag| Given { flag, value }).into_iter().collect()
}

/// Finds a short option, which stands in `text`.
fn find_short<'a>(
    short: char,
    text: &str,
    flags: &'a [FlagInfo<'a>],
) -> Result<&'a FlagInfo<'a>, Error> {
    let found = flags.iter().find(|flag| flag.short == Some(short));
    found.ok_or_else(|| {
        let whole = if text.chars().count() > 2 {
            format!(" in `{text}`")
        } else {
            String::new()
        };
        Error::usage_hint(
            format!("unknown option `-{short}`{whole}"),
            "a prompt that begins with `-` goes after `--`; see `gptpipe --help`",
        )
    })
}

/// Finds a long option by its name or by a beginning that fits only one.
fn find_long<'a>(name: &str, flags: &'a [FlagInfo<'a>]) -> Result<&'a FlagInfo<'a>, Error> {
    let long = |flag: &FlagInfo<'a>| flag.long.trim_start_matches('-').to_owned();
    if let Some(flag) = flags.iter().find(|flag| long(flag) == name) {
        return Ok(flag);
    }
    let fitting: Vec<&FlagInfo<'_>> = flags
        .iter()
        .filter(|flag| !name.is_empty() && long(flag).starts_with(name))
        .collect();
    match fitting[..] {
        [flag] => Ok(flag),
        [] => {
            let nearest = flags
                .iter()
                .map(|flag| (strsim::damerau_levenshtein(&long(flag), name), flag.long))
                .filter(|(distance, _)| *distance <= 1 + name.len() / 4)
                .min();
            Err(Error::usage_hint(
                format!("unknown option `--{name}`"),
                match nearest {
                    Some((_, long)) => format!("did you mean `{long}`?"),
                    None => "see `gptpipe --help`".to_owned(),
                },
            ))
        }
        _ => {
            let names: Vec<String> = fitting
                .iter()
                .map(|flag| format!("`{}`", flag.long))
                .collect();
            Err(Error::usage_hint(
                format!("option `--{name}` is ambiguous"),
                format!("it can be {}", names.join(" or ")),
            ))
        }
    }
}

/// Spells the options for argh, which refuses duplicates: of several values of
/// one option, and of two opposite switches, the last stays.
fn last_wins(given: &[Given<'_>]) -> Vec<String> {
    let is_overridden = |earlier: &Given<'_>, later: &Given<'_>| {
        if earlier.flag.long == later.flag.long {
            return earlier.flag.optionality != Optionality::Repeating;
        }
        OPPOSITES
            .iter()
            .any(|pair| pair.contains(&earlier.flag.long) && pair.contains(&later.flag.long))
    };
    let mut words = Vec::new();
    for (at, option) in given.iter().enumerate() {
        if given[at + 1..]
            .iter()
            .any(|later| is_overridden(option, later))
        {
            continue;
        }
        words.push(option.flag.long.to_owned());
        words.extend(option.value.clone());
    }
    words
}

/// argh's complaint about a value, in our words.
fn refused(output: &str) -> Error {
    let complaint = output.trim();
    let parts = complaint
        .strip_prefix("Error parsing option '")
        .and_then(|rest| rest.split_once("' with value '"))
        .and_then(|(name, rest)| {
            rest.rsplit_once("': ")
                .map(|(value, why)| (name, value, why))
        });
    match parts {
        Some((name, value, why)) => {
            Error::usage_hint(format!("`{name} {value}`: {why}"), "see `gptpipe --help`")
        }
        None => Error::usage(complaint.to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::concurrency::Jobs;

    fn typed(args: &[&str]) -> Result<(Cli, Vec<String>), Error> {
        match parse(args.iter().map(OsString::from).collect())? {
            Typed::Run { cli, operands } => {
                let operands = operands
                    .into_iter()
                    .map(|o| o.into_string().unwrap())
                    .collect();
                Ok((*cli, operands))
            }
            other => panic!("{other:?}"),
        }
    }

    fn refusal(args: &[&str]) -> (String, String) {
        let error = typed(args).unwrap_err();
        (error.to_string(), error.hint().unwrap_or_default())
    }

    #[test]
    fn takes_options_as_gnu_tools_do() {
        let (cli, operands) =
            typed(&["sum up", "--model=x", "a.txt", "-j4", "-qv", "-c", "9"]).unwrap();
        assert_eq!(cli.model.as_deref(), Some("x"));
        assert_eq!(cli.jobs, Some(Jobs::Most(4)));
        assert!(cli.verbose && !cli.quiet, "the later of two opposites wins");
        assert_eq!(cli.chunk_tokens.unwrap().get(), 9);
        assert_eq!(operands, ["sum up", "a.txt"]);
    }

    #[test]
    fn takes_words_that_argh_would_not() {
        assert_eq!(typed(&["help"]).unwrap().1, ["help"]);
        assert_eq!(typed(&["x", "-"]).unwrap().1, ["x", "-"]);
        assert_eq!(typed(&["--", "cache"]).unwrap().1, ["cache"]);
        assert_eq!(typed(&["-q", "--", "-n", "--x"]).unwrap().1, ["-n", "--x"]);
        assert_eq!(typed(&["-f", "prompt.txt", "cache"]).unwrap().1, ["cache"]);
        assert_eq!(
            typed(&["-s", "", "x"]).unwrap().0.system.as_deref(),
            Some("")
        );
        assert_eq!(
            typed(&["--sys=", "x"]).unwrap().0.system.as_deref(),
            Some("")
        );
    }

    #[test]
    fn lets_the_last_value_win() {
        let (cli, _) = typed(&["-m", "a", "--live", "-mb", "--whole", "--model=c", "p"]).unwrap();
        assert_eq!(cli.model.as_deref(), Some("c"));
        assert!(cli.whole && !cli.live);
        let (cli, _) = typed(&["--param", "a=1", "--param", "b=2", "p"]).unwrap();
        assert_eq!(cli.param.len(), 2);
    }

    #[test]
    fn takes_beginnings_that_fit_only_one() {
        assert!(typed(&["--verb", "p"]).unwrap().0.verbose);
        let (message, hint) = refusal(&["--pro", "p"]);
        assert_eq!(message, "option `--pro` is ambiguous");
        assert_eq!(
            hint,
            "it can be `--prompt-file` or `--profile` or `--progress`"
        );
    }

    #[test]
    fn says_what_was_probably_meant() {
        assert_eq!(refusal(&["--modle", "x"]).1, "did you mean `--model`?");
        assert_eq!(refusal(&["--jbos=3"]).1, "did you mean `--jobs`?");
        assert_eq!(refusal(&["-qz", "x"]).0, "unknown option `-z` in `-qz`");
        assert_eq!(refusal(&["-m"]).0, "option `-m` needs a value");
        assert_eq!(
            refusal(&["--quiet=1", "x"]).0,
            "option `--quiet` takes no value"
        );
        assert_eq!(
            refusal(&["-j", "0", "x"]).0,
            "`--jobs 0`: takes a whole number from 1, or `auto`"
        );
        assert_eq!(
            refusal(&["--by=word", "x"]).0,
            "`--by word`: takes `sentence`, `paragraph`, `line` or `file`"
        );
        assert_eq!(
            refusal(&["--timeout", "5", "x"]).0,
            "`--timeout 5`: takes a time with its unit, such as 500ms, 90s, 5m or 24h"
        );
        assert!(
            refusal(&["--param", "stop=[1", "x"])
                .0
                .contains("is not JSON")
        );
        assert_eq!(
            refusal(&["-q", "batch", "stop"]).1,
            "as a prompt, `batch` goes after `--`, as in `gptpipe -- batch FILE`"
        );
        assert_eq!(
            refusal(&["cache", "notes.txt"]).0,
            "`gptpipe cache` takes stats, prune or clear, not `notes.txt`"
        );
    }

    #[test]
    fn a_command_is_one_only_as_the_first_operand() {
        let action = |args: &[&str]| match parse(args.iter().map(OsString::from).collect()) {
            Ok(Typed::Cache { action, .. }) => Some(action),
            _ => None,
        };
        assert_eq!(action(&["cache"]), Some(CacheAction::Stats));
        assert_eq!(action(&["-q", "cache", "stats"]), Some(CacheAction::Stats));
        assert_eq!(
            action(&["cache", "clear", "--cache=x"]),
            Some(CacheAction::Clear)
        );
        assert_eq!(action(&["cache", "prune"]), Some(CacheAction::Prune));
        #[cfg(feature = "oauth")]
        {
            let parse = |args: &[&str]| parse(args.iter().map(OsString::from).collect());
            let revokes = |args: &[&str]| match parse(args) {
                Ok(Typed::Login { cli }) => Some(cli.revoke),
                _ => None,
            };
            assert_eq!(revokes(&["login", "-P", "corp"]), Some(false));
            assert_eq!(revokes(&["--revoke", "login"]), Some(true));
            assert!(parse(&["login", "corp"]).is_err());
        }
        assert_eq!(action(&["--", "cache"]), None);
        assert_eq!(action(&["summarize", "cache"]), None);
        assert_eq!(action(&["cache", "stats", "stats"]), None);
        let action = |args: &[&str]| match parse(args.iter().map(OsString::from).collect()) {
            Ok(Typed::Key { action, .. }) => Some(action),
            _ => None,
        };
        assert_eq!(action(&["key"]), Some(KeyAction::Show));
        assert_eq!(
            action(&["key", "-P", "x", "remove"]),
            Some(KeyAction::Remove)
        );
        assert_eq!(action(&["key", "sk-canary"]), None);
        let typed = parse(vec!["setup".into(), "-Pmistral".into()]).unwrap();
        assert!(matches!(typed, Typed::Setup { cli } if cli.profile.as_deref() == Some("mistral")));
        let error = parse(vec!["setup".into(), "sk-canary".into()]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"));
    }

    #[test]
    fn every_command_of_the_table_is_there_and_no_other() {
        for name in RESERVED {
            let parsed = parse(vec![name.into(), "no-such-word".into()]);
            let is_missing = parsed
                .as_ref()
                .is_err_and(|error| error.to_string().contains("this version does not have it"));
            assert_eq!(!is_missing, commands::find(name).is_some(), "{name}");
        }
    }

    #[test]
    fn takes_parameters_as_json_or_bare_words() {
        let (cli, _) = typed(&["--param", "a={\"b\":[1, 2]}", "--param=effort=low", "p"]).unwrap();
        assert_eq!(cli.param[0].json, "{\"b\":[1, 2]}");
        assert_eq!(cli.param[1].json, "\"low\"");
    }

    #[test]
    fn help_and_version_come_first() {
        let parse = |args: &[&str]| parse(args.iter().map(OsString::from).collect()).unwrap();
        assert!(matches!(parse(&["-h"]), Typed::Help));
        assert!(matches!(parse(&["x", "-qh"]), Typed::Help));
        assert!(matches!(parse(&["--he"]), Typed::Help));
        assert!(matches!(parse(&["x", "-V"]), Typed::Version));
    }

    #[cfg(unix)]
    #[test]
    fn file_names_need_not_be_utf8() {
        use std::os::unix::ffi::OsStringExt;
        let name = OsString::from_vec(b"a\xffb".to_vec());
        let Typed::Run { operands, .. } = parse(vec!["p".into(), name.clone()]).unwrap() else {
            panic!("not a run");
        };
        assert_eq!(operands[1], name);
    }
}
