//! What a run notes of its requests, the moment that it happens: one file for
//! each process, to which lines are only ever added.
//!
//! A line is one `write`, a few microseconds into the system's memory, so that it
//! can be done before a request leaves without anybody waiting; it outlives the
//! process however that ends. The file is locked while its writer lives. Whoever
//! looks at the ledger takes the lines over into the database (`fold`).

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How a journal's name ends.
pub(super) const SUFFIX: &str = ".journal";

/// How it ends if its run counts against the budgets what it spends.
const COUNTED: &str = "-counted.journal";

/// What all requests of a run have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The run's own name.
    pub name: String,
    /// Microseconds since 1970.
    pub time: i64,
    /// Whom it asks: host and port.
    pub host: String,
    /// The profile.
    pub profile: String,
    /// The model that is asked for.
    pub model: String,
    /// What tells the key from others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether it counts against the user's budgets what it spends; what others spent is counted
    /// when their journal, whose name tells, is taken over.
    #[serde(skip)]
    pub is_counted: bool,
}

/// An attempt at a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its number in the run.
    pub number: u64,
    /// Microseconds since 1970.
    pub time: i64,
    /// The beginning of the chunk's digest.
    pub chunk: String,
    /// Which attempt at the chunk it is, from 1.
    pub attempt: u32,
    /// Whether it left: there was a connection that took it.
    pub is_sent: bool,
}

/// How an attempt ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its number in the run.
    pub number: u64,
    /// `ok`, or in one word what went wrong.
    pub outcome: String,
    /// Microseconds from the beginning of the attempt to its end.
    pub latency: i64,
    /// The HTTP status, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Tokens of the prompt, where the server counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_in: Option<u64>,
    /// Tokens of the reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_out: Option<u64>,
    /// Those of the prompt that came out of the server's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_cached: Option<u64>,
    /// Billionths of a US dollar, where price and tokens are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<i64>,
    /// The server's name for the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// Replies that were remembered and so not asked for, and what they would have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hits {
    /// How many.
    pub count: u64,
    /// Tokens of their prompts.
    pub tokens_in: u64,
    /// Tokens of the replies.
    pub tokens_out: u64,
    /// What they would have cost, in billionths of a US dollar; none where the price is not known.
    pub saved: Option<i64>,
}

/// A line of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The first.
    Run(Run),
    /// A request leaves.
    Start(Started),
    /// It is over.
    End(Ended),
    /// What was remembered; the last line.
    Hits(Hits),
}

impl Line {
    /// The line as it is written.
    #[must_use]
    pub fn text(&self) -> String {
        // Nothing in it can fail to be written: strings and numbers only.
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads one; a line that was cut off is none.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// A journal that is written.
#[derive(Debug)]
pub struct Journal {
    file: File,
    is_torn: bool,
    bytes: u64,
}

impl Journal {
    /// Begins one in the folder, which is made if need be.
    ///
    /// # Errors
    /// The system's.
    pub fn create(folder: &Path, run: &Run) -> io::Result<Self> {
        let suffix = if run.is_counted { COUNTED } else { SUFFIX };
        let path = folder.join(format!("{:016x}-{}{suffix}", run.time, run.name));
        loop {
            let file = match open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    super::file::make_private_folder(folder)?;
                    open(&path)?
                }
                opened => opened?,
            };
            // Where a file system has no locks, the journal's age tells that its writer is gone.
            let _ = file.lock();
            // Whoever folds may have found it before it was locked, and taken it away as empty.
            if is_linked(&file)? {
                let mut journal = Self {
                    file,
                    is_torn: false,
                    bytes: 0,
                };
                journal.append(&Line::Run(run.clone()).text())?;
                return Ok(journal);
            }
        }
    }

    /// Adds lines, in one write.
    ///
    /// # Errors
    /// The system's; part of a line may be there, and what comes next begins on a line of its own.
    pub fn append(&mut self, lines: &str) -> io::Result<()> {
        let written = if self.is_torn {
            self.file.write_all(format!("\n{lines}").as_bytes())
        } else {
            self.file.write_all(lines.as_bytes())
        };
        self.is_torn = written.is_err();
        self.bytes += lines.len() as u64;
        written
    }

    /// Bytes that were added.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.append(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    // Windows locks no file that can only be added to.
    #[cfg(windows)]
    options.read(true);
    options.open(path)
}

#[cfg(unix)]
fn is_linked(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(file.metadata()?.nlink() > 0)
}

#[cfg(not(unix))]
fn is_linked(_: &File) -> io::Result<bool> {
    Ok(true)
}

/// Whether what a journal has was counted against the budgets by its own run.
pub(super) fn is_counted(path: &Path) -> bool {
    path.to_string_lossy().ends_with(COUNTED)
}

/// The journals in a folder, oldest first.
///
/// # Errors
/// The system's; a folder that is not there has none.
pub fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(SUFFIX) {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written_and_half_a_line_is_none() {
        let lines = [
            Line::Run(Run {
                model: "a \"model\"\n".to_owned(),
                ..Run::default()
            }),
            Line::Start(Started {
                number: 3,
                attempt: 1,
                is_sent: true,
                ..Started::default()
            }),
            Line::End(Ended {
                outcome: "ok".to_owned(),
                cost: Some(-1),
                ..Ended::default()
            }),
            Line::Hits(Hits::default()),
        ];
        for line in lines {
            let text = line.text();
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            assert_eq!(Line::read(text.as_bytes()), Some(line));
            assert_eq!(Line::read(&text.as_bytes()[..text.len() / 2]), None);
        }
    }
}
