//! Text that comes in pieces, without its outer white space.

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
    pub fn push(&mut self, piece: &str) -> String {
        let piece = if self.has_begun {
            piece
        } else {
            piece.trim_start()
        };
        if piece.is_empty() {
            return String::new();
        }
        self.has_begun = true;
        let mut text = std::mem::take(&mut self.held);
        text.push_str(piece);
        let end = text.trim_end().len();
        text[end..].clone_into(&mut self.held);
        text.truncate(end);
        text
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
            let text: String = pieces.iter().map(|piece| trim.push(piece)).collect();
            let whole = pieces.concat();
            prop_assert_eq!(&text, whole.trim());
            prop_assert_eq!(trim.has_begun(), !text.is_empty());
        }
    }
}
