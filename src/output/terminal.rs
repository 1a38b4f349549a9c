//! What a terminal may be shown.
//!
//! A reply is text from elsewhere: an escape sequence in it could retitle the
//! window, hide lines or answer as the keyboard. On a terminal control
//! characters become visible marks, as `cat -v` writes them; into pipes and
//! files every byte goes as it is.

use std::borrow::Cow;

/// The text with its control characters made visible; line feed and tab stay.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    let is_hidden = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if !is_hidden(c) {
            shown.push(c);
        } else if c == '\r' && chars.peek() == Some(&'\n') {
            // A line end of the other kind moves nothing but the cursor to where it goes anyway.
        } else if c.is_ascii() {
            shown.push('^');
            shown.push(char::from((c as u8) ^ 0x40));
        } else {
            shown.extend(c.escape_unicode());
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_control_characters_as_marks() {
        assert_eq!(visible("plain\ttext\n"), "plain\ttext\n");
        assert_eq!(visible("\u{1b}[2Jgone"), "^[[2Jgone");
        assert_eq!(visible("a\rb\r\nc\u{7f}\0"), "a^Mb\nc^?^@");
        assert_eq!(visible("\u{9b}31m 日本"), "\\u{9b}31m 日本");
    }

    #[test]
    fn leaves_no_control_character_in_any_text() {
        for code in 0..0x180_u32 {
            let text: String = char::from_u32(code).into_iter().chain(['x']).collect();
            let rest = visible(&text).replace(['\n', '\t'], "");
            assert!(!rest.contains(char::is_control), "U+{code:04X}");
        }
    }
}
