//! Finds where sentences end, in prose as people write it.
//!
//! The rules are those of UAX #29, by `unicode-segmentation`, mended where they are wrong for prose:
//! abbreviations and initials, ellipses, question marks inside a sentence, list numbers, hard-wrapped lines
//! and Markdown (`block`), stops and brackets of Chinese and Japanese. The rules are not run over the text itself but,
//! around each stop, over a short shadow of it: as many bytes, with a wrapped line's end as a space, and so on.
//! What a shadow says is so many bytes into the text. This keeps every verdict local, which a chunker needs
//! to cut the same way after an edit elsewhere, and it keeps the cost linear: the crate looks ahead anew at
//! every blank after a stop.

use unicode_segmentation::UnicodeSegmentation;

use crate::input::block::{self, Break};
pub use crate::input::block::{Boundary, LOOK_AHEAD, Level};
pub use crate::input::fences::Fences;
use crate::input::word::{EITHER, MONTHS, NUMBERED, STARTERS, TITLES};

/// How many bytes after a stop are looked at for the next letter.
const SHADOW: usize = 64;

/// No abbreviation is longer.
const LONGEST_ENTRY: usize = 6;

/// The longest word that is looked up.
const LONGEST_WORD: usize = 16;

/// The first byte of some stop; other characters start so too.
#[allow(
    clippy::needless_bitwise_bool,
    reason = "branches would keep it from becoming vector instructions"
)]
fn is_start(byte: u8) -> bool {
    (byte == b'.')
        | (byte == b'!')
        | (byte == b'?')
        | (byte == 0xef)
        | (byte.wrapping_sub(0xd6) <= 0xe3 - 0xd6)
}

/// The first byte in `bytes` that can be the start of a stop. Looked for in blocks, as a compiler makes vector
/// instructions of those.
fn find_start(bytes: &[u8]) -> Option<usize> {
    let (blocks, _) = bytes.as_chunks::<32>();
    let is_in = |block: &[u8; 32]| block.iter().fold(false, |any, &byte| any | is_start(byte));
    let skipped = 32 * blocks.iter().position(is_in).unwrap_or(blocks.len());
    let rest = bytes.get(skipped..).unwrap_or_default();
    let found = rest.iter().position(|&byte| is_start(byte));
    found.map(|found| skipped + found)
}

/// Cuts `text` into sentences, each with the white space after it; white space at the start goes with
/// the first. Joined they are `text`.
#[must_use]
pub fn sentences(text: &str) -> Vec<&str> {
    let mut fences = Fences::default();
    fences.advance(text, text.len());
    let mut ends = Vec::new();
    sentence_ends(text, 0, text.len(), &fences, &mut ends);
    let mut sentences = Vec::with_capacity(ends.len() + 1);
    let mut rest = text;
    let mut start = 0;
    for end in ends.iter().filter(|end| end.level <= Level::Line) {
        let after = text.get(end.at..).unwrap_or_default();
        let next = end.at + after.len() - after.trim_start().len();
        if let Some((sentence, after)) = rest.split_at_checked(next - start)
            && !sentence.trim_start().is_empty()
            && !after.is_empty()
        {
            sentences.push(sentence);
            (rest, start) = (after, next);
        }
    }
    if !rest.is_empty() {
        sentences.push(rest);
    }
    sentences
}

/// Finds the ends of sentences from `from` to `to`, both included, in `text`, and appends them to `out`.
///
/// At most [`LOOK_AHEAD`] bytes after an end and about twice as many before it are looked at.
pub fn sentence_ends(text: &str, from: usize, to: usize, fences: &Fences, out: &mut Vec<Boundary>) {
    let region = Region { from, to, fences };
    Segmenter::default().ends(text, region, Level::Wrap, false, out);
}

/// The work behind [`sentence_ends`], with its memory.
#[derive(Debug, Default)]
pub(super) struct Segmenter {
    breaks: Vec<Break>,
    shadow: String,
    /// Bytes looked at, to show that work is linear.
    #[cfg(test)]
    pub(super) work: usize,
}

/// Where to look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region<'a> {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) fences: &'a Fences,
}

