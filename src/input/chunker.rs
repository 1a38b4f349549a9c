//! Cuts text into chunks of at most so many tokens, as it comes.
//!
//! A chunk is taken once no further byte can move its end. Where that is depends on the text alone: on what
//! fits the bound and [`LOOK_AHEAD`] bytes more, never on how the text was cut into pushes. So the same
//! text always gives the same chunks, and memory and the wait for the first chunk depend on the bound alone.
//!
//! Tokens are counted once, pre-token by pre-token. Cutting changes only the pre-token that is cut: those before it stay
//! as they are, and those after it are soon the same again. The places to choose from are `sentence`'s and the
//! choice is `boundary`'s.

use memchr::{memchr, memchr_iter};

use crate::input::block::{LOOK_AHEAD, Level};
use crate::input::boundary::{Chooser, Window, grapheme_end};
use crate::input::chunk::{By, Chunk, ChunkerOptions};
use crate::input::fences::Fences;
use crate::input::meter::{BYTES_PER_TOKEN, Limit, Meter};
use crate::input::sentence::{Region, Segmenter};

/// The longest gap that a chunk has.
const LONGEST_GAP: usize = 64 * 1024;

/// How much text before a chunk is kept to judge by.
const HISTORY: usize = 1024;

/// Cuts one input. As an iterator it gives the chunks whose end is sure, and `None` until more is pushed.
#[derive(Debug)]
pub struct Chunker {
    options: ChunkerOptions,
    meter: Meter,
    chooser: Chooser,
    /// Some text of earlier chunks, then what no chunk has yet. All places are in here.
    buffer: String,
    /// How much was dropped before `buffer`, in bytes and in lines.
    dropped: u64,
    /// The line at `taken`, from 1.
    line: u64,
    /// The end of the last chunk.
    taken: usize,
    /// The end of the gap, as far as it was looked for.
    start: usize,
    fences: Fences,
    /// Up to where the end of the record was looked for.
    scanned: usize,
    /// The start of the line that `scanned` is on.
    scanned_line: usize,
    /// The end of the record, without white space.
    record_end: Option<usize>,
    /// The chunk ends here if not before: the end of the text at a pause, or of the input.
    forced_end: Option<usize>,
    /// Less than this tells nothing new.
    needed: usize,
    is_finished: bool,
    /// Whether all that was pushed is handed on, the gap after the last text too.
    is_paused: bool,
}

impl Chunker {
    /// A chunker for one input.
    #[must_use]
    pub fn new(options: ChunkerOptions) -> Self {
        let options = ChunkerOptions {
            max_tokens: options.max_tokens.max(1),
            ..options
        };
        Self {
            options,
            meter: Meter::new(options.encoding, options.max_tokens),
            chooser: Chooser::default(),
            buffer: String::new(),
            dropped: 0,
            line: 1,
            taken: 0,
            start: 0,
            fences: Fences::default(),
            scanned: 0,
            scanned_line: 0,
            record_end: None,
            forced_end: None,
            needed: 0,
            is_finished: false,
            is_paused: false,
        }
    }

    /// Takes in the next piece of the input.
    pub fn push(&mut self, text: &str) {
        self.is_paused = false;
        self.buffer.push_str(text);
    }

    /// Ends the unfinished chunk after what was pushed: take chunks until there are none.
    pub fn flush(&mut self) {
        if self.options.by != By::File {
            self.is_paused = true;
            self.force_end();
        }
    }

    /// Ends the input: take chunks until there are none. The last white space comes as a chunk without text.
    pub fn finish(&mut self) {
        self.is_finished = true;
        self.force_end();
    }

    fn force_end(&mut self) {
        self.forced_end = Some(self.buffer.trim_end().len());
        self.needed = 0;
    }

    /// Looks for the end of the gap; says whether there is text.
    fn find_start(&mut self) -> bool {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        let text = rest.trim_start();
        self.start += rest.len() - text.len();
        !text.is_empty()
    }

