//! Counts tokens exactly as the models' own tokenizers do, with nothing to load at start.
//!
//! Text is cut into pre-tokens (`pretoken`), and each is encoded by itself: its bytes are merged
//! pair by pair, always the pair with the lowest rank, until no two neighbours make a token of the
//! vocabulary (`vocabulary`). Three facts make this fast, and none of them makes it inexact:
//! - most pre-tokens are short and come again, so a small table remembers their counts;
//! - where no token of the vocabulary reaches across, both sides can be encoded alone;
//! - encodings of two pieces that overlap in one token join into the encoding of the whole, so a
//!   long run is merged through a window instead of in one go, which would take quadratic time.

// A window or a short piece has its length in 32 bits with room to spare.
#![allow(clippy::cast_possible_truncation)]

use crate::input::han;
use crate::input::key;
use crate::input::memo::{MEMO_BYTES, Memo};
use crate::input::merge::{self, Merger};
use crate::input::place;
use crate::input::pretoken;
use crate::input::segment::{Segment, first_character, segment};
pub use crate::input::vocabulary::Encoding;
use crate::input::vocabulary::{Border, MAX_TOKEN_BYTES, NO_TOKEN, Vocabulary};

/// The bits of a key that no byte of ASCII has set are not in here.
const ASCII: u128 = u128::MAX / 255 * 0x7f;

/// Short pieces that are found first and counted then.
const TOGETHER: usize = 32;

/// Bytes of a run that are merged at once.
const WINDOW: usize = 64;

/// The first pre-token of a text: the unit that is encoded by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pretoken {
    /// Its length.
    pub bytes: usize,
    /// How many tokens it makes.
    pub tokens: usize,
    /// Whether it stays as it is whatever text follows.
    pub settled: bool,
}

/// Pre-tokens at the start of a text.
struct Pieces<'t> {
    /// How many short ones come first.
    count: usize,
    /// One that is not short, behind them.
    long: Option<&'t [u8]>,
    /// Whether what comes then is not settled.
    is_last: bool,
}

/// Counts the tokens of text.
#[derive(Debug)]
pub struct TokenCounter {
    encoding: Encoding,
    memo: Memo,
    merger: Merger,
}

