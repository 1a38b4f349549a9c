//! What a prompt asks of the demo, read from its words.
//!
//! No model is here to understand a prompt, so the rule is a careful one: a
//! word that means "summarize" must be there, and no word that asks for more
//! than choosing sentences. "Summarize as a poem" is refused, for sentences
//! chosen from the text would be a wrong answer to it. A refusal is only a
//! message; a wrong answer would be believed.

use crate::demo::passage::Language;
use crate::demo::summary::{Length, Wish};

/// The prompts that ask for the text itself.
const ECHO: &[&str] = &["cat", "echo", "repeat the text"];

/// Words that ask for a summary. The lists below hold beginnings or parts of
/// words, parted by blanks; `|` stands for the border of a word.
const SUMMARY: &str = "\
    |summar |shorten |condense |abstract| |gist| |tldr| |tl|dr| |synopsis| |recap| \
    |key|point |main|point |key|idea |main|idea |key|sentence |main|sentence |takeaway \
    |zusammenfass |zusammengefass |résum |resum |riassu |samenvat \
    总结 總結 摘要 概括 概述 归纳 歸納 要点 要點 缩短 縮短 大意 要約 まとめ 요약";

/// Words that ask for what the demo cannot do, also next to a word above.
const BEYOND: &str = "\
    |translat |übersetz |tradu |vertaal |sentiment |classif |categor |label |json| |yaml| |csv| \
    |xml| |html| |table| |poem |haiku |rhym |song |explain |rewrite |rephras |paraphras \
    |own|words| |answer |question |compare| |title |headline |keyword |hashtag |emoji |opinion \
    |critic |evaluat |rate|this |score |simple|terms| |plain|language| |eli5| |style|of| \
    |pretend| |act|as| |each| |every| |per| |instead|of| |not|summar |t|summar |never|summar \
    |without|summar |not|shorten |t|shorten \
    翻译 翻譯 翻訳 译成 譯成 译为 번역 情感 感情 分类 分類 改写 改寫 解释 解釋 回答 评价 評價 \
    标题 標題 关键词 關鍵詞 表格 诗 每 不要总结 不要總結 不要摘要";

/// Languages that a summary may be asked in. It comes in that of its text.
const LANGUAGES: &[(Language, &str)] = &[
    (Language::English, "|english| 英文 英语 英語"),
    (
        Language::Chinese,
        "|chinese| |mandarin| 中文 汉语 漢語 中国語",
    ),
    (
        Language::Other,
        "|arabic| |dutch| |french| |german| |hindi| |italian| |japanese| |korean| |latin| \
         |polish| |portuguese| |russian| |spanish| |turkish| |vietnamese| |deutsch |français \
         |español 日文 日语 日語 日本語 法文 法语 法語 德文 德语 德語 俄语 俄語 韩语 韓語 西班牙 \
         한국어",
    ),
];

/// Words that ask for a list, with or without a number.
const LISTS: &str = "|bullet |list| |points| |takeaways| 要点 要點 列表 箇条書き";

/// Numbers as words.
const NUMBERS: &[(usize, &str)] = &[
    (1, "one single einem einen une un una"),
    (2, "two couple zwei deux dos"),
    (3, "three few drei trois tres"),
    (4, "four vier quatre cuatro"),
    (5, "five fünf cinq cinco"),
    (6, "six"),
    (7, "seven"),
    (8, "eight"),
    (9, "nine"),
    (10, "ten"),
];

/// What a number counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Unit {
    Sentences,
    Bullets,
    Words,
}

/// Units by the beginnings of their words.
const UNITS: &[(Unit, &str)] = &[
    (
        Unit::Sentences,
        "sentence line satz sätze phrase frase oracion",
    ),
    (Unit::Bullets, "bullet point idea takeaway item"),
    (Unit::Words, "words wörter mots palabras"),
];

/// Units that stand right behind their number, as in Chinese and Japanese; the
/// longer ones first.
const CLOSE_UNITS: &[(Unit, &str)] = &[
    (
        Unit::Bullets,
        "个要点 個要點 つの要点 条要点 條要點 点要点 要点",
    ),
    (Unit::Words, "文字 个字 個字 字"),
    (Unit::Sentences, "个句子 個句子 句 文 行"),
    (Unit::Bullets, "条 條 点 點"),
];

