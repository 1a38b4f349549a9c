//! Remembers how many tokens short pieces make: most of them come again.

// A count has 4 bits and a place fewer than 32.
#![allow(clippy::cast_possible_truncation)]

/// The memo's entries, of 16 bytes each, as powers of two: few for a short text, which would spend more on fresh pages
/// than it gains, and half a megabyte for one with more new pieces than those.
const BITS: [u32; 2] = [8, 15];

/// Bytes that a memo's key can hold: the other byte of an entry has the length and the count.
pub(super) const MEMO_BYTES: usize = 15;

/// Counts of pieces of up to [`MEMO_BYTES`], by hash. It takes its memory when it is first used.
#[derive(Debug)]
pub(super) struct Memo {
    /// Each is a piece's bytes, 4 bits of length, 4 of count.
    entries: Vec<u128>,
    /// There are two to the power of this many entries, or none yet.
    bits: u32,
    /// How many pieces were not found where they are looked for first.
    misses: usize,
}

impl Default for Memo {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            bits: BITS[0],
            misses: 0,
        }
    }
}

impl Memo {
    /// The count of a piece, given as its key with the hash of it, if it is in its first place.
    #[inline]
    pub(super) fn first(&self, hash: u64, key: u128, len: usize) -> Option<usize> {
        count(self.entries.get(self.place(hash)), key, len)
    }

    /// The count of a piece that is not in its first place, if it is in its second one, in the same cache line.
    pub(super) fn second(&mut self, hash: u64, key: u128, len: usize) -> Option<usize> {
        self.misses += 1;
        if self.entries.is_empty() {
            self.entries = vec![0; 1 << self.bits];
        } else if self.misses > self.entries.len() && self.bits < BITS[1] {
            self.bits = BITS[1];
            self.entries = vec![0; 1 << self.bits];
        }
        count(self.entries.get(self.place(hash) ^ 1), key, len)
    }

    /// Puts a piece into its first place. What is there goes to the second one.
    pub(super) fn enter(&mut self, hash: u64, key: u128, len: usize, tokens: usize) {
        let first = self.place(hash);
        self.entries.swap(first, first ^ 1);
        if let Some(place) = self.entries.get_mut(first) {
            *place = key | (len as u128) << 120 | (tokens as u128) << 124;
        }
    }

    /// Whether it takes no memory yet.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    #[inline]
    fn place(&self, hash: u64) -> usize {
        (hash >> (64 - self.bits)) as usize
    }
}

/// The count in an entry, if that is the one of this piece.
#[inline]
fn count(entry: Option<&u128>, key: u128, len: usize) -> Option<usize> {
    let &entry = entry?;
    (entry << 4 == (key | (len as u128) << 120) << 4).then_some((entry >> 124) as usize)
}
