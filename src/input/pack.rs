//! Packs the tokens of a vocabulary into tables: a part of `build.rs`, and not of the program, which only looks into them.

// All numbers here are far below 2^32, and hashes are taken apart by casts that are meant to drop bits.
#![allow(clippy::cast_possible_truncation)]

use std::cmp::Reverse;
use std::collections::HashMap;

use super::place::{
    ID_BITS, ID_BYTES, KEYS, OPEN, SHARED_ID_BITS, SHORT, Shape, filter, hash, home,
};

/// The ids of all tokens.
pub(crate) type Ids<'t> = HashMap<&'t [u8], usize>;

/// The tables of a vocabulary.
pub(crate) struct Tables<'t> {
    /// By the ends of their names, the bytes of the files.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// The place of each token among those of all tables.
    pub(crate) places: HashMap<&'t [u8], usize>,
}

impl<'t> Tables<'t> {
    /// Tables of all tokens but those that another vocabulary has too: of these, given by their `places` there, only the
    /// ids are kept.
    pub(crate) fn new(ids: &Ids<'t>, shared: Option<&HashMap<&[u8], usize>>) -> Self {
        let mut own: Vec<(usize, &[u8])> = ids.iter().map(|(&token, &id)| (id, token)).collect();
        own.retain(|(_, token)| shared.is_none_or(|shared| !shared.contains_key(token)));
        own.sort_unstable();
        let mut tables = Self {
            files: Vec::new(),
            places: HashMap::new(),
        };
        tables.filter(ids);
        let mut before = 0;
        for len in 1..=OPEN {
            let is_open = |token: &[u8]| shared.is_none() && token.len() == len;
            let open = own
                .extract_if(.., |(_, token)| is_open(token))
                .collect::<Vec<_>>();
            before += tables.open(len, &open, before);
        }
        for len in 1..=SHORT + 1 {
            let of_len = own
                .iter()
                .filter(|(_, token)| token.len().min(SHORT + 1) == len);
            before += tables.add(ids, len, &of_len.copied().collect::<Vec<_>>(), before);
        }
        if let Some(shared) = shared {
            tables.share(ids, shared);
        }
        tables
    }