impl Segmenter {
    /// Like [`sentence_ends`], but finds only ends of blocks if no more is wanted than `finest`. If
    /// `knows_lines` then the call before was for the same text and region.
    pub(super) fn ends(
        &mut self,
        text: &str,
        region: Region,
        finest: Level,
        knows_lines: bool,
        out: &mut Vec<Boundary>,
    ) {
        let Region { from, to, fences } = region;
        if !knows_lines {
            self.breaks.clear();
            block::line_breaks(text, from, to, fences, &mut self.breaks);
        }
        #[cfg(test)]
        {
            self.work += to.saturating_sub(from);
        }
        let known = out.len();
        let lines = self.breaks.iter().filter(|line| line.at <= to);
        out.extend(lines.map(|&Break { at, level, .. }| Boundary { at, level }));
        if finest >= Level::Sentence {
            self.stops(text, from, to, fences, out);
            let found = out.get_mut(known..).unwrap_or_default();
            found.sort_unstable_by_key(|boundary| (boundary.at, boundary.level));
            out.dedup_by_key(|boundary| boundary.at);
        }
    }

    /// Finds the ends of sentences that are not ends of blocks.
    fn stops(
        &mut self,
        text: &str,
        from: usize,
        to: usize,
        fences: &Fences,
        out: &mut Vec<Boundary>,
    ) {
        let bytes = text.as_bytes();
        let mut breaks = self.breaks.iter();
        let mut line = breaks.next();
        // A stop right before `from` can have its sentence's end there.
        let mut at = text.floor_char_boundary(from.saturating_sub(SHADOW));
        let end = to.min(bytes.len());
        while let Some(found) = bytes.get(at..end).and_then(find_start) {
            at += found;
            let Some(stop) = Stop::at(text, at) else {
                at += char_length(bytes[at]);
                continue;
            };
            while line.is_some_and(|line| line.at < stop.end) {
                line = breaks.next();
            }
            at = stop.end;
            // No line break ahead: the line goes on, and is code if it is in a fence.
            let is_code = line.map_or_else(|| fences.covers(at), |line| line.is_code);
            if is_code {
                at = line.map_or(end, |line| line.at.max(at));
                continue;
            }
            let ahead = self.breaks.as_slice();
            let ahead = ahead.get(ahead.len() - breaks.len() - usize::from(line.is_some())..);
            let sentence_end = end_after(text, &stop, ahead.unwrap_or_default(), &mut self.shadow);
            #[cfg(test)]
            {
                self.work += self.shadow.len();
            }
            if let Some(sentence_end) = sentence_end {
                at = at.max(sentence_end);
                if sentence_end >= from && sentence_end <= to {
                    out.push(Boundary {
                        at: sentence_end,
                        level: Level::Sentence,
                    });
                }
            }
        }
    }
}

fn char_length(first: u8) -> usize {
    match first {
        0..0xc0 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    }
}

/// One or more marks that can end a sentence.
#[derive(Clone, Copy, Debug)]
struct Stop {
    start: usize,
    end: usize,
    /// The start of the last mark.
    last: usize,
    is_single: bool,
}

impl Stop {
    fn at(text: &str, start: usize) -> Option<Self> {
        let rest = text.get(start..)?;
        let mut stop = None;
        for (offset, character) in rest.char_indices() {
            if !is_stop(character) {
                break;
            }
            stop = Some(Self {
                start,
                end: start + offset + character.len_utf8(),
                last: start + offset,
                is_single: offset == 0,
            });
        }
        stop
    }
}

fn is_stop(character: char) -> bool {
    matches!(
        character,
        '.' | '!'
            | '?'
            | '…'
            | '‼'
            | '⁇'
            | '⁈'
            | '⁉'
            | '⸮'
            | '。'
            | '｡'
            | '．'
            | '！'
            | '？'
            | '；'
            | '।'
            | '॥'
            | '։'
            | '؟'
            | '۔'
            | '܀'
            | '܁'
            | '܂'
            | '။'
            | '၊'
            | '።'
            | '፧'
            | '፨'
            | '។'
            | '៕'
            | '᠃'
            | '᠉'
    )
}

