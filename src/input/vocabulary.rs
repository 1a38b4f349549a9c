//! The vocabularies of the two encodings, as constant tables that `build.rs` wrote into the
//! program.
//!
//! Nothing is parsed or built at start: a look-up reads the tables as they are, so a run touches
//! only the pages that its text needs. A hash finds the candidate and all of its bytes decide, so
//! every answer is exact; only [`Vocabulary::spans`] may say yes too often, and it may.
//!
//! Most tokens of cl100k are tokens of o200k too: their bytes are in the program once.

// Hashes and keys are taken apart by casts that are meant to drop bits.
#![allow(clippy::cast_possible_truncation)]

use crate::input::key::{first_bytes, short_key};
use crate::input::place::{self, OPEN, PRINTABLE, SHARED_ID_BITS, SHORT};
use crate::input::table::{self, Open, Table};

/// A way to turn text into tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `o200k_base`, of GPT-4o and all later models.
    O200k,
    /// `cl100k_base`, of GPT-4 and GPT-3.5.
    Cl100k,
}

/// No token is longer, in either encoding; `build.rs` makes sure of it.
pub(crate) const MAX_TOKEN_BYTES: usize = 128;

/// What [`Vocabulary::rank`] says of bytes that are no token; above all ranks.
pub(crate) const NO_TOKEN: u32 = u32::MAX;

/// Which two Chinese characters are in a token together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Han {
    /// By character from U+4E00 to U+9FFF: its row's number; above that, how many tokens more than one it makes alone.
    pub(crate) rows: &'static [[u8; 2]],
    /// The same of the marks that can be before them in a pre-token, by the place that `han` gives them.
    pub(crate) marks: &'static [[u8; 2]],
    /// By the sum of a row's number and a second character: that number, then whether both are in a longer token, and
    /// whether they are one.
    pub(crate) pairs: &'static [[u8; 2]],
}

pub(crate) struct Vocabulary {
    /// The vocabulary that has most of the tokens too, and what their ranks are in this one. All others are below.
    shared: Option<Shared>,
    /// The filter of `place`.
    hashes: &'static [[u8; 8]],
    /// By length, the tokens of up to [`OPEN`] bytes, with their ids, unless all of them are in `tables`.
    open: [Open; OPEN],
    /// By length, the tokens of up to [`SHORT`] bytes, each as its id and what its place does not tell of it; then all
    /// others, each as its id, the two tokens that it is made of, and where the second one starts.
    tables: [Table; SHORT + 1],
    /// One bit per hash of a pair of characters.
    spans: &'static [u8],
    /// By the last bits of a character: where it has in `starts` the characters before it from inside of which some token
    /// reaches over it.
    starts_index: &'static [u8],
    starts: &'static [[u8; 8]],
    /// By the last byte of a character: those after it that some token ends inside of.
    ends: &'static [[u8; 8]],
    /// The ranks, and 1, of pairs of printable characters of ASCII, in 3 bytes each; 0 where there is none.
    pairs: &'static [u8],
    /// How many tokens each character of the basic plane makes alone, in 2 bits.
    characters: &'static [u8],
    /// Which two Chinese characters are in a token together.
    han: Han,
}

/// Tokens of another vocabulary that are of this one too.
struct Shared {
    vocabulary: &'static Vocabulary,
    /// By 64 places of that one: one bit for each, whether the token there is one of these, then how many there are before.
    places: &'static [[u8; 12]],
    /// The ids of these, in [`SHARED_ID_BITS`] each.
    ids: &'static [u8],
}

/// Whether tokens may reach from one character into the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Border {
    /// None does: the text before it and after it can be encoded alone.
    Closed,
    /// Only tokens that are made of whole characters.
    Whole,
    /// Tokens that begin or end inside a character too.
    Any,
}

macro_rules! table {
    ($($name:literal)+) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $($name),+))
    };
}

