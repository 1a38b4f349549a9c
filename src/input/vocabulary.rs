//! The vocabularies of the two encodings, as constant tables that `build.rs` wrote into the
//! program.
//!
//! Nothing is parsed or built at start: a look-up reads the tables as they are, so a run touches
//! only the pages that its text needs. A table of hashes finds the candidate and its bytes decide,
//! so every answer is exact; only [`Vocabulary::spans`] may say yes too often, and it may.

// Hashes and keys are taken apart by casts that are meant to drop bits.
#![allow(clippy::cast_possible_truncation)]

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

const ID_BITS: u32 = 18;

/// Bytes of an id behind a short token.
const ID_BYTES: usize = 3;

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
    /// Two bits of one word for each token, by its hash: most of what is looked up is no token, and this tells so with
    /// one read. It does not for a tenth of that; with one bit for each, in as much memory, for a sixth.
    hashes: &'static [[u8; 8]],
    /// By length, from 1, the tokens of up to 16 bytes.
    short: [Short; 16],
    /// By hash, all others: where each one starts in `bytes`, then 18 bits of id and 8 of length, 0 for a free place.
    long: &'static [[u8; 8]],
    bytes: &'static [u8],
    /// One bit per hash of a pair of characters.
    spans: &'static [u8],
    /// By the last bits of a character: the characters before it from inside of which some token reaches over it.
    starts: &'static [[u8; 8]],
    /// By the last byte of a character: those after it that some token ends inside of.
    ends: &'static [[u8; 8]],
    /// The ranks of pairs of ASCII characters.
    pairs: &'static [[u8; 4]],
    /// How many tokens each character of the basic plane makes alone, in 2 bits.
    characters: &'static [u8],
    /// Which two Chinese characters are in a token together.
    han: Han,
}

