//! Messages on standard error, one form for all: `gptpipe: error: …`, and under
//! it `hint: …`.
//!
//! A message can quote a server, so control characters are made visible here,
//! in the one place where messages are written.

use std::io::{self, Write as _};

use crate::error::Error;
use crate::output::terminal::visible;
use crate::report::progress::Curtain;

/// Writes messages while a run goes on, with the progress line out of their way.
#[derive(Clone, Debug)]
pub struct Messages {
    /// Lifts the line that people watch.
    pub curtain: Curtain,
    /// Warnings are left out.
    pub is_quiet: bool,
    /// Notes are written.
    pub is_verbose: bool,
}

impl Messages {
    /// Something is not as it should be, and the run goes on.
    pub fn warning(&self, text: &str) {
        if !self.is_quiet {
            self.curtain.suspend(|| print("warning: ", text));
        }
    }

    /// Something that `-v` asks to be told.
    pub fn note(&self, text: &str) {
        if self.is_verbose {
            self.curtain.suspend(|| print("", text));
        }
    }

    /// What failed in a run that went on to its end: a sentence, a line for each chunk, and what
    /// can be done. It is told also with `-q`, as errors are.
    pub fn summary(&self, text: &str, lines: &[String], hint: Option<&str>) {
        self.curtain.suspend(|| {
            let mut all = format!("gptpipe: {}\n", visible(text));
            for line in lines {
                all.push_str("  ");
                all.push_str(&visible(line));
                all.push('\n');
            }
            if let Some(hint) = hint {
                all += &hint_line(hint);
            }
            write(&all);
        });
    }
}

fn hint_line(hint: &str) -> String {
    format!("hint: {}\n", visible(hint))
}

/// Tells the error that ended the run. A reader that left is told nothing.
pub fn error(error: &Error) {
    if matches!(error, Error::ReaderLeft) {
        return;
    }
    let prefix = if matches!(error, Error::Interrupted { .. }) {
        ""
    } else {
        "error: "
    };
    let message = error.to_string();
    let mut lines = format!("gptpipe: {prefix}{}\n", visible(&message));
    if let Some(hint) = error.hint() {
        lines += &hint_line(&hint);
    }
    write(&lines);
}

/// One line in one write, so that lines of several processes stay whole. Where standard error cannot
/// be written, there is nobody to tell.
fn print(prefix: &str, text: &str) {
    write(&format!("gptpipe: {prefix}{}\n", visible(text)));
}

fn write(lines: &str) {
    let _ = io::stderr().write_all(lines.as_bytes());
}
