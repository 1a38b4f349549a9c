//! Chooses the place to cut among those that fit.
//!
//! Places are taken by what they are and how full the chunk gets, as [`PASSES`] lists. Within a pass the text decides:
//! a place's rank is that of a hash of the bytes around it, in coarse steps, and of the highest rank the last
//! one wins. High ranks are rare, so chunkings that began at different places soon meet at one, and from there on
//! they are the same: an edit changes a few chunks and not all later ones. The coarser the steps, the fuller
//! the chunks and the later they meet.

use unicode_segmentation::UnicodeSegmentation;

use crate::input::block::{Boundary, Level};
use crate::input::fences::Fences;
use crate::input::sentence::{Region, Segmenter};

/// The bytes on each side of a place that decide its rank.
const NEIGHBOURHOOD: usize = 48;

/// A rank is so many bits of a hash: each is 8 times as rare as the one below.
const RANK_BITS: u32 = 3;

/// Text without white space is cut between words in the last so many bytes.
const WORDS: usize = 512;

/// The longest character, with all its marks, that is kept in one piece.
pub(super) const LONGEST_GRAPHEME: usize = 256;

/// Levels, and from which percentage of the budget on each is looked for; places above the lowest rank in all of the
/// region.
type Levels = &'static [(Level, usize)];

/// Regions of the budget in percent, and the levels to look for there, one after the other. The wider the first
/// region, the sooner chunkings meet; the narrower, the fuller the chunks. With ranks as rare as here they meet
/// sooner, and are as full, as with a narrower region and more frequent ranks. Paragraphs can be so few that most have
/// the lowest rank: those are taken from the last part. Better a short chunk than a cut inside a sentence.
const PASSES: [(usize, usize, Levels); 3] = [
    (
        24,
        100,
        &[
            (Level::Paragraph, 55),
            (Level::Sentence, 24),
            (Level::Line, 24),
        ],
    ),
    (0, 24, &[(Level::Sentence, 0)]),
    (40, 100, &[(Level::Wrap, 40)]),
];

/// The part of the text in which to cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window<'a> {
    /// What may be looked at: some text before the chunk, and some after its last place to cut.
    pub(super) text: &'a str,
    pub(super) start: usize,
    /// No place after this one fits.
    pub(super) end: usize,
}

/// Chooses places to cut; one is kept for its memory.
#[derive(Debug, Default)]
pub(super) struct Chooser {
    pub(super) segmenter: Segmenter,
    found: Vec<Boundary>,
    places: Vec<(u32, usize)>,
}

impl Chooser {
    /// The best place in `window` that `fits`, other than between any two characters.
    pub(super) fn choose(
        &mut self,
        window: Window,
        fences: &Fences,
        mut fits: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        let budget = window.end.saturating_sub(window.start);
        // Multiplied last, as a budget can be anything.
        let place_of =
            |percent: usize| window.start + budget / 100 * percent + budget % 100 * percent / 100;
        for (from, to, levels) in PASSES {
            let from = place_of(from).max(window.start + 1);
            let to = if to == 100 { window.end } else { place_of(to) };
            if from > to {
                continue;
            }
            self.found.clear();
            let mut seen = None;
            for &(level, least) in levels {
                let least = place_of(least);
                if seen.is_none_or(|seen| seen < level.min(Level::Sentence)) {
                    self.found.clear();
                    let region = Region { from, to, fences };
                    self.segmenter.ends(
                        window.text,
                        region,
                        level,
                        seen.is_some(),
                        &mut self.found,
                    );
                }
                seen = Some(level);
                self.places.clear();
                let found = self.found.iter().filter(|place| place.level <= level);
                let ranked = found.map(|place| (rank(window.text, place.at), place.at));
                self.places
                    .extend(ranked.filter(|&(rank, at)| rank > 0 || at >= least));
                if let Some(place) = self.take_best(&mut fits) {
                    return Some(place);
                }
            }
        }
        let from = place_of(40).max(window.start + 1);
        self.places.clear();
        spaces(window.text, from, window.end, &mut self.places);
        if let Some(place) = self.take_best(&mut fits) {
            return Some(place);
        }
        let from = window
            .text
            .floor_char_boundary(from.max(window.end.saturating_sub(WORDS)));
        for is_choosy in [true, false] {
            self.places.clear();
            words(window.text, from, window.end, is_choosy, &mut self.places);
            if let Some(place) = self.take_best(&mut fits) {
                return Some(place);
            }
        }
        None
    }

