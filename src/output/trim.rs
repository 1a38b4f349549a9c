//! Text that comes in pieces, without its outer white space.

use std::borrow::Cow;

/// Takes pieces of one text and hands them on, but for the white space around the whole.
#[derive(Clone, Debug, Default)]
pub struct Trim {
    /// White space at the end of what came; it is text only if more follows.
    held: String,
    has_begun: bool,
}

impl Trim {
    /// Whether anything but white space has come.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// What can be handed on now that this piece has come.
    pub fn push<'p>(&mut self, piece: &'p str) -> Cow<'p, str> {
        let piece = if self.has_begun {
            piece
        } else {
            piece.trim_start()
        };
        if piece.is_empty() {
            return Cow::default();
        }
        self.has_begun = true;
        // White space alone is held too, behind what is held already.
        let text = piece.trim_end();
        if text.is_empty() {
            self.held.push_str(piece);
            return Cow::default();
        }
        let before = std::mem::take(&mut self.held);
        piece[text.len()..].clone_into(&mut self.held);
        if before.is_empty() {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(before + text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_make_the_trimmed_whole(pieces in prop::collection::vec("[ \n\tab日]{0,6}", 0..8)) {
            let mut trim = Trim::default();
            let text: String = pieces.iter().map(|piece| trim.push(piece).into_owned()).collect();
            let whole = pieces.concat();
            prop_assert_eq!(&text, whole.trim());
            prop_assert_eq!(trim.has_begun(), !text.is_empty());
        }
    }
}
