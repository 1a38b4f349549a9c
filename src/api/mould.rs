//! Events that differ from the one before in nothing but their text.
//!
//! Between its first event and its last most of a stream is that: the same JSON around another piece of text.
//! What that JSON means was found out once, and to compare it is several times faster than to read it again.

/// The JSON around a text.
#[derive(Debug, Default)]
pub(super) struct Mould {
    before: String,
    after: String,
}

impl Mould {
    /// Takes the mould of an event in which `text` stands as it is, a slice of `data` inside its quotes. The event
    /// must bring nothing else that changes the reply.
    pub(super) fn take(&mut self, data: &str, text: &[u8]) {
        let start = text.as_ptr().addr().wrapping_sub(data.as_ptr().addr());
        let parts = data
            .get(..start)
            .zip(data.get(start.wrapping_add(text.len())..));
        let (before, after) = parts.unwrap_or_default();
        // Text that only looks like a part of the event has no quotes around it.
        if before.ends_with('"') && after.starts_with('"') {
            before.clone_into(&mut self.before);
            after.clone_into(&mut self.after);
        }
    }

    /// The text of an event that has this mould. Text with escapes in it has to be read.
    pub(super) fn text<'a>(&self, data: &'a str) -> Option<&'a str> {
        if self.before.is_empty() {
            return None;
        }
        let text = data.strip_prefix(self.before.as_str())?;
        let text = text.strip_suffix(self.after.as_str())?;
        let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
        text.bytes().all(is_plain).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str = r#"{"id":"one","choices":[{"delta":{"content":"one"}}]}"#;

    fn mould() -> Mould {
        let mut mould = Mould::default();
        let at = DATA.rfind("one").expect("the text");
        mould.take(DATA, &DATA.as_bytes()[at..at + 3]);
        mould
    }

    #[test]
    fn only_the_text_may_differ() {
        let event = |id: &str, text: &str| {
            DATA.replacen("one", id, 1)
                .replace(":\"one\"}", &format!(":\"{text}\"}}"))
        };
        let mould = mould();
        for text in ["one", "", " two", "é漢"] {
            assert_eq!(mould.text(&event("one", text)), Some(text));
        }
        for text in [r"\n", "\t", r#""},{"content":"x"#, r"\u00e9", "\\"] {
            assert_eq!(mould.text(&event("one", text)), None, "{text}");
        }
        assert_eq!(mould.text(&event("two", "one")), None);
        assert_eq!(mould.text(&DATA[..DATA.len() - 1]), None);
        assert_eq!(mould.text(""), None);
    }

    #[test]
    fn what_stands_elsewhere_makes_no_mould() {
        let mut mould = Mould::default();
        mould.take(DATA, b"one");
        mould.take(DATA, &DATA.as_bytes()[3..5]);
        assert_eq!(mould.text(DATA), None);
    }
}