macro_rules! open {
    ($encoding:literal: $($len:literal)*) => {
        table::open(&[$(table!($encoding "." $len ".open")),*])
    };
}

macro_rules! tables {
    ($encoding:literal: $($len:literal)*) => {
        table::tables(
            &[$((table!($encoding "." $len ".pilots"), table!($encoding "." $len))),*],
            &open!($encoding: 1 2 3 4 5 6 7 8),
        )
    };
}

macro_rules! vocabulary {
    ($encoding:literal, $shared:expr) => {
        Vocabulary {
            hashes: table!($encoding ".hashes").as_chunks().0,
            shared: $shared,
            open: open!($encoding: 1 2 3 4 5 6 7 8),
            tables: tables!($encoding: 1 2 3 4 5 6 7 8 9 10 11 12 13),
            spans: table!($encoding ".spans"),
            starts_index: table!($encoding ".starts.index"),
            starts: table!($encoding ".starts").as_chunks().0,
            ends: table!($encoding ".ends").as_chunks().0,
            pairs: table!($encoding ".pairs"),
            characters: table!($encoding ".characters"),
            han: Han {
                rows: table!($encoding ".han.rows").as_chunks().0,
                marks: table!($encoding ".han.marks").as_chunks().0,
                pairs: table!($encoding ".han.pairs").as_chunks().0,
            },
        }
    };
}

static O200K: Vocabulary = vocabulary!("o200k", None);

static CL100K: Vocabulary = vocabulary!(
    "cl100k",
    Some(Shared {
        vocabulary: &O200K,
        places: table!("cl100k.shared").as_chunks().0,
        ids: table!("cl100k.shared.ids"),
    })
);

impl Shared {
    /// The id here of the token at a place of the other vocabulary.
    #[inline]
    fn id(&self, place: usize) -> Option<u32> {
        let [bits @ .., a, b, c, d] = *self.places.get(place / 64)?;
        let bits = u64::from_le_bytes(bits);
        let before = bits & ((1 << (place % 64)) - 1);
        let at = u32::from_le_bytes([a, b, c, d]) + before.count_ones();
        let is_here = bits >> (place % 64) & 1 != 0;
        let at = at as usize * SHARED_ID_BITS as usize;
        let word = self.ids.get(at / 8..).and_then(<[u8]>::first_chunk);
        let word = word.map_or(0, |&word| u32::from_le_bytes(word) >> (at % 8));
        is_here.then_some(word & ((1 << SHARED_ID_BITS) - 1))
    }
}

