//! What is remembered of a chunk: its reply, in one piece or put together from
//! the parts that it once had to be asked about in.

use crate::api::identity::Identity;
use crate::api::reply::{Finish, Reply};
use crate::output::trim::Trim;
use crate::pipeline::mend::sum;
use crate::store::cache::{Cache, Entry, Key};

/// Looks replies up.
#[derive(Clone, Debug)]
pub struct Recall {
    /// What the requests of the run have in common.
    pub identity: Identity,
    /// What is remembered; none with `--no-cache`, or where it cannot be used.
    pub cache: Option<Cache>,
}

impl Recall {
    /// What the cache calls a text with the background before it.
    #[must_use]
    pub fn key(&self, text: &str, context: &str) -> Key {
        Key(self.identity.of(text, context))
    }

    /// What is known under each of some keys, as [`Cache::lookup_all`] says.
    #[must_use]
    pub fn entries(&self, keys: &[Key], most_bytes: usize) -> Vec<Option<Entry>> {
        match &self.cache {
            Some(cache) => cache.lookup_all(keys, most_bytes),
            None => vec![None; keys.len()],
        }
    }

    /// What is known under a key.
    #[must_use]
    pub fn entry(&self, key: &Key) -> Option<Entry> {
        self.cache.as_ref()?.lookup(key)
    }

    /// Says that a reply will come that is to be remembered.
    pub fn expect(&self) {
        if let Some(cache) = &self.cache {
            cache.expect();
        }
    }

    /// The whole reply, if all of it is known.
    fn whole(&self, key: &Key, text: &str, context: &str) -> Option<Reply> {
        match self.entry(key)? {
            Entry::Reply(reply) => Some(reply),
            Entry::Split { end, start } => self.parts(text, context, end, start),
        }
    }

    /// The whole reply to a text that is asked about in two halves, if all of it is known.
    #[must_use]
    pub fn parts(&self, text: &str, context: &str, end: usize, start: usize) -> Option<Reply> {
        let halves = Halves::of(text, context, end, start)?;
        let [left, right] = [halves.left, halves.right].map(|(text, context)| {
            // One half missing is enough to have to ask.
            self.whole(&self.key(text, &context), text, &context)
        });
        Some(join(&left?, halves.gap, &right?))
    }
}

/// A text that is asked about in two halves, each with its background.
#[derive(Debug)]
pub(super) struct Halves<'a> {
    pub(super) left: (&'a str, String),
    pub(super) gap: &'a str,
    pub(super) right: (&'a str, String),
}

impl<'a> Halves<'a> {
    /// The halves of `text`, of which the left ends at `end` and the right begins at `start`; none
    /// if it cannot be cut there.
    pub(super) fn of(text: &'a str, context: &str, end: usize, start: usize) -> Option<Self> {
        let (left, gap, right) = (text.get(..end)?, text.get(end..start)?, text.get(start..)?);
        if left.is_empty() || right.is_empty() {
            return None;
        }
        Some(Self {
            left: (left, context.to_owned()),
            gap,
            right: (right, after(context, left, gap)),
        })
    }
}

/// The background of what follows `left`: as much as was shown before, and none where none was.
fn after(context: &str, left: &str, gap: &str) -> String {
    if context.is_empty() {
        return String::new();
    }
    let before = format!("{context}{gap}{left}");
    let from = before.ceil_char_boundary(before.len() - context.len().min(before.len()));
    let tail = &before[from..];
    // From a word's start on.
    let word = tail.find(char::is_whitespace).unwrap_or(0);
    tail[word..].trim_start().to_owned()
}

/// The reply to a text from the replies to its halves.
pub(super) fn join(left: &Reply, gap: &str, right: &Reply) -> Reply {
    let usage = sum(left.usage, right.usage);
    let is_whole = |reply: &Reply| matches!(reply.finish, Finish::Stop | Finish::Done);
    Reply {
        text: format!(
            "{}{gap}{}",
            Trim::default().push(&left.text),
            Trim::default().push(&right.text)
        ),
        finish: if is_whole(left) {
            right.finish
        } else {
            left.finish
        },
        usage,
        model: left.model.clone(),
        id: left.id.clone(),
        refill: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::reply::Usage;

    #[test]
    fn the_right_half_is_shown_as_much_background_as_the_whole_was() {
        let halves = Halves::of("one two three four", "zero point five", 7, 8).unwrap();
        assert_eq!(halves.left, ("one two", "zero point five".to_owned()));
        assert_eq!(halves.gap, " ");
        assert_eq!(halves.right, ("three four", "five one two".to_owned()));
        let halves = Halves::of("日本語。中国語。", "", 12, 12).unwrap();
        assert_eq!(halves.right, ("中国語。", String::new()));
        assert!(Halves::of("ab", "", 2, 2).is_none());
        assert!(Halves::of("日本", "", 1, 3).is_none());
    }

    #[test]
    fn halves_are_joined_by_the_white_space_of_the_source() {
        let reply = |text: &str, tokens| Reply {
            text: text.to_owned(),
            finish: Finish::Stop,
            usage: Some(Usage {
                prompt_tokens: tokens,
                ..Usage::default()
            }),
            ..Reply::default()
        };
        let joined = join(&reply("\nleft\n", 3), "\n\n", &reply(" right", 4));
        assert_eq!(joined.text, "left\n\nright");
        assert_eq!(joined.usage.unwrap().prompt_tokens, 7);
        assert_eq!(joined.finish, Finish::Stop);
    }
}
