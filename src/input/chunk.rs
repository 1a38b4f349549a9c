//! What crosses the border between `input` and the rooms after it: a piece of the input, and what makes one.

use crate::input::token::Encoding;

/// What makes a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// As many sentences as fit.
    Sentence,
    /// One paragraph, or what fits of it.
    Paragraph,
    /// One line that is not blank, or what fits of it.
    Line,
    /// The whole input, however long.
    File,
}

/// How to cut.
#[derive(Clone, Copy, Debug)]
pub struct ChunkerOptions {
    /// What makes a chunk.
    pub by: By,
    /// The bound; at least 1.
    pub max_tokens: usize,
    /// What a token is.
    pub encoding: Encoding,
    /// How many tokens of the text before a chunk are shown with it.
    pub context_tokens: usize,
}

/// A piece of the input. Gaps, texts and tails of all chunks, joined, are the input byte for byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// White space before the text.
    pub gap: String,
    /// Text without white space around it. Empty if only a gap is handed on: a long one, or the input's last.
    pub text: String,
    /// White space after the text, up to the end of the line, with [`By::Line`]; else empty.
    pub tail: String,
    /// Where in the input the text starts, in bytes.
    pub offset: u64,
    /// The line that the text starts on, from 1.
    pub line: u64,
    /// How many tokens the text makes. Not counted if the bound does not apply or the text's end is known
    /// and has no more bytes than the bound: it then makes at most as many tokens as bytes.
    pub tokens: Option<usize>,
    /// The end of the text before, from a sentence's or word's start on.
    pub context: String,
    /// Whether the line ends here, with [`By::Line`]; else true.
    pub ends_record: bool,
}
