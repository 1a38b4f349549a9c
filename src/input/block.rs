//! Lines → blocks: where a line break ends something, and where it is only a place to wrap.
//!
//! Plain text and Markdown share one reading: blank lines, headings, list items, block quotes, tables, rules,
//! fenced code, changes of indentation, and lines that were not filled although the next word had room. Each
//! break is judged by the two lines before it and the one after it, within a fixed number of bytes, so an
//! edit elsewhere never changes the verdict. The only thing that is carried along is whether a line is inside
//! fenced code, which [`Fences`] tracks as the text goes by.

use memchr::memchr;

use crate::input::fences::{Fence, Fences, line_start};

/// How far back a break is judged.
pub(super) const LOOK_BACK: usize = 512;

/// How far ahead of a boundary its verdict can depend on the text.
pub const LOOK_AHEAD: usize = 256;

/// Lines that are wider were not wrapped by hand: each is a paragraph of its own.
const WIDEST_WRAP: usize = 130;

/// Narrower lines are verse, lists of words or columns rather than wrapped prose.
const NARROWEST_WRAP: usize = 40;

/// How many columns a line must leave free, after room for the next word, to count as ended early.
const SLACK: usize = 6;

/// A line of its own that is no wider and has no stop may be a title.
const WIDEST_TITLE: usize = 60;

/// What kind of place a boundary is, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A blank line, or a heading follows.
    Paragraph,
    /// A sentence, list item, table row or similar ends.
    Sentence,
    /// A line of code ends.
    Line,
    /// A line was wrapped here, or what follows belongs to what is before: a heading, or a term and what
    /// it means.
    Wrap,
}

/// A place where text can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// The end of the text before, without the white space that follows.
    pub at: usize,
    /// What kind of place it is.
    pub level: Level,
}

/// A line break between two lines that are not blank, and the blank lines there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Break {
    /// The end of the line before, without white space.
    pub(super) at: usize,
    /// Where the line after it starts, past its indentation and quotation marks.
    pub(super) next: usize,
    pub(super) level: Level,
    /// Whether a sentence can go on across it.
    pub(super) is_soft: bool,
    /// Whether the line before is code.
    pub(super) is_code: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Prose,
    Heading,
    /// A row of equal marks: the underline of a heading, or a rule.
    Rule,
    Item,
    Quote,
    Table,
}

#[derive(Clone, Copy, Debug)]
struct Line<'a> {
    /// Without white space around it.
    text: &'a str,
    /// Where `text` ends.
    end: usize,
    kind: Kind,
    fence: Fence,
    /// Columns.
    indent: usize,
    /// Columns; measured when they first matter.
    width: Option<usize>,
    /// Whether a blank line is before it, or nothing.
    is_first: bool,
}

impl Line<'_> {
    fn width(&self) -> usize {
        let measure = || self.indent + columns(self.text, 2 * WIDEST_WRAP);
        self.width.unwrap_or_else(measure)
    }

    fn measured(self) -> Self {
        Self {
            width: Some(self.width()),
            ..self
        }
    }
}

