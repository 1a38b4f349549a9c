//! The commands: words that are no prompt when they stand first, such as `gptpipe cache`.
//!
//! Help, man page and completions are rendered from this table, and what is typed after a command
//! is judged by it.

use std::ffi::{OsStr, OsString};

use argh::{ArgsInfo, FlagInfo, FromArgs};

use crate::cli::reports::{MetricsCli, UsageCli};
use crate::error::Error;

/// A command that this version has.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// What it is for, in one line.
    pub about: &'static str,
    /// The words that may follow it, each with what it does; the first is meant where none is typed.
    pub words: &'static [(&'static str, &'static str)],
    /// Whether one of the words has to follow.
    pub needs_word: bool,
    /// What may follow after that.
    pub operand: Operand,
    /// The options that it takes.
    pub options: Options,
}

/// Which options a command takes; `--help` and `--version` always.
#[derive(Clone, Copy, Debug)]
pub enum Options {
    /// Those of a run with these names. What else a run takes would change nothing, and who types
    /// `gptpipe cache clear --dry-run` has to learn that before the cache is empty.
    OfRun(&'static [&'static str]),
    /// Its own, which stand after its name.
    Own {
        /// What they are.
        flags: fn() -> &'static [FlagInfo<'static>],
        /// What their parser says against words.
        refusal: fn(&[&str]) -> Option<String>,
    },
}

/// Options that every command takes, as people put them into an alias.
const EVERYWHERE: [&str; 4] = ["--quiet", "--verbose", "--help", "--version"];

/// What a command takes besides its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// Nothing.
    Nothing,
    /// The name of a profile.
    Profile,
    /// Files.
    Files,
    /// After the last of its words what that is about, of this name.
    OfLast(&'static str),
}

/// The words that are commands when they stand first, also where this version has none behind them.
pub const RESERVED: [&str; 8] = [
    "setup",
    "login",
    "key",
    "cache",
    "usage",
    "metrics",
    "batch",
    "completions",
];

/// The commands that there are, in the order of help.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "setup",
        about: "put a key into the system's keyring",
        words: &[],
        needs_word: false,
        operand: Operand::Nothing,
        options: Options::OfRun(&["--profile", "--base-url", "--no-check"]),
    },
    Command {
        name: "key",
        about: "where the key in use comes from; never the key",
        words: &[
            ("show", "tell where the key comes from, and how old it is"),
            ("list", "tell the profiles that have one"),
            ("rotate", "put another one in its place"),
            ("remove", "take it out of the keyring"),
        ],
        needs_word: false,
        operand: Operand::Nothing,
        options: Options::OfRun(&["--profile", "--base-url", "--no-check"]),
    },
    #[cfg(feature = "oauth")]
    Command {
        name: "login",
        about: "log in at the profile's OAuth server",
        words: &[],
        needs_word: false,
        operand: Operand::Nothing,
        options: Options::OfRun(&["--profile", "--base-url", "--revoke"]),
    },
    Command {
        name: "cache",
        about: "what is remembered: tell, tidy up, forget",
        words: &[
            ("stats", "tell how much is remembered"),
            ("prune", "take away what is too old or too much"),
            ("clear", "forget everything"),
        ],
        needs_word: false,
        operand: Operand::Nothing,
        options: Options::OfRun(&["--cache"]),
    },
    Command {
        name: "usage",
        about: "what requests there were, and what they cost",
        words: &[],
        needs_word: false,
        operand: Operand::Nothing,
        options: own::<UsageCli>(),
    },
    Command {
        name: "metrics",
        about: "the same for Prometheus",
        words: &[],
        needs_word: false,
        operand: Operand::Nothing,
        options: own::<MetricsCli>(),
    },
    Command {
        name: "batch",
        about: "what --batch submitted: tell how far it is, cancel it",
        words: &[
            ("list", "tell the batches, the newest last"),
            ("cancel", "have the server cancel a batch"),
        ],
        needs_word: false,
        operand: Operand::OfLast("ID"),
        options: Options::OfRun(&["--profile", "--base-url"]),
    },
    Command {
        name: "completions",
        about: "print what lets a shell complete gptpipe's words",
        words: &[
            ("bash", "for bash"),
            ("zsh", "for zsh"),
            ("fish", "for fish"),
        ],
        needs_word: true,
        operand: Operand::Nothing,
        options: Options::OfRun(&["--profile"]),
    },
];

/// The options that are declared as `C`.
const fn own<C: ArgsInfo + FromArgs>() -> Options {
    Options::Own {
        flags: || C::get_args_info().flags,
        refusal: |words| {
            C::from_args(&["gptpipe"], words)
                .err()
                .map(|exit| exit.output)
        },
    }
}

impl Command {
    /// Whether an option of a run is also one of this command.
    #[must_use]
    pub fn takes(&self, long: &str) -> bool {
        match self.options {
            Options::OfRun(names) => names.contains(&long) || EVERYWHERE.contains(&long),
            Options::Own { .. } => false,
        }
    }