fn is_closer(character: char) -> bool {
    matches!(
        character,
        '"' | '\''
            | ')'
            | ']'
            | '}'
            | '”'
            | '’'
            | '»'
            | '›'
            | '」'
            | '』'
            | '）'
            | '》'
            | '〉'
            | '】'
            | '〕'
            | '］'
    )
}

/// Brackets that open something, as UAX #29 does not tell them from those that close it.
fn is_wide_opener(character: char) -> bool {
    matches!(
        character,
        '「' | '『' | '（' | '《' | '〈' | '【' | '〔' | '［' | '“' | '‘'
    )
}

/// The end of the sentence that `stop` ends, if it does, past quotes and brackets.
fn end_after(text: &str, stop: &Stop, breaks: &[Break], shadow: &mut String) -> Option<usize> {
    let after = text.get(stop.end..).unwrap_or_default();
    let next = after.chars().next()?;
    let mark = text.as_bytes().get(stop.last).copied().unwrap_or_default();
    // Inside a number, a name of a file or an address.
    if mark.is_ascii() && next.is_ascii() && !next.is_ascii_whitespace() && !is_closer(next) {
        return None;
    }
    if mark == b'.' && stop.is_single && is_abbreviated(text, stop.start, breaks) {
        return None;
    }
    // A stop, then a blank and a capital, or no blank and a letter without case: by all rules an end.
    let is_last = breaks.first().is_none_or(|line| line.at > stop.end);
    let is_plain = match (mark, after.as_bytes()) {
        (b'.' | b'!' | b'?', [b' ', b'A'..=b'Z', ..]) => is_last,
        // What is no full stop here is `…`.
        (0xe3 | 0xef, _) => is_last && ('\u{4e00}'..='\u{9fff}').contains(&next),
        _ => false,
    };
    if is_plain && stop.is_single {
        return Some(stop.end);
    }
    let start = build_shadow(text, stop, breaks, shadow)?;
    let bound = shadow
        .split_sentence_bound_indices()
        .map(|(at, sentence)| start + at + sentence.len())
        .find(|&bound| bound >= stop.end)?;
    // The shadow's end is a bound only because it is the end, unless white space has filled it.
    if bound == start + shadow.len() && !shadow.ends_with(' ') {
        return None;
    }
    Some(text.get(..bound)?.trim_end().len()).filter(|&end| end >= stop.end)
}

/// Writes into `shadow` what the rules have to see of the text around `stop`, and says where in the text
/// it starts; or not, when the block ends before anything else comes.
fn build_shadow(text: &str, stop: &Stop, breaks: &[Break], shadow: &mut String) -> Option<usize> {
    shadow.clear();
    let before = text.get(..stop.start)?.chars().next_back();
    let mut start = stop.start - before.map_or(0, char::len_utf8);
    shadow.extend(before);
    // Of a long run the end is enough.
    if stop.end - stop.start > SHADOW {
        start = stop.last;
        shadow.clear();
    }
    let after = text.get(stop.end..)?;
    let is_before_digit = after
        .trim_start_matches(|character: char| is_closer(character) || character == ' ')
        .starts_with(|character: char| character.is_ascii_digit());
    for character in text.get(start.max(stop.start)..stop.end)?.chars() {
        match character {
            '…' => shadow.push_str("..."),
            '；' => shadow.push('。'),
            // With a small letter after it the sentence goes on, as after a full stop.
            '!' | '?' if !is_before_digit => shadow.push('.'),
            other => shadow.push(other),
        }
    }
    let mut breaks = breaks.iter();
    let mut line = breaks.next();
    let mut skip_to = 0;
    for (offset, character) in after.char_indices() {
        let at = stop.end + offset;
        let is_break = line.is_some_and(|line| at >= line.at);
        if is_break && line.is_some_and(|line| !line.is_soft) {
            return None;
        }
        if let Some(soft) = line.filter(|_| is_break) {
            skip_to = soft.next;
            line = breaks.next();
        }
        if character.is_whitespace() || at < skip_to {
            shadow.extend(std::iter::repeat_n(' ', character.len_utf8()));
        } else if is_wide_opener(character) && opens(character, after.get(offset..)?) {
            shadow.push('一');
            return Some(start);
        } else {
            shadow.push(character);
            if character.is_alphabetic() || is_stop(character) {
                return Some(start);
            }
        }
        if at - stop.end > SHADOW {
            return Some(start);
        }
    }
    // All that there is: the end of the text ends the sentence anyway.
    None
}

