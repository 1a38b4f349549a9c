//! What is inside a reply's code fence.
//!
//! Models put what they were asked for into a fence, with a remark before it, even when they were
//! asked not to. Fences are those of `CommonMark` (0.31, "Fenced code blocks"), but for one thing: a
//! model that wraps a Markdown document into a fence does not lengthen the fence around the fences
//! inside, so within a fence a line that opens one, with its language, is taken for an inner one.

use std::borrow::Cow;

/// The inside of the text's fences, one after the other; the text itself where it has none.
#[must_use]
pub fn unfenced(text: &str) -> Cow<'_, str> {
    let blocks = match blocks(text, true) {
        // What looked like the opening of an inner fence was just a line.
        Blocks::Open(_) => match blocks(text, false) {
            Blocks::Open(blocks) | Blocks::Closed(blocks) => blocks,
        },
        Blocks::Closed(blocks) => blocks,
    };
    match blocks[..] {
        [] => Cow::Borrowed(text),
        [block] => Cow::Borrowed(block),
        _ => Cow::Owned(blocks.join("\n")),
    }
}

/// The fenced blocks of a text.
enum Blocks<'a> {
    /// The last of them has no end.
    Open(Vec<&'a str>),
    Closed(Vec<&'a str>),
}

fn blocks(text: &str, nests: bool) -> Blocks<'_> {
    let mut blocks = Vec::new();
    let mut open: Vec<Fence> = Vec::new();
    let mut start = 0;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let end = at + line.len();
        match (Fence::of(line), open.last()) {
            (Some(fence), None) => {
                open.push(fence);
                start = end;
            }
            (Some(fence), Some(last)) if fence.closes(last) => {
                open.pop();
                if open.is_empty() {
                    blocks.push(text[start..at].trim_end_matches(['\r', '\n']));
                }
            }
            (Some(fence), Some(_)) if nests && fence.has_info => open.push(fence),
            _ => {}
        }
        at = end;
    }
    if open.is_empty() {
        return Blocks::Closed(blocks);
    }
    blocks.push(text[start..].trim_end_matches(['\r', '\n']));
    Blocks::Open(blocks)
}

/// A line that opens or closes a block.
struct Fence {
    mark: char,
    length: usize,
    has_info: bool,
}

impl Fence {
    fn of(line: &str) -> Option<Self> {
        let indented = line.trim_start_matches(' ');
        if line.len() - indented.len() > 3 {
            return None;
        }
        let mark = indented.chars().next().filter(|c| matches!(c, '`' | '~'))?;
        let info = indented.trim_start_matches(mark);
        let length = indented.len() - info.len();
        // Otherwise it is code within a line.
        let is_inline = mark == '`' && info.contains('`');
        (length >= 3 && !is_inline).then(|| Self {
            mark,
            length,
            has_info: !info.trim().is_empty(),
        })
    }

    fn closes(&self, open: &Self) -> bool {
        self.mark == open.mark && self.length >= open.length && !self.has_info
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keeps_what_is_inside() {
        let cases = [
            ("no fence", "no fence"),
            ("```\ncode\n```", "code"),
            (
                "Sure!\n\n```json\n{\"a\": 1}\n```\nAnything else?",
                "{\"a\": 1}",
            ),
            ("~~~~ sh\r\na\r\nb\r\n~~~~\r\n", "a\r\nb"),
            ("````md\n```\nx\n```\n````", "```\nx\n```"),
            (
                "```markdown\n# T\n```sh\nls\n```\nend\n```",
                "# T\n```sh\nls\n```\nend",
            ),
            ("```a\none\n```\nthen\n```b\ntwo\n```", "one\ntwo"),
            ("```\n\n```", ""),
            ("```sh\nno end", "no end"),
            ("```sh\n```js is said\n```", "```js is said"),
            ("use ```x``` here", "use ```x``` here"),
            (
                "    ```\n    indented code\n    ```",
                "    ```\n    indented code\n    ```",
            ),
        ];
        for (text, inside) in cases {
            assert_eq!(unfenced(text), inside, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_stands_in_a_long_enough_fence_comes_out(
            code in "([`~]{0,4}[a-z]{0,2}\n){0,6}[a-z`]{1,4}",
            before in "([a-z ]{0,9}\n){0,2}",
        ) {
            let text = format!("{before}``````\n{code}\n``````\nbye");
            prop_assert_eq!(unfenced(&text), code.trim_end_matches('\n'));
        }
    }
}