/// What the demo is asked to do.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Task {
    /// Give the text back as it is.
    Echo,
    /// Choose the main sentences.
    Summarize(Wish),
}

impl Task {
    /// Reads the user's prompt; nothing if the demo cannot do what it asks.
    pub(super) fn from_prompt(prompt: &str) -> Option<Self> {
        let prompt = prompt.to_lowercase();
        let words: Vec<&str> = prompt
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .collect();
        if ECHO.contains(&words.join(" ").as_str()) {
            return Some(Self::Echo);
        }
        // "Resume" is a summary in Spanish, as a command at the beginning; in
        // English it is none.
        let is_english = |word: &str| matches!(word, "resume" | "resumes" | "resumed" | "resuming");
        let known = words.iter().enumerate();
        let known = known.filter(|(at, word)| *at == 0 && **word == "resume" || !is_english(word));
        let mut marked = String::from("|");
        for (_, word) in known {
            marked.push_str(word);
            marked.push('|');
        }
        let mentions = |list: &str| list.split(' ').any(|entry| marked.contains(entry));
        // German takes the verb apart: "fasse den Text zusammen".
        let is_summary = mentions(SUMMARY) || (mentions("|fass") && mentions("|zusammen|"));
        if !is_summary || mentions(BEYOND) {
            return None;
        }
        let language = LANGUAGES.iter().find(|(_, names)| mentions(names));
        let counted = counted_by_words(&words).or_else(|| counted_closely(&prompt));
        let length = match counted {
            Some((count, Unit::Words)) => Length::Words(count),
            Some((count, Unit::Sentences | Unit::Bullets)) => Length::Sentences(count),
            None => Length::Share,
        };
        let is_list = matches!(counted, Some((_, Unit::Bullets))) || mentions(LISTS);
        Some(Self::Summarize(Wish {
            length,
            is_list,
            language: language.map(|(language, _)| *language),
        }))
    }
}

/// A number and what it counts, with at most three words between: "three short
/// bullet points".
fn counted_by_words(words: &[&str]) -> Option<(usize, Unit)> {
    words.iter().enumerate().find_map(|(at, word)| {
        let is_named = |names: &str| names.split(' ').any(|name| word.starts_with(name));
        let (unit, _) = UNITS.iter().find(|(_, names)| is_named(names))?;
        let before = &words[at.saturating_sub(4)..at];
        let mut nearest = before.iter().rev();
        let count = nearest.find_map(|word| number(word, *unit));
        // "A sentence" and "a short sentence" count; "a list of points" does not.
        let is_article = |word: &&str| matches!(*word, "a" | "an");
        let has_article = before.iter().rev().take(2).any(is_article);
        let article = (has_article && *unit == Unit::Sentences).then_some(1);
        Some((count.or(article)?, *unit))
    })
}

fn number(word: &str, unit: Unit) -> Option<usize> {
    // "In a few words" is "briefly".
    if unit == Unit::Words && matches!(word, "few" | "couple") {
        return None;
    }
    let is_named = |names: &str| names.split(' ').any(|name| name == word);
    let named = NUMBERS.iter().find(|(_, names)| is_named(names));
    let count = named.map(|(count, _)| *count);
    count
        .or_else(|| word.parse().ok())
        .filter(|count| *count > 0)
}

/// A number with its unit right behind it.
fn counted_closely(prompt: &str) -> Option<(usize, Unit)> {
    let mut units = CLOSE_UNITS
        .iter()
        .flat_map(|(unit, names)| names.split(' ').map(|name| (*unit, name)));
    units.find_map(|(unit, name)| {
        let mut places = prompt.match_indices(name);
        let count = places.find_map(|(at, _)| number_at_end(&prompt[..at], name));
        count.map(|count| (count, unit))
    })
}

