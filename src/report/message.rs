//! Messages on standard error, one form for all: `gptpipe: error: …`, and under
//! it `hint: …`.
//!
//! A message can quote a server, a file or a command, so keys are taken out and
//! control characters are made visible here, in the one place where messages
//! are written.

use std::io::{self, Write as _};

use crate::error::Error;
use crate::output::terminal::visible;
use crate::report::progress::Curtain;
use crate::secret::redact::{Words, redact};

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

    /// How far a long wait is.
    pub fn tell(&self, text: &str) {
        if !self.is_quiet {
            self.curtain.suspend(|| print("", text));
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
            let mut all = format!("gptpipe: {}\n", fit(text));
            for line in lines {
                all.push_str("  ");
                all.push_str(&fit(line));
                all.push('\n');
            }
            if let Some(hint) = hint {
                all += &hint_line(hint);
            }
            write(&all);
        });
    }
}

/// Something is not as it should be with what a command did.
pub fn warning(text: &str) {
    print("warning: ", text);
}

/// The program itself is wrong.
pub fn panic(what: &str, place: &str) {
    write(&panic_lines(what, place));
}

fn panic_lines(what: &str, place: &str) -> String {
    format!(
        "gptpipe: error: the program panicked at {}: {}\nhint: this is a fault of gptpipe; please report it\n",
        fit(place),
        fit(what)
    )
}

/// The text as it may be shown.
fn fit(text: &str) -> String {
    visible(&redact(text, Words::Own)).into_owned()
}

/// Tells what a command has done or waits for; it is told also with `-q`.
pub fn tell(text: &str) {
    print("", text);
}

/// Writes a line that is there to be copied, with nothing before it.
pub fn plain(text: &str) {
    write(&format!("{}\n", fit(text)));
}

/// Something to know, where no run goes on.
pub fn note(text: &str) {
    print("", text);
}

fn hint_line(hint: &str) -> String {
    format!("hint: {}\n", fit(hint))
}

/// Tells the error that ended the run. A reader that left is told nothing.
pub fn error(error: &Error) {
    if matches!(error, Error::ReaderLeft) {
        return;
    }
    let prefix = if matches!(error, Error::Interrupted { .. } | Error::Left { .. }) {
        ""
    } else {
        "error: "
    };
    let message = error.to_string();
    let mut lines = format!("gptpipe: {prefix}{}\n", fit(&message));
    if let Some(hint) = error.hint() {
        lines += &hint_line(&hint);
    }
    write(&lines);
}

/// One line in one write, so that lines of several processes stay whole. Where standard error cannot
/// be written, there is nobody to tell.
fn print(prefix: &str, text: &str) {
    write(&format!("gptpipe: {prefix}{}\n", fit(text)));
}

fn write(lines: &str) {
    let _ = io::stderr().write_all(lines.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::secret::Secret;

    #[test]
    fn nothing_that_is_shown_has_a_key_in_it() {
        let _in_use = Secret::new("hidden-in-use".to_owned());
        let text = "\u{1b}[2J called with \"hidden-\nin-use\" and sk-proj-0123456789abcdefgh";
        for shown in [fit(text), hint_line(text), panic_lines(text, "a.rs:1")] {
            assert!(
                !shown.contains("in-use") && !shown.contains("0123"),
                "{shown}"
            );
            assert!(shown.contains("^[[2J called with"), "{shown}");
        }
    }
}
