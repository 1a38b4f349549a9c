//! Where a table of tokens has each of them: what `pack`, which writes those tables at build time, and `table`, which
//! looks into them, have to compute alike.
//!
//! Most of what is looked up is no token, and a filter tells so with one read; what is looked up the most after that is
//! in open tables, which are quick. All else is in perfect hash tables, which are small. For each small group of keys, a
//! bucket, there is a number, its pilot, that was tried out so that no two keys have the same place, and nearly no place
//! is free. And a part of a key is not stored, because the place tells it: what is added to that part to get the place
//! depends only on the rest, and that is stored.

// Hashes are taken apart by casts that are meant to drop bits.
#![allow(clippy::cast_possible_truncation)]

/// Tokens of up to so many bytes are in tables by length, the others in one.
pub(crate) const SHORT: usize = 12;

/// The characters of which the tokens of two have a table of their own.
pub(crate) const PRINTABLE: std::ops::Range<u8> = b' '..0x80;

/// Tokens of up to so many bytes are looked up the most: o200k has them in open tables by length. A search there begins
/// at the home of a token, and goes on until it is found or a place is free.
pub(crate) const OPEN: usize = 8;

/// Bytes of an id behind a token there, with 1 added: 0 stands for a free place.
pub(crate) const ID_BYTES: usize = 3;

/// Bits of an id.
pub(crate) const ID_BITS: u32 = 18;

/// Bits of a place in a token where it falls apart into two others.
pub(crate) const SPLIT_BITS: u32 = 7;

/// Bits of an id of cl100k that o200k's place of the token leads to.
pub(crate) const SHARED_ID_BITS: u32 = 17;

/// Bits of an entry of the table of long tokens: two other tokens, where the second one starts, and the id.
const LONG_BITS: u32 = 3 * ID_BITS + SPLIT_BITS;

/// Keys of a bucket, on average.
pub(crate) const KEYS: usize = 5;

/// Of so many entries one is free, and some more are: else no pilot would be found for the last keys.
const FREE: usize = 64;
const SPARE: usize = 24;

/// So many bits of a key are always stored, as its bucket depends on them alone.
const LEAST_STORED: u32 = 16;

/// The measures of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) buckets: u64,
    pub(crate) places: u64,
    /// The bits of a key that its place tells.
    pub(crate) told_mask: u64,
    told_bits: u32,
    /// The bits of what is stored of it.
    pub(crate) rest_mask: u128,
    /// Bits of an entry: the id, then what is stored of the key.
    pub(crate) entry_bits: u32,
}

impl Shape {
    /// The shape of a table with so many buckets, for tokens of so many bytes, or for the long ones.
    pub(crate) const fn new(buckets: usize, len: usize) -> Self {
        let keys = buckets * KEYS;
        let places = (keys + keys / FREE + SPARE) as u64;
        // Of a long token nothing is stored that its place could tell.
        let key_bits = if len > SHORT { 0 } else { 8 * len as u32 };
        let most = key_bits.saturating_sub(LEAST_STORED);
        let told_bits = if places.ilog2() < most {
            places.ilog2()
        } else {
            most
        };
        let rest_bits = key_bits - told_bits;
        Self {
            buckets: buckets as u64,
            places,
            told_mask: (1 << told_bits) - 1,
            told_bits,
            rest_mask: (1 << rest_bits) - 1,
            entry_bits: if len > SHORT {
                LONG_BITS
            } else {
                ID_BITS + rest_bits
            },
        }
    }

    /// Takes the part of a key that its place tells from what is stored. The rest depends on that part too, or many
    /// keys would have the same.
    #[inline]
    pub(crate) const fn split(&self, key: u128) -> (u64, u128) {
        let told = key as u64 & self.told_mask;
        let mixed = told.wrapping_mul(0x9e37_79b9_7f4a_7c15) & self.rest_mask as u64;
        (told, key >> self.told_bits ^ mixed as u128)
    }

    /// The key that [`Shape::split`] takes apart so.
    #[cfg(test)]
    pub(crate) const fn join(&self, told: u64, rest: u128) -> u128 {
        let (_, mixed) = self.split(told as u128);
        told as u128 | (rest ^ mixed) << self.told_bits
    }

    /// The bucket of keys with this hash.
    #[inline]
    pub(crate) const fn bucket(&self, hash: u64) -> usize {
        (((hash & 0xffff_ffff) * self.buckets) >> 32) as usize
    }

    /// The place of a key that has `told` besides what was hashed.
    #[inline]
    pub(crate) const fn place(&self, hash: u64, pilot: u16, told: u64) -> usize {
        let mixed = hash.wrapping_mul(2 * pilot as u64 + 1) >> 32;
        let place = ((mixed * self.places) >> 32) + told;
        let past = place.wrapping_sub(self.places);
        (if place < self.places { place } else { past }) as usize
    }
}

/// The home of a token with this hash in an open table of so many places.
#[inline]
pub(crate) const fn home(hash: u64, places: usize) -> usize {
    (((hash & 0xffff_ffff) * places as u64) >> 32) as usize
}

/// By the hash of a token, one of so many words of the filter, and two bits of it. It lets a tenth pass of what is no
/// token; with one bit for each, in as much memory, a sixth.
#[inline]
pub(crate) const fn filter(hash: u64, words: usize) -> (usize, u64) {
    let bits = 1 << (hash >> 32 & 63) | 1 << (hash >> 52 & 63);
    ((hash >> 38) as usize & (words - 1), bits)
}

/// Mixes 16 bytes into the hash of those before them: one multiplication, both halves of the
/// product.
#[inline]
pub(crate) const fn hash(before: u64, key: u128) -> u64 {
    let key = key ^ before as u128;
    let low = (key as u64) ^ 0x9e37_79b9_7f4a_7c15;
    let high = ((key >> 64) as u64) ^ 0xd1b5_4a32_d192_ed03;
    let product = low as u128 * high as u128;
    (product as u64) ^ ((product >> 64) as u64)
}
