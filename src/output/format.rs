//! How replies are put together into one text.
//!
//! Pure: gaps and replies go in, in order, and the text to write comes out. A
//! reply may come in pieces. Its outer white space is left out, because the
//! source's own is put back.

use std::borrow::Cow;

use crate::output::fence::unfenced;
use crate::output::record::Record;
use crate::output::terminal::visible;
use crate::output::trim::Trim;

/// What a reply is written as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// Its text.
    Text,
    /// A line of JSON with all that is known about it.
    Jsonl,
}

/// What stands between replies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Join {
    /// The white space that stood between the chunks.
    Source,
    /// A line end after each reply.
    Line,
    /// An empty line between replies.
    Blank,
}

/// How replies are written.
#[derive(Clone, Copy, Debug)]
pub struct FormatOptions {
    /// What a reply is written as.
    pub format: Format,
    /// Whether only the inside of a reply's code fence is wanted.
    pub unfences: bool,
    /// What stands between replies.
    pub join: Join,
    /// Whether a reply has to stay on one line: its line ends become spaces.
    pub is_one_line: bool,
    /// Whether the text goes to a terminal.
    pub is_terminal: bool,
}

/// Puts replies together.
#[derive(Debug)]
pub struct Formatter {
    options: FormatOptions,
    /// What has come of the current reply.
    reply: Trim,
    /// Whether a reply has been written at all.
    has_written: bool,
    ends_line: bool,
}

impl Formatter {
    /// A formatter at the beginning of the output.
    #[must_use]
    pub fn new(options: FormatOptions) -> Self {
        Self {
            options,
            reply: Trim::default(),
            has_written: false,
            ends_line: true,
        }
    }

    /// Whether replies are written as lines of JSON, by [`Formatter::record`].
    #[must_use]
    pub fn is_jsonl(&self) -> bool {
        self.options.format == Format::Jsonl
    }

    /// The white space that stood in the source before a chunk or at the end.
    pub fn gap(&mut self, gap: &str, out: &mut String) {
        if self.options.join == Join::Source && !self.is_jsonl() {
            self.write(gap, out);
        }
    }

    /// A chunk and what became of it, as a line of JSON; the text that goes into it.
    pub fn record(&mut self, mut record: Record<'_>, out: &mut String) {
        if let Some(Cow::Borrowed(text)) = record.text {
            record.text = Some(self.inside(text.trim()));
        }
        let mut line = String::new();
        record.write(&mut line);
        self.write(&line, out);
    }

    /// The current reply, all of it.
    pub fn whole(&mut self, reply: &str, out: &mut String) {
        self.text(&self.inside(reply), out);
    }

    /// What is wanted of a reply.
    fn inside<'t>(&self, reply: &'t str) -> Cow<'t, str> {
        if self.options.unfences {
            unfenced(reply)
        } else {
            Cow::Borrowed(reply)
        }
    }

    /// A piece of the current reply.
    pub fn text(&mut self, piece: &str, out: &mut String) {
        let had_begun = self.reply.has_begun();
        let text = self.reply.push(piece);
        if !had_begun && self.reply.has_begun() {
            if self.options.join == Join::Blank && self.has_written {
                self.write("\n", out);
            }
            self.has_written = true;
        }
        if self.options.is_one_line && text.contains('\n') {
            let line = text.replace("\r\n", " ").replace('\n', " ");
            self.write(&line, out);
        } else {
            self.write(&text, out);
        }
    }

    /// What was shown of the current reply does not count: it comes anew, on a line of its own.
    pub fn restart(&mut self, out: &mut String) {
        self.reply = Trim::default();
        if !self.ends_line {
            self.write("\n", out);
        }
    }

    /// The end of the current reply.
    pub fn end(&mut self, out: &mut String) {
        let had_text = std::mem::take(&mut self.reply).has_begun();
        let wants_line_end = match self.options.join {
            Join::Source => false,
            Join::Line => true,
            Join::Blank => had_text,
        };
        if wants_line_end {
            self.write("\n", out);
        }
    }

    /// The beginning of another output.
    pub fn begin_anew(&mut self) {
        *self = Self::new(self.options);
    }

    /// The end of the output: a terminal's prompt goes on a line of its own.
    pub fn finish(&mut self, out: &mut String) {
        if self.options.is_terminal && !self.ends_line {
            self.write("\n", out);
        }
    }

    /// Whether what was written ends with a line end.
    #[must_use]
    pub fn ends_line(&self) -> bool {
        self.ends_line
    }

    fn write(&mut self, text: &str, out: &mut String) {
        if text.is_empty() {
            return;
        }
        if self.options.is_terminal {
            out.push_str(&visible(text));
        } else {
            out.push_str(text);
        }
        self.ends_line = text.ends_with('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(options: FormatOptions, replies: &[(&str, &[&str])], tail: &str) -> String {
        let mut formatter = Formatter::new(options);
        let mut out = String::new();
        for (gap, pieces) in replies {
            formatter.gap(gap, &mut out);
            for piece in *pieces {
                formatter.text(piece, &mut out);
            }
            formatter.end(&mut out);
        }
        formatter.gap(tail, &mut out);
        formatter.finish(&mut out);
        out
    }

    const PIPE: FormatOptions = FormatOptions {
        format: Format::Text,
        unfences: false,
        join: Join::Source,
        is_one_line: false,
        is_terminal: false,
    };

    #[test]
    fn puts_the_white_space_of_the_source_back() {
        let replies: &[(&str, &[&str])] = &[
            ("", &["One.", " Two.\n"]),
            ("\n\n", &["\n", " Three", "\n\n", "four. \n"]),
        ];
        assert_eq!(format(PIPE, replies, "\n"), "One. Two.\n\nThree\n\nfour.\n");
        let line = FormatOptions {
            join: Join::Line,
            ..PIPE
        };
        assert_eq!(format(line, replies, "\n"), "One. Two.\nThree\n\nfour.\n");
        let blank = FormatOptions {
            join: Join::Blank,
            ..PIPE
        };
        assert_eq!(
            format(blank, replies, "\n"),
            "One. Two.\n\nThree\n\nfour.\n"
        );
    }

    #[test]
    fn a_record_stays_one_line() {
        let options = FormatOptions {
            is_one_line: true,
            ..PIPE
        };
        let replies: &[(&str, &[&str])] = &[("", &["a\r", "\nb\n\nc\n"]), ("\n", &["d\re"])];
        assert_eq!(format(options, replies, "\n"), "a b  c\nd\re\n");
    }

    #[test]
    fn a_terminal_gets_its_last_line_end_and_no_control_characters() {
        let options = FormatOptions {
            is_terminal: true,
            ..PIPE
        };
        assert_eq!(format(options, &[("", &["\u{1b}[1mx"])], ""), "^[[1mx\n");
        assert_eq!(format(options, &[("", &["x"])], "\n"), "x\n");
        assert_eq!(format(PIPE, &[("", &["\u{1b}[1mx"])], ""), "\u{1b}[1mx");
    }

    #[test]
    fn pieces_do_not_matter() {
        let reply = " \n a  b\r\n\tc\n\n\u{3000}d \n";
        let pieces: Vec<String> = reply.chars().map(String::from).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        for is_one_line in [false, true] {
            let options = FormatOptions {
                is_one_line,
                ..PIPE
            };
            assert_eq!(
                format(options, &[("", &pieces)], ""),
                format(options, &[("", &[reply])], "")
            );
        }
    }
}