/// Whether what starts `rest` opens something, rather than closes it as German quotation marks do.
fn opens(opener: char, rest: &str) -> bool {
    let next = rest.chars().nth(1);
    !matches!(opener, '“' | '‘')
        || next.is_some_and(|next| next.is_alphanumeric() || is_wide_opener(next))
}

/// Whether the full stop at `at` belongs to an abbreviation, an initial or a number, and the sentence goes on.
fn is_abbreviated(text: &str, at: usize, breaks: &[Break]) -> bool {
    let earliest = text.floor_char_boundary(at.saturating_sub(LONGEST_WORD));
    let before = text.get(earliest..at).unwrap_or_default();
    let is_part = |character: char| character.is_alphanumeric() || character == '.';
    let word = before.len() - before.trim_end_matches(is_part).len();
    let word = before.get(before.len() - word..).unwrap_or_default();
    if word.is_empty() || (word.len() == before.len() && earliest > 0) {
        return false;
    }
    let line = breaks.first().filter(|line| line.is_soft);
    let next = match line {
        Some(line) if line.at <= at + 1 => line.next,
        _ => at + 1,
    };
    let after = text.get(next..).unwrap_or_default();
    let after = after.trim_start_matches([' ', '\t', '\u{a0}']);
    let next_word = after
        .split(|character: char| !character.is_alphanumeric())
        .next();
    let next_word = next_word.unwrap_or_default();
    let is_number = next_word.starts_with(|character: char| character.is_ascii_digit());
    if word.bytes().all(|byte| byte.is_ascii_digit()) {
        // The number of a list item, or a day of a month.
        let line = before
            .strip_suffix(word)
            .unwrap_or_default()
            .trim_end_matches([' ', '\t', '>']);
        let is_item =
            word.len() < 4 && (line.ends_with('\n') || (line.is_empty() && earliest == 0));
        return is_item || MONTHS.contains(&next_word);
    }
    let is_one_of = |list: &[&str]| {
        word.len() <= LONGEST_ENTRY
            && list.iter().any(|entry| {
                entry.len() == word.len()
                    && entry.get(1..) == word.get(1..)
                    && entry.get(..1).map(str::to_lowercase) == word.get(..1).map(str::to_lowercase)
            })
    };
    if is_one_of(TITLES) || (is_number && is_one_of(NUMBERED)) {
        return true;
    }
    let mut letters = word.chars();
    let is_initial = letters.next().is_some_and(char::is_uppercase) && letters.next().is_none();
    let is_dotted = word.contains('.')
        && word
            .split('.')
            .all(|part| (1..=2).contains(&part.chars().count()));
    if !is_initial && !is_dotted && !is_one_of(EITHER) {
        return false;
    }
    // `J. A. Smith`: a letter with a stop is no starter.
    let is_initial_next = after
        .get(next_word.len()..)
        .unwrap_or_default()
        .starts_with('.')
        && next_word.chars().count() == 1;
    let is_capital = next_word.starts_with(char::is_uppercase);
    is_initial_next || (is_capital && !STARTERS.contains(&next_word)) || (is_number && !is_initial)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `text` has its expected cuts marked with `|`, each before the white space there.
    fn check(marked: &str) {
        let text = marked.replace('|', "");
        let mut fences = Fences::default();
        fences.advance(&text, text.len());
        let mut ends = Vec::new();
        sentence_ends(&text, 0, text.len(), &fences, &mut ends);
        let mut found = String::new();
        let mut last = 0;
        for end in ends.iter().filter(|end| end.level <= Level::Sentence) {
            if end.at < text.trim_end().len() {
                found += &text[last..end.at];
                found.push('|');
                last = end.at;
            }
        }
        found += &text[last..];
        assert_eq!(found, marked);
        assert_eq!(sentences(&text).concat(), text);
    }

    #[test]
    fn stops_end_sentences() {
        check("One.| Two!| Three?| Four");
        check("He said \"No.\"| She went.| (It was late.)| They left");
        check("Wait…| Then he left.| But wait… then he stayed");
        check("Wait...| Then he left.| But wait... then he stayed");
        check("It is 3.14 in v1.2.3 of foo.Another");
        check("See https://x.y/a?b=C.| Then go");
        check("\"Really?\" he asked.| Yahoo! has it.| \"Stop!\" they cried");
        check("Ends here.[1] Not");
        check("Ist das so?| „Ja.“| Er ging");
    }

    #[test]
    fn abbreviations_do_not() {
        check("Dr. Smith met Mr. and Mrs. Jones of St. Ives vs. Prof. Moriarty.| Then left");
        check(
            "He wrote e.g. A and i.e. B, cf. Knuth, Fig. 3, No. 5, Vol. II, pp. 3.| Then he left",
        );
        check("No.| I will not.| See No. 7 Downing St. London");
        check("J. R. R. Tolkien and George R. R. Martin wrote.| Both did");
        check("The U.S. Army came at 5 p.m.| The war ended.| Apples, pears etc.| He ate");
        check("Apple Inc. Cupertino sued Foo Ltd. London");
        check("Das ist z.B. Berlin, d.h. Hauptstadt, am 3. Oktober.| Dann kam Hr. Meier");
        check("Voici M. Dupont et Mme. Durand.| El Sr. García habla");
        check("It was plan B.| The end of 1999.| The start");
    }

    #[test]
    fn wrapped_lines_go_on() {
        check("This is a sentence that was hard-wrapped at some\nwidth that is common. | But it ends here, as this other\none does too.".replace(". | ", ".| ").as_str());
        check(
            "The quick brown fox that jumps over the lazy Dr.\nSmith was here at the time, and it ended there.|\nThe next",
        );
        check(
            "> This is a quoted sentence that goes on over the\n> end of the line as one.| And here is another of them",
        );
        check(
            "This line is the widest of all that are here to be seen.|\nShort one\nwith others"
                .replace("one\n", "one|\n")
                .as_str(),
        );
    }

    #[test]
    fn blocks_end_sentences() {
        check("Intro|\n\n- one item|\n- two items|\n1. first thing|\n2. Second thing");
        check("| a | b |".replace('|', "").as_str());
        check("Some text|\n\n# Heading\n\nText under it");
        check("Some text|\n\nHeading\n=======\n\nText under it");
        check("Text|\n```\na. B. C?\n\nd\n```|\nMore text.| Here");
        check("roses are red|\nviolets are blue|\nsugar is sweet");
        check("NAME\n       ls - list directory contents|\n\nSYNOPSIS\n       ls");
    }

    #[test]
    fn chinese_and_japanese_stops() {
        check("他来了。|她走了！|真的吗？|好；|行");
        check("他说：“今天很好。”|然后走了。|「是。」|彼は");
        check("不！|「好」他说。|（注）");
        check("他走了……|然后来了。|《书》");
    }

    #[test]
    fn levels() {
        let text = "One. Two.\n\nThree\n\n# Four\n\nFive\n```\ncode\nmore\n```\n";
        let mut fences = Fences::default();
        fences.advance(text, text.len());
        let mut ends = Vec::new();
        sentence_ends(text, 0, text.len(), &fences, &mut ends);
        let found: Vec<_> = ends
            .iter()
            .map(|end| (&text[end.at - 1..end.at], end.level))
            .collect();
        assert_eq!(
            found,
            [
                (".", Level::Sentence),
                (".", Level::Paragraph),
                ("e", Level::Sentence),
                ("r", Level::Wrap),
                ("e", Level::Sentence),
                ("`", Level::Line),
                ("e", Level::Line),
                ("e", Level::Line),
                ("`", Level::Sentence),
            ]
        );
    }

    #[test]
    fn a_stop_and_a_lot_of_white_space_take_linear_time() {
        // Quadratic behaviour would take hours.
        for unit in [" ", "\"", ".", ". ", "\u{301}", ")", "\n", "? a", "…"] {
            let text = format!("x.{}", unit.repeat(50_000));
            assert_eq!(sentences(&text).concat(), text);
        }
    }
}