    /// The place of the highest rank that fits, the last of equals.
    fn take_best(&mut self, fits: &mut impl FnMut(usize) -> bool) -> Option<usize> {
        while let Some(&best) = self.places.iter().max() {
            if fits(best.1) {
                return Some(best.1);
            }
            // Next to the end of the budget a place or two can be too far; none before them is.
            self.places.retain(|place| place.1 < best.1);
        }
        None
    }
}

/// The rank of a place: how many leading bits of the hash of its neighbourhood are 0, in steps.
fn rank(text: &str, at: usize) -> u32 {
    let bytes = text.as_bytes();
    let near = bytes.get(at.saturating_sub(NEIGHBOURHOOD)..bytes.len().min(at + NEIGHBOURHOOD));
    let mut hash = 0x9e37_79b9_7f4a_7c15_u64;
    for word in near.unwrap_or_default().chunks(8) {
        let mut padded = [0; 8];
        padded[..word.len()].copy_from_slice(word);
        let product = u128::from(hash ^ u64::from_le_bytes(padded)) * 0xd6e8_feb8_6659_fd93;
        let [low, high] = [product & u128::from(u64::MAX), product >> 64];
        hash = u64::try_from(low ^ high).unwrap_or_default();
    }
    (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ hash >> 29).leading_zeros() / RANK_BITS
}

/// Ends of words before white space.
fn spaces(text: &str, from: usize, to: usize, out: &mut Vec<(u32, usize)>) {
    let mut was_space = true;
    let from = text.floor_char_boundary(from);
    for (offset, character) in text.get(from..).unwrap_or_default().char_indices() {
        let at = from + offset;
        if at > to {
            break;
        }
        let is_space = character.is_whitespace();
        if is_space && !was_space {
            out.push((rank(text, at), at));
        }
        was_space = is_space;
    }
}

/// Ends of words where they have no white space between them; if `is_choosy`, only after punctuation.
fn words(text: &str, from: usize, to: usize, is_choosy: bool, out: &mut Vec<(u32, usize)>) {
    let region = text
        .get(from..text.ceil_char_boundary(to + 1))
        .unwrap_or_default();
    let bounds = region.split_word_bound_indices().skip(1);
    for (offset, _) in bounds.filter(|(offset, _)| from + offset <= to) {
        let before = region
            .get(..offset)
            .and_then(|before| before.chars().next_back());
        if before.is_some_and(char::is_whitespace) {
            continue;
        }
        let is_after_mark = before.is_some_and(|before| !before.is_alphanumeric() && before != '_');
        if is_after_mark || !is_choosy {
            out.push((rank(text, from + offset), from + offset));
        }
    }
}

/// The last place at or before `end`, but after `start`, that is between two characters as people see them;
/// the end of the first character if that is too long.
pub(super) fn grapheme_end(text: &str, start: usize, end: usize) -> usize {
    let limit = text.ceil_char_boundary((end + 1).max(start + LONGEST_GRAPHEME));
    let region = text.get(start..limit).unwrap_or_default();
    let mut best = None;
    for (offset, _) in region.grapheme_indices(true).skip(1) {
        if start + offset <= end {
            best = Some(start + offset);
        } else if best.is_none() {
            return start + offset;
        } else {
            break;
        }
    }
    let place = best.unwrap_or_else(|| {
        if limit == text.len() && region.len() <= LONGEST_GRAPHEME {
            return limit;
        }
        // No character has so many marks: it is cut where it must be.
        let first = region.chars().next().map_or(1, char::len_utf8);
        text.floor_char_boundary(end).max(start + first)
    });
    // Never white space at the end: that is a gap.
    text.get(..place)
        .map_or(place, |text| text.trim_end().len())
}