impl Vocabulary {
    #[inline]
    pub(crate) fn of(encoding: Encoding) -> &'static Self {
        match encoding {
            Encoding::O200k => &O200K,
            Encoding::Cl100k => &CL100K,
        }
    }

    /// The rank of `token`, which is also its id, or [`NO_TOKEN`]. Lower ranks are merged first.
    pub(crate) fn rank(&self, token: &[u8]) -> u32 {
        if let Some(key) = short_key(token) {
            return self.rank_of_key(place::hash(0, key), key, token.len());
        }
        let hash = hash_long(token);
        if token.len() > MAX_TOKEN_BYTES || !self.may_have(hash) {
            return NO_TOKEN;
        }
        self.rank_by(|vocabulary| {
            vocabulary.find_long(hash, token.len(), |middle| {
                let (left, right) = token.split_at(middle);
                (vocabulary.rank(left), vocabulary.rank(right))
            })
        })
    }

    /// Whether some token may have this hash.
    #[inline]
    fn may_have(&self, hash: u64) -> bool {
        let (word, bits) = place::filter(hash, self.hashes.len());
        let word = self.hashes.get(word);
        word.is_some_and(|&word| u64::from_le_bytes(word) & bits == bits)
    }

    /// The rank of the token of 1 to 16 bytes whose [`short_key`] is `key`, with the hash `hash`.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "most of merging is this")]
    pub(crate) fn rank_of_key(&self, hash: u64, key: u128, len: usize) -> u32 {
        if !self.may_have(hash) {
            return NO_TOKEN;
        }
        if len > OPEN || self.shared.is_some() {
            return self.rank_elsewhere(hash, key, len);
        }
        let open = self.open.get(len.wrapping_sub(1));
        let found = open.and_then(|open| open.find(hash, key as u64, len));
        found.map_or(NO_TOKEN, |(_, id)| id)
    }

    /// The rank of a token that is not in an open table of this vocabulary.
    #[inline(never)]
    fn rank_elsewhere(&self, hash: u64, key: u128, len: usize) -> u32 {
        if len <= SHORT {
            return self.rank_by(|vocabulary| vocabulary.find(hash, key, len));
        }
        self.rank_by(|vocabulary| {
            vocabulary.find_long(hash, len, |middle| {
                let rank = |key, len| vocabulary.rank_of_key(place::hash(0, key), key, len);
                let left = rank(first_bytes(key, middle), middle);
                (left, rank(key >> (8 * middle), len - middle))
            })
        })
    }

    /// The rank of what `find` finds: its place and id in the vocabulary that it is given.
    #[inline]
    fn rank_by(&self, find: impl Fn(&Self) -> Option<(usize, u32)>) -> u32 {
        if let Some(shared) = &self.shared
            && let Some((place, _)) = find(shared.vocabulary)
            && let Some(id) = shared.id(place)
        {
            return id;
        }
        find(self).map_or(NO_TOKEN, |(_, id)| id)
    }

    /// The place of a token of up to [`SHORT`] bytes, and its id.
    #[inline]
    fn find(&self, hash: u64, key: u128, len: usize) -> Option<(usize, u32)> {
        let open = self.open.get(len.wrapping_sub(1));
        if let Some(open) = open.filter(|open| !open.is_empty()) {
            return open.find(hash, key as u64, len);
        }
        self.tables.get(len.wrapping_sub(1))?.find(key)
    }

    /// The same of a longer token.
    #[inline]
    fn find_long(
        &self,
        hash: u64,
        len: usize,
        ranks: impl Fn(usize) -> (u32, u32),
    ) -> Option<(usize, u32)> {
        let [.., table] = &self.tables;
        table.find_long(hash, len, ranks)
    }

    /// The rank of two characters of ASCII, if both are printable.
    #[inline]
    pub(crate) fn rank_of_pair(&self, first: u8, second: u8) -> Option<u32> {
        let [row, column] = [first, second].map(|byte| byte.wrapping_sub(PRINTABLE.start));
        let count = PRINTABLE.end - PRINTABLE.start;
        if row >= count || column >= count {
            return None;
        }
        let at = 3 * (usize::from(row) * usize::from(count) + usize::from(column));
        let id = self.pairs.get(at..).and_then(<[u8]>::first_chunk);
        let id = id.map_or(0, |&id| u32::from_le_bytes(id)) & 0xff_ffff;
        Some(id.wrapping_sub(1))
    }

    /// How many tokens a character makes alone, given as its 1 to 3 bytes, the first one on top.
    #[inline]
    pub(crate) fn tokens_of_character(&self, bytes: u32) -> usize {
        let code = (bytes >> 4 & 0xf000) | (bytes >> 2 & 0xfc0) | bytes & 0x3f;
        let counts = self.characters.get((code & 0xffff) as usize / 4);
        counts.map_or(0, |&counts| usize::from(counts >> (code % 4 * 2) & 3))
    }

    /// Which two Chinese characters are in a token together.
    #[inline]
    pub(crate) fn han(&self) -> Han {
        self.han
    }

    /// Whether some token ends inside a character with this first byte, and holds the end of one before it that has
    /// this last byte.
    #[inline]
    pub(crate) fn ends_inside(&self, last_byte: u8, first_byte: u8) -> bool {
        let mask = self.ends.get(usize::from(last_byte));
        mask.is_some_and(|&mask| u64::from_le_bytes(mask) >> (first_byte & 0x3f) & 1 != 0)
    }

    /// What tokens may reach from one of these neighbouring characters into the other. Each is given as its
    /// UTF-8 bytes, the first one on top; `first_byte` is the right one's.
    #[inline]
    pub(crate) fn border(&self, left: u32, right: u32, first_byte: u8) -> Border {
        let mut is_any = false;
        if right >= 0x80 {
            is_any |= self.ends_inside(left as u8, first_byte);
        }
        if left >= 0x80 {
            let last_bits = right & 0x3f | right >> 2 & 0xfc0;
            let at = self.starts_index.get(last_bits as usize);
            let mask = at.and_then(|&at| self.starts.get(usize::from(at)));
            is_any |= mask.is_some_and(|&mask| u64::from_le_bytes(mask) >> (left & 0x3f) & 1 != 0);
        }
        if is_any {
            Border::Any
        } else if has_bit(self.spans, pair_hash(left, right) as usize) {
            Border::Whole
        } else {
            Border::Closed
        }
    }
}

