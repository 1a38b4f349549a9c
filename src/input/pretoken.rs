//! Cuts text into pre-tokens, the pieces that a tokenizer encodes one by one.
//!
//! `OpenAI` defines the cuts by a regular expression per encoding, tried at each position from left
//! to right, the first alternative that matches winning. They are followed here by hand: a regex
//! engine would need to be compiled at start, and takes most of the time of counting.
//!
//! For o200k, with `U` for `\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}` and `L` for `\p{Ll}\p{Lm}\p{Lo}\p{M}`:
//! `[^\r\n\p{L}\p{N}]?[U]*[L]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?`, the same with `[U]+[L]*`,
//! `\p{N}{1,3}`, ` ?[^\s\p{L}\p{N}]+[\r\n/]*`, `\s*[\r\n]+`, `\s+(?!\S)`, `\s+`. For cl100k:
//! `(?i:'s|'t|'re|'ve|'m|'ll|'d)`, `[^\r\n\p{L}\p{N}]?\p{L}+`, `\p{N}{1,3}`,
//! ` ?[^\s\p{L}\p{N}]+[\r\n]*`, and the same three for white space.

// A block of bytes is taken apart by casts that are meant to drop bits.
#![allow(clippy::cast_possible_truncation)]

use crate::input::vocabulary::Encoding;

// One bit per class, so that a set of classes is tested at once; `build.rs` has the same bits.
const UPPER: u8 = 1;
const LOWER: u8 = 2;
/// Letters without case, and modifier letters: both `U` and `L` of o200k.
const CASELESS: u8 = 4;
/// Combining marks: no letters, but both `U` and `L` of o200k.
const MARK: u8 = 8;
const NUMBER: u8 = 16;
const SPACE: u8 = 32;
const NEWLINE: u8 = 64;
const OTHER: u8 = 128;
/// Past the last character; in no set.
const END: u8 = 0;

const LETTER: u8 = UPPER | LOWER | CASELESS;

static INDEX: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/classes.index"));
static BLOCKS: &[[u8; 128]] = include_bytes!(concat!(env!("OUT_DIR"), "/classes.blocks"))
    .as_chunks()
    .0;

/// Where the first pre-token of a text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) bytes: usize,
    /// Whether it ends there whatever text follows.
    pub(crate) settled: bool,
}

/// The length of the first pre-token of text that starts with `block`, if it is an ASCII word of up
/// to 15 bytes that ends inside the block; 0 if it is anything else, which [`first`] is for.
///
/// Nearly all of English goes through here, so the length comes from bit masks: a loop over a
/// word's bytes costs one mispredicted branch for each word, which is more than all the rest.
#[inline]
pub(crate) fn short_word(encoding: Encoding, block: u128) -> usize {
    let (upper, lower) = ascii_letters(block);
    let first = block as u8;
    let start = if (upper | lower) & 1 != 0 {
        0
    } else if first.is_ascii_digit() || matches!(first, b'\r' | b'\n' | 0x80..) {
        return 0;
    } else {
        1
    };
    let end = match encoding {
        Encoding::O200k => {
            let lower_start = start + (upper >> start).trailing_ones();
            lower_start + (lower >> lower_start).trailing_ones()
        }
        // A contraction is a pre-token of its own here.
        Encoding::Cl100k if first == b'\'' => return 0,
        Encoding::Cl100k => start + ((upper | lower) >> start).trailing_ones(),
    };
    if end == start || end > 15 {
        return 0;
    }
    let next = (block >> (8 * end)) as u8;
    // A letter or mark may follow, or in o200k a contraction.
    if !next.is_ascii() || (next == b'\'' && encoding == Encoding::O200k) {
        return 0;
    }
    end as usize
}

/// One bit for each of the 16 bytes of `block`: is it a capital, is it a small letter of ASCII?
#[inline]
fn ascii_letters(block: u128) -> (u32, u32) {
    const ONES: u128 = u128::MAX / 255;
    let top_bits = ONES * 0x80;
    // As small letters, and without top bits, so that no sum carries into the next byte.
    let small = (block & (ONES * 0x7f)) | (ONES * 0x20);
    let from_a = small + ONES * u128::from(0x80 - b'a');
    let past_z = small + ONES * u128::from(0x7f - b'z');
    let is_letter = from_a & !past_z & !block & top_bits;
    let is_small = block << 2;
    // Gathers the top bits of 8 bytes in the top byte of the product.
    let half = |half: u64| (half >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    let gather = |bits: u128| (half(bits as u64) | half((bits >> 64) as u64) << 8) as u32;
    (gather(is_letter & !is_small), gather(is_letter & is_small))
}

/// The first pre-token of `text`, of no bytes only if `text` is empty.
pub(crate) fn first(encoding: Encoding, text: &str) -> Cut {
    let mut scanner = Scanner {
        bytes: text.as_bytes(),
        settled: true,
    };
    let word = match encoding {
        Encoding::O200k => scanner.o200k_word(),
        Encoding::Cl100k => scanner.cl100k_word(),
    };
    let bytes = word
        .or_else(|| scanner.number())
        .or_else(|| scanner.punctuation(encoding))
        .unwrap_or_else(|| scanner.white_space());
    Cut {
        bytes,
        settled: scanner.settled,
    }
}

struct Scanner<'a> {
    bytes: &'a [u8],
    /// Cleared when the end of the text has been looked at: what follows could then matter.
    settled: bool,
}

