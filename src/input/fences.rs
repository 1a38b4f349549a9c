//! Fenced code: which lines of a text are inside it, learnt as the text goes by.

use memchr::memchr;

/// So much of a line is looked at to tell what it is.
const LINE_START: usize = 128;

/// What is known of a line with regard to fenced code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fence {
    #[default]
    Outside,
    Inside {
        marker: u8,
        length: usize,
    },
    /// The line that ends the code.
    Closing,
}

impl Fence {
    pub(super) fn enter(self, line: &[u8]) -> Self {
        let indent = line
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t'))
            .count();
        let line = line.get(indent..).unwrap_or_default();
        let first = line.first().copied().unwrap_or_default();
        let run = match first {
            b'`' | b'~' => line.iter().take_while(|&&byte| byte == first).count(),
            _ => 0,
        };
        let rest = line.get(run..).unwrap_or_default();
        match self {
            Self::Inside { marker, length } => {
                if first == marker && run >= length && rest.trim_ascii().is_empty() {
                    Self::Closing
                } else {
                    self
                }
            }
            _ if run >= 3 && !(first == b'`' && rest.contains(&b'`')) => Self::Inside {
                marker: first,
                length: run,
            },
            _ => Self::Outside,
        }
    }
}

/// Which lines of a text are inside fenced code, learnt as the text goes by.
#[derive(Debug, Default)]
pub struct Fences {
    /// Up to where the text was looked at.
    at: usize,
    /// Whether the line that `at` is on was judged.
    is_judged: bool,
    fence: Fence,
    /// From which line on which state holds.
    changes: Vec<(usize, Fence)>,
}

impl Fences {
    /// Looks at all lines of `text` that start up to `upto`. For a verdict that does not depend on how
    /// much has come, [`LOOK_AHEAD`](crate::input::block::LOOK_AHEAD) bytes after it must be there.
    pub fn advance(&mut self, text: &str, upto: usize) {
        let bytes = text.as_bytes();
        let end = bytes.len().min(upto + 1);
        while self.at < end {
            if !self.is_judged {
                let line = line_start(bytes, self.at);
                let fence = self.fence.enter(line);
                if fence != self.fence {
                    self.fence = fence;
                    self.changes.push((self.at, fence));
                }
                self.is_judged = true;
            }
            let newline = memchr(b'\n', bytes.get(self.at..end).unwrap_or_default());
            self.is_judged = newline.is_none();
            self.at = newline.map_or(end, |newline| self.at + newline + 1);
        }
    }

    /// Whether the line that `at` is on belongs to fenced code, its first and last line included.
    #[must_use]
    pub fn covers(&self, at: usize) -> bool {
        self.state(at) != Fence::Outside
    }

    pub(super) fn state(&self, at: usize) -> Fence {
        let earlier = self.changes.iter().rev().find(|(start, _)| *start <= at);
        earlier.map_or(Fence::Outside, |&(_, fence)| fence)
    }

    /// The first `bytes` of the text, all of them looked at, are gone.
    pub fn shift(&mut self, bytes: usize) {
        self.at = self.at.saturating_sub(bytes);
        let past = self.changes.partition_point(|(start, _)| *start <= bytes);
        self.changes.drain(..past.saturating_sub(1));
        for (start, _) in &mut self.changes {
            *start = start.saturating_sub(bytes);
        }
    }
}

/// The part of the line that starts at `at` that tells what it is.
pub(super) fn line_start(bytes: &[u8], at: usize) -> &[u8] {
    let rest = bytes.get(at..).unwrap_or_default();
    let seen = rest.get(..LINE_START).unwrap_or(rest);
    seen.get(..memchr(b'\n', seen).unwrap_or(seen.len()))
        .unwrap_or_default()
}
