//! Encodes one piece of text by the definition: merges its parts pair by pair, always the pair with the lowest
//! rank, until no two neighbours make a token.
//!
//! Both ways to do it take quadratic time, so they are for short pieces, and on those they are faster than any
//! queue.

// A piece is short, and its key is taken apart by casts that are meant to drop bits.
#![allow(clippy::cast_possible_truncation)]

use crate::input::key;
use crate::input::place;
use crate::input::segment::width;
use crate::input::vocabulary::{NO_TOKEN, Vocabulary};

/// The order of a part that does not merge with the next one.
const NEVER: u32 = u32::MAX;

/// How many tokens the piece of up to 15 bytes makes whose key is `key`. Merging begins with the parts of which
/// `starts` has a bit, each a token; no bit is beyond `len`.
///
/// All of it is in registers and a few words of stack, as most of the words that come for the first time pass
/// through here.
pub(super) fn count(vocabulary: &Vocabulary, key: u128, len: usize, starts: u32) -> usize {
    let len = len.min(15);
    // With 16 bytes after it, the key of any part is one read of fixed size.
    let mut padded = [0; 32];
    padded[..16].copy_from_slice(&key.to_le_bytes());
    // For each part the rank of the token that it and the next part would make, and its place: the least of all
    // is the one to merge, the first of equals. A rank has 18 bits.
    let mut orders = [NEVER; 16];
    let order = |rank: u32, at: usize| match rank {
        NO_TOKEN => NEVER,
        rank => rank << 4 | at as u32,
    };
    let rank = |from: usize, to: usize| {
        let part = padded.get(from..).and_then(<[u8]>::first_chunk);
        let part = part.map_or(0, |&part| u128::from_le_bytes(part));
        let part = key::first_bytes(part, to - from);
        order(
            vocabulary.rank_of_key(place::hash(0, part), part, to - from),
            from,
        )
    };
    // A part ends at the next bit.
    let mut borders = starts | 1 << len;
    let next = |borders: u32, at: usize| {
        let later = borders & (u32::MAX << 1 << (at & 15));
        (later.trailing_zeros() as usize).min(len)
    };
    let (mut at, mut middle) = (0, next(borders, 0));
    while middle < len {
        let end = next(borders, middle);
        let (first, second) = (padded[at & 15], padded[middle & 15]);
        let pair = (end == at + 2).then(|| vocabulary.rank_of_pair(first, second));
        orders[at & 15] = match pair.flatten() {
            Some(pair) => order(pair, at),
            None => rank(at, end),
        };
        (at, middle) = (middle, end);
    }
    loop {
        let mut least = NEVER;
        let mut parts = borders & ((1 << len) - 1);
        while parts != 0 {
            least = least.min(orders[parts.trailing_zeros() as usize & 15]);
            parts &= parts - 1;
        }
        if least == NEVER {
            return borders.count_ones() as usize - 1;
        }
        let at = least as usize & 15;
        let middle = next(borders, at);
        borders ^= 1 << middle;
        orders[middle & 15] = NEVER;
        let end = next(borders, at);
        orders[at] = if end < len {
            rank(at, next(borders, end))
        } else {
            NEVER
        };
        let before = borders & ((1 << at) - 1);
        if before != 0 {
            let before = before.ilog2() as usize;
            orders[before & 15] = rank(before, end);
        }
    }
}

/// Counts a piece of up to 15 bytes in which only whole characters merge with each other, see `Border::Whole`.
/// Merging can then begin with characters: there are fewer of them than bytes.
pub(super) fn count_characters(vocabulary: &Vocabulary, key: u128, len: usize) -> usize {
    let (mut starts, mut others) = (0_u32, 0);
    let mut at = 0;
    while at < len {
        let width = width((key >> (8 * at)) as u8);
        starts |= 1 << at;
        let character = key::first_bytes(key >> (8 * at), width);
        // What is no token stays apart, as several of them.
        others += match width {
            4 => count(vocabulary, character, width, 0b1111),
            _ => {
                vocabulary.tokens_of_character((character as u32).swap_bytes() >> (32 - 8 * width))
            }
        } - 1;
        at += width;
    }
    count(vocabulary, key, len, starts) + others
}

/// Encodes pieces of any length, and keeps the memory for it.
#[derive(Debug, Default)]
pub(super) struct Merger {
    /// The parts of the piece being merged, and one that stands for its end.
    parts: Vec<Part>,
    /// The piece itself, and 16 bytes more.
    padded: Vec<u8>,
}