    /// Adds the table of these tokens, which are of one length or the long ones; says how many places it has.
    fn add(&mut self, ids: &Ids, len: usize, tokens: &[(usize, &'t [u8])], before: usize) -> usize {
        let buckets = tokens.len().div_ceil(KEYS).max(1);
        let shape = Shape::new(buckets, len);
        let (keys, entries): (Vec<(u64, u64)>, Vec<u128>) = tokens
            .iter()
            .map(|&(id, token)| {
                if len > SHORT {
                    return ((hash_long(token), 0), long_entry(ids, id, token));
                }
                let (told, rest) = shape.split(key(token));
                ((hash(0, rest), told), id as u128 | rest << ID_BITS)
            })
            .unzip();
        let (pilots, places) = perfect_hash(&shape, &keys);
        let mut entries: Vec<(usize, u128)> = places.iter().copied().zip(entries).collect();
        if len <= SHORT {
            let mut is_free = vec![true; shape.places as usize];
            for &place in &places {
                is_free[place] = false;
            }
            let free = (0..is_free.len()).filter(|&place| is_free[place]);
            entries.extend(free.map(|place| (place, unmet(&shape, &pilots, place) << ID_BITS)));
        }
        let entries = packed(shape.entry_bits, entries);
        let pilots = pilots.into_iter().flat_map(u16::to_le_bytes).collect();
        self.files.push((format!("{len}.pilots"), pilots));
        self.files.push((len.to_string(), entries));
        let places = places.iter().map(|place| before + place);
        self.places
            .extend(tokens.iter().map(|(_, token)| *token).zip(places));
        shape.places as usize
    }

    /// Adds the filter, see `place`.
    fn filter(&mut self, ids: &Ids) {
        let mut words = vec![0; (5 * ids.len() / 64).next_power_of_two()];
        for token in ids.keys() {
            let (word, bits) = filter(hash_long(token), words.len());
            words[word] |= bits;
        }
        let words = words.into_iter().flat_map(u64::to_le_bytes).collect();
        self.files.push(("hashes".to_owned(), words));
    }

    /// Adds an open table of these tokens; says how many places it has.
    fn open(&mut self, len: usize, tokens: &[(usize, &'t [u8])], before: usize) -> usize {
        // 6/7 full: what is looked up here and not found has passed the filter, which few of it do.
        let count = tokens.len() * 7 / 6;
        let width = len + ID_BYTES;
        // The last entry, too, is read as if it were of the longest kind.
        let mut entries = vec![0; count * width + OPEN - len + 1];
        let mut is_taken = vec![false; count];
        // Lowest ids first, as they are the most frequent and then stay nearest to their home.
        for &(id, token) in tokens {
            let mut place = home(hash_long(token), count);
            while is_taken[place] {
                place = (place + 1) % count;
            }
            is_taken[place] = true;
            let id = (id as u32 + 1).to_le_bytes();
            entries[place * width..][..width].copy_from_slice(&[token, &id[..ID_BYTES]].concat());
            self.places.insert(token, before + place);
        }
        self.files.push((format!("{len}.open"), entries));
        count
    }

    /// By place in another vocabulary, whether the token there is one of this too, in blocks of 64 with how many there
    /// are before; and the ids of those.
    fn share(&mut self, ids: &Ids, shared: &HashMap<&[u8], usize>) {
        let both = shared
            .iter()
            .filter_map(|(token, &place)| Some((place, *ids.get(token)?)));
        let mut both: Vec<(usize, usize)> = both.collect();
        both.sort_unstable();
        let last = both.last().map_or(0, |&(place, _)| place);
        let mut blocks = vec![0_u64; last / 64 + 1];
        for (place, _) in &both {
            blocks[place / 64] |= 1 << (place % 64);
        }
        let mut before = 0_u32;
        let blocks = blocks.into_iter().flat_map(|block| {
            let count = before.to_le_bytes();
            before += block.count_ones();
            [&block.to_le_bytes()[..], &count].concat()
        });
        self.files.push(("shared".to_owned(), blocks.collect()));
        let ids = both.iter().map(|&(_, id)| id as u128).enumerate();
        self.files
            .push(("shared.ids".to_owned(), packed(SHARED_ID_BITS, ids)));
    }
}

/// A long token as two others, as short as they can be: looking it up is looking up those.
fn long_entry(ids: &Ids, id: usize, token: &[u8]) -> u128 {
    let halves = (1..token.len()).filter_map(|at| {
        let (left, right) = token.split_at(at);
        Some((
            at.max(token.len() - at),
            at,
            *ids.get(left)?,
            *ids.get(right)?,
        ))
    });
    let (_, at, left, right) = halves.min().expect("it was merged from two");
    [right, left, id]
        .iter()
        .fold(at as u128, |entry, &id| entry << ID_BITS | id as u128)
}

/// For keys, each a hash and what its place tells: the pilots, and the place of each key.
fn perfect_hash(shape: &Shape, keys: &[(u64, u64)]) -> (Vec<u16>, Vec<usize>) {
    let mut buckets = vec![Vec::new(); shape.buckets as usize];
    for (key, &(hash, _)) in keys.iter().enumerate() {
        buckets[shape.bucket(hash)].push(key);
    }
    // The largest first, as long as there is room.
    let mut order: Vec<usize> = (0..buckets.len()).collect();
    order.sort_by_key(|&bucket| Reverse(buckets[bucket].len()));
    let mut is_taken = vec![false; shape.places as usize];
    let mut places = vec![0; keys.len()];
    let mut pilots = vec![0; buckets.len()];
    for bucket in order {
        let members = &buckets[bucket];
        let mut fits = |pilot| {
            for (count, &key) in members.iter().enumerate() {
                let (hash, told) = keys[key];
                let place = shape.place(hash, pilot, told);
                if is_taken[place] {
                    for &key in &members[..count] {
                        is_taken[places[key]] = false;
                    }
                    return false;
                }
                (is_taken[place], places[key]) = (true, place);
            }
            true
        };
        let pilot = (0..u16::MAX).find(|&pilot| fits(pilot));
        pilots[bucket] = pilot.expect("there are places to spare");
    }
    (pilots, places)
}

/// What stands in an entry that is free: the stored part of keys of which none is looked for there.
fn unmet(shape: &Shape, pilots: &[u16], place: usize) -> u128 {
    let is_unmet = |rest: &u128| {
        let hash = hash(0, *rest);
        let first = shape.place(hash, pilots[shape.bucket(hash)], 0) as u64;
        (place as u64 + shape.places - first) % shape.places > shape.told_mask
    };
    let unmet = (0..=shape.rest_mask).find(is_unmet);
    unmet.expect("no key has all places")
}

/// Entries of so many bits, each at its place.
fn packed(width: u32, entries: impl IntoIterator<Item = (usize, u128)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (place, entry) in entries {
        let at = place * width as usize;
        // The last entry, too, is read as if it were of 16 bytes.
        bytes.resize(bytes.len().max(at / 8 + 16), 0);
        for (byte, bits) in bytes[at / 8..]
            .iter_mut()
            .zip((entry << (at % 8)).to_le_bytes())
        {
            *byte |= bits;
        }
    }
    bytes
}

fn hash_long(token: &[u8]) -> u64 {
    token
        .chunks(16)
        .fold(0, |before, chunk| hash(before, key(chunk)))
}

/// Up to 16 bytes as one number.
fn key(bytes: &[u8]) -> u128 {
    bytes
        .iter()
        .rfold(0, |key, &byte| key << 8 | u128::from(byte))
}