/// The tokens of one length.
struct Short {
    /// By hash, a token, then its id and 1 in [`ID_BYTES`] bytes, 0 for a free place. Both are together so that a look-up
    /// waits for memory once.
    entries: &'static [u8],
    /// How many entries there is room for.
    places: u64,
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

macro_rules! short {
    ($encoding:literal: $($len:literal)*) => {
        [$(short(table!($encoding "." $len), $len)),*]
    };
}

const fn short(entries: &'static [u8], len: usize) -> Short {
    // The last entry, too, is read as if it were of the longest kind.
    let places = (entries.len() - (16 - len + 1)) / (len + ID_BYTES);
    Short {
        entries,
        places: places as u64,
    }
}

static O200K: Vocabulary = Vocabulary {
    hashes: table!("o200k.hashes").as_chunks().0,
    short: short!("o200k": 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16),
    long: table!("o200k.long").as_chunks().0,
    bytes: table!("o200k.bytes"),
    spans: table!("o200k.spans"),
    starts: table!("o200k.starts").as_chunks().0,
    ends: table!("o200k.ends").as_chunks().0,
    pairs: table!("o200k.pairs").as_chunks().0,
    characters: table!("o200k.characters"),
    han: Han {
        rows: table!("o200k.han.rows").as_chunks().0,
        marks: table!("o200k.han.marks").as_chunks().0,
        pairs: table!("o200k.han.pairs").as_chunks().0,
    },
};

static CL100K: Vocabulary = Vocabulary {
    hashes: table!("cl100k.hashes").as_chunks().0,
    short: short!("cl100k": 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16),
    long: table!("cl100k.long").as_chunks().0,
    bytes: table!("cl100k.bytes"),
    spans: table!("cl100k.spans"),
    starts: table!("cl100k.starts").as_chunks().0,
    ends: table!("cl100k.ends").as_chunks().0,
    pairs: table!("cl100k.pairs").as_chunks().0,
    characters: table!("cl100k.characters"),
    han: Han {
        rows: table!("cl100k.han.rows").as_chunks().0,
        marks: table!("cl100k.han.marks").as_chunks().0,
        pairs: table!("cl100k.han.pairs").as_chunks().0,
    },
};

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
        if token.len() > MAX_TOKEN_BYTES {
            return NO_TOKEN;
        }
        if let Some(key) = short_key(token) {
            return self.rank_of_key(hash(0, key), key, token.len());
        }
        let hash = hash_long(token);
        if !self.may_have(hash) {
            return NO_TOKEN;
        }
        self.find_long(hash, token)
    }

    /// Whether some token may have this hash.
    #[inline]
    fn may_have(&self, hash: u64) -> bool {
        let word = self
            .hashes
            .get((hash >> 38) as usize & (self.hashes.len() - 1));
        let bits = 1 << (hash >> 32 & 63) | 1 << (hash >> 52 & 63);
        word.is_some_and(|&word| u64::from_le_bytes(word) & bits == bits)
    }

    /// The rank of the token of 1 to 16 bytes whose [`short_key`] is `key`, with the hash `hash`.
    #[inline]
    pub(crate) fn rank_of_key(&self, hash: u64, key: u128, len: usize) -> u32 {
        if !self.may_have(hash) {
            return NO_TOKEN;
        }
        self.find_short(hash, key, len)
    }

    #[inline]
    fn find_short(&self, hash: u64, key: u128, len: usize) -> u32 {
        let Some(short) = self.short.get(len.wrapping_sub(1)) else {
            return NO_TOKEN;
        };
        let mut place = ((hash & 0xffff_ffff) * short.places) >> 32;
        loop {
            let entry = short.entries.get(place as usize * (len + ID_BYTES)..);
            let Some(entry) = entry.and_then(<[u8]>::first_chunk::<{ 16 + ID_BYTES + 1 }>) else {
                return NO_TOKEN;
            };
            let token = entry
                .first_chunk()
                .map_or(0, |&token| u128::from_le_bytes(token));
            let id = entry.get(len..).and_then(<[u8]>::first_chunk);
            let id = id.map_or(0, |&id| u32::from_le_bytes(id)) & ((1 << (8 * ID_BYTES)) - 1);
            if id == 0 {
                return NO_TOKEN;
            }
            if first_bytes(token, len) == key {
                return id - 1;
            }
            place += 1;
            if place == short.places {
                place = 0;
            }
        }
    }

    fn find_long(&self, hash: u64, token: &[u8]) -> u32 {
        let mut place = (((hash & 0xffff_ffff) * self.long.len() as u64) >> 32) as usize;
        loop {
            let [start, tail] = self.long.get(place).map_or([0; 2], |entry| {
                let entry = u64::from_le_bytes(*entry);
                [entry as u32, (entry >> 32) as u32]
            });
            if tail == 0 {
                return NO_TOKEN;
            }
            let (start, len) = (start as usize, (tail >> ID_BITS) as usize);
            if len == token.len() && self.bytes.get(start..start + len) == Some(token) {
                return tail & ((1 << ID_BITS) - 1);
            }
            place += 1;
            if place == self.long.len() {
                place = 0;
            }
        }
    }

    /// The rank of two ASCII characters.
    #[inline]
    pub(crate) fn rank_of_pair(&self, first: u8, second: u8) -> u32 {
        let pair = usize::from(first & 0x7f) << 7 | usize::from(second & 0x7f);
        self.pairs
            .get(pair)
            .map_or(NO_TOKEN, |&rank| u32::from_le_bytes(rank))
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
        let mask = |masks: &[[u8; 8]], at: u32| {
            let mask = masks.get(at as usize);
            mask.map_or(0, |&mask| u64::from_le_bytes(mask))
        };
        let mut is_any = false;
        if right >= 0x80 {
            is_any |= self.ends_inside(left as u8, first_byte);
        }
        if left >= 0x80 {
            let last_bits = right & 0x3f | right >> 2 & 0xfc0;
            is_any |= mask(self.starts, last_bits) >> (left & 0x3f) & 1 != 0;
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

/// What keeps the first so many bytes of a block; reading it is faster than shifting 16 bytes is.
static FIRST_BYTES: [u128; 17] = {
    let mut masks = [0; 17];
    let mut len = 1;
    while len < masks.len() {
        masks[len] = u128::MAX >> (128 - 8 * len);
        len += 1;
    }
    masks
};

/// The first bytes of `block`, up to 16, as their [`short_key`].
#[inline]
pub(crate) fn first_bytes(block: u128, len: usize) -> u128 {
    block & FIRST_BYTES.get(len).copied().unwrap_or(u128::MAX)
}

/// Up to 16 bytes as one number, as if zeros followed them; `None` for more.
///
/// Written as loads of fixed size that overlap, because copying a few bytes of unknown number into
/// a buffer is a call that takes longer than all else in a look-up.
#[inline]
pub(crate) fn short_key(bytes: &[u8]) -> Option<u128> {
    let len = bytes.len();
    if len > 16 {
        return None;
    }
    if let (Some(&first), Some(&last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let last = u128::from(u64::from_le_bytes(last));
        return Some(u128::from(u64::from_le_bytes(first)) | last << (8 * (len - 8)));
    }
    if let (Some(&first), Some(&last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let last = u64::from(u32::from_le_bytes(last));
        return Some(u128::from(
            u64::from(u32::from_le_bytes(first)) | last << (8 * (len - 4)),
        ));
    }
    let shifted = |at: usize| {
        bytes
            .get(at)
            .map_or(0, |&byte| u128::from(byte) << (8 * at))
    };
    Some(shifted(0) | shifted(1) | shifted(2))
}

/// Mixes 16 bytes into the hash of those before them: one multiplication, both halves of the
/// product.
#[inline]
pub(crate) fn hash(before: u64, key: u128) -> u64 {
    let key = key ^ u128::from(before);
    let low = (key as u64) ^ 0x9e37_79b9_7f4a_7c15;
    let high = ((key >> 64) as u64) ^ 0xd1b5_4a32_d192_ed03;
    let product = u128::from(low) * u128::from(high);
    (product as u64) ^ ((product >> 64) as u64)
}

fn hash_long(bytes: &[u8]) -> u64 {
    bytes.chunks(16).fold(0, |before, chunk| {
        hash(before, short_key(chunk).unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::pretoken::tests::{ENCODINGS, Random, oracle};

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
    fn a_short_key_is_the_bytes_and_zeros() {
        let mut random = Random(4);
        for len in 0..=16 {
            let bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
            let mut block = [0; 16];
            block[..len].copy_from_slice(&bytes);
            assert_eq!(short_key(&bytes), Some(u128::from_le_bytes(block)));
            if len > 0 {
                let mut longer = [0xff; 16];
                longer[..len].copy_from_slice(&bytes);
                let longer = u128::from_le_bytes(longer);
                assert_eq!(Some(first_bytes(longer, len)), short_key(&bytes));
            }
        }
        assert_eq!(short_key(&[0; 17]), None);
    }
}
