//! Halves the text of a chunk that turned out to be too long: the model's reply or context had no room for it.
//!
//! The better a place is to cut at, the sooner it is taken, but near the middle first: a cut at the edge leaves
//! a part that is as long as before. Unlike in `chunker` no tokens are counted and no hash decides. The same text
//! is always halved at the same place, so that what was learnt of it holds the next time.

use unicode_segmentation::UnicodeSegmentation;

use crate::input::block::Level;
use crate::input::fences::Fences;
use crate::input::sentence::sentence_ends;

/// A word up to this long stays whole, and so does a character with all its marks.
const LONGEST_WORD: usize = 256;

/// Parts of the text on each side that are left out, as 1 in so many; then all of it is looked at.
const MARGINS: [usize; 3] = [4, 10, usize::MAX];

/// Where to cut the text of a chunk, which neither starts nor ends with white space, into two that do not either.
///
/// Gives the end of the left part and the start of the right one; what is between them, if anything, is white space.
/// It is the end of a paragraph, else of a sentence, else of a line of code, else white space, else the end of a
/// word, the nearest to the middle: first within the middle half, then further out. Only a word longer than 256
/// bytes is cut itself, between characters as people see them. `None` if all is one shorter word.
#[must_use]
pub fn halve(text: &str) -> Option<(usize, usize)> {
    let mut fences = Fences::default();
    fences.advance(text, text.len());
    let mut ends = Vec::new();
    sentence_ends(text, 0, text.len(), &fences, &mut ends);
    MARGINS.into_iter().find_map(|part| {
        let margin = text.len() / part;
        let at_level = |level| {
            let ends = ends.iter().filter(move |end| end.level <= level);
            nearest(text, margin, ends.map(|end| end.at))
        };
        at_level(Level::Paragraph)
            .or_else(|| at_level(Level::Sentence))
            .or_else(|| at_level(Level::Line))
            .or_else(|| nearest(text, margin, spaces(text)))
            .or_else(|| {
                nearest(
                    text,
                    margin,
                    words(text).filter(|&at| is_after_mark(text, at)),
                )
            })
            .or_else(|| nearest(text, margin, words(text)))
            .or_else(|| nearest(text, margin, inside_word(text).into_iter()))
    })
}

/// The one of `places`, given as ends of the text before, that is nearest to the middle, if it is `margin` bytes
/// away from either end. A gap is as near as its nearest byte.
fn nearest(
    text: &str,
    margin: usize,
    places: impl Iterator<Item = usize>,
) -> Option<(usize, usize)> {
    let middle = text.len() / 2;
    let gaps = places.filter_map(|left_end| {
        let right = text.get(left_end..)?.trim_start();
        (left_end > 0 && !right.is_empty()).then_some((left_end, text.len() - right.len()))
    });
    let closest = |(left_end, right_start): (usize, usize)| middle.clamp(left_end, right_start);
    let gap = gaps.min_by_key(|&gap| closest(gap).abs_diff(middle))?;
    (margin..=text.len() - margin)
        .contains(&closest(gap))
        .then_some(gap)
}

/// Where white space starts, once for each run of it: looking past a run from each of its bytes would take
/// quadratic time.
fn spaces(text: &str) -> impl Iterator<Item = usize> {
    let mut was_space = true;
    text.char_indices().filter_map(move |(at, character)| {
        let is_space = character.is_whitespace();
        let starts = is_space && !was_space;
        was_space = is_space;
        starts.then_some(at)
    })
}

/// Where words end, and marks between them, but not white space.
fn words(text: &str) -> impl Iterator<Item = usize> {
    text.split_word_bound_indices()
        .filter(|(_, word)| !word.ends_with(char::is_whitespace))
        .map(|(at, word)| at + word.len())
}

/// Whether a comma, a slash or the like is before `at`: then what belongs together is kept so.
fn is_after_mark(text: &str, at: usize) -> bool {
    let before = text.get(..at).and_then(|text| text.chars().next_back());
    before.is_some_and(|before| !before.is_alphanumeric() && before != '_')
}

