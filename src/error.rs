//! What ends a run, and the exit status that tells it.
//!
//! Every message follows one form: lower case, what was wrong with which
//! thing, and, apart from it, a hint that can be acted on. What went wrong with
//! one request is a [`Failure`](crate::api::failure::Failure) and becomes an
//! error only when the run cannot go on.

use std::error;
use std::fmt;
use std::io;

/// How the process ends, in the numbers of `sysexits.h`, `xargs` and the shell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExitStatus {
    /// All replies were written.
    Success,
    /// The command line or the configuration is wrong; nothing was sent.
    Usage,
    /// The input is not UTF-8 text.
    NotText,
    /// A file cannot be read.
    NoInput,
    /// A chunk failed for good.
    Failed,
    /// Writing failed.
    Output,
    /// A passing fault; running again can help.
    Temporary,
    /// A signal ended the work; the number of the signal.
    Signal(i32),
    /// Every further job would fail too; `xargs` stops at this one by itself.
    Hopeless,
    /// Finished, but a reply was cut.
    Incomplete,
}

impl ExitStatus {
    /// The number that the shell sees.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Incomplete => 1,
            Self::Usage => 2,
            Self::NotText => 65,
            Self::NoInput => 66,
            Self::Failed => 69,
            Self::Output => 74,
            Self::Temporary => 75,
            // The shell's own arithmetic for a child that died of a signal.
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(255),
            Self::Hopeless => 255,
        }
    }
}

/// Why a run ended before its work was done.
#[derive(Debug)]
pub enum Error {
    /// The command line or the configuration is wrong.
    Usage {
        /// What is wrong with which thing.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A file could not be opened or read.
    NoInput {
        /// The file as the user named it.
        file: String,
        /// What the system said.
        source: io::Error,
        /// What was to come from it.
        role: Role,
    },
    /// The input is not UTF-8 text.
    NotText {
        /// The file as the user named it.
        file: String,
        /// Byte offset of the first wrong byte, from 0.
        offset: u64,
        /// Its line, from 1.
        line: u64,
        /// What it looks like instead.
        looks: Looks,
    },
    /// A request failed, and with it the run.
    Request {
        /// How the run ends.
        status: ExitStatus,
        /// Which chunk, and why.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// Standard output could not be written.
    Output(io::Error),
    /// A file could not be replaced, and is as it was.
    Replace {
        /// The file as the user named it.
        file: String,
        /// What the system said.
        why: String,
    },
    /// The reader of standard output left; not an error to tell anyone.
    ReaderLeft,
    /// A signal asked for the end.
    Interrupted {
        /// The signal's number.
        signal: i32,
        /// What is already on standard output.
        written: String,
        /// Whether running again goes on from there.
        is_remembered: bool,
    },
    /// A signal asked for the end while a job goes on elsewhere.
    Left {
        /// The signal's number.
        signal: i32,
        /// What goes on.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// The system refused something that every run needs.
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// What a file is read for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// The text.
    Text,
    /// The prompt.
    Prompt,
    /// The schema of replies.
    Schema,
}

/// What input that is not UTF-8 text looks like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Looks {
    /// It has a NUL, the mark of a binary file.
    Binary,
    /// It begins with the mark of UTF-16.
    Utf16,
    /// Text in another encoding, or anything else.
    Other,
}

impl Error {
    /// A usage error without a hint.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: None,
        }
    }

    /// A usage error with a hint.
    pub fn usage_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: Some(hint.into()),
        }
    }

    /// The same, with a word about what running again does: what was answered is remembered.
    #[must_use]
    pub fn with_rest(self) -> Self {
        const REST: &str = "running again sends only what is missing";
        match self {
            Self::Request {
                status,
                message,
                hint,
            } => Self::Request {
                status,
                message,
                hint: Some(hint.map_or(REST.to_owned(), |hint| format!("{hint}; {REST}"))),
            },
            other => other,
        }
    }

    /// The exit status that this error ends the process with.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        match self {
            Self::Usage { .. } => ExitStatus::Usage,
            Self::NoInput { .. } => ExitStatus::NoInput,
            Self::NotText { .. } => ExitStatus::NotText,
            Self::Request { status, .. } => *status,
            Self::Output(_) | Self::Replace { .. } => ExitStatus::Output,
            Self::ReaderLeft => ExitStatus::Signal(SIGPIPE),
            Self::Interrupted { signal, .. } | Self::Left { signal, .. } => {
                ExitStatus::Signal(*signal)
            }
            Self::System { .. } => ExitStatus::Temporary,
        }
    }

    /// What the user can do, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. } | Self::Request { hint, .. } => hint.clone(),
            Self::Left { hint, .. } => Some(hint.clone()),
            Self::NotText { looks, .. } => Some(match looks {
                Looks::Binary => {
                    "a NUL byte is the mark of a binary file; only text can be sent".to_owned()
                }
                Looks::Utf16 => "it is UTF-16, as Windows writes it: convert it first, with \
                                 `iconv -f UTF-16 -t UTF-8`"
                    .to_owned(),
                Looks::Other => "if it is text, convert it first, for example with \
                                 `iconv -f latin1 -t UTF-8`"
                    .to_owned(),
            }),
            Self::Output(source) if source.kind() == io::ErrorKind::StorageFull => {
                Some("make room on the disk and run again".to_owned())
            }
            Self::NoInput { role, source, file } => match (source.kind(), role) {
                (io::ErrorKind::NotFound, Role::Text) => Some(
                    "the first operand is the prompt, the others are files; nothing was sent"
                        .to_owned(),
                ),
                (io::ErrorKind::NotFound, Role::Prompt) => Some(
                    "`-f` takes a file; a prompt that is typed goes without it, before the files"
                        .to_owned(),
                ),
                (io::ErrorKind::NotFound, Role::Schema) => {
                    Some("`--schema` takes a file with a JSON Schema".to_owned())
                }
                (io::ErrorKind::IsADirectory, Role::Text) => Some(format!(
                    "name the files in it, as in `{}/*`",
                    file.trim_end_matches('/')
                )),
                _ => None,
            },
            Self::Interrupted {
                is_remembered: true,
                ..
            } => Some("whole replies are remembered: run again to go on from here".to_owned()),
            Self::Output(_)
            | Self::Replace { .. }
            | Self::ReaderLeft
            | Self::Interrupted { .. }
            | Self::System { .. } => None,
        }
    }
}

/// The signal that a writer gets when nobody reads any more (POSIX).
pub const SIGPIPE: i32 = 13;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage { message, .. } | Self::Request { message, .. } => f.write_str(message),
            Self::NoInput { file, source, .. } => {
                write!(f, "cannot read `{file}`: {}", reason(source))
            }
            Self::NotText {
                file,
                offset,
                line,
                looks,
            } => {
                let what = match looks {
                    Looks::Binary => "binary data",
                    Looks::Utf16 | Looks::Other => "not UTF-8 text",
                };
                write!(f, "{file} is {what}: byte {offset}, line {line}")
            }
            Self::Output(source) => {
                write!(f, "cannot write to standard output: {}", reason(source))
            }
            Self::Replace { file, why } => {
                write!(f, "cannot replace `{file}`, which is as it was: {why}")
            }
            Self::ReaderLeft => f.write_str("the reader of standard output left"),
            Self::Interrupted { written, .. } => write!(f, "interrupted: {written}"),
            Self::Left { what, .. } => write!(f, "interrupted: {what}"),
            Self::System { what, source } => write!(f, "cannot {what}: {}", reason(source)),
        }
    }
}

impl error::Error for Error {}

/// The system's words for an error, in lower case and without its number.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}
