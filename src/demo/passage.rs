//! A text taken apart into the units that a summary is chosen from.
//!
//! Lines become blocks (paragraphs, list items, headings), hard-wrapped blocks
//! become flowing text again, and blocks become sentences. Code, tables and
//! rules are left out: a line of them says nothing alone. Layout is read as
//! Markdown and as plain text are written, in scripts with and without blanks.

use std::mem;

use crate::input::sentence::sentences;

/// The longest line that can be a heading without markup, in columns.
const MAX_HEADING: usize = 80;

/// What a unit is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Prose,
    Item,
    Heading,
}

/// A sentence, a list item's sentence or a heading.
#[derive(Debug)]
pub(super) struct Unit {
    /// Without white space around it, and without the marker of its list.
    pub(super) text: String,
    pub(super) kind: Kind,
    /// It begins its paragraph.
    pub(super) is_opening: bool,
}

/// The languages that can be told apart without a model.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Language {
    English,
    Chinese,
    Other,
}

/// Whether `c` belongs to a script that is written without blanks.
pub(super) fn is_wide(c: char) -> bool {
    matches!(c, '\u{2e80}'..='\u{a4cf}' | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe4f}'
        | '\u{ff01}'..='\u{ffef}' | '\u{20000}'..='\u{3ffff}')
}

/// Whether nothing belongs between `left` and `right` when they are joined.
pub(super) fn is_tight(left: char, right: char) -> bool {
    // Marks that both Latin and Chinese use take the side of their neighbour.
    let is_shared = |c| matches!(c, '‘' | '’' | '“' | '”' | '…' | '—');
    (is_wide(left) || is_wide(right))
        && (is_wide(left) || is_shared(left))
        && (is_wide(right) || is_shared(right))
}

/// Whether `text` ends as a sentence ends.
pub(super) fn is_ended(text: &str) -> bool {
    let text = text.trim_end_matches(|c: char| "\"')]*_`’”»›）」』】》".contains(c));
    text.ends_with(|c: char| ".!?…。！？．｡।؟".contains(c))
}

/// The units of `text`, in order.
pub(super) fn units(text: &str) -> Vec<Unit> {
    let mut layout = Layout::default();
    let lines: Vec<&str> = text.lines().collect();
    // A fence that nothing closes is a stray line, not the beginning of code.
    let last_fence = lines.iter().rposition(|line| fence(line.trim()).is_some());
    let mut open_fence = None;
    for (at, line) in lines.iter().enumerate() {
        let mark = fence(line.trim());
        if open_fence.is_some() {
            if mark == open_fence {
                open_fence = None;
            }
        } else if mark.is_some() {
            layout.end_block();
            open_fence = mark.filter(|_| Some(at) < last_fence);
        } else {
            layout.push(line);
        }
    }
    layout.end_block();
    layout.units
}

/// The character of a code fence.
fn fence(line: &str) -> Option<char> {
    ["```", "~~~"]
        .iter()
        .find(|mark| line.starts_with(**mark))
        .and_then(|mark| mark.chars().next())
}

/// The text so far, and the block that is not finished.
#[derive(Default)]
struct Layout {
    units: Vec<Unit>,
    block: Vec<String>,
    is_item: bool,
    indent: usize,
}

impl Layout {
    fn push(&mut self, line: &str) {
        let line = line.trim_end();
        let text = line.trim_start_matches(|c: char| c.is_whitespace() || c == '>');
        let indent = columns(&line[..line.len() - text.len()]);
        if !text.contains(char::is_alphanumeric) {
            // A line of signs under a single line underlines it.
            let is_underline = text.len() >= 3 && text.trim_matches(['=', '-']).is_empty();
            if is_underline && self.block.len() == 1 && !self.is_item {
                self.end_as_heading();
            }
            self.end_block();
        } else if text.starts_with('|') {
            self.end_block();
        } else if let Some(heading) = marked_heading(text) {
            self.end_block();
            self.block.push(unspaced(heading));
            self.end_as_heading();
        } else if let Some(item) = marked_item(text) {
            self.end_block();
            self.is_item = true;
            self.block.push(unspaced(item));
        } else {
            // Lines of an item hang under its text; elsewhere a deeper line
            // begins a paragraph, and in Chinese two wide blanks do.
            let is_deeper = indent >= self.indent + 2 || line.starts_with("\u{3000}\u{3000}");
            if is_deeper && !self.is_item && !self.block.is_empty() {
                self.end_block();
            }
            self.block.push(unspaced(text));
        }
        self.indent = indent;
    }

