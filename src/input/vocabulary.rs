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
const TOKENS_PER_BASE: usize = 256;

pub(crate) struct Vocabulary {
    /// By hash: 18 bits of id + 1 and 14 bits of the hash, 0 for a free slot.
    slots: &'static [[u8; 4]],
    /// One bit per hash that some token has.
    hashes: &'static [u8],
    /// Where the bytes of every 256th token start.
    bases: &'static [[u8; 4]],
    /// Where each token's bytes start after its base; one more than there are tokens.
    offsets: &'static [[u8; 2]],
    bytes: &'static [u8],
    /// One bit per hash of a pair of characters.
    spans: &'static [u8],
}

macro_rules! table {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name))
    };
}

static O200K: Vocabulary = Vocabulary {
    slots: table!("o200k.slots").as_chunks().0,
    hashes: table!("o200k.hashes"),
    bases: table!("o200k.bases").as_chunks().0,
    offsets: table!("o200k.offsets").as_chunks().0,
    bytes: table!("o200k.bytes"),
    spans: table!("o200k.spans"),
};

static CL100K: Vocabulary = Vocabulary {
    slots: table!("cl100k.slots").as_chunks().0,
    hashes: table!("cl100k.hashes"),
    bases: table!("cl100k.bases").as_chunks().0,
    offsets: table!("cl100k.offsets").as_chunks().0,
    bytes: table!("cl100k.bytes"),
    spans: table!("cl100k.spans"),
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
        match short_key(token) {
            Some(key) => self.rank_of_key(hash(0, key), key, token.len()),
            None => self.find(
                hash_long(token),
                |start| self.bytes.get(start..start + token.len()) == Some(token),
                token.len(),
            ),
        }
    }

    /// The rank of the token of 1 to 16 bytes whose [`short_key`] is `key`, with the hash `hash`.
    #[inline]
    pub(crate) fn rank_of_key(&self, hash: u64, key: u128, len: usize) -> u32 {
        self.find(
            hash,
            |start| {
                let found = self.bytes.get(start..).and_then(<[u8]>::first_chunk);
                found.is_some_and(|&found| first_bytes(u128::from_le_bytes(found), len) == key)
            },
            len,
        )
    }

    /// The rank of the token with this hash and length whose bytes, which start at what `is_it` is
    /// given, are the right ones.
    #[inline]
    fn find(&self, hash: u64, is_it: impl Fn(usize) -> bool, len: usize) -> u32 {
        if !has_bit(self.hashes, (hash >> 32) as usize) {
            return NO_TOKEN;
        }
        let tag = (hash >> (32 + ID_BITS)) as u32;
        let mut at = (((hash & 0xffff_ffff) * self.slots.len() as u64) >> 32) as usize;
        loop {
            let slot = self
                .slots
                .get(at)
                .map_or(0, |&slot| u32::from_le_bytes(slot));
            if slot == 0 {
                return NO_TOKEN;
            }
            if slot >> ID_BITS == tag {
                let id = (slot & ((1 << ID_BITS) - 1)) - 1;
                let start = self.start(id as usize);
                if self.start(id as usize + 1) - start == len && is_it(start) {
                    return id;
                }
            }
            at += 1;
            if at == self.slots.len() {
                at = 0;
            }
        }
    }

    /// Where the bytes of a token start.
    #[inline]
    fn start(&self, id: usize) -> usize {
        let base = self.bases.get(id / TOKENS_PER_BASE);
        let base = base.map_or(0, |&base| u32::from_le_bytes(base) as usize);
        let offset = self.offsets.get(id);
        base + offset.map_or(0, |&offset| usize::from(u16::from_le_bytes(offset)))
    }

    /// Whether some token may reach from one of these neighbouring characters into the other.
    ///
    /// If not then no merge crosses that place, and the text before it and after it can be encoded
    /// alone. Each character is given as its UTF-8 bytes, the first one on top.
    #[inline]
    pub(crate) fn spans(&self, left: u32, right: u32) -> bool {
        let last_byte = left & 0xff;
        let first_byte = right >> (right.checked_ilog2().unwrap_or(0) & !7);
        // Tokens that hold both characters; that start inside the left; that end inside the right.
        self.has_pair(left, right)
            || self.has_pair(last_byte, right)
            || self.has_pair(last_byte, first_byte)
    }

    #[inline]
    fn has_pair(&self, left: u32, right: u32) -> bool {
        let pair = u64::from(left) << 32 | u64::from(right);
        has_bit(
            self.spans,
            (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize,
        )
    }
}

/// One bit of `bits`, the number of which is a power of two.
#[inline]
fn has_bit(bits: &[u8], bit: usize) -> bool {
    let byte = bits.get((bit / 8) & (bits.len() - 1));
    byte.is_some_and(|byte| byte >> (bit % 8) & 1 != 0)
}

/// The first 1 to 16 bytes of `block` as their [`short_key`].
#[inline]
pub(crate) fn first_bytes(block: u128, len: usize) -> u128 {
    block & (u128::MAX >> (128 - 8 * len))
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