impl TokenCounter {
    /// A counter for `encoding`. It takes its memory when it is first used.
    #[must_use]
    pub fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            memo: Memo::default(),
            merger: Merger::default(),
        }
    }

    /// How many tokens `text` makes. What stands for a special token, such as `<|endoftext|>`, is
    /// ordinary text.
    pub fn count(&mut self, text: &str) -> usize {
        let mut tokens = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let pretoken = self.pretoken(rest);
            tokens += pretoken.tokens;
            rest = rest.get(pretoken.bytes..).unwrap_or_default();
        }
        tokens
    }

    /// How many tokens `text` makes, or `None` as soon as it is known to be more than `limit`.
    pub fn count_till_limit(&mut self, text: &str, limit: usize) -> Option<usize> {
        let mut left = limit;
        let mut rest = text;
        while !rest.is_empty() {
            let bytes = if let Some(word) = self.short_word(rest) {
                left = left.checked_sub(word.tokens)?;
                word.bytes
            } else {
                let bytes = pretoken::first(self.encoding, rest).bytes;
                let piece = rest.as_bytes().get(..bytes).unwrap_or_default();
                // Spares the encoding of a run that is far too long anyway.
                if piece.len() / MAX_TOKEN_BYTES > left {
                    return None;
                }
                left = left.checked_sub(self.count_piece(piece))?;
                bytes
            };
            rest = rest.get(bytes..).unwrap_or_default();
        }
        Some(limit - left)
    }

    /// The first pre-token of `text`, which has no bytes only if `text` has none.
    #[inline]
    pub fn pretoken(&mut self, text: &str) -> Pretoken {
        self.short_word(text).unwrap_or_else(|| {
            let cut = pretoken::first(self.encoding, text);
            let piece = text.as_bytes().get(..cut.bytes).unwrap_or_default();
            Pretoken {
                bytes: cut.bytes,
                tokens: self.count_piece(piece),
                settled: cut.settled,
            }
        })
    }

    /// Takes pre-tokens from the start of `text` until there are `most` bytes or more, as long as they are settled
    /// and make no more than `limit` tokens together; says how many bytes and tokens they are.
    pub(super) fn settled(&mut self, text: &str, most: usize, limit: usize) -> (usize, usize) {
        let (mut bytes, mut tokens) = (0, 0);
        // Where the pieces are does not depend on their counts: as all are known before the first is counted, a
        // processor waits for several places of the memo at a time.
        let mut short = [0; TOGETHER];
        loop {
            let Pieces {
                count,
                long,
                is_last,
            } = self.pieces(text.get(bytes..), most - bytes, &mut short);
            for &place in short.get(..count).unwrap_or_default() {
                let (key, len) = (place & (u128::MAX >> 8), (place >> 120) as usize);
                let made = self.count_short(key, len);
                if tokens + made > limit {
                    return (bytes, tokens);
                }
                bytes += len;
                tokens += made;
            }
            if let Some(piece) = long {
                let made = self.count_long(piece);
                if tokens + made > limit {
                    return (bytes, tokens);
                }
                bytes += piece.len();
                tokens += made;
            }
            if is_last || bytes >= most {
                return (bytes, tokens);
            }
        }
    }

    /// Finds the settled pre-tokens at the start of `text` until there are `most` bytes or more; the short ones with
    /// their lengths behind 15 bytes, as in the memo.
    #[inline]
    fn pieces<'t>(
        &self,
        text: Option<&'t str>,
        most: usize,
        short: &mut [u128; TOGETHER],
    ) -> Pieces<'t> {
        let text = text.unwrap_or_default();
        let mut pieces = Pieces {
            count: 0,
            long: None,
            is_last: false,
        };
        let mut at = 0;
        for place in short {
            if at >= most {
                break;
            }
            let block = text.as_bytes().get(at..).and_then(<[u8]>::first_chunk);
            let block = block.map(|&block| u128::from_le_bytes(block));
            let word = block.map_or(0, |block| pretoken::short_word(self.encoding, block));
            let (key, len) = if word > 0 {
                (key::first_bytes(block.unwrap_or(0), word), word)
            } else {
                let rest = text.get(at..).unwrap_or_default();
                let cut = pretoken::first(self.encoding, rest);
                if !cut.settled {
                    pieces.is_last = true;
                    break;
                }
                let piece = rest.as_bytes().get(..cut.bytes).unwrap_or_default();
                if cut.bytes > MEMO_BYTES {
                    pieces.long = Some(piece);
                    break;
                }
                (key::short_key(piece).unwrap_or(0), cut.bytes)
            };
            *place = key | (len as u128) << 120;
            pieces.count += 1;
            at += len;
        }
        pieces
    }

    /// How many bytes the first `limit` tokens of `pretoken` cover, encoded as one piece.
    ///
    /// The bytes before that place make exactly `limit` tokens, or `pretoken` makes no more. The
    /// place can be inside a character. The cost depends on `limit`, not on the length of
    /// `pretoken`, and so a token there is not seen to change when only text beyond the next window
    /// would change it.
    pub fn fit(&mut self, pretoken: &str, limit: usize) -> usize {
        self.encode(pretoken.as_bytes(), limit).0
    }

    #[inline]
    fn short_word(&mut self, text: &str) -> Option<Pretoken> {
        let block = u128::from_le_bytes(*text.as_bytes().first_chunk()?);
        let bytes = pretoken::short_word(self.encoding, block);
        (bytes > 0).then(|| Pretoken {
            bytes,
            tokens: self.count_short(key::first_bytes(block, bytes), bytes),
            settled: true,
        })
    }

    fn count_piece(&mut self, piece: &[u8]) -> usize {
        if piece.len() <= MEMO_BYTES {
            let key = key::short_key(piece).unwrap_or(0);
            return self.count_short(key, piece.len());
        }
        self.count_long(piece)
    }

    /// Counts a piece segment by segment, each character looked at once.
    fn count_long(&mut self, piece: &[u8]) -> usize {
        let vocabulary = Vocabulary::of(self.encoding);
        let (mut start, mut at, mut tokens) = (0, 0, 0);
        let (mut left, mut left_width) = (0, 0);
        while let Some((right, width)) = first_character(piece.get(at..).unwrap_or_default()) {
            if at == start && width == 3 {
                let (bytes, made) = self.count_han(vocabulary, piece.get(at..).unwrap_or_default());
                if bytes > 0 {
                    tokens += made;
                    start += bytes;
                    at = start;
                    continue;
                }
            }
            if at > start && vocabulary.border(left, right, piece[at]) == Border::Closed {
                let is_character = at - start == left_width && left_width < 4;
                tokens += if is_character {
                    vocabulary.tokens_of_character(left)
                } else {
                    self.count_segment(vocabulary, piece.get(start..at))
                };
                start = at;
                continue;
            }
            if at - start >= WINDOW {
                let rest = piece.get(start..).unwrap_or_default();
                let (bytes, made) = self.encode_segment(rest, usize::MAX);
                tokens += made;
                start += bytes;
                at = start;
                continue;
            }
            (left, left_width) = (right, width);
            at += width;
        }
        if start < piece.len() {
            tokens += self.count_segment(vocabulary, piece.get(start..));
        }
        tokens
    }

    /// Counts Chinese characters at the start of `piece`, which no token reaches across; says how many bytes and tokens
    /// they are, 0 if it cannot.
    fn count_han(&mut self, vocabulary: &Vocabulary, piece: &[u8]) -> (usize, usize) {
        let han::Run {
            bytes,
            mut tokens,
            mut chains,
        } = han::run(vocabulary, piece);
        while chains != 0 {
            let first = chains.trailing_zeros() as usize;
            let end = first + (chains >> first).trailing_ones() as usize;
            tokens += self.count_segment(vocabulary, piece.get(3 * (first - 1)..3 * end));
            chains &= u64::MAX << end;
        }
        (bytes, tokens)
    }

    /// Counts a segment.
    fn count_segment(&mut self, vocabulary: &Vocabulary, segment: Option<&[u8]>) -> usize {
        let segment = segment.unwrap_or_default();
        if segment.len() <= MEMO_BYTES {
            return self.count_piece(segment);
        }
        if vocabulary.rank(segment) != NO_TOKEN {
            return 1;
        }
        self.merger.merge(vocabulary, segment)
    }

    /// Counts a piece of 1 to 15 bytes, given as its key.
    #[inline]
    fn count_short(&mut self, key: u128, len: usize) -> usize {
        let hash = place::hash(0, key);
        match self.memo.first(hash, key, len) {
            Some(tokens) => tokens,
            None => self.count_second(hash, key, len),
        }
    }

    /// Counts a short piece that is not in its first place of the memo, and puts it there.
    #[inline(never)]
    fn count_second(&mut self, hash: u64, key: u128, len: usize) -> usize {
        let tokens = match self.memo.second(hash, key, len) {
            Some(tokens) => tokens,
            // Its segments may be entered before it.
            None => self.count_new(hash, key, len),
        };
        self.memo.enter(hash, key, len, tokens);
        tokens
    }

    fn count_new(&mut self, hash: u64, key: u128, len: usize) -> usize {
        let vocabulary = Vocabulary::of(self.encoding);
        if vocabulary.rank_of_key(hash, key, len) != NO_TOKEN {
            return 1;
        }
        let all = (1 << len) - 1;
        if key & ASCII == key {
            return merge::count(vocabulary, key, len, all);
        }
        let bytes = key.to_le_bytes();
        let piece = bytes.get(..len).unwrap_or_default();
        let segment = segment(vocabulary, piece, WINDOW);
        if segment.end < len {
            return self.count_long(piece);
        }
        if segment.crossed != Border::Whole {
            return merge::count(vocabulary, key, len, all);
        }
        merge::count_characters(vocabulary, key, len)
    }

    /// Encodes `piece` up to `limit` tokens; says how many bytes they cover and how many they are.
    fn encode(&mut self, piece: &[u8], limit: usize) -> (usize, usize) {
        let (mut bytes, mut tokens) = (0, 0);
        while bytes < piece.len() && tokens < limit {
            let rest = piece.get(bytes..).unwrap_or_default();
            let (covered, made) = self.encode_segment(rest, limit - tokens);
            bytes += covered;
            tokens += made;
        }
        (bytes, tokens)
    }

    /// Encodes the start of `rest`, up to a place that no token reaches across, or to `limit`
    /// tokens.
    fn encode_segment(&mut self, rest: &[u8], limit: usize) -> (usize, usize) {
        let vocabulary = Vocabulary::of(self.encoding);
        let Segment { end, is_whole, .. } = segment(vocabulary, rest, WINDOW);
        if !is_whole {
            return self.encode_run(rest, limit);
        }
        let segment = rest.get(..end).unwrap_or_default();
        let tokens = if end <= MEMO_BYTES {
            self.count_piece(segment)
        } else if vocabulary.rank(segment) != NO_TOKEN {
            1
        } else {
            self.merger.merge(vocabulary, segment)
        };
        if tokens <= limit {
            return (end, tokens);
        }
        self.merger.merge(vocabulary, segment);
        (self.merger.start_of(limit), limit)
    }

    /// Encodes a segment that is longer than the window, or its first `limit` tokens.
    ///
    /// Windows overlap: the next one starts with a token of the last, and if it has the same token
    /// there then both together are the encoding of all the text from the first to the second's
    /// end. This holds because a sequence of tokens is an encoding when each two neighbours are the
    /// encoding of their text. If it has not then text beyond a window reached back into it, and
    /// wider ones are tried.
    fn encode_run(&mut self, rest: &[u8], limit: usize) -> (usize, usize) {
        let vocabulary = Vocabulary::of(self.encoding);
        let mut width = WINDOW;
        'widths: loop {
            let (mut start, mut tokens, mut overlap, mut fits) = (0, 0, None, None);
            loop {
                let window = rest.get(start..).unwrap_or_default();
                let segment = segment(vocabulary, window, width);
                let (len, is_last) = (segment.end, segment.is_whole);
                let piece = window.get(..len).unwrap_or_default();
                let made = self.merger.merge(vocabulary, piece);
                if overlap.is_some_and(|overlap| overlap != self.merger.start_of(1)) {
                    width *= 2;
                    continue 'widths;
                }
                // Only now does a second window agree.
                if let Some(fits) = fits {
                    return (fits, limit);
                }
                // The last tokens of a window are those that what follows most likely changes.
                let kept = if is_last { made } else { made * 3 / 4 };
                if tokens + kept >= limit {
                    fits = Some(start + self.merger.start_of(limit - tokens));
                }
                if is_last {
                    return fits.map_or((start + len, tokens + made), |fits| (fits, limit));
                }
                if kept == 0 {
                    width *= 2;
                    continue 'widths;
                }
                overlap = Some(self.merger.start_of(kept + 1) - self.merger.start_of(kept));
                start += self.merger.start_of(kept);
                tokens += kept;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::pretoken::tests::{ENCODINGS, Random, oracle};

    #[test]
    fn counts_as_the_oracle_does() {
        for encoding in ENCODINGS {
            let mut counter = TokenCounter::new(encoding);
            let mut random = Random(5);
            for _ in 0..4_000 {
                let text = random.text(encoding);
                let count = oracle(encoding).count(text.as_str());
                assert_eq!(counter.count(&text), count, "{encoding:?} {text:?}");
                let limit = random.below(count + 2);
                let till_limit = (count <= limit).then_some(count);
                assert_eq!(
                    counter.count_till_limit(&text, limit),
                    till_limit,
                    "{text:?}"
                );
            }
        }
    }

    #[test]
    fn every_token_is_one_token() {
        for encoding in ENCODINGS {
            let mut counter = TokenCounter::new(encoding);
            let oracle = &oracle(encoding).bpe;
            for id in 0..oracle.num_tokens() as u32 {
                let token = oracle.token_bytes(id);
                // What the short cut for whole tokens relies on.
                let made = counter.merger.merge(Vocabulary::of(encoding), token);
                assert_eq!(made, 1, "{encoding:?} {id}");
                assert_eq!(counter.encode(token, usize::MAX), (token.len(), 1));
            }
        }
    }

    #[test]
    fn fits_what_the_first_tokens_cover() {
        for encoding in ENCODINGS {
            let mut counter = TokenCounter::new(encoding);
            let oracle = &oracle(encoding).bpe;
            let mut random = Random(6);
            for _ in 0..3_000 {
                let text = random.text(encoding);
                let tokens = oracle.encode_via_backtracking(text.as_bytes());
                let limit = random.below(tokens.len() + 2);
                let covered = tokens.iter().take(limit);
                let covered: usize = covered.map(|&id| oracle.token_len(id)).sum();
                assert_eq!(
                    counter.fit(&text, limit),
                    covered,
                    "{limit} tokens of {text:?}"
                );
            }
        }
    }

    #[test]
    fn long_runs_are_exact() {
        let mut random = Random(7);
        let letters: String = (0..20_000)
            .map(|_| char::from(b'a' + random.below(26) as u8))
            .collect();
        let han: String = (0..20_000)
            .filter_map(|_| char::from_u32(0x4e00 + random.below(0x5000) as u32))
            .collect();
        let mut texts = vec![letters, han];
        for piece in [
            "a",
            "A",
            " ",
            "\n",
            "=",
            "─",
            "的",
            "😀",
            "👨‍👩‍👧‍👦",
            "ab",
            "xyz",
            "\u{d3e}ല\u{d4d}",
        ] {
            texts.push(piece.repeat(20_000 / piece.len()));
        }
        for encoding in ENCODINGS {
            let mut counter = TokenCounter::new(encoding);
            for text in &texts {
                let count = oracle(encoding).count(text.as_str());
                let start = &text[..text.floor_char_boundary(60)];
                assert_eq!(counter.count(text), count, "{encoding:?} {start:?}…");
                assert_eq!(counter.count_till_limit(text, count - 1), None);
                assert_eq!(counter.count_till_limit(text, count), Some(count));
            }
        }
    }

    #[test]
    fn nothing_is_made_before_it_is_needed() {
        let mut counter = TokenCounter::new(Encoding::O200k);
        assert_eq!(counter.count(""), 0);
        assert!(counter.memo.is_empty());
        assert_eq!(counter.count("Hello, world!"), 4);
        assert!(!counter.memo.is_empty());
    }
}
