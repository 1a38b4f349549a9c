//! Measures how much text fits a bound, pre-token by pre-token, each counted once.
//!
//! A chunk ends before the bound does, and the next one begins in what was measured already. Cutting changes
//! only the pre-token that is cut, so the marks behind it are taken over as soon as both walks meet.

use crate::input::block::LOOK_AHEAD;
use crate::input::token::{Encoding, TokenCounter};

/// A chunk never has more bytes than this for each token of the bound, so that a line of a gigabyte of one
/// character, of which a hundred can be one token, does not have to be held.
pub(super) const BYTES_PER_TOKEN: usize = 16;

/// Marks are about so many bytes apart: a place is counted up to from the mark before it.
const STRIDE: usize = 128;

/// Where a pre-token ends, and how many tokens there are from the chunk's start up to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    end: usize,
    tokens: usize,
}

/// Measures one input.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) counter: TokenCounter,
    /// The bound, in tokens.
    max: usize,
    /// The marks of the chunk, and of what comes after it as far as it is known.
    marks: Vec<Mark>,
    /// The marks of the last chunk that could still hold for this one.
    old_marks: Vec<Mark>,
    /// Those before this one are passed.
    next_old: usize,
    /// Bytes looked at, again and again if so, to show that work is linear.
    #[cfg(test)]
    pub(super) work: usize,
}

impl Meter {
    /// A meter for one input.
    pub(super) fn new(encoding: Encoding, max: usize) -> Self {
        Self {
            counter: TokenCounter::new(encoding),
            max,
            marks: Vec::new(),
            old_marks: Vec::new(),
            next_old: 0,
            #[cfg(test)]
            work: 0,
        }
    }

    /// Goes on to the next chunk; what was counted behind this one's end may still hold.
    pub(super) fn next_chunk(&mut self) {
        std::mem::swap(&mut self.marks, &mut self.old_marks);
        self.marks.clear();
        self.next_old = 0;
    }

    /// The text lost so many bytes at its start, none of them the next chunk's.
    pub(super) fn shift(&mut self, bytes: usize) {
        self.old_marks.retain(|mark| mark.end > bytes);
        self.next_old = 0;
        for mark in &mut self.old_marks {
            mark.end -= bytes;
        }
    }

    /// Counts from `start` on until the bound is passed, or up to the known `end`.
    pub(super) fn walk(&mut self, buffer: &str, start: usize, end: Option<usize>) -> Limit {
        let max = self.max;
        let last = start.saturating_add(max.saturating_mul(BYTES_PER_TOKEN));
        let available = end.unwrap_or(buffer.len());
        let is_past = |mark: &Mark| mark.tokens > max || mark.end > available;
        if let Some(past) = self.marks.iter().position(is_past) {
            self.marks.truncate(past);
        }
        let span = Span {
            available,
            is_end: end.is_some(),
            last,
        };
        loop {
            let mark = self.last_mark(start);
            if mark.end >= last {
                return Limit::At(buffer.floor_char_boundary(last));
            }
            if end == Some(mark.end) {
                return Limit::None {
                    tokens: mark.tokens,
                };
            }
            let left = max - mark.tokens;
            let next = self.settled_upto(buffer, mark, left, available.min(last));
            if next.end > mark.end {
                self.marks.push(next);
                self.reuse_marks(next, available);
                continue;
            }
            let next = match self.pretoken_at(buffer, mark.end, left, span) {
                Err(needed) => return Limit::Unknown { needed },
                Ok(next) => next,
            };
            if next.tokens > left {
                let pretoken = buffer
                    .get(mark.end..mark.end + next.end)
                    .unwrap_or_default();
                let fitting = mark.end + self.counter.fit(pretoken, left);
                return Limit::At(buffer.floor_char_boundary(fitting.min(last)));
            }
            let next = Mark {
                end: mark.end + next.end,
                tokens: mark.tokens + next.tokens,
            };
            self.marks.push(next);
            self.reuse_marks(next, available);
        }
    }

    fn last_mark(&self, start: usize) -> Mark {
        self.marks.last().copied().unwrap_or(Mark {
            end: start,
            tokens: 0,
        })
    }