#[inline]
fn pair_hash(left: u32, right: u32) -> u64 {
    let pair = u64::from(left) << 32 | u64::from(right);
    pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}

/// One bit of `bits`, the number of which is a power of two.
#[inline]
fn has_bit(bits: &[u8], bit: usize) -> bool {
    let byte = bits.get((bit / 8) & (bits.len() - 1));
    byte.is_some_and(|byte| byte >> (bit % 8) & 1 != 0)
}

fn hash_long(bytes: &[u8]) -> u64 {
    bytes.chunks(16).fold(0, |before, chunk| {
        place::hash(before, short_key(chunk).unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::pretoken::tests::{ENCODINGS, oracle};

    #[test]
    fn every_token_has_its_rank() {
        for encoding in ENCODINGS {
            let (vocabulary, oracle) = (Vocabulary::of(encoding), &oracle(encoding).bpe);
            for id in 0..oracle.num_tokens() as u32 {
                assert_eq!(vocabulary.rank(oracle.token_bytes(id)), id, "{encoding:?}");
            }
        }
    }

    #[test]
    fn what_is_no_token_has_no_rank() {
        for encoding in ENCODINGS {
            let (vocabulary, oracle) = (Vocabulary::of(encoding), &oracle(encoding).bpe);
            let tokens = 0..oracle.num_tokens() as u32;
            let all: std::collections::HashSet<&[u8]> =
                tokens.clone().map(|id| oracle.token_bytes(id)).collect();
            for id in tokens.step_by(5) {
                let longer = [oracle.token_bytes(id), b"\0"].concat();
                let shorter = &longer[..longer.len() - 2];
                for bytes in [&longer, shorter]
                    .into_iter()
                    .filter(|bytes| !bytes.is_empty())
                {
                    let is_token = vocabulary.rank(bytes) != NO_TOKEN;
                    assert_eq!(is_token, all.contains(bytes), "{encoding:?} {bytes:?}");
                }
            }
        }
    }

    #[test]
    fn free_places_have_no_token() {
        for encoding in ENCODINGS {
            let (vocabulary, oracle) = (Vocabulary::of(encoding), &oracle(encoding).bpe);
            let tokens = 0..oracle.num_tokens() as u32;
            let all: std::collections::HashSet<&[u8]> =
                tokens.map(|id| oracle.token_bytes(id)).collect();
            for (at, table) in vocabulary.tables[..SHORT].iter().enumerate() {
                // Free entries have one of the first of all possible rests.
                for rest in 0..3 {
                    for told in 0..=table.shape.told_mask {
                        let key = table.shape.join(told, rest);
                        assert_eq!(table.shape.split(key), (told, rest));
                        let bytes = &key.to_le_bytes()[..=at];
                        let is_token = vocabulary.rank(bytes) != NO_TOKEN;
                        assert_eq!(is_token, all.contains(bytes), "{encoding:?} {bytes:?}");
                    }
                }
            }
        }
    }
}