/// A place between two characters of the word in the middle, if the word is long; between two marks of one if
/// that is itself as long.
fn inside_word(text: &str) -> Option<usize> {
    let middle = text.len() / 2;
    let is_there = |&(at, part): &(usize, &str)| at + part.len() > middle;
    let (start, word) = text.split_word_bound_indices().find(is_there)?;
    let (offset, grapheme) = word
        .grapheme_indices(true)
        .find(|&(at, part)| is_there(&(start + at, part)))?;
    let at = start + offset;
    if word.len() <= LONGEST_WORD {
        None
    } else if grapheme.len() > LONGEST_WORD {
        Some(text.floor_char_boundary(middle))
    } else if offset > 0
        && (middle - at <= grapheme.len() / 2 || offset + grapheme.len() == word.len())
    {
        Some(at)
    } else {
        Some(at + grapheme.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn halves(text: &str) -> Option<(&str, &str)> {
        let (left_end, right_start) = halve(text)?;
        let (left, right) = (&text[..left_end], &text[right_start..]);
        assert_eq!(text[left_end..right_start].trim(), "", "{text:?}");
        assert!(!left.is_empty() && !right.is_empty(), "{text:?}");
        assert_eq!((left.trim(), right.trim()), (left, right), "{text:?}");
        Some((left, right))
    }

    #[test]
    fn the_best_kind_near_the_middle_is_taken() {
        for (text, left) in [
            (
                "One. Two two.\n\nThree three three. Four. Five.",
                "One. Two two.",
            ),
            (
                "One and one. Two and two. Three and three.",
                "One and one. Two and two.",
            ),
            (
                "a b\n\nthe paragraph ended too early. But not this",
                "a b\n\nthe paragraph ended too early.",
            ),
            ("one two three four", "one two"),
            (
                "他来了。她走了很远的路！真的没人知道吗？",
                "他来了。她走了很远的路！",
            ),
            (
                "他来了她走了很远的路，真的没有人知道",
                "他来了她走了很远的路，",
            ),
            ("他来了她走了很远的路", "他来了她走"),
            ("```\nlet a = 1;\nlet b = 2;\n```", "```\nlet a = 1;"),
            ("https://example.org/a/long/path", "https://example.org/"),
            (
                "The first item\n\n# Title\n\nThe text below",
                "The first item",
            ),
        ] {
            assert_eq!(halves(text).map(|halves| halves.0), Some(left), "{text:?}");
        }
    }

    #[test]
    fn further_out_is_better_than_not_at_all() {
        assert_eq!(
            halves("a incomprehensibilities"),
            Some(("a", "incomprehensibilities"))
        );
        assert_eq!(
            halves("incomprehensibilities a"),
            Some(("incomprehensibilities", "a"))
        );
        let gap = "a".to_owned() + &" ".repeat(1000) + "b";
        assert_eq!(halves(&gap), Some(("a", "b")));
    }

    #[test]
    fn what_is_one_word_stays_whole_unless_it_is_long() {
        for text in ["", "a", "word", "的", "👨‍👩‍👧", "e\u{301}", &"a".repeat(256)] {
            assert_eq!(halve(text), None, "{text:?}");
        }
        assert_eq!(halve(&"a".repeat(257)), Some((128, 128)));
        assert_eq!(halve(&"e\u{301}".repeat(99)), Some((147, 147)));
        let marks = "e".to_owned() + &"\u{301}".repeat(200);
        assert_eq!(halve(&marks), Some((199, 199)));
        let cut_off = format!("a {} b", "x".repeat(300));
        assert_eq!(halve(&cut_off), Some((152, 152)));
    }

    #[test]
    fn halving_again_and_again_ends_with_words() {
        let text = "One sentence. Another one, 他来了。\n\n- an item\n- the next".repeat(40);
        let mut parts = vec![text.trim()];
        let mut cuts = 0;
        while let Some(part) = parts.pop() {
            let Some((left, right)) = halves(part) else {
                assert!(part.len() <= "sentence".len(), "{part:?}");
                continue;
            };
            cuts += 1;
            parts.extend([left, right]);
        }
        assert!(cuts > 500);
    }

    #[test]
    fn time_is_linear() {
        // Quadratic behaviour would take minutes.
        for unit in [
            "a",
            " ",
            "\t",
            ". ",
            ".",
            "的",
            "\n",
            "\u{301}",
            "👨\u{200d}",
            "🇩",
            "a:",
            "\u{94d}",
        ] {
            let text = format!("x{}x", unit.repeat(300_000 / unit.len()));
            halves(&text);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_halved_well(
            text in prop_oneof![
                "\\PC{0,80}",
                "[a-c .\n\t\u{3000}的。，（）👨\u{200d}\u{301}🇩🇪`#-]{0,120}",
                "[a-z\u{301}]{200,600}",
            ]
        ) {
            let text = text.trim();
            match halves(text) {
                None => {
                    prop_assert!(text.len() <= LONGEST_WORD);
                    prop_assert!(text.split_word_bounds().count() <= 1, "{text:?}");
                }
                Some((left, _)) => {
                    let mut ends = Vec::new();
                    sentence_ends(text, 0, text.len(), &Fences::default(), &mut ends);
                    let mut words = text.split_word_bound_indices();
                    let is_end = words.any(|(at, _)| at == left.len())
                        || ends.iter().any(|end| end.at == left.len());
                    prop_assert!(is_end || text.len() > LONGEST_WORD, "{text:?}");
                }
            }
        }
    }
}