    fn end_as_heading(&mut self) {
        for text in mem::take(&mut self.block) {
            self.add(text, Kind::Heading, true);
        }
    }

    fn end_block(&mut self) {
        let lines = mem::take(&mut self.block);
        let is_item = mem::take(&mut self.is_item);
        if let [line] = lines.as_slice()
            && !is_item
            && !is_ended(line)
            && columns(line) <= MAX_HEADING
        {
            self.add(line.clone(), Kind::Heading, true);
            return;
        }
        let kind = if is_item { Kind::Item } else { Kind::Prose };
        for text in unwrapped(&lines) {
            for (at, sentence) in sentences(&text).into_iter().enumerate() {
                self.add(sentence.trim().to_owned(), kind, at == 0);
            }
        }
    }

    fn add(&mut self, text: String, kind: Kind, is_opening: bool) {
        if text.contains(char::is_alphanumeric) {
            self.units.push(Unit {
                text,
                kind,
                is_opening,
            });
        }
    }
}

/// The text of a Markdown heading.
fn marked_heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    let is_heading = (1..=6).contains(&level) && text.starts_with(' ');
    is_heading.then(|| text.trim_end_matches('#').trim())
}

/// The text of a list item.
fn marked_item(line: &str) -> Option<&str> {
    let number = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = line.len() - number.len();
    let text = if (1..=3).contains(&digits) {
        // In Chinese no blank follows the mark.
        match number.strip_prefix('、') {
            Some(text) => return Some(text.trim_start()),
            None => number.strip_prefix(['.', ')'])?,
        }
    } else {
        line.strip_prefix(['-', '*', '+', '•', '·', '‣', '◦', '–'])?
    };
    text.starts_with([' ', '\t']).then(|| text.trim_start())
}