/// The number that `text` ends with, before a unit.
fn number_at_end(text: &str, unit: &str) -> Option<usize> {
    let text = text.trim_end();
    let rest = text.trim_end_matches(|c: char| c.is_ascii_digit());
    if rest.len() < text.len() {
        return text[rest.len()..].parse().ok().filter(|count| *count > 0);
    }
    let numeral = text.chars().next_back()?;
    // "一点" is "a little", and "第一句" the first sentence.
    let is_idiom = numeral == '一' && matches!(unit, "点" | "點");
    if is_idiom || text.trim_end_matches(numeral).ends_with('第') {
        return None;
    }
    match numeral {
        '两' | '兩' => Some(2),
        _ => {
            let place = "一二三四五六七八九十".chars().position(|c| c == numeral);
            place.map(|place| place + 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(prompt: &str) -> Option<(Length, bool)> {
        match Task::from_prompt(prompt)? {
            Task::Summarize(wish) => Some((wish.length, wish.is_list)),
            Task::Echo => panic!("not an echo"),
        }
    }

    #[test]
    fn words_for_a_summary_are_known() {
        for prompt in [
            "summarize",
            "Summarise this, please!",
            "tl;dr",
            "TLDR",
            "Give me the gist",
            "write an abstract",
            "Fasse den Text zusammen",
            "Bitte eine Zusammenfassung",
            "Fais un résumé",
            "Resume este texto",
            "resumen",
            "请总结这段文字",
            "写一个摘要",
            "简短一点概括",
            "要約してください",
        ] {
            assert_eq!(wish(prompt), Some((Length::Share, false)), "{prompt}");
        }
    }

    #[test]
    fn what_takes_a_model_is_refused() {
        for prompt in [
            "",
            "translate to French",
            "What is the sentiment?",
            "summarize and translate",
            "summarize as a poem",
            "Do not summarize",
            "don't summarise; classify",
            "shorten each paragraph",
            "summary as JSON",
            "improve my resume",
            "翻译成英文",
            "总结并翻译",
            "repeat",
            "echo chamber",
            "concatenate",
        ] {
            assert_eq!(Task::from_prompt(prompt), None, "{prompt}");
        }
    }

    #[test]
    fn an_echo_is_asked_for_exactly() {
        for prompt in ["echo", "cat", " Repeat the text. "] {
            assert_eq!(Task::from_prompt(prompt), Some(Task::Echo), "{prompt}");
        }
    }

    #[test]
    fn numbers_are_heard() {
        let sentences = |count| Some((Length::Sentences(count), false));
        let bullets = |count| Some((Length::Sentences(count), true));
        let words = |count| Some((Length::Words(count), false));
        for (prompt, expected) in [
            ("summarize in 2 sentences", sentences(2)),
            ("a one-sentence summary", sentences(1)),
            ("summarize in a short sentence", sentences(1)),
            ("summarize in a few sentences", sentences(3)),
            ("summarize in three short bullet points", bullets(3)),
            ("top 5 key points", bullets(5)),
            (
                "key points as a list of bullet points",
                Some((Length::Share, true)),
            ),
            ("summarize as a bullet list", Some((Length::Share, true))),
            ("summarize in at most 50 words", words(50)),
            ("summarize in a few words", Some((Length::Share, false))),
            ("Fasse den Text in zwei Sätzen zusammen", sentences(2)),
            ("résume en trois phrases", sentences(3)),
            ("用一句话总结", sentences(1)),
            ("用三句话概括", sentences(3)),
            ("总结成两个要点", bullets(2)),
            ("列出5个要点", bullets(5)),
            ("总结，100字以内", words(100)),
            ("3行で要約", sentences(3)),
            ("总结第一句", Some((Length::Share, false))),
        ] {
            assert_eq!(wish(prompt), expected, "{prompt}");
        }
    }

    #[test]
    fn the_language_is_heard() {
        let language = |prompt| match Task::from_prompt(prompt) {
            Some(Task::Summarize(wish)) => wish.language,
            _ => panic!("not a summary"),
        };
        assert_eq!(language("summarize in English"), Some(Language::English));
        assert_eq!(language("用中文总结"), Some(Language::Chinese));
        assert_eq!(language("summarize in French"), Some(Language::Other));
        assert_eq!(language("summarize"), None);
    }
}