    /// A gap by itself: a long one, the last one, and with [`By::Line`] each empty line, which need not wait for
    /// the next record.
    fn take_gap(&mut self) -> Option<Chunk> {
        let gap = self.buffer.as_bytes().get(self.taken..self.start)?;
        let short = gap.get(..LONGEST_GAP).unwrap_or(gap);
        if self.options.by == By::Line
            && let Some(newline) = memchr(b'\n', short)
        {
            let end = self.taken + newline + 1;
            return Some(self.take(end, end, None, true));
        }
        if gap.len() >= LONGEST_GAP {
            let end = self.buffer.floor_char_boundary(self.taken + LONGEST_GAP);
            return Some(self.take(end, end, None, true));
        }
        let is_last = (self.is_finished || self.is_paused) && self.start == self.buffer.len();
        (is_last && !gap.is_empty()).then(|| self.take(self.start, self.start, None, true))
    }

    /// Takes the chunk from `start` to `end`, with the gap before it.
    fn take(
        &mut self,
        start: usize,
        end: usize,
        tokens: Option<usize>,
        ends_record: bool,
    ) -> Chunk {
        let has_context =
            self.options.context_tokens > 0 && end > start && self.options.by != By::File;
        let context = if has_context {
            self.context()
        } else {
            String::new()
        };
        let piece = |from, to| self.buffer.get(from..to).unwrap_or_default().to_owned();
        let (gap, text) = (piece(self.taken, start), piece(start, end));
        // A record's line end goes out with its reply, in one write; it need not wait for the next record.
        let rest = self.buffer.as_bytes().get(end..).unwrap_or_default();
        let line_end = (self.options.by == By::Line && end > start && ends_record)
            .then(|| memchr(b'\n', rest))
            .flatten()
            .map_or(end, |newline| end + newline + 1);
        let tail = piece(end, line_end);
        let lines = |text: &str| memchr_iter(b'\n', text.as_bytes()).count() as u64;
        let line = self.line + lines(&gap);
        self.line = line + lines(&text) + lines(&tail);
        if end > start {
            self.fences_upto(end - 1);
            self.meter.next_chunk();
            self.record_end = self.record_end.filter(|&record_end| record_end > end);
        }
        let offset = self.dropped + start as u64;
        self.taken = line_end;
        self.start = self.start.max(line_end);
        self.needed = 0;
        self.drop_taken();
        Chunk {
            gap,
            text,
            tail,
            offset,
            line,
            tokens,
            context,
            ends_record,
        }
    }

    fn fences_upto(&mut self, upto: usize) {
        if matches!(self.options.by, By::Sentence | By::Paragraph) {
            self.fences.advance(&self.buffer, upto);
        }
    }

    /// Drops text that no chunk needs any more, when it is as much as what stays: each byte then moves
    /// about once.
    fn drop_taken(&mut self) {
        let history =
            HISTORY.saturating_add(self.options.context_tokens.saturating_mul(BYTES_PER_TOKEN));
        let bytes = self
            .buffer
            .floor_char_boundary(self.taken.saturating_sub(history));
        if bytes < history || bytes < self.buffer.len() - bytes {
            return;
        }
        self.buffer.drain(..bytes);
        self.fences.shift(bytes);
        self.dropped += bytes as u64;
        self.taken -= bytes;
        self.start -= bytes;
        self.scanned = self.scanned.saturating_sub(bytes);
        self.scanned_line = self.scanned_line.saturating_sub(bytes);
        for end in [&mut self.record_end, &mut self.forced_end]
            .into_iter()
            .flatten()
        {
            *end = end.saturating_sub(bytes);
        }
        self.meter.shift(bytes);
    }

