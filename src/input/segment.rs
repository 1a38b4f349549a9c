//! Cuts a pre-token where no token of the vocabulary reaches across, so that each side can be encoded alone.

use crate::input::vocabulary::{Border, Vocabulary};

/// The start of a piece, up to a place that no token reaches across.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) end: usize,
    /// Whether it is that; else it was given up before.
    pub(super) is_whole: bool,
    /// What crosses the borders between its characters.
    pub(super) crossed: Border,
}

/// Finds the first segment of `piece`, or gives up after about `most` bytes.
pub(super) fn segment(vocabulary: &Vocabulary, piece: &[u8], most: usize) -> Segment {
    // A window can start inside a character, which has then an unknown beginning: no end is put
    // after it.
    let mut at = piece.iter().take_while(|&byte| byte & 0xc0 == 0x80).count();
    let mut left = None;
    let mut crossed = if at == 0 { Border::Whole } else { Border::Any };
    while let Some((right, width)) = first_character(piece.get(at..).unwrap_or_default()) {
        if let Some(left) = left {
            let border = vocabulary.border(left, right, piece[at]);
            if border == Border::Closed || at >= most {
                return Segment {
                    end: at,
                    is_whole: border == Border::Closed,
                    crossed,
                };
            }
            if border == Border::Any {
                crossed = border;
            }
        }
        left = Some(right);
        at += width;
    }
    Segment {
        end: piece.len(),
        is_whole: true,
        crossed,
    }
}

/// The first character of `bytes`, as those with the first one on top, and its width. What is cut off at the end
/// counts as a character.
#[inline]
pub(super) fn first_character(bytes: &[u8]) -> Option<(u32, usize)> {
    Some(match *bytes {
        [a @ 0..0x80, ..] | [a] => (u32::from(a), 1),
        [a @ ..0xe0, b, ..] | [a, b] => (u32::from_be_bytes([0, 0, a, b]), 2),
        [a @ ..0xf0, b, c, ..] | [a, b, c] => (u32::from_be_bytes([0, a, b, c]), 3),
        [a, b, c, d, ..] => (u32::from_be_bytes([a, b, c, d]), 4),
        [] => return None,
    })
}

pub(super) fn width(first_byte: u8) -> usize {
    match first_byte {
        0..0xc0 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0.. => 4,
    }
}