/// Finds the line breaks of `text` after lines that end from `from` to `to`, both included.
pub(super) fn line_breaks(
    text: &str,
    from: usize,
    to: usize,
    fences: &Fences,
    out: &mut Vec<Break>,
) {
    let bytes = text.as_bytes();
    let ahead = bytes.get(from..bytes.len().min(to + LOOK_AHEAD));
    if memchr(b'\n', ahead.unwrap_or_default()).is_none() {
        return;
    }
    let mut at = region_start(text, from);
    let mut fence = fences.state(at);
    let (mut before, mut last): (Option<Line>, Option<Line>) = (None, None);
    let mut is_blank = true;
    let mut newlines = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let length = memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
        let whole = rest.get(..length).unwrap_or_default();
        if at > 0 && bytes.get(at - 1) == Some(&b'\n') {
            fence = fence.enter(line_start(bytes, at));
        }
        let mut line = read_line(whole, at, fence, is_blank);
        if !line.text.is_empty() {
            if newlines > 0 && !is_blank && last.is_some_and(|last| last.end >= from) {
                (before, last) = (before.map(Line::measured), last.map(Line::measured));
                line = line.measured();
            }
            if let Some(last) = last {
                let before = before.filter(|_| !last.is_first);
                if last.end >= from && newlines > 0 {
                    out.push(judge(before, last, line, is_blank));
                }
                if last.end > to {
                    return;
                }
            }
            (before, last) = (last, Some(line));
            (is_blank, newlines) = (false, 0);
        }
        if length == rest.len() {
            break;
        }
        newlines += 1;
        is_blank = newlines > 1;
        at += length + 1;
        if last.is_some_and(|last| last.end > to) && is_blank {
            break;
        }
    }
    // White space up to the end of the text, and perhaps further.
    if let Some(last) = last.filter(|last| last.end >= from && last.end <= to && newlines > 0) {
        let is_code = matches!(last.fence, Fence::Inside { .. });
        out.push(Break {
            at: last.end,
            next: text.len(),
            level: match () {
                () if is_code => Level::Line,
                () if is_blank => Level::Paragraph,
                () => Level::Sentence,
            },
            is_soft: false,
            is_code,
        });
    }
}

/// The start of a line a little before `from`, or a place in the line if it is long.
fn region_start(text: &str, from: usize) -> usize {
    let earliest = text.floor_char_boundary(from.saturating_sub(LOOK_BACK));
    if earliest == 0 {
        return 0;
    }
    let before = text.as_bytes().get(earliest - 1..from).unwrap_or_default();
    memchr(b'\n', before).map_or(earliest, |newline| earliest + newline)
}

fn read_line(whole: &str, start: usize, fence: Fence, is_first: bool) -> Line<'_> {
    let end = start + whole.trim_end().len();
    let text = whole.trim();
    let indent = whole.len() - whole.trim_start().len();
    let indent = columns(whole.get(..indent).unwrap_or_default(), 2 * WIDEST_WRAP);
    Line {
        text,
        end,
        kind: kind(text),
        fence,
        indent,
        width: None,
        is_first,
    }
}

/// About how wide `text` is on a terminal, or `most`.
fn columns(text: &str, most: usize) -> usize {
    let text = text.as_bytes();
    let text = text.get(..3 * most).unwrap_or(text);
    // Sums of comparisons, a few bytes at a time, are what a compiler makes vector instructions of.
    let column = |byte: u8| {
        u8::from(byte & 0xc0 != 0x80) + u8::from(byte >= 0xe2) + 7 * u8::from(byte == b'\t')
    };
    let (chunks, rest) = text.as_chunks::<16>();
    let mut columns = 0;
    for chunk in chunks {
        columns += usize::from(chunk.iter().map(|&byte| column(byte)).sum::<u8>());
        if columns >= most {
            return most;
        }
    }
    columns += usize::from(rest.iter().map(|&byte| column(byte)).sum::<u8>());
    columns.min(most)
}

fn kind(text: &str) -> Kind {
    let bytes = text.as_bytes();
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(b' ');
    match byte(0) {
        b'#' => {
            let marks = bytes.iter().take_while(|&&byte| byte == b'#').count();
            match byte(marks) {
                b' ' | b'\t' if marks <= 6 => Kind::Heading,
                _ => Kind::Prose,
            }
        }
        b'>' => Kind::Quote,
        b'|' => Kind::Table,
        b'+' if matches!(byte(1), b'-' | b'=') => Kind::Table,
        mark @ (b'-' | b'=' | b'*' | b'_' | b'+' | b'~') => {
            let is_rule = bytes.iter().all(|&byte| byte == mark || byte == b' ');
            match byte(1) {
                _ if is_rule && bytes.len() > 1 => Kind::Rule,
                b' ' | b'\t' if matches!(mark, b'-' | b'*' | b'+') => Kind::Item,
                _ => Kind::Prose,
            }
        }
        b'0'..=b'9' => {
            let digits = bytes
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            let is_item = matches!(byte(digits), b'.' | b')') && byte(digits + 1) == b' ';
            if is_item && digits < 4 {
                Kind::Item
            } else {
                Kind::Prose
            }
        }
        // Lines drawn with box characters, and the bullets `•`, `‣`, `◦`, `▪`.
        0xe2 => match (byte(1), byte(2)) {
            (0x94 | 0x95, _) => Kind::Table,
            (0x80, 0xa2 | 0xa3) | (0x97, 0xa6) | (0x96, 0xaa) => Kind::Item,
            _ => Kind::Prose,
        },
        _ => Kind::Prose,
    }
}

