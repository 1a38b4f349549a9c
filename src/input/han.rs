//! Counts runs of Chinese characters, many of them at once.
//!
//! Few pairs of these characters are in a token together, and most that are make one of just those two. So a run is
//! looked at once, with no branch that depends on it, to learn which borders between its characters tokens may reach
//! across; then most of what lies between the others is counted for the whole run at once.

// At most so many characters as a mask has bits.
#![allow(clippy::cast_possible_truncation)]

use crate::input::segment::first_character;
use crate::input::vocabulary::{Border, Han, Vocabulary};

/// Characters that are looked at together: there has to be a bit for the end too.
const MOST: usize = 63;

/// The first of the characters, as its bytes are joined below.
const FIRST: u32 = 0xe4e00;

/// A row that is none stands for a character that is not for this way.
const NO_WAY: u16 = 3 << 14;

/// The characters at the start of a piece up to a place that no token reaches across.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) bytes: usize,
    /// How many tokens they make, all but the characters in `chains`.
    pub(super) tokens: usize,
    /// One bit for each border between characters that tokens may reach across, where that is not counted yet: a run
    /// of bits is to be counted as one piece. The first border has the second bit.
    pub(super) chains: u64,
}

/// Looks at the start of `piece`, where one mark may be before the characters. No token may reach across it; 0 bytes if there are no such characters, or no end to
/// be found.
pub(super) fn run(vocabulary: &Vocabulary, piece: &[u8]) -> Run {
    let Han { rows, marks, pairs } = vocabulary.han();
    // By border, that before the character: whether both sides are a token, whether they are in a longer one, and
    // whether a token can end inside the right one.
    let (mut twos, mut longer, mut inside) = (0_u64, 0_u64, 0_u64);
    // By character: how many tokens more than one it makes alone.
    let (mut one_more, mut two_more) = (0_u64, 0_u64);
    let (mut row, mut last_byte) = (0, 0);
    let mut characters = 0;
    for &[first, second, third] in piece.as_chunks().0.iter().take(MOST) {
        let bits = |byte: u8| u32::from(byte & 0x3f);
        let code = u32::from(first) << 12 | bits(second) << 6 | bits(third);
        let place = code.wrapping_sub(FIRST) as usize;
        let found = match rows.get(place) {
            None if characters == 0 => mark(code).and_then(|mark| marks.get(mark)),
            found => found,
        };
        let Some(&found) = found else { break };
        let found = u16::from_le_bytes(found);
        if found >= NO_WAY {
            break;
        }
        let pair = pairs.get(usize::from(row) + place);
        let pair = pair.map_or(u16::MAX, |&pair| u16::from_le_bytes(pair));
        let is_pair = u64::from(pair >> 2 == row);
        let ends_inside = vocabulary.ends_inside(last_byte, first);
        twos |= (is_pair & u64::from(pair)) << characters;
        longer |= (is_pair & u64::from(pair >> 1)) << characters;
        inside |= u64::from(ends_inside) << characters;
        one_more |= u64::from(found >> 14 & 1) << characters;
        two_more |= u64::from(found >> 15) << characters;
        (row, last_byte) = (found & 0x3fff, third);
        characters += 1;
    }
    let none = Run {
        bytes: 0,
        tokens: 0,
        chains: 0,
    };
    if characters == 0 {
        return none;
    }
    // What is before the first character does not matter.
    let inside = inside & !1;
    let end = is_open_end(vocabulary, piece, 3 * characters);
    let end = u64::from(end) << characters;
    let longer = longer | inside | end;
    // A token of three or more characters reaches across two borders side by side.
    let open = twos | inside | end | longer & (longer << 1 | longer >> 1);
    let before_end = u64::MAX >> (MOST - characters);
    let cut = 63 - (!open & before_end).leading_zeros() as usize;
    if cut == 0 {
        return none;
    }
    let within = (1 << cut) - 1;
    let open = open & within;
    let first = open & !(open << 1);
    let alone = first & !(open >> 1);
    let two = first & open >> 1 & !(open >> 2);
    // One token of two characters; and with a third one that is in none with both of them.
    let simple = alone & !inside | two & !(longer & longer >> 1) & !(inside | inside >> 1);
    let chains = open & !(simple | (simple & two) << 1);
    let others = within & !(chains | chains >> 1);
    let count = |mask: u64| (mask & others).count_ones() as usize;
    Run {
        bytes: 3 * cut,
        tokens: count(within) + count(one_more) + 2 * count(two_more)
            - simple.count_ones() as usize,
        chains,
    }
}

/// The place in a table of marks of a character given as its bytes are joined in [`run`]: the same function as in
/// `build.rs`.
fn mark(code: u32) -> Option<usize> {
    let offset = (code & 0x3f) as usize;
    match code >> 6 {
        0x3bfc => Some(offset),
        0x38c0 => Some(64 + offset),
        0x3880 => Some(128 + offset),
        _ => None,
    }
}

/// Whether tokens may reach across `at`, the end of some characters of 3 bytes.
fn is_open_end(vocabulary: &Vocabulary, piece: &[u8], at: usize) -> bool {
    let left = first_character(piece.get(at - 3..).unwrap_or_default());
    let right = piece.get(at..).and_then(first_character);
    match (left, right) {
        (Some((left, _)), Some((right, _))) => {
            vocabulary.border(left, right, piece[at]) != Border::Closed
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::input::pretoken::tests::{ENCODINGS, Random, oracle};
    use crate::input::token::TokenCounter;

    #[test]
    fn runs_of_chinese_are_exact() {
        let is_han = |character: char| ('\u{4e00}'..='\u{9fff}').contains(&character);
        for encoding in ENCODINGS {
            let bpe = &oracle(encoding).bpe;
            let count = u32::try_from(bpe.num_tokens()).unwrap();
            let tokens: Vec<String> = (0..count)
                .map(|id| String::from_utf8_lossy(bpe.token_bytes(id)).into_owned())
                .filter(|token| token.contains(is_han))
                .collect();
            let common: Vec<char> = tokens.iter().flat_map(|token| token.chars()).collect();
            let mut counter = TokenCounter::new(encoding);
            let mut random = Random(8);
            for _ in 0..4_000 {
                let few = random.below(common.len() - 8);
                let kind = random.below(5);
                let text: String = (0..=random.below(90)).fold(String::new(), |mut text, _| {
                    let rare = 0x4e00 + u32::try_from(random.below(0x5200)).unwrap();
                    match kind {
                        0 => text += &tokens[random.below(tokens.len())],
                        1 => text.push(common[random.below(common.len())]),
                        2 => text.push(common[few + random.below(8)]),
                        _ if random.below(8) == 0 => text.extend(char::from_u32(rare)),
                        3 if random.below(3) == 0 => {
                            text += ["，", "“", "、", "ん", "가", "x"][random.below(6)];
                        }
                        _ => text += &tokens[random.below(40)],
                    }
                    text
                });
                let expected = oracle(encoding).count(text.as_str());
                assert_eq!(counter.count(&text), expected, "{encoding:?} {text:?}");
            }
        }
    }
}
