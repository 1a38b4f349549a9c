//! Messages on standard error, one form for all: `gptpipe: error: …`, and under
//! it `hint: …`.
//!
//! A message can quote a server, so control characters are made visible here,
//! in the one place where messages are written.

use std::io::{self, Write as _};

use crate::error::Error;
use crate::output::terminal::visible;
use crate::report::progress::Progress;

/// Where messages go, with the progress line out of their way.
#[derive(Debug)]
pub struct Reporter {
    /// The line that people watch.
    pub progress: Progress,
    /// Warnings are left out.
    pub is_quiet: bool,
    /// Notes are written.
    pub is_verbose: bool,
}

impl Reporter {
    /// Something is not as it should be, and the run goes on.
    pub fn warning(&self, text: &str) {
        if !self.is_quiet {
            self.progress.suspend(|| print("warning: ", text));
        }
    }

    /// Something that `-v` asks to be told.
    pub fn note(&self, text: &str) {
        if self.is_verbose {
            self.progress.suspend(|| print("", text));
        }
    }
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
    print(prefix, &error.to_string());
    if let Some(hint) = error.hint() {
        let _ = writeln!(io::stderr(), "hint: {}", visible(&hint));
    }
}

/// One line; where standard error cannot be written, there is nobody to tell.
fn print(prefix: &str, text: &str) {
    let _ = writeln!(io::stderr(), "gptpipe: {prefix}{}", visible(text));
}