/// Judges the break from `last` to `next`; `before` is the line before `last` in the same block.
fn judge(before: Option<Line>, last: Line, next: Line, is_blank: bool) -> Break {
    let (level, is_soft) = verdict(before, last, next, is_blank);
    let mut marks = 0;
    if is_soft && next.kind == Kind::Quote {
        let text = next.text.trim_start_matches(['>', ' ', '\t']);
        marks = next.text.len() - text.len();
    }
    Break {
        at: last.end,
        next: next.end - next.text.len() + marks,
        level,
        is_soft,
        is_code: matches!(last.fence, Fence::Inside { .. }),
    }
}

fn verdict(before: Option<Line>, last: Line, next: Line, is_blank: bool) -> (Level, bool) {
    let is_underline = |line: Line| line.kind == Kind::Rule && line.text.starts_with(['-', '=']);
    let is_heading = last.kind == Kind::Heading
        || (is_underline(last) && before.is_some_and(|before| before.kind == Kind::Prose));
    if matches!(last.fence, Fence::Inside { .. }) {
        return (Level::Line, false);
    }
    if is_heading || (!is_blank && last.kind == Kind::Prose && is_underline(next)) {
        return (Level::Wrap, false);
    }
    if is_blank {
        let is_title = before.is_none() && last.kind == Kind::Prose && !has_stop(last.text);
        return match last.fence {
            Fence::Outside if is_title && last.width() <= WIDEST_TITLE => (Level::Sentence, false),
            _ => (Level::Paragraph, false),
        };
    }
    if next.kind == Kind::Heading {
        return (Level::Paragraph, false);
    }
    let starts_block = next.fence != Fence::Outside
        || matches!(next.kind, Kind::Item | Kind::Table | Kind::Rule)
        || (next.kind == Kind::Quote) != (last.kind == Kind::Quote);
    let ends_block = last.fence != Fence::Outside || matches!(last.kind, Kind::Table | Kind::Rule);
    if starts_block || ends_block {
        return (Level::Sentence, false);
    }
    if next.indent >= last.indent + 2 && last.kind != Kind::Item {
        // A paragraph whose first line is indented, or a term with what it means below it.
        let level = if has_stop(last.text) {
            Level::Sentence
        } else {
            Level::Wrap
        };
        return (level, false);
    }
    if next.indent + 2 <= last.indent && before.is_some_and(|before| before.indent >= last.indent) {
        return (Level::Sentence, false);
    }
    let around = before.map_or(0, |before| before.width());
    let widest = around.max(last.width()).max(next.width());
    let room = last.width() + 1 + first_word(next.text) + SLACK;
    if (NARROWEST_WRAP..=WIDEST_WRAP).contains(&widest) && room > widest {
        (Level::Wrap, true)
    } else {
        (Level::Sentence, false)
    }
}

/// The columns of the first word of `text`, or of its first character where words have no spaces.
fn first_word(text: &str) -> usize {
    let is_wide = |character: char| character >= '\u{2e80}';
    let end = text.find(|character: char| character.is_whitespace() || is_wide(character));
    match end {
        Some(0) => 2,
        Some(end) => columns(text.get(..end).unwrap_or_default(), WIDEST_WRAP),
        None => columns(text, WIDEST_WRAP),
    }
}

fn has_stop(text: &str) -> bool {
    let text = text.trim_end_matches([
        '"', '\'', ')', ']', '”', '’', '」', '』', '）', '》', '*', '_',
    ]);
    text.ends_with([
        '.', '!', '?', ':', ';', ',', '…', '。', '！', '？', '：', '；', '，', '、', '-', '—',
    ])
}