impl Scanner<'_> {
    /// The class of the character at `at`, and where the next one starts.
    #[inline]
    fn class(&mut self, at: usize) -> (u8, usize) {
        let byte = |offset: usize| usize::from(self.bytes.get(at + offset).copied().unwrap_or(0));
        let bits = |offset: usize| byte(offset) & 0x3f;
        let (character, width) = match byte(0) {
            0 if at >= self.bytes.len() => {
                self.settled = false;
                return (END, at);
            }
            ascii @ 0..0x80 => (ascii, 1),
            first @ 0x80..0xe0 => ((first & 0x1f) << 6 | bits(1), 2),
            first @ 0xe0..0xf0 => ((first & 0xf) << 12 | bits(1) << 6 | bits(2), 3),
            first => (
                (first & 7) << 18 | bits(1) << 12 | bits(2) << 6 | bits(3),
                4,
            ),
        };
        let block = INDEX.get(character / 128).map_or(0, |&block| block);
        let class = BLOCKS
            .get(usize::from(block))
            .map_or(OTHER, |block| block[character % 128]);
        (class, at + width)
    }

    /// The end of the run of characters of the classes `set` that starts at `at`.
    #[inline]
    fn run(&mut self, mut at: usize, set: u8) -> usize {
        loop {
            if set & CASELESS != 0 {
                at = self.ideographs(at);
            }
            let (class, next) = self.class(at);
            if class & set == 0 {
                return at;
            }
            at = next;
        }
    }

    /// The end of the run of Chinese characters at `at`: U+4E00 to U+9FFF, all of them letters without case.
    #[inline]
    fn ideographs(&self, mut at: usize) -> usize {
        let is_one =
            |first, second| (0xe4b8..0xea00).contains(&u16::from_be_bytes([first, second]));
        // Two at a time, as long as there are.
        while let Some(&[first, second, _, third, fourth, _, ..]) = self.bytes.get(at..) {
            if !(is_one(first, second) & is_one(third, fourth)) {
                break;
            }
            at += 6;
        }
        while let Some(&[first, second, _, ..]) = self.bytes.get(at..) {
            if !is_one(first, second) {
                break;
            }
            at += 3;
        }
        at
    }

    fn o200k_word(&mut self) -> Option<usize> {
        let (class, next) = self.class(0);
        let end = if class & LETTER != 0 {
            let (cased, upper) = self.cased_word(0);
            cased.or(upper)
        } else if class & (NUMBER | NEWLINE) != 0 {
            None
        } else {
            let (cased, upper) = self.cased_word(next);
            // A mark can be the leading character or, when that fails, the word's first.
            cased
                .or_else(|| (class == MARK).then(|| self.cased_word(0).0).flatten())
                .or(upper)
        }?;
        Some(end + self.contraction(end))
    }

    /// Ends of the matches of `[U]*[L]+` and of `[U]+[L]*` at `at`; the second is of use, and
    /// right, only without the first.
    fn cased_word(&mut self, at: usize) -> (Option<usize>, Option<usize>) {
        let mut end = at;
        // `[U]*` takes all that it can. If no `[L]` follows then it gives back up to the last
        // character that is one.
        let mut last_caseless = None;
        loop {
            let ideographs = self.ideographs(end);
            if ideographs > end {
                (end, last_caseless) = (ideographs, Some(ideographs));
            }
            let (class, next) = self.class(end);
            if class & (CASELESS | MARK) != 0 {
                last_caseless = Some(next);
            } else if class == LOWER {
                return (Some(self.run(next, LOWER | CASELESS | MARK)), None);
            } else if class != UPPER {
                return (last_caseless, (end > at).then_some(end));
            }
            end = next;
        }
    }

    fn cl100k_word(&mut self) -> Option<usize> {
        let contraction = self.contraction(0);
        if contraction > 0 {
            return Some(contraction);
        }
        let (class, next) = self.class(0);
        let start = match class {
            NUMBER | NEWLINE => return None,
            SPACE | MARK | OTHER => next,
            _ => 0,
        };
        let end = self.run(start, LETTER);
        (end > start).then_some(end)
    }

    /// The length of `(?i:'s|'t|'re|'ve|'m|'ll|'d)` at `at`, 0 if there is none.
    fn contraction(&mut self, at: usize) -> usize {
        let mut letter = |offset: usize| {
            let byte = self.bytes.get(at + offset);
            self.settled &= byte.is_some();
            byte.map_or(0, u8::to_ascii_lowercase)
        };
        if letter(0) != b'\'' {
            return 0;
        }
        match letter(1) {
            b's' | b't' | b'm' | b'd' => 2,
            b'r' | b'v' if letter(2) == b'e' => 3,
            b'l' if letter(2) == b'l' => 3,
            // The long s, `ſ`, is another case of `s`.
            0xc5 if letter(2) == 0xbf => 3,
            _ => 0,
        }
    }

    fn number(&mut self) -> Option<usize> {
        let mut end = 0;
        for _ in 0..3 {
            let (class, next) = self.class(end);
            if class != NUMBER {
                break;
            }
            end = next;
        }
        (end > 0).then_some(end)
    }

    fn punctuation(&mut self, encoding: Encoding) -> Option<usize> {
        let start = usize::from(self.bytes.first() == Some(&b' '));
        let mut end = self.run(start, OTHER | MARK);
        if end == start {
            return None;
        }
        loop {
            match self.bytes.get(end) {
                Some(b'\r' | b'\n') => end += 1,
                Some(b'/') if encoding == Encoding::O200k => end += 1,
                Some(_) => break,
                None => {
                    self.settled = false;
                    break;
                }
            }
        }
        Some(end)
    }

    fn white_space(&mut self) -> usize {
        let (mut end, mut last_newline, mut last_start) = (0, 0, 0);
        loop {
            let (class, next) = self.class(end);
            if class & (SPACE | NEWLINE) == 0 {
                break match class {
                    _ if last_newline > 0 => last_newline,
                    END => end,
                    // The last space is left to the word after it, unless there is no other.
                    _ if last_start > 0 => last_start,
                    _ => end,
                };
            }
            last_start = end;
            end = next;
            if class == NEWLINE {
                last_newline = end;
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const ENCODINGS: [Encoding; 2] = [Encoding::O200k, Encoding::Cl100k];

    pub(crate) fn oracle(encoding: Encoding) -> &'static bpe_openai::Tokenizer {
        match encoding {
            Encoding::O200k => bpe_openai::o200k_base(),
            Encoding::Cl100k => bpe_openai::cl100k_base(),
        }
    }

    /// What the alternatives of the rules, and the borders of characters in them, are about.
    const NASTY: &str = "aabcdestrlmveTSRELMVDAZ''''''ſK \u{a0}\t\r\n\n\u{b}\u{85}\u{2028}\u{3000}\
        \u{200b}\u{200d}\u{feff}0159٣²ⅷ.,!/?;:-_=<|>(\"“”’。，！「」的中国我是あアー한국가ªºʰÅǅǈıİßéÀ\
        \u{301}\u{300}\u{5b0}\u{93f}अកាខабАБ─😀👨👩🏽🇩🇪\u{fe0f}𝐀𝐚𠀀\u{e000}\u{10ffff}\u{0}\u{7f}\u{1c}";

    /// The same random numbers, and so texts, for the same seed.
    pub(crate) struct Random(pub(crate) u64);

    impl Random {
        pub(crate) fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 16) as usize % end
        }

        fn character(&mut self, end: usize) -> char {
            let code = self.below(end) as u32;
            char::from_u32(code).unwrap_or('\u{fffd}')
        }

        /// Text of up to some hundred characters: of all the nasty ones, of few of them, of any, of
        /// pieces of the vocabulary, or of letters.
        pub(crate) fn text(&mut self, encoding: Encoding) -> String {
            let nasty: Vec<char> = NASTY.chars().collect();
            let tokens = &oracle(encoding).bpe;
            let len = self.below(60);
            let few = self.below(nasty.len());
            let many = 2 + self.below(4);
            let end = [0x100, 0x3000, 0x2_0000, 0x11_0000][self.below(4)];
            let kind = self.below(6);
            (0..len).fold(String::new(), |mut text, _| {
                match kind {
                    0 => text.push(nasty[self.below(nasty.len())]),
                    1 => text.push(nasty[(few + self.below(many)) % nasty.len()]),
                    2 => text.push(self.character(end)),
                    3 | 4 => {
                        let id = self.below(tokens.num_tokens()) as u32;
                        let token = String::from_utf8_lossy(tokens.token_bytes(id)).into_owned();
                        let is_run = kind == 4 && self.below(9) == 0;
                        text += &token.repeat(if is_run { 1 + self.below(40) } else { 1 });
                    }
                    _ => text.push(char::from(b'a' + self.below(26) as u8)),
                }
                text
            })
        }
    }

    fn cuts(encoding: Encoding, mut text: &str) -> Vec<Cut> {
        let mut cuts = Vec::new();
        while !text.is_empty() {
            let cut = first(encoding, text);
            assert!(cut.bytes > 0, "no progress at {text:?}");
            text = &text[cut.bytes..];
            cuts.push(cut);
        }
        cuts
    }

    #[track_caller]
    fn check(encoding: Encoding, text: &str) {
        let ours: Vec<usize> = cuts(encoding, text).iter().map(|cut| cut.bytes).collect();
        let theirs: Vec<usize> = oracle(encoding).split(text).map(str::len).collect();
        assert_eq!(ours, theirs, "{encoding:?} {text:?}");
    }

    #[test]
    fn cuts_where_the_regular_expressions_do() {
        let texts = [
            "I'm you'RE he'Ll ſ'ſ 'ſ it''s 's'stone don'T'd x'v x'l 'r'e",
            "a\r\n\r\nb \r \n c\n \n\u{85}\u{2028}d \u{a0}\u{3000}e  \n  ",
            "  5 12345 \t7\t\tx !x  !x \u{301}x !\u{301}x \u{301}X X\u{301}X",
            "ABCdef 中ABC 中ABCd ABC中 ªAAAA.ªAAAAa ǅx Xǅ camelCaseXMLHttp",
            "http://x.y/z?//\n/\n//\r/ <|endoftext|> --- ... ...\n\n /\n",
            "👨‍👩‍👧‍👦🏽🇩🇪 \u{feff}\u{200d}x \u{0}\u{1c}a\u{7f}",
        ];
        for encoding in ENCODINGS {
            for text in texts {
                check(encoding, text);
            }
            let mut random = Random(1);
            for _ in 0..4_000 {
                check(encoding, &random.text(encoding));
            }
        }
    }

    #[test]
    fn a_character_of_every_class_and_block_is_as_in_the_regular_expressions() {
        for encoding in ENCODINGS {
            for character in ('\0'..=char::MAX).step_by(7) {
                check(encoding, &format!("a{character}B{character}1{character}"));
            }
        }
    }

    #[test]
    fn short_words_are_cut_as_all_others_are() {
        let mut random = Random(2);
        let mut seen = 0;
        for round in 0..100_000 {
            let encoding = ENCODINGS[round % 2];
            let text: String = (0..20)
                .map(|_| match random.below(3) {
                    0 => char::from(random.below(128) as u8),
                    1 => char::from(b"aAzZ[`@{' \xe9"[random.below(11)]),
                    _ => char::from(b'a' + random.below(26) as u8),
                })
                .collect();
            let block = u128::from_le_bytes(*text.as_bytes().first_chunk().expect("20 characters"));
            let bytes = short_word(encoding, block);
            if bytes > 0 {
                seen += 1;
                let settled = true;
                assert_eq!(first(encoding, &text), Cut { bytes, settled }, "{text:?}");
            }
        }
        assert!(seen > 20_000);
    }

    #[test]
    fn what_is_settled_stays_whatever_follows() {
        for encoding in ENCODINGS {
            let mut random = Random(3);
            for _ in 0..4_000 {
                let text = random.text(encoding);
                let start = &text[..text.floor_char_boundary(random.below(text.len() + 1))];
                let whole = cuts(encoding, &text);
                let settled = cuts(encoding, start);
                for (cut, whole) in settled.iter().zip(whole).take_while(|(cut, _)| cut.settled) {
                    assert_eq!(cut.bytes, whole.bytes, "{encoding:?} {start:?} of {text:?}");
                }
            }
        }
    }

    #[test]
    fn only_the_end_is_unsettled() {
        for (text, settled) in [
            ("word", 0),
            ("word ", 1),
            ("word'", 0),
            ("two words.", 2),
            ("123", 1),
            ("12", 0),
            ("x  ", 1),
            ("x  y ", 3),
            ("中AAAA", 0),
            ("end.\n", 1),
        ] {
            let cuts = cuts(Encoding::O200k, text);
            let count = cuts.iter().take_while(|cut| cut.settled).count();
            assert_eq!(count, settled, "{text:?}");
        }
    }
}