/// The line with single blanks, as justified text needs it.
fn unspaced(line: &str) -> String {
    let words = line.split([' ', '\t']).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// The width of a line in columns of a terminal.
pub(super) fn columns(line: &str) -> usize {
    line.chars().map(|c| 1 + usize::from(is_wide(c))).sum()
}

/// The lines of a block as flowing text: one string, or more where lines end on
/// purpose.
fn unwrapped(lines: &[String]) -> Vec<String> {
    let width = lines.iter().map(|line| columns(line)).max().unwrap_or(0);
    // Records, such as names or a log, are not wrapped, whatever their width.
    let is_wrapped = lines.windows(2).any(|pair| {
        let left = pair[0].chars().next_back();
        let right = pair[1].chars().next();
        let (left, right) = (left.unwrap_or(' '), right.unwrap_or(' '));
        right.is_lowercase() || (is_wide(left) && is_wide(right))
    });
    let mut texts: Vec<String> = Vec::new();
    let mut previous: Option<&String> = None;
    for line in lines {
        let is_soft = |left: &String| {
            let goes_on = line.starts_with(char::is_lowercase)
                || left.ends_with([',', ';', '-', '，', '、', '；'])
                || is_ended(left);
            // Room left for the next word means that the line ended on purpose;
            // a quarter is granted to text that was edited after wrapping.
            let is_full = (columns(left) + 1 + first_word(line)) * 4 > width * 3;
            goes_on || (is_wrapped && is_full)
        };
        match texts.last_mut() {
            Some(text) if previous.is_some_and(is_soft) => join(text, line),
            _ => texts.push(line.clone()),
        }
        previous = Some(line);
    }
    texts
}

/// The width of what a wrapped line would have had to hold in addition.
fn first_word(line: &str) -> usize {
    if line.starts_with(is_wide) {
        return 2;
    }
    columns(line.split(' ').next().unwrap_or_default())
}

/// Appends a line to the text that it goes on.
fn join(text: &mut String, line: &str) {
    let last = text.chars().next_back();
    let (Some(last), Some(first)) = (last, line.chars().next()) else {
        return;
    };
    // A word that has a hyphen of its own keeps it; one that was divided there
    // cannot be told from it.
    let before = text.chars().nth_back(1);
    let is_divided =
        last == '-' && before.is_some_and(char::is_alphanumeric) && first.is_alphanumeric();
    if !is_divided && !is_tight(last, first) {
        text.push(' ');
    }
    text.push_str(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str, kind: Kind) -> Vec<String> {
        let units = units(text).into_iter();
        let of_kind = units.filter(|unit| unit.kind == kind);
        of_kind.map(|unit| unit.text).collect()
    }

    #[test]
    fn wrapped_lines_flow_again() {
        let text =
            "The first line was wrapped by an\neditor at a width of well-\nknown size. Next.\n";
        assert_eq!(
            texts(text, Kind::Prose),
            [
                "The first line was wrapped by an editor at a width of well-known size.",
                "Next."
            ],
        );
        let text = "天气很好，我们去公园走了\n走，看见了许多花和“新\n树”。\n";
        assert_eq!(
            texts(text, Kind::Prose),
            ["天气很好，我们去公园走了走，看见了许多花和“新树”。"]
        );
    }

    #[test]
    fn lines_that_end_on_purpose_stay_apart() {
        let text = "Berlin 1999\nParis 2001\nA much longer line of this table of records\nRome 4\n";
        assert_eq!(texts(text, Kind::Prose).len(), 4);
    }

    #[test]
    fn markers_are_taken_off() {
        let text = "Before it.\n- one apple\n  and more\n* two pears\n3. three plums\n\n1、第一条。\n> Quoted.\n";
        assert_eq!(
            texts(text, Kind::Item)[..3],
            ["one apple and more", "two pears", "three plums"],
        );
        assert_eq!(texts(text, Kind::Prose), ["Before it."]);
        assert!(texts("> Quoted text.\n> Goes on.", Kind::Prose).len() == 2);
    }

    #[test]
    fn headings_are_known() {
        let text =
            "# One #\n\nTwo\n===\nText is here.\n\nThree\n    Text hangs here.\n\nFour\n\nText.\n";
        assert_eq!(texts(text, Kind::Heading), ["One", "Two", "Three", "Four"]);
        assert_eq!(
            texts(text, Kind::Prose),
            ["Text is here.", "Text hangs here.", "Text."],
        );
    }

    #[test]
    fn code_and_tables_are_left_out() {
        let text = "Text.\n```rust\nfn main() {}\n```\n| a | b |\n|---|---|\nMore text.\n";
        assert_eq!(texts(text, Kind::Prose), ["Text.", "More text."]);
        // Nothing closes this fence.
        assert_eq!(texts("```\nStill read.", Kind::Prose), ["Still read."]);
    }

    #[test]
    fn paragraphs_begin_with_their_first_sentence() {
        let units = units("　　天晴了。我们走吧。\n　　雨又来了。\n");
        let opening: Vec<bool> = units.iter().map(|unit| unit.is_opening).collect();
        assert_eq!(opening, [true, false, true]);
    }

    #[test]
    fn tight_joins_are_those_of_wide_scripts() {
        assert!(is_tight('好', '我') && is_tight('。', '“') && is_tight('”', '我'));
        assert!(!is_tight('.', 'A') && !is_tight('”', 'A') && !is_tight('好', 'A'));
    }
}