/// What is, or will be, one token of the piece being merged.
#[derive(Clone, Copy, Debug)]
struct Part {
    start: u32,
    /// The token that it is: the same for the same bytes.
    token: u32,
    /// The rank of the token that it and the next part would make.
    rank: u32,
}

/// The rank that was looked up last. A long piece is mostly a run of the same few characters, and so of the same parts.
#[derive(Clone, Copy, Debug)]
struct Last {
    tokens: [u32; 2],
    rank: u32,
}

impl Last {
    const NONE: Self = Self {
        tokens: [NO_TOKEN; 2],
        rank: NO_TOKEN,
    };

    /// The rank of two parts together, looked up by `rank` unless it is this one.
    #[inline]
    fn rank(&mut self, tokens: [u32; 2], rank: impl Fn() -> u32) -> u32 {
        if self.tokens != tokens {
            let rank = rank();
            *self = Self { tokens, rank };
        }
        self.rank
    }
}

impl Merger {
    /// Encodes `piece`, and says how many tokens it makes.
    pub(super) fn merge(&mut self, vocabulary: &Vocabulary, piece: &[u8]) -> usize {
        let (parts, padded) = (&mut self.parts, &mut self.padded);
        // With 16 bytes after it, the key of any part is one read of fixed size.
        padded.clear();
        padded.extend_from_slice(piece);
        padded.extend_from_slice(&[0; 16]);
        let rank = |from: u32, to: u32| {
            let part = padded.get(from as usize..).unwrap_or_default();
            let len = (to - from) as usize;
            match part.first_chunk() {
                Some(&block) if len <= 16 => {
                    let key = key::first_bytes(u128::from_le_bytes(block), len);
                    vocabulary.rank_of_key(place::hash(0, key), key, len)
                }
                _ => vocabulary.rank(part.get(..len).unwrap_or_default()),
            }
        };
        let end = piece.len() as u32;
        let mut least = NO_TOKEN;
        let mut known = Last::NONE;
        parts.clear();
        parts.extend((0..=end).map(|start| {
            let byte = |at: u32| padded[at as usize];
            let [first, second] = [byte(start), byte(start + 1)];
            // No id is as high.
            let tokens = [first, second].map(|byte| NO_TOKEN - 1 - u32::from(byte));
            let rank = if start + 2 <= end {
                let pair = vocabulary.rank_of_pair(first, second);
                known.rank(tokens, || pair.unwrap_or_else(|| rank(start, start + 2)))
            } else {
                NO_TOKEN
            };
            least = least.min(rank);
            Part {
                start,
                token: tokens[0],
                rank,
            }
        }));
        while least != NO_TOKEN {
            least = merge_all(parts, least, rank);
        }
        parts.len() - 1
    }

    /// Where the token `index` of the piece last merged starts, or its end if it has no more.
    pub(super) fn start_of(&self, index: usize) -> usize {
        let part = self.parts.get(index).or(self.parts.last());
        part.map_or(0, |part| part.start as usize)
    }
}

/// Merges the pairs of rank `least` from left to right, until one makes a new pair of no higher
/// rank, which then comes first. Returns the least rank that is left.
fn merge_all(parts: &mut Vec<Part>, least: u32, rank: impl Fn(u32, u32) -> u32) -> u32 {
    let (mut read, mut written, mut next_least) = (0, 0, NO_TOKEN);
    let (mut last_before, mut last_after) = (Last::NONE, Last::NONE);
    let mut is_interrupted = false;
    while let Some(&(mut part)) = parts.get(read) {
        read += 1;
        if part.rank == least && !is_interrupted {
            read += 1;
            part.token = least;
            part.rank = NO_TOKEN;
            let end = parts.get(read).map_or(part.start, |next| next.start);
            if let (Some(next), Some(after)) = (parts.get(read), parts.get(read + 1)) {
                part.rank =
                    last_after.rank([part.token, next.token], || rank(part.start, after.start));
                is_interrupted = part.rank <= least;
            }
            if let Some(before) = parts[..written].last_mut() {
                before.rank =
                    last_before.rank([before.token, part.token], || rank(before.start, end));
                is_interrupted |= before.rank <= least;
            }
        }
        if let Some(before) = parts[..written].last() {
            next_least = next_least.min(before.rank);
        }
        parts[written] = part;
        written += 1;
    }
    parts.truncate(written);
    next_least
}