    /// The end of the text up to which the next chunk can go, if it is known.
    fn known_end(&mut self) -> Option<usize> {
        if self.record_end.is_none() {
            self.record_end = match self.options.by {
                By::Line => self.find_line_end(),
                By::Paragraph => self.find_paragraph_end(),
                By::Sentence | By::File => None,
            };
        }
        let forced = self.forced_end.filter(|&end| end > self.start);
        match (self.record_end, forced) {
            (Some(record), Some(forced)) => Some(record.min(forced)),
            (record, forced) => record.or(forced),
        }
    }

    fn find_line_end(&mut self) -> Option<usize> {
        self.scanned = self.scanned.max(self.start);
        let rest = self
            .buffer
            .as_bytes()
            .get(self.scanned..)
            .unwrap_or_default();
        let newline = memchr(b'\n', rest);
        self.scanned += newline.unwrap_or(rest.len());
        newline?;
        Some(self.buffer.get(..self.scanned)?.trim_end().len())
    }

    /// Finds the first blank line after the chunk's start that is not inside fenced code.
    fn find_paragraph_end(&mut self) -> Option<usize> {
        loop {
            let rest = self
                .buffer
                .as_bytes()
                .get(self.scanned..)
                .unwrap_or_default();
            let newline = memchr(b'\n', rest);
            self.scanned += newline.map_or(rest.len(), |newline| newline + 1);
            newline?;
            let line = std::mem::replace(&mut self.scanned_line, self.scanned);
            if line > self.start && self.buffer.get(line..self.scanned)?.trim_start().is_empty() {
                self.fences.advance(&self.buffer, line);
                if !self.fences.covers(line) {
                    return Some(self.buffer.get(..line)?.trim_end().len());
                }
            }
        }
    }

    fn take_text(&mut self) -> Option<Chunk> {
        let (start, max) = (self.start, self.options.max_tokens);
        if self.options.by == By::File {
            let end = self.forced_end?;
            return Some(self.take(start, end, None, true));
        }
        let end = self.known_end();
        if let Some(end) = end {
            if end - start <= max {
                return Some(self.take_all(end, None));
            }
        } else if self.buffer.len() < self.needed || self.buffer.len() - start <= max {
            return None;
        }
        match self.meter.walk(&self.buffer, start, end) {
            Limit::Unknown { needed } => {
                self.needed = needed;
                None
            }
            Limit::None { tokens } => Some(self.take_all(end?, Some(tokens))),
            Limit::At(limit) => {
                let seen = limit.saturating_add(LOOK_AHEAD);
                if end.is_none() && self.buffer.len() < seen {
                    self.needed = seen;
                    return None;
                }
                let seen = end.map_or(seen, |end| end.min(seen));
                let (cut, tokens) = self.cut(limit, self.buffer.floor_char_boundary(seen));
                let ends_record = self.options.by != By::Line;
                Some(self.take(start, cut, Some(tokens), ends_record))
            }
        }
    }

    /// Takes all up to the known `end`.
    fn take_all(&mut self, end: usize, tokens: Option<usize>) -> Chunk {
        let ends_record =
            self.options.by != By::Line || self.record_end == Some(end) || self.is_finished;
        self.take(self.start, end, tokens, ends_record)
    }
}