    /// Holds what was typed of a run's options against those that mean something here.
    ///
    /// # Errors
    /// [`Error::Usage`] for the first that means nothing.
    pub fn check_options(&self, typed: &[&str]) -> Result<(), Error> {
        let name = self.name;
        match (self.options, typed.iter().find(|long| !self.takes(long))) {
            (_, None) => Ok(()),
            (Options::Own { .. }, Some(_)) => Err(Error::usage_hint(
                format!("the options of `gptpipe {name}` stand after its name"),
                format!("see `gptpipe {name} --help`; as a prompt, `{name}` goes after `--`"),
            )),
            (Options::OfRun(names), Some(other)) => {
                let taken: Vec<String> = names
                    .iter()
                    .chain(&EVERYWHERE[..1])
                    .map(|name| format!("`{name}`"))
                    .collect();
                Err(Error::usage_hint(
                    format!("`{other}` is not for `gptpipe {name}`"),
                    format!(
                        "it takes {} and `{}`; as a prompt, `{name}` goes after `--`",
                        taken.join(", "),
                        EVERYWHERE[1]
                    ),
                ))
            }
        }
    }

    /// The command as it is typed: `cache [stats | prune | clear]`.
    #[must_use]
    pub fn spelling(&self) -> String {
        let words: Vec<&str> = self.words.iter().map(|(word, _)| *word).collect();
        let words = match (words.is_empty(), self.needs_word) {
            (true, _) => String::new(),
            (_, true) => format!(" {}", words.join(" | ")),
            (_, false) => format!(" [{}]", words.join(" | ")),
        };
        let operand = match self.operand {
            Operand::Nothing => "",
            Operand::Profile => " [PROFILE]",
            Operand::Files => " [FILE...]",
            Operand::OfLast(name) => {
                return format!("{}{} {name}]", self.name, words.trim_end_matches(']'));
            }
        };
        let options = match self.options {
            Options::Own { .. } => " [OPTIONS]",
            Options::OfRun(_) => "",
        };
        format!("{}{options}{words}{operand}", self.name)
    }

    /// The one word that was typed after the command, or else the one that is meant.
    ///
    /// # Errors
    /// [`Error::Usage`] for a word that does not follow it, for more than one, and for none where
    /// one has to follow.
    pub fn word<'a>(&self, operands: &'a [OsString]) -> Result<&'a str, Error> {
        self.word_of(operands, &[])
    }

    /// As [`Command::word`], with words that are taken though help does not tell of them.
    ///
    /// # Errors
    /// The same.
    pub fn word_of<'a>(
        &self,
        operands: &'a [OsString],
        hidden: &[&'static str],
    ) -> Result<&'a str, Error> {
        let name = self.name;
        let hint = format!("as a prompt, `{name}` goes after `--`, as in `gptpipe -- {name} FILE`");
        let known: Vec<&'static str> = self.words.iter().map(|(word, _)| *word).collect();
        let takes = match known[..] {
            [] => "no operand".to_owned(),
            [only] => only.to_owned(),
            [ref rest @ .., last] => format!("{} or {last}", rest.join(", ")),
        };
        // What is no plain word may be a key, so it is not repeated.
        let quoted = |operand: &OsString| {
            let operand = operand.to_string_lossy();
            let is_word = |c: char| c.is_ascii_lowercase() || matches!(c, '-' | '.');
            (operand.len() <= 20 && operand.chars().all(is_word) && !known.is_empty())
                .then(|| format!("`{operand}`"))
        };
        match operands {
            [] if self.needs_word => Err(Error::usage_hint(
                format!("`gptpipe {name}` needs a word: {takes}"),
                hint,
            )),
            [] => Ok(known.first().copied().unwrap_or_default()),
            [first] => known
                .iter()
                .chain(hidden)
                .find(|word| first == OsStr::new(word))
                .copied()
                .ok_or_else(|| {
                    let not = quoted(first).map(|word| format!(", not {word}"));
                    Error::usage_hint(
                        format!("`gptpipe {name}` takes {takes}{}", not.unwrap_or_default()),
                        hint,
                    )
                }),
            [..] if known.is_empty() => Err(Error::usage_hint(
                format!("`gptpipe {name}` takes {takes}"),
                hint,
            )),
            [_, second, ..] => {
                let more = quoted(second).map(|word| format!(", and {word} is more than that"));
                Err(Error::usage_hint(
                    format!(
                        "`gptpipe {name}` takes one word{}",
                        more.unwrap_or_default()
                    ),
                    format!("it takes {takes}; {hint}"),
                ))
            }
        }
    }
}

/// The command of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_a_reserved_word() {
        for command in COMMANDS {
            assert!(RESERVED.contains(&command.name), "{}", command.name);
            assert!(!command.needs_word || !command.words.is_empty());
        }
    }

    #[test]
    fn is_spelled_as_it_is_typed() {
        let spelling = |name| find(name).map(Command::spelling);
        assert_eq!(
            spelling("cache").as_deref(),
            Some("cache [stats | prune | clear]")
        );
        assert_eq!(
            spelling("batch").as_deref(),
            Some("batch [list | cancel ID]")
        );
        assert_eq!(
            spelling("completions").as_deref(),
            Some("completions bash | zsh | fish")
        );
    }
}