    /// The mark after all pre-tokens from `mark` on that are sure and make no more than `left` tokens, up to the next
    /// old mark or a stride.
    fn settled_upto(&mut self, buffer: &str, mark: Mark, left: usize, available: usize) -> Mark {
        let at = self.pass_old(mark.end + 1);
        let old = self.old_marks.get(at);
        let stride = old.map_or(STRIDE, |old| (old.end - mark.end).min(STRIDE));
        let seen = available.min(mark.end + stride + LOOK_AHEAD);
        let text = buffer.get(mark.end..buffer.floor_char_boundary(seen));
        let text = text.unwrap_or_default();
        let (bytes, tokens) = self.counter.settled(text, stride, left);
        #[cfg(test)]
        {
            // All of it was looked at in vain if nothing in it is sure.
            self.work += if bytes == 0 { text.len() } else { bytes };
        }
        Mark {
            end: mark.end + bytes,
            tokens: mark.tokens + tokens,
        }
    }

    /// The length and tokens of the pre-token at `at`, or of so much of it as surely makes more than `left`
    /// tokens; if that needs more of the input, how long the buffer has to be.
    fn pretoken_at(
        &mut self,
        buffer: &str,
        at: usize,
        left: usize,
        span: Span,
    ) -> Result<Mark, usize> {
        let Span {
            available,
            is_end,
            last,
        } = span;
        // A long pre-token is looked at in pieces that grow, as its tokens could pass what is left early.
        let mut length = left
            .saturating_add(1)
            .saturating_mul(4)
            .saturating_add(LOOK_AHEAD);
        loop {
            let wanted = at
                .saturating_add(length)
                .min(last.saturating_add(LOOK_AHEAD));
            let is_all = available <= wanted;
            let upto = buffer.floor_char_boundary(wanted.min(available));
            let text = buffer.get(at..upto).unwrap_or_default();
            let pretoken = self.counter.pretoken(text);
            #[cfg(test)]
            {
                self.work += pretoken.bytes;
            }
            let mark = Mark {
                end: pretoken.bytes,
                tokens: pretoken.tokens,
            };
            if pretoken.settled || (is_all && is_end) {
                return Ok(mark);
            }
            if available < wanted {
                // No sooner could the bound be passed; and what was looked at in vain has to double.
                let grown = (available - at).max(LOOK_AHEAD / 4);
                return Err((at.saturating_add(left) + 1)
                    .max(available + grown)
                    .min(wanted));
            }
            if pretoken.tokens > left || wanted >= last {
                return Ok(mark);
            }
            length = length.saturating_mul(4);
        }
    }

    /// The first old mark at or after `at`.
    fn pass_old(&mut self, at: usize) -> usize {
        let later = self.old_marks.get(self.next_old..).unwrap_or_default();
        self.next_old += later.partition_point(|old| old.end < at);
        self.next_old
    }

    /// Takes over the old marks if `mark` is at one of them: what follows is then the same.
    fn reuse_marks(&mut self, mark: Mark, available: usize) {
        let at = self.pass_old(mark.end);
        let Some(same) = self.old_marks.get(at).filter(|old| old.end == mark.end) else {
            return;
        };
        let before = same.tokens;
        let later = self.old_marks.drain(..).skip(at + 1);
        self.marks.extend(later.map(|old| Mark {
            end: old.end,
            tokens: old.tokens - before + mark.tokens,
        }));
        let max = self.max;
        let fits = |mark: &Mark| mark.tokens <= max && mark.end <= available;
        let fitting = self.marks.partition_point(fits);
        self.marks.truncate(fitting);
    }

    /// How many tokens there are from `start` to `at`, if not more than the bound.
    ///
    /// The text must not end with white space at `at`: then the pre-tokens that end before it are the same
    /// without what comes after it. Only a run of white space is cut differently at the end of a text.
    pub(super) fn count_upto(&mut self, text: &str, start: usize, at: usize) -> Option<usize> {
        let before = self.marks.partition_point(|mark| mark.end <= at);
        let mark = before
            .checked_sub(1)
            .and_then(|last| self.marks.get(last))
            .copied();
        let mark = mark.unwrap_or(Mark {
            end: start,
            tokens: 0,
        });
        #[cfg(test)]
        {
            self.work += at.saturating_sub(mark.end);
        }
        let left = self.max.checked_sub(mark.tokens)?;
        let cut = self
            .counter
            .count_till_limit(text.get(mark.end..at)?, left)?;
        Some(mark.tokens + cut)
    }
}

/// How far a walk may look.
#[derive(Clone, Copy)]
struct Span {
    /// The end of the text that is there.
    available: usize,
    /// Whether the chunk's text ends there.
    is_end: bool,
    /// Where a chunk ends at the latest.
    last: usize,
}

/// What fits the bound.
pub(super) enum Limit {
    /// All that there is.
    None {
        /// How many tokens that makes.
        tokens: usize,
    },
    /// Nothing after this place.
    At(usize),
    /// It takes a buffer of this length to know.
    Unknown {
        /// In bytes.
        needed: usize,
    },
}