impl Chunker {
    /// Chooses where to cut: at or before `limit`, looking at the text up to `seen`. Says how many tokens
    /// there are before it.
    fn cut(&mut self, limit: usize, seen: usize) -> (usize, usize) {
        let start = self.start;
        self.fences_upto(limit);
        let text = self.buffer.get(..seen).unwrap_or_default();
        let meter = &mut self.meter;
        // White space that goes on for so long ends the chunk, whether anything comes after it or not.
        let all = text.trim_end().len();
        // Any more text, and surely not all of it fits.
        let is_near = all <= limit + LOOK_AHEAD / 4;
        let whole = is_near.then(|| meter.count_upto(text, start, all));
        if let Some(tokens) = whole.flatten() {
            return (all, tokens);
        }
        let window = Window {
            text,
            start,
            end: limit,
        };
        let mut tokens = 0;
        let chosen = self.chooser.choose(window, &self.fences, |at| {
            let within = meter.count_upto(text, start, at);
            tokens = within.unwrap_or(0);
            within.is_some()
        });
        if let Some(chosen) = chosen {
            return (chosen, tokens);
        }
        let mut end = limit;
        loop {
            let place = grapheme_end(text, start, end);
            if let Some(tokens) = meter.count_upto(text, start, place) {
                return (place, tokens);
            }
            let first = text.get(start..).and_then(|rest| rest.chars().next());
            if place > end || place <= start + first.map_or(1, char::len_utf8) {
                // One character that alone has more tokens.
                let tokens = meter
                    .counter
                    .count(text.get(start..place).unwrap_or_default());
                return (place, tokens);
            }
            end = place - 1;
        }
    }

    /// The end of the text before a chunk, as much as the options allow.
    fn context(&mut self) -> String {
        let most = self.options.context_tokens;
        let before = self.buffer.get(..self.taken).unwrap_or_default().trim_end();
        let bytes = before.len().min(most.saturating_mul(BYTES_PER_TOKEN));
        let mut at = before.ceil_char_boundary(before.len() - bytes);
        let mut starts = vec![(at, 0)];
        let mut tokens = 0;
        while let Some(rest) = before.get(at..).filter(|rest| !rest.is_empty()) {
            let pretoken = self.meter.counter.pretoken(rest);
            at += pretoken.bytes;
            tokens += pretoken.tokens;
            starts.push((at, tokens));
        }
        let first = starts.partition_point(|(_, before)| tokens - before > most);
        let from = starts.get(first).map_or(before.len(), |(at, _)| *at);
        let mut ends = Vec::new();
        let mut segmenter = Segmenter::default();
        let is_whole = from == 0 && self.dropped == 0;
        let region = Region {
            from,
            to: before.len(),
            fences: &self.fences,
        };
        segmenter.ends(before, region, Level::Sentence, false, &mut ends);
        let sentences = ends
            .iter()
            .filter(|end| end.level <= Level::Sentence)
            .map(|end| end.at);
        let rest = before.get(from..).unwrap_or_default();
        let words = rest
            .match_indices(char::is_whitespace)
            .map(|(at, _)| from + at);
        for start in is_whole
            .then_some(0)
            .into_iter()
            .chain(sentences)
            .chain(words)
        {
            let context = before.get(start..).unwrap_or_default().trim_start();
            if !context.is_empty() && self.meter.counter.count_till_limit(context, most).is_some() {
                return context.to_owned();
            }
        }
        String::new()
    }
}

impl Iterator for Chunker {
    type Item = Chunk;

    /// The next chunk that no further byte can move.
    fn next(&mut self) -> Option<Chunk> {
        let is_text = self.find_start();
        if let Some(gap) = self.take_gap() {
            return Some(gap);
        }
        if !is_text {
            return None;
        }
        self.take_text()
    }
}

#[cfg(test)]
mod tests {
    // Small numbers, made here.
    #![allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )]

    use std::collections::HashMap;

