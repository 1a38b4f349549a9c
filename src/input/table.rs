//! The tables that have the tokens of a vocabulary: looks into what `pack` wrote, as `place` tells.

// Hashes and keys are taken apart by casts that are meant to drop bits.
#![allow(clippy::cast_possible_truncation)]

use crate::input::key::first_bytes;
use crate::input::place::{self, ID_BITS, ID_BYTES, OPEN, SHORT, SPLIT_BITS, Shape};

/// An open table, see `place`: tokens and their ids stand together so that a look-up waits for memory once.
pub(super) struct Open {
    entries: &'static [u8],
    /// How many entries there is room for.
    places: usize,
    /// How many places there are in the tables before this one.
    before: usize,
}

/// A perfect hash table, see `place`.
pub(super) struct Table {
    pub(super) shape: Shape,
    pilots: &'static [[u8; 2]],
    entries: &'static [u8],
    /// How many places there are in the tables before this one.
    before: usize,
}

/// The open tables by length, from their bytes.
pub(super) const fn open(files: &[&'static [u8]; OPEN]) -> [Open; OPEN] {
    let mut tables = [const { Open::EMPTY }; OPEN];
    let (mut at, mut before) = (0, 0);
    while at < tables.len() {
        let entries = files[at];
        // The last entry, too, is read as if it were of the longest kind.
        let places = (entries.len() + at - OPEN) / (at + 1 + ID_BYTES);
        tables[at] = Open {
            entries,
            places,
            before,
        };
        before += places;
        at += 1;
    }
    tables
}

/// The tables by length, from the bytes of their pilots and of their entries.
pub(super) const fn tables(
    files: &[(&'static [u8], &'static [u8]); SHORT + 1],
    open: &[Open; OPEN],
) -> [Table; SHORT + 1] {
    let mut tables = [const { Table::EMPTY }; SHORT + 1];
    let (mut at, mut before) = (0, open[OPEN - 1].before + open[OPEN - 1].places);
    while at < tables.len() {
        let (pilots, entries) = files[at];
        let pilots = pilots.as_chunks().0;
        let shape = Shape::new(pilots.len(), at + 1);
        tables[at] = Table {
            shape,
            pilots,
            entries,
            before,
        };
        before += shape.places as usize;
        at += 1;
    }
    tables
}

impl Open {
    const EMPTY: Self = Self {
        entries: &[],
        places: 0,
        before: 0,
    };

    /// Whether it is none.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.places == 0
    }

    /// The place of a token of up to [`OPEN`] bytes, and its id.
    #[inline]
    pub(super) fn find(&self, hash: u64, key: u64, len: usize) -> Option<(usize, u32)> {
        let mut place = place::home(hash, self.places);
        loop {
            let entry = self.entries.get(place * (len + ID_BYTES)..);
            let entry = entry.and_then(<[u8]>::first_chunk::<{ OPEN + ID_BYTES + 1 }>)?;
            let token = entry
                .first_chunk()
                .map_or(0, |&token| u64::from_le_bytes(token));
            let id = entry.get(len..).and_then(<[u8]>::first_chunk);
            let id = id.map_or(0, |&id| u32::from_le_bytes(id)) & ((1 << (8 * ID_BYTES)) - 1);
            let id = id.checked_sub(1)?;
            if first_bytes(token.into(), len) as u64 == key {
                return Some((self.before + place, id));
            }
            place += 1;
            if place == self.places {
                place = 0;
            }
        }
    }
}

impl Table {
    const EMPTY: Self = Self {
        shape: Shape::new(1, 1),
        pilots: &[],
        entries: &[],
        before: 0,
    };

    /// Where a key is if it is here, given as its hash and what its place tells.
    #[inline]
    fn place(&self, hash: u64, told: u64) -> usize {
        let pilot = self.pilots.get(self.shape.bucket(hash));
        let pilot = pilot.map_or(0, |&pilot| u16::from_le_bytes(pilot));
        self.shape.place(hash, pilot, told)
    }

    /// The entry at a place, with more bits above it.
    #[inline]
    fn entry(&self, place: usize) -> u128 {
        let at = place * self.shape.entry_bits as usize;
        let bytes = self.entries.get(at / 8..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |&bytes| u128::from_le_bytes(bytes) >> (at % 8))
    }

    /// The place of a token of up to [`SHORT`] bytes, and its id.
    #[inline]
    pub(super) fn find(&self, key: u128) -> Option<(usize, u32)> {
        let (told, rest) = self.shape.split(key);
        let place = self.place(place::hash(0, rest), told);
        let entry = self.entry(place);
        let is_it = entry >> ID_BITS & self.shape.rest_mask == rest;
        is_it.then(|| (self.before + place, id(entry)))
    }

    /// The place and the id of a longer token, given its hash and its length; `ranks` tells the ranks of its parts before
    /// and after a byte.
    #[inline]
    pub(super) fn find_long(
        &self,
        hash: u64,
        len: usize,
        ranks: impl Fn(usize) -> (u32, u32),
    ) -> Option<(usize, u32)> {
        let place = self.place(hash, 0);
        let entry = self.entry(place);
        let parts = (id(entry >> ID_BITS), id(entry >> (2 * ID_BITS)));
        let middle = (entry >> (3 * ID_BITS)) as usize & ((1 << SPLIT_BITS) - 1);
        // Of another token this may be no place within it.
        let is_it = 0 < middle && middle < len && ranks(middle) == parts;
        is_it.then(|| (self.before + place, id(entry)))
    }
}

/// The id in the last bits of an entry.
#[inline]
fn id(entry: u128) -> u32 {
    entry as u32 & ((1 << ID_BITS) - 1)
}
