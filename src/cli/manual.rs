//! The flag table as text to read: `--help`.
//!
//! Names, values and descriptions come from argh's table; only the order and
//! the headings are here, and a test holds that they name every option once.

use std::fmt::Write as _;

use argh::{ArgsInfo, FlagInfo, FlagInfoKind};

use crate::cli::args::Cli;
use crate::cli::commands::{COMMANDS, Command, Options};

/// The headings of the options, each with its options in their order.
pub const GROUPS: [(&str, &[&str]); 7] = [
    (
        "Prompt",
        &["--prompt-file", "--null-input", "--reduce", "--system"],
    ),
    (
        "Whom to ask",
        &[
            "--profile",
            "--model",
            "--base-url",
            "--api",
            "--param",
            "--max-output-tokens",
            "--no-check",
            "--revoke",
            "--demo",
        ],
    ),
    (
        "Where to cut",
        &["--chunk-tokens", "--by", "--context", "--flush-after"],
    ),
    (
        "How to run",
        &[
            "--jobs",
            "--rate",
            "--token-rate",
            "--retries",
            "--timeout",
            "--on-error",
            "--max-cost",
            "--max-tokens",
            "--batch",
            "--in-place",
            "--backup",
            "--dry-run",
        ],
    ),
    (
        "What is remembered",
        &[
            "--no-cache",
            "--refresh",
            "--cache-only",
            "--cache-ttl",
            "--cache",
        ],
    ),
    ("What is recorded", &["--log", "--metrics"]),
    (
        "What to show",
        &[
            "--format",
            "--schema",
            "--unfence",
            "--join",
            "--live",
            "--whole",
            "--progress",
            "--quiet",
            "--verbose",
            "--help",
            "--version",
        ],
    ),
];

/// The exit statuses, in the words of help, man page and README.
pub const EXIT_STATUSES: [(&str, &str); 11] = [
    ("0", "all replies were written"),
    ("1", "finished, but a chunk failed, was cut or was left out"),
    ("2", "usage or configuration is wrong; nothing was sent"),
    ("65", "the input is not UTF-8 text"),
    ("66", "a FILE cannot be read"),
    ("69", "a chunk failed for good"),
    ("74", "writing failed"),
    ("75", "a passing fault (limits, outage): run again"),
    ("130, 143", "interrupted by Ctrl-C or SIGTERM"),
    ("141", "the reader left (killed by SIGPIPE, quietly)"),
    (
        "255",
        "every further job would fail too: xargs stops by itself",
    ),
];

/// What `--help` does; argh declares that option itself.
pub const HELP: &str = "print this help";

/// The width of the column that option names stand in.
const NAME_COLUMN: usize = 30;

/// The text of `--help`.
#[must_use]
pub fn help() -> String {
    let info = Cli::get_args_info();
    let mut text = String::from(
        "gptpipe: put a language model into a pipeline\n\
         \n\
         Usage: gptpipe [OPTIONS] PROMPT [FILE...]\n\
         \x20      gptpipe COMMAND\n\
         \n\
         Reads FILEs or standard input (`-`), cuts the text into chunks at sentence ends,\n\
         asks the model about several chunks at a time, and writes the replies in order.\n\
         \n\
         Examples:\n  \
           gptpipe --demo summarize report.txt\n  \
           git diff | gptpipe 'review this change' | less\n  \
           grep -rl FIXME src | xargs -P8 -n1 gptpipe 'what is to be fixed here?'\n",
    );
    for (heading, names) in GROUPS {
        let _ = write!(text, "\n{heading}:\n");
        for name in names {
            if *name == "--help" {
                // argh declares it by itself, and without the short name.
                write_option(&mut text, "-h, --help", HELP);
            } else if let Some(flag) = info.flags.iter().find(|flag| flag.long == *name) {
                write_option(&mut text, &spelling(flag), flag.description);
            }
        }
    }
    text.push_str("\nCommands, only as the first word; `gptpipe -- cache` is a prompt:\n");
    for command in COMMANDS {
        write_option(&mut text, &command.spelling(), command.about);
        for flag in own_options(command) {
            // Deeper than the commands, and without the room of a short name.
            let spelling = format!("  {}", spelling(flag).trim_start());
            write_option(&mut text, &spelling, flag.description);
        }
    }
    text.push_str(
        "\nThe key comes from GPTPIPE_API_KEY, the provider's own variable, such as\n\
         OPENAI_API_KEY, the profile's key-command, or the system's keyring, where\n\
         `gptpipe setup` puts it. Exit statuses:\n",
    );
    for (status, meaning) in EXIT_STATUSES {
        let _ = writeln!(text, "  {status:<10}{meaning}");
    }
    text
}

/// The help of a command that has options of its own.
#[must_use]
pub fn help_with(command: &Command) -> String {
    let name = command.name;
    let mut text = format!(
        "gptpipe {name}: {}\n\nUsage: gptpipe {}\n\nOptions:\n",
        command.about,
        command.spelling()
    );
    for flag in own_options(command) {
        write_option(&mut text, &spelling(flag), flag.description);
    }
    write_option(&mut text, "-h, --help", HELP);
    let _ = writeln!(text, "\n`gptpipe -- {name}` is a prompt.");
    text
}

/// The options that are a command's own, but for `--help`.
pub fn own_options(command: &Command) -> impl Iterator<Item = &'static FlagInfo<'static>> {
    let flags = match command.options {
        Options::Own { flags, .. } => flags(),
        Options::OfRun(_) => &[],
    };
    flags.iter().filter(|flag| flag.long != "--help")
}

/// An option as it is typed: short and long name, and its value's name.
#[must_use]
pub fn spelling(flag: &FlagInfo<'_>) -> String {
    let mut text = match flag.short {
        Some(short) => format!("-{short}, {}", flag.long),
        None => format!("    {}", flag.long),
    };
    if let FlagInfoKind::Option { arg_name } = flag.kind {
        let _ = write!(text, " {arg_name}");
    }
    text
}

fn write_option(text: &mut String, spelling: &str, description: &str) {
    if spelling.len() + 2 > NAME_COLUMN {
        let _ = writeln!(text, "  {spelling}\n{:NAME_COLUMN$}  {description}", "");
    } else {
        let _ = writeln!(text, "  {spelling:<NAME_COLUMN$}{description}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_stands_in_one_group() {
        let mut grouped: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        let mut declared: Vec<&str> = Cli::get_args_info().flags.iter().map(|f| f.long).collect();
        if !declared.contains(&"--help") {
            declared.push("--help");
        }
        grouped.sort_unstable();
        declared.sort_unstable();
        assert_eq!(grouped, declared);
    }

    #[test]
    fn help_fits_a_terminal_and_names_everything() {
        let help = help();
        for line in help.lines() {
            assert!(line.chars().count() <= 90, "too long: {line}");
        }
        for (_, names) in GROUPS {
            for name in names {
                assert!(help.contains(name), "{name} is missing");
            }
        }
    }
}