    use super::*;
    use crate::input::token::{Encoding, TokenCounter};

    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 20) as usize % limit
        }
    }

    fn options(by: By, max_tokens: usize) -> ChunkerOptions {
        ChunkerOptions {
            by,
            max_tokens,
            encoding: Encoding::O200k,
            context_tokens: 0,
        }
    }

    fn cut_in(
        text: &str,
        options: ChunkerOptions,
        mut piece: impl FnMut() -> usize,
    ) -> (Vec<Chunk>, usize) {
        let mut chunker = Chunker::new(options);
        let (mut chunks, mut at) = (Vec::new(), 0);
        while at < text.len() {
            let end = text.ceil_char_boundary(at + piece().max(1));
            chunker.push(&text[at..end]);
            chunks.extend(chunker.by_ref());
            at = end;
        }
        chunker.finish();
        chunks.extend(chunker.by_ref());
        let work = chunker.meter.work + chunker.chooser.segmenter.work;
        (chunks, work)
    }

    fn cut(text: &str, by: By, max_tokens: usize) -> Vec<Chunk> {
        cut_in(text, options(by, max_tokens), || 65536).0
    }

    fn texts(chunks: &[Chunk]) -> Vec<&str> {
        chunks.iter().map(|chunk| chunk.text.as_str()).collect()
    }

    fn prose(
        random: &mut Random,
        bytes: usize,
        is_chinese: bool,
        has_paragraphs: bool,
    ) -> Vec<String> {
        let words = "the of house water people river mountain small great was seen morning evening children garden \
                     window remembered carried slowly between under second winter";
        let words: Vec<&str> = words.split_whitespace().collect();
        let (mut sentences, mut total) = (Vec::new(), 0);
        while total < bytes {
            let mut sentence = String::new();
            for word in 0..5 + random.below(25) {
                if is_chinese {
                    sentence.extend(char::from_u32(0x4e00 + random.below(3000) as u32));
                } else {
                    sentence.push_str(if word == 0 {
                        "So"
                    } else {
                        words[random.below(words.len())]
                    });
                    sentence.push(' ');
                }
            }
            sentence = sentence.trim_end().to_owned() + if is_chinese { "。" } else { "." };
            sentence += match () {
                () if has_paragraphs && random.below(5) == 0 => "\n\n",
                () if is_chinese => "",
                () => " ",
            };
            total += sentence.len();
            sentences.push(sentence);
        }
        sentences
    }

    const PARTS: &[&str] = &[
        " ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "word",
        "Dr.",
        ". ",
        "? ",
        "。",
        "……",
        "「",
        "」",
        "的",
        "字",
        "👨‍👩‍👧",
        "e\u{301}",
        "\u{301}",
        "```\n",
        "# H\n",
        "- i\n",
        "> q\n",
        "| t |\n",
        "1. ",
        "3.14",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ")))",
        "\n\n\n",
        "\u{3000}",
        "🇩🇪",
        "don't",
        "'RE",
        "ABCd",
        "======\n",
        "    ",
        "Z",
        "ก",
        "한국",
        ";\n",
        "\u{a0}",
        "//\n",
    ];

    fn jumble(random: &mut Random) -> String {
        let few = 1 + random.below(PARTS.len());
        let parts = 1 + random.below(300);
        (0..parts)
            .map(|_| PARTS[random.below(few)].repeat(1 + random.below(3)))
            .collect()
    }

    #[test]
    fn laws_hold_for_any_text() {
        let reference = bpe_openai::o200k_base();
        for seed in 1..40 {
            let random = &mut Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
            let text = jumble(random);
            let max = [1, 2, 5, 20, 50, 200][random.below(6)];
            for by in [By::Sentence, By::Paragraph, By::Line, By::File] {
                let chunks = cut(&text, by, max);
                let joined: String = chunks
                    .iter()
                    .flat_map(|chunk| [chunk.gap.as_str(), &chunk.text, &chunk.tail])
                    .collect();
                assert_eq!(joined, text, "seed {seed}");
                let mut at = 0;
                for chunk in &chunks {
                    at += chunk.gap.len();
                    assert_eq!(chunk.offset, at as u64, "seed {seed}");
                    assert_eq!(
                        chunk.line,
                        1 + text[..at].matches('\n').count() as u64,
                        "seed {seed}"
                    );
                    at += chunk.text.len() + chunk.tail.len();
                    assert_eq!(chunk.text.trim(), chunk.text, "seed {seed}");
                    let tokens = reference.count(chunk.text.as_str());
                    assert_eq!(
                        chunk.tokens.unwrap_or(tokens),
                        tokens,
                        "seed {seed} {:?}",
                        chunk.text
                    );
                    let is_one = {
                        use unicode_segmentation::UnicodeSegmentation;
                        chunk.text.graphemes(true).count() <= 1
                    };
                    assert!(
                        tokens <= max || by == By::File || is_one,
                        "seed {seed} {tokens} > {max} {:?}",
                        chunk.text
                    );
                }
                for most in [1, 7, 300] {
                    let pieces = cut_in(&text, options(by, max), || 1 + random.below(most)).0;
                    assert_eq!(pieces, chunks, "seed {seed} {by:?} {max} {most}");
                }
            }
        }
    }

    #[test]
    fn work_is_linear() {
        for unit in [
            "a", " ", "😀", "的", "\n", ". ", ".", "\u{301}", "ab\n", "=", "```\n", "x ",
        ] {
            for by in [By::Sentence, By::Paragraph, By::Line] {
                for piece in [1, 65536] {
                    let text = "x".to_owned() + &unit.repeat(20_000 / unit.len());
                    let (chunks, work) = cut_in(&text, options(by, 200), || piece);
                    assert!(work <= 20 * text.len(), "{unit:?} {by:?} {piece}: {work}");
                    assert!(chunks.iter().all(|chunk| chunk.gap.len() <= LONGEST_GAP));
                }
            }
        }
    }

    #[test]
    fn work_for_a_byte_does_not_grow_with_the_text() {
        let kinds = [
            "a", " ", "😀", "的", "\n", ". ", "aB3dE9", "\u{301}", "字。", "? ",
        ];
        let mut texts: Vec<Box<dyn Fn(usize) -> String>> =
            vec![Box::new(|bytes| format!("One.{}Two", " ".repeat(bytes)))];
        for unit in kinds {
            texts.push(Box::new(|bytes| unit.repeat(bytes / unit.len())));
        }
        for (kind, text) in texts.iter().enumerate() {
            for by in [By::Sentence, By::Paragraph, By::Line] {
                let work = |bytes| cut_in(&text(bytes), options(by, 200), || 65536).1;
                let (small, large) = (work(65_536), work(4 * 65_536));
                // What is the same for any length does not count.
                assert!(
                    large <= 4 * small + small / 5 * 4 + 4096,
                    "{kind} {by:?}: {small}, {large}"
                );
            }
        }
    }

    #[test]
    fn memory_is_bounded_and_chunks_come_early() {
        for unit in ["a", "One sentence more. ", "\n", " ", "的", "\u{301}"] {
            let mut chunker = Chunker::new(options(By::Sentence, 100));
            let mut chunks = 0;
            for _ in 0..1000 {
                chunker.push(&unit.repeat(200));
                chunks += chunker.by_ref().count();
                let held = 2 * (100 * BYTES_PER_TOKEN + LONGEST_GAP + HISTORY) + 200 * unit.len();
                assert!(
                    chunker.buffer.len() <= held,
                    "{unit:?} {}",
                    chunker.buffer.len()
                );
            }
            assert!(chunks > 2, "{unit:?}");
        }
        let mut chunker = Chunker::new(options(By::Sentence, 100));
        chunker.push(&"One sentence more. ".repeat(50));
        assert!(chunker.next().is_some());
    }

    /// What an edit does to the chunks of a text: those from the index `first` to before `last` become `new`.
    struct Change {
        first: usize,
        last: usize,
        new: Vec<String>,
    }

    /// Cuts `edited` from a little before the edit until its chunks are those of the text before the edit again,
    /// which is `grown` bytes shorter and was cut into `before`.
    fn change(before: &[Chunk], edited: &str, at: usize, grown: isize, max: usize) -> Change {
        let first = before.partition_point(|chunk| chunk.offset as usize <= at);
        let first = first.saturating_sub(4);
        let start = before[first].offset as usize;
        let mut chunker = Chunker::new(options(By::Sentence, max));
        let (mut new, mut pushed, mut same) = (Vec::new(), start, 0);
        loop {
            let end = edited.ceil_char_boundary((pushed + 16384).min(edited.len()));
            chunker.push(&edited[pushed..end]);
            pushed = end;
            if end == edited.len() {
                chunker.finish();
            }
            for chunk in chunker.by_ref() {
                let offset = (start as isize + chunk.offset as isize - grown) as u64;
                let old = before.binary_search_by_key(&offset, |chunk| chunk.offset);
                let is_same = |old: &usize| offset as usize > at && before[*old].text == chunk.text;
                let old = old.ok().filter(is_same);
                same = if old.is_some() { same + 1 } else { 0 };
                new.push(chunk.text);
                if let Some(old) = old.filter(|_| same == 3) {
                    return Change {
                        first,
                        last: old + 1,
                        new,
                    };
                }
            }
            if end == edited.len() {
                return Change {
                    first,
                    last: before.len(),
                    new,
                };
            }
        }
    }

    #[test]
    fn an_edit_of_a_megabyte_changes_few_chunks() {
        let random = &mut Random(7);
        let (max, trials) = (500, 40);
        for (is_chinese, has_paragraphs) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let sentences = prose(random, 1_000_000, is_chinese, has_paragraphs);
            let before = cut(&sentences.concat(), By::Sentence, max);
            let counted: Vec<usize> = before.iter().filter_map(|chunk| chunk.tokens).collect();
            let fill = counted.iter().sum::<usize>() * 100 / counted.len() / max;
            assert!(fill >= 75, "{is_chinese} {has_paragraphs}: fill {fill} %");
            let (mut sum, mut worst) = (0, 0);
            for trial in 0..trials {
                let mut edited = sentences.clone();
                let place = random.below(edited.len());
                let at: usize = sentences[..place].iter().map(String::len).sum();
                let new = if is_chinese {
                    "这是新写的一句话。"
                } else {
                    "This sentence is new. "
                };
                match trial % 3 {
                    0 => edited.insert(place, new.to_owned()),
                    1 => drop(edited.remove(place)),
                    _ => edited[place] = new.to_owned(),
                }
                let edited = edited.concat();
                let old: usize = sentences.iter().map(String::len).sum();
                let grown = edited.len() as isize - old as isize;
                let change = change(&before, &edited, at, grown, max);
                let mut known: HashMap<&str, usize> = HashMap::new();
                for chunk in &before[change.first..change.last] {
                    *known.entry(&chunk.text).or_default() += 1;
                }
                let mut is_new = |text: &str| match known.get_mut(text) {
                    Some(count @ 1..) => {
                        *count -= 1;
                        false
                    }
                    _ => true,
                };
                let changed = change.new.iter().filter(|text| is_new(text)).count();
                sum += changed;
                worst = worst.max(changed);
                if trial == 0 {
                    // All of it cut anew: nothing else has changed.
                    let (first, last) = (&before[..change.first], &before[change.last..]);
                    let expected: Vec<&str> = texts(first)
                        .into_iter()
                        .chain(change.new.iter().map(String::as_str))
                        .chain(texts(last))
                        .collect();
                    assert!(texts(&cut(&edited, By::Sentence, max)) == expected);
                }
            }
            assert!(
                sum <= 3 * trials && worst <= 12,
                "{is_chinese} {has_paragraphs}: {sum}/{trials}, {worst}"
            );
        }
    }

    /// The records of a text and the empty lines between them, each as `gap|text|tail`.
    fn records(text: &str) -> Vec<String> {
        let text = text.split("```").next().unwrap();
        let chunks = cut(text, By::Line, 1000).into_iter();
        chunks
            .map(|chunk| format!("{}|{}|{}", chunk.gap, chunk.text, chunk.tail))
            .collect()
    }

    #[test]
    fn modes() {
        let text = "  One. Two.\nThree\n\n\nFour\r\n \t\n```\na\n\nb\n```\n";
        assert_eq!(texts(&cut(text, By::Sentence, 1000)), [text.trim(), ""]);
        assert_eq!(
            texts(&cut(text, By::Paragraph, 1000)),
            ["One. Two.\nThree", "Four", "```\na\n\nb\n```", ""]
        );
        assert_eq!(
            records(text),
            [
                "  |One. Two.|\n",
                "|Three|\n",
                "\n||",
                "\n||",
                "|Four|\r\n",
                " \t\n||"
            ]
        );
        assert_eq!(records("a \n  b"), ["|a| \n", "  |b|"]);
        assert_eq!(texts(&cut(text, By::File, 1)), [text.trim(), ""]);
        assert!(cut("", By::Sentence, 10).is_empty());
        assert_eq!(cut(" \n", By::Line, 10).len(), 1);
    }

    #[test]
    fn a_long_line_is_one_record() {
        let text = format!("short\n{}\nlast", "some words. ".repeat(30));
        let ends: Vec<bool> = cut(&text, By::Line, 30)
            .iter()
            .filter(|chunk| !chunk.text.is_empty())
            .map(|chunk| chunk.ends_record)
            .collect();
        let last = ends.len() - 1;
        assert!(last > 3 && ends[0] && ends[last] && ends[last - 1]);
        assert!(ends[1..last - 1].iter().all(|ends_record| !ends_record));
    }

    #[test]
    fn sentences_stay_whole_and_headings_with_their_text() {
        let long = format!("It {}is so.", "really ".repeat(60));
        let chunks = cut(&format!("A short one. {long} {long}"), By::Sentence, 100);
        assert_eq!(
            texts(&chunks),
            [format!("A short one. {long}"), long.clone()]
        );
        let chunks = cut(&format!("{long}\n\n# Heading\n\n{long}"), By::Sentence, 100);
        assert_eq!(
            texts(&chunks),
            [long.clone(), format!("# Heading\n\n{long}")]
        );
    }

    #[test]
    fn a_flush_ends_the_chunk() {
        for by in [By::Sentence, By::Paragraph, By::Line] {
            let mut chunker = Chunker::new(options(by, 50));
            chunker.push("unfinished ");
            assert!(chunker.next().is_none());
            chunker.flush();
            let chunk = chunker.next().expect("what was pushed");
            assert_eq!(
                (chunk.text.as_str(), chunk.ends_record),
                ("unfinished", by != By::Line)
            );
            assert_eq!(chunker.next().expect("the gap behind it").gap, " ");
            assert!(chunker.next().is_none());
            chunker.flush();
            assert!(chunker.next().is_none());
            chunker.push("text");
            chunker.finish();
            let chunk = chunker.next().expect("the rest");
            assert_eq!(
                (chunk.gap.as_str(), chunk.text.as_str(), chunk.offset),
                ("", "text", 11)
            );
        }
    }

    #[test]
    fn context_is_the_text_before() {
        let text = "The first sentence is here. The second one follows it. ".repeat(20);
        let options = ChunkerOptions {
            context_tokens: 12,
            ..options(By::Sentence, 40)
        };
        let chunks = cut_in(&text, options, || 65536).0;
        assert_eq!(chunks[0].context, "");
        for chunk in chunks.iter().skip(1).filter(|chunk| !chunk.text.is_empty()) {
            assert!(TokenCounter::new(Encoding::O200k).count(&chunk.context) <= 12);
            assert!(
                chunk.context.starts_with("The ") && chunk.context.ends_with('.'),
                "{chunk:?}"
            );
            let before = &text[..chunk.offset as usize];
            assert!(before.trim_end().ends_with(&chunk.context));
        }
        let pieces = cut_in(&text, options, || 3).0;
        assert_eq!(pieces, chunks);
    }
}
